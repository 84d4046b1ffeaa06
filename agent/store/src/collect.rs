//! Takes away what no point needs. What it may take is decided so that nothing anybody relies on can be among it:
//!
//! 1. A *tick* is taken; the *limit* is this tick, or the beginning of the oldest draft or intake that runs now.
//! 2. All chunks of all points and holds of this moment are marked.
//! 3. A pack goes only if nothing in it was relied on since the limit. Its marked chunks are first moved and durable.
//!
//! Any chunk of a point that came later was marked through an older point, or was relied on (stored, or found stored) by a
//! draft or intake that was running at the tick or began after it: then its pack was touched at or after the limit.
//! A manifest or node that can't be read hides what it needs, so then nothing is taken until it is healed or removed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::chunks::{Chunks, lock};
use crate::error::{Result, StoreError, Tried};
use crate::id::ChunkId;
use crate::index::{Mark, Place};
use crate::manifest::Manifest;
use crate::node::Entry;
use crate::pack::{PACK_HEADER, PACKS};
use crate::state::{Lane, PackState};
use crate::store::Store;
use crate::tree::{load_inner, load_leaf};

/// How much a collection may do before it returns. The next call goes on where it stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Bytes to move; one pack may exceed it.
    pub bytes: u64,
    pub time: Duration,
}

impl Budget {
    /// Until it is done.
    pub const ALL: Self = Self { bytes: u64::MAX, time: Duration::MAX };
}

/// What a collection did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Bytes of removed packs, less what was moved out of them.
    pub freed_bytes: u64,
    pub moved_bytes: u64,
    pub packs: usize,
    /// False: the budget ended it; call again.
    pub done: bool,
    /// Nothing may be taken until this is healed or removed.
    pub blocked: Option<String>,
}

/// How far a collection came.
#[derive(Debug)]
pub(crate) struct Marking {
    /// Packs touched at or after this stay.
    limit: u64,
    /// Still to be marked.
    roots: Vec<Arc<Manifest>>,
    /// Packs that were looked at and stay.
    kept: Vec<u32>,
}

/// Packs whose lists are in memory at a time: 2 MiB each.
const BATCH: usize = 4;
/// So many packs that are much too small are made one.
const SMALL_PACKS: usize = 8;
/// A pack is much too small below this share of its full size.
const SMALL_SHARE: u64 = 8;

impl Store {
    /// Frees what no point, draft, reader or intake needs, within a budget.
    pub fn collect(&self, budget: Budget) -> Result<Collected> {
        self.writable()?;
        let end = Instant::now().checked_add(budget.time);
        let over = || end.is_some_and(|end| Instant::now() >= end);
        let mut held = lock(&self.inner().marking);
        let mut marking = match held.take() {
            Some(marking) => marking,
            None => match self.begin()? {
                Ok(marking) => marking,
                Err(why) => return Ok(Collected { blocked: Some(why), ..Collected::default() }),
            },
        };
        let mut collected = Collected::default();
        match self.mark(&mut marking, &over) {
            Ok(true) => {}
            Ok(false) => {
                *held = Some(marking);
                return Ok(collected);
            }
            Err(error) if error.is_damage() || matches!(error, StoreError::NoKey { .. }) => {
                collected.blocked = Some(error.to_string());
                return Ok(collected);
            }
            Err(error) => return Err(error),
        }
        let swept = self.sweep(&mut marking, budget.bytes, &over, &mut collected)?;
        collected.done = swept;
        if !swept {
            *held = Some(marking);
        }
        Ok(collected)
    }

    /// Takes the tick and then, together, all points and holds; in this order (see the proof above). Says why nothing may be
    /// taken.
    fn begin(&self) -> Result<std::result::Result<Marking, String>> {
        let limit = {
            let mut state = self.chunks().state();
            let tick = state.next_tick();
            state.index.clear(Mark::Live);
            state.sessions.values().copied().min().unwrap_or(tick).min(tick)
        };
        let points = self.locked_points();
        if let Some((point, why)) = points.broken.first_key_value() {
            return Ok(Err(format!("the manifest of point {point} is damaged: {why}")));
        }
        self.settle(&points)?;
        let roots = points.whole.values().chain(points.holds.values()).cloned().collect();
        Ok(Ok(Marking { limit, roots, kept: Vec::new() }))
    }

    /// True when all is marked.
    fn mark(&self, marking: &mut Marking, over: &dyn Fn() -> bool) -> Result<bool> {
        while let Some(manifest) = marking.roots.last().cloned() {
            for file in &manifest.point.files {
                mark_chunks(self.chunks(), &file.chunks);
            }
            for disk in &manifest.point.disks {
                let root = disk.root();
                if let Some(top) = &root.top
                    && !mark_node(self.chunks(), root.levels(), top, over)?
                {
                    return Ok(false);
                }
            }
            marking.roots.pop();
        }
        Ok(true)
    }

    /// True when every pack was dealt with.
    fn sweep(
        &self,
        marking: &mut Marking,
        bytes: u64,
        over: &dyn Fn() -> bool,
        collected: &mut Collected,
    ) -> Result<bool> {
        loop {
            if over() || collected.moved_bytes >= bytes {
                return Ok(false);
            }
            let victims = self.victims(marking, bytes - collected.moved_bytes);
            if victims.is_empty() {
                return Ok(true);
            }
            self.move_out(victims, marking, collected)?;
        }
    }

