//! The agent's state machine: one door in, `on`, and the order in which its rooms are asked.

use std::collections::BTreeMap;

use roost_protocol::guest::Desired;
use roost_protocol::host::{Alarm, HostFacts, Maintenance};
use roost_protocol::memory::MemoryPolicy;
use roost_protocol::message::{Hello, OLDEST, ToAgent, ToAggregator, VERSION, Welcome};
use roost_protocol::probe::GuestProbes;
use roost_protocol::{Epoch, Generation, GuestId, HostId, Millis, OperationId, Stamp, Time};

use crate::admission::Admission;
use crate::backup::Backups;
use crate::backup::plan::{Limits, Room};
use crate::beat::Beats;
use crate::chain::Chain;
use crate::command::Pending;
use crate::event::{Action, Event, Lane, Task, TaskId};
use crate::failover::Failover;
use crate::fence::Fences;
use crate::guests::{Guests, alive};
use crate::ledger::{Change, Kept, Record, Stage};
use crate::order::Unready;
use crate::right::Rights;
use crate::takeover::Takeovers;

/// What an agent is told once.
#[derive(Clone, Debug)]
pub struct Config {
    pub host: HostId,
    pub facts: HostFacts,
    /// Time between slow full re-reads of all domains.
    pub list_every: Millis,
    /// First and longest wait before a crashed guest is started again; doubles in between.
    pub restart_first: Millis,
    pub restart_longest: Millis,
    /// What this host allows its backups.
    pub backup: Limits,
    /// A guard tells which guests of wards may run here; nothing is started before it was heard.
    pub guarded: bool,
}

/// One host's decisions.
#[derive(Debug)]
pub struct Agent {
    pub(crate) config: Config,
    pub(crate) wishes: BTreeMap<GuestId, Desired>,
    pub(crate) operations: BTreeMap<OperationId, Record>,
    pub(crate) epoch: Epoch,
    pub(crate) document: Generation,
    pub(crate) hypervisor: Hypervisor,
    /// All domains were seen once: what is told of guests is more than nothing.
    pub(crate) looked: bool,
    pub(crate) guests: Guests,
    pub(crate) tasks: BTreeMap<TaskId, Running>,
    next_task: u64,
    pub(crate) pending: Pending,
    pub(crate) beats: Beats,
    pub(crate) backups: Backups,
    pub(crate) rights: Rights,
    pub(crate) takeovers: Takeovers,
    pub(crate) unready: Unready,
    pub(crate) failover: Failover,
    pub(crate) fences: Fences,
    pub(crate) chain: Chain,
    /// What the aggregator said last.
    pub(crate) maintenance: Option<Maintenance>,
    pub(crate) probes: Vec<GuestProbes>,
    /// How dense the host is packed, where an admin said it; else its settings say.
    pub(crate) memory: Option<MemoryPolicy>,
    pub(crate) admission: Admission,
    /// The time of the event that is dealt with.
    pub(crate) clock: Now,
    pub(crate) alarms: BTreeMap<(String, Option<GuestId>), Alarm>,
    /// Changes that the ledger lost; written again when it recovers.
    unsaved: Vec<Change>,
    next_list: Time,
    /// The newest list of all domains that was asked for.
    pub(crate) lists: u64,
}

/// Whether the hypervisor answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hypervisor {
    Unseen,
    Up,
    Down { since: Stamp },
}

/// A task under way and what it is for.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) what: Task,
    pub(crate) purpose: Purpose,
    pub(crate) began: Now,
    /// The guest was off when it began.
    pub(crate) cold: bool,
    /// It was asked to end.
    pub(crate) cancelled: bool,
    /// By somebody who wants no more of it.
    pub(crate) unwanted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Operation(OperationId),
    /// The host's own wish: autostart or restart.
    Wish,
    /// Backups by the host itself: schedule, replica, pruning, upkeep.
    Backup,
    /// A guest whose ward was won is put in place.
    Takeover,
}

/// Now, on both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) time: Time,
    pub(crate) wall: Stamp,
}

impl Agent {
    /// An agent that just started and has seen nothing yet.
    pub fn new(config: Config, kept: Kept) -> Self {
        let pending = Pending::from_kept(&kept.operations);
        let backups = Backups::new(&kept);
        Self {
            rights: Rights::new(config.guarded),
            config,
            wishes: kept.wishes,
            operations: kept.operations,
            epoch: kept.epoch,
            document: kept.document,
            hypervisor: Hypervisor::Unseen,
            looked: false,
            guests: Guests::default(),
            tasks: BTreeMap::new(),
            next_task: 0,
            pending,
            beats: Beats::default(),
            backups,
            takeovers: Takeovers::new(),
            unready: Unready::new(),
            failover: Failover::knowing(kept.probes.clone()),
            fences: Fences::default(),
            chain: Chain::default(),
            maintenance: kept.maintenance,
            probes: kept.probes,
            memory: kept.memory,
            admission: Admission::default(),
            clock: Now { time: Time(0), wall: Stamp(0) },
            alarms: BTreeMap::new(),
            unsaved: Vec::new(),
            next_list: Time(0),
            lists: 0,
        }
    }

