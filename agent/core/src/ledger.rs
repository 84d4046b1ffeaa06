//! What must survive a reboot, as values; the edge writes them to SQLite.

use std::collections::BTreeMap;

use roost_protocol::backup::{BackupPolicy, BackupRun, Peer, Share};
use roost_protocol::guest::Desired;
use roost_protocol::host::Maintenance;
use roost_protocol::memory::MemoryPolicy;
use roost_protocol::operation::{Command, Outcome};
use roost_protocol::probe::GuestProbes;
use roost_protocol::{Epoch, Generation, GuestId, OperationId};

/// All that was kept, read at start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Wishes of managed guests.
    pub wishes: BTreeMap<GuestId, Desired>,
    /// Commands taken and not yet forgotten.
    pub operations: BTreeMap<OperationId, Record>,
    /// Highest aggregator epoch seen.
    pub epoch: Epoch,
    /// Generation of the grid document kept; zero: none.
    pub document: Generation,
    /// Backup policies of guests, also of those that are gone.
    pub policies: BTreeMap<GuestId, BackupPolicy>,
    pub runs: BTreeMap<GuestId, BackupRun>,
    /// Hosts that may keep copies, as told last.
    pub peers: Vec<Peer>,
    /// Points that they may take, as told last.
    pub shares: Vec<Share>,
    /// Whether it is in service, as told last.
    pub maintenance: Option<Maintenance>,
    /// What falls together with this host, as told last; empty: no zone.
    pub zone: String,
    /// Which doors of its guests are tried, as told last.
    pub probes: Vec<GuestProbes>,
    /// How dense the host is packed, as told last; absent: as its settings say.
    pub memory: Option<MemoryPolicy>,
}

/// One command in the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub command: Command,
    pub stage: Stage,
}

/// How far a command is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Taken and perhaps begun.
    Taken,
    /// Ended; told to the aggregator until it says it has seen it.
    Ended { outcome: Outcome, seen: bool },
}

/// One write to the ledger; a list of them is one transaction.
#[expect(clippy::large_enum_variant, reason = "a handful live at a time, each for one write")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Wish { guest: GuestId, desired: Option<Desired> },
    Operation { record: Record },
    Forget { operation: OperationId },
    Epoch(Epoch),
    Policy { guest: GuestId, policy: Option<Box<BackupPolicy>> },
    Run { guest: GuestId, run: Option<Box<BackupRun>> },
    Peers(Vec<Peer>),
    Shares(Vec<Share>),
    Maintenance(Option<Maintenance>),
    Zone(String),
    Probes(Vec<GuestProbes>),
    Memory(Option<Box<MemoryPolicy>>),
}
