//! What the guard and its visitors on the same machine say to each other: the agent, the aggregator beside a witness,
//! `roost-guard status`. Frames on a local socket: length in four bytes, big endian, then CBOR.

use minicbor::{Decode, Encode};
use roost_protocol::cause::NoteKind;
use roost_protocol::failover::{Fencing, Guard, WatchdogTest};
use roost_protocol::{Epoch, GuestId, HostId, Millis, Stamp};

use crate::council::{Council, Policy};
use crate::event::{Bars, Change, Replica};
use crate::id::{MemberId, WardId};
use crate::ward::Standing;

/// Longest frame, bytes: 256 wards of some 300 bytes, 512 guests of 17, and 256 peers of 40.
pub const LONGEST_FRAME: usize = 128 << 10;
/// Most peers of one guard: a host is in some 40 wards with 5 members each.
pub const MOST_PEERS: usize = 256;
/// Most addresses of one peer, one in each network.
pub const MOST_ADDRESSES: usize = 4;
/// Most wards on one machine.
pub const MOST_WARDS: usize = 256;
/// Most wards whose votes are kept though nobody takes part in them any more: some 250 bytes of memory each.
pub const MOST_RESTING: usize = 4_096;
/// Most guests of all wards on one machine.
pub const MOST_GUESTS: usize = 512;

/// Another guard, whose key is pinned: no certificate and no date decides whether it is heard.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Peer {
    #[n(0)]
    pub id: HostId,
    /// Its Ed25519 key.
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    pub key: [u8; 32],
    /// As text, since they are shown to people too: `10.0.0.1:7946`.
    #[n(2)]
    pub addresses: Vec<String>,
}

