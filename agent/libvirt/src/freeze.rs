//! Freezing a guest's file systems for a moment, with a limit that does not rest on libvirt, the agent or the guest.
//!
//! A freeze was seen to block for hours behind a hung agent. So it runs on a thread of its own that is left behind when
//! its time is up; and a guest that may be frozen is asked to thaw until it answers or is off.

use crate::{Code, Error, Hypervisor, Uuid};
use std::{
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

/// Longest that a guest's writes may stand still, from the freeze to the thaw; Windows itself gives up after 10 s.
pub const FREEZE_LIMIT: Duration = Duration::from_secs(5);
/// What of it the freezing may take; the rest is for what is done in the frozen moment, and for the thaw.
const FREEZING: Duration = Duration::from_secs(3);
/// How long libvirt waits for the agent (whole seconds).
const PATIENCE_S: u32 = 2;
/// Between two attempts to thaw.
const RETRY: Duration = Duration::from_secs(1);
/// For how long a guest that does not answer is asked to thaw; at the agent's next start it is asked again.
const RETRY_FOR: Duration = Duration::from_secs(600);

/// How a freeze went.
#[derive(Debug)]
pub enum Frozen {
    /// All file systems stand still until this is dropped or its time is up.
    Yes(Thaw),
    /// They do not, or nobody knows: go on at once, the guest is being thawed in the background.
    No {
        /// Why, for people.
        why: String,
    },
}

/// Thaws when it is dropped, or when its time is up, whichever comes first. Never blocks its owner.
#[derive(Debug)]
pub struct Thaw {
    began: Instant,
    done: Option<mpsc::Sender<()>>,
    thawed: mpsc::Receiver<bool>,
}

impl Thaw {
    /// Thaws now. Tells whether the guest answered, and that all was done within [`FREEZE_LIMIT`], so that what was done
    /// meanwhile is one moment in the guest's eyes.
    pub fn now(mut self) -> bool {
        self.done.take();
        let left = FREEZE_LIMIT.saturating_sub(self.began.elapsed());
        self.thawed.recv_timeout(left).unwrap_or(false)
    }
}

/// Freezes all file systems of a running guest by its agent; comes back within 3 s.
pub fn freeze(hypervisor: &Arc<Hypervisor>, uuid: &Uuid) -> Frozen {
    let began = Instant::now();
    let (done, wait_done) = mpsc::channel::<()>();
    let (tell_frozen, frozen) = mpsc::channel();
    let (tell_thawed, thawed) = mpsc::channel();
    let (hypervisor, uuid) = (hypervisor.clone(), *uuid);
    let spawned = thread::Builder::new().name("freeze".into()).spawn(move || {
        let answer = try_freeze(&hypervisor, &uuid);
        let frozen = answer.as_ref().ok().copied();
        let never = answer.as_ref().is_err_and(never_sent);
        let heard = tell_frozen.send(answer).is_ok();
        if never {
            return;
        }
        if frozen.is_some() && heard {
            // Ends when the owner drops its end; the guest's patience is bounded in any case.
            let _ = wait_done.recv_timeout(FREEZE_LIMIT.saturating_sub(began.elapsed()));
        }
        // Fewer than were frozen: somebody thawed them before us, so the moment was none.
        let thawed = thaw_until_heard(&hypervisor, &uuid);
        let whole = thawed.is_some_and(|thawed| frozen.is_some_and(|frozen| thawed >= frozen));
        let _ = tell_thawed.send(whole && began.elapsed() < FREEZE_LIMIT);
    });
    if let Err(error) = spawned {
        return Frozen::No { why: format!("no thread: {error}") };
    }
    match frozen.recv_timeout(FREEZING) {
        Ok(Ok(_)) => Frozen::Yes(Thaw { began, done: Some(done), thawed }),
        Ok(Err(error)) => Frozen::No { why: error.to_string() },
        Err(_) => Frozen::No { why: format!("the guest agent did not answer within {} s", FREEZING.as_secs()) },
    }
}

fn try_freeze(hypervisor: &Hypervisor, uuid: &Uuid) -> Result<u32, Error> {
    let domain = hypervisor.connection.lookup(uuid)?;
    domain.set_agent_patience(Some(PATIENCE_S))?;
    domain.freeze(true)
}

/// Whether the guest can't have got the request: it is off, or has no agent.
fn never_sent(error: &Error) -> bool {
    matches!(error.code(), Some(Code::NoDomain | Code::OperationInvalid | Code::Unsupported))
}

/// Asks a guest to thaw until it answers or is off, for at most ten minutes; one that was not frozen does not mind.
/// Tells how many file systems it thawed; none when it never answered. For use at the agent's start too, after a crash.
pub fn thaw_until_heard(hypervisor: &Hypervisor, uuid: &Uuid) -> Option<u32> {
    let end = Instant::now() + RETRY_FOR;
    loop {
        match hypervisor.thaw(uuid) {
            Ok(thawed) => return Some(thawed),
            Err(error) if never_sent(&error) || error.is_connection_lost() => return None,
            Err(error) if Instant::now() >= end => {
                tracing::error!(%error, "a guest that may be frozen can't be thawed");
                return None;
            }
            Err(_) => thread::sleep(RETRY),
        }
    }
}

impl Hypervisor {
    /// Asks a guest's agent once to thaw all file systems; gives how many it thawed. Waits about 2 s for it (libvirt
    /// itself may add 5 s for an agent that is out of step).
    ///
    /// # Errors
    /// [`Code::AgentUnresponsive`]; [`Code::OperationInvalid`] when the domain is off; [`Code::Unsupported`] without an
    /// agent channel.
    pub fn thaw(&self, uuid: &Uuid) -> Result<u32, Error> {
        let domain = self.connection.lookup(uuid)?;
        domain.set_agent_patience(Some(PATIENCE_S))?;
        let answer = domain.freeze(false);
        // Others may wait longer for the agent than this file does.
        domain.set_agent_patience(None)?;
        answer
    }
}
