//! What libvirt reports unasked, and the thread that waits for it.

use crate::{Error, Uuid, ffi};
use std::{sync::Mutex, thread, time::Duration};

/// Name of the thread that runs libvirt's event loop.
const THREAD: &str = "libvirt-events";
/// Pause after a failed turn of the loop, so that a lasting fault does not burn a CPU.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// Proof that libvirt's event loop runs.
#[derive(Debug, Clone, Copy)]
pub struct Events {
    _private: (),
}

impl Events {
    /// Registers libvirt's own event loop and runs it on a thread of this process, once; later calls do nothing.
    /// Must come before the first connection; [`crate::Hypervisor::open`] calls it, so that cannot be missed.
    ///
    /// # Errors
    /// When libvirt refuses, or the thread cannot be made.
    pub fn start() -> Result<Self, Error> {
        static RUNNING: Mutex<bool> = Mutex::new(false);
        let mut running = RUNNING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !*running {
            ffi::silence();
            ffi::register_event_loop()?;
            thread::Builder::new()
                .name(THREAD.into())
                .spawn(turn_for_ever)
                .map_err(|error| Error::Thread { message: error.to_string() })?;
            *running = true;
        }
        Ok(Self { _private: () })
    }
}

fn turn_for_ever() {
    let mut failed_before = false;
    loop {
        let failed = match ffi::turn_event_loop() {
            Ok(()) => false,
            Err(error) => {
                if !failed_before {
                    tracing::warn!(%error, "libvirt event loop");
                }
                thread::sleep(AFTER_FAILURE);
                true
            }
        };
        failed_before = failed;
    }
}

/// One report. Texts are cut at 4 KiB, unprintable bytes replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Something happened to a domain.
    Domain(DomainEvent),
    /// The connection broke; it does not come back, and no event follows on it.
    ConnectionLost {
        /// How.
        reason: CloseReason,
    },
}

/// Something that happened to a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainEvent {
    /// The domain.
    pub uuid: Uuid,
    /// Its name at that time.
    pub name: String,
    /// What happened.
    pub kind: EventKind,
}

/// What happened to a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// Its life took a turn.
    Lifecycle {
        /// Which.
        event: Lifecycle,
        /// libvirt's number of the detail.
        detail: i32,
    },
    /// The guest rebooted.
    Reboot,
    /// The balloon reached a size.
    Balloon {
        /// Memory the guest has now, KiB.
        actual_kib: u64,
    },
    /// The guest agent came or went.
    Agent {
        /// Whether it is there now.
        connected: bool,
        /// Why it changed.
        reason: AgentReason,
    },
    /// A disk failed.
    IoError {
        /// Path of the image on the host.
        path: String,
        /// QEMU's alias of the device.
        device: String,
        /// What QEMU did about it.
        action: IoAction,
        /// `enospc` when the host's disk is full, otherwise mostly empty.
        reason: String,
    },
    /// The guest's watchdog fired.
    Watchdog {
        /// What was done about it.
        action: WatchdogAction,
    },
    /// A viewer came or went.
    Graphics {
        /// How far it got; SPICE reports `Connect` before it asks for the password.
        phase: GraphicsPhase,
        /// Our end.
        local: Endpoint,
        /// Its end; empty over a unix socket.
        remote: Endpoint,
        /// Scheme of authentication.
        auth: String,
    },
    /// A copy, commit or pull of a disk changed state.
    BlockJob {
        /// Target name of the disk (`vda`).
        disk: String,
        /// libvirt's `virDomainBlockJobType`.
        job: i32,
        /// How it stands.
        status: BlockJobStatus,
    },
}

macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $raw:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$vdoc])* $variant,)*
            /// A number this crate does not know.
            Other(i32),
        }

        impl $name {
            pub(crate) fn from_raw(raw: i32) -> Self {
                match raw {
                    $($raw => Self::$variant,)*
                    _ => Self::Other(raw),
                }
            }
        }
    };
}

/// A turn in a domain's life (`virDomainEventType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lifecycle {
    /// A definition was added or changed.
    Defined,
    /// The definition is gone.
    Undefined,
    /// QEMU runs.
    Started,
    /// The CPUs stand still.
    Suspended(SuspendedWhy),
    /// The CPUs run again.
    Resumed,
    /// QEMU is gone.
    Stopped(StoppedWhy),
    /// The guest has shut down; `Stopped` follows.
    Shutdown,
    /// The guest suspended itself.
    PmSuspended,
    /// The guest's kernel panicked.
    Crashed,
    /// A number this crate does not know.
    Other(i32),
}

