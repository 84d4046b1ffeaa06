//! What the agent's core is told, and what it asks for. The order of actions is meaning: Persist, then Run, then Send.

use std::collections::BTreeMap;

use roost_protocol::backup::{BackupSummary, Damage, Freeze, Meant, Peer, Proof, RestoreOrder, Share, Target, Why};
use roost_protocol::cause::Noted;
use roost_protocol::fence::FenceDevice;
use roost_protocol::guest::{Disk, GuestSample, GuestSpec, PowerState};
use roost_protocol::host::{Alarm, HostFacts, HostSample};
use roost_protocol::memory::MemoryPolicy;
use roost_protocol::message::{ToAgent, ToAggregator, Welcome};
use roost_protocol::operation::Failure;
use roost_protocol::{GuestId, HostId, MiB, Millis, OperationId, PointId, Stamp};

use crate::failover::{GuardSeen, GuardWish};
use crate::ledger::Change;
use crate::memory::Room;
use crate::right::Right;

/// One domain as the hypervisor shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub guest: GuestId,
    pub name: String,
    pub state: PowerState,
    pub cause: Cause,
    pub persistent: bool,
    pub vcpus: u32,
    pub memory_mib: MiB,
    pub disks: Vec<Disk>,
}

/// Why a guest is in its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The hypervisor doesn't say (after a host boot, or after its daemon was restarted).
    Unknown,
    Booted,
    /// The guest shut itself down, or followed a request to.
    ShutDown,
    /// Switched off by somebody.
    Destroyed,
    /// Its process died or it could not be started.
    Crashed,
    /// Its memory was saved to disk.
    Saved,
    Migrated,
    /// Paused or resumed by somebody.
    ByUser,
    /// Paused by a disk error.
    DiskError,
}

/// What the core is told.
#[derive(Clone, Debug)]
pub enum Event {
    /// Nothing but time has passed.
    Tick,
    /// The hypervisor answers; these are all its domains. `host_booted`: first look since this host booted.
    HypervisorUp {
        domains: Vec<Seen>,
        host_booted: bool,
    },
    /// The libvirt daemon is away; guests go on.
    HypervisorDown {
        why: String,
    },
    /// The slow full re-read: all domains, read after the list of this number was asked for.
    Listed {
        asked: u64,
        domains: Vec<Seen>,
    },
    /// One domain is new or changed.
    Changed {
        domain: Seen,
    },
    /// One domain is gone.
    Gone {
        guest: GuestId,
    },
    /// The aggregator took the host in.
    LinkUp {
        welcome: Welcome,
    },
    LinkDown,
    /// Anything but Welcome, Refused and Certificate, which the link handles.
    Received(ToAgent),
    /// A task asked for by [`Action::Run`] ended.
    Finished {
        task: TaskId,
        result: TaskResult,
    },
    /// Progress of a task, for its operation.
    Advanced {
        task: TaskId,
        percent: u32,
        step: String,
    },
    /// The host's guard is new, or what it holds changed.
    GuardSeen(Box<GuardSeen>),
    /// What happened to wards, as the guard says, oldest first; each once.
    GuardNoted {
        notes: Vec<Noted>,
    },
    /// The second's samples.
    Sampled {
        host: HostSample,
        guests: Vec<GuestSample>,
    },
    /// The edge came to [`Action::Begin`]: what was asked to be kept before it is kept.
    Begin {
        operation: OperationId,
    },
    /// The ledger could not be written; these changes (of the failed write and of all later writes of the same answer)
    /// are not on disk.
    LedgerFailed {
        lost: Vec<Change>,
        why: String,
    },
    /// The ledger can be written again.
    LedgerRecovered,
    /// A condition found by an edge (clock, disk, samples); cleared with `raised: false`.
    Condition {
        alarm: Alarm,
        raised: bool,
    },
    /// Facts changed (an address, the hypervisor's version).
    Facts(HostFacts),
    /// The host's store is open; these are all whole points in it, also those kept for other hosts.
    StoreOpened {
        points: Vec<BackupSummary>,
    },
    /// The store can't be used: no disk, or it belongs to another process.
    StoreAway {
        why: String,
    },
    /// How full the store's file system is; told each minute. In bytes.
    StoreRoom {
        total: u64,
        free: u64,
        used: u64,
    },
    /// Another host keeps a point here, or took one back.
    Kept {
        point: BackupSummary,
    },
    NotKept {
        guest: GuestId,
        point: PointId,
    },
    /// Another host sent what it must not: chunks that are none, or too many; digests that are not true.
    PeerLied {
        host: HostId,
        what: String,
    },
    /// The guard's word: all guests of all its wards; of others this host alone decides.
    Rights {
        guests: BTreeMap<GuestId, Right>,
    },
    /// Room for new guests, after a look at the host's memory.
    Room(Box<Room>),
    /// Another host's power was cut for certain, or why not; see [`Action::Fence`].
    Fenced {
        host: HostId,
        result: Result<(), Failure>,
    },
    /// The guard doesn't answer.
    GuardAway {
        why: String,
    },
}

