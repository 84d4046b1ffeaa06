//! Nodes of a disk's map. A leaf tells for each of 1,024 blocks (4 MiB) in which chunk it stands; an inner node names 64
//! nodes of the level below. A node's bytes are its content, so equal parts of disks share their nodes.
//!
//! Leaf: number of chunks (2), their ids (32 each), then runs until the end, each of four numbers in LEB128: blocks of
//! zeros before it, blocks in it, chunk (place in the list above), first block inside that chunk.
//! Inner: 64 bits (8 bytes), bit n set where child n has a block that is not all zeros; for each such child its id (32) and
//! the digest of its content (32).
//!
//! Digest of a leaf's content: BLAKE3 over 1,024 block hashes, each BLAKE3 of 4 KiB cut to 24 bytes, a block of zeros
//! counting as 24 zeros. Of an inner node's: BLAKE3 over 64 digests. Where all is zeros: 32 zeros. (Keyed in encrypted
//! stores.) So the digest depends on the content alone, not on how it is stored.

use std::ops::Range;

use crate::frame::CHUNK_BLOCKS;
use crate::id::{BLOCK_BYTES, BLOCK_HASH, BlockHash, ChunkId, Digest, Namer};

/// Blocks of a leaf: its 4 MiB cost about 1 KiB anew when one block changed (docs/decisions/0008).
pub(crate) const LEAF_BLOCKS: usize = 1024;
/// Bytes of disk under a leaf.
pub(crate) const LEAF_BYTES: u64 = LEAF_BLOCKS as u64 * BLOCK_BYTES;
/// Children of an inner node.
pub(crate) const FANOUT: usize = 64;
const FANOUT_BITS: u32 = 6;
/// Largest disk: 64 TiB, which are four levels.
pub const MAX_DISK: u64 = 64 << 40;

/// Levels of inner nodes above the leaves of a disk of this size.
pub(crate) fn levels(size: u64) -> u32 {
    let leaves = size.div_ceil(LEAF_BYTES);
    (0..).find(|level| leaves <= 1u64.checked_shl(level * FANOUT_BITS).unwrap_or(u64::MAX)).unwrap_or(0)
}

/// Leaves under a node of this level.
pub(crate) fn leaves_under(level: u32) -> u64 {
    1 << (level * FANOUT_BITS).min(60)
}

/// A node as its parent names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) id: ChunkId,
    pub(crate) digest: Digest,
}

/// Where a block stands: chunk (place in the leaf's list) and block inside it. Zero: a block of zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slot(u16);

impl Slot {
    pub(crate) const HOLE: Self = Self(0);

    pub(crate) fn new(chunk: usize, block: usize) -> Option<Self> {
        // Twice as many as a tidy leaf can need: while it is changed, chunks it no longer needs stand in its list.
        let fits = chunk < 2 * LEAF_BLOCKS - 1 && block < CHUNK_BLOCKS;
        u16::try_from(chunk * CHUNK_BLOCKS + block + 1).ok().filter(|_| fits).map(Self)
    }

    pub(crate) fn get(self) -> Option<(usize, usize)> {
        let at = usize::from(self.0.checked_sub(1)?);
        Some((at / CHUNK_BLOCKS, at % CHUNK_BLOCKS))
    }
}

/// 4 MiB of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub(crate) chunks: Vec<ChunkId>,
    pub(crate) slots: Vec<Slot>,
}

/// Blocks that follow each other on the disk and in a chunk; or zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: usize,
    pub(crate) blocks: usize,
    /// Chunk and first block inside it; absent: zeros.
    pub(crate) from: Option<(usize, usize)>,
}

impl Default for Leaf {
    fn default() -> Self {
        Self { chunks: Vec::new(), slots: vec![Slot::HOLE; LEAF_BLOCKS] }
    }
}

impl Leaf {
    pub(crate) fn is_hole(&self) -> bool {
        self.slots.iter().all(|slot| *slot == Slot::HOLE)
    }

    /// All blocks in order, as long runs as possible.
    pub(crate) fn runs(&self) -> Vec<Run> {
        self.runs_in(0..LEAF_BLOCKS)
    }

