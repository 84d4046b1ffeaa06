//! A chunk as it stands in a pack: header, table of block hashes, payload.
//!
//! All numbers are little-endian. Frames begin at multiples of 16 bytes.
//!
//! | at | bytes | |
//! |---|---|---|
//! | 0 | 4 | `RF01` |
//! | 4 | 1 | kind: 0 data, 1 leaf, 2 inner, 3 blob |
//! | 5 | 1 | codec: 0 raw, 1 zstd |
//! | 6 | 2 | blocks in the table; 0 unless data |
//! | 8 | 4 | bytes of the payload as stored |
//! | 12 | 4 | bytes of the payload when decoded |
//! | 16 | 4 | CRC-32 of the payload as stored |
//! | 20 | 4 | zero |
//! | 24 | 32 | the chunk's id |
//! | 56 | 8 | check: BLAKE3 keyed with the pack's salt over offset, bytes 0 to 56 and table; its first 8 bytes |
//! | 64 | 24 each | hashes of the blocks (in sealed packs followed by a tag of 16 bytes) |
//! | | | payload (in sealed packs its tag is the last 16 bytes) |

use std::cell::RefCell;

use crate::error::{Result, StoreError};
use crate::id::{BLOCK, BLOCK_HASH, BlockHash, ChunkId, Kind, Namer};
use crate::seal::{PackKey, Part};

/// Blocks in a data chunk: 128 KiB compress within 1 % of a stream and decode in 0.1 ms (docs/decisions/0008).
pub(crate) const CHUNK_BLOCKS: usize = 32;
/// Most bytes in a chunk of any kind.
pub(crate) const CHUNK: usize = CHUNK_BLOCKS * BLOCK;
/// Bytes before the table.
pub(crate) const HEADER: usize = 64;
/// Frames begin at multiples of this, so that an offset fits into 24 bits of the index.
pub(crate) const ALIGN: usize = 16;
/// Header, sealed table: enough to know a frame's blocks.
pub(crate) const HEAD: usize = HEADER + CHUNK_BLOCKS * BLOCK_HASH + ALIGN;
/// The longest frame.
pub(crate) const FRAME: usize = HEAD + CHUNK + 2 * ALIGN;
/// Every frame begins so.
pub(crate) const MAGIC: [u8; 4] = *b"RF01";
/// Bytes of the header that the check covers.
const CHECKED: usize = 56;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    Raw,
    Zstd,
}

/// The first 64 bytes of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) codec: Codec,
    pub(crate) blocks: usize,
    /// Of the payload as stored, tag included.
    pub(crate) stored: usize,
    pub(crate) plain: usize,
    crc: u32,
    pub(crate) id: ChunkId,
    check: [u8; 8],
}

