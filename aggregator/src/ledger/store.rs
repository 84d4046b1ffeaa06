//! The database itself: opening it, checking it, setting a damaged one aside, and writing one transaction.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use roost_aggregator_core::account::{Account, LastUses};
use roost_aggregator_core::intent::{Intent, IntentChange};
use roost_aggregator_core::notify::{Telling, Told};
use roost_aggregator_core::operation::Operation;
use roost_protocol::{Epoch, Generation, GuestId, HostId, Stamp, codec};
use rusqlite::types::{FromSql, ToSql};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use rusqlite_migration::{M, Migrations};

use super::{Changes, LedgerError, row, version};

/// Ended operations are kept this long: a week of history for people and for late repeats of a request.
const KEEP_MS: u64 = 7 * 24 * 3_600 * 1_000;
/// And at most this many of them: about 40 MB.
const KEEP_COUNT: u32 = 100_000;
/// Rows deleted in one transaction, so that trimming never holds up a commit for long.
const TRIM_STEP: u32 = 1_000;
/// A database still busy after that long is held by somebody else.
const BUSY: std::time::Duration = std::time::Duration::from_secs(5);

const MIGRATIONS: &[M<'static>] = &[
    M::up(
        "CREATE TABLE meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL, sum INTEGER NOT NULL) STRICT, WITHOUT ROWID;
     CREATE TABLE host(id BLOB PRIMARY KEY, record BLOB NOT NULL, sum INTEGER NOT NULL) STRICT, WITHOUT ROWID;
     CREATE TABLE join_token(id TEXT PRIMARY KEY, record BLOB NOT NULL, sum INTEGER NOT NULL) STRICT, WITHOUT ROWID;
     CREATE TABLE user(id TEXT PRIMARY KEY, record BLOB NOT NULL, sum INTEGER NOT NULL) STRICT, WITHOUT ROWID;
     CREATE TABLE api_token(id TEXT PRIMARY KEY, record BLOB NOT NULL, sum INTEGER NOT NULL) STRICT, WITHOUT ROWID;
     CREATE TABLE operation(id BLOB PRIMARY KEY, host BLOB NOT NULL, guest BLOB NOT NULL, guest_name TEXT NOT NULL,
         verb BLOB NOT NULL, created_by TEXT NOT NULL, created INTEGER NOT NULL, ended INTEGER,
         expires INTEGER NOT NULL, state TEXT NOT NULL, failure BLOB, percent INTEGER NOT NULL, step TEXT NOT NULL,
         idempotency_key TEXT, sum INTEGER NOT NULL) STRICT, WITHOUT ROWID;
     CREATE INDEX operation_ended ON operation(ended) WHERE ended IS NOT NULL;",
    ),
    M::up(
        "ALTER TABLE operation ADD COLUMN started INTEGER;
         CREATE TABLE last_use(id TEXT PRIMARY KEY, record BLOB NOT NULL, sum INTEGER NOT NULL) STRICT, WITHOUT ROWID;",
    ),
    M::up(
        "CREATE TABLE backup_policy(id TEXT PRIMARY KEY, record BLOB NOT NULL, sum INTEGER NOT NULL) STRICT, WITHOUT ROWID;",
    ),
    M::up(
        "CREATE TABLE notifier(id TEXT PRIMARY KEY, record BLOB NOT NULL, sum INTEGER NOT NULL) STRICT, WITHOUT ROWID;
     CREATE TABLE silence(id TEXT PRIMARY KEY, record BLOB NOT NULL, sum INTEGER NOT NULL) STRICT, WITHOUT ROWID;
     CREATE TABLE acknowledged(id TEXT PRIMARY KEY, record BLOB NOT NULL, sum INTEGER NOT NULL) STRICT, WITHOUT ROWID;
     CREATE TABLE told(id TEXT PRIMARY KEY, record BLOB NOT NULL, sum INTEGER NOT NULL) STRICT, WITHOUT ROWID;",
    ),
    M::up("CREATE TABLE probe(id BLOB PRIMARY KEY, record BLOB NOT NULL, sum INTEGER NOT NULL) STRICT, WITHOUT ROWID;"),
    // Notifiers by file: a program that doesn't know them must not take their rows for damage.
    M::up(""),
];

