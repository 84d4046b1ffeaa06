//! Datagrams between guards: signed by pinned keys, each taken once, and none from before the receiver started.
//!
//! ```text
//! version 1 | from 16 | start 8 | number 8 | my nonce 8 | your nonce 8 | body | signature 64
//! ```
//!
//! A receiver takes only what names the nonce that it drew at its start, so nothing said to an earlier start of it counts.
//! `start` counts a sender's starts, durably, and `number` its datagrams: what is older than the newest start, or came
//! before, is dropped. A peer that doesn't know our nonce yet is sent an empty datagram, which carries it.
//! The protocol bears late and doubled messages anyhow; but who could repeat a dead owner's renewals for ever would keep
//! its guests from being taken over.

use std::collections::BTreeMap;

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use roost_protocol::{HostId, Millis, Time};
use roost_ward::LONGEST_PACKET;
use roost_ward::door::Peer;

const VERSION: u8 = 1;
const HEAD: usize = 1 + 16 + 8 * 4;
const SIGNATURE: usize = 64;
/// Longest datagram, bytes; fits into 1,500 and into most tunnels.
pub(crate) const LONGEST_DATAGRAM: usize = HEAD + LONGEST_PACKET + SIGNATURE;
/// What is signed begins with this, so that no other signature of the key means anything here.
const PURPOSE: &[u8] = b"roost guard datagram 1";
/// Datagrams may overtake each other by so many.
const WINDOW: u64 = 64;
/// Datagrams that don't know our nonce are looked at this often: each costs a check of a signature, and anybody can send
/// them.
const STRANGERS_EVERY: Millis = Millis(10);
/// And so many at once.
const STRANGERS_AT_ONCE: u32 = 32;

/// This guard's end of all ways to its peers.
#[derive(Debug)]
pub(crate) struct Seal {
    me: HostId,
    key: Ed25519KeyPair,
    start: u64,
    number: u64,
    nonce: u64,
    peers: BTreeMap<HostId, Way>,
    strangers: u32,
    refilled: Time,
}

/// What is known of a peer.
#[derive(Debug)]
struct Way {
    key: [u8; 32],
    /// Its nonce, once it said so to our own.
    nonce: u64,
    start: u64,
    newest: u64,
    /// Bit n: `newest - n` came.
    came: u64,
    heard: Option<Time>,
}

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Came {
    pub(crate) from: HostId,
    pub(crate) body: Vec<u8>,
    /// The sender doesn't know our nonce, or we just learnt its: greet it by this one of its own.
    pub(crate) greet: Option<u64>,
}

/// Why a datagram is dropped.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Drop {
    #[error("it has no shape")]
    Shape,
    #[error("its sender is unknown")]
    Unknown,
    #[error("its signature is wrong")]
    Signature,
    #[error("it came before, or from an earlier start of its sender")]
    Again,
    #[error("too many strangers")]
    Strangers,
}

struct Head<'a> {
    from: HostId,
    start: u64,
    number: u64,
    nonce: u64,
    echo: u64,
    body: &'a [u8],
    signed: &'a [u8],
    signature: &'a [u8],
}

impl Seal {
    /// `start` is larger than at any start before; `nonce` was just drawn and isn't zero.
    pub(crate) fn new(me: HostId, key: Ed25519KeyPair, start: u64, nonce: u64) -> Self {
        let (peers, strangers) = (BTreeMap::new(), STRANGERS_AT_ONCE);
        Self { me, key, start, number: 0, nonce, peers, strangers, refilled: Time(0) }
    }

    /// Our own key, for others to pin.
    pub(crate) fn public(&self) -> [u8; 32] {
        self.key.public_key().as_ref().try_into().unwrap_or_default()
    }

    /// Who is heard from now on.
    pub(crate) fn pin(&mut self, peers: &[Peer]) {
        let mut known = std::mem::take(&mut self.peers);
        for peer in peers.iter().filter(|peer| peer.id != self.me) {
            let kept = known.remove(&peer.id).filter(|way| way.key == peer.key);
            let fresh = Way { key: peer.key, nonce: 0, start: 0, newest: 0, came: 0, heard: None };
            self.peers.insert(peer.id, kept.unwrap_or(fresh));
        }
    }

    /// When a peer was heard last.
    pub(crate) fn heard(&self, peer: HostId) -> Option<Time> {
        self.peers.get(&peer).and_then(|way| way.heard)
    }

    /// A datagram to this peer; without body while it wouldn't take one.
    pub(crate) fn close(&mut self, to: HostId, body: &[u8]) -> Option<Vec<u8>> {
        let echo = self.peers.get(&to)?.nonce;
        Some(self.sealed(to, echo, if echo == 0 { &[] } else { body }))
    }

    /// An empty datagram for a sender that says it drew this nonce. Whether it did shows when it answers by ours; until
    /// then nothing else changes, for what it said may be an old datagram that somebody sent again.
    pub(crate) fn greeting(&mut self, to: HostId, nonce: u64) -> Vec<u8> {
        self.sealed(to, nonce, b"")
    }

