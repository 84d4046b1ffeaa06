//! Which host takes a new guest: the one with the most memory left, of those that can take it at all; one of its own
//! trust group before others, for only there its pages are merged.

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
    /// The host for a new guest with this much memory. What group a host is for counts as far as an admin said it here.
    pub(crate) fn place(&self, memory: MiB, trust: Option<&str>) -> Result<HostId, CallError> {
        let mut reasons = Vec::new();
        let mut best: Option<((bool, MiB), HostId)> = None;
        for host in self.hosts.values() {
            let free = free(host);
            if self.maintenance(host.id).is_some() {
                reasons.push(format!("{} is in maintenance", host.name));
            } else if !host.fresh() {
                reasons.push(format!("{} is not up", host.name));
            } else if free < memory {
                reasons.push(format!("{} has {free} left", host.name));
            } else {
                let said = self.memory_order(host.id).and_then(|order| order.policy.as_ref());
                let rank = (said.and_then(|policy| policy.trust.as_deref()) == trust, free);
                if best.is_none_or(|(most, _)| rank > most) {
                    best = Some((rank, host.id));
                }
            }
        }
        let none = if reasons.is_empty() { "the grid has no hosts: join one first".into() } else { reasons.join("; ") };
        let text = format!("no host can take a guest of {memory}: {none}");
        best.map(|(_, host)| host).ok_or(CallError { code: CallErrorCode::Unplaceable, text })
    }
}
