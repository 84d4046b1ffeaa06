//! Failover of this host's guests, and of those it keeps replicas of: what the guard is to be told, and what the aggregator
//! is told of it. Right or wrong, nothing here can make two hosts run one guest: guards decide that by votes. What a won
//! guest is started from is decided in `takeover.rs`.

#[cfg(test)]
mod test;

use std::collections::BTreeSet;

use roost_protocol::backup::BackupSummary;
use roost_protocol::failover::{Council, Fencing, GUARDS, Guard, GuardReport, WARDS, Want, WardReport, WatchdogTest};
use roost_protocol::probe::GuestProbes;
use roost_protocol::{GuestId, HostId, Stamp};

use crate::agent::{Agent, Now};
use crate::event::Action;
use crate::fence::Missed;

/// Alarm where a guest answers that nobody has a lease for.
const ANSWERS: &str = "answers-without-lease";

/// Alarm where the watchdog doesn't do what leases count on.
const WATCHDOG: &str = "watchdog-failed";

/// This host's guard, as the edge sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuardSeen {
    pub incarnation: u32,
    pub key: [u8; 32],
    pub listen: String,
    pub may_own: bool,
    /// How its host is ended when it hangs.
    pub fencing: Option<Fencing>,
    /// What its test said last.
    pub watchdog_test: Option<WatchdogTest>,
    /// Those it owns.
    pub wards: Vec<WardReport>,
    /// What happened before this it doesn't remember.
    pub remembers: Stamp,
    /// Wards whose owners' power may be cut.
    pub missed: Vec<Missed>,
    /// Guests that answer though the lease that their host had for them is over.
    pub answering: Vec<(HostId, GuestId)>,
}

/// How the guard is to be: the edge brings it there, step by step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuardWish {
    pub guards: Vec<Guard>,
    /// Of this host's guests, all of them; none: the aggregator was not heard, and all stays.
    pub councils: Option<Vec<Council>>,
    /// Replicas that this host keeps for others, and the moment each shows by the clock of its maker.
    pub copies: Vec<(GuestId, Stamp)>,
    /// Guests of this host whose wards are to be given up now; their councils are left as they are.
    pub release: BTreeSet<GuestId>,
    /// Nothing is taken over here. What the aggregator said last.
    pub disarmed: bool,
    /// Owners that are off for certain.
    pub proofs: Vec<Missed>,
    /// Where guests answer that are well, those of other hosts too.
    pub probes: Vec<GuestProbes>,
}

/// What is known.
#[derive(Debug, Default)]
pub(crate) struct Failover {
    seen: Option<GuardSeen>,
    wish: GuardWish,
    /// Not said yet.
    changed: bool,
    answering: Vec<(HostId, GuestId)>,
    /// What the aggregator was told last.
    reported: Option<GuardReport>,
}

impl Failover {
    /// What was told before the agent was started anew.
    pub(crate) fn knowing(probes: Vec<GuestProbes>) -> Self {
        let changed = !probes.is_empty();
        Self { wish: GuardWish { probes, ..GuardWish::default() }, changed, ..Self::default() }
    }
}

impl Agent {
    /// What a guard told before it was started anew is remembered here.
    pub(crate) fn guard_seen(&mut self, now: Now, mut seen: GuardSeen) {
        if let Some(before) = &self.failover.seen {
            seen.remembers = seen.remembers.min(before.remembers);
        }
        self.watchdog_told(now, seen.watchdog_test.as_ref());
        self.missed_told(std::mem::take(&mut seen.missed));
        self.answering_told(now, std::mem::take(&mut seen.answering));
        self.failover.seen = Some(seen);
        self.beats.hurry(now.time);
    }

    fn watchdog_told(&mut self, now: Now, test: Option<&WatchdogTest>) {
        match test.filter(|test| test.failed()) {
            Some(test) => self.raise_alarm(now, WATCHDOG, None, format!("this host's watchdog was tested: {test}")),
            None => self.clear_alarm(WATCHDOG, None),
        }
    }

    /// Nobody takes these over while they answer: who else could stop them?
    fn answering_told(&mut self, now: Now, answering: Vec<(HostId, GuestId)>) {
        let before = std::mem::replace(&mut self.failover.answering, answering.clone());
        for (_, guest) in before.iter().filter(|it| !answering.contains(it)) {
            self.clear_alarm(ANSWERS, Some(*guest));
        }
        for (owner, guest) in answering.iter().filter(|it| !before.contains(it)) {
            let text = format!(
                "{owner} is not heard and its lease is over, but the guest answers where it is probed: it is not \
                 taken over"
            );
            self.raise_alarm(now, ANSWERS, Some(*guest), text);
        }
    }

