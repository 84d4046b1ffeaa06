//! Backups in the simulated world: stores that outlive their agents, peers that keep copies, and what must hold of them at
//! every moment. The schedule is each 20 seconds, so that a short life sees many backups.

use std::collections::BTreeSet;

use roost_agent_core::backup::plan::Limits;
use roost_agent_core::event::Event as AgentEvent;
use roost_agent_core::{Lane, Made, Task, TaskId, TaskResult};
use roost_protocol::backup::{
    BackupOptions, BackupPolicy, BackupRun, BackupSummary, Consistency, Damage, Peer, PointQuery, Proof, ReplicaPolicy,
    RestoreAs, RestoreOrder, Retention, Schedule, Target, Why,
};
use roost_protocol::guest::PowerState;
use roost_protocol::operation::{Failure, FailureCode, Verb};
use roost_protocol::{Generation, GuestId, HostId, Millis, PointId, Stamp};

use super::Mutant;
use super::host::Host;
use super::promise::Broken;
use super::world::World;

/// Points that a policy here keeps at least.
const KEEP_LAST: usize = 3;
/// Without a point for so long an alarm must be there: two moments of the schedule, the jitter, and a little.
const LATE: u64 = 20_000 * 2 + 5_000 + 5_000;
/// Alarms are compared with the stores so often, in true time.
const LOOK_EVERY: u64 = 500;
/// A clock that leapt is followed when the agent looks again, at the latest when it lists its guests.
const CLOCK_SEEN: u64 = 40_000;
/// Dated more than that after now, a point counts as one of a clock that was ahead.
const AHEAD: u64 = 3_600_000;

/// What a task had before it when it was begun.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begun {
    wall: u64,
    cold: bool,
}

/// What this host allows its backups: as always, but with waits that a short life sees the end of.
pub(crate) fn limits() -> Limits {
    let (retry_first, retry_longest, verify_every) = (Millis(2_000), Millis(20_000), Millis(60_000));
    Limits { retry_first, retry_longest, verify_every, ..Limits::default() }
}

fn off(host: &Host, guest: GuestId) -> bool {
    host.guests.get(&guest).is_none_or(|machine| matches!(machine.state, PowerState::Off | PowerState::Crashed))
}

fn no(code: FailureCode) -> TaskResult {
    Err(Failure { code, text: "the simulation says no".into() })
}

impl World {
    /// Every host knows its peers and a policy for each guest; every other guest has a replica.
    pub(crate) fn prepare_backups(&mut self) {
        let ids: Vec<HostId> = self.hosts.iter().map(|host| host.id).collect();
        let now = self.now;
        for host in &mut self.hosts {
            host.ledger.peers = ids.iter().filter(|id| **id != host.id).map(|id| peer(*id)).collect();
            let wall = host.wall(now);
            for (number, guest) in host.guests.keys().enumerate() {
                let run = BackupRun { since: Some(wall), slot: Some(wall), ..BackupRun::default() };
                host.ledger.runs.insert(*guest, run);
                host.ledger.policies.insert(*guest, policy(number % 2 == 0));
            }
        }
    }

    pub(crate) fn open_store(&mut self, host: usize) {
        if self.setting.backups {
            let points = self.hosts[host].store.values().cloned().collect();
            self.tell_agent(host, AgentEvent::StoreOpened { points });
            self.tell_room(host);
        }
    }

    pub(crate) fn tell_room(&mut self, host: usize) {
        if self.setting.backups {
            let free = if self.hosts[host].disk_full { 10 } else { 500 };
            self.tell_agent(host, AgentEvent::StoreRoom { total: 1_000, free, used: 100 });
        }
    }

    pub(crate) fn cancel(&mut self, host: usize, task: TaskId) {
        self.note(format!("host {host} cancels task {}", task.0));
        if self.setting.mutant != Some(Mutant::CancelIsLost) {
            self.hosts[host].cancelled.insert(task);
        }
    }

