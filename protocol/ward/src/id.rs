//! Who and what: wards, members of councils, and numbers that tell one thing from the next.

use std::fmt;

use minicbor::{Decode, Encode};
use roost_protocol::cause::ward_of;
use roost_protocol::{GuestId, HostId};

/// One ward: a small set of guests with the same homes. Small numbers travel in few bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct WardId(#[n(0)] pub u64);

impl WardId {
    /// The ward of one guest alone: all hosts call it the same with nobody's help.
    pub fn of(guest: GuestId) -> Self {
        Self(ward_of(guest))
    }
}

impl fmt::Display for WardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ward {}", self.0)
    }
}

/// One voter: a machine's key, and which of its vote stores. A store that was lost is replaced by one of the next
/// incarnation, which is another member: what it promised before is not known to it, so nobody counts its voice until a
/// council admits it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct MemberId {
    #[n(0)]
    pub id: HostId,
    #[n(1)]
    pub incarnation: u32,
}

impl MemberId {
    /// The first store of this machine.
    pub const fn first(id: HostId) -> Self {
        Self { id, incarnation: 0 }
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.id)?;
        if self.incarnation > 0 { write!(f, "#{}", self.incarnation) } else { Ok(()) }
    }
}

impl fmt::Debug for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Names one round of renewing; says nothing to anybody but the owner that sent it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct Round(#[n(0)] pub u64);

/// Number of a command to the guests; an answer to an older one says nothing about how they are now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct Order(#[n(0)] pub u64);

impl Order {
    #[must_use]
    pub(crate) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}
