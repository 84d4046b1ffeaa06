//! Backup: what is wished of it (policy), what was made (points, sets), where copies are (replicas), and what is asked.
//!
//! House words: a *backup* or *point* is one restorable state of one guest; a *set* is all points of one guest; a *replica*
//! is the newest point of a guest kept on another host, renewed every few seconds. All of this is message version
//! [`SINCE`]; a peer that speaks an older one is sent none of the new verbs and messages.

pub mod policy;
pub mod query;
pub mod restore;
pub mod status;

pub use policy::{BackupPolicy, Freeze, ProofPolicy, ReplicaPolicy, Retention, Schedule, Shift, Target, Zone};
pub use query::{Peer, PointQuery, PointsPage, Share};
pub use restore::{RestoreAs, RestoreOrder};
pub use status::{
    BackupBeat, BackupRun, BackupSummary, Consistency, Damage, LastFailure, Leftover, Meant, Proof, Pulling,
    ReplicaState, ReplicaStatus, SetSummary, StoreStatus, Why,
};

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// The first message version that has these words.
pub const SINCE: u32 = 3;
/// The first one in which hosts tell whose data they still bring in, and from where.
pub const AFAR_SINCE: u32 = 4;
/// Longest sentence (note, label, reason) in a point or a set; longer ones are cut.
pub const SENTENCE: usize = 160;

/// One backup by command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackupOptions {
    #[n(0)]
    pub freeze: Freeze,
    /// Read everything, also what the parent is known to have.
    #[n(1)]
    pub full: bool,
    /// Keep it whatever the retention says.
    #[n(2)]
    pub pin: bool,
    /// For people: why it was made.
    #[n(3)]
    pub label: String,
}
