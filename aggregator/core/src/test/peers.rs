//! Who is told of whom, and what is shared for a restore.

use std::collections::{BTreeMap, BTreeSet};

use roost_protocol::backup::{
    BackupBeat, Peer, Pulling, RestoreAs, RestoreOrder, SetSummary, Share, StoreStatus, Target,
};
use roost_protocol::guest::PowerState;
use roost_protocol::host::HostFacts;
use roost_protocol::memory::{MemoryOrder, MemoryPolicy};
use roost_protocol::message::{Beat, Hello, Snapshot, ToAgent, ToAggregator};
use roost_protocol::operation::{Outcome, Verb};
use roost_protocol::{GuestId, HostId, Millis, OperationId, PointId, Stamp, Time};

use super::{hello, patient, points_of, record, report};
use crate::call::{Call, CallErrorCode, Reply};
use crate::event::{CallId, LinkId};
use crate::{Action, Event, Grid, Intent};

const GUEST: GuestId = GuestId::from_u128(50);
const POINT: PointId = PointId::from_u128(60);

fn host(number: u8) -> HostId {
    HostId::from_u128(u128::from(number))
}

struct Rig {
    grid: Grid,
    now: Time,
    /// What each host was told last, and how often.
    told: BTreeMap<HostId, (Vec<Peer>, Vec<Share>)>,
    /// Its own zone, as it was told last.
    zones: BTreeMap<HostId, Option<String>>,
    /// What was said last of its memory.
    memory: BTreeMap<HostId, Option<MemoryOrder>>,
    times: usize,
    reply: Option<Reply>,
}

impl Rig {
    /// So many hosts in the intent, none heard.
    fn new(hosts: u8) -> Self {
        let hosts = (1..=hosts).map(|n| (host(n), record(n))).collect();
        let grid = Grid::new(patient(), Intent { hosts, ..Intent::default() }, Vec::new());
        let (told, zones, memory) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { grid, now: Time(1_000_000), told, zones, memory, times: 0, reply: None }
    }

    fn tell(&mut self, event: Event) {
        for action in self.grid.on(self.now, Stamp(0), event) {
            match action {
                Action::Send { link, message: ToAgent::Peers { peers, shares, zone, memory, .. } } => {
                    self.times += 1;
                    let host = HostId::from_u128(u128::from(link.0));
                    self.zones.insert(host, zone);
                    self.memory.insert(host, memory.map(|order| *order));
                    self.told.insert(host, (peers, shares));
                }
                Action::Answer { reply, .. } => self.reply = Some(reply),
                Action::Send { .. }
                | Action::Persist { .. }
                | Action::Used { .. }
                | Action::Notify { .. }
                | Action::Told { .. }
                | Action::Refuse { .. }
                | Action::SpreadDocument
                | Action::Publish { .. }
                | Action::Disconnect { .. } => {}
            }
        }
    }

    fn up(&mut self, number: u8) {
        let facts = HostFacts {
            addresses: vec!["192.168.122.1".into(), format!("192.0.2.{number}"), "fd00::1".into()],
            peer_listen: Some("0.0.0.0:4434".into()),
            ..HostFacts::default()
        };
        let hello = Hello { facts, ..hello(host(number)) };
        let remote = format!("[::ffff:192.0.2.{number}]:40000");
        self.tell(Event::Hello { link: link(number), key: [number; 32], certified: true, hello, remote });
    }

    fn pass(&mut self, seconds: u64) {
        let end = self.now + Millis::seconds(seconds);
        while let Some(at) = self.grid.deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.tell(Event::Tick);
        }
        self.now = end;
    }

    fn says(&mut self, number: u8, message: ToAggregator) {
        self.tell(Event::Received { link: link(number), message });
    }

    fn call(&mut self, what: Call) -> Reply {
        self.tell(Event::Called { call: CallId(1), by: "admin".into(), what });
        self.reply.take().unwrap()
    }

    fn knows(&self, number: u8) -> BTreeSet<HostId> {
        self.told[&host(number)].0.iter().map(|peer| peer.host).collect()
    }

    fn restore(&mut self, on: u8, to_be: RestoreAs) -> Reply {
        let from = Target::Peer { host: host(1) };
        let order = RestoreOrder { set: GUEST, point: POINT, from, to_be, start: false, at_once: false };
        let (verb, operation) = (Verb::Restore { order: Box::new(order) }, OperationId::from_u128(7));
        let (guest, host, timeout) = (GuestId::from_u128(51), Some(host(on)), Millis::seconds(600));
        self.call(Call::Guest { operation, guest, guest_name: None, host, verb, timeout, key: None })
    }

    /// The restore ends well.
    fn ends(&mut self) {
        self.says(2, ToAggregator::Outcome(Outcome { operation: OperationId::from_u128(7), failure: None }));
    }

    /// A host still brings in a point from host 1, or nothing.
    fn pulls(&mut self, number: u8, point: Option<PointId>) {
        let from = Target::Peer { host: host(1) };
        let guest = GuestId::from_u128(51);
        let pull = point.map(|point| Pulling { guest, point, from, percent: 3, trouble: None });
        let backup = Some(Box::new(BackupBeat { pulls: Some(pull.into_iter().collect()), ..BackupBeat::default() }));
        self.says(number, ToAggregator::Beat(Beat { backup, ..Beat::default() }));
    }

    /// Host 1 reports the guest and its points.
    fn has_guest(&mut self) {
        let set = SetSummary { newest: Some((POINT, Stamp(0))), ..points_of(GUEST, host(1)) };
        let report = report(GUEST, "g", PowerState::Off);
        let store = Some(StoreStatus { total: 6_400, free: 3_299, ..StoreStatus::default() });
        let backup = Some(Box::new(BackupBeat { sets: vec![set], store, ..BackupBeat::default() }));
        self.says(1, ToAggregator::Snapshot(Snapshot { guests: vec![report], backup, ..Snapshot::default() }));
    }
}

