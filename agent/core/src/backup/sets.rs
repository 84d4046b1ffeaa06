//! The points of this host's store, set by set, and how they are told of.

use std::collections::{BTreeMap, BTreeSet};

use roost_protocol::backup::query::PAGE;
use roost_protocol::backup::status::SETS_PER_HOST;
use roost_protocol::backup::{
    BackupBeat, BackupSummary, PointQuery, PointsPage, Proof, Pulling, ReplicaState, ReplicaStatus, SENTENCE,
    SetSummary, StoreStatus,
};
use roost_protocol::{GuestId, Millis, PointId, Stamp, Time};

use super::{Care, Store};
use crate::agent::Agent;

/// Lags are told of this often, changes of state at once.
const LAGS_EVERY: Millis = Millis::seconds(10);

/// All points.
#[derive(Debug, Default)]
pub(crate) struct Sets {
    points: BTreeMap<GuestId, BTreeMap<(Stamp, PointId), BackupSummary>>,
    /// Sets that changed since the last beat.
    pub(crate) dirty: BTreeSet<GuestId>,
    /// Replicas that changed since then.
    pub(crate) replicas: BTreeSet<GuestId>,
}

impl Sets {
    /// The store was opened: these are all.
    pub(crate) fn replace(&mut self, points: Vec<BackupSummary>) {
        self.dirty.extend(self.points.keys());
        self.points.clear();
        for point in points {
            self.put(point);
        }
    }

    /// A point is new or changed.
    pub(crate) fn put(&mut self, mut point: BackupSummary) {
        cut(&mut point.guest_name);
        cut(&mut point.note);
        if let Some(damaged) = &mut point.damaged {
            cut(damaged);
        }
        self.dirty.insert(point.guest);
        self.remove(point.guest, point.point);
        self.points.entry(point.guest).or_default().insert((point.started, point.point), point);
    }

    pub(crate) fn remove(&mut self, guest: GuestId, point: PointId) {
        let Some(set) = self.points.get_mut(&guest) else { return };
        set.retain(|(_, other), _| *other != point);
        if set.is_empty() {
            self.points.remove(&guest);
        }
        self.dirty.insert(guest);
    }

    pub(crate) fn get(&self, guest: GuestId, point: PointId) -> Option<&BackupSummary> {
        self.of(guest).find(|summary| summary.point == point)
    }

    /// Changes a point in place.
    pub(crate) fn change(&mut self, guest: GuestId, point: PointId, change: impl FnOnce(&mut BackupSummary)) {
        let set = self.points.get_mut(&guest);
        if let Some(summary) = set.and_then(|set| set.values_mut().find(|summary| summary.point == point)) {
            change(summary);
            self.dirty.insert(guest);
        }
    }

    /// The points of one guest, oldest first.
    pub(crate) fn of(&self, guest: GuestId) -> impl DoubleEndedIterator<Item = &BackupSummary> {
        self.points.get(&guest).into_iter().flat_map(BTreeMap::values)
    }

    /// The newest point that can be restored.
    pub(crate) fn newest(&self, guest: GuestId) -> Option<&BackupSummary> {
        self.of(guest).rev().find(|point| point.whole())
    }

    pub(crate) fn guests(&self) -> impl Iterator<Item = GuestId> {
        self.points.keys().copied()
    }

    pub(crate) fn count(&self) -> usize {
        self.points.values().map(BTreeMap::len).sum()
    }

