//! What was voted, in SQLite: WAL and `synchronous=FULL`, so that no vote is told that a power cut could take back.
//! A store that is damaged, lost or a copy of another is replaced by one of an incarnation that was never used, which no
//! council counts until it is admitted.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::Ed25519KeyPair;
use roost_protocol::failover::WatchdogTest;
use roost_protocol::{GuestId, HostId, codec};
use roost_ward::door::Peer;
use roost_ward::{Ballot, WardId};
use rusqlite::{Connection, OptionalExtension, params};
use rusqlite_migration::{M, Migrations};

/// Another guard on the same folder is waited for so long.
const BUSY: Duration = Duration::from_secs(3);
/// SQLite's cache, KiB: the store has a few hundred rows.
const CACHE_KIB: i64 = 256;

const SCHEMA: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE ballot (ward INTEGER PRIMARY KEY, ballot BLOB NOT NULL) STRICT;
CREATE TABLE crew (ward INTEGER PRIMARY KEY, crew BLOB NOT NULL) STRICT;
";
/// Wards whose votes are kept though this machine takes part in them no more.
const RESTING: &str = "CREATE TABLE resting (ward INTEGER PRIMARY KEY) STRICT;";

/// Why the store can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("open the vote store {path}")]
    Open { path: PathBuf, source: rusqlite::Error },
    #[error("make the vote store's tables")]
    Migrate(#[source] rusqlite_migration::Error),
    #[error("the vote store is damaged: {0}")]
    Damaged(String),
    #[error("put the vote store aside")]
    Aside(#[source] io::Error),
    #[error("read the vote store")]
    Read(#[source] rusqlite::Error),
    #[error("write the vote store")]
    Write(#[source] rusqlite::Error),
    #[error("a row of the vote store can't be understood")]
    Row(#[source] codec::Error),
    #[error("draw a random number")]
    Random,
}

/// What the store holds at a start.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) store: Store,
    /// Which of this machine's stores it is.
    pub(crate) incarnation: u32,
    /// Larger than at any start before.
    pub(crate) start: u64,
    /// Which host this is, if it was told.
    pub(crate) host: Option<HostId>,
    /// Our key, as PKCS #8.
    pub(crate) key: Vec<u8>,
    pub(crate) ballots: Vec<(WardId, Ballot)>,
    /// Of wards that this machine takes no part in now.
    pub(crate) resting: BTreeMap<WardId, Ballot>,
    pub(crate) crews: BTreeMap<WardId, Crew>,
    pub(crate) peers: Vec<Peer>,
    /// The last test of the watchdog, or the one under way.
    pub(crate) test: Option<WatchdogTest>,
}

/// The guests of a ward.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Crew {
    pub(crate) guests: Vec<GuestId>,
    /// Any home may start them.
    pub(crate) anywhere: bool,
}

/// The open store.
#[derive(Debug)]
pub(crate) struct Store {
    connection: Connection,
}

impl Opened {
    /// Opens the store in this folder, or makes it.
    pub(crate) fn open(folder: &Path) -> Result<Self, StoreError> {
        let path = folder.join("votes.db");
        match Self::at(&path) {
            Err(StoreError::Damaged(why)) => {
                tracing::error!(why, "the vote store was put aside: this voter has to be admitted anew");
                put_aside(&path).map_err(StoreError::Aside)?;
                Self::at(&path)
            }
            other => other,
        }
    }

    fn at(path: &Path) -> Result<Self, StoreError> {
        let store = Store::open(path)?;
        let born = born(path);
        if store.meta("key")?.is_none() {
            store.first(born.as_deref())?;
        }
        if let (Some(recorded), Some(born)) = (store.meta("born")?, born)
            && recorded != born
        {
            return Err(StoreError::Damaged("it is a copy of an older file".to_owned()));
        }
        let incarnation = store.number("incarnation")?;
        let start = store.number("start")?.saturating_add(1);
        store.set("start", &start.to_be_bytes())?;
        let damaged = || StoreError::Damaged("an entry is missing".to_owned());
        Ok(Self {
            incarnation: u32::try_from(incarnation).map_err(|_| damaged())?,
            start,
            host: store.meta("host")?.and_then(|bytes| bytes.try_into().ok()).map(HostId::from_bytes),
            key: store.meta("key")?.ok_or_else(damaged)?,
            ballots: store.ballots("NOT IN")?,
            resting: store.ballots("IN")?.into_iter().collect(),
            crews: store.crews()?,
            peers: store
                .meta("peers")?
                .map_or(Ok(Vec::new()), |bytes| codec::decode(&bytes))
                .map_err(StoreError::Row)?,
            // One that can't be understood was never made.
            test: store.meta("watchdog_test")?.and_then(|bytes| codec::decode(&bytes).ok()),
            store,
        })
    }
}

impl Store {
    fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |source: rusqlite::Error| match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => {
                StoreError::Damaged(source.to_string())
            }
            Some(_) | None => StoreError::Open { path: path.to_owned(), source },
        };
        let mut connection = Connection::open(path).map_err(failed)?;
        connection.busy_timeout(BUSY).map_err(failed)?;
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE").map_err(failed)?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
        connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
        connection.pragma_update(None, "cache_size", -CACHE_KIB).map_err(failed)?;
        let sound: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
        if sound != "ok" {
            return Err(StoreError::Damaged(sound));
        }
        let steps = [M::up(SCHEMA), M::up(RESTING)];
        Migrations::from_slice(&steps).to_latest(&mut connection).map_err(StoreError::Migrate)?;
        Ok(Self { connection })
    }

    /// Fills a store that was just made.
    fn first(&self, born: Option<&[u8]>) -> Result<(), StoreError> {
        let random = SystemRandom::new();
        let mut drawn = [0; 4];
        random.fill(&mut drawn).map_err(|_| StoreError::Random)?;
        // Never zero, which is what a machine is called in examples and tests.
        let incarnation = u64::from(u32::from_be_bytes(drawn) | 1);
        let key = Ed25519KeyPair::generate_pkcs8(&random).map_err(|_| StoreError::Random)?;
        self.set("incarnation", &incarnation.to_be_bytes())?;
        self.set("start", &0_u64.to_be_bytes())?;
        if let Some(born) = born {
            self.set("born", born)?;
        }
        // Last: a store without it is taken for empty.
        self.set("key", key.as_ref())
    }

    fn meta(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let row = self.connection.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0));
        row.optional().map_err(StoreError::Read)
    }

    fn number(&self, key: &str) -> Result<u64, StoreError> {
        let bytes = self.meta(key)?.and_then(|bytes| <[u8; 8]>::try_from(bytes.as_slice()).ok());
        bytes.map(u64::from_be_bytes).ok_or_else(|| StoreError::Damaged(format!("{key} is missing")))
    }

    fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        let sql = "INSERT INTO meta VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2";
        self.connection.execute(sql, params![key, value]).map_err(StoreError::Write).map(drop)
    }

    fn rows(&self, sql: &str) -> Result<Vec<(WardId, Vec<u8>)>, StoreError> {
        let mut rows = self.connection.prepare(sql).map_err(StoreError::Read)?;
        let read = rows.query_map([], |row| Ok((WardId(row.get::<_, i64>(0)?.cast_unsigned()), row.get(1)?)));
        let read: Result<Vec<_>, _> = read.map_err(StoreError::Read)?.collect();
        read.map_err(StoreError::Read)
    }

    fn ballots(&self, resting: &str) -> Result<Vec<(WardId, Ballot)>, StoreError> {
        let sql = format!("SELECT ward, ballot FROM ballot WHERE ward {resting} (SELECT ward FROM resting)");
        let understood = self.rows(&sql)?.into_iter().map(|(ward, bytes)| {
            let ballot = codec::decode(&bytes).map_err(|error| StoreError::Damaged(error.to_string()))?;
            Ok((ward, ballot))
        });
        understood.collect()
    }

    fn crews(&self) -> Result<BTreeMap<WardId, Crew>, StoreError> {
        let understood = self.rows("SELECT ward, crew FROM crew")?.into_iter().map(|(ward, bytes)| {
            let (guests, anywhere) = codec::decode(&bytes).map_err(|error| StoreError::Damaged(error.to_string()))?;
            Ok((ward, Crew { guests, anywhere }))
        });
        understood.collect()
    }

    /// On stable storage when this returns.
    pub(crate) fn crew(&self, ward: WardId, crew: &Crew) -> Result<(), StoreError> {
        let sql = "INSERT INTO crew VALUES (?1, ?2) ON CONFLICT (ward) DO UPDATE SET crew = ?2";
        let bytes = codec::encode(&(crew.guests.clone(), crew.anywhere));
        self.connection.execute(sql, params![ward.0.cast_signed(), bytes]).map_err(StoreError::Write).map(drop)
    }

    /// On stable storage when this returns.
    pub(crate) fn vote(&self, ward: WardId, ballot: &Ballot) -> Result<(), StoreError> {
        let sql = "INSERT INTO ballot VALUES (?1, ?2) ON CONFLICT (ward) DO UPDATE SET ballot = ?2";
        let mut statement = self.connection.prepare_cached(sql).map_err(StoreError::Write)?;
        statement.execute(params![ward.0.cast_signed(), codec::encode(ballot)]).map_err(StoreError::Write).map(drop)
    }

    /// The ward takes a rest, and its guests are forgotten; or it ends the rest. On stable storage when this returns.
    pub(crate) fn rest(&self, ward: WardId, rests: bool) -> Result<(), StoreError> {
        let sql = match rests {
            true => "INSERT OR IGNORE INTO resting VALUES (?1)",
            false => "DELETE FROM resting WHERE ward = ?1",
        };
        let number = ward.0.cast_signed();
        self.connection.execute(sql, [number]).map_err(StoreError::Write)?;
        self.connection.execute("DELETE FROM crew WHERE ward = ?1", [number]).map_err(StoreError::Write).map(drop)
    }

    /// Which host this is, from now on.
    pub(crate) fn name(&self, host: HostId) -> Result<(), StoreError> {
        self.set("host", &host.bytes())
    }

    /// On stable storage when this returns.
    pub(crate) fn test(&self, test: &WatchdogTest) -> Result<(), StoreError> {
        self.set("watchdog_test", &codec::encode(test))
    }

    /// All peers from now on.
    pub(crate) fn peers(&self, peers: &[Peer]) -> Result<(), StoreError> {
        self.set("peers", &codec::encode(&peers.to_vec()))
    }
}