/// What a visitor asks.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Request {
    #[n(0)]
    Status,
    /// All peers from now on; kept.
    #[n(1)]
    Peers(#[n(0)] Vec<Peer>),
    /// Take part in a new ward, by its first council; of no effect if the ward is known.
    #[n(2)]
    Found {
        #[n(0)]
        ward: WardId,
        #[n(1)]
        council: Council,
    },
    /// Something about a ward.
    #[n(3)]
    Tell {
        #[n(0)]
        ward: WardId,
        #[n(1)]
        what: Told,
    },
    /// All guests of a ward from now on; kept. Whatever executes one of them does so only while the ward's lease holds.
    #[n(4)]
    Guests {
        #[n(0)]
        ward: WardId,
        #[n(1)]
        guests: Vec<GuestId>,
        /// They keep nothing, or lie on storage that all homes reach: any home may start them.
        #[n(2)]
        anywhere: bool,
    },
    /// Notes from this one on, now and as they come; later requests are answered all the same.
    #[n(5)]
    Follow {
        #[n(0)]
        from: u64,
    },
    /// These peers as told here, those in `keep` as they are pinned already; others are no peers any more, unless they vote
    /// in a ward of ours. Kept.
    #[n(6)]
    Pin {
        #[n(0)]
        peers: Vec<Peer>,
        #[n(1)]
        keep: Vec<HostId>,
    },
    /// Which host of the grid this is, for a guard that doesn't know; kept for good.
    #[n(7)]
    Host(#[n(0)] HostId),
    /// Take part no more in a ward that goes on without this machine, or that it owns alone with nothing in it. What it
    /// voted stays on disk, and it takes part again once it is admitted, or founds the ward again.
    #[n(8)]
    Forget {
        #[n(0)]
        ward: WardId,
    },
    /// Have the watchdog end this host, to see whether it does; refused unless nothing executes here.
    #[n(9)]
    TestWatchdog,
}

impl Request {
    /// Pins these guards; those whose seat is not known now stay as they are.
    pub fn pin(guards: &[Guard]) -> Self {
        let peer = |guard: &Guard| {
            let seat = guard.seat.as_ref()?;
            let addresses = seat.addresses.iter().take(MOST_ADDRESSES).cloned().collect();
            Some(Peer { id: guard.host, key: seat.key, addresses })
        };
        let keep = guards.iter().filter(|guard| guard.seat.is_none()).map(|guard| guard.host).collect();
        Self::Pin { peers: guards.iter().filter_map(peer).collect(), keep }
    }
}

/// What a ward may be told; see [`crate::Event`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Told {
    #[n(0)]
    Nominate {
        #[n(0)]
        force: bool,
    },
    #[n(1)]
    Release,
    #[n(2)]
    Change(#[n(0)] Change),
    #[n(3)]
    Copy(#[n(0)] Copied),
    #[n(4)]
    Bars(#[n(0)] Bars),
    #[n(5)]
    Fenced {
        #[n(0)]
        owner: MemberId,
        #[n(1)]
        epoch: Epoch,
    },
    /// See [`crate::Event::Inquire`].
    #[n(6)]
    Inquire,
}

/// This home's copy of a ward's guests, with its age, since no clock travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Copied {
    #[n(0)]
    None,
    #[n(1)]
    Stateless,
    #[n(2)]
    Until {
        #[n(0)]
        age: Millis,
        #[n(1)]
        max_rpo: Millis,
    },
}

impl Copied {
    /// The same with a moment on this machine's clock.
    pub fn replica(self, now: roost_protocol::Time) -> Replica {
        match self {
            Copied::None => Replica::None,
            Copied::Stateless => Replica::Stateless,
            Copied::Until { age, max_rpo } => Replica::Until { point: now - age, max_rpo },
        }
    }
}

/// What the guard answers.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Reply {
    #[n(0)]
    Done,
    #[n(1)]
    Refused(#[n(0)] String),
    #[n(2)]
    Status(#[n(0)] Status),
    /// Not an answer: something happened.
    #[n(3)]
    Note(#[n(0)] Note),
}

/// Something that happened to a ward, for the cause chain.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Note {
    /// Counts up over all wards; a guard that was started anew begins far above what it said before.
    #[n(0)]
    pub number: u64,
    #[n(1)]
    pub at: Stamp,
    #[n(2)]
    pub ward: WardId,
    #[n(3)]
    pub kind: NoteKind,
    /// A sentence.
    #[n(4)]
    pub text: String,
    #[n(5)]
    pub epoch: Option<Epoch>,
    /// See [`roost_protocol::cause::Noted`].
    #[n(6)]
    #[cbor(default)]
    pub hosts: Vec<HostId>,
    #[n(7)]
    pub span: Option<Millis>,
}

/// How the guard is.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Status {
    #[n(0)]
    pub me: MemberId,
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    pub key: [u8; 32],
    #[n(2)]
    pub fencing: Fencing,
    #[n(3)]
    pub wards: Vec<WardStatus>,
    #[n(4)]
    pub peers: Vec<PeerStatus>,
    /// The number of the first note that is remembered …
    #[n(5)]
    pub first_note: u64,
    /// … and of the next one.
    #[n(6)]
    pub next_note: u64,
    /// Where it listens for others.
    #[n(7)]
    #[cbor(default)]
    pub listen: String,
    /// It may own strict wards: it is fenced, or its admin does without.
    #[n(8)]
    #[cbor(default)]
    pub may_own: bool,
    /// What happened before this is not remembered.
    #[n(9)]
    #[cbor(default)]
    pub remembers: Stamp,
    /// The last test of this watchdog, or the one under way.
    #[n(10)]
    pub watchdog_test: Option<WatchdogTest>,
}

/// How a ward is, seen from here.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct WardStatus {
    #[n(0)]
    pub ward: WardId,
    #[n(1)]
    pub standing: Standing,
    /// The epoch voted in last, and for whom.
    #[n(2)]
    pub epoch: Epoch,
    #[n(3)]
    pub owner: Option<MemberId>,
    /// How much longer it votes for nobody else.
    #[n(4)]
    pub promise_left: Millis,
    #[n(5)]
    pub policy: Policy,
    #[n(6)]
    pub members: Vec<MemberId>,
    /// Whether its guests may execute here now.
    #[n(7)]
    pub may_run: bool,
    #[n(8)]
    pub guests: Vec<GuestId>,
    /// What of them executes here, or stands still.
    #[n(9)]
    pub processes: u32,
    /// Who may own it, in order of preference.
    #[n(10)]
    #[cbor(default)]
    pub homes: Vec<MemberId>,
    /// No change of its council is under way.
    #[n(11)]
    #[cbor(default)]
    pub settled: bool,
    /// The newest council has this voter.
    #[n(12)]
    #[cbor(default)]
    pub votes: bool,
    /// This home takes nothing over.
    #[n(13)]
    #[cbor(default)]
    pub disarmed: bool,
    /// The owner was not heard for a few rounds.
    #[n(14)]
    #[cbor(default)]
    pub suspected: bool,
    /// See [`crate::Ward::missed`].
    #[n(15)]
    #[cbor(default)]
    pub missed: bool,
    /// This home was told that the guests themselves answer, and leaves them to their owner.
    #[n(16)]
    #[cbor(default)]
    pub guests_answer: bool,
}

/// How a peer is, seen from here.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PeerStatus {
    #[n(0)]
    pub id: HostId,
    /// How long ago it was heard.
    #[n(1)]
    pub silent: Option<Millis>,
}
