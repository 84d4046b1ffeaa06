//! Cutting the power of another host that is missed, so that its guests are gone on with sooner. A proof counts for the
//! epochs that were read before the power was cut, and for no others; voters see to that themselves. Without a proof, by
//! failure or because it takes long, a takeover comes about when it would have anyway: nothing here is waited for.

use std::collections::{BTreeMap, BTreeSet};

use roost_protocol::cause::{NoteKind, Noted};
use roost_protocol::fence::FenceDevice;
use roost_protocol::operation::Failure;
use roost_protocol::{Epoch, HostId, Millis, Time};

use crate::agent::{Agent, Now};
use crate::event::Action;

/// Alarm where a missed host's power could not be cut.
const FAILED: &str = "fence-failed";
/// A device that failed is tried again after this.
const AGAIN: Millis = Millis::seconds(10);
/// Hosts whose power is cut at once by this one: more are not missed at once but by a host that is itself cut off.
const AT_ONCE: usize = 4;

/// A ward whose owner is missed by most of its council and heard by nobody, which this host would take over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Missed {
    pub owner: HostId,
    /// Of the owner's vote store.
    pub incarnation: u32,
    pub ward: u64,
    /// Read before anything was done about it.
    pub epoch: Epoch,
}

/// What was done about a host.
#[derive(Clone, Debug)]
enum Shot {
    /// Under way, for these.
    Fired(Vec<Missed>),
    /// It is off, for certain.
    Hit(Vec<Missed>),
    /// Tried again then.
    Failed(Time),
}

/// What is done about missed hosts.
#[derive(Debug, Default)]
pub(crate) struct Fences {
    missed: Vec<Missed>,
    shots: BTreeMap<HostId, Shot>,
}

impl Fences {
    /// When a device that failed is tried again.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let again = |shot: &Shot| if let Shot::Failed(at) = shot { Some(*at) } else { None };
        self.shots.values().filter_map(again).min()
    }

    /// Wards of owners that are off for certain, in the epochs that were read before.
    pub(crate) fn proofs(&self) -> Vec<Missed> {
        let hits =
            self.shots.values().filter_map(|shot| if let Shot::Hit(proofs) = shot { Some(proofs) } else { None });
        hits.flatten().copied().collect()
    }

    /// What is to be done about this host now: the wards to prove it for.
    fn due(&self, now: Time, host: HostId) -> Option<Vec<Missed>> {
        let wards = || self.missed.iter().filter(|missed| missed.owner == host).copied().collect::<Vec<_>>();
        match self.shots.get(&host) {
            None => Some(wards()),
            Some(Shot::Fired(_)) => None,
            Some(Shot::Failed(again)) => (now >= *again).then(wards),
            // It came back meanwhile, and is missed anew.
            Some(Shot::Hit(proofs)) => Some(wards()).filter(|wards| !wards.iter().all(|ward| proofs.contains(ward))),
        }
    }

    fn fired(&self) -> usize {
        self.shots.values().filter(|shot| matches!(shot, Shot::Fired(_))).count()
    }
}

impl Agent {
    /// The guard says who is missed. What is not missed any more needs no further try.
    pub(crate) fn missed_told(&mut self, missed: Vec<Missed>) {
        self.fences.missed = missed;
        let is_missed = |host: &HostId| self.fences.missed.iter().any(|missed| missed.owner == *host);
        let over: Vec<HostId> = self.fences.shots.keys().filter(|host| !is_missed(host)).copied().collect();
        self.fences.shots.retain(|host, shot| !(over.contains(host) && matches!(shot, Shot::Failed(_))));
        self.clear_fence_alarm();
    }

    /// Cuts the power of hosts that are missed, where a device is known and this host takes over at all.
    pub(crate) fn begin_fences(&mut self, now: Now, actions: &mut Vec<Action>) {
        let hosts: BTreeSet<HostId> = self.fences.missed.iter().map(|missed| missed.owner).collect();
        for host in hosts {
            if self.fences.fired() >= AT_ONCE {
                return;
            }
            let Some(device) = self.fence_of(host) else { continue };
            let Some(wards) = self.fences.due(now.time, host) else { continue };
            let text = format!("{host} is missed: its power is cut by {}", device.agent);
            self.note_fence(now, &wards, &text);
            self.fences.shots.insert(host, Shot::Fired(wards));
            actions.push(Action::Note { guest: None, at: Some(now.wall), text });
            actions.push(Action::Fence { host, device: Box::new(device) });
        }
    }

    /// It is off for certain, or not.
    pub(crate) fn fenced(&mut self, now: Now, host: HostId, result: Result<(), Failure>) {
        let Some(Shot::Fired(wards)) = self.fences.shots.remove(&host) else { return };
        match result {
            Ok(()) => {
                let text = format!("{host} has no power: its device said so when it was asked again");
                self.note_fence(now, &wards, &text);
                self.fences.shots.insert(host, Shot::Hit(wards));
                self.proofs_changed();
            }
            Err(why) => {
                let text =
                    format!("the power of {host} could not be cut, so its lease's end is waited for: {}", why.text);
                self.note_fence(now, &wards, &text);
                self.raise_alarm(now, FAILED, None, text);
                self.fences.shots.insert(host, Shot::Failed(now.time + AGAIN));
            }
        }
        self.clear_fence_alarm();
    }

