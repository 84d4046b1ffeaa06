//! Planned hand-over: the host with a guest's replica goes on with it, from a last delta made while it is off.
//!
//! ```text
//!     FRESH ─────────▶ STOPPING ─────▶ LAST ─────────────▶ LEAVING ─────────▶ LEFT ─────▶ done
//!     a delta while    shut down,      a delta of what     the guard gives    another
//!     the guest runs   then off        it left, brought    the ward up        host owns it
//! ```
//!
//! A guest that was switched off begins at LAST, and stays off on the other host too.
//!
//! Up to LAST whatever goes wrong ends it, and the guest, still wished to run and still this host's, is started again.
//! From LEAVING on it is the guards that decide: where nobody else can take the guest, this host wins it back after a
//! promise and starts its own disks. An agent that comes back in the middle reads off its guard which side it is on.

use roost_protocol::backup::Meant;
use roost_protocol::cause::NoteKind;
use roost_protocol::guest::{Power, PowerState};
use roost_protocol::message::ToAggregator;
use roost_protocol::operation::{Command, Failure, FailureCode, Progress, Verb};
use roost_protocol::{GuestId, HostId, Millis, OperationId, Time};

use crate::agent::{Agent, Now, Purpose};
use crate::backup::{Care, Store};
use crate::command::{Phase, failure};
use crate::event::{Action, Cause, Lane, Task};
use crate::guests::alive;
use crate::ledger::Stage;

/// What passes by itself, such as data that is still brought in or a lease that is away for a moment, is waited for so long.
const PASSES_WITHIN: Millis = Millis::seconds(30);
/// A delta of a guest that runs may take so long; nobody is kept waiting.
const FRESH_WITHIN: Millis = Millis::seconds(1_800);
/// A guest that was switched off is off within this, or never.
const OFF_WITHIN: Millis = Millis::seconds(30);
/// The request to shut down is on its way still: it is looked for again after this.
const ASKED_WITHIN: Millis = Millis::seconds(1);
/// The guest is off meanwhile: a delta that takes longer than this is not worth it.
const LAST_WITHIN: Millis = Millis::seconds(120);
/// Longer than a promise of the slowest profile and a try: by then this host has the guest back if no other took it.
const TAKEN_WITHIN: Millis = Millis::seconds(90);

/// How far a hand-over is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Something that passes by itself is in the way.
    Barred {
        until: Time,
    },
    /// A delta that shows a moment not before `since` is brought to the other host.
    Fresh {
        since: Time,
        until: Time,
    },
    Stopping {
        force_at: Time,
    },
    /// It was switched off, and is seen to be soon.
    Forced {
        until: Time,
    },
    /// The last delta, of a guest that is off.
    Last {
        until: Time,
    },
    /// The guard was asked to give up the ward.
    Leaving,
    /// It did.
    Left {
        until: Time,
    },
}

impl Step {
    pub(crate) fn deadline(self) -> Option<Time> {
        match self {
            Step::Barred { until }
            | Step::Fresh { until, .. }
            | Step::Forced { until }
            | Step::Last { until }
            | Step::Left { until } => Some(until),
            Step::Stopping { force_at } => Some(force_at),
            Step::Leaving => None,
        }
    }

    fn words(self) -> (u32, &'static str) {
        match self {
            Step::Barred { .. } => (0, "waiting until it can be handed over"),
            Step::Fresh { .. } => (10, "bringing its replica up to date while it runs"),
            Step::Stopping { .. } | Step::Forced { .. } => (40, "shutting it down"),
            Step::Last { .. } => (60, "bringing what it wrote last"),
            Step::Leaving => (80, "giving it up"),
            Step::Left { .. } => (90, "waiting until the other host has it"),
        }
    }
}

impl Agent {
    pub(crate) fn begin_hand_over(&mut self, now: Now, command: &Command, actions: &mut Vec<Action>) {
        let step = Step::Barred { until: now.time + PASSES_WITHIN };
        if let Err(Bar { why, passes: false }) = self.hand_over_to(command.guest) {
            return self.end(command.operation, Some(why), actions);
        }
        self.hand_over_step(command.operation, step, actions);
        self.hand_over(now, command.operation, command.guest, step, actions);
    }

    /// An earlier life of the agent began it: the guard knows whether the ward was given up.
    pub(crate) fn hand_over_again(&mut self, now: Now, command: &Command, actions: &mut Vec<Action>) {
        let (guest, operation) = (command.guest, command.operation);
        if self.rights.is_elsewhere(guest) {
            self.handed_over(operation, guest, actions);
        } else if self.rights.is_here(guest) || self.rights.is_free_of(guest) {
            let text = "the agent was started anew in the middle: the guest goes on where it was";
            self.hand_over_ends(now, operation, guest, failure(FailureCode::Interrupted, text), actions);
        } else if !self.rights.are_unheard() {
            self.hand_over_step(operation, Step::Left { until: now.time + TAKEN_WITHIN }, actions);
        }
    }

