//! Where a point is read from.

use std::io;
use std::sync::Arc;

use roost_protocol::PointId;
use roost_protocol::operation::Failure;
use roost_store::{DiskReader, Store, StoreError};

use crate::act::backup::kept::store_failure;
use crate::act::nbd::server::Image;
use crate::peer::{Asks, Far};
use crate::told::chain;

/// Whoever reads more than this at a time copies the disk: what comes next is fetched with it.
const MUCH: usize = 128 << 10;
/// What is fetched at a time then: as much as one node of a disk's map tells of.
const AHEAD: u64 = 4 << 20;
/// How often a read is begun again because what was just fetched had to make room for what others read.
const TRIES: usize = 8;

/// One point.
pub(crate) trait Origin {
    /// Names of its small files.
    fn files(&self) -> Vec<String>;
    fn file(&self, name: &str) -> Result<Vec<u8>, Failure>;
    fn disk(&self, target: &str) -> Result<Arc<dyn Image>, Failure>;
}

/// A point in a store of this host.
#[derive(Debug)]
pub(crate) struct FromStore {
    pub(crate) store: Store,
    pub(crate) point: PointId,
}

impl Origin for FromStore {
    fn files(&self) -> Vec<String> {
        let manifest = self.store.manifest(self.point);
        manifest.map(|it| it.point.files.iter().map(|file| file.name.clone()).collect()).unwrap_or_default()
    }

    fn file(&self, name: &str) -> Result<Vec<u8>, Failure> {
        self.store.file(self.point, name).map_err(|error| store_failure(&error))
    }

    fn disk(&self, target: &str) -> Result<Arc<dyn Image>, Failure> {
        let reader = self.store.disk(self.point, target).map_err(|error| store_failure(&error))?;
        let data = data(&reader)?;
        Ok(Arc::new(Stored { reader, data }))
    }
}

/// A point on another host: only its maps are here.
#[derive(Debug)]
pub(crate) struct FromAfar(pub(crate) Arc<Far>);

impl Origin for FromAfar {
    fn files(&self) -> Vec<String> {
        self.0.partial().manifest().point.files.iter().map(|file| file.name.clone()).collect()
    }

    fn file(&self, name: &str) -> Result<Vec<u8>, Failure> {
        self.0.partial().file(name).map_err(|error| store_failure(&error))
    }

    fn disk(&self, target: &str) -> Result<Arc<dyn Image>, Failure> {
        let reader = self.0.partial().disk(target).map_err(|error| store_failure(&error))?;
        let data = data(&reader)?;
        Ok(Arc::new(Afar { far: self.0.clone(), reader, data }))
    }
}

fn data(reader: &DiskReader) -> Result<Vec<(u64, u64)>, Failure> {
    let ranges = reader.data_ranges().map_err(|error| store_failure(&error))?;
    Ok(ranges.into_iter().map(|range| (range.start, range.end - range.start)).collect())
}

/// A disk in the store. Every byte that comes out of it was checked.
struct Stored {
    reader: DiskReader,
    data: Vec<(u64, u64)>,
}

impl Image for Stored {
    fn size(&self) -> u64 {
        self.reader.size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.reader.read_at(offset, buffer).map_err(|error| io::Error::other(error.to_string()))
    }

    fn holds(&self, offset: u64, bytes: &[u8]) -> io::Result<bool> {
        self.reader.holds(offset, bytes).map_err(|error| io::Error::other(error.to_string()))
    }

    fn data(&self) -> Vec<(u64, u64)> {
        self.data.clone()
    }
}

/// A disk on another host; what is in this host's store already doesn't travel.
struct Afar {
    far: Arc<Far>,
    reader: DiskReader,
    data: Vec<(u64, u64)>,
}

impl Afar {
    /// Reads inside one stretch of [`AHEAD`].
    fn read(&self, offset: u64, buffer: &mut [u8], asks: Asks) -> io::Result<()> {
        let (from, length) = match asks {
            Asks::Much => (offset / AHEAD * AHEAD, AHEAD),
            Asks::Little => (offset, buffer.len() as u64),
        };
        let broken = |error: &StoreError| io::Error::other(chain(error));
        let mut lacking = self.reader.lacks(from, length).map_err(|error| broken(&error))?;
        for _ in 0..TRIES {
            if !lacking.is_empty() {
                self.far.lend(asks, &self.reader, &lacking).map_err(|error| io::Error::other(chain(&error)))?;
            }
            lacking = match self.reader.read_at(offset, buffer) {
                Ok(()) => return Ok(()),
                Err(StoreError::Missing(id)) => vec![id],
                // A damaged one counts as not here from now on.
                Err(error) if error.is_damage() => {
                    self.reader.lacks(offset, buffer.len() as u64).map_err(|error| broken(&error))?
                }
                Err(error) => return Err(broken(&error)),
            };
        }
        Err(io::Error::other("too much of the disk is read at once"))
    }
}

impl Image for Afar {
    fn size(&self) -> u64 {
        self.reader.size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let asks = if buffer.len() > MUCH { Asks::Much } else { Asks::Little };
        let (mut at, mut rest) = (offset, buffer);
        while !rest.is_empty() {
            let inside = usize::try_from(AHEAD - at % AHEAD).map_or(rest.len(), |inside| inside.min(rest.len()));
            let (now, later) = rest.split_at_mut(inside);
            self.read(at, now, asks)?;
            at += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    fn data(&self) -> Vec<(u64, u64)> {
        self.data.clone()
    }
}
