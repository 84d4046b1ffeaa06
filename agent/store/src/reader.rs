//! Reads a disk of a point. Every byte that comes out was checked against its name.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use crate::chunks::{Chunks, lock};
use crate::error::{Refusal, Result, StoreError};
use crate::frame::{CHUNK, table_of};
use crate::id::{BLOCK, BLOCK_BYTES, BlockHash, ChunkId, Kind, is_zero};
use crate::intake::sent;
use crate::node::{LEAF_BYTES, Leaf, Run};
use crate::partial::Partial;
use crate::store::Hold;
use crate::tree::{Finder, Root, load_leaf};

/// Leaves kept decoded: 64 MiB of disk in 40 KiB.
const LEAVES: usize = 16;
/// Lists of blocks' hashes kept: 16 MiB of disk in 100 KiB.
const LISTS: usize = 128;

/// A disk of a point. Clones nothing; several readers may read one disk.
#[derive(Debug)]
pub struct DiskReader {
    chunks: Arc<Chunks>,
    keeps: Keeps,
    root: Root,
    caches: Mutex<Caches>,
}

/// What keeps the chunks from being collected.
#[derive(Debug)]
pub(crate) enum Keeps {
    Point(Hold),
    Partial(Arc<Partial>),
}

#[derive(Debug)]
struct Caches {
    finder: Finder,
    leaves: Recent<u64, Option<Arc<Leaf>>>,
    chunks: Recent<ChunkId, Arc<Vec<u8>>>,
    lists: Recent<ChunkId, Option<Arc<Vec<BlockHash>>>>,
}

/// The last few, newest last.
#[derive(Debug)]
struct Recent<K, V> {
    most: usize,
    all: VecDeque<(K, V)>,
}

impl<K: PartialEq, V: Clone> Recent<K, V> {
    fn new(most: usize) -> Self {
        Self { most: most.max(1), all: VecDeque::new() }
    }

    fn get(&mut self, key: &K) -> Option<V> {
        let at = self.all.iter().rposition(|(known, _)| known == key)?;
        let found = self.all.remove(at)?;
        let value = found.1.clone();
        self.all.push_back(found);
        Some(value)
    }

    fn put(&mut self, key: K, value: V) {
        if self.all.len() >= self.most {
            self.all.pop_front();
        }
        self.all.push_back((key, value));
    }
}

impl DiskReader {
    pub(crate) fn new(chunks: Arc<Chunks>, keeps: Keeps, root: Root, cache_bytes: usize) -> Self {
        let (leaves, chunks_kept, lists) = (Recent::new(LEAVES), Recent::new(cache_bytes / CHUNK), Recent::new(LISTS));
        let caches = Caches { finder: Finder::new(root), leaves, chunks: chunks_kept, lists };
        Self { chunks, keeps, root, caches: Mutex::new(caches) }
    }

    /// The disk's size in bytes.
    pub fn size(&self) -> u64 {
        self.root.size
    }

    /// The point it belongs to.
    pub fn point(&self) -> roost_protocol::PointId {
        match &self.keeps {
            Keeps::Point(hold) => hold.manifest().id,
            Keeps::Partial(partial) => partial.manifest().id,
        }
    }

    /// Chunks that a range of the disk needs and that are neither in the store nor lent; none behind the disk's end.
    ///
    /// # Errors
    /// As [`Self::read_at`], of the disk's map.
    pub fn lacks(&self, offset: u64, length: u64) -> Result<Vec<ChunkId>> {
        let end = offset.saturating_add(length).min(self.root.size);
        let mut lacking: Vec<ChunkId> = Vec::new();
        for number in offset / LEAF_BYTES..end.div_ceil(LEAF_BYTES) {
            let Some(leaf) = self.leaf(number)? else { continue };
            let first = offset.saturating_sub(number * LEAF_BYTES) / BLOCK_BYTES;
            let after = (end - number * LEAF_BYTES).min(LEAF_BYTES).div_ceil(BLOCK_BYTES);
            let inside = |block: u64| usize::try_from(block).unwrap_or_default();
            for run in leaf.runs_in(inside(first)..inside(after)) {
                let Some((chunk, _)) = run.from else { continue };
                let id = leaf.chunks[chunk];
                if !lacking.contains(&id) && !self.at_hand(&id) {
                    lacking.push(id);
                }
            }
        }
        Ok(lacking)
    }

    fn at_hand(&self, id: &ChunkId) -> bool {
        lock(&self.caches).chunks.get(id).is_some() || self.chunks.state().index.find(id.prefix()).next().is_some()
    }

    /// Keeps the content of a chunk at hand for a while, as a peer sent it. Nothing of it is written.
    ///
    /// # Errors
    /// `Lie` when the bytes are not that chunk.
    pub fn lend(&self, id: ChunkId, bytes: &[u8]) -> Result<()> {
        let (packed, content) = sent(&self.chunks.namer, id, bytes)?;
        if packed.kind != Kind::Data {
            return Err(StoreError::Lie(format!("chunk {id} is {:?}, and data was needed", packed.kind)));
        }
        lock(&self.caches).chunks.put(id, Arc::new(content));
        Ok(())
    }