impl Lifecycle {
    pub(crate) fn from_raw(event: i32, detail: i32) -> Self {
        match event {
            0 => Self::Defined,
            1 => Self::Undefined,
            2 => Self::Started,
            3 => Self::Suspended(SuspendedWhy::from_raw(detail)),
            4 => Self::Resumed,
            5 => Self::Stopped(StoppedWhy::from_raw(detail)),
            6 => Self::Shutdown,
            7 => Self::PmSuspended,
            8 => Self::Crashed,
            other => Self::Other(other),
        }
    }
}

numbered! {
    /// Why a domain stopped (`virDomainEventStoppedDetailType`).
    StoppedWhy {
        /// An orderly end.
        Shutdown = 0,
        /// Forced off from the host.
        Destroyed = 1,
        /// The guest crashed.
        Crashed = 2,
        /// Went to another host.
        Migrated = 3,
        /// Its state was saved to a file.
        Saved = 4,
        /// QEMU died, was killed, or did not start.
        Failed = 5,
        /// A snapshot of the stopped domain was loaded.
        FromSnapshot = 6,
    }
}
numbered! {
    /// Why a domain was suspended (`virDomainEventSuspendedDetailType`).
    SuspendedWhy {
        /// On request; also what KVM's internal error looks like.
        Paused = 0,
        /// For a migration.
        Migrated = 1,
        /// By a disk error.
        IoError = 2,
        /// By its watchdog.
        Watchdog = 3,
        /// Restored in a paused state.
        Restored = 4,
        /// A snapshot was loaded in a paused state.
        FromSnapshot = 5,
        /// A call of libvirt's failed half way.
        ApiError = 6,
        /// For post-copy migration.
        Postcopy = 7,
        /// Post-copy migration failed.
        PostcopyFailed = 8,
    }
}
numbered! {
    /// Why the connection closed (`virConnectCloseReason`).
    CloseReason {
        /// An input or output error.
        Error = 0,
        /// The daemon ended or was killed.
        Eof = 1,
        /// The daemon did not answer in time.
        Keepalive = 2,
        /// We closed it.
        Client = 3,
    }
}
numbered! {
    /// Why the guest agent came or went.
    AgentReason {
        /// Not told.
        Unknown = 0,
        /// The domain started.
        DomainStarted = 1,
        /// The channel opened or closed inside the guest.
        Channel = 2,
    }
}
numbered! {
    /// What QEMU did about a disk error.
    IoAction {
        /// Nothing.
        Ignored = 0,
        /// Paused the guest.
        Paused = 1,
        /// Told the guest.
        Reported = 2,
    }
}
numbered! {
    /// What was done when a guest's watchdog fired.
    WatchdogAction {
        /// Nothing.
        Ignored = 0,
        /// Paused.
        Pause = 1,
        /// Reset.
        Reset = 2,
        /// Powered off.
        PowerOff = 3,
        /// Shut down.
        Shutdown = 4,
        /// A debug message.
        Debug = 5,
        /// A non-maskable interrupt.
        InjectNmi = 6,
    }
}
numbered! {
    /// How far a viewer got.
    GraphicsPhase {
        /// Connected.
        Connect = 0,
        /// Logged in.
        Initialize = 1,
        /// Gone.
        Disconnect = 2,
    }
}
numbered! {
    /// How a block job stands.
    BlockJobStatus {
        /// Done.
        Completed = 0,
        /// Broken off by an error.
        Failed = 1,
        /// Broken off on request.
        Canceled = 2,
        /// A mirror is in step.
        Ready = 3,
    }
}

/// One end of a viewer's connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Endpoint {
    /// Address, or path of a unix socket.
    pub node: String,
    /// Port.
    pub service: String,
}

#[cfg(test)]
mod test {
    use super::{Lifecycle, StoppedWhy, SuspendedWhy};

    #[test]
    fn lifecycle_numbers_become_words_and_unknown_ones_are_kept() {
        let check = |event, detail, wanted| assert_eq!(Lifecycle::from_raw(event, detail), wanted);
        check(5, 5, Lifecycle::Stopped(StoppedWhy::Failed));
        check(5, 1, Lifecycle::Stopped(StoppedWhy::Destroyed));
        check(3, 0, Lifecycle::Suspended(SuspendedWhy::Paused));
        check(5, 77, Lifecycle::Stopped(StoppedWhy::Other(77)));
        check(-4, 0, Lifecycle::Other(-4));
    }
}
