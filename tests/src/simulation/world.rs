//! The world: true time, what happens next, and the network between the cores.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

use roost_agent_core::event::{Action as AgentAction, Cause, Event as AgentEvent};
use roost_agent_core::{Change, Stage, Task, TaskId};
use roost_aggregator_core::event::{Action, Event, LinkId};
use roost_aggregator_core::intent::Intent;
use roost_protocol::guest::{Power, PowerState};
use roost_protocol::message::{ToAgent, ToAggregator};
use roost_protocol::operation::{Failure, FailureCode, Verb};
use roost_protocol::{Generation, GuestId, OperationId, Stamp, Time, codec};

use super::Mutant;
use super::aggregator::{Aggregator, key};
use super::faults::Faults;
use super::host::Host;
use super::promise::Broken;
use super::random::Random;

/// What a run is made of.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub hosts: u64,
    pub guests: u64,
    pub faults: Faults,
    pub mutant: Option<Mutant>,
}

/// Everything.
#[derive(Debug)]
pub struct World {
    pub(crate) seed: u64,
    pub(crate) setting: Setting,
    pub(crate) now: u64,
    pub(crate) random: Random,
    pub(crate) hosts: Vec<Host>,
    pub(crate) aggregator: Aggregator,
    queue: BinaryHeap<std::cmp::Reverse<(u64, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    next: u64,
    links: BTreeMap<LinkId, Link>,
    next_link: u64,
    pub(crate) transcript: Vec<String>,
    pub(crate) calls: u64,
    pub(crate) acknowledged: Vec<(OperationId, u64)>,
    /// Rises when the aggregator's data is lost: operations of before are rightly forgotten.
    pub(crate) data_life: u64,
    pub(crate) lost_data: bool,
    pub(crate) resets_asked: Vec<GuestId>,
    /// What the hosts' own ends say each guest was last meant to be; absent where that is not clear.
    pub(crate) meant: BTreeMap<GuestId, Option<Power>>,
    pub(crate) twice: Option<String>,
    /// Operations that a host has ended; what it writes again after a full disk means nothing new.
    ended: BTreeSet<OperationId>,
    wakes: BTreeMap<Who, u64>,
    /// Events for agents, in order; one is finished before the next is begun.
    inbox: VecDeque<(usize, AgentEvent)>,
    telling: bool,
    quiet: bool,
}

#[derive(Debug)]
struct Link {
    host: usize,
    life: u64,
    up_busy_until: u64,
    down_busy_until: u64,
}

/// Whose deadline came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    Aggregator,
    Host(usize),
}

/// What happens at some time.
#[derive(Clone, Debug)]
pub(crate) enum Happening {
    Wake(Who),
    Connect { host: usize, life: u64 },
    ToAgent { link: LinkId, message: Box<ToAgent> },
    ToAggregator { link: LinkId, message: Box<ToAggregator> },
    Closed { link: LinkId },
    TaskDone { host: usize, life: u64, task: TaskId },
    StartAgent { host: usize },
    HealLink { host: usize },
    StartAggregator,
    LibvirtUp { host: usize },
    DiskFree { host: usize },
    Ask,
    Fault,
}

impl World {
    /// A grid whose hosts have joined; nothing has been said yet.
    pub fn new(seed: u64, setting: Setting) -> Self {
        let mut random = Random::new(seed);
        let mut hosts: Vec<Host> = (1..=setting.hosts).map(|number| Host::new(number, setting.guests)).collect();
        for host in &mut hosts {
            host.rate = 995 + random.below(11);
        }
        let ids: Vec<_> = hosts.iter().map(|host| host.id).collect();
        let mut world = Self {
            seed,
            setting,
            now: 1_000,
            random,
            hosts,
            aggregator: Aggregator::new(&ids),
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            next: 0,
            links: BTreeMap::new(),
            next_link: 1,
            transcript: Vec::new(),
            calls: 0,
            acknowledged: Vec::new(),
            data_life: 0,
            lost_data: false,
            resets_asked: Vec::new(),
            meant: BTreeMap::new(),
            twice: None,
            ended: BTreeSet::new(),
            wakes: BTreeMap::new(),
            inbox: VecDeque::new(),
            telling: false,
            quiet: false,
        };
        world.start_aggregator();
        for host in 0..world.hosts.len() {
            world.start_agent(host, false);
        }
        world.after(3_000, Happening::Ask);
        if setting.faults.every > 0 {
            world.after(10_000, Happening::Fault);
        }
        world
    }

