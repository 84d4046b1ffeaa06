//! One host whose tasks end at once, or by hand.

use std::collections::{BTreeMap, BTreeSet};

use roost_protocol::backup::{
    BackupBeat, BackupPolicy, BackupSummary, Consistency, Damage, Peer, Proof, Pulling, Schedule, SetSummary, Share,
    Target, Why,
};
use roost_protocol::guest::PowerState;
use roost_protocol::host::{HostSample, Pressure};
use roost_protocol::message::{ToAgent, ToAggregator, Welcome};
use roost_protocol::operation::{Command, Failure, FailureCode, Outcome, Verb};
use roost_protocol::{Epoch, Generation, GridId, GuestId, HostId, MiB, Millis, OperationId, PointId, Stamp, Time};

use crate::agent::Agent;
use crate::event::{Action, Cause, Event, Lane, Made, Seen, Task, TaskId, TaskResult};
use crate::failover::GuardWish;
use crate::ledger::{Change, Kept};
use crate::sample::config;

pub(super) const HOUR: u64 = 3_600_000;
pub(super) const OWN: HostId = HostId::from_u128(1);
/// How long a task takes.
const TAKES: u64 = 1_000;
/// 2026-01-01 00:00 UTC.
pub(super) const BEGIN: u64 = 1_767_225_600_000;

pub(super) fn guest(number: u128) -> GuestId {
    GuestId::from_u128(number)
}

pub(super) fn policy(expression: &str) -> BackupPolicy {
    let schedule = Some(Schedule { expression: expression.into(), ..Schedule::default() });
    BackupPolicy { generation: Generation(1), schedule, ..BackupPolicy::default() }
}

pub(super) fn peer(host: u128) -> Peer {
    Peer {
        host: HostId::from_u128(host),
        name: format!("host-{host}"),
        addresses: vec!["192.0.2.1:4434".into()],
        key: [0; 32],
        zone: String::new(),
        total: 1 << 40,
        free: 1 << 39,
        replicas: 0,
        up: true,
    }
}

pub(super) fn summary(number: u128, guest: GuestId, at: u64) -> BackupSummary {
    BackupSummary {
        point: PointId::from_u128(number),
        guest,
        guest_name: format!("guest-{}", u128::from_be_bytes(guest.bytes())),
        origin: OWN,
        started: Stamp(at),
        finished: Stamp(at),
        why: Why::Schedule,
        consistency: Consistency::Crash,
        parent: None,
        size: 1 << 30,
        read: 1,
        stored: 1,
        pinned: false,
        proof: Proof::Untried,
        copies: Vec::new(),
        damaged: None,
        note: String::new(),
        meant: roost_protocol::backup::Meant::Run,
        priority: 0,
    }
}

#[derive(Debug)]
pub(super) struct Rig {
    pub(super) agent: Agent,
    pub(super) kept: Kept,
    time: u64,
    pub(super) wall: u64,
    pub(super) guests: BTreeMap<GuestId, PowerState>,
    /// Tasks and when they end.
    pub(super) tasks: BTreeMap<TaskId, (Task, u64)>,
    pub(super) cancelled: BTreeSet<TaskId>,
    /// The store on disk.
    store: BTreeMap<PointId, BackupSummary>,
    next_point: u128,
    next_operation: u128,
    outcomes: BTreeMap<OperationId, Option<FailureCode>>,
    /// What the aggregator knew of sets when the last operation ended.
    pub(super) told_at_the_end: BTreeMap<GuestId, SetSummary>,
    pub(super) told_sets: BTreeMap<GuestId, SetSummary>,
    pub(super) told_shares: Vec<Share>,
    pub(super) pulls: Vec<Pulling>,
    pub(super) log: Vec<String>,
    /// Hosts that are dealt with.
    pub(super) heard: Vec<HostId>,
    pub(super) tries: u32,
    pub(super) most_at_once: usize,
    // What goes wrong.
    pub(super) by_hand: bool,
    /// The list that is asked for comes when [`Rig::list`] is called.
    pub(super) lists_late: bool,
    asked: u64,
    pub(super) broken: Option<FailureCode>,
    pub(super) peers_gone: bool,
    pub(super) gone: Option<HostId>,
    /// Whether it has a guard, from the next restart on.
    pub(super) guarded: bool,
    pub(super) guard: GuardWish,
    pub(super) proofs_fail: bool,
    pub(super) damaged: BTreeSet<PointId>,
}