    /// The aggregator says where guests answer.
    pub(crate) fn probes_changed(&mut self) {
        self.failover.wish.probes.clone_from(&self.probes);
        self.failover.changed = true;
    }

    /// The aggregator says who votes.
    pub(crate) fn councils_told(&mut self, mut guards: Vec<Guard>, mut councils: Vec<Council>, disarmed: bool) {
        guards.retain(|guard| guard.host != self.config.host);
        guards.truncate(GUARDS);
        councils.truncate(WARDS);
        let wish = &mut self.failover.wish;
        (wish.guards, wish.councils, wish.disarmed) = (guards, Some(councils), disarmed);
        self.failover.changed = true;
    }

    /// The guest's ward as this host owns it, with no change under way.
    pub(crate) fn settled_ward(&self, guest: GuestId) -> Option<&Council> {
        let ward = self.failover.seen.as_ref()?.wards.iter().find(|ward| ward.council.guest == guest)?;
        ward.settled.then_some(&ward.council)
    }

    /// Whether the guard is to give up the guest's ward.
    pub(crate) fn release_ward(&mut self, guest: GuestId, release: bool) {
        let wish = &mut self.failover.wish.release;
        self.failover.changed |= if release { wish.insert(guest) } else { wish.remove(&guest) };
    }

    /// Other hosts' guards, as the aggregator told of them.
    pub(crate) fn wished_guards(&self) -> &[Guard] {
        &self.failover.wish.guards
    }

    /// The guard is to know what was proven.
    pub(crate) fn proofs_changed(&mut self) {
        self.failover.wish.proofs = self.fences.proofs();
        self.failover.changed = true;
    }

    /// Says how the guard is to be, where that changed.
    pub(crate) fn keep_failover(&mut self, actions: &mut Vec<Action>) {
        if !self.config.guarded {
            return;
        }
        if !self.backups.sets.dirty.is_empty() {
            let copies = self.copies();
            self.failover.changed |= copies != self.failover.wish.copies;
            self.failover.wish.copies = copies;
        }
        if std::mem::take(&mut self.failover.changed) {
            actions.push(Action::Guard(Box::new(self.failover.wish.clone())));
        }
    }

    /// Replicas of other hosts' guests that a takeover could begin from.
    fn copies(&self) -> Vec<(GuestId, Stamp)> {
        let copy = |guest| Some((guest, self.foreign(guest)?.started));
        self.backups.sets.guests().filter_map(copy).take(WARDS).collect()
    }

    /// The newest point of this guest that another host made.
    fn foreign(&self, guest: GuestId) -> Option<&BackupSummary> {
        let foreign = |point: &&BackupSummary| point.whole() && point.origin != self.config.host;
        self.backups.sets.of(guest).rev().find(foreign)
    }

    /// What the aggregator is to know of the guard.
    pub(crate) fn guard_report(&self) -> Option<GuardReport> {
        let seen = self.failover.seen.as_ref()?;
        let GuardSeen { incarnation, key, listen, may_own, wards, remembers, fencing, watchdog_test, .. } =
            seen.clone();
        let (wants, remembers, notes) = (self.wants(), Some(remembers), Vec::new());
        Some(GuardReport { incarnation, key, listen, may_own, wards, wants, remembers, notes, fencing, watchdog_test })
    }

    /// The same, if it was told otherwise.
    pub(crate) fn guard_news(&mut self, all: bool) -> Option<Box<GuardReport>> {
        let report = self.guard_report();
        let news = all || report != self.failover.reported;
        self.failover.reported.clone_from(&report);
        let notes = if report.is_some() { self.chain.tell(all) } else { Vec::new() };
        report.filter(|_| news || !notes.is_empty()).map(|report| Box::new(GuardReport { notes, ..report }))
    }

    /// Guests whose policy asks for it and whose replica is there, also those that are off.
    fn wants(&self) -> Vec<Want> {
        let wanted = self.backups.cares.iter().filter(|(guest, care)| {
            let asked = care.policy.as_ref().and_then(|policy| policy.replica).is_some_and(|replica| replica.failover);
            asked && self.wishes.contains_key(guest) && care.run.shows.is_some() && self.guests.get(**guest).is_some()
        });
        let want =
            |(guest, care): (&GuestId, &crate::backup::Care)| Some(Want { guest: *guest, keeper: care.run.replica? });
        wanted.filter_map(want).take(WARDS).collect()
    }
}