    /// Lives for that many milliseconds.
    ///
    /// # Errors
    /// A promise that broke on the way.
    pub fn live(&mut self, span: u64) -> Result<(), Broken> {
        let end = self.now + span;
        while let Some(std::cmp::Reverse((at, id))) = self.queue.peek().copied() {
            if at > end {
                break;
            }
            self.queue.pop();
            self.now = self.now.max(at);
            if let Some(happening) = self.happenings.remove(&id) {
                self.happen(happening);
            }
            if let Some(detail) = &self.twice {
                return Err(self.broken("no command is run twice", detail.clone()));
            }
        }
        self.now = end;
        Ok(())
    }

    /// Ends all faults; nobody asks for anything any more.
    pub fn heal(&mut self) {
        self.note("heal".into());
        self.quiet = true;
        for host in 0..self.hosts.len() {
            self.happen(Happening::DiskFree { host });
            self.happen(Happening::LibvirtUp { host });
            self.happen(Happening::StartAgent { host });
            self.happen(Happening::HealLink { host });
        }
        self.happen(Happening::StartAggregator);
    }

    /// Lives on until the dust has settled.
    ///
    /// # Errors
    /// A promise that broke on the way.
    pub fn settle(&mut self, span: u64) -> Result<(), Broken> {
        self.live(span)
    }

    pub(crate) fn note(&mut self, text: String) {
        self.transcript.push(format!("{:>7} {text}", self.now));
    }

    /// The transcript, one line per thing that happened.
    pub fn transcript(&self) -> &[String] {
        &self.transcript
    }

