//! Commands: taken once, begun once, told until the aggregator has seen the outcome.

use std::collections::{BTreeMap, VecDeque};

use roost_protocol::backup::Proof;
use roost_protocol::guest::Power;
use roost_protocol::message::ToAggregator;
use roost_protocol::operation::{Command, Failure, FailureCode, Outcome, Progress, Verb};
use roost_protocol::{GuestId, OperationId, Time};

use crate::agent::{Agent, Now, Purpose, Running};
use crate::event::{Action, Lane, Made, Task, TaskId, TaskResult};
use crate::guests::alive;
use crate::handover::Step;
use crate::ledger::{Change, Record, Stage};

/// Outcomes kept after the aggregator has seen them, so that a late copy of a command is answered, not run.
const SEEN_KEPT: usize = 1_000;
/// Commands one host holds at a time; more are refused as busy.
const PENDING: usize = 1_000;

/// Commands that have not ended.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    pub(crate) entries: BTreeMap<OperationId, Entry>,
    /// Order of arrival.
    order: VecDeque<OperationId>,
    /// Seen outcomes, oldest first.
    seen: VecDeque<OperationId>,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) guest: GuestId,
    pub(crate) queue: Queue,
    pub(crate) phase: Phase,
    /// Latest time to begin; from the first look on.
    pub(crate) begin_by: Option<Time>,
}

/// What commands of one guest wait in one behind the other. Only those that change the guest hold up each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Queue {
    Change,
    Backup,
    /// What reads points at length.
    Points,
    /// What is done at once.
    Brief,
}

