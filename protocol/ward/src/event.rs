//! What a ward is told, and what it asks for.

use minicbor::{Decode, Encode};
use roost_protocol::{Epoch, Millis, Time};

use crate::ballot::{Ballot, Kept};
use crate::council::{CouncilRefusal, Policy};
use crate::id::{MemberId, Order};
use crate::message::{Denial, Message};
use crate::timers::Profile;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The deadline is here.
    Wake,
    /// A message came; the transport has proven who sent it.
    Heard { from: MemberId, message: Message },
    /// A `Pause` was confirmed, or killed guests were reaped: nothing of this ward executes.
    Stopped { order: Order },
    /// Somebody thinks that this home should own the ward: it tries at once. `force`: an admin typed that a stale copy
    /// may start now; only rules of good sense are waived, votes are needed all the same.
    Nominate { force: bool },
    /// Give the ward up: pause, then tell the council that the epoch is over. The next owner needs no wait.
    Release,
    /// Change the council.
    Change(Change),
    /// How fresh this home's copy of the guests is.
    Replica(Replica),
    /// Whether something speaks against standing.
    Bars(Bars),
    /// Ask the others whether they hear the owner that this home misses. Changes nothing but [`crate::Ward::missed`].
    Inquire,
    /// The recorded owner was powered off, for certain, after this epoch was read from [`crate::Ward::recorded`].
    Fenced { owner: MemberId, epoch: Epoch },
    /// The ballot could not be written.
    StoreFailed,
}

/// A council to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Change {
    #[n(0)]
    pub members: Vec<MemberId>,
    #[n(1)]
    pub homes: Vec<MemberId>,
    #[n(2)]
    pub policy: Policy,
    #[n(3)]
    pub profile: Profile,
}

/// A home's copy of a ward's guests, as far as it isn't the owner's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Replica {
    /// None, or none that may be started.
    #[default]
    None,
    /// The guests keep nothing: they are made anew anywhere.
    Stateless,
    /// All they wrote until then, on this home's clock; too old after `max_rpo`.
    Until { point: Time, max_rpo: Millis },
}

/// What speaks against standing; each is advice, and may be wrong without harm to safety.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Bars {
    /// The guests themselves answer: if that is so after their lease ended, fencing failed and people must look.
    #[n(0)]
    pub guests_answer: bool,
    /// Failover is disarmed: no takeover, but the last owner may come back.
    #[n(2)]
    pub disarmed: bool,
    /// This host is in maintenance: it owns nothing, not even what it owned last.
    #[n(3)]
    pub maintenance: bool,
}

/// What is to be done, in this order: what stands behind a `Persist` or `Keep` waits until that is done, and is dropped
/// if it fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write the ballot and sync it.
    Persist(Box<Ballot>),
    /// Keep this until the next boot; `None`: remove it.
    Keep(Option<Kept>),
    Send {
        to: MemberId,
        message: Message,
    },
    /// Let the guests execute; right before each is resumed, ask [`crate::Ward::may_run`] and the clock again.
    Run {
        order: Order,
        epoch: Epoch,
    },
    /// Pause the guests; confirm with `Stopped`.
    Pause {
        order: Order,
    },
    /// Kill the guests; confirm with `Stopped`.
    Kill {
        order: Order,
    },
    /// For people and for the cause chain.
    Tell(Report),
}

/// What happened, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The recorded owner was not heard for a few rounds: look for it.
    Suspect {
        owner: MemberId,
        silent: Millis,
    },
    /// … and is heard again.
    HeardAgain {
        owner: MemberId,
    },
    /// This home stands, or would. It knows this owner, if any.
    Asks {
        epoch: Epoch,
        owner: Option<MemberId>,
    },
    /// Somebody asked this home to stand; an admin, if a stale copy may start.
    Nominated {
        force: bool,
    },
    /// It does not, because.
    StandsNot(Refusal),
    Voted {
        candidate: MemberId,
        epoch: Epoch,
        ground: Ground,
    },
    Denied {
        candidate: MemberId,
        epoch: Epoch,
        why: Denial,
    },
    Elected {
        epoch: Epoch,
        votes: Vec<MemberId>,
    },
    /// The owner took a later epoch, since a voter had run ahead.
    Raised {
        epoch: Epoch,
        votes: Vec<MemberId>,
    },
    Runs {
        epoch: Epoch,
    },
    LeaseEnded {
        epoch: Epoch,
    },
    Kills {
        epoch: Epoch,
    },
    Paused {
        epoch: Epoch,
    },
    Released {
        epoch: Epoch,
    },
    /// The ward is another's. What this host wrote and did not ship is to be kept aside as a layer of its own.
    Lost {
        epoch: Epoch,
        to: Option<MemberId>,
        in_epoch: Epoch,
    },
    CouncilOpen {
        members: Vec<MemberId>,
    },
    CouncilInForce {
        members: Vec<MemberId>,
    },
    CouncilRefused(ChangeRefusal),
    Fenced {
        owner: MemberId,
        epoch: Epoch,
    },
    /// A majority misses the owner, and nobody who answered hears it.
    Missed {
        owner: MemberId,
        epoch: Epoch,
        by: Vec<MemberId>,
    },
    /// It votes and grants no more until it starts anew.
    Mute,
}

/// What allowed a vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// No promise to anybody is left.
    PromiseOver,
    /// The recorded owner itself asked.
    OwnerItself,
    /// The voter is the recorded owner and runs nothing.
    OwnStopped,
}

/// Why a home doesn't stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("its vote store failed")]
    Mute,
    #[error("the ward never moves by itself")]
    Stays,
    #[error("this host is in maintenance")]
    Maintenance,
    #[error("failover is disarmed here")]
    Disarmed,
    #[error("the guests still answer: their host could not stop them, and somebody must look")]
    GuestsAnswer,
    #[error("everything just started: the last owner has the newest data and gets time to come back")]
    ColdStart,
    #[error("it has no copy of the guests")]
    NoReplica,
    #[error("its copy is older than the most that may be lost")]
    ReplicaTooOld,
}

/// Why a change of the council isn't begun.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeRefusal {
    #[error("only the owner changes the council, while it holds its lease")]
    NotOwner,
    #[error("the change before is still open")]
    Open,
    #[error("the owner must stay a home: release the ward first")]
    OwnerLeaves,
    #[error(transparent)]
    Unsound(#[from] CouncilRefusal),
}
