//! Takes a point from another store. Nothing that a peer says is believed: chunks are checked against their ids, nodes
//! against their bounds, digests against the contents they speak of.
//!
//! The sender's side is `Store::hold` and `Store::raw`. The receiver asks `missing` what to fetch, adopts it, and asks
//! again, until nothing is missing: one round for each level of the map and one for the blocks. An intake that broke off is
//! begun anew and finds what came before. A point may also be read before its data is here: see [`Partial`].

use std::collections::BTreeSet;

use roost_protocol::PointId;

use crate::chunks::Head;
use crate::error::{Refusal, Result, StoreError};
use crate::frame::{FRAME, Packed};
use crate::id::{BlockHash, ChunkId, Kind, Namer};
use crate::manifest::{Disk, File, Manifest, Notes};
use crate::node::{Entry, FANOUT, Leaf, disk_digest, leaf_digest};
use crate::partial::Partial;
use crate::store::{Hold, Store};
use crate::tree::{Finder, load_inner, load_leaf};

/// Chunks named at a time: 2 MiB of ids.
const MOST: usize = 65_536;

/// Takes a point from another store.
#[derive(Debug)]
pub struct Intake {
    pub(crate) store: Store,
    session: u64,
    poison: u64,
    /// Nodes of which everything is here and checked.
    whole: BTreeSet<ChunkId>,
    adopted_bytes: u64,
}

/// What came of adopting a point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// It is durable.
    Point(PointId),
    /// Fetch these and ask again.
    Missing(Vec<ChunkId>),
}

/// One look at what is missing of a point.
struct Look<'a> {
    intake: &'a mut Intake,
    /// Maps and small files alone.
    maps: bool,
    missing: Vec<ChunkId>,
    /// The same, to name none twice.
    wanted: BTreeSet<ChunkId>,
}

impl Store {
    /// A chunk as it travels, checked: compressed, not sealed.
    pub fn raw(&self, id: ChunkId) -> Result<Vec<u8>> {
        self.chunks().packed(&id)?.to_wire()
    }

    /// Begins to take points from another store. What is adopted, or was found here, stays as long as this lives.
    pub fn intake(&self) -> Result<Intake> {
        self.writable()?;
        let mut state = self.chunks().state();
        let (session, poison) = (state.begin_session(), state.poison);
        drop(state);
        Ok(Intake { store: self.clone(), session, poison, whole: BTreeSet::new(), adopted_bytes: 0 })
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.store.chunks().state().sessions.remove(&self.session);
    }
}

impl Intake {
    /// Which of these are not here.
    pub fn wants(&self, ids: &[ChunkId]) -> Result<Vec<ChunkId>> {
        let absent = |id: &&ChunkId| self.here(id).map(|head| head.is_none());
        let wanted = ids.iter().filter_map(|id| match absent(&id) {
            Ok(true) => Some(Ok(*id)),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        });
        wanted.collect()
    }

    /// The chunk, if it is here; then it stays.
    fn here(&self, id: &ChunkId) -> Result<Option<Head>> {
        let chunks = self.store.chunks();
        let head = chunks.head(id)?;
        Ok(head.filter(|head| chunks.touch(id.prefix(), head.place)))
    }

    /// Takes a chunk that a peer sent.
    ///
    /// # Errors
    /// `Lie` when the bytes are not that chunk.
    pub fn adopt(&mut self, id: ChunkId, bytes: &[u8]) -> Result<()> {
        let (packed, _) = sent(&self.store.chunks().namer, id, bytes)?;
        self.adopted_bytes += self.store.chunks().add(&packed)?;
        Ok(())
    }

    /// What must be fetched next for this point; at most 65,536 chunks. Empty: all is here and checked.
    ///
    /// # Errors
    /// `Lie` when the manifest or a node does not speak the truth about what is under it.
    pub fn missing(&mut self, manifest: &Manifest) -> Result<Vec<ChunkId>> {
        self.look(manifest, false)
    }