impl Queue {
    fn of(verb: &Verb) -> Self {
        match verb {
            Verb::Create { .. }
            | Verb::Import { .. }
            | Verb::Start
            | Verb::Shutdown { .. }
            | Verb::Stop
            | Verb::Pause
            | Verb::Resume
            | Verb::Reset
            | Verb::Delete { .. }
            | Verb::Manage { .. }
            | Verb::Release
            | Verb::Restore { .. }
            | Verb::HandOver { .. } => Queue::Change,
            Verb::Backup { .. } => Queue::Backup,
            Verb::VerifyBackup { .. } | Verb::ProveBackup { .. } => Queue::Points,
            Verb::DeletePoint { .. } | Verb::PinPoint { .. } | Verb::SetBackupPolicy { .. } | Verb::PruneNow => {
                Queue::Brief
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Asked to be kept; nothing is begun before it is.
    Unwritten,
    /// Not begun in this life of the agent. `again`: an earlier life may have begun it.
    Waiting {
        again: bool,
    },
    /// A task runs.
    Working,
    /// Asked to shut down; ends when it is off.
    AwaitOff {
        force_at: Option<Time>,
        until: Time,
    },
    /// Done; ends when the guests were seen once more, by the list of this number or a later one, so that whoever hears of
    /// the end also sees what came of it.
    Seeing(Task, u64),
    /// Made, now starting; undone if that fails.
    StartingNew,
    /// A new guest could not be started and is being removed.
    Undoing(Failure),
    HandingOver(Step),
}

impl Pending {
    pub(crate) fn from_kept(operations: &BTreeMap<OperationId, Record>) -> Self {
        let mut pending = Self::default();
        for (id, record) in operations {
            match &record.stage {
                Stage::Taken => pending.add(&record.command, true, None),
                Stage::Ended { seen: true, .. } => pending.seen.push_back(*id),
                Stage::Ended { seen: false, .. } => {}
            }
        }
        pending
    }

    fn add(&mut self, command: &Command, again: bool, begin_by: Option<Time>) {
        let (operation, guest, queue) = (command.operation, command.guest, Queue::of(&command.verb));
        let phase = if again { Phase::Waiting { again } } else { Phase::Unwritten };
        self.entries.insert(operation, Entry { guest, queue, phase, begin_by });
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

    /// True while a command that changes this guest has not ended.
    pub(crate) fn has(&self, guest: GuestId) -> bool {
        self.entries.values().any(|entry| entry.guest == guest && entry.queue == Queue::Change)
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        self.entries.values().filter_map(Entry::deadline).min()
    }

    /// Waits once more, for as long as it might at first.
    fn wait_again(&mut self, operation: OperationId) {
        if let Some(entry) = self.entries.get_mut(&operation) {
            (entry.phase, entry.begin_by) = (Phase::Waiting { again: true }, None);
        }
    }

    pub(crate) fn set(&mut self, operation: OperationId, phase: Phase) {
        if let Some(entry) = self.entries.get_mut(&operation) {
            entry.phase = phase;
        }
    }

    /// The first command of each guest and queue, in order of arrival.
    pub(crate) fn first_per_guest(&self) -> Vec<OperationId> {
        let mut guests = std::collections::BTreeSet::new();
        self.order
            .iter()
            .copied()
            .filter(|id| self.entries.get(id).is_some_and(|entry| guests.insert((entry.guest, entry.queue))))
            .collect()
    }
}

impl Entry {
    fn deadline(&self) -> Option<Time> {
        match &self.phase {
            Phase::Waiting { .. } => self.begin_by,
            Phase::AwaitOff { force_at, until } => Some(force_at.unwrap_or(*until).min(*until)),
            Phase::HandingOver(step) => step.deadline(),
            Phase::Unwritten | Phase::Working | Phase::Seeing(..) | Phase::StartingNew | Phase::Undoing(_) => None,
        }
    }
}

pub(crate) fn failure(code: FailureCode, text: impl Into<String>) -> Failure {
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
        self.pending.add(&command, false, Some(now.time + command.budget_ms));
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

    /// A task ended.
    pub(crate) fn finished(&mut self, now: Now, task: TaskId, result: TaskResult, actions: &mut Vec<Action>) {
        let Some(running) = self.tasks.remove(&task) else { return };
        self.backup_ended(now, &running, &result, actions);
        match running.purpose {
            Purpose::Backup => {}
            Purpose::Takeover => {
                let failed = result.as_ref().err().map(|failure| failure.text.as_str());
                self.takeover_finished(now, &running.what, failed, actions);
            }
            Purpose::Wish => {
                self.started(now, &running.what, &result);
                self.wish_finished(now, running.what.guest(), result, actions);
            }
            Purpose::Operation(operation) => self.operation_finished(operation, running, result, actions),
        }
    }

    fn operation_finished(
        &mut self,
        operation: OperationId,
        running: Running,
        result: TaskResult,
        actions: &mut Vec<Action>,
    ) {
        let what = running.what;
        if what.lane() == Lane::Change {
            self.list(actions);
        }
        let Some(phase) = self.pending.entries.get(&operation).map(|entry| entry.phase.clone()) else { return };
        let Some(command) = self.operations.get(&operation).map(|record| record.command.clone()) else { return };
        match (phase, result) {
            (Phase::Undoing(why), _) => self.end(operation, Some(why), actions),
            (Phase::HandingOver(_), Err(why)) => self.hand_over_failed(operation, command.guest, why, actions),
            // It gave way to what changes the guest, and begins anew when that has ended.
            (_, Err(why)) if why.code == FailureCode::Cancelled && running.cancelled && !running.unwanted => {
                self.pending.wait_again(operation);
            }
            (_, Err(why)) if why.code == FailureCode::HypervisorAway => {
                self.retry_later(operation, &command, why, actions)
            }
            (Phase::StartingNew, Err(why)) => self.undo_new(operation, command.guest, why, actions),
            (Phase::AwaitOff { .. } | Phase::HandingOver(_), Ok(_)) => {}
            (_, Err(why)) => self.end(operation, Some(why), actions),
            (_, Ok(Made::Proven { point, proof: Proof::Failed { why, .. } })) => {
                let text = format!("backup {point} was booted and gave no sign of life: {why}");
                self.end(operation, Some(failure(FailureCode::Damaged, text)), actions);
            }
            (Phase::StartingNew, Ok(_)) => self.pending.set(operation, Phase::Seeing(what, self.lists)),
            (Phase::Unwritten | Phase::Waiting { .. } | Phase::Working | Phase::Seeing(..), Ok(_)) => match what {
                Task::CleanUp { .. } => self.step_done(&command, &what, actions),
                Task::Create { .. } if matches!(command.verb, Verb::Create { start: true, .. }) => {
                    self.step_done(&command, &what, actions);
                }
                Task::Create { .. }
                | Task::Import { .. }
                | Task::Start { .. }
                | Task::Shutdown { .. }
                | Task::ForceOff { .. }
                | Task::Pause { .. }
                | Task::Resume { .. }
                | Task::Reset { .. }
                | Task::Delete { .. }
                | Task::Restore { .. } => self.pending.set(operation, Phase::Seeing(what, self.lists)),
                Task::Backup { .. }
                | Task::Ship { .. }
                | Task::Pull { .. }
                | Task::Verify { .. }
                | Task::Prune { .. }
                | Task::Pin { .. }
                | Task::Prove { .. } => self.end(operation, None, actions),
            },
        }
    }

    /// All guests were seen after this list was asked for, or can't be: what had been done before has ended.
    pub(crate) fn end_seen(&mut self, list: u64, actions: &mut Vec<Action>) {
        let done = |(id, entry): (&OperationId, &Entry)| match &entry.phase {
            Phase::Seeing(what, after) if *after <= list => Some((*id, what.clone())),
            Phase::Seeing(..)
            | Phase::Unwritten
            | Phase::Waiting { .. }
            | Phase::Working
            | Phase::AwaitOff { .. }
            | Phase::StartingNew
            | Phase::Undoing(_)
            | Phase::HandingOver(_) => None,
        };
        let seen: Vec<(OperationId, Task)> = self.pending.entries.iter().filter_map(done).collect();
        for (operation, what) in seen {
            let Some(command) = self.operations.get(&operation).map(|record| record.command.clone()) else { continue };
            self.step_done(&command, &what, actions);
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
            (Verb::Create { .. }, Task::Start { .. }) => self.end_with_wish(command, Some(Power::Running), actions),
            (Verb::Create { start, .. }, _) => self.created(command, *start, actions),
            (Verb::Restore { order }, Task::Start { .. }) => self.restored_and_started(command, order, actions),
            (Verb::Restore { order }, _) => self.restored(command, order, actions),
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
                | Verb::Release
                | Verb::HandOver { .. }
                | Verb::Backup { .. }
                | Verb::VerifyBackup { .. }
                | Verb::DeletePoint { .. }
                | Verb::PinPoint { .. }
                | Verb::SetBackupPolicy { .. }
                | Verb::PruneNow
                | Verb::ProveBackup { .. },
                _,
            ) => self.end(command.operation, None, actions),
        }
    }

    pub(crate) fn created(&mut self, command: &Command, start: bool, actions: &mut Vec<Action>) {
        if !start {
            let power =
                if matches!(command.verb, Verb::Create { start: true, .. }) { Power::Running } else { Power::Stopped };
            return self.end_with_wish(command, Some(power), actions);
        }
        let (guest, operation) = (command.guest, command.operation);
        if let Some(why) = self.no_room(self.clock, guest) {
            return self.undo_new(operation, guest, why, actions);
        }
        self.pending.set(operation, Phase::StartingNew);
        self.run(Task::Start { guest, paused: false }, Purpose::Operation(operation), actions);
    }

    /// A new guest that could not be started is removed again.
    fn undo_new(&mut self, operation: OperationId, guest: GuestId, why: Failure, actions: &mut Vec<Action>) {
        self.pending.set(operation, Phase::Undoing(why));
        self.run(Task::Delete { guest, keep_disks: false }, Purpose::Operation(operation), actions);
    }

    pub(crate) fn end_with_wish(&mut self, command: &Command, power: Option<Power>, actions: &mut Vec<Action>) {
        let change = self.wish_change(command.guest, power);
        self.end_with(command.operation, None, change.into_iter().collect(), actions);
    }

    pub(crate) fn end(&mut self, operation: OperationId, failure: Option<Failure>, actions: &mut Vec<Action>) {
        self.end_with(operation, failure, Vec::new(), actions);
    }

    /// Ends an operation: kept first, told after.
    pub(crate) fn end_with(
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
            return self.end(
                operation,
                Some(failure(FailureCode::Cancelled, "cancelled before it was begun")),
                actions,
            );
        }
        let early = |entry: &Entry| matches!(entry.phase, Phase::HandingOver(Step::Barred { .. } | Step::Fresh { .. }));
        if let Some(entry) = self.pending.entries.get(&operation).filter(|entry| early(entry)) {
            let why = failure(FailureCode::Cancelled, "cancelled before the guest was shut down");
            return self.hand_over_ends(self.clock, operation, entry.guest, why, actions);
        }
        // What changes a guest is done once begun; what reads one, or makes one anew, can be left.
        let ours = |running: &Running| {
            let restore = matches!(running.what, Task::Restore { .. });
            running.purpose == Purpose::Operation(operation) && (restore || running.what.lane() != Lane::Change)
        };
        let task = self.tasks.iter().find(|(_, running)| ours(running)).map(|(task, _)| *task);
        if let Some(task) = task {
            self.cancel_task(task, actions);
            if let Some(running) = self.tasks.get_mut(&task) {
                running.unwanted = true;
            }
        }
    }

    pub(crate) fn advanced(&mut self, task: TaskId, percent: u32, step: String, actions: &mut Vec<Action>) {
        if let Some(Task::Pull { guest, .. }) = self.tasks.get(&task).map(|running| &running.what) {
            let guest = *guest;
            self.pull_advanced(guest, percent);
        }
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
