//! The second way: the disks stand still below layers that take the guest's writes, are read at leisure, and take the
//! layers in again. Gentle however long it takes: for full reads.

use std::fmt::Write;

use roost_protocol::operation::{Failure, FailureCode};

use super::definition::State;
use super::scratch::Room;
use super::tidy::{LAYER, qemu_img};
use crate::act::failure;
use crate::act::xml::escape;

/// Clusters with 32 parts of 4 KiB each: a write of 4 KiB copies nothing, and the table is small.
const OPTIONS: &str = "extended_l2=on,cluster_size=128k";

/// Makes an empty layer for each disk; gives the order to put them on.
pub(super) fn prepare(state: &State, room: &Room) -> Result<String, Failure> {
    let invalid = || failure(FailureCode::Invalid, "a disk's path can't be written");
    let mut xml = String::from("<domainsnapshot><disks>");
    for disk in &state.disks {
        let path = room.path.join(format!("{}.{LAYER}", disk.target));
        let below = disk.path.to_str().ok_or_else(invalid)?;
        let create = ["create", "-q", "-f", "qcow2", "-o", OPTIONS, "-b", below, "-F", disk.format.name(), "--"];
        qemu_img(&create, &path)?;
        let path = path.to_str().and_then(escape).ok_or_else(invalid)?;
        // Writing into a String can't fail.
        let _ = write!(
            xml,
            "<disk name='{}' snapshot='external' type='file'><driver type='qcow2'/><source file='{path}'/></disk>",
            disk.target
        );
    }
    xml.push_str("</disks></domainsnapshot>");
    Ok(xml)
}
