//! What is remembered between two looks, and what is shown of it.

use std::collections::{BTreeSet, VecDeque};

use roost_protocol::memory::{
    ACTS, CAUSES, GuestMemoryReport, InForce, MemoryAct, MemoryPolicy, MemoryReport, MoreGuests, PolicyFrom, Rung,
    SIZES,
};
use roost_protocol::{GuestId, MiB, Stamp, Time};

use super::admit::{fits, how_many_more};
use super::balloon;
use super::ladder::{Ladder, Levels, committed};
use super::reason::Cause;
use super::sample::{Knobs, Sample};
use super::sharing;

/// Sizes of guests that are asked for most.
const USUAL: [MiB; 6] = [MiB(512), MiB(1_024), MiB(2_048), MiB(4_096), MiB(8_192), MiB(16_384)];

/// Memory of decisions. A new agent begins with an empty one: it finds squeezed guests as squeezed and gives back.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub(super) ladder: Ladder,
    pub(super) sharing: sharing::State,
    pub(super) balloons: balloon::State,
    pub(super) alarmed: bool,
    acts: VecDeque<MemoryAct>,
    following: Option<InForce>,
    now: Time,
}

impl State {
    /// Where the host stands.
    pub fn rung(&self) -> Rung {
        self.ladder.rung
    }

    /// The knobs of page sharing as they were before an earlier run of this agent changed them.
    pub fn knobs_before(&mut self, found: Knobs) {
        self.sharing.adopt(found);
    }

    /// Says whose policy is followed from now on; an act where it was another one before.
    pub fn follow(&mut self, at: Stamp, policy: &InForce) -> Option<MemoryAct> {
        if self.following.as_ref() == Some(policy) {
            return None;
        }
        let before = self.following.replace(policy.clone())?;
        let whose = match policy.from {
            PolicyFrom::File => "the memory policy of its settings holds",
            PolicyFrom::Grid => "an admin's memory policy holds",
        };
        let values = before.policy.values().into_iter().zip(policy.policy.values());
        let changed = values.filter(|((_, before), (_, now))| before != now);
        let why: Vec<Cause> = changed.map(|((name, before), (_, now))| Cause::Policy { name, before, now }).collect();
        Some(self.remember(at, None, whose.into(), &why))
    }

    /// What guests could give in many steps, as far as they may be squeezed now.
    pub(super) fn can_give(&self, sample: &Sample, policy: &MemoryPolicy) -> MiB {
        if !policy.balloons {
            return MiB(0);
        }
        let known = &self.balloons.guests;
        let one = |(id, guest): (&GuestId, _)| Some(known.get(id)?.can_give_in_all(self.now, guest, policy));
        sample.guests.iter().filter_map(one).sum()
    }

    /// The most that this guest's QEMU held while it was young, if it was watched then.
    pub(super) fn at_first(&self, guest: GuestId) -> Option<MiB> {
        self.balloons.guests.get(&guest)?.at_first
    }

    pub(super) fn looked(&mut self, now: Time) {
        self.now = now;
    }

    /// Keeps an act with its causes in words, for people.
    pub(super) fn remember(&mut self, at: Stamp, guest: Option<GuestId>, what: String, why: &[Cause]) -> MemoryAct {
        let act = MemoryAct { at, guest, what, why: why.iter().take(CAUSES).map(ToString::to_string).collect() };
        if self.acts.len() == ACTS {
            self.acts.pop_front();
        }
        self.acts.push_back(act.clone());
        act
    }

    /// All that is shown of this host's memory.
    pub fn report(&self, sample: &Sample, policy: &MemoryPolicy) -> MemoryReport {
        let committed = committed(sample);
        let overcommit = committed.0.saturating_mul(1_000).checked_div(sample.host.total.0).unwrap_or(0);
        let guest = |(id, guest): (&GuestId, &super::sample::GuestMemory)| GuestMemoryReport {
            id: *id,
            full_mib: guest.full,
            current_mib: guest.balloon.map(|balloon| balloon.current),
            resident_mib: guest.resident,
            usable_mib: guest.balloon.and_then(|balloon| balloon.told).map(|told| told.usable),
            shared_mib: guest.shared,
            mergeable: Some(guest.mergeable),
            trust: guest.wish.trust.clone(),
        };
        MemoryReport {
            rung: self.ladder.rung,
            total_mib: sample.host.total,
            available_mib: sample.host.available,
            reserve_mib: Levels::of(sample, policy).reserve,
            committed_mib: committed,
            overcommit_permille: u32::try_from(overcommit).unwrap_or(u32::MAX),
            saved_by_sharing_mib: sample.saved(),
            saved_by_balloons_mib: self.balloons.saved(sample),
            ksm_cpu_permille: self.sharing.cpu_permille,
            fits_mib: fits(sample, policy, self, &[]),
            guests: sample.guests.iter().map(guest).collect(),
            acts: self.acts.iter().cloned().collect(),
            more: self.more(sample, policy),
            policy: self.following.clone(),
        }
    }

    /// For each size that a running guest has, and for the usual ones.
    fn more(&self, sample: &Sample, policy: &MemoryPolicy) -> Vec<MoreGuests> {
        let running = sample.guests.values().map(|guest| guest.full).collect::<BTreeSet<MiB>>();
        let sizes: BTreeSet<MiB> = USUAL.into_iter().chain(running).take(SIZES).collect();
        let one = |memory_mib| MoreGuests { memory_mib, more: how_many_more(sample, policy, self, memory_mib) };
        sizes.into_iter().map(one).collect()
    }
}
