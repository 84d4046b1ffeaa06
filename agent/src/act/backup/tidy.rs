//! Ends whatever a backup began on a guest, from any point at which it was broken off: ends its job, merges its layers
//! down, lets a guest that ran out of room go on, and removes what is left. Used at the end of each backup, by the guard
//! of one that went wrong, and at the agent's start. What it does twice does no harm.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use roost_libvirt::{Code, EndJob, Error, Hypervisor, Reason, State, XmlForm, freeze};
use roost_protocol::GuestId;
use roost_protocol::operation::{Failure, FailureCode};

use super::definition::{self, Disk};
use super::reader;
use super::scratch::{Room, Scratch};
use crate::act::domain::hypervisor_failure;
use crate::act::image::Format;
use crate::act::{failure, io_failure};

/// Ending of the files that lie over a guest's disks.
pub(super) const LAYER: &str = "layer";
/// Between two looks at a merge.
const LOOK: Duration = Duration::from_millis(20);
/// After so long a merge that is not done, or falls behind, may take twice as much of the disk.
const ROUND: Duration = Duration::from_secs(1);
/// Bytes per second that a merge begins with (docs/decisions/0009).
const MERGE_SPEED: u64 = 32 << 20;
/// Rounds after which there is no limit any more.
const ROUNDS: u32 = 10;
/// Longest that a merge is waited for; it goes on without us and is found again.
const MERGE_LIMIT: Duration = Duration::from_secs(3_600);
/// A guest may die, or be started, while we tidy: then all is looked at anew.
const TRIES: u32 = 5;

/// Tidies all guests that nobody works on; for each new connection to libvirt, as it may be the first after a crash.
pub(crate) fn all(hypervisor: &Arc<Hypervisor>, scratch: &Scratch) {
    for guest in scratch.guests() {
        let tidied = scratch.enter(guest).and_then(|room| {
            one(hypervisor, &room, guest)?;
            room.leave()
        });
        match tidied {
            Ok(()) => tracing::info!(%guest, "ended a backup that was broken off"),
            Err(why) => tracing::warn!(%guest, why = why.text, "end a backup that was broken off"),
        }
    }
}

/// Tidies one guest. When it says so, the guest runs on its own disks and nothing of a backup is left but an empty room.
pub(crate) fn one(hypervisor: &Arc<Hypervisor>, room: &Room, guest: GuestId) -> Result<(), Failure> {
    reader::end_all(room);
    if room.may_be_frozen() {
        thaw(hypervisor, room, guest);
    }
    let mut last = Ok(());
    for _ in 0..TRIES {
        last = attempt(hypervisor, room, guest);
        match &last {
            Err(why) if why.code != FailureCode::HypervisorAway => {}
            Ok(()) | Err(_) => break,
        }
    }
    last?;
    for file in room.files(LAYER).iter().chain(&room.files(super::pull::FLEECE)) {
        fs::remove_file(file).map_err(|error| io_failure(format!("remove {}", file.display()), &error))?;
    }
    room.free_reserve();
    Ok(())
}

/// In the background: a hung agent takes minutes, and nothing else waits for it.
fn thaw(hypervisor: &Arc<Hypervisor>, room: &Room, guest: GuestId) {
    let (hypervisor, uuid) = (hypervisor.clone(), guest.bytes());
    let spawned = std::thread::Builder::new().name("thaw".into()).spawn(move || {
        if freeze::thaw_until_heard(&hypervisor, &uuid).is_none() {
            tracing::warn!(%guest, "nobody answered to be thawed");
        }
    });
    match spawned {
        Ok(_) => room.note_thawed(),
        Err(error) => tracing::error!(%error, "no thread to thaw a guest"),
    }
}

fn attempt(hypervisor: &Hypervisor, room: &Room, guest: GuestId) -> Result<(), Failure> {
    let uuid = guest.bytes();
    let domain = match hypervisor.domain(&uuid) {
        Err(error) if error.code() == Some(Code::NoDomain) => return Ok(()),
        other => other.map_err(|error| hypervisor_failure(&error))?,
    };
    let active = domain.state.is_active();
    if active {
        end_job(hypervisor, room, guest)?;
        let out_of_room = || {
            hypervisor
                .domain(&uuid)
                .is_ok_and(|domain| (domain.state, domain.reason) == (State::Paused, Reason::IoError))
        };
        if out_of_room() {
            room.free_reserve();
            let _ = hypervisor.resume(&uuid);
        }
        merge_running(hypervisor, room, guest)?;
        if out_of_room() {
            hypervisor.resume(&uuid).map_err(|error| hypervisor_failure(&error))?;
        }
    }
    if domain.persistent { merge_stopped(hypervisor, room, guest, active) } else { Ok(()) }
}

/// Ends the backup job if it is one of this room's.
fn end_job(hypervisor: &Hypervisor, room: &Room, guest: GuestId) -> Result<(), Failure> {
    let uuid = guest.bytes();
    let ours = |xml: &String| room.path.to_str().is_some_and(|path| xml.contains(path));
    let fail = |error: Error| hypervisor_failure(&error);
    if hypervisor.backup_job(&uuid).map_err(fail)?.as_ref().is_some_and(ours) {
        match hypervisor.abort_job(&uuid) {
            Err(error) if error.code() != Some(Code::OperationInvalid) => return Err(fail(error)),
            Ok(()) | Err(_) => {}
        }
        let end = Instant::now() + ROUND * ROUNDS;
        while hypervisor.backup_job(&uuid).map_err(fail)?.as_ref().is_some_and(ours) {
            if Instant::now() > end {
                return Err(failure(FailureCode::TimedOut, "QEMU does not end the backup job"));
            }
            std::thread::sleep(LOOK);
        }
    }
    Ok(())
}

