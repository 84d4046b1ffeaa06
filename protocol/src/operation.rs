//! Slow work that a caller can watch: the command that travels and the outcome that comes back.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::backup::{self, BackupOptions, BackupPolicy, RestoreOrder};
use crate::failover;
use crate::guest::{GuestSpec, Power};
use crate::{Epoch, GuestId, Millis, OperationId, PointId, memory};

/// One thing to do to one guest. Idempotent by `operation`: the second arrival is answered with the first's outcome.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Command {
    #[n(0)]
    pub operation: OperationId,
    /// The sender's epoch; refused when the agent has seen a newer one.
    #[n(1)]
    pub epoch: Epoch,
    /// How long from its arrival the command may still be begun. No clock is shared.
    #[n(2)]
    pub budget_ms: Millis,
    /// The guest; for `Create` and `Import` the id the new guest gets.
    #[n(3)]
    pub guest: GuestId,
    #[n(4)]
    pub verb: Verb,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Verb {
    /// Make a guest from a specification; it is managed from then on.
    #[n(0)]
    Create {
        #[n(0)]
        spec: GuestSpec,
        /// Start it at once.
        #[n(1)]
        start: bool,
    },
    /// Define a guest from domain XML that passes the allow-list.
    #[n(1)]
    Import {
        #[n(0)]
        xml: String,
    },
    #[n(2)]
    Start,
    /// Ask the guest to shut down; forced off after that long, if given.
    #[n(3)]
    Shutdown {
        #[n(0)]
        force_after_ms: Option<Millis>,
    },
    /// Switch off at once.
    #[n(4)]
    Stop,
    #[n(5)]
    Pause,
    #[n(6)]
    Resume,
    #[n(7)]
    Reset,
    /// Forget the guest; its disks go too unless they are kept. Refused while it runs.
    #[n(8)]
    Delete {
        #[n(0)]
        keep_disks: bool,
    },
    /// Have the host look after a guest it found: keep it as wished.
    #[n(9)]
    Manage {
        #[n(0)]
        power: Power,
    },
    /// Leave a guest to itself again.
    #[n(10)]
    Release,
    /// Make a point now, beside the schedule.
    #[n(11)]
    Backup {
        #[n(0)]
        options: BackupOptions,
    },
    /// Make the command's guest from a point.
    #[n(12)]
    Restore {
        #[n(0)]
        order: Box<RestoreOrder>,
    },
    /// Read a point (absent: all of the guest's) and compare digests.
    #[n(13)]
    VerifyBackup {
        #[n(0)]
        point: Option<PointId>,
    },
    /// Refused for the only whole point unless `even_last`.
    #[n(14)]
    DeletePoint {
        #[n(0)]
        point: PointId,
        #[n(1)]
        even_last: bool,
    },
    #[n(15)]
    PinPoint {
        #[n(0)]
        point: PointId,
        #[n(1)]
        pinned: bool,
    },
    /// Absent: the guest is backed up by command only, and has no replica; its points stay.
    #[n(16)]
    SetBackupPolicy {
        #[n(0)]
        policy: Option<Box<BackupPolicy>>,
    },
    /// Apply the retention now and give the room back.
    #[n(17)]
    PruneNow,
    /// Boot a point (absent: the newest) in isolation and wait for its sign of life.
    #[n(18)]
    ProveBackup {
        #[n(0)]
        point: Option<PointId>,
    },
    /// Have the host with the guest's replica go on with it, from a last delta made while the guest is off.
    #[n(19)]
    HandOver {
        /// The guest is asked to shut down and gets so long before it is switched off; zero: switched off at once.
        #[n(0)]
        shutdown_ms: Millis,
    },
}

