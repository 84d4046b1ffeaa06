//! Hosts that are kept free, and what is told before one is lost.

use std::collections::{BTreeMap, BTreeSet};

use roost_protocol::backup::{BackupBeat, ReplicaState, ReplicaStatus};
use roost_protocol::failover::{Council, GuardReport, Voter, WardReport};
use roost_protocol::guest::{Desired, GuestReport, GuestSample, GuestSpec, Power, PowerState};
use roost_protocol::host::{HostSample, Maintenance as Stage};
use roost_protocol::message::{Beat, Snapshot, ToAgent, ToAggregator};
use roost_protocol::operation::{Failure, FailureCode, Outcome, Verb};
use roost_protocol::probe::{Access, Answer, GuestProbes, PROBES};
use roost_protocol::{Epoch, Generation, GuestId, HostId, MiB, Millis, OperationId, Stamp, Time};

use super::{config, hello, points_of, record, report};
use crate::event::{CallId, LinkId};
use crate::{Action, Call, CallErrorCode, Event, Fate, Grid, Intent};

fn host(number: u128) -> HostId {
    HostId::from_u128(number)
}

fn guest(number: u128) -> GuestId {
    GuestId::from_u128(100 + number)
}

/// Three hosts; the first has guests, and the second the copies of those that are protected.
struct Rig {
    grid: Grid,
    now: Time,
    /// What each host is told last of whether it takes guests over.
    disarmed: BTreeMap<u64, bool>,
    /// And whether it is in service.
    stages: BTreeMap<u64, Option<Stage>>,
    /// And which doors it tries.
    probes: BTreeMap<u64, Vec<GuestProbes>>,
    /// Peers of the second host that may get new replicas.
    up: BTreeSet<HostId>,
    handed: Vec<(OperationId, GuestId)>,
    refused: Option<CallErrorCode>,
}

impl Rig {
    fn new(protected: u128, others: u128) -> Self {
        let hosts = (1..=3).map(|n| (host(u128::from(n)), record(n))).collect();
        let grid = Grid::new(config(), Intent { hosts, ..Intent::default() }, Vec::new());
        let (disarmed, stages, probes, up) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        let (now, handed, refused) = (Time(1_000_000), Vec::new(), None);
        let mut rig = Self { grid, now, disarmed, stages, probes, up, handed, refused };
        rig.hosts(protected, others);
        rig
    }

    fn hosts(&mut self, protected: u128, others: u128) {
        for number in 1..=3_u8 {
            let (link, hello) = (LinkId(u64::from(number)), hello(host(u128::from(number))));
            self.tell(Event::Hello { link, key: [number; 32], certified: true, hello, remote: "192.0.2.1:1".into() });
            let mut snapshot = Snapshot { guard: Some(Box::new(guard(number, 0))), ..Snapshot::default() };
            if number == 1 {
                snapshot.guests = (1..=protected + others).map(|number| running(guest(number))).collect();
                snapshot.guard = Some(Box::new(guard(1, protected)));
                let replicas = (1..=protected).map(replica).collect();
                snapshot.backup.get_or_insert_default().replicas = replicas;
            }
            self.tell(Event::Received { link, message: ToAggregator::Snapshot(snapshot) });
            let sample = HostSample { at: Stamp(1), memory_available_mib: MiB(1_000), ..HostSample::default() };
            let beat = Beat { sample: Some(sample), ..Beat::default() };
            self.tell(Event::Received { link, message: ToAggregator::Beat(beat) });
        }
        self.pass(3);
    }

    fn tell(&mut self, event: Event) {
        for action in self.grid.on(self.now, Stamp(self.now.0), event) {
            match action {
                Action::Send { link, message: ToAgent::Councils { disarmed, .. } } => {
                    self.disarmed.insert(link.0, disarmed);
                }
                Action::Send { link, message: ToAgent::Peers { peers, maintenance, probes, .. } } => {
                    self.stages.insert(link.0, maintenance);
                    self.probes.insert(link.0, probes);
                    if link != LinkId(2) {
                        continue;
                    }
                    self.up = peers.into_iter().filter(|peer| peer.up).map(|peer| peer.host).collect();
                }
                Action::Send { message: ToAgent::Command(command), .. } => {
                    assert!(matches!(command.verb, Verb::HandOver { .. }), "{command:?}");
                    self.handed.push((command.operation, command.guest));
                }
                Action::Answer { reply, .. } => self.refused = reply.err().map(|why| why.code),
                Action::Send { .. }
                | Action::Publish { .. }
                | Action::Persist { .. }
                | Action::Used { .. }
                | Action::Notify { .. }
                | Action::Told { .. }
                | Action::Refuse { .. }
                | Action::SpreadDocument
                | Action::Disconnect { .. } => {}
            }
        }
    }

