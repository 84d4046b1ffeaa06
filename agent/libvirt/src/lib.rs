//! libvirt as the agent uses it: blocking calls with typed answers, and events pushed to one closure.
//!
//! This crate alone names libvirt's C types and alone holds `unsafe` code for it (`ffi` and `kvm`).
//! Every call may block for as long as libvirt does: call from dedicated threads, never from an async worker and never
//! from the event closure. A [`Hypervisor`] may be shared by many threads.
//!
//! What libvirt does not tell: a balloon request to a guest without the driver succeeds silently (wait for
//! [`EventKind::Balloon`]), and a guest whose QEMU died is only seen as [`StoppedWhy::Failed`].

mod backup;
mod block;
mod domain;
mod error;
mod event;
mod ffi;
pub mod freeze;
mod hypervisor;
pub mod kvm;
mod process;
mod stats;
mod trial;

pub use backup::CheckpointInfo;
pub use block::{BlockJob, BlockJobKind, EndJob, Picture};
pub use domain::{DomainInfo, Reason, State};
pub use error::{Code, Error};
pub use event::{
    AgentReason, BlockJobStatus, CloseReason, DomainEvent, Endpoint, Event, EventKind, Events, GraphicsPhase, IoAction,
    Lifecycle, StoppedWhy, SuspendedWhy, WatchdogAction,
};
pub use hypervisor::{ForceOff, GuestInterface, Hypervisor, ShutdownMode, Version, Versions, XmlForm};
pub use process::{qemu_pid, qemu_pids};
pub use stats::{BalloonStats, BlockStats, CpuStats, DomainStats, InterfaceStats, StatsGroups, VcpuStats};
pub use trial::TRIAL;

/// The 16 raw bytes of a domain's UUID, in the order they are written.
pub type Uuid = [u8; 16];

/// A UUID in the usual 8-4-4-4-12 lower-case form.
pub(crate) fn uuid_text(uuid: &Uuid) -> String {
    let mut out = String::with_capacity(36);
    for (at, byte) in uuid.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        out.push_str(&format!("{byte:02x}"));
    }
    out
}

/// Reads what [`uuid_text`] writes; upper case and missing dashes are taken too.
pub(crate) fn uuid_parse(text: &[u8]) -> Option<Uuid> {
    if text.len() > 36 {
        return None;
    }
    let mut digits = text.iter().filter(|byte| **byte != b'-').map(|byte| char::from(*byte).to_digit(16));
    let mut uuid = [0; 16];
    for byte in &mut uuid {
        let (high, low) = (digits.next()??, digits.next()??);
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    digits.next().is_none().then_some(uuid)
}

#[cfg(test)]
mod test {
    use super::{uuid_parse, uuid_text};

    #[test]
    fn a_uuid_reads_back_as_written() {
        let uuid = [0x6b, 0x1, 0xff, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0xf0];
        assert_eq!(uuid_text(&uuid), "6b01ff04-0506-0708-090a-0b0c0d0e0ff0");
        assert_eq!(uuid_parse(uuid_text(&uuid).as_bytes()), Some(uuid));
        assert_eq!(uuid_parse(uuid_text(&uuid).to_uppercase().as_bytes()), Some(uuid));
        for bad in ["", "x", "6b01ff04-0506-0708-090a-0b0c0d0e0ff", "6b01ff04-0506-0708-090a-0b0c0d0e0ff00", "🦀🦀"]
        {
            assert_eq!(uuid_parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
