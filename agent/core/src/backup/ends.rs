//! What came of backup work: points made, copies shipped, damages found, and what failed.

use roost_protocol::backup::{BackupSummary, Damage, LastFailure, Leftover, Proof, Target, Why};
use roost_protocol::operation::{Failure, FailureCode};
use roost_protocol::{GuestId, Millis, PointId, Time};

use super::plan::Room;
use super::replica::Age;
use super::sets::cut;
use super::{Care, Store};
use crate::agent::{Agent, Now, Purpose, Running};
use crate::event::{Action, Made, Task, TaskId, TaskResult};

/// After a backup gave way, or libvirt went away, it is not begun again before.
const SOON: Millis = Millis::seconds(10);
/// Copies that wait to be removed elsewhere, of one guest; past it the oldest stay where they are.
const LEFTOVER: usize = 2_000;
/// Replica points that may lie in the store before they are pruned: each pruning is a write.
const REPLICA_POINTS: usize = 8;
/// The ledger is told so often what a replica shows; more would be a write for each delta.
const KEEP_EVERY: Millis = Millis::seconds(60);

impl Agent {
    /// The store is open: these are all its points.
    pub(crate) fn store_opened(&mut self, now: Now, points: Vec<BackupSummary>) {
        self.backups.store = Store::Open;
        self.backups.store_dirty = true;
        self.clear_alarm("store-away", None);
        for point in &points {
            self.backups.cares.entry(point.guest).or_default();
        }
        self.backups.sets.replace(points);
        for care in self.backups.cares.values_mut() {
            care.prune = Some(now.time);
            let age = care.run.shows.map(|(_, shows)| now.wall.0.saturating_sub(shows.0));
            // What is of a time to come tells nothing of its age.
            let told = care.run.shows.is_some_and(|(_, shows)| shows <= now.wall);
            care.replica.age =
                care.replica.age.or(age.filter(|_| told).map(|was| Age { at: now.time, was: Millis(was) }));
        }
        let sets: Vec<GuestId> = self.backups.cares.keys().copied().collect();
        self.backups.sets.dirty.extend(sets);
    }

    pub(crate) fn store_away(&mut self, now: Now, why: &str) {
        self.backups.store = Store::Away;
        self.backups.store_dirty = true;
        let text = format!("the backup store can't be used ({why}); nothing is backed up until it can");
        self.raise_alarm(now, "store-away", None, text);
    }

    pub(crate) fn store_room(&mut self, now: Now, room: Room) {
        if self.backups.room != room {
            self.backups.room = room;
            self.backups.store_dirty = true;
        }
        self.backups.forecast.saw(now.time, room.free);
    }

    /// Holds backups while the disk is filling, so that guests keep the rest.
    pub(super) fn mind_the_disk(&mut self, now: Now, actions: &mut Vec<Action>) {
        let held = self.config.backup.held(self.backups.room, self.backups.held);
        if held == self.backups.held {
            return;
        }
        self.backups.held = held;
        self.backups.store_dirty = true;
        self.backups.sets.replicas.extend(self.backups.cares.keys().copied());
        if !held {
            return self.clear_alarm("store-filling", None);
        }
        let text = "the disk of the backup store is almost full: no backups or replicas are made until there is room; \
                    keep fewer points, delete some, or give the host a larger disk";
        self.raise_alarm(now, "store-filling", None, text.into());
        let own = |running: &Running| running.purpose == Purpose::Backup && matches!(running.what, Task::Backup { .. });
        let reading: Vec<TaskId> = self.tasks.iter().filter(|(_, one)| own(one)).map(|(task, _)| *task).collect();
        for task in reading {
            self.cancel_task(task, actions);
        }
    }

