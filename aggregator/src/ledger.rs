//! Stable storage: a thread of its own writes all waiting changes in one transaction and answers them together (group
//! commit). What is answered with Ok survives a power cut (WAL, synchronous=FULL).
//!
//! When a transaction fails, its waiters are told, but its changes stay owed: the core has them in memory, and memory and
//! disk must not part. They are tried again each [`RETRY`], and before anything newer.

mod row;
mod store;
mod version;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use roost_aggregator_core::account::LastUses;
use roost_aggregator_core::intent::IntentChange;
use roost_aggregator_core::notify::Told;
use roost_aggregator_core::operation::Operation;
use roost_protocol::{Epoch, Generation, OperationId};
use tokio::sync::oneshot;

pub(crate) use store::{Kept, Store};

/// Answers that may wait for the disk; the driver takes in nothing new beyond it.
pub(crate) const WAITING: usize = 8_192;
/// Changes written in one transaction; more would make the first of them wait too long.
const BATCH: usize = 4_096;
/// Time between tries to write what is owed.
const RETRY: Duration = Duration::from_secs(1);
/// Time between looks at what may be forgotten.
const TRIM_EVERY: Duration = Duration::from_secs(60);

/// What one answer of the core wants durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) intent: Vec<IntentChange>,
    pub(crate) generation: Generation,
    pub(crate) operations: Vec<Operation>,
    pub(crate) uses: LastUses,
    /// What notifiers were told; none: the notifier is gone.
    pub(crate) told: BTreeMap<String, Option<Told>>,
    /// Agents had seen a newer aggregator: later starts are to be above this.
    pub(crate) epoch: Option<Epoch>,
}

/// Why something could not be read or made durable.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LedgerError {
    #[error("{what} {path}")]
    File { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{0} is in use by another process; stop the aggregator first")]
    InUse(PathBuf),
    #[error("the database is damaged: {0}")]
    Damaged(String),
    #[error("a row of table {0} is damaged")]
    Row(&'static str),
    #[error("use the database")]
    Sqlite(#[from] rusqlite::Error),
    #[error("bring the database to this version's tables (was it written by a newer version?)")]
    Migrate(#[source] rusqlite_migration::Error),
    #[error("the storage thread has ended")]
    Gone,
    #[error("too much waits for the disk")]
    Full,
    /// Told to all waiters of a failed transaction.
    #[error("write the database: {0}")]
    Write(Arc<LedgerError>),
}

impl From<rusqlite_migration::Error> for LedgerError {
    fn from(error: rusqlite_migration::Error) -> Self {
        if let rusqlite_migration::Error::RusqliteError { err, .. } = error {
            return Self::Sqlite(err);
        }
        Self::Migrate(error)
    }
}

impl LedgerError {
    /// True where the file's content is at fault, so that a new file helps.
    pub(crate) fn damage(&self) -> bool {
        use rusqlite::Error as E;
        match self {
            Self::Damaged(_) | Self::Row(_) => true,
            Self::Sqlite(
                E::FromSqlConversionFailure(..) | E::InvalidColumnType(..) | E::IntegralValueOutOfRange(..),
            ) => true,
            Self::Sqlite(error) => matches!(
                error.sqlite_error_code(),
                Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase)
            ),
            Self::Write(error) => error.damage(),
            Self::File { .. } | Self::InUse(_) | Self::Migrate(_) | Self::Gone | Self::Full => false,
        }
    }
}

/// Answers when the change is durable, or that it is not.
pub(crate) type Durable = oneshot::Receiver<Result<(), LedgerError>>;

#[derive(Debug)]
enum Job {
    Persist { changes: Changes, done: oneshot::Sender<Result<(), LedgerError>> },
    Rebuild(Box<Changes>),
}

/// What is counted, and whether storage fails.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Transactions committed.
    pub(crate) commits: AtomicU64,
    /// Changes answered with Ok.
    pub(crate) persisted: AtomicU64,
    /// Something is owed: storage fails.
    pub(crate) failing: AtomicBool,
}

/// The way to the storage thread.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    jobs: SyncSender<Job>,
    counts: Arc<Counts>,
}

impl Ledger {
    /// Starts the thread; it ends when the last handle is dropped, after writing all it was given.
    pub(crate) fn start(store: Store) -> std::io::Result<(Self, std::thread::JoinHandle<()>)> {
        let (jobs, receiver) = sync_channel(WAITING);
        let counts = Arc::new(Counts::default());
        let worker = Worker { store, jobs: receiver, owed: Owed::default(), counts: Arc::clone(&counts) };
        let thread = std::thread::Builder::new().name("ledger".to_owned()).spawn(move || worker.run())?;
        Ok((Self { jobs, counts }, thread))
    }

    /// Makes the changes durable; never blocks.
    pub(crate) fn persist(&self, changes: Changes) -> Durable {
        let (done, durable) = oneshot::channel();
        if let Err(error) = self.jobs.try_send(Job::Persist { changes, done }) {
            let (job, why) = match error {
                TrySendError::Full(job) => (job, LedgerError::Full),
                TrySendError::Disconnected(job) => (job, LedgerError::Gone),
            };
            if let Job::Persist { done, .. } = job {
                // The receiver is in this very function.
                let _ = done.send(Err(why));
            }
        }
        durable
    }

