//! History on disk: one SQLite file of its own. Every ten seconds one row with all series; every hour these rows become
//! chunks of each series in all tiers, in one transaction. So a power cut costs the last minute at most and never counts
//! anything twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use roost_protocol::{GuestId, Stamp};
use roost_snmp::mib::number::{Change, Kept};
use rusqlite::{Connection, OptionalExtension, params};
use rusqlite_migration::{M, Migrations};

use super::chunk::{self, Chunk};
use super::law::{self, Bucket, Buckets, TIERS};
use super::{Series, Span};

/// A second agent on the same folder waits so long.
const BUSY: Duration = Duration::from_secs(3);
/// Most series in one row: all guests of a host, and the host.
const SERIES: usize = 4_097;
/// Of the oldest rows, so many go at once when the file would outgrow its limit.
const DROP: i64 = 256;

const SCHEMA: &str = "
CREATE TABLE tick (at INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT;
CREATE TABLE chunk (
    tier INTEGER NOT NULL,
    start INTEGER NOT NULL,
    series BLOB NOT NULL CHECK (length(series) = 16),
    data BLOB NOT NULL,
    UNIQUE (series, tier, start)
) STRICT;
CREATE INDEX chunk_by_age ON chunk (tier, start);
CREATE TABLE number (
    guest BLOB PRIMARY KEY CHECK (length(guest) = 16),
    number INTEGER NOT NULL,
    gone INTEGER
) STRICT, WITHOUT ROWID;
";

/// Why history can't be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HistoryError {
    #[error("make history {path}")]
    Make { path: PathBuf, source: std::io::Error },
    #[error("open history {path}")]
    Open { path: PathBuf, source: rusqlite::Error },
    #[error("bring history up to date")]
    Migrate(#[source] rusqlite_migration::Error),
    #[error("history is damaged: {0}")]
    Damaged(String),
    #[error("move damaged history aside")]
    Aside(#[source] std::io::Error),
    #[error("read history")]
    Read(#[source] rusqlite::Error),
    #[error("write history")]
    Write(#[source] rusqlite::Error),
    #[error("start the thread of history")]
    Thread(#[source] std::io::Error),
}

/// The file and what of the present hour is not in chunks yet.
#[derive(Debug)]
pub(crate) struct Store {
    sql: Connection,
    /// The present hour; 0 before the first row.
    hour: u64,
    last: u64,
    open: BTreeMap<Series, Chunk>,
    limit_bytes: u64,
}

impl Store {
    /// Opens or makes the file. A damaged one is put aside: history is worth less than an agent that starts.
    pub(crate) fn open(path: &Path, limit_bytes: u64) -> Result<Self, HistoryError> {
        match Self::try_open(path, limit_bytes) {
            Err(HistoryError::Damaged(why)) => {
                tracing::error!(why, path = %path.display(), "history is damaged; it is put aside and begun anew");
                put_aside(path).map_err(HistoryError::Aside)?;
                Self::try_open(path, limit_bytes)
            }
            result => result,
        }
    }

    fn try_open(path: &Path, limit_bytes: u64) -> Result<Self, HistoryError> {
        // SQLite's own files beside it get the same mode.
        let made = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
        made.map_err(|source| HistoryError::Make { path: path.into(), source })?;
        let mut sql = Connection::open(path).map_err(|source| HistoryError::Open { path: path.into(), source })?;
        let damaged = |error: rusqlite::Error| match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => {
                HistoryError::Damaged(error.to_string())
            }
            _ => HistoryError::Open { path: path.into(), source: error },
        };
        sql.busy_timeout(BUSY).map_err(damaged)?;
        // NORMAL: a power cut may cost what was written since the last checkpoint, a minute; it never damages the file.
        sql.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA auto_vacuum = INCREMENTAL;")
            .map_err(damaged)?;
        let sound: String = sql.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(damaged)?;
        if sound != "ok" {
            return Err(HistoryError::Damaged(sound));
        }
        Migrations::new(vec![M::up(SCHEMA)]).to_latest(&mut sql).map_err(HistoryError::Migrate)?;
        let mut store = Self { sql, hour: 0, last: 0, open: BTreeMap::new(), limit_bytes };
        store.load().map_err(HistoryError::Read)?;
        Ok(store)
    }

    /// Nothing is waited for: tests that fill years would wait for the disk.
    #[cfg(test)]
    pub(super) fn hasten(self) -> Self {
        let done = self.sql.execute_batch("PRAGMA synchronous = OFF");
        assert!(done.is_ok(), "{done:?}");
        self
    }

    /// Takes up the rows that are in no chunk yet.
    fn load(&mut self) -> Result<(), rusqlite::Error> {
        let mut statement = self.sql.prepare("SELECT at, data FROM tick ORDER BY at")?;
        let rows = statement.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?)))?;
        let rows: Vec<(u64, Vec<u8>)> =
            rows.map(|row| row.map(|(at, data)| (u64::try_from(at).unwrap_or(0), data))).collect::<Result<_, _>>()?;
        drop(statement);
        let Some(hour) = rows.last().map(|(at, _)| hour_of(*at)) else { return Ok(()) };
        let mut older = Buckets2::new();
        for (at, data) in &rows {
            if hour_of(*at) == hour {
                (self.hour, self.last) = (hour, *at);
                read_tick(data).for_each(|(series, bucket)| self.keep_open(series, *at, &bucket));
            } else {
                read_tick(data)
                    .for_each(|(series, bucket)| older.entry(series).or_default().entry(*at).or_default().add(&bucket));
            }
        }
        if older.is_empty() { Ok(()) } else { self.keep_chunks(&older, hour) }
    }

    fn keep_open(&mut self, series: Series, at: u64, bucket: &Bucket) {
        let hour = self.hour;
        self.open.entry(series).or_insert_with(|| Chunk::new(hour)).push(at, bucket);
    }

    /// Keeps the buckets that end now. `at_s` is the wall clock. A clock set back within the hour loses what it
    /// repeats; set back further, history goes on at the older time.
    pub(crate) fn tick(&mut self, at_s: u64, buckets: &[(Series, Bucket)]) -> Result<(), HistoryError> {
        let at = at_s - at_s % TIERS[0].step_s;
        let hour = hour_of(at);
        if hour == self.hour && at <= self.last {
            return Ok(());
        }
        if hour != self.hour {
            self.fold(at).map_err(HistoryError::Write)?;
            (self.hour, self.last) = (hour, 0);
        }
        let row = write_tick(buckets.iter().take(SERIES));
        let write = "INSERT OR REPLACE INTO tick (at, data) VALUES (?1, ?2)";
        self.sql
            .prepare_cached(write)
            .and_then(|mut s| s.execute(params![signed(at), row]))
            .map_err(HistoryError::Write)?;
        self.last = at;
        buckets.iter().take(SERIES).for_each(|(series, bucket)| self.keep_open(*series, at, bucket));
        if at.is_multiple_of(TIERS[1].step_s) {
            // Puts the last minute on disk for good.
            let done = self.sql.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
            done.map_err(HistoryError::Write)?;
        }
        Ok(())
    }

    /// The present hour becomes chunks; what is too old goes.
    fn fold(&mut self, now: u64) -> Result<(), rusqlite::Error> {
        let open = std::mem::take(&mut self.open);
        let hour = self.hour;
        let buckets: Buckets2 =
            open.iter().map(|(series, chunk)| (*series, chunk::read(hour, chunk.bytes()).collect())).collect();
        self.keep_chunks(&buckets, hour_of(now))?;
        self.forget(now)
    }

    /// Merges these buckets into the chunks of all tiers and removes their rows, in one transaction.
    fn keep_chunks(&mut self, all: &Buckets2, keep_ticks_of: u64) -> Result<(), rusqlite::Error> {
        let transaction = self.sql.transaction()?;
        for (series, buckets) in all {
            for (number, tier) in (0i64..).zip(TIERS) {
                let wide = law::widen(buckets, tier.step_s);
                let starts: BTreeSet<u64> = wide.keys().map(|at| at - at % tier.chunk_s).collect();
                for start in starts {
                    let key = params![series.0, number, signed(start)];
                    let mut merged = read_chunk(&transaction, *series, number, start)?;
                    for (at, bucket) in wide.range(start..start + tier.chunk_s) {
                        merged.entry(*at).or_default().add(bucket);
                    }
                    let chunk = Chunk::of(start, &merged);
                    transaction
                        .prepare_cached("DELETE FROM chunk WHERE series = ?1 AND tier = ?2 AND start = ?3")?
                        .execute(key)?;
                    transaction
                        .prepare_cached("INSERT INTO chunk (series, tier, start, data) VALUES (?1, ?2, ?3, ?4)")?
                        .execute(params![series.0, number, signed(start), chunk.bytes()])?;
                }
            }
        }
        let until = signed(keep_ticks_of.saturating_add(TIERS[0].chunk_s));
        transaction.execute("DELETE FROM tick WHERE at < ?1 OR at >= ?2", params![signed(keep_ticks_of), until])?;
        transaction.commit()
    }

    /// Removes what is past its time, and the oldest when there is too much.
    fn forget(&mut self, now: u64) -> Result<(), rusqlite::Error> {
        for (number, tier) in (0i64..).zip(TIERS) {
            let oldest = now.saturating_sub(tier.keep_s).saturating_sub(tier.chunk_s);
            self.sql.execute("DELETE FROM chunk WHERE tier = ?1 AND start < ?2", params![number, signed(oldest)])?;
        }
        while self.used_bytes()? > self.limit_bytes {
            let gone = self.sql.execute(
                "DELETE FROM chunk WHERE rowid IN (SELECT rowid FROM chunk WHERE tier > 0 ORDER BY start LIMIT ?1)",
                [DROP],
            )?;
            if gone == 0 {
                break;
            }
        }
        self.sql.execute_batch("PRAGMA incremental_vacuum")
    }

    fn used_bytes(&self) -> Result<u64, rusqlite::Error> {
        let sql = "SELECT (page_count - freelist_count) * page_size FROM pragma_page_count, pragma_freelist_count, pragma_page_size";
        self.sql.query_row(sql, [], |row| row.get::<_, i64>(0)).map(|bytes| u64::try_from(bytes).unwrap_or(0))
    }

    /// Buckets of these series, of the width that gives at most about `points` of them. All series when none is named.
    pub(crate) fn query(&self, wanted: &[Series], span: Span, points: u64, now_s: u64) -> Result<Answer, HistoryError> {
        let (tier, step_s) = law::plan(now_s.saturating_sub(span.from), span.to.saturating_sub(span.from), points);
        let mut all = BTreeMap::new();
        self.read_chunks(tier, wanted, span, step_s, &mut all).map_err(HistoryError::Read)?;
        for (series, chunk) in &self.open {
            if wanted.is_empty() || wanted.contains(series) {
                let open = chunk::read(self.hour, chunk.bytes());
                take_in(all.entry(*series).or_default(), open, span, step_s);
            }
        }
        all.retain(|_, line: &mut Line| !line.is_empty());
        Ok(Answer { step_s, series: all })
    }

    fn read_chunks(
        &self,
        tier: usize,
        wanted: &[Series],
        span: Span,
        step_s: u64,
        all: &mut BTreeMap<Series, Line>,
    ) -> Result<(), rusqlite::Error> {
        let first = signed(span.from - span.from % TIERS[tier].chunk_s);
        let number = i64::try_from(tier).unwrap_or(0);
        let mut read = |sql: &str, key: &[u8]| {
            let mut statement = self.sql.prepare_cached(sql)?;
            let mut rows = statement.query(params![number, first, signed(span.to), key])?;
            while let Some(row) = rows.next()? {
                let series = Series(row.get(0)?);
                let start = u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0);
                let buckets = chunk::read(start, row.get_ref(2)?.as_blob()?);
                take_in(all.entry(series).or_default(), buckets, span, step_s);
            }
            Ok(())
        };
        let sql = "SELECT series, start, data FROM chunk WHERE tier = ?1 AND start >= ?2 AND start < ?3";
        if wanted.is_empty() {
            return read(&format!("{sql} AND ?4 = ?4"), &[]);
        }
        let one = format!("{sql} AND series = ?4");
        wanted.iter().try_for_each(|series| read(&one, &series.0))
    }

    /// The numbers of vmIndex.
    pub(crate) fn numbers(&self) -> Result<Vec<Kept>, HistoryError> {
        let read = || {
            let mut statement = self.sql.prepare("SELECT guest, number, gone FROM number")?;
            let rows = statement.query_map([], |row| {
                let gone = row.get::<_, Option<i64>>(2)?.map(|gone| Stamp(u64::try_from(gone).unwrap_or(0)));
                Ok(Kept { guest: GuestId::from_bytes(row.get(0)?), number: row.get(1)?, gone })
            })?;
            rows.collect::<Result<Vec<Kept>, rusqlite::Error>>()
        };
        read().map_err(HistoryError::Read)
    }

    /// Keeps changes of these numbers.
    pub(crate) fn keep_numbers(&mut self, changes: &[Change]) -> Result<(), HistoryError> {
        let mut write = || {
            let transaction = self.sql.transaction()?;
            for change in changes {
                match change {
                    Change::Keep(kept) => transaction.execute(
                        "INSERT OR REPLACE INTO number (guest, number, gone) VALUES (?1, ?2, ?3)",
                        params![kept.guest.bytes(), kept.number, kept.gone.map(|gone| signed(gone.0))],
                    )?,
                    Change::Forget(guest) => {
                        transaction.execute("DELETE FROM number WHERE guest = ?1", [guest.bytes()])?
                    }
                };
            }
            transaction.commit()
        };
        write().map_err(HistoryError::Write)
    }
}

