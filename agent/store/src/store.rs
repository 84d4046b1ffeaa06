//! The store: its folder, its points, and what may be asked of them.
//!
//!     roost-store.json      format, id, how contents are named
//!     lock                  held by the one process that writes
//!     packs/N.pack, N.list  chunks (pack.rs)
//!     points/ID.json        one manifest for each point (manifest.rs)
//!     damaged.json          frames found damaged (verify.rs)

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use data_encoding::HEXLOWER;
use roost_protocol::backup::{Proof, Target};
use roost_protocol::{GuestId, PointId};
use serde::{Deserialize, Serialize};

use crate::chunks::{Chunks, lock};
use crate::collect::Marking;
use crate::draft::Draft;
use crate::error::{Refusal, Result, StoreError, Tried};
use crate::files::{ASIDE, Files, Folder, Unlocked, join, read_whole, write_whole};
use crate::id::Namer;
use crate::manifest::{MAX_MANIFEST, Manifest, Notes, Summary};
use crate::pack::PACKS;
use crate::reader::{DiskReader, Keeps};
use crate::seal::{Encryption, Keys};

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Threads that compress for each draft; 0: the writing thread does it.
    pub threads: usize,
    /// zstd's level.
    pub level: i32,
    /// A pack ends when it is longer. At most 256 MiB.
    pub pack_bytes: u64,
    /// Memory for finding like blocks; when it is full every second hook is dropped, again and again.
    pub hook_bytes: usize,
    /// Memory of a reader for chunks it has decoded.
    pub cache_bytes: usize,
    /// A pack is rewritten when at least this share of it, in percent, is not needed.
    pub waste_percent: u64,
    /// Seals what is written. A store is encrypted from its first day or never.
    pub encryption: Option<Encryption>,
    /// Writes nothing and takes no lock: for copies and read-only media.
    pub read_only: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            threads: 1,
            level: 1,
            pack_bytes: 256 << 20,
            hook_bytes: 32 << 20,
            cache_bytes: 4 << 20,
            waste_percent: 25,
            encryption: None,
            read_only: false,
        }
    }
}

/// What a store holds and what it costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub points: usize,
    pub chunks: usize,
    pub packs: usize,
    /// Bytes of all packs.
    pub stored_bytes: u64,
    /// Memory of the index: 16 bytes a chunk, in tables 58 to 88 % full.
    pub index_bytes: usize,
    /// Memory for finding like blocks.
    pub hook_bytes: usize,
    /// Frames known to be damaged.
    pub faults: usize,
}

/// Points kept in one store: 50 guests with 500 points each need 25,000, at about 2 KiB of memory.
pub const MAX_POINTS: usize = 100_000;
/// Copies of a point that are noted: policies name at most 8 places, and may change.
const MAX_COPIES: usize = 64;
const HEAD: &str = "roost-store.json";
const POINTS: &str = "points";
const FORMAT: &str = "roost store 1";

/// A chunk store. Cheap to clone; all calls block.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.inner.head.id)
    }
}

pub(crate) struct Inner {
    pub(crate) chunks: Arc<Chunks>,
    pub(crate) options: Options,
    head: Head,
    points: Mutex<Points>,
    /// One collection at a time; how far it came.
    pub(crate) marking: Mutex<Option<Marking>>,
    /// One verification at a time, because they share marks.
    pub(crate) verifying: Mutex<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if !self.options.read_only {
            self.chunks.close();
        }
    }
}

/// Points that are there, and what is kept from collection beside them.
#[derive(Debug, Default)]
pub(crate) struct Points {
    pub(crate) whole: BTreeMap<PointId, Arc<Manifest>>,
    /// Their manifests can't be read; why.
    pub(crate) broken: BTreeMap<PointId, String>,
    pub(crate) holds: BTreeMap<u64, Arc<Manifest>>,
    last_hold: u64,
}

/// The store's own file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    format: String,
    /// Drawn when the store was made.
    id: String,
    /// How contents are named; a store opened with another key is refused.
    names: String,
    readme: String,
}

const README: &str = "A Roost chunk store. points/*.json say what is in it; agent/store/README.md in the sources of Roost \
                      tells how to read all of it.";

/// Keeps a point's chunks from being collected, also when the point is removed meanwhile.
#[derive(Debug)]
pub struct Hold {
    store: Store,
    number: u64,
    manifest: Arc<Manifest>,
}

