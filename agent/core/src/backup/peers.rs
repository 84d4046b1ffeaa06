//! Other hosts of the grid: who may call, what they may take, and who broke the rules and is cut off for a while.

use std::collections::BTreeMap;

use roost_protocol::backup::query::{ADDRESSES, PEERS, SHARES};
use roost_protocol::backup::{BackupSummary, Peer, Share, Target, Why};
use roost_protocol::{GuestId, HostId, Millis, PointId, Time};

use super::replica::{Choice, NoBackupHost, choose};
use super::sets::cut;
use crate::agent::{Agent, Now};
use crate::event::Action;
use crate::ledger::{Change, Kept};

/// A host that broke the rules is neither called nor heard for so long.
const CUT_OFF: Millis = Millis::seconds(3_600);
/// Replica points kept here of one guest of another host. Its own host takes back older ones; this is for hosts that
/// don't.
const KEPT_REPLICAS: usize = 16;
const ALARM: &str = "peer-misbehaved";
/// A host that nothing could be brought to for so long keeps no replicas: longer than an upgrade with a reboot takes, for
/// moving costs a whole copy of each.
const LOST_AFTER: Millis = Millis::seconds(1_800);
/// One that was not tried for so long is as good as any other.
const LOST_FOR: Millis = Millis::seconds(3_600);

/// What is known of other hosts.
#[derive(Debug, Default)]
pub(crate) struct Others {
    pub(crate) told: Vec<Peer>,
    pub(crate) shares: Vec<Share>,
    /// What falls together with this host.
    pub(crate) zone: String,
    /// Until when each is cut off.
    cut_off: BTreeMap<HostId, Time>,
    /// Since when nothing could be brought to each, and when that was tried last.
    failing: BTreeMap<HostId, (Time, Time)>,
}

impl Others {
    /// As told before the agent was started anew.
    pub(crate) fn new(kept: &Kept) -> Self {
        let Kept { peers, shares, zone, .. } = kept;
        Self { told: peers.clone(), shares: shares.clone(), zone: zone.clone(), ..Self::default() }
    }

    /// Points that others may take, or read here.
    pub(crate) fn shared(&self) -> impl Iterator<Item = PointId> {
        self.shares.iter().map(|share| share.point)
    }

    /// Those that are dealt with.
    pub(crate) fn heard(&self) -> Vec<Peer> {
        self.told.iter().filter(|peer| !self.cut_off.contains_key(&peer.host)).cloned().collect()
    }

    pub(crate) fn is_cut_off(&self, host: HostId) -> bool {
        self.cut_off.contains_key(&host)
    }

    pub(crate) fn hears(&self, host: HostId) -> bool {
        self.told.iter().any(|peer| peer.host == host) && !self.is_cut_off(host)
    }

    /// Something could be brought to a place, or not.
    pub(super) fn reached(&mut self, place: &Target, now: Time, well: bool) {
        let Target::Peer { host, .. } = place else { return };
        if well {
            self.failing.remove(host);
        } else {
            self.failing.entry(*host).or_insert((now, now)).1 = now;
        }
    }

    fn is_lost(&self, host: HostId, now: Time) -> bool {
        let lost = |(since, last): &(Time, Time)| last.since(*since) >= LOST_AFTER && now.since(*last) < LOST_FOR;
        self.failing.get(&host).is_some_and(lost)
    }

    /// When the next one is dealt with again.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.cut_off.values().min().copied()
    }
}

impl Agent {
    /// Takes in the hosts that may keep copies. What moves all the time (room, replicas, who is up) is not written.
    pub(crate) fn peers(&mut self, mut peers: Vec<Peer>, mut shares: Vec<Share>, actions: &mut Vec<Action>) {
        peers.retain(|peer| peer.host != self.config.host);
        peers.truncate(PEERS);
        shares.truncate(SHARES);
        let others = &mut self.backups.others;
        for peer in &mut peers {
            peer.addresses.truncate(ADDRESSES);
            // An aggregator that was started again and has not heard it knows no addresses of it; it is still there.
            let before = others.told.iter().find(|known| known.host == peer.host && known.key == peer.key);
            if let Some(before) = before.filter(|_| peer.addresses.is_empty()) {
                peer.addresses.clone_from(&before.addresses);
            }
        }
        let lasting = |peer: &Peer| (peer.host, peer.key, peer.addresses.clone(), peer.zone.clone());
        let differs = !peers.iter().map(lasting).eq(others.told.iter().map(lasting));
        let shared = others.shares != shares;
        let moved = others.told != peers;
        (others.told, others.shares) = (peers, shares);
        if differs || shared {
            // Whom not to hear any more counts at once, also when the ledger can't be written.
            self.tell_of_peers(actions);
        }
        if differs {
            actions.push(Action::Persist(vec![Change::Peers(self.backups.others.told.clone())]));
        }
        if shared {
            // An aggregator that lost all is told of them: whoever reads of a point must not lose it with that.
            self.backups.shares_dirty = true;
            actions.push(Action::Persist(vec![Change::Shares(self.backups.others.shares.clone())]));
        }
        if moved {
            // Room counts too: a host that joined just now has told of none yet.
            self.place_anew();
        }
    }

    fn tell_of_peers(&self, actions: &mut Vec<Action>) {
        let others = &self.backups.others;
        let heard = |share: &&Share| !others.is_cut_off(share.with);
        let shares = others.shares.iter().filter(heard).copied().collect();
        actions.push(Action::Peers { peers: others.heard(), shares });
    }

