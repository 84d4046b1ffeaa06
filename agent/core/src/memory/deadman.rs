//! The dead man's rule: what a process that outlives the agent does when the agent is dead or hangs. Guests get back what
//! was taken, a step at a time and never out of the host's reserve; then the knobs of page sharing go back.

use std::collections::BTreeMap;

use roost_protocol::memory::MemoryPolicy;
use roost_protocol::{GuestId, MiB, Millis, Time};

use super::sample::HostMemory;

/// An agent that says nothing for so long is dead; it says something each second, and a restart takes a few.
pub const SILENCE: Millis = Millis::seconds(30);
/// Between two steps.
pub const STEP_EVERY: Millis = Millis::seconds(2);
/// Part of its memory that each guest gets back in one step.
const STEP: u32 = 250;

/// A guest that was squeezed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owed {
    pub current: MiB,
    pub full: MiB,
}

/// True when the agent has to be taken for dead.
pub fn dead(now: Time, heard: Time, connected: bool) -> bool {
    !connected || now.since(heard) >= SILENCE
}

/// New sizes for squeezed guests, those with the least of their own first. Where the reserve would be touched, guests
/// have to wait for the next step; one step for the neediest is always given from above half the reserve.
pub fn give_back(host: &HostMemory, policy: &MemoryPolicy, owed: &BTreeMap<GuestId, Owed>) -> BTreeMap<GuestId, MiB> {
    let total = host.total - host.huge;
    let reserve = total.permille(policy.reserve_permille).max(policy.reserve_least_mib.min(total.permille(250)));
    let mut spare = host.available - reserve;
    let mut order: Vec<(u64, GuestId, Owed)> = owed
        .iter()
        .filter(|(_, owed)| owed.current < owed.full)
        .map(|(id, owed)| (owed.current.0 * 1_000 / owed.full.0.max(1), *id, *owed))
        .collect();
    order.sort_by_key(|(part, id, _)| (*part, *id));
    let mut sizes = BTreeMap::new();
    for (_, id, owed) in order {
        let step = owed.full.permille(STEP).max(MiB(1)).min(owed.full - owed.current);
        let least = sizes.is_empty() && host.available.0 > reserve.0 / 2;
        if step > spare && !least {
            continue;
        }
        spare = spare - step;
        sizes.insert(id, owed.current + step);
    }
    sizes
}