fn new() -> RestoreAs {
    RestoreAs::AsNew { name: "n".into(), hostname: None, windows_name: None, domain: None }
}

fn link(number: u8) -> LinkId {
    LinkId(u64::from(number))
}

#[test]
fn a_host_s_zone_is_told_to_it_and_to_those_that_know_it() {
    let mut rig = Rig::new(3);
    (1..=3).for_each(|number| rig.up(number));
    rig.pass(5);
    assert_eq!(rig.zones[&host(2)], None);
    let zone = |zone: &str| Call::Zone { host: host(2), zone: zone.into() };
    assert!(rig.call(zone("rack-3")).is_ok());
    rig.pass(5);
    let of_2 = |rig: &Rig, asked: u8| {
        let peers = &rig.told[&host(asked)].0;
        peers.iter().find(|peer| peer.host == host(2)).map(|peer| peer.zone.clone())
    };
    assert_eq!(rig.zones[&host(2)].as_deref(), Some("rack-3"));
    assert_eq!((of_2(&rig, 1), of_2(&rig, 3)), (Some("rack-3".into()), Some("rack-3".into())));
    assert_eq!(rig.grid.zone(host(2)), "rack-3");
    let times = rig.times;
    rig.call(zone("rack-3")).unwrap();
    rig.pass(5);
    assert_eq!(rig.times, times, "nothing new");
    rig.call(zone("")).unwrap();
    rig.pass(5);
    assert_eq!((rig.zones[&host(2)].clone(), of_2(&rig, 1)), (None, Some(String::new())));
    assert!(rig.call(Call::Zone { host: host(9), zone: "x".into() }).is_err());
}

#[test]
fn a_host_s_memory_policy_is_told_to_it_alone_and_a_grid_that_lost_all_says_nothing_of_it() {
    let mut rig = Rig::new(2);
    (1..=2).for_each(|number| rig.up(number));
    rig.pass(5);
    assert_eq!(rig.memory[&host(2)], None);
    let tight = MemoryPolicy { overcommit_permille: 500, ..MemoryPolicy::default() };
    let set = |policy: Option<&MemoryPolicy>| Call::SetMemory {
        host: host(2),
        order: Box::new(MemoryOrder { policy: policy.cloned() }),
    };
    rig.call(set(Some(&tight))).unwrap();
    let order = Some(MemoryOrder { policy: Some(tight.clone()) });
    assert_eq!((&rig.memory[&host(2)], &rig.memory[&host(1)]), (&order, &None), "at once");
    assert_eq!(rig.grid.memory_order(host(2)), order.as_ref());
    let times = rig.times;
    rig.call(set(Some(&tight))).unwrap();
    rig.pass(5);
    assert_eq!(rig.times, times, "nothing new");
    rig.up(2);
    rig.pass(1);
    assert_eq!(rig.memory[&host(2)], order, "with each connection");
    rig.call(set(None)).unwrap();
    assert_eq!(rig.memory[&host(2)], Some(MemoryOrder { policy: None }), "said, not forgotten");
    let wrong = MemoryPolicy { overcommit_permille: 1, ..tight };
    let why = rig.call(set(Some(&wrong))).unwrap_err();
    assert!(why.code == CallErrorCode::Invalid && why.text.contains("500 to 5000"), "{why}");
    let nowhere = Call::SetMemory { host: host(9), order: Box::default() };
    assert_eq!(rig.call(nowhere).unwrap_err().code, CallErrorCode::NotFound);
}

