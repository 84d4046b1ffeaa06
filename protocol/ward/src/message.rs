//! What members of a council say to each other. No clock travels. Every message may be lost, doubled, late or out of
//! order; the transport has proven who sent it.

use minicbor::{Decode, Encode};
use roost_protocol::{Epoch, Millis};

use crate::council::{Councils, Version};
use crate::id::{MemberId, Round, WardId};

/// Longest datagram, bytes: fits every path without fragments.
pub const LONGEST_PACKET: usize = 1_200;
/// Most wards in one datagram: so many renewals fit, at 23 bytes each.
pub const MOST_WARDS_IN_PACKET: usize = 48;

/// One datagram.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Packet {
    /// Which of its stores the sender speaks from.
    #[n(0)]
    pub incarnation: u32,
    /// The store that is addressed; a packet for a lost one says nothing to the new.
    #[n(1)]
    pub to_incarnation: u32,
    #[n(2)]
    pub letters: Vec<Letter>,
}

/// A message about one ward.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Letter {
    #[n(0)]
    pub ward: WardId,
    #[n(1)]
    pub message: Message,
}

/// A message about a ward.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Message {
    /// Owner to voter: I own this epoch, grant me a lease.
    #[n(0)]
    Renew {
        #[n(0)]
        epoch: Epoch,
        #[n(1)]
        round: Round,
        /// The newest council that the owner laid down.
        #[n(2)]
        version: Version,
        /// Whether it is in force.
        #[n(3)]
        settled: bool,
        /// The councils in full, until the voter granted under this version.
        #[n(4)]
        councils: Option<Box<Councils>>,
    },
    /// Voter to owner: I vote for nobody else for P.
    #[n(1)]
    Grant {
        #[n(0)]
        epoch: Epoch,
        #[n(1)]
        round: Round,
        #[n(2)]
        version: Version,
    },
    /// No.
    #[n(2)]
    Refuse {
        /// The latest epoch the voter has voted or granted in.
        #[n(0)]
        epoch: Epoch,
        #[n(1)]
        why: Denial,
        /// What the asker doesn't know yet.
        #[n(2)]
        councils: Option<Box<Councils>>,
    },
    /// Candidate to voter: would you vote for me? Changes nothing.
    #[n(3)]
    Ask(#[n(0)] Candidacy),
    /// Voter to candidate: I would.
    #[n(4)]
    Would {
        #[n(0)]
        epoch: Epoch,
        /// The council that the voter knows in force.
        #[n(1)]
        in_force: Version,
        /// The voter started not long ago and has not heard the owner since: it can't tell whether everything did.
        #[n(2)]
        cold: bool,
    },
    /// Candidate to voter: vote for me.
    #[n(5)]
    Stand(#[n(0)] Candidacy),
    /// Voter to candidate: you have my vote; it is on disk.
    #[n(6)]
    Vote {
        #[n(0)]
        epoch: Epoch,
        #[n(1)]
        in_force: Version,
    },
    /// Owner to voter: my guests are stopped, this epoch is over.
    #[n(7)]
    Release {
        #[n(0)]
        epoch: Epoch,
    },
    /// Somebody to voter: this owner was powered off after it owned this epoch, or an admin swore so.
    #[n(8)]
    Fenced {
        #[n(0)]
        owner: MemberId,
        #[n(1)]
        epoch: Epoch,
    },
}

/// Who stands is who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Candidacy {
    #[n(0)]
    pub epoch: Epoch,
    /// The newest council the candidate knows.
    #[n(1)]
    pub newest: Version,
}

/// Why a voter says no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Denial {
    /// It has voted in this epoch or a later one.
    #[n(0)]
    Behind,
    /// It promised to wait for the owner, this long from now.
    #[n(1)]
    Promised(#[n(0)] Millis),
    /// It knows a newer council, or doesn't know the one named.
    #[n(2)]
    OtherCouncil,
    /// The asker is no home of this ward.
    #[n(3)]
    NoHome,
}
