//! What people look at for a moment, such as a screen: asked of a host on a stream of its own, which the aggregator opens,
//! answered from what the host sees just then, and kept nowhere on the way.

use minicbor::{Decode, Encode};

use crate::operation::Failure;
use crate::{GuestId, Stamp};

/// The first message version whose agents answer.
pub const SINCE: u32 = 4;
/// Largest picture: what fits into one frame with room to spare.
pub const PICTURE: usize = 960 << 10;

/// The question; the only message on its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Look {
    /// What a running guest shows on its first screen.
    #[n(0)]
    Screen {
        #[n(0)]
        guest: GuestId,
    },
    /// What the guest's newest proven, or not proven, restore point showed on its screen.
    #[n(1)]
    Trial {
        #[n(0)]
        guest: GuestId,
    },
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Seen {
    #[n(0)]
    Picture(#[n(0)] Picture),
    #[n(1)]
    Nothing(#[n(0)] Failure),
}

/// A screen at a moment.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Picture {
    /// When it was taken.
    #[n(0)]
    pub at: Stamp,
    /// At most [`PICTURE`] bytes.
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    pub png: Vec<u8>,
}
