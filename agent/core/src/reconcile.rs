//! A host's own wishes: start what should run, start again what crashed, with back-off, and with nobody's help.

use roost_protocol::guest::{Desired, Power};
use roost_protocol::host::Alarm;
use roost_protocol::{Generation, GuestId, Millis, Stamp};

use crate::agent::{Agent, Hypervisor, Now, Purpose};
use crate::event::{Action, Task, TaskResult};
use crate::guests::{Known, alive};
use crate::ledger::Change;

/// Restarts after which people are told.
const CRASH_LOOP: u32 = 3;

/// Wait before the next start by the agent: doubles with each, up to the longest.
pub(crate) fn back_off(first: Millis, longest: Millis, restarts: u32) -> Millis {
    Millis(first.0.saturating_mul(1 << restarts.min(16)).min(longest.0))
}

impl Agent {
    /// Starts what should run and doesn't.
    pub(crate) fn keep_wishes(&mut self, now: Now, actions: &mut Vec<Action>) {
        if self.hypervisor != Hypervisor::Up {
            return;
        }
        self.plan_starts(now);
        self.forget_waiting();
        let due = |known: &Known| known.retry_at.is_some_and(|at| at <= now.time);
        let due = self.guests.known.iter().filter(|(_, known)| due(known)).map(|(guest, _)| *guest).collect();
        let due = self.in_order(due);
        for (at, guest) in due.iter().copied().enumerate() {
            if !self.may_begin(guest) {
                self.tell_waited_for(now, &due[at..], actions);
                // The end of what is started now brings us here again, or the answer that is waited for, or its deadline.
                return;
            }
            if self.put_off(now, guest) {
                continue;
            }
            if let Some(known) = self.guests.known.get_mut(&guest) {
                known.retry_at = None;
                known.restarts = known.restarts.saturating_add(1);
            }
            self.mark_dirty(now, guest);
            actions.push(Action::Note {
                guest: Some(guest),
                at: Some(now.wall),
                text: "started by the host: it should run and was off".into(),
            });
            self.run(Task::Start { guest, paused: false }, Purpose::Wish, actions);
        }
    }

    /// Sets or clears each guest's next start.
    fn plan_starts(&mut self, now: Now) {
        let should: Vec<GuestId> =
            self.guests.known.keys().copied().filter(|guest| self.should_start(*guest)).collect();
        for (guest, known) in &mut self.guests.known {
            if !should.contains(guest) {
                known.retry_at = None;
            } else if known.retry_at.is_none() {
                let wait = back_off(self.config.restart_first, self.config.restart_longest, known.restarts);
                known.retry_at = Some(now.time + wait);
            }
        }
    }

    fn should_start(&self, guest: GuestId) -> bool {
        let wished = self.wishes.get(&guest).is_some_and(|desired| desired.power == Power::Running);
        let off = self.guests.get(guest).is_some_and(|known| !alive(known.seen.state));
        wished && off && self.start_bar(guest).is_none() && !self.busy(guest) && !self.pending.has(guest)
    }

    /// A start by the host's own wish ended, or the end of what is another host's.
    pub(crate) fn wish_finished(&mut self, now: Now, guest: GuestId, result: TaskResult, actions: &mut Vec<Action>) {
        if let Err(failure) = result {
            let text = format!("could not be started or switched off: {}", failure.text);
            actions.push(Action::Note { guest: Some(guest), at: Some(now.wall), text });
        }
        self.list(actions);
    }

    /// Follows a guest's state: a guest that ran long enough is sound again, one that keeps crashing is told of.
    pub(crate) fn state_seen(&mut self, now: Now, guest: GuestId, _actions: &mut Vec<Action>) {
        let Some(known) = self.guests.known.get(&guest) else { return };
        let (restarts, name) = (known.restarts, known.seen.name.clone());
        if alive(known.seen.state) || !self.wishes.contains_key(&guest) {
            return;
        }
        if restarts >= CRASH_LOOP {
            let text = format!("{name} stopped again after {restarts} starts by its host; see its console and disk");
            self.raise_alarm(now, "guest-crash-loop", Some(guest), text);
        }
    }

    /// A guest that has run for the longest back-off is sound again: its count starts from zero.
    pub(crate) fn forgive(&mut self, now: Now) {
        let sound: Vec<GuestId> = self
            .guests
            .known
            .iter()
            .filter(|(_, known)| {
                known.restarts > 0
                    && alive(known.seen.state)
                    && now.time.since(known.since_time) >= self.config.restart_longest
            })
            .map(|(guest, _)| *guest)
            .collect();
        for guest in sound {
            self.asked_to_start(guest);
            self.mark_dirty(now, guest);
        }
    }

    /// Somebody asked for a start: the count of own starts begins anew.
    pub(crate) fn asked_to_start(&mut self, guest: GuestId) {
        if let Some(known) = self.guests.known.get_mut(&guest) {
            known.restarts = 0;
        }
        self.clear_alarm("guest-crash-loop", Some(guest));
    }

    /// Sets a wish (or forgets it) and asks for it to be kept.
    pub(crate) fn wish(&mut self, guest: GuestId, power: Option<Power>, actions: &mut Vec<Action>) {
        let Some(change) = self.wish_change(guest, power) else { return };
        actions.push(Action::Persist(vec![change]));
    }

    /// Sets a wish (or forgets it); the change is to be persisted by the caller. Nothing when it is so already.
    pub(crate) fn wish_change(&mut self, guest: GuestId, power: Option<Power>) -> Option<Change> {
        let old = self.wishes.get(&guest).copied();
        if old.map(|desired| desired.power) == power {
            return None;
        }
        let desired =
            power.map(|power| Desired { power, generation: old.map_or(Generation(1), |old| old.generation.next()) });
        match desired {
            Some(desired) => self.wishes.insert(guest, desired),
            None => self.wishes.remove(&guest),
        };
        self.guests.dirty.insert(guest);
        Some(Change::Wish { guest, desired })
    }

    pub(crate) fn raise_alarm(&mut self, now: Now, code: &str, guest: Option<GuestId>, text: String) {
        self.condition(Alarm { code: code.into(), guest, since: now.wall, text }, true);
    }

    pub(crate) fn clear_alarm(&mut self, code: &str, guest: Option<GuestId>) {
        self.condition(Alarm { code: code.into(), guest, since: Stamp(0), text: String::new() }, false);
    }
}
