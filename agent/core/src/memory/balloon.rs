//! The law of balloons. Memory is taken only from guests that told lately what is free to them, in small steps, each
//! judged before the next; it is given back at once to a guest that suffers, and to all when there is enough again.

use std::collections::BTreeMap;

use roost_protocol::memory::{MemoryPolicy, Rung};
use roost_protocol::{GuestId, MiB, Millis, Time};

use super::guest::{Fares, Guest, STEP, change_least, floor, keeps, readiness};
use super::ladder::{Ladder, Levels};
use super::reason::Cause;
use super::sample::{Balloon, GuestMemory, Sample};

/// Part of a guest's memory given back at once when it suffers, and when the host is near its reserve.
const HELP: (u32, u32) = (250, 80);
/// Comfort lasts so long before memory is given back to all; doubles each time that was too soon, up to the longest.
const CALM: (Millis, Millis) = (Millis::seconds(5), Millis::seconds(300));
/// Squeezed again so soon after giving back to all: it was too soon.
const TOO_SOON: Millis = Millis::seconds(600);
/// The wait shortens again after this long without a squeeze.
const FORGIVEN: Millis = Millis::seconds(1_800);
/// A step needs about this long to have its effect.
const AHEAD: Millis = Millis::seconds(10);
/// Seconds between two tellings of a guest: while something is taken, and else.
const PERIODS: (u32, u32) = (2, 10);

/// What is remembered between looks.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) guests: BTreeMap<GuestId, Guest>,
    calm: Millis,
    gave_all: Option<Time>,
    took: Option<Time>,
}

impl Default for State {
    fn default() -> Self {
        Self { guests: BTreeMap::new(), calm: CALM.0, gave_all: None, took: None }
    }
}

/// One change of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Size { guest: GuestId, from: MiB, to: MiB, why: Vec<Cause> },
    Period { guest: GuestId, seconds: u32 },
}

/// What a decision looks at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look<'a> {
    pub(super) now: Time,
    pub(super) sample: &'a Sample,
    pub(super) levels: &'a Levels,
    pub(super) ladder: &'a Ladder,
    pub(super) policy: &'a MemoryPolicy,
}

impl Look<'_> {
    /// Half-way from where squeezing begins to the reserve, or past it.
    fn urgent(&self) -> bool {
        let middle = self.levels.reserve.0.midpoint(self.levels.squeeze.0);
        self.sample.host.available.0 < middle || self.ladder.rung >= Rung::Refuse
    }
}

/// What to ask guests for now.
pub(super) fn plan(look: Look<'_>, state: &mut State) -> Vec<Change> {
    let Look { now, sample, ladder, policy, .. } = look;
    state.guests.retain(|id, _| sample.guests.contains_key(id));
    let mut changes = Vec::new();
    for (id, guest) in &sample.guests {
        let known = state.guests.entry(*id).or_insert_with(|| Guest::new(now, guest));
        let fares = known.look(now, guest);
        help(look, *id, known, fares, &mut changes);
    }
    let helped = changes.len();
    if policy.balloons && ladder.squeezing {
        squeeze(look, state, &mut changes);
    } else {
        give_back(look, state, &mut changes);
    }
    if changes.len() > helped && ladder.squeezing {
        state.took(now);
    }
    periods(sample, ladder, state, &mut changes);
    changes
}

