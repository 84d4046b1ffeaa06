//! The API's door to the driver: read the grid, ask for a change, listen to events. The driver alone owns the grid.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use roost_aggregator_core::account::Account;
use roost_aggregator_core::call::{CallError, CallErrorCode};
use roost_aggregator_core::event::GridEvent;
use roost_aggregator_core::witness::Witness;
use roost_aggregator_core::{Call, Grid, Reply};
use roost_protocol::identity::GridKey;
use roost_protocol::{HostId, Stamp, Time};
use tokio::sync::{broadcast, mpsc, oneshot};

/// Requests that may wait for the driver; more callers than this wait in turn.
const QUEUE: usize = 1_024;
/// Events a listener may lag behind before it is cut off.
const LAG: usize = 4_096;

/// What the driver runs for a reader: the closure must be short and clone what it needs.
pub(crate) type Reader = Box<dyn FnOnce(&Grid, Time, Stamp) + Send>;

/// Looked at by the driver at the moment of the change, so that nothing comes in between.
pub(crate) type Condition = Box<dyn FnOnce(&Grid, Time, Stamp) -> Result<(), CallError> + Send>;

/// One thing asked of the driver.
#[expect(clippy::large_enum_variant, reason = "a full queue of calls takes 300 KB; boxing each costs more")]
pub(crate) enum Request {
    Read(Reader),
    Call {
        by: String,
        what: Call,
        only_if: Option<Condition>,
        reply: oneshot::Sender<Reply>,
    },
    Used(Account),
    /// What came of a delivery.
    Notified {
        notifier: String,
        delivery: u64,
        result: Result<(), String>,
    },
    /// What came of asking the guard beside us.
    Witness(Result<Witness, String>),
    /// The connection of a host that was taken in, when there is one.
    Connection {
        host: HostId,
        reply: oneshot::Sender<Option<quinn::Connection>>,
    },
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Request::Read(_) => f.write_str("Read"),
            Request::Call { by, what, only_if: _, reply: _ } => {
                f.debug_struct("Call").field("by", by).field("what", what).finish()
            }
            Request::Notified { notifier, delivery, result: _ } => {
                f.debug_struct("Notified").field("notifier", notifier).field("delivery", delivery).finish()
            }
            Request::Witness(told) => f.debug_tuple("Witness").field(told).finish(),
            Request::Used(who) => f.debug_tuple("Used").field(who).finish(),
            Request::Connection { host, reply: _ } => f.debug_struct("Connection").field("host", host).finish(),
        }
    }
}

/// The driver is gone: the program is about to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ask the driver: it is not running")]
pub(crate) struct Away;

/// What callers hold.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    requests: mpsc::Sender<Request>,
    events: broadcast::Sender<Arc<GridEvent>>,
    pub(crate) key: Arc<GridKey>,
    storage_failing: Arc<AtomicBool>,
}

/// What the driver holds.
#[derive(Debug)]
pub(crate) struct DriverEnd {
    pub(crate) requests: mpsc::Receiver<Request>,
    pub(crate) events: broadcast::Sender<Arc<GridEvent>>,
}

/// Both ends.
pub(crate) fn handle(key: Arc<GridKey>) -> (Handle, DriverEnd) {
    let (requests, received) = mpsc::channel(QUEUE);
    let (events, _) = broadcast::channel(LAG);
    (
        Handle { requests, events: events.clone(), key, storage_failing: Arc::default() },
        DriverEnd { requests: received, events },
    )
}

impl Handle {
    /// What `read` makes of the grid as it is now.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Grid, Time, Stamp) -> T + Send + 'static,
    ) -> Result<T, Away> {
        let (send, receive) = oneshot::channel();
        let reader: Reader = Box::new(move |grid, now, wall| drop(send.send(read(grid, now, wall))));
        self.requests.send(Request::Read(reader)).await.map_err(|_| Away)?;
        receive.await.map_err(|_| Away)
    }

    /// Tells how the witness is.
    pub(crate) async fn witness(&self, told: Result<Witness, String>) -> Result<(), Away> {
        self.requests.send(Request::Witness(told)).await.map_err(|_| Away)
    }

    /// Ask for a change; answered when it is durable, or refused.
    pub(crate) async fn call(&self, by: &str, what: Call) -> Reply {
        self.call_if(by, what, None).await
    }

    /// The same, refused unless the condition holds.
    pub(crate) async fn call_if(&self, by: &str, what: Call, only_if: Option<Condition>) -> Reply {
        let (reply, receive) = oneshot::channel();
        let sent = self.requests.send(Request::Call { by: by.to_owned(), what, only_if, reply }).await;
        sent.map_err(|_| away())?;
        receive.await.unwrap_or_else(|_| Err(away()))
    }

    /// Somebody came in. Nobody waits for the disk because of it.
    pub(crate) async fn used(&self, who: Account) -> Result<(), Away> {
        self.requests.send(Request::Used(who)).await.map_err(|_| Away)
    }

    /// A delivery arrived, or why not.
    pub(crate) async fn notified(
        &self,
        notifier: String,
        delivery: u64,
        result: Result<(), String>,
    ) -> Result<(), Away> {
        self.requests.send(Request::Notified { notifier, delivery, result }).await.map_err(|_| Away)
    }

    /// The connection of a host that is there.
    pub(crate) async fn connection(&self, host: HostId) -> Result<Option<quinn::Connection>, Away> {
        let (reply, receive) = oneshot::channel();
        self.requests.send(Request::Connection { host, reply }).await.map_err(|_| Away)?;
        receive.await.map_err(|_| Away)
    }

    /// True while what is asked for can't be made durable.
    pub(crate) fn storage_failing(&self) -> bool {
        self.storage_failing.load(Ordering::Relaxed)
    }

    /// The driver says whether its ledger can be written.
    pub(crate) fn set_storage_failing(&self, failing: bool) {
        self.storage_failing.store(failing, Ordering::Relaxed);
    }

    /// Events from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Arc<GridEvent>> {
        self.events.subscribe()
    }
}

fn away() -> CallError {
    CallError {
        code: CallErrorCode::Storage,
        text: "The aggregator is stopping. Try again when it is back.".to_owned(),
    }
}