    /// The runs of some blocks, cut at the range's ends.
    pub(crate) fn runs_in(&self, range: Range<usize>) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for (at, slot) in self.slots.iter().enumerate().take(range.end).skip(range.start) {
            let from = slot.get();
            let goes_on = |run: &Run| match (run.from, from) {
                (None, None) => true,
                (Some((chunk, first)), Some((other, block))) => chunk == other && first + run.blocks == block,
                (None, Some(_)) | (Some(_), None) => false,
            };
            match runs.last_mut() {
                Some(run) if goes_on(run) => run.blocks += 1,
                Some(_) | None => runs.push(Run { first: at, blocks: 1, from }),
            }
        }
        runs
    }

    /// The place of a chunk in the list.
    pub(crate) fn chunk(&mut self, id: &ChunkId) -> usize {
        self.chunks.iter().rposition(|known| known == id).unwrap_or_else(|| {
            self.chunks.push(*id);
            self.chunks.len() - 1
        })
    }

    /// How many blocks each chunk has here.
    pub(crate) fn uses(&self) -> Vec<usize> {
        let mut uses = vec![0; self.chunks.len()];
        self.slots.iter().filter_map(|slot| slot.get()).for_each(|(chunk, _)| uses[chunk] += 1);
        uses
    }

    /// Leaves out chunks that no block needs; the others in the order of their first block, so that equal maps have equal
    /// bytes.
    pub(crate) fn tidy(&mut self) {
        let mut place = vec![None; self.chunks.len()];
        let mut chunks = Vec::with_capacity(self.chunks.len());
        for slot in &mut self.slots {
            let Some((chunk, block)) = slot.get() else { continue };
            let at = *place[chunk].get_or_insert_with(|| {
                chunks.push(self.chunks[chunk]);
                chunks.len() - 1
            });
            *slot = Slot::new(at, block).unwrap_or(Slot::HOLE);
        }
        self.chunks = chunks;
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(2 + self.chunks.len() * 36);
        out.extend_from_slice(&u16::try_from(self.chunks.len()).unwrap_or(u16::MAX).to_le_bytes());
        self.chunks.iter().for_each(|id| out.extend_from_slice(id.bytes()));
        let mut zeros = 0;
        for run in self.runs() {
            match run.from {
                None => zeros = run.blocks,
                Some((chunk, first)) => {
                    [zeros, run.blocks, chunk, first].into_iter().for_each(|number| put_number(number, &mut out));
                    zeros = 0;
                }
            }
        }
        out
    }

    /// `None` where the bytes are no leaf. Whatever they are, no more than 1,024 blocks come out.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (count, rest) = bytes.split_at_checked(2)?;
        let count = usize::from(u16::from_le_bytes(count.try_into().ok()?));
        (count <= LEAF_BLOCKS).then_some(())?;
        let (ids, mut rest) = rest.split_at_checked(count * 32)?;
        let chunks = ids.as_chunks::<32>().0.iter().map(|id| ChunkId::from_bytes(*id)).collect();
        let mut leaf = Self { chunks, ..Self::default() };
        let mut at = 0;
        while !rest.is_empty() {
            let mut number = || take_number(&mut rest);
            let (zeros, blocks, chunk, first) = (number()?, number()?, number()?, number()?);
            at += zeros;
            let known = blocks > 0 && chunk < count && at + blocks <= LEAF_BLOCKS && first + blocks <= CHUNK_BLOCKS;
            known.then_some(())?;
            for step in 0..blocks {
                leaf.slots[at + step] = Slot::new(chunk, first + step)?;
            }
            at += blocks;
        }
        Some(leaf)
    }
}

/// LEB128; numbers here are below 2^14.
fn put_number(mut number: usize, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(u8::try_from(number & 0x7f).unwrap_or_default() | 0x80);
        number >>= 7;
    }
    out.push(u8::try_from(number).unwrap_or_default());
}

