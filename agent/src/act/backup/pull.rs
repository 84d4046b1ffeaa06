//! The first way: a pull job of QEMU's own. What the guest overwrites is copied aside first, so that the moment can be
//! read; it ends without a trace. Gentle when it is short: for increments.

use std::fmt::Write;

use super::definition::{Disk, State};
use super::scratch::Room;
use crate::act::image::Format;
use crate::act::xml::escape;

/// Ending of the files that hold what was copied aside.
pub(super) const FLEECE: &str = "fleece";
/// The socket of the job's server.
pub(super) const SOCKET: &str = "pull";

/// Name of the bitmap that libvirt offers for a disk.
pub(super) fn bitmap(target: &str) -> String {
    format!("qemu:dirty-bitmap:backup-{target}")
}

/// The job; none when a path can't be written as XML.
pub(super) fn job(state: &State, room: &Room, since: Option<&str>) -> Option<String> {
    let folder = escape(room.path.to_str()?)?;
    let mut xml = String::from("<domainbackup mode='pull'>");
    // Writing into a String can't fail.
    if let Some(since) = since {
        let _ = write!(xml, "<incremental>{}</incremental>", escape(since)?);
    }
    let _ = write!(xml, "<server transport='unix' socket='{folder}/{SOCKET}'/><disks>");
    for Disk { target, .. } in &state.disks {
        let _ = write!(
            xml,
            "<disk name='{target}' backup='yes' type='file'><scratch file='{folder}/{target}.{FLEECE}'/></disk>"
        );
    }
    xml.push_str("</disks></domainbackup>");
    Some(xml)
}

/// A checkpoint of all disks that can have one; none when there is no such disk.
pub(super) fn checkpoint(state: &State, name: &str) -> Option<String> {
    let mut xml = format!("<domaincheckpoint><name>{name}</name><disks>");
    let mut any = false;
    for disk in &state.disks {
        let kind = if disk.format == Format::Qcow2 { "bitmap" } else { "no" };
        any |= disk.format == Format::Qcow2;
        let _ = write!(xml, "<disk name='{}' checkpoint='{kind}'/>", disk.target);
    }
    xml.push_str("</disks></domaincheckpoint>");
    any.then_some(xml)
}