    /// Points made, and late ones that were told of, so far.
    pub fn backups_seen(&self) -> (u64, u64) {
        (self.points, self.late_told)
    }

    /// A task is begun: limits are kept, and nothing overlaps that must not.
    pub(crate) fn backup_begun(&mut self, host: usize, task: TaskId, what: &Task) {
        let (guest, lane) = (what.guest(), what.lane());
        let here = &self.hosts[host];
        let begun = Begun { wall: here.wall(self.now).0, cold: off(here, guest) };
        let others = || here.tasks.values();
        let replica = |what: &Task| matches!(what, Task::Backup { order, .. } if order.why == Why::Replica);
        let reads = |what: &Task| matches!(what, Task::Backup { .. }) && !replica(what);
        let limit = limits();
        let mut wrong = None;
        if others().any(|other| other.guest() == guest && other.lane() == lane) {
            wrong = Some(("one task per guest and lane", format!("{what:?}")));
        } else if reads(what) && others().filter(|other| reads(other)).count() >= limit.backups {
            wrong = Some(("backups at a time are limited", format!("{what:?}")));
        } else if replica(what) && others().filter(|other| replica(other)).count() >= limit.replicas {
            wrong = Some(("deltas at a time are limited", format!("{what:?}")));
        } else if lane == Lane::Read && others().any(|other| prunes(other, guest)) {
            wrong = Some(("nothing is pruned under a backup", format!("{what:?}")));
        }
        if let Some(wrong) = wrong {
            self.backup_broken.get_or_insert(wrong);
        }
        self.hosts[host].begun.insert(task, begun);
    }

    /// Carries out a task on points; none: it is one on guests.
    pub(crate) fn backup_done(&mut self, host: usize, task: TaskId, what: &Task) -> Option<TaskResult> {
        let begun = self.hosts[host].begun.remove(&task)?;
        let cancelled = self.hosts[host].cancelled.remove(&task);
        let read = matches!(what, Task::Backup { .. });
        if what.lane() == Lane::Change && !matches!(what, Task::Restore { .. }) {
            return None;
        }
        if cancelled {
            return Some(no(FailureCode::Cancelled));
        }
        if read && begun.cold && !off(&self.hosts[host], what.guest()) {
            let wrong = ("no point is torn by a start", format!("{what:?} was published"));
            self.backup_broken.get_or_insert(wrong);
        }
        Some(self.carry_out_backup(host, begun, what))
    }

    fn carry_out_backup(&mut self, host: usize, begun: Begun, what: &Task) -> TaskResult {
        match what {
            Task::Backup { guest, order } => self.make_point(host, begun, *guest, order.why, order.pin),
            Task::Ship { guest, point, to, .. } => self.ship(host, *guest, *point, to),
            Task::Prune { guest, at: Target::Local, remove } => Ok(self.prune(host, begun, *guest, remove)),
            Task::Prune { at: Target::Peer { host: peer, .. }, remove, .. } => {
                let Some(peer) = self.reachable(host, *peer) else { return no(FailureCode::TargetAway) };
                self.hosts[peer].held.retain(|point, _| !remove.contains(point));
                Ok(Made::Pruned { removed: remove.clone(), freed: 0 })
            }
            Task::Verify { guest, point } => {
                let checked = |damage: &&PointId| point.is_none_or(|point| point == **damage);
                let here = &self.hosts[host];
                let of_set = |point: &&PointId| here.store.get(point).is_some_and(|summary| summary.guest == *guest);
                let rotten: Vec<PointId> = here.rotten.iter().filter(checked).filter(of_set).copied().collect();
                for point in &rotten {
                    if let Some(summary) = self.hosts[host].store.get_mut(point) {
                        summary.damaged = Some("vda".into());
                    }
                }
                Ok(Made::Verified { damages: rotten.into_iter().map(|point| damage(*guest, point)).collect() })
            }
            Task::Pin { point, pinned, .. } => match self.hosts[host].store.get_mut(point) {
                Some(summary) => {
                    summary.pinned = *pinned;
                    Ok(Made::Nothing)
                }
                None => no(FailureCode::NotFound),
            },
            Task::Restore { guest, order } => {
                if !self.hosts[host].store.contains_key(&order.point) {
                    let wrong = ("a point that is to be restored stays", format!("{what:?}"));
                    self.backup_broken.get_or_insert(wrong);
                }
                if let Some(machine) = self.hosts[host].guests.get_mut(guest) {
                    (machine.state, machine.cause) = (PowerState::Off, roost_agent_core::event::Cause::Destroyed);
                }
                Ok(Made::Restored { pulling: false })
            }
            Task::Prune { .. }
            | Task::Prove { .. }
            | Task::Pull { .. }
            | Task::Create { .. }
            | Task::Import { .. }
            | Task::Start { .. }
            | Task::Shutdown { .. }
            | Task::ForceOff { .. }
            | Task::Pause { .. }
            | Task::Resume { .. }
            | Task::Reset { .. }
            | Task::Delete { .. }
            | Task::CleanUp { .. } => no(FailureCode::Unsupported),
        }
    }