impl Verb {
    /// The verb in one word, as events and operations show it.
    pub fn word(&self) -> &'static str {
        match self {
            Verb::Create { .. } => "create",
            Verb::Import { .. } => "import",
            Verb::Start => "start",
            Verb::Shutdown { .. } => "shutdown",
            Verb::Stop => "stop",
            Verb::Pause => "pause",
            Verb::Resume => "resume",
            Verb::Reset => "reset",
            Verb::Delete { .. } => "delete",
            Verb::Manage { .. } => "manage",
            Verb::Release => "release",
            Verb::Backup { .. } => "backup",
            Verb::Restore { .. } => "restore",
            Verb::VerifyBackup { .. } => "verify",
            Verb::DeletePoint { .. } => "delete-point",
            Verb::PinPoint { .. } => "pin",
            Verb::SetBackupPolicy { .. } => "set-policy",
            Verb::PruneNow => "prune",
            Verb::ProveBackup { .. } => "prove",
            Verb::HandOver { .. } => "hand-over",
        }
    }

    /// The first message version that has this verb; a host that speaks an older one is not sent it.
    pub fn since(&self) -> u32 {
        if let Verb::Create { spec, .. } = self
            && spec.memory.as_ref().is_some_and(|wish| wish.trust.is_some())
        {
            memory::TRUST_SINCE
        } else if matches!(self, Verb::HandOver { .. }) {
            failover::SINCE
        } else if self.beside() || matches!(self, Verb::Restore { .. }) {
            backup::SINCE
        } else {
            1
        }
    }

    /// True for what reads a guest or changes only its points: it runs beside what changes the guest itself.
    pub fn beside(&self) -> bool {
        match self {
            Verb::Create { .. }
            | Verb::Import { .. }
            | Verb::Start
            | Verb::Shutdown { .. }
            | Verb::Stop
            | Verb::Pause
            | Verb::Resume
            | Verb::Reset
            | Verb::Delete { .. }
            | Verb::Manage { .. }
            | Verb::Release
            | Verb::Restore { .. }
            | Verb::HandOver { .. } => false,
            Verb::Backup { .. }
            | Verb::VerifyBackup { .. }
            | Verb::DeletePoint { .. }
            | Verb::PinPoint { .. }
            | Verb::SetBackupPolicy { .. }
            | Verb::PruneNow
            | Verb::ProveBackup { .. } => true,
        }
    }

    /// True where doing it twice differs from doing it once, so that after a crash in the middle it is not repeated.
    pub fn once_only(&self) -> bool {
        matches!(self, Verb::Reset)
    }
}

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Failure {
    /// Stable word: see [`FailureCode`].
    #[n(0)]
    pub code: FailureCode,
    /// What was tried, why it failed, what to try.
    #[n(1)]
    pub text: String,
}

/// Stable reasons for "no"; the API shows the same words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureCode {
    /// The guest is not known on that host.
    #[n(0)]
    NotFound,
    /// Not possible in the guest's present state.
    #[n(1)]
    WrongState,
    /// Name, id or path is taken.
    #[n(2)]
    AlreadyExists,
    /// The specification or XML is not acceptable.
    #[n(3)]
    Invalid,
    /// The hypervisor said no; the text has its words.
    #[n(4)]
    Hypervisor,
    /// The libvirt daemon is away.
    #[n(5)]
    HypervisorAway,
    /// Not begun or not finished in time.
    #[n(6)]
    TimedOut,
    /// The command came from an aggregator older than one already seen.
    #[n(7)]
    StaleEpoch,
    /// The agent died in the middle of something that must not be done twice.
    #[n(8)]
    Interrupted,
    /// No room on a disk of the host.
    #[n(9)]
    NoSpace,
    /// Cancelled before it was begun.
    #[n(10)]
    Cancelled,
    /// Too much at once.
    #[n(11)]
    Busy,
    /// A fault of our own.
    #[n(12)]
    Internal,
    /// The host is not connected.
    #[n(13)]
    HostUnreachable,
    /// This host or its version can't do it.
    #[n(14)]
    Unsupported,
    /// The point is damaged; the text names what, and the next older whole point.
    #[n(15)]
    Damaged,
    /// A backup target hangs, vanished or refused.
    #[n(16)]
    TargetAway,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Outcome {
    #[n(0)]
    pub operation: OperationId,
    /// Absent: it succeeded.
    #[n(1)]
    pub failure: Option<Failure>,
}

/// How far a command is.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Progress {
    #[n(0)]
    pub operation: OperationId,
    #[n(1)]
    pub percent: u32,
    /// What is being done, for people.
    #[n(2)]
    pub step: String,
}
