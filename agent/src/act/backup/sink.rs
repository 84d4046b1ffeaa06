//! Where a backup's bytes go: the doors to the store, so that what reads a guest does not know what keeps it.

use roost_protocol::backup::Consistency;
use roost_protocol::operation::Failure;
use roost_protocol::{PointId, Stamp};

/// The points of one guest.
pub(crate) trait Set {
    /// Points that carry the name of the checkpoint they were made at, newest first.
    fn marks(&self) -> Result<Vec<(PointId, String)>, Failure>;
    /// The newest whole point.
    fn newest(&self) -> Option<PointId>;
    /// Begins a point. What is not written to it is as in the parent, or zeroes.
    fn draft(&self, parent: Option<PointId>) -> Result<Box<dyn Sink>, Failure>;
}

/// A point in the making; dropped, it leaves nothing.
pub(crate) trait Sink {
    /// One disk.
    fn disk(&mut self, name: &str, size: u64) -> Result<Box<dyn DiskSink>, Failure>;
    /// One small file.
    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), Failure>;
    /// Makes it a point, durably.
    fn finish(self: Box<Self>, facts: Facts) -> Result<PointId, Failure>;
}

/// One disk of a point in the making. Offsets are multiples of 4 KiB, lengths too but for the disk's end.
pub(crate) trait DiskSink {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Failure>;
    fn zero(&mut self, offset: u64, length: u64) -> Result<(), Failure>;
    fn close(self: Box<Self>) -> Result<(), Failure>;
}

/// What is known of a point once all is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The moment it shows.
    pub(crate) moment: Stamp,
    pub(crate) guest_name: String,
    pub(crate) consistency: Consistency,
    /// What was unusual, for people.
    pub(crate) note: String,
}