/// Looks after one guest, whatever the host is short of: its reserve is for this.
fn help(look: Look<'_>, id: GuestId, known: &mut Guest, fares: Fares, changes: &mut Vec<Change>) {
    let Look { now, sample, levels, .. } = look;
    let (Some(asked), Some(guest)) = (known.asked, sample.guests.get(&id)) else { return };
    let Some(Balloon { current, told }) = guest.balloon else { return };
    let (to, why) = match fares {
        Fares::Well if !guest.wish.squeeze || !guest.ours => (guest.full, vec![Cause::NotOurs]),
        Fares::Well => return,
        Fares::Deaf(cause) => {
            known.deaf(now);
            changes.push(Change::Size { guest: id, from: current, to: guest.full, why: vec![cause] });
            return;
        }
        Fares::Suffers(_) if known.given_lately(now, told) && asked.to >= current => return,
        Fares::Suffers(why) => {
            let usable = told.map_or(MiB(0), |told| told.usable);
            let lacking = keeps(guest) - usable;
            // Twice what is lacking, for it goes on while we look; a quarter of what the host has is left to others.
            let most = MiB(sample.host.available.0 / 4).max(guest.full.permille(STEP.0));
            let gift =
                guest.full.permille(if look.urgent() { HELP.1 } else { HELP.0 }).max(lacking + lacking).min(most);
            (current.max(asked.to) + gift, why)
        }
        Fares::Unknown(cause) => {
            if sample.host.available < levels.reserve || known.given_lately(now, told) || !asked.reached {
                return;
            }
            (current + guest.full.permille(STEP.0), vec![cause])
        }
    };
    let to = to.min(guest.full);
    if to > asked.to || current > asked.to {
        known.give(now, current, to, true);
        changes.push(Change::Size { guest: id, from: current, to, why });
    }
}

/// Takes what is wanted from those who can give, the idle ones first, by weight.
fn squeeze(look: Look<'_>, state: &mut State, changes: &mut Vec<Change>) {
    let Look { now, sample, levels, ladder, policy } = look;
    let urgent = look.urgent();
    let can: Vec<(GuestId, MiB, u64)> = sample
        .guests
        .iter()
        .filter_map(|(id, guest)| {
            let mib = state.guests.get(id)?.can_give(now, guest, policy, urgent);
            let score = mib.0 * readiness(guest) * 1_000 / u64::from(guest.wish.weight.max(1));
            (mib > MiB(0)).then_some((*id, mib, score.max(1)))
        })
        .collect();
    let under_way: MiB =
        sample.guests.iter().filter_map(|(id, guest)| Some(state.guests.get(id)?.under_way(guest))).sum();
    // What will be gone before a step has its effect is wanted too.
    let ahead = ladder.falls_within(AHEAD).min(sample.host.total.permille(STEP.0));
    let aim = (levels.comfort + ahead).max(sample.host.available + MiB(1));
    let wanted = aim - sample.host.available - under_way;
    let scores: u64 = can.iter().map(|(_, _, score)| score).sum();
    for (id, most, score) in &can {
        let (Some(guest), Some(known)) = (sample.guests.get(id), state.guests.get_mut(id)) else { continue };
        let part = MiB(wanted.0.saturating_mul(*score).div_ceil(scores.max(1)));
        if wanted == MiB(0) {
            return;
        }
        // Less than the least change is not worth asking for, yet all together it may be what is wanted.
        let take = part.max(change_least(guest.full)).min(*most);
        let (current, told) = (guest.current(), guest.balloon.and_then(|balloon| balloon.told).unwrap_or_default());
        let mut why = ladder.why.clone();
        why.push(Cause::Wanted { wanted, under_way, guests: can.len() });
        why.push(Cause::Idle {
            used: current - told.usable,
            current,
            usable: told.usable,
            keeps: keeps(guest),
            floor: floor(guest, policy),
            weight: guest.wish.weight,
        });
        why.push(Cause::Step { take, permille: take.0 * 1_000 / guest.full.0.max(1) });
        known.take(now, current, current - take);
        changes.push(Change::Size { guest: *id, from: current, to: current - take, why });
    }
}