/// What was kept from the last run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    pub(crate) intent: Intent,
    pub(crate) operations: Vec<Operation>,
    pub(crate) uses: LastUses,
    /// What each notifier was told.
    pub(crate) told: BTreeMap<String, Told>,
    /// The database was lost while the grid's key was not, and no grid document was adopted since.
    pub(crate) recovering: bool,
    /// Where a damaged database was put.
    pub(crate) set_aside: Option<PathBuf>,
}

/// The open database; no other process can open it meanwhile.
#[derive(Debug)]
pub(crate) struct Store {
    connection: Connection,
    path: PathBuf,
    _lock: File,
}

impl Store {
    /// Opens the database, or makes one; a damaged one is set aside first. `grid_existed`: the grid's key is older than
    /// this start, so a missing database means that it was lost.
    pub(crate) fn open(path: &Path, grid_existed: bool, now: Stamp) -> Result<(Self, Kept), LedgerError> {
        let lock = lock(path)?;
        match Self::read(path) {
            Ok((connection, kept)) => {
                let mut store = Self { connection, path: path.to_owned(), _lock: lock };
                let kept = store.note_loss(kept, grid_existed)?;
                Ok((store, kept))
            }
            Err(error) if error.damage() => {
                let aside = set_aside(path, now)?;
                tracing::error!(%error, aside = %aside.display(), "the database is damaged; beginning a new one");
                let (connection, kept) = Self::read(path)?;
                let mut store = Self { connection, path: path.to_owned(), _lock: lock };
                let kept = store.note_loss(kept, grid_existed)?;
                Ok((store, Kept { set_aside: Some(aside), ..kept }))
            }
            Err(error) => Err(error),
        }
    }

    fn read(path: &Path) -> Result<(Connection, Kept), LedgerError> {
        let connection = connect(path)?;
        let kept = Kept {
            intent: read_intent(&connection)?,
            operations: read_operations(&connection)?,
            uses: read_uses(&connection)?,
            told: records::<String, _>(&connection, "told", codec::decode)?.into_iter().collect(),
            recovering: read_meta(&connection, "recovering")? == Some(1),
            set_aside: None,
        };
        Ok((connection, kept))
    }

    /// A database without a birth mark is new; new beside an old key means lost.
    fn note_loss(&mut self, kept: Kept, grid_existed: bool) -> Result<Kept, LedgerError> {
        if read_meta(&self.connection, "recovering")?.is_some() {
            return Ok(kept);
        }
        let transaction = self.connection.transaction()?;
        write_meta(&transaction, "recovering", i64::from(grid_existed))?;
        transaction.commit()?;
        Ok(Kept { recovering: grid_existed, ..kept })
    }

    /// The epoch of this run, durable: above every kept one and, should the database have been lost, above what the
    /// agents saw, as long as this clock is not behind the start of the run before.
    pub(crate) fn begin_epoch(&mut self, now: Stamp) -> Result<Epoch, LedgerError> {
        let kept = read_meta(&self.connection, "epoch")?.map_or(0, row::unsigned);
        let epoch = Epoch(kept.saturating_add(1).max(now.0 / 1_000));
        let changes = Changes { epoch: Some(epoch), ..Changes::default() };
        self.commit(std::iter::once(&changes))?;
        Ok(epoch)
    }

    /// All of these changes, or none; durable on return.
    pub(crate) fn commit<'a>(&mut self, changes: impl Iterator<Item = &'a Changes>) -> Result<(), LedgerError> {
        let transaction = self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        for change in changes {
            write(&transaction, change)?;
        }
        Ok(transaction.commit()?)
    }

    /// Puts a database that turned out damaged aside and begins a new one with what is in memory.
    pub(crate) fn rebuild(&mut self, all: &Changes, now: Stamp) -> Result<(), LedgerError> {
        let recovering = read_meta(&self.connection, "recovering").ok().flatten();
        self.connection = Connection::open_in_memory()?;
        set_aside(&self.path, now)?;
        self.connection = connect(&self.path)?;
        self.commit(std::iter::once(all))?;
        let transaction = self.connection.transaction()?;
        write_meta(&transaction, "recovering", recovering.unwrap_or(0))?;
        Ok(transaction.commit()?)
    }

    /// Forgets operations that ended long ago; true when there may be more to forget.
    pub(crate) fn trim(&mut self, now: Stamp) -> Result<bool, LedgerError> {
        let before = row::signed(now.0.saturating_sub(KEEP_MS));
        let old = self.connection.execute(
            "DELETE FROM operation WHERE id IN (SELECT id FROM operation WHERE ended < ?1 ORDER BY ended LIMIT ?2)",
            params![before, TRIM_STEP],
        )?;
        let ended: u32 =
            self.connection
                .query_row("SELECT count(*) FROM operation WHERE ended IS NOT NULL", [], |row| row.get(0))?;
        let surplus = ended.saturating_sub(KEEP_COUNT).min(TRIM_STEP);
        if surplus > 0 {
            self.connection.execute(
                "DELETE FROM operation WHERE id IN
                     (SELECT id FROM operation WHERE ended IS NOT NULL ORDER BY ended LIMIT ?1)",
                [surplus],
            )?;
        }
        Ok(surplus == TRIM_STEP || u32::try_from(old).is_ok_and(|old| old == TRIM_STEP))
    }
}

