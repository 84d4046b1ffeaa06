//! What a guest is started from where its ward was won.

use roost_protocol::backup::{BackupSummary, Why};
use roost_protocol::guest::{Power, PowerState};
use roost_protocol::operation::{FailureCode, Verb};
use roost_protocol::{HostId, PointId};

use super::rig::{BEGIN, HOUR, Rig, guest, policy, summary};
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