impl Header {
    /// Reads a header; `None` where there is none or its numbers can't be.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER] = bytes.get(..HEADER)?.try_into().ok()?;
        let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let size = |at: usize| usize::try_from(number(at)).ok().filter(|size| *size <= CHUNK + ALIGN);
        let codec = match bytes[5] {
            0 => Codec::Raw,
            1 => Codec::Zstd,
            _ => return None,
        };
        let header = Self {
            kind: Kind::from_number(bytes[4])?,
            codec,
            blocks: usize::from(u16::from_le_bytes([bytes[6], bytes[7]])),
            stored: size(8)?,
            plain: size(12).filter(|plain| *plain <= CHUNK)?,
            crc: number(16),
            id: ChunkId::from_bytes(bytes[24..56].try_into().ok()?),
            check: bytes[56..64].try_into().ok()?,
        };
        let fits = match header.kind {
            Kind::Data => header.blocks * BLOCK == header.plain && header.blocks > 0,
            Kind::Leaf | Kind::Inner | Kind::Blob => header.blocks == 0,
        };
        (bytes[..4] == MAGIC && number(20) == 0 && fits).then_some(header)
    }

    pub(crate) fn table_bytes(&self, key: &PackKey) -> usize {
        if self.blocks == 0 { 0 } else { self.blocks * BLOCK_HASH + key.overhead() }
    }

    /// From its first byte to the first byte of the next frame.
    pub(crate) fn frame_bytes(&self, key: &PackKey) -> usize {
        (HEADER + self.table_bytes(key) + self.stored).next_multiple_of(ALIGN)
    }

    fn write(&self, out: &mut [u8]) -> Result<()> {
        let number = |value: usize| u32::try_from(value).map(u32::to_le_bytes).map_err(|_| too_long());
        out[..4].copy_from_slice(&MAGIC);
        out[4] = self.kind.number();
        out[5] = match self.codec {
            Codec::Raw => 0,
            Codec::Zstd => 1,
        };
        out[6..8].copy_from_slice(&u16::try_from(self.blocks).map_err(|_| too_long())?.to_le_bytes());
        out[8..12].copy_from_slice(&number(self.stored)?);
        out[12..16].copy_from_slice(&number(self.plain)?);
        out[16..20].copy_from_slice(&self.crc.to_le_bytes());
        out[20..24].fill(0);
        out[24..56].copy_from_slice(self.id.bytes());
        out[56..64].copy_from_slice(&self.check);
        Ok(())
    }
}

fn too_long() -> StoreError {
    StoreError::Worker("a frame is longer than frames may be".into())
}

/// A chunk ready to be stored anywhere: named and compressed, but not sealed.
#[derive(Clone, Debug)]
pub(crate) struct Packed {
    pub(crate) kind: Kind,
    pub(crate) id: ChunkId,
    codec: Codec,
    plain: usize,
    /// Hashes of the blocks, one after the other.
    table: Vec<u8>,
    payload: Vec<u8>,
}

impl Packed {
    /// Appends the frame as it will stand at this offset of this pack, padding included.
    pub(crate) fn write(&self, key: &PackKey, offset: u64, out: &mut Vec<u8>) -> Result<()> {
        let from = out.len();
        out.resize(from + HEADER, 0);
        if !self.table.is_empty() {
            key.seal(Part::Table, offset, &self.table, out)?;
        }
        let payload = out.len();
        key.seal(Part::Payload, offset, &self.payload, out)?;
        let mut header = Header {
            kind: self.kind,
            codec: self.codec,
            blocks: self.table.len() / BLOCK_HASH,
            stored: out.len() - payload,
            plain: self.plain,
            crc: crc32fast::hash(&out[payload..]),
            id: self.id,
            check: [0; 8],
        };
        header.write(&mut out[from..])?;
        header.check = key.check(offset, &out[from..from + CHECKED], &out[from + HEADER..payload]);
        header.write(&mut out[from..])?;
        out.resize(from + (out.len() - from).next_multiple_of(ALIGN), 0);
        Ok(())
    }

    /// As it travels between stores: a frame without seal, check and padding.
    pub(crate) fn to_wire(&self) -> Result<Vec<u8>> {
        let mut wire = vec![0; HEADER];
        wire.extend_from_slice(&self.table);
        wire.extend_from_slice(&self.payload);
        Header {
            kind: self.kind,
            codec: self.codec,
            blocks: self.table.len() / BLOCK_HASH,
            stored: self.payload.len(),
            plain: self.plain,
            crc: crc32fast::hash(&self.payload),
            id: self.id,
            check: [0; 8],
        }
        .write(&mut wire)?;
        Ok(wire)
    }

    /// Reads what a peer sent; nothing of it is believed before `verify`.
    pub(crate) fn from_wire(wire: &[u8]) -> Option<Self> {
        let header = Header::parse(wire)?;
        let payload = HEADER + header.blocks * BLOCK_HASH;
        let whole = wire.len() == payload + header.stored;
        whole.then(|| Self {
            kind: header.kind,
            id: header.id,
            codec: header.codec,
            plain: header.plain,
            table: wire[HEADER..payload].to_vec(),
            payload: wire[payload..].to_vec(),
        })
    }