    fn call(&mut self, what: Call) {
        self.tell(Event::Called { call: CallId(1), by: "ann".into(), what });
    }

    fn maintain(&mut self, drain: Option<bool>) {
        self.call(Call::Maintenance { host: host(1), drain });
        assert_eq!(self.refused, None);
        self.pass(3);
    }

    /// Time goes by, and hosts are heard.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now = self.now + Millis::seconds(1);
            for link in 1..=3 {
                self.tell(Event::Received { link: LinkId(link), message: ToAggregator::Beat(Beat::default()) });
            }
            self.tell(Event::Tick);
        }
    }

    fn outcome(&mut self, at: usize, failure: Option<FailureCode>) {
        let failure = failure.map(|code| Failure { code, text: "no".into() });
        let outcome = Outcome { operation: self.handed[at].0, failure };
        self.tell(Event::Received { link: LinkId(1), message: ToAggregator::Outcome(outcome) });
    }

    fn create_on(&mut self, host: Option<HostId>) -> Option<CallErrorCode> {
        let spec = GuestSpec {
            name: "new".into(),
            memory_mib: MiB(100),
            vcpus: 1,
            disks: Vec::new(),
            nics: Vec::new(),
            boot: roost_protocol::guest::Boot::default(),
            memory: None,
        };
        let verb = Verb::Create { spec, start: false };
        let (operation, guest) = (OperationId::from_u128(9), GuestId::from_u128(9));
        let (timeout, key, guest_name) = (Millis(1), None, None);
        self.call(Call::Guest { operation, guest, guest_name, host, verb, timeout, key });
        self.refused
    }
}

fn running(id: GuestId) -> GuestReport {
    let desired = Some(Desired { power: Power::Running, generation: Generation(1) });
    GuestReport { desired, memory_mib: MiB(300), ..report(id, &id.to_string(), PowerState::Running) }
}

fn replica(number: u128) -> ReplicaStatus {
    ReplicaStatus {
        guest: guest(number),
        host: Some(host(2)),
        state: ReplicaState::Following,
        lag: Some(Millis(1_000)),
        point: None,
        shows: Some(Stamp(1)),
        every: Millis(5_000),
        max_lag: Millis(20_000),
    }
}

fn guard(number: u8, protected: u128) -> GuardReport {
    let voters = (1..=3).map(|n| Voter { host: host(n), incarnation: 1 }).collect::<Vec<_>>();
    let ward = |number| {
        let council = Council { guest: guest(number), voters: voters.clone(), homes: vec![host(1), host(2)] };
        WardReport { council, settled: true }
    };
    GuardReport {
        incarnation: 1,
        key: [number; 32],
        listen: "0.0.0.0:7946".into(),
        may_own: true,
        wards: (1..=protected).map(ward).collect(),
        ..GuardReport::default()
    }
}

#[test]
fn what_a_host_s_death_would_cost_is_told_guest_by_guest_as_far_as_memory_goes() {
    let rig = Rig::new(3, 1);
    let losses = rig.grid.if_lost(&rig.grid.hosts()[&host(1)]);
    let fates: Vec<&Fate> = losses.iter().map(|loss| &loss.fate).collect();
    assert!(matches!(fates[..2], [Fate::At { host: at, .. }, Fate::At { .. }] if *at == host(2)), "{fates:?}");
    let why = |fate: &Fate| match fate {
        Fate::At { .. } => String::new(),
        Fate::Down(why) => why.clone(),
    };
    assert!(why(fates[2]).contains("144 MiB of memory left"), "{fates:?}");
    assert!(why(fates[3]).contains("no replica_failover"), "{fates:?}");
    assert_eq!(rig.grid.if_lost(&rig.grid.hosts()[&host(2)]), []);
}

