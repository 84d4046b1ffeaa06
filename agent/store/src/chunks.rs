//! Chunks by their names: find, read and check, append, make durable. Knows nothing of points.
//!
//! Two locks: a lane's (one pack being written) and then the state's, never the other way round. No lock is held while a
//! chunk is read, hashed or compressed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Result, StoreError, Tried};
use crate::files::{ASIDE, File, Files, join};
use crate::frame::{self, HEAD, Packed};
use crate::id::{BlockHash, ChunkId, Kind, Namer};
use crate::index::{MAX_PACK, Place};
use crate::pack::{self, OpenPack, PACK_HEADER, PACKS, list_name, number_of, pack_name};
use crate::seal::{Keys, PackKey};
use crate::state::{Fault, Lane, PackState, State};

/// All chunks of one store.
#[derive(Debug)]
pub(crate) struct Chunks {
    pub(crate) files: Arc<dyn Files>,
    pub(crate) namer: Namer,
    pub(crate) keys: Keys,
    pack_bytes: u64,
    state: Mutex<State>,
    lanes: [Mutex<Option<OpenPack>>; 4],
    handles: Mutex<Handles>,
}

/// Open files of packs.
#[derive(Debug, Default)]
struct Handles {
    open: BTreeMap<u32, (u64, Arc<dyn File>)>,
    uses: u64,
}

/// Packs held open: far below the usual limit of 1,024 descriptors, and more than a reader alternates between.
const HANDLES: usize = 64;

/// A lock that a panicking thread left is taken all the same: state is changed in single steps.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A chunk that was found: where, and the hashes of its blocks.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) place: Place,
    pub(crate) hashes: Vec<BlockHash>,
}

impl Chunks {
    /// Finds all packs; completes what a power cut left, unless reading only.
    pub(crate) fn open(
        files: Arc<dyn Files>,
        namer: Namer,
        keys: Keys,
        pack_bytes: u64,
        hook_bytes: usize,
        read_only: bool,
    ) -> Result<Self> {
        let state = State::new(hook_bytes);
        let lanes = [const { Mutex::new(None) }; 4];
        let handles = Mutex::default();
        let chunks = Self { files, namer, keys, pack_bytes, state: Mutex::new(state), lanes, handles };
        chunks.find_packs(read_only)?;
        Ok(chunks)
    }

    fn find_packs(&self, read_only: bool) -> Result<()> {
        let names = self.files.list(PACKS).tried(|| format!("list {PACKS}"))?;
        let numbers: BTreeSet<u32> = names.iter().filter_map(|name| number_of(name, ".pack")).collect();
        let orphan = |name: &&String| {
            name.ends_with(ASIDE) || number_of(name, ".list").is_some_and(|number| !numbers.contains(&number))
        };
        if !read_only {
            for name in names.iter().filter(orphan) {
                self.files.remove(&join(PACKS, name)).tried(|| format!("remove {name}"))?;
            }
        }
        self.state().highest = numbers.last().copied().unwrap_or(0);
        numbers.into_iter().try_for_each(|number| self.find_pack(number, read_only))
    }

    fn find_pack(&self, number: u32, read_only: bool) -> Result<()> {
        let name = join(PACKS, &pack_name(number));
        let Some(found) = pack::find(&*self.files, &self.keys, &self.namer, number)? else {
            let length = self.files.open(&name).and_then(|file| file.length()).tried(|| format!("measure {name}"))?;
            if length > PACK_HEADER {
                let why = "its header is damaged, so nothing in it can be read".into();
                self.state().damaged.insert((number, 0), Fault { prefix: 0, why });
            } else if !read_only {
                self.remove_pack(number)?;
            }
            return Ok(());
        };
        if found.listing.frames.is_empty() && found.key.is_some() && !read_only {
            return self.remove_pack(number);
        }
        if !found.listed && found.key.is_some() && !read_only {
            // It may stand in the page cache only; a list promises that it doesn't.
            self.files.open(&name).and_then(|file| file.sync()).tried(|| format!("sync {name}"))?;
            // Derived: when it can't be written now, the pack is read through again next time.
            let _ = pack::write_list(&*self.files, number, &found.listing);
        }
        self.adopt_listing(number, found);
        Ok(())
    }

