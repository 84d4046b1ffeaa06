//! The thread that writes ballots: a disk that hangs must not keep the guard from renewing, pausing and petting.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread;

use nix::sys::eventfd::{EfdFlags, EventFd};
use roost_protocol::failover::WatchdogTest;
use roost_ward::door::{MOST_WARDS, Peer};
use roost_ward::{Ballot, WardId};

use crate::store::{Crew, Store};
use crate::visitors::Visitor;

/// One ballot of each ward may wait, a wish of each visitor, and the watchdog's test.
const WAITING: usize = MOST_WARDS + 10;
/// SQLite's deepest calls need less than a quarter of it; all of it stays in memory.
const STACK: usize = 256 << 10;

/// What is written.
#[derive(Debug)]
enum Job {
    Vote(WardId, Box<Ballot>),
    Peers(Visitor, Vec<Peer>),
    Crew(Visitor, WardId, Crew),
    /// Whoever asked for it, if somebody did.
    Rest(Option<Visitor>, WardId, bool),
    Test(Box<WatchdogTest>),
}

/// What was written, or not.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Done {
    Vote(WardId, bool),
    /// What this visitor asked for.
    Wish(Visitor, bool),
    /// What became of the watchdog's test so far.
    Test(bool),
}

/// The thread, from outside.
#[derive(Debug)]
pub(crate) struct Scribe {
    jobs: SyncSender<Job>,
    done: Receiver<Done>,
    bell: Arc<EventFd>,
}

impl Scribe {
    pub(crate) fn start(store: Store) -> std::io::Result<Self> {
        let (jobs, work) = sync_channel(WAITING);
        let (tell, done) = sync_channel(WAITING);
        let bell = Arc::new(EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
        let ring = Arc::clone(&bell);
        thread::Builder::new()
            .name("votes".into())
            .stack_size(STACK)
            .spawn(move || write(&store, &work, &tell, &ring))?;
        Ok(Self { jobs, done, bell })
    }

    /// False if too much waits already.
    pub(crate) fn vote(&self, ward: WardId, ballot: Box<Ballot>) -> bool {
        self.jobs.try_send(Job::Vote(ward, ballot)).is_ok()
    }

    pub(crate) fn peers(&self, visitor: Visitor, peers: Vec<Peer>) -> bool {
        self.jobs.try_send(Job::Peers(visitor, peers)).is_ok()
    }

    pub(crate) fn crew(&self, visitor: Visitor, ward: WardId, crew: Crew) -> bool {
        self.jobs.try_send(Job::Crew(visitor, ward, crew)).is_ok()
    }

    pub(crate) fn rest(&self, visitor: Option<Visitor>, ward: WardId, rests: bool) -> bool {
        self.jobs.try_send(Job::Rest(visitor, ward, rests)).is_ok()
    }

    pub(crate) fn test(&self, test: WatchdogTest) -> bool {
        self.jobs.try_send(Job::Test(Box::new(test))).is_ok()
    }

    /// Readable when something was written.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// The next thing that was written, or not.
    pub(crate) fn done(&self) -> Option<Done> {
        match self.done.try_recv() {
            Ok(done) => Some(done),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => {
                // Not ringing is no fault.
                let _ = self.bell.read();
                None
            }
        }
    }
}

fn write(store: &Store, work: &Receiver<Job>, tell: &SyncSender<Done>, bell: &EventFd) {
    while let Ok(job) = work.recv() {
        let written = match &job {
            Job::Vote(ward, ballot) => store.vote(*ward, ballot),
            Job::Peers(_, peers) => store.peers(peers),
            Job::Crew(_, ward, crew) => store.crew(*ward, crew),
            Job::Rest(_, ward, rests) => store.rest(*ward, *rests),
            Job::Test(test) => store.test(test),
        };
        if let Err(why) = &written {
            tracing::error!(why = %crate::chain(why), "the vote store can't be written");
        }
        let well = written.is_ok();
        let done = match job {
            Job::Vote(ward, _) => Done::Vote(ward, well),
            Job::Peers(visitor, _) | Job::Crew(visitor, ..) | Job::Rest(Some(visitor), ..) => Done::Wish(visitor, well),
            Job::Rest(None, ..) => continue,
            Job::Test(_) => Done::Test(well),
        };
        if tell.send(done).is_err() {
            return;
        }
        // It rings already if it can't.
        let _ = bell.write(1);
    }
}
