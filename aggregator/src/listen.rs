//! The QUIC door: takes calls of machines that join and of hosts that report. Nothing a caller sends ends this loop.

mod image;
mod join;
mod limit;
mod link;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use roost_aggregator_core::event::LinkId;
use roost_protocol::Millis;
use roost_protocol::transport::{CloseCode, Handshake, Listener, Peer, Purpose, TransportError};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::config::Config;
use crate::driver::FromLink;
use crate::handle::Handle;

pub(crate) use join::is_host_name;

/// Machines that join at once; they are unknown until they have shown their token.
const JOINS: usize = 256;
/// Files of images that go out at once.
const IMAGES: usize = 16;
/// Time for links to say good-bye at the end.
const GOOD_BYE: Duration = Duration::from_secs(2);

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    handle: Handle,
    driver: mpsc::Sender<FromLink>,
    clock: Clock,
    attempts: limit::Attempts,
    /// Of host certificates.
    host_lifetime: Millis,
    links: Semaphore,
    joins: Semaphore,
    images: Semaphore,
    image: image::Desk,
    last_link: AtomicU64,
}

impl Shared {
    pub(crate) fn new(handle: Handle, driver: mpsc::Sender<FromLink>, clock: Clock, config: &Config) -> Self {
        let host_lifetime = Millis::seconds(u64::from(config.host_certificate_days) * 24 * 3_600);
        Self {
            handle,
            driver,
            clock,
            attempts: limit::Attempts::new(clock.now()),
            host_lifetime,
            links: Semaphore::new(config.max_links.min(Semaphore::MAX_PERMITS)),
            joins: Semaphore::new(JOINS),
            images: Semaphore::new(IMAGES),
            image: image::Desk::new(config.image_folder()),
            last_link: AtomicU64::new(0),
        }
    }

    fn next_link(&self) -> LinkId {
        LinkId(self.last_link.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// Takes calls until stopped.
pub(crate) async fn run(listener: Arc<Listener>, shared: Arc<Shared>, stop: CancellationToken) {
    let tasks = TaskTracker::new();
    loop {
        let handshake = tokio::select! {
            handshake = listener.accept() => handshake,
            () = stop.cancelled() => None,
        };
        let Some(handshake) = handshake else { break };
        let shared = Arc::clone(&shared);
        tasks.spawn(async move { take(handshake, &shared).await });
    }
    listener.endpoint().close(CloseCode::ShuttingDown.into(), b"the aggregator stops");
    tasks.close();
    if tokio::time::timeout(GOOD_BYE, tasks.wait()).await.is_err() {
        tracing::warn!("some connections did not end in time");
    }
}

async fn take(handshake: Handshake, shared: &Shared) {
    let from = handshake.remote_address();
    let peer = match handshake.finish().await {
        Ok(peer) => peer,
        Err(error) => return tracing::debug!(%from, error = %crate::chain(&error), "handshake failed"),
    };
    if let Err(error) = serve(&peer, shared).await {
        tracing::debug!(%from, error = %crate::chain(&error), "connection ended");
        let code = if error.misbehaved() { CloseCode::Misbehaved } else { CloseCode::Done };
        peer.connection.close(code.into(), crate::chain(&error).as_bytes());
    }
}

async fn serve(peer: &Peer, shared: &Shared) -> Result<(), TransportError> {
    let room = match peer.purpose {
        Purpose::Join => &shared.joins,
        Purpose::Link => &shared.links,
        Purpose::Image => &shared.images,
        // Hosts call each other, not us; our handshake doesn't offer it.
        Purpose::Peer => return Err(TransportError::NoCertificate),
    };
    let Ok(_place) = room.try_acquire() else {
        tracing::warn!(from = %peer.connection.remote_address(), purpose = ?peer.purpose, "no room for a connection");
        peer.connection.close(CloseCode::ShuttingDown.into(), b"no room for more connections; try again later");
        return Ok(());
    };
    match (peer.purpose, &peer.identity) {
        (Purpose::Join, Some(_) | None) => join::serve(peer, shared).await,
        (Purpose::Link, Some(identity)) => link::serve(peer, identity, shared).await,
        (Purpose::Image, Some(identity)) => shared.image.serve(peer, identity.host).await,
        (Purpose::Link | Purpose::Image, None) | (Purpose::Peer, _) => Err(TransportError::NoCertificate),
    }
}

#[cfg(test)]
mod test;
