//! Host to host: brings points to the stores of other hosts and takes them from there, and listens for others that do. Who
//! those others are comes from the core; nothing that they send is believed.

mod call;
mod far;
mod listen;
mod serve;
mod talk;
#[cfg(test)]
mod test;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::Endpoint;
use roost_agent_core::Event;
use roost_protocol::backup::{Peer, Share};
use roost_protocol::identity::{Fingerprint, HostKey};
use roost_protocol::message::Der;
use roost_protocol::peer::No;
use roost_protocol::transport::{Identity, TransportError};
use roost_protocol::{HostId, PointId};
use roost_store::{BLOCK_BYTES, StoreError};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

pub(crate) use call::{Moved, Watch};
pub(crate) use far::{Asks, Far};
pub(crate) use listen::Listen;
pub(crate) use serve::Keeper;

/// How long a peer may take to answer: it may have to look through the whole map of a large disk.
const PATIENCE: Duration = Duration::from_secs(180);
/// Chunks of a point may have so many times its size: a map refers to at most 96 chunks of 32 blocks in 1,024 blocks.
const TIMES: u64 = 4;
/// And so many bytes more, for maps and small files.
const MORE: u64 = 64 << 20;

/// What shows who this host is.
#[derive(Debug)]
pub(crate) struct Badge {
    pub(crate) host: HostId,
    /// The grid's certificate, and the fingerprint of its key.
    pub(crate) ca: Der,
    pub(crate) pin: Fingerprint,
    pub(crate) identity: Identity,
}

/// Hosts that are dealt with, and what they may take.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub(crate) peers: Vec<Peer>,
    pub(crate) shares: Vec<Share>,
}

/// The way to other hosts, for tasks that may block.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    pub(crate) badge: watch::Receiver<Option<Arc<Badge>>>,
    pub(crate) known: watch::Receiver<Known>,
    pub(crate) endpoint: Endpoint,
    pub(crate) runtime: Handle,
    pub(crate) events: mpsc::Sender<Event>,
    patience: Duration,
}

/// Why nothing came of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    #[error("this host is not in a grid")]
    NotJoined,
    #[error(
        "this host was not told how to reach host {0}: is it in the grid, up, and does its agent listen for peers?"
    )]
    Unknown(HostId),
    #[error("reach host {name} at {address}")]
    Away { name: String, address: SocketAddr, source: Box<TransportError> },
    #[error("talk to host {name}")]
    Lost { name: String, source: Box<TransportError> },
    #[error("host {name} refused ({reason:?}): {text}")]
    Refused { name: String, reason: No, text: String },
    #[error("host {name} broke the rules and is cut off: {what}")]
    Lied { name: String, what: String },
    #[error("{tried}")]
    Store { tried: &'static str, source: StoreError },
    #[error("it was cancelled; what is there is used next time")]
    Cancelled,
}

impl Peers {
    /// To be called within a tokio runtime.
    pub(crate) fn new(
        badge: watch::Receiver<Option<Arc<Badge>>>,
        known: watch::Receiver<Known>,
        events: mpsc::Sender<Event>,
    ) -> Result<Self, TransportError> {
        let endpoint = roost_protocol::transport::client_endpoint()?;
        Ok(Self { badge, known, endpoint, runtime: Handle::current(), events, patience: PATIENCE })
    }
}

impl PeerError {
    /// True where waiting may help.
    fn passes(&self) -> bool {
        match self {
            Self::Away { .. } | Self::Lost { .. } => true,
            // Told to us before it was told to the other one, or as this host had just joined.
            Self::Unknown(_) | Self::NotJoined => true,
            Self::Refused { reason, .. } => matches!(reason, No::Busy | No::NotShared | No::Stranger),
            Self::Lied { .. } | Self::Store { .. } | Self::Cancelled => false,
        }
    }
}

impl Badge {
    /// True where the other one is shown to peers just as well: dates don't count.
    fn same(&self, other: &Badge) -> bool {
        let key = |key: &HostKey| key.key_fingerprint();
        self.host == other.host && self.pin == other.pin && key(&self.identity.key) == key(&other.identity.key)
    }
}

impl Known {
    fn peer(&self, host: HostId) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.host == host)
    }

    fn shares(&self, point: PointId, with: HostId) -> bool {
        self.shares.contains(&Share { point, with })
    }
}

/// Bytes of chunks that a point with disks of this size may need in all.
fn most_bytes(size: u64) -> u64 {
    size.next_multiple_of(BLOCK_BYTES).saturating_mul(TIMES).saturating_add(MORE)
}