    /// Who would go on with the guest, or why nobody can now.
    fn hand_over_to(&self, guest: GuestId) -> Result<HostId, Bar> {
        let lasts = |code: FailureCode, text: &str| Bar { why: failure(code, text), passes: false };
        let wrong = |text: &str| lasts(FailureCode::WrongState, text);
        let passes = |text: &str| Bar { passes: true, ..wrong(text) };
        let care = self.backups.cares.get(&guest);
        let wished = care.and_then(|care| care.policy.as_ref()?.replica).is_some_and(|replica| replica.failover);
        let keeper = care.and_then(|care| care.run.replica).filter(|_| wished);
        let keeper = keeper.ok_or_else(|| wrong("its policy has no replica that another host may go on with"))?;
        if self.backups.store != Store::Open || self.backups.held {
            return Err(lasts(FailureCode::NoSpace, "this host's backup store is not open, or almost full"));
        }
        if let Some(why) = self.start_bar(guest) {
            return Err(if self.rights.is_elsewhere(guest) { wrong(why) } else { passes(why) });
        }
        if !self.settled_ward(guest).is_some_and(|ward| ward.homes.contains(&keeper)) || !self.rights.is_here(guest) {
            return Err(passes("the host with its replica is no home of its ward yet: try again in a moment"));
        }
        if care.is_some_and(|care| care.run.pull.is_some()) {
            return Err(passes("its data is still being brought in here: try again when that is done"));
        }
        if let Some(why) = care.and_then(|care| care.replica.broken.as_ref()) {
            return Err(lasts(FailureCode::TargetAway, &format!("its replica isn't kept up: {why}")));
        }
        match self.guests.get(guest).map(|known| known.seen.state) {
            Some(PowerState::Running) => Ok(keeper),
            Some(PowerState::Off | PowerState::Crashed) if self.meant(guest) == Meant::StayOff => Ok(keeper),
            // Its host does so for an instant when all its data is there, the hypervisor while it starts it.
            Some(PowerState::Paused) if self.paused_just_now(guest) => Err(passes("it is paused")),
            Some(PowerState::Paused) => {
                Err(wrong("it is paused, and what is in its memory would be lost: resume it or stop it"))
            }
            _ => Err(wrong("only a guest that runs, or was switched off, is handed over")),
        }
    }

    /// Does what is next.
    pub(crate) fn hand_over(
        &mut self,
        now: Now,
        operation: OperationId,
        guest: GuestId,
        step: Step,
        actions: &mut Vec<Action>,
    ) {
        let next = match step {
            Step::Barred { until } => self.wait_for_bar(now, guest, until),
            Step::Fresh { since, until } => self.fresh(now, operation, guest, since, until, actions),
            Step::Stopping { force_at } => self.stopping(now, operation, guest, force_at, actions),
            Step::Forced { until } => self.forced(now, guest, until),
            Step::Last { until } => self.last(now, guest, until),
            Step::Leaving => self.leaving(now, guest),
            Step::Left { until } => self.left(now, guest, until),
        };
        match next {
            Next::Wait => {}
            Next::Step(step) => {
                self.hand_over_step(operation, step, actions);
                // What was off already may lack nothing.
                if matches!(step, Step::Last { .. }) || matches!(step, Step::Fresh { .. }) && !self.runs(guest) {
                    self.hand_over(now, operation, guest, step, actions);
                }
            }
            Next::Done => self.handed_over(operation, guest, actions),
            Next::Fail(why) => self.hand_over_ends(now, operation, guest, why, actions),
        }
    }

    fn wait_for_bar(&mut self, now: Now, guest: GuestId, until: Time) -> Next {
        match self.hand_over_to(guest) {
            Ok(keeper) => {
                let text = format!("to be handed over to {keeper}, which has its replica");
                self.note(now, guest, NoteKind::HandOver, Some((keeper, Millis(0))), text);
                if self.runs(guest) {
                    self.want_delta(now.time, guest);
                }
                Next::Step(Step::Fresh { since: now.time, until: now.time + FRESH_WITHIN })
            }
            Err(bar) if bar.passes && now.time < until => Next::Wait,
            Err(bar) => Next::Fail(bar.why),
        }
    }

