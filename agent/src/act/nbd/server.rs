//! Serves disks read-only over a unix socket, to the QEMU of a guest that boots from a restore point.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, BufReader, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::wire::{self, Request};

/// Connections at a time: one for each disk of a guest that boots, and as many again when it comes back.
const CONNECTIONS: usize = 64;
/// A peer that does not take its answer for so long is cut off.
const PATIENCE: Duration = Duration::from_secs(60);
/// Options before the disk is named; QEMU sends four.
const OPTIONS: usize = 64;
/// Most extents in one answer.
const EXTENTS: usize = 4_096;
/// Reads up to so many bytes are answered while larger ones are worked on: a guest that boots over a point asks for a few
/// pages, and whoever copies its disk meanwhile for much more.
const SMALL: u32 = 128 << 10;
/// Large reads that wait; QEMU has at most 16 requests on their way.
const WAITING: usize = 16;

/// Whom libvirt runs QEMU as: on Debian, elsewhere.
const QEMU_USERS: [&str; 2] = ["libvirt-qemu", "qemu"];

/// A disk to serve.
pub(crate) trait Image: Send + Sync {
    /// Bytes.
    fn size(&self) -> u64;
    /// Fills the buffer; the range lies inside the disk.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Whether just these bytes stand there; the range lies inside the disk.
    fn holds(&self, offset: u64, bytes: &[u8]) -> io::Result<bool> {
        let mut there = vec![0; bytes.len()];
        self.read_at(offset, &mut there)?;
        Ok(there == bytes)
    }

    /// Runs of bytes that may be other than zero, ascending, as offset and length.
    fn data(&self) -> Vec<(u64, u64)>;
}

/// Disks by export name.
pub(crate) type Exports = BTreeMap<String, Arc<dyn Image>>;

/// Serves until it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    socket: PathBuf,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    exports: BTreeMap<String, Export>,
    ended: AtomicBool,
    served: AtomicUsize,
    open: Mutex<BTreeMap<usize, UnixStream>>,
}

struct Export {
    image: Arc<dyn Image>,
    data: Vec<(u64, u64)>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("exports", &self.exports.keys()).finish_non_exhaustive()
    }
}

impl Server {
    /// Begins to serve at a socket that is not there yet.
    pub(crate) fn start(socket: &Path, exports: Exports) -> io::Result<Self> {
        let listener = UnixListener::bind(socket)?;
        let export = |image: Arc<dyn Image>| Export { data: image.data(), image };
        let exports = exports.into_iter().map(|(name, image)| (name, export(image))).collect();
        let (ended, served, open) = (AtomicBool::new(false), AtomicUsize::new(0), Mutex::default());
        let shared = Arc::new(Shared { exports, ended, served, open });
        let for_thread = shared.clone();
        let thread = thread::Builder::new().name("nbd".into()).spawn(move || accept(&listener, &for_thread))?;
        Ok(Self { socket: socket.to_owned(), shared, thread: Some(thread) })
    }

