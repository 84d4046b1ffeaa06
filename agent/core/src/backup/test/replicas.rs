//! Replicas: where, how old, and what is told when they lag.

use roost_protocol::backup::{BackupPolicy, ReplicaPolicy, ReplicaState, ReplicaStatus, Target};
use roost_protocol::guest::PowerState;
use roost_protocol::operation::{FailureCode, Verb};
use roost_protocol::{Generation, HostId, Millis};

use super::rig::{HOUR, OWN, Rig, guest, peer, policy};
use crate::event::Task;

fn replicated(every: u64, max_lag: u64, host: Option<HostId>) -> BackupPolicy {
    let replica = Some(ReplicaPolicy { host, every: Millis(every), max_lag: Millis(max_lag), failover: false });
    BackupPolicy { schedule: None, replica, ..policy("daily") }
}

fn status(rig: &Rig) -> ReplicaStatus {
    rig.agent.replica_status(guest(1), rig.now()).unwrap()
}

#[test]
fn a_replica_follows_within_its_interval_on_another_host() {
    let mut rig = Rig::new(1);
    rig.peers(vec![peer(1), peer(2)]);
    rig.follow(1, replicated(5_000, 20_000, None));
    assert_eq!((status(&rig).state, status(&rig).lag), (ReplicaState::Seeding, None));
    rig.live(3_000);
    assert_eq!((status(&rig).state, status(&rig).host), (ReplicaState::Following, Some(HostId::from_u128(2))));
    for _ in 0..100 {
        rig.live(1_700);
        // A delta and its shipping take a second each.
        assert!(status(&rig).lag.unwrap() <= Millis(7_000), "{:?}", status(&rig));
    }
    assert_eq!(rig.alarms(), [""; 0]);
    // Old deltas are pruned, here and there.
    let here = rig.agent.backups.sets.of(guest(1)).count();
    assert!((2..=10).contains(&here), "{here}");
    assert!(rig.log.iter().any(|line| line.contains("run Prune") && line.contains("Peer")));
    assert!(
        !rig.tasks
            .values()
            .any(|(task, _)| matches!(task, Task::Ship { to: Target::Peer { host, .. }, .. } if *host == OWN))
    );
}

#[test]
fn a_lag_past_its_limit_is_told_until_it_is_caught_up_and_the_limit_stays() {
    let mut rig = Rig::new(1);
    rig.peers(vec![peer(2)]);
    rig.follow(1, replicated(5_000, 20_000, None));
    rig.live(60_000);
    rig.peers_gone = true;
    rig.live(12_000);
    assert!(!rig.alarms().contains(&"replica-lag".to_owned()));
    rig.live(10_000);
    assert!(rig.alarms().contains(&"replica-lag".to_owned()), "{:?}", status(&rig));
    assert_eq!((status(&rig).max_lag, status(&rig).every), (Millis(20_000), Millis(5_000)));
    rig.live(10 * 60_000);
    assert!(status(&rig).lag.unwrap() > Millis(600_000));
    // The same delta is tried again; others are not piled up behind it.
    assert!(rig.agent.backups.sets.of(guest(1)).count() <= 10);
    rig.peers_gone = false;
    rig.live(20_000);
    assert_eq!((status(&rig).state, rig.alarms()), (ReplicaState::Following, Vec::<String>::new()));
}

#[test]
fn lag_is_counted_on_over_a_restart_of_the_agent() {
    let mut rig = Rig::new(1);
    rig.peers(vec![peer(2)]);
    rig.follow(1, replicated(60_000, 600_000, None));
    rig.live(61_000 * 3);
    rig.peers_gone = true;
    rig.live(100_000);
    let before = status(&rig).lag.unwrap();
    rig.sleep(50_000);
    rig.restart();
    let after = status(&rig).lag.unwrap();
    assert!(after >= Millis(before.0 + 50_000), "{before:?} {after:?}");
    assert!(after <= Millis(before.0 + 50_000 + 120_000), "the ledger is told each minute or so");
}

#[test]
fn a_guest_that_is_off_is_copied_once_and_does_not_lag() {
    let mut rig = Rig::new(1);
    rig.peers(vec![peer(2)]);
    rig.follow(1, replicated(5_000, 20_000, None));
    rig.live(30_000);
    rig.set_state(1, PowerState::Off);
    rig.live(30_000);
    let deltas = rig.log.iter().filter(|line| line.starts_with("run Backup")).count();
    rig.live(HOUR);
    assert_eq!(rig.log.iter().filter(|line| line.starts_with("run Backup")).count(), deltas);
    assert_eq!((status(&rig).lag, rig.alarms()), (Some(Millis(0)), Vec::<String>::new()));
    rig.set_state(1, PowerState::Running);
    rig.live(10_000);
    assert!(rig.log.iter().filter(|line| line.starts_with("run Backup")).count() > deltas);
}

