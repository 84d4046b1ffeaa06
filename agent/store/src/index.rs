//! Where chunks stand: 16 bytes each in memory. And a sample of block hashes, so that like blocks are found again wherever
//! they turn up, within a bound of memory.
//!
//! A slot holds 64 bits of the id, which finds candidates; the full id stands in the frame and is compared there.

use crate::id::Kind;

/// A place in a pack. `offset` and `length` are multiples of 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) pack: u32,
    pub(crate) offset: u64,
    pub(crate) length: usize,
    pub(crate) kind: Kind,
}

/// Highest number of a pack: 22 bits, a petabyte of packs of 256 MiB.
pub(crate) const MAX_PACK: u32 = (1 << 22) - 1;
/// Frames begin below this: 24 bits of 16 bytes.
pub(crate) const MAX_OFFSET: u64 = 1 << 28;

/// What a collection or verification notes beside a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// A point needs it.
    Live,
    /// It was read and is whole.
    Checked,
}

impl Mark {
    const fn bit(self) -> u64 {
        match self {
            Self::Live => 1,
            Self::Checked => 2,
        }
    }
}

const MARKS: u64 = 3;

impl Place {
    /// pack 22 | offset/16 24 | length/16 14 | kind 2 | marks 2. Never zero, because packs count from 1.
    fn bits(self) -> u64 {
        let length = u64::try_from(self.length / 16).unwrap_or_default();
        (u64::from(self.pack) << 42) | ((self.offset / 16) << 18) | (length << 4) | (u64::from(self.kind.number()) << 2)
    }

    fn from_bits(bits: u64) -> Self {
        let low = |shift: u32, width: u32| (bits >> shift) & ((1 << width) - 1);
        let kind = u8::try_from(low(2, 2)).ok().and_then(Kind::from_number).unwrap_or(Kind::Data);
        Self {
            pack: u32::try_from(low(42, 22)).unwrap_or_default(),
            offset: low(18, 24) * 16,
            length: usize::try_from(low(4, 14) * 16).unwrap_or_default(),
            kind,
        }
    }
}

/// Slots of 16 bytes, open addressing. A slot's home is its key's share of the table, so the table is nearly sorted and
/// can grow by any factor.
#[derive(Debug, Default)]
struct Table {
    slots: Vec<(u64, u64)>,
    used: usize,
}

impl Table {
    /// Grows at 7/8 full: the mean probe is then 4 slots, which lie in one cache line.
    fn grow(&mut self) {
        if (self.used + 1) * 8 <= self.slots.len() * 7 {
            return;
        }
        let larger = (self.slots.len() * 3 / 2).max(64);
        let old = std::mem::replace(&mut self.slots, vec![(0, 0); larger]);
        old.into_iter().filter(|(_, bits)| *bits != 0).for_each(|slot| self.put(slot));
    }

    fn home(&self, key: u64) -> usize {
        let share = (u128::from(key.wrapping_mul(SPREAD)) * self.slots.len() as u128) >> 64;
        usize::try_from(share).unwrap_or_default()
    }

    fn put(&mut self, slot: (u64, u64)) {
        let mut at = self.home(slot.0);
        while self.slots[at].1 != 0 {
            at = (at + 1) % self.slots.len();
        }
        self.slots[at] = slot;
    }

    fn insert(&mut self, key: u64, bits: u64) {
        self.grow();
        self.put((key, bits));
        self.used += 1;
    }

    /// Positions with this key.
    fn find(&self, key: u64) -> impl Iterator<Item = usize> + '_ {
        let length = self.slots.len();
        let home = if length == 0 { 0 } else { self.home(key) };
        let run = (0..length).map(move |step| (home + step) % length);
        run.take_while(|at| self.slots[*at].1 != 0).filter(move |at| self.slots[*at].0 == key)
    }

    /// Takes a slot out and closes the gap, so that no search ends too early.
    fn remove_at(&mut self, mut hole: usize) {
        let length = self.slots.len();
        let mut at = hole;
        loop {
            at = (at + 1) % length;
            let slot = self.slots[at];
            if slot.1 == 0 {
                break;
            }
            let home = self.home(slot.0);
            // It may move back unless its home lies after the hole.
            let after = if hole <= at { hole < home && home <= at } else { hole < home || home <= at };
            if !after {
                self.slots[hole] = slot;
                hole = at;
            }
        }
        self.slots[hole] = (0, 0);
        self.used -= 1;
    }

    fn retain(&mut self, keep: impl Fn(u64, u64) -> bool) {
        let old = std::mem::take(&mut self.slots);
        let length = old.len();
        self.slots = vec![(0, 0); length];
        self.used = 0;
        for slot in old.into_iter().filter(|slot| slot.1 != 0 && keep(slot.0, slot.1)) {
            self.put(slot);
            self.used += 1;
        }
    }
}

/// Odd, with bits like those of a random number: home slots follow all bits of a key.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
/// Tables that grow by themselves, so that growing never needs the whole index twice.
const SHARDS: usize = 64;