/// Names one task between its start and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(pub u64);

/// One thing done by a worker, in the background, on one guest. At most one task per guest and [`Lane`] runs at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Build disks and define the domain; undone completely if any step fails.
    Create {
        guest: GuestId,
        spec: GuestSpec,
    },
    /// Check the XML against the allow-list and define it with this id.
    Import {
        guest: GuestId,
        xml: String,
    },
    Start {
        guest: GuestId,
        /// Its processors stand still until somebody resumes it.
        paused: bool,
    },
    /// Ask; ends when the request is delivered, not when the guest is off.
    Shutdown {
        guest: GuestId,
    },
    ForceOff {
        guest: GuestId,
    },
    Pause {
        guest: GuestId,
    },
    Resume {
        guest: GuestId,
    },
    Reset {
        guest: GuestId,
    },
    /// Undefine; then remove the disks this agent made, unless kept.
    Delete {
        guest: GuestId,
        keep_disks: bool,
    },
    /// Remove what an interrupted Create or Restore left behind.
    CleanUp {
        guest: GuestId,
    },
    /// Make a point in the host's store; answered with [`Made::Point`]. The parent is the newest whole point of the set.
    /// Holds no lock that a start of the guest needs, and leaves nothing when it is cancelled or fails.
    Backup {
        guest: GuestId,
        order: BackupOrder,
    },
    /// Bring a point of the host's store to another place, only chunks that it lacks; [`Made::Shipped`] when it is whole
    /// and checked there. Done again it goes on where it was.
    Ship {
        guest: GuestId,
        point: PointId,
        to: Target,
        /// Bytes per second; absent: as fast as it goes.
        bandwidth: Option<u64>,
    },
    /// Make the guest (or make it again) from a point: read back, compared with the digests, then defined, not started.
    /// First removes what an interrupted one left. [`Made::Restored`].
    Restore {
        guest: GuestId,
        order: Box<RestoreOrder>,
    },
    /// Bring in the data of a guest that was restored at once and runs on a layer over its point. Serves that layer for as
    /// long as it runs; run again after every restart of the agent until it succeeds.
    Pull {
        guest: GuestId,
        order: Box<RestoreOrder>,
    },
    /// Read points and compare digests; absent: all points of the set. [`Made::Verified`].
    Verify {
        guest: GuestId,
        point: Option<PointId>,
    },
    /// Remove these points of the guest's set at that place and give their room back; points that are not there are
    /// none to worry about. Without points only the room. [`Made::Pruned`].
    Prune {
        guest: GuestId,
        at: Target,
        remove: Vec<PointId>,
    },
    Pin {
        guest: GuestId,
        point: PointId,
        pinned: bool,
    },
    /// Boot the point isolated and wait for the guest's sign of life; recorded in the store. [`Made::Proven`].
    Prove {
        guest: GuestId,
        point: PointId,
        patience: Millis,
    },
}

/// How a backup is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackupOrder {
    pub why: Why,
    pub freeze: Freeze,
    /// Read everything, also what the parent is known to have.
    pub full: bool,
    pub pin: bool,
    pub note: String,
    /// What the guest is meant to do now.
    pub meant: Meant,
    pub priority: u32,
    /// Bytes per second read; absent: as fast as it goes.
    pub bandwidth: Option<u64>,
}