    /// Lets the user in whom libvirt runs QEMU as, and nobody else. Without such a user QEMU runs as root.
    pub(crate) fn let_qemu_in(&self) -> io::Result<()> {
        fs::set_permissions(&self.socket, fs::Permissions::from_mode(0o600))?;
        let user = QEMU_USERS.iter().find_map(|name| nix::unistd::User::from_name(name).ok().flatten());
        user.map_or(Ok(()), |user| std::os::unix::fs::chown(&self.socket, Some(user.uid.as_raw()), None))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for a connection.
        let _ = UnixStream::connect(&self.socket);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        for stream in self.shared.open.lock().unwrap_or_else(PoisonError::into_inner).values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    for (number, stream) in listener.incoming().enumerate() {
        if shared.ended.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let Ok(second) = stream.try_clone() else { continue };
        let mut open = shared.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= CONNECTIONS {
            continue;
        }
        open.insert(number, second);
        drop(open);
        let shared = shared.clone();
        let serve = move || {
            if let Err(error) = serve(&stream, &shared) {
                tracing::debug!(%error, "a disk's reader left");
            }
            shared.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        };
        if let Err(error) = thread::Builder::new().name("nbd-reader".into()).spawn(serve) {
            tracing::warn!(%error, "no thread to serve a disk");
        }
    }
}

fn broken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn serve(stream: &UnixStream, shared: &Shared) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut greeted = Greeted { reader: BufReader::new(stream), stream, structured: false, allocation: false };
    greeted.greet()?;
    let Some(export) = greeted.negotiate(&shared.exports)? else { return Ok(()) };
    let Greeted { mut reader, structured, allocation, .. } = greeted;
    let session = Session { out: Mutex::new(stream), export, structured, allocation };
    let (large, waiting) = sync_channel(WAITING);
    thread::scope(|scope| {
        let session = &session;
        let worker = move || session.read_large(waiting, stream);
        thread::Builder::new().name("nbd-large".into()).spawn_scoped(scope, worker)?;
        let mut buffer = Vec::new();
        while session.request(&mut reader, &large, &mut buffer)? {
            shared.served.fetch_add(1, Ordering::Relaxed);
        }
        drop(large);
        Ok(())
    })
}

/// A connection before its disk is chosen.
struct Greeted<'a> {
    reader: BufReader<&'a UnixStream>,
    stream: &'a UnixStream,
    structured: bool,
    allocation: bool,
}

/// A connection to a disk.
struct Session<'a> {
    /// Held while an answer is written.
    out: Mutex<&'a UnixStream>,
    export: &'a Export,
    structured: bool,
    allocation: bool,
}

/// The id this server gives to `base:allocation`.
const ALLOCATION_ID: u32 = 1;

impl Greeted<'_> {
    fn greet(&mut self) -> io::Result<()> {
        let mut out = wire::HELLO.to_be_bytes().to_vec();
        out.extend(wire::OPTION.to_be_bytes());
        out.extend((wire::FIXED | wire::NO_ZEROES).to_be_bytes());
        self.stream.write_all(&out)?;
        let flags = wire::u32_from(&mut self.reader)?;
        if flags & u32::from(wire::NO_ZEROES) == 0 { Err(broken("the client is too old")) } else { Ok(()) }
    }

    /// Answers options until the client chose its disk; none when it left.
    fn negotiate<'e>(&mut self, exports: &'e BTreeMap<String, Export>) -> io::Result<Option<&'e Export>> {
        for _ in 0..OPTIONS {
            if wire::u64_from(&mut self.reader)? != wire::OPTION {
                return Err(broken("not an option"));
            }
            let (number, length) = (wire::u32_from(&mut self.reader)?, wire::u32_from(&mut self.reader)?);
            if length > wire::OPTION_BYTES {
                return Err(broken("an option beyond its bound"));
            }
            let data = wire::bytes_from(&mut self.reader, length)?;
            match number {
                wire::OPT_STRUCTURED => {
                    self.structured = true;
                    self.reply(number, wire::REP_ACK, &[])?;
                }
                wire::OPT_SET_META => self.context(number, exports, &data)?,
                wire::OPT_GO => {
                    let export = text(&data).and_then(|(name, _)| exports.get(name));
                    match export {
                        Some(export) => {
                            self.tell_export(number, export)?;
                            return Ok(Some(export));
                        }
                        None => self.reply(number, wire::REP_UNKNOWN, b"no such disk")?,
                    }
                }
                wire::OPT_ABORT => {
                    self.reply(number, wire::REP_ACK, &[])?;
                    return Ok(None);
                }
                _ => self.reply(number, wire::REP_UNSUPPORTED, &[])?,
            }
        }
        Err(broken("too many options"))
    }

    fn reply(&mut self, number: u32, kind: u32, data: &[u8]) -> io::Result<()> {
        self.stream.write_all(&wire::option_reply(number, kind, data))
    }

    fn context(&mut self, number: u32, exports: &BTreeMap<String, Export>, data: &[u8]) -> io::Result<()> {
        let Some((name, rest)) = text(data) else { return self.reply(number, wire::REP_INVALID, &[]) };
        if !exports.contains_key(name) {
            return self.reply(number, wire::REP_UNKNOWN, &[]);
        }
        // The number of queries is of no use: each has its length.
        let mut rest = rest.get(4..).unwrap_or_default();
        self.allocation = false;
        while let Some((query, more)) = text(rest) {
            self.allocation |= query == wire::ALLOCATION;
            rest = more;
        }
        if self.allocation {
            let mut data = ALLOCATION_ID.to_be_bytes().to_vec();
            data.extend(wire::ALLOCATION.as_bytes());
            self.reply(number, wire::REP_META, &data)?;
        }
        self.reply(number, wire::REP_ACK, &[])
    }

    fn tell_export(&mut self, number: u32, export: &Export) -> io::Result<()> {
        let mut data = wire::INFO_EXPORT.to_be_bytes().to_vec();
        data.extend(export.image.size().to_be_bytes());
        data.extend((wire::HAS_FLAGS | wire::READ_ONLY | wire::MULTI).to_be_bytes());
        self.reply(number, wire::REP_INFO, &data)?;
        let mut sizes = wire::INFO_BLOCK_SIZE.to_be_bytes().to_vec();
        for size in [1, 4_096, wire::READ_BYTES] {
            sizes.extend(size.to_be_bytes());
        }
        self.reply(number, wire::REP_INFO, &sizes)?;
        self.reply(number, wire::REP_ACK, &[])
    }
}

