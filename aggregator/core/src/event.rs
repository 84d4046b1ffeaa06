//! What the aggregator's core is told, and what it asks for. The order of actions is meaning: Persist, then the rest.

use roost_protocol::message::{Hello, Refused, ToAgent, ToAggregator};
use roost_protocol::{Generation, HostId, Stamp};

use crate::account::Account;
use crate::call::{Call, Reply};
use crate::intent::{Intent, IntentChange};
use crate::notify::{Digest, Notifier, Told};
use crate::operation::Operation;
use crate::witness::Witness;

/// Names one connection; rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// Names one waiting API call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// What the core is told.
#[derive(Clone, Debug)]
pub enum Event {
    Tick,
    /// A connection whose TLS proved this key said hello. `certified`: the certificate is one of this grid's for `hello.host`.
    Hello {
        link: LinkId,
        key: [u8; 32],
        certified: bool,
        hello: Hello,
        remote: String,
    },
    /// Anything but Hello, Renew and Document.
    Received {
        link: LinkId,
        message: ToAggregator,
    },
    /// A grid document from an agent, signature and seal already checked by the edge.
    DocumentOffered {
        link: LinkId,
        intent: Box<Intent>,
    },
    Closed {
        link: LinkId,
        why: String,
    },
    /// An API caller asks for a change; answered by [`Action::Answer`].
    Called {
        call: CallId,
        by: String,
        what: Call,
    },
    /// Somebody came in; checked by the edge.
    Used {
        who: Account,
    },
    /// What came of [`Action::Notify`].
    Notified {
        notifier: String,
        delivery: u64,
        result: Result<(), String>,
    },
    /// How the guard beside the aggregator is, or why it can't be asked.
    Witness(Result<Witness, String>),
    /// The changes of the answer with this number could not be made durable; nothing of that answer was carried out.
    LedgerFailed {
        why: String,
    },
}

/// What the core asks for.
#[derive(Clone, Debug)]
pub enum Action {
    /// Durable, as one transaction, before anything that follows in the same answer. The edge may group several answers
    /// into one commit.
    Persist {
        intent: Vec<IntentChange>,
        generation: Generation,
        operations: Vec<Operation>,
    },
    /// Durable like the rest, though nothing depends on it.
    Used {
        who: Account,
        at: Stamp,
    },
    Send {
        link: LinkId,
        message: ToAgent,
    },
    /// Tell why, then close.
    Refuse {
        link: LinkId,
        refused: Refused,
    },
    Answer {
        call: CallId,
        reply: Reply,
    },
    /// The intent changed: seal it and send it to all connected agents (may be delayed a little to gather changes).
    SpreadDocument,
    /// Tell SSE listeners; the event is already in the grid's history.
    Publish {
        event: GridEvent,
    },
    /// Deliver it and tell by [`Event::Notified`].
    Notify {
        notifier: Box<Notifier>,
        delivery: u64,
        digest: Box<Digest>,
    },
    /// Durable like the rest, though nothing waits for it: what this notifier was told; none: it is gone.
    Told {
        notifier: String,
        told: Option<Told>,
    },
    Disconnect {
        host: HostId,
        link: LinkId,
    },
}

/// One line of the grid's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GridEvent {
    /// Rises across restarts: epoch in the upper bits, count in the lower 20. Below 2^53, so that JSON clients keep it exact.
    pub sequence: u64,
    pub at: Stamp,
    /// Stable word such as `host.up`, `guest.state`, `operation.ended`.
    pub kind: String,
    pub severity: Severity,
    pub host: Option<HostId>,
    pub guest: Option<roost_protocol::GuestId>,
    pub operation: Option<roost_protocol::OperationId>,
    pub user: Option<String>,
    pub text: String,
}

/// How much an event matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Info,
    Warning,
    Error,
}