impl Task {
    /// The guest it is about.
    pub fn guest(&self) -> GuestId {
        match self {
            Task::Create { guest, .. }
            | Task::Import { guest, .. }
            | Task::Start { guest, .. }
            | Task::Shutdown { guest }
            | Task::ForceOff { guest }
            | Task::Pause { guest }
            | Task::Resume { guest }
            | Task::Reset { guest }
            | Task::Delete { guest, .. }
            | Task::CleanUp { guest }
            | Task::Backup { guest, .. }
            | Task::Ship { guest, .. }
            | Task::Restore { guest, .. }
            | Task::Pull { guest, .. }
            | Task::Verify { guest, .. }
            | Task::Prune { guest, .. }
            | Task::Pin { guest, .. }
            | Task::Prove { guest, .. } => *guest,
        }
    }

    /// What it runs alone in, for one guest.
    pub fn lane(&self) -> Lane {
        match self {
            Task::Create { .. }
            | Task::Import { .. }
            | Task::Start { .. }
            | Task::Shutdown { .. }
            | Task::ForceOff { .. }
            | Task::Pause { .. }
            | Task::Resume { .. }
            | Task::Reset { .. }
            | Task::Delete { .. }
            | Task::CleanUp { .. }
            | Task::Restore { .. } => Lane::Change,
            Task::Backup { .. } | Task::Pull { .. } => Lane::Read,
            Task::Verify { .. } | Task::Pin { .. } | Task::Prove { .. } => Lane::Points,
            Task::Prune { at, .. } if *at == Target::Local => Lane::Points,
            Task::Ship { to: at, .. } | Task::Prune { at, .. } => Lane::Place(at.clone()),
        }
    }
}

/// What tasks of one guest run one after the other in. Lanes don't wait for each other, so that a target that hangs holds
/// up no backup, and a backup no start or stop; what must not overlap all the same stands in `backup`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Changes the guest.
    Change,
    /// Reads the guest's disks.
    Read,
    /// Works on its points in the host's store.
    Points,
    /// Works on copies of its points elsewhere.
    Place(Target),
}

/// How a task ended.
pub type TaskResult = Result<Made, Failure>;

/// What came of a task that succeeded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Made {
    /// Nothing that the next look at the guests doesn't show.
    #[default]
    Nothing,
    Point(Box<BackupSummary>),
    /// This point of the guest's set is whole at that place too.
    Shipped {
        point: PointId,
        to: Target,
    },
    /// `pulling`: it can be started at once, and [`Task::Pull`] has to bring in the data.
    Restored {
        pulling: bool,
    },
    Verified {
        damages: Vec<Damage>,
    },
    Pruned {
        removed: Vec<PointId>,
        freed: u64,
    },
    Proven {
        point: PointId,
        proof: Proof,
    },
}

/// What the core asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write to the ledger, durable before the next action is carried out. If that fails the following actions of the
    /// same answer are not carried out, the core is told by [`Event::LedgerFailed`], and each dropped [`Action::Run`] is
    /// answered by [`Event::Finished`] with `NoSpace`.
    Persist(Vec<Change>),
    Run {
        task: TaskId,
        what: Task,
    },
    /// End this task soon; its end comes as [`Event::Finished`] all the same, with `Cancelled` unless it was done before.
    /// The mark is set before the next action is carried out: what the task reads after that is not published.
    Cancel {
        task: TaskId,
    },
    /// Come back with [`Event::Begin`]; dropped like the rest when a write before it failed.
    Begin {
        operation: OperationId,
    },
    /// Drop it when the link is down.
    Send(ToAggregator),
    /// Keep this sealed grid document (its signature is checked by the edge before).
    KeepDocument {
        generation: roost_protocol::Generation,
        sealed: Vec<u8>,
    },
    /// Send the kept document.
    SendDocument,
    /// Deal with these hosts and no others, and let them take these points.
    Peers {
        peers: Vec<Peer>,
        shares: Vec<Share>,
    },
    /// The guard is to be so from now on.
    Guard(Box<GuardWish>),
    /// Pack the host as densely as this from now on; none: as its settings say.
    Memory(Option<Box<MemoryPolicy>>),
    /// Cut this host's power; the end comes as [`Event::Fenced`], soon or late.
    Fence {
        host: HostId,
        device: Box<FenceDevice>,
    },
    /// Read all domains again soon; lists are numbered from 1.
    List(u64),
    /// Tell the journal.
    Note {
        guest: Option<GuestId>,
        at: Option<Stamp>,
        text: String,
    },
}
