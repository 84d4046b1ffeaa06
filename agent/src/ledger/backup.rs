//! Backups in the ledger: each guest's policy and what its points alone don't tell after a restart. Points themselves are
//! in the store.

use roost_agent_core::{Change, Kept};
use roost_protocol::backup::{BackupPolicy, BackupRun};
use roost_protocol::{GuestId, codec};
use rusqlite::{Connection, OptionalExtension, params};

/// Second step of the schema.
pub(super) const SCHEMA: &str = "
CREATE TABLE backup (
    guest BLOB PRIMARY KEY CHECK (length(guest) = 16),
    policy BLOB,
    run BLOB
) STRICT;
";

/// Writes a change of backups; others are not for this file.
pub(super) fn apply(connection: &Connection, change: &Change) -> rusqlite::Result<usize> {
    match change {
        Change::Policy { guest, policy } => {
            let sql = "INSERT INTO backup (guest, policy) VALUES (?1, ?2)
                       ON CONFLICT (guest) DO UPDATE SET policy = ?2";
            let policy = policy.as_deref().map(codec::encode);
            connection.prepare_cached(sql)?.execute(params![guest.bytes(), policy])?;
        }
        Change::Run { guest, run } => {
            let sql = "INSERT INTO backup (guest, run) VALUES (?1, ?2) ON CONFLICT (guest) DO UPDATE SET run = ?2";
            connection.prepare_cached(sql)?.execute(params![guest.bytes(), run.as_deref().map(codec::encode)])?;
        }
        Change::Peers(peers) => return put(connection, "peers", codec::encode(peers)),
        Change::Shares(shares) => return put(connection, "shares", codec::encode(shares)),
        Change::Maintenance(it) => return put(connection, "maintenance", codec::encode(it)),
        Change::Zone(zone) => return put(connection, "zone", codec::encode(zone)),
        Change::Memory(policy) => return put(connection, "memory", codec::encode(policy)),
        Change::Probes(probes) => return put(connection, "probes", codec::encode(probes)),
        Change::Wish { .. } | Change::Operation { .. } | Change::Forget { .. } | Change::Epoch(_) => return Ok(0),
    }
    connection.execute("DELETE FROM backup WHERE policy IS NULL AND run IS NULL", [])
}

fn put(connection: &Connection, key: &str, value: Vec<u8>) -> rusqlite::Result<usize> {
    let sql = "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2";
    connection.execute(sql, params![key, value])
}

/// What was put; empty where nothing was.
fn get(connection: &Connection, key: &str) -> rusqlite::Result<Vec<u8>> {
    let sql = "SELECT value FROM meta WHERE key = ?1";
    Ok(connection.query_row(sql, [key], |row| row.get(0)).optional()?.unwrap_or_default())
}

/// Reads what was kept; an entry that can't be read is passed over, and the rest is as it was.
pub(super) fn load(connection: &Connection, kept: &mut Kept) -> rusqlite::Result<()> {
    let mut statement = connection.prepare("SELECT guest, policy, run FROM backup")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let guest = GuestId::from_bytes(row.get(0)?);
        if let Some(policy) = row.get_ref(1)?.as_blob_or_null()? {
            match codec::decode::<BackupPolicy>(policy) {
                Ok(policy) => drop(kept.policies.insert(guest, policy)),
                Err(error) => tracing::error!(%guest, %error, "a backup policy in the ledger can't be read"),
            }
        }
        if let Some(run) = row.get_ref(2)?.as_blob_or_null()? {
            match codec::decode::<BackupRun>(run) {
                Ok(run) => drop(kept.runs.insert(guest, run)),
                Err(error) => tracing::error!(%guest, %error, "the state of backups in the ledger can't be read"),
            }
        }
    }
    kept.peers = codec::decode(&get(connection, "peers")?).unwrap_or_default();
    kept.shares = codec::decode(&get(connection, "shares")?).unwrap_or_default();
    kept.maintenance = codec::decode(&get(connection, "maintenance")?).unwrap_or_default();
    kept.zone = codec::decode(&get(connection, "zone")?).unwrap_or_default();
    kept.memory = codec::decode(&get(connection, "memory")?).unwrap_or_default();
    kept.probes = codec::decode(&get(connection, "probes")?).unwrap_or_default();
    Ok(())
}

#[cfg(test)]
mod test {
    use roost_protocol::backup::{Peer, Retention, Share};
    use roost_protocol::host::Maintenance;
    use roost_protocol::memory::MemoryPolicy;
    use roost_protocol::probe::GuestProbes;
    use roost_protocol::{Generation, HostId, PointId, Stamp};
    use rusqlite::Connection;

    use super::*;

    #[test]
    fn policies_runs_and_peers_survive_and_leave_nothing_when_taken_back() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL);").unwrap();
        connection.execute_batch(SCHEMA).unwrap();
        let guest = GuestId::from_u128(3);
        let retention = Retention { daily: 7, ..Retention::default() };
        let policy = BackupPolicy { generation: Generation(2), retention, ..BackupPolicy::default() };
        let run = BackupRun { slot: Some(Stamp(5)), ..BackupRun::default() };
        let peer = Peer {
            host: HostId::from_u128(9),
            name: "b".into(),
            addresses: vec!["192.0.2.1:1".into()],
            key: [7; 32],
            zone: String::new(),
            total: 2,
            free: 1,
            replicas: 0,
            up: true,
        };
        let probes = GuestProbes { guest, probes: vec!["rdp://192.0.2.7:3389".into()] };
        let share = Share { point: PointId::from_u128(4), with: peer.host };
        let dense = MemoryPolicy { overcommit_permille: 1_500, ..MemoryPolicy::default() };
        for change in [
            Change::Policy { guest, policy: Some(Box::new(policy.clone())) },
            Change::Run { guest, run: Some(Box::new(run.clone())) },
            Change::Peers(vec![peer.clone()]),
            Change::Shares(vec![share]),
            Change::Maintenance(Some(Maintenance::Draining)),
            Change::Zone("rack-1".into()),
            Change::Probes(vec![probes.clone()]),
            Change::Memory(Some(Box::new(dense.clone()))),
        ] {
            apply(&connection, &change).unwrap();
        }
        let mut kept = Kept::default();
        load(&connection, &mut kept).unwrap();
        assert_eq!((kept.policies.get(&guest), kept.runs.get(&guest)), (Some(&policy), Some(&run)));
        assert_eq!((kept.peers, kept.shares), (vec![peer], vec![share]));
        assert_eq!((kept.maintenance, kept.probes), (Some(Maintenance::Draining), vec![probes]));
        assert_eq!((kept.zone.as_str(), kept.memory), ("rack-1", Some(dense)));
        apply(&connection, &Change::Memory(None)).unwrap();
        let mut cleared = Kept::default();
        load(&connection, &mut cleared).unwrap();
        assert_eq!(cleared.memory, None);
        apply(&connection, &Change::Policy { guest, policy: None }).unwrap();
        apply(&connection, &Change::Run { guest, run: None }).unwrap();
        let left: u32 = connection.query_row("SELECT count(*) FROM backup", [], |row| row.get(0)).unwrap();
        assert_eq!(left, 0);
    }
}
