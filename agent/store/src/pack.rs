//! Pack files: frames one after the other behind a header of 128 bytes, and a list of them beside the pack.
//!
//! A pack is only ever appended to, by the process that made it. Its list is derived: where it is missing or does not
//! match, the pack is read through and every frame is checked.
//!
//! Header: `RPK1`, number (4), key fingerprint (8, zeros: not sealed), salt (32), check (16: BLAKE3 of the bytes before);
//! all this twice, and a third time in the list, because without the salt no frame can be told from a guest's data. It is
//! durable before the first frame is written: a longer file without a whole header was damaged.
//! List: `RPL1`, the header (64), number of frames (4), end of the last frame (8); for each frame prefix of its id (8), offset/16 (4),
//! length/16 (2), kind (1), zero (1); number of hooks (4), each a block's hash prefix (8) and the frame's place in this
//! list (4); BLAKE3 of all before (32).

use std::io;
use std::sync::Arc;

use crate::error::{Result, StoreError, Tried};
use crate::files::{File, Files, join, write_whole};
use crate::frame::{self, ALIGN, FRAME, HEAD, HEADER, Header, Packed};
use crate::id::{Kind, Namer};
use crate::index::{LISTED, MAX_OFFSET, MAX_PACK, Place, thinned};
use crate::seal::{KeyPrint, Keys, PackKey, salt};

/// The folder of packs.
pub(crate) const PACKS: &str = "packs";
const MAGIC: [u8; 4] = *b"RPK1";
const LIST_MAGIC: [u8; 4] = *b"RPL1";
/// Bytes before the first frame.
pub(crate) const PACK_HEADER: u64 = 128;
/// One copy of the header.
const HEADER_COPY: usize = 64;
/// Frames in a pack: bounds the list that is kept while a pack is written (2 MiB).
const FRAMES: usize = 65_536;

pub(crate) fn pack_name(number: u32) -> String {
    format!("{number:08}.pack")
}

pub(crate) fn list_name(number: u32) -> String {
    format!("{number:08}.list")
}

/// The number in a pack's or list's name.
pub(crate) fn number_of(name: &str, ending: &str) -> Option<u32> {
    let digits = name.strip_suffix(ending)?;
    let plain = digits.len() == 8 && digits.bytes().all(|c| c.is_ascii_digit());
    digits.parse().ok().filter(|number| plain && (1..=MAX_PACK).contains(number))
}

/// What stands in a pack.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listing {
    /// The pack's own.
    header: Vec<u8>,
    /// Prefix of the id, and place.
    pub(crate) frames: Vec<(u64, Place)>,
    /// Sampled block hashes and the frame that has the block.
    hooks: Vec<(u64, u32)>,
    /// Where the last frame ends.
    pub(crate) end: u64,
}

impl Listing {
    fn push(&mut self, packed: &Packed, place: Place) {
        let at = u32::try_from(self.frames.len()).unwrap_or(u32::MAX);
        self.frames.push((packed.id.prefix(), place));
        let sampled = packed.hashes().into_iter().map(|hash| hash.prefix()).filter(|hash| thinned(*hash, LISTED));
        self.hooks.extend(sampled.map(|hash| (hash, at)));
        self.end = place.offset + place.length as u64;
    }

    /// Sampled block hashes with the prefix of the chunk that has the block.
    pub(crate) fn hooks(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let frame = |at: u32| self.frames.get(usize::try_from(at).ok()?);
        self.hooks.iter().filter_map(move |(hash, at)| Some((*hash, frame(*at)?.0)))
    }

    fn to_bytes(&self) -> Vec<u8> {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
        let mut out = Vec::with_capacity(self.frames.len() * 16 + self.hooks.len() * 12 + 64);
        out.extend_from_slice(&LIST_MAGIC);
        out.extend_from_slice(&self.header);
        out.extend_from_slice(&count(self.frames.len()));
        out.extend_from_slice(&self.end.to_le_bytes());
        for (prefix, place) in &self.frames {
            out.extend_from_slice(&prefix.to_le_bytes());
            out.extend_from_slice(&u32::try_from(place.offset / 16).unwrap_or(u32::MAX).to_le_bytes());
            out.extend_from_slice(&u16::try_from(place.length / ALIGN).unwrap_or(u16::MAX).to_le_bytes());
            out.extend_from_slice(&[place.kind.number(), 0]);
        }
        out.extend_from_slice(&count(self.hooks.len()));
        for (hash, at) in &self.hooks {
            out.extend_from_slice(&hash.to_le_bytes());
            out.extend_from_slice(&at.to_le_bytes());
        }
        let check = blake3::hash(&out);
        out.extend_from_slice(check.as_bytes());
        out
    }

