//! A point in the making. It becomes one in a single durable step; until then it is nothing, and dropping it leaves nothing
//! but chunks that the next collection takes away.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread::JoinHandle;

use data_encoding::HEXLOWER;
use roost_protocol::{GuestId, PointId};

use crate::chunks::{Chunks, lock};
use crate::error::{Refusal, Result, StoreError};
use crate::frame::{CHUNK, Packer};
use crate::id::{BlockHash, ChunkId, Kind};
use crate::manifest::{Disk, File, MAX_FILE, MAX_NAMES, Manifest, Meta, Point, check_disk, check_name};
use crate::node::disk_digest;
use crate::store::{Hold, Store};
use crate::tree::Root;
use crate::writer::DiskWriter;

/// A point in the making.
#[derive(Debug)]
pub struct Draft {
    store: Store,
    guest: GuestId,
    shared: Arc<Shared>,
    files: Vec<File>,
    workers: Vec<JoinHandle<()>>,
    packer: Packer,
    /// The lost writes that the store knew of when this began.
    poison: u64,
    /// Keeps the parent's chunks from being collected, even when the parent is removed meanwhile.
    parent: Option<Hold>,
}

/// What a draft and the writers of its disks share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) chunks: Arc<Chunks>,
    session: u64,
    /// Absent: chunks are compressed by the thread that writes, or the draft is finished.
    jobs: Mutex<Option<mpsc::SyncSender<Job>>>,
    disks: Mutex<BTreeMap<String, Option<Root>>>,
    failed: Mutex<Failure>,
    level: i32,
    pub(crate) read: AtomicU64,
    pub(crate) stored: AtomicU64,
}

/// Blocks to be compressed and appended.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) id: ChunkId,
    pub(crate) hashes: Vec<BlockHash>,
    pub(crate) plain: Vec<u8>,
}

/// Whether a worker failed, for ever; and why, until it was told.
#[derive(Debug, Default)]
struct Failure {
    failed: bool,
    why: Option<StoreError>,
}

/// Chunks that wait for a worker: 128 KiB each, so that neither reading nor compressing waits for the other's bursts.
const QUEUE: usize = 8;

impl Drop for Shared {
    fn drop(&mut self) {
        self.chunks.state().sessions.remove(&self.session);
    }
}

impl Shared {
    /// Stores blocks that are in no chunk yet; by a worker where there is one.
    pub(crate) fn submit(&self, job: Job, packer: &mut Packer) -> Result<()> {
        self.check()?;
        let sender = lock(&self.jobs).clone();
        match sender {
            Some(sender) => sender.send(job).map_err(|_| StoreError::Worker("it took no more".into())),
            None => self.store(job, packer).inspect_err(|_| lock(&self.failed).failed = true),
        }
    }

    fn store(&self, job: Job, packer: &mut Packer) -> Result<()> {
        let packed = packer.data(job.id, &job.hashes, job.plain)?;
        self.stored.fetch_add(self.chunks.add(&packed)?, Ordering::Relaxed);
        Ok(())
    }

    /// Fails for ever once a chunk could not be stored.
    fn check(&self) -> Result<()> {
        let mut failure = lock(&self.failed);
        match failure.failed {
            true => Err(failure.why.take().unwrap_or_else(|| StoreError::Worker("a write failed before".into()))),
            false => Ok(()),
        }
    }

    /// The writer of this disk is done.
    pub(crate) fn finish_disk(&self, name: &str, root: Root) {
        lock(&self.disks).insert(name.into(), Some(root));
    }

    fn work(&self, jobs: &Mutex<mpsc::Receiver<Job>>) {
        let mut packer = match Packer::new(self.level) {
            Ok(packer) => packer,
            Err(error) => return self.fail(error),
        };
        loop {
            let job = lock(jobs).recv();
            let Ok(job) = job else { return };
            // After a failure the rest is taken and dropped, so that nobody waits for room in the queue.
            if !lock(&self.failed).failed
                && let Err(error) = self.store(job, &mut packer)
            {
                self.fail(error);
            }
        }
    }

    fn fail(&self, error: StoreError) {
        let mut failure = lock(&self.failed);
        failure.failed = true;
        failure.why.get_or_insert(error);
    }
}

impl Draft {
    pub(crate) fn new(store: Store, guest: GuestId, parent: Option<PointId>) -> Result<Self> {
        let parent = parent.map(|point| store.hold(point)).transpose()?;
        let chunks = store.chunks().clone();
        let (session, poison) = {
            let mut state = chunks.state();
            (state.begin_session(), state.poison)
        };
        let options = store.options();
        let (level, threads) = (options.level, options.threads);
        let shared = Arc::new(Shared {
            chunks,
            session,
            jobs: Mutex::new(None),
            disks: Mutex::default(),
            failed: Mutex::default(),
            level,
            read: AtomicU64::new(0),
            stored: AtomicU64::new(0),
        });
        let workers = start(&shared, threads)?;
        Ok(Self { store, guest, shared, files: Vec::new(), workers, packer: Packer::new(level)?, poison, parent })
    }