impl Rig {
    pub(super) fn new(guests: u128) -> Self {
        let mut rig = Self {
            agent: Agent::new(config(OWN, false), Kept::default()),
            kept: Kept::default(),
            time: 1_000,
            wall: BEGIN,
            guests: (1..=guests).map(|number| (guest(number), PowerState::Running)).collect(),
            tasks: BTreeMap::new(),
            cancelled: BTreeSet::new(),
            store: BTreeMap::new(),
            next_point: 1_000,
            next_operation: 1,
            outcomes: BTreeMap::new(),
            told_at_the_end: BTreeMap::new(),
            told_sets: BTreeMap::new(),
            told_shares: Vec::new(),
            pulls: Vec::new(),
            lists_late: false,
            asked: 0,
            log: Vec::new(),
            heard: Vec::new(),
            tries: 0,
            most_at_once: 0,
            by_hand: false,
            broken: None,
            peers_gone: false,
            gone: None,
            guarded: false,
            guard: GuardWish::default(),
            proofs_fail: false,
            damaged: BTreeSet::new(),
        };
        rig.begin();
        rig
    }

    fn begin(&mut self) {
        let domains = self.guests.keys().map(|guest| self.seen(*guest)).collect();
        self.tell(Event::HypervisorUp { domains, host_booted: false });
        self.open_store();
    }

    pub(super) fn open_store(&mut self) {
        self.tell(Event::StoreOpened { points: self.store.values().cloned().collect() });
    }

    /// The agent dies and comes back; its monotonic clock begins anew.
    pub(super) fn restart(&mut self) {
        self.tasks.clear();
        self.guard = GuardWish::default();
        self.time = 0;
        self.agent = Agent::new(config(OWN, self.guarded), self.kept.clone());
        self.begin();
    }

    /// Time passes while nobody looks.
    pub(super) fn sleep(&mut self, span: u64) {
        self.wall += span;
    }

    pub(super) fn now(&self) -> Time {
        Time(self.time)
    }

    fn seen(&self, guest: GuestId) -> Seen {
        Seen {
            guest,
            name: format!("guest-{}", u128::from_be_bytes(guest.bytes())),
            state: self.guests[&guest],
            cause: if self.guests[&guest] == PowerState::Paused { Cause::ByUser } else { Cause::Crashed },
            persistent: true,
            vcpus: 1,
            memory_mib: MiB(64),
            disks: Vec::new(),
        }
    }

    pub(super) fn set_state(&mut self, number: u128, state: PowerState) {
        self.guests.insert(guest(number), state);
        self.tell(Event::Changed { domain: self.seen(guest(number)) });
    }

    /// Tells all domains, as read so many lists ago.
    pub(super) fn list(&mut self, ago: u64) {
        let domains = self.guests.keys().map(|guest| self.seen(*guest)).collect();
        self.tell(Event::Listed { asked: self.asked - ago, domains });
    }

    /// Another host brings a point.
    pub(super) fn brought(&mut self, point: BackupSummary) {
        self.store.insert(point.point, point.clone());
        self.tell(Event::Kept { point });
    }

    pub(super) fn pressure(&mut self, io_centi: u32) {
        self.pressed(Pressure { io_centi, ..Pressure::default() });
    }

    pub(super) fn pressed(&mut self, pressure: Pressure) {
        let pressure = Some(pressure);
        self.tell(Event::Sampled { host: HostSample { pressure, ..HostSample::default() }, guests: Vec::new() });
    }

    pub(super) fn link(&mut self) {
        let welcome = Welcome { version: 3, grid: GridId::from_u128(1), epoch: Epoch(1), document: Generation(0) };
        self.tell(Event::LinkUp { welcome });
    }

    pub(super) fn peers(&mut self, peers: Vec<Peer>) {
        let (shares, probes) = (Vec::new(), Vec::new());
        self.tell(Event::Received(ToAgent::Peers {
            peers,
            shares,
            maintenance: None,
            zone: None,
            probes,
            memory: None,
        }));
    }

