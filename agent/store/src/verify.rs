//! Reads what points need and names what is damaged: guest, point, disk, range and why.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use roost_protocol::backup::Damage;
use roost_protocol::{GuestId, PointId};
use serde::{Deserialize, Serialize};

use crate::chunks::lock;
use crate::error::{Result, StoreError, Tried};
use crate::files::{read_whole, write_whole};
use crate::id::{BLOCK_BYTES, ChunkId, Kind};
use crate::index::{Mark, Place};
use crate::manifest::{Disk, File, Manifest};
use crate::node::{Entry, LEAF_BYTES, leaves_under};
use crate::state::Fault;
use crate::store::Store;
use crate::tree::{load_inner, load_leaf};

/// What is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    All,
    Guest(GuestId),
    Point(PointId),
}

/// How far a verification came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub points_done: usize,
    pub points: usize,
    /// Bytes of frames read so far; what several points share is read once.
    pub bytes: u64,
    /// Damaged ranges found so far.
    pub damages: usize,
}

/// Told after every leaf; may stop the work.
pub type Watcher<'a> = dyn FnMut(Progress) -> ControlFlow<()> + 'a;

const DAMAGED: &str = "damaged.json";

/// One verification.
struct Walk<'a, 'w> {
    store: &'a Store,
    watcher: &'a mut Watcher<'w>,
    progress: Progress,
    /// What is wrong with chunks found damaged.
    bad: BTreeMap<ChunkId, String>,
    found: Vec<Damage>,
    stopped: bool,
}

impl Store {
    /// Reads every chunk of the points in scope and checks every byte. Damaged chunks are remembered: their content is
    /// stored anew when it comes again, which heals these points. Stopped by the watcher, it returns what it found so far.
    pub fn verify(&self, scope: Scope, watcher: &mut Watcher<'_>) -> Result<Vec<Damage>> {
        let _one = lock(&self.inner().verifying);
        self.chunks().state().index.clear(Mark::Checked);
        self.walk(scope, watcher)
    }

    /// The points of a guest that are whole, newest first. Reads all of them.
    pub fn whole_points(&self, guest: GuestId, watcher: &mut Watcher<'_>) -> Result<Vec<PointId>> {
        let damages = self.verify(Scope::Guest(guest), watcher)?;
        let whole = self.newest_first(guest).into_iter();
        Ok(whole.filter(|point| damages.iter().all(|damage| damage.point != *point)).collect())
    }

    /// The newest whole point of the same guest that is older than this one, which may be damaged. Reads as many points as
    /// it needs to.
    pub fn older_whole(&self, point: PointId, watcher: &mut Watcher<'_>) -> Result<Option<PointId>> {
        let guest = self.manifest(point)?.point.guest;
        let _one = lock(&self.inner().verifying);
        self.chunks().state().index.clear(Mark::Checked);
        let older = self.newest_first(guest).into_iter().skip_while(|other| *other != point).skip(1);
        for candidate in older {
            if self.walk(Scope::Point(candidate), watcher)?.is_empty() {
                return Ok(Some(candidate));
            }
        }
        Ok(None)
    }

    fn newest_first(&self, guest: GuestId) -> Vec<PointId> {
        let all = self.points().into_iter().rev();
        all.filter(|summary| summary.guest == guest).map(|summary| summary.point).collect()
    }

    fn walk(&self, scope: Scope, watcher: &mut Watcher<'_>) -> Result<Vec<Damage>> {
        let points: Vec<PointId> = match scope {
            Scope::All => self.points().iter().map(|summary| summary.point).collect(),
            Scope::Guest(guest) => self.newest_first(guest),
            Scope::Point(point) => vec![self.manifest(point)?.id],
        };
        let progress = Progress { points: points.len(), ..Progress::default() };
        let mut walk = Walk { store: self, watcher, progress, bad: BTreeMap::new(), found: Vec::new(), stopped: false };
        if scope == Scope::All {
            walk.found.extend(self.broken().into_iter().map(|(point, why)| broken(point, why)));
        }
        for point in points {
            // Removed meanwhile: nothing to verify.
            let Ok(hold) = self.hold(point) else { continue };
            walk.point(hold.manifest())?;
            walk.progress.points_done += 1;
            if walk.stopped {
                break;
            }
        }
        let found = walk.found;
        // Best effort: what can't be noted on a full disk is found again by the next verification.
        let _ = self.write_damaged();
        Ok(found)
    }

    /// Remembers damaged frames over a restart.
    fn write_damaged(&self) -> Result<()> {
        if self.options().read_only {
            return Ok(());
        }
        let state = self.chunks().state();
        let faults = state.damaged.iter();
        let noted: Vec<Noted> = faults
            .map(|((pack, offset), fault)| Noted {
                pack: *pack,
                offset: *offset,
                prefix: format!("{:016x}", fault.prefix),
                why: fault.why.clone(),
            })
            .collect();
        drop(state);
        let before = self.read_damaged();
        if before == noted {
            return Ok(());
        }
        let bytes = serde_json::to_vec_pretty(&noted).map_err(|e| StoreError::Worker(format!("write JSON: {e}")))?;
        write_whole(&*self.chunks().files, "", DAMAGED, &bytes).tried(|| format!("write {DAMAGED}"))
    }

