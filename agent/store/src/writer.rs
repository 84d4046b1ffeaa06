//! Writes one disk of a draft: drops what the parent has, finds what is stored elsewhere, and gathers the rest in chunks.
//!
//! Memory is bounded whatever is written: a window of 1 MiB, 64 leaves of 27 KiB, and 80 bytes for each 4 MiB of the disk
//! that were written to.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::dedup::{Found, Recent};
use crate::draft::{Job, Shared};
use crate::error::{Refusal, Result, StoreError};
use crate::frame::{CHUNK_BLOCKS, Packer, table_of};
use crate::id::{BLOCK, BLOCK_BYTES, BlockHash, ChunkId, Kind, is_zero};
use crate::node::{Entry, LEAF_BLOCKS, LEAF_BYTES, Leaf, Slot, leaf_digest};
use crate::store::Options;
use crate::tree::{Builder, Finder, Root, load_leaf};

/// Blocks that wait until it is known whether they are stored elsewhere.
const WINDOW: usize = 256;
/// Leaves held open.
const LEAVES: usize = 64;
/// A chunk may end at a boundary of 128 KiB when it has so many blocks: then like parts of two disks become like chunks.
const ENOUGH: usize = CHUNK_BLOCKS / 2;
/// A leaf refers to no more chunks than this (a fresh one needs 32): beyond it the least used ones are gathered anew, so
/// that reading 4 MiB never costs more than 96 chunks and a chunk kept for one block is rare.
const MOST_CHUNKS: usize = 96;
/// So many are left then, which makes gathering rare.
const FEW_CHUNKS: usize = 48;

/// Writes one disk of a draft, in any order of offsets.
#[derive(Debug)]
pub struct DiskWriter {
    shared: Arc<Shared>,
    name: String,
    size: u64,
    base: Finder,
    packer: Packer,
    recent: Recent,
    window: Window,
    leaves: BTreeMap<u64, OpenLeaf>,
    done: BTreeMap<u64, Option<Entry>>,
    uses: u64,
}

/// Blocks that wait.
#[derive(Debug, Default)]
struct Window {
    blocks: Vec<Waiting>,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    leaf: u64,
    at: usize,
    hash: BlockHash,
}

/// A leaf that is being changed.
#[derive(Debug)]
struct OpenLeaf {
    leaf: Leaf,
    /// Zero for a block of zeros, and for one whose chunk can't be read.
    hashes: Vec<BlockHash>,
    /// Blocks in the window.
    waiting: usize,
    dirty: bool,
    used: u64,
}

impl DiskWriter {
    pub(crate) fn new(
        shared: Arc<Shared>,
        name: &str,
        size: u64,
        base: Option<Root>,
        options: &Options,
    ) -> Result<Self> {
        let base = Finder::new(base.unwrap_or(Root { size, top: None }));
        let mut writer = Self {
            shared,
            name: name.into(),
            size,
            base,
            packer: Packer::new(options.level)?,
            recent: Recent::default(),
            window: Window::default(),
            leaves: BTreeMap::new(),
            done: BTreeMap::new(),
            uses: 0,
        };
        writer.trim()?;
        Ok(writer)
    }

