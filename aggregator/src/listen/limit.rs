//! Rate limits: how fast one peer may talk, and how often one place may try to join.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};

use roost_protocol::Time;

/// Failed attempts that one IPv4 address or IPv6 /64 may make at once, and how many per minute after that.
const PLACE_BURST: u64 = 10;
const PLACE_PER_MINUTE: u64 = 10;
/// Attempts of everybody together: a few hundred machines may be switched on at once.
const ALL_BURST: u64 = 500;
const ALL_PER_MINUTE: u64 = 3_000;
/// Places remembered; when all are in use, new ones are bounded by the limit for all alone.
const PLACES: usize = 4_096;

/// Allows `burst` at once and `per_minute` in the long run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    /// In 1/60,000 of one take, so that a millisecond refills a whole number.
    filled: u64,
    burst: u64,
    per_minute: u64,
    at: Time,
}

/// Parts of one take in a bucket.
const ONE: u64 = 60_000;

impl Bucket {
    pub(super) fn full(burst: u64, per_minute: u64, now: Time) -> Self {
        Self { filled: burst * ONE, burst, per_minute, at: now }
    }

    /// Takes `count`, if they are there.
    pub(super) fn take(&mut self, now: Time, count: u64) -> bool {
        self.refill(now);
        match self.filled.checked_sub(count.saturating_mul(ONE)) {
            Some(rest) => {
                self.filled = rest;
                true
            }
            None => false,
        }
    }

    fn refill(&mut self, now: Time) {
        let gained = now.since(self.at).0.saturating_mul(self.per_minute);
        self.filled = self.filled.saturating_add(gained).min(self.burst * ONE);
        self.at = now;
    }

    fn is_full(&mut self, now: Time) -> bool {
        self.refill(now);
        self.filled == self.burst * ONE
    }
}

/// Attempts to join. Held only for a moment, never across a wait.
#[derive(Debug)]
pub(super) struct Attempts {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    all: Bucket,
    failures: BTreeMap<IpAddr, Bucket>,
}

impl Attempts {
    pub(super) fn new(now: Time) -> Self {
        let all = Bucket::full(ALL_BURST, ALL_PER_MINUTE, now);
        Self { inner: Mutex::new(Inner { all, failures: BTreeMap::new() }) }
    }

    /// Whether an attempt from there is looked at now.
    pub(super) fn may_try(&self, from: IpAddr, now: Time) -> bool {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Inner { all, failures } = &mut *inner;
        let free = failures.get_mut(&place(from)).is_none_or(|bucket| {
            bucket.refill(now);
            bucket.filled >= ONE
        });
        free && all.take(now, 1)
    }

    /// An attempt from there failed.
    pub(super) fn failed(&self, from: IpAddr, now: Time) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let failures = &mut inner.failures;
        if failures.len() >= PLACES {
            failures.retain(|_, bucket| !bucket.is_full(now));
        }
        if failures.len() < PLACES || failures.contains_key(&place(from)) {
            let bucket = failures.entry(place(from));
            bucket.or_insert_with(|| Bucket::full(PLACE_BURST, PLACE_PER_MINUTE, now)).take(now, 1);
        }
    }
}

/// Who has an IPv6 address has 2^64 of them.
fn place(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_place_that_fails_too_often_waits_and_others_do_not() {
        let attempts = Attempts::new(Time(0));
        let (bad, good): (IpAddr, IpAddr) = ("2001:db8::1".parse().unwrap(), "192.0.2.1".parse().unwrap());
        for _ in 0..PLACE_BURST {
            assert!(attempts.may_try(bad, Time(0)));
            attempts.failed(bad, Time(0));
        }
        assert!(!attempts.may_try("2001:db8::2".parse().unwrap(), Time(0)), "the same /64");
        assert!(attempts.may_try(good, Time(0)));
        assert!(attempts.may_try(bad, Time(6_000)), "one more after 6 s");
    }

    #[test]
    fn memory_of_places_is_bounded() {
        let attempts = Attempts::new(Time(0));
        for number in 0..2 * u32::try_from(PLACES).unwrap() {
            attempts.failed(IpAddr::V4(number.into()), Time(0));
        }
        assert_eq!(attempts.inner.lock().unwrap().failures.len(), PLACES);
    }

    #[test]
    fn a_bucket_never_holds_more_than_its_burst() {
        let mut bucket = Bucket::full(2, 60, Time(0));
        assert!(bucket.take(Time(u64::MAX), 2));
        assert!(!bucket.take(Time(u64::MAX), 1));
    }
}
