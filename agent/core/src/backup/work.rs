//! What begins now: backups by command and schedule, deltas of replicas, copies, pruning, and upkeep when all is quiet.

use std::collections::BTreeMap;

use roost_protocol::backup::{BackupOptions, BackupSummary, Freeze, Target, Why};
use roost_protocol::failover::MAX_RPO;
use roost_protocol::guest::PowerState;
use roost_protocol::operation::Verb;
use roost_protocol::{GuestId, Millis, OperationId, PointId, Stamp, Time};

use super::plan::{self, Limits, Waiting};
use super::replica::Age;
use super::retention::expired;
use super::{Care, Store};
use crate::agent::{Agent, Hypervisor, Now, Purpose};
use crate::command::Phase;
use crate::event::{Action, BackupOrder, Lane, Task};
use crate::guests::alive;

/// A guest that is off is told of anew after this: well within the age up to which a copy is taken over from.
const TOLD_AGAIN: Millis = Millis(MAX_RPO.0 / 2);

impl Agent {
    pub(super) fn begin_backup_work(&mut self, now: Now, actions: &mut Vec<Action>) {
        if self.backups.store != Store::Open {
            return;
        }
        self.begin_pulls(now, actions);
        self.begin_prunes(now, actions);
        if self.hypervisor == Hypervisor::Up && !self.backups.held {
            self.begin_branches(now, actions);
            self.begin_backups(now, actions);
            self.begin_deltas(now, actions);
        }
        self.begin_ships(now, actions);
        self.begin_upkeep(now, actions);
    }

    pub(super) fn backups_running(&self, replica: bool) -> usize {
        let counted =
            |what: &Task| matches!(what, Task::Backup { order, .. } if (order.why == Why::Replica) == replica);
        self.tasks.values().filter(|running| counted(&running.what)).count()
    }

    /// True while a backup reads the guest; deltas of its replica don't count.
    pub(super) fn backing_up(&self, guest: GuestId) -> bool {
        self.tasks.values().any(|running| {
            matches!(&running.what, Task::Backup { guest: other, order } if *other == guest && order.why != Why::Replica)
        })
    }

    /// Nothing reads the guest, changes it, or prunes what a backup would be built upon.
    pub(super) fn readable(&self, guest: GuestId) -> bool {
        self.readable_for(guest, false)
    }

    fn readable_for(&self, guest: GuestId, delta: bool) -> bool {
        let Some(known) = self.guests.get(guest) else { return false };
        let pruning = |what: &Task| matches!(what, Task::Prune { guest: other, .. } if *other == guest);
        known.seen.state != PowerState::Unknown
            && !self.lane_busy(guest, &Lane::Read)
            && !self.busy(guest)
            && !self.keeps_readers_off(guest, delta)
            && !self.tasks.values().any(|running| pruning(&running.what))
    }

    fn begin_backups(&mut self, now: Now, actions: &mut Vec<Action>) {
        let mut asked: BTreeMap<GuestId, OperationId> = BTreeMap::new();
        let mut waiting = Vec::new();
        for operation in self.pending.first_per_guest() {
            if let Some(guest) = self.backup_asked(operation)
                && self.readable(guest)
            {
                asked.insert(guest, operation);
                waiting.push(Waiting { guest, asked: true, priority: 0, late: Millis(0) });
            }
        }
        for (guest, care) in &self.backups.cares {
            let Some(late) = due(care, now) else { continue };
            if !asked.contains_key(guest) && self.goes_on_here(*guest) && self.readable(*guest) {
                let priority = care.policy.as_ref().map_or(0, |policy| policy.priority);
                waiting.push(Waiting { guest: *guest, asked: false, priority, late });
            }
        }
        if waiting.is_empty() {
            return;
        }
        let limits = &self.config.backup;
        let pressed = limits.pressed(self.backups.pressure);
        for guest in plan::choose(limits, self.backups_running(false), pressed, waiting) {
            match asked.get(&guest) {
                Some(operation) => self.begin_asked(*operation, actions),
                None => self.begin_scheduled(guest, actions),
            }
        }
    }

    /// The guest of a command for a backup that waits.
    fn backup_asked(&self, operation: OperationId) -> Option<GuestId> {
        let entry = self.pending.entries.get(&operation)?;
        let command = &self.operations.get(&operation)?.command;
        let waits = matches!(entry.phase, Phase::Waiting { .. });
        (waits && matches!(command.verb, Verb::Backup { .. })).then_some(entry.guest)
    }

