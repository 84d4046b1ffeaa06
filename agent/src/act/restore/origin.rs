//! Where a point is read from.

use std::io;
use std::sync::Arc;

use roost_protocol::PointId;
use roost_protocol::operation::Failure;
use roost_store::{DiskReader, Store};

use crate::act::backup::kept::store_failure;
use crate::act::nbd::server::Image;

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
        let data = reader.data_ranges().map_err(|error| store_failure(&error))?;
        let data = data.into_iter().map(|range| (range.start, range.end - range.start)).collect();
        Ok(Arc::new(Stored { reader, data }))
    }
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
