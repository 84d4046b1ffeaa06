//! What travels on the one bidirectional stream between an agent and its aggregator, and in which order.
//!
//! The agent opens with `Hello`; the aggregator answers `Welcome` or `Refused` and closes. Then the agent sends one
//! `Snapshot`, and `Beat`s every [`BEAT_EVERY`]; both sides may send anything else at any time. Nothing is sent that the
//! version agreed in `Welcome` does not have.

use minicbor::{Decode, Encode};

use crate::backup::{BackupBeat, Peer, PointQuery, PointsPage, Share};
use crate::failover::{Council, Guard, GuardReport};
use crate::guest::{GuestReport, GuestSample};
use crate::host::{Alarm, Freshness, HostFacts, HostSample, Maintenance};
use crate::memory::MemoryOrder;
use crate::operation::{Command, Outcome, Progress};
use crate::probe::GuestProbes;
use crate::{Epoch, Generation, GridId, GuestId, HostId, Millis, OperationId, Stamp};

/// The newest message version this build speaks, and the oldest.
pub const VERSION: u32 = 5;
/// See [`VERSION`]; always N−1.
pub const OLDEST: u32 = 4;
/// Time between heartbeats.
pub const BEAT_EVERY: Millis = Millis::seconds(2);
/// Guests one host may report; more is a fault or an attack (a host runs 50).
pub const GUESTS_PER_HOST: usize = 512;
/// Largest frame before the peer is known.
pub const FRAME_BEFORE_HELLO: usize = 64 << 10;
/// Largest frame afterwards.
pub const FRAME: usize = 1 << 20;
/// Longest name or word that a host may report; longer ones are cut.
pub const TEXT: usize = 256;