    /// What to do about `event`. `now` is this machine's monotonic clock, `wall` its wall clock, for people only.
    pub fn on(&mut self, now: Time, wall: Stamp, event: Event) -> Vec<Action> {
        let now = Now { time: now, wall };
        self.clock = now;
        let mut actions = self.take_in(now, event);
        self.begin_operations(now, &mut actions);
        self.yield_guests(now, &mut actions);
        self.await_answers(now, &mut actions);
        self.begin_takeovers(now, &mut actions);
        self.begin_fences(now, &mut actions);
        self.keep_failover(&mut actions);
        self.keep_chain(now);
        self.keep_wishes(now, &mut actions);
        self.keep_backups(now, &mut actions);
        if now.time >= self.next_list && self.hypervisor == Hypervisor::Up {
            self.next_list = now.time + self.config.list_every;
            self.list(&mut actions);
        }
        self.tell(now, &mut actions);
        actions
    }

    /// Adds what is due to be told; a guest's new state, and what there is of its points, goes before the end of the command
    /// that brought it.
    fn tell(&mut self, now: Now, actions: &mut Vec<Action>) {
        let outcome = |action: &Action| matches!(action, Action::Send(ToAggregator::Outcome(_)));
        let place = actions.iter().position(outcome);
        if place.is_some() && (!self.guests.dirty.is_empty() || self.backups.dirty()) {
            self.beats.at_once(now.time);
        }
        let mut beat = Vec::new();
        self.beat(now, &mut beat);
        let place = place.unwrap_or(actions.len());
        actions.splice(place..place, beat);
    }

    /// When the core wants to be told [`Event::Tick`] at the latest.
    pub fn deadline(&self) -> Option<Time> {
        let list = (self.hypervisor == Hypervisor::Up).then_some(self.next_list);
        let guests = self.guests.deadline(self.clock.time);
        let others = [self.beats.deadline(), self.pending.deadline(), guests, self.backups.deadline()];
        let others = others.into_iter().chain([self.takeover_deadline(), self.fences.deadline()]);
        others.chain([list]).flatten().min()
    }

    /// The first message of a connection.
    pub fn hello(&self, wall: Stamp) -> Hello {
        Hello {
            newest: VERSION,
            oldest: OLDEST,
            host: self.config.host,
            facts: self.config.facts.clone(),
            epoch: self.epoch,
            document: self.document,
            clock: wall,
        }
    }

