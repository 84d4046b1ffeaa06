//! Backup words as bytes: they survive the way, keep their numbers, and what is nonsense is refused before it travels.

#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that is not as it should be")]

use std::fmt::Debug;

use minicbor::{Decode, Encode};
use roost_protocol::backup::query::{PAGE, Peer, Share};
use roost_protocol::backup::{
    BackupBeat, BackupOptions, BackupPolicy, BackupRun, BackupSummary, Consistency, Freeze, LastFailure, Leftover,
    PointQuery, PointsPage, Proof, ProofPolicy, Pulling, ReplicaPolicy, ReplicaState, ReplicaStatus, RestoreAs,
    RestoreOrder, Retention, SINCE, Schedule, SetSummary, Shift, StoreStatus, Target, Why, Zone,
};
use roost_protocol::codec::{decode, encode};
use roost_protocol::host::Maintenance;
use roost_protocol::memory::{MemoryOrder, MemoryPolicy};
use roost_protocol::message::{Beat, OLDEST, ToAgent, ToAggregator, VERSION};
use roost_protocol::operation::{Command, FailureCode, Verb};
use roost_protocol::probe::GuestProbes;
use roost_protocol::{Epoch, Generation, GuestId, HostId, Millis, OperationId, PointId, Stamp};

const GUEST: GuestId = GuestId::from_u128(1);
const POINT: PointId = PointId::from_u128(2);
const HOST: HostId = HostId::from_u128(3);

fn policy() -> BackupPolicy {
    let zone = Zone { name: "Europe/Zurich".into(), shifts: vec![Shift { from: Stamp(7), minutes: -60 }] };
    let targets = vec![Target::Local, Target::Peer { host: HOST }, Target::Directory { path: "/mnt/a".into() }];
    BackupPolicy {
        name: "gold".into(),
        generation: Generation(4),
        schedule: Some(Schedule { expression: "daily".into(), jitter: Millis(5), zone: Some(zone) }),
        retention: Retention { last: 1, hourly: 2, daily: 3, weekly: 4, monthly: 5, yearly: 6 },
        targets,
        max_age: Some(Millis(9)),
        replica: Some(ReplicaPolicy {
            host: Some(HOST),
            every: Millis(5_000),
            max_lag: Millis(60_000),
            failover: true,
        }),
        freeze: Freeze::Require,
        priority: 7,
        proof: Some(ProofPolicy { every: Millis(1), patience: Millis(2) }),
    }
}

fn point() -> BackupSummary {
    BackupSummary {
        point: POINT,
        guest: GUEST,
        guest_name: "g".into(),
        origin: HOST,
        started: Stamp(1),
        finished: Stamp(2),
        why: Why::Branch,
        consistency: Consistency::Filesystem,
        parent: Some(POINT),
        size: 1,
        read: 2,
        stored: 3,
        pinned: true,
        proof: Proof::Failed { at: Stamp(1), why: "dark".into() },
        copies: policy().targets,
        damaged: Some("vda".into()),
        note: "n".into(),
        meant: roost_protocol::backup::Meant::Pause,
        priority: 9,
    }
}

fn order() -> RestoreOrder {
    let text = |text: &str| Some(text.to_owned());
    let to_be = RestoreAs::AsNew {
        name: "n".into(),
        hostname: text("h"),
        windows_name: text("W"),
        domain: text("example.org"),
    };
    RestoreOrder { set: GUEST, point: POINT, from: Target::Local, to_be, start: true, at_once: true }
}

fn failure() -> LastFailure {
    LastFailure { at: Stamp(1), code: FailureCode::TargetAway, text: "t".into(), count: 2 }
}

