//! From libvirt's words to the core's.

use roost_agent_core::event::{Cause, Seen};
use roost_libvirt::{DomainInfo, Reason, State};
use roost_protocol::guest::{Disk, PowerState};
use roost_protocol::message::TEXT;
use roost_protocol::{GuestId, MiB};

/// A domain as the core wants it.
pub(crate) fn seen(domain: &DomainInfo, disks: Vec<Disk>) -> Seen {
    Seen {
        guest: GuestId::from_bytes(domain.uuid),
        name: cut(&domain.name, TEXT),
        state: power(domain.state),
        cause: cause(domain.reason),
        persistent: domain.persistent,
        vcpus: u32::from(domain.vcpus),
        memory_mib: MiB(domain.max_memory_kib / 1_024),
        disks,
    }
}

fn power(state: State) -> PowerState {
    match state {
        State::NoState => PowerState::Unknown,
        State::Running | State::Blocked => PowerState::Running,
        State::Paused => PowerState::Paused,
        State::ShuttingDown => PowerState::ShuttingDown,
        State::ShutOff => PowerState::Off,
        State::Crashed => PowerState::Crashed,
        State::PmSuspended => PowerState::Suspended,
    }
}

fn cause(reason: Reason) -> Cause {
    match reason {
        Reason::Booted | Reason::Restored | Reason::StartingUp => Cause::Booted,
        Reason::Migrated | Reason::Migration => Cause::Migrated,
        Reason::Unpaused | Reason::User => Cause::ByUser,
        Reason::Shutdown => Cause::ShutDown,
        Reason::Destroyed => Cause::Destroyed,
        Reason::Crashed | Reason::Failed => Cause::Crashed,
        Reason::Saved => Cause::Saved,
        Reason::IoError => Cause::DiskError,
        Reason::Unknown | Reason::Daemon | Reason::Watchdog | Reason::PausedUnknown | Reason::Other => Cause::Unknown,
    }
}

/// At most `limit` bytes of the text, whole characters.
pub(crate) fn cut(text: &str, limit: usize) -> String {
    text[..text.floor_char_boundary(limit)].to_owned()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_long_name_is_cut_between_characters() {
        assert_eq!(cut("a🦀", 4), "a");
        assert_eq!(cut("a🦀", 5), "a🦀");
    }

    #[test]
    fn a_killed_guest_is_crashed_and_a_forgotten_reason_is_unknown() {
        assert_eq!(cause(Reason::Crashed), Cause::Crashed);
        assert_eq!(cause(Reason::Daemon), Cause::Unknown);
        assert_eq!(power(State::Blocked), PowerState::Running);
    }
}
