//! Replicas: which host keeps one, and how old it is.

use std::collections::BTreeMap;

use roost_protocol::backup::Peer;
use roost_protocol::{GuestId, HostId, Millis, Time};

use super::schedule::hash;

/// A peer keeps this share of its disk free, in permille: twice the reserve below which it would hold everything.
const PEER_RESERVE: u64 = 100;

/// Why no host keeps a guest's replica.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoBackupHost {
    #[error("the policy names this very host: name another one")]
    Itself,
    #[error(
        "the policy names host {0}, which this host was not told of: is it in the grid, and is its agent new enough?"
    )]
    Unknown(HostId),
    #[error("the policy names host {0}, which broke the rules and is cut off: see this host's alarms")]
    CutOff(HostId),
    #[error("there is no other host: add one to the grid")]
    Alone,
    #[error("no other host is up")]
    NoneUp,
    #[error(
        "with it the disk of every other host that is up would be more than nine tenths full (it takes {} MiB): remove \
         old backups or images there, or add a disk",
        .0.div_ceil(1 << 20)
    )]
    NoRoom(u64),
}

/// What a choice is made from.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    pub guest: GuestId,
    /// The guest's own host, never chosen.
    pub own: HostId,
    /// What falls together with the own host; empty: not known.
    pub own_zone: &'a str,
    /// The host that the policy names.
    pub named: Option<HostId>,
    /// The host that keeps it now: stays while it is told of, because moving costs a whole copy.
    pub present: Option<HostId>,
    pub peers: &'a [Peer],
    /// How many of this host's guests each peer keeps.
    pub mine: &'a BTreeMap<HostId, u32>,
    /// Room that a whole copy takes.
    pub bytes: u64,
}

/// The host to keep the guest's replica. Without a name: one that stands elsewhere, that keeps fewest of this host's
/// guests (when this host dies its guests start on many hosts, not on one), fewest replicas at all, and has most room.
///
/// # Errors
/// Why there is none.
pub fn choose(choice: &Choice<'_>) -> Result<HostId, NoBackupHost> {
    let others: Vec<&Peer> = choice.peers.iter().filter(|peer| peer.host != choice.own).collect();
    if let Some(named) = choice.named {
        return match others.iter().any(|peer| peer.host == named) {
            _ if named == choice.own => Err(NoBackupHost::Itself),
            true => Ok(named),
            false => Err(NoBackupHost::Unknown(named)),
        };
    }
    if let Some(present) = choice.present
        && others.iter().any(|peer| peer.host == present)
    {
        return Ok(present);
    }
    if others.is_empty() {
        return Err(NoBackupHost::Alone);
    }
    let up: Vec<&Peer> = others.into_iter().filter(|peer| peer.up).collect();
    if up.is_empty() {
        return Err(NoBackupHost::NoneUp);
    }
    let roomy = up.into_iter().filter(|peer| {
        let needed = u128::from(choice.bytes) * 1_000 + u128::from(peer.total) * u128::from(PEER_RESERVE);
        u128::from(peer.free) * 1_000 >= needed
    });
    let best = roomy.min_by_key(|peer| {
        let together = !peer.zone.is_empty() && peer.zone == choice.own_zone;
        let mine = choice.mine.get(&peer.host).copied().unwrap_or(0);
        let tie = hash(&[choice.guest.bytes(), peer.host.bytes()].concat());
        (together, mine, peer.replicas, std::cmp::Reverse(peer.free >> 30), tie, peer.host)
    });
    best.map(|peer| peer.host).ok_or(NoBackupHost::NoRoom(choice.bytes))
}

/// How old a copy is. Counted on the monotonic clock from a moment at which its age was known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age {
    pub at: Time,
    pub was: Millis,
}

impl Age {
    /// A copy that shows the moment `captured`.
    pub fn captured(captured: Time) -> Self {
        Self { at: captured, was: Millis(0) }
    }

    pub fn lag(self, now: Time) -> Millis {
        Millis(self.was.0.saturating_add(now.since(self.at).0))
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const OWN: HostId = HostId::from_u128(1);

    fn peer(host: u128, free: u64, zone: &str) -> Peer {
        Peer {
            host: HostId::from_u128(host),
            name: String::new(),
            addresses: Vec::new(),
            key: [0; 32],
            zone: zone.into(),
            total: 1 << 40,
            free: free << 30,
            replicas: 0,
            up: true,
        }
    }

    fn asked<'a>(guest: u128, peers: &'a [Peer], mine: &'a BTreeMap<HostId, u32>) -> Choice<'a> {
        let guest = GuestId::from_u128(guest);
        let (named, present) = (None, None);
        Choice { guest, own: OWN, own_zone: "rack-1", named, present, peers, mine, bytes: 10 << 30 }
    }

    #[test]
    fn never_the_same_host_and_another_zone_first() {
        let mine = BTreeMap::new();
        let peers = [peer(1, 900, "rack-2"), peer(2, 900, "rack-1"), peer(3, 200, "rack-2")];
        assert_eq!(choose(&asked(7, &peers, &mine)), Ok(HostId::from_u128(3)));
        assert_eq!(choose(&asked(7, &peers[..2], &mine)), Ok(HostId::from_u128(2)));
        assert_eq!(choose(&asked(7, &peers[..1], &mine)), Err(NoBackupHost::Alone));
        let named = |host| Choice { named: Some(host), ..asked(7, &peers, &mine) };
        assert_eq!(choose(&named(OWN)), Err(NoBackupHost::Itself));
        assert_eq!(choose(&named(HostId::from_u128(9))), Err(NoBackupHost::Unknown(HostId::from_u128(9))));
        assert_eq!(choose(&named(HostId::from_u128(2))), Ok(HostId::from_u128(2)));
    }

    #[test]
    fn fifty_guests_are_spread_evenly_and_stay_where_they_are() {
        let peers = [peer(2, 900, ""), peer(3, 800, ""), peer(4, 700, ""), peer(5, 105, "")];
        let mut mine: BTreeMap<HostId, u32> = BTreeMap::new();
        let mut places = BTreeMap::new();
        for guest in 0..51 {
            let host = choose(&asked(guest, &peers, &mine)).unwrap();
            *mine.entry(host).or_default() += 1;
            places.insert(guest, host);
        }
        // The fourth has less than a tenth free beside the copy.
        assert_eq!(mine.values().copied().collect::<Vec<_>>(), [17, 17, 17]);
        for (guest, host) in places {
            assert_eq!(choose(&Choice { present: Some(host), ..asked(guest, &peers, &mine) }), Ok(host));
        }
    }

    #[test]
    fn a_host_that_left_is_replaced_and_full_or_dead_ones_are_not_chosen() {
        let mine = BTreeMap::new();
        let mut peers = [peer(2, 900, ""), peer(3, 900, "")];
        let gone = Choice { present: Some(HostId::from_u128(9)), ..asked(1, &peers, &mine) };
        assert!(choose(&gone).is_ok());
        peers[0].up = false;
        peers[1].free = 1 << 30;
        assert_eq!(choose(&asked(1, &peers, &mine)), Err(NoBackupHost::NoRoom(10 << 30)));
        peers[1].up = false;
        assert_eq!(choose(&asked(1, &peers, &mine)), Err(NoBackupHost::NoneUp));
    }

    #[test]
    fn lag_goes_on_over_a_restart() {
        let before = Age::captured(Time(50_000)).lag(Time(65_000));
        assert_eq!(Age { at: Time(10), was: before }.lag(Time(1_010)), Millis(16_000));
    }
}
