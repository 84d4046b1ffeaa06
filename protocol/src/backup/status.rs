//! What was made and how it stands: points, sets, replicas, the host's store.
//!
//! Beats carry sets (one entry a guest) and replicas, never points; points are asked for page by page ([`super::query`]).

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::operation::FailureCode;
use crate::{GuestId, HostId, Millis, PointId, Stamp};

/// Sets that one host may report: its own guests', those of guests that are gone, and those it keeps for others. With
/// [`super::SENTENCE`] the largest report of them stays far below a frame.
pub const SETS_PER_HOST: usize = 1_024;

/// One point, as lists show it. All counts are of bytes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct BackupSummary {
    #[n(0)]
    pub point: PointId,
    #[n(1)]
    pub guest: GuestId,
    #[n(2)]
    pub guest_name: String,
    /// The host that made it.
    #[n(3)]
    pub origin: HostId,
    /// The moment the point shows.
    #[n(4)]
    pub started: Stamp,
    /// When it was whole.
    #[n(5)]
    pub finished: Stamp,
    #[n(6)]
    pub why: Why,
    #[n(7)]
    pub consistency: Consistency,
    /// The point it was compared with; it can be restored without it all the same.
    #[n(8)]
    pub parent: Option<PointId>,
    /// Sizes of all its disks as the guest sees them.
    #[n(9)]
    pub size: u64,
    #[n(10)]
    pub read: u64,
    /// What the store grew by.
    #[n(11)]
    pub stored: u64,
    #[n(12)]
    pub pinned: bool,
    #[n(13)]
    pub proof: Proof,
    /// Copies beside the store that tells of it.
    #[n(14)]
    pub copies: Vec<super::Target>,
    /// Verification found it damaged: it is not offered for a restore. What and where.
    #[n(15)]
    pub damaged: Option<String>,
    /// The caller's label, or what was unusual ("bitmap lost: all was read").
    #[n(16)]
    pub note: String,
    /// Who goes on with the guest from this point has it do so.
    #[n(17)]
    #[cbor(default)]
    #[serde(default)]
    pub meant: Meant,
    /// Its guest's, by the policy that its host followed ([`super::BackupPolicy::priority`]).
    #[n(18)]
    #[cbor(default)]
    #[serde(default)]
    pub priority: u32,
}

impl BackupSummary {
    /// Nothing speaks against restoring it.
    pub fn whole(&self) -> bool {
        self.damaged.is_none()
    }
}

/// What a point was made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    #[default]
    #[n(0)]
    Schedule,
    #[n(1)]
    Command,
    /// A delta of a replica; only the newest few are kept.
    #[n(2)]
    Replica,
    /// What a host had that nobody else had when it came back; never removed by retention.
    #[n(3)]
    Branch,
}

/// What a guest was meant to do at the moment that a point shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Meant {
    #[default]
    #[n(0)]
    Run,
    /// Somebody paused it.
    #[n(1)]
    Pause,
    #[n(2)]
    StayOff,
}

/// What a guest finds when it boots from the point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// As after a power cut at that moment.
    #[default]
    #[n(0)]
    Crash,
    /// File systems were frozen.
    #[n(1)]
    Filesystem,
    /// The guest was off.
    #[n(2)]
    Stopped,
}

/// Whether a point was booted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Proof {
    #[default]
    #[n(0)]
    Untried,
    #[n(1)]
    Proven {
        #[n(0)]
        at: Stamp,
        /// The sign of life: "guest agent", "console", "port 22".
        #[n(1)]
        by: String,
    },
    #[n(2)]
    Failed {
        #[n(0)]
        at: Stamp,
        #[n(1)]
        why: String,
    },
}

/// A damaged range of one disk of one point.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Damage {
    #[n(0)]
    pub guest: GuestId,
    #[n(1)]
    pub point: PointId,
    #[n(2)]
    pub disk: String,
    /// First byte of the disk that is lost, and how many.
    #[n(3)]
    pub from: u64,
    #[n(4)]
    pub length: u64,
    #[n(5)]
    pub why: String,
}

/// All points of one guest in one line.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct SetSummary {
    #[n(0)]
    pub guest: GuestId,
    /// The host whose guest it is or was; another than the reporting one: kept for that host.
    #[n(1)]
    pub origin: HostId,
    #[n(2)]
    pub points: u32,
    /// Bytes its points added to the store.
    #[n(3)]
    pub stored: u64,
    /// The newest whole point and the moment it shows.
    #[n(4)]
    pub newest: Option<(PointId, Stamp)>,
    #[n(5)]
    pub oldest: Option<Stamp>,
    /// The newest proven point and when it was proven.
    #[n(6)]
    pub proven: Option<(PointId, Stamp)>,
    #[n(7)]
    pub damaged: u32,
    /// Absent since a backup succeeded.
    #[n(8)]
    pub failure: Option<LastFailure>,
    /// When the next one begins; absent: only by command.
    #[n(9)]
    pub next: Option<Stamp>,
    /// One is being made.
    #[n(10)]
    pub running: bool,
    /// Of the policy that is followed; absent: none.
    #[n(11)]
    pub policy: Option<crate::Generation>,
    #[n(12)]
    pub guest_name: String,
    /// What the policy that is followed is called; empty: none.
    #[n(13)]
    #[cbor(default)]
    pub policy_name: String,
}

