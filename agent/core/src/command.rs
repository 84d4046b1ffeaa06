//! Commands: taken once, begun once, told until the aggregator has seen the outcome.

use std::collections::{BTreeMap, VecDeque};

use roost_protocol::guest::{Power, PowerState};
use roost_protocol::message::ToAggregator;
use roost_protocol::operation::{Command, Failure, FailureCode, Outcome, Progress, Verb};
use roost_protocol::{GuestId, Millis, OperationId, Time};

use crate::agent::{Agent, Hypervisor, Now, Purpose};
use crate::event::{Action, Task, TaskId, TaskResult};
use crate::guests::alive;
use crate::ledger::{Change, Record, Stage};

/// Outcomes kept after the aggregator has seen them, so that a late copy of a command is answered, not run.
const SEEN_KEPT: usize = 1_000;
/// Commands one host holds at a time; more are refused as busy.
const PENDING: usize = 1_000;

/// Commands that have not ended.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    entries: BTreeMap<OperationId, Entry>,
    /// Order of arrival.
    order: VecDeque<OperationId>,
    /// Seen outcomes, oldest first.
    seen: VecDeque<OperationId>,
}

#[derive(Clone, Debug)]
struct Entry {
    guest: GuestId,
    phase: Phase,
    /// Latest time to begin; from the first look on.
    begin_by: Option<Time>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// Asked to be kept; nothing is begun before it is.
    Unwritten,
    /// Not begun in this life of the agent. `again`: an earlier life may have begun it.
    Waiting { again: bool },
    /// A task runs.
    Working,
    /// Asked to shut down; ends when it is off.
    AwaitOff { force_at: Option<Time>, until: Time },
    /// Made, now starting; undone if that fails.
    StartingNew,
    /// A new guest could not be started and is being removed.
    Undoing(Failure),
}

impl Pending {
    pub(crate) fn from_kept(operations: &BTreeMap<OperationId, Record>) -> Self {
        let mut pending = Self::default();
        for (id, record) in operations {
            match &record.stage {
                Stage::Taken => pending.add(*id, record.command.guest, true, None),
                Stage::Ended { seen: true, .. } => pending.seen.push_back(*id),
                Stage::Ended { seen: false, .. } => {}
            }
        }
        pending
    }

    fn add(&mut self, operation: OperationId, guest: GuestId, again: bool, begin_by: Option<Time>) {
        let phase = if again { Phase::Waiting { again } } else { Phase::Unwritten };
        self.entries.insert(operation, Entry { guest, phase, begin_by });
        self.order.push_back(operation);
    }

    /// The command is kept: it may begin.
    pub(crate) fn written(&mut self, operation: OperationId) {
        if self.entries.get(&operation).is_some_and(|entry| entry.phase == Phase::Unwritten) {
            self.set(operation, Phase::Waiting { again: false });
        }
    }

    fn end(&mut self, operation: OperationId) {
        self.entries.remove(&operation);
        self.order.retain(|id| *id != operation);
    }

    /// True while a command for this guest has not ended.
    pub(crate) fn has(&self, guest: GuestId) -> bool {
        self.entries.values().any(|entry| entry.guest == guest)
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        self.entries.values().filter_map(Entry::deadline).min()
    }

    fn set(&mut self, operation: OperationId, phase: Phase) {
        if let Some(entry) = self.entries.get_mut(&operation) {
            entry.phase = phase;
        }
    }

    /// The first command of each guest, in order of arrival.
    fn first_per_guest(&self) -> Vec<OperationId> {
        let mut guests = std::collections::BTreeSet::new();
        self.order
            .iter()
            .copied()
            .filter(|id| self.entries.get(id).is_some_and(|entry| guests.insert(entry.guest)))
            .collect()
    }
}

impl Entry {
    fn deadline(&self) -> Option<Time> {
        match &self.phase {
            Phase::Waiting { .. } => self.begin_by,
            Phase::AwaitOff { force_at, until } => Some(force_at.unwrap_or(*until).min(*until)),
            Phase::Unwritten | Phase::Working | Phase::StartingNew | Phase::Undoing(_) => None,
        }
    }
}

fn failure(code: FailureCode, text: impl Into<String>) -> Failure {
    Failure { code, text: text.into() }
}

