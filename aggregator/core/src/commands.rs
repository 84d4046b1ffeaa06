//! Operations: asked for once, sent until answered, ended once.

use std::collections::{BTreeMap, VecDeque};

use roost_protocol::guest::PowerState;
use roost_protocol::message::ToAgent;
use roost_protocol::operation::{Command, Failure, FailureCode, Outcome, Progress, Verb};
use roost_protocol::{HostId, Millis, OperationId, Time};

use crate::event::{Action, LinkId};
use crate::grid::{Grid, Host, Now};
use crate::history::Line;
use crate::operation::{Operation, State};

/// Ended operations kept in memory for callers; the ledger keeps more.
const ENDED_KEPT: usize = 10_000;
/// An outcome may come this long after the time given to the host.
const GRACE: Millis = Millis::seconds(10);
/// What an operation found in the ledger at start gets, to be asked for again.
const AFTER_RESTART: Millis = Millis::seconds(60);

/// All operations.
#[derive(Debug)]
pub(crate) struct Commands {
    all: BTreeMap<OperationId, Operation>,
    /// Until when each one that has not ended is waited for.
    waiting: BTreeMap<(HostId, OperationId), Time>,
    ended: VecDeque<OperationId>,
    keys: BTreeMap<String, OperationId>,
}

impl Commands {
    pub(crate) fn new(operations: Vec<Operation>) -> Self {
        let mut commands =
            Self { all: BTreeMap::new(), waiting: BTreeMap::new(), ended: VecDeque::new(), keys: BTreeMap::new() };
        for operation in operations {
            if operation.state.ended() {
                commands.ended.push_back(operation.id);
            } else {
                commands.waiting.insert((operation.host, operation.id), Time(0) + AFTER_RESTART);
            }
            commands.keep(operation);
        }
        commands
    }

    fn keep(&mut self, operation: Operation) {
        if let Some(key) = &operation.key {
            self.keys.insert(key.clone(), operation.id);
        }
        self.all.insert(operation.id, operation);
    }

    pub(crate) fn all(&self) -> &BTreeMap<OperationId, Operation> {
        &self.all
    }

    pub(crate) fn by_key(&self, key: &str) -> Option<&Operation> {
        self.keys.get(key).and_then(|id| self.all.get(id))
    }

    /// Those that have not ended.
    pub(crate) fn open(&self) -> impl Iterator<Item = &Operation> {
        self.waiting.keys().filter_map(|(_, id)| self.all.get(id))
    }

    pub(crate) fn waiting_on(&self, host: HostId) -> impl Iterator<Item = &Operation> {
        let of_host = (host, OperationId::from_bytes([0; 16]))..=(host, OperationId::from_bytes([u8::MAX; 16]));
        self.waiting.range(of_host).filter_map(|((_, id), _)| self.all.get(id))
    }

    pub(crate) fn add(&mut self, operation: Operation, until: Time) {
        self.waiting.insert((operation.host, operation.id), until);
        self.keep(operation);
    }

    fn end(&mut self, host: HostId, id: OperationId) {
        self.waiting.remove(&(host, id));
        self.ended.push_back(id);
        if self.ended.len() <= ENDED_KEPT {
            return;
        }
        let Some(oldest) = self.ended.pop_front().and_then(|id| self.all.remove(&id)) else { return };
        if let Some(key) = oldest.key {
            self.keys.remove(&key);
        }
    }
}

impl Grid {
    /// Keeps an operation that was asked for, on disk too: from here on it survives a power cut.
    pub(crate) fn take_on(&mut self, now: Now, operation: &Operation, budget: Millis, actions: &mut Vec<Action>) {
        self.commands.add(operation.clone(), now.time + budget + GRACE);
        let operations = vec![operation.clone()];
        actions.push(Action::Persist { intent: Vec::new(), generation: self.intent.generation, operations });
    }

    pub(crate) fn send_command(&self, now: Now, link: LinkId, operation: &Operation, actions: &mut Vec<Action>) {
        let until = self.commands.waiting.get(&(operation.host, operation.id)).copied().unwrap_or(now.time);
        let command = Command {
            operation: operation.id,
            epoch: self.config.epoch,
            budget_ms: Millis(until.since(now.time).0.saturating_sub(GRACE.0)),
            guest: operation.guest,
            verb: operation.verb.clone(),
        };
        actions.push(Action::Send { link, message: ToAgent::Command(command) });
    }

