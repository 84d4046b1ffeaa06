//! The hosts' lives: agents begin, are told, act and die; guests live on.

use roost_agent_core::event::{Action as AgentAction, Cause, Event as AgentEvent};
use roost_agent_core::{Change, Lane, Made, Stage, Task, TaskId};
use roost_protocol::GuestId;
use roost_protocol::guest::{Power, PowerState};
use roost_protocol::message::ToAggregator;
use roost_protocol::operation::{Failure, FailureCode, Verb};

use super::world::{Happening, Who, World};

impl World {
    pub(crate) fn start_agent(&mut self, host: usize, booted: bool) {
        if self.hosts[host].agent.is_some() {
            return;
        }
        self.note(format!("agent {host} starts"));
        self.hosts[host].begin_life(self.setting.mutant);
        let life = self.hosts[host].life;
        if self.hosts[host].libvirt_up {
            let domains = self.hosts[host].all_seen();
            self.tell_agent(host, AgentEvent::HypervisorUp { domains, host_booted: booted });
            self.hosts[host].looked = true;
        }
        self.open_store(host);
        self.after(100, Happening::Connect { host, life });
    }

    pub(crate) fn kill_agent(&mut self, host: usize) {
        self.inbox.retain(|(other, _)| *other != host);
        if self.hosts[host].agent.take().is_some() {
            self.note(format!("agent {host} is killed"));
            self.hosts[host].life += 1;
            self.break_link(host, 1_000_000_000);
        }
    }

    pub(crate) fn reboot_host(&mut self, host: usize) {
        self.kill_agent(host);
        for machine in self.hosts[host].guests.values_mut() {
            (machine.state, machine.cause) = (PowerState::Off, Cause::Unknown);
        }
        self.start_agent(host, true);
    }

    pub(crate) fn libvirt_up(&mut self, host: usize) {
        if !std::mem::replace(&mut self.hosts[host].libvirt_up, true) {
            let domains = self.hosts[host].all_seen();
            self.tell_agent(host, AgentEvent::HypervisorUp { domains, host_booted: false });
            self.hosts[host].looked = true;
        }
    }

    pub(crate) fn tell_hypervisor_down(&mut self, host: usize) {
        self.tell_agent(host, AgentEvent::HypervisorDown { why: "gone".into() });
    }

    pub(crate) fn crash_a_guest(&mut self, host: usize) {
        self.change_a_guest(host, PowerState::Off, Cause::Crashed);
    }

    pub(crate) fn shut_down_a_guest_from_inside(&mut self, host: usize) {
        self.change_a_guest(host, PowerState::Off, Cause::ShutDown);
    }

    pub(crate) fn change_a_guest(&mut self, host: usize, state: PowerState, cause: Cause) {
        let running: Vec<GuestId> = self.hosts[host]
            .guests
            .iter()
            .filter(|(_, machine)| machine.state == PowerState::Running)
            .map(|(id, _)| *id)
            .collect();
        if running.is_empty() {
            return;
        }
        let guest = running[self.random.index(running.len())];
        if let Some(machine) = self.hosts[host].guests.get_mut(&guest) {
            (machine.state, machine.cause) = (state, cause);
        }
        if cause == Cause::ShutDown {
            self.meant.remove(&guest);
        }
        self.tell_changed(host, guest);
    }

    pub(crate) fn tell_changed(&mut self, host: usize, guest: GuestId) {
        if !self.hosts[host].libvirt_up {
            return;
        }
        match self.hosts[host].seen(guest) {
            Some(domain) => self.tell_agent(host, AgentEvent::Changed { domain }),
            None => self.tell_agent(host, AgentEvent::Gone { guest }),
        }
    }

    pub(crate) fn tell_agent(&mut self, host: usize, event: AgentEvent) {
        self.inbox.push_back((host, event));
        if std::mem::replace(&mut self.telling, true) {
            return;
        }
        while let Some((host, event)) = self.inbox.pop_front() {
            self.tell_now(host, event);
        }
        self.telling = false;
    }

