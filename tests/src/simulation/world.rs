//! The world: true time, what happens next, and the network between the cores.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

use roost_agent_core::TaskId;
use roost_agent_core::event::Event as AgentEvent;
use roost_aggregator_core::event::{Event, LinkId};
use roost_protocol::guest::Power;
use roost_protocol::message::{ToAgent, ToAggregator};
use roost_protocol::{GuestId, OperationId, PointId};

use super::Mutant;
use super::aggregator::Aggregator;
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
    /// Guests have backup policies and replicas.
    pub backups: bool,
    /// No aggregator lives until faults heal.
    pub alone: bool,
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
    pub(crate) links: BTreeMap<LinkId, Link>,
    pub(crate) next_link: u64,
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
    pub(crate) ended: BTreeSet<OperationId>,
    pub(crate) wakes: BTreeMap<Who, u64>,
    /// Events for agents, in order; one is finished before the next is begun.
    pub(crate) inbox: VecDeque<(usize, AgentEvent)>,
    pub(crate) telling: bool,
    pub(crate) quiet: bool,
    /// Points made so far, on all hosts.
    pub(crate) points: u64,
    /// Points that somebody asked to delete.
    pub(crate) delete_asked: BTreeSet<PointId>,
    /// The promise about backups that broke on the way.
    pub(crate) backup_broken: Option<(&'static str, String)>,
    pub(crate) late_looked: u64,
    pub(crate) late_told: u64,
}

/// One connection, as both sides believe it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) host: usize,
    pub(crate) life: u64,
    pub(crate) up_busy_until: u64,
    pub(crate) down_busy_until: u64,
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
            points: 0,
            delete_asked: BTreeSet::new(),
            backup_broken: None,
            late_looked: 0,
            late_told: 0,
        };
        if setting.backups {
            world.prepare_backups();
        }
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
            if let Some((promise, detail)) = &self.backup_broken {
                return Err(self.broken(promise, detail.clone()));
            }
            if self.setting.backups {
                self.late_ones_are_told()?;
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

    pub(crate) fn happen(&mut self, happening: Happening) {
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
                    self.tell_room(host);
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
}