    fn make_point(&mut self, host: usize, begun: Begun, guest: GuestId, why: Why, pinned: bool) -> TaskResult {
        if self.hosts[host].disk_full {
            return no(FailureCode::NoSpace);
        }
        let Some(machine) = self.hosts[host].guests.get(&guest) else { return no(FailureCode::NotFound) };
        self.points += 1;
        let point = PointId::from_u128(u128::from(self.points));
        let consistency = if begun.cold { Consistency::Stopped } else { Consistency::Crash };
        let summary = BackupSummary {
            point,
            guest,
            guest_name: machine.name.clone(),
            origin: self.hosts[host].id,
            started: Stamp(begun.wall),
            finished: self.hosts[host].wall(self.now),
            why,
            consistency,
            parent: None,
            size: 1 << 20,
            read: 1,
            stored: 1,
            pinned,
            proof: Proof::Untried,
            copies: Vec::new(),
            damaged: None,
            note: String::new(),
            meant: roost_protocol::backup::Meant::Run,
            priority: 0,
        };
        if self.random.chance(20) {
            self.hosts[host].rotten.insert(point);
        }
        self.note(format!("host {host} has point {} of {guest}", self.points));
        self.hosts[host].store.insert(point, summary.clone());
        Ok(Made::Point(Box::new(summary)))
    }

    fn ship(&mut self, host: usize, guest: GuestId, point: PointId, to: &Target) -> TaskResult {
        if !self.hosts[host].store.contains_key(&point) {
            let wrong = ("a point that is shipped stays", format!("{point} of {guest}"));
            self.backup_broken.get_or_insert(wrong);
        }
        let Target::Peer { host: peer, .. } = to else { return no(FailureCode::TargetAway) };
        let Some(peer) = self.reachable(host, *peer) else { return no(FailureCode::TargetAway) };
        if peer == host {
            self.backup_broken.get_or_insert(("no host keeps its own replica", format!("{guest}")));
        }
        self.hosts[peer].held.insert(point, guest);
        Ok(Made::Shipped { point, to: to.clone() })
    }

    fn reachable(&self, host: usize, peer: HostId) -> Option<usize> {
        let index = self.hosts.iter().position(|other| other.id == peer)?;
        let there = &self.hosts[index];
        (there.agent.is_some() && !there.cut && !self.hosts[host].cut).then_some(index)
    }

