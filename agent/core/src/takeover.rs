//! Taking a guest over: what it is started from when this host gains the right to run it.
//!
//! A host that kept replicas of the guest starts it from the newest one, at once, with the data brought in behind. A host
//! that ran it itself starts its own disks, unless a replica shows that another host ran it later. Own disks that a
//! replica is put in the place of are kept as a branch first. Nothing is started before that is decided.
//!
//! A point tells what the guest was meant to do. Who was off stays off here, and who stood paused is started paused.
//!
//! When a host dies many guests are won at once. They are begun a few at a time, fewer on a host that is busy, and none
//! while one of a higher priority is being started.
//!
//! Points are put in order by the moments they show, which are of their hosts' wall clocks: clocks that differ by less
//! than a takeover takes put nothing in the wrong order.

use std::collections::BTreeMap;

use roost_protocol::backup::{BackupSummary, Meant, RestoreAs, RestoreOrder, Target, Why};
use roost_protocol::guest::{Power, PowerState};
use roost_protocol::{GuestId, Millis, Stamp, Time};

use crate::agent::{Agent, Hypervisor, Now, Purpose};
use crate::backup::Store;
use crate::event::{Action, Cause, Task};
use crate::guests::alive;

/// Alarm while a ward was won and there is nothing to start its guest from.
const NO_COPY: &str = "takeover-no-copy";
/// A takeover that failed is tried again after this.
const RETRY: Millis = Millis::seconds(5);
/// The host itself pauses a guest for an instant when all its data is here. Nobody but its user pauses it for so long.
const PAUSED_FOR: Millis = Millis::seconds(3);

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
        let tried = self.takeovers.values().filter(|at| **at > self.clock.time).min().copied();
        tried.into_iter().chain(self.held_up_until()).min()
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
        let mut due = self.in_order(due.filter(|guest| !self.busy(*guest)).collect());
        // Nobody waits for what is off.
        due.sort_by_key(|guest| self.newest_point(*guest).is_some_and(|point| point.meant == Meant::StayOff));
        for (at, guest) in due.iter().copied().enumerate() {
            if !self.may_begin(guest) {
                self.tell_waited_for(now, &due[at..], actions);
                // The end of what is started now brings us here again, or the answer that is waited for, or its deadline.
                return;
            }
            match self.start_from(guest) {
                StartFrom::Here => {
                    self.takeovers.remove(&guest);
                    self.clear_alarm(NO_COPY, Some(guest));
                    if self.guests.get(guest).is_none_or(|known| !alive(known.seen.state)) {
                        self.chosen(now, guest, None, "its own disks here are the newest copy".into());
                    }
                    self.looked_after_here(guest, actions);
                }
                // All its data is brought in at once.
                StartFrom::Point(point) if point.meant == Meant::StayOff && self.takes_over() => {}
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
        let (set, starts) = (point.guest, point.meant != Meant::StayOff);
        let age = Millis(now.wall.0.saturating_sub(point.started.0));
        let seconds = age.0 / 1_000;
        let (id, made_by) = (point.point, point.origin);
        let (what, then) = match point.meant {
            Meant::Run => ("started", ""),
            Meant::Pause => ("started", ", and stands paused as it did"),
            Meant::StayOff => ("made", ", and stays off as it was"),
        };
        let text = format!("taken over: it is {what} from point {id} that {made_by} made, {seconds} s old{then}");
        actions.push(Action::Note { guest: Some(set), at: Some(now.wall), text: text.clone() });
        self.chosen(now, set, Some((point.origin, age)), text);
        let (to_be, from) = (RestoreAs::AsItWas, Target::Local);
        let order = RestoreOrder { set, point: point.point, from, to_be, start: starts, at_once: starts };
        self.run(Task::Restore { guest: set, order: Box::new(order) }, Purpose::Takeover, actions);
    }

    /// What was put in place for a takeover is started, if it still may be.
    pub(crate) fn takeover_finished(&mut self, now: Now, what: &Task, failed: Option<&str>, actions: &mut Vec<Action>) {
        let guest = what.guest();
        self.list(actions);
        if let Some(why) = failed {
            let text = format!("could not be taken over, and is tried again: {why}");
            self.not_started(now, guest, text.clone());
            return actions.push(Action::Note { guest: Some(guest), at: Some(now.wall), text });
        }
        let mut meant = Meant::Run;
        if let Task::Restore { order, .. } = what {
            let point = self.backups.sets.get(guest, order.point);
            meant = point.map_or(Meant::Run, |point| point.meant);
            let shows = point.map(|point| point.started);
            self.backups.cares.entry(guest).or_default().run.taken = shows;
            self.keep_run(guest, actions);
        }
        if self.rights.bar(guest).is_none() {
            self.takeovers.remove(&guest);
            self.clear_alarm(NO_COPY, Some(guest));
            self.wish(guest, Some(power(meant)), actions);
            // Without memory for it it waits, like all that should run here; one that stands paused takes little.
            let waits = meant == Meant::Run && self.put_off(now, guest);
            if meant != Meant::StayOff && !waits {
                self.run(Task::Start { guest, paused: meant == Meant::Pause }, Purpose::Wish, actions);
            }
        }
    }

    /// A guest that this host only kept for the case of a takeover is looked after by it from now on.
    fn looked_after_here(&mut self, guest: GuestId, actions: &mut Vec<Action>) {
        if !self.wishes.contains_key(&guest) {
            let meant = self.told_to_do(guest).unwrap_or(Meant::Run);
            self.wish(guest, Some(power(meant)), actions);
        }
    }

    /// Something is being started or taken over now.
    fn takes_over(&self) -> bool {
        self.tasks.values().any(|running| running.purpose == Purpose::Takeover || running.starts())
    }

    /// By the policy that is followed here, or that its former host followed.
    pub(crate) fn priority(&self, guest: GuestId) -> u32 {
        let policy = self.backups.cares.get(&guest).and_then(|care| care.policy.as_ref());
        let told = || self.newest_point(guest).map(|point| point.priority);
        policy.map(|policy| policy.priority).or_else(told).unwrap_or(0)
    }

    fn newest_point(&self, guest: GuestId) -> Option<&BackupSummary> {
        self.backups.sets.of(guest).max_by_key(|point| point.started)
    }

    /// What the guest is to do now: each point tells it to who may go on with it.
    pub(crate) fn meant(&self, guest: GuestId) -> Meant {
        let off = self.guests.get(guest).is_none_or(|known| !alive(known.seen.state));
        match self.wishes.get(&guest).map(|desired| desired.power) {
            Some(Power::Stopped) => Meant::StayOff,
            // This host does not look after it: what was told before holds.
            None if off => self.told_to_do(guest).unwrap_or(Meant::StayOff),
            Some(Power::Running) | None if self.stands_paused(guest) => Meant::Pause,
            Some(Power::Running) | None => Meant::Run,
        }
    }

    /// Its user has paused it.
    fn stands_paused(&self, guest: GuestId) -> bool {
        let asked = self.guests.get(guest).is_some_and(|known| known.seen.cause == Cause::ByUser);
        asked && self.paused_for(guest).is_some_and(|time| time >= PAUSED_FOR)
    }

    /// By its user, by this host, which lets it go on at once, or by the hypervisor, which is starting it.
    pub(crate) fn paused_just_now(&self, guest: GuestId) -> bool {
        self.paused_for(guest).is_some_and(|time| time < PAUSED_FOR)
    }

    fn paused_for(&self, guest: GuestId) -> Option<Millis> {
        let known = self.guests.get(guest).filter(|known| known.seen.state == PowerState::Paused)?;
        Some(self.clock.time.since(known.since_time))
    }

    /// By its newest point.
    fn told_to_do(&self, guest: GuestId) -> Option<Meant> {
        let ran = |point: &&BackupSummary| point.whole() && point.why != Why::Branch;
        let newest = self.backups.sets.of(guest).filter(ran).max_by_key(|point| point.started);
        newest.map(|point| point.meant)
    }
}

fn power(meant: Meant) -> Power {
    match meant {
        Meant::Run | Meant::Pause => Power::Running,
        Meant::StayOff => Power::Stopped,
    }
}