    /// What was noted; nothing where the note itself is damaged, because verification finds it all again.
    fn read_damaged(&self) -> Vec<Noted> {
        /// 10,000 faults of some 200 bytes.
        const LONGEST: u64 = 8 << 20;
        let bytes = read_whole(&*self.chunks().files, DAMAGED, LONGEST).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// Looks again at the frames that were damaged when the store was last open.
    pub(crate) fn recheck_damaged(&self) -> Result<()> {
        let chunks = self.chunks();
        for noted in self.read_damaged() {
            let Ok(prefix) = u64::from_str_radix(&noted.prefix, 16) else { continue };
            let place = chunks.state().index.find(prefix).find(|at| at.pack == noted.pack && at.offset == noted.offset);
            let Some(place) = place else { continue };
            let why = match chunks.read_frame(place) {
                Ok(packed) => packed.verify(&chunks.namer).err(),
                Err(error) if error.is_damage() => Some(error.to_string()),
                Err(_) => Some(noted.why),
            };
            if let Some(why) = why {
                chunks.discard(prefix, place, &why);
            }
        }
        Ok(())
    }

    /// Frames known to be damaged: pack file, offset and why.
    pub fn faults(&self) -> Vec<(String, u64, String)> {
        let state = self.chunks().state();
        let one = |((pack, offset), fault): (&(u32, u64), &Fault)| {
            (crate::pack::pack_name(*pack), *offset, fault.why.clone())
        };
        state.damaged.iter().map(one).collect()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Noted {
    pack: u32,
    offset: u64,
    prefix: String,
    why: String,
}

fn broken(point: PointId, why: String) -> Damage {
    let why = format!("the manifest is damaged: {why}");
    Damage { guest: GuestId::from_u128(0), point, disk: String::new(), from: 0, length: 0, why }
}

impl Walk<'_, '_> {
    fn point(&mut self, manifest: &Manifest) -> Result<()> {
        for disk in &manifest.point.disks {
            let root = disk.root();
            if let Some(top) = root.top {
                self.node(manifest, disk, root.levels(), 0, &top)?;
            }
        }
        manifest.point.files.iter().try_for_each(|file| self.file(manifest, file))
    }

    fn node(&mut self, manifest: &Manifest, disk: &Disk, level: u32, number: u64, entry: &Entry) -> Result<()> {
        if self.stopped {
            return Ok(());
        }
        let under = leaves_under(level) * LEAF_BYTES;
        let start = number * under;
        if let Some(why) = self.check(&entry.id)? {
            self.damage(manifest, &disk.name, start, under.min(disk.size_bytes.saturating_sub(start)), &why);
            return Ok(());
        }
        if level == 0 {
            return self.leaf(manifest, disk, start, &entry.id);
        }
        let inner = load_inner(self.store.chunks(), &entry.id)?;
        for (at, child) in (number * 64..).zip(&inner.children) {
            if let Some(child) = child {
                self.node(manifest, disk, level - 1, at, child)?;
            }
        }
        Ok(())
    }

    fn leaf(&mut self, manifest: &Manifest, disk: &Disk, start: u64, id: &ChunkId) -> Result<()> {
        let leaf = load_leaf(self.store.chunks(), id)?;
        let faults: Vec<Option<String>> = leaf.chunks.iter().map(|id| self.check(id)).collect::<Result<_>>()?;
        for run in leaf.runs() {
            let Some(why) = run.from.and_then(|(chunk, _)| faults[chunk].clone()) else { continue };
            let from = start + run.first as u64 * BLOCK_BYTES;
            let length = (run.blocks as u64 * BLOCK_BYTES).min(disk.size_bytes.saturating_sub(from));
            self.damage(manifest, &disk.name, from, length, &why);
        }
        self.progress.damages = self.found.len();
        self.stopped = (self.watcher)(self.progress).is_break();
        Ok(())
    }

    fn file(&mut self, manifest: &Manifest, file: &File) -> Result<()> {
        let chunks = self.store.chunks();
        let mut content = Vec::new();
        for id in &file.chunks {
            match chunks.content(id, Kind::Blob) {
                Ok(piece) => content.extend(piece),
                Err(error) => {
                    self.damage(manifest, &file.name, 0, file.size_bytes, &error.to_string());
                    return Ok(());
                }
            }
        }
        if chunks.namer.digest(&content) != file.digest {
            self.damage(manifest, &file.name, 0, file.size_bytes, "its content does not match its digest");
        }
        Ok(())
    }

    /// What is wrong with a chunk; each is read once.
    fn check(&mut self, id: &ChunkId) -> Result<Option<String>> {
        if let Some(why) = self.bad.get(id) {
            return Ok(Some(why.clone()));
        }
        let chunks = self.store.chunks();
        let places: Vec<Place> = chunks.state().index.find(id.prefix()).collect();
        if places.iter().any(|place| chunks.state().index.is_marked(id.prefix(), *place, Mark::Checked)) {
            return Ok(None);
        }
        let why = match chunks.any_content(id) {
            Ok(_) => {
                self.progress.bytes += places.iter().map(|place| place.length as u64).sum::<u64>();
                let mut state = chunks.state();
                let places: Vec<Place> = state.index.find(id.prefix()).collect();
                for place in places {
                    state.index.mark(id.prefix(), place, Mark::Checked);
                }
                return Ok(None);
            }
            Err(error) => error.to_string(),
        };
        self.bad.insert(*id, why.clone());
        Ok(Some(why))
    }

    /// Adds a range; joins it to the last where it goes on.
    fn damage(&mut self, manifest: &Manifest, disk: &str, from: u64, length: u64, why: &str) {
        if let Some(last) = self.found.last_mut()
            && last.point == manifest.id
            && last.disk == disk
            && last.from + last.length == from
            && last.why == why
        {
            last.length += length;
            return;
        }
        let (guest, point) = (manifest.point.guest, manifest.id);
        self.found.push(Damage { guest, point, disk: disk.into(), from, length, why: why.into() });
    }
}
