//! Which hosts know each other: each is told of its neighbours, so that they can keep replicas of each other's guests, and
//! of the points that others may take from it for a restore. Told whole, at connect and when it changed.
//!
//! A guest may run on another host before the data of its point is there. What that host may take outlives the restore:
//! it ends when that host says that it takes nothing more, not when it is away or when an aggregator that lost all has
//! not heard it. Whoever gives remembers what it was told, and tells it; nobody may take what nobody was told to give.
//!
//! Hosts stand in a ring by their ids, and each knows so many before and behind it: if one knows another, that one knows
//! it too, and a grid of thousands has short lists. Where a policy names a host, or a restore takes a point from one, both
//! are told of each other beside the ring.

// Addresses are only read and written here; nothing is opened.
use core::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use minicbor::Encode;
use roost_protocol::backup::query::{ADDRESSES, PEERS, SHARES};
use roost_protocol::backup::{AFAR_SINCE, BackupPolicy, Peer, Pulling, Share, Target};
use roost_protocol::codec;
use roost_protocol::failover;
use roost_protocol::message::ToAgent;
use roost_protocol::operation::Verb;
use roost_protocol::probe::GuestProbes;
use roost_protocol::{HostId, Millis, Time};

use crate::event::Action;
use crate::grid::{Grid, Host, Now, Presence};
use crate::intent::HostRecord;

/// Neighbours on each side. The rest of [`PEERS`] is for hosts that are named.
const ASIDE: usize = 16;
/// How often it is looked whether what moves all the time (room, who is up) has changed.
const LOOK_EVERY: Millis = Millis::seconds(10);
/// Hosts that come and go together are told of together.
const GATHER: Millis = Millis::seconds(1);
/// Room is told in steps of this share of the disk, so that not each beat is news; small beside the tenth of it that a host
/// keeps for itself, since what is left over of a step is hidden from who needs room.
const STEPS: u64 = 256;

/// What a host was told over its present link.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told {
    /// A digest of it; none: nothing yet.
    digest: Option<u64>,
    /// The same of guards and councils.
    councils: Option<u64>,
    /// When to look again.
    next: Time,
}

/// What is looked up once for all hosts that are due.
struct World {
    named: BTreeMap<HostId, BTreeSet<HostId>>,
    /// Replicas that each host keeps.
    kept: BTreeMap<HostId, u32>,
    /// Councils that each host votes in.
    voices: BTreeMap<HostId, usize>,
    /// What others may take from each host.
    shares: BTreeMap<HostId, BTreeSet<Share>>,
    /// What each host tries.
    probes: BTreeMap<HostId, Vec<GuestProbes>>,
}

impl Told {
    /// It is looked at then at the latest.
    pub(crate) fn look(&mut self, at: Time) {
        self.next = self.next.min(at);
    }
}

impl Grid {
    /// Tells hosts of their peers where that is due.
    pub(crate) fn tell_peers(&mut self, now: Now, actions: &mut Vec<Action>) {
        let due = |host: &&Host| host.told.next <= now.time && host.version >= roost_protocol::backup::SINCE;
        let due: Vec<HostId> =
            self.hosts.values().filter(due).filter(|host| host.link().is_some()).map(|h| h.id).collect();
        // Before its intent came back the grid doesn't know who belongs to it.
        if due.is_empty() || self.config.recovering {
            return;
        }
        let shares = self.shares();
        let named = self.named(&shares);
        let (kept, voices, probes) = (self.replicas_kept(), self.voices(), self.probes_by_host());
        let mut world = World { named, kept, voices, shares, probes };
        for id in due {
            let others = self.others_of(id, &world);
            let (peers, shares) = (self.peers_of(&others, &world), self.shares_of(id, &world));
            let (guards, councils) = self.councils_of(now.time, id, &others, &world.voices);
            let disarmed = self.maintenance(id).is_some();
            let maintenance = self.hosts.get(&id).and_then(|host| self.maintenance_stage(host));
            let zone = Some(self.zone(id).to_owned()).filter(|zone| !zone.is_empty());
            let probes = world.probes.remove(&id).unwrap_or_default();
            let memory = self.intent.hosts.get(&id).and_then(|record| record.memory.clone());
            let digest = digest(&peers, &(&shares, maintenance, &zone, &probes, &memory));
            let councils_digest = self::digest(&guards, &councils) ^ u64::from(disarmed);
            let Some(host) = self.hosts.get_mut(&id) else { continue };
            host.told.next = now.time + LOOK_EVERY;
            host.shared = shares.iter().copied().collect();
            let guarded = host.guard.is_some() && host.version >= failover::SINCE;
            let Some(link) = host.link() else { continue };
            if host.told.digest != Some(digest) {
                host.told.digest = Some(digest);
                let message = ToAgent::Peers { peers, shares, maintenance, zone, probes, memory };
                actions.push(Action::Send { link, message });
            }
            if guarded && host.told.councils != Some(councils_digest) {
                host.told.councils = Some(councils_digest);
                actions.push(Action::Send { link, message: ToAgent::Councils { guards, councils, disarmed } });
            }
        }
    }