impl Agent {
    /// A command arrived, perhaps not for the first time.
    pub(crate) fn command(&mut self, now: Now, command: Command, actions: &mut Vec<Action>) {
        let operation = command.operation;
        if command.epoch < self.epoch {
            let text = format!(
                "the command is of epoch {}, this host has seen {}: another aggregator took over",
                command.epoch, self.epoch
            );
            return tell(operation, Some(failure(FailureCode::StaleEpoch, text)), actions);
        }
        match self.operations.get(&operation).map(|record| &record.stage) {
            Some(Stage::Ended { outcome, .. }) => {
                return actions.push(Action::Send(ToAggregator::Outcome(outcome.clone())));
            }
            Some(Stage::Taken) => return,
            None => {}
        }
        if self.pending.entries.len() >= PENDING {
            let text = format!("{PENDING} commands wait on this host already; try again when some have ended");
            return tell(operation, Some(failure(FailureCode::Busy, text)), actions);
        }
        self.pending.add(operation, command.guest, false, Some(now.time + command.budget_ms));
        let record = Record { command, stage: Stage::Taken };
        let mut changes = vec![Change::Operation { record: record.clone() }];
        if record.command.epoch > self.epoch {
            self.epoch = record.command.epoch;
            changes.push(Change::Epoch(self.epoch));
        }
        self.operations.insert(operation, record);
        actions.push(Action::Persist(changes));
        actions.push(Action::Begin { operation });
    }

    /// Begins what can begin, ends what is late.
    pub(crate) fn begin_operations(&mut self, now: Now, actions: &mut Vec<Action>) {
        self.forgive(now);
        for operation in self.pending.first_per_guest() {
            let Some(entry) = self.pending.entries.get(&operation).cloned() else { continue };
            match entry.phase {
                Phase::Waiting { again } => self.begin_or_wait(now, operation, again, actions),
                Phase::AwaitOff { force_at, until } => {
                    self.await_off(now, operation, entry.guest, force_at, until, actions)
                }
                Phase::Unwritten | Phase::Working | Phase::StartingNew | Phase::Undoing(_) => {}
            }
        }
        self.end_overdue(now, actions);
    }

    fn begin_or_wait(&mut self, now: Now, operation: OperationId, again: bool, actions: &mut Vec<Action>) {
        let Some(command) = self.operations.get(&operation).map(|record| record.command.clone()) else { return };
        if let Some(entry) = self.pending.entries.get_mut(&operation) {
            entry.begin_by.get_or_insert(now.time + command.budget_ms);
        }
        if self.hypervisor != Hypervisor::Up || self.busy(command.guest) {
            return;
        }
        if again && command.verb.once_only() {
            let text = format!(
                "the agent was restarted in the middle of {}; it is not done a second time: look and decide",
                command.verb.word()
            );
            return self.end(operation, Some(failure(FailureCode::Interrupted, text)), actions);
        }
        self.begin(now, &command, again, actions);
    }

    fn end_overdue(&mut self, now: Now, actions: &mut Vec<Action>) {
        let late: Vec<OperationId> = self
            .pending
            .entries
            .iter()
            .filter(|(_, entry)| {
                matches!(entry.phase, Phase::Waiting { .. }) && entry.begin_by.is_some_and(|by| by < now.time)
            })
            .map(|(id, _)| *id)
            .collect();
        for operation in late {
            let why = if self.hypervisor == Hypervisor::Up { "the guest was busy" } else { "libvirt was away" };
            self.end(operation, Some(failure(FailureCode::TimedOut, format!("not begun in time: {why}"))), actions);
        }
    }