    fn fresh(
        &mut self,
        now: Now,
        operation: OperationId,
        guest: GuestId,
        since: Time,
        until: Time,
        actions: &mut Vec<Action>,
    ) -> Next {
        match self.hand_over_to(guest) {
            Ok(_) => {}
            Err(bar) if bar.passes => return Next::Step(Step::Barred { until: now.time + PASSES_WITHIN }),
            Err(bar) => return Next::Fail(bar.why),
        }
        if until <= now.time {
            return Next::fail(FailureCode::TimedOut, "no new delta came to the other host in time");
        }
        if !self.runs(guest) {
            return Next::Step(Step::Last { until: now.time + LAST_WITHIN });
        }
        self.want_delta(now.time, guest);
        // What reads the guest is not broken off: its next delta would have to read more.
        if !self.shows(guest, since) || self.lane_busy(guest, &Lane::Read) {
            return Next::Wait;
        }
        let shutdown = match self.operations.get(&operation).map(|record| (&record.command.verb, &record.stage)) {
            Some((Verb::HandOver { shutdown_ms }, Stage::Taken)) => *shutdown_ms,
            Some(_) | None => Millis(0),
        };
        if shutdown > Millis(0) {
            self.run(Task::Shutdown { guest }, Purpose::Operation(operation), actions);
        }
        Next::Step(Step::Stopping { force_at: now.time + shutdown })
    }

    fn stopping(
        &mut self,
        now: Now,
        operation: OperationId,
        guest: GuestId,
        force_at: Time,
        actions: &mut Vec<Action>,
    ) -> Next {
        if !self.runs(guest) {
            self.want_delta(now.time, guest);
            return Next::Step(Step::Last { until: now.time + LAST_WITHIN });
        }
        if !self.rights.is_here(guest) {
            return Next::fail(FailureCode::WrongState, "its lease ended meanwhile");
        }
        if force_at > now.time {
            return Next::Wait;
        }
        if self.busy(guest) {
            return Next::Step(Step::Stopping { force_at: now.time + ASKED_WITHIN });
        }
        self.run(Task::ForceOff { guest }, Purpose::Operation(operation), actions);
        Next::Step(Step::Forced { until: now.time + OFF_WITHIN })
    }

    fn forced(&mut self, now: Now, guest: GuestId, until: Time) -> Next {
        if !self.runs(guest) {
            self.want_delta(now.time, guest);
            return Next::Step(Step::Last { until: now.time + LAST_WITHIN });
        }
        if until <= now.time {
            return Next::fail(FailureCode::TimedOut, "the guest could not be switched off");
        }
        Next::Wait
    }

    fn last(&mut self, now: Now, guest: GuestId, until: Time) -> Next {
        let Some(known) = self.guests.get(guest).filter(|known| !alive(known.seen.state)) else {
            return Next::fail(FailureCode::WrongState, "it was started meanwhile");
        };
        let off = known.since_time;
        if let Some(why) = self.backups.cares.get(&guest).and_then(|care| care.replica.broken.clone()) {
            return Next::fail(FailureCode::TargetAway, &format!("what it wrote last can't be brought over: {why}"));
        }
        if until <= now.time {
            return Next::fail(FailureCode::TimedOut, "what it wrote last did not come to the other host in time");
        }
        if !self.shows(guest, off) || !self.told_what_is_meant(guest, now) {
            self.want_delta(now.time, guest);
            return Next::Wait;
        }
        let keeper = self.backups.cares.get(&guest).and_then(|care| care.run.replica);
        let home = |keeper: &HostId| self.settled_ward(guest).is_some_and(|ward| ward.homes.contains(keeper));
        let Some(keeper) = keeper.filter(home) else {
            return Next::fail(FailureCode::WrongState, "the host with its replica is no home of its ward any more");
        };
        let text = format!("{keeper} has all that it wrote: it is given up here");
        self.note(now, guest, NoteKind::HandOver, Some((keeper, Millis(0))), text);
        self.release_ward(guest, true);
        Next::Step(Step::Leaving)
    }

    /// It is asked of the guard until it did: what was asked once can't be taken back.
    fn leaving(&mut self, now: Now, guest: GuestId) -> Next {
        if self.rights.is_elsewhere(guest) {
            Next::Done
        } else if self.rights.waits(guest) {
            Next::Step(Step::Left { until: now.time + TAKEN_WITHIN })
        } else {
            Next::Wait
        }
    }

    fn left(&mut self, now: Now, guest: GuestId, until: Time) -> Next {
        self.release_ward(guest, false);
        if self.rights.is_elsewhere(guest) {
            Next::Done
        } else if self.rights.is_here(guest) {
            Next::fail(FailureCode::TargetAway, "the other host did not take it")
        } else if until <= now.time {
            Next::fail(FailureCode::TimedOut, "it was given up here, and no host has it yet: see its explanation")
        } else {
            Next::Wait
        }
    }