impl Hold {
    /// The point's manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        lock(&self.store.inner.points).holds.remove(&self.number);
    }
}

impl Store {
    /// Opens the store in this folder, or makes one.
    ///
    /// # Errors
    /// `Busy` when another process has it, `NotAStore` when the folder is something else or was encrypted otherwise.
    pub fn open(dir: &Path, options: Options) -> Result<Self> {
        let files: Arc<dyn Files> = if options.read_only {
            Arc::new(Folder::unlocked(dir))
        } else {
            let folder = Folder::lock(dir).map_err(|error| match error {
                Unlocked::Busy => StoreError::Busy { path: dir.display().to_string() },
                Unlocked::Io(source) => StoreError::Io { tried: format!("open {}", dir.display()), source },
            })?;
            Arc::new(folder)
        };
        Self::open_on(files, options)
    }

    /// The same on any file layer.
    pub fn open_on(files: Arc<dyn Files>, options: Options) -> Result<Self> {
        if !options.read_only {
            prepare(&*files)?;
        }
        let namer = options.encryption.as_ref().map_or_else(Namer::plain, |all| Namer::keyed(&all.domain));
        let head = read_head(&*files, &namer, options.read_only)?;
        let keys = Keys::new(options.encryption.as_ref());
        let hooks = if options.read_only { 0 } else { options.hook_bytes };
        let chunks = Chunks::open(files, namer, keys, options.pack_bytes, hooks, options.read_only)?;
        let points = find_points(&*chunks.files, options.read_only)?;
        let inner = Inner {
            chunks: Arc::new(chunks),
            options,
            head,
            points: Mutex::new(points),
            marking: Mutex::default(),
            verifying: Mutex::default(),
        };
        let store = Self { inner: Arc::new(inner) };
        store.recheck_damaged()?;
        Ok(store)
    }

    /// The id drawn when the store was made.
    pub fn id(&self) -> &str {
        &self.inner.head.id
    }

    pub(crate) fn chunks(&self) -> &Arc<Chunks> {
        &self.inner.chunks
    }

    pub(crate) fn options(&self) -> &Options {
        &self.inner.options
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    pub(crate) fn locked_points(&self) -> std::sync::MutexGuard<'_, Points> {
        lock(&self.inner.points)
    }

    pub(crate) fn writable(&self) -> Result<()> {
        if self.inner.options.read_only { Err(Refusal::ReadOnly.into()) } else { Ok(()) }
    }

    /// What it holds and what it costs.
    pub fn usage(&self) -> Usage {
        let points = self.locked_points().whole.len();
        let state = self.chunks().state();
        Usage {
            points,
            chunks: state.index.len(),
            packs: state.packs.len(),
            stored_bytes: state.packs.values().map(|pack| pack.end).sum(),
            index_bytes: state.index.bytes(),
            hook_bytes: state.hooks.bytes(),
            faults: state.damaged.len(),
        }
    }

    /// Begins a point. Blocks not written are as in the parent.
    pub fn draft(&self, guest: GuestId, parent: Option<PointId>) -> Result<Draft> {
        self.writable()?;
        let points = self.locked_points().whole.len();
        if points >= MAX_POINTS {
            return Err(Refusal::Points(points).into());
        }
        Draft::new(self.clone(), guest, parent)
    }

    /// All points whose manifests can be read, by guest and age.
    pub fn points(&self) -> Vec<Summary> {
        let mut all: Vec<Summary> = self.locked_points().whole.values().map(|manifest| manifest.summary()).collect();
        all.sort_by_key(|summary| (summary.guest, summary.meta.started, summary.point));
        all
    }

    /// Points whose manifests can't be read, and why. They can only be removed.
    pub fn broken(&self) -> Vec<(PointId, String)> {
        self.locked_points().broken.iter().map(|(point, why)| (*point, why.clone())).collect()
    }

    /// All about one point.
    pub fn manifest(&self, point: PointId) -> Result<Arc<Manifest>> {
        let points = self.locked_points();
        match (points.whole.get(&point), points.broken.get(&point)) {
            (Some(manifest), _) => Ok(manifest.clone()),
            (None, Some(why)) => Err(StoreError::damaged(format!("the manifest of point {point}"), why.clone())),
            (None, None) => Err(StoreError::UnknownPoint(point)),
        }
    }