    /// Takes in the end of a task, whoever asked for it.
    pub(crate) fn backup_ended(&mut self, now: Now, running: &Running, result: &TaskResult, actions: &mut Vec<Action>) {
        let guest = running.what.guest();
        match (&running.what, result) {
            (Task::Backup { order, .. }, Ok(Made::Point(point))) => {
                self.point_made(now, running, order.why, point, actions);
            }
            (Task::Backup { order, .. }, Err(why)) => self.backup_failed(now, running, order.why, why, actions),
            (Task::Ship { point, to, .. }, Ok(_)) => self.shipped(now, guest, *point, to, actions),
            (Task::Ship { to, .. }, Err(why)) => self.place_failed(now, guest, to, why),
            (Task::Prune { at, remove, .. }, result) => self.prune_ended(now, guest, at, remove, result, actions),
            (Task::Verify { point, .. }, Ok(Made::Verified { damages })) => {
                self.verified(now, guest, *point, damages, actions);
            }
            (Task::Prove { .. }, Ok(Made::Proven { point, proof })) => {
                let proof = proof.clone();
                self.backups.sets.change(guest, *point, |summary| summary.proof = proof);
                self.care(guest).run.proof_tried = Some(now.wall);
                self.keep_run(guest, actions);
            }
            (Task::Verify { .. } | Task::Prove { .. }, Err(_)) => {
                let again = now.time + self.config.backup.retry_longest;
                self.care(guest).upkeep_at = again;
            }
            (Task::Pin { point, pinned, .. }, Ok(_)) => {
                let pinned = *pinned;
                self.backups.sets.change(guest, *point, |summary| summary.pinned = pinned);
                self.care(guest).prune = Some(now.time);
            }
            (Task::Restore { order, .. }, Ok(Made::Restored { pulling })) => {
                let care = self.care(guest);
                care.run.pull = pulling.then(|| (**order).clone());
                care.full_next = true;
                care.pull = (0, now.time);
                care.pulled = (0, String::new());
                self.backups.pulls_dirty = true;
                self.keep_run(guest, actions);
                // Told before the outcome is, which ends the share of a point that only the pull needs from then on.
                self.beats.at_once(now.time);
                self.beat(now, actions);
                // Its disk is served before anything starts it.
                self.begin_pulls(now, actions);
            }
            (Task::Delete { .. }, Ok(_))
                if self.backups.cares.get(&guest).is_some_and(|care| care.run.pull.is_some()) =>
            {
                self.care(guest).run.pull = None;
                self.backups.pulls_dirty = true;
                self.keep_run(guest, actions);
            }
            (Task::Pull { .. }, result) => self.pull_ended(now, guest, result, actions),
            (
                Task::Create { .. }
                | Task::Import { .. }
                | Task::Start { .. }
                | Task::Shutdown { .. }
                | Task::ForceOff { .. }
                | Task::Pause { .. }
                | Task::Resume { .. }
                | Task::Reset { .. }
                | Task::Delete { .. }
                | Task::CleanUp { .. }
                | Task::Backup { .. }
                | Task::Pin { .. }
                | Task::Restore { .. }
                | Task::Verify { .. }
                | Task::Prove { .. },
                _,
            ) => {}
        }
    }

    fn care(&mut self, guest: GuestId) -> &mut Care {
        self.backups.cares.entry(guest).or_default()
    }

    fn point_made(&mut self, now: Now, running: &Running, why: Why, point: &BackupSummary, actions: &mut Vec<Action>) {
        let guest = running.what.guest();
        self.backups.sets.put(BackupSummary { guest, why, ..point.clone() });
        let care = self.care(guest);
        care.full_next = false;
        if why == Why::Replica {
            care.replica.made = Some((point.point, point.started, running.began.time));
            care.replica.failures = 0;
            return;
        }
        care.prune = Some(now.time);
        if why == Why::Branch {
            return self.branch_made(now, guest, actions);
        }
        care.retry_at = None;
        care.run.failure = None;
        if why == Why::Schedule
            && let Some(table) = &care.timetable
        {
            care.run.slot = Some(table.answers(running.began.wall));
            care.plan_next();
        }
        self.keep_run(guest, actions);
    }

