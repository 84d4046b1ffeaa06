//! The clock that leases are counted by: CLOCK_BOOTTIME, which goes on while the machine sleeps and which nobody sets.
//! Wall time is for notes only.

use std::fs;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};
use roost_protocol::{Stamp, Time};

/// Now. A kernel without this clock can't run the guard at all, so a failure reads as the end of all time: leases end.
pub(crate) fn now() -> Time {
    let read = clock_gettime(ClockId::CLOCK_BOOTTIME).ok();
    let ms = read.and_then(|now| {
        let seconds = u64::try_from(now.tv_sec()).ok()?;
        let rest = u64::try_from(now.tv_nsec()).ok()?;
        Some(seconds * 1_000 + rest / 1_000_000)
    });
    Time(ms.unwrap_or(u64::MAX / 2))
}

/// Wall time, for people.
pub(crate) fn stamp() -> Stamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Stamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Names this boot.
pub(crate) fn boot() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}