    /// Replicas whose host is not dealt with any more, or for which none was found, are placed again at once.
    fn place_anew(&mut self) {
        let (others, time) = (&self.backups.others, self.clock.time);
        for (guest, care) in &mut self.backups.cares {
            let lost = care.run.replica.is_some_and(|host| !others.hears(host));
            if lost || (care.run.replica.is_none() && care.replica.broken.is_some()) {
                care.replica.next_at = care.replica.next_at.min(time);
                self.backups.sets.replicas.insert(*guest);
            }
        }
    }

    /// A delta made for a host that is not dealt with any more is of no use elsewhere: the next one is newer.
    pub(super) fn drop_stranded(&mut self, guest: GuestId) {
        let present = self.backups.cares.get(&guest).and_then(|care| care.run.replica);
        let stranded = present.is_some_and(|host| !self.backups.others.hears(host) || self.moves_from(guest, host));
        if let Some(care) = self.backups.cares.get_mut(&guest).filter(|_| stranded) {
            care.replica.made = None;
            care.replica.next_at = care.replica.next_at.min(self.clock.time);
        }
    }

    /// True where the host that keeps the replica is lost and there is another one to keep it.
    fn moves_from(&self, guest: GuestId, host: HostId) -> bool {
        self.backups.others.is_lost(host, self.clock.time) && self.backup_host(guest).is_ok_and(|other| other != host)
    }

    /// The host that is to keep a guest's replica: the present one, unless it left, or is lost and another one can be had.
    pub(super) fn backup_host(&self, guest: GuestId) -> Result<HostId, NoBackupHost> {
        let others = &self.backups.others;
        let care = self.backups.cares.get(&guest).ok_or(NoBackupHost::Alone)?;
        let named = care.policy.as_ref().and_then(|policy| policy.replica?.host);
        if let Some(host) = named.filter(|host| others.is_cut_off(*host)) {
            return Err(NoBackupHost::CutOff(host));
        }
        let mut mine: BTreeMap<HostId, u32> = BTreeMap::new();
        for host in self.backups.cares.values().filter_map(|care| care.run.replica) {
            *mine.entry(host).or_default() += 1;
        }
        let lost = |host: HostId| others.is_lost(host, self.clock.time);
        let peers: Vec<Peer> =
            others.heard().into_iter().map(|peer| Peer { up: peer.up && !lost(peer.host), ..peer }).collect();
        let present = care.run.replica;
        let choice = Choice {
            guest,
            own: self.config.host,
            own_zone: &self.backups.others.zone,
            named,
            present,
            peers: &peers,
            mine: &mine,
            bytes: self.backups.sets.newest(guest).map_or(0, |point| point.size),
        };
        match present.filter(|host| lost(*host)) {
            Some(host) => choose(&Choice { present: None, ..choice }).or(Ok(host)),
            None => choose(&choice),
        }
    }

    /// A peer sent what it must not. It is cut off, and people are told.
    pub(crate) fn peer_lied(&mut self, now: Now, host: HostId, what: &str, actions: &mut Vec<Action>) {
        let others = &mut self.backups.others;
        others.cut_off.insert(host, now.time + CUT_OFF);
        let name = others.told.iter().find(|peer| peer.host == host).map(|peer| peer.name.clone()).unwrap_or_default();
        let mut what = what.to_owned();
        cut(&mut what);
        let text = format!(
            "host {name} ({host}) broke the rules of exchanging backups and is cut off for an hour: {what}. Look at that \
             host: its disk or memory may be failing, or somebody else has its key"
        );
        actions.push(Action::Note { guest: None, at: Some(now.wall), text: text.clone() });
        self.raise_alarm(now, ALARM, None, text);
        self.place_anew();
        self.tell_of_peers(actions);
    }

    /// Deals again with hosts that were cut off long enough.
    pub(super) fn forgive_peers(&mut self, now: Now, actions: &mut Vec<Action>) {
        let others = &mut self.backups.others;
        let before = others.cut_off.len();
        others.cut_off.retain(|_, until| *until > now.time);
        if others.cut_off.len() == before {
            return;
        }
        if others.cut_off.is_empty() {
            self.clear_alarm(ALARM, None);
        }
        self.tell_of_peers(actions);
    }

    /// Another host keeps a point here.
    pub(crate) fn kept_here(&mut self, now: Now, point: BackupSummary) {
        let guest = point.guest;
        self.backups.sets.put(point);
        if !self.superseded(guest).is_empty() {
            self.backups.cares.entry(guest).or_default().prune = Some(now.time);
        }
    }

    /// Replica points of another host's guest that newer ones have replaced.
    pub(super) fn superseded(&self, guest: GuestId) -> Vec<PointId> {
        let foreign = |point: &&BackupSummary| {
            point.why == Why::Replica && point.origin != self.config.host && !point.pinned && point.whole()
        };
        let newest_first = self.backups.sets.of(guest).rev().filter(foreign);
        newest_first.skip(KEPT_REPLICAS).map(|point| point.point).collect()
    }

    /// A place that is not tried now: a host that is cut off.
    pub(super) fn barred(&self, place: &Target) -> bool {
        match place {
            Target::Peer { host, .. } => self.backups.others.is_cut_off(*host),
            Target::Local | Target::Directory { .. } => false,
        }
    }
}
