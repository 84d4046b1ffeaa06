//! Taking a guest over: what it is started from when this host gains the right to run it.
//!
//! A host that kept replicas of the guest starts it from the newest one, at once, with the data brought in behind. A host
//! that ran it itself starts its own disks, unless a replica shows that another host ran it later. Own disks that a
//! replica is put in the place of are kept as a branch first. Nothing is started before that is decided.
//!
//! Points are put in order by the moments they show, which are of their hosts' wall clocks: clocks that differ by less
//! than a takeover takes put nothing in the wrong order.

use std::collections::BTreeMap;

use roost_protocol::backup::{BackupSummary, RestoreAs, RestoreOrder, Target, Why};
use roost_protocol::guest::Power;
use roost_protocol::{GuestId, Millis, Stamp, Time};

use crate::agent::{Agent, Hypervisor, Now, Purpose};
use crate::backup::Store;
use crate::event::{Action, Task};
use crate::guests::alive;

/// Alarm while a ward was won and there is nothing to start its guest from.
const NO_COPY: &str = "takeover-no-copy";
/// A takeover that failed is tried again after this.
const RETRY: Millis = Millis::seconds(5);

/// Guests whose ward was won and that are not started yet, and when that is tried next.
pub(crate) type Takeovers = BTreeMap<GuestId, Time>;

/// What a guest is started from.
#[derive(Debug)]
enum StartFrom {
    /// It runs here, or its disks are here and nobody ran it later.
    Here,
    Point(Box<BackupSummary>),
    /// A point, once the disks that are here are kept as a branch.
    AfterBranch,
    Nothing,
}

impl Agent {
    /// The guest may run here from now on, and could not before.
    pub(crate) fn gained(&mut self, now: Now, guest: GuestId) {
        self.takeovers.insert(guest, now.time);
    }