    pub(crate) fn tell_now(&mut self, host: usize, event: AgentEvent) {
        let (time, wall) = (self.hosts[host].time(self.now), self.hosts[host].wall(self.now));
        let Some(agent) = self.hosts[host].agent.as_mut() else { return };
        let actions = agent.on(time, wall, event);
        let life = self.hosts[host].life;
        // Now and then the agent dies between two of its actions.
        let dies_after = (self.setting.faults.every > 0 && !self.quiet && self.random.chance(2))
            .then(|| self.random.index(actions.len() + 1));
        let mut actions = actions.into_iter().enumerate();
        while let Some((index, action)) = actions.next() {
            if Some(index) == dies_after {
                self.kill_agent(host);
                let wait = 200 + self.random.below(5_000);
                return self.after(wait, Happening::StartAgent { host });
            }
            if let Some(lost) = self.do_for_agent(host, action) {
                self.ledger_failed(host, lost, actions.map(|(_, action)| action).collect());
                break;
            }
            if self.hosts[host].life != life {
                return;
            }
        }
        self.wake_host(host);
    }

    pub(crate) fn ledger_failed(&mut self, host: usize, mut lost: Vec<Change>, dropped: Vec<AgentAction>) {
        let mut tasks = Vec::new();
        for action in dropped {
            match action {
                AgentAction::Persist(changes) => lost.extend(changes),
                AgentAction::Run { task, .. } => tasks.push(task),
                AgentAction::Cancel { .. }
                | AgentAction::Begin { .. }
                | AgentAction::Send(_)
                | AgentAction::KeepDocument { .. }
                | AgentAction::SendDocument
                | AgentAction::Peers { .. }
                | AgentAction::Guard(_)
                | AgentAction::Memory(_)
                | AgentAction::Fence { .. }
                | AgentAction::List(_)
                | AgentAction::Note { .. } => {}
            }
        }
        for change in &lost {
            if let Change::Operation { record } = change {
                self.ended.insert(record.command.operation);
            }
        }
        let hosts_guests: Vec<GuestId> = self.hosts[host].guests.keys().copied().collect();
        self.meant.retain(|guest, _| !hosts_guests.contains(guest));
        self.tell_agent(host, AgentEvent::LedgerFailed { lost, why: "disk full".into() });
        for task in tasks {
            let failure = Failure { code: FailureCode::NoSpace, text: "the ledger can't be written".into() };
            self.tell_agent(host, AgentEvent::Finished { task, result: Err(failure) });
        }
    }

    pub(crate) fn wake_host(&mut self, host: usize) {
        let Some(at) = self.hosts[host].agent.as_ref().and_then(|agent| agent.deadline()) else { return };
        let at = self.hosts[host].true_time(at).max(self.now + 1);
        if self.wakes.get(&Who::Host(host)).is_none_or(|planned| *planned > at) {
            self.wakes.insert(Who::Host(host), at);
            self.after(at - self.now, Happening::Wake(Who::Host(host)));
        }
    }

    /// The changes that could not be written, if any.
    pub(crate) fn do_for_agent(&mut self, host: usize, action: AgentAction) -> Option<Vec<Change>> {
        match action {
            AgentAction::Persist(changes) => {
                self.note_ends(host, &changes);
                if !self.hosts[host].persist(&changes, self.setting.mutant) {
                    return Some(changes);
                }
            }
            AgentAction::Run { task, what } => {
                self.note(format!("host {host} runs {what:?}"));
                self.backup_begun(host, task, &what);
                self.hosts[host].tasks.insert(task, what);
                let life = self.hosts[host].life;
                let slow = if self.random.chance(100) { 8_000 } else { 600 };
                let span = 20 + self.random.below(slow);
                self.after(span, Happening::TaskDone { host, life, task });
            }
            AgentAction::Cancel { task } => self.cancel(host, task),
            AgentAction::Begin { operation } => self.tell_agent(host, AgentEvent::Begin { operation }),
            AgentAction::Send(message) => self.send_to_aggregator(host, message),
            AgentAction::KeepDocument { generation, sealed } => {
                self.hosts[host].document = sealed;
                self.hosts[host].ledger.document = generation;
            }
            AgentAction::SendDocument => {
                let sealed = self.hosts[host].document.clone();
                self.send_to_aggregator(host, ToAggregator::Document { sealed });
            }
            AgentAction::List(asked) => {
                if self.hosts[host].libvirt_up {
                    let domains = self.hosts[host].all_seen();
                    self.tell_agent(host, AgentEvent::Listed { asked, domains });
                }
            }
            // No host has a guard in this world.
            AgentAction::Guard(_) | AgentAction::Fence { .. } | AgentAction::Memory(_) => {}
            // Points go nowhere in this world; who may take them is told all the same.
            AgentAction::Peers { peers, .. } => self.note(format!("host {host} deals with {} others", peers.len())),
            AgentAction::Note { guest, text, .. } => self.note(format!("host {host} notes {guest:?}: {text}")),
        }
        None
    }