    /// Removes points; what must stay does, whoever asked.
    fn prune(&mut self, host: usize, begun: Begun, guest: GuestId, remove: &[PointId]) -> Made {
        let here = &self.hosts[host];
        let set = || here.store.values().filter(|point| point.guest == guest);
        let now = |point: &&BackupSummary| point.started.0 <= begun.wall + AHEAD;
        let lasting = |point: &&BackupSummary| point.whole() && point.why != Why::Replica;
        let mut newest: Vec<(Stamp, PointId)> =
            set().filter(now).filter(lasting).map(|point| (point.started, point.point)).collect();
        newest.sort_unstable();
        let kept: BTreeSet<PointId> = newest.iter().rev().take(KEEP_LAST).map(|(_, point)| *point).collect();
        let whole_left = set().filter(|point| point.whole() && !remove.contains(&point.point)).count();
        let whole = set().filter(|point| point.whole()).count();
        let read = |task: &Task, point: PointId| {
            matches!(task, Task::Ship { point: other, .. } if *other == point)
                || matches!(task, Task::Restore { order, .. } if order.point == point)
        };
        let mut wrong = None;
        if whole > 0 && whole_left == 0 {
            wrong = Some(("a set is never left without a whole point", format!("{guest}: {remove:?}")));
        }
        for point in remove {
            let pinned = here.store.get(point).is_some_and(|summary| summary.pinned);
            if pinned || (kept.contains(point) && !self.delete_asked.contains(point)) {
                wrong = Some(("no retained point is removed", format!("{point} of {guest}, kept are {kept:?}")));
            }
            if here.tasks.values().any(|task| read(task, *point)) {
                wrong = Some(("no point is removed that is read", format!("{point} of {guest}")));
            }
        }
        if let Some(wrong) = wrong {
            self.backup_broken.get_or_insert(wrong);
        }
        self.note(format!("host {host} prunes {} points of {guest}", remove.len()));
        self.hosts[host].store.retain(|point, _| !remove.contains(point));
        Made::Pruned { removed: remove.to_vec(), freed: 1 }
    }

    /// A random wish about backups of this guest.
    pub(crate) fn backup_wish(&mut self, host: usize, guest: GuestId) -> Verb {
        let points: Vec<PointId> =
            self.hosts[host].store.values().filter(|point| point.guest == guest).map(|point| point.point).collect();
        let point = if points.is_empty() { PointId::from_u128(0) } else { points[self.random.index(points.len())] };
        match self.random.below(8) {
            0 => Verb::PinPoint { point, pinned: self.random.chance(500) },
            1 => {
                self.delete_asked.insert(point);
                Verb::DeletePoint { point, even_last: false }
            }
            2 => Verb::VerifyBackup { point: None },
            3 => Verb::PruneNow,
            4 => {
                let (from, to_be, start) = (Target::Local, RestoreAs::AsItWas, self.random.chance(500));
                let order = RestoreOrder { set: guest, point, from, to_be, start, at_once: false };
                Verb::Restore { order: Box::new(order) }
            }
            _ => Verb::Backup { options: BackupOptions::default() },
        }
    }

    /// Where no point was made in time, people are told.
    pub(crate) fn late_ones_are_told(&mut self) -> Result<(), Broken> {
        const PROMISE: &str = "a late backup is told";
        if self.now < self.late_looked + LOOK_EVERY {
            return Ok(());
        }
        self.late_looked = self.now;
        let mut late = 0;
        for host in self.hosts.iter().filter(|host| host.looked && self.now >= host.clock_moved + CLOCK_SEEN) {
            let Some(agent) = &host.agent else { continue };
            let wall = host.wall(self.now).0;
            for guest in host.ledger.policies.keys().filter(|guest| host.guests.contains_key(guest)) {
                let counts = |point: &&BackupSummary| {
                    point.guest == *guest
                        && point.why != Why::Replica
                        && point.whole()
                        && point.started.0 <= wall + AHEAD
                };
                let newest = host.store.values().filter(counts).map(|point| point.started).max();
                let since = host.ledger.runs.get(guest).and_then(|run| run.since);
                let told = agent.raised().any(|alarm| alarm.code == "backup-late" && alarm.guest == Some(*guest));
                let reference = newest.max(since.filter(|since| since.0 <= wall));
                let is_late = reference.is_some_and(|at| wall > at.0 + LATE);
                late += u64::from(is_late);
                if is_late && !told {
                    return Err(self.broken(PROMISE, format!("{guest}: newest {newest:?}, now {wall}")));
                }
            }
        }
        self.late_told += late;
        Ok(())
    }