fn beat() -> BackupBeat {
    let set = SetSummary {
        guest: GUEST,
        origin: HOST,
        points: 2,
        stored: 3,
        newest: Some((POINT, Stamp(4))),
        oldest: Some(Stamp(3)),
        proven: Some((POINT, Stamp(5))),
        damaged: 1,
        failure: Some(failure()),
        next: Some(Stamp(6)),
        running: true,
        policy: Some(Generation(4)),
        guest_name: "g".into(),
        policy_name: "gold".into(),
    };
    let replica = |state| ReplicaStatus {
        guest: GUEST,
        host: Some(HOST),
        state,
        lag: Some(Millis(1)),
        point: Some(POINT),
        shows: Some(Stamp(1)),
        every: Millis(5_000),
        max_lag: Millis(60_000),
    };
    let states = [
        ReplicaState::Seeding,
        ReplicaState::Following,
        ReplicaState::Behind,
        ReplicaState::Broken { why: "w".into() },
        ReplicaState::Held,
    ];
    let store = StoreStatus { total: 3, free: 2, used: 1, days_to_full: Some(9), held: true, points: 7 };
    let (gone, replicas_gone) = (vec![GUEST], vec![GUEST]);
    let from = Target::Peer { host: HOST };
    let pulling = Pulling { guest: GUEST, point: POINT, from, percent: 41, trouble: Some("its host is away".into()) };
    BackupBeat {
        sets: vec![set],
        gone,
        replicas: states.map(replica).to_vec(),
        replicas_gone,
        store: Some(store),
        pulls: Some(vec![pulling]),
        shares: Some(vec![Share { point: POINT, with: HOST }]),
    }
}

fn verbs() -> Vec<Verb> {
    let options = BackupOptions { freeze: Freeze::Never, full: true, pin: true, label: "before the upgrade".into() };
    vec![
        Verb::Backup { options },
        Verb::Restore { order: Box::new(order()) },
        Verb::VerifyBackup { point: Some(POINT) },
        Verb::DeletePoint { point: POINT, even_last: true },
        Verb::PinPoint { point: POINT, pinned: true },
        Verb::SetBackupPolicy { policy: Some(Box::new(policy())) },
        Verb::SetBackupPolicy { policy: None },
        Verb::PruneNow,
        Verb::ProveBackup { point: None },
    ]
}

fn command(verb: Verb) -> ToAgent {
    let (operation, budget_ms) = (OperationId::from_u128(9), Millis(1));
    ToAgent::Command(Command { operation, epoch: Epoch(1), budget_ms, guest: GUEST, verb })
}

fn survives<T: Encode<()> + for<'b> Decode<'b, ()> + PartialEq + Debug>(value: &T) {
    let bytes = encode(value);
    assert_eq!(&decode::<T>(&bytes).unwrap(), value);
    for end in [0, bytes.len() / 2, bytes.len() - 1] {
        assert!(decode::<T>(&bytes[..end]).is_err());
    }
}

#[test]
fn backup_words_survive_the_way() {
    for verb in verbs() {
        survives(&command(verb));
    }
    survives(&ToAggregator::Beat(Beat { backup: Some(Box::new(beat())), ..Beat::default() }));
    survives(&ToAggregator::Points(PointsPage { ask: 1, points: vec![point()], more: true }));
    let after = Some((GUEST, Stamp(1), POINT));
    survives(&ToAgent::Points(PointQuery { ask: 1, guest: Some(GUEST), after, limit: 9 }));
    let peer = Peer {
        host: HOST,
        name: "b".into(),
        addresses: vec!["192.0.2.1:4434".into()],
        key: [7; 32],
        zone: "rack-1".into(),
        total: 2,
        free: 1,
        replicas: 3,
        up: true,
    };
    for maintenance in [None, Some(Maintenance::On), Some(Maintenance::Draining), Some(Maintenance::Drained)] {
        let shares = vec![Share { point: POINT, with: HOST }];
        let probes = vec![GuestProbes { guest: GUEST, probes: vec!["rdp://192.0.2.7:3389".into()] }];
        let policy = MemoryPolicy { overcommit_permille: 1_500, ..MemoryPolicy::default() };
        let memory = maintenance.map(|_| Box::new(MemoryOrder { policy: Some(policy) }));
        survives(&ToAgent::Peers { peers: vec![peer.clone()], shares, maintenance, zone: None, probes, memory });
    }
    survives(&BackupRun {
        slot: Some(Stamp(1)),
        failure: Some(failure()),
        verified: Some(Stamp(2)),
        proof_tried: Some(Stamp(3)),
        replica: Some(HOST),
        shows: Some((POINT, Stamp(4))),
        pull: Some(order()),
        since: Some(Stamp(5)),
        taken: Some(Stamp(8)),
        handed_over: true,
        leftover: vec![Leftover { at: Target::Local, point: POINT }],
    });
}

