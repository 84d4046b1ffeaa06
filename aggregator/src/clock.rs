//! The two clocks of this machine: a monotonic one to decide by, the wall clock for people.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use roost_protocol::{Stamp, Time};

/// Where monotonic time begins: the aggregator's start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    /// Begins now.
    pub(crate) fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Milliseconds since the start.
    pub(crate) fn now(&self) -> Time {
        Time(millis(self.start.elapsed()))
    }

    /// When that time is, for timers; a time that has passed is now.
    pub(crate) fn instant(&self, time: Time) -> Instant {
        self.start.checked_add(Duration::from_millis(time.0)).unwrap_or_else(Instant::now)
    }
}

/// The wall clock; for people only.
pub(crate) fn wall() -> Stamp {
    Stamp(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis))
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
