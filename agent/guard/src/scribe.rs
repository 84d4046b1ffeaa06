//! The thread that writes ballots: a disk that hangs must not keep the guard from renewing, pausing and petting.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread;

use nix::sys::eventfd::{EfdFlags, EventFd};
use roost_ward::door::{MOST_WARDS, Peer};
use roost_ward::{Ballot, WardId};

use crate::store::Store;

/// One ballot of each ward may wait, and the peers.
const WAITING: usize = MOST_WARDS + 8;
/// SQLite's deepest calls need less than a quarter of it; all of it stays in memory.
const STACK: usize = 256 << 10;

/// What is written.
#[derive(Debug)]
enum Job {
    Vote(WardId, Box<Ballot>),
    Peers(Vec<Peer>),
}

/// The thread, from outside.
#[derive(Debug)]
pub(crate) struct Scribe {
    jobs: SyncSender<Job>,
    done: Receiver<(WardId, bool)>,
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

    pub(crate) fn peers(&self, peers: Vec<Peer>) -> bool {
        self.jobs.try_send(Job::Peers(peers)).is_ok()
    }

    /// Readable when something was written.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// The next ballot that was written, or not.
    pub(crate) fn done(&self) -> Option<(WardId, bool)> {
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

fn write(store: &Store, work: &Receiver<Job>, tell: &SyncSender<(WardId, bool)>, bell: &EventFd) {
    while let Ok(job) = work.recv() {
        let done = match job {
            Job::Vote(ward, ballot) => {
                let written = store.vote(ward, &ballot);
                if let Err(why) = &written {
                    tracing::error!(%ward, why = %crate::chain(why), "a ballot could not be written");
                }
                Some((ward, written.is_ok()))
            }
            Job::Peers(peers) => {
                if let Err(why) = store.peers(&peers) {
                    tracing::error!(why = %crate::chain(&why), "the peers could not be written");
                }
                None
            }
        };
        if let Some(done) = done
            && tell.send(done).is_err()
        {
            return;
        }
        // It rings already if it can't.
        let _ = bell.write(1);
    }
}
