//! A folder in memory that loses power, runs full, or lies about syncing, at any chosen write.
//!
//! What was not synced may be lost, kept, torn or reordered after a power cut: writes of one file each for itself, names of
//! a folder each for itself.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::files::{File, Files};

/// What happens at the chosen write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Power goes at this operation: it may have happened, in part, or not; all later ones fail.
    Cut(u64),
    /// From this operation on, so many find no room; a write leaves half of its bytes.
    Full(u64, u64),
    /// This operation fails; a sync then loses what it should have kept.
    Broken(u64),
}

/// What unsynced writes come to after a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Lost,
    Kept,
    /// Each by a coin, some of them torn.
    Mixed(u64),
}

#[derive(Clone, Debug, Default)]
struct Inode {
    durable: Vec<u8>,
    current: Vec<u8>,
    pending: Vec<(usize, Vec<u8>)>,
}

#[derive(Clone, Debug)]
enum Naming {
    Put(String, u64),
    Move(String, String, u64),
    Take(String),
    Folder(String),
}

impl Naming {
    fn folder(&self) -> &str {
        match self {
            Self::Put(name, _) | Self::Move(_, name, _) | Self::Take(name) => name.rsplit_once('/').map_or("", |p| p.0),
            Self::Folder(_) => "",
        }
    }

    fn apply(&self, names: &mut BTreeMap<String, u64>, folders: &mut BTreeSet<String>) {
        match self {
            Self::Put(name, inode) => drop(names.insert(name.clone(), *inode)),
            Self::Move(from, to, inode) => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
            Self::Take(name) => drop(names.remove(name)),
            Self::Folder(name) => drop(folders.insert(name.clone())),
        }
    }
}

#[derive(Debug)]
struct World {
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    folders: BTreeSet<String>,
    durable_folders: BTreeSet<String>,
    pending: Vec<Naming>,
    next: u64,
    operations: u64,
    fault: Fault,
    dead: bool,
}

/// The folder. Clones are the same folder.
#[derive(Clone, Debug)]
pub(crate) struct Faulty(Arc<Mutex<World>>);

#[derive(Debug)]
struct Handle {
    world: Faulty,
    inode: u64,
}

/// What the chosen fault does to one operation.
#[derive(PartialEq, Eq)]
enum Verdict {
    Done,
    Dying,
    NoRoom,
    Failed,
}

impl Faulty {
    pub(crate) fn new(fault: Fault) -> Self {
        Self(Arc::new(Mutex::new(World {
            inodes: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            folders: BTreeSet::from([String::new()]),
            durable_folders: BTreeSet::from([String::new()]),
            pending: Vec::new(),
            next: 0,
            operations: 0,
            fault,
            dead: false,
        })))
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    /// Operations that change something so far.
    pub(crate) fn operations(&self) -> u64 {
        self.world().operations
    }

    pub(crate) fn set(&self, fault: Fault) {
        self.world().fault = fault;
    }

    /// Names of all files.
    pub(crate) fn names(&self) -> Vec<String> {
        self.world().names.keys().cloned().collect()
    }

    /// The bytes of a file.
    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        let world = self.world();
        world.inodes[&world.names[name]].current.clone()
    }

    /// A folder of its own with the same files, one of them changed.
    pub(crate) fn with(&self, name: &str, bytes: Vec<u8>) -> Self {
        let image = self.after(Fate::Kept);
        let mut world = image.world();
        let inode = world.names[name];
        world.inodes.insert(inode, Inode { durable: bytes.clone(), current: bytes, pending: Vec::new() });
        drop(world);
        image
    }

    /// The folder as the next boot finds it.
    pub(crate) fn after(&self, fate: Fate) -> Self {
        let world = self.world();
        let mut coin = Coin(match fate {
            Fate::Lost | Fate::Kept => 1,
            Fate::Mixed(seed) => seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        });
        let mut keeps = |fate: Fate| match fate {
            Fate::Lost => false,
            Fate::Kept => true,
            Fate::Mixed(_) => coin.below(2) == 0,
        };
        let (mut names, mut folders) = (world.durable_names.clone(), world.durable_folders.clone());
        world.pending.iter().filter(|_| keeps(fate)).for_each(|naming| naming.apply(&mut names, &mut folders));
        names.retain(|name, _| folders.contains(name.rsplit_once('/').map_or("", |pair| pair.0)));
        let mut inodes = BTreeMap::new();
        for inode in names.values() {
            let old = &world.inodes[inode];
            let mut bytes = old.durable.clone();
            for (offset, written) in &old.pending {
                let most = match fate {
                    Fate::Lost => 0,
                    Fate::Kept => written.len(),
                    Fate::Mixed(_) => match coin.below(4) {
                        0 => 0,
                        1 => coin.below(written.len() + 1),
                        _ => written.len(),
                    },
                };
                write(&mut bytes, *offset, &written[..most]);
            }
            inodes.insert(*inode, Inode { durable: bytes.clone(), current: bytes, pending: Vec::new() });
        }
        let next = world.next;
        let (durable_names, durable_folders) = (names.clone(), folders.clone());
        Self(Arc::new(Mutex::new(World {
            inodes,
            names,
            durable_names,
            folders,
            durable_folders,
            pending: Vec::new(),
            next,
            operations: 0,
            fault: Fault::None,
            dead: false,
        })))
    }
}