    /// Reads any range inside the disk.
    ///
    /// # Errors
    /// `Damaged` or `Missing` where a chunk of the range can't be read; the rest of the disk can.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let end = offset.saturating_add(buffer.len() as u64);
        if end > self.root.size {
            return Err(Refusal::Range { offset, end, size: self.root.size }.into());
        }
        let mut at = offset;
        let mut rest = buffer;
        while !rest.is_empty() {
            let inside = usize::try_from(at % LEAF_BYTES).unwrap_or_default();
            let length = rest.len().min(usize::try_from(LEAF_BYTES).unwrap_or_default() - inside);
            let (now, later) = rest.split_at_mut(length);
            match self.leaf(at / LEAF_BYTES)? {
                None => now.fill(0),
                Some(leaf) => self.read_leaf(&leaf, inside, now)?,
            }
            at += length as u64;
            rest = later;
        }
        Ok(())
    }

    /// Whether just these bytes stand there: told by the hashes of their blocks, without unpacking what is kept. Where the
    /// range is not of whole blocks, it is read and compared.
    ///
    /// # Errors
    /// As [`Self::read_at`].
    pub fn holds(&self, offset: u64, bytes: &[u8]) -> Result<bool> {
        let end = offset.saturating_add(bytes.len() as u64);
        if !offset.is_multiple_of(BLOCK_BYTES) || !end.is_multiple_of(BLOCK_BYTES) || end > self.root.size {
            return self.reads(offset, bytes);
        }
        for (number, block) in (offset / BLOCK_BYTES..).zip(bytes.chunks_exact(BLOCK)) {
            if !self.holds_block(number, block)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn reads(&self, offset: u64, bytes: &[u8]) -> Result<bool> {
        let mut there = vec![0; bytes.len()];
        self.read_at(offset, &mut there)?;
        Ok(there == bytes)
    }

    fn holds_block(&self, number: u64, block: &[u8]) -> Result<bool> {
        let offset = number * BLOCK_BYTES;
        let inside = usize::try_from(offset % LEAF_BYTES).unwrap_or_default() / BLOCK;
        let leaf = self.leaf(offset / LEAF_BYTES)?;
        let Some((leaf, (chunk, at))) = leaf.as_ref().and_then(|leaf| Some((leaf, leaf.slots.get(inside)?.get()?)))
        else {
            return Ok(is_zero(block));
        };
        match self.list(&leaf.chunks[chunk])? {
            Some(list) => Ok(list.get(at) == Some(&self.chunks.namer.block(block))),
            // It says what is wrong with it.
            None => self.reads(offset, block),
        }
    }

    /// The hashes of a chunk's blocks, checked against its name; none where they can't be had.
    fn list(&self, id: &ChunkId) -> Result<Option<Arc<Vec<BlockHash>>>> {
        if let Some(list) = lock(&self.caches).lists.get(id) {
            return Ok(list);
        }
        let named = |hashes: &Vec<BlockHash>| self.chunks.namer.chunk(Kind::Data, &table_of(hashes)) == *id;
        let list = self.chunks.head(id)?.map(|head| head.hashes).filter(named).map(Arc::new);
        lock(&self.caches).lists.put(*id, list.clone());
        Ok(list)
    }

    /// Ranges that are not all zeros, in order, as long as possible; whole blocks, but for the disk's end.
    pub fn data_ranges(&self) -> Result<Vec<Range<u64>>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for number in 0..self.root.size.div_ceil(LEAF_BYTES) {
            let Some(leaf) = self.leaf(number)? else { continue };
            for run in leaf.runs().iter().filter(|run| run.from.is_some()) {
                let start = number * LEAF_BYTES + run.first as u64 * BLOCK_BYTES;
                let end = (start + run.blocks as u64 * BLOCK_BYTES).min(self.root.size);
                match ranges.last_mut() {
                    Some(last) if last.end == start => last.end = end,
                    Some(_) | None => ranges.push(start..end),
                }
            }
        }
        Ok(ranges)
    }

    fn leaf(&self, number: u64) -> Result<Option<Arc<Leaf>>> {
        let entry = {
            let mut caches = lock(&self.caches);
            if let Some(leaf) = caches.leaves.get(&number) {
                return Ok(leaf);
            }
            caches.finder.leaf(&self.chunks, number)?
        };
        let leaf = entry.map(|entry| load_leaf(&self.chunks, &entry.id).map(Arc::new)).transpose()?;
        lock(&self.caches).leaves.put(number, leaf.clone());
        Ok(leaf)
    }

    /// Reads inside one leaf.
    fn read_leaf(&self, leaf: &Leaf, offset: usize, buffer: &mut [u8]) -> Result<()> {
        let end = offset + buffer.len();
        for run in leaf.runs_in(offset / BLOCK..end.div_ceil(BLOCK)) {
            let (first, after) = (run.first * BLOCK, (run.first + run.blocks) * BLOCK);
            let (from, to) = (first.max(offset), after.min(end));
            if from < to {
                self.read_run(leaf, &run, from, &mut buffer[from - offset..to - offset])?;
            }
        }
        Ok(())
    }

    fn read_run(&self, leaf: &Leaf, run: &Run, from: usize, buffer: &mut [u8]) -> Result<()> {
        let Some((chunk, block)) = run.from else {
            buffer.fill(0);
            return Ok(());
        };
        let id = &leaf.chunks[chunk];
        let content = self.chunk(id)?;
        let inside = block * BLOCK + from - run.first * BLOCK;
        let there = content.get(inside..inside + buffer.len());
        let short = || StoreError::damaged(format!("chunk {id}"), "it has fewer blocks than the map says");
        buffer.copy_from_slice(there.ok_or_else(short)?);
        Ok(())
    }

    fn chunk(&self, id: &ChunkId) -> Result<Arc<Vec<u8>>> {
        if let Some(content) = lock(&self.caches).chunks.get(id) {
            return Ok(content);
        }
        let content = Arc::new(self.chunks.content(id, Kind::Data)?);
        lock(&self.caches).chunks.put(*id, content.clone());
        Ok(content)
    }
}
