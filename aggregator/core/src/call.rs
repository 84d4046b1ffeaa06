//! What API callers ask the core to change, and its answers. Reading goes past this: the edge reads the grid itself.

use roost_protocol::backup::{BackupPolicy, PointQuery, PointsPage};
use roost_protocol::fence::FenceDevice;
use roost_protocol::memory::MemoryOrder;
use roost_protocol::operation::Verb;
use roost_protocol::{GuestId, HostId, Millis, OperationId};

use crate::intent::{ApiTokenRecord, HostRecord, JoinTokenRecord, UserRecord};
use crate::notify::{Notifier, Silence};
use crate::operation::Operation;

/// A wished change.
#[derive(Clone, Debug)]
pub enum Call {
    /// One verb on one guest. For Create and Import `host` says where (absent: placed) and `guest` is a fresh id.
    Guest {
        operation: OperationId,
        guest: GuestId,
        /// What an imported guest calls itself, for people; nobody reports it before it is there.
        guest_name: Option<String>,
        host: Option<HostId>,
        verb: Verb,
        timeout: Millis,
        key: Option<String>,
    },
    Cancel {
        operation: OperationId,
    },
    /// A host enrolled with a token: both records change in one transaction.
    Enrol {
        host: HostId,
        record: HostRecord,
        token: String,
    },
    RemoveHost {
        host: HostId,
    },
    /// Into maintenance, drained or not, or back.
    Maintenance {
        host: HostId,
        drain: Option<bool>,
    },
    /// What falls together with the host; empty: not known.
    Zone {
        host: HostId,
        zone: String,
    },
    /// How dense a host is packed, or that its own settings hold again.
    SetMemory {
        host: HostId,
        order: Box<MemoryOrder>,
    },
    /// Which doors of a guest its host tries; none: it stops.
    SetProbes {
        guest: GuestId,
        probes: Vec<String>,
    },
    /// What cuts a host's power; none: nothing does any more.
    SetFence {
        host: HostId,
        device: Option<Box<FenceDevice>>,
    },
    /// This device of a host's said that it is on.
    FenceTested {
        host: HostId,
        device: Box<FenceDevice>,
    },
    /// A host's guard has begun to test its watchdog.
    WatchdogTestBegun {
        host: HostId,
    },
    /// A host's agent has begun to restart it.
    RebootBegun {
        host: HostId,
    },
    PutJoinToken {
        id: String,
        record: JoinTokenRecord,
    },
    DeleteJoinToken {
        id: String,
    },
    /// Create or change a user.
    PutUser {
        name: String,
        record: UserRecord,
        create: bool,
    },
    DeleteUser {
        name: String,
    },
    PutApiToken {
        id: String,
        record: ApiTokenRecord,
    },
    DeleteApiToken {
        id: String,
    },
    /// Create or change a backup policy; its generation is given here.
    PutBackupPolicy {
        policy: Box<BackupPolicy>,
        create: bool,
    },
    DeleteBackupPolicy {
        name: String,
    },
    /// Create or change a notifier; one that is changed keeps its secret where none is given.
    PutNotifier {
        notifier: Box<Notifier>,
        create: bool,
    },
    DeleteNotifier {
        name: String,
    },
    PutSilence {
        id: String,
        silence: Silence,
    },
    DeleteSilence {
        id: String,
    },
    /// Somebody looks after the alarm with this fingerprint, and a word on it; none: nobody does any more.
    Acknowledge {
        alarm: String,
        note: Option<String>,
    },
    /// Restore points of a guest, page by page, as the host that has them tells.
    Points {
        host: HostId,
        query: PointQuery,
    },
}

/// The answer to a [`Call`], given when it is durable.
pub type Reply = Result<Done, CallError>;

/// What was done.
#[derive(Clone, Debug)]
pub enum Done {
    Nothing,
    Operation(Box<Operation>),
    Points(Box<PointsPage>),
}

/// Why not; `code` is one of the API's stable words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {text}")]
pub struct CallError {
    pub code: CallErrorCode,
    /// What happened and what to try.
    pub text: String,
}

/// Stable reasons, mapped to HTTP status and XML-RPC fault by the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CallErrorCode {
    NotFound,
    AlreadyExists,
    WrongState,
    /// It is not what the caller made his wish for.
    Changed,
    Invalid,
    /// No host can take the guest.
    Unplaceable,
    HostUnreachable,
    /// The same key was used with another request.
    KeyReused,
    TooMany,
    /// Stable storage failed.
    Storage,
}

impl std::fmt::Display for CallErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            CallErrorCode::NotFound => "not_found",
            CallErrorCode::AlreadyExists => "already_exists",
            CallErrorCode::WrongState => "wrong_state",
            CallErrorCode::Changed => "changed",
            CallErrorCode::Invalid => "invalid",
            CallErrorCode::Unplaceable => "unplaceable",
            CallErrorCode::HostUnreachable => "host_unreachable",
            CallErrorCode::KeyReused => "key_reused",
            CallErrorCode::TooMany => "too_many",
            CallErrorCode::Storage => "storage",
        })
    }
}
