//! The few calls for which no safe wrapper exists: real-time priority, and the watchdog's device.
#![expect(unsafe_code, reason = "two system calls that nix and rustix do not wrap; each is a line with its argument")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use roost_protocol::Millis;

/// Above all ordinary work and below the kernel's own threads.
const PRIORITY: i32 = 10;

/// Runs before all ordinary programs from now on, by SCHED_RR; children don't inherit it.
pub(crate) fn hurry() -> io::Result<()> {
    let wish = libc::sched_param { sched_priority: PRIORITY };
    // SAFETY: `wish` is a whole sched_param that outlives the call; 0 names this very thread.
    let done = unsafe { libc::sched_setscheduler(0, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, &raw const wish) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

nix::ioctl_readwrite!(wdioc_settimeout, b'W', 6, i32);

/// Has the watchdog end the host so long after the last pet; the device may choose whole seconds it can do. What it chose.
pub(crate) fn set_time_out(device: &File, time_out: Millis) -> io::Result<Millis> {
    let mut seconds = i32::try_from(time_out.0 / 1_000).map_err(io::Error::other)?;
    // SAFETY: the device is open and the call reads and writes one i32, which lives on this stack.
    unsafe { wdioc_settimeout(device.as_raw_fd(), &raw mut seconds) }.map_err(io::Error::from)?;
    Ok(Millis::seconds(u64::try_from(seconds).map_err(io::Error::other)?))
}
