//! Cause chains of failover: what guards and agents noted of the wards they have to do with, each link with its moment by
//! the clock of who noted it. Hosts keep them and tell the aggregator, which keeps nothing that they could not tell again.

use minicbor::{Decode, Encode};

use crate::{Epoch, GuestId, HostId, Millis, Stamp};

/// Links that one host keeps and tells, the newest of all its wards: a takeover has some ten at who takes over, and a dead
/// host had fifty guests at most.
pub const NOTES: usize = 512;
/// Links kept of one ward, so that one whose owner comes and goes doesn't push out the others.
pub const NOTES_OF_WARD: usize = 48;
/// Longest sentence: five voters by name.
pub const NOTE_TEXT: usize = 384;
/// Most hosts that one link is about: two councils of five, while one follows the other.
pub const NOTE_HOSTS: usize = 10;

/// The ward of one guest alone: all hosts call it the same with nobody's help. Two guests of one ward would need 2^32
/// guests.
pub fn ward_of(guest: GuestId) -> u64 {
    let number = u128::from_be_bytes(guest.bytes());
    let [low, high] = [number, number >> 64].map(|half| u64::try_from(half & u128::from(u64::MAX)).unwrap_or(0));
    low ^ high
}

/// One link: something that a host noted of a ward.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Noted {
    #[n(0)]
    pub ward: u64,
    #[n(1)]
    pub at: Stamp,
    #[n(2)]
    pub kind: NoteKind,
    #[n(3)]
    pub epoch: Option<Epoch>,
    /// Who it is about: the owner that was missed, the candidate that was voted for, the voters of who won, the host whose
    /// disks the guest was made from.
    #[n(4)]
    pub hosts: Vec<HostId>,
    /// How long the owner was silent; how old the copy was that the guest was made from.
    #[n(5)]
    pub span: Option<Millis>,
    /// A sentence, hosts in it by their ids.
    #[n(6)]
    pub text: String,
}

impl Noted {
    /// The same, cut to what may be.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        self.hosts.truncate(NOTE_HOSTS);
        self.text.truncate(self.text.floor_char_boundary(NOTE_TEXT));
        self
    }
}

/// What kind of thing happened: what programs act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, serde::Serialize)]
#[cbor(index_only)]
#[serde(rename_all = "kebab-case")]
pub enum NoteKind {
    /// The owner was not heard for a few rounds …
    #[n(0)]
    Suspect,
    /// … and is heard again.
    #[n(11)]
    Heard,
    #[n(1)]
    Vote,
    #[n(2)]
    Denial,
    /// A home asks whether it may stand.
    #[n(3)]
    Candidacy,
    /// It does not stand.
    #[n(12)]
    Refusal,
    #[n(4)]
    Won,
    /// The same owner went on to a later epoch.
    #[n(13)]
    Raised,
    /// A majority granted a lease.
    #[n(5)]
    Runs,
    #[n(6)]
    LeaseEnded,
    #[n(7)]
    Stopped,
    /// The owner gave the ward up.
    #[n(14)]
    Released,
    #[n(8)]
    Lost,
    #[n(9)]
    Council,
    #[n(10)]
    Fault,
    /// An admin overrode what speaks against a takeover.
    #[n(15)]
    Override,
    /// Agent: what the guest is started from was chosen.
    #[n(16)]
    Source,
    /// Agent: its guest's processors run.
    #[n(17)]
    Started,
    /// Agent: the guest can't be started where its ward was won.
    #[n(18)]
    NotStarted,
    /// Agent: a planned hand-over began, gave the guest up, or came to nothing.
    #[n(19)]
    HandOver,
    /// The others were asked for the owner; its power was cut, or could not be.
    #[n(20)]
    Fence,
    /// Agent: it is not started yet, as one of a higher priority is waited for.
    #[n(21)]
    Waits,
}