    /// Keeps a point's chunks as long as the hold lives.
    pub fn hold(&self, point: PointId) -> Result<Hold> {
        let mut points = self.locked_points();
        let manifest = points.whole.get(&point).cloned().ok_or(StoreError::UnknownPoint(point))?;
        points.last_hold += 1;
        let number = points.last_hold;
        points.holds.insert(number, manifest.clone());
        Ok(Hold { store: self.clone(), number, manifest })
    }

    /// Reads a disk of a point. The point may be removed meanwhile; what it needs stays until the reader is dropped.
    pub fn disk(&self, point: PointId, name: &str) -> Result<DiskReader> {
        let hold = self.hold(point)?;
        let disk = hold.manifest().disk(name);
        let root = disk.ok_or_else(|| StoreError::UnknownName { point, name: name.into() })?.root();
        Ok(DiskReader::new(self.chunks().clone(), Keeps::Point(hold), root, self.options().cache_bytes))
    }

    /// The content of a small file of a point.
    pub fn file(&self, point: PointId, name: &str) -> Result<Vec<u8>> {
        let hold = self.hold(point)?;
        let unknown = || StoreError::UnknownName { point, name: name.into() };
        let file = hold.manifest().file(name).ok_or_else(unknown)?;
        let other = || StoreError::damaged(format!("file {name}"), "its content does not match its digest");
        file.content(self.chunks())?.ok_or_else(other)
    }

    /// Keeps a point whatever the retention says, or no longer.
    pub fn set_pinned(&self, point: PointId, pinned: bool) -> Result<()> {
        self.note(point, |notes| notes.pinned = pinned)
    }

    /// Notes what came of booting the point.
    pub fn set_proof(&self, point: PointId, proof: Proof) -> Result<()> {
        self.note(point, |notes| notes.proof = proof)
    }

    /// Notes that a copy of the point is there now.
    pub fn add_copy(&self, point: PointId, at: &Target) -> Result<()> {
        if self.manifest(point)?.notes.copies.contains(at) {
            return Ok(());
        }
        self.note(point, |notes| {
            if notes.copies.len() < MAX_COPIES {
                notes.copies.push(at.clone());
            }
        })
    }

    fn note(&self, point: PointId, change: impl FnOnce(&mut Notes)) -> Result<()> {
        self.writable()?;
        let mut points = self.locked_points();
        let manifest = points.whole.get(&point).ok_or(StoreError::UnknownPoint(point))?;
        let mut changed = (**manifest).clone();
        let mut notes = changed.notes.clone();
        change(&mut notes);
        changed.set_notes(notes)?;
        self.write_manifest(&changed)?;
        points.whole.insert(point, Arc::new(changed));
        Ok(())
    }

    /// Makes a point of this manifest. Its chunks must be durable.
    pub(crate) fn keep(&self, manifest: Manifest) -> Result<()> {
        let mut points = self.locked_points();
        self.write_manifest(&manifest)?;
        points.broken.remove(&manifest.id);
        points.whole.insert(manifest.id, Arc::new(manifest));
        Ok(())
    }

    fn write_manifest(&self, manifest: &Manifest) -> Result<()> {
        let name = point_name(manifest.id);
        let bytes = manifest.to_bytes()?;
        write_whole(&*self.chunks().files, POINTS, &name, &bytes).tried(|| format!("write {POINTS}/{name}"))
    }

    /// Makes durable which points there are, and takes away manifests of points that could not be finished. What a collection
    /// must know before it takes anything.
    pub(crate) fn settle(&self, points: &Points) -> Result<()> {
        let files = &self.chunks().files;
        for name in files.list(POINTS).tried(|| format!("list {POINTS}"))? {
            let point = name.strip_suffix(".json").and_then(|id| id.parse::<PointId>().ok());
            let known = |point| points.whole.contains_key(&point) || points.broken.contains_key(&point);
            if point.is_some_and(|point| !known(point)) {
                files.remove(&join(POINTS, &name)).tried(|| format!("remove {POINTS}/{name}"))?;
            }
        }
        files.sync_folder(POINTS).tried(|| format!("sync {POINTS}"))
    }

    /// Removes a point, also a damaged one. When this returns it is gone for good; the room comes back by `collect`.
    pub fn remove(&self, point: PointId) -> Result<()> {
        self.writable()?;
        let mut points = self.locked_points();
        if !points.whole.contains_key(&point) && !points.broken.contains_key(&point) {
            return Err(StoreError::UnknownPoint(point));
        }
        let (files, name) = (&self.chunks().files, join(POINTS, &point_name(point)));
        match files.remove(&name) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            other => other.tried(|| format!("remove {name}"))?,
        }
        points.whole.remove(&point);
        points.broken.remove(&point);
        files.sync_folder(POINTS).tried(|| format!("sync {POINTS}"))
    }
}

