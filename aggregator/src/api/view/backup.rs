//! What callers see of backups: policies, sets, points, replicas, stores.

use std::cmp::Reverse;

use roost_aggregator_core::Grid;
use roost_aggregator_core::backup::Replica;
use roost_aggregator_core::grid::Host;
use roost_protocol::backup::{BackupPolicy, BackupSummary, Proof, ReplicaState, SetSummary, StoreStatus, Target};
use roost_protocol::{Millis, Stamp, Time};
use serde_json::{Value, json};

use super::{some_text, time, word};
use crate::api::page::{Listed, Order};

fn seconds(span: Millis) -> Value {
    json!(span.0 / 1_000)
}

/// Rounded up, so that little is not nothing.
fn mib(bytes: u64) -> Value {
    json!(bytes.div_ceil(1 << 20))
}

fn at(stamp: Option<Stamp>) -> Value {
    stamp.map_or(Value::Null, time)
}

/// A policy and how many guests follow it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PolicyView<'a> {
    pub(crate) policy: &'a BackupPolicy,
    pub(crate) guests: usize,
}

impl Listed for PolicyView<'_> {
    const SCHEMA: &'static str = "backup_policy";

    fn order(&self) -> Order {
        Order::Text(self.policy.name.clone())
    }

    fn property(&self, name: &str) -> Value {
        let (policy, keep) = (self.policy, &self.policy.retention);
        let schedule = policy.schedule.as_ref();
        let replica = policy.replica.as_ref();
        match name {
            "name" => json!(policy.name),
            "schedule" => json!(schedule.map(|schedule| &schedule.expression)),
            "time_zone" => json!(schedule.and_then(|schedule| Some(&schedule.zone.as_ref()?.name))),
            "jitter_s" => schedule.map_or(json!(0), |schedule| seconds(schedule.jitter)),
            "keep_last" => json!(keep.last),
            "keep_hourly" => json!(keep.hourly),
            "keep_daily" => json!(keep.daily),
            "keep_weekly" => json!(keep.weekly),
            "keep_monthly" => json!(keep.monthly),
            "keep_yearly" => json!(keep.yearly),
            "targets" => policy.targets.iter().map(target).collect(),
            "max_age_s" => policy.max_age.map_or(Value::Null, seconds),
            "replica_every_s" => replica.map_or(Value::Null, |replica| seconds(replica.every)),
            "replica_max_lag_s" => replica.map_or(Value::Null, |replica| seconds(replica.max_lag)),
            "replica_host" => json!(replica.and_then(|replica| replica.host)),
            "replica_failover" => json!(replica.is_some_and(|replica| replica.failover)),
            "priority" => json!(policy.priority),
            "freeze" => word(policy.freeze),
            "prove_every_s" => policy.proof.map_or(Value::Null, |proof| seconds(proof.every)),
            "generation" => json!(policy.generation),
            "guests" => json!(self.guests),
            _ => Value::Null,
        }
    }
}

/// As an input of a policy would name it.
fn target(target: &Target) -> Value {
    match target {
        Target::Local => json!("local"),
        Target::Peer { host } => json!(format!("host:{host}")),
        Target::Directory { path } => json!(path),
    }
}

/// One guest's points on one host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SetView<'a> {
    pub(crate) host: &'a Host,
    pub(crate) set: &'a SetSummary,
}

impl SetView<'_> {
    /// Name of the guest now, else as the host that keeps the points knew it.
    fn guest_name(&self) -> &str {
        let guest = self.host.guests.get(&self.set.guest);
        guest.map_or(self.set.guest_name.as_str(), |guest| guest.report.name.as_str())
    }
}

impl Listed for SetView<'_> {
    const SCHEMA: &'static str = "backup_set";
    const SORT: Option<&'static str> = Some("name,host_name");

    fn order(&self) -> Order {
        Order::Text(format!("{}/{}", self.set.guest, self.host.id))
    }

    fn property(&self, name: &str) -> Value {
        let set = self.set;
        match name {
            "id" => json!(set.guest),
            "name" => json!(self.guest_name()),
            "host_name" => json!(self.host.name),
            "host" => json!(self.host.id),
            "own" => json!(set.origin == self.host.id),
            "points" => json!(set.points),
            "stored_mib" => mib(set.stored),
            "newest" => at(set.newest.map(|(_, at)| at)),
            "newest_point" => json!(set.newest.map(|(point, _)| point)),
            "oldest" => at(set.oldest),
            "proven" => at(set.proven.map(|(_, at)| at)),
            "proven_point" => json!(set.proven.map(|(point, _)| point)),
            "damaged" => json!(set.damaged),
            "failure" => json!(set.failure.as_ref().map(|failure| &failure.text)),
            "failed" => at(set.failure.as_ref().map(|failure| failure.at)),
            "next" => at(set.next),
            "running" => json!(set.running),
            "policy" => some_text(&set.policy_name),
            _ => Value::Null,
        }
    }
}