#[test]
fn what_is_off_is_handed_over_too_and_is_in_nobody_s_way_where_it_can_t_be() {
    let mut rig = Rig::new(1, 1);
    let off = |number| {
        let desired = Some(Desired { power: Power::Stopped, generation: Generation(2) });
        GuestReport { desired, ..report(guest(number), "off", PowerState::Off) }
    };
    let beat = Beat { guests: vec![off(1), off(2)], ..Beat::default() };
    rig.tell(Event::Received { link: LinkId(1), message: ToAggregator::Beat(beat) });
    let word = |rig: &Rig| rig.grid.maintenance_word(&rig.grid.hosts()[&host(1)]);
    rig.maintain(Some(true));
    assert_eq!(rig.handed.iter().map(|(_, guest)| *guest).collect::<Vec<_>>(), [guest(1)]);
    assert_eq!((word(&rig), rig.stages[&1]), (Some("draining"), Some(Stage::Draining)));
    rig.outcome(0, None);
    let given = GuestReport { desired: None, ..off(1) };
    let beat = |guest| ToAggregator::Beat(Beat { guests: vec![guest], ..Beat::default() });
    rig.tell(Event::Received { link: LinkId(2), message: beat(off(1)) });
    rig.tell(Event::Received { link: LinkId(1), message: beat(given) });
    assert_eq!(rig.grid.guest_host(guest(1)), Some(host(2)), "it is looked for where it is, though it is off");
    assert_eq!(word(&rig), Some("drained"));
    rig.pass(11);
    assert_eq!((rig.stages[&1], rig.stages[&2]), (Some(Stage::Drained), None), "hosts are told soon");
}

#[test]
fn a_host_in_maintenance_gets_no_guests_no_replicas_and_no_takeovers_until_it_is_resumed() {
    let mut rig = Rig::new(1, 0);
    assert_eq!((rig.disarmed[&1], rig.up.contains(&host(1))), (false, true));
    rig.maintain(Some(false));
    assert_eq!((rig.disarmed[&1], rig.disarmed[&2], rig.up.contains(&host(1))), (true, false, false));
    assert_eq!(rig.create_on(Some(host(1))), Some(CallErrorCode::WrongState));
    assert_eq!(rig.handed, [], "it was not drained");
    // It outlives the aggregator.
    let intent = rig.grid.intent().clone();
    let mut again = Rig { grid: Grid::new(config(), intent, Vec::new()), ..Rig::new(0, 0) };
    again.disarmed.clear();
    again.hosts(1, 0);
    assert_eq!((again.disarmed[&1], again.up.contains(&host(1))), (true, false));
    assert_eq!(again.stages[&1], Some(Stage::On));
    again.maintain(None);
    assert_eq!(again.stages[&1], None);
    assert_eq!((again.disarmed[&1], again.up.contains(&host(1))), (false, true));
}

