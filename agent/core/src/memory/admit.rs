//! Whether one more guest fits, asked before it is started; and if not, why not, and what would fit.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use roost_protocol::memory::{MemoryPolicy, Rung};
use roost_protocol::{GuestId, MiB};

use super::guest::{YOUNG, floor, floor_of};
use super::ladder::{Levels, committed};
use super::sample::{GuestMemory, Sample};
use super::state::State;

/// What QEMU itself needs beside its guest's memory: measured 43 MiB.
pub const QEMU: MiB = MiB(48);
/// Of what guests could give this part is counted on; the rest may be needed before it is given.
const COUNTED_PERMILLE: u32 = 500;
/// Largest number of further guests that is worth counting; a host reports at most 512.
const COUNT: u32 = 512;

/// What would be too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The host is on a rung where nothing is started.
    Rung(Rung),
    /// More was promised than the policy allows.
    Overcommit { committed: MiB, most: MiB },
    /// What the guest will take is not there.
    Available { needed: MiB, free: MiB, from_guests: MiB },
    /// Even squeezed to their floors the guests would not fit.
    Floors { floors: MiB, most: MiB },
}

/// Why a guest is not started, and the largest that would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub asked: MiB,
    pub fits: MiB,
    pub limit: Limit,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a guest of {} does not fit: ", self.asked)?;
        match self.limit {
            Limit::Rung(_) => f.write_str("the host's reserve of memory is touched"),
            Limit::Overcommit { committed, most } => {
                write!(f, "guests were promised {committed}, at most {most} may be")
            }
            Limit::Available { needed, free, from_guests } => {
                write!(
                    f,
                    "it needs {needed} at first, {free} are free above the level to squeeze at, and guests can give {from_guests}"
                )
            }
            Limit::Floors { floors, most } => {
                write!(f, "squeezed to their floors all guests would need {floors}, there are {most}")
            }
        }?;
        match self.fits {
            MiB(0) => f.write_str("; none fits now"),
            fits => write!(f, "; one of {fits} would fit"),
        }
    }
}

impl std::error::Error for Refusal {}

/// Room for new guests, from one look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Room {
    policy: MemoryPolicy,
    /// Those that were looked at; others that start need room besides.
    guests: BTreeSet<GuestId>,
    rung: Rung,
    committed: MiB,
    committed_most: MiB,
    free: MiB,
    from_guests: MiB,
    floors: MiB,
    floors_most: MiB,
    /// What guests of one size took while they were young, on average.
    took: BTreeMap<MiB, MiB>,
}

/// Whether a guest of `full` memory may be started. `starting` are those whose start was begun and that are not in the
/// sample yet.
///
/// # Errors
/// The first limit that it would break, and the largest guest that would break none.
pub fn admit(
    sample: &Sample,
    policy: &MemoryPolicy,
    state: &State,
    starting: &[MiB],
    full: MiB,
) -> Result<(), Refusal> {
    Room::of(sample, policy, state).admit(starting, full)
}

/// The largest guest that could be started.
pub fn fits(sample: &Sample, policy: &MemoryPolicy, state: &State, starting: &[MiB]) -> MiB {
    Room::of(sample, policy, state).with(starting).largest()
}

/// How many more guests of `full` memory like those of that size that run could be started one after the other, each
/// settled before the next: what a settled one takes is measured where there are some, else expected by the policy.
pub fn how_many_more(sample: &Sample, policy: &MemoryPolicy, state: &State, full: MiB) -> u32 {
    let like = |guest: &&GuestMemory| guest.full == full && guest.age >= YOUNG;
    let (count, sum) = sample.guests.values().filter(like).fold((0u64, MiB(0)), |(count, sum), guest| {
        let shared = guest.shared.unwrap_or_default();
        (count + 1, sum + guest.proportional.unwrap_or(guest.resident - shared))
    });
    let settled = sum.0.checked_div(count).map_or(full.permille(policy.start_permille) + QEMU, MiB);
    let mut room = Room::of(sample, policy, state);
    let mut more = 0;
    while more < COUNT && room.holds(full).is_ok() {
        more += 1;
        room.committed = room.committed + full;
        room.free = room.free - settled;
        room.floors = room.floors + floor_of(full, None, policy) + QEMU;
    }
    more
}