    fn backup_failed(&mut self, now: Now, running: &Running, why: Why, failure: &Failure, actions: &mut Vec<Action>) {
        let guest = running.what.guest();
        let (limits, soon) = (self.config.backup, now.time + SOON);
        let care = self.care(guest);
        care.full_next |= failure.code == FailureCode::Damaged;
        let no_fault = running.cancelled || failure.code == FailureCode::HypervisorAway;
        match why {
            Why::Replica if no_fault => care.replica.next_at = soon,
            Why::Replica => {
                care.replica.failures = care.replica.failures.saturating_add(1);
                care.replica.next_at = now.time + limits.retry(care.replica.failures);
                care.replica.broken = Some(short(&failure.text));
                self.backups.sets.replicas.insert(guest);
            }
            Why::Schedule if no_fault => {
                care.retry_at = Some(soon);
                self.backups.sets.dirty.insert(guest);
            }
            Why::Schedule => {
                let count = care.run.failure.as_ref().map_or(0, |last| last.count).saturating_add(1);
                let text = short(&failure.text);
                care.run.failure = Some(LastFailure { at: now.wall, code: failure.code, text, count });
                care.retry_at = Some(now.time + limits.retry(count));
                self.backups.sets.dirty.insert(guest);
                self.keep_run(guest, actions);
            }
            Why::Branch => care.upkeep_at = now.time + limits.retry_first,
            Why::Command => {}
        }
    }

    fn shipped(&mut self, now: Now, guest: GuestId, point: PointId, to: &Target, actions: &mut Vec<Action>) {
        self.backups.sets.change(guest, point, |summary| {
            if !summary.copies.contains(to) {
                summary.copies.push(to.clone());
            }
        });
        let replica_points = self.backups.sets.of(guest).filter(|point| point.why == Why::Replica).count();
        // It works, for whichever guest it failed before.
        self.backups.others.reached(to, now.time, true);
        for care in self.backups.cares.values_mut() {
            care.places.remove(to);
        }
        let care = self.care(guest);
        let Some((_, shows, captured)) = care.replica.made.filter(|(made, ..)| *made == point) else { return };
        let backup_host = care.run.replica.map(|host| Target::Peer { host });
        if backup_host.as_ref() != Some(to) {
            return;
        }
        let every = care.policy.as_ref().and_then(|policy| policy.replica).map_or(Millis(0), |replica| replica.every);
        care.replica.made = None;
        care.replica.age = Some(Age::captured(captured));
        care.replica.broken = None;
        care.replica.next_at = captured + every;
        care.run.shows = Some((point, shows));
        if replica_points > REPLICA_POINTS {
            care.prune = Some(now.time);
        }
        let keep = care.replica.kept.is_none_or(|kept| now.time.since(kept) >= KEEP_EVERY);
        self.backups.sets.replicas.insert(guest);
        if keep {
            self.care(guest).replica.kept = Some(now.time);
            self.keep_run(guest, actions);
        }
    }

    fn place_failed(&mut self, now: Now, guest: GuestId, place: &Target, failure: &Failure) {
        let limits = self.config.backup;
        self.backups.others.reached(place, now.time, false);
        let care = self.care(guest);
        let failures = care.places.get(place).map_or(0, |(failures, _)| *failures).saturating_add(1);
        // A replica has a promise in seconds to keep: its host is tried again soon.
        let backup_host = care.run.replica.map(|host| Target::Peer { host });
        let replica = backup_host.as_ref() == Some(place);
        let wait = if replica { limits.retry_first.min(SOON) } else { limits.retry(failures) };
        care.places.insert(place.clone(), (failures, now.time + wait));
        if replica && care.replica.made.is_some() {
            care.replica.broken = Some(short(&failure.text));
            self.backups.sets.replicas.insert(guest);
        }
    }

    fn prune_ended(
        &mut self,
        now: Now,
        guest: GuestId,
        at: &Target,
        asked: &[PointId],
        result: &TaskResult,
        actions: &mut Vec<Action>,
    ) {
        match (at, result) {
            (_, Ok(Made::Pruned { removed, .. })) => self.pruned(now, guest, at, asked, removed, actions),
            (_, Ok(_)) => {}
            (Target::Local, Err(_)) => {
                let again = now.time + self.config.backup.retry_first;
                self.care(guest).prune = Some(again);
            }
            (Target::Peer { .. } | Target::Directory { .. }, Err(why)) => self.place_failed(now, guest, at, why),
        }
    }

