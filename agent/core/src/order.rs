//! In which order a host starts guests by its own wish: a few at a time, and those of a higher priority first. One that is
//! probed is ready when it answers, and those of a lower priority wait for that, for a while.

use std::collections::{BTreeMap, BTreeSet};

use roost_protocol::cause::NoteKind;
use roost_protocol::guest::GuestSample;
use roost_protocol::{GuestId, Millis, Time};

use crate::agent::{Agent, Now, Purpose, Running};
use crate::event::{Action, Task, TaskResult};

/// Guests that one host starts or takes over by itself at once: more would starve those that already run. One that is busy
/// starts one at a time.
const STARTS_AT_ONCE: usize = 4;
const STARTS_WHEN_PRESSED: usize = 1;
/// A start that takes longer than this holds up no other guest any more.
const HOLDS_UP: Millis = Millis::seconds(15);
/// A guest that was started and does not answer is waited for no longer.
const READY_WITHIN: Millis = Millis::seconds(120);

/// Guests that were started and do not answer yet.
pub(crate) type Unready = BTreeMap<GuestId, Unanswered>;

/// How long one is waited for.
#[derive(Clone, Debug)]
pub(crate) struct Unanswered {
    until: Time,
    /// Those that wait for it, and people were told.
    told: BTreeSet<GuestId>,
}

impl Running {
    /// A guest that is started by its host's own wish.
    pub(crate) fn starts(&self) -> bool {
        match self.purpose {
            Purpose::Wish => matches!(self.what, Task::Start { .. }),
            Purpose::Takeover => matches!(&self.what, Task::Restore { order, .. } if order.start),
            Purpose::Operation(_) | Purpose::Backup => false,
        }
    }
}

impl Agent {
    /// The highest priority first.
    pub(crate) fn in_order(&self, mut guests: Vec<GuestId>) -> Vec<GuestId> {
        guests.sort_by_key(|guest| (std::cmp::Reverse(self.priority(*guest)), *guest));
        guests
    }

    /// Whether one more guest may be started by this host's own wish: not too many at once, and none before those of a
    /// higher priority.
    pub(crate) fn may_begin(&self, guest: GuestId) -> bool {
        let holds_up = |running: &&Running| running.starts() && self.clock.time.since(running.began.time) < HOLDS_UP;
        let starting = || self.tasks.values().filter(holds_up);
        let pressed = self.config.backup.pressed(self.backups.pressure);
        let most = if pressed { STARTS_WHEN_PRESSED } else { STARTS_AT_ONCE };
        let priority = self.priority(guest);
        starting().count() < most
            && starting().all(|running| self.priority(running.what.guest()) <= priority)
            && self.unready.keys().all(|other| self.priority(*other) <= priority)
    }

    /// Tells, once for each, which guests wait for whom.
    pub(crate) fn tell_waited_for(&mut self, now: Now, waiting: &[GuestId], actions: &mut Vec<Action>) {
        let within = format!("{} s at most", READY_WITHIN.0 / 1_000);
        let mut unready = std::mem::take(&mut self.unready);
        for (other, unanswered) in &mut unready {
            let priority = self.priority(*other);
            let lower = waiting.iter().copied().filter(|guest| self.priority(*guest) < priority);
            let news: Vec<GuestId> = lower.filter(|guest| !unanswered.told.contains(guest)).collect();
            if unanswered.told.is_empty() && !news.is_empty() {
                let text = format!("guests of a lower priority wait until it answers where it is probed, {within}");
                actions.push(Action::Note { guest: Some(*other), at: Some(now.wall), text });
            }
            for guest in news {
                let text = format!("waits until {other}, of a higher priority, answers where it is probed, {within}");
                self.note(now, guest, NoteKind::Waits, None, text);
                unanswered.told.insert(guest);
            }
        }
        self.unready = unready;
    }

    /// A guest was started by this host's wish. One that ends again and again holds nobody up.
    pub(crate) fn started(&mut self, now: Now, what: &Task, result: &TaskResult) {
        let Task::Start { guest, paused: false } = what else { return };
        let probed = self.probes.iter().any(|it| it.guest == *guest && !it.probes.is_empty());
        let again = self.guests.get(*guest).is_some_and(|known| known.restarts > 1);
        if again {
            self.unready.remove(guest);
        } else if result.is_ok() && probed {
            self.unready.insert(*guest, Unanswered { until: now.time + READY_WITHIN, told: BTreeSet::new() });
        }
    }

    /// Forgets who answers, or was waited for long enough.
    pub(crate) fn await_answers(&mut self, now: Now, actions: &mut Vec<Action>) {
        self.unready.retain(|guest, unanswered| {
            let late = unanswered.until <= now.time;
            if late && !unanswered.told.is_empty() {
                let text = "it does not answer where it is probed; guests of a lower priority are started all the same";
                actions.push(Action::Note { guest: Some(*guest), at: Some(now.wall), text: text.into() });
            }
            !late
        });
    }

    /// One door is enough.
    pub(crate) fn answer_seen(&mut self, guests: &[GuestSample]) {
        for sample in guests.iter().filter(|sample| sample.access.iter().any(|door| door.up)) {
            self.unready.remove(&sample.id);
        }
    }

    /// When the next guest that takes long holds up others no more.
    pub(crate) fn held_up_until(&self) -> Option<Time> {
        let ends = self.tasks.values().filter(|running| running.starts()).map(|running| running.began.time + HOLDS_UP);
        let ends = ends.chain(self.unready.values().map(|unanswered| unanswered.until));
        ends.filter(|at| *at > self.clock.time).min()
    }
}
