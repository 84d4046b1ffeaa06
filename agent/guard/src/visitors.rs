//! Visitors on the local socket: framed requests in, answers and notes out. A visitor that reads slowly or writes nonsense
//! is shown the door; nobody waits for it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use roost_protocol::codec;
use roost_ward::door::{LONGEST_FRAME, Note, Reply, Request};

/// Agent, aggregator, a status command or two.
const MOST_VISITORS: usize = 8;
/// Answers that may wait for a slow reader.
const MOST_WAITING: usize = 4 * LONGEST_FRAME;
/// Read at once from one visitor, so that none keeps the guard busy.
const CHUNK: usize = 16 << 10;

/// Names a visitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Visitor(u64);

/// All of them.
#[derive(Debug)]
pub(crate) struct Visitors {
    listener: UnixListener,
    next: u64,
    inside: BTreeMap<Visitor, Seat>,
}

#[derive(Debug)]
struct Seat {
    stream: UnixStream,
    came: Vec<u8>,
    goes: Vec<u8>,
    follows: bool,
    gone: bool,
}

impl Visitors {
    /// Opens the door: for root and this user only.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, next: 0, inside: BTreeMap::new() })
    }

    /// What to wait for: descriptor, and whether something is to be written.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = (BorrowedFd<'_>, bool)> {
        let seats = self.inside.values().map(|seat| (seat.stream.as_fd(), !seat.goes.is_empty()));
        std::iter::once((self.listener.as_fd(), false)).chain(seats)
    }

    /// All requests that came, without waiting.
    pub(crate) fn requests(&mut self) -> Vec<(Visitor, Request)> {
        self.let_in();
        let mut out = Vec::new();
        for (visitor, seat) in &mut self.inside {
            seat.read();
            while let Some(request) = seat.request() {
                out.push((*visitor, request));
            }
        }
        out
    }

    fn let_in(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.inside.len() < MOST_VISITORS && stream.set_nonblocking(true).is_ok() {
                self.next += 1;
                let seat = Seat { stream, came: Vec::new(), goes: Vec::new(), follows: false, gone: false };
                self.inside.insert(Visitor(self.next), seat);
            }
        }
    }

    pub(crate) fn answer(&mut self, visitor: Visitor, reply: &Reply) {
        if let Some(seat) = self.inside.get_mut(&visitor) {
            seat.say(reply);
        }
    }

    /// From now on this visitor gets notes.
    pub(crate) fn follow(&mut self, visitor: Visitor) {
        if let Some(seat) = self.inside.get_mut(&visitor) {
            seat.follows = true;
        }
    }

    pub(crate) fn note(&mut self, note: &Note) {
        for seat in self.inside.values_mut().filter(|seat| seat.follows) {
            seat.say(&Reply::Note(note.clone()));
        }
    }

    /// Writes what fits, and forgets who left.
    pub(crate) fn flush(&mut self) {
        for seat in self.inside.values_mut() {
            seat.write();
        }
        self.inside.retain(|_, seat| !seat.gone);
    }
}

impl Seat {
    fn read(&mut self) {
        let mut chunk = [0; CHUNK];
        match self.stream.read(&mut chunk) {
            Ok(0) => self.gone = true,
            Ok(count) => self.came.extend(chunk.iter().take(count)),
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&mut self, error: &io::Error) {
        self.gone |= !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted);
    }

    fn request(&mut self) -> Option<Request> {
        let (length, _) = self.came.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok().filter(|length| *length <= LONGEST_FRAME);
        let Some(length) = length else {
            self.gone = true;
            self.came.clear();
            return None;
        };
        let frame = self.came.get(4..4 + length)?.to_vec();
        self.came.drain(..4 + length);
        match codec::decode(&frame) {
            Ok(request) => Some(request),
            Err(why) => {
                self.say(&Reply::Refused(format!("not a request: {why}")));
                self.came.clear();
                None
            }
        }
    }

    fn say(&mut self, reply: &Reply) {
        let bytes = codec::encode(reply);
        let fits = self.goes.len() + bytes.len() <= MOST_WAITING;
        match u32::try_from(bytes.len()) {
            Ok(length) if fits => {
                self.goes.extend(length.to_be_bytes());
                self.goes.extend(bytes);
            }
            Ok(_) | Err(_) => self.gone = true,
        }
    }

    fn write(&mut self) {
        while !self.goes.is_empty() && !self.gone {
            match self.stream.write(&self.goes) {
                Ok(0) => self.gone = true,
                Ok(count) => drop(self.goes.drain(..count)),
                Err(error) => return self.failed(&error),
            }
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn room() -> (Visitors, UnixStream, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sock");
        let visitors = Visitors::open(&path).unwrap();
        (visitors, UnixStream::connect(&path).unwrap(), folder)
    }

    fn frame(bytes: &[u8]) -> Vec<u8> {
        [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
    }

    #[test]
    fn a_request_in_pieces_is_answered_once() {
        let (mut visitors, mut stream, _folder) = room();
        let request = frame(&codec::encode(&Request::Status));
        let (head, tail) = request.split_at(3);
        stream.write_all(head).unwrap();
        assert!(visitors.requests().is_empty());
        stream.write_all(tail).unwrap();
        let asked = visitors.requests();
        assert_eq!(asked.len(), 1);
        visitors.answer(asked[0].0, &Reply::Done);
        visitors.flush();
        let mut answer = vec![0; frame(&codec::encode(&Reply::Done)).len()];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, frame(&codec::encode(&Reply::Done)));
    }

    #[test]
    fn who_announces_too_much_or_leaves_is_forgotten() {
        let (mut visitors, mut stream, _folder) = room();
        stream.write_all(&u32::MAX.to_be_bytes()).unwrap();
        assert!(visitors.requests().is_empty());
        visitors.flush();
        assert!(visitors.inside.is_empty());
    }

    #[test]
    fn nonsense_is_refused_and_the_visitor_stays() {
        let (mut visitors, mut stream, _folder) = room();
        stream.write_all(&frame(b"\xff\xff")).unwrap();
        assert!(visitors.requests().is_empty());
        visitors.flush();
        assert_eq!(visitors.inside.len(), 1);
    }

    #[test]
    fn a_follower_that_never_reads_is_let_go() {
        let (mut visitors, mut stream, _folder) = room();
        stream.write_all(&frame(&codec::encode(&Request::Status))).unwrap();
        let who = visitors.requests()[0].0;
        visitors.follow(who);
        let reply = Reply::Refused("x".repeat(LONGEST_FRAME));
        for _ in 0..20 {
            visitors.answer(who, &reply);
            visitors.flush();
        }
        assert!(visitors.inside.is_empty());
    }
}