#[cfg(test)]
impl Store {
    /// As a newer program leaves it.
    pub(super) fn pretend_version(&self, version: u32) {
        self.connection.pragma_update(None, "user_version", version).unwrap();
        super::version::mark(&self.connection).unwrap();
    }
}

/// One process at a time: `init` beside a running aggregator would be overwritten by it.
fn lock(path: &Path) -> Result<File, LedgerError> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let wrap = |source| LedgerError::File { what: "create", path: directory.to_owned(), source };
    crate::files::make_directory(directory).map_err(wrap)?;
    let lock = path.with_extension("lock");
    let wrap = |source| LedgerError::File { what: "open", path: lock.clone(), source };
    let file = File::options().create(true).truncate(false).write(true).open(&lock).map_err(wrap)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(LedgerError::InUse(path.to_owned())),
        Err(std::fs::TryLockError::Error(source)) => Err(LedgerError::File { what: "lock", path: lock, source }),
    }
}

fn connect(path: &Path) -> Result<Connection, LedgerError> {
    // SQLite gives its journal the mode that the database has.
    let wrap = |source| LedgerError::File { what: "create", path: path.to_owned(), source };
    crate::files::make_secret(path).map_err(wrap)?;
    if let Some(why) = version::foreign(path).map_err(wrap)? {
        return Err(LedgerError::Damaged(why));
    }
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    let verdict: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        return Err(LedgerError::Damaged(verdict));
    }
    if let Some(why) = version::damage(&connection, MIGRATIONS.len())? {
        return Err(LedgerError::Damaged(why));
    }
    Migrations::from_slice(MIGRATIONS).to_latest(&mut connection)?;
    version::mark(&connection)?;
    Ok(connection)
}

/// Renames the database and its journal; they may still tell an expert something.
fn set_aside(path: &Path, now: Stamp) -> Result<PathBuf, LedgerError> {
    let aside = |suffix: &str| PathBuf::from(format!("{}.corrupt-{}{suffix}", path.display(), now.0));
    for suffix in ["-wal", "-shm", ""] {
        let from = PathBuf::from(format!("{}{suffix}", path.display()));
        match std::fs::rename(&from, aside(suffix)) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(LedgerError::File { what: "set aside", path: from, source }),
        }
    }
    Ok(aside(""))
}

fn read_intent(connection: &Connection) -> Result<Intent, LedgerError> {
    let generation = read_meta(connection, "generation")?.map_or(0, row::unsigned);
    let hosts = records::<[u8; 16], _>(connection, "host", codec::decode)?;
    let probes = records::<[u8; 16], _>(connection, "probe", codec::decode)?;
    Ok(Intent {
        generation: Generation(generation),
        hosts: hosts.into_iter().map(|(id, record)| (HostId::from_bytes(id), record)).collect(),
        join_tokens: records::<String, _>(connection, "join_token", codec::decode)?.into_iter().collect(),
        users: records::<String, _>(connection, "user", codec::decode)?.into_iter().collect(),
        api_tokens: records::<String, _>(connection, "api_token", codec::decode)?.into_iter().collect(),
        backup_policies: records::<String, _>(connection, "backup_policy", codec::decode)?.into_iter().collect(),
        telling: Telling {
            notifiers: records::<String, _>(connection, "notifier", codec::decode)?.into_iter().collect(),
            silences: records::<String, _>(connection, "silence", codec::decode)?.into_iter().collect(),
            acknowledged: records::<String, _>(connection, "acknowledged", codec::decode)?.into_iter().collect(),
        },
        probes: probes.into_iter().map(|(id, record)| (GuestId::from_bytes(id), record)).collect(),
    })
}

