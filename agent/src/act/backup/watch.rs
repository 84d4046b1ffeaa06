//! The dead-man guard of one backup: looks at the room it takes, the time, the guest and whether it is still wanted, from
//! a thread of its own, so that it can free the guest while the reader hangs on whatever it hangs on.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use roost_libvirt::{Hypervisor, Reason, State};
use roost_protocol::GuestId;
use roost_protocol::operation::{Failure, FailureCode};

use super::scratch::{Room, Scratch};
use super::tidy;
use crate::act::failure;

/// Between two looks: a guest that fills its room at 1 GB/s is 50 MB further.
const LOOK: Duration = Duration::from_millis(50);
/// Looks after which the guest's state is asked for.
const ASK: u32 = 5;
/// Between two attempts to free a guest.
const AGAIN: Duration = Duration::from_secs(1);

/// Tells the reader to stop, and why.
#[derive(Debug, Default)]
pub(super) struct Stop {
    why: Mutex<Option<Failure>>,
    sockets: Mutex<Vec<UnixStream>>,
    /// All is read: there is nothing to guard any more.
    over: AtomicBool,
    /// Held while something is done to the guest, so that guard and worker do it one after the other.
    hands: Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stop {
    /// The reason, when there is one.
    pub(super) fn check(&self) -> Result<(), Failure> {
        lock(&self.why).clone().map_or(Ok(()), Err)
    }

    /// Gives the reason; the first one counts. Reads that wait end.
    pub(super) fn trip(&self, why: Failure) {
        lock(&self.why).get_or_insert(why);
        for socket in lock(&self.sockets).iter() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// A connection that a trip shall end.
    pub(super) fn add(&self, socket: UnixStream) -> Result<(), Failure> {
        lock(&self.sockets).push(socket);
        self.check()
    }

    pub(super) fn over(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    /// Whoever does something to the guest holds this.
    pub(super) fn hands(&self) -> MutexGuard<'_, ()> {
        lock(&self.hands)
    }
}

/// All that a guard looks at.
pub(super) struct Watch<'a> {
    pub(super) hypervisor: &'a Arc<Hypervisor>,
    pub(super) scratch: &'a Scratch,
    pub(super) room: &'a Room,
    pub(super) guest: GuestId,
    pub(super) unwanted: &'a AtomicBool,
    pub(super) stop: &'a Stop,
    /// Whether the guest is backed up as a running one.
    pub(super) running: bool,
}

impl Watch<'_> {
    /// Looks until all is read or a reason to stop is found; then frees the guest.
    pub(super) fn run(&self) {
        let began = Instant::now();
        let mut looks = 0u32;
        while !self.stop.over.load(Ordering::SeqCst) {
            std::thread::sleep(LOOK);
            looks = looks.wrapping_add(1);
            let Some(why) = self.look(began, looks) else { continue };
            tracing::warn!(guest = %self.guest, why = why.text, "break a backup off");
            self.stop.trip(why);
            return self.free();
        }
    }

    fn look(&self, began: Instant, looks: u32) -> Option<Failure> {
        if let Err(why) = self.stop.check() {
            return Some(why);
        }
        if self.unwanted.load(Ordering::Relaxed) {
            return Some(failure(FailureCode::Cancelled, "the backup was broken off: it is no longer wanted"));
        }
        if began.elapsed() > self.scratch.longest {
            let text = format!("the backup took longer than {} s and was broken off", self.scratch.longest.as_secs());
            return Some(failure(FailureCode::TimedOut, text));
        }
        let (used, free) = (self.room.used(), self.room.free());
        if used > self.room.cap {
            let text = format!("the guest wrote more than {} bytes during its backup", self.room.cap);
            return Some(failure(FailureCode::NoSpace, text));
        }
        if free < self.scratch.reserve / 2 {
            let text = format!("the disk of {} is full", self.room.path.display());
            return Some(failure(FailureCode::NoSpace, text));
        }
        if looks.is_multiple_of(ASK) { self.moved() } else { None }
    }

    fn moved(&self) -> Option<Failure> {
        let domain = self.hypervisor.domain(&self.guest.bytes()).ok()?;
        let why = match (self.running, domain.state.is_active()) {
            (true, true) if (domain.state, domain.reason) == (State::Paused, Reason::IoError) => {
                return Some(failure(FailureCode::NoSpace, "the guest was paused by a full disk during its backup"));
            }
            (true, true) | (false, false) => return None,
            (true, false) => "the guest stopped during its backup",
            (false, true) => "the guest was started during its backup",
        };
        Some(failure(FailureCode::WrongState, why))
    }

    /// Until it succeeds or libvirt is gone; then the next connection tidies.
    fn free(&self) {
        loop {
            let hands = self.stop.hands();
            let freed = tidy::one(self.hypervisor, self.room, self.guest);
            drop(hands);
            match freed {
                Ok(()) => return,
                Err(why) if why.code == FailureCode::HypervisorAway => return,
                Err(why) => tracing::error!(guest = %self.guest, why = why.text, "free a guest from its backup"),
            }
            std::thread::sleep(AGAIN);
            if self.stop.over.load(Ordering::SeqCst) {
                return;
            }
        }
    }
}
