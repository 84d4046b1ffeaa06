//! Operations as the aggregator keeps them.

use roost_protocol::operation::{Failure, Verb};
use roost_protocol::{GuestId, HostId, Millis, OperationId, Stamp};

/// One operation. Durable before the API answers; durable again when it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    pub id: OperationId,
    pub host: HostId,
    pub guest: GuestId,
    /// The guest's name when it was asked for; for people.
    pub guest_name: String,
    pub verb: Verb,
    pub created_by: String,
    pub created: Stamp,
    /// When we heard that the host had begun it; absent where it ended before we heard.
    pub started: Option<Stamp>,
    pub ended: Option<Stamp>,
    /// Absolute wall time after which it fails as timed out, for restarts of the aggregator; live time-outs run on the monotonic clock.
    pub expires: Stamp,
    pub state: State,
    pub percent: u32,
    /// What is being done, for people.
    pub step: String,
    /// The caller's Idempotency-Key, prefixed with the user's name.
    pub key: Option<String>,
}

impl Operation {
    /// One that is asked for at that moment and may be begun for so long. `subject`: a guest and its name.
    pub(crate) fn asked(
        id: OperationId,
        host: HostId,
        subject: (GuestId, String),
        verb: Verb,
        by: &str,
        (created, budget): (Stamp, Millis),
    ) -> Self {
        let (guest, guest_name) = subject;
        Self {
            id,
            host,
            guest,
            guest_name,
            verb,
            created_by: by.into(),
            created,
            started: None,
            ended: None,
            expires: Stamp(created.0.saturating_add(budget.0)),
            state: State::Queued,
            percent: 0,
            step: String::new(),
            key: None,
        }
    }
}

/// Where an operation stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Not sent, or sent and not known to be begun.
    Queued,
    Running,
    Succeeded,
    Failed(Failure),
    Cancelled,
}

impl State {
    /// True when nothing more will happen.
    pub fn ended(&self) -> bool {
        match self {
            State::Queued | State::Running => false,
            State::Succeeded | State::Failed(_) | State::Cancelled => true,
        }
    }
}