    /// The disk's size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Writes whole blocks of 4 KiB; only the disk's last block may be shorter. What is the same as in the parent costs a
    /// hash and is not stored.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.check(offset, bytes.len() as u64)?;
        self.shared.read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let (whole, tail) = bytes.split_at(bytes.len() - bytes.len() % BLOCK);
        for (number, block) in (offset / BLOCK_BYTES..).zip(whole.chunks_exact(BLOCK)) {
            self.block(number, block)?;
        }
        if !tail.is_empty() {
            let mut block = [0; BLOCK];
            block[..tail.len()].copy_from_slice(tail);
            self.block(self.size / BLOCK_BYTES, &block)?;
        }
        Ok(())
    }

    /// Makes a range zeros, by the same rules for its ends.
    pub fn zero(&mut self, range: Range<u64>) -> Result<()> {
        self.check(range.start, range.end.saturating_sub(range.start))?;
        let mut at = range.start;
        while at < range.end {
            let leaf = at / LEAF_BYTES;
            let end = range.end.min((leaf + 1) * LEAF_BYTES);
            let whole = at.is_multiple_of(LEAF_BYTES) && (end - at == LEAF_BYTES || end == self.size);
            if whole {
                self.zero_leaf(leaf)?;
            } else {
                (at / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES)).try_for_each(|block| self.zero_block(block))?;
            }
            at = end;
        }
        Ok(())
    }

    /// Everything was written. Without this the draft can't be finished.
    pub fn close(mut self) -> Result<()> {
        self.resolve(true)?;
        while let Some(number) = self.leaves.first_key_value().map(|(number, _)| *number) {
            self.finish_leaf(number)?;
        }
        let leaves: Vec<_> = std::mem::take(&mut self.done).into_iter().collect();
        let mut stored = 0;
        let root = Builder {
            chunks: &self.shared.chunks,
            packer: &mut self.packer,
            base: &mut self.base,
            leaves: &leaves,
            stored: &mut stored,
        }
        .build(self.size)?;
        self.shared.stored.fetch_add(stored, Ordering::Relaxed);
        self.shared.finish_disk(&self.name, root);
        Ok(())
    }

    fn check(&self, offset: u64, length: u64) -> Result<()> {
        let end = offset.saturating_add(length);
        let whole = offset.is_multiple_of(BLOCK_BYTES) && (end.is_multiple_of(BLOCK_BYTES) || end == self.size);
        if whole && end <= self.size {
            return Ok(());
        }
        Err(Refusal::Range { offset, end, size: self.size }.into())
    }

    /// Makes zeros of what the parent's disk has behind this one's end.
    fn trim(&mut self) -> Result<()> {
        let (from, blocks) = (self.base.root().size, self.size.div_ceil(BLOCK_BYTES));
        if from <= self.size || self.size.is_multiple_of(LEAF_BYTES) {
            return Ok(());
        }
        let leaf_end = (self.size / LEAF_BYTES + 1) * (LEAF_BYTES / BLOCK_BYTES);
        (blocks..leaf_end).try_for_each(|block| self.zero_block(block))?;
        let kept = usize::try_from(self.size % BLOCK_BYTES).unwrap_or_default();
        let (leaf, at) = split(blocks.saturating_sub(1));
        let slot = self.leaf(leaf)?.leaf.slots[at].get();
        if let (Some((chunk, block)), true) = (slot, kept > 0) {
            let id = self.leaf(leaf)?.leaf.chunks[chunk];
            let plain = self.shared.chunks.content(&id, Kind::Data)?;
            let mut last = [0; BLOCK];
            let from = plain.get(block * BLOCK..block * BLOCK + kept);
            last[..kept].copy_from_slice(from.ok_or_else(|| short(&id))?);
            self.block(blocks - 1, &last)?;
        }
        Ok(())
    }

    fn block(&mut self, number: u64, block: &[u8]) -> Result<()> {
        if is_zero(block) {
            return self.zero_block(number);
        }
        let hash = self.shared.chunks.namer.block(block);
        let (leaf, at) = split(number);
        let open = self.settled(leaf, at)?;
        if open.hashes[at] == hash {
            return Ok(());
        }
        open.hashes[at] = hash;
        open.waiting += 1;
        open.dirty = true;
        self.window.blocks.push(Waiting { leaf, at, hash });
        self.window.bytes.extend_from_slice(block);
        if self.window.blocks.len() >= WINDOW { self.resolve(false) } else { Ok(()) }
    }

    fn zero_block(&mut self, number: u64) -> Result<()> {
        let (leaf, at) = split(number);
        if self.is_hole(leaf)? {
            return Ok(());
        }
        let open = self.settled(leaf, at)?;
        open.dirty |= open.leaf.slots[at] != Slot::HOLE;
        open.leaf.slots[at] = Slot::HOLE;
        open.hashes[at] = BlockHash::ZERO;
        Ok(())
    }

    fn zero_leaf(&mut self, number: u64) -> Result<()> {
        if self.is_hole(number)? {
            return Ok(());
        }
        if self.leaves.get(&number).is_some_and(|open| open.waiting > 0) {
            self.resolve(true)?;
        }
        self.leaves.remove(&number);
        self.done.insert(number, None);
        Ok(())
    }

    /// True where nothing but zeros is known of a leaf and it is not open.
    fn is_hole(&mut self, number: u64) -> Result<bool> {
        Ok(!self.leaves.contains_key(&number) && self.entry(number)?.is_none())
    }

    fn entry(&mut self, number: u64) -> Result<Option<Entry>> {
        match self.done.get(&number) {
            Some(entry) => Ok(*entry),
            None => self.base.leaf(&self.shared.chunks, number),
        }
    }

    /// The leaf, with this block not waiting.
    fn settled(&mut self, leaf: u64, at: usize) -> Result<&mut OpenLeaf> {
        let waits = self.leaf(leaf)?.waiting > 0
            && self.window.blocks.iter().any(|waiting| waiting.leaf == leaf && waiting.at == at);
        if waits {
            self.resolve(true)?;
        }
        self.leaf(leaf)
    }

    /// Opens a leaf; closes the one that was not used for longest when there are too many.
    fn leaf(&mut self, number: u64) -> Result<&mut OpenLeaf> {
        self.uses += 1;
        if !self.leaves.contains_key(&number) {
            if self.leaves.len() >= LEAVES {
                let oldest = self.leaves.iter().min_by_key(|(_, open)| open.used).map(|(number, _)| *number);
                oldest.map_or(Ok(()), |oldest| self.finish_leaf(oldest))?;
            }
            let open = self.load(number)?;
            self.leaves.insert(number, open);
        }
        let open = self.leaves.get_mut(&number).ok_or_else(|| StoreError::Worker("a leaf vanished".into()))?;
        open.used = self.uses;
        Ok(open)
    }

    fn load(&mut self, number: u64) -> Result<OpenLeaf> {
        let mut hashes = vec![BlockHash::ZERO; LEAF_BLOCKS];
        let mut leaf = Leaf::default();
        if let Some(entry) = self.entry(number)? {
            leaf = load_leaf(&self.shared.chunks, &entry.id)?;
            // A chunk that can't be read leaves zeros here, which no block's hash equals.
            let lists = self.lists(&leaf)?;
            for (slot, hash) in leaf.slots.iter().zip(&mut hashes) {
                let known = slot.get().and_then(|(chunk, block)| lists[chunk].get(block));
                *hash = known.copied().unwrap_or(BlockHash::ZERO);
            }
        }
        Ok(OpenLeaf { leaf, hashes, waiting: 0, dirty: false, used: 0 })
    }

    fn lists(&self, leaf: &Leaf) -> Result<Vec<Vec<BlockHash>>> {
        let list = |id: &ChunkId| Ok(self.shared.chunks.head(id)?.map(|head| head.hashes).unwrap_or_default());
        leaf.chunks.iter().map(list).collect()
    }

    /// Gives the waiting blocks their places. The last, unfinished chunk's blocks go on waiting, unless all must go.
    fn resolve(&mut self, all: bool) -> Result<()> {
        let window = std::mem::take(&mut self.window);
        let hashes: Vec<BlockHash> = window.blocks.iter().map(|waiting| waiting.hash).collect();
        let found = self.recent.find_all(&self.shared.chunks, &hashes)?;
        let mut rest = Vec::new();
        for (number, (waiting, place)) in window.blocks.iter().zip(found).enumerate() {
            match place {
                Some(place) => self.assign(waiting, place)?,
                None => rest.push(number),
            }
        }
        let mut from = 0;
        while from < rest.len() {
            let length = chunk_length(&window.blocks, &rest[from..]);
            let unfinished = from + length == rest.len() && length < CHUNK_BLOCKS;
            if unfinished && !all {
                break;
            }
            self.store(&window, &rest[from..from + length])?;
            from += length;
        }
        for number in rest.into_iter().skip(from) {
            self.window.blocks.push(window.blocks[number]);
            self.window.bytes.extend_from_slice(&window.bytes[number * BLOCK..(number + 1) * BLOCK]);
        }
        Ok(())
    }

    /// Makes one chunk of these blocks of the window. A block that is there twice is stored once.
    fn store(&mut self, window: &Window, numbers: &[usize]) -> Result<()> {
        let mut hashes: Vec<BlockHash> = Vec::with_capacity(numbers.len());
        let mut plain = Vec::with_capacity(numbers.len() * BLOCK);
        let mut places = Vec::with_capacity(numbers.len());
        for number in numbers {
            let hash = window.blocks[*number].hash;
            let place = hashes.iter().position(|known| *known == hash).unwrap_or_else(|| {
                hashes.push(hash);
                plain.extend_from_slice(&window.bytes[number * BLOCK..(number + 1) * BLOCK]);
                hashes.len() - 1
            });
            places.push(place);
        }
        let id = self.submit(hashes, plain)?;
        let assign = |(number, place): (&usize, usize)| self.assign(&window.blocks[*number], (id, place));
        numbers.iter().zip(places).try_for_each(assign)
    }

    /// Names a chunk and has it stored, unless it is.
    fn submit(&mut self, hashes: Vec<BlockHash>, plain: Vec<u8>) -> Result<ChunkId> {
        let chunks = &self.shared.chunks;
        let id = chunks.namer.chunk(Kind::Data, &table_of(&hashes));
        let stored = chunks.head(&id)?.is_some_and(|head| chunks.touch(id.prefix(), head.place));
        if !stored {
            self.shared.submit(Job { id, hashes: hashes.clone(), plain }, &mut self.packer)?;
        }
        self.recent.insert(id, hashes);
        Ok(id)
    }

    fn assign(&mut self, waiting: &Waiting, (id, block): Found) -> Result<()> {
        let gone = || StoreError::Worker("a leaf was closed while a block of it waited".into());
        let open = self.leaves.get_mut(&waiting.leaf).ok_or_else(gone)?;
        if open.leaf.chunks.len() >= LEAF_BLOCKS {
            open.leaf.slots[waiting.at] = Slot::HOLE;
            open.leaf.tidy();
        }
        let chunk = open.leaf.chunk(&id);
        open.leaf.slots[waiting.at] = Slot::new(chunk, block).ok_or_else(gone)?;
        open.waiting -= 1;
        Ok(())
    }

    fn finish_leaf(&mut self, number: u64) -> Result<()> {
        if self.leaves.get(&number).is_some_and(|open| open.waiting > 0) {
            self.resolve(true)?;
        }
        let Some(mut open) = self.leaves.remove(&number) else { return Ok(()) };
        if !open.dirty {
            return Ok(());
        }
        let unknown = |(slot, hash): (&Slot, &BlockHash)| *slot != Slot::HOLE && *hash == BlockHash::ZERO;
        if open.leaf.slots.iter().zip(&open.hashes).any(unknown) {
            let what = format!("the parent's disk {} at byte {}", self.name, number * LEAF_BYTES);
            return Err(StoreError::damaged(what, "a chunk of it can't be read; make a point without a parent"));
        }
        open.leaf.tidy();
        if open.leaf.chunks.len() > MOST_CHUNKS {
            self.gather(&mut open)?;
            open.leaf.tidy();
        }
        let entry = if open.leaf.is_hole() { None } else { Some(self.add_leaf(&open)?) };
        self.done.insert(number, entry);
        Ok(())
    }

    fn add_leaf(&mut self, open: &OpenLeaf) -> Result<Entry> {
        let chunks = &self.shared.chunks;
        let packed = self.packer.whole(&chunks.namer, Kind::Leaf, open.leaf.to_bytes())?;
        self.shared.stored.fetch_add(chunks.add(&packed)?, Ordering::Relaxed);
        Ok(Entry { id: packed.id, digest: leaf_digest(&chunks.namer, &open.hashes) })
    }

    /// Stores anew, together, the blocks of those chunks that this leaf uses least. Chunks that are still on their way to
    /// the disk, or damaged, are left for another time.
    fn gather(&mut self, open: &mut OpenLeaf) -> Result<()> {
        let uses = open.leaf.uses();
        let mut order: Vec<usize> = (0..uses.len()).collect();
        order.sort_by_key(|chunk| (uses[*chunk], *chunk));
        let mut contents: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
        for chunk in order.into_iter().take(uses.len() - FEW_CHUNKS) {
            match self.shared.chunks.content(&open.leaf.chunks[chunk], Kind::Data) {
                Ok(plain) => drop(contents.insert(chunk, plain)),
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        let moves = |at: &usize| open.leaf.slots[*at].get().is_some_and(|(chunk, _)| contents.contains_key(&chunk));
        let moving: Vec<usize> = (0..LEAF_BLOCKS).filter(moves).collect();
        for group in moving.chunks(CHUNK_BLOCKS) {
            let mut plain = Vec::with_capacity(group.len() * BLOCK);
            for at in group {
                let Some((chunk, block)) = open.leaf.slots[*at].get() else { continue };
                let from = contents.get(&chunk).and_then(|plain| plain.get(block * BLOCK..(block + 1) * BLOCK));
                plain.extend_from_slice(from.ok_or_else(|| short(&open.leaf.chunks[chunk]))?);
            }
            let id = self.submit(group.iter().map(|at| open.hashes[*at]).collect(), plain)?;
            let chunk = open.leaf.chunk(&id);
            for (place, at) in group.iter().enumerate() {
                open.leaf.slots[*at] = Slot::new(chunk, place).ok_or_else(|| short(&id))?;
            }
        }
        Ok(())
    }
}

fn split(block: u64) -> (u64, usize) {
    (block / LEAF_BLOCKS as u64, usize::try_from(block % LEAF_BLOCKS as u64).unwrap_or_default())
}

fn short(id: &ChunkId) -> StoreError {
    StoreError::damaged(format!("chunk {id}"), "it has fewer blocks than the map says")
}

/// How many of these blocks of the window make the next chunk: 32, or fewer where a boundary of 128 KiB is crossed.
fn chunk_length(blocks: &[Waiting], rest: &[usize]) -> usize {
    let cluster = |number: usize| (blocks[number].leaf, blocks[number].at / CHUNK_BLOCKS);
    let most = rest.len().min(CHUNK_BLOCKS);
    let crosses = |length: &usize| cluster(rest[*length]) != cluster(rest[*length - 1]);
    (ENOUGH..most).find(crosses).unwrap_or(most)
}
