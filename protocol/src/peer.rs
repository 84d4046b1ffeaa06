//! What two hosts of a grid say to each other about restore points. One connection, one stream, one talk: the caller says
//! `Hello`, is told `Welcome` or `Refused`, and then either brings a point, takes one, or has points of its own removed.
//!
//! ```text
//! bring   Offer ▶ ◀ Wants  Chunk… Sent ▶ ◀ Wants  …  ◀ Kept
//! take    Take ▶ ◀ Manifest  Fetch ▶ ◀ Chunk…  …
//! remove  Remove ▶ ◀ Removed
//! ```
//!
//! Nothing that either side says is believed: chunks are checked against their names, and only those travel that were
//! asked for. Both ends have shown the keys that the aggregator told them of ([`crate::backup::Peer`]).

use minicbor::{Decode, Encode};

use crate::message::FRAME;
use crate::{HostId, PointId};

/// The newest version of these words that this build speaks, and the oldest. Another count than that of the link.
pub const VERSION: u32 = 1;
/// See [`VERSION`].
pub const OLDEST: u32 = 1;
/// Chunks asked for at a time: 256 KiB of names, and 1 GiB of blocks.
pub const CHUNKS: usize = 8_192;
/// Points removed at a time.
pub const REMOVE: usize = 1_024;
/// Longest manifest that travels; a guest's has some KiB.
pub const MANIFEST: usize = FRAME - (1 << 10);
/// Longest reason; longer ones are cut.
pub const REASON: usize = 512;

/// The name of a chunk in a store: a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(transparent)]
pub struct ChunkName(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 32]);

/// From the host that called.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum FromCaller {
    #[n(0)]
    Hello {
        /// Newest and oldest version that it speaks.
        #[n(0)]
        newest: u32,
        #[n(1)]
        oldest: u32,
        /// Whom it means to have called.
        #[n(2)]
        to: HostId,
    },
    /// A point that it made and wants kept; answered by `Wants` until all of it is there, then by `Kept`.
    #[n(1)]
    Offer {
        /// As in the store's `points` folder.
        #[n(0)]
        #[cbor(with = "minicbor::bytes")]
        manifest: Vec<u8>,
    },
    /// One that was wanted, as the store gives it out: compressed, with its hashes.
    #[n(2)]
    Chunk {
        #[n(0)]
        name: ChunkName,
        #[n(1)]
        #[cbor(with = "minicbor::bytes")]
        bytes: Vec<u8>,
    },
    /// All that was wanted has been said.
    #[n(3)]
    Sent,
    /// A point that it may take; answered by `Manifest`.
    #[n(4)]
    Take {
        #[n(0)]
        point: PointId,
    },
    /// Chunks of the point it takes, at most [`CHUNKS`]; answered by as many `Chunk`s, in this order.
    #[n(5)]
    Fetch {
        #[n(0)]
        names: Vec<ChunkName>,
    },
    /// Points that it made and no longer wants kept, at most [`REMOVE`].
    #[n(6)]
    Remove {
        #[n(0)]
        points: Vec<PointId>,
    },
}

/// From the host that was called.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum FromCalled {
    #[n(0)]
    Welcome {
        #[n(0)]
        version: u32,
    },
    /// The last message before the connection is closed.
    #[n(1)]
    Refused {
        #[n(0)]
        reason: No,
        #[n(1)]
        text: String,
    },
    /// Chunks of the offered point that it lacks, at most [`CHUNKS`].
    #[n(2)]
    Wants {
        #[n(0)]
        names: Vec<ChunkName>,
    },
    /// The offered point is whole, checked and durable.
    #[n(3)]
    Kept {
        /// Bytes by which the store grew.
        #[n(0)]
        grew: u64,
    },
    #[n(4)]
    Manifest {
        #[n(0)]
        #[cbor(with = "minicbor::bytes")]
        bytes: Vec<u8>,
    },
    #[n(5)]
    Chunk {
        #[n(0)]
        name: ChunkName,
        #[n(1)]
        #[cbor(with = "minicbor::bytes")]
        bytes: Vec<u8>,
    },
    /// These are gone; also those that were not there.
    #[n(6)]
    Removed {
        #[n(0)]
        points: Vec<PointId>,
    },
}

/// Why a host does not do what its peer asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum No {
    /// No version in common.
    #[n(0)]
    Version,
    /// The caller is not, or no longer, a host of the grid as far as is known here.
    #[n(1)]
    Stranger,
    /// It broke the rules and is not heard for a while.
    #[n(2)]
    CutOff,
    /// Too many call at once; soon again.
    #[n(3)]
    Busy,
    /// The store has no room, or is full for this caller.
    #[n(4)]
    NoRoom,
    /// Nobody said that the caller may have this point.
    #[n(5)]
    NotShared,
    #[n(6)]
    NotThere,
    /// What is asked for is damaged here.
    #[n(7)]
    Damaged,
    /// The caller broke the rules just now.
    #[n(8)]
    Misbehaved,
    /// Something failed here that is not the caller's fault.
    #[n(9)]
    Failed,
}