/// All chunks.
#[derive(Debug)]
pub(crate) struct Index {
    shards: Vec<Table>,
}

impl Default for Index {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Table::default()).collect() }
    }
}

impl Index {
    fn shard(key: u64) -> usize {
        usize::try_from((key >> 1) % SHARDS as u64).unwrap_or_default()
    }

    pub(crate) fn insert(&mut self, prefix: u64, place: Place) {
        self.shards[Self::shard(prefix)].insert(prefix, place.bits());
    }

    /// Where chunks with this prefix stand; as a rule one.
    pub(crate) fn find(&self, prefix: u64) -> impl Iterator<Item = Place> + '_ {
        let table = &self.shards[Self::shard(prefix)];
        table.find(prefix).map(|at| Place::from_bits(table.slots[at].1))
    }

    fn slot(&self, prefix: u64, place: Place) -> Option<usize> {
        let table = &self.shards[Self::shard(prefix)];
        table.find(prefix).find(|at| table.slots[*at].1 & !MARKS == place.bits())
    }

    /// False where it was not there.
    pub(crate) fn remove(&mut self, prefix: u64, place: Place) -> bool {
        let Some(at) = self.slot(prefix, place) else { return false };
        self.shards[Self::shard(prefix)].remove_at(at);
        true
    }

    /// True where it bore the mark before.
    pub(crate) fn mark(&mut self, prefix: u64, place: Place, mark: Mark) -> bool {
        let Some(at) = self.slot(prefix, place) else { return false };
        let bits = &mut self.shards[Self::shard(prefix)].slots[at].1;
        let before = *bits & mark.bit() != 0;
        *bits |= mark.bit();
        before
    }

    pub(crate) fn is_marked(&self, prefix: u64, place: Place, mark: Mark) -> bool {
        let marked = |at: usize| self.shards[Self::shard(prefix)].slots[at].1 & mark.bit() != 0;
        self.slot(prefix, place).is_some_and(marked)
    }

    pub(crate) fn clear(&mut self, mark: Mark) {
        self.shards.iter_mut().flat_map(|table| &mut table.slots).for_each(|slot| slot.1 &= !mark.bit());
    }

    /// Every chunk: prefix, place, and whether it bears the mark.
    pub(crate) fn all(&self, mark: Mark) -> impl Iterator<Item = (u64, Place, bool)> + '_ {
        let used = self.shards.iter().flat_map(|table| &table.slots).filter(|slot| slot.1 != 0);
        used.map(move |(key, bits)| (*key, Place::from_bits(*bits), bits & mark.bit() != 0))
    }

    /// Forgets what stands in a pack from this offset on.
    pub(crate) fn forget(&mut self, pack: u32, from: u64) {
        for table in &mut self.shards {
            table.retain(|_, bits| {
                let place = Place::from_bits(bits);
                place.pack != pack || place.offset < from
            });
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|table| table.used).sum()
    }

    /// Memory it holds.
    pub(crate) fn bytes(&self) -> usize {
        self.shards.iter().map(|table| table.slots.capacity() * 16).sum()
    }
}

/// Block hashes and the prefix of the chunk that has the block. When the bound is reached every second one is dropped, by
/// the hash's own bits, and only such are taken from then on (sparse indexing: Lillibridge et al., FAST 2009). One hook
/// finds a whole chunk, whose other blocks are then known.
#[derive(Debug)]
pub(crate) struct Hooks {
    table: Table,
    most: usize,
    /// Hashes are taken whose lowest bits, as many as these, are zero.
    thin: u32,
}

/// Hashes kept in the packs' lists, so that hooks are there again after a restart: one in 16, 1 byte per stored KiB.
pub(crate) const LISTED: u32 = 4;

impl Hooks {
    /// `bytes`: most memory.
    pub(crate) fn new(bytes: usize) -> Self {
        Self { table: Table::default(), most: bytes / 16 * 7 / 12, thin: 0 }
    }

    /// True where the hash belongs to the sample.
    pub(crate) fn takes(&self, block: u64) -> bool {
        thinned(block, self.thin)
    }

    pub(crate) fn insert(&mut self, block: u64, chunk: u64) {
        if !self.takes(block) || self.most == 0 {
            return;
        }
        let known = self.table.find(block).next();
        if let Some(at) = known {
            // The newest is nearest to what is written next to it.
            self.table.slots[at].1 = chunk;
            return;
        }
        if self.table.used >= self.most {
            self.thin += 1;
            let thin = self.thin;
            self.table.retain(|block, _| thinned(block, thin));
        }
        if self.takes(block) {
            self.table.insert(block, chunk);
        }
    }

    /// The prefix of a chunk that had the block once.
    pub(crate) fn find(&self, block: u64) -> Option<u64> {
        self.table.find(block).next().map(|at| self.table.slots[at].1)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.table.slots.capacity() * 16
    }
}

/// True where this many of the lowest bits are zero.
pub(crate) fn thinned(hash: u64, bits: u32) -> bool {
    hash.trailing_zeros() >= bits
}