    /// `None` where the bytes are not a whole list.
    fn from_bytes(pack: u32, bytes: &[u8]) -> Option<Self> {
        let (body, check) = bytes.split_at_checked(bytes.len().checked_sub(32)?)?;
        if blake3::hash(body).as_bytes() != check {
            return None;
        }
        let mut rest = Reader(body);
        if rest.take::<4>()? != LIST_MAGIC {
            return None;
        }
        let header = rest.take::<HEADER_COPY>()?.to_vec();
        let count = rest.number()?;
        let mut listing = Self { header, end: u64::from_le_bytes(rest.take()?), ..Self::default() };
        for _ in 0..count {
            let prefix = u64::from_le_bytes(rest.take()?);
            let offset = u64::from(u32::from_le_bytes(rest.take()?)) * 16;
            let length = usize::from(u16::from_le_bytes(rest.take()?)) * ALIGN;
            let [kind, _] = rest.take()?;
            let place = Place { pack, offset, length, kind: Kind::from_number(kind)? };
            let fits = (PACK_HEADER..MAX_OFFSET).contains(&offset) && offset + length as u64 <= listing.end;
            listing.frames.push((prefix, fits.then_some(place)?));
        }
        for _ in 0..rest.number()? {
            listing.hooks.push((u64::from_le_bytes(rest.take()?), rest.number()?));
        }
        rest.0.is_empty().then_some(listing)
    }
}

/// Takes numbers from the front.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_at_checked(N)?;
        self.0 = rest;
        head.try_into().ok()
    }

    fn number(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }
}

/// A pack that is being written.
#[derive(Debug)]
pub(crate) struct OpenPack {
    pub(crate) number: u32,
    pub(crate) print: KeyPrint,
    pub(crate) key: Arc<PackKey>,
    file: Arc<dyn File>,
    listing: Listing,
    /// Up to here it survives a power cut.
    synced: u64,
    /// A write failed: what stands behind the last frame is unknown, so nothing is added.
    broken: bool,
    buffer: Vec<u8>,
}

impl OpenPack {
    pub(crate) fn create(files: &dyn Files, keys: &Keys, number: u32) -> Result<Self> {
        let (print, salt) = (keys.current(), salt()?);
        let key = Arc::new(keys.pack(print, salt)?);
        let mut header = Vec::with_capacity(HEADER_COPY);
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&number.to_le_bytes());
        header.extend_from_slice(&print);
        header.extend_from_slice(&salt);
        let check = blake3::hash(&header);
        header.extend_from_slice(&check.as_bytes()[..16]);
        let name = join(PACKS, &pack_name(number));
        let file = files.create(&name).tried(|| format!("create {name}"))?;
        let written = file.write_at(&[&*header, &*header].concat(), 0).and_then(|()| file.sync());
        if let Err(error) = written.and_then(|()| files.sync_folder(PACKS)) {
            // Best effort: a pack without a frame is removed at the next open.
            let _ = files.remove(&name);
            return Err(error).tried(|| format!("write {name}"));
        }
        let listing = Listing { header, end: PACK_HEADER, ..Listing::default() };
        Ok(Self { number, print, key, file, listing, synced: PACK_HEADER, broken: false, buffer: Vec::new() })
    }

    /// True where nothing more should be added.
    pub(crate) fn is_full(&self, most: u64) -> bool {
        self.broken || self.listing.end >= most.min(MAX_OFFSET) || self.listing.frames.len() >= FRAMES
    }

    pub(crate) fn append(&mut self, packed: &Packed) -> Result<Place> {
        let offset = self.listing.end;
        self.buffer.clear();
        packed.write(&self.key, offset, &mut self.buffer)?;
        if let Err(error) = self.file.write_at(&self.buffer, offset) {
            self.broken = true;
            return Err(error).tried(|| format!("append to {}", pack_name(self.number)));
        }
        let place = Place { pack: self.number, offset, length: self.buffer.len(), kind: packed.kind };
        self.listing.push(packed, place);
        Ok(place)
    }

    /// Makes all that was appended durable.
    pub(crate) fn sync(&mut self) -> Result<()> {
        if self.synced < self.listing.end {
            self.file.sync().tried(|| format!("sync {}", pack_name(self.number)))?;
            self.synced = self.listing.end;
        }
        Ok(())
    }

    /// Up to here it survives a power cut.
    pub(crate) fn synced(&self) -> u64 {
        self.synced
    }

    pub(crate) fn listing(&self) -> &Listing {
        &self.listing
    }
}

/// Writes the list beside a pack. Only ever called when the pack is durable.
pub(crate) fn write_list(files: &dyn Files, number: u32, listing: &Listing) -> io::Result<()> {
    write_whole(files, PACKS, &list_name(number), &listing.to_bytes())
}

/// A pack that was found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) print: KeyPrint,
    /// Absent: its key was not given, so nothing in it can be read.
    pub(crate) key: Option<Arc<PackKey>>,
    pub(crate) listing: Listing,
    /// The list was read, not made anew.
    pub(crate) listed: bool,
}

