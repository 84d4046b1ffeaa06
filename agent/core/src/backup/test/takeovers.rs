//! What a guest is started from where its ward was won.

use roost_protocol::backup::{BackupPolicy, BackupSummary, Meant, ReplicaPolicy, Why};
use roost_protocol::cause::{NoteKind, ward_of};
use roost_protocol::guest::{GuestSample, Power, PowerState};
use roost_protocol::host::HostSample;
use roost_protocol::message::ToAgent;
use roost_protocol::operation::{FailureCode, Verb};
use roost_protocol::probe::{Access, Answer, GuestProbes};
use roost_protocol::{HostId, MiB, Millis, PointId, Stamp};

use super::rig::{BEGIN, HOUR, Rig, guest, peer, policy, summary};
use crate::event::{Event, Task};
use crate::right::Right;

/// Another host brings a replica of guest 1 that shows this moment.
fn replica(rig: &mut Rig, number: u128, at: u64) {
    let origin = HostId::from_u128(2);
    rig.brought(BackupSummary { origin, why: Why::Replica, ..summary(number, guest(1), at) });
}

fn right(rig: &mut Rig, right: Right) {
    rig.tell(Event::Rights { guests: [(guest(1), right)].into() });
}

/// A delta each half minute, for failover.
fn often() -> BackupPolicy {
    let replica = ReplicaPolicy { host: None, every: Millis(30_000), max_lag: Millis(90_000), failover: true };
    BackupPolicy { replica: Some(replica), ..BackupPolicy::default() }
}

/// Points that the guest was restored from.
fn restored(rig: &Rig) -> Vec<PointId> {
    let of = |line: &String| {
        let point = line.strip_prefix("run Restore")?.split("point: ").nth(1)?;
        point.get(..36)?.parse().ok()
    };
    rig.log.iter().filter_map(of).collect()
}

fn starts(rig: &Rig) -> usize {
    rig.log.iter().filter(|line| line.starts_with("run Start")).count()
}

/// A managed guest, off, that this host ran and has points of.
fn own(rig: &mut Rig) {
    rig.command(1, Verb::Manage { power: Power::Running });
    rig.follow(1, policy("hourly"));
    rig.live(HOUR + 60_000);
    assert_eq!(rig.points(1).len(), 1);
    rig.set_state(1, PowerState::Off);
}

#[test]
fn a_host_that_kept_replicas_starts_the_guest_from_the_newest_whole_one_and_looks_after_it() {
    let mut rig = Rig::new(0);
    for number in 1..=3 {
        replica(&mut rig, number, BEGIN + u64::try_from(number).unwrap() * 1_000);
    }
    right(&mut rig, Right::Elsewhere);
    rig.live(HOUR);
    assert_eq!(restored(&rig), []);
    right(&mut rig, Right::Here);
    rig.live(3_000);
    assert_eq!((restored(&rig), rig.guests[&guest(1)]), (vec![PointId::from_u128(3)], PowerState::Running));
    assert!(rig.place_of("run Pull") < rig.place_of("run Start"), "its data is served before");
    assert_eq!(rig.kept.wishes[&guest(1)].power, Power::Running);
    // Also after a crash of the guest, a restart of the agent, and the next lease: its own disks are newer.
    rig.set_state(1, PowerState::Crashed);
    rig.live(60_000);
    assert_eq!(rig.guests[&guest(1)], PowerState::Running);
    rig.guarded = true;
    rig.set_state(1, PowerState::Off);
    rig.restart();
    right(&mut rig, Right::Waits);
    rig.live(60_000);
    right(&mut rig, Right::Here);
    rig.live(60_000);
    assert_eq!((restored(&rig).len(), rig.guests[&guest(1)]), (1, PowerState::Running));
}

/// Takes over a guest that was meant to do this; what is started, and how the guest and its wish are then.
fn taken_over(meant: Meant) -> (Vec<String>, PowerState, Power) {
    let mut rig = Rig::new(0);
    let origin = HostId::from_u128(2);
    rig.brought(BackupSummary { origin, why: Why::Replica, meant, ..summary(1, guest(1), BEGIN + 1_000) });
    right(&mut rig, Right::Here);
    rig.live(60_000);
    assert_eq!(restored(&rig).len(), 1);
    let starts = rig.log.iter().filter(|line| line.starts_with("run Start")).cloned().collect();
    let (state, wish) = (rig.guests[&guest(1)], rig.kept.wishes[&guest(1)].power);
    // Whoever wants it to run starts it.
    let operation = rig.command(1, Verb::Start);
    rig.live(5_000);
    assert_eq!((rig.outcome(operation), rig.guests[&guest(1)]), (Some(None), PowerState::Running));
    (starts, state, wish)
}

