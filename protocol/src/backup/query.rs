//! Points page by page, and the peers that a host may keep copies on.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::status::BackupSummary;
use crate::{GuestId, HostId, PointId, Stamp};

/// Points on one page: 500 points of 50 guests are 125 pages, and the largest page is far below a frame.
pub const PAGE: usize = 200;
/// Peers that one host is told of; more would only make messages long.
pub const PEERS: usize = 64;
/// Points that one host shares at a time: restores under way.
pub const SHARES: usize = 256;
/// Addresses of one peer.
pub const ADDRESSES: usize = 8;

/// Asks for points in order of (guest, moment, id).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct PointQuery {
    /// Names the question in its answer.
    #[n(0)]
    pub ask: u64,
    /// Absent: of all guests.
    #[n(1)]
    pub guest: Option<GuestId>,
    /// The last one of the page before.
    #[n(2)]
    pub after: Option<(GuestId, Stamp, PointId)>,
    /// At most so many, and never more than [`PAGE`].
    #[n(3)]
    pub limit: u32,
}

/// One page.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct PointsPage {
    #[n(0)]
    pub ask: u64,
    #[n(1)]
    pub points: Vec<BackupSummary>,
    /// There are more after the last of these.
    #[n(2)]
    pub more: bool,
}

/// Another host of the grid that could keep copies.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Peer {
    #[n(0)]
    pub host: HostId,
    #[n(1)]
    pub name: String,
    /// Where its agent listens for peers: `192.0.2.7:4434`. None: not known now, what was told before stays.
    #[n(2)]
    pub addresses: Vec<String>,
    /// The key its certificate must have, as the grid's intent has it.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub key: [u8; 32],
    /// What falls together (a rack, a room); empty: not known.
    #[n(4)]
    pub zone: String,
    #[n(5)]
    pub total: u64,
    #[n(6)]
    pub free: u64,
    /// Replicas it keeps already.
    #[n(7)]
    pub replicas: u32,
    #[n(8)]
    pub up: bool,
}

/// Another host may take this point now, because an admin restores it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Share {
    #[n(0)]
    pub point: PointId,
    #[n(1)]
    pub with: HostId,
}