/// Why the last backup failed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct LastFailure {
    #[n(0)]
    pub at: Stamp,
    #[n(1)]
    pub code: FailureCode,
    #[n(2)]
    pub text: String,
    /// In a row.
    #[n(3)]
    pub count: u32,
}

/// What a host keeps in its ledger of one guest's backups: what its points alone don't tell after a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct BackupRun {
    /// The schedule's moments up to this one were answered by a point.
    #[n(0)]
    pub slot: Option<Stamp>,
    /// Absent since a backup succeeded.
    #[n(1)]
    pub failure: Option<LastFailure>,
    /// When all points were last verified.
    #[n(2)]
    pub verified: Option<Stamp>,
    /// When a proof was last tried.
    #[n(3)]
    pub proof_tried: Option<Stamp>,
    /// The host that keeps the replica.
    #[n(4)]
    pub replica: Option<HostId>,
    /// The moment that the replica shows, and its point.
    #[n(5)]
    pub shows: Option<(PointId, Stamp)>,
    /// A restore whose data is still brought in behind the running guest.
    #[n(6)]
    pub pull: Option<super::RestoreOrder>,
    /// When the policy was taken on: a guest without a point is late from then.
    #[n(7)]
    pub since: Option<Stamp>,
    /// Points that retention removed here and that are still to be removed where they were shipped to.
    #[n(8)]
    pub leftover: Vec<Leftover>,
    /// The moment shown by the point from which this host took the guest over last.
    #[n(9)]
    pub taken: Option<Stamp>,
    /// This host handed the guest over, and has nothing of it that the new host was not given.
    #[n(10)]
    #[cbor(default)]
    pub handed_over: bool,
}

/// A copy that has outlived its point.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Leftover {
    #[n(0)]
    pub at: super::Target,
    #[n(1)]
    pub point: PointId,
}

/// One guest's replica, as its own host knows it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct ReplicaStatus {
    #[n(0)]
    pub guest: GuestId,
    /// The backup host; absent: none can take it, `state` says why.
    #[n(1)]
    pub host: Option<HostId>,
    #[n(2)]
    pub state: ReplicaState,
    /// How old the copy is; absent: there is none yet.
    #[n(3)]
    pub lag: Option<Millis>,
    #[n(4)]
    pub point: Option<PointId>,
    /// The moment that the copy shows.
    #[n(5)]
    pub shows: Option<Stamp>,
    #[n(6)]
    pub every: Millis,
    #[n(7)]
    pub max_lag: Millis,
}

/// How a replica stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ReplicaState {
    /// The first copy is on its way.
    #[default]
    #[n(0)]
    Seeding,
    /// Younger than its greatest lag.
    #[n(1)]
    Following,
    /// Older than its greatest lag.
    #[n(2)]
    Behind,
    /// The last delta failed, or no host can take it.
    #[n(3)]
    Broken {
        #[n(0)]
        why: String,
    },
    /// Held back: the disk is filling.
    #[n(4)]
    Held,
}

/// The host's own store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Of the file system that it lies on.
    #[n(0)]
    pub total: u64,
    #[n(1)]
    pub free: u64,
    /// What the store itself takes.
    #[n(2)]
    pub used: u64,
    /// At the pace of the last days; absent: not filling, or not known yet.
    #[n(3)]
    pub days_to_full: Option<u32>,
    /// Backups and replicas wait: the disk's reserve is touched.
    #[n(4)]
    pub held: bool,
    #[n(5)]
    pub points: u32,
}

/// A guest that was started at once from a point, and whose data is not all here yet.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Pulling {
    #[n(0)]
    pub guest: GuestId,
    #[n(1)]
    pub point: PointId,
    /// Where the data comes from.
    #[n(2)]
    pub from: super::Target,
    /// What is here.
    #[n(3)]
    pub percent: u32,
    /// Why nothing comes; absent: it comes, or waits for the guest to run.
    #[n(4)]
    pub trouble: Option<String>,
}

/// What changed; in a snapshot: all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct BackupBeat {
    #[n(0)]
    pub sets: Vec<SetSummary>,
    #[n(1)]
    pub gone: Vec<GuestId>,
    #[n(2)]
    pub replicas: Vec<ReplicaStatus>,
    /// Guests that have no replica any more.
    #[n(3)]
    pub replicas_gone: Vec<GuestId>,
    #[n(4)]
    pub store: Option<StoreStatus>,
    /// All of them, when something of them changed. Message version [`super::AFAR_SINCE`].
    #[n(5)]
    pub pulls: Option<Vec<Pulling>>,
    /// What this host was told that others may take from it, which it keeps on its disk: the same.
    #[n(6)]
    pub shares: Option<Vec<super::Share>>,
}

impl BackupBeat {
    /// Nothing to tell.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
