//! Points and errors in the words that people and the core know.

use roost_protocol::HostId;
use roost_protocol::backup::policy::PRIORITY_MOST;
use roost_protocol::backup::{BackupSummary, Meant, SENTENCE};
use roost_store::Summary;

use crate::act::backup::{OFF, PAUSED, PRIORITY};

/// A point as the core and lists know it. `here`: the origin of points that don't say.
pub(crate) fn told(summary: &Summary, here: HostId) -> BackupSummary {
    let mut guest_name = summary.meta.guest_name.clone();
    guest_name.truncate(guest_name.floor_char_boundary(SENTENCE));
    let mut note = summary.meta.note.clone();
    note.truncate(note.floor_char_boundary(SENTENCE));
    BackupSummary {
        point: summary.point,
        guest: summary.guest,
        guest_name,
        origin: summary.meta.origin_host.unwrap_or(here),
        started: summary.meta.started,
        finished: summary.meta.finished,
        why: summary.meta.why,
        consistency: summary.meta.consistency,
        parent: summary.parent,
        size: summary.size_bytes,
        read: summary.read_bytes,
        stored: summary.stored_bytes,
        pinned: summary.pinned,
        proof: summary.proof.clone(),
        copies: summary.copies.clone(),
        damaged: None,
        note,
        meant: meant(&summary.files),
        priority: priority(&summary.files),
    }
}

/// Another host made it perhaps: what can't be is none.
fn priority(files: &[String]) -> u32 {
    let told = files.iter().find_map(|file| file.strip_prefix(PRIORITY)?.parse().ok());
    told.filter(|told| *told <= PRIORITY_MOST).unwrap_or(0)
}

fn meant(files: &[String]) -> Meant {
    let has = |name: &str| files.iter().any(|file| file == name);
    if has(OFF) {
        Meant::StayOff
    } else if has(PAUSED) {
        Meant::Pause
    } else {
        Meant::Run
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(why) = cause {
        let why_text = why.to_string();
        if !text.ends_with(&why_text) {
            text = format!("{text}: {why_text}");
        }
        cause = why.source();
    }
    text
}