fn records<K: FromSql + AsRef<[u8]>, T>(
    connection: &Connection,
    table: &'static str,
    decode: fn(&[u8]) -> Result<T, codec::Error>,
) -> Result<Vec<(K, T)>, LedgerError> {
    let mut statement = connection.prepare(&format!("SELECT id, record, sum FROM {table}"))?;
    let mut rows = statement.query([])?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        let (id, bytes): (K, Vec<u8>) = (row.get(0)?, row.get(1)?);
        if record_sum(id.as_ref(), &bytes) != row.get::<_, i64>(2)? {
            return Err(LedgerError::Row(table));
        }
        records.push((id, decode(&bytes).map_err(|_| LedgerError::Row(table))?));
    }
    Ok(records)
}

fn read_operations(connection: &Connection) -> Result<Vec<Operation>, LedgerError> {
    let mut statement = connection.prepare(&format!("SELECT {} FROM operation", row::OPERATION_COLUMNS))?;
    let mut rows = statement.query([])?;
    let mut operations = Vec::new();
    while let Some(row) = rows.next()? {
        operations.push(row::operation(row)?);
    }
    Ok(operations)
}

fn read_uses(connection: &Connection) -> Result<LastUses, LedgerError> {
    let all = records::<String, _>(connection, "last_use", codec::decode)?.into_iter();
    Ok(all.filter_map(|(id, at)| Some((row::account_of(&id)?, at))).collect())
}

fn read_meta(connection: &Connection, name: &'static str) -> Result<Option<i64>, LedgerError> {
    let query = "SELECT value, sum FROM meta WHERE name = ?1";
    let found = connection.query_row(query, [name], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?))).optional()?;
    match found {
        Some((value, sum)) if meta_sum(name, value) == sum => Ok(Some(value)),
        Some(_) => Err(LedgerError::Row("meta")),
        None => Ok(None),
    }
}

fn write_meta(transaction: &Transaction<'_>, name: &'static str, value: i64) -> Result<(), LedgerError> {
    let mut statement = transaction.prepare_cached("INSERT OR REPLACE INTO meta VALUES (?1, ?2, ?3)")?;
    statement.execute(params![name, value, meta_sum(name, value)])?;
    Ok(())
}

fn meta_sum(name: &str, value: i64) -> i64 {
    row::sum(&codec::encode(&(name, value)))
}

fn record_sum(id: &[u8], bytes: &[u8]) -> i64 {
    let mut all = id.to_vec();
    all.extend_from_slice(bytes);
    row::sum(&all)
}

fn write(transaction: &Transaction<'_>, changes: &Changes) -> Result<(), LedgerError> {
    for change in &changes.intent {
        match change {
            IntentChange::Host { id, record } => put(transaction, "host", id.bytes(), Some(codec::encode(record)))?,
            IntentChange::JoinToken { id, record } => {
                put(transaction, "join_token", id, record.as_ref().map(codec::encode))?;
            }
            IntentChange::User { name, record } => {
                put(transaction, "user", name, record.as_ref().map(codec::encode))?;
                if record.is_none() {
                    put(transaction, "last_use", row::account(&Account::User(name.clone())), None)?;
                }
            }
            IntentChange::ApiToken { id, record } => {
                put(transaction, "api_token", id, record.as_ref().map(codec::encode))?;
                if record.is_none() {
                    put(transaction, "last_use", row::account(&Account::ApiToken(id.clone())), None)?;
                }
            }
            IntentChange::BackupPolicy { name, record } => {
                put(transaction, "backup_policy", name, record.as_deref().map(codec::encode))?;
            }
            IntentChange::Notifier { name, record } => {
                put(transaction, "notifier", name, record.as_deref().map(codec::encode))?;
            }
            IntentChange::Silence { id, record } => {
                put(transaction, "silence", id, record.as_ref().map(codec::encode))?;
            }
            IntentChange::Acknowledged { id, record } => {
                put(transaction, "acknowledged", id, record.as_ref().map(codec::encode))?;
            }
            IntentChange::Probes { guest, probes } => {
                let record = (!probes.is_empty()).then(|| codec::encode(probes));
                put(transaction, "probe", guest.bytes(), record)?;
            }
            IntentChange::Replace(intent) => replace(transaction, intent)?,
        }
    }
    if !changes.intent.is_empty() {
        write_meta(transaction, "generation", row::signed(changes.generation.0))?;
    }
    if let Some(epoch) = changes.epoch {
        write_meta(transaction, "epoch", row::signed(epoch.0))?;
    }
    for (who, at) in &changes.uses {
        put(transaction, "last_use", row::account(who), Some(codec::encode(at)))?;
    }
    for (notifier, told) in &changes.told {
        put(transaction, "told", notifier, told.as_ref().map(codec::encode))?;
    }
    changes.operations.iter().try_for_each(|operation| put_operation(transaction, operation))
}