    pub(crate) fn after(&mut self, span: u64, happening: Happening) {
        self.next += 1;
        self.happenings.insert(self.next, happening);
        self.queue.push(std::cmp::Reverse((self.now + span, self.next)));
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Wake(Who::Aggregator) => {
                self.wakes.remove(&Who::Aggregator);
                self.tell_aggregator(Event::Tick);
            }
            Happening::Wake(Who::Host(host)) => {
                self.wakes.remove(&Who::Host(host));
                self.tell_agent(host, AgentEvent::Tick);
            }
            Happening::Connect { host, life } => self.connect(host, life),
            Happening::ToAgent { link, message } => self.deliver_to_agent(link, *message),
            Happening::ToAggregator { link, message } => self.deliver_to_aggregator(link, *message),
            Happening::Closed { link } => self.tell_aggregator(Event::Closed { link, why: "silence".into() }),
            Happening::TaskDone { host, life, task } => self.task_done(host, life, task),
            Happening::StartAgent { host } => self.start_agent(host, false),
            Happening::HealLink { host } => {
                self.hosts[host].cut = false;
                let life = self.hosts[host].life;
                self.after(50, Happening::Connect { host, life });
            }
            Happening::StartAggregator => self.start_aggregator(),
            Happening::LibvirtUp { host } => self.libvirt_up(host),
            Happening::DiskFree { host } => {
                if std::mem::take(&mut self.hosts[host].disk_full) {
                    self.tell_agent(host, AgentEvent::LedgerRecovered);
                }
            }
            Happening::Ask => {
                if !self.quiet {
                    self.ask();
                    let pause = 200 + self.random.below(4_000);
                    self.after(pause, Happening::Ask);
                }
            }
            Happening::Fault => {
                if !self.quiet {
                    self.fault();
                    let pause = 1 + self.random.below(2 * self.setting.faults.every);
                    self.after(pause, Happening::Fault);
                }
            }
        }
    }

    // The network: streams in order; a broken link loses what was under way.

    fn connect(&mut self, host: usize, life: u64) {
        let linked = self.links.values().any(|link| link.host == host);
        let (dead, cut) = (self.hosts[host].agent.is_none(), self.hosts[host].cut);
        if linked || dead || life != self.hosts[host].life {
            return;
        }
        if cut || self.aggregator.grid.is_none() {
            return self.after(1_500, Happening::Connect { host, life });
        }
        let link = LinkId(self.next_link);
        self.next_link += 1;
        self.links.insert(link, Link { host, life, up_busy_until: 0, down_busy_until: 0 });
        let wall = self.hosts[host].wall(self.now);
        let Some(hello) = self.hosts[host].agent.as_ref().map(|agent| agent.hello(wall)) else { return };
        let key = key(self.hosts[host].id);
        self.tell_aggregator(Event::Hello { link, key, certified: true, hello, remote: "10.0.0.1".into() });
    }

    pub(crate) fn break_link(&mut self, host: usize, reconnect_in: u64) {
        let links: Vec<LinkId> = self.links.iter().filter(|(_, link)| link.host == host).map(|(id, _)| *id).collect();
        for link in links {
            self.links.remove(&link);
            let notice = self.random.below(12_000);
            self.after(notice, Happening::Closed { link });
            self.tell_agent(host, AgentEvent::LinkDown);
        }
        let life = self.hosts[host].life;
        self.after(reconnect_in.max(100), Happening::Connect { host, life });
    }

    fn delay(&mut self) -> u64 {
        if self.random.chance(50) { self.random.below(2_000) } else { 1 + self.random.below(20) }
    }

    fn to_agent(&mut self, id: LinkId, message: ToAgent) {
        let delay = self.delay();
        let now = self.now;
        let Some(link) = self.links.get_mut(&id) else { return };
        let at = (now + delay).max(link.down_busy_until);
        link.down_busy_until = at;
        if let ToAgent::Command(_) = &message
            && self.random.chance(100)
        {
            let late = self.random.below(8_000);
            self.after(at - now + late, Happening::ToAgent { link: id, message: Box::new(message.clone()) });
        }
        self.after(at - now, Happening::ToAgent { link: id, message: Box::new(message) });
    }

    fn to_aggregator(&mut self, host: usize, message: ToAggregator) {
        let lost = self.setting.mutant == Some(Mutant::BeatsAreLost)
            && matches!(message, ToAggregator::Beat(_))
            && self.random.chance(100);
        let delay = self.delay();
        let now = self.now;
        let Some((id, link)) = self.links.iter_mut().find(|(_, link)| link.host == host) else { return };
        let (id, at) = (*id, (now + delay).max(link.up_busy_until));
        link.up_busy_until = at;
        if !lost {
            self.after(at - now, Happening::ToAggregator { link: id, message: Box::new(message) });
        }
    }

    fn deliver_to_agent(&mut self, link: LinkId, message: ToAgent) {
        let Some((host, life)) = self.links.get(&link).map(|link| (link.host, link.life)) else { return };
        if self.hosts[host].life != life {
            return;
        }
        match message {
            ToAgent::Welcome(welcome) => self.tell_agent(host, AgentEvent::LinkUp { welcome }),
            ToAgent::Refused(_) => self.break_link(host, 2_000),
            ToAgent::BeatSeen { sequence, .. } if self.setting.mutant == Some(Mutant::BeatsAreLost) => {
                self.tell_agent(host, AgentEvent::Received(ToAgent::BeatSeen { sequence, want_snapshot: false }));
            }
            other => self.tell_agent(host, AgentEvent::Received(other)),
        }
    }

    fn deliver_to_aggregator(&mut self, link: LinkId, message: ToAggregator) {
        if !self.links.contains_key(&link) {
            return;
        }
        match message {
            ToAggregator::Document { sealed } => {
                if let Ok(intent) = codec::decode::<Intent>(&sealed) {
                    self.tell_aggregator(Event::DocumentOffered { link, intent: Box::new(intent) });
                }
            }
            other => self.tell_aggregator(Event::Received { link, message: other }),
        }
    }

    // The aggregator.

    fn start_aggregator(&mut self) {
        if self.aggregator.grid.is_some() {
            return;
        }
        if std::mem::take(&mut self.lost_data) {
            self.data_life += 1;
        }
        self.note("aggregator starts".into());
        self.aggregator.begin_life(self.setting.mutant);
        self.tell_aggregator(Event::Tick);
    }

    pub(crate) fn kill_aggregator(&mut self) {
        self.aggregator.grid = None;
        for host in 0..self.hosts.len() {
            let linked = self.links.values().any(|link| link.host == host);
            if linked {
                let wait = 500 + self.random.below(5_000);
                self.break_link(host, wait);
            }
        }
        self.links.clear();
    }

    pub(crate) fn tell_aggregator(&mut self, event: Event) {
        let (now, wall) = (Time(self.now), Stamp(1_800_000_000_000 + self.now));
        let Some(grid) = self.aggregator.grid.as_mut() else { return };
        let actions = grid.on(now, wall, event);
        for action in actions {
            self.do_for_aggregator(action);
        }
        self.wake_aggregator();
    }

    fn wake_aggregator(&mut self) {
        let Some(at) = self.aggregator.grid.as_ref().and_then(|grid| grid.deadline()) else { return };
        let at = at.0.max(self.now + 1);
        if self.wakes.get(&Who::Aggregator).is_none_or(|planned| *planned > at) {
            self.wakes.insert(Who::Aggregator, at);
            self.after(at - self.now, Happening::Wake(Who::Aggregator));
        }
    }

    fn do_for_aggregator(&mut self, action: Action) {
        match action {
            Action::Persist { intent, generation, operations } => {
                for change in &intent {
                    self.aggregator.intent.apply(change);
                }
                self.aggregator.intent.generation = generation;
                if generation > Generation(0) {
                    self.aggregator.empty = false;
                }
                for operation in operations {
                    if operation.state.ended() {
                    } else if operation.verb == Verb::Reset {
                        self.resets_asked.push(operation.guest);
                    }
                    self.aggregator.operations.insert(operation.id, operation);
                }
            }
            Action::Send { link, message } => {
                let welcomed = matches!(message, ToAgent::Welcome(_));
                self.to_agent(link, message);
                if welcomed {
                    self.spread(Some(link));
                }
            }
            Action::Refuse { link, refused } => {
                self.to_agent(link, ToAgent::Refused(refused));
            }
            Action::Answer { call, reply } => self.answered(call, reply),
            Action::SpreadDocument => self.spread(None),
            Action::Publish { event } => {
                self.note(format!("event {}: {}", event.kind, event.text));
            }
            Action::Disconnect { .. } => {}
        }
    }

    fn spread(&mut self, only: Option<LinkId>) {
        let Some(grid) = self.aggregator.grid.as_ref() else { return };
        let generation = grid.intent().generation;
        if generation == Generation(0) {
            return;
        }
        let sealed = codec::encode(grid.intent());
        let links: Vec<LinkId> =
            self.links.keys().copied().filter(|link| only.is_none_or(|only| only == *link)).collect();
        for link in links {
            self.to_agent(link, ToAgent::Document { generation, sealed: sealed.clone() });
        }
    }

    // The hosts.

    fn start_agent(&mut self, host: usize, booted: bool) {
        if self.hosts[host].agent.is_some() {
            return;
        }
        self.note(format!("agent {host} starts"));
        self.hosts[host].begin_life(self.setting.mutant);
        let life = self.hosts[host].life;
        if self.hosts[host].libvirt_up {
            let domains = self.hosts[host].all_seen();
            self.tell_agent(host, AgentEvent::HypervisorUp { domains, host_booted: booted });
        }
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

    fn libvirt_up(&mut self, host: usize) {
        if !std::mem::replace(&mut self.hosts[host].libvirt_up, true) {
            let domains = self.hosts[host].all_seen();
            self.tell_agent(host, AgentEvent::HypervisorUp { domains, host_booted: false });
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

    fn change_a_guest(&mut self, host: usize, state: PowerState, cause: Cause) {
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

    fn tell_changed(&mut self, host: usize, guest: GuestId) {
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

    fn tell_now(&mut self, host: usize, event: AgentEvent) {
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

    fn ledger_failed(&mut self, host: usize, mut lost: Vec<Change>, dropped: Vec<AgentAction>) {
        let mut tasks = Vec::new();
        for action in dropped {
            match action {
                AgentAction::Persist(changes) => lost.extend(changes),
                AgentAction::Run { task, .. } => tasks.push(task),
                AgentAction::Begin { .. }
                | AgentAction::Send(_)
                | AgentAction::KeepDocument { .. }
                | AgentAction::SendDocument
                | AgentAction::List
                | AgentAction::Note { .. } => {}
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

    fn wake_host(&mut self, host: usize) {
        let Some(at) = self.hosts[host].agent.as_ref().and_then(|agent| agent.deadline()) else { return };
        let at = self.hosts[host].true_time(at).max(self.now + 1);
        if self.wakes.get(&Who::Host(host)).is_none_or(|planned| *planned > at) {
            self.wakes.insert(Who::Host(host), at);
            self.after(at - self.now, Happening::Wake(Who::Host(host)));
        }
    }

    /// The changes that could not be written, if any.
    fn do_for_agent(&mut self, host: usize, action: AgentAction) -> Option<Vec<Change>> {
        match action {
            AgentAction::Persist(changes) => {
                self.note_ends(host, &changes);
                if !self.hosts[host].persist(&changes, self.setting.mutant) {
                    return Some(changes);
                }
            }
            AgentAction::Run { task, what } => {
                self.note(format!("host {host} runs {what:?}"));
                self.hosts[host].tasks.insert(task, what);
                let life = self.hosts[host].life;
                let slow = if self.random.chance(100) { 8_000 } else { 600 };
                let span = 20 + self.random.below(slow);
                self.after(span, Happening::TaskDone { host, life, task });
            }
            AgentAction::Begin { operation } => self.tell_agent(host, AgentEvent::Begin { operation }),
            AgentAction::Send(message) => self.to_aggregator(host, message),
            AgentAction::KeepDocument { generation, sealed } => {
                self.hosts[host].document = sealed;
                self.hosts[host].ledger.document = generation;
            }
            AgentAction::SendDocument => {
                let sealed = self.hosts[host].document.clone();
                self.to_aggregator(host, ToAggregator::Document { sealed });
            }
            AgentAction::List => {
                if self.hosts[host].libvirt_up {
                    let domains = self.hosts[host].all_seen();
                    self.tell_agent(host, AgentEvent::Listed { domains });
                }
            }
            AgentAction::Note { guest, text, .. } => self.note(format!("host {host} notes {guest:?}: {text}")),
        }
        None
    }

    fn note_ends(&mut self, host: usize, changes: &[Change]) {
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

    fn now_meant(&mut self, guest: GuestId, verb: &Verb) {
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
            Verb::Create { start: false, .. } | Verb::Import { .. } | Verb::Manage { power: Power::Stopped } => {
                self.meant.insert(guest, Some(Power::Stopped))
            }
            Verb::Start
            | Verb::Shutdown { .. }
            | Verb::Stop
            | Verb::Pause
            | Verb::Resume
            | Verb::Reset
            | Verb::Delete { .. } => None,
        };
    }

    fn task_done(&mut self, host: usize, life: u64, task: TaskId) {
        let Some(what) = self.hosts[host].tasks.get(&task).cloned() else { return };
        if self.hosts[host].life != life {
            return;
        }
        self.hosts[host].tasks.remove(&task);
        if !self.hosts[host].libvirt_up {
            let failure = Failure { code: FailureCode::HypervisorAway, text: "libvirt is away".into() };
            return self.tell_agent(host, AgentEvent::Finished { task, result: Err(failure) });
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
        let result = result.map(|_| ()).map_err(|text| Failure { code: FailureCode::Hypervisor, text });
        self.tell_agent(host, AgentEvent::Finished { task, result });
    }
}