/// An API caller gives only what he means; a word that is not known is refused.
#[test]
fn a_policy_is_read_from_what_people_write() {
    let text = r#"{"schedule": {"expression": "mon..fri 20:30"}, "retention": {"daily": 7},
                   "targets": [{"to": "directory", "path": "/mnt/nfs"}], "replica": {"every": 60000, "max_lag": 600000}}"#;
    let read: BackupPolicy = serde_json::from_str(text).unwrap();
    assert_eq!((read.retention.daily, read.freeze, read.check()), (7, Freeze::Try, Ok(())));
    let back: BackupPolicy = serde_json::from_str(&serde_json::to_string(&policy()).unwrap()).unwrap();
    assert_eq!(back, policy());
    for wrong in [r#"{"retention": {"dayly": 7}}"#, r#"{"target": []}"#, r#"{"targets": [{"to": "tape"}]}"#] {
        assert!(serde_json::from_str::<BackupPolicy>(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn nonsense_in_a_policy_or_a_name_is_refused_with_a_reason() {
    assert_eq!(policy().check(), Ok(()));
    let with = |change: &dyn Fn(&mut BackupPolicy)| {
        let mut policy = policy();
        change(&mut policy);
        policy.check()
    };
    let folder = |path: &str| vec![Target::Directory { path: path.into() }];
    let replica =
        |every, max_lag| ReplicaPolicy { host: None, every: Millis(every), max_lag: Millis(max_lag), failover: false };
    assert!(with(&|policy| policy.schedule.as_mut().unwrap().expression = "25:00".into()).is_err());
    assert!(with(&|policy| policy.schedule.as_mut().unwrap().jitter = Millis(86_400_001)).is_err());
    assert!(with(&|policy| policy.targets = folder("relative")).is_err());
    assert!(with(&|policy| policy.targets = folder("/mnt/../etc")).is_err());
    assert!(with(&|policy| policy.targets = vec![Target::Local; 9]).is_err());
    assert!(with(&|policy| policy.replica = Some(replica(4_999, 60_000))).is_err());
    assert!(with(&|policy| policy.replica = Some(replica(60_000, 59_999))).is_err());
    assert!(with(&|policy| policy.retention.daily = 10_001).is_err());
    let shift = |from, minutes| Shift { from: Stamp(from), minutes };
    for shifts in [vec![shift(2, 0), shift(1, 0)], vec![shift(1, 2_000)], vec![shift(1, 0); 81]] {
        let zone = Zone { name: "x".into(), shifts };
        assert!(with(&|policy| policy.schedule.as_mut().unwrap().zone = Some(zone.clone())).is_err());
    }
    let named = |windows: &str, host: &str, domain: &str| RestoreAs::AsNew {
        name: "n".into(),
        hostname: Some(host.into()),
        windows_name: Some(windows.into()),
        domain: Some(domain.into()),
    };
    assert_eq!(named("DESK-1", "desk-1", "corp.example.org").check(), Ok(()));
    for wrong in [
        named("SIXTEEN-LETTERS-", "a", "b"),
        named("A-LONG-NAME-OF-17", "a", "b"),
        named("12345", "a", "b"),
        named("A", "-a", "b"),
        named("A", "a_b", "b"),
        named("A", "a", "b..c"),
        named("A", "a", "<x>"),
    ] {
        assert!(wrong.check().is_err(), "{wrong:?}");
    }
}

#[test]
fn a_host_of_the_version_before_is_sent_no_new_verb() {
    assert_eq!((SINCE, OLDEST), (3, VERSION - 1));
    assert!(verbs().iter().all(|verb| verb.since() == SINCE));
    assert!([Verb::Start, Verb::Stop, Verb::Release].iter().all(|verb| verb.since() < SINCE));
}

/// The largest page: every text at its longest, eight copies with the longest paths.
#[test]
fn the_largest_page_of_points_fits_in_a_frame() {
    let long = "x".repeat(roost_protocol::backup::SENTENCE);
    let copies = vec![Target::Directory { path: "/".repeat(400) }; 8];
    let largest =
        BackupSummary { guest_name: long.clone(), damaged: Some(long.clone()), note: long, copies, ..point() };
    let page = PointsPage { ask: u64::MAX, points: vec![largest; PAGE], more: true };
    assert!(encode(&ToAggregator::Points(page)).len() < roost_protocol::message::FRAME);
}

/// Hosts keep policies over upgrades.
#[test]
fn a_replica_policy_of_the_version_before_asks_for_no_failover() {
    let host = [&[0x83, 0x50][..], &[0; 15], &[3], &[0x19, 0x13, 0x88, 0x19, 0xea, 0x60]].concat();
    let expected = ReplicaPolicy {
        host: Some(HostId::from_u128(3)),
        every: Millis(5_000),
        max_lag: Millis(60_000),
        failover: false,
    };
    assert_eq!(decode::<ReplicaPolicy>(&host).unwrap(), expected);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

// Numbers once given stay: a change here breaks every peer in the field, and every ledger.
#[test]
fn the_numbers_of_backup_words_never_change() {
    let told = [
        hex(&encode(&policy())),
        hex(&encode(&point())),
        hex(&encode(&command(Verb::Restore { order: Box::new(order()) }))),
        hex(&encode(&beat())),
    ];
    assert_eq!(told, [POLICY, POINT_BYTES, RESTORE, BEAT]);
    let words: Vec<u8> = verbs().iter().map(|verb| encode(verb)[1]).collect();
    assert_eq!(words, [11, 12, 13, 14, 15, 16, 16, 17, 18]);
}

const POLICY: &str = "8a64676f6c640483656461696c7905826d4575726f70652f5a7572696368818207383b86010203040506838200808201815000000000000000000000000000000003820281662f6d6e742f610984500000000000000000000000000000000319138819ea60f582018007820102";
const POINT_BYTES: &str = "93500000000000000000000000000000000250000000000000000000000000000000016167500000000000000000000000000000000301028203808201805000000000000000000000000000000002010203f582028201646461726b838200808201815000000000000000000000000000000003820281662f6d6e742f6163766461616e82018009";
const RESTORE: &str = "82028185500000000000000000000000000000000901015000000000000000000000000000000001820c818650000000000000000000000000000000015000000000000000000000000000000002820080820184616e616861576b6578616d706c652e6f7267f5f5";
const BEAT: &str = "87818e50000000000000000000000000000000015000000000000000000000000000000003020382500000000000000000000000000000000204038250000000000000000000000000000000020501840182108061740206f504616764676f6c648150000000000000000000000000000000018588500000000000000000000000000000000150000000000000000000000000000000038200800150000000000000000000000000000000020119138819ea6088500000000000000000000000000000000150000000000000000000000000000000038201800150000000000000000000000000000000020119138819ea6088500000000000000000000000000000000150000000000000000000000000000000038202800150000000000000000000000000000000020119138819ea60885000000000000000000000000000000001500000000000000000000000000000000382038161770150000000000000000000000000000000020119138819ea6088500000000000000000000000000000000150000000000000000000000000000000038204800150000000000000000000000000000000020119138819ea608150000000000000000000000000000000018603020109f507818550000000000000000000000000000000015000000000000000000000000000000002820181500000000000000000000000000000000318297069747320686f73742069732061776179818250000000000000000000000000000000025000000000000000000000000000000003";
