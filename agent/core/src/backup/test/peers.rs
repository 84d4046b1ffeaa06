//! Other hosts: who is dealt with, who is cut off, and what is kept for them.

use roost_protocol::backup::{BackupPolicy, BackupSummary, Peer, ReplicaPolicy, ReplicaState, Target, Why};
use roost_protocol::message::ToAgent;
use roost_protocol::{HostId, Millis};

use super::rig::{HOUR, Rig, guest, peer, policy, summary};
use crate::event::{Event, Task};

fn replicated(host: Option<HostId>) -> BackupPolicy {
    let replica = Some(ReplicaPolicy { host, every: Millis(5_000), max_lag: Millis(20_000), failover: false });
    BackupPolicy { schedule: None, replica, ..policy("daily") }
}

fn host(number: u128) -> HostId {
    HostId::from_u128(number)
}

fn lied(rig: &mut Rig, number: u128) {
    rig.tell(Event::PeerLied { host: host(number), what: "chunk 7: it is no frame".into() });
}

#[test]
fn a_peer_that_lied_is_cut_off_for_an_hour_and_told_of_and_replicas_go_elsewhere() {
    let mut rig = Rig::new(1);
    rig.peers(vec![peer(2), peer(3)]);
    rig.follow(1, replicated(None));
    rig.live(20_000);
    let first = rig.kept.runs[&guest(1)].replica.unwrap();
    let other = if first == host(2) { host(3) } else { host(2) };
    rig.tell(Event::PeerLied { host: first, what: "wrong chunks".into() });
    assert_eq!((rig.heard.clone(), rig.alarms()), (vec![other], vec!["peer-misbehaved".to_owned()]));
    rig.log.clear();
    rig.live(20_000);
    let status = rig.agent.replica_status(guest(1), rig.now()).unwrap();
    assert_eq!((status.host, status.state), (Some(other), ReplicaState::Following));
    let bad = Target::Peer { host: first };
    let ships = |rig: &Rig| {
        let to_bad = |line: &&String| line.contains("run Ship") && line.contains(&format!("{bad:?}"));
        rig.log.iter().filter(to_bad).count()
    };
    rig.live(HOUR - 60_000);
    assert_eq!((ships(&rig), rig.heard.len()), (0, 1));
    rig.live(60_000);
    assert_eq!((rig.heard.len(), rig.alarms()), (2, Vec::<String>::new()));
}

#[test]
fn a_named_backup_host_that_is_cut_off_is_waited_for_and_people_know_why() {
    let mut rig = Rig::new(1);
    rig.peers(vec![peer(2), peer(3)]);
    rig.follow(1, replicated(Some(host(2))));
    rig.live(20_000);
    lied(&mut rig, 2);
    rig.live(30_000);
    assert_eq!(rig.alarms(), ["peer-misbehaved", "replica-broken", "replica-lag"]);
    rig.live(HOUR + 70_000);
    let status = rig.agent.replica_status(guest(1), rig.now()).unwrap();
    assert_eq!((status.host, status.state), (Some(host(2)), ReplicaState::Following));
}

#[test]
fn a_host_whose_address_is_not_known_just_now_keeps_the_one_it_had_and_one_that_left_is_not_heard() {
    let mut rig = Rig::new(0);
    rig.peers(vec![peer(2), peer(3)]);
    assert_eq!(rig.heard, [host(2), host(3)]);
    let mut unheard = peer(2);
    unheard.addresses.clear();
    rig.peers(vec![unheard.clone(), peer(4)]);
    assert_eq!(rig.kept.peers[0].addresses, peer(2).addresses);
    assert_eq!(rig.heard, [host(2), host(4)]);
    // With another key it is another host, wherever it stands.
    unheard.key = [9; 32];
    rig.peers(vec![unheard]);
    assert!(rig.kept.peers[0].addresses.is_empty());
}

#[test]
fn what_falls_together_with_this_host_is_avoided_also_after_a_restart_without_the_aggregator() {
    let mut rig = Rig::new(1);
    let near = (2..6).map(|number| Peer { zone: "rack-1".into(), ..peer(number) });
    let peers = near.chain([Peer { zone: "rack-2".into(), ..peer(6) }]).collect();
    let (shares, maintenance, probes) = (Vec::new(), None, Vec::new());
    let zone = Some("rack-1".to_owned());
    rig.tell(Event::Received(ToAgent::Peers { peers, shares, maintenance, zone, probes, memory: None }));
    rig.restart();
    rig.follow(1, replicated(None));
    rig.live(20_000);
    assert_eq!(rig.kept.runs[&guest(1)].replica, Some(host(6)));
}

#[test]
fn what_others_forget_here_is_bounded() {
    let mut rig = Rig::new(0);
    let replica = |number: u128| BackupSummary {
        origin: host(2),
        why: Why::Replica,
        ..summary(number, guest(9), u64::try_from(number).unwrap() * 1_000)
    };
    rig.tell(Event::Kept { point: BackupSummary { origin: host(2), ..summary(1, guest(9), 1) } });
    for number in 2..60 {
        rig.tell(Event::Kept { point: replica(number) });
        rig.live(2_000);
        assert!(rig.agent.backups.sets.of(guest(9)).count() <= 20);
    }
    let left: Vec<BackupSummary> = rig.agent.backups.sets.of(guest(9)).cloned().collect();
    assert!(left.iter().any(|point| point.why == Why::Schedule), "others than deltas stay");
    assert!(left.iter().any(|point| point.started.0 == 59_000));
    assert!(!rig.tasks.values().any(|(task, _)| matches!(task, Task::Ship { .. })));
}

#[test]
fn a_replica_is_placed_once_a_host_tells_of_room_that_it_had_not_told_of_when_it_joined() {
    let mut rig = Rig::new(1);
    let joined = roost_protocol::backup::Peer { total: 0, free: 0, ..peer(2) };
    rig.peers(vec![joined]);
    rig.follow(1, replicated(None));
    rig.live(1_000);
    let state = |rig: &Rig| rig.agent.replica_status(guest(1), rig.now()).unwrap().state;
    rig.peers(vec![peer(2)]);
    rig.live(4_000);
    assert_eq!(state(&rig), ReplicaState::Following);
}
