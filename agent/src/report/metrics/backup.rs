//! Backups and replicas of the host's guests, and the store.

use roost_protocol::backup::{ReplicaState, ReplicaStatus, SetSummary};

use super::super::monitor::Shot;
use super::text::{Kind, Text};

/// Nothing where the host has no store.
pub(super) fn backups(text: &mut Text, shot: &Shot) {
    let Some(all) = &shot.backups else { return };
    if let Some(store) = &all.store {
        let mut gauge = |name: &str, help: &str, value: u64| text.one(name, Kind::Gauge, help, value);
        gauge("roost_backup_store_size_bytes", "Size of the file system that the store lies on.", store.total);
        gauge("roost_backup_store_free_bytes", "What of it is free.", store.free);
        gauge("roost_backup_store_used_bytes", "What the store takes.", store.used);
        gauge("roost_backup_store_held", "1 while backups wait because the disk fills.", u64::from(store.held));
    }
    let mut sets = |name: &str, help: &str, decimals: usize, of: fn(&SetSummary) -> Option<u64>| {
        text.family(name, Kind::Gauge, help);
        for set in &all.sets {
            if let Some(value) = of(set) {
                text.scaled(&[("domain", &set.guest_name)], value, decimals);
            }
        }
    };
    sets("roost_backup_points", "Restore points of a guest in the store.", 0, |set| Some(set.points.into()));
    sets("roost_backup_damaged_points", "Those of them that are damaged.", 0, |set| Some(set.damaged.into()));
    sets("roost_backup_stored_bytes", "What they added to the store.", 0, |set| Some(set.stored));
    sets("roost_backup_last_success_timestamp_seconds", "The moment its newest whole point shows.", 3, |set| {
        set.newest.map(|(_, shows)| shows.0)
    });
    sets("roost_backup_last_proof_timestamp_seconds", "When a point of it was last proven to boot.", 3, |set| {
        set.proven.map(|(_, at)| at.0)
    });
    sets("roost_backup_failures_in_a_row", "Backups that failed since the last that succeeded.", 0, |set| {
        Some(set.failure.as_ref().map_or(0, |failure| failure.count.into()))
    });
    let name = |replica: &ReplicaStatus| {
        let guest = shot.guests.iter().find(|shown| shown.report.id == replica.guest);
        guest.map_or_else(|| replica.guest.to_string(), |shown| shown.report.name.clone())
    };
    let mut replicas = |name_of: &str, help: &str, decimals: usize, of: fn(&ReplicaStatus) -> Option<u64>| {
        text.family(name_of, Kind::Gauge, help);
        for replica in &all.replicas {
            if let Some(value) = of(replica) {
                text.scaled(&[("domain", &name(replica))], value, decimals);
            }
        }
    };
    replicas("roost_replica_lag_seconds", "How old its copy on another host is.", 3, |replica| {
        replica.lag.map(|lag| lag.0)
    });
    replicas("roost_replica_max_lag_seconds", "How old it may be.", 3, |replica| Some(replica.max_lag.0));
    replicas("roost_replica_following", "1 while it is younger than that.", 0, |replica| {
        Some(u64::from(replica.state == ReplicaState::Following))
    });
}