/// Makes the folders, and makes durable what is seen: an earlier process may have ended before it could.
fn prepare(files: &dyn Files) -> Result<()> {
    let foreign = foreign(files)?;
    if let Some(name) = foreign {
        let why = format!("there is no {HEAD}, but {name} is there");
        return Err(StoreError::NotAStore { path: "the folder".into(), why });
    }
    for folder in [PACKS, POINTS] {
        files.make_folder(folder).tried(|| format!("make {folder}"))?;
    }
    for folder in ["", PACKS, POINTS] {
        files.sync_folder(folder).tried(|| format!("sync the folder {folder:?}"))?;
    }
    Ok(())
}

/// Something that can't be where a store is about to be made.
fn foreign(files: &dyn Files) -> Result<Option<String>> {
    /// What may stand in a folder before it is a store: our lock, what a power cut left of making one, and what file
    /// systems put there.
    const HARMLESS: [&str; 4] = ["lock", "lost+found", PACKS, POINTS];
    let names = files.list("").tried(|| "list the store's folder".into())?;
    if names.iter().any(|name| name == HEAD) {
        return Ok(None);
    }
    let harmless = |name: &String| HARMLESS.contains(&name.as_str()) || name.ends_with(ASIDE);
    if let Some(name) = names.iter().find(|name| !harmless(name)) {
        return Ok(Some(name.clone()));
    }
    for folder in [PACKS, POINTS].into_iter().filter(|folder| names.iter().any(|name| name == folder)) {
        if let Some(name) = files.list(folder).tried(|| format!("list {folder}"))?.first() {
            return Ok(Some(join(folder, name)));
        }
    }
    Ok(None)
}

fn point_name(point: PointId) -> String {
    format!("{point}.json")
}

fn read_head(files: &dyn Files, namer: &Namer, read_only: bool) -> Result<Head> {
    /// The file has about 300 bytes.
    const LONGEST: u64 = 64 << 10;
    let not = |why: String| StoreError::NotAStore { path: HEAD.into(), why };
    let head: Head = match read_whole(files, HEAD, LONGEST) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| not(format!("it can't be read as JSON: {e}")))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !read_only => make_head(files, namer)?,
        Err(source) => return Err(StoreError::Io { tried: format!("read {HEAD}"), source }),
    };
    if head.format != FORMAT {
        return Err(not(format!("its format {:?} is not known", head.format)));
    }
    if head.names != namer.label() {
        return Err(not(format!("its contents are named by {}, not by {}", head.names, namer.label())));
    }
    Ok(head)
}

fn make_head(files: &dyn Files, namer: &Namer) -> Result<Head> {
    let id = HEXLOWER.encode(&crate::seal::salt()?[..16]);
    let head = Head { format: FORMAT.into(), id, names: namer.label(), readme: README.into() };
    let bytes = serde_json::to_vec_pretty(&head).map_err(|e| StoreError::Worker(format!("write JSON: {e}")))?;
    write_whole(files, "", HEAD, &bytes).tried(|| format!("write {HEAD}"))?;
    Ok(head)
}

fn find_points(files: &dyn Files, read_only: bool) -> Result<Points> {
    let mut points = Points::default();
    for name in files.list(POINTS).tried(|| format!("list {POINTS}"))? {
        let path = join(POINTS, &name);
        if name.ends_with(ASIDE) && !read_only {
            files.remove(&path).tried(|| format!("remove {path}"))?;
        }
        let Some(point) = name.strip_suffix(".json").and_then(|id| id.parse::<PointId>().ok()) else { continue };
        let read = read_whole(files, &path, MAX_MANIFEST).map_err(|e| format!("it can't be read: {e}"));
        match read.and_then(|bytes| Manifest::from_bytes(&bytes)) {
            Ok(manifest) if manifest.id == point => drop(points.whole.insert(point, Arc::new(manifest))),
            Ok(_) => drop(points.broken.insert(point, "it is the manifest of another point".into())),
            Err(why) => drop(points.broken.insert(point, why)),
        }
    }
    Ok(points)
}