/// Newest first.
impl Listed for &BackupSummary {
    const SCHEMA: &'static str = "backup";

    fn order(&self) -> Order {
        Order::Newest(Reverse(self.started.0), self.point.bytes())
    }

    fn property(&self, name: &str) -> Value {
        match name {
            "id" => json!(self.point),
            "time" => time(self.started),
            "finished" => time(self.finished),
            "why" => word(self.why),
            "consistency" => word(self.consistency),
            "meant" => word(self.meant),
            "size_mib" => mib(self.size),
            "read_mib" => mib(self.read),
            "stored_mib" => mib(self.stored),
            "pinned" => json!(self.pinned),
            "proof" => json!(match self.proof {
                Proof::Untried => "untried",
                Proof::Proven { .. } => "proven",
                Proof::Failed { .. } => "failed",
            }),
            "proof_time" => match self.proof {
                Proof::Proven { at, .. } | Proof::Failed { at, .. } => time(at),
                Proof::Untried => Value::Null,
            },
            "proof_text" => match &self.proof {
                Proof::Proven { by: text, .. } | Proof::Failed { why: text, .. } => json!(text),
                Proof::Untried => Value::Null,
            },
            "copies" => self.copies.iter().map(target).collect(),
            "damaged" => json!(self.damaged),
            "note" => some_text(&self.note),
            "parent" => json!(self.parent),
            "guest" => json!(self.guest),
            "guest_name" => json!(self.guest_name),
            "origin" => json!(self.origin),
            _ => Value::Null,
        }
    }
}

/// One replica, with the names that people know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReplicaView<'a> {
    pub(crate) grid: &'a Grid,
    pub(crate) host: &'a Host,
    pub(crate) replica: &'a Replica,
    pub(crate) now: Time,
}

impl Listed for ReplicaView<'_> {
    const SCHEMA: &'static str = "replica";
    const SORT: Option<&'static str> = Some("name");

    fn order(&self) -> Order {
        Order::Id(self.replica.status.guest.bytes())
    }

    fn property(&self, name: &str) -> Value {
        let replica = &self.replica.status;
        match name {
            "id" => json!(replica.guest),
            "name" => match self.host.guests.get(&replica.guest) {
                Some(guest) => json!(guest.report.name),
                None => json!(replica.guest),
            },
            "host_name" => json!(self.host.name),
            "replica_host" => json!(replica.host),
            "replica_host_name" => {
                json!(replica.host.and_then(|host| self.grid.hosts().get(&host)).map(|host| &host.name))
            }
            "state" => json!(match self.replica.state(self.now) {
                ReplicaState::Seeding => "seeding",
                ReplicaState::Following => "following",
                ReplicaState::Behind => "behind",
                ReplicaState::Broken { .. } => "broken",
                ReplicaState::Held => "held",
            }),
            "why" => match &replica.state {
                ReplicaState::Broken { why } => json!(why),
                ReplicaState::Seeding | ReplicaState::Following | ReplicaState::Behind | ReplicaState::Held => {
                    Value::Null
                }
            },
            "lag_s" => self.replica.lag(self.now).map_or(Value::Null, seconds),
            "point" => json!(replica.point),
            "shows" => at(replica.shows),
            "every_s" => seconds(replica.every),
            "max_lag_s" => seconds(replica.max_lag),
            _ => Value::Null,
        }
    }
}

/// A host's store, as a part of the host.
pub(crate) fn store(store: &StoreStatus) -> Value {
    json!({
        "total_mib": mib(store.total),
        "free_mib": store.free >> 20,
        "used_mib": mib(store.used),
        "days_to_full": store.days_to_full,
        "held": store.held,
        "points": store.points,
    })
}
