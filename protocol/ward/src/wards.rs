//! All wards of one machine, and its watchdog, which is petted only while every guest that may be executing has a lease.

use std::collections::BTreeMap;

use roost_protocol::Time;

use crate::event::{Action, Event};
use crate::id::WardId;
use crate::rules::{Rule, Rules};
use crate::ward::{Start, Ward};

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WardsAction {
    /// See [`Action`].
    Do { ward: WardId, action: Action },
    /// Pet the watchdog, if the clock read right before shows less than `until`.
    Pet { until: Time },
}

/// The state machine of the guard.
#[derive(Clone, Debug, Default)]
pub struct Wards {
    pub(crate) wards: BTreeMap<WardId, Ward>,
    /// Not before the first ward with guests: the edge opens the device at the first pet.
    pub(crate) next_pet: Option<Time>,
    pub(crate) rules: Rules,
}

impl Wards {
    /// None yet.
    pub fn new(rules: Rules) -> Self {
        Self { wards: BTreeMap::new(), next_pet: None, rules }
    }

    /// Takes part in a ward from now on.
    pub fn add(&mut self, now: Time, ward: WardId, start: Start) {
        let fenced = start.ballot.councils.timers().fence.is_some();
        self.wards.insert(ward, Ward::new(now, start));
        if fenced {
            self.next_pet.get_or_insert(now);
        }
    }

    /// Takes no part any more. Only for a ward that is owned elsewhere and whose council this machine left.
    pub fn remove(&mut self, ward: WardId) -> Option<Ward> {
        self.wards.remove(&ward)
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

    fn pet(&mut self, now: Time, out: &mut Vec<WardsAction>) {
        let until = self.pet_until();
        if now < until && self.next_pet.is_some_and(|pet| now >= pet) {
            let every = self.wards.values().filter_map(|ward| ward.councils().timers().pet()).min();
            self.next_pet = every.map(|every| now + every);
            out.push(WardsAction::Pet { until });
        }
    }
}
