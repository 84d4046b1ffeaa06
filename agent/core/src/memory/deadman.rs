//! The dead man's rule: what a process that outlives the agent does when the agent is dead or hangs. Guests get back what
//! was taken, a step at a time, out of what the host can spare even if they use it at once; then the knobs of page sharing
//! go back. Where the host can spare nothing, a guest in need is still helped by its own driver (`autodeflate`).

use std::collections::{BTreeMap, VecDeque};

use roost_protocol::memory::MemoryPolicy;
use roost_protocol::{GuestId, MiB, Millis, Time};

use super::sample::HostMemory;

/// An agent that says nothing for so long is dead; it says something each few seconds.
pub const SILENCE: Millis = Millis::seconds(30);
/// An agent that ended has so long to come back before its guests are taken care of.
pub const GRACE: Millis = Millis::seconds(5);
/// Between two steps.
pub const STEP_EVERY: Millis = Millis::seconds(2);
/// Part of its memory that each guest gets back in one step.
const STEP: u32 = 250;
/// What was given counts as still to be used for so long.
const USED_AFTER: Millis = Millis::seconds(20);

/// A guest that was squeezed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owed {
    pub current: MiB,
    pub full: MiB,
}

/// What is remembered between steps.
#[derive(Clone, Debug, Default)]
pub struct DeadMan {
    given: VecDeque<(Time, MiB)>,
}

/// True when the agent has to be taken for dead: `heard` when it last said something, `gone` since when it has ended.
pub fn dead(now: Time, heard: Time, gone: Option<Time>) -> bool {
    gone.is_some_and(|at| now.since(at) >= GRACE) || now.since(heard) >= SILENCE
}

impl DeadMan {
    /// New sizes for squeezed guests, those with the least of their own first. Others wait for the next step.
    pub fn give_back(
        &mut self,
        now: Time,
        host: &HostMemory,
        policy: &MemoryPolicy,
        owed: &BTreeMap<GuestId, Owed>,
    ) -> BTreeMap<GuestId, MiB> {
        self.given.retain(|(at, _)| now.since(*at) < USED_AFTER);
        let outstanding: MiB = self.given.iter().map(|(_, mib)| *mib).sum();
        let level = (host.total - host.huge).permille(policy.squeeze_below_permille);
        let mut spare = host.available - level - outstanding;
        let mut order: Vec<(u64, GuestId, Owed)> = owed
            .iter()
            .filter(|(_, owed)| owed.current < owed.full)
            .map(|(id, owed)| (owed.current.0 * 1_000 / owed.full.0.max(1), *id, *owed))
            .collect();
        order.sort_by_key(|(part, id, _)| (*part, *id));
        let mut sizes = BTreeMap::new();
        for (_, id, owed) in order {
            let step = owed.full.permille(STEP).max(MiB(1)).min(owed.full - owed.current).min(spare);
            if step == MiB(0) {
                break;
            }
            spare = spare - step;
            self.given.push_back((now, step));
            sizes.insert(id, owed.current + step);
        }
        sizes
    }
}
