//! A host with a guard, told things by hand.

use roost_protocol::backup::{BackupPolicy, BackupRun, Consistency, Proof, ReplicaPolicy, Why};
use roost_protocol::guest::{Desired, Power, PowerState};
use roost_protocol::message::ToAgent;
use roost_protocol::{Generation, HostId, Millis, PointId, Time};

use super::*;
use crate::event::{Event, Seen};
use crate::ledger::Kept;
use crate::sample::{config, seen};

const GUEST: GuestId = GuestId::from_u128(7);
const OWN: HostId = HostId::from_u128(1);
const OTHER: HostId = HostId::from_u128(2);

struct Rig {
    agent: Agent,
    now: u64,
    wish: GuardWish,
}

impl Rig {
    fn new(kept: Kept, domains: Vec<Seen>) -> Self {
        let agent = Agent::new(config(OWN, true), kept);
        let mut rig = Self { agent, now: 0, wish: GuardWish::default() };
        rig.tell(Event::HypervisorUp { domains, host_booted: false });
        rig
    }

    fn tell(&mut self, event: Event) {
        self.now += 1_000;
        for action in self.agent.on(Time(self.now), Stamp(self.now), event) {
            if let Action::Guard(wish) = action {
                self.wish = *wish;
            }
        }
    }
}

fn point(number: u128, origin: HostId) -> BackupSummary {
    let at = Stamp(u64::try_from(number).unwrap());
    BackupSummary {
        point: PointId::from_u128(number),
        guest: GUEST,
        guest_name: "g".into(),
        origin,
        started: at,
        finished: at,
        why: Why::Replica,
        consistency: Consistency::Crash,
        parent: None,
        size: 1,
        read: 1,
        stored: 1,
        pinned: false,
        proof: Proof::Untried,
        copies: Vec::new(),
        damaged: None,
        note: String::new(),
        meant: roost_protocol::backup::Meant::Run,
        priority: 0,
    }
}

#[test]
fn the_guard_is_told_of_the_newest_replica_that_another_host_made() {
    let mut rig = Rig::new(Kept::default(), Vec::new());
    rig.tell(Event::StoreOpened { points: vec![point(3, OTHER), point(5, OTHER), point(9, OWN)] });
    assert_eq!(rig.wish.copies, [(GUEST, Stamp(5))], "its own points are no replica");
}

#[test]
fn a_guest_with_a_copy_and_the_policy_wants_a_council_whether_it_runs_or_is_off() {
    let check = |failover: bool, power: Power, copied: bool, wanted: usize| {
        let replica = ReplicaPolicy { host: None, every: Millis(5_000), max_lag: Millis(15_000), failover };
        let policy = BackupPolicy { replica: Some(replica), ..BackupPolicy::default() };
        let shows = copied.then_some((PointId::from_u128(4), Stamp(4)));
        let run = BackupRun { replica: Some(OTHER), shows, ..BackupRun::default() };
        let mut kept = Kept::default();
        kept.policies.insert(GUEST, policy);
        kept.runs.insert(GUEST, run);
        kept.wishes.insert(GUEST, Desired { power, generation: Generation(1) });
        let mut rig = Rig::new(kept, vec![seen(GUEST, PowerState::Running)]);
        assert_eq!(rig.agent.guard_report(), None, "no guard was seen");
        let (incarnation, key, listen, may_own) = (3, [1; 32], String::new(), true);
        let (wards, remembers) = (Vec::new(), Stamp(0));
        let seen = GuardSeen { incarnation, key, listen, may_own, wards, remembers, ..GuardSeen::default() };
        rig.tell(Event::GuardSeen(Box::new(seen)));
        let report = rig.agent.guard_report().unwrap();
        assert_eq!(report.wants.len(), wanted, "{failover} {power:?} {copied}");
        assert_eq!(report.incarnation, 3);
    };
    check(true, Power::Running, true, 1);
    check(false, Power::Running, true, 0);
    check(true, Power::Stopped, true, 1);
    check(true, Power::Running, false, 0);
}

#[test]
fn what_the_aggregator_says_reaches_the_guard_and_its_silence_changes_nothing() {
    let mut rig = Rig::new(Kept::default(), Vec::new());
    rig.tell(Event::Tick);
    assert_eq!(rig.wish.councils, None);
    let guard = |host| Guard { host, seat: None, fence: None };
    let told = ToAgent::Councils { guards: vec![guard(OWN), guard(OTHER)], councils: Vec::new(), disarmed: true };
    rig.tell(Event::Received(told));
    assert!(rig.wish.disarmed);
    assert_eq!((rig.wish.guards.clone(), rig.wish.councils.clone()), (vec![guard(OTHER)], Some(Vec::new())));
    rig.tell(Event::LinkDown);
    assert_eq!(rig.wish.councils, Some(Vec::new()));
}

#[test]
fn a_guest_that_answers_without_a_lease_is_an_alarm_until_it_answers_no_more() {
    let mut rig = Rig::new(Kept::default(), Vec::new());
    let see = |rig: &mut Rig, answering: &[(HostId, GuestId)]| {
        rig.tell(Event::GuardSeen(Box::new(GuardSeen { answering: answering.to_vec(), ..GuardSeen::default() })));
        rig.agent.alarms.keys().map(|(code, guest)| (code.clone(), *guest)).collect::<Vec<_>>()
    };
    assert_eq!(see(&mut rig, &[(OTHER, GUEST)]), [(ANSWERS.to_owned(), Some(GUEST))]);
    assert_eq!(see(&mut rig, &[(OTHER, GUEST)]).len(), 1);
    assert_eq!(see(&mut rig, &[]), []);
}

#[test]
fn where_guests_answer_is_known_again_after_a_start() {
    let probes = vec![GuestProbes { guest: GUEST, probes: vec!["rdp://192.0.2.7:3389".into()] }];
    let mut rig = Rig::new(Kept { probes: probes.clone(), ..Kept::default() }, Vec::new());
    rig.tell(Event::Tick);
    assert_eq!((rig.wish.probes, rig.wish.councils), (probes, None));
}