    /// The answer to a question for points.
    pub(crate) fn page(&self, query: &PointQuery) -> PointsPage {
        let limit = usize::try_from(query.limit).unwrap_or(PAGE).clamp(1, PAGE);
        let first = match (query.guest, query.after) {
            (Some(guest), None) => guest,
            (Some(guest), Some((after, ..))) => guest.max(after),
            (None, Some((after, ..))) => after,
            (None, None) => GuestId::from_u128(0),
        };
        let last = query.guest.unwrap_or(GuestId::from_u128(u128::MAX));
        let sets = if first <= last { Some(self.points.range(first..=last)) } else { None };
        let after =
            |point: &&BackupSummary| query.after.is_none_or(|after| (point.guest, point.started, point.point) > after);
        let mut found = sets.into_iter().flatten().flat_map(|(_, set)| set.values()).filter(after);
        let points: Vec<BackupSummary> = found.by_ref().take(limit).cloned().collect();
        PointsPage { ask: query.ask, points, more: found.next().is_some() }
    }
}

pub(crate) fn cut(text: &mut String) {
    if let Some((end, _)) = text.char_indices().find(|(at, letter)| at + letter.len_utf8() > SENTENCE) {
        text.truncate(end);
    }
}

impl Agent {
    /// The answer to a question for points.
    pub fn points_page(&self, query: &PointQuery) -> PointsPage {
        self.backups.sets.page(query)
    }

    /// Everything, for a snapshot and for monitoring; none where there is no store.
    pub fn whole_backup_beat(&self, now: Time) -> Option<BackupBeat> {
        if self.backups.store == Store::Unseen && self.backups.cares.is_empty() {
            return None;
        }
        let guests: BTreeSet<GuestId> = self.backups.sets.guests().chain(self.backups.cares.keys().copied()).collect();
        Some(BackupBeat {
            sets: guests.iter().take(SETS_PER_HOST).filter_map(|guest| self.set_summary(*guest)).collect(),
            replicas: self.replica_statuses(now, guests.iter()),
            store: Some(self.store_status(now)),
            pulls: Some(self.pulls()),
            shares: Some(self.backups.others.shares.clone()),
            ..BackupBeat::default()
        })
    }

    /// What changed since the last beat.
    pub(crate) fn backup_beat(&self, now: Time) -> Option<BackupBeat> {
        let lags = self.backups.told.is_none_or(|told| now.since(told) >= LAGS_EVERY);
        let dirty = &self.backups.sets.dirty;
        let replicas: BTreeSet<GuestId> =
            if lags { self.backups.cares.keys().copied().collect() } else { self.backups.sets.replicas.clone() };
        let gone = |guest: &&GuestId| self.set_summary(**guest).is_none();
        let no_replica = |guest: &&GuestId| self.replica_status(**guest, now).is_none();
        let beat = BackupBeat {
            sets: dirty.iter().take(SETS_PER_HOST).filter_map(|guest| self.set_summary(*guest)).collect(),
            gone: dirty.iter().filter(gone).copied().collect(),
            replicas: self.replica_statuses(now, replicas.iter()),
            replicas_gone: self.backups.sets.replicas.iter().filter(no_replica).copied().collect(),
            store: self.backups.store_dirty.then(|| self.store_status(now)),
            pulls: self.backups.pulls_dirty.then(|| self.pulls()),
            shares: self.backups.shares_dirty.then(|| self.backups.others.shares.clone()),
        };
        (!beat.is_empty()).then_some(beat)
    }

    /// A beat was sent.
    pub(crate) fn backup_told(&mut self, now: Time) {
        self.backups.sets.dirty.clear();
        self.backups.sets.replicas.clear();
        (self.backups.store_dirty, self.backups.pulls_dirty, self.backups.shares_dirty) = (false, false, false);
        if self.backups.told.is_none_or(|told| now.since(told) >= LAGS_EVERY) {
            self.backups.told = Some(now);
        }
    }