    fn begin(&mut self, now: Now, command: &Command, again: bool, actions: &mut Vec<Action>) {
        let guest = command.guest;
        let state = self.guests.get(guest).map(|known| known.seen.state);
        let end = match (&command.verb, state) {
            (Verb::Create { spec, start }, state) => {
                return self.begin_create(command, spec, *start, state, again, actions);
            }
            (Verb::Import { .. }, Some(_)) if again => None,
            (Verb::Import { .. }, Some(_)) => {
                Some(failure(FailureCode::AlreadyExists, "a guest with this id is there already"))
            }
            (Verb::Import { xml }, None) => {
                return self.work(command, Task::Import { guest, xml: xml.clone() }, actions);
            }
            (Verb::Delete { .. }, None) if again => None,
            (_, None) => Some(failure(FailureCode::NotFound, "this host has no such guest")),
            (Verb::Start | Verb::Manage { power: Power::Running }, Some(state)) => {
                return self.begin_start(command, state, actions);
            }
            (Verb::Shutdown { force_after_ms }, Some(state)) => {
                return self.begin_shutdown(now, command, state, *force_after_ms, actions);
            }
            (Verb::Stop, Some(state)) => return self.begin_stop(command, state, actions),
            (Verb::Pause, Some(PowerState::Running)) => return self.work(command, Task::Pause { guest }, actions),
            (Verb::Resume, Some(PowerState::Paused)) => return self.work(command, Task::Resume { guest }, actions),
            (Verb::Pause, Some(PowerState::Paused)) | (Verb::Resume, Some(PowerState::Running)) => None,
            (Verb::Reset, Some(PowerState::Running | PowerState::Paused)) => {
                return self.work(command, Task::Reset { guest }, actions);
            }
            (Verb::Delete { .. }, Some(state)) if alive(state) => {
                Some(failure(FailureCode::WrongState, "it runs: shut it down or stop it first"))
            }
            (Verb::Delete { keep_disks }, Some(_)) => {
                return self.work(command, Task::Delete { guest, keep_disks: *keep_disks }, actions);
            }
            (Verb::Manage { power }, Some(_)) => return self.end_with_wish(command, Some(*power), actions),
            (Verb::Release, Some(_)) => return self.end_with_wish(command, None, actions),
            (Verb::Pause | Verb::Resume | Verb::Reset, Some(state)) => {
                Some(failure(FailureCode::WrongState, format!("it is {}", describe(state))))
            }
        };
        self.end(command.operation, end, actions);
    }

    fn begin_create(
        &mut self,
        command: &Command,
        spec: &roost_protocol::guest::GuestSpec,
        start: bool,
        state: Option<PowerState>,
        again: bool,
        actions: &mut Vec<Action>,
    ) {
        let guest = command.guest;
        let taken = self.guests.known.values().any(|known| known.seen.name == spec.name && known.seen.guest != guest);
        match state {
            // Defining is the last step of making a guest, so a defined one is whole.
            Some(state) if again => self.created(command, start && !alive(state), actions),
            Some(_) => self.end(
                command.operation,
                Some(failure(FailureCode::AlreadyExists, "a guest with this id is there already")),
                actions,
            ),
            None if taken => {
                let text = format!("this host has a guest named {:?} already; choose another name", spec.name);
                self.end(command.operation, Some(failure(FailureCode::AlreadyExists, text)), actions);
            }
            None if again => self.work(command, Task::CleanUp { guest }, actions),
            None => self.work(command, Task::Create { guest, spec: spec.clone() }, actions),
        }
    }

    fn begin_start(&mut self, command: &Command, state: PowerState, actions: &mut Vec<Action>) {
        let guest = command.guest;
        self.asked_to_start(guest);
        let manage = matches!(command.verb, Verb::Manage { .. });
        if manage || self.wishes.contains_key(&guest) {
            self.wish(guest, Some(Power::Running), actions);
        }
        match state {
            PowerState::Running | PowerState::ShuttingDown => self.end(command.operation, None, actions),
            PowerState::Paused | PowerState::Suspended if manage => self.end(command.operation, None, actions),
            PowerState::Paused => {
                self.end(command.operation, Some(failure(FailureCode::WrongState, "it is paused: resume it")), actions)
            }
            PowerState::Unknown | PowerState::Off | PowerState::Crashed | PowerState::Suspended => {
                self.work(command, Task::Start { guest }, actions)
            }
        }
    }

    fn begin_shutdown(
        &mut self,
        now: Now,
        command: &Command,
        state: PowerState,
        force_after: Option<Millis>,
        actions: &mut Vec<Action>,
    ) {
        self.wish_stopped(command.guest, actions);
        if !alive(state) {
            return self.end(command.operation, None, actions);
        }
        let until = now.time + command.budget_ms;
        self.work(command, Task::Shutdown { guest: command.guest }, actions);
        self.pending
            .set(command.operation, Phase::AwaitOff { force_at: force_after.map(|after| now.time + after), until });
    }

    fn begin_stop(&mut self, command: &Command, state: PowerState, actions: &mut Vec<Action>) {
        self.wish_stopped(command.guest, actions);
        if alive(state) {
            return self.work(command, Task::ForceOff { guest: command.guest }, actions);
        }
        self.end(command.operation, None, actions);
    }

    /// Before it is switched off a managed guest's wish is set, so that it is not started again.
    fn wish_stopped(&mut self, guest: GuestId, actions: &mut Vec<Action>) {
        if self.wishes.contains_key(&guest) {
            self.wish(guest, Some(Power::Stopped), actions);
        }
    }