/// Buckets of several series.
type Buckets2 = BTreeMap<Series, Buckets>;

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Width of each bucket.
    pub(crate) step_s: u64,
    pub(crate) series: BTreeMap<Series, Line>,
}

/// Buckets in order of their beginning, each of which is there once.
pub(crate) type Line = Vec<(u64, Bucket)>;

fn take_in(line: &mut Line, buckets: impl Iterator<Item = (u64, Bucket)>, span: Span, step_s: u64) {
    for (at, bucket) in buckets.filter(|(at, _)| (span.from..span.to).contains(at)) {
        let at = at - at % step_s;
        match line.last_mut() {
            Some((last, sum)) if *last == at => sum.add(&bucket),
            // Only after a clock was set back.
            Some((last, _)) if *last > at => match line.binary_search_by_key(&at, |(at, _)| *at) {
                Ok(place) => line[place].1.add(&bucket),
                Err(place) => line.insert(place, (at, bucket)),
            },
            Some(_) | None => line.push((at, bucket)),
        }
    }
}

fn read_chunk(sql: &Connection, series: Series, tier: i64, start: u64) -> Result<Buckets, rusqlite::Error> {
    let mut statement = sql.prepare_cached("SELECT data FROM chunk WHERE series = ?1 AND tier = ?2 AND start = ?3")?;
    let found =
        statement.query_row(params![series.0, tier, signed(start)], |row| row.get::<_, Vec<u8>>(0)).optional()?;
    Ok(found.map(|data| chunk::read(start, &data).collect()).unwrap_or_default())
}