fn put(
    transaction: &Transaction<'_>,
    table: &'static str,
    id: impl ToSql + AsRef<[u8]>,
    record: Option<Vec<u8>>,
) -> Result<(), LedgerError> {
    match record {
        Some(bytes) => {
            let text = format!("INSERT OR REPLACE INTO {table} VALUES (?1, ?2, ?3)");
            let sum = record_sum(id.as_ref(), &bytes);
            transaction.prepare_cached(&text)?.execute(params![id, bytes, sum])?;
        }
        None => {
            transaction.prepare_cached(&format!("DELETE FROM {table} WHERE id = ?1"))?.execute(params![id])?;
        }
    }
    Ok(())
}

/// Everything from an adopted grid document: the loss is made good.
fn replace(transaction: &Transaction<'_>, intent: &Intent) -> Result<(), LedgerError> {
    transaction.execute_batch(
        "DELETE FROM host; DELETE FROM join_token; DELETE FROM user; DELETE FROM api_token; DELETE FROM backup_policy;
         DELETE FROM notifier; DELETE FROM silence; DELETE FROM acknowledged; DELETE FROM probe;",
    )?;
    for (id, record) in &intent.hosts {
        put(transaction, "host", id.bytes(), Some(codec::encode(record)))?;
    }
    for (id, record) in &intent.join_tokens {
        put(transaction, "join_token", id, Some(codec::encode(record)))?;
    }
    for (id, record) in &intent.users {
        put(transaction, "user", id, Some(codec::encode(record)))?;
    }
    for (id, record) in &intent.api_tokens {
        put(transaction, "api_token", id, Some(codec::encode(record)))?;
    }
    for (name, policy) in &intent.backup_policies {
        put(transaction, "backup_policy", name, Some(codec::encode(policy)))?;
    }
    replace_telling(transaction, &intent.telling)?;
    for (guest, probes) in &intent.probes {
        put(transaction, "probe", guest.bytes(), Some(codec::encode(probes)))?;
    }
    write_meta(transaction, "recovering", 0)
}

fn replace_telling(transaction: &Transaction<'_>, telling: &Telling) -> Result<(), LedgerError> {
    for (name, record) in &telling.notifiers {
        put(transaction, "notifier", name, Some(codec::encode(record)))?;
    }
    for (id, record) in &telling.silences {
        put(transaction, "silence", id, Some(codec::encode(record)))?;
    }
    for (id, record) in &telling.acknowledged {
        put(transaction, "acknowledged", id, Some(codec::encode(record)))?;
    }
    Ok(())
}

fn put_operation(transaction: &Transaction<'_>, operation: &Operation) -> Result<(), LedgerError> {
    let text = "INSERT OR REPLACE INTO operation VALUES \
                (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)";
    transaction.prepare_cached(text)?.execute(params![
        operation.id.bytes(),
        operation.host.bytes(),
        operation.guest.bytes(),
        operation.guest_name,
        codec::encode(&operation.verb),
        operation.created_by,
        row::signed(operation.created.0),
        operation.ended.map(|at| row::signed(at.0)),
        row::signed(operation.expires.0),
        row::word(&operation.state),
        row::failure(&operation.state),
        operation.percent,
        operation.step,
        operation.key,
        row::operation_sum(operation),
        operation.started.map(|at| row::signed(at.0)),
    ])?;
    Ok(())
}