    pub(crate) fn note_ends(&mut self, host: usize, changes: &[Change]) {
        for change in changes {
            if let Change::Operation { record } = change
                && let Stage::Ended { outcome, seen: false } = &record.stage
                && self.ended.insert(outcome.operation)
            {
                self.note(format!("host {host} ends {}: {:?}", outcome.operation, outcome.failure));
                if self.hosts[host].disk_full || outcome.failure.is_some() {
                    self.meant.remove(&record.command.guest);
                } else {
                    self.now_meant(record.command.guest, &record.command.verb);
                }
            }
        }
    }

    pub(crate) fn now_meant(&mut self, guest: GuestId, verb: &Verb) {
        match verb {
            Verb::Create { start: true, .. } | Verb::Manage { power: Power::Running } => {
                self.meant.insert(guest, Some(Power::Running))
            }
            Verb::Release => self.meant.insert(guest, None),
            Verb::Stop | Verb::Shutdown { .. } if self.meant.get(&guest).is_some_and(Option::is_some) => {
                self.meant.insert(guest, Some(Power::Stopped))
            }
            Verb::Start if self.meant.get(&guest).is_some_and(Option::is_some) => {
                self.meant.insert(guest, Some(Power::Running))
            }
            Verb::Restore { order } if self.meant.get(&guest).is_some_and(Option::is_some) => {
                self.meant.insert(guest, Some(if order.start { Power::Running } else { Power::Stopped }))
            }
            Verb::Create { start: false, .. } | Verb::Import { .. } | Verb::Manage { power: Power::Stopped } => {
                self.meant.insert(guest, Some(Power::Stopped))
            }
            Verb::Start
            | Verb::Shutdown { .. }
            | Verb::Stop
            | Verb::Pause
            | Verb::Resume
            | Verb::Reset
            | Verb::Delete { .. }
            | Verb::HandOver { .. }
            | Verb::Backup { .. }
            | Verb::Restore { .. }
            | Verb::VerifyBackup { .. }
            | Verb::DeletePoint { .. }
            | Verb::PinPoint { .. }
            | Verb::SetBackupPolicy { .. }
            | Verb::PruneNow
            | Verb::ProveBackup { .. } => None,
        };
    }

    pub(crate) fn task_done(&mut self, host: usize, life: u64, task: TaskId) {
        let Some(what) = self.hosts[host].tasks.get(&task).cloned() else { return };
        if self.hosts[host].life != life {
            return;
        }
        self.hosts[host].tasks.remove(&task);
        if !self.hosts[host].libvirt_up && (what.lane() == Lane::Change || what.lane() == Lane::Read) {
            self.hosts[host].begun.remove(&task);
            self.hosts[host].cancelled.remove(&task);
            let failure = Failure { code: FailureCode::HypervisorAway, text: "libvirt is away".into() };
            return self.tell_agent(host, AgentEvent::Finished { task, result: Err(failure) });
        }
        if let Some(result) = self.backup_done(host, task, &what) {
            if matches!(what, Task::Restore { .. }) {
                self.tell_changed(host, what.guest());
            }
            return self.tell_agent(host, AgentEvent::Finished { task, result });
        }
        let result = self.hosts[host].carry_out(&what);
        if let (Err(why), Task::Create { .. }) = (&result, &what) {
            self.twice = Some(format!("{what:?}: {why}"));
        }
        // The agent may die after the act and before it hears of it.
        if !self.quiet && self.setting.faults.every > 0 && self.random.chance(20) {
            self.kill_agent(host);
            return self.after(700, Happening::StartAgent { host });
        }
        self.tell_changed(host, what.guest());
        let result = result.map(|_| Made::Nothing).map_err(|text| Failure { code: FailureCode::Hypervisor, text });
        self.tell_agent(host, AgentEvent::Finished { task, result });
    }
}
