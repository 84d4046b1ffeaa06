//! The backup's doors ([`crate::act::backup::sink`]) onto the chunk store.

use std::time::{SystemTime, UNIX_EPOCH};

use roost_agent_core::event::BackupOrder;
use roost_protocol::backup::{BackupSummary, SENTENCE};
use roost_protocol::operation::Failure;
use roost_protocol::{GuestId, HostId, PointId, Stamp};
use roost_store::{DiskWriter, Draft, Meta, Store, Summary};

use super::pace::Pace;
use super::store_failure;
use crate::act::backup::MARK;
use crate::act::backup::sink::{DiskSink, Facts, Set, Sink};

/// Points whose marks are read; older checkpoints are gone from guests anyway.
const MARKS: usize = 16;

/// One guest's points, and how the next one is wished.
pub(super) struct StoreSet<'a> {
    pub(super) store: &'a Store,
    pub(super) guest: GuestId,
    pub(super) host: HostId,
    pub(super) host_name: &'a str,
    pub(super) order: &'a BackupOrder,
}

impl StoreSet<'_> {
    fn newest_first(&self) -> Vec<Summary> {
        let mut points: Vec<Summary> =
            self.store.points().into_iter().filter(|point| point.guest == self.guest).collect();
        points.sort_by_key(|point| std::cmp::Reverse((point.meta.started, point.point)));
        points
    }
}

impl Set for StoreSet<'_> {
    fn marks(&self) -> Result<Vec<(PointId, String)>, Failure> {
        let newest = self.newest_first().into_iter().take(MARKS);
        let mark = |point: Summary| {
            // Points without a mark, and marks that are damaged, are no parents by their mark.
            let bytes = self.store.file(point.point, MARK).ok()?;
            Some((point.point, String::from_utf8(bytes).ok()?))
        };
        Ok(newest.filter_map(mark).collect())
    }

    fn newest(&self) -> Option<PointId> {
        self.newest_first().first().map(|point| point.point)
    }

    fn draft(&self, parent: Option<PointId>) -> Result<Box<dyn Sink>, Failure> {
        let draft = self.store.draft(self.guest, parent);
        let draft = draft.map_err(|error| store_failure("begin a point", &error))?;
        let meta = Meta {
            origin_host: Some(self.host),
            origin_name: self.host_name.to_owned(),
            why: self.order.why,
            note: self.order.note.clone(),
            ..Meta::default()
        };
        Ok(Box::new(StoreSink { draft, meta, bandwidth: self.order.bandwidth }))
    }
}

struct StoreSink {
    draft: Draft,
    meta: Meta,
    bandwidth: Option<u64>,
}

impl Sink for StoreSink {
    fn disk(&mut self, name: &str, size: u64) -> Result<Box<dyn DiskSink>, Failure> {
        let writer = self.draft.disk(name, size).map_err(|error| store_failure("begin a disk", &error))?;
        Ok(Box::new(StoreDisk { writer, pace: Pace::new(self.bandwidth) }))
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        self.draft.file(name, bytes).map_err(|error| store_failure("keep a file of the guest", &error))
    }

    fn finish(self: Box<Self>, facts: Facts) -> Result<PointId, Failure> {
        let mut note = [self.meta.note.as_str(), facts.note.as_str()]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join("; ");
        note.truncate(note.floor_char_boundary(SENTENCE));
        let meta = Meta {
            started: facts.moment,
            finished: now(),
            guest_name: facts.guest_name,
            consistency: facts.consistency,
            note,
            ..self.meta
        };
        self.draft.finish(meta).map_err(|error| store_failure("make the point durable", &error))
    }
}

struct StoreDisk {
    writer: DiskWriter,
    pace: Pace,
}

impl DiskSink for StoreDisk {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Failure> {
        self.pace.passed(bytes.len());
        self.writer.write(offset, bytes).map_err(|error| store_failure("store a part of a disk", &error))
    }

    fn zero(&mut self, offset: u64, length: u64) -> Result<(), Failure> {
        let range = offset..offset.saturating_add(length);
        self.writer.zero(range).map_err(|error| store_failure("store a hole of a disk", &error))
    }

    fn close(self: Box<Self>) -> Result<(), Failure> {
        self.writer.close().map_err(|error| store_failure("end a disk", &error))
    }
}

fn now() -> Stamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Stamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A point as the core and lists know it. `here`: the origin of points that don't say.
pub(super) fn told(summary: &Summary, here: HostId) -> BackupSummary {
    let mut guest_name = summary.meta.guest_name.clone();
    guest_name.truncate(guest_name.floor_char_boundary(SENTENCE));
    let mut note = summary.meta.note.clone();
    note.truncate(note.floor_char_boundary(SENTENCE));
    BackupSummary {
        point: summary.point,
        guest: summary.guest,
        guest_name,
        origin: summary.meta.origin_host.unwrap_or(here),
        started: summary.meta.started,
        finished: summary.meta.finished,
        why: summary.meta.why,
        consistency: summary.meta.consistency,
        parent: summary.parent,
        size: summary.size_bytes,
        read: summary.read_bytes,
        stored: summary.stored_bytes,
        pinned: summary.pinned,
        proof: summary.proof.clone(),
        copies: Vec::new(),
        damaged: None,
        note,
    }
}
