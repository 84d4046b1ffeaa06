//! Events as they happen: server-sent events that can be resumed, and that cut off whoever does not read.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use roost_aggregator_core::event::GridEvent;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::{Instant, sleep_until};

use super::ops::event::trimmed;
use super::page::show_all;
use super::problem::Problem;
use super::{Api, Clock};
use crate::auth::{Caller, Pass};
use crate::handle::Handle;

/// Streams at once; each holds a connection.
pub(super) const STREAMS: usize = 500;
/// Kept events fetched at a time.
const FETCH: usize = 500;
/// A comment this often keeps proxies from cutting the connection.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// How often it is looked whether the caller may still listen: what was taken back is without effect a second later.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// One listener.
pub(crate) struct Follow {
    handle: Handle,
    pass: Pass,
    now: Clock,
    /// When it was looked whether the caller may listen.
    looked: Instant,
    live: broadcast::Receiver<Arc<GridEvent>>,
    waiting: VecDeque<Arc<GridEvent>>,
    /// The last one seen; absent: whatever comes next.
    last: Option<u64>,
    /// Kept events may be left to fetch.
    behind: bool,
    kind: String,
    _turn: OwnedSemaphorePermit,
}

impl std::fmt::Debug for Follow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follow").field("pass", &self.pass).field("last", &self.last).finish_non_exhaustive()
    }
}

impl Follow {
    /// Begins after `since`, or with what comes next.
    pub(super) async fn begin(api: &Api, caller: &Caller, since: Option<u64>, kind: String) -> Result<Self, Problem> {
        let turn = Arc::clone(&api.streams).try_acquire_owned();
        let turn = turn
            .map_err(|_| Problem::new("busy", format!("{STREAMS} event streams are open already.")).retry_after(10))?;
        // Listening begins before the kept events are read, so that none is missed in between.
        let live = api.handle.subscribe();
        let mut follow = Self {
            handle: api.handle.clone(),
            pass: api.auth.pass(caller),
            now: Arc::clone(&api.now),
            looked: Instant::now(),
            live,
            waiting: VecDeque::new(),
            last: since,
            behind: since.is_some(),
            kind,
            _turn: turn,
        };
        if follow.behind && !follow.fetch().await {
            return Err(trimmed());
        }
        Ok(follow)
    }

    /// Next kept events; false: some were trimmed, or the driver is away.
    async fn fetch(&mut self) -> bool {
        let last = self.last.unwrap_or(0);
        match self.handle.read(move |grid, _, _| grid.events_after(last, FETCH)).await {
            Ok(Some(events)) => {
                self.behind = events.len() == FETCH;
                self.last = events.last().map_or(self.last, |event| Some(event.sequence));
                self.waiting.extend(events.into_iter().map(Arc::new));
                true
            }
            Ok(None) | Err(_) => false,
        }
    }

    /// The next event of the wanted kind; none: the listener may not listen any more or is too slow, or the aggregator
    /// stops.
    async fn next(&mut self) -> Option<Arc<GridEvent>> {
        loop {
            if self.looked.elapsed() >= LOOK_EVERY {
                self.looked = Instant::now();
                if !self.pass.holds((self.now)()).await {
                    return None;
                }
            }
            if let Some(event) = self.waiting.pop_front() {
                if event.kind.starts_with(&self.kind) {
                    return Some(event);
                }
                continue;
            }
            if self.behind {
                if !self.fetch().await {
                    return None;
                }
                continue;
            }
            let received = tokio::select! {
                received = self.live.recv() => received,
                () = sleep_until(self.looked + LOOK_EVERY) => continue,
            };
            match received {
                Ok(event) if self.last.is_some_and(|last| event.sequence <= last) => {}
                Ok(event) => {
                    self.last = Some(event.sequence);
                    self.waiting.push_back(event);
                }
                // It comes back with Last-Event-ID and gets what it missed from the kept ones.
                Err(RecvError::Lagged(_) | RecvError::Closed) => return None,
            }
        }
    }

    /// As a response that goes on.
    pub(super) fn response(self) -> Response {
        let events = stream::unfold(self, |mut follow| async {
            let event = follow.next().await?;
            Some((Ok::<_, Infallible>(sent(&event)), follow))
        });
        Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT)).into_response()
    }
}

fn sent(event: &GridEvent) -> Event {
    // JSON has no line breaks in it. The kind stands in the data: browsers would need a listener for each event name.
    Event::default().id(event.sequence.to_string()).data(show_all(&event).to_string())
}
