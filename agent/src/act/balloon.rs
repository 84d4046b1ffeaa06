//! Asks guests' balloons. libvirt says yes also where no driver listens: whether it happened is seen at the next look.

use roost_libvirt::{Code, Hypervisor};
use roost_protocol::operation::Failure;
use roost_protocol::{GuestId, MiB};

use super::domain::hypervisor_failure;

/// Asks for a size.
pub(crate) fn resize(hypervisor: &Hypervisor, guest: GuestId, to: MiB) -> Result<(), Failure> {
    settle(hypervisor.set_balloon(&guest.bytes(), to.0.saturating_mul(1_024)))
}

/// Has the guest tell its memory each so many seconds.
pub(crate) fn period(hypervisor: &Hypervisor, guest: GuestId, seconds: u32) -> Result<(), Failure> {
    settle(hypervisor.set_memory_stats_period(&guest.bytes(), seconds))
}

/// A guest that ended meanwhile needs nothing any more.
fn settle(answer: Result<(), roost_libvirt::Error>) -> Result<(), Failure> {
    match answer {
        Ok(()) => Ok(()),
        Err(error) if matches!(error.code(), Some(Code::NoDomain | Code::OperationInvalid)) => Ok(()),
        Err(error) => Err(hypervisor_failure(&error)),
    }
}