    /// Blocks it has.
    pub(crate) fn hashes(&self) -> Vec<BlockHash> {
        split(&self.table)
    }

    /// Decodes it and checks every byte against its id.
    pub(crate) fn verify(&self, namer: &Namer) -> std::result::Result<Vec<u8>, String> {
        let Self { kind, id, codec, plain, table, payload } = self;
        verify(namer, *kind, id, (*codec, *plain), table, payload)
    }
}

/// Decodes a payload and checks every byte against the id.
fn verify(
    namer: &Namer,
    kind: Kind,
    id: &ChunkId,
    (codec, length): (Codec, usize),
    table: &[u8],
    payload: &[u8],
) -> std::result::Result<Vec<u8>, String> {
    let plain = match codec {
        Codec::Raw => payload.to_vec(),
        Codec::Zstd => decompress(payload, length)?,
    };
    if plain.len() != length {
        return Err(format!("{} bytes came out instead of {length}", plain.len()));
    }
    let named: &[u8] = match kind {
        Kind::Data => {
            let hashes = table.as_chunks::<BLOCK_HASH>().0;
            let wrong = plain.chunks(BLOCK).zip(hashes).position(|(block, hash)| namer.block(block).0 != *hash);
            if let Some(at) = wrong {
                return Err(format!("block {at} has another content than its hash says"));
            }
            table
        }
        Kind::Leaf | Kind::Inner | Kind::Blob => &plain,
    };
    if namer.chunk(kind, named) != *id {
        return Err("its content does not match its id".into());
    }
    Ok(plain)
}

/// At most so many bytes, whatever the payload says of itself.
fn decompress(payload: &[u8], length: usize) -> std::result::Result<Vec<u8>, String> {
    thread_local! {
        // Making one costs as much as decoding a chunk.
        static ZSTD: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
    }
    ZSTD.with_borrow_mut(|kept| {
        let mut zstd = match kept.take() {
            Some(zstd) => zstd,
            None => zstd::bulk::Decompressor::new().map_err(|e| format!("zstd: {e}"))?,
        };
        let plain = zstd.decompress(payload, length).map_err(|e| format!("zstd: {e}"));
        *kept = Some(zstd);
        plain
    })
}

/// A table's hashes.
pub(crate) fn split(table: &[u8]) -> Vec<BlockHash> {
    table.as_chunks::<BLOCK_HASH>().0.iter().map(|hash| BlockHash(*hash)).collect()
}

/// The hashes as one table.
pub(crate) fn table_of(hashes: &[BlockHash]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| hash.0).collect()
}

/// Reads header and table, which must belong to this offset.
pub(crate) fn open_head(
    bytes: &mut [u8],
    key: &PackKey,
    offset: u64,
) -> std::result::Result<(Header, Vec<u8>), String> {
    let header = Header::parse(bytes).ok_or("there is no frame header")?;
    let payload = HEADER + header.table_bytes(key);
    let Some(head) = bytes.get_mut(..payload) else { return Err("it ends inside its table".into()) };
    if key.check(offset, &head[..CHECKED], &head[HEADER..]) != header.check {
        return Err("header or table does not match its check".into());
    }
    let table = match header.blocks {
        0 => Vec::new(),
        _ => key.open(Part::Table, offset, &mut head[HEADER..]).ok_or("the table's seal is broken")?.to_vec(),
    };
    Ok((header, table))
}

/// Reads a whole frame and takes off its seal.
pub(crate) fn open(bytes: &mut [u8], key: &PackKey, offset: u64) -> std::result::Result<Packed, String> {
    let (header, table) = open_head(bytes, key, offset)?;
    let payload = open_payload(bytes, &header, key, offset)?.to_vec();
    Ok(Packed { kind: header.kind, id: header.id, codec: header.codec, plain: header.plain, table, payload })
}