    fn begin_asked(&mut self, operation: OperationId, actions: &mut Vec<Action>) {
        let Some(command) = self.operations.get(&operation).map(|record| record.command.clone()) else { return };
        let Verb::Backup { options } = &command.verb else { return };
        let BackupOptions { freeze, full, pin, label } = options.clone();
        let full = full || self.backups.cares.get(&command.guest).is_some_and(|care| care.full_next);
        let order = BackupOrder {
            why: Why::Command,
            freeze,
            full,
            pin,
            note: label,
            meant: self.meant(command.guest),
            priority: self.priority(command.guest),
            bandwidth: self.read_bandwidth(),
        };
        // The set shows that one is being made.
        self.backups.sets.dirty.insert(command.guest);
        self.work(&command, Task::Backup { guest: command.guest, order }, actions);
    }

    fn begin_scheduled(&mut self, guest: GuestId, actions: &mut Vec<Action>) {
        let Some(care) = self.backups.cares.get(&guest) else { return };
        let freeze = care.policy.as_ref().map_or(Freeze::Try, |policy| policy.freeze);
        let order = BackupOrder {
            why: Why::Schedule,
            freeze,
            full: care.full_next,
            meant: self.meant(guest),
            priority: self.priority(guest),
            bandwidth: self.read_bandwidth(),
            ..BackupOrder::default()
        };
        self.backups.sets.dirty.insert(guest);
        self.run(Task::Backup { guest, order }, Purpose::Backup, actions);
    }

    pub(super) fn read_bandwidth(&self) -> Option<u64> {
        Limits::share(self.config.backup.read_bandwidth, self.config.backup.backups)
    }

    fn begin_deltas(&mut self, now: Now, actions: &mut Vec<Action>) {
        let wanted: Vec<GuestId> = self
            .backups
            .cares
            .iter()
            .filter(|(_, care)| care.policy.as_ref().is_some_and(|policy| policy.replica.is_some()))
            .map(|(guest, _)| *guest)
            .filter(|guest| self.is_primary(*guest) && self.goes_on_here(*guest))
            .collect();
        for guest in wanted {
            self.drop_stranded(guest);
            let since = self.backups.cares.get_mut(&guest).map(|care| *care.replica.since.get_or_insert(now.time));
            let ready = since.is_some() && self.delta_due(guest, now) && self.readable_for(guest, true);
            if ready && self.backups_running(true) < self.config.backup.replicas && self.place_replica(guest, actions) {
                let order = BackupOrder {
                    why: Why::Replica,
                    freeze: Freeze::Never,
                    full: self.backups.cares.get(&guest).is_some_and(|care| care.full_next),
                    meant: self.meant(guest),
                    priority: self.priority(guest),
                    ..BackupOrder::default()
                };
                self.run(Task::Backup { guest, order }, Purpose::Backup, actions);
            }
        }
    }

    /// Whether the next delta is to be made. A guest that has been off since the last one has nothing new: its copy is
    /// as good as new, until the host that has it would take it for too old, or the guest is meant otherwise.
    fn delta_due(&mut self, guest: GuestId, now: Now) -> bool {
        let off_since = self.guests.get(guest).filter(|known| !alive(known.seen.state)).map(|known| known.since_time);
        let off_since = off_since.filter(|_| self.told_what_is_meant(guest, now));
        let Some(care) = self.backups.cares.get_mut(&guest) else { return false };
        let every = care.policy.as_ref().and_then(|policy| policy.replica).map_or(Millis(0), |replica| replica.every);
        if care.replica.made.is_some() || care.replica.next_at > now.time {
            return false;
        }
        if let (Some(off), Some(age)) = (off_since, care.replica.age)
            && age.was == Millis(0)
            && age.at > off
            && care.replica.broken.is_none()
        {
            care.replica.age = Some(Age::captured(now.time));
            care.replica.next_at = now.time + every;
            return false;
        }
        true
    }

    /// The host that has the copy knows what the guest is meant to do, and that since not too long ago.
    pub(crate) fn told_what_is_meant(&self, guest: GuestId, now: Now) -> bool {
        let Some(care) = self.backups.cares.get(&guest) else { return false };
        let ages = care.policy.as_ref().and_then(|policy| policy.replica).is_some_and(|replica| replica.failover);
        care.run.shows.is_some_and(|(point, at)| {
            let told = self.backups.sets.get(guest, point).map(|point| (point.meant, point.priority));
            let old = ages && now.wall.0.saturating_sub(at.0) >= TOLD_AGAIN.0;
            told == Some((self.meant(guest), self.priority(guest))) && !old
        })
    }

