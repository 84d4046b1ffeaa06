//! What the agent's core is told, and what it asks for. The order of actions is meaning: Persist, then Run, then Send.

use roost_protocol::guest::{Disk, GuestSample, GuestSpec, PowerState};
use roost_protocol::host::{Alarm, HostFacts, HostSample};
use roost_protocol::message::{ToAgent, ToAggregator, Welcome};
use roost_protocol::operation::Failure;
use roost_protocol::{GuestId, MiB, OperationId, Stamp};

use crate::ledger::Change;

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
    /// The slow full re-read: all domains.
    Listed {
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
}

/// Names one task between its start and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(pub u64);

/// One thing done by a worker, in the background, on one guest. At most one task per guest runs at a time.
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
    /// Remove what an interrupted Create left behind.
    CleanUp {
        guest: GuestId,
    },
}

impl Task {
    /// The guest it is about.
    pub fn guest(&self) -> GuestId {
        match self {
            Task::Create { guest, .. }
            | Task::Import { guest, .. }
            | Task::Start { guest }
            | Task::Shutdown { guest }
            | Task::ForceOff { guest }
            | Task::Pause { guest }
            | Task::Resume { guest }
            | Task::Reset { guest }
            | Task::Delete { guest, .. }
            | Task::CleanUp { guest } => *guest,
        }
    }
}

/// How a task ended.
pub type TaskResult = Result<(), Failure>;

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
    /// Read all domains again soon.
    List,
    /// Tell the journal.
    Note {
        guest: Option<GuestId>,
        at: Option<Stamp>,
        text: String,
    },
}