    fn sealed(&mut self, to: HostId, echo: u64, body: &[u8]) -> Vec<u8> {
        self.number += 1;
        let mut out = Vec::with_capacity(HEAD + body.len() + SIGNATURE);
        out.push(VERSION);
        out.extend(self.me.bytes());
        for number in [self.start, self.number, self.nonce, echo] {
            out.extend(number.to_be_bytes());
        }
        out.extend(body);
        let signature = self.key.sign(&to_be_signed(to, &out));
        out.extend(signature.as_ref());
        out
    }

    /// Takes a datagram in, or says why not.
    pub(crate) fn open(&mut self, now: Time, datagram: &[u8]) -> Result<Came, Drop> {
        let head = Head::of(datagram).ok_or(Drop::Shape)?;
        let known = head.echo == self.nonce;
        if !known {
            self.let_stranger(now)?;
        }
        let way = self.peers.get_mut(&head.from).ok_or(Drop::Unknown)?;
        let signed = to_be_signed(self.me, head.signed);
        UnparsedPublicKey::new(&ED25519, way.key).verify(&signed, head.signature).map_err(|_| Drop::Signature)?;
        if !known {
            return Ok(Came { from: head.from, body: Vec::new(), greet: Some(head.nonce) });
        }
        if !way.takes(head.start, head.number) {
            return Err(Drop::Again);
        }
        way.heard = Some(now);
        let news = std::mem::replace(&mut way.nonce, head.nonce) != head.nonce;
        let greet = news.then_some(head.nonce);
        Ok(Came { from: head.from, body: head.body.to_vec(), greet })
    }

    fn let_stranger(&mut self, now: Time) -> Result<(), Drop> {
        let more = now.since(self.refilled).0 / STRANGERS_EVERY.0;
        if more > 0 {
            self.refilled = now;
            self.strangers = u32::try_from(more).unwrap_or(u32::MAX).saturating_add(self.strangers);
            self.strangers = self.strangers.min(STRANGERS_AT_ONCE);
        }
        self.strangers = self.strangers.checked_sub(1).ok_or(Drop::Strangers)?;
        Ok(())
    }
}

impl Way {
    fn takes(&mut self, start: u64, number: u64) -> bool {
        if start > self.start {
            (self.start, self.newest, self.came) = (start, number, 1);
            return true;
        }
        if start < self.start {
            return false;
        }
        if number > self.newest {
            let by = number - self.newest;
            self.came = if by < WINDOW { (self.came << by) | 1 } else { 1 };
            self.newest = number;
            return true;
        }
        let back = self.newest - number;
        if back >= WINDOW || self.came & (1 << back) != 0 {
            return false;
        }
        self.came |= 1 << back;
        true
    }
}

impl<'a> Head<'a> {
    fn of(datagram: &'a [u8]) -> Option<Self> {
        if datagram.len() > LONGEST_DATAGRAM || datagram.first() != Some(&VERSION) {
            return None;
        }
        let (signed, signature) = datagram.split_at_checked(datagram.len().checked_sub(SIGNATURE)?)?;
        let body = signed.get(HEAD..)?;
        let from = HostId::from_bytes(signed.get(1..17)?.try_into().ok()?);
        let number = |at: usize| Some(u64::from_be_bytes(signed.get(at..at + 8)?.try_into().ok()?));
        let (start, count, nonce, echo) = (number(17)?, number(25)?, number(33)?, number(41)?);
        Some(Self { from, start, number: count, nonce, echo, body, signed, signature })
    }
}

/// The receiver is signed too, so that what is said to one can't be told to another.
fn to_be_signed(to: HostId, head_and_body: &[u8]) -> Vec<u8> {
    [PURPOSE, &to.bytes(), head_and_body].concat()
}

#[cfg(test)]
mod test {
    use ring::rand::SystemRandom;

    use super::*;

    const NOW: Time = Time(1_000);

    fn id(number: u128) -> HostId {
        HostId::from_u128(number)
    }

    fn seal(me: u128, pkcs8: &[u8], start: u64, nonce: u64) -> Seal {
        Seal::new(id(me), Ed25519KeyPair::from_pkcs8(pkcs8).unwrap(), start, nonce)
    }

    fn key() -> Vec<u8> {
        Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap().as_ref().to_vec()
    }

    fn peer(seal: &Seal) -> Peer {
        Peer { id: seal.me, key: seal.public(), addresses: Vec::new() }
    }

    /// Lets two ends say who they are.
    fn greet(one: &mut Seal, other: &mut Seal) {
        let mut datagram = one.close(other.me, b"").unwrap();
        let (mut from, mut to) = (one, other);
        while let Some(nonce) = to.open(NOW, &datagram).unwrap().greet {
            datagram = to.greeting(from.me, nonce);
            std::mem::swap(&mut from, &mut to);
        }
    }

