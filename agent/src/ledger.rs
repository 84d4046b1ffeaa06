//! What must survive a reboot, in SQLite: WAL and `synchronous=FULL`, because an answer counts only when it is on disk
//! (1,500 power cuts lost nothing with FULL, 6,386 commits with NORMAL). One thread owns it; asked through a channel.

mod backup;
mod version;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use roost_agent_core::{Change, Kept, Record, Stage};
use roost_protocol::codec;
use roost_protocol::guest::{Desired, Power};
use roost_protocol::operation::{Command, Outcome};
use roost_protocol::{Epoch, Generation, GuestId, HostId, OperationId};
use rusqlite::{Connection, OptionalExtension, params};
use rusqlite_migration::{M, Migrations};
use tokio::sync::mpsc;

use crate::files;

/// Requests that may wait; the driver has one write under way at a time, the rest are documents and boot ids.
const REQUESTS: usize = 64;
/// How often a ledger that failed is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// A second agent on the same state folder waits so long before it gives up.
const BUSY: Duration = Duration::from_secs(3);
/// Ended and seen operations are kept so long, so that a late repetition is answered and not run again.
const OPERATION_AGE_MS: i64 = 7 * 24 * 3_600 * 1_000;
/// And so many at most.
const OPERATIONS: i64 = 10_000;

