//! Keeps a stream of bytes below so many per second, by waiting on the thread that moves them.

use std::thread;
use std::time::{Duration, Instant};

/// Longest single wait, so that a cancelled task ends soon.
const WAIT: Duration = Duration::from_millis(500);

/// Counts what passed.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Bytes per second.
    limit: Option<u64>,
    began: Instant,
    bytes: u64,
}

impl Pace {
    pub(crate) fn new(limit: Option<u64>) -> Self {
        Self { limit: limit.filter(|limit| *limit > 0), began: Instant::now(), bytes: 0 }
    }

    /// So many bytes are moved now; waits when that is too early.
    pub(crate) fn passed(&mut self, bytes: usize) {
        let Some(limit) = self.limit else { return };
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        let early = due(self.bytes, limit).saturating_sub(self.began.elapsed());
        if !early.is_zero() {
            thread::sleep(early.min(WAIT));
        }
    }
}

/// When so many bytes may have passed, after the beginning.
fn due(bytes: u64, limit: u64) -> Duration {
    let millis = u128::from(bytes) * 1_000 / u128::from(limit.max(1));
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn bytes_take_the_time_that_the_limit_gives_them() {
        for (bytes, limit, millis) in [(0, 10, 0), (10, 10, 1_000), (5, 10, 500), (1 << 40, 1 << 30, 1_024_000)] {
            assert_eq!(due(bytes, limit), Duration::from_millis(millis));
        }
        let mut free = Pace::new(None);
        free.passed(usize::MAX);
        assert_eq!(free.bytes, 0, "without a limit nothing is counted and nothing waits");
    }
}
