//! A voter that is no host: a guard on the aggregator's machine ([`failover::witness`]). It owns nothing and is no home, and
//! votes only where hosts alone make no council. What is known of it is asked of it again and again; nothing of it is kept.

// Addresses are only compared here; nothing is opened.
use core::net::{IpAddr, SocketAddr};
use std::collections::BTreeMap;

use roost_protocol::failover::{self, Guard, Seat};
use roost_protocol::{HostId, Time};

use crate::councils::{Candidate, GONE};
use crate::event::Action;
use crate::grid::{Grid, Host, Now};
use crate::history::Line;
use crate::peers::addresses;

/// A guard beside the aggregator, as it tells of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    pub incarnation: u32,
    /// Its Ed25519 key.
    pub key: [u8; 32],
    /// Where it listens, as [`roost_protocol::host::HostFacts::peer_listen`].
    pub listen: String,
    /// Of this machine.
    pub addresses: Vec<String>,
}

/// What is known of it.
#[derive(Debug, Default)]
pub(crate) struct Witnessing {
    seen: Option<Witness>,
    /// Why it can't be asked, and since when.
    away: Option<(String, Time)>,
}

impl Witnessing {
    fn is_up(&self) -> bool {
        self.seen.is_some() && self.away.is_none()
    }
}

impl Grid {
    /// Reading: the id that its guard gets.
    pub fn witness_id(&self) -> HostId {
        failover::witness(self.config.grid)
    }

    /// Reading: why the witness can't be asked, where there should be one.
    pub(crate) fn witness_away(&self) -> Option<&str> {
        self.witness.away.as_ref().map(|(why, _)| why.as_str())
    }

    /// Reading: hosts' guards, which it is to know: none where a host's is not known now. No more than a guard pins.
    pub fn guards_of_hosts(&self) -> Vec<Guard> {
        let members = self.intent.hosts.iter().filter(|(_, record)| record.removed.is_none());
        members
            .take(failover::WARDS)
            .map(|(host, _)| Guard { host: *host, seat: self.seat(*host), fence: None })
            .collect()
    }

    pub(crate) fn witness_told(&mut self, now: Now, told: Result<Witness, String>, actions: &mut Vec<Action>) {
        let was_up = self.witness.is_up();
        let (changed, line) = match told {
            Ok(witness) => {
                let changed = !was_up || self.witness.seen.as_ref() != Some(&witness);
                self.witness = Witnessing { seen: Some(witness), away: None };
                let text = "the witness beside the aggregator answers: it can vote where two hosts alone can't";
                (changed, (!was_up).then(|| Line::info("witness.up", text.to_owned())))
            }
            Err(why) => {
                let first = self.witness.away.is_none();
                let since = self.witness.away.as_ref().map_or(now.time, |(_, since)| *since);
                self.witness.away = Some((why.clone(), since));
                let text = format!("the witness beside the aggregator can't be asked: {why}");
                (was_up, first.then(|| Line::warning("witness.away", text)))
            }
        };
        if let Some(line) = line {
            self.publish(now, line, actions);
        }
        if changed {
            self.hosts.values_mut().for_each(|host| host.told.look(now.time));
        }
    }

    /// It among those that may vote with a host, and what hosts are told of it.
    pub(crate) fn witness_votes(&self, now: Time, votes: &BTreeMap<HostId, usize>) -> Option<(Guard, Candidate<'_>)> {
        let id = self.witness_id();
        let seen = self.witness.seen.as_ref()?;
        let seat = Seat { key: seen.key, addresses: addresses(&seen.listen, &seen.addresses, "") };
        let candidate = Candidate {
            incarnation: Some(seen.incarnation),
            may_own: false,
            up: self.witness.is_up() && !seat.addresses.is_empty(),
            gone: self.witness.away.as_ref().is_some_and(|(_, since)| now.since(*since) >= GONE),
            votes: votes.get(&id).copied().unwrap_or(0),
            zone: "",
            witness: true,
            beside: false,
        };
        Some((Guard { host: id, seat: Some(seat), fence: None }, candidate))
    }

    /// Whether it is heard, and a third voice for these hosts.
    pub(crate) fn witness_helps<'a>(&self, mut hosts: impl Iterator<Item = &'a Host>) -> bool {
        self.witness.is_up() && !hosts.any(|host| self.is_beside(host))
    }

    /// Whether a host is the aggregator's own machine: what ends it ends the witness too.
    pub(crate) fn is_beside(&self, host: &Host) -> bool {
        let Some(seen) = &self.witness.seen else { return false };
        let Ok(remote) = host.remote.parse::<SocketAddr>() else { return false };
        let remote = remote.ip().to_canonical();
        remote.is_loopback() || seen.addresses.iter().any(|own| own.parse::<IpAddr>() == Ok(remote))
    }
}