    pub(super) fn tell(&mut self, event: Event) {
        let actions = self.agent.on(Time(self.time), Stamp(self.wall), event);
        for action in actions {
            self.act(action);
        }
        let reads = |task: &Task| matches!(task, Task::Backup { order, .. } if order.why != Why::Replica);
        self.most_at_once = self.most_at_once.max(self.tasks.values().filter(|(task, _)| reads(task)).count());
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Persist(changes) => changes.into_iter().for_each(|change| self.keep(change)),
            Action::Run { task, what } => {
                self.log.push(format!("run {what:?}"));
                self.tasks.insert(task, (what, self.time + TAKES));
            }
            Action::Cancel { task } => {
                self.log.push(format!("cancel {}", task.0));
                self.cancelled.insert(task);
            }
            Action::Begin { operation } => self.tell(Event::Begin { operation }),
            Action::Send(ToAggregator::Outcome(Outcome { operation, failure })) => {
                self.log.push("outcome".into());
                self.outcomes.insert(operation, failure.map(|failure| failure.code));
                self.told_at_the_end = self.told_sets.clone();
            }
            Action::Send(ToAggregator::Snapshot(snapshot)) => self.told(*snapshot.backup.unwrap_or_default()),
            Action::Send(ToAggregator::Beat(beat)) => self.told(*beat.backup.unwrap_or_default()),
            Action::List(asked) => {
                self.asked = asked;
                if !self.lists_late {
                    self.list(0);
                }
            }
            Action::Send(_) | Action::KeepDocument { .. } | Action::SendDocument => {}
            Action::Fence { .. } | Action::Memory(_) => {}
            Action::Guard(wish) => self.guard = *wish,
            Action::Peers { peers, .. } => self.heard = peers.iter().map(|peer| peer.host).collect(),
            Action::Note { text, .. } => self.log.push(text),
        }
    }

    fn told(&mut self, told: BackupBeat) {
        self.told_sets.extend(told.sets.into_iter().map(|set| (set.guest, set)));
        if let Some(pulls) = told.pulls {
            self.log.push(format!("pulls {}", pulls.len()));
            self.pulls = pulls;
        }
        self.told_shares = told.shares.unwrap_or(std::mem::take(&mut self.told_shares));
    }

    fn keep(&mut self, change: Change) {
        match change {
            Change::Policy { guest, policy: Some(policy) } => drop(self.kept.policies.insert(guest, *policy)),
            Change::Policy { guest, policy: None } => drop(self.kept.policies.remove(&guest)),
            Change::Run { guest, run: Some(run) } => drop(self.kept.runs.insert(guest, *run)),
            Change::Run { guest, run: None } => drop(self.kept.runs.remove(&guest)),
            Change::Peers(peers) => self.kept.peers = peers,
            Change::Shares(shares) => self.kept.shares = shares,
            Change::Maintenance(it) => self.kept.maintenance = it,
            Change::Zone(zone) => self.kept.zone = zone,
            Change::Probes(probes) => self.kept.probes = probes,
            Change::Memory(policy) => self.kept.memory = policy.map(|policy| *policy),
            Change::Wish { guest, desired: Some(desired) } => drop(self.kept.wishes.insert(guest, desired)),
            Change::Operation { record } => drop(self.kept.operations.insert(record.command.operation, record)),
            Change::Wish { guest, desired: None } => drop(self.kept.wishes.remove(&guest)),
            Change::Forget { .. } | Change::Epoch(_) => {}
        }
    }

    /// Lives for that long, from deadline to deadline; tasks end in their time unless the test ends them.
    pub(super) fn live(&mut self, span: u64) {
        let end = self.time + span;
        loop {
            let due = self.tasks.iter().filter(|_| !self.by_hand).map(|(task, (_, at))| (*at, *task)).min();
            let deadline = self.agent.deadline().map(|at| at.0.max(self.time));
            let next = [due.map(|(at, _)| at), deadline].into_iter().flatten().min().filter(|at| *at <= end);
            let Some(next) = next.map(|at| at.max(self.time)) else { break };
            assert!(next > self.time || due.is_some_and(|(at, _)| at <= self.time) || deadline > Some(self.time - 1));
            self.wall += next - self.time;
            self.time = next;
            match due.filter(|(at, _)| *at <= next) {
                Some((_, task)) => self.end(task),
                None => self.tell(Event::Tick),
            }
        }
        self.wall += end - self.time;
        self.time = end;
        self.tell(Event::Tick);
    }

    fn end(&mut self, task: TaskId) {
        let away = |task: &Task| match task.lane() {
            Lane::Place(Target::Peer { host, .. }) => self.peers_gone || self.gone == Some(host),
            Lane::Place(_) => self.peers_gone,
            Lane::Change | Lane::Read | Lane::Points => false,
        };
        let what = &self.tasks[&task].0;
        let backup = matches!(what, Task::Backup { .. });
        self.tries += u32::from(backup);
        match self.broken {
            _ if self.cancelled.contains(&task) => self.fail(task, FailureCode::Cancelled),
            _ if away(what) => self.fail(task, FailureCode::TargetAway),
            Some(code) if backup => self.fail(task, code),
            Some(_) | None => self.succeed(task),
        }
    }

    pub(super) fn fail(&mut self, task: TaskId, code: FailureCode) {
        self.tasks.remove(&task);
        let result: TaskResult = Err(Failure { code, text: "it went wrong".into() });
        self.tell(Event::Finished { task, result });
    }

    pub(super) fn succeed(&mut self, task: TaskId) {
        let (what, _) = self.tasks.remove(&task).unwrap();
        let made = self.carry_out(&what);
        self.tell(Event::Finished { task, result: Ok(made) });
    }

    fn carry_out(&mut self, what: &Task) -> Made {
        match what {
            Task::Backup { guest, order } => {
                self.next_point += 1;
                let at = self.wall.saturating_sub(TAKES);
                let point = BackupSummary {
                    why: order.why,
                    meant: order.meant,
                    priority: order.priority,
                    ..summary(self.next_point, *guest, at)
                };
                self.store.insert(point.point, point.clone());
                Made::Point(Box::new(point))
            }
            Task::Ship { point, to, .. } => Made::Shipped { point: *point, to: to.clone() },
            Task::Verify { .. } => {
                let damage = |point: &PointId| Damage {
                    guest: what.guest(),
                    point: *point,
                    disk: "vda".into(),
                    from: 0,
                    length: 9,
                    why: "digest".into(),
                };
                Made::Verified { damages: self.damaged.iter().map(damage).collect() }
            }
            Task::Prune { at, remove, .. } => {
                if *at == Target::Local {
                    self.store.retain(|point, _| !remove.contains(point));
                }
                Made::Pruned { removed: remove.clone(), freed: 1 }
            }
            Task::Prove { point, .. } => {
                let at = Stamp(self.wall);
                let failed = Proof::Failed { at, why: "dark".into() };
                let proof = if self.proofs_fail { failed } else { Proof::Proven { at, by: "console".into() } };
                Made::Proven { point: *point, proof }
            }
            Task::Restore { order, guest } => {
                self.guests.insert(*guest, PowerState::Off);
                Made::Restored { pulling: order.at_once }
            }
            Task::Start { guest, .. } => {
                self.guests.insert(*guest, PowerState::Running);
                Made::Nothing
            }
            Task::ForceOff { guest } => {
                self.guests.insert(*guest, PowerState::Off);
                Made::Nothing
            }
            Task::Create { .. }
            | Task::Import { .. }
            | Task::Shutdown { .. }
            | Task::Pause { .. }
            | Task::Resume { .. }
            | Task::Reset { .. }
            | Task::Delete { .. }
            | Task::CleanUp { .. }
            | Task::Pull { .. }
            | Task::Pin { .. } => Made::Nothing,
        }
    }

    /// Gives a command; its id.
    pub(super) fn command(&mut self, number: u128, verb: Verb) -> OperationId {
        let operation = OperationId::from_u128(self.next_operation);
        self.next_operation += 1;
        let budget_ms = Millis(4 * HOUR);
        let command = Command { operation, epoch: Epoch(1), budget_ms, guest: guest(number), verb };
        self.tell(Event::Received(ToAgent::Command(command)));
        operation
    }

    pub(super) fn cancel(&mut self, operation: OperationId) {
        self.tell(Event::Received(ToAgent::Cancel { operation }));
    }

    pub(super) fn follow(&mut self, number: u128, policy: BackupPolicy) {
        let operation = self.command(number, Verb::SetBackupPolicy { policy: Some(Box::new(policy)) });
        assert_eq!(self.outcome(operation), Some(None));
    }

    /// The code of a command that is refused at once.
    pub(super) fn refused(&mut self, number: u128, verb: Verb) -> FailureCode {
        let operation = self.command(number, verb);
        self.outcome(operation).unwrap().unwrap()
    }

    /// None: not ended.
    pub(super) fn outcome(&self, operation: OperationId) -> Option<Option<FailureCode>> {
        self.outcomes.get(&operation).copied()
    }

    /// The one task of that kind.
    pub(super) fn running(&self, which: impl Fn(&Task) -> bool) -> TaskId {
        let found: Vec<TaskId> =
            self.tasks.iter().filter(|(_, (task, _))| which(task)).map(|(task, _)| *task).collect();
        assert_eq!(found.len(), 1, "{:?}", self.tasks);
        found[0]
    }

    pub(super) fn place_of(&self, line: &str) -> usize {
        self.log.iter().position(|other| other.starts_with(line)).unwrap()
    }

    /// Points that are not of a replica, oldest first, as the agent knows them.
    pub(super) fn points(&self, number: u128) -> Vec<PointId> {
        let lasting = |point: &&BackupSummary| point.why != Why::Replica;
        self.agent.backups.sets.of(guest(number)).filter(lasting).map(|point| point.point).collect()
    }

    pub(super) fn alarms(&self) -> Vec<String> {
        self.agent.alarms.keys().map(|(code, _)| code.clone()).collect()
    }

    pub(super) fn alarm_text(&self, code: &str) -> Option<String> {
        self.agent.alarms.values().find(|alarm| alarm.code == code).map(|alarm| alarm.text.clone())
    }
}
