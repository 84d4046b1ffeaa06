//! What admins and programs reach over HTTPS: REST, XML-RPC, events, health and metrics, all from the registry's table.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::routing::{get, post};
use roost_protocol::{Stamp, Time};
use tokio::sync::Semaphore;
use tokio::sync::broadcast::error::RecvError;
use tower_http::compression::CompressionLayer;

use crate::auth::Auth;
use crate::clock;
use crate::handle::Handle;
use crate::notify::Courier;

mod around;
pub(crate) mod cbe;
mod csv;
mod dispatch;
mod escape;
mod heads;
mod health;
mod html;
mod input;
mod iqy;
mod metrics;
mod names;
mod ops;
mod page;
mod problem;
mod replay;
mod rest;
mod server;
mod stream;
mod suggest;
mod version;
mod view;
mod xmlrpc;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod test;

pub(crate) use names::Names;
pub(crate) use server::{Serving, serve};

/// Largest body of a request.
const BODY: usize = 1 << 20;

/// The monotonic clock.
type Clock = Arc<dyn Fn() -> Time + Send + Sync>;

/// What every request needs.
pub(crate) struct Api {
    handle: Handle,
    auth: Auth,
    now: Clock,
    names: Names,
    /// For notifications that are tried.
    courier: Arc<Courier>,
    started: Stamp,
    streams: Arc<Semaphore>,
    replays: replay::Replays,
    events: AtomicU64,
    requests: AtomicU64,
    /// Before the number in request ids, so that ids of different starts differ.
    run: u32,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("handle", &self.handle).finish_non_exhaustive()
    }
}

/// The address a request came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) IpAddr);

impl Peer {
    fn of(extensions: &axum::http::Extensions) -> IpAddr {
        extensions.get::<Peer>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0)
    }
}

impl Api {
    /// `names`: what callers may call this machine by. `now` is the monotonic clock that log-in limits and sessions go by.
    pub(crate) fn new(
        handle: Handle,
        names: Names,
        courier: Arc<Courier>,
        now: impl Fn() -> Time + Send + Sync + 'static,
    ) -> Arc<Self> {
        let run = crate::auth::random::<4>().map_or(0, u32::from_be_bytes);
        let api = Arc::new(Self {
            auth: Auth::new(handle.clone()),
            handle,
            now: Arc::new(now),
            names,
            courier,
            started: clock::wall(),
            replays: replay::Replays::default(),
            streams: Arc::new(Semaphore::new(stream::STREAMS)),
            events: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            run,
        });
        tokio::spawn(count_events(Arc::downgrade(&api), api.handle.subscribe()));
        api
    }

    fn request_id(&self) -> String {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        format!("{:08x}-{number:x}", self.run)
    }
}

async fn count_events<T>(api: std::sync::Weak<Api>, mut events: tokio::sync::broadcast::Receiver<T>)
where
    T: Clone,
{
    loop {
        let more = match events.recv().await {
            Ok(_) => 1,
            Err(RecvError::Lagged(missed)) => missed,
            Err(RecvError::Closed) => return,
        };
        let Some(api) = api.upgrade() else { return };
        api.events.fetch_add(more, Ordering::Relaxed);
    }
}

/// All routes.
pub(crate) fn router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/api", get(health::versions))
        .route("/api/v1/openapi.json", get(health::openapi))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(metrics::metrics))
        .route("/RPC2", post(xmlrpc::answer))
        .fallback(rest::answer)
        .method_not_allowed_fallback(rest::method_not_allowed)
        .layer(CompressionLayer::new())
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&api), around::around))
        .with_state(api)
}