    fn await_off(
        &mut self,
        now: Now,
        operation: OperationId,
        guest: GuestId,
        force_at: Option<Time>,
        until: Time,
        actions: &mut Vec<Action>,
    ) {
        let state = self.guests.get(guest).map(|known| known.seen.state);
        if !state.is_some_and(alive) {
            return self.end(operation, None, actions);
        }
        if self.busy(guest) {
            return;
        }
        if force_at.is_some_and(|at| at <= now.time) {
            self.pending.set(operation, Phase::Working);
            return self.run(Task::ForceOff { guest }, Purpose::Operation(operation), actions);
        }
        if until <= now.time {
            let text =
                "the guest did not shut down in time; it may not listen to the power button: try again, or stop it";
            self.end(operation, Some(failure(FailureCode::TimedOut, text)), actions);
        }
    }

    fn work(&mut self, command: &Command, what: Task, actions: &mut Vec<Action>) {
        self.pending.set(command.operation, Phase::Working);
        self.run(what, Purpose::Operation(command.operation), actions);
    }

    /// A task ended.
    pub(crate) fn finished(&mut self, now: Now, task: TaskId, result: TaskResult, actions: &mut Vec<Action>) {
        let Some(running) = self.tasks.remove(&task) else { return };
        match running.purpose {
            Purpose::Wish => self.wish_finished(now, running.what.guest(), result, actions),
            Purpose::Operation(operation) => self.operation_finished(operation, running.what, result, actions),
        }
    }

    fn operation_finished(
        &mut self,
        operation: OperationId,
        what: Task,
        result: TaskResult,
        actions: &mut Vec<Action>,
    ) {
        actions.push(Action::List);
        let Some(phase) = self.pending.entries.get(&operation).map(|entry| entry.phase.clone()) else { return };
        let Some(command) = self.operations.get(&operation).map(|record| record.command.clone()) else { return };
        match (phase, result) {
            (Phase::Undoing(why), _) => self.end(operation, Some(why), actions),
            (_, Err(why)) if why.code == FailureCode::HypervisorAway => {
                self.retry_later(operation, &command, why, actions)
            }
            (Phase::StartingNew, Err(why)) => {
                self.pending.set(operation, Phase::Undoing(why));
                let undo = Task::Delete { guest: command.guest, keep_disks: false };
                self.run(undo, Purpose::Operation(operation), actions);
            }
            (Phase::AwaitOff { .. }, Ok(())) => {}
            (_, Err(why)) => self.end(operation, Some(why), actions),
            (Phase::StartingNew, Ok(())) => self.end_with_wish(&command, Some(Power::Running), actions),
            (Phase::Unwritten | Phase::Waiting { .. } | Phase::Working, Ok(())) => {
                self.step_done(&command, &what, actions)
            }
        }
    }

    /// libvirt went away in the middle: what may be repeated waits for its return.
    fn retry_later(&mut self, operation: OperationId, command: &Command, why: Failure, actions: &mut Vec<Action>) {
        if command.verb.once_only() {
            let text = format!(
                "libvirt went away in the middle ({}); it is not done a second time: look and decide",
                why.text
            );
            return self.end(operation, Some(failure(FailureCode::Interrupted, text)), actions);
        }
        self.pending.set(operation, Phase::Waiting { again: true });
    }

    fn step_done(&mut self, command: &Command, what: &Task, actions: &mut Vec<Action>) {
        match (&command.verb, what) {
            (Verb::Create { spec, .. }, Task::CleanUp { guest }) => {
                let what = Task::Create { guest: *guest, spec: spec.clone() };
                self.run(what, Purpose::Operation(command.operation), actions);
            }
            (Verb::Create { start, .. }, _) => self.created(command, *start, actions),
            (Verb::Import { .. }, _) => self.end_with_wish(command, Some(Power::Stopped), actions),
            (Verb::Delete { .. }, _) => self.end_with_wish(command, None, actions),
            (
                Verb::Start
                | Verb::Shutdown { .. }
                | Verb::Stop
                | Verb::Pause
                | Verb::Resume
                | Verb::Reset
                | Verb::Manage { .. }
                | Verb::Release,
                _,
            ) => self.end(command.operation, None, actions),
        }
    }

    fn created(&mut self, command: &Command, start: bool, actions: &mut Vec<Action>) {
        if !start {
            let power =
                if matches!(command.verb, Verb::Create { start: true, .. }) { Power::Running } else { Power::Stopped };
            return self.end_with_wish(command, Some(power), actions);
        }
        self.pending.set(command.operation, Phase::StartingNew);
        self.run(Task::Start { guest: command.guest }, Purpose::Operation(command.operation), actions);
    }