#[test]
fn a_guest_does_after_its_takeover_what_it_was_meant_to_do_before() {
    let (starts, state, wish) = taken_over(Meant::StayOff);
    assert_eq!((starts, state, wish), (Vec::new(), PowerState::Off, Power::Stopped));
    let (starts, _, wish) = taken_over(Meant::Pause);
    assert!(starts.len() == 1 && starts[0].contains("paused: true"), "{starts:?}");
    assert_eq!(wish, Power::Running);
    let (starts, ..) = taken_over(Meant::Run);
    assert!(starts.len() == 1 && starts[0].contains("paused: false"), "{starts:?}");
}

#[test]
fn a_guest_that_is_to_stay_off_stays_off_though_the_lease_is_lost_while_it_is_brought_in() {
    let mut rig = Rig::new(0);
    let (origin, meant) = (HostId::from_u128(2), Meant::StayOff);
    rig.brought(BackupSummary { origin, why: Why::Replica, meant, ..summary(1, guest(1), BEGIN) });
    rig.by_hand = true;
    right(&mut rig, Right::Here);
    right(&mut rig, Right::Waits);
    rig.by_hand = false;
    let task = rig.running(|task| matches!(task, Task::Restore { .. }));
    rig.succeed(task);
    rig.peers(vec![peer(2)]);
    rig.follow(1, often());
    rig.live(60_000);
    assert_eq!(rig.points(1), [], "what stands still has nothing new");
    right(&mut rig, Right::Here);
    rig.live(60_000);
    assert_eq!((starts(&rig), rig.guests[&guest(1)]), (0, PowerState::Off));
    assert_eq!((rig.kept.wishes[&guest(1)].power, restored(&rig).len()), (Power::Stopped, 1));
    assert!(rig.agent.backups.sets.of(guest(1)).all(|point| point.meant == Meant::StayOff));
}

#[test]
fn a_host_without_a_lease_makes_no_points_that_would_pass_for_newer_than_those_of_who_has_it() {
    let mut rig = Rig::new(1);
    rig.peers(vec![peer(2)]);
    rig.command(1, Verb::Manage { power: Power::Running });
    rig.follow(1, BackupPolicy { replica: often().replica, ..policy("hourly") });
    right(&mut rig, Right::Here);
    rig.live(60_000);
    let made = |rig: &Rig| rig.log.iter().filter(|line| line.starts_with("run Backup")).count();
    let before = made(&rig);
    assert!(before > 1, "{:?}", rig.log);
    rig.set_state(1, PowerState::Paused);
    right(&mut rig, Right::Waits);
    rig.live(2 * HOUR);
    assert_eq!(made(&rig), before);
    rig.set_state(1, PowerState::Running);
    right(&mut rig, Right::Here);
    rig.live(HOUR);
    assert!(made(&rig) > before + 10);
}

/// Numbers of the guests whose takeover or start is under way.
fn under_way(rig: &Rig) -> Vec<u128> {
    let is_start = |task: &Task| matches!(task, Task::Restore { .. } | Task::Start { .. });
    let begun = |task: &Task| is_start(task).then(|| u128::from_be_bytes(task.guest().bytes()));
    rig.tasks.values().filter_map(|(task, _)| begun(task)).collect()
}

#[test]
fn twenty_guests_of_a_dead_host_come_back_a_few_at_a_time_those_that_others_need_first_and_what_was_off_last() {
    let mut rig = Rig::new(0);
    rig.guarded = true;
    rig.restart();
    // Six of priority 5 in the middle; the first two of them were off.
    let priority = |number: u128| if (8..14).contains(&number) { 5 } else { 0 };
    for number in 1..=20 {
        let meant = if (8..10).contains(&number) { Meant::StayOff } else { Meant::Run };
        let (origin, why, priority) = (HostId::from_u128(2), Why::Replica, priority(number));
        rig.brought(BackupSummary { origin, why, meant, priority, ..summary(number, guest(number), BEGIN) });
    }
    rig.by_hand = true;
    rig.tell(Event::Rights { guests: (1..=20).map(|number| (guest(number), Right::Here)).collect() });
    let mut order = Vec::new();
    while let Some((task, what)) = rig.tasks.iter().map(|(id, (what, _))| (*id, what.clone())).next() {
        let now = under_way(&rig);
        let high = now.iter().filter(|number| priority(**number) == 5).count();
        assert!(now.len() <= 4 && (high == 0 || high == now.len()), "{now:?}");
        if matches!(what, Task::Start { .. }) {
            order.push(u128::from_be_bytes(what.guest().bytes()));
        }
        rig.succeed(task);
        rig.live(1_000);
    }
    assert_eq!((order.len(), &order[..4]), (18, &[10, 11, 12, 13][..]));
    let states = |state| rig.guests.values().filter(|seen| **seen == state).count();
    assert_eq!((states(PowerState::Running), states(PowerState::Off)), (18, 2), "{:?}", rig.guests);
}