    /// After a reconnect: the host answers what it has done already and does what it has not heard of.
    pub(crate) fn resend_commands(&mut self, now: Now, link: LinkId, actions: &mut Vec<Action>) {
        let Some(speaker) = self.links.get(&link) else { return };
        let mut waiting: Vec<&Operation> = self.commands.waiting_on(speaker.host).collect();
        waiting.sort_by_key(|operation| (operation.created, operation.id));
        for operation in waiting {
            self.send_command(now, link, operation, actions);
        }
    }

    pub(crate) fn outcome(
        &mut self,
        now: Now,
        link: LinkId,
        host: HostId,
        outcome: Outcome,
        actions: &mut Vec<Action>,
    ) {
        let id = outcome.operation;
        let seen = Action::Send { link, message: ToAgent::OutcomeSeen { operation: id } };
        match self.commands.all.get(&id) {
            Some(operation) if operation.host != host => {
                let text = format!("host {host} answered an operation that is not its own");
                self.publish(now, Line::warning("host.misbehaved", text).host(host).operation(id), actions);
            }
            Some(operation) if operation.state.ended() => actions.push(seen),
            Some(_) => {
                self.end_operation(now, id, outcome.failure, actions);
                actions.push(seen);
            }
            // Its record was lost with the database.
            None => actions.push(seen),
        }
    }

    pub(crate) fn progress(&mut self, now: Now, host: HostId, progress: Progress) {
        let Some(operation) = self.commands.all.get_mut(&progress.operation) else { return };
        if operation.host == host && !operation.state.ended() {
            operation.state = State::Running;
            operation.started.get_or_insert(now.wall);
            operation.percent = progress.percent.min(100);
            operation.step = progress.step.chars().take(roost_protocol::message::TEXT).collect();
        }
    }

    fn end_operation(&mut self, now: Now, id: OperationId, failure: Option<Failure>, actions: &mut Vec<Action>) {
        let Some(operation) = self.commands.all.get_mut(&id) else { return };
        operation.ended = Some(now.wall);
        let (word, guest) = (operation.verb.word(), operation.guest);
        let line = match failure {
            None => {
                operation.percent = 100;
                operation.state = State::Succeeded;
                Line::info("operation.ended", format!("{word} of {} succeeded", operation.guest_name))
            }
            Some(failure) if failure.code == FailureCode::Cancelled => {
                operation.state = State::Cancelled;
                Line::info("operation.ended", format!("{word} of {} was cancelled", operation.guest_name))
            }
            Some(failure) => {
                let text = format!("{word} of {} failed: {}", operation.guest_name, failure.text);
                operation.state = State::Failed(failure);
                Line::warning("operation.ended", text)
            }
        };
        let line = line.host(operation.host).guest(guest).operation(id).user(&operation.created_by);
        let kept = operation.clone();
        self.commands.end(kept.host, id);
        if let (Verb::HandOver { .. }, State::Failed(failure)) = (&kept.verb, &kept.state) {
            self.not_drained(now, kept.host, guest, failure.code);
        }
        if let (Verb::Delete { .. }, State::Succeeded) = (&kept.verb, &kept.state) {
            self.forget_probes(guest, actions);
        }
        actions.push(Action::Persist {
            intent: Vec::new(),
            generation: self.intent.generation,
            operations: vec![kept],
        });
        self.publish(now, line, actions);
    }

    /// Operations that were waited for long enough. While its host is heard an operation is left to the host.
    pub(crate) fn end_overdue(&mut self, now: Now, actions: &mut Vec<Action>) {
        let due = self.commands.waiting.iter().filter(|(_, until)| **until <= now.time).map(|(key, _)| *key);
        for (host, id) in due.collect::<Vec<_>>() {
            if self.hosts.get(&host).and_then(Host::link).is_some() {
                self.commands.waiting.insert((host, id), now.time + GRACE);
                continue;
            }
            let text = "the host was not heard in time; whether it was begun is seen when the host returns".into();
            self.end_operation(now, id, Some(Failure { code: FailureCode::HostUnreachable, text }), actions);
        }
    }
}

/// A state in words.
pub(crate) fn describe(state: PowerState) -> &'static str {
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
