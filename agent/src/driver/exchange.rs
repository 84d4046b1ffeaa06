//! Starts what exchanging points with other hosts needs: who this host is to them, who they are to it, and the listener.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use roost_agent_core::Event;
use tokio::sync::{mpsc, watch};

use crate::act::points::Points;
use crate::config::Config;
use crate::peer::{Badge, Keeper, Known, Listen, Peers};
use crate::report::identity::{Store, StoreError};
use crate::told::chain;

/// How soon it is noticed that `roost-agent join`, a process of its own, had this host join, also another grid.
const LOOK: Duration = Duration::from_secs(2);

/// Gives `points` the way to other hosts, and these the way here. What comes back takes in who they are.
pub(crate) fn start(
    config: &Config,
    identity: &Store,
    kept: Known,
    points: Option<&mut Points>,
    events: &mpsc::Sender<Event>,
) -> anyhow::Result<watch::Sender<Known>> {
    let (known, knowing) = watch::channel(kept);
    let Some(points) = points else { return Ok(known) };
    let (badge, badges) = watch::channel(None);
    tokio::spawn(show(identity.clone(), badge));
    let peers = Peers::new(badges.clone(), knowing.clone(), events.clone()).context("open a socket for other hosts")?;
    points.peers = Some(peers);
    if let Some(address) = config.peer_address() {
        let keeper = Keeper::new(points.store.clone(), config.backups(), events.clone());
        tokio::spawn(Listen { address, keeper, badge: badges, known: knowing, events: events.clone() }.run());
    }
    Ok(known)
}

/// Reads who this host is, at once when this program keeps it and soon when another one does, until nobody wants to know.
async fn show(identity: Store, badge: watch::Sender<Option<Arc<Badge>>>) {
    let (mut kept, mut shown) = (identity.kept(), None);
    let mut failed = String::new();
    loop {
        match identity.membership() {
            Ok(membership) if membership == shown => {}
            Ok(membership) => match membership.as_ref().map(|membership| read(&identity, membership)).transpose() {
                Ok(read) => {
                    badge.send_replace(read.map(Arc::new));
                    shown = membership;
                    failed.clear();
                }
                Err(error) => tell(&mut failed, &error),
            },
            Err(error) => tell(&mut failed, &error),
        }
        tokio::select! {
            Ok(()) = kept.changed() => {}
            () = tokio::time::sleep(LOOK) => {}
            () = badge.closed() => return,
        }
    }
}

fn read(identity: &Store, membership: &crate::report::identity::Membership) -> Result<Badge, StoreError> {
    let pin = membership.grid_public()?.fingerprint();
    Ok(Badge { host: membership.host, ca: membership.ca.clone(), pin, identity: identity.identity(membership)? })
}

/// Once for each reason.
fn tell(before: &mut String, error: &StoreError) {
    let why = chain(error);
    if *before != why {
        tracing::error!(why, "other hosts can't be talked to");
        *before = why;
    }
}