    /// Chooses the backup host; false where there is none now.
    fn place_replica(&mut self, guest: GuestId, actions: &mut Vec<Action>) -> bool {
        let Some(care) = self.backups.cares.get(&guest) else { return false };
        if care.policy.as_ref().and_then(|policy| policy.replica).is_none() {
            return false;
        }
        let present = care.run.replica;
        let chosen = self.backup_host(guest);
        let retry = self.config.backup.retry_first;
        let time = self.clock.time;
        let Some(care) = self.backups.cares.get_mut(&guest) else { return false };
        match chosen {
            Ok(host) if present == Some(host) => true,
            Ok(host) => {
                care.run.replica = Some(host);
                care.run.shows = None;
                care.replica.age = None;
                care.replica.broken = None;
                self.backups.sets.replicas.insert(guest);
                self.keep_run(guest, actions);
                let text = format!("its replica is kept by host {host} from now on");
                actions.push(Action::Note { guest: Some(guest), at: Some(self.clock.wall), text });
                true
            }
            Err(why) => {
                care.replica.broken = Some(why.to_string());
                care.replica.next_at = time + retry;
                self.backups.sets.replicas.insert(guest);
                false
            }
        }
    }

    fn begin_ships(&mut self, now: Now, actions: &mut Vec<Action>) {
        let guests: Vec<GuestId> = self.backups.cares.keys().copied().collect();
        for guest in guests {
            if let Some((point, to)) = self.replica_to_ship(guest, now.time)
                && !self.on_probation(&to)
            {
                let bandwidth = Limits::share(self.config.backup.ship_bandwidth, self.config.backup.replicas);
                self.run(Task::Ship { guest, point, to, bandwidth }, Purpose::Backup, actions);
            }
            if self.ships_running() >= self.config.backup.ships {
                continue;
            }
            if let Some((point, to)) = self.copy_to_ship(guest, now.time) {
                let bandwidth = Limits::share(self.config.backup.ship_bandwidth, self.config.backup.ships);
                self.run(Task::Ship { guest, point, to, bandwidth }, Purpose::Backup, actions);
            } else if let Some((at, remove)) = self.leftover_to_remove(guest, now.time) {
                self.run(Task::Prune { guest, at, remove }, Purpose::Backup, actions);
            }
        }
    }

    /// A place that failed is tried by one guest at a time until it works: one that hangs must not keep all workers.
    fn on_probation(&self, place: &Target) -> bool {
        let lane = Lane::Place(place.clone());
        self.tasks.values().any(|running| running.what.lane() == lane)
            && self.backups.cares.values().any(|care| care.places.contains_key(place))
    }

    fn ships_running(&self) -> usize {
        let replica = |guest: GuestId, point: PointId| {
            self.backups.cares.get(&guest).and_then(|care| care.replica.made).is_some_and(|(made, ..)| made == point)
        };
        let ships = |what: &Task| matches!(what, Task::Ship { guest, point, .. } if !replica(*guest, *point));
        self.tasks.values().filter(|running| ships(&running.what)).count()
    }

    fn place_free(&self, guest: GuestId, care: &Care, place: &Target, now: Time) -> bool {
        let waits = care.places.get(place).is_some_and(|(_, at)| *at > now);
        !waits && !self.barred(place) && !self.lane_busy(guest, &Lane::Place(place.clone()))
    }

    fn replica_to_ship(&self, guest: GuestId, now: Time) -> Option<(PointId, Target)> {
        let care = self.backups.cares.get(&guest)?;
        care.policy.as_ref()?.replica.filter(|_| self.is_primary(guest))?;
        let to = Target::Peer { host: care.run.replica? };
        let (point, ..) = care.replica.made?;
        self.place_free(guest, care, &to, now).then_some((point, to))
    }

    /// The newest point that a target of the policy lacks.
    fn copy_to_ship(&self, guest: GuestId, now: Time) -> Option<(PointId, Target)> {
        let care = self.backups.cares.get(&guest)?;
        // What is kept here for others is theirs to copy.
        let own = self.config.host;
        let shipped = |point: &&BackupSummary| point.whole() && point.why != Why::Replica && point.origin == own;
        care.policy.as_ref()?.targets.iter().find_map(|target| {
            if *target == Target::Local || !self.place_free(guest, care, target, now) {
                return None;
            }
            let mut newest_first = self.backups.sets.of(guest).rev().filter(shipped);
            newest_first.find(|point| !point.copies.contains(target)).map(|point| (point.point, target.clone()))
        })
    }

    fn leftover_to_remove(&self, guest: GuestId, now: Time) -> Option<(Target, Vec<PointId>)> {
        let care = self.backups.cares.get(&guest)?;
        let first = care.run.leftover.iter().find(|left| self.place_free(guest, care, &left.at, now))?;
        let same = care.run.leftover.iter().filter(|left| left.at == first.at).map(|left| left.point);
        Some((first.at.clone(), same.collect()))
    }