    /// Begins a disk. What is not written to it is as in the parent's disk of the same name, or zeros.
    pub fn disk(&mut self, name: &str, size_bytes: u64) -> Result<DiskWriter> {
        self.new_name(name)?;
        check_disk(size_bytes)?;
        let base = self.parent.as_ref().and_then(|hold| hold.manifest().disk(name).map(Disk::root));
        let writer = DiskWriter::new(self.shared.clone(), name, size_bytes, base, self.store.options())?;
        lock(&self.shared.disks).insert(name.into(), None);
        Ok(writer)
    }

    /// Adds a small file.
    pub fn file(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.new_name(name)?;
        if bytes.len() > MAX_FILE {
            return Err(Refusal::FileTooLarge(bytes.len() as u64).into());
        }
        let chunks = &self.shared.chunks;
        let mut ids = Vec::new();
        for piece in bytes.chunks(CHUNK) {
            let packed = self.packer.whole(&chunks.namer, Kind::Blob, piece.to_vec())?;
            self.shared.stored.fetch_add(chunks.add(&packed)?, Ordering::Relaxed);
            ids.push(packed.id);
        }
        let digest = chunks.namer.digest(bytes);
        self.files.push(File { name: name.into(), size_bytes: bytes.len() as u64, digest, chunks: ids });
        Ok(())
    }

    fn new_name(&self, name: &str) -> Result<()> {
        check_name(name)?;
        let disks = lock(&self.shared.disks);
        if disks.contains_key(name) || self.files.iter().any(|file| file.name == name) {
            return Err(Refusal::Twice(name.into()).into());
        }
        if disks.len().max(self.files.len()) >= MAX_NAMES {
            return Err(Refusal::TooMany(MAX_NAMES).into());
        }
        Ok(())
    }

    /// Makes it a point. When this returns, the point survives a power cut.
    pub fn finish(mut self, meta: Meta) -> Result<PointId> {
        self.join()?;
        let disks = self.disks()?;
        self.shared.chunks.sync()?;
        if self.shared.chunks.state().poison != self.poison {
            return Err(StoreError::Poisoned);
        }
        let point = Point {
            guest: self.guest,
            parent: self.parent.as_ref().map(|hold| hold.manifest().id),
            meta,
            names: self.shared.chunks.namer.label(),
            disks,
            files: std::mem::take(&mut self.files),
            read_bytes: self.shared.read.load(Ordering::Relaxed),
            stored_bytes: self.shared.stored.load(Ordering::Relaxed),
            draw: draw()?,
        };
        point.check()?;
        let manifest = Manifest::new(point)?;
        let id = manifest.id;
        self.store.keep(manifest)?;
        Ok(id)
    }

    fn disks(&self) -> Result<Vec<Disk>> {
        let namer = &self.shared.chunks.namer;
        let disks = lock(&self.shared.disks);
        let disk = |(name, root): (&String, &Option<Root>)| {
            let root = root.ok_or_else(|| Refusal::Unfinished(name.clone()))?;
            Ok(Disk {
                name: name.clone(),
                size_bytes: root.size,
                digest: disk_digest(namer, root.size, root.top.as_ref()),
                map: root.top.map(|entry| entry.id),
                map_digest: root.top.map_or(crate::id::Digest::ZERO, |entry| entry.digest),
            })
        };
        disks.iter().map(disk).collect()
    }

    /// Waits until the workers have stored all they were given.
    fn join(&mut self) -> Result<()> {
        lock(&self.shared.jobs).take();
        for worker in self.workers.drain(..) {
            worker.join().map_err(|_| StoreError::Worker("it panicked".into()))?;
        }
        self.shared.check()
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Nobody is told: what was stored is not referred to by anything.
        let _ = self.join();
    }
}

fn start(shared: &Arc<Shared>, threads: usize) -> Result<Vec<JoinHandle<()>>> {
    if threads == 0 {
        return Ok(Vec::new());
    }
    let (sender, receiver) = mpsc::sync_channel(QUEUE);
    *lock(&shared.jobs) = Some(sender);
    let jobs = Arc::new(Mutex::new(receiver));
    let worker = |number| {
        let (shared, jobs) = (shared.clone(), jobs.clone());
        let thread = std::thread::Builder::new().name(format!("store-{number}"));
        thread.spawn(move || shared.work(&jobs)).map_err(|e| StoreError::Worker(format!("start a thread: {e}")))
    };
    (0..threads).map(worker).collect()
}

fn draw() -> Result<String> {
    Ok(HEXLOWER.encode(&crate::seal::salt()?[..8]))
}
