//! A point that is read before its data is here: its maps and small files are, the rest is lent chunk by chunk by whoever
//! asks the other store for it. It is no point of this store, and nothing of its data is written.

use std::sync::Arc;

use crate::error::{Result, StoreError};
use crate::frame::CHUNK;
use crate::intake::Intake;
use crate::manifest::Manifest;
use crate::reader::{DiskReader, Keeps};

/// Content at hand of one disk: more than the chunks that one leaf of a map may refer to, which are 96, twice.
const LENT: usize = 192 * CHUNK;

/// See the top of this file. Its maps stay as long as this, or a reader of its disks, lives.
#[derive(Debug)]
pub struct Partial {
    intake: Intake,
    manifest: Manifest,
}

impl Partial {
    pub(crate) fn new(intake: Intake, manifest: Manifest) -> Self {
        Self { intake, manifest }
    }

    /// The point's manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The content of a small file.
    pub fn file(&self, name: &str) -> Result<Vec<u8>> {
        let point = self.manifest.id;
        let file = self.manifest.file(name).ok_or_else(|| StoreError::UnknownName { point, name: name.into() })?;
        let other = || StoreError::damaged(format!("file {name}"), "its content does not match its digest");
        file.content(self.intake.store.chunks())?.ok_or_else(other)
    }

    /// Reads a disk: what [`DiskReader::lacks`] tells is to be lent first, else reading fails with `Missing`.
    pub fn disk(self: &Arc<Self>, name: &str) -> Result<DiskReader> {
        let point = self.manifest.id;
        let disk = self.manifest.disk(name).ok_or_else(|| StoreError::UnknownName { point, name: name.into() })?;
        let chunks = self.intake.store.chunks().clone();
        Ok(DiskReader::new(chunks, Keeps::Partial(self.clone()), disk.root(), LENT))
    }
}