    pub(super) fn begin_pulls(&mut self, now: Now, actions: &mut Vec<Action>) {
        let wanted = |care: &Care| care.run.pull.clone().filter(|_| care.pull.1 <= now.time);
        let due: Vec<_> = self.backups.cares.iter().filter_map(|(guest, care)| Some((*guest, wanted(care)?))).collect();
        for (guest, order) in due {
            if !self.lane_busy(guest, &Lane::Read) {
                self.run(Task::Pull { guest, order: Box::new(order) }, Purpose::Backup, actions);
            }
        }
    }

    fn begin_prunes(&mut self, now: Now, actions: &mut Vec<Action>) {
        let due = |care: &Care| care.prune.is_some_and(|at| at <= now.time);
        let guests: Vec<GuestId> =
            self.backups.cares.iter().filter(|(_, care)| due(care)).map(|(guest, _)| *guest).collect();
        for guest in guests {
            if self.lane_busy(guest, &Lane::Points) || self.lane_busy(guest, &Lane::Read) {
                continue;
            }
            let remove = self.expired_points(guest, now.wall);
            if remove.is_empty() {
                if let Some(care) = self.backups.cares.get_mut(&guest) {
                    care.prune = None;
                }
                continue;
            }
            self.run(Task::Prune { guest, at: Target::Local, remove }, Purpose::Backup, actions);
        }
    }

    /// What retention removes now; for a guest without a policy only what other hosts forgot here.
    pub(super) fn expired_points(&self, guest: GuestId, wall: Stamp) -> Vec<PointId> {
        let Some(care) = self.backups.cares.get(&guest) else { return Vec::new() };
        let points: Vec<&BackupSummary> = self.backups.sets.of(guest).collect();
        let zone = care.timetable.as_ref().and_then(|table| table.zone());
        let used = self.points_in_use();
        let gone = match &care.policy {
            Some(policy) => expired(&points, policy.retention, zone, wall, policy.replica.is_some()),
            None => self.superseded(guest),
        };
        gone.into_iter().filter(|point| !used.contains(point)).collect()
    }

    /// Proofs and verification: one at a time, when no backup runs or is due. On a busy host they wait once more as long
    /// as from one to the next: one that is always busy must not have unproven backups for ever. Without memory to spare
    /// nothing is booted.
    fn begin_upkeep(&mut self, now: Now, actions: &mut Vec<Action>) {
        let upkeep = |what: &Task| matches!(what, Task::Verify { .. } | Task::Prove { .. });
        let busy =
            self.tasks.values().any(|running| upkeep(&running.what))
                || self.backups_running(false) > 0
                || self.config.backup.short_of_memory(self.backups.pressure)
                || self.backups.cares.iter().any(|(guest, care)| {
                    due(care, now).is_some() && self.goes_on_here(*guest) && self.readable(*guest)
                });
        if busy {
            return;
        }
        let free: Vec<GuestId> =
            self.backups.cares.keys().copied().filter(|guest| !self.lane_busy(*guest, &Lane::Points)).collect();
        let task = free
            .iter()
            .find_map(|guest| self.proof_due(*guest, now))
            .or_else(|| free.iter().find_map(|guest| self.verify_due(*guest, now)));
        if let Some(task) = task {
            self.run(task, Purpose::Backup, actions);
        }
    }

    fn proof_due(&self, guest: GuestId, now: Now) -> Option<Task> {
        let care = self.backups.cares.get(&guest)?;
        let patience = care.policy.as_ref()?.proof?.patience;
        let up = self.hypervisor == Hypervisor::Up && !self.backups.held && care.upkeep_at <= now.time;
        let point = self.backups.sets.newest(guest)?.point;
        let waited = self.proof_at(care, guest, now.wall)? <= now.wall;
        (up && waited).then_some(Task::Prove { guest, point, patience })
    }

    fn verify_due(&self, guest: GuestId, now: Now) -> Option<Task> {
        let care = self.backups.cares.get(&guest)?;
        let waited = self.verify_at(care, guest, now.wall)? <= now.wall;
        (waited && care.upkeep_at <= now.time).then_some(Task::Verify { guest, point: None })
    }
}

/// How long the guest's backup by schedule has been due; none when it is not, or waits after a failure.
fn due(care: &Care, now: Now) -> Option<Millis> {
    let due = care.due.filter(|due| *due <= now.wall)?;
    let waits = care.retry_at.is_some_and(|at| at > now.time);
    (!waits).then_some(Millis(now.wall.0 - due.0))
}