impl<'a> Session<'a> {
    fn out(&self) -> MutexGuard<'_, &'a UnixStream> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers one request, or hands it on; false when the client takes its leave.
    fn request(
        &self,
        reader: &mut BufReader<&UnixStream>,
        large: &SyncSender<Request>,
        buffer: &mut Vec<u8>,
    ) -> io::Result<bool> {
        let request = Request::read(&mut *reader)?;
        let size = self.export.image.size();
        let inside = request.offset.checked_add(request.length.into()).is_some_and(|end| end <= size);
        let fits = inside && request.length > 0;
        match request.command {
            wire::CMD_DISCONNECT => return Ok(false),
            wire::CMD_FLUSH => self.chunk(request, wire::CHUNK_NONE, &[])?,
            wire::CMD_READ if fits && request.length <= SMALL => self.read(request, buffer)?,
            wire::CMD_READ if fits && request.length <= wire::READ_BYTES => {
                large.send(request).map_err(|_| broken("large reads failed"))?;
            }
            wire::CMD_BLOCK_STATUS if fits && self.allocation && self.structured => self.status(request)?,
            // Its data follows and would be taken for requests.
            wire::CMD_WRITE if request.length > 0 => {
                let length = u64::from(request.length);
                io::copy(&mut reader.take(length), &mut io::sink())?;
                self.refuse(request, wire::EPERM)?;
            }
            _ if inside => self.refuse(request, wire::EPERM)?,
            _ => self.refuse(request, wire::EINVAL)?,
        }
        Ok(true)
    }

    /// Answers the large reads until the connection ends; one that can't be answered ends it.
    fn read_large(&self, waiting: Receiver<Request>, stream: &UnixStream) {
        let mut buffer = Vec::new();
        for request in waiting {
            if let Err(error) = self.read(request, &mut buffer) {
                tracing::debug!(%error, "a disk's reader left");
                let _ = stream.shutdown(Shutdown::Both);
                return;
            }
        }
    }

