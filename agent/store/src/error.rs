//! What can go wrong in a store, and what is refused.

use std::io;

use roost_protocol::PointId;

use crate::id::ChunkId;

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file layer failed.
    #[error("{tried}")]
    Io {
        /// What was tried, with the file's name inside the store.
        tried: String,
        #[source]
        source: io::Error,
    },
    /// No room, or over quota. What was finished before stays whole; removing points and collecting needs little room.
    #[error("the store's disk is full: {tried}")]
    Full {
        tried: String,
        #[source]
        source: io::Error,
    },
    /// Another process holds the store.
    #[error("open the store {path}: another process has it open")]
    Busy { path: String },
    /// The folder is not a store of ours, or of a version this software doesn't know.
    #[error("{path} is not a store that can be opened: {why}")]
    NotAStore { path: String, why: String },
    #[error("the store has no point {0}")]
    UnknownPoint(PointId),
    #[error("point {point} has no disk or file named {name:?}")]
    UnknownName { point: PointId, name: String },
    /// What is stored is not what was written.
    #[error("{what} is damaged: {why}")]
    Damaged { what: String, why: String },
    /// A chunk that is needed is not there.
    #[error("chunk {0} is missing")]
    Missing(ChunkId),
    /// The frame is sealed with a key that the options don't have.
    #[error("{what} is sealed with key {key}, which was not given")]
    NoKey { what: String, key: String },
    /// The caller may not do this.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// What a peer sent is not what it claims to be.
    #[error("the peer lied: {0}")]
    Lie(String),
    /// Something written earlier was lost by the disk before this draft could be made durable.
    #[error("a write to the store's disk was lost since this draft began; begin again")]
    Poisoned,
    /// A compressing thread ended before its time.
    #[error("a worker of the store ended early: {0}")]
    Worker(String),
}

/// Why the answer is no.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the store was opened read-only")]
    ReadOnly,
    #[error("{0:?} is no name for a disk or file: 1 to 64 of a-z A-Z 0-9 . _ - and no dot first")]
    Name(String),
    #[error("{0:?} is there already")]
    Twice(String),
    #[error("a disk of {0} bytes is larger than 64 TiB")]
    DiskTooLarge(u64),
    #[error("a file of {0} bytes is larger than 64 MiB")]
    FileTooLarge(u64),
    #[error("more than {0} disks or files in one point")]
    TooMany(usize),
    #[error("bytes {offset} to {end} are not whole blocks of 4 KiB inside the disk of {size} bytes")]
    Range { offset: u64, end: u64, size: u64 },
    #[error("disk {0:?} is still being written")]
    Unfinished(String),
    #[error("text of {0} bytes is longer than allowed")]
    Text(usize),
    #[error("the point's content ids were made with another key than this store's")]
    OtherDomain,
    #[error("the manifest's format {0:?} is not known")]
    Format(String),
    #[error("the store has {0} points, which is as many as it keeps")]
    Points(usize),
}

pub(crate) type Result<T> = std::result::Result<T, StoreError>;

impl From<Refusal> for StoreError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl StoreError {
    /// True where the stored bytes, not the request or the machine, are at fault.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Missing(_))
    }

    pub(crate) fn damaged(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Damaged { what: what.into(), why: why.into() }
    }
}

/// Says what was tried when the file layer fails; tells a full disk from other faults.
pub(crate) trait Tried<T> {
    fn tried(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Tried<T> for io::Result<T> {
    fn tried(self, what: impl FnOnce() -> String) -> Result<T> {
        const FULL: [io::ErrorKind; 2] = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        self.map_err(|source| match FULL.contains(&source.kind()) {
            true => StoreError::Full { tried: what(), source },
            false => StoreError::Io { tried: what(), source },
        })
    }
}