    fn pruned(
        &mut self,
        now: Now,
        guest: GuestId,
        at: &Target,
        asked: &[PointId],
        removed: &[PointId],
        actions: &mut Vec<Action>,
    ) {
        if *at != Target::Local {
            let care = self.care(guest);
            care.places.remove(at);
            care.run.leftover.retain(|left| left.at != *at || !asked.contains(&left.point));
            return self.keep_run(guest, actions);
        }
        let copies: Vec<Leftover> = self
            .backups
            .sets
            .of(guest)
            .filter(|point| removed.contains(&point.point))
            .flat_map(|point| point.copies.iter().map(|at| Leftover { at: at.clone(), point: point.point }))
            .filter(|left| left.at != Target::Local)
            .collect();
        for point in removed {
            self.backups.sets.remove(guest, *point);
        }
        let again = (removed.len() < asked.len()).then(|| now.time + self.config.backup.retry_first);
        let care = self.care(guest);
        care.prune = again;
        if !copies.is_empty() {
            care.run.leftover.extend(copies);
            let past = care.run.leftover.len().saturating_sub(LEFTOVER);
            care.run.leftover.drain(..past);
            self.keep_run(guest, actions);
        }
    }

    fn verified(
        &mut self,
        now: Now,
        guest: GuestId,
        point: Option<PointId>,
        damages: &[Damage],
        actions: &mut Vec<Action>,
    ) {
        let checked: Vec<PointId> = match point {
            Some(point) => vec![point],
            None => self.backups.sets.of(guest).map(|point| point.point).collect(),
        };
        for point in checked {
            let damage = damages.iter().find(|damage| damage.point == point).map(|damage| {
                let Damage { disk, from, length, why, .. } = damage;
                short(&format!("{disk}: {length} bytes from {from}: {why}"))
            });
            self.backups.sets.change(guest, point, |summary| summary.damaged = damage);
        }
        let newest_damaged = self.backups.sets.of(guest).next_back().is_some_and(|point| !point.whole());
        let care = self.care(guest);
        // What is built upon a damaged point would be damaged too.
        care.full_next |= newest_damaged;
        if point.is_none() {
            care.run.verified = Some(now.wall);
            self.keep_run(guest, actions);
        }
    }

    pub(crate) fn pull_advanced(&mut self, guest: GuestId, percent: u32) {
        let care = self.care(guest);
        let was = std::mem::replace(&mut care.pulled.0, percent);
        if percent > was {
            // It comes again.
            care.pull.0 = 0;
        }
        self.backups.pulls_dirty |= was != percent;
    }

    fn pull_ended(&mut self, now: Now, guest: GuestId, result: &TaskResult, actions: &mut Vec<Action>) {
        let limits = self.config.backup;
        self.backups.pulls_dirty = true;
        let care = self.care(guest);
        match result {
            Ok(_) => {
                care.run.pull = None;
                care.pull = (0, Time(0));
                care.pulled = (0, String::new());
                self.keep_run(guest, actions);
            }
            // It gave way to what needs the data no more, or libvirt will be back.
            Err(why) if matches!(why.code, FailureCode::Cancelled | FailureCode::HypervisorAway) => {
                care.pull.1 = now.time + SOON;
            }
            Err(why) => {
                care.pulled.1 = short(&why.text);
                let failures = care.pull.0.saturating_add(1);
                // The guest's disk depends on it: it is tried again sooner than a backup.
                care.pull = (failures, now.time + limits.retry(failures).min(SOON));
            }
        }
    }

    /// Why the newest point's proof failed.
    pub(super) fn newest_unproven(&self, guest: GuestId) -> Option<&str> {
        match &self.backups.sets.newest(guest)?.proof {
            Proof::Failed { why, .. } => Some(why),
            Proof::Untried | Proof::Proven { .. } => None,
        }
    }
}

fn short(text: &str) -> String {
    let mut text = text.to_owned();
    cut(&mut text);
    text
}