    /// Packs worth removing with all their chunks, those first that need least moving; no more than the bytes allow, but
    /// one.
    fn victims(&self, marking: &Marking, bytes: u64) -> Vec<Victim> {
        let (chunks, options) = (self.chunks(), self.options());
        let state = chunks.state();
        let mut live: BTreeMap<u32, u64> = BTreeMap::new();
        for (_, place, _) in state.index.all(Mark::Live).filter(|(_, _, live)| *live) {
            *live.entry(place.pack).or_default() += place.length as u64;
        }
        let free = |(number, pack): &(&u32, &PackState)| {
            !pack.open && pack.touched < marking.limit && !marking.kept.contains(number)
        };
        let small = |end: u64| end < options.pack_bytes / SMALL_SHARE;
        let merge = state.packs.iter().filter(free).filter(|(_, pack)| small(pack.end)).count() >= SMALL_PACKS;
        let mut worth: Vec<(u64, u32)> = Vec::new();
        for (number, pack) in state.packs.iter().filter(free) {
            let (total, live) = (pack.end - PACK_HEADER.min(pack.end), live.get(number).copied().unwrap_or(0));
            let wasted = total.saturating_sub(live) * 100 >= total * options.waste_percent;
            if wasted || pack.print != chunks.keys.current() || (merge && small(pack.end)) {
                worth.push((live, *number));
            }
        }
        worth.sort_unstable();
        let mut left = bytes;
        let fits = |(live, _): &(u64, u32)| {
            let fits = left > 0;
            left = left.saturating_sub(*live);
            fits
        };
        let worth: Vec<(u64, u32)> = worth.into_iter().take(BATCH).take_while(fits).collect();
        let mut victims: BTreeMap<u32, Victim> =
            worth.into_iter().map(|(_, number)| (number, Victim { number, ..Victim::default() })).collect();
        for (prefix, place, live) in state.index.all(Mark::Live) {
            if let Some(victim) = victims.get_mut(&place.pack) {
                victim.frames.push((place, prefix, live));
            }
        }
        victims.into_values().collect()
    }

    fn move_out(&self, victims: Vec<Victim>, marking: &mut Marking, collected: &mut Collected) -> Result<()> {
        let mut moved = Vec::new();
        for mut victim in victims {
            victim.frames.sort_unstable();
            match self.copy(&victim) {
                Ok(bytes) => moved.push((victim, bytes)),
                // What can't be read can't be moved; the pack stays as it is, and verification names the damage.
                Err(error) if error.is_damage() => marking.kept.push(victim.number),
                Err(error) => return Err(error),
            }
        }
        self.chunks().sync_lane(Lane::MovedData)?;
        self.chunks().sync_lane(Lane::MovedNodes)?;
        for (victim, bytes) in moved {
            collected.moved_bytes += bytes;
            match self.forget(&victim, marking.limit) {
                Some(size) => {
                    self.chunks().remove_pack(victim.number)?;
                    collected.packs += 1;
                    collected.freed_bytes += size.saturating_sub(bytes);
                }
                None => marking.kept.push(victim.number),
            }
        }
        self.chunks().files.sync_folder(PACKS).tried(|| format!("sync {PACKS}"))
    }

    /// Copies a pack's live chunks, except those that stand whole in another pack too.
    fn copy(&self, victim: &Victim) -> Result<u64> {
        let chunks = self.chunks();
        let mut bytes = 0;
        for (place, prefix, _) in victim.frames.iter().filter(|(_, _, live)| *live) {
            let packed = chunks.read_frame(*place)?;
            let others: Vec<Place> =
                chunks.state().index.find(*prefix).filter(|other| other.pack != place.pack).collect();
            let twice = others.into_iter().any(|other| {
                let same = |there: crate::frame::Packed| there.id == packed.id && there.verify(&chunks.namer).is_ok();
                chunks.read_frame(other).is_ok_and(same) && chunks.touch(*prefix, other)
            });
            if !twice {
                bytes += chunks.append(Lane::moved(packed.kind), &packed)?.length as u64;
            }
        }
        Ok(bytes)
    }

    /// Forgets a pack, unless somebody relied on it meanwhile. Tells its size.
    fn forget(&self, victim: &Victim, limit: u64) -> Option<u64> {
        let mut state = self.chunks().state();
        let pack = state.packs.get(&victim.number)?;
        if pack.touched >= limit {
            return None;
        }
        let size = pack.end;
        for (place, prefix, _) in &victim.frames {
            state.index.remove(*prefix, *place);
        }
        state.packs.remove(&victim.number);
        state.damaged.retain(|(pack, _), _| *pack != victim.number);
        Some(size)
    }
}

/// A pack that may go.
#[derive(Debug, Default)]
struct Victim {
    number: u32,
    /// Place, prefix, and whether a point needs it.
    frames: Vec<(Place, u64, bool)>,
}

/// Marks a node after all below it, so that a marked node need not be visited again. False when time was over.
fn mark_node(chunks: &Chunks, level: u32, entry: &Entry, over: &dyn Fn() -> bool) -> Result<bool> {
    if over() {
        return Ok(false);
    }
    let places: Vec<Place> = chunks.state().index.find(entry.id.prefix()).collect();
    let marked = |place: &Place| chunks.state().index.is_marked(entry.id.prefix(), *place, Mark::Live);
    if !places.is_empty() && places.iter().all(marked) {
        return Ok(true);
    }
    if level == 0 {
        mark_chunks(chunks, &load_leaf(chunks, &entry.id)?.chunks);
    } else {
        for child in load_inner(chunks, &entry.id)?.children.iter().flatten() {
            if !mark_node(chunks, level - 1, child, over)? {
                return Ok(false);
            }
        }
    }
    mark_chunks(chunks, &[entry.id]);
    Ok(true)
}

/// Marks every place of these chunks.
fn mark_chunks(chunks: &Chunks, ids: &[ChunkId]) {
    let mut state = chunks.state();
    for id in ids {
        let places: Vec<Place> = state.index.find(id.prefix()).collect();
        for place in places {
            state.index.mark(id.prefix(), place, Mark::Live);
        }
    }
}