    fn adopt_listing(&self, number: u32, found: pack::Found) {
        let mut state = self.state();
        for (prefix, place) in &found.listing.frames {
            state.index.insert(*prefix, *place);
        }
        for (hash, chunk) in found.listing.hooks() {
            state.hooks.insert(hash, chunk);
        }
        let pack = PackState { print: found.print, key: found.key, end: found.listing.end, touched: 0, open: false };
        state.packs.insert(number, pack);
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Where a chunk stands and which blocks it has, if it is here and its header is whole.
    pub(crate) fn head(&self, id: &ChunkId) -> Result<Option<Head>> {
        self.search(id.prefix(), Some(id), |chunks, place| chunks.read_head(place)).map(|found| found.map(|(_, h)| h))
    }

    /// The same for a chunk of which only a prefix is known.
    pub(crate) fn head_by_prefix(&self, prefix: u64) -> Result<Option<(ChunkId, Head)>> {
        self.search(prefix, None, |chunks, place| chunks.read_head(place))
    }

    /// Tries the places of a prefix; a damaged or vanished one counts as none.
    fn search<T>(
        &self,
        prefix: u64,
        id: Option<&ChunkId>,
        read: impl Fn(&Self, Place) -> Result<(ChunkId, T)>,
    ) -> Result<Option<(ChunkId, T)>> {
        let places: Vec<Place> = self.state().index.find(prefix).collect();
        for place in places {
            match read(self, place) {
                Ok((found, value)) if id.is_none_or(|id| *id == found) => return Ok(Some((found, value))),
                Ok(_) => {}
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn read_head(&self, place: Place) -> Result<(ChunkId, Head)> {
        let (mut bytes, key) = self.read_bytes(place, HEAD)?;
        let (header, table) =
            frame::open_head(&mut bytes, &key, place.offset).map_err(|why| StoreError::damaged(at(place), why))?;
        Ok((header.id, Head { place, hashes: frame::split(&table) }))
    }

    /// The frame as it stands, its seal taken off; the content is not checked.
    pub(crate) fn read_frame(&self, place: Place) -> Result<Packed> {
        let (mut bytes, key) = self.read_bytes(place, place.length)?;
        frame::open(&mut bytes, &key, place.offset).map_err(|why| StoreError::damaged(at(place), why))
    }

    fn read_bytes(&self, place: Place, most: usize) -> Result<(Vec<u8>, Arc<PackKey>)> {
        let key = self.state().packs.get(&place.pack).map(|pack| pack.key.clone());
        let Some(key) = key else { return Err(StoreError::damaged(at(place), "its pack was moved")) };
        let no_key = || StoreError::NoKey { what: pack_name(place.pack), key: "of an earlier time".into() };
        let key = key.ok_or_else(no_key)?;
        let mut bytes = vec![0; place.length.min(most)];
        let file = match self.handle(place.pack) {
            Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Err(StoreError::damaged(at(place), "its pack is gone"));
            }
            other => other?,
        };
        match file.read_at(&mut bytes, place.offset) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(StoreError::damaged(at(place), "its pack ends before it"))
            }
            other => other.tried(|| format!("read {}", at(place))).map(|()| (bytes, key)),
        }
    }

    fn handle(&self, pack: u32) -> Result<Arc<dyn File>> {
        let mut handles = lock(&self.handles);
        handles.uses += 1;
        let now = handles.uses;
        if let Some((used, file)) = handles.open.get_mut(&pack) {
            *used = now;
            return Ok(file.clone());
        }
        let name = join(PACKS, &pack_name(pack));
        let file = self.files.open(&name).tried(|| format!("open {name}"))?;
        if handles.open.len() >= HANDLES {
            let oldest = handles.open.iter().min_by_key(|(_, (used, _))| *used).map(|(pack, _)| *pack);
            oldest.map(|pack| handles.open.remove(&pack));
        }
        handles.open.insert(pack, (now, file.clone()));
        Ok(file)
    }

    /// Reads a chunk from the first of its places where it is whole, and once more when a collection moved it meanwhile.
    fn load<T>(&self, id: &ChunkId, read: impl Fn(Place) -> Result<(ChunkId, T)>) -> Result<T> {
        let mut fault = None;
        for _ in 0..2 {
            let places: Vec<Place> = self.state().index.find(id.prefix()).collect();
            for place in places {
                match read(place) {
                    Ok((found, value)) if found == *id => return Ok(value),
                    Ok(_) => {}
                    Err(StoreError::Damaged { what, why }) => {
                        self.discard(id.prefix(), place, &why);
                        fault = Some(StoreError::Damaged { what, why });
                    }
                    Err(error) => return Err(error),
                }
            }
            if fault.is_none() {
                break;
            }
        }
        Err(fault.unwrap_or_else(|| self.absent(id)))
    }

    /// A chunk that was checked to its last byte, as it is packed.
    pub(crate) fn packed(&self, id: &ChunkId) -> Result<Packed> {
        self.load(id, |place| {
            let packed = self.read_frame(place)?;
            packed.verify(&self.namer).map_err(|why| StoreError::damaged(at(place), why))?;
            Ok((packed.id, packed))
        })
    }

    /// The content of a chunk of this kind, every byte checked against its id.
    pub(crate) fn content(&self, id: &ChunkId, kind: Kind) -> Result<Vec<u8>> {
        let (found, plain) = self.any_content(id)?;
        if found != kind {
            return Err(StoreError::damaged(format!("chunk {id}"), format!("it is {found:?}, not {kind:?}")));
        }
        Ok(plain)
    }

    /// The same of whatever kind it is.
    pub(crate) fn any_content(&self, id: &ChunkId) -> Result<(Kind, Vec<u8>)> {
        self.load(id, |place| {
            let (mut bytes, key) = self.read_bytes(place, place.length)?;
            let read = frame::read(&mut bytes, &key, place.offset, &self.namer);
            read.map(|(kind, id, plain)| (id, (kind, plain))).map_err(|why| StoreError::damaged(at(place), why))
        })
    }

    /// Refers to a damaged frame no more. Does nothing where a collection has moved it meanwhile.
    pub(crate) fn discard(&self, prefix: u64, place: Place, why: &str) {
        /// Faults remembered: with more the disk is to be replaced, not the list to be grown.
        const FAULTS: usize = 10_000;
        let mut state = self.state();
        if state.index.remove(prefix, place) && state.damaged.len() < FAULTS {
            state.damaged.insert((place.pack, place.offset), Fault { prefix, why: why.into() });
        }
    }

    fn absent(&self, id: &ChunkId) -> StoreError {
        let state = self.state();
        let fault = state.damaged.iter().find(|(_, fault)| fault.prefix == id.prefix());
        if let Some(((pack, offset), fault)) = fault {
            return StoreError::damaged(format!("{} at byte {offset}", pack_name(*pack)), fault.why.clone());
        }
        match state.packs.iter().find(|(_, pack)| pack.key.is_none() && !pack.open) {
            Some((number, pack)) => StoreError::NoKey { what: pack_name(*number), key: crate::seal::show(&pack.print) },
            None => StoreError::Missing(*id),
        }
    }

    /// A session now relies on what stands there: no collection that began before or begins while the session runs will
    /// take it away. False where it is gone already.
    pub(crate) fn touch(&self, prefix: u64, place: Place) -> bool {
        let mut state = self.state();
        if !state.index.find(prefix).any(|there| there == place) {
            return false;
        }
        let tick = state.tick;
        match state.packs.get_mut(&place.pack) {
            Some(pack) => pack.touched = tick,
            None => return false,
        }
        true
    }

    /// Stores a chunk unless it is here. Tells by how many bytes the store grew.
    pub(crate) fn add(&self, packed: &Packed) -> Result<u64> {
        if let Some(head) = self.head(&packed.id)?
            && self.touch(packed.id.prefix(), head.place)
        {
            return Ok(0);
        }
        self.append(Lane::of(packed.kind), packed).map(|place| place.length as u64)
    }

    /// Appends a chunk and tells where it stands.
    pub(crate) fn append(&self, lane: Lane, packed: &Packed) -> Result<Place> {
        let mut open = lock(&self.lanes[lane.at()]);
        let mut pack = match open.take() {
            Some(pack) if !pack.is_full(self.pack_bytes) => pack,
            Some(full) => {
                self.retire(full)?;
                self.create_pack()?
            }
            None => self.create_pack()?,
        };
        let appended = pack.append(packed);
        let place = match appended {
            Ok(place) => place,
            Err(error) => {
                *open = Some(pack);
                return Err(error);
            }
        };
        let number = pack.number;
        *open = Some(pack);
        let mut state = self.state();
        let tick = state.tick;
        if let Some(known) = state.packs.get_mut(&number) {
            known.end = place.offset + place.length as u64;
            known.touched = tick;
        }
        state.index.insert(packed.id.prefix(), place);
        for hash in packed.hashes() {
            state.hooks.insert(hash.prefix(), packed.id.prefix());
        }
        Ok(place)
    }

    fn create_pack(&self) -> Result<OpenPack> {
        // The number is taken before the file is made, so that two lanes never want the same one.
        let number = {
            let mut state = self.state();
            let next = state.highest + 1;
            let free = || (1..=MAX_PACK).find(|number| !state.packs.contains_key(number));
            let number = if next <= MAX_PACK { Some(next) } else { free() };
            let number = number.ok_or_else(|| StoreError::Worker("all pack numbers are in use".into()))?;
            state.highest = state.highest.max(number);
            let tick = state.tick;
            let pack = PackState { print: [0; 8], key: None, end: PACK_HEADER, touched: tick, open: true };
            state.packs.insert(number, pack);
            number
        };
        let made = OpenPack::create(&*self.files, &self.keys, number);
        let mut state = self.state();
        match &made {
            Ok(pack) => {
                if let Some(known) = state.packs.get_mut(&number) {
                    known.print = pack.print;
                    known.key = Some(pack.key.clone());
                }
            }
            Err(_) => {
                state.packs.remove(&number);
            }
        }
        drop(state);
        made
    }

    /// Makes a pack durable for the last time and writes its list.
    fn retire(&self, mut pack: OpenPack) -> Result<()> {
        let number = pack.number;
        if let Err(error) = pack.sync() {
            self.forget_unsynced(&pack);
            return Err(error);
        }
        // Derived: without it the pack is read through at the next open.
        let _ = pack::write_list(&*self.files, number, pack.listing());
        if let Some(known) = self.state().packs.get_mut(&number) {
            known.open = false;
        }
        Ok(())
    }

    /// Makes everything that was appended by anybody durable: a draft may rely on another one's chunks.
    pub(crate) fn sync(&self) -> Result<()> {
        Lane::ALL.into_iter().try_for_each(|lane| self.sync_lane(lane))
    }

    pub(crate) fn sync_lane(&self, lane: Lane) -> Result<()> {
        let mut open = lock(&self.lanes[lane.at()]);
        let Some(pack) = open.as_mut() else { return Ok(()) };
        let Err(error) = pack.sync() else { return Ok(()) };
        if let Some(pack) = open.take() {
            self.forget_unsynced(&pack);
        }
        Err(error)
    }

    /// Ends the pack of this lane, so that the next chunk begins a new one.
    pub(crate) fn retire_lane(&self, lane: Lane) -> Result<()> {
        let pack = lock(&self.lanes[lane.at()]).take();
        pack.map_or(Ok(()), |pack| self.retire(pack))
    }

    /// After a failed sync nobody knows what the disk has: whoever relied on it must begin again.
    fn forget_unsynced(&self, pack: &OpenPack) {
        let mut state = self.state();
        state.poison += 1;
        let from = pack.synced();
        state.index.forget(pack.number, from);
        if let Some(known) = state.packs.get_mut(&pack.number) {
            known.open = false;
            known.end = from;
        }
        drop(state);
    }

    /// Removes a pack's files; its list goes last, because a list without a pack is known for rubbish.
    pub(crate) fn remove_pack(&self, number: u32) -> Result<()> {
        lock(&self.handles).open.remove(&number);
        for name in [pack_name(number), list_name(number)] {
            match self.files.remove(&join(PACKS, &name)) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                other => other.tried(|| format!("remove {name}"))?,
            }
        }
        Ok(())
    }

    /// Ends all packs properly, so that the next open need not read them through.
    pub(crate) fn close(&self) {
        for lane in Lane::ALL {
            // Best effort: what is not retired is read through at the next open.
            let _ = self.retire_lane(lane);
        }
    }
}

/// A place as people read it.
pub(crate) fn at(place: Place) -> String {
    format!("{} at byte {}", pack_name(place.pack), place.offset)
}