/// From the agent.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ToAggregator {
    #[n(0)]
    Hello(#[n(0)] Hello),
    /// All that the host knows; replaces what the aggregator had.
    #[n(1)]
    Snapshot(#[n(0)] Snapshot),
    #[n(2)]
    Beat(#[n(0)] Beat),
    /// Repeated after each reconnect until acknowledged by `OutcomeSeen`.
    #[n(3)]
    Outcome(#[n(0)] Outcome),
    #[n(4)]
    Progress(#[n(0)] Progress),
    /// A signing request (DER, PKCS #10) for the same key, well before the certificate ends.
    #[n(5)]
    Renew {
        #[n(0)]
        #[cbor(with = "minicbor::bytes")]
        request: Vec<u8>,
    },
    /// The agent's copy of the grid document, because it is newer than what `Welcome` named.
    #[n(6)]
    Document {
        #[n(0)]
        #[cbor(with = "minicbor::bytes")]
        sealed: Vec<u8>,
    },
    /// Answers [`ToAgent::Points`]; version 3.
    #[n(7)]
    Points(#[n(0)] PointsPage),
}

/// From the aggregator.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ToAgent {
    #[n(0)]
    Welcome(#[n(0)] Welcome),
    /// The last message before the connection is closed.
    #[n(1)]
    Refused(#[n(0)] Refused),
    #[n(2)]
    Command(#[n(0)] Command),
    /// Answers a beat; the sides differ when a snapshot is wanted.
    #[n(3)]
    BeatSeen {
        #[n(0)]
        sequence: u64,
        #[n(1)]
        want_snapshot: bool,
    },
    /// The outcome is on stable storage; the agent may forget it.
    #[n(4)]
    OutcomeSeen {
        #[n(0)]
        operation: OperationId,
    },
    /// A new certificate chain (DER, leaf first) for the agent's key.
    #[n(5)]
    Certificate {
        #[n(0)]
        chain: Vec<Der>,
    },
    /// The newest grid document, sealed and signed: to be kept for the aggregator.
    #[n(6)]
    Document {
        #[n(0)]
        generation: Generation,
        #[n(1)]
        #[cbor(with = "minicbor::bytes")]
        sealed: Vec<u8>,
    },
    /// Don't begin this operation if it has not begun; end it if it is one of backup or restore.
    #[n(7)]
    Cancel {
        #[n(0)]
        operation: OperationId,
    },
    /// Asks for restore points; version 3.
    #[n(8)]
    Points(#[n(0)] PointQuery),
    /// Hosts that may keep copies of this one's guests and call it, what it shares, and whether it is in service, replacing
    /// what was told before; version 3.
    #[n(9)]
    Peers {
        #[n(0)]
        peers: Vec<Peer>,
        #[n(1)]
        shares: Vec<Share>,
        /// Absent: it takes part, or the aggregator is older.
        #[n(2)]
        maintenance: Option<Maintenance>,
        /// What falls together with the host that is told. Absent: not known, or the aggregator is older.
        #[n(3)]
        zone: Option<String>,
        /// Which doors of its guests are tried.
        #[n(4)]
        #[cbor(default)]
        probes: Vec<GuestProbes>,
        /// How dense the host is packed. Absent: nothing was said, and what was said before stays.
        #[n(5)]
        memory: Option<Box<MemoryOrder>>,
    },
    /// Other hosts' guards, and who votes on the guests that this host runs, replacing what was told before; version 4.
    #[n(10)]
    Councils {
        #[n(0)]
        guards: Vec<Guard>,
        #[n(1)]
        councils: Vec<Council>,
        /// The host is in maintenance: it takes over nothing, but may win back what it owned last.
        #[n(2)]
        #[cbor(default)]
        disarmed: bool,
    },
}

/// One DER value.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct Der(#[cbor(n(0), with = "minicbor::bytes")] pub Vec<u8>);

/// The agent's first words.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Hello {
    /// Newest and oldest message version the agent speaks.
    #[n(0)]
    pub newest: u32,
    #[n(1)]
    pub oldest: u32,
    #[n(2)]
    pub host: HostId,
    #[n(3)]
    pub facts: HostFacts,
    /// The highest aggregator epoch this host has seen.
    #[n(4)]
    pub epoch: Epoch,
    /// Generation of the grid document this host keeps; zero: none.
    #[n(5)]
    pub document: Generation,
    /// The host's wall clock, to show how far it is off.
    #[n(6)]
    pub clock: Stamp,
}

/// The aggregator takes the host in.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Welcome {
    #[n(0)]
    pub version: u32,
    #[n(1)]
    pub grid: GridId,
    #[n(2)]
    pub epoch: Epoch,
    /// The aggregator's generation of the grid document; an agent that keeps a newer one sends it.
    #[n(3)]
    pub document: Generation,
}

/// The aggregator does not take the host in.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Refused {
    #[n(0)]
    pub reason: Refusal,
    #[n(1)]
    pub text: String,
    /// Trying again sooner is pointless.
    #[n(2)]
    pub retry_after_ms: Millis,
}

/// Why a host is not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Refusal {
    /// No message version in common.
    #[n(0)]
    Version,
    /// The host was removed from the grid: its key is refused for good.
    #[n(1)]
    Removed,
    /// The key is not one of this grid's.
    #[n(2)]
    UnknownKey,
    /// A second connection of the same host took over.
    #[n(3)]
    Replaced,
    /// The host broke the protocol or a quota.
    #[n(4)]
    Misbehaved,
}

/// All that a host knows of itself and its guests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Snapshot {
    /// Sequence of the beat this stands for.
    #[n(0)]
    pub sequence: u64,
    /// In order of id.
    #[n(1)]
    pub guests: Vec<GuestReport>,
    #[n(2)]
    pub alarms: Vec<Alarm>,
    #[n(3)]
    pub freshness: Freshness,
    #[n(4)]
    pub sample: HostSample,
    #[n(5)]
    pub samples: Vec<GuestSample>,
    /// All sets and replicas. Since version 3.
    #[n(6)]
    pub backup: Option<Box<BackupBeat>>,
    /// Absent where there is none. Since version 4.
    #[n(7)]
    pub guard: Option<Box<GuardReport>>,
}

/// A heartbeat: what changed since the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Beat {
    /// Rises by one; a gap means the sides may differ.
    #[n(0)]
    pub sequence: u64,
    /// Guests that are new or changed.
    #[n(1)]
    pub guests: Vec<GuestReport>,
    #[n(2)]
    pub gone: Vec<GuestId>,
    /// All alarms, when they changed.
    #[n(3)]
    pub alarms: Option<Vec<Alarm>>,
    #[n(4)]
    pub freshness: Freshness,
    #[n(5)]
    pub sample: Option<HostSample>,
    /// Samples that changed.
    #[n(6)]
    pub samples: Vec<GuestSample>,
    /// [`crate::guest::digest`] of all guests after this beat.
    #[n(7)]
    pub digest: u64,
    /// Sets and replicas that changed. Since version 3.
    #[n(8)]
    pub backup: Option<Box<BackupBeat>>,
    /// Generation of the grid document that the host keeps, when it changed. Since version 3.
    #[n(9)]
    pub document: Option<Generation>,
    /// The host's guard, when it or what it holds changed. Since version 4.
    #[n(10)]
    pub guard: Option<Box<GuardReport>>,
    /// The host's facts, when they changed since the first message.
    #[n(11)]
    pub facts: Option<Box<HostFacts>>,
}