impl World {
    fn verdict(&mut self) -> io::Result<Verdict> {
        if self.dead {
            return Err(io::Error::other("the power is gone"));
        }
        let now = self.operations;
        self.operations += 1;
        Ok(match self.fault {
            Fault::Cut(at) if at == now => {
                self.dead = true;
                Verdict::Dying
            }
            Fault::Full(from, count) if (from..from + count).contains(&now) => Verdict::NoRoom,
            Fault::Broken(at) if at == now => Verdict::Failed,
            Fault::None | Fault::Cut(_) | Fault::Full(..) | Fault::Broken(_) => Verdict::Done,
        })
    }

    fn name(&mut self, naming: Naming) -> io::Result<()> {
        let verdict = self.verdict()?;
        if verdict == Verdict::Done || verdict == Verdict::Dying {
            naming.apply(&mut self.names, &mut self.folders);
            self.pending.push(naming);
        }
        finish(&verdict)
    }

    fn inode(&self, name: &str) -> io::Result<u64> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn finish(verdict: &Verdict) -> io::Result<()> {
    match verdict {
        Verdict::Done => Ok(()),
        Verdict::Dying => Err(io::Error::other("the power goes")),
        Verdict::NoRoom => Err(io::ErrorKind::StorageFull.into()),
        Verdict::Failed => Err(io::Error::other("the disk failed")),
    }
}

fn write(bytes: &mut Vec<u8>, offset: usize, written: &[u8]) {
    if written.is_empty() {
        return;
    }
    let end = offset + written.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(written);
}

impl Files for Faulty {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut world = self.world();
        if world.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = world.next;
        world.next += 1;
        world.inodes.insert(inode, Inode::default());
        world.name(Naming::Put(name.into(), inode))?;
        Ok(Arc::new(Handle { world: self.clone(), inode }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let inode = self.world().inode(name)?;
        Ok(Arc::new(Handle { world: self.clone(), inode }))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let world = self.world();
        if !world.folders.contains(folder) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = |name: &String| match name.rsplit_once('/') {
            Some((there, name)) if there == folder => Some(name.to_owned()),
            None if folder.is_empty() => Some(name.clone()),
            Some(_) | None => None,
        };
        let folders = world.folders.iter().filter(|name| !name.is_empty());
        Ok(world.names.keys().chain(folders).filter_map(inside).collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut world = self.world();
        let inode = world.inode(from)?;
        world.name(Naming::Move(from.into(), to.into(), inode))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut world = self.world();
        world.inode(name)?;
        world.name(Naming::Take(name.into()))
    }

    fn make_folder(&self, folder: &str) -> io::Result<()> {
        let mut world = self.world();
        if world.folders.contains(folder) {
            return Ok(());
        }
        world.name(Naming::Folder(folder.into()))
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        let mut world = self.world();
        let verdict = world.verdict()?;
        if verdict == Verdict::Done {
            let pending = std::mem::take(&mut world.pending);
            let World { durable_names, durable_folders, .. } = &mut *world;
            let (now, later): (Vec<_>, Vec<_>) = pending.into_iter().partition(|naming| naming.folder() == folder);
            now.iter().for_each(|naming| naming.apply(durable_names, durable_folders));
            world.pending = later;
        }
        finish(&verdict)
    }
}

impl File for Handle {
    fn length(&self) -> io::Result<u64> {
        Ok(self.world.world().inodes[&self.inode].current.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let world = self.world.world();
        let from = usize::try_from(offset).unwrap();
        let there = world.inodes[&self.inode].current.get(from..from + buffer.len());
        buffer.copy_from_slice(there.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut world = self.world.world();
        let verdict = world.verdict()?;
        let most = match verdict {
            Verdict::Done | Verdict::Dying => bytes.len(),
            Verdict::NoRoom | Verdict::Failed => bytes.len() / 2,
        };
        let offset = usize::try_from(offset).unwrap();
        let inode = world.inodes.get_mut(&self.inode).unwrap();
        write(&mut inode.current, offset, &bytes[..most]);
        inode.pending.push((offset, bytes[..most].to_vec()));
        finish(&verdict)
    }

    fn sync(&self) -> io::Result<()> {
        let mut world = self.world.world();
        let verdict = world.verdict()?;
        let inode = world.inodes.get_mut(&self.inode).unwrap();
        match verdict {
            Verdict::Done => {
                inode.durable = inode.current.clone();
                inode.pending.clear();
            }
            // As Linux does: the pages are dropped, and the next sync says that all is well.
            Verdict::Failed => {
                inode.current = inode.durable.clone();
                inode.pending.clear();
            }
            Verdict::Dying | Verdict::NoRoom => {}
        }
        finish(&verdict)
    }
}

/// Cheap chance.
#[derive(Debug)]
pub(crate) struct Coin(pub(crate) u64);

impl Coin {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, most: usize) -> usize {
        usize::try_from(self.next() >> 11).unwrap() % most.max(1)
    }
}
