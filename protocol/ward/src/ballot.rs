//! What a member keeps: on disk what it voted, in memory that survives the program what it owns.

use minicbor::{Decode, Encode};
use roost_protocol::{Epoch, Time};

use crate::council::{Council, Councils};
use crate::id::{MemberId, Order};

/// What a voter keeps on disk, synced before anything that follows from it is said.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Ballot {
    /// The latest epoch it voted in, or heard an owner of.
    #[n(0)]
    pub epoch: Epoch,
    /// For whom; absent in a fresh store.
    #[n(1)]
    pub voted: Option<MemberId>,
    #[n(2)]
    pub councils: Councils,
    /// The latest epoch that this machine itself won.
    #[n(3)]
    pub won: Epoch,
}

impl Ballot {
    /// Of a store that was just made. Only to be used with an incarnation that was never used before.
    pub fn blank() -> Self {
        let none = Council::none();
        Self { epoch: Epoch(0), voted: None, councils: Councils::settled(none), won: Epoch(0) }
    }

    /// Of a new ward: everybody in its first council starts with this. The first home will stand at once.
    pub fn first(council: Council) -> Self {
        let voted = council.homes.first().copied();
        Self { epoch: Epoch(0), voted, councils: Councils::settled(council), won: Epoch(0) }
    }
}

/// What a host keeps of a ward it owns for the time until its next boot (`/run`, with the boot id), so that the guard
/// may be restarted without effect. Written before the action that follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Kept {
    #[n(0)]
    pub epoch: Epoch,
    /// When the lease ends on this boot's clock, ms; may be older than it really is.
    #[n(1)]
    pub lease_until_ms: u64,
    /// Number of the last command to the guests.
    #[n(2)]
    pub order: Order,
    /// Whether guests may be executing.
    #[n(3)]
    pub may_execute: bool,
}

impl Kept {
    pub(crate) fn lease_until(&self) -> Time {
        Time(self.lease_until_ms)
    }
}