    fn handed_over(&mut self, operation: OperationId, guest: GuestId, actions: &mut Vec<Action>) {
        self.release_ward(guest, false);
        self.backups.cares.entry(guest).or_default().run.handed_over = true;
        self.keep_run(guest, actions);
        // From here on it is none of this host's: no branch is made of what the other one was given.
        let wish = self.wish_change(guest, None);
        self.end_with(operation, None, wish.into_iter().collect(), actions);
    }

    /// The guest is wished to run here as before, and that starts it.
    pub(crate) fn hand_over_ends(
        &mut self,
        now: Now,
        operation: OperationId,
        guest: GuestId,
        why: Failure,
        actions: &mut Vec<Action>,
    ) {
        self.release_ward(guest, false);
        self.note(now, guest, NoteKind::HandOver, None, format!("not handed over: {}", why.text));
        // Its user switched it off while it could still be seen.
        let phase = self.pending.entries.get(&operation).map(|entry| entry.phase.clone());
        let itself = self.guests.get(guest).is_some_and(|known| known.seen.cause == Cause::ShutDown);
        let early = matches!(phase, Some(Phase::HandingOver(Step::Barred { .. } | Step::Fresh { .. })));
        let wish = if early && itself && !self.runs(guest) {
            self.wish_change(guest, Some(Power::Stopped))
        } else {
            self.asked_to_start(guest);
            None
        };
        self.end_with(operation, Some(why), wish.into_iter().collect(), actions);
    }

    /// A task of it failed.
    pub(crate) fn hand_over_failed(
        &mut self,
        operation: OperationId,
        guest: GuestId,
        why: Failure,
        actions: &mut Vec<Action>,
    ) {
        let now = self.clock;
        let step = self.pending.entries.get(&operation).map(|entry| entry.phase.clone());
        match step {
            // A guest that can't be asked is switched off.
            Some(Phase::HandingOver(Step::Stopping { force_at })) if force_at > now.time => {
                self.hand_over_step(operation, Step::Stopping { force_at: now.time }, actions);
            }
            _ => self.hand_over_ends(now, operation, guest, why, actions),
        }
    }

    fn hand_over_step(&mut self, operation: OperationId, step: Step, actions: &mut Vec<Action>) {
        let (percent, words) = step.words();
        self.pending.set(operation, Phase::HandingOver(step));
        actions.push(Action::Send(ToAggregator::Progress(Progress { operation, percent, step: words.into() })));
    }

    fn runs(&self, guest: GuestId) -> bool {
        self.guests.get(guest).is_some_and(|known| alive(known.seen.state))
    }

    /// Whether the replica shows all until this moment.
    fn shows(&self, guest: GuestId, since: Time) -> bool {
        let copying = self.backups.cares.get(&guest).map(|care| &care.replica);
        copying.and_then(|copying| copying.age).is_some_and(|age| age.was == Millis(0) && age.at >= since)
    }

    /// The next delta is made at once.
    fn want_delta(&mut self, now: Time, guest: GuestId) {
        if let Some(Care { replica, .. }) = self.backups.cares.get_mut(&guest)
            && replica.broken.is_none()
        {
            replica.next_at = replica.next_at.min(now);
        }
    }

    /// While a guest is shut down to be handed over nothing begins to read it, and of one that is off only the last delta.
    pub(crate) fn keeps_readers_off(&self, guest: GuestId, delta: bool) -> bool {
        self.pending.entries.values().filter(|entry| entry.guest == guest).any(|entry| match entry.phase {
            Phase::HandingOver(Step::Barred { .. } | Step::Fresh { .. }) => false,
            Phase::HandingOver(Step::Last { .. }) => !delta,
            Phase::HandingOver(Step::Stopping { .. } | Step::Forced { .. } | Step::Leaving | Step::Left { .. }) => true,
            Phase::Unwritten
            | Phase::Waiting { .. }
            | Phase::Working
            | Phase::AwaitOff { .. }
            | Phase::Seeing(..)
            | Phase::StartingNew
            | Phase::Undoing(_) => false,
        })
    }
}

/// Why a guest can't be handed over now.
struct Bar {
    why: Failure,
    /// By itself, and soon.
    passes: bool,
}

/// What comes after a step.
enum Next {
    Wait,
    Step(Step),
    Done,
    Fail(Failure),
}

impl Next {
    fn fail(code: FailureCode, text: &str) -> Self {
        Self::Fail(failure(code, text))
    }
}