    /// What must be fetched next before the point can be read while its data is elsewhere: the same of its maps and small
    /// files. Empty: they are here and checked.
    ///
    /// # Errors
    /// As [`Self::missing`].
    pub fn missing_maps(&mut self, manifest: &Manifest) -> Result<Vec<ChunkId>> {
        self.look(manifest, true)
    }

    /// The point, read while its data is elsewhere; for when no map is missing.
    pub fn partial(self, manifest: Manifest) -> Partial {
        Partial::new(self, manifest)
    }

    fn look(&mut self, manifest: &Manifest, maps: bool) -> Result<Vec<ChunkId>> {
        let genuine = check(manifest)?;
        if genuine.point.names != self.store.chunks().namer.label() {
            return Err(Refusal::OtherDomain.into());
        }
        // Who reads maps alone relies on each node for as long as it reads; what another point holds may go.
        let base = if maps { None } else { self.base(manifest)? };
        let mut look = Look { intake: self, maps, missing: Vec::new(), wanted: BTreeSet::new() };
        for disk in &manifest.point.disks {
            let base = base.as_ref().and_then(|hold| hold.manifest().disk(&disk.name));
            look.disk(disk, base)?;
        }
        for file in &manifest.point.files {
            look.file(file)?;
        }
        Ok(look.missing)
    }

    /// Makes the manifest a point of this store if all is here. When it is, it survives a power cut.
    pub fn adopt_point(&mut self, manifest: &Manifest) -> Result<Adopted> {
        let missing = self.missing(manifest)?;
        if !missing.is_empty() {
            return Ok(Adopted::Missing(missing));
        }
        let chunks = self.store.chunks();
        chunks.sync()?;
        if chunks.state().poison != self.poison {
            return Err(StoreError::Poisoned);
        }
        if self.store.manifest(manifest.id).is_err() {
            let mut adopted = check(manifest)?;
            // Whether it is pinned is this store's own affair.
            adopted.set_notes(Notes { proof: manifest.notes.proof.clone(), ..Notes::default() })?;
            self.store.keep(adopted)?;
        }
        Ok(Adopted::Point(manifest.id))
    }

    /// Bytes by which the store grew.
    pub fn adopted_bytes(&self) -> u64 {
        self.adopted_bytes
    }

    /// A point of the same guest that is here whole: what both maps share need not be looked at.
    fn base(&self, manifest: &Manifest) -> Result<Option<Hold>> {
        // With damage about, everything is looked at: what the peer has heals it.
        if !self.store.chunks().state().damaged.is_empty() {
            return Ok(None);
        }
        let points = self.store.points();
        let of_guest = || points.iter().rev().filter(|point| point.guest == manifest.point.guest);
        let parent = of_guest().find(|point| Some(point.point) == manifest.point.parent);
        match parent.or_else(|| of_guest().next()) {
            Some(point) => self.store.hold(point.point).map(Some),
            None => Ok(None),
        }
    }
}

/// A chunk as a peer sent it, checked, and its content.
pub(crate) fn sent(namer: &Namer, id: ChunkId, bytes: &[u8]) -> Result<(Packed, Vec<u8>)> {
    let lie = |why: String| StoreError::Lie(format!("chunk {id}: {why}"));
    if bytes.len() > FRAME {
        return Err(lie(format!("{} bytes are more than a chunk can have", bytes.len())));
    }
    let packed = Packed::from_wire(bytes).ok_or_else(|| lie("it is no frame".into()))?;
    if packed.id != id {
        return Err(lie(format!("chunk {} came instead", packed.id)));
    }
    let plain = packed.verify(namer).map_err(lie)?;
    let node = match packed.kind {
        Kind::Leaf => Leaf::from_bytes(&plain).is_some(),
        Kind::Inner => crate::node::Inner::from_bytes(&plain).is_some(),
        Kind::Data | Kind::Blob => true,
    };
    if !node {
        return Err(lie("it is no node of a map".into()));
    }
    Ok((packed, plain))
}

/// The manifest as reading it anew would give it.
fn check(manifest: &Manifest) -> Result<Manifest> {
    Manifest::from_bytes(&manifest.to_bytes()?).map_err(|why| StoreError::Lie(format!("the manifest: {why}")))
}