const SCHEMA: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE wish (
    guest BLOB PRIMARY KEY CHECK (length(guest) = 16),
    power TEXT NOT NULL CHECK (power IN ('running', 'stopped')),
    generation INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE operation (
    id BLOB PRIMARY KEY CHECK (length(id) = 16),
    command BLOB NOT NULL,
    outcome BLOB,
    seen INTEGER NOT NULL,
    at INTEGER NOT NULL
) STRICT;
CREATE INDEX operation_by_age ON operation (seen, at);
CREATE TABLE document (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    generation INTEGER NOT NULL,
    sealed BLOB NOT NULL
) STRICT;
";

/// Why the ledger can't be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LedgerError {
    #[error("open the ledger {path}")]
    Open { path: PathBuf, source: rusqlite::Error },
    #[error("open the ledger {0}: another agent uses it")]
    InUse(PathBuf),
    #[error("bring the ledger up to date")]
    Migrate(#[source] rusqlite_migration::Error),
    #[error("the ledger is damaged: {0}")]
    Damaged(String),
    #[error("move the damaged ledger aside")]
    Aside(#[source] io::Error),
    #[error("read the ledger")]
    Read(#[source] rusqlite::Error),
    #[error("start the ledger's thread")]
    Thread(#[source] io::Error),
}

/// What the ledger is asked.
#[derive(Debug)]
pub(crate) enum Request {
    Write(Vec<Change>),
    KeepDocument {
        generation: Generation,
        sealed: Vec<u8>,
    },
    ReadDocument,
    /// This host's boots are told apart by it; see [`Opened::boot`].
    KeepBoot(String),
}

/// What it answers.
#[derive(Debug)]
pub(crate) enum Reply {
    /// To [`Request::Write`], in order.
    Written(Result<(), Lost>),
    /// To [`Request::ReadDocument`].
    Document(Option<Vec<u8>>),
    /// A document or boot id could not be kept.
    NotKept { why: String },
    /// It failed before and can be written again.
    Recovered,
}

/// Changes that are not on disk.
#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) changes: Vec<Change>,
    pub(crate) why: String,
}

/// The ledger at start.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) kept: Kept,
    /// This host's id until, and unless, a grid gives it another.
    pub(crate) host: HostId,
    /// Boot that was kept last; absent in a new ledger.
    pub(crate) boot: Option<String>,
    /// Where a damaged ledger was moved.
    pub(crate) aside: Option<PathBuf>,
    ledger: Ledger,
}

#[derive(Debug)]
struct Ledger {
    connection: Connection,
}

impl Opened {
    /// Opens or makes the ledger in this folder. A damaged one is moved aside, for the wishes are all that is lost.
    pub(crate) fn open(state_dir: &Path) -> Result<Self, LedgerError> {
        let path = state_dir.join("ledger.db");
        let (ledger, aside) = match Ledger::open(&path) {
            Ok(ledger) => (ledger, None),
            Err(LedgerError::Damaged(why)) => {
                let aside = move_aside(&path).map_err(LedgerError::Aside)?;
                tracing::error!(why, aside = %aside.display(), "the ledger was damaged and moved aside");
                (Ledger::open(&path)?, Some(aside))
            }
            Err(error) => return Err(error),
        };
        ledger.prune();
        let kept = ledger.load().map_err(LedgerError::Read)?;
        let boot = ledger.meta("boot").map_err(LedgerError::Read)?;
        let boot = boot.and_then(|bytes| String::from_utf8(bytes).ok());
        let host = ledger.host_id().map_err(LedgerError::Read)?;
        Ok(Self { kept, host, boot, aside, ledger })
    }

    /// Serves requests on a thread of its own until the sender is dropped.
    pub(crate) fn serve(self, replies: mpsc::Sender<Reply>) -> Result<SyncSender<Request>, LedgerError> {
        let (sender, requests) = sync_channel(REQUESTS);
        let mut ledger = self.ledger;
        let serve = move || ledger.serve(&requests, &replies);
        thread::Builder::new().name("ledger".into()).spawn(serve).map_err(LedgerError::Thread)?;
        Ok(sender)
    }
}

impl Ledger {
    fn open(path: &Path) -> Result<Self, LedgerError> {
        let fail = |source: rusqlite::Error| match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
                LedgerError::Damaged(source.to_string())
            }
            Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
                LedgerError::InUse(path.into())
            }
            _ => LedgerError::Open { path: path.into(), source },
        };
        // SQLite's other files take over the mode of this one.
        if let Err(error) = files::make_private(path) {
            tracing::warn!(%error, "keep the ledger from other users' eyes");
        }
        if let Ok(Some(why)) = version::foreign(path) {
            return Err(LedgerError::Damaged(why));
        }
        let mut connection = Connection::open(path).map_err(fail)?;
        prepare(&connection).map_err(fail)?;
        let verdict: String = connection.pragma_query_value(None, "quick_check", |row| row.get(0)).map_err(fail)?;
        if verdict != "ok" {
            return Err(LedgerError::Damaged(verdict));
        }
        let steps = [M::up(SCHEMA), M::up(backup::SCHEMA)];
        if let Some(why) = version::damage(&connection, steps.len()).map_err(fail)? {
            return Err(LedgerError::Damaged(why));
        }
        match Migrations::from_slice(&steps).to_latest(&mut connection) {
            Ok(()) => {
                version::mark(&connection).map_err(fail)?;
                Ok(Self { connection })
            }
            Err(rusqlite_migration::Error::RusqliteError { query: _, err }) => Err(fail(err)),
            Err(error) => Err(LedgerError::Migrate(error)),
        }
    }

    fn serve(&mut self, requests: &Receiver<Request>, replies: &mpsc::Sender<Reply>) {
        let mut failing = false;
        loop {
            let wait = if failing { RETRY } else { Duration::from_secs(3_600) };
            let reply = match requests.recv_timeout(wait) {
                Ok(request) => self.answer(request),
                Err(RecvTimeoutError::Timeout) if failing => {
                    self.put_meta("probe", b"").is_ok().then_some(Reply::Recovered)
                }
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let Some(reply) = reply else { continue };
            let recovered = failing && matches!(reply, Reply::Written(Ok(())));
            match &reply {
                Reply::Written(Err(_)) | Reply::NotKept { .. } => failing = true,
                Reply::Written(Ok(())) | Reply::Recovered => failing = false,
                Reply::Document(_) => {}
            }
            let gone = replies.blocking_send(reply).is_err();
            if gone || (recovered && replies.blocking_send(Reply::Recovered).is_err()) {
                return;
            }
        }
    }

    fn answer(&mut self, request: Request) -> Option<Reply> {
        let kept = |result: rusqlite::Result<()>| result.err().map(|error| Reply::NotKept { why: error.to_string() });
        match request {
            Request::Write(changes) => Some(Reply::Written(match self.write(&changes) {
                Ok(()) => Ok(()),
                Err(error) => Err(Lost { changes, why: format!("write the ledger: {error}") }),
            })),
            Request::KeepDocument { generation, sealed } => kept(self.keep_document(generation, &sealed)),
            Request::KeepBoot(boot) => kept(self.put_meta("boot", boot.as_bytes())),
            Request::ReadDocument => Some(Reply::Document(self.document().unwrap_or_else(|error| {
                tracing::error!(%error, "read the kept grid document");
                None
            }))),
        }
    }

    /// All of them, or none.
    fn write(&mut self, changes: &[Change]) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        for change in changes {
            apply(&transaction, change)?;
        }
        transaction.commit()
    }

    fn keep_document(&self, generation: Generation, sealed: &[u8]) -> rusqlite::Result<()> {
        let sql = "INSERT INTO document (one, generation, sealed) VALUES (1, ?1, ?2)
                   ON CONFLICT (one) DO UPDATE SET generation = ?1, sealed = ?2";
        self.connection.execute(sql, params![to_sql(generation.0), sealed]).map(drop)
    }

    fn document(&self) -> rusqlite::Result<Option<Vec<u8>>> {
        self.connection.query_row("SELECT sealed FROM document", [], |row| row.get(0)).optional()
    }

    fn put_meta(&self, key: &str, value: &[u8]) -> rusqlite::Result<()> {
        let sql = "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2";
        self.connection.execute(sql, params![key, value]).map(drop)
    }

    fn meta(&self, key: &str) -> rusqlite::Result<Option<Vec<u8>>> {
        self.connection.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0)).optional()
    }

    fn host_id(&self) -> rusqlite::Result<HostId> {
        if let Some(bytes) = self.meta("host")?.and_then(|bytes| <[u8; 16]>::try_from(bytes).ok()) {
            return Ok(HostId::from_bytes(bytes));
        }
        let host = HostId::from(uuid::Uuid::new_v4());
        self.put_meta("host", &host.bytes())?;
        Ok(host)
    }

    /// Forgets what is too old to be asked for again. On a full disk that must not keep the agent from starting.
    fn prune(&self) {
        let sql = "DELETE FROM operation WHERE seen = 1 AND (at < ?1 OR id NOT IN
                   (SELECT id FROM operation WHERE seen = 1 ORDER BY at DESC LIMIT ?2))";
        let oldest = now_ms().saturating_sub(OPERATION_AGE_MS);
        if let Err(error) = self.connection.execute(sql, params![oldest, OPERATIONS]) {
            tracing::warn!(%error, "forget old operations");
        }
    }

    fn load(&self) -> rusqlite::Result<Kept> {
        let mut kept = Kept::default();
        let mut statement = self.connection.prepare("SELECT guest, power, generation FROM wish")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let power = if row.get_ref(1)?.as_str()? == "running" { Power::Running } else { Power::Stopped };
            let desired = Desired { power, generation: Generation(from_sql(row.get(2)?)) };
            kept.wishes.insert(GuestId::from_bytes(row.get(0)?), desired);
        }
        let mut statement = self.connection.prepare("SELECT id, command, outcome, seen FROM operation")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id = OperationId::from_bytes(row.get(0)?);
            match record(row.get_ref(1)?.as_blob()?, row.get_ref(2)?.as_blob_or_null()?, row.get(3)?) {
                Ok(record) => drop(kept.operations.insert(id, record)),
                Err(error) => {
                    tracing::error!(%id, %error, "an operation in the ledger can't be read and is passed over")
                }
            }
        }
        kept.epoch = Epoch(self.meta("epoch")?.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes));
        let document = self.connection.query_row("SELECT generation FROM document", [], |row| row.get(0)).optional()?;
        kept.document = Generation(from_sql(document.unwrap_or(0)));
        backup::load(&self.connection, &mut kept)?;
        Ok(kept)
    }
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY)?;
    // Exclusive: two agents never share a ledger, and no -shm file is needed, so that it opens on a full disk.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // A read takes the lock now rather than at the first write.
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
}