#[test]
fn its_own_host_keeps_no_replica_and_without_another_people_are_told() {
    let mut rig = Rig::new(1);
    let own = Verb::SetBackupPolicy { policy: Some(Box::new(replicated(5_000, 20_000, Some(OWN)))) };
    assert_eq!(rig.refused(1, own), FailureCode::Invalid);
    rig.follow(1, replicated(5_000, 20_000, None));
    rig.live(1_000);
    assert_eq!(rig.alarms(), ["replica-broken"]);
    rig.live(30_000);
    assert_eq!(rig.alarms(), ["replica-broken", "replica-lag"]);
    rig.peers(vec![peer(2)]);
    rig.live(70_000);
    assert_eq!(rig.alarms(), [""; 0]);
}

#[test]
fn a_backup_host_that_left_the_grid_is_replaced_and_the_copy_begins_anew() {
    let mut rig = Rig::new(1);
    rig.peers(vec![peer(2)]);
    rig.follow(1, replicated(5_000, 20_000, None));
    rig.live(20_000);
    rig.peers(vec![peer(3)]);
    rig.live(20_000);
    assert_eq!((status(&rig).host, status(&rig).state), (Some(HostId::from_u128(3)), ReplicaState::Following));
    assert_eq!(rig.kept.runs[&guest(1)].replica, Some(HostId::from_u128(3)));
}

#[test]
fn a_backup_host_that_stays_away_is_replaced_where_there_is_another_and_no_sooner_than_a_reboot_takes() {
    let mut rig = Rig::new(1);
    rig.peers(vec![peer(2)]);
    rig.follow(1, replicated(5_000, 20_000, None));
    rig.live(20_000);
    let (first, second) = (HostId::from_u128(2), HostId::from_u128(3));
    rig.gone = Some(first);
    rig.live(HOUR);
    assert_eq!(
        (status(&rig).host, rig.alarms()),
        (Some(first), vec!["replica-broken".to_owned(), "replica-lag".into()]),
        "no other is there"
    );
    rig.gone = None;
    rig.live(20_000);
    assert_eq!((status(&rig).state, rig.alarms()), (ReplicaState::Following, Vec::<String>::new()));
    rig.peers(vec![peer(2), peer(3)]);
    rig.gone = Some(first);
    rig.live(20 * 60_000);
    assert_eq!(status(&rig).host, Some(first), "it may be back any moment");
    rig.live(15 * 60_000);
    assert_eq!((status(&rig).host, status(&rig).state), (Some(second), ReplicaState::Following));
    assert_eq!(rig.alarms(), [""; 0]);
    // It stays there, also when the first one is back, and gives room back there.
    rig.gone = None;
    rig.live(2 * HOUR);
    assert_eq!(status(&rig).host, Some(second));
    rig.gone = Some(first);
    rig.follow(1, BackupPolicy { generation: Generation(9), ..replicated(5_000, 20_000, Some(first)) });
    rig.live(HOUR);
    assert_eq!(status(&rig).host, Some(first), "who is named is not left");
}

#[test]
fn a_target_that_hangs_holds_up_neither_backups_nor_the_replica() {
    let mut rig = Rig::new(1);
    rig.peers(vec![peer(2)]);
    let targets = vec![Target::Directory { path: "/mnt/nfs".into() }];
    rig.follow(
        1,
        BackupPolicy {
            targets,
            ..BackupPolicy { schedule: policy("hourly").schedule, ..replicated(60_000, 300_000, None) }
        },
    );
    rig.live(HOUR);
    while !rig.tasks.values().any(|(task, _)| matches!(task, Task::Ship { to: Target::Directory { .. }, .. })) {
        rig.live(500);
    }
    let hanging = rig.running(|task| matches!(task, Task::Ship { to: Target::Directory { .. }, .. }));
    // It never ends; all else goes on.
    rig.tasks.get_mut(&hanging).unwrap().1 = u64::MAX;
    rig.live(5 * HOUR);
    assert_eq!((rig.points(1).len(), rig.alarms()), (6, Vec::<String>::new()));
    rig.tasks.get_mut(&hanging).unwrap().1 = 0;
    rig.live(60_000);
    let directory = Target::Directory { path: "/mnt/nfs".into() };
    let copies = rig.agent.backups.sets.of(guest(1)).filter(|point| point.copies.contains(&directory)).count();
    assert_eq!(copies, 6);
}

#[test]
fn a_backup_host_that_hangs_keeps_one_worker_and_all_follow_again_when_it_is_back() {
    let mut rig = Rig::new(20);
    rig.peers(vec![peer(2)]);
    (1..=20).for_each(|number| rig.follow(number, replicated(5_000, 60_000, None)));
    rig.live(60_000);
    rig.peers_gone = true;
    rig.live(20_000);
    for _ in 0..100 {
        rig.live(1_000);
        let ships = rig.tasks.values().filter(|(task, _)| matches!(task, Task::Ship { .. })).count();
        assert!(ships <= 1, "{ships}");
    }
    rig.peers_gone = false;
    rig.live(60_000);
    let lags = (1..=20).map(|number| rig.agent.replica_status(guest(number), rig.now()).unwrap().lag.unwrap());
    assert!(lags.max().unwrap() <= Millis(20_000));
    assert_eq!(rig.alarms(), [""; 0]);
}
