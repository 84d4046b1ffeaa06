//! The host's chunk store as the place where a guest's points go.

use roost_protocol::backup::Why;
use roost_protocol::operation::{Failure, FailureCode};
use roost_protocol::{GuestId, HostId, PointId};
use roost_store::{DiskWriter, Draft, Meta, Store, StoreError};

use super::sink::{DiskSink, Facts, Set, Sink};
use super::{MARK, wall};
use crate::act::failure;

/// Longest name of a checkpoint that is believed.
const MARK_BYTES: usize = 64;

/// What a point says of who made it, and why.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origin {
    pub(crate) host: Option<HostId>,
    pub(crate) name: String,
    pub(crate) why: Why,
    /// The caller's words.
    pub(crate) label: String,
}

/// The points of one guest in the store.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) store: Store,
    pub(crate) guest: GuestId,
    pub(crate) origin: Origin,
}

/// The store's "no" in the words that travel.
pub(crate) fn store_failure(error: &StoreError) -> Failure {
    let code = match error {
        StoreError::Full { .. } => FailureCode::NoSpace,
        StoreError::UnknownPoint(_) | StoreError::UnknownName { .. } => FailureCode::NotFound,
        StoreError::Damaged { .. } | StoreError::Missing(_) => FailureCode::Damaged,
        StoreError::Busy { .. } => FailureCode::Busy,
        StoreError::NoKey { .. } | StoreError::Refused(_) | StoreError::NotAStore { .. } | StoreError::Lie(_) => {
            FailureCode::Invalid
        }
        StoreError::Io { .. } | StoreError::Poisoned | StoreError::Worker(_) => FailureCode::Internal,
    };
    let source = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    failure(code, format!("{error}{source}"))
}

impl Kept {
    /// The guest's points, newest first.
    fn points(&self) -> Vec<PointId> {
        let mut own: Vec<_> = self.store.points().into_iter().filter(|point| point.guest == self.guest).collect();
        own.sort_by_key(|point| (point.meta.finished, point.meta.started));
        own.into_iter().rev().map(|point| point.point).collect()
    }
}

impl Set for Kept {
    fn marks(&self) -> Result<Vec<(PointId, String)>, Failure> {
        let mark = |point: PointId| {
            let known = self.store.manifest(point).ok()?;
            let small = known.file(MARK)?.size_bytes <= u64::try_from(MARK_BYTES).unwrap_or(0);
            // A damaged one is no mark: all is read then.
            let bytes = if small { self.store.file(point, MARK).ok()? } else { return None };
            Some((point, String::from_utf8(bytes).ok()?))
        };
        Ok(self.points().into_iter().filter_map(mark).collect())
    }

    fn newest(&self) -> Option<PointId> {
        self.points().into_iter().next()
    }

    fn draft(&self, parent: Option<PointId>) -> Result<Box<dyn Sink>, Failure> {
        let draft = self.store.draft(self.guest, parent).map_err(|error| store_failure(&error))?;
        Ok(Box::new(Drafted { draft, origin: self.origin.clone() }))
    }
}

struct Drafted {
    draft: Draft,
    origin: Origin,
}

impl Sink for Drafted {
    fn disk(&mut self, name: &str, size: u64) -> Result<Box<dyn DiskSink>, Failure> {
        let writer = self.draft.disk(name, size).map_err(|error| store_failure(&error))?;
        Ok(Box::new(Writer(writer)))
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        self.draft.file(name, bytes).map_err(|error| store_failure(&error))
    }

    fn finish(self: Box<Self>, facts: Facts) -> Result<PointId, Failure> {
        let Origin { host, name, why, label } = self.origin;
        let note = [label, facts.note].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ");
        let meta = Meta {
            started: facts.moment,
            finished: wall(),
            guest_name: facts.guest_name,
            origin_host: host,
            origin_name: name,
            why,
            consistency: facts.consistency,
            note,
        };
        self.draft.finish(meta).map_err(|error| store_failure(&error))
    }
}

struct Writer(DiskWriter);

impl DiskSink for Writer {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Failure> {
        self.0.write(offset, bytes).map_err(|error| store_failure(&error))
    }

    fn zero(&mut self, offset: u64, length: u64) -> Result<(), Failure> {
        self.0.zero(offset..offset + length).map_err(|error| store_failure(&error))
    }

    fn close(self: Box<Self>) -> Result<(), Failure> {
        self.0.close().map_err(|error| store_failure(&error))
    }
}
