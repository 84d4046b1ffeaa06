//! A set of points in memory, with faults on demand.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use roost_protocol::PointId;
use roost_protocol::operation::{Failure, FailureCode};

use crate::act::backup::MARK;
use crate::act::backup::sink::{DiskSink, Facts, Set, Sink};
use crate::act::failure;

/// What a target does to those that write to it.
#[derive(Clone, Debug, Default)]
pub(crate) enum Fault {
    #[default]
    None,
    /// Is full after so many bytes.
    Full(u64),
    /// Hangs after so many bytes until the file is there, and says so by another file.
    Hang { after: u64, hanging: PathBuf, release: PathBuf },
}

#[derive(Clone, Debug)]
pub(crate) struct Point {
    pub(crate) id: PointId,
    pub(crate) parent: Option<PointId>,
    pub(crate) disks: BTreeMap<String, Vec<u8>>,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    pub(crate) facts: Facts,
    /// Bytes that were handed over.
    pub(crate) read: u64,
}

#[derive(Debug, Default)]
struct Shared {
    points: Mutex<Vec<Point>>,
    fault: Mutex<Fault>,
    written: AtomicU64,
}

/// The set.
#[derive(Debug, Default)]
pub(crate) struct Memory(Arc<Shared>);

impl Memory {
    pub(crate) fn faulty(fault: Fault) -> Self {
        let memory = Self::default();
        memory.set(fault);
        memory
    }

    pub(crate) fn set(&self, fault: Fault) {
        *self.0.fault.lock().unwrap() = fault;
        self.0.written.store(0, Ordering::SeqCst);
    }

    pub(crate) fn points(&self) -> Vec<Point> {
        self.0.points.lock().unwrap().clone()
    }

    pub(crate) fn last(&self) -> Point {
        self.points().pop().unwrap()
    }
}

impl Set for Memory {
    fn marks(&self) -> Result<Vec<(PointId, String)>, Failure> {
        let marked = |point: &Point| Some((point.id, String::from_utf8(point.files.get(MARK)?.clone()).unwrap()));
        Ok(self.points().iter().rev().filter_map(marked).collect())
    }

    fn newest(&self) -> Option<PointId> {
        self.points().last().map(|point| point.id)
    }

    fn draft(&self, parent: Option<PointId>) -> Result<Box<dyn Sink>, Failure> {
        let base = self.points().into_iter().find(|point| Some(point.id) == parent).map(|point| point.disks);
        let (base, disks, files) = (base.unwrap_or_default(), Arc::default(), BTreeMap::new());
        Ok(Box::new(Draft { shared: self.0.clone(), parent, base, disks, files, read: Arc::default() }))
    }
}

struct Draft {
    shared: Arc<Shared>,
    parent: Option<PointId>,
    base: BTreeMap<String, Vec<u8>>,
    disks: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    files: BTreeMap<String, Vec<u8>>,
    read: Arc<AtomicU64>,
}

impl Sink for Draft {
    fn disk(&mut self, name: &str, size: u64) -> Result<Box<dyn DiskSink>, Failure> {
        let mut bytes = self.base.get(name).cloned().unwrap_or_default();
        bytes.resize(usize::try_from(size).unwrap(), 0);
        let (shared, disks, read) = (self.shared.clone(), self.disks.clone(), self.read.clone());
        Ok(Box::new(Disk { shared, disks, read, name: name.into(), bytes }))
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        assert!(self.files.insert(name.into(), bytes.to_vec()).is_none(), "{name} twice");
        Ok(())
    }

    fn finish(self: Box<Self>, facts: Facts) -> Result<PointId, Failure> {
        let mut points = self.shared.points.lock().unwrap();
        let id = PointId::from_u128(u128::try_from(points.len()).unwrap() + 1);
        let disks = std::mem::take(&mut *self.disks.lock().unwrap());
        let read = self.read.load(Ordering::SeqCst);
        points.push(Point { id, parent: self.parent, disks, files: self.files, facts, read });
        Ok(id)
    }
}

struct Disk {
    shared: Arc<Shared>,
    disks: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    read: Arc<AtomicU64>,
    name: String,
    bytes: Vec<u8>,
}

impl DiskSink for Disk {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Failure> {
        let length = u64::try_from(bytes.len()).unwrap();
        assert!(
            offset.is_multiple_of(4_096)
                && (length.is_multiple_of(4_096) || offset + length == self.bytes.len() as u64)
        );
        let written = self.shared.written.fetch_add(length, Ordering::SeqCst);
        self.read.fetch_add(length, Ordering::SeqCst);
        let fault = self.shared.fault.lock().unwrap().clone();
        match fault {
            Fault::None => {}
            Fault::Full(limit) if written > limit => return Err(failure(FailureCode::NoSpace, "the store is full")),
            Fault::Hang { after, hanging, release } if written >= after => {
                std::fs::File::create(hanging).unwrap().write_all(b"x").unwrap();
                while !release.exists() {
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            Fault::Full(_) | Fault::Hang { .. } => {}
        }
        let at = usize::try_from(offset).unwrap();
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn zero(&mut self, offset: u64, length: u64) -> Result<(), Failure> {
        let (at, length) = (usize::try_from(offset).unwrap(), usize::try_from(length).unwrap());
        self.bytes[at..at + length].fill(0);
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<(), Failure> {
        self.disks.lock().unwrap().insert(self.name.clone(), self.bytes);
        Ok(())
    }
}
