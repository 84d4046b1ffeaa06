//! How often log-ins may be tried: five at once, then ever longer waits, for each user and each address.

use std::collections::BTreeMap;
use std::net::IpAddr;

use roost_protocol::{Millis, Time};

/// Tries that cost nothing: people mistype.
const FREE: u32 = 5;
/// First and longest wait after them.
const FIRST: Millis = Millis::seconds(1);
const LONGEST: Millis = Millis::seconds(300);
/// Quiet time after which what was tried before is forgotten. Longer than `LONGEST`, or waiting would be forgiving.
const FORGET: Millis = Millis::seconds(600);
/// Users and addresses remembered; the one tried longest ago is forgotten first.
const REMEMBERED: usize = 10_000;
/// Longest user name that is remembered as it is.
const NAME: usize = 64;

/// How long to wait before the next try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wait(pub(crate) Millis);

impl Wait {
    /// Whole seconds, rounded up.
    pub(crate) fn seconds(self) -> u64 {
        self.0.0.div_ceil(1_000).max(1)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    User(String),
    /// An IPv4 address, or the /56 an IPv6 address is in: whoever has one has all of it.
    Address([u8; 16]),
}

#[derive(Clone, Copy, Debug)]
struct Tries {
    count: u32,
    last: Time,
    closed_until: Time,
}

/// What was tried. Time is handed in.
#[derive(Debug, Default)]
pub(crate) struct Limiter {
    tries: BTreeMap<Key, Tries>,
}

impl Limiter {
    /// Counts a try before it is looked at, so that many at once are counted too.
    pub(crate) fn admit(&mut self, user: &str, address: IpAddr, now: Time) -> Result<(), Wait> {
        let keys = [user_key(user), address_key(address)];
        let waits = keys.iter().filter_map(|key| self.tries.get(key)).map(|tries| tries.closed_until.since(now));
        match waits.max() {
            Some(wait) if wait > Millis(0) => return Err(Wait(wait)),
            Some(_) | None => {}
        }
        for key in keys {
            self.count(key, now);
        }
        Ok(())
    }

    /// The try was right: the user's tries are forgotten, and this one is not held against the address.
    pub(crate) fn succeeded(&mut self, user: &str, address: IpAddr) {
        self.tries.remove(&user_key(user));
        if let Some(tries) = self.tries.get_mut(&address_key(address)) {
            tries.count = tries.count.saturating_sub(1);
            tries.closed_until = Time(0);
        }
    }

    fn count(&mut self, key: Key, now: Time) {
        if !self.tries.contains_key(&key) && self.tries.len() >= REMEMBERED {
            self.forget_one();
        }
        let tries = self.tries.entry(key).or_insert(Tries { count: 0, last: now, closed_until: Time(0) });
        if now.since(tries.last) >= FORGET {
            tries.count = 0;
        }
        tries.count = tries.count.saturating_add(1);
        tries.last = now;
        tries.closed_until = closed_until(tries.count, now);
    }

    fn forget_one(&mut self) {
        let oldest = self.tries.iter().min_by_key(|(_, tries)| tries.last).map(|(key, _)| key.clone());
        if let Some(key) = oldest {
            self.tries.remove(&key);
        }
    }
}

fn closed_until(count: u32, now: Time) -> Time {
    let Some(beyond) = count.checked_sub(FREE) else { return Time(0) };
    let factor = 1_u64.checked_shl(beyond).unwrap_or(u64::MAX);
    now + Millis(FIRST.0.saturating_mul(factor).min(LONGEST.0))
}

fn user_key(user: &str) -> Key {
    Key::User(user.chars().take(NAME).collect())
}

fn address_key(address: IpAddr) -> Key {
    let mut bytes = match address.to_canonical() {
        IpAddr::V4(address) => return Key::Address(address.to_ipv6_mapped().octets()),
        IpAddr::V6(address) => address.octets(),
    };
    bytes[7..].fill(0);
    Key::Address(bytes)
}

#[cfg(test)]
mod test {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time(seconds * 1_000)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn after_five_wrong_passwords_waits_double_up_to_five_minutes() {
        let mut limiter = Limiter::default();
        let mut now = at(1);
        for _ in 0..5 {
            limiter.admit("ada", ip("192.0.2.1"), now).unwrap();
        }
        let mut waits = Vec::new();
        for _ in 0..11 {
            let wait = limiter.admit("ada", ip("192.0.2.1"), now).unwrap_err();
            waits.push(wait.seconds());
            now = now + wait.0;
            limiter.admit("ada", ip("192.0.2.1"), now).unwrap();
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    }

    #[test]
    fn neither_other_addresses_nor_other_users_get_round_the_limit() {
        let mut limiter = Limiter::default();
        for last in 0..5 {
            limiter.admit("ada", ip(&format!("192.0.2.{last}")), at(1)).unwrap();
        }
        assert!(limiter.admit("ada", ip("198.51.100.1"), at(1)).is_err());
        for user in ["a", "b", "c", "d", "e"] {
            limiter.admit(user, ip("2001:db8::1"), at(1)).unwrap();
        }
        assert!(limiter.admit("f", ip("2001:db8::2"), at(1)).is_err(), "the same /56");
        assert!(limiter.admit("f", ip("2001:db8:1::1"), at(1)).is_ok(), "another network");
    }

    #[test]
    fn a_right_password_or_quiet_time_forgives() {
        let mut limiter = Limiter::default();
        for second in 0..50 {
            limiter.admit("ada", ip("192.0.2.1"), at(second)).unwrap();
            limiter.succeeded("ada", ip("192.0.2.1"));
        }
        for _ in 0..5 {
            limiter.admit("bob", ip("192.0.2.9"), at(1)).unwrap();
        }
        assert!(limiter.admit("bob", ip("192.0.2.9"), at(1)).is_err());
        for _ in 0..4 {
            limiter.admit("bob", ip("192.0.2.9"), at(700)).unwrap();
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut limiter = Limiter::default();
        for number in 0..20_000_u32 {
            let _ = limiter.admit(&format!("user{number}"), IpAddr::from(number.to_be_bytes()), at(1));
        }
        assert!(limiter.tries.len() <= REMEMBERED);
    }
}