    /// Why a guest may not be started here now.
    pub(crate) fn start_bar(&self, guest: GuestId) -> Option<&'static str> {
        let taking = || self.takeovers.contains_key(&guest).then_some("it is being taken over, and starts by itself");
        self.rights.bar(guest).or_else(taking)
    }

    /// When the next takeover is tried again.
    pub(crate) fn takeover_deadline(&self) -> Option<Time> {
        // What waits for something else is not among them.
        self.takeovers.values().filter(|at| **at > self.clock.time).min().copied()
    }

    /// Decides about guests whose wards were won.
    pub(crate) fn begin_takeovers(&mut self, now: Now, actions: &mut Vec<Action>) {
        let lost = self.takeovers.keys().copied().filter(|guest| !self.rights.is_here(*guest));
        for guest in lost.collect::<Vec<_>>() {
            self.takeovers.remove(&guest);
            self.clear_alarm(NO_COPY, Some(guest));
        }
        if self.hypervisor != Hypervisor::Up || self.backups.store == Store::Unseen {
            return;
        }
        let due = self.takeovers.iter().filter(|(_, at)| **at <= now.time).map(|(guest, _)| *guest);
        for guest in due.filter(|guest| !self.busy(*guest)).collect::<Vec<_>>() {
            match self.start_from(guest) {
                StartFrom::Here => {
                    self.takeovers.remove(&guest);
                    self.clear_alarm(NO_COPY, Some(guest));
                    if self.guests.get(guest).is_none_or(|known| !alive(known.seen.state)) {
                        self.chosen(now, guest, None, "its own disks here are the newest copy".into());
                    }
                    self.looked_after_here(guest, actions);
                }
                StartFrom::Point(point) => {
                    self.takeovers.insert(guest, now.time + RETRY);
                    self.take_over_from(now, &point, actions);
                }
                // The end of that backup brings us here again.
                StartFrom::AfterBranch => {
                    self.takeovers.insert(guest, now.time + RETRY);
                    self.begin_branch(guest, actions);
                }
                StartFrom::Nothing => {
                    self.takeovers.insert(guest, now.time + RETRY);
                    let text = "its ward was won by this host, which has neither the guest nor a whole copy of it: \
                                restore it, or release the ward to a host that has one";
                    if !self.alarms.contains_key(&(NO_COPY.to_owned(), Some(guest))) {
                        self.not_started(now, guest, text.into());
                    }
                    self.raise_alarm(now, NO_COPY, Some(guest), text.into());
                }
            }
        }
    }

    fn start_from(&self, guest: GuestId) -> StartFrom {
        let known = self.guests.get(guest);
        if known.is_some_and(|known| alive(known.seen.state)) {
            return StartFrom::Here;
        }
        // What another host did meanwhile can't be seen now.
        if self.backups.store == Store::Away && !self.wishes.contains_key(&guest) {
            return StartFrom::Nothing;
        }
        let whole = || self.backups.sets.of(guest).filter(|point| point.whole());
        let own = |point: &&BackupSummary| point.origin == self.config.host;
        let ran = |point: &&BackupSummary| point.why != Why::Branch;
        let later = |a: &&BackupSummary, b: &&BackupSummary| a.started.cmp(&b.started);
        let taken = self.backups.cares.get(&guest).and_then(|care| care.run.taken);
        let here = whole().filter(own).filter(ran).map(|point| point.started).max().max(taken).unwrap_or(Stamp(0));
        let Some(newest) = whole().filter(|point| !own(point)).max_by(later).filter(|point| point.started > here)
        else {
            // A guest that was deleted here does not come back by itself.
            return if known.is_some() { StartFrom::Here } else { StartFrom::Nothing };
        };
        if known.is_none() {
            return StartFrom::Point(Box::new(newest.clone()));
        }
        let handed_over = self.backups.cares.get(&guest).is_some_and(|care| care.run.handed_over);
        let branch = whole().filter(own).max_by(later).is_some_and(|point| point.why == Why::Branch);
        if branch || handed_over { StartFrom::Point(Box::new(newest.clone())) } else { StartFrom::AfterBranch }
    }

    fn take_over_from(&mut self, now: Now, point: &BackupSummary, actions: &mut Vec<Action>) {
        let (set, at_once) = (point.guest, true);
        let age = Millis(now.wall.0.saturating_sub(point.started.0));
        let seconds = age.0 / 1_000;
        let (id, made_by) = (point.point, point.origin);
        let text = format!("taken over: it is started from point {id} that {made_by} made, {seconds} s old");
        actions.push(Action::Note { guest: Some(set), at: Some(now.wall), text: text.clone() });
        self.chosen(now, set, Some((point.origin, age)), text);
        let (to_be, from) = (RestoreAs::AsItWas, Target::Local);
        let order = RestoreOrder { set, point: point.point, from, to_be, start: true, at_once };
        self.run(Task::Restore { guest: set, order: Box::new(order) }, Purpose::Takeover, actions);
    }

    /// What was put in place for a takeover is started, if it still may be.
    pub(crate) fn takeover_finished(&mut self, now: Now, what: &Task, failed: Option<&str>, actions: &mut Vec<Action>) {
        let guest = what.guest();
        actions.push(Action::List);
        if let Some(why) = failed {
            let text = format!("could not be taken over, and is tried again: {why}");
            self.not_started(now, guest, text.clone());
            return actions.push(Action::Note { guest: Some(guest), at: Some(now.wall), text });
        }
        if let Task::Restore { order, .. } = what {
            let shows = self.backups.sets.get(guest, order.point).map(|point| point.started);
            self.backups.cares.entry(guest).or_default().run.taken = shows;
            self.keep_run(guest, actions);
        }
        if self.rights.bar(guest).is_none() {
            self.takeovers.remove(&guest);
            self.clear_alarm(NO_COPY, Some(guest));
            self.wish(guest, Some(Power::Running), actions);
            // Without memory for it it waits, like all that should run here.
            if !self.put_off(now, guest) {
                self.run(Task::Start { guest }, Purpose::Wish, actions);
            }
        }
    }

    /// A guest that this host only kept for the case of a takeover is looked after by it from now on.
    fn looked_after_here(&mut self, guest: GuestId, actions: &mut Vec<Action>) {
        if !self.wishes.contains_key(&guest) {
            self.wish(guest, Some(Power::Running), actions);
        }
    }
}