/// One row: each series and its bucket.
fn write_tick<'a>(buckets: impl Iterator<Item = &'a (Series, Bucket)>) -> Vec<u8> {
    let mut row = Vec::new();
    for (series, bucket) in buckets {
        let mut one = Chunk::new(0);
        one.push(0, bucket);
        row.extend(series.0);
        // A bucket has at most 5 + 16 * 10 bytes.
        row.push(u8::try_from(one.bytes().len()).unwrap_or(0));
        row.extend_from_slice(one.bytes());
    }
    row
}

fn read_tick(mut row: &[u8]) -> impl Iterator<Item = (Series, Bucket)> {
    std::iter::from_fn(move || {
        let (series, rest) = row.split_first_chunk::<16>()?;
        let (length, rest) = rest.split_first()?;
        let (one, rest) = rest.split_at_checked(usize::from(*length))?;
        row = rest;
        chunk::read(0, one).next().map(|(_, bucket)| (Series(*series), bucket))
    })
    .take(SERIES)
}

fn hour_of(at: u64) -> u64 {
    at - at % TIERS[0].chunk_s
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn put_aside(path: &Path) -> std::io::Result<()> {
    let beside = |ending: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    std::fs::rename(path, beside(".damaged"))?;
    for ending in ["-wal", "-shm"] {
        match std::fs::remove_file(beside(ending)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}