    /// One set in one line; none where there is neither a point nor a policy.
    pub(crate) fn set_summary(&self, guest: GuestId) -> Option<SetSummary> {
        let sets = &self.backups.sets;
        let care = self.backups.cares.get(&guest);
        let followed = care.and_then(|care| care.policy.as_ref());
        let policy = followed.map(|policy| policy.generation);
        let mut policy_name = followed.map(|policy| policy.name.clone()).unwrap_or_default();
        cut(&mut policy_name);
        let last = sets.of(guest).next_back();
        if last.is_none() && policy.is_none() {
            return None;
        }
        let proven = sets.of(guest).rev().find_map(|point| match &point.proof {
            Proof::Proven { at, .. } => Some((point.point, *at)),
            Proof::Untried | Proof::Failed { .. } => None,
        });
        let known = self.guests.get(guest).map(|known| known.seen.name.clone());
        let mut guest_name = known.or_else(|| last.map(|point| point.guest_name.clone())).unwrap_or_default();
        cut(&mut guest_name);
        Some(SetSummary {
            guest,
            origin: last.map_or(self.config.host, |point| point.origin),
            points: u32::try_from(sets.of(guest).count()).unwrap_or(u32::MAX),
            stored: sets.of(guest).map(|point| point.stored).fold(0, u64::saturating_add),
            newest: sets.newest(guest).map(|point| (point.point, point.started)),
            oldest: sets.of(guest).find(|point| point.whole()).map(|point| point.started),
            proven,
            damaged: u32::try_from(sets.of(guest).filter(|point| !point.whole()).count()).unwrap_or(u32::MAX),
            failure: care.and_then(|care| care.run.failure.clone()),
            next: care.and_then(|care| care.due),
            running: self.backing_up(guest),
            policy,
            guest_name,
            policy_name,
        })
    }

    fn replica_statuses<'a>(&self, now: Time, guests: impl Iterator<Item = &'a GuestId>) -> Vec<ReplicaStatus> {
        guests.take(SETS_PER_HOST).filter_map(|guest| self.replica_status(*guest, now)).collect()
    }

    /// How the guest's replica stands; none where none is wished.
    pub(crate) fn replica_status(&self, guest: GuestId, now: Time) -> Option<ReplicaStatus> {
        let care = self.backups.cares.get(&guest)?;
        let policy = care.policy.as_ref()?.replica.filter(|_| self.is_own(guest))?;
        Some(ReplicaStatus {
            guest,
            host: care.run.replica,
            state: self.replica_state(care, guest, now),
            lag: self.replica_lag(care, guest, now),
            point: care.run.shows.map(|(point, _)| point),
            shows: care.run.shows.map(|(_, shows)| shows),
            every: policy.every,
            max_lag: policy.max_lag,
        })
    }

    fn replica_state(&self, care: &Care, guest: GuestId, now: Time) -> ReplicaState {
        if let Some(why) = &care.replica.broken {
            return ReplicaState::Broken { why: why.clone() };
        }
        if self.backups.held {
            return ReplicaState::Held;
        }
        let max = care.policy.as_ref().and_then(|policy| policy.replica).map(|replica| replica.max_lag);
        match (self.replica_lag(care, guest, now), max) {
            (None, _) => ReplicaState::Seeding,
            (Some(lag), Some(max)) if lag > max => ReplicaState::Behind,
            (Some(_), _) => ReplicaState::Following,
        }
    }

    /// Guests whose data is still brought in.
    fn pulls(&self) -> Vec<Pulling> {
        let pulling = |(guest, care): (&GuestId, &Care)| {
            let order = care.run.pull.as_ref()?;
            let trouble = (care.pull.0 > 0).then(|| care.pulled.1.clone());
            let (point, from, percent) = (order.point, order.from.clone(), care.pulled.0);
            Some(Pulling { guest: *guest, point, from, percent, trouble })
        };
        self.backups.cares.iter().filter_map(pulling).take(SETS_PER_HOST).collect()
    }

    fn store_status(&self, now: Time) -> StoreStatus {
        let room = self.backups.room;
        StoreStatus {
            total: room.total,
            free: room.free,
            used: room.used,
            days_to_full: self.backups.forecast.days_to_full(now, room.free),
            held: self.backups.held,
            points: u32::try_from(self.backups.sets.count()).unwrap_or(u32::MAX),
        }
    }
}