    fn read(&self, request: Request, buffer: &mut Vec<u8>) -> io::Result<()> {
        // What an earlier read left is overwritten: clearing it costs as much as half the way through the socket.
        buffer.resize(usize::try_from(request.length).map_err(io::Error::other)?, 0);
        if let Err(error) = self.export.image.read_at(request.offset, buffer) {
            tracing::error!(%error, offset = request.offset, "read a restore point");
            return self.refuse(request, wire::EIO);
        }
        match self.structured {
            true => {
                let head = chunk_head(request, wire::CHUNK_DATA, request.length + 8);
                write_all(&self.out(), &[head.as_slice(), &request.offset.to_be_bytes()].concat(), buffer)
            }
            false => write_all(&self.out(), &simple(request, 0), buffer),
        }
    }

    fn status(&self, request: Request) -> io::Result<()> {
        let end = request.offset + u64::from(request.length);
        let most = if request.flags & wire::ONE == 0 { EXTENTS } else { 1 };
        let mut told = Vec::new();
        let mut put = |length: u64, state: u32| told.push((u32::try_from(length).unwrap_or(u32::MAX), state));
        let (data, mut at) = (&self.export.data, request.offset);
        let first = data.partition_point(|(offset, length)| offset.saturating_add(*length) <= at);
        let runs = most.div_ceil(2);
        let whole = data.len() - first <= runs;
        for (offset, length) in data[first..].iter().take(runs) {
            let (from, to) = ((*offset).clamp(at, end), offset.saturating_add(*length).min(end));
            if from > at {
                put(from - at, wire::STATE_ZERO | 1);
            }
            if to > from {
                put(to - from, 0);
            }
            at = to.max(from);
        }
        if at < end && whole {
            put(end - at, wire::STATE_ZERO | 1);
        }
        let mut data = ALLOCATION_ID.to_be_bytes().to_vec();
        for (length, state) in told.into_iter().take(most) {
            data.extend([length.to_be_bytes(), state.to_be_bytes()].concat());
        }
        self.chunk(request, wire::CHUNK_STATUS, &data)
    }

    fn chunk(&self, request: Request, kind: u16, data: &[u8]) -> io::Result<()> {
        match self.structured {
            true => {
                let length = u32::try_from(data.len()).map_err(io::Error::other)?;
                write_all(&self.out(), &chunk_head(request, kind, length), data)
            }
            false => write_all(&self.out(), &simple(request, 0), &[]),
        }
    }

    fn refuse(&self, request: Request, code: u32) -> io::Result<()> {
        if !self.structured {
            return write_all(&self.out(), &simple(request, code), &[]);
        }
        let mut data = code.to_be_bytes().to_vec();
        data.extend([0, 0]);
        self.chunk(request, wire::CHUNK_ERROR | 1, &data)
    }
}

/// Head of an answer that is all in one chunk.
fn chunk_head(request: Request, kind: u16, length: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(32);
    out.extend(wire::CHUNK.to_be_bytes());
    out.extend(wire::CHUNK_DONE.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(request.cookie.to_be_bytes());
    out.extend(length.to_be_bytes());
    out
}

/// Head and data in one call where the socket takes both.
fn write_all(mut stream: &UnixStream, head: &[u8], data: &[u8]) -> io::Result<()> {
    let written = loop {
        match stream.write_vectored(&[IoSlice::new(head), IoSlice::new(data)]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    stream.write_all(head.get(written..).unwrap_or_default())?;
    stream.write_all(data.get(written.saturating_sub(head.len())..).unwrap_or_default())
}

fn simple(request: Request, code: u32) -> Vec<u8> {
    let mut out = wire::SIMPLE_REPLY.to_be_bytes().to_vec();
    out.extend(code.to_be_bytes());
    out.extend(request.cookie.to_be_bytes());
    out
}

/// A text with its length in front, and what follows it.
fn text(data: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = data.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (text, rest) = rest.split_at_checked(length)?;
    Some((std::str::from_utf8(text).ok()?, rest))
}
