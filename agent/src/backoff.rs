//! How long to wait before something outside is tried again: doubling, with full jitter so that hosts don't come back
//! all at once.

use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};

/// Waits between tries.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    ceiling: Duration,
}

impl Backoff {
    /// Waits up to `first`, then up to twice that, and so on up to `longest`.
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, ceiling: first }
    }

    /// The next wait: between a tenth of the ceiling and the ceiling.
    pub(crate) fn wait(&mut self) -> Duration {
        let ceiling = self.ceiling;
        self.ceiling = ceiling.saturating_mul(2).min(self.longest);
        ceiling.mul_f64(0.1 + 0.9 * fraction())
    }

    /// It worked: the next wait is short again.
    pub(crate) fn reset(&mut self) {
        self.ceiling = self.first;
    }
}

/// A random number from 0 to 1; one half without a random source.
pub(crate) fn fraction() -> f64 {
    let mut bytes = [0; 4];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn waits_grow_to_the_longest_and_start_again() {
        let (first, longest) = (Duration::from_millis(500), Duration::from_secs(30));
        let mut backoff = Backoff::new(first, longest);
        for _ in 0..20 {
            assert!(backoff.wait() <= longest);
        }
        assert_eq!(backoff.ceiling, longest);
        backoff.reset();
        assert!(backoff.wait() <= first);
    }
}