fn take_number(bytes: &mut &[u8]) -> Option<usize> {
    let mut number = 0;
    for shift in [0, 7] {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Digest of a leaf's content.
pub(crate) fn leaf_digest(namer: &Namer, hashes: &[BlockHash]) -> Digest {
    if hashes.iter().all(|hash| *hash == BlockHash::ZERO) {
        return Digest::ZERO;
    }
    let mut all = Vec::with_capacity(LEAF_BLOCKS * BLOCK_HASH);
    hashes.iter().for_each(|hash| all.extend_from_slice(&hash.0));
    namer.digest(&all)
}

/// 64 nodes of the level below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Inner {
    pub(crate) children: Vec<Option<Entry>>,
}

impl Default for Inner {
    fn default() -> Self {
        Self { children: vec![None; FANOUT] }
    }
}

impl Inner {
    pub(crate) fn is_hole(&self) -> bool {
        self.children.iter().all(Option::is_none)
    }

    pub(crate) fn digest(&self, namer: &Namer) -> Digest {
        if self.is_hole() {
            return Digest::ZERO;
        }
        let mut all = Vec::with_capacity(FANOUT * 32);
        for child in &self.children {
            all.extend_from_slice(child.map_or(Digest::ZERO, |entry| entry.digest).bytes());
        }
        namer.digest(&all)
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let present = self.children.iter().enumerate().filter(|(_, child)| child.is_some());
        let mut out = present.fold(0u64, |bits, (at, _)| bits | 1 << at).to_le_bytes().to_vec();
        for entry in self.children.iter().flatten() {
            out.extend_from_slice(entry.id.bytes());
            out.extend_from_slice(entry.digest.bytes());
        }
        out
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (bits, mut rest) = bytes.split_at_checked(8)?;
        let bits = u64::from_le_bytes(bits.try_into().ok()?);
        let mut inner = Self::default();
        for at in (0..FANOUT).filter(|at| bits >> at & 1 == 1) {
            let (entry, after) = rest.split_at_checked(64)?;
            let (id, digest) = entry.split_at(32);
            rest = after;
            inner.children[at] = Some(Entry {
                id: ChunkId::from_bytes(id.try_into().ok()?),
                digest: Digest::from_bytes(digest.try_into().ok()?),
            });
        }
        rest.is_empty().then_some(inner)
    }
}

/// Digest of a whole disk: of its size (8 bytes, little-endian) and its top node's digest.
pub(crate) fn disk_digest(namer: &Namer, size: u64, top: Option<&Entry>) -> Digest {
    let mut all = size.to_le_bytes().to_vec();
    all.extend_from_slice(top.map_or(Digest::ZERO, |entry| entry.digest).bytes());
    namer.digest(&all)
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::id::Kind;

    fn id(number: u8) -> ChunkId {
        Namer::plain().chunk(Kind::Data, &[number])
    }

    #[test]
    fn a_leaf_survives_its_bytes() {
        let mut leaf = Leaf::default();
        for (at, chunk, block) in [(0, 3, 0), (1, 3, 1), (500, 1, 31), (501, 2, 0), (1023, 3, 2)] {
            let place = leaf.chunk(&id(chunk));
            leaf.slots[at] = Slot::new(place, block).unwrap();
        }
        leaf.tidy();
        assert_eq!(Leaf::from_bytes(&leaf.to_bytes()).unwrap(), leaf);
        assert_eq!(leaf.runs().len(), 6);
        let empty = Leaf::default();
        assert_eq!(Leaf::from_bytes(&empty.to_bytes()).unwrap(), empty);
    }

    #[test]
    fn bytes_that_are_no_node_are_refused() {
        let mut leaf = Leaf::default();
        leaf.chunk(&id(1));
        leaf.slots[1000] = Slot::new(0, 31).unwrap();
        let bytes = leaf.to_bytes();
        for cut in 0..bytes.len() {
            let read = Leaf::from_bytes(&bytes[..cut]);
            assert!(read.is_none_or(|read| read != leaf));
        }
        let mut far = bytes.clone();
        far.extend_from_slice(&[100, 1, 0, 0]);
        assert!(Leaf::from_bytes(&far).is_none());
        assert!(Inner::from_bytes(&[1, 0, 0, 0, 0, 0, 0, 0]).is_none());
        assert!(Inner::from_bytes(&[0; 9]).is_none());
    }

    #[test]
    fn an_inner_node_survives_its_bytes() {
        let mut inner = Inner::default();
        inner.children[0] = Some(Entry { id: id(1), digest: Digest::from_bytes([1; 32]) });
        inner.children[63] = Some(Entry { id: id(2), digest: Digest::from_bytes([2; 32]) });
        assert_eq!(Inner::from_bytes(&inner.to_bytes()).unwrap(), inner);
    }

    #[test]
    fn levels_follow_the_size() {
        for (size, level) in
            [(0, 0), (1, 0), (4 << 20, 0), ((4 << 20) + 1, 1), (256 << 20, 1), (257 << 20, 2), (MAX_DISK, 4)]
        {
            assert_eq!(levels(size), level, "{size}");
        }
    }
}