/// When the file was made, which a copy of it can't claim; absent where the file system doesn't know.
fn born(path: &Path) -> Option<Vec<u8>> {
    let born = fs::metadata(path).ok()?.created().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(born.as_nanos().to_be_bytes().to_vec())
}

fn put_aside(path: &Path) -> io::Result<()> {
    for ending in ["", "-wal", "-shm"] {
        let with = |more: &str| {
            let mut name = path.as_os_str().to_owned();
            name.push(more);
            PathBuf::from(name)
        };
        match fs::rename(with(ending), with(&format!("{ending}.damaged"))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod test {
    use roost_protocol::Epoch;

    use super::*;

    fn ballot(epoch: u64) -> Ballot {
        Ballot { epoch: Epoch(epoch), ..Ballot::blank() }
    }

    #[test]
    fn votes_and_identity_are_there_after_a_restart_and_starts_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let first = Opened::open(folder.path()).unwrap();
        first.store.vote(WardId(u64::MAX), &ballot(1)).unwrap();
        first.store.vote(WardId(u64::MAX), &ballot(2)).unwrap();
        first.store.name(HostId::from_u128(9)).unwrap();
        let (incarnation, key) = (first.incarnation, first.key);
        drop(first.store);
        let again = Opened::open(folder.path()).unwrap();
        assert_eq!(again.ballots, vec![(WardId(u64::MAX), ballot(2))]);
        assert_eq!((again.incarnation, again.key, again.start), (incarnation, key, 2));
        assert_eq!((first.host, again.host), (None, Some(HostId::from_u128(9))));
    }

    #[test]
    fn a_ward_that_rests_keeps_its_votes_and_not_its_guests() {
        let folder = tempfile::tempdir().unwrap();
        let first = Opened::open(folder.path()).unwrap();
        first.store.vote(WardId(1), &ballot(4)).unwrap();
        first.store.crew(WardId(1), &Crew { guests: vec![GuestId::from_u128(5)], anywhere: true }).unwrap();
        first.store.rest(WardId(1), true).unwrap();
        drop(first);
        let again = Opened::open(folder.path()).unwrap();
        assert_eq!((again.ballots.len(), again.resting.get(&WardId(1)), again.crews.len()), (0, Some(&ballot(4)), 0));
        again.store.rest(WardId(1), false).unwrap();
        drop(again);
        assert_eq!(Opened::open(folder.path()).unwrap().ballots, vec![(WardId(1), ballot(4))]);
    }

    #[test]
    fn a_vote_is_synced_before_it_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let store = Opened::open(folder.path()).unwrap().store;
        let ask = |what: &str| store.connection.pragma_query_value(None, what, |row| row.get::<_, String>(0));
        assert_eq!(ask("journal_mode").unwrap(), "wal");
        let level: i64 = store.connection.pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap();
        assert_eq!(level, 2, "FULL");
    }

    #[test]
    fn a_lost_damaged_or_restored_store_is_another_voter() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("votes.db");
        let first = Opened::open(folder.path()).unwrap();
        let known = first.incarnation;
        drop(first);
        fs::write(&path, [7; 8_192]).unwrap();
        let second = Opened::open(folder.path()).unwrap();
        assert_ne!(second.incarnation, known, "damaged");
        let known = second.incarnation;
        drop(second);
        if born(&path).is_some() {
            let copy = fs::read(&path).unwrap();
            fs::remove_file(&path).unwrap();
            fs::write(&path, copy).unwrap();
            assert_ne!(Opened::open(folder.path()).unwrap().incarnation, known, "restored");
        }
    }
}