#[test]
fn a_busy_host_starts_one_guest_at_a_time() {
    let mut rig = Rig::new(0);
    rig.by_hand = true;
    rig.pressure(10_000);
    for number in 1..=3 {
        let (origin, why) = (HostId::from_u128(2), Why::Replica);
        rig.brought(BackupSummary { origin, why, ..summary(number, guest(number), BEGIN) });
    }
    rig.tell(Event::Rights { guests: (1..=3).map(|number| (guest(number), Right::Here)).collect() });
    assert_eq!(under_way(&rig).len(), 1);
}

#[test]
fn a_start_that_hangs_holds_up_the_others_for_some_seconds_only() {
    let mut rig = Rig::new(0);
    rig.by_hand = true;
    rig.pressure(10_000);
    for number in 1..=2 {
        let (origin, why, priority) = (HostId::from_u128(2), Why::Replica, 2 - u32::try_from(number).unwrap());
        rig.brought(BackupSummary { origin, why, priority, ..summary(number, guest(number), BEGIN) });
    }
    rig.tell(Event::Rights { guests: (1..=2).map(|number| (guest(number), Right::Here)).collect() });
    rig.live(10_000);
    assert_eq!(under_way(&rig), [1]);
    rig.live(6_000);
    assert_eq!(under_way(&rig), [1, 2]);
}

/// Guest 1, which others need and which is probed, and guest 2, both taken over; 30 s later.
fn one_that_others_need() -> Rig {
    let mut rig = Rig::new(0);
    for (number, priority) in [(1, 5), (2, 0)] {
        let (origin, why) = (HostId::from_u128(2), Why::Replica);
        rig.brought(BackupSummary { origin, why, priority, ..summary(number, guest(number), BEGIN) });
    }
    let probes = vec![GuestProbes { guest: guest(1), probes: vec!["ping://192.0.2.7".into()] }];
    let (peers, shares) = (Vec::new(), Vec::new());
    rig.tell(Event::Received(ToAgent::Peers { peers, shares, maintenance: None, zone: None, probes, memory: None }));
    rig.tell(Event::Rights { guests: [1, 2].map(|number| (guest(number), Right::Here)).into() });
    rig.live(30_000);
    rig
}

/// The host tried the door of guest 1.
fn door(rig: &mut Rig, up: bool) {
    let answer = if up { Answer::Ok } else { Answer::TimedOut };
    let access = Access { probe: "ping://192.0.2.7".into(), up, answer, rtt_ms: None, since: Stamp(rig.wall) };
    let sample = GuestSample {
        id: guest(1),
        cpu_permille: 0,
        resident_mib: MiB(64),
        read_bps: 0,
        write_bps: 0,
        balloon_mib: None,
        available_mib: None,
        access: vec![access],
        receive_bps: 0,
        transmit_bps: 0,
    };
    rig.tell(Event::Sampled { host: HostSample::default(), guests: vec![sample] });
}

#[test]
fn a_guest_that_others_need_is_waited_for_until_it_answers() {
    let mut rig = one_that_others_need();
    door(&mut rig, false);
    rig.live(30_000);
    assert_eq!((starts(&rig), rig.guests.get(&guest(2))), (1, None));
    let told = |rig: &Rig| rig.log.iter().filter(|line| line.contains("wait until it answers")).count();
    assert_eq!(told(&rig), 1);
    let notes = rig.agent.chain.tell(true);
    let waits: Vec<_> = notes.iter().filter(|note| note.kind == NoteKind::Waits).collect();
    assert_eq!(waits.iter().map(|note| note.ward).collect::<Vec<_>>(), [ward_of(guest(2))]);
    assert!(waits[0].text.contains(&guest(1).to_string()), "{waits:?}");
    door(&mut rig, true);
    rig.live(5_000);
    assert_eq!((starts(&rig), rig.guests[&guest(2)]), (2, PowerState::Running));
}

