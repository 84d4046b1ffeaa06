//! The map of a disk as a tree of nodes: find a leaf, replace leaves, visit all.

use crate::chunks::Chunks;
use crate::error::{Result, StoreError};
use crate::frame::Packer;
use crate::id::{ChunkId, Kind};
use crate::node::{Entry, FANOUT, Inner, Leaf, leaves_under, levels};

/// One disk's map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Root {
    pub(crate) size: u64,
    /// Absent: nothing but zeros.
    pub(crate) top: Option<Entry>,
}

impl Root {
    pub(crate) fn levels(&self) -> u32 {
        levels(self.size)
    }
}

pub(crate) fn load_leaf(chunks: &Chunks, id: &ChunkId) -> Result<Leaf> {
    Leaf::from_bytes(&chunks.content(id, Kind::Leaf)?).ok_or_else(|| not_a_node(id))
}

pub(crate) fn load_inner(chunks: &Chunks, id: &ChunkId) -> Result<Inner> {
    Inner::from_bytes(&chunks.content(id, Kind::Inner)?).ok_or_else(|| not_a_node(id))
}

fn not_a_node(id: &ChunkId) -> StoreError {
    StoreError::damaged(format!("chunk {id}"), "it is no node of a disk's map")
}

/// Finds leaves one after the other; keeps the inner nodes on the way to the last.
#[derive(Debug)]
pub(crate) struct Finder {
    root: Root,
    /// By level.
    path: Vec<Option<(ChunkId, Inner)>>,
}

impl Finder {
    pub(crate) fn new(root: Root) -> Self {
        Self { root, path: vec![None; 8] }
    }

    pub(crate) fn root(&self) -> Root {
        self.root
    }

    /// The leaf with this number; `None` where it is all zeros or behind the end.
    pub(crate) fn leaf(&mut self, chunks: &Chunks, number: u64) -> Result<Option<Entry>> {
        self.entry(chunks, 0, number)
    }

    /// The node of a level with this number among those of its level.
    pub(crate) fn entry(&mut self, chunks: &Chunks, level: u32, number: u64) -> Result<Option<Entry>> {
        let top = self.root.levels();
        if level >= top {
            // A taller tree than this one's has this one's top as its first nodes.
            return Ok(if level == top && number == 0 { self.root.top } else { None });
        }
        let Some(parent) = self.entry(chunks, level + 1, number / FANOUT as u64)? else { return Ok(None) };
        let at = usize::try_from(number % FANOUT as u64).unwrap_or_default();
        let cached = &mut self.path[usize::try_from(level).unwrap_or_default()];
        match cached {
            Some((id, inner)) if *id == parent.id => Ok(inner.children[at]),
            Some(_) | None => {
                let inner = load_inner(chunks, &parent.id)?;
                let child = inner.children[at];
                *cached = Some((parent.id, inner));
                Ok(child)
            }
        }
    }
}

/// Builds a map from another with some leaves replaced: only nodes on the way to those are read and written.
#[derive(Debug)]
pub(crate) struct Builder<'a> {
    pub(crate) chunks: &'a Chunks,
    pub(crate) packer: &'a mut Packer,
    pub(crate) base: &'a mut Finder,
    /// In order of their numbers.
    pub(crate) leaves: &'a [(u64, Option<Entry>)],
    pub(crate) stored: &'a mut u64,
}

impl Builder<'_> {
    pub(crate) fn build(&mut self, size: u64) -> Result<Root> {
        let from = self.base.root();
        if from.size == size && self.leaves.is_empty() {
            return Ok(from);
        }
        let top = if size == 0 { None } else { self.node(levels(size), 0, size)? };
        Ok(Root { size, top })
    }

    fn node(&mut self, level: u32, number: u64, size: u64) -> Result<Option<Entry>> {
        let under = leaves_under(level);
        let (first, after) = (number * under, (number + 1).saturating_mul(under));
        let end = size.div_ceil(crate::node::LEAF_BYTES);
        if first >= end {
            return Ok(None);
        }
        let from = self.leaves.partition_point(|(leaf, _)| *leaf < first);
        let touched = self.leaves.get(from).is_some_and(|(leaf, _)| *leaf < after);
        let base = self.base.root();
        // A base that was larger may have leaves behind the new end here.
        let cut = base.size > size && after > end;
        if !touched && !cut && (level <= base.levels() || number > 0) {
            return self.base.entry(self.chunks, level, number);
        }
        if level == 0 {
            return match self.leaves.get(from) {
                Some((leaf, entry)) if *leaf == first => Ok(*entry),
                Some(_) | None => self.base.leaf(self.chunks, number),
            };
        }
        let mut inner = Inner::default();
        for at in 0..FANOUT {
            inner.children[at] = self.node(level - 1, number * FANOUT as u64 + at as u64, size)?;
        }
        if inner.is_hole() {
            return Ok(None);
        }
        let packed = self.packer.whole(&self.chunks.namer, Kind::Inner, inner.to_bytes())?;
        *self.stored += self.chunks.add(&packed)?;
        Ok(Some(Entry { id: packed.id, digest: inner.digest(&self.chunks.namer) }))
    }
}