fn apply(connection: &Connection, change: &Change) -> rusqlite::Result<()> {
    match change {
        Change::Wish { guest, desired: Some(desired) } => {
            let power = match desired.power {
                Power::Running => "running",
                Power::Stopped => "stopped",
            };
            let sql = "INSERT INTO wish (guest, power, generation) VALUES (?1, ?2, ?3)
                       ON CONFLICT (guest) DO UPDATE SET power = ?2, generation = ?3";
            connection.prepare_cached(sql)?.execute(params![guest.bytes(), power, to_sql(desired.generation.0)])
        }
        Change::Wish { guest, desired: None } => {
            connection.execute("DELETE FROM wish WHERE guest = ?1", [guest.bytes()])
        }
        Change::Operation { record } => {
            let (outcome, seen) = match &record.stage {
                Stage::Taken => (None, false),
                Stage::Ended { outcome, seen } => (Some(codec::encode(outcome)), *seen),
            };
            let sql = "INSERT INTO operation (id, command, outcome, seen, at) VALUES (?1, ?2, ?3, ?4, ?5)
                       ON CONFLICT (id) DO UPDATE SET command = ?2, outcome = ?3, seen = ?4, at = ?5";
            let (id, command) = (record.command.operation.bytes(), codec::encode(&record.command));
            connection.prepare_cached(sql)?.execute(params![id, command, outcome, seen, now_ms()])
        }
        Change::Forget { operation } => connection.execute("DELETE FROM operation WHERE id = ?1", [operation.bytes()]),
        Change::Epoch(epoch) => {
            let sql = "INSERT INTO meta (key, value) VALUES ('epoch', ?1) ON CONFLICT (key) DO UPDATE SET value = ?1";
            connection.execute(sql, [epoch.0.to_be_bytes()])
        }
        Change::Policy { .. }
        | Change::Run { .. }
        | Change::Peers(_)
        | Change::Shares(_)
        | Change::Maintenance(_)
        | Change::Zone(_)
        | Change::Probes(_)
        | Change::Memory(_) => backup::apply(connection, change),
    }
    .map(drop)
}

