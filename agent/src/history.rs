//! What was sampled, for charts and reports: 10 s for a day, 1 min for a month, 15 min for a year, kept by the host itself.
//! One thread owns the file; it is asked through a bounded channel.

mod chunk;
mod course;
mod law;
mod store;
#[cfg(test)]
mod test;

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use roost_protocol::look::{self, Course, Past};
use roost_protocol::operation::{Failure, FailureCode};
use roost_protocol::{GuestId, Millis};
use roost_snmp::mib::number::{Change, Kept};
use tokio::sync::oneshot;

use crate::act::failure;

pub(crate) use course::{of_guest, of_host};
pub(crate) use law::Bucket;
use store::Store;
pub(crate) use store::{Answer, HistoryError};

/// Requests that may wait: ten minutes of a disk that hangs, and charts.
const REQUESTS: usize = 64;
/// File name in the state folder.
pub(crate) const FILE: &str = "history.db";

/// What is sampled together: a guest, or the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Series(pub(crate) [u8; 16]);

impl Series {
    /// The host itself; no guest has this id.
    pub(crate) const HOST: Self = Self([0; 16]);
}

impl From<GuestId> for Series {
    fn from(guest: GuestId) -> Self {
        Self(guest.bytes())
    }
}

/// From `from` up to but without `to`, seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// What history is asked.
#[derive(Debug)]
pub(crate) enum Request {
    /// The last ten seconds of all series.
    Tick {
        at_s: u64,
        buckets: Vec<(Series, Bucket)>,
    },
    KeepNumbers(Vec<Change>),
    /// All series when none is named; at most about `points` buckets of each.
    Query {
        series: Vec<Series>,
        span: Span,
        points: u64,
        answer: oneshot::Sender<Result<Answer, HistoryError>>,
    },
}

/// The handle of history; dropped, its thread ends.
#[derive(Clone, Debug)]
pub(crate) struct History {
    requests: SyncSender<Request>,
}

impl History {
    /// Opens the file in this folder and starts the thread. Also gives the numbers of vmIndex that are kept there.
    pub(crate) fn start(folder: &Path, limit_bytes: u64) -> Result<(Self, Vec<Kept>), HistoryError> {
        let store = Store::open(&folder.join(FILE), limit_bytes)?;
        let numbers = store.numbers()?;
        let (requests, waiting) = sync_channel(REQUESTS);
        let thread = thread::Builder::new().name("history".into()).spawn(move || serve(store, &waiting));
        thread.map_err(HistoryError::Thread)?;
        Ok((Self { requests }, numbers))
    }

    /// The course of one series. Waits for the thread.
    pub(crate) fn course(&self, past: Past) -> Result<look::History, Failure> {
        let Past { guest, span, until, points } = past;
        let to = until.map_or_else(|| wall_s() + 1, |until| until.0.div_ceil(1_000));
        let span = Span { from: to.saturating_sub(span.0.div_ceil(1_000)), to };
        let series = guest.map_or(Series::HOST, Series::from);
        let (answer, answered) = oneshot::channel();
        let points = u64::from(points.clamp(1, look::MOMENTS));
        let lost = || failure(FailureCode::Busy, "the host is behind with its history; try again later");
        if !self.ask(Request::Query { series: vec![series], span, points, answer }) {
            return Err(lost());
        }
        let answer = answered.blocking_recv().map_err(|_| lost())?;
        let answer = answer.map_err(|error| failure(FailureCode::Internal, crate::told::chain(&error)))?;
        let line = answer.series.get(&series).map(Vec::as_slice).unwrap_or_default();
        let of = match guest {
            Some(_) => Course::Guest(line.iter().map(course::guest).collect()),
            None => Course::Host(line.iter().map(course::host).collect()),
        };
        Ok(look::History { step: Millis(answer.step_s * 1_000), of })
    }

    /// Asks; false when the thread is behind or gone, and the request is lost.
    pub(crate) fn ask(&self, request: Request) -> bool {
        match self.requests.try_send(request) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }
}

fn serve(mut store: Store, requests: &Receiver<Request>) {
    let mut failed = false;
    while let Ok(request) = requests.recv() {
        let result = match request {
            Request::Tick { at_s, buckets } => store.tick(at_s, &buckets),
            Request::KeepNumbers(changes) => store.keep_numbers(&changes),
            Request::Query { series, span, points, answer } => {
                // Whoever asked may have gone.
                let _ = answer.send(store.query(&series, span, points, wall_s()));
                continue;
            }
        };
        // A full disk fails every time; it is told once, and once when it is over.
        match &result {
            Err(error) if !failed => {
                tracing::error!(error = %error, source = ?std::error::Error::source(error), "history")
            }
            Ok(()) if failed => tracing::info!("history is kept again"),
            Ok(()) | Err(_) => {}
        }
        failed = result.is_err();
    }
}

fn wall_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
