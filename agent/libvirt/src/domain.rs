//! What libvirt knows of a domain without asking QEMU: its state, why it is in it, and its size.

use crate::Uuid;

/// One domain, as libvirt keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainInfo {
    /// Its UUID.
    pub uuid: Uuid,
    /// Its name, at most 4 KiB, unprintable bytes replaced.
    pub name: String,
    /// libvirt's number while it runs.
    pub id: Option<u32>,
    /// What it does.
    pub state: State,
    /// Why, as far as a decision hangs on it.
    pub reason: Reason,
    /// libvirt's number of the reason; its meaning depends on the state.
    pub reason_raw: i32,
    /// Whether a definition is kept when it stops.
    pub persistent: bool,
    /// Whether libvirt starts it by itself; always false for a transient one.
    pub autostart: bool,
    /// The most memory its balloon may give it, KiB.
    pub max_memory_kib: u64,
    /// The memory it has now, KiB.
    pub memory_kib: u64,
    /// Virtual CPUs.
    pub vcpus: u16,
    /// CPU time used since it started, ns.
    pub cpu_time_ns: u64,
}

/// libvirt's `virDomainState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// libvirt cannot tell.
    NoState,
    /// Running.
    Running,
    /// Blocked on a resource (not used by QEMU).
    Blocked,
    /// Its CPUs stand still.
    Paused,
    /// Asked to shut down, still there.
    ShuttingDown,
    /// Not running.
    ShutOff,
    /// Crashed and kept for inspection (`on_crash` preserve).
    Crashed,
    /// Suspended by its own power management.
    PmSuspended,
}

impl State {
    pub(crate) fn from_raw(raw: i32) -> Self {
        match raw {
            1 => Self::Running,
            2 => Self::Blocked,
            3 => Self::Paused,
            4 => Self::ShuttingDown,
            5 => Self::ShutOff,
            6 => Self::Crashed,
            7 => Self::PmSuspended,
            _ => Self::NoState,
        }
    }

    /// Whether a QEMU process stands behind it.
    pub fn is_active(self) -> bool {
        match self {
            Self::Running | Self::Blocked | Self::Paused | Self::ShuttingDown | Self::Crashed | Self::PmSuspended => {
                true
            }
            Self::NoState | Self::ShutOff => false,
        }
    }
}

/// Why a domain is in its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// libvirt does not know; the normal answer for a stopped domain after libvirt restarted.
    Unknown,
    /// Running: booted by us.
    Booted,
    /// Running or stopped: came from, or went to, another host.
    Migrated,
    /// Running: restored from a saved state or a snapshot. Stopped or paused: a snapshot was loaded.
    Restored,
    /// Running: resumed after a pause.
    Unpaused,
    /// Paused or shutting down on request.
    User,
    /// Stopped: the guest or an orderly shutdown ended it.
    Shutdown,
    /// Stopped: forced off.
    Destroyed,
    /// Stopped: its QEMU died or was killed. Paused or crashed: the guest's kernel panicked.
    Crashed,
    /// Stopped: its state was saved to a file.
    Saved,
    /// Stopped: it could not be started.
    Failed,
    /// Stopped: libvirt gave up on it (restart of the daemon, state it could not take over).
    Daemon,
    /// Paused for a migration, post-copy included.
    Migration,
    /// Paused by a disk error.
    IoError,
    /// Paused by its watchdog.
    Watchdog,
    /// Paused without a known cause. Unrequested on a KVM host, it is the sign of KVM's internal error.
    PausedUnknown,
    /// Paused while it is being started.
    StartingUp,
    /// One that no decision hangs on; see [`DomainInfo::reason_raw`].
    Other,
}

impl Reason {
    /// Source of the numbers: `virDomain{Running,Paused,Shutoff,Crashed,Shutdown}Reason`.
    pub(crate) fn from_raw(state: State, raw: i32) -> Self {
        match state {
            State::Running => running(raw),
            State::Paused => paused(raw),
            State::ShutOff => shut_off(raw),
            State::Crashed => Self::Crashed,
            State::ShuttingDown if raw == 1 => Self::User,
            State::ShuttingDown | State::NoState | State::Blocked | State::PmSuspended => Self::Unknown,
        }
    }
}

fn running(raw: i32) -> Reason {
    match raw {
        0 => Reason::Unknown,
        1 => Reason::Booted,
        2 | 10 | 11 => Reason::Migrated,
        3 | 4 => Reason::Restored,
        5..=9 => Reason::Unpaused,
        _ => Reason::Other,
    }
}

fn paused(raw: i32) -> Reason {
    match raw {
        0 => Reason::PausedUnknown,
        1 => Reason::User,
        2 | 12 | 13 => Reason::Migration,
        5 => Reason::IoError,
        6 => Reason::Watchdog,
        7 => Reason::Restored,
        8 => Reason::Shutdown,
        10 => Reason::Crashed,
        11 => Reason::StartingUp,
        _ => Reason::Other,
    }
}

fn shut_off(raw: i32) -> Reason {
    match raw {
        0 => Reason::Unknown,
        1 => Reason::Shutdown,
        2 => Reason::Destroyed,
        3 => Reason::Crashed,
        4 => Reason::Migrated,
        5 => Reason::Saved,
        6 => Reason::Failed,
        7 => Reason::Restored,
        8 => Reason::Daemon,
        _ => Reason::Other,
    }
}

#[cfg(test)]
mod test {
    use super::{Reason, State};

    #[test]
    fn reasons_are_read_by_their_state() {
        let check = |state: i32, reason: i32, wanted: (State, Reason)| {
            let state = State::from_raw(state);
            assert_eq!((state, Reason::from_raw(state, reason)), wanted);
        };
        check(5, 3, (State::ShutOff, Reason::Crashed));
        check(5, 6, (State::ShutOff, Reason::Failed));
        check(5, 2, (State::ShutOff, Reason::Destroyed));
        check(5, 8, (State::ShutOff, Reason::Daemon));
        check(3, 0, (State::Paused, Reason::PausedUnknown));
        check(3, 5, (State::Paused, Reason::IoError));
        check(1, 1, (State::Running, Reason::Booted));
        check(1, 99, (State::Running, Reason::Other));
        check(6, 1, (State::Crashed, Reason::Crashed));
        check(-1, i32::MIN, (State::NoState, Reason::Unknown));
        check(99, i32::MAX, (State::NoState, Reason::Unknown));
    }
}