#[test]
fn a_guest_that_others_need_and_that_never_answers_holds_them_up_once_and_not_for_long() {
    let mut rig = one_that_others_need();
    rig.live(80_000);
    assert_eq!(starts(&rig), 1);
    rig.live(20_000);
    assert_eq!((starts(&rig), rig.guests[&guest(2)]), (2, PowerState::Running));
    assert!(rig.log.iter().any(|line| line.contains("started all the same")), "{:?}", rig.log);
    // It crashes again and again: nobody waits any more.
    rig.set_state(1, PowerState::Crashed);
    rig.live(10_000);
    rig.set_state(1, PowerState::Crashed);
    rig.live(30_000);
    let before = starts(&rig);
    rig.set_state(2, PowerState::Crashed);
    rig.live(10_000);
    assert_eq!((starts(&rig), rig.guests[&guest(2)]), (before + 1, PowerState::Running));
}

#[test]
fn a_takeover_that_fails_or_that_the_agent_dies_in_is_done_again_and_nothing_is_started_before() {
    let mut rig = Rig::new(0);
    rig.guarded = true;
    rig.restart();
    replica(&mut rig, 7, BEGIN + 1_000);
    rig.by_hand = true;
    right(&mut rig, Right::Here);
    let task = rig.running(|task| matches!(task, Task::Restore { .. }));
    rig.fail(task, FailureCode::HypervisorAway);
    assert_eq!((rig.tasks.len(), starts(&rig)), (0, 0), "not at once");
    rig.live(5_000);
    rig.running(|task| matches!(task, Task::Restore { .. }));
    rig.restart();
    assert_eq!(rig.tasks.len(), 0);
    right(&mut rig, Right::Here);
    rig.by_hand = false;
    rig.live(5_000);
    assert_eq!((restored(&rig).len(), rig.guests[&guest(1)]), (3, PowerState::Running));
}

#[test]
fn its_own_disks_are_started_unless_another_host_ran_it_later() {
    let mut rig = Rig::new(1);
    own(&mut rig);
    replica(&mut rig, 1, BEGIN);
    right(&mut rig, Right::Waits);
    rig.live(60_000);
    assert_eq!(rig.guests[&guest(1)], PowerState::Off);
    right(&mut rig, Right::Here);
    rig.live(5_000);
    assert_eq!((restored(&rig), rig.guests[&guest(1)]), (vec![], PowerState::Running), "the replica is older");
}

#[test]
fn a_guest_that_was_deleted_after_its_takeover_does_not_come_back_from_old_points() {
    let mut rig = Rig::new(0);
    replica(&mut rig, 1, BEGIN);
    right(&mut rig, Right::Here);
    rig.live(5_000);
    assert_eq!(restored(&rig).len(), 1);
    rig.guests.clear();
    rig.guarded = true;
    rig.restart();
    right(&mut rig, Right::Here);
    rig.live(60_000);
    assert_eq!((restored(&rig).len(), rig.guests.len()), (1, 0));
}

#[test]
fn disks_that_a_newer_replica_replaces_are_kept_as_a_branch_first() {
    let mut rig = Rig::new(1);
    own(&mut rig);
    let later = rig.wall + 1_000;
    replica(&mut rig, 9, later);
    rig.broken = Some(FailureCode::NoSpace);
    right(&mut rig, Right::Here);
    rig.live(HOUR);
    assert_eq!((restored(&rig), starts(&rig)), (vec![], 0), "nothing is given up for the sake of a start");
    rig.broken = None;
    rig.live(60_000);
    assert_eq!((restored(&rig), rig.guests[&guest(1)]), (vec![PointId::from_u128(9)], PowerState::Running));
    assert!(rig.agent.backups.sets.of(guest(1)).any(|point| point.why == Why::Branch));
}

#[test]
fn a_ward_that_was_won_with_nothing_to_start_from_is_told_until_there_is_something_or_it_is_lost() {
    let mut rig = Rig::new(0);
    right(&mut rig, Right::Here);
    rig.live(1_000);
    assert_eq!(rig.alarms(), ["takeover-no-copy"]);
    replica(&mut rig, 5, BEGIN);
    rig.live(10_000);
    assert_eq!((rig.alarms(), rig.guests[&guest(1)]), (Vec::<String>::new(), PowerState::Running));
    let mut rig = Rig::new(0);
    right(&mut rig, Right::Here);
    rig.live(1_000);
    right(&mut rig, Right::Elsewhere);
    rig.live(1_000);
    assert_eq!(rig.alarms(), [""; 0]);
}