    /// A host came, left, or has other addresses: its neighbours are told soon.
    pub(crate) fn peers_changed(&mut self, now: Now, id: HostId) {
        let mut near = self.neighbours(id);
        near.insert(id);
        for host in near {
            self.look_at_peers(host, now.time + GATHER);
        }
    }

    /// The host is told at that time of what changed.
    pub(crate) fn look_at_peers(&mut self, id: HostId, at: Time) {
        if let Some(host) = self.hosts.get_mut(&id) {
            host.told.look(at);
        }
    }

    /// Hosts of the grid beside this one in the ring.
    fn neighbours(&self, id: HostId) -> BTreeSet<HostId> {
        let member = |(_, record): &(&HostId, &HostRecord)| record.removed.is_none();
        let hosts = &self.intent.hosts;
        let (before, behind) = (|| hosts.range(..id), || hosts.range(id..).filter(|(other, _)| **other != id));
        let forward = behind().chain(before()).filter(member).take(ASIDE);
        let backward = before().rev().chain(behind().rev()).filter(member).take(ASIDE);
        forward.chain(backward).map(|(host, _)| *host).collect()
    }

    /// Hosts that have to do with each other because somebody named one of them.
    fn named(&self, shares: &BTreeMap<HostId, BTreeSet<Share>>) -> BTreeMap<HostId, BTreeSet<HostId>> {
        let mut named: BTreeMap<HostId, BTreeSet<HostId>> = BTreeMap::new();
        let mut pair = |one: HostId, other: HostId| {
            named.entry(one).or_default().insert(other);
            named.entry(other).or_default().insert(one);
        };
        let names = |(name, policy)| Some((name, hosts_in(policy))).filter(|(_, hosts)| !hosts.is_empty());
        let naming: BTreeMap<&String, Vec<HostId>> = self.intent.backup_policies.iter().filter_map(names).collect();
        for host in self.hosts.values() {
            let sets = host.backups.sets.values().filter(|_| !naming.is_empty());
            let policies = sets.filter_map(|set| naming.get(&set.policy_name)).flatten();
            let keepers = host.backups.replicas.values().filter_map(|replica| replica.status.host.as_ref());
            policies.chain(keepers).for_each(|other| pair(host.id, *other));
        }
        shares.iter().for_each(|(giver, shares)| shares.iter().for_each(|share| pair(share.with, *giver)));
        self.fellow_voters().for_each(|(one, other)| pair(one, other));
        named
    }

    /// Hosts that this one is told of: neighbours, and those that were named.
    fn others_of(&self, id: HostId, world: &World) -> BTreeSet<HostId> {
        let mut others = self.neighbours(id);
        let room = PEERS.saturating_sub(others.len());
        let named = world.named.get(&id).into_iter().flatten().filter(|other| !others.contains(other) && **other != id);
        let named: Vec<HostId> = named.take(room).copied().collect();
        others.extend(named);
        others
    }

    fn peers_of(&self, others: &BTreeSet<HostId>, world: &World) -> Vec<Peer> {
        let member =
            |host: &HostId| Some((*host, self.intent.hosts.get(host).filter(|record| record.removed.is_none())?));
        others.iter().filter_map(member).map(|(host, record)| self.peer(host, record, &world.kept)).collect()
    }