fn layers(xml: &str, room: &Room) -> Result<Vec<Disk>, Failure> {
    Ok(definition::read(xml)?.disks.into_iter().filter(|disk| room.holds(&disk.path)).collect())
}

/// Merges the layers of a running guest down, gently first, then as fast as it needs.
fn merge_running(hypervisor: &Hypervisor, room: &Room, guest: GuestId) -> Result<(), Failure> {
    let uuid = guest.bytes();
    let fail = |error: Error| hypervisor_failure(&error);
    let mut left = layers(&hypervisor.xml(&uuid, XmlForm::default()).map_err(fail)?, room)?;
    for disk in &left {
        if hypervisor.block_job(&uuid, &disk.target).map_err(fail)?.is_none() {
            hypervisor.block_commit(&uuid, &disk.target, MERGE_SPEED).map_err(fail)?;
        }
    }
    let (began, mut round, mut rounds, mut speed, mut used) =
        (Instant::now(), Instant::now(), 0, MERGE_SPEED, room.used());
    while !left.is_empty() {
        if began.elapsed() > MERGE_LIMIT {
            return Err(failure(FailureCode::TimedOut, "a layer could not be merged in an hour; it goes on"));
        }
        let mut still = Vec::new();
        for disk in left {
            if !merged(hypervisor, guest, &disk)? {
                still.push(disk);
            }
        }
        left = still;
        if round.elapsed() > ROUND {
            let now = room.used();
            (round, rounds) = (Instant::now(), rounds + 1);
            speed = if rounds >= ROUNDS || now > used.saturating_add(speed) { 0 } else { speed * 2 };
            used = now;
            for disk in &left {
                let _ = hypervisor.block_job_speed(&uuid, &disk.target, speed);
            }
        }
        if !left.is_empty() {
            std::thread::sleep(LOOK);
        }
    }
    Ok(())
}

/// Goes over to the disk below once it is equal; then the layer is nobody's and is removed.
fn merged(hypervisor: &Hypervisor, guest: GuestId, disk: &Disk) -> Result<bool, Failure> {
    let uuid = guest.bytes();
    let fail = |error: Error| hypervisor_failure(&error);
    let Some(job) = hypervisor.block_job(&uuid, &disk.target).map_err(fail)? else {
        let text = format!("the merge of disk {} was broken off", disk.target);
        return Err(failure(FailureCode::Hypervisor, text));
    };
    if !job.in_step() {
        return Ok(false);
    }
    match hypervisor.block_job_end(&uuid, &disk.target, EndJob::Pivot) {
        Ok(()) => {
            let gone = fs::remove_file(&disk.path);
            gone.map_err(|error| io_failure(format!("remove {}", disk.path.display()), &error))?;
            Ok(true)
        }
        Err(error) if error.is_connection_lost() => Err(fail(error)),
        // Equal a moment ago, but QEMU has not yet said that it is ready.
        Err(_) => Ok(false),
    }
}

/// Merges the layers that a guest's definition names though it does not run, and gives it its own disks back.
fn merge_stopped(hypervisor: &Hypervisor, room: &Room, guest: GuestId, active: bool) -> Result<(), Failure> {
    let uuid = guest.bytes();
    let fail = |error: Error| hypervisor_failure(&error);
    let kept = XmlForm { inactive: true, secure: true, ..XmlForm::default() };
    let mut xml = hypervisor.xml(&uuid, kept).map_err(fail)?;
    for disk in layers(&xml, room)? {
        let (below, format) = below(&disk.path)?;
        // A running guest's layers were merged by QEMU; only its definition may lag behind.
        if !active && disk.path.exists() {
            qemu_img(&["commit", "-q", "-f", "qcow2", "--"], &disk.path)?;
        }
        xml = definition::without_layer(&xml, &disk.path, Path::new(&below), format)?;
        hypervisor.define(&xml).map_err(fail)?;
    }
    Ok(())
}

/// What a layer of ours says it lies on; the folder is closed to guests, so it can be believed.
fn below(layer: &Path) -> Result<(String, Format), Failure> {
    let told = qemu_img(&["info", "--output=json", "-U", "-f", "qcow2", "--"], layer)?;
    let told: serde_json::Value = serde_json::from_slice(&told)
        .map_err(|error| failure(FailureCode::Internal, format!("read what qemu-img says: {error}")))?;
    let text = |name: &str| told.get(name).and_then(serde_json::Value::as_str).map(str::to_owned);
    let format = text("backing-filename-format").and_then(|name| Format::parse(&name));
    match (text("backing-filename"), format) {
        (Some(path), Some(format)) => Ok((path, format)),
        (_, _) => Err(failure(FailureCode::Internal, format!("{} lies on nothing", layer.display()))),
    }
}

pub(super) fn qemu_img(arguments: &[&str], path: &Path) -> Result<Vec<u8>, Failure> {
    let output = Command::new("qemu-img").args(arguments).arg(path).stdin(Stdio::null()).output();
    let output = output.map_err(|error| io_failure("run qemu-img", &error))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let code = if words.contains("No space left") { FailureCode::NoSpace } else { FailureCode::Internal };
    Err(failure(code, format!("qemu-img {} {}: {}", arguments[0], path.display(), words.trim())))
}