    /// True while a guest whose backup is late is being backed up, as when its newest point was just found damaged.
    pub(crate) fn is_catching_up(&self) -> bool {
        self.hosts.iter().any(|host| {
            let late = host.agent.iter().flat_map(|agent| agent.raised()).filter(|alarm| alarm.code == "backup-late");
            let late: BTreeSet<GuestId> = late.filter_map(|alarm| alarm.guest).collect();
            host.tasks.values().any(|task| matches!(task, Task::Backup { guest, .. } if late.contains(guest)))
        })
    }

    /// After faults heal: every point is known, backups are made again, replicas follow, and alarms are gone.
    pub(crate) fn backups_are_well(&self) -> Result<(), Broken> {
        if !self.setting.backups {
            return Ok(());
        }
        for host in &self.hosts {
            let Some(agent) = &host.agent else { continue };
            let page = agent.points_page(&PointQuery { limit: 200, ..PointQuery::default() });
            let known: BTreeSet<PointId> = page.points.iter().map(|point| point.point).collect();
            let stored: BTreeSet<PointId> = host.store.keys().copied().collect();
            if known != stored && !page.more {
                return Err(self.broken("an agent knows the points of its store", format!("{known:?} {stored:?}")));
            }
            const CODES: [&str; 6] =
                ["backup-late", "backup-failed", "replica-lag", "replica-broken", "store-filling", "store-away"];
            if let Some(alarm) = agent.raised().find(|alarm| CODES.contains(&alarm.code.as_str())) {
                return Err(self.broken("alarms about backups end when all is well", format!("{alarm:?}")));
            }
            for (guest, policy) in host.ledger.policies.iter().filter(|(guest, _)| host.guests.contains_key(guest)) {
                let lasting = |point: &&BackupSummary| point.guest == *guest && point.why != Why::Replica;
                let points = host.store.values().filter(lasting).count();
                if points < KEEP_LAST {
                    return Err(self.broken("backups are made whatever goes wrong", format!("{guest}: {points}")));
                }
                let held = |other: &Host| other.id != host.id && other.held.values().any(|held| held == guest);
                if policy.replica.is_some() && !self.hosts.iter().any(held) {
                    return Err(self.broken("a replica is kept by another host", format!("{guest}")));
                }
            }
        }
        Ok(())
    }
}

fn prunes(task: &Task, guest: GuestId) -> bool {
    matches!(task, Task::Prune { guest: other, at: Target::Local, .. } if *other == guest)
}

fn damage(guest: GuestId, point: PointId) -> Damage {
    Damage { guest, point, disk: "vda".into(), from: 0, length: 1, why: "flipped".into() }
}

fn policy(replicated: bool) -> BackupPolicy {
    let replica = ReplicaPolicy { host: None, every: Millis(5_000), max_lag: Millis(20_000), failover: false };
    BackupPolicy {
        generation: Generation(1),
        schedule: Some(Schedule { expression: "*:*:0/20".into(), jitter: Millis(5_000), zone: None }),
        retention: Retention { last: 3, ..Retention::default() },
        replica: replicated.then_some(replica),
        ..BackupPolicy::default()
    }
}

fn peer(host: HostId) -> Peer {
    Peer {
        host,
        name: String::new(),
        addresses: Vec::new(),
        key: [0; 32],
        zone: String::new(),
        total: 1 << 40,
        free: 1 << 39,
        replicas: 0,
        up: true,
    }
}