    fn peer(&self, id: HostId, record: &HostRecord, kept: &BTreeMap<HostId, u32>) -> Peer {
        let host = self.hosts.get(&id);
        let facts = host.and_then(|host| host.facts.as_ref());
        let addresses = facts.zip(host).map(|(facts, host)| {
            let listen = facts.peer_listen.as_deref().unwrap_or_default();
            addresses(listen, &facts.addresses, &host.remote)
        });
        let store = host.and_then(|host| host.backups.store).unwrap_or_default();
        let step = (store.total / STEPS).max(1);
        Peer {
            host: id,
            name: record.name.clone(),
            addresses: addresses.unwrap_or_default(),
            key: record.key,
            zone: record.zone.clone(),
            total: store.total,
            free: store.free / step * step,
            replicas: kept.get(&id).copied().unwrap_or(0),
            up: record.maintenance.is_none()
                && host.is_some_and(|host| matches!(host.presence, Presence::Up { .. } | Presence::Suspect { .. })),
        }
    }

    fn replicas_kept(&self) -> BTreeMap<HostId, u32> {
        let mut kept = BTreeMap::new();
        for host in
            self.hosts.values().flat_map(|host| host.backups.replicas.values()).filter_map(|one| one.status.host)
        {
            *kept.entry(host).or_default() += 1;
        }
        kept
    }

    fn shares_of(&self, id: HostId, world: &World) -> Vec<Share> {
        world.shares.get(&id).into_iter().flatten().take(SHARES).copied().collect()
    }

    /// Points that other hosts may take, by the host that has them: of restores that have not ended, and of guests whose
    /// data is still brought in.
    fn shares(&self) -> BTreeMap<HostId, BTreeSet<Share>> {
        let mut shares: BTreeMap<HostId, BTreeSet<Share>> = BTreeMap::new();
        for operation in self.commands.open() {
            if let Verb::Restore { order } = &operation.verb
                && let Target::Peer { host, .. } = order.from
            {
                shares.entry(host).or_default().insert(Share { point: order.point, with: operation.host });
            }
        }
        for host in self.hosts.values() {
            for share in host.shared.iter().filter(|share| self.still_taken(host.id, share)) {
                shares.entry(host.id).or_default().insert(*share);
            }
        }
        shares
    }

    /// Unless the one it is shared with says that it needs it no more, it may.
    fn still_taken(&self, giver: HostId, share: &Share) -> bool {
        if self.intent.hosts.get(&share.with).is_none_or(|record| record.removed.is_some()) {
            return false;
        }
        let Some(taker) = self.hosts.get(&share.with).filter(|taker| taker.presence != Presence::Never) else {
            return true;
        };
        let takes = |pull: &Pulling| {
            pull.point == share.point && matches!(pull.from, Target::Peer { host, .. } if host == giver)
        };
        match &taker.backups.pulls {
            Some(pulls) => pulls.values().any(takes),
            None => taker.version >= AFAR_SINCE,
        }
    }
}

/// Hosts that a policy names.
fn hosts_in(policy: &BackupPolicy) -> Vec<HostId> {
    let target = |target: &Target| match target {
        Target::Peer { host, .. } => Some(*host),
        Target::Local | Target::Directory { .. } => None,
    };
    policy.targets.iter().filter_map(target).chain(policy.replica.and_then(|replica| replica.host)).collect()
}

/// Where a host is reached that listens at `listen`: there if that is one address; else at the one it is seen from here,
/// and at its own, but not at those that mean the caller itself.
pub(crate) fn addresses(listen: &str, own: &[String], seen: &str) -> Vec<String> {
    let Ok(listen) = listen.parse::<SocketAddr>() else { return Vec::new() };
    if !listen.ip().is_unspecified() {
        return vec![listen.to_string()];
    }
    let seen = seen.parse::<SocketAddr>().map(|seen| seen.ip().to_canonical()).ok();
    let all = seen.into_iter().chain(own.iter().filter_map(|address| address.parse::<IpAddr>().ok()));
    let mut found: Vec<IpAddr> = Vec::new();
    for address in all {
        let reached = !address.is_loopback() && !address.is_unspecified() && !address.is_multicast();
        // An IPv4 socket takes no IPv6.
        let family = listen.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) || address.is_ipv4();
        if reached && family && !found.contains(&address) {
            found.push(address);
        }
    }
    found.into_iter().take(ADDRESSES).map(|address| SocketAddr::new(address, listen.port()).to_string()).collect()
}

/// The same for the same words, in this process.
fn digest(one: &impl Encode<()>, other: &impl Encode<()>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (codec::encode(one), codec::encode(other)).hash(&mut hasher);
    hasher.finish()
}
