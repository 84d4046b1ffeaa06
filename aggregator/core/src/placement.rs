//! Which host takes a new guest: the one with the most memory left, of those that can take it at all.

use roost_protocol::{HostId, MiB};

use crate::call::{CallError, CallErrorCode};
use crate::grid::{Grid, Host};

/// Memory that a host keeps for itself: agent, libvirt, page tables.
const RESERVE: MiB = MiB(256);

/// Memory that guests can be given.
pub(crate) fn free(host: &Host) -> MiB {
    MiB(host.sample.memory_available_mib.0.saturating_sub(RESERVE.0))
}

impl Grid {
    /// The host for a new guest with this much memory.
    pub(crate) fn place(&self, memory: MiB) -> Result<HostId, CallError> {
        let mut reasons = Vec::new();
        let mut best: Option<(MiB, HostId)> = None;
        for host in self.hosts.values() {
            let free = free(host);
            if self.maintenance(host.id).is_some() {
                reasons.push(format!("{} is in maintenance", host.name));
            } else if !host.fresh() {
                reasons.push(format!("{} is not up", host.name));
            } else if free < memory {
                reasons.push(format!("{} has {free} left", host.name));
            } else if best.is_none_or(|(most, _)| free > most) {
                best = Some((free, host.id));
            }
        }
        let none = if reasons.is_empty() { "the grid has no hosts: join one first".into() } else { reasons.join("; ") };
        let text = format!("no host can take a guest of {memory}: {none}");
        best.map(|(_, host)| host).ok_or(CallError { code: CallErrorCode::Unplaceable, text })
    }
}