impl Look<'_> {
    fn full(&self) -> bool {
        self.missing.len() >= MOST
    }

    fn want(&mut self, id: ChunkId) {
        if !self.full() && self.wanted.insert(id) {
            self.missing.push(id);
        }
    }

    fn disk(&mut self, disk: &Disk, base: Option<&Disk>) -> Result<()> {
        let root = disk.root();
        if disk_digest(&self.intake.store.chunks().namer, root.size, root.top.as_ref()) != disk.digest {
            return Err(StoreError::Lie(format!("the digest of disk {} is not that of its map", disk.name)));
        }
        let mut base = base.map(|base| Finder::new(base.root()));
        match root.top {
            Some(top) => self.node(root.levels(), 0, &top, base.as_mut()).map(|_| ()),
            None => Ok(()),
        }
    }

    /// True where all below is here and checked.
    fn node(&mut self, level: u32, number: u64, entry: &Entry, mut base: Option<&mut Finder>) -> Result<bool> {
        if self.full() {
            return Ok(false);
        }
        if self.intake.whole.contains(&entry.id) {
            return Ok(true);
        }
        let chunks = self.intake.store.chunks().clone();
        if let Some(base) = base.as_deref_mut()
            && base.entry(&chunks, level, number)?.is_some_and(|known| known == *entry)
        {
            return Ok(true);
        }
        if self.intake.here(&entry.id)?.is_none() {
            self.want(entry.id);
            return Ok(false);
        }
        if self.maps && level == 0 {
            return Ok(false);
        }
        let whole = if level == 0 { self.leaf(entry)? } else { self.inner(level, number, entry, base)? };
        if whole {
            self.intake.whole.insert(entry.id);
        }
        Ok(whole)
    }

    fn inner(&mut self, level: u32, number: u64, entry: &Entry, mut base: Option<&mut Finder>) -> Result<bool> {
        let chunks = self.intake.store.chunks().clone();
        let inner = load_inner(&chunks, &entry.id)?;
        if inner.digest(&chunks.namer) != entry.digest {
            return Err(StoreError::Lie(format!("node {} has another digest than its parent says", entry.id)));
        }
        let mut whole = true;
        for (at, child) in (number * FANOUT as u64..).zip(&inner.children) {
            if let Some(child) = child {
                whole &= self.node(level - 1, at, child, base.as_deref_mut())?;
            }
        }
        Ok(whole)
    }

    fn leaf(&mut self, entry: &Entry) -> Result<bool> {
        let chunks = self.intake.store.chunks().clone();
        let leaf = load_leaf(&chunks, &entry.id)?;
        let mut lists = Vec::with_capacity(leaf.chunks.len());
        for id in &leaf.chunks {
            match self.intake.here(id)? {
                Some(head) => lists.push(head.hashes),
                None => self.want(*id),
            }
        }
        if lists.len() < leaf.chunks.len() {
            return Ok(false);
        }
        let lie = |what: &str| StoreError::Lie(format!("node {} {what}", entry.id));
        let hash = |slot: &crate::node::Slot| match slot.get() {
            None => Ok(BlockHash::ZERO),
            Some((chunk, block)) => {
                lists[chunk].get(block).copied().ok_or_else(|| lie("refers to blocks that a chunk does not have"))
            }
        };
        let hashes: Vec<BlockHash> = leaf.slots.iter().map(hash).collect::<Result<_>>()?;
        if leaf_digest(&chunks.namer, &hashes) != entry.digest {
            return Err(lie("has another digest than its parent says"));
        }
        Ok(true)
    }

    fn file(&mut self, file: &File) -> Result<()> {
        let mut whole = true;
        for id in &file.chunks {
            if self.intake.here(id)?.is_none() {
                self.want(*id);
                whole = false;
            }
        }
        if !whole {
            return Ok(());
        }
        let content = file.content(self.intake.store.chunks())?;
        content.map(drop).ok_or_else(|| StoreError::Lie(format!("file {} has another digest", file.name)))
    }
}
