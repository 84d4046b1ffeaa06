//! Beginning a command: what it means in the guest's present state.

use roost_protocol::guest::{GuestSpec, Power, PowerState};
use roost_protocol::message::ToAggregator;
use roost_protocol::operation::{Command, FailureCode, Progress, Verb};
use roost_protocol::{GuestId, Millis, OperationId, Time};

use crate::agent::{Agent, Hypervisor, Now, Purpose};
use crate::command::{Phase, failure};
use crate::event::{Action, Task};
use crate::guests::alive;

impl Agent {
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
                Phase::HandingOver(step) => self.hand_over(now, operation, entry.guest, step, actions),
                Phase::Unwritten | Phase::Working | Phase::Seeing(..) | Phase::StartingNew | Phase::Undoing(_) => {}
            }
        }
        self.end_overdue(now, actions);
    }

    fn begin_or_wait(&mut self, now: Now, operation: OperationId, again: bool, actions: &mut Vec<Action>) {
        let Some(command) = self.operations.get(&operation).map(|record| record.command.clone()) else { return };
        if let Some(entry) = self.pending.entries.get_mut(&operation) {
            entry.begin_by.get_or_insert(now.time + command.budget_ms);
        }
        if command.verb.beside() {
            return self.begin_beside(now, &command, again, actions);
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
        // Most tasks tell no steps, and people want to see since when something is under way.
        actions.push(Action::Send(ToAggregator::Progress(Progress { operation, percent: 0, step: String::new() })));
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
            let beside = self.operations.get(&operation).is_some_and(|record| record.command.verb.beside());
            let why = match self.hypervisor {
                _ if beside => "other backups run, or the host's store is not open",
                Hypervisor::Up => "the guest was busy",
                Hypervisor::Unseen | Hypervisor::Down { .. } => "libvirt was away",
            };
            self.end(operation, Some(failure(FailureCode::TimedOut, format!("not begun in time: {why}"))), actions);
        }
    }

    fn begin(&mut self, now: Now, command: &Command, again: bool, actions: &mut Vec<Action>) {
        let guest = command.guest;
        let state = self.guests.get(guest).map(|known| known.seen.state);
        let end = match (&command.verb, state) {
            (Verb::Create { spec, start }, state) => {
                return self.begin_create((command, spec, *start), state, again, actions);
            }
            (Verb::Import { .. }, Some(_)) if again => None,
            (Verb::Import { .. }, Some(_)) => {
                Some(failure(FailureCode::AlreadyExists, "a guest with this id is there already"))
            }
            (Verb::Import { xml }, None) => {
                return self.work(command, Task::Import { guest, xml: xml.clone() }, actions);
            }
            (Verb::Delete { keep_disks }, None) if again => return self.undefined(command, *keep_disks, actions),
            (Verb::Restore { order }, state) => return self.begin_restore(command, order, state, again, actions),
            (
                Verb::Backup { .. }
                | Verb::VerifyBackup { .. }
                | Verb::DeletePoint { .. }
                | Verb::PinPoint { .. }
                | Verb::SetBackupPolicy { .. }
                | Verb::PruneNow
                | Verb::ProveBackup { .. },
                _,
            ) => return self.begin_beside(now, command, again, actions),
            (Verb::HandOver { .. }, _) if again => return self.hand_over_again(now, command, actions),
            (_, None) => Some(failure(FailureCode::NotFound, "this host has no such guest")),
            (Verb::Start | Verb::Resume, Some(_)) if self.start_bar(guest).is_some() => {
                self.start_bar(guest).map(|why| failure(FailureCode::WrongState, why))
            }
            (Verb::Start | Verb::Manage { power: Power::Running }, Some(state)) => {
                return self.begin_start(now, command, state, actions);
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
            (Verb::HandOver { .. }, Some(_)) => return self.begin_hand_over(now, command, actions),
            (Verb::Release, Some(_)) => return self.end_with_wish(command, None, actions),
            (Verb::Pause | Verb::Resume | Verb::Reset, Some(state)) => {
                Some(failure(FailureCode::WrongState, format!("it is {}", describe(state))))
            }
        };
        self.end(command.operation, end, actions);
    }

    fn begin_create(
        &mut self,
        (command, spec, start): (&Command, &GuestSpec, bool),
        state: Option<PowerState>,
        again: bool,
        actions: &mut Vec<Action>,
    ) {
        let guest = command.guest;
        let taken = self.guests.known.values().any(|known| known.seen.name == spec.name && known.seen.guest != guest);
        let no_room = || if start { self.no_room_for(self.clock, guest, spec.memory_mib) } else { None };
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
            None => match no_room() {
                Some(why) => self.end(command.operation, Some(why), actions),
                None => self.work(command, Task::Create { guest, spec: spec.clone() }, actions),
            },
        }
    }

    fn begin_start(&mut self, now: Now, command: &Command, state: PowerState, actions: &mut Vec<Action>) {
        let guest = command.guest;
        if !alive(state)
            && let Some(why) = self.no_room(now, guest)
        {
            return self.end(command.operation, Some(why), actions);
        }
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
                self.work(command, Task::Start { guest, paused: false }, actions)
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

    /// An earlier life of the agent undefined it; the disks go after that.
    fn undefined(&mut self, command: &Command, keep_disks: bool, actions: &mut Vec<Action>) {
        match keep_disks {
            true => self.end_with_wish(command, None, actions),
            false => self.work(command, Task::CleanUp { guest: command.guest }, actions),
        }
    }

    pub(crate) fn work(&mut self, command: &Command, what: Task, actions: &mut Vec<Action>) {
        self.pending.set(command.operation, Phase::Working);
        self.run(what, Purpose::Operation(command.operation), actions);
    }
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