fn record(command: &[u8], outcome: Option<&[u8]>, seen: bool) -> Result<Record, codec::Error> {
    let command: Command = codec::decode(command)?;
    let stage = match outcome {
        None => Stage::Taken,
        Some(bytes) => Stage::Ended { outcome: codec::decode::<Outcome>(bytes)?, seen },
    };
    Ok(Record { command, stage })
}

/// SQLite has signed integers only; generations stay far below the sign.
fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn from_sql(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn move_aside(path: &Path) -> io::Result<PathBuf> {
    let stamp = now_ms();
    let named = |suffix: &str| PathBuf::from(format!("{}{suffix}", path.display()));
    let aside = named(&format!(".damaged-{stamp}"));
    fs::rename(path, &aside)?;
    for suffix in ["-wal", "-shm"] {
        match fs::rename(named(suffix), PathBuf::from(format!("{}{suffix}", aside.display()))) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(aside)
}

#[cfg(test)]
mod test {
    use roost_protocol::Millis;
    use roost_protocol::operation::Verb;

    use super::*;

    fn command(number: u128) -> Command {
        let (operation, guest) = (OperationId::from_u128(number), GuestId::from_u128(9));
        Command { operation, epoch: Epoch(3), budget_ms: Millis::seconds(5), guest, verb: Verb::Start }
    }

    fn ended(number: u128, seen: bool) -> Change {
        let outcome = Outcome { operation: OperationId::from_u128(number), failure: None };
        Change::Operation { record: Record { command: command(number), stage: Stage::Ended { outcome, seen } } }
    }

    #[test]
    fn what_was_written_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut opened = Opened::open(dir.path()).unwrap();
        let (host, guest) = (opened.host, GuestId::from_u128(7));
        let wish = Desired { power: Power::Stopped, generation: Generation(4) };
        let changes = [
            Change::Wish { guest, desired: Some(wish) },
            Change::Wish { guest: GuestId::from_u128(8), desired: Some(wish) },
            Change::Wish { guest: GuestId::from_u128(8), desired: None },
            Change::Operation { record: Record { command: command(1), stage: Stage::Taken } },
            ended(2, true),
            ended(3, true),
            Change::Forget { operation: OperationId::from_u128(3) },
            Change::Epoch(Epoch(u64::MAX)),
        ];
        opened.ledger.write(&changes).unwrap();
        opened.ledger.keep_document(Generation(6), b"sealed").unwrap();
        opened.ledger.put_meta("boot", b"b1").unwrap();
        drop(opened);
        let opened = Opened::open(dir.path()).unwrap();
        assert_eq!((opened.host, opened.boot.as_deref(), &opened.aside), (host, Some("b1"), &None));
        assert_eq!(opened.kept.wishes.into_iter().collect::<Vec<_>>(), [(guest, wish)]);
        assert_eq!(opened.kept.operations.len(), 2);
        assert_eq!(opened.kept.operations[&OperationId::from_u128(1)].stage, Stage::Taken);
        assert_eq!((opened.kept.epoch, opened.kept.document), (Epoch(u64::MAX), Generation(6)));
        assert_eq!(opened.ledger.document().unwrap().as_deref(), Some(&b"sealed"[..]));
    }

    #[test]
    fn a_damaged_ledger_is_kept_aside_and_a_new_one_is_begun() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("ledger.db"), [7; 9_000]).unwrap();
        let opened = Opened::open(dir.path()).unwrap();
        assert_eq!(opened.kept, Kept::default());
        assert_eq!(fs::read(opened.aside.unwrap()).unwrap(), [7; 9_000]);
    }

    #[test]
    fn only_one_agent_has_the_ledger() {
        let dir = tempfile::tempdir().unwrap();
        let first = Opened::open(dir.path()).unwrap();
        assert!(matches!(Opened::open(dir.path()), Err(LedgerError::InUse(_))));
        drop(first);
        assert!(Opened::open(dir.path()).is_ok());
    }

    #[test]
    fn a_full_disk_is_told_with_what_was_lost_and_so_is_the_recovery() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Opened::open(dir.path()).unwrap().ledger;
        ledger.connection.pragma_update(None, "max_page_count", 1).unwrap();
        let sealed = vec![1; 1 << 20];
        let reply = ledger.answer(Request::KeepDocument { generation: Generation(1), sealed });
        assert!(matches!(reply, Some(Reply::NotKept { .. })), "{reply:?}");
        let many: Vec<_> = (0..2_000).map(|number| ended(number, false)).collect();
        let Some(Reply::Written(Err(lost))) = ledger.answer(Request::Write(many.clone())) else { panic!() };
        assert_eq!((lost.changes, lost.why.contains("full")), (many.clone(), true));
        assert!(ledger.load().unwrap().operations.is_empty(), "a failed write leaves nothing");
        ledger.connection.pragma_update(None, "max_page_count", 1_000_000).unwrap();
        assert!(matches!(ledger.answer(Request::Write(many)), Some(Reply::Written(Ok(())))));
    }

    #[test]
    fn seen_operations_are_forgotten_when_old_and_unseen_ones_never() {
        let dir = tempfile::tempdir().unwrap();
        let mut opened = Opened::open(dir.path()).unwrap();
        opened.ledger.write(&[ended(1, true), ended(2, false), ended(3, true)]).unwrap();
        let sql = "UPDATE operation SET at = 0 WHERE id != ?1";
        opened.ledger.connection.execute(sql, [OperationId::from_u128(3).bytes()]).unwrap();
        drop(opened);
        let kept = Opened::open(dir.path()).unwrap().kept;
        let left: Vec<_> = kept.operations.into_keys().collect();
        assert_eq!(left, [OperationId::from_u128(2), OperationId::from_u128(3)]);
    }
}