#[test]
fn doors_are_told_to_the_host_that_a_guest_is_on_and_to_those_that_keep_its_points() {
    let mut rig = Rig::new(1, 1);
    let probe = |rig: &mut Rig, at: GuestId, probes: &[&str]| {
        let probes = probes.iter().map(|text| (*text).to_owned()).collect();
        rig.call(Call::SetProbes { guest: at, probes });
        rig.pass(1);
        rig.refused
    };
    assert_eq!(probe(&mut rig, guest(9), &[]), Some(CallErrorCode::NotFound));
    assert_eq!(probe(&mut rig, guest(1), &["rdp://desk.example.org"]), Some(CallErrorCode::Invalid));
    assert_eq!(probe(&mut rig, guest(1), &["tcp://192.0.2.7:1"; PROBES + 1]), Some(CallErrorCode::Invalid));
    assert_eq!(probe(&mut rig, guest(1), &["rdp://192.0.2.7", "rdp://192.0.2.7:3389"]), None);
    let told = || vec![GuestProbes { guest: guest(1), probes: vec!["rdp://192.0.2.7:3389".into()] }];
    assert_eq!((rig.probes[&1].clone(), rig.probes[&2].clone()), (told(), Vec::new()), "once, and not to the others");
    let backup = BackupBeat { sets: vec![points_of(guest(1), host(1))], ..BackupBeat::default() };
    let beat = Beat { backup: Some(Box::new(backup)), ..Beat::default() };
    rig.tell(Event::Received { link: LinkId(3), message: ToAggregator::Beat(beat) });
    rig.pass(11);
    assert_eq!((rig.probes[&2].clone(), rig.probes[&3].clone()), (Vec::new(), told()));
    // What a host says of it is bounded here.
    let access =
        Access { probe: "tcp://192.0.2.7:1".into(), up: true, answer: Answer::Ok, rtt_ms: None, since: Stamp(1) };
    let sample = GuestSample {
        id: guest(1),
        cpu_permille: 0,
        resident_mib: MiB(1),
        read_bps: 0,
        write_bps: 0,
        balloon_mib: None,
        available_mib: None,
        access: vec![access; 99],
        receive_bps: 0,
        transmit_bps: 0,
    };
    let beat = Beat { samples: vec![sample], ..Beat::default() };
    rig.tell(Event::Received { link: LinkId(1), message: ToAggregator::Beat(beat) });
    let kept = rig.grid.hosts()[&host(1)].guests[&guest(1)].sample.as_ref().map(|sample| sample.access.len());
    assert_eq!(kept, Some(PROBES));
    // Wherever it goes.
    let beat = |guests| ToAggregator::Beat(Beat { guests, ..Beat::default() });
    let gone = Beat { gone: vec![guest(1)], ..Beat::default() };
    rig.tell(Event::Received { link: LinkId(1), message: ToAggregator::Beat(gone) });
    rig.tell(Event::Received { link: LinkId(2), message: beat(vec![running(guest(1))]) });
    rig.pass(11);
    assert_eq!((rig.probes[&1].clone(), rig.probes[&2].clone()), (Vec::new(), told()));
    assert_eq!(probe(&mut rig, guest(1), &[]), None);
    assert_eq!((rig.probes[&2].len(), rig.grid.intent().probes.len()), (0, 0));
}

#[test]
fn a_guest_is_handed_to_no_host_in_maintenance() {
    let mut rig = Rig::new(1, 0);
    rig.call(Call::Maintenance { host: host(2), drain: Some(false) });
    rig.maintain(Some(true));
    assert_eq!(rig.handed, []);
    let losses = rig.grid.if_lost(&rig.grid.hosts()[&host(1)]);
    assert!(matches!(&losses[0].fate, Fate::Down(why) if why.contains("in maintenance")), "{losses:?}");
    let verb = Verb::HandOver { shutdown_ms: Millis(0) };
    let (operation, guest) = (OperationId::from_u128(9), guest(1));
    let (timeout, key, guest_name, host) = (Millis(1), None, None, None);
    rig.call(Call::Guest { operation, guest, guest_name, host, verb, timeout, key });
    assert_eq!(rig.refused, Some(CallErrorCode::WrongState));
}

#[test]
fn a_drained_host_hands_over_two_at_a_time_and_tries_again_later_what_failed() {
    let mut rig = Rig::new(3, 1);
    let word = |rig: &Rig| rig.grid.maintenance_word(&rig.grid.hosts()[&host(1)]);
    assert_eq!(word(&rig), None);
    rig.maintain(Some(true));
    let handed = |rig: &Rig| rig.handed.iter().map(|(_, guest)| *guest).collect::<Vec<_>>();
    assert_eq!(handed(&rig), [guest(1), guest(2)]);
    assert_eq!(word(&rig), Some("draining"));
    rig.outcome(0, Some(FailureCode::TargetAway));
    rig.pass(10);
    assert_eq!(handed(&rig).len(), 2, "the third has no room there, the first was tried just now");
    rig.outcome(1, None);
    rig.pass(310);
    assert!(handed(&rig)[2..].contains(&guest(1)), "{:?}", handed(&rig));
    let tries = handed(&rig).len();
    rig.outcome(tries - 1, Some(FailureCode::WrongState));
    rig.pass(20);
    assert_eq!(handed(&rig).len(), tries + 1, "it was refused, and not touched");
    rig.maintain(None);
    let before = handed(&rig).len();
    rig.pass(400);
    assert_eq!((handed(&rig).len(), word(&rig)), (before, None));
    let epochs = rig.handed.iter().map(|(operation, _)| *operation).collect::<BTreeSet<_>>();
    assert_eq!(epochs.len(), rig.handed.len(), "each is an operation of its own");
    assert_eq!(rig.grid.config().epoch, Epoch(config().epoch.0));
}
