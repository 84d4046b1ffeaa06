//! Restores: as it was, as new, at once, and what is refused.

use roost_protocol::backup::{RestoreAs, RestoreOrder, Share, Target};
use roost_protocol::guest::{Power, PowerState};
use roost_protocol::host::Maintenance;
use roost_protocol::message::ToAgent;
use roost_protocol::operation::{FailureCode, Verb};
use roost_protocol::probe::{GuestProbes, PROBES};
use roost_protocol::{HostId, PointId};

use super::rig::{HOUR, Rig, guest, policy};
use crate::event::{Event, Made, Task};

fn rig() -> Rig {
    let mut rig = Rig::new(1);
    rig.follow(1, policy("hourly"));
    rig.live(3 * HOUR + 2_000);
    rig
}

fn order(point: PointId, to_be: RestoreAs) -> RestoreOrder {
    RestoreOrder { set: guest(1), point, from: Target::Local, to_be, start: true, at_once: false }
}

fn restore(order: RestoreOrder) -> Verb {
    Verb::Restore { order: Box::new(order) }
}

fn as_new(name: &str) -> RestoreAs {
    RestoreAs::AsNew { name: name.into(), hostname: None, windows_name: None, domain: None }
}

#[test]
fn as_it_was_is_refused_while_the_original_runs_and_done_when_it_is_off() {
    let mut rig = rig();
    let point = rig.points(1)[0];
    assert_eq!(rig.refused(1, restore(order(point, RestoreAs::AsItWas))), FailureCode::WrongState);
    rig.set_state(1, PowerState::Off);
    let operation = rig.command(1, restore(order(point, RestoreAs::AsItWas)));
    rig.live(5_000);
    assert_eq!((rig.outcome(operation), rig.guests[&guest(1)]), (Some(None), PowerState::Running));
    // What is built upon the old disks would be wrong: the next one reads all.
    rig.live(HOUR);
    assert!(rig.log.iter().rev().find(|line| line.starts_with("run Backup")).unwrap().contains("full: true"));
}

#[test]
fn as_new_makes_a_managed_guest_beside_the_running_original() {
    let mut rig = rig();
    let point = rig.points(1)[2];
    assert_eq!(rig.refused(7, restore(order(point, as_new("guest-1")))), FailureCode::AlreadyExists);
    assert_eq!(rig.refused(7, restore(order(point, as_new("../x")))), FailureCode::Invalid);
    assert_eq!(rig.refused(7, restore(order(PointId::from_u128(3), as_new("new")))), FailureCode::NotFound);
    assert_eq!(rig.refused(7, restore(order(point, RestoreAs::AsItWas))), FailureCode::Invalid);
    let operation = rig.command(7, restore(order(point, as_new("new"))));
    rig.live(5_000);
    assert_eq!(rig.outcome(operation), Some(None));
    assert_eq!(rig.kept.wishes[&guest(7)].power, Power::Running);
    assert_eq!(rig.guests.values().filter(|state| **state == PowerState::Running).count(), 2);
}

#[test]
fn it_ends_once_the_guests_were_read_after_it_was_done_and_not_before() {
    let mut rig = rig();
    let point = rig.points(1)[1];
    (rig.by_hand, rig.lists_late) = (true, true);
    let operation = rig.command(7, restore(RestoreOrder { start: false, ..order(point, as_new("new")) }));
    rig.succeed(rig.running(|task| matches!(task, Task::Restore { .. })));
    rig.list(1);
    assert_eq!(rig.outcome(operation), None, "that was read while it was being done");
    rig.list(0);
    assert_eq!(rig.outcome(operation), Some(None));
}

#[test]
fn a_damaged_point_is_refused_and_the_next_older_one_offered() {
    let mut rig = rig();
    let points = rig.points(1);
    rig.damaged.insert(points[2]);
    rig.command(1, Verb::VerifyBackup { point: Some(points[2]) });
    rig.live(2_000);
    let operation = rig.command(7, restore(order(points[2], as_new("new"))));
    assert_eq!(rig.outcome(operation), Some(Some(FailureCode::Damaged)));
    let record = format!("{:?}", rig.kept.operations[&operation].stage);
    assert!(record.contains(&points[1].to_string()), "{record}");
}

#[test]
fn the_data_of_a_guest_restored_at_once_is_brought_in_whatever_restarts() {
    let mut rig = rig();
    let point = rig.points(1)[1];
    rig.by_hand = true;
    let at_once = RestoreOrder { at_once: true, ..order(point, as_new("new")) };
    let operation = rig.command(7, restore(at_once));
    rig.succeed(rig.running(|task| matches!(task, Task::Restore { .. })));
    // The data is served before the guest is started.
    assert!(rig.place_of("run Pull") < rig.place_of("run Start"));
    rig.succeed(rig.running(|task| matches!(task, Task::Start { .. })));
    assert_eq!(rig.outcome(operation), Some(None));
    // A stop leaves the pull alone; a restart of the agent begins it again; its point is not removed.
    rig.command(7, Verb::Stop);
    assert!(rig.cancelled.is_empty());
    rig.restart();
    let pull = rig.running(|task| matches!(task, Task::Pull { .. }));
    assert_eq!(rig.refused(1, Verb::DeletePoint { point, even_last: true }), FailureCode::Busy);
    rig.tell(Event::Advanced { task: pull, percent: 47, step: String::new() });
    rig.link();
    rig.live(3_000);
    assert_eq!((rig.pulls[0].point, rig.pulls[0].percent, &rig.pulls[0].trouble), (point, 47, &None));
    rig.fail(pull, FailureCode::TargetAway);
    let told = |rig: &Rig, code: &str| rig.alarm_text(code).unwrap_or_default();
    assert!(told(&rig, "restore-pull").contains("it went wrong"), "what is missing is told");
    rig.live(3_000);
    assert!(rig.pulls[0].trouble.is_some());
    rig.live(11_000);
    rig.succeed(rig.running(|task| matches!(task, Task::Pull { .. })));
    rig.live(3_000);
    assert_eq!(rig.pulls, []);
    assert!(
        !rig.alarms().iter().any(|alarm| alarm.starts_with("restore-pull"))
            && rig.kept.runs.get(&guest(7)).is_none_or(|run| run.pull.is_none())
    );
}