    fn clear_fence_alarm(&mut self) {
        if !self.fences.shots.values().any(|shot| matches!(shot, Shot::Failed(_))) {
            self.clear_alarm(FAILED, None);
        }
    }

    fn fence_of(&self, host: HostId) -> Option<FenceDevice> {
        self.wished_guards().iter().find(|guard| guard.host == host)?.fence.clone()
    }

    fn note_fence(&mut self, now: Now, wards: &[Missed], text: &str) {
        for Missed { owner, ward, epoch, .. } in wards {
            let (kind, epoch, hosts) = (NoteKind::Fence, Some(*epoch), vec![*owner]);
            self.chain.add(Noted { ward: *ward, at: now.wall, kind, epoch, hosts, span: None, text: text.into() });
        }
        self.beats.hurry(now.time);
    }
}

#[cfg(test)]
mod test {
    use roost_protocol::Stamp;
    use roost_protocol::failover::Guard;
    use roost_protocol::message::ToAgent;
    use roost_protocol::operation::FailureCode;

    use super::*;
    use crate::event::Event;
    use crate::failover::{GuardSeen, GuardWish};
    use crate::ledger::Kept;
    use crate::sample::config;

    const OTHER: HostId = HostId::from_u128(2);

    struct Rig {
        agent: Agent,
        now: u64,
        wish: GuardWish,
        /// Hosts whose power was to be cut.
        shots: Vec<HostId>,
    }

    impl Rig {
        fn new(fenced: bool) -> Self {
            let agent = Agent::new(config(HostId::from_u128(1), true), Kept::default());
            let mut rig = Self { agent, now: 0, wish: GuardWish::default(), shots: Vec::new() };
            let device = FenceDevice {
                agent: "fence_ipmilan".into(),
                address: Some("bmc".into()),
                user: None,
                secret: None,
                plug: None,
                options: BTreeMap::new(),
            };
            let guard = Guard { host: OTHER, seat: None, fence: fenced.then_some(device) };
            let told = ToAgent::Councils { guards: vec![guard], councils: Vec::new(), disarmed: false };
            rig.tell(Event::Received(told));
            rig
        }

        fn tell(&mut self, event: Event) {
            self.now += 1_000;
            for action in self.agent.on(Time(self.now), Stamp(self.now), event) {
                if let Action::Fence { host, .. } = action {
                    self.shots.push(host);
                } else if let Action::Guard(wish) = action {
                    self.wish = *wish;
                }
            }
        }

        fn missed(&mut self, epochs: &[u64]) {
            let ward = |epoch: &u64| Missed { owner: OTHER, incarnation: 7, ward: 5, epoch: Epoch(*epoch) };
            let (key, listen, wards, remembers) = ([0; 32], String::new(), Vec::new(), Stamp(0));
            let missed = epochs.iter().map(ward).collect();
            let seen = GuardSeen { key, listen, wards, remembers, missed, ..GuardSeen::default() };
            self.tell(Event::GuardSeen(Box::new(seen)));
        }

        fn ended(&mut self, well: bool) {
            let why = Failure { code: FailureCode::TimedOut, text: "no answer".into() };
            self.tell(Event::Fenced { host: OTHER, result: if well { Ok(()) } else { Err(why) } });
        }

        fn proven(&self) -> Vec<u64> {
            self.wish.proofs.iter().map(|proof| proof.epoch.0).collect()
        }

        fn alarmed(&self) -> bool {
            self.agent.alarms.keys().any(|(code, _)| code == FAILED)
        }
    }

    #[test]
    fn a_missed_host_s_power_is_cut_once_and_proves_the_epoch_that_was_read_before() {
        let mut rig = Rig::new(true);
        rig.missed(&[4]);
        rig.missed(&[4]);
        assert_eq!((rig.shots.len(), rig.proven()), (1, vec![]), "nothing is proven while it is under way");
        // It raised its epoch meanwhile: of that nothing was read before the power was cut.
        rig.missed(&[5]);
        rig.ended(true);
        assert_eq!(rig.proven(), [4]);
        assert_eq!(rig.shots.len(), 2, "epoch 5 needs a proof of its own");
        rig.ended(true);
        assert_eq!(rig.proven(), [5]);
        rig.missed(&[]);
        assert_eq!((rig.shots.len(), rig.proven()), (2, vec![5]), "voters that did not hear it are told again");
    }

    #[test]
    fn a_device_that_fails_proves_nothing_and_is_tried_again_later() {
        let mut rig = Rig::new(true);
        rig.missed(&[4]);
        rig.ended(false);
        assert!(rig.alarmed());
        rig.tell(Event::Tick);
        assert_eq!((rig.shots.len(), rig.proven()), (1, vec![]));
        rig.now += AGAIN.0;
        assert!(rig.agent.deadline().is_some_and(|at| at <= Time(rig.now)));
        rig.tell(Event::Tick);
        assert_eq!(rig.shots.len(), 2);
        rig.ended(false);
        rig.missed(&[]);
        assert!(!rig.alarmed(), "who is heard again needs no fence");
        rig.now += AGAIN.0;
        rig.tell(Event::Tick);
        assert_eq!(rig.shots.len(), 2);
    }

    #[test]
    fn what_ends_without_having_been_asked_for_proves_nothing() {
        let mut rig = Rig::new(true);
        rig.ended(true);
        assert_eq!(rig.proven(), []);
        let mut without = Rig::new(false);
        without.missed(&[4]);
        assert_eq!(without.shots, []);
    }
}