    fn pair() -> (Seal, Seal) {
        let (mut one, mut other) = (seal(1, &key(), 1, 11), seal(2, &key(), 1, 22));
        one.pin(&[peer(&other)]);
        other.pin(&[peer(&one)]);
        greet(&mut one, &mut other);
        (one, other)
    }

    #[test]
    fn what_is_sent_comes_once_and_nothing_comes_again() {
        let (mut one, mut other) = pair();
        let first = one.close(id(2), b"first").unwrap();
        let second = one.close(id(2), b"second").unwrap();
        assert_eq!(other.open(NOW, &second).unwrap().body, b"second", "the later one overtook");
        assert_eq!(other.open(NOW, &first).unwrap().body, b"first");
        assert_eq!(other.open(NOW, &first), Err(Drop::Again));
        assert_eq!(other.open(NOW, &second), Err(Drop::Again));
    }

    #[test]
    fn nothing_said_to_an_earlier_start_is_heard() {
        let secret = key();
        let (mut one, mut other) = (seal(1, &key(), 1, 11), seal(2, &secret, 1, 22));
        one.pin(&[peer(&other)]);
        other.pin(&[peer(&one)]);
        greet(&mut one, &mut other);
        let renewal = one.close(id(2), b"renewal").unwrap();
        let mut again = seal(2, &secret, 2, 33);
        again.pin(&[peer(&one)]);
        let came = again.open(NOW, &renewal).unwrap();
        assert_eq!(
            (came.body.as_slice(), came.greet),
            (&b""[..], Some(11)),
            "its words don't count, but it is greeted"
        );
        greet(&mut one, &mut again);
        assert_eq!(again.open(NOW, &renewal).unwrap().body, b"");
        assert_eq!(again.close(id(1), b"x").map(|bytes| one.open(NOW, &bytes).unwrap().body), Some(b"x".to_vec()));
        let fresh = one.close(id(2), b"fresh").unwrap();
        assert_eq!(again.open(NOW, &fresh).unwrap().body, b"fresh");
    }

    #[test]
    fn nothing_of_a_peer_s_earlier_start_is_heard_after_the_next() {
        let secret = key();
        let (mut one, mut other) = (seal(1, &secret, 1, 11), seal(2, &key(), 1, 22));
        one.pin(&[peer(&other)]);
        other.pin(&[peer(&one)]);
        greet(&mut one, &mut other);
        let late = one.close(id(2), b"late").unwrap();
        let mut again = seal(1, &secret, 2, 44);
        again.pin(&[peer(&other)]);
        greet(&mut again, &mut other);
        let news = again.close(id(2), b"news").unwrap();
        assert_eq!(other.open(NOW, &news).unwrap().body, b"news");
        assert_eq!(other.open(NOW, &late), Err(Drop::Again));
    }

    #[test]
    fn who_is_not_pinned_or_changes_a_bit_is_not_heard() {
        let (mut one, mut other) = pair();
        let good = one.close(id(2), b"words").unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            let heard = other.open(Time(NOW.0 + 1_000 * u64::try_from(at).unwrap()), &bad);
            assert!(heard.is_err() || heard.is_ok_and(|came| came.body.is_empty()), "byte {at}");
        }
        assert_eq!(other.open(NOW, &good).unwrap().body, b"words");
        let mut forger = seal(1, &key(), 9, 11);
        forger.pin(&[peer(&other)]);
        let forged = forger.close(id(2), b"").unwrap();
        assert_eq!(other.open(NOW, &forged), Err(Drop::Signature));
        other.pin(&[]);
        assert_eq!(other.open(NOW, &good), Err(Drop::Unknown));
        for length in 0..HEAD + SIGNATURE {
            assert_eq!(other.open(NOW, &good[..length]), Err(Drop::Shape));
        }
        assert_eq!(other.open(NOW, &[1; LONGEST_DATAGRAM + 1]), Err(Drop::Shape));
    }

    #[test]
    fn what_was_meant_for_another_is_not_heard() {
        let secret = key();
        let (mut one, other) = (seal(1, &secret, 1, 11), seal(2, &key(), 1, 22));
        let mut third = seal(3, &key(), 1, 22);
        one.pin(&[peer(&other), peer(&third)]);
        third.pin(&[peer(&one)]);
        greet(&mut one, &mut third);
        let to_other = one.close(id(2), b"").unwrap();
        assert_eq!(third.open(NOW, &to_other), Err(Drop::Signature));
    }

    #[test]
    fn a_flood_of_strangers_costs_few_checks() {
        let (_, mut other) = pair();
        let mut forger = seal(1, &key(), 9, 11);
        forger.pin(&[peer(&other)]);
        let later = NOW + Millis(60_000);
        let flood = (0..1_000).map(|_| other.open(later, &forger.close(id(2), b"").unwrap()));
        let checked = flood.filter(|heard| *heard == Err(Drop::Signature)).count();
        assert_eq!(checked, usize::try_from(STRANGERS_AT_ONCE).unwrap());
    }
}