#[test]
fn what_is_still_brought_in_is_told_before_the_restore_ends() {
    for start in [true, false] {
        let mut rig = rig();
        let point = rig.points(1)[1];
        rig.link();
        rig.log.clear();
        let operation = rig.command(7, restore(RestoreOrder { at_once: true, start, ..order(point, as_new("new")) }));
        rig.live(3_000);
        assert_eq!(rig.outcome(operation), Some(None));
        assert!(rig.place_of("pulls 1") < rig.place_of("outcome"), "{:?}", rig.log);
    }
}

#[test]
fn what_others_may_read_here_is_kept_and_told_and_stays() {
    let mut rig = rig();
    let point = rig.points(1)[0];
    rig.link();
    let share = Share { point, with: HostId::from_u128(9) };
    rig.tell(Event::Received(ToAgent::Peers {
        peers: Vec::new(),
        shares: vec![share],
        maintenance: None,
        zone: None,
        probes: Vec::new(),
        memory: None,
    }));
    assert_eq!(rig.refused(1, Verb::DeletePoint { point, even_last: true }), FailureCode::Busy);
    rig.restart();
    rig.link();
    rig.live(3_000);
    assert_eq!(rig.told_shares, [share], "an aggregator that lost all hears of it");
    assert_eq!(rig.refused(1, Verb::DeletePoint { point, even_last: true }), FailureCode::Busy);
    rig.tell(Event::Received(ToAgent::Peers {
        peers: Vec::new(),
        shares: Vec::new(),
        maintenance: None,
        zone: None,
        probes: Vec::new(),
        memory: None,
    }));
    let deleted = rig.command(1, Verb::DeletePoint { point, even_last: true });
    rig.live(3_000);
    assert_eq!(rig.outcome(deleted), Some(None));
}

#[test]
fn what_the_aggregator_said_of_a_host_holds_until_it_says_otherwise() {
    let mut rig = rig();
    let told = |maintenance, probes| {
        let (peers, shares) = (Vec::new(), Vec::new());
        Event::Received(ToAgent::Peers { peers, shares, maintenance, zone: None, probes, memory: None })
    };
    let door = |number: usize| format!("tcp://192.0.2.7:{number}");
    assert_eq!(rig.agent.maintenance(), None);
    rig.link();
    let many = GuestProbes { guest: guest(1), probes: (0..99).map(door).collect() };
    rig.tell(told(Some(Maintenance::Draining), vec![many]));
    let few = GuestProbes { guest: guest(1), probes: (0..PROBES).map(door).collect() };
    assert_eq!(rig.agent.maintenance(), Some(Maintenance::Draining));
    rig.restart();
    assert_eq!(rig.agent.maintenance(), Some(Maintenance::Draining), "the aggregator may be away");
    assert_eq!(rig.agent.probes(), [few]);
    rig.link();
    rig.tell(told(None, Vec::new()));
    rig.restart();
    assert_eq!((rig.agent.maintenance(), rig.agent.probes()), (None, &[][..]));
}

#[test]
fn an_interrupted_restore_is_begun_again_and_one_that_was_whole_is_not() {
    let mut rig = rig();
    let point = rig.points(1)[1];
    rig.by_hand = true;
    let operation = rig.command(7, restore(order(point, as_new("new"))));
    rig.restart();
    rig.running(|task| matches!(task, Task::Restore { .. }));
    rig.guests.insert(guest(7), PowerState::Off);
    rig.restart();
    assert!(!rig.tasks.values().any(|(task, _)| matches!(task, Task::Restore { .. })));
    rig.by_hand = false;
    rig.live(3_000);
    assert_eq!((rig.outcome(operation), rig.guests[&guest(7)]), (Some(None), PowerState::Running));
    let _ = Made::Nothing;
}

#[test]
fn a_point_that_is_being_removed_is_not_restored_from() {
    let mut rig = rig();
    let point = rig.points(1)[0];
    rig.by_hand = true;
    rig.command(1, Verb::DeletePoint { point, even_last: false });
    let operation = rig.command(7, restore(order(point, as_new("new"))));
    assert_eq!(rig.outcome(operation), None, "it waits");
    rig.succeed(rig.running(|task| matches!(task, Task::Prune { .. })));
    rig.live(1_000);
    assert_eq!(rig.outcome(operation), Some(Some(FailureCode::NotFound)));
}