#[test]
fn hosts_are_told_of_each_other_once_and_again_when_something_changed() {
    let mut rig = Rig::new(3);
    rig.up(1);
    rig.up(2);
    rig.pass(2);
    let (peers, shares) = rig.told[&host(1)].clone();
    assert_eq!((rig.knows(1), rig.knows(2)), (BTreeSet::from([host(2), host(3)]), BTreeSet::from([host(1), host(3)])));
    assert_eq!((peers[0].key, peers[0].up, shares.len()), ([2; 32], true, 0));
    assert_eq!(peers[0].addresses, ["192.0.2.2:4434", "192.168.122.1:4434"], "where it is seen first; no IPv6 socket");
    assert!(!peers[1].up && peers[1].addresses.is_empty(), "not heard yet, but of the grid");
    let times = rig.times;
    rig.pass(60);
    assert_eq!(rig.times, times, "nothing new, nothing told");
    rig.has_guest();
    rig.pass(11);
    let told = rig.told[&host(2)].0[0].clone();
    assert_eq!((told.free, told.total), (3_275, 6_400), "room in steps");
    rig.call(Call::RemoveHost { host: host(1) }).unwrap();
    rig.pass(1);
    assert_eq!(rig.knows(2), BTreeSet::from([host(3)]), "removed is forgotten at once");
}

#[test]
fn in_a_large_grid_lists_are_short_and_whoever_knows_a_host_is_known_to_it() {
    let mut rig = Rig::new(200);
    (1..=200).for_each(|number| rig.up(number));
    rig.pass(3);
    for number in 1..=200 {
        let known = rig.knows(number);
        assert_eq!(known.len(), 32, "{number}");
        for other in (1..=200).filter(|other| known.contains(&host(*other))) {
            assert!(rig.knows(other).contains(&host(number)), "{number} {other}");
        }
    }
    // Far apart in the ring, and brought together by a restore.
    rig.has_guest();
    rig.restore(100, new()).unwrap();
    assert!(rig.knows(100).contains(&host(1)) && rig.knows(1).contains(&host(100)));
}

#[test]
fn a_point_is_shared_while_it_is_restored_elsewhere_and_no_longer() {
    let mut rig = Rig::new(2);
    rig.up(1);
    rig.up(2);
    rig.has_guest();
    rig.pass(2);
    rig.restore(2, new()).unwrap();
    assert_eq!(rig.told[&host(1)].1, [Share { point: POINT, with: host(2) }]);
    assert_eq!(rig.told[&host(2)].1, []);
    rig.ends();
    rig.pulls(2, None);
    rig.pass(11);
    assert_eq!(rig.told[&host(1)].1, []);
}

#[test]
fn a_point_stays_shared_while_a_guest_started_from_it_elsewhere_still_reads_it() {
    let mut rig = Rig::new(2);
    rig.up(1);
    rig.up(2);
    rig.has_guest();
    rig.pass(2);
    rig.restore(2, new()).unwrap();
    let share = Share { point: POINT, with: host(2) };
    rig.pulls(2, Some(POINT));
    rig.ends();
    rig.pass(11);
    assert_eq!(rig.told[&host(1)].1, [share]);
    // The one that reads is away: it goes on when it is back.
    rig.tell(Event::Closed { link: link(2), why: "power".into() });
    rig.pass(10_000);
    assert_eq!(rig.told[&host(1)].1, [share]);
    rig.up(1);
    rig.up(2);
    rig.pass(11);
    assert_eq!(rig.told[&host(1)].1, [share], "it has not told yet");
    rig.pulls(2, None);
    rig.pass(11);
    assert_eq!(rig.told[&host(1)].1, []);
}

#[test]
fn an_aggregator_that_lost_all_hears_what_is_shared_and_nobody_is_given_what_he_asks_for() {
    let mut rig = Rig::new(3);
    rig.up(1);
    rig.has_guest();
    let share = Share { point: POINT, with: host(2) };
    let backup = Some(Box::new(BackupBeat { shares: Some(vec![share]), ..BackupBeat::default() }));
    rig.says(1, ToAggregator::Snapshot(Snapshot { backup, ..Snapshot::default() }));
    rig.pass(11);
    assert_eq!(rig.told[&host(1)].1, [share], "the other one has not been heard yet");
    rig.up(2);
    rig.pulls(2, Some(POINT));
    // A host says that it reads a point which nobody gave to it.
    rig.up(3);
    rig.pulls(3, Some(POINT));
    rig.pass(11);
    assert_eq!(rig.told[&host(1)].1, [share]);
    rig.call(Call::RemoveHost { host: host(2) }).unwrap();
    rig.pass(11);
    assert_eq!(rig.told[&host(1)].1, []);
}

#[test]
fn a_guest_comes_back_as_it_was_on_another_host_only_once_its_own_is_gone() {
    let mut rig = Rig::new(2);
    rig.up(1);
    rig.up(2);
    rig.has_guest();
    assert_eq!(rig.restore(2, RestoreAs::AsItWas).unwrap_err().code, CallErrorCode::WrongState);
    rig.tell(Event::Closed { link: link(1), why: "power".into() });
    rig.pass(10_000);
    assert_eq!(rig.restore(2, RestoreAs::AsItWas).unwrap_err().code, CallErrorCode::HostUnreachable);
    rig.up(2);
    assert_eq!(rig.restore(2, RestoreAs::AsItWas).unwrap_err().code, CallErrorCode::WrongState, "it may run on there");
    rig.call(Call::RemoveHost { host: host(1) }).unwrap();
    rig.restore(2, RestoreAs::AsItWas).unwrap();
}