/// Reads a whole frame and checks every byte of its content. Tells its kind and id too.
pub(crate) fn read(
    bytes: &mut [u8],
    key: &PackKey,
    offset: u64,
    namer: &Namer,
) -> std::result::Result<(Kind, ChunkId, Vec<u8>), String> {
    let (header, table) = open_head(bytes, key, offset)?;
    let payload = open_payload(bytes, &header, key, offset)?;
    let plain = verify(namer, header.kind, &header.id, (header.codec, header.plain), &table, payload)?;
    Ok((header.kind, header.id, plain))
}

fn open_payload<'a>(
    bytes: &'a mut [u8],
    header: &Header,
    key: &PackKey,
    offset: u64,
) -> std::result::Result<&'a [u8], String> {
    let payload = HEADER + header.table_bytes(key);
    let Some(stored) = bytes.get_mut(payload..payload + header.stored) else {
        return Err("it ends inside its payload".into());
    };
    if crc32fast::hash(stored) != header.crc {
        return Err("the payload does not match its CRC".into());
    }
    key.open(Part::Payload, offset, stored).ok_or_else(|| "the payload's seal is broken".into())
}

/// Names and compresses; one for each thread.
pub(crate) struct Packer {
    zstd: zstd::bulk::Compressor<'static>,
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Packer")
    }
}

impl Packer {
    pub(crate) fn new(level: i32) -> Result<Self> {
        let zstd = zstd::bulk::Compressor::new(level).map_err(|e| StoreError::Worker(format!("zstd: {e}")))?;
        Ok(Self { zstd })
    }

    /// Blocks and their hashes, whose id is known already.
    pub(crate) fn data(&mut self, id: ChunkId, hashes: &[BlockHash], plain: Vec<u8>) -> Result<Packed> {
        self.pack(Kind::Data, id, table_of(hashes), plain)
    }

    /// A node or a piece of a file.
    pub(crate) fn whole(&mut self, namer: &Namer, kind: Kind, plain: Vec<u8>) -> Result<Packed> {
        let id = namer.chunk(kind, &plain);
        self.pack(kind, id, Vec::new(), plain)
    }

    fn pack(&mut self, kind: Kind, id: ChunkId, table: Vec<u8>, plain: Vec<u8>) -> Result<Packed> {
        let length = plain.len();
        if !looks_random(&plain) {
            let payload = self.zstd.compress(&plain).map_err(|e| StoreError::Worker(format!("zstd: {e}")))?;
            if payload.len() < length {
                return Ok(Packed { kind, id, codec: Codec::Zstd, plain: length, table, payload });
            }
        }
        Ok(Packed { kind, id, codec: Codec::Raw, plain: length, table, payload: plain })
    }
}

/// True where a sample of the bytes is as evenly spread as random ones: compressed or encrypted data, which zstd would
/// search in vain. The sum of squared counts of n random bytes is n + n(n-1)/256, its deviation about n/11.
fn looks_random(bytes: &[u8]) -> bool {
    /// Bytes looked at: enough to tell machine code (3 times the sum) and base64 (4 times) from random with certainty.
    const SAMPLE: usize = 4096;
    const RUN: usize = 64;
    if bytes.len() < SAMPLE * 2 {
        return false;
    }
    let stride = bytes.len() / (SAMPLE / RUN);
    let mut counts = [0u32; 256];
    for run in bytes.chunks(stride).take(SAMPLE / RUN) {
        run.iter().take(RUN).for_each(|byte| counts[usize::from(*byte)] += 1);
    }
    let sum: u64 = counts.iter().map(|count| u64::from(*count) * u64::from(*count)).sum();
    /// 69,616 is expected of random bytes; six deviations more.
    const LIMIT: u64 = 72_000;
    sum < LIMIT
}