    fn end_with_wish(&mut self, command: &Command, power: Option<Power>, actions: &mut Vec<Action>) {
        let change = self.wish_change(command.guest, power);
        self.end_with(command.operation, None, change.into_iter().collect(), actions);
    }

    fn end(&mut self, operation: OperationId, failure: Option<Failure>, actions: &mut Vec<Action>) {
        self.end_with(operation, failure, Vec::new(), actions);
    }

    /// Ends an operation: kept first, told after.
    fn end_with(
        &mut self,
        operation: OperationId,
        failure: Option<Failure>,
        mut changes: Vec<Change>,
        actions: &mut Vec<Action>,
    ) {
        self.pending.end(operation);
        if failure.is_some() {
            changes.extend(self.take_back_stop(operation));
        }
        let Some(record) = self.operations.get_mut(&operation) else { return };
        let outcome = Outcome { operation, failure };
        record.stage = Stage::Ended { outcome: outcome.clone(), seen: false };
        changes.push(Change::Operation { record: record.clone() });
        actions.push(Action::Persist(changes));
        actions.push(Action::Send(ToAggregator::Outcome(outcome)));
    }

    /// A guest that would not go off is still meant to run.
    fn take_back_stop(&mut self, operation: OperationId) -> Option<Change> {
        let command = &self.operations.get(&operation)?.command;
        let guest = command.guest;
        let stops = matches!(command.verb, Verb::Stop | Verb::Shutdown { .. });
        let runs = self.guests.get(guest).is_some_and(|known| alive(known.seen.state));
        if stops && runs && self.wishes.contains_key(&guest) {
            self.wish_change(guest, Some(Power::Running))
        } else {
            None
        }
    }

    /// The ledger could not keep the command: it was never taken, and nothing of it was begun.
    pub(crate) fn give_up_unwritten(&mut self, operation: OperationId, actions: &mut Vec<Action>) {
        self.pending.end(operation);
        self.operations.remove(&operation);
        self.tasks.retain(|_, running| running.purpose != Purpose::Operation(operation));
        let text =
            "the host's state disk can't be written, so the command was not begun: free some space and try again";
        tell(operation, Some(failure(FailureCode::NoSpace, text)), actions);
    }

    pub(crate) fn cancel(&mut self, operation: OperationId, actions: &mut Vec<Action>) {
        let waiting =
            self.pending.entries.get(&operation).is_some_and(|entry| entry.phase == Phase::Waiting { again: false });
        if waiting {
            self.end(operation, Some(failure(FailureCode::Cancelled, "cancelled before it was begun")), actions);
        }
    }

    pub(crate) fn advanced(&mut self, task: TaskId, percent: u32, step: String, actions: &mut Vec<Action>) {
        if let Some(Purpose::Operation(operation)) = self.tasks.get(&task).map(|running| running.purpose) {
            actions.push(Action::Send(ToAggregator::Progress(Progress { operation, percent: percent.min(100), step })));
        }
    }

    /// The aggregator keeps the outcome: it need not be told again.
    pub(crate) fn outcome_seen(&mut self, operation: OperationId, actions: &mut Vec<Action>) {
        let Some(record) = self.operations.get_mut(&operation) else { return };
        let Stage::Ended { seen, .. } = &mut record.stage else { return };
        if std::mem::replace(seen, true) {
            return;
        }
        let mut changes = vec![Change::Operation { record: record.clone() }];
        self.pending.seen.push_back(operation);
        if self.pending.seen.len() > SEEN_KEPT
            && let Some(oldest) = self.pending.seen.pop_front()
        {
            self.operations.remove(&oldest);
            changes.push(Change::Forget { operation: oldest });
        }
        actions.push(Action::Persist(changes));
    }

    pub(crate) fn tell_unseen_outcomes(&self, actions: &mut Vec<Action>) {
        for record in self.operations.values() {
            if let Stage::Ended { outcome, seen: false } = &record.stage {
                actions.push(Action::Send(ToAggregator::Outcome(outcome.clone())));
            }
        }
    }
}

fn tell(operation: OperationId, failure: Option<Failure>, actions: &mut Vec<Action>) {
    actions.push(Action::Send(ToAggregator::Outcome(Outcome { operation, failure })));
}

fn describe(state: PowerState) -> &'static str {
    match state {
        PowerState::Unknown => "in an unknown state",
        PowerState::Running => "running",
        PowerState::Paused => "paused",
        PowerState::ShuttingDown => "shutting down",
        PowerState::Off => "off",
        PowerState::Crashed => "crashed",
        PowerState::Suspended => "suspended",
    }
}
