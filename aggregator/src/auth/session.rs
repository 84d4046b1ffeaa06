//! Sessions: in memory only, ended by idle time, log-out, or a change of the password they began with.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ring::digest::{SHA256, digest};
use roost_protocol::{Millis, Stamp, Time};

use super::Secret;

/// Unused for this long, a session ends.
pub(crate) const IDLE: Millis = Millis::seconds(12 * 3_600);
/// Sessions at once; the one unused for longest makes room.
const MOST: usize = 10_000;
/// Of one user, so that one can't push the others out.
const MOST_OF_USER: usize = 200;

/// One log-in.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) id: String,
    pub(crate) user: String,
    pub(crate) address: IpAddr,
    pub(crate) created: Stamp,
    pub(crate) expires: Stamp,
    pub(crate) last_used: Stamp,
    /// See [`sign`].
    pub(super) password: [u8; 32],
    ends: Time,
}

/// Stands for the password hash a session began with.
pub(super) fn sign(password_hash: &str) -> [u8; 32] {
    let mut sign = [0; 32];
    sign.copy_from_slice(digest(&SHA256, password_hash.as_bytes()).as_ref());
    sign
}

impl Session {
    pub(super) fn new(
        secret: &Secret,
        user: &str,
        password_hash: &str,
        address: IpAddr,
        now: Time,
        wall: Stamp,
    ) -> Self {
        Self {
            id: secret.id(),
            user: user.to_owned(),
            address,
            created: wall,
            expires: super::end(wall, IDLE),
            last_used: wall,
            password: sign(password_hash),
            ends: now + IDLE,
        }
    }
}

/// All sessions, by the hash of their secret.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    all: BTreeMap<[u8; 32], Session>,
}

impl Sessions {
    pub(super) fn add(&mut self, hash: [u8; 32], session: Session) {
        let of_user = |other: &Session| other.user == session.user;
        if self.all.values().filter(|other| of_user(other)).count() >= MOST_OF_USER {
            self.drop_oldest(of_user);
        }
        if self.all.len() >= MOST {
            self.drop_oldest(|_| true);
        }
        self.all.insert(hash, session);
    }

    fn drop_oldest(&mut self, which: impl Fn(&Session) -> bool) {
        let oldest = self.all.iter().filter(|(_, session)| which(session)).min_by_key(|(_, session)| session.ends);
        if let Some(hash) = oldest.map(|(hash, _)| *hash) {
            self.all.remove(&hash);
        }
    }

    /// The session with this secret, which is used now.
    pub(super) fn used(&mut self, hash: &[u8; 32], now: Time, wall: Stamp) -> Option<Session> {
        let session = self.all.get_mut(hash)?;
        if session.ends <= now {
            self.all.remove(hash);
            return None;
        }
        session.ends = now + IDLE;
        session.expires = super::end(wall, IDLE);
        session.last_used = wall;
        Some(session.clone())
    }

    /// What stands for the password that the session with this id began with, while it goes on. Looking is no use of it.
    pub(super) fn sign_of(&self, id: &str, now: Time) -> Option<[u8; 32]> {
        self.all.values().find(|session| session.id == id && session.ends > now).map(|session| session.password)
    }

    pub(super) fn list(&mut self, now: Time) -> Vec<Session> {
        self.all.retain(|_, session| session.ends > now);
        self.all.values().cloned().collect()
    }

    pub(super) fn remove(&mut self, id: &str) -> bool {
        let before = self.all.len();
        self.all.retain(|_, session| session.id != id);
        self.all.len() < before
    }

    pub(super) fn remove_user(&mut self, user: &str) {
        self.all.retain(|_, session| session.user != user);
    }
}

#[cfg(test)]
mod test {
    use super::super::SESSION;
    use super::*;

    fn session(user: &str, now: Time) -> ([u8; 32], Session) {
        let secret = Secret::new(SESSION).unwrap();
        (secret.hash(), Session::new(&secret, user, "hash", IpAddr::from([192, 0, 2, 1]), now, Stamp(0)))
    }

    #[test]
    fn a_session_ends_twelve_hours_after_its_last_use() {
        let mut sessions = Sessions::default();
        let (hash, one) = session("ada", Time(0));
        sessions.add(hash, one);
        let almost = Time(IDLE.0 - 1);
        assert!(sessions.used(&hash, almost, Stamp(1)).is_some());
        assert!(sessions.used(&hash, almost + Millis(IDLE.0 - 1), Stamp(1)).is_some());
        assert!(sessions.used(&hash, almost + Millis(3 * IDLE.0), Stamp(1)).is_none());
    }

    #[test]
    fn one_user_can_not_push_out_the_others() {
        let mut sessions = Sessions::default();
        let (hash, one) = session("ada", Time(0));
        sessions.add(hash, one);
        for number in 0..300 {
            let (hash, one) = session("bob", Time(number));
            sessions.add(hash, one);
        }
        assert_eq!(sessions.list(Time(1)).len(), MOST_OF_USER + 1);
        sessions.remove_user("bob");
        assert!(sessions.used(&hash, Time(2), Stamp(0)).is_some());
    }
}
