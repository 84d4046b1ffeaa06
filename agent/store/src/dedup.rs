//! Finds blocks that are stored already, wherever they stand: first among chunks met lately, then by the hooks.
//!
//! Like content comes in runs: when one block of a chunk is met, its neighbours come next. So one hook leads to the
//! chunk's list of hashes, and the list answers for the rest.

use std::collections::{BTreeSet, HashMap, VecDeque};

use crate::chunks::Chunks;
use crate::error::Result;
use crate::id::{BlockHash, ChunkId};

/// Chunks met lately: 512 of 32 blocks are known at once, in about 1 MiB.
const RECENT: usize = 512;
/// Lists of hashes read for one window: bounds what random hits cost.
const LOOKUPS: usize = 64;
/// A chunk that has fewer of a window's blocks is not referred to: a reference costs 32 bytes in the map and a whole chunk
/// to be read for it at a restore.
const WORTH: usize = 2;

/// Where a block stands.
pub(crate) type Found = (ChunkId, usize);

/// Chunks met lately, by their blocks.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    /// First 64 bits of a block's hash; number of the chunk, block in it.
    blocks: HashMap<u64, (u64, usize)>,
    chunks: VecDeque<(ChunkId, Vec<BlockHash>)>,
    /// The number of the first in `chunks`.
    first: u64,
}

impl Recent {
    /// From now on the chunk's blocks are found.
    pub(crate) fn insert(&mut self, id: ChunkId, hashes: Vec<BlockHash>) {
        if self.chunks.len() >= RECENT
            && let Some((_, hashes)) = self.chunks.pop_front()
        {
            for hash in hashes {
                if self.blocks.get(&hash.prefix()).is_some_and(|(chunk, _)| *chunk == self.first) {
                    self.blocks.remove(&hash.prefix());
                }
            }
            self.first += 1;
        }
        let number = self.first + self.chunks.len() as u64;
        for (at, hash) in hashes.iter().enumerate() {
            self.blocks.insert(hash.prefix(), (number, at));
        }
        self.chunks.push_back((id, hashes));
    }

    pub(crate) fn find(&self, hash: &BlockHash) -> Option<Found> {
        let (number, at) = self.blocks.get(&hash.prefix())?;
        let (id, hashes) = self.chunks.get(usize::try_from(number - self.first).ok()?)?;
        (hashes.get(*at) == Some(hash)).then_some((*id, *at))
    }

    /// Where each of these blocks stands, if it does and it is worth referring to.
    pub(crate) fn find_all(&mut self, chunks: &Chunks, hashes: &[BlockHash]) -> Result<Vec<Option<Found>>> {
        self.follow_hooks(chunks, hashes)?;
        let mut found: Vec<Option<Found>> = hashes.iter().map(|hash| self.find(hash)).collect();
        let mut uses: HashMap<ChunkId, usize> = HashMap::new();
        found.iter().flatten().for_each(|(id, _)| *uses.entry(*id).or_default() += 1);
        for place in &mut found {
            if place.is_some_and(|(id, _)| uses.get(&id).is_none_or(|uses| *uses < WORTH)) {
                *place = None;
            }
        }
        Ok(found)
    }

    /// Takes up the chunks that hooks name for blocks not known yet.
    fn follow_hooks(&mut self, chunks: &Chunks, hashes: &[BlockHash]) -> Result<()> {
        let unknown: Vec<&BlockHash> = hashes.iter().filter(|hash| self.find(hash).is_none()).collect();
        let named: Vec<(BlockHash, u64)> = {
            let state = chunks.state();
            unknown.into_iter().filter_map(|hash| Some((*hash, state.hooks.find(hash.prefix())?))).collect()
        };
        let mut tried = BTreeSet::new();
        for (hash, chunk) in named {
            let known = self.find(&hash).is_some() || !tried.insert(chunk) || tried.len() > LOOKUPS;
            if known {
                continue;
            }
            if let Some((id, head)) = chunks.head_by_prefix(chunk)?
                && head.hashes.contains(&hash)
                && chunks.touch(chunk, head.place)
            {
                self.insert(id, head.hashes);
            }
        }
        Ok(())
    }
}
