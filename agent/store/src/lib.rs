//! The chunk store: points of guests' disks, deduplicated, compressed, and safe against power cuts at every byte.
//!
//! A disk is cut into blocks of 4 KiB. Blocks that are new stand together in *chunks* of up to 32, compressed, in *packs*
//! that are only appended to. A disk's *map* is a tree whose nodes are chunks too, so a point costs what changed. A point
//! comes to be by one durable rename of its *manifest*; everything before that is nothing.
//!
//! Doors: [`Store`] for points, [`Draft`] and [`DiskWriter`] to make one, [`DiskReader`] to read one, [`Intake`] to take one
//! from another store, [`Partial`] to read one before it is here. Files are reached through [`files::Files`] only.

mod chunks;
mod collect;
mod dedup;
mod draft;
mod error;
mod export;
pub mod files;
mod frame;
mod id;
mod index;
mod intake;
mod manifest;
mod node;
mod pack;
mod partial;
mod reader;
mod seal;
mod state;
mod store;
mod tree;
mod verify;
mod writer;

pub use collect::{Budget, Collected};
pub use draft::Draft;
pub use error::{Refusal, StoreError};
pub use id::{BLOCK, BLOCK_BYTES, ChunkId, Digest};
pub use intake::{Adopted, Intake};
pub use manifest::{Disk, FORMAT, File, MAX_FILE, MAX_NAMES, Manifest, Meta, Notes, Point, Summary};
pub use node::MAX_DISK;
pub use partial::Partial;
pub use reader::DiskReader;
pub use seal::Encryption;
pub use store::{Hold, MAX_POINTS, Options, Store, Usage};
pub use verify::{Progress, Scope, Watcher};
pub use writer::DiskWriter;

#[cfg(test)]
mod test;