    fn take_in(&mut self, now: Now, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Tick => {}
            Event::HypervisorUp { domains, host_booted } => self.hypervisor_up(now, domains, host_booted, &mut actions),
            Event::HypervisorDown { why } => self.hypervisor_down(now, why, &mut actions),
            Event::Listed { asked, domains } => self.listed(now, asked, domains, &mut actions),
            Event::Changed { domain } => self.changed(now, domain, &mut actions),
            Event::Gone { guest } => self.gone(guest),
            Event::LinkUp { welcome } => self.link_up(now, welcome, &mut actions),
            Event::LinkDown => self.beats.link_down(),
            Event::Received(message) => self.received(now, message, &mut actions),
            Event::Finished { task, result } => self.finished(now, task, result, &mut actions),
            Event::Advanced { task, percent, step } => self.advanced(task, percent, step, &mut actions),
            Event::Sampled { host, guests } => {
                self.backups.pressure = host.pressure;
                self.answer_seen(&guests);
                self.beats.sampled(host, guests);
            }
            Event::Begin { operation } => self.pending.written(operation),
            Event::LedgerFailed { lost, why } => self.ledger_failed(now, lost, why, &mut actions),
            Event::LedgerRecovered => self.ledger_recovered(&mut actions),
            Event::Condition { alarm, raised } => self.condition(alarm, raised),
            Event::Facts(facts) => self.facts_told(facts),
            Event::StoreOpened { points } => self.store_opened(now, points),
            Event::StoreAway { why } => self.store_away(now, &why),
            Event::StoreRoom { total, free, used } => self.store_room(now, Room { total, free, used }),
            Event::Kept { point } => self.kept_here(now, point),
            Event::PeerLied { host, what } => self.peer_lied(now, host, &what, &mut actions),
            Event::NotKept { guest, point } => self.backups.sets.remove(guest, point),
            Event::Rights { guests } => self.rights_told(now, guests, &mut actions),
            Event::GuardSeen(seen) => self.guard_seen(now, *seen),
            Event::GuardNoted { notes } => self.guard_noted(now, notes),
            Event::Room(room) => self.admission.told(now.time, *room),
            Event::Fenced { host, result } => self.fenced(now, host, result),
            Event::GuardAway { why } => self.guard_away(now, &why),
        }
        actions
    }

    fn facts_told(&mut self, facts: HostFacts) {
        if facts != self.config.facts {
            self.config.facts = facts;
            self.beats.facts_changed();
        }
    }

    fn link_up(&mut self, now: Now, welcome: Welcome, actions: &mut Vec<Action>) {
        if welcome.epoch > self.epoch {
            self.epoch = welcome.epoch;
            actions.push(Action::Persist(vec![Change::Epoch(welcome.epoch)]));
        }
        self.beats.link_up(now.time);
        if welcome.document < self.document {
            actions.push(Action::SendDocument);
        }
        self.tell_unseen_outcomes(actions);
    }

    fn received(&mut self, now: Now, message: ToAgent, actions: &mut Vec<Action>) {
        match message {
            ToAgent::Command(command) => self.command(now, command, actions),
            ToAgent::BeatSeen { want_snapshot, .. } => {
                if want_snapshot {
                    self.beats.want_snapshot(now.time);
                }
            }
            ToAgent::OutcomeSeen { operation } => self.outcome_seen(operation, actions),
            ToAgent::Document { generation, sealed } => {
                if generation > self.document {
                    self.document = generation;
                    actions.push(Action::KeepDocument { generation, sealed });
                    self.beats.document_changed();
                    self.beats.hurry(now.time);
                }
            }
            ToAgent::Cancel { operation } => self.cancel(operation, actions),
            ToAgent::Points(query) => actions.push(Action::Send(ToAggregator::Points(self.points_page(&query)))),
            ToAgent::Councils { guards, councils, disarmed } => self.councils_told(guards, councils, disarmed),
            ToAgent::Peers { peers, shares, maintenance, zone, probes, memory } => {
                self.maintained(maintenance, actions);
                self.probes_told(probes, actions);
                self.zone_told(zone.unwrap_or_default(), actions);
                if let Some(order) = memory {
                    self.memory_told(*order, actions);
                }
                self.peers(peers, shares, actions);
            }
            // The link keeps these to itself.
            ToAgent::Welcome(_) | ToAgent::Refused(_) | ToAgent::Certificate { .. } => {}
        }
    }

    /// Numbers a task and asks for it.
    pub(crate) fn run(&mut self, what: Task, purpose: Purpose, actions: &mut Vec<Action>) {
        self.admission_of(&what);
        let task = TaskId(self.next_task);
        self.next_task += 1;
        self.give_way(&what, actions);
        let cold = self.guests.get(what.guest()).is_none_or(|known| !alive(known.seen.state));
        let running =
            Running { what: what.clone(), purpose, began: self.clock, cold, cancelled: false, unwanted: false };
        self.tasks.insert(task, running);
        actions.push(Action::Run { task, what });
    }

    /// Has all domains read again, from now on.
    pub(crate) fn list(&mut self, actions: &mut Vec<Action>) {
        self.lists += 1;
        actions.push(Action::List(self.lists));
    }

    /// True while a task changes this guest.
    pub(crate) fn busy(&self, guest: GuestId) -> bool {
        self.lane_busy(guest, &Lane::Change)
    }

    /// Raises or clears an alarm; an alarm raised again keeps its first time.
    pub(crate) fn condition(&mut self, alarm: Alarm, raised: bool) {
        let key = (alarm.code.clone(), alarm.guest);
        let differs = if raised {
            let since = self.alarms.get(&key).map_or(alarm.since, |old| old.since);
            let alarm = Alarm { since, ..alarm };
            self.alarms.get(&key) != Some(&alarm) && {
                self.alarms.insert(key, alarm);
                true
            }
        } else {
            self.alarms.remove(&key).is_some()
        };
        if differs {
            self.beats.alarms_changed();
        }
    }

    fn ledger_failed(&mut self, now: Now, lost: Vec<Change>, why: String, actions: &mut Vec<Action>) {
        let text =
            format!("the state disk can't be written ({why}); guests go on, new commands are refused: free some space");
        self.condition(Alarm { code: "state-disk".into(), guest: None, since: now.wall, text }, true);
        for change in lost {
            match change {
                Change::Operation { record: Record { command, stage: Stage::Taken } } => {
                    self.give_up_unwritten(command.operation, actions);
                }
                Change::Operation { .. }
                | Change::Wish { .. }
                | Change::Forget { .. }
                | Change::Epoch(_)
                | Change::Policy { .. }
                | Change::Run { .. }
                | Change::Peers(_)
                | Change::Shares(_)
                | Change::Maintenance(_)
                | Change::Zone(_)
                | Change::Probes(_)
                | Change::Memory(_) => {
                    self.unsaved.push(change);
                }
            }
        }
    }

    fn ledger_recovered(&mut self, actions: &mut Vec<Action>) {
        let alarm = Alarm { code: "state-disk".into(), guest: None, since: Stamp(0), text: String::new() };
        self.condition(alarm, false);
        if !self.unsaved.is_empty() {
            actions.push(Action::Persist(std::mem::take(&mut self.unsaved)));
        }
        self.tell_unseen_outcomes(actions);
    }
}
