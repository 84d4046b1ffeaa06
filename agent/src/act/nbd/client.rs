//! Reads one export. The peer is QEMU, which a guest may have broken into: nothing it says is believed beyond bounds,
//! and a read that gets no answer in time ends.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::wire::{self, Request};
use crate::act::image::LARGEST_BYTES;

/// Longest silence of the peer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Reads on their way at a time: enough that QEMU and we both work.
const IN_FLIGHT: usize = 4;
/// Buffer of the socket's reader; data of reads goes past it.
const BUFFER: usize = 64 << 10;
/// Longest range asked about at once: the largest multiple of all block sizes in a 32-bit length.
const STATUS_RANGE: u64 = 1 << 31;
/// Replies to one option; two contexts and some infos are asked for.
const REPLIES: usize = 64;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NbdError {
    #[error("talk to the disk's server: {0}")]
    Io(#[from] io::Error),
    #[error("the disk's server breaks the protocol: {0}")]
    Protocol(&'static str),
    #[error("the disk's server refuses {what}: {why}")]
    Refused { what: &'static str, why: String },
    #[error("the disk's server can't read at byte {offset}: error {code}")]
    Read { offset: u64, code: u32 },
    #[error("the disk has {0} bytes; {LARGEST_BYTES} are allowed")]
    TooLarge(u64),
}

/// A run of bytes that are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) length: u64,
    /// Reads as zeroes.
    pub(crate) zero: bool,
    /// Written since the bitmap's checkpoint; true without a bitmap.
    pub(crate) dirty: bool,
}

/// A connection to one export.
#[derive(Debug)]
pub(crate) struct Client {
    reader: BufReader<UnixStream>,
    size: u64,
    /// Ids the server gave to the contexts it has.
    allocation: Option<u32>,
    bitmap: Option<u32>,
    cookie: u64,
}

/// One read on its way.
struct Slot {
    offset: u64,
    buffer: Vec<u8>,
    /// Bytes not answered yet.
    left: usize,
}

impl Client {
    /// Connects to an export; `bitmap` is the context to ask for (`qemu:dirty-bitmap:backup-vda`).
    pub(crate) fn connect(socket: &Path, export: &str, bitmap: Option<&str>) -> Result<Self, NbdError> {
        Self::over(UnixStream::connect(socket)?, export, bitmap, PATIENCE)
    }

    pub(super) fn over(
        stream: UnixStream,
        export: &str,
        bitmap: Option<&str>,
        patience: Duration,
    ) -> Result<Self, NbdError> {
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        let reader = BufReader::with_capacity(BUFFER, stream);
        let mut client = Self { reader, size: 0, allocation: None, bitmap: None, cookie: 0 };
        client.greet()?;
        client.option(wire::OPT_STRUCTURED, &[], "structured replies", |_, _, _| Ok(()))?;
        client.contexts(export, bitmap)?;
        client.go(export)?;
        Ok(client)
    }

    /// Of the disk, bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Whether the server has the bitmap that was asked for.
    pub(crate) fn has_bitmap(&self) -> bool {
        self.bitmap.is_some()
    }

    /// A second handle on the socket, by which another thread can end a read that waits.
    pub(crate) fn handle(&self) -> io::Result<UnixStream> {
        self.reader.get_ref().try_clone()
    }

    fn greet(&mut self) -> Result<(), NbdError> {
        if wire::u64_from(&mut self.reader)? != wire::HELLO || wire::u64_from(&mut self.reader)? != wire::OPTION {
            return Err(NbdError::Protocol("this is no NBD server"));
        }
        let flags = wire::u16_from(&mut self.reader)?;
        if flags & wire::FIXED == 0 || flags & wire::NO_ZEROES == 0 {
            return Err(NbdError::Protocol("it is too old"));
        }
        self.send(&u32::from(wire::FIXED | wire::NO_ZEROES).to_be_bytes())
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), NbdError> {
        Ok(self.reader.get_mut().write_all(bytes)?)
    }

    /// Sends one option and hands each reply before the last to `each`.
    fn option(
        &mut self,
        number: u32,
        data: &[u8],
        what: &'static str,
        each: impl Fn(&mut Self, u32, &[u8]) -> Result<(), NbdError>,
    ) -> Result<(), NbdError> {
        self.send(&wire::option(number, data))?;
        for _ in 0..REPLIES {
            let known = wire::u64_from(&mut self.reader)? == wire::OPTION_REPLY;
            if !known || wire::u32_from(&mut self.reader)? != number {
                return Err(NbdError::Protocol("an answer to what was not asked"));
            }
            let (kind, length) = (wire::u32_from(&mut self.reader)?, wire::u32_from(&mut self.reader)?);
            if length > wire::OPTION_BYTES {
                return Err(NbdError::Protocol("an answer beyond its bound"));
            }
            let data = wire::bytes_from(&mut self.reader, length)?;
            match kind {
                wire::REP_ACK => return Ok(()),
                kind if kind & wire::REP_ERROR != 0 => {
                    let words: String = String::from_utf8_lossy(&data).chars().take(wire::TEXT).collect();
                    return Err(NbdError::Refused { what, why: format!("{words} ({kind:#x})") });
                }
                kind => each(self, kind, &data)?,
            }
        }
        Err(NbdError::Protocol("too many answers"))
    }

    fn contexts(&mut self, export: &str, bitmap: Option<&str>) -> Result<(), NbdError> {
        let queries: Vec<&str> = std::iter::once(wire::ALLOCATION).chain(bitmap).collect();
        let mut data = Vec::new();
        wire::put_text(&mut data, export);
        data.extend(u32::try_from(queries.len()).unwrap_or(0).to_be_bytes());
        queries.iter().for_each(|query| wire::put_text(&mut data, query));
        self.option(wire::OPT_SET_META, &data, "to tell what is data", |client, kind, data| {
            if kind == wire::REP_META {
                let Some((id, name)) = data.split_first_chunk::<4>() else {
                    return Err(NbdError::Protocol("a short context"));
                };
                let id = u32::from_be_bytes(*id);
                if name == wire::ALLOCATION.as_bytes() {
                    client.allocation = Some(id);
                } else if bitmap.is_some_and(|wanted| wanted.as_bytes() == name) {
                    client.bitmap = Some(id);
                }
            }
            Ok(())
        })
    }

    fn go(&mut self, export: &str) -> Result<(), NbdError> {
        let mut data = Vec::new();
        wire::put_text(&mut data, export);
        data.extend([0, 0]);
        self.option(wire::OPT_GO, &data, "the disk", |client, kind, data| {
            if kind == wire::REP_INFO
                && let Some((head, _flags)) = data.split_first_chunk::<10>()
                && head.starts_with(&wire::INFO_EXPORT.to_be_bytes())
            {
                client.size = head[2..].iter().fold(0, |size, byte| size << 8 | u64::from(*byte));
            }
            Ok(())
        })?;
        if self.size > LARGEST_BYTES { Err(NbdError::TooLarge(self.size)) } else { Ok(()) }
    }

    /// What lies at `from` and behind it, as far as the server tells at once: at least one byte, ascending, no gaps.
    pub(crate) fn extents(&mut self, from: u64) -> Result<Vec<Extent>, NbdError> {
        let range = self.size.saturating_sub(from).min(STATUS_RANGE);
        let asked: Vec<u32> = [self.allocation, self.bitmap].into_iter().flatten().collect();
        if range == 0 || asked.is_empty() {
            return Ok(vec![Extent { offset: from, length: range, zero: false, dirty: true }]);
        }
        let mut lists = self.status(from, u32::try_from(range).map_err(io::Error::other)?)?;
        let zeroes = self.allocation.and_then(|id| lists.remove(&id));
        let changes = self.bitmap.and_then(|id| lists.remove(&id));
        if (zeroes.is_none() && self.allocation.is_some()) || (changes.is_none() && self.bitmap.is_some()) {
            return Err(NbdError::Protocol("it does not tell what was asked"));
        }
        merge(from, range, zeroes, changes).ok_or(NbdError::Protocol("an extent without length"))
    }

    /// The lists of length and state that the server has for each context.
    fn status(&mut self, offset: u64, length: u32) -> Result<BTreeMap<u32, Vec<(u32, u32)>>, NbdError> {
        let cookie = self.request(wire::CMD_BLOCK_STATUS, offset, length)?;
        let mut lists = BTreeMap::new();
        loop {
            let chunk = self.chunk_head(|known| known == cookie)?;
            match chunk.kind {
                wire::CHUNK_STATUS if chunk.length <= wire::STATUS_BYTES && chunk.length % 8 == 4 => {
                    let data = wire::bytes_from(&mut self.reader, chunk.length)?;
                    let words: Vec<u32> = data.chunks_exact(4).map(word).collect();
                    let pairs = words[1..].chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
                    if lists.insert(words[0], pairs).is_some() || lists.len() > 2 {
                        return Err(NbdError::Protocol("a context twice"));
                    }
                }
                wire::CHUNK_NONE if chunk.length == 0 => {}
                kind if kind & wire::CHUNK_ERROR != 0 => return Err(self.error(offset, chunk.length)?),
                _ => return Err(NbdError::Protocol("an unknown answer about extents")),
            }
            if chunk.done {
                return Ok(lists);
            }
        }
    }

    /// Reads all ranges and hands each part to `sink` when it is whole. Several are read at a time, but none is on its way
    /// while the sink works: QEMU can't go on with other things, the guest's disk among them, while an answer waits to be
    /// taken, and a sink may hang.
    pub(crate) fn read<E: From<NbdError>>(
        &mut self,
        ranges: impl Iterator<Item = (u64, u64)>,
        mut sink: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut parts = ranges.flat_map(|(offset, length)| split(offset, length));
        let mut spare: Vec<Vec<u8>> = Vec::new();
        loop {
            let mut slots: BTreeMap<u64, Slot> = BTreeMap::new();
            for (offset, length) in parts.by_ref().take(IN_FLIGHT) {
                let cookie = self.request(wire::CMD_READ, offset, length)?;
                let left = usize::try_from(length).map_err(|error| NbdError::Io(io::Error::other(error)))?;
                let mut buffer = spare.pop().unwrap_or_default();
                // All of it is answered before it is looked at: what an earlier read left needs no clearing.
                buffer.resize(left, 0);
                slots.insert(cookie, Slot { offset, buffer, left });
            }
            let mut whole = Vec::new();
            while !slots.is_empty() {
                whole.extend(self.answer(&mut slots)?);
            }
            if whole.is_empty() {
                return Ok(());
            }
            whole.sort_by_key(|slot| slot.offset);
            for slot in whole {
                sink(slot.offset, &slot.buffer)?;
                spare.push(slot.buffer);
            }
        }
    }

    /// Takes one chunk; gives the read that it was the last of.
    fn answer(&mut self, slots: &mut BTreeMap<u64, Slot>) -> Result<Option<Slot>, NbdError> {
        let chunk = self.chunk_head(|cookie| slots.contains_key(&cookie))?;
        let Some(slot) = slots.get_mut(&chunk.cookie) else { return Ok(None) };
        match chunk.kind {
            wire::CHUNK_DATA if (9..=wire::READ_BYTES + 8).contains(&chunk.length) => {
                let at = wire::u64_from(&mut self.reader)?;
                let part = slot.part(at, chunk.length - 8)?;
                self.reader.read_exact(part)?;
            }
            wire::CHUNK_HOLE if chunk.length == 12 => {
                let (at, length) = (wire::u64_from(&mut self.reader)?, wire::u32_from(&mut self.reader)?);
                slot.part(at, length)?.fill(0);
            }
            wire::CHUNK_NONE if chunk.length == 0 => {}
            kind if kind & wire::CHUNK_ERROR != 0 => {
                let offset = slot.offset;
                return Err(self.error(offset, chunk.length)?);
            }
            _ => return Err(NbdError::Protocol("an unknown answer to a read")),
        }
        if !chunk.done {
            return Ok(None);
        }
        match slots.remove(&chunk.cookie) {
            Some(slot) if slot.left == 0 => Ok(Some(slot)),
            Some(_) | None => Err(NbdError::Protocol("a read that was answered in part")),
        }
    }

    fn request(&mut self, command: u16, offset: u64, length: u32) -> Result<u64, NbdError> {
        self.cookie += 1;
        let cookie = self.cookie;
        self.send(&Request { flags: 0, command, cookie, offset, length }.bytes())?;
        Ok(cookie)
    }

    fn chunk_head(&mut self, known: impl Fn(u64) -> bool) -> Result<Chunk, NbdError> {
        let magic = wire::u32_from(&mut self.reader)?;
        if magic == wire::SIMPLE_REPLY {
            let code = wire::u32_from(&mut self.reader)?;
            return Err(NbdError::Refused { what: "a request", why: format!("error {code}") });
        }
        if magic != wire::CHUNK {
            return Err(NbdError::Protocol("an answer without its mark"));
        }
        let (flags, kind) = (wire::u16_from(&mut self.reader)?, wire::u16_from(&mut self.reader)?);
        let (cookie, length) = (wire::u64_from(&mut self.reader)?, wire::u32_from(&mut self.reader)?);
        if !known(cookie) {
            return Err(NbdError::Protocol("an answer to what was not asked"));
        }
        Ok(Chunk { kind, cookie, length, done: flags & wire::CHUNK_DONE != 0 })
    }

    /// Reads the rest of a chunk that tells an error.
    fn error(&mut self, offset: u64, length: u32) -> Result<NbdError, NbdError> {
        if !(6..=wire::OPTION_BYTES).contains(&length) {
            return Ok(NbdError::Protocol("an error beyond its bound"));
        }
        let data = wire::bytes_from(&mut self.reader, length)?;
        Ok(NbdError::Read { offset, code: word(&data[..4]) })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.request(wire::CMD_DISCONNECT, 0, 0);
        // Others hold the socket too, and answers that nobody takes would hold up QEMU.
        let _ = self.reader.get_ref().shutdown(Shutdown::Both);
    }
}

/// Head of one structured reply.
struct Chunk {
    kind: u16,
    cookie: u64,
    length: u32,
    done: bool,
}

impl Slot {
    /// The part of the buffer for these bytes of the disk; the server may not answer a byte it was not asked for, nor
    /// more of them than it was asked for.
    fn part(&mut self, at: u64, length: u32) -> Result<&mut [u8], NbdError> {
        let outside = NbdError::Protocol("data outside of what was asked");
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let start = at.checked_sub(self.offset).and_then(|start| usize::try_from(start).ok());
        let range = start.and_then(|start| Some(start..start.checked_add(length)?));
        self.left = match self.left.checked_sub(length) {
            Some(left) => left,
            None => return Err(outside),
        };
        range.and_then(|range| self.buffer.get_mut(range)).ok_or(outside)
    }
}

fn word(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// A range in parts no longer than one read.
fn split(offset: u64, length: u64) -> impl Iterator<Item = (u64, u32)> {
    let step = u64::from(wire::READ_BYTES);
    (0..length.div_ceil(step)).map(move |part| {
        let begin = part * step;
        (offset + begin, u32::try_from((length - begin).min(step)).unwrap_or(wire::READ_BYTES))
    })
}

/// Lays two lists over each other as far as both reach; none for a list without progress.
fn merge(
    from: u64,
    range: u64,
    zeroes: Option<Vec<(u32, u32)>>,
    changes: Option<Vec<(u32, u32)>>,
) -> Option<Vec<Extent>> {
    let whole = |state: u32| vec![(u32::try_from(range).unwrap_or(u32::MAX), state)];
    let zeroes = zeroes.unwrap_or_else(|| whole(0));
    let changes = changes.unwrap_or_else(|| whole(wire::STATE_DIRTY));
    let (mut left, mut right) = (zeroes.into_iter(), changes.into_iter());
    let (mut zero, mut change) = (left.next()?, right.next()?);
    let mut out: Vec<Extent> = Vec::new();
    let end = from.checked_add(range)?;
    let mut offset = from;
    while offset < end {
        let length = u64::from(zero.0.min(change.0)).min(end - offset);
        if length == 0 {
            return None;
        }
        let (is_zero, dirty) = (zero.1 & wire::STATE_ZERO != 0, change.1 & wire::STATE_DIRTY != 0);
        match out.last_mut() {
            Some(last) if (last.zero, last.dirty) == (is_zero, dirty) => last.length += length,
            Some(_) | None => out.push(Extent { offset, length, zero: is_zero, dirty }),
        }
        offset += length;
        let used = u32::try_from(length).ok()?;
        for (current, more) in [(&mut zero, &mut left), (&mut change, &mut right)] {
            current.0 -= used;
            if current.0 == 0 && offset < end {
                match more.next() {
                    Some(next) => *current = next,
                    None => return Some(out),
                }
            }
        }
    }
    Some(out)
}