/// Gives back what guests are owed, as far as it can be spared even if they use it at once.
fn give_back(look: Look<'_>, state: &mut State, changes: &mut Vec<Change>) {
    let Look { now, sample, levels, ladder, policy } = look;
    state.forgive(now);
    let taken = state.took.unwrap_or_default();
    let calm = ladder.comfortable.is_some_and(|since| now.since(since.max(taken)) >= state.calm);
    if !calm && policy.balloons {
        return;
    }
    let sum = |part: &dyn Fn(&Guest, &GuestMemory) -> MiB| -> MiB {
        sample.guests.iter().filter_map(|(id, guest)| Some(part(state.guests.get(id)?, guest))).sum()
    };
    let outstanding = sum(&|known, guest| known.outstanding(now, guest));
    let owed = sum(&|known, guest| known.owed(guest));
    let spare = sample.host.available - levels.comfort - outstanding;
    if owed == MiB(0) || spare == MiB(0) {
        return;
    }
    let mut left = spare;
    for id in neediest_first(sample) {
        let Some(guest) = sample.guests.get(&id) else { continue };
        let Some(known) = state.guests.get_mut(&id).filter(|_| guest.balloon.is_some()) else { continue };
        let (mine, current) = (known.owed(guest), guest.current());
        let part = MiB((u128::from(spare.0) * u128::from(mine.0) / u128::from(owed.0)).try_into().unwrap_or(u64::MAX));
        let part = part.max(guest.full.permille(STEP.0)).min(mine);
        if part > left || part == MiB(0) {
            continue;
        }
        left = left - part;
        let asked = known.asked.map_or(guest.full, |asked| asked.to);
        // What it has still, though it was asked for it, it keeps.
        let to = (asked + part).max(current).min(guest.full);
        known.give(now, current, to, false);
        state.gave_all = Some(now);
        let (available, total) = (sample.host.available, sample.host.total);
        let why = vec![
            Cause::Available { available, total, level: levels.comfort, name: "comfort" },
            Cause::Plenty { spare, owed },
        ];
        changes.push(Change::Size { guest: id, from: current, to, why });
    }
}

/// Those with the least to spare for their programs come first; those that don't tell come last.
fn neediest_first(sample: &Sample) -> Vec<GuestId> {
    let part = |guest: &GuestMemory| {
        let usable = guest.balloon.and_then(|balloon| balloon.told).map_or(guest.full, |told| told.usable);
        usable.0.saturating_mul(1_000) / guest.full.0.max(1)
    };
    let mut order: Vec<(u64, GuestId)> = sample.guests.iter().map(|(id, guest)| (part(guest), *id)).collect();
    order.sort_unstable();
    order.into_iter().map(|(_, id)| id).collect()
}

impl State {
    fn took(&mut self, now: Time) {
        if self.gave_all.take().is_some_and(|at| now.since(at) < TOO_SOON) {
            self.calm = Millis((self.calm.0 * 2).min(CALM.1.0));
        }
        self.took = Some(now);
    }

    fn forgive(&mut self, now: Time) {
        if self.took.is_some_and(|at| now.since(at) >= FORGIVEN) {
            self.calm = CALM.0;
            self.took = None;
        }
    }

    /// Taken from guests that have not got it back.
    pub(super) fn saved(&self, sample: &Sample) -> MiB {
        let taken = |(id, guest): (&GuestId, &GuestMemory)| {
            let known = self.guests.get(id)?;
            known.asked.map(|_| guest.full - guest.current())
        };
        sample.guests.iter().filter_map(taken).sum()
    }
}

/// Guests tell oftener while something is taken from them.
fn periods(sample: &Sample, ladder: &Ladder, state: &mut State, changes: &mut Vec<Change>) {
    for (id, guest) in &sample.guests {
        let Some(known) = state.guests.get_mut(id).filter(|_| guest.ours && guest.balloon.is_some()) else { continue };
        let often = ladder.squeezing || known.asked.is_some();
        let seconds = if often { PERIODS.0 } else { PERIODS.1 };
        if known.period != Some(seconds) {
            known.period = Some(seconds);
            changes.push(Change::Period { guest: *id, seconds });
        }
    }
}
