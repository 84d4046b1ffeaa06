//! Points on other hosts: copies brought there and taken back, and points taken from there to be restored here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use roost_agent_core::{Made, TaskResult};
use roost_protocol::backup::Target;
use roost_protocol::operation::{Failure, FailureCode};
use roost_protocol::peer::No;
use roost_protocol::{GuestId, HostId, PointId};
use roost_store::{Store, StoreError};

use super::{COLLECT, Hands, Points, kept, remove_fetched};
use crate::act::failure;
use crate::peer::{Far, Moved, PeerError, Peers, Watch};
use crate::told::chain;

impl Points {
    fn others(&self) -> Result<&Peers, Failure> {
        let none = || failure(FailureCode::Unsupported, "this agent has no way to other hosts: see its log");
        self.peers.as_ref().ok_or_else(none)
    }

    pub(super) fn bring(&self, point: PointId, to: HostId, bandwidth: Option<u64>, hands: &Hands<'_>) -> TaskResult {
        let wanted = || !hands.unwanted.load(Ordering::Relaxed);
        let moved = |bytes: u64| (hands.tell)(0, &format!("{} MiB copied", bytes >> 20));
        let watch = Watch { wanted: &wanted, moved: &moved };
        let Moved { chunks, bytes } =
            self.others()?.bring(&self.store, point, to, bandwidth, &watch).map_err(|why| told(&why))?;
        tracing::info!(%point, %to, chunks, bytes, "a point is kept by another host");
        self.shipped(point, Target::Peer { host: to })
    }

    pub(super) fn take_back(&self, at: HostId, points: &[PointId], hands: &Hands<'_>) -> TaskResult {
        let wanted = || !hands.unwanted.load(Ordering::Relaxed);
        let watch = Watch { wanted: &wanted, moved: &|_| {} };
        let removed = self.others()?.remove(at, points, &watch).map_err(|why| told(&why))?;
        Ok(Made::Pruned { removed, freed: 0 })
    }

    /// Has the point in this host's store until it is given back; said again for the same guest it is one loan.
    pub(super) fn borrow(
        &self,
        guest: GuestId,
        point: PointId,
        from: HostId,
        hands: &Hands<'_>,
    ) -> Result<(), Failure> {
        if !self.borrowed.begin(&self.store, point, guest) {
            return Ok(());
        }
        let wanted = || !hands.unwanted.load(Ordering::Relaxed);
        // How much is to come is seen only on the way, so there is no percentage.
        let moved = |bytes: u64| (hands.tell)(0, &format!("{} MiB brought from the other host", bytes >> 20));
        let watch = Watch { wanted: &wanted, moved: &moved };
        match self.others().and_then(|others| others.take(&self.store, point, from, &watch).map_err(|why| told(&why))) {
            Ok(Moved { chunks, bytes }) => {
                tracing::info!(%point, %from, chunks, bytes, "a point was taken from another host");
                Ok(())
            }
            Err(why) => {
                self.give_back(guest, point);
                Err(why)
            }
        }
    }

    /// A point of another host, to be read there.
    pub(super) fn far(&self, point: PointId, from: HostId, hands: &Hands<'_>) -> Result<Arc<Far>, Failure> {
        let wanted = || !hands.unwanted.load(Ordering::Relaxed);
        let moved = |bytes: u64| (hands.tell)(0, &format!("{} KiB of the disks' maps brought", bytes >> 10));
        let watch = Watch { wanted: &wanted, moved: &moved };
        let far = self.others()?.far(&self.store, point, from, &watch).map_err(|why| told(&why))?;
        Ok(Arc::new(far))
    }

    /// One who borrowed a point needs it no more; after the last it goes, unless it was here before.
    pub(super) fn give_back(&self, guest: GuestId, point: PointId) {
        remove_fetched(&self.fetched(guest));
        if !self.borrowed.end(point, guest) {
            return;
        }
        let removed = match self.store.remove(point) {
            Err(StoreError::UnknownPoint(_)) => Ok(()),
            other => other.and_then(|()| self.store.collect(COLLECT).map(drop)),
        };
        if let Err(error) = removed {
            tracing::warn!(%point, why = chain(&error), "a point that was only borrowed stays");
        }
    }
}

/// Points that are in the store only because guests are restored from them, and which. Forgotten when the agent ends: the
/// point is one more copy then, seen in lists.
#[derive(Debug, Default)]
pub(super) struct Borrowed {
    loans: Mutex<BTreeMap<PointId, BTreeSet<GuestId>>>,
}

impl Borrowed {
    fn loans(&self) -> std::sync::MutexGuard<'_, BTreeMap<PointId, BTreeSet<GuestId>>> {
        self.loans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False for a point that is the store's own.
    fn begin(&self, store: &Store, point: PointId, guest: GuestId) -> bool {
        let mut loans = self.loans();
        if !loans.contains_key(&point) && store.manifest(point).is_ok() {
            return false;
        }
        loans.entry(point).or_default().insert(guest);
        true
    }

    /// True after the last one.
    fn end(&self, point: PointId, guest: GuestId) -> bool {
        let mut loans = self.loans();
        let Some(guests) = loans.get_mut(&point) else { return false };
        guests.remove(&guest);
        let last = guests.is_empty();
        if last {
            loans.remove(&point);
        }
        last
    }
}

/// The "no" of another host, or on the way to it, in the words that travel.
fn told(error: &PeerError) -> Failure {
    let code = match error {
        PeerError::Store { tried, source } => {
            let Failure { code, text } = kept::store_failure(source);
            return failure(code, format!("{tried}: {text}"));
        }
        PeerError::Cancelled => FailureCode::Cancelled,
        PeerError::Lied { .. } => FailureCode::Damaged,
        PeerError::Refused { reason, .. } => match reason {
            No::NoRoom => FailureCode::NoSpace,
            No::NotThere => FailureCode::NotFound,
            No::Damaged => FailureCode::Damaged,
            No::Busy => FailureCode::Busy,
            No::Version | No::Stranger | No::CutOff | No::NotShared | No::Misbehaved | No::Failed => {
                FailureCode::TargetAway
            }
        },
        PeerError::NotJoined | PeerError::Unknown(_) | PeerError::Away { .. } | PeerError::Lost { .. } => {
            FailureCode::TargetAway
        }
    };
    failure(code, chain(error))
}