impl Room {
    /// What there is after one look.
    pub fn of(sample: &Sample, policy: &MemoryPolicy, state: &State) -> Self {
        let levels = Levels::of(sample, policy);
        // What the host itself uses, with all that runs beside guests.
        let saved = sample.saved();
        let resident: MiB = sample.guests.values().map(|guest| guest.resident).sum();
        let own = sample.host.total + saved - sample.host.available - resident;
        let usable = sample.host.total - own.max(sample.host.huge) - levels.reserve;
        let took = took(sample, policy, state);
        let young = |guest: &&GuestMemory| guest.age < YOUNG;
        let growing: MiB =
            sample.guests.values().filter(young).map(|guest| first(guest.full, policy, &took) - guest.resident).sum();
        let floors = |guest: &GuestMemory| held(guest, policy) + QEMU;
        Self {
            policy: policy.clone(),
            guests: sample.guests.keys().copied().collect(),
            rung: state.rung(),
            committed: committed(sample),
            committed_most: usable.permille(policy.overcommit_permille),
            free: sample.host.available - levels.squeeze - growing,
            from_guests: state.can_give(sample, policy).permille(COUNTED_PERMILLE),
            floors: sample.guests.values().map(floors).sum::<MiB>(),
            floors_most: usable,
            took,
        }
    }

    /// True for a guest that is in these numbers.
    pub fn counts(&self, guest: GuestId) -> bool {
        self.guests.contains(&guest)
    }

    /// Whether a guest of `full` memory may be started besides those that are `starting` and not counted yet.
    ///
    /// # Errors
    /// The first limit that it would break, and the largest guest that would break none.
    pub fn admit(&self, starting: &[MiB], full: MiB) -> Result<(), Refusal> {
        let room = self.with(starting);
        let Err(limit) = room.holds(full) else { return Ok(()) };
        Err(Refusal { asked: full, fits: room.largest(), limit })
    }

    fn with(&self, starting: &[MiB]) -> Self {
        let mut room = self.clone();
        for full in starting {
            room.committed = room.committed + *full;
            room.free = room.free - first(*full, &self.policy, &self.took);
            room.floors = room.floors + floor_of(*full, None, &self.policy) + QEMU;
        }
        room
    }

    fn holds(&self, full: MiB) -> Result<(), Limit> {
        let policy = &self.policy;
        if self.rung >= Rung::Refuse {
            return Err(Limit::Rung(self.rung));
        }
        let committed = self.committed + full;
        if committed > self.committed_most {
            return Err(Limit::Overcommit { committed: self.committed, most: self.committed_most });
        }
        let floors = self.floors + floor_of(full, None, policy) + QEMU;
        if floors > self.floors_most {
            return Err(Limit::Floors { floors, most: self.floors_most });
        }
        let needed = first(full, policy, &self.took);
        if needed > self.free + self.from_guests {
            return Err(Limit::Available { needed, free: self.free, from_guests: self.from_guests });
        }
        Ok(())
    }

    /// By halving: what holds for a guest holds for every smaller one.
    fn largest(&self) -> MiB {
        let (mut holds, mut breaks) = (0, self.committed_most.0.saturating_add(1));
        while breaks - holds > 1 {
            let middle = holds + (breaks - holds) / 2;
            match self.holds(MiB(middle)) {
                Ok(()) => holds = middle,
                Err(_) => breaks = middle,
            }
        }
        MiB(holds)
    }
}

/// What a guest can't be made to give: its floor, or all it has where it has no balloon that we may use.
fn held(guest: &GuestMemory, policy: &MemoryPolicy) -> MiB {
    let tells = guest.balloon.is_some_and(|balloon| balloon.told.is_some()) || guest.age < YOUNG;
    if policy.balloons && guest.may_give() && tells { floor(guest, policy) } else { guest.full }
}

/// What a guest is expected to take at first: no less than the policy says, nor than those of its size or less took.
fn first(full: MiB, policy: &MemoryPolicy, took: &BTreeMap<MiB, MiB>) -> MiB {
    let least = full.permille(policy.start_permille) + QEMU;
    took.range(..=full).map(|(_, took)| *took).fold(least, MiB::max)
}

/// Of guests that were watched from their start; one that has not taken yet what the policy expects counts as if it had.
fn took(sample: &Sample, policy: &MemoryPolicy, state: &State) -> BTreeMap<MiB, MiB> {
    let mut sums: BTreeMap<MiB, (u64, MiB)> = BTreeMap::new();
    for (id, guest) in &sample.guests {
        let Some(at_first) = state.at_first(*id) else { continue };
        let least = guest.full.permille(policy.start_permille) + QEMU;
        let (count, sum) = sums.entry(guest.full).or_default();
        (*count, *sum) = (*count + 1, *sum + at_first.max(least));
    }
    sums.into_iter().map(|(full, (count, sum))| (full, MiB(sum.0 / count))).collect()
}