    /// The database turned out damaged: begin a new one with all that memory holds.
    pub(crate) fn rebuild(&self, all: Changes) {
        if let Err(error) = self.jobs.try_send(Job::Rebuild(Box::new(all))) {
            tracing::error!(%error, "cannot rebuild the database now");
        }
    }

    /// True while something that the core knows is not on disk.
    pub(crate) fn failing(&self) -> bool {
        self.counts.failing.load(Ordering::Relaxed)
    }
}

/// Changes of failed transactions; a newer state of an operation takes the older one's place.
#[derive(Debug, Default)]
struct Owed {
    intent: Vec<IntentChange>,
    generation: Generation,
    operations: BTreeMap<OperationId, Operation>,
    uses: LastUses,
    told: BTreeMap<String, Option<Told>>,
    epoch: Option<Epoch>,
}

impl Owed {
    fn is_empty(&self) -> bool {
        let little = self.uses.is_empty() && self.told.is_empty() && self.epoch.is_none();
        self.intent.is_empty() && self.operations.is_empty() && little
    }

    fn add(&mut self, changes: Changes) {
        self.intent.extend(changes.intent);
        self.generation = self.generation.max(changes.generation);
        self.operations.extend(changes.operations.into_iter().map(|operation| (operation.id, operation)));
        self.uses.extend(changes.uses);
        self.told.extend(changes.told);
        self.epoch = self.epoch.max(changes.epoch);
    }

    fn changes(&self) -> Changes {
        Changes {
            intent: self.intent.clone(),
            generation: self.generation,
            operations: self.operations.values().cloned().collect(),
            uses: self.uses.clone(),
            told: self.told.clone(),
            epoch: self.epoch,
        }
    }
}

struct Worker {
    store: Store,
    jobs: Receiver<Job>,
    owed: Owed,
    counts: Arc<Counts>,
}

type Waiter = oneshot::Sender<Result<(), LedgerError>>;

impl Worker {
    fn run(mut self) {
        let mut trimmed = Instant::now();
        loop {
            let wait = if self.owed.is_empty() { TRIM_EVERY } else { RETRY };
            match self.jobs.recv_timeout(wait) {
                Ok(first) => self.take(first),
                Err(RecvTimeoutError::Timeout) => self.write(Vec::new(), Vec::new()),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if trimmed.elapsed() >= TRIM_EVERY && self.owed.is_empty() {
                self.trim();
                trimmed = Instant::now();
            }
        }
        if !self.owed.is_empty() {
            self.write(Vec::new(), Vec::new());
        }
    }

    /// This job and all that wait behind it, up to [`BATCH`].
    fn take(&mut self, first: Job) {
        let (mut batch, mut waiters) = (Vec::new(), Vec::new());
        let mut next = Some(first);
        while let Some(job) = next {
            match job {
                Job::Persist { changes, done } => {
                    batch.push(changes);
                    waiters.push(done);
                }
                Job::Rebuild(all) => {
                    self.write(std::mem::take(&mut batch), std::mem::take(&mut waiters));
                    self.rebuild(&all);
                }
            }
            next = if batch.len() < BATCH { self.jobs.try_recv().ok() } else { None };
        }
        self.write(batch, waiters);
    }

    fn write(&mut self, batch: Vec<Changes>, waiters: Vec<Waiter>) {
        if batch.is_empty() && self.owed.is_empty() {
            return;
        }
        let owed = self.owed.changes();
        match self.store.commit(std::iter::once(&owed).chain(&batch)) {
            Ok(()) => {
                self.owed = Owed::default();
                self.counts.failing.store(false, Ordering::Relaxed);
                self.counts.commits.fetch_add(1, Ordering::Relaxed);
                let count = u64::try_from(waiters.len()).unwrap_or(u64::MAX);
                self.counts.persisted.fetch_add(count, Ordering::Relaxed);
                // A waiter that has gone doesn't want to know.
                waiters.into_iter().for_each(|waiter| drop(waiter.send(Ok(()))));
            }
            Err(error) => {
                tracing::error!(error = %crate::chain(&error), "cannot write the database; trying again each second");
                self.counts.failing.store(true, Ordering::Relaxed);
                batch.into_iter().for_each(|changes| self.owed.add(changes));
                let error = Arc::new(error);
                for waiter in waiters {
                    drop(waiter.send(Err(LedgerError::Write(Arc::clone(&error)))));
                }
            }
        }
    }

    fn rebuild(&mut self, all: &Changes) {
        match self.store.rebuild(all, crate::clock::wall()) {
            Ok(()) => {
                tracing::warn!("the damaged database was set aside; a new one holds all that was in memory");
                self.owed = Owed::default();
                self.counts.failing.store(false, Ordering::Relaxed);
            }
            Err(error) => tracing::error!(error = %crate::chain(&error), "cannot rebuild the database"),
        }
    }

    fn trim(&mut self) {
        if let Err(error) = self.store.trim(crate::clock::wall()) {
            tracing::warn!(error = %crate::chain(&error), "cannot forget old operations");
        }
    }
}

#[cfg(test)]
mod test;
