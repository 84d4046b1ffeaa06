//! All wards of one machine, and its watchdog, which is petted only while every guest that may be executing has a lease.

use std::collections::BTreeMap;

use roost_protocol::{Millis, Time};

use crate::event::{Action, Event};
use crate::id::WardId;
use crate::rules::{Rule, Rules};
use crate::timers::Timers;
use crate::ward::{Start, Ward};

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WardsAction {
    /// See [`Action`].
    Do { ward: WardId, action: Action },
    /// Pet the watchdog, if the clock read right before shows less than `until`; it is to fire after `time_out`.
    Pet { until: Time, time_out: Millis },
}

/// The state machine of the guard.
#[derive(Clone, Debug)]
pub struct Wards {
    pub(crate) wards: BTreeMap<WardId, Ward>,
    /// None before the first ward with guests: the edge opens the device at the first pet.
    pub(crate) next_pet: Option<Time>,
    /// What the watchdog was told last; [`NOT_TOLD`]: nothing.
    pub(crate) time_out: Millis,
    pub(crate) rules: Rules,
}

/// Longer than any time-out.
const NOT_TOLD: Millis = Millis(u64::MAX);

impl Wards {
    /// None yet.
    pub fn new(rules: Rules) -> Self {
        Self { wards: BTreeMap::new(), next_pet: None, time_out: NOT_TOLD, rules }
    }

    /// Takes part in a ward from now on.
    pub fn add(&mut self, now: Time, ward: WardId, start: Start) {
        let fenced = start.ballot.councils.watchdog().is_some();
        self.wards.insert(ward, Ward::new(now, start));
        if fenced {
            self.next_pet.get_or_insert(now);
        }
    }

    /// Takes no part any more; what it voted has to be kept for when it does again. To others it is as if it had crashed.
    pub fn remove(&mut self, ward: WardId) -> Option<Ward> {
        self.wards.remove(&ward)
    }

    /// The edge armed the watchdog by itself, to fire after `time_out`: from now on it is petted.
    pub fn armed(&mut self, now: Time, time_out: Millis) {
        self.next_pet = Some(now);
        self.time_out = self.time_out.min(time_out);
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&WardId, &Ward)> {
        self.wards.iter()
    }

    /// One of them.
    pub fn get(&self, ward: WardId) -> Option<&Ward> {
        self.wards.get(&ward)
    }

    /// Takes in one event of one ward; of an unknown one nothing. `now` is read after it came.
    pub fn on(&mut self, now: Time, ward: WardId, event: Event) -> Vec<WardsAction> {
        let actions = self.wards.get_mut(&ward).map(|known| known.on(now, event)).unwrap_or_default();
        let mut out = Vec::with_capacity(actions.len() + 1);
        out.extend(actions.into_iter().map(|action| WardsAction::Do { ward, action }));
        self.pet(now, &mut out);
        out
    }

    /// Does what is due in all wards.
    pub fn wake(&mut self, now: Time) -> Vec<WardsAction> {
        let mut out = Vec::new();
        for (ward, machine) in &mut self.wards {
            if machine.deadline().is_some_and(|deadline| deadline <= now) {
                let actions = machine.on(now, Event::Wake);
                out.extend(actions.into_iter().map(|action| WardsAction::Do { ward: *ward, action }));
            }
        }
        self.pet(now, &mut out);
        out
    }

    /// When to wake it at the latest.
    pub fn deadline(&self) -> Option<Time> {
        let wards = self.wards.values().filter_map(Ward::deadline).min();
        let pet = self.next_pet.filter(|pet| *pet < self.pet_until());
        [wards, pet].into_iter().flatten().min()
    }

    /// The first end of a lease under which a guest may be executing.
    fn pet_until(&self) -> Time {
        if !self.rules.keep(Rule::PetWithLease) {
            return Time(u64::MAX);
        }
        self.wards.values().filter_map(Ward::pet_until).min().unwrap_or(Time(u64::MAX))
    }

    /// A shorter time-out is told at once: the shorter promise that goes with it may be in force a moment later.
    fn pet(&mut self, now: Time, out: &mut Vec<WardsAction>) {
        let (until, Some(next_pet)) = (self.pet_until(), self.next_pet) else { return };
        if now >= until {
            // Petted again with the first lease that comes back; until then there is nothing to wake up for.
            self.next_pet = Some(next_pet.max(now));
            return;
        }
        // With the last ward gone it is armed as before.
        let told = Some(self.time_out).filter(|time_out| *time_out != NOT_TOLD);
        let Some(time_out) = self.wards.values().filter_map(|ward| ward.councils().watchdog()).min().or(told) else {
            self.next_pet = None;
            return;
        };
        if now < next_pet && time_out >= self.time_out {
            return;
        }
        self.next_pet = Some(now + Timers::pet_every(time_out));
        self.time_out = time_out;
        out.push(WardsAction::Pet { until, time_out });
    }
}

#[cfg(test)]
mod test {
    use roost_protocol::HostId;

    use super::*;
    use crate::ballot::Ballot;
    use crate::council::{Council, Policy};
    use crate::event::Replica;
    use crate::id::MemberId;
    use crate::timers::Profile;

    fn pets(actions: &[WardsAction]) -> usize {
        actions.iter().filter(|action| matches!(action, WardsAction::Pet { .. })).count()
    }

    /// With one ward, which nobody else votes in.
    fn alone() -> Wards {
        let me = MemberId { id: HostId::from_u128(1), incarnation: 1 };
        let council = Council::new(vec![me], vec![me], Policy::Stay, Profile::Fast).unwrap();
        let (rules, booted, replica) = (Rules::ALL, Time(0), Replica::None);
        let start = Start { me, ballot: Ballot::first(council), kept: None, replica, booted, seed: 1, rules };
        let mut wards = Wards::new(rules);
        wards.add(Time(0), WardId(7), start);
        wards
    }

    #[test]
    fn a_watchdog_that_is_armed_is_petted_when_its_last_ward_is_gone_too() {
        let mut wards = alone();
        assert_eq!(pets(&wards.wake(Time(0))), 1);
        wards.remove(WardId(7));
        for _ in 0..3 {
            let due = wards.deadline().unwrap();
            assert_eq!(pets(&wards.wake(due)), 1);
            assert!(wards.deadline().is_some_and(|next| next > due), "it wakes for nothing at {due:?}");
        }
    }

    #[test]
    fn a_ward_that_is_gone_before_the_first_pet_arms_nothing() {
        let mut wards = alone();
        wards.remove(WardId(7));
        assert_eq!((pets(&wards.wake(Time(5))), wards.deadline()), (0, None));
    }
}