/// Opens a pack of an earlier time. `None` where no header is whole: a power cut hit its making, or it was damaged, and then
/// its frames can't be told from anything else.
pub(crate) fn find(files: &dyn Files, keys: &Keys, namer: &Namer, number: u32) -> Result<Option<Found>> {
    let name = join(PACKS, &pack_name(number));
    let file = files.open(&name).tried(|| format!("open {name}"))?;
    let length = file.length().tried(|| format!("measure {name}"))?;
    let listing = read_list(files, number).filter(|listing| listing.end <= length);
    let mut headers = [0; 2 * HEADER_COPY];
    let there = headers.len().min(usize::try_from(length).unwrap_or(headers.len()));
    file.read_at(&mut headers[..there], 0).tried(|| format!("read {name}"))?;
    let (first, second) = headers.split_at(HEADER_COPY);
    let third = listing.as_ref().map_or(&[][..], |listing| &listing.header);
    let header = [first, second, third].into_iter().find_map(|copy| Some((copy, parse_header(number, copy)?)));
    let Some((copy, (print, salt))) = header else { return Ok(None) };
    let key = match keys.pack(print, salt) {
        Ok(key) => Some(Arc::new(key)),
        Err(StoreError::NoKey { .. }) => None,
        Err(error) => return Err(error),
    };
    let listed = listing.is_some();
    let mut found = match (&key, &listing) {
        (_, Some(listing)) => listing.clone(),
        (Some(key), None) => scan(&*file, length, key, namer, number).tried(|| format!("read {name}"))?,
        (None, None) => Listing { end: length, ..Listing::default() },
    };
    found.header = copy.to_vec();
    Ok(Some(Found { print, key, listing: found, listed }))
}

fn parse_header(number: u32, header: &[u8]) -> Option<(KeyPrint, [u8; 32])> {
    let header: &[u8; HEADER_COPY] = header.try_into().ok()?;
    let check = blake3::hash(&header[..48]);
    let genuine =
        header[..4] == MAGIC && header[4..8] == number.to_le_bytes() && header[48..] == check.as_bytes()[..16];
    genuine.then_some(())?;
    Some((header[8..16].try_into().ok()?, header[16..48].try_into().ok()?))
}

fn read_list(files: &dyn Files, number: u32) -> Option<Listing> {
    /// No list of 65,536 frames with all their hooks is longer.
    const LONGEST: u64 = 64 << 20;
    let bytes = crate::files::read_whole(files, &join(PACKS, &list_name(number)), LONGEST).ok()?;
    Listing::from_bytes(number, &bytes)
}

/// Reads a pack through and takes every frame that is whole to its last byte. After a damaged one it goes on where the
/// next begins.
fn scan(file: &dyn File, length: u64, key: &PackKey, namer: &Namer, pack: u32) -> io::Result<Listing> {
    let mut listing = Listing { end: PACK_HEADER, ..Listing::default() };
    let mut at = PACK_HEADER;
    let mut bytes = Vec::with_capacity(FRAME);
    while at + HEADER as u64 <= length && at < MAX_OFFSET {
        let header = read_header(file, length, key, at, &mut bytes)?;
        let Some(header) = header else {
            at = next_magic(file, length, at + ALIGN as u64)?;
            continue;
        };
        let frame = header.frame_bytes(key);
        bytes.resize(frame, 0);
        let there = frame.min(usize::try_from(length - at).unwrap_or(frame));
        file.read_at(&mut bytes[..there], at)?;
        match frame::open(&mut bytes[..there], key, at) {
            Ok(packed) if packed.verify(namer).is_ok() => {
                listing.push(&packed, Place { pack, offset: at, length: frame, kind: packed.kind });
            }
            Ok(_) | Err(_) => {}
        }
        at += frame as u64;
    }
    Ok(listing)
}

/// The next place from here where a frame could begin; the file's end if there is none.
fn next_magic(file: &dyn File, length: u64, from: u64) -> io::Result<u64> {
    const WINDOW: usize = 64 << 10;
    let mut window = vec![0; WINDOW];
    let mut at = from;
    while at < length {
        let there = WINDOW.min(usize::try_from(length - at).unwrap_or(WINDOW));
        file.read_at(&mut window[..there], at)?;
        let hit = window[..there].chunks(ALIGN).position(|piece| piece.starts_with(&frame::MAGIC));
        if let Some(hit) = hit {
            return Ok(at + (hit * ALIGN) as u64);
        }
        at += there as u64;
    }
    Ok(length)
}

/// The header at this place, if there is a genuine one.
fn read_header(
    file: &dyn File,
    length: u64,
    key: &PackKey,
    at: u64,
    bytes: &mut Vec<u8>,
) -> io::Result<Option<Header>> {
    bytes.resize(HEADER, 0);
    file.read_at(bytes, at)?;
    if Header::parse(bytes).is_none() {
        return Ok(None);
    }
    let there = HEAD.min(usize::try_from(length - at).unwrap_or(HEAD));
    bytes.resize(there, 0);
    file.read_at(bytes, at)?;
    Ok(frame::open_head(bytes, key, at).ok().map(|(header, _)| header))
}
