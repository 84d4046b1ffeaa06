//! A guest is handed over with nothing lost, or goes on where it was.

use roost_protocol::backup::{BackupPolicy, Meant, ReplicaPolicy, Why};
use roost_protocol::failover::{Council, Voter, WardReport};
use roost_protocol::guest::{Power, PowerState};
use roost_protocol::operation::{FailureCode, Verb};
use roost_protocol::{Generation, HostId, Millis, OperationId};

use super::rig::{OWN, Rig, guest, peer};
use crate::event::{Event, Task};
use crate::failover::GuardSeen;
use crate::right::Right;

const KEEPER: HostId = HostId::from_u128(2);
/// Longer than all of a hand-over takes.
const ALL: u64 = 60_000;
const SHUTDOWN: Millis = Millis(5_000);

fn right(rig: &mut Rig, right: Right) {
    rig.tell(Event::Rights { guests: [(guest(1), right)].into() });
}

/// What the guard tells: this host owns the ward, and the keeper is its second home.
fn guard(rig: &mut Rig) {
    let voter = |number| Voter { host: HostId::from_u128(number), incarnation: 1 };
    let voters = vec![voter(1), voter(2), voter(3)];
    let council = Council { guest: guest(1), voters, homes: vec![OWN, KEEPER] };
    let wards = vec![WardReport { council, settled: true }];
    let (key, listen) = ([0; 32], String::new());
    let seen = GuardSeen { incarnation: 1, key, listen, may_own: true, wards, ..GuardSeen::default() };
    rig.tell(Event::GuardSeen(Box::new(seen)));
    right(rig, Right::Here);
}

/// A running guest whose second home has a replica of it.
fn protected() -> Rig {
    let mut rig = Rig::new(1);
    rig.guarded = true;
    rig.restart();
    rig.peers(vec![peer(2)]);
    guard(&mut rig);
    rig.command(1, Verb::Manage { power: Power::Running });
    let replica = ReplicaPolicy { host: None, every: Millis(30_000), max_lag: Millis(90_000), failover: true };
    rig.follow(1, BackupPolicy { generation: Generation(1), replica: Some(replica), ..BackupPolicy::default() });
    rig.live(10_000);
    rig
}

fn hand_over(rig: &mut Rig) -> OperationId {
    rig.log.clear();
    rig.command(1, Verb::HandOver { shutdown_ms: SHUTDOWN })
}

fn releases(rig: &Rig) -> bool {
    rig.guard.release.contains(&guest(1))
}

fn steps(rig: &Rig) -> Vec<&str> {
    let first = |line: &String| {
        ["run Backup", "run Shutdown", "run ForceOff", "run Ship", "run Start"]
            .into_iter()
            .find(|step| line.starts_with(step))
    };
    rig.log.iter().filter_map(first).map(|step| &step[4..]).collect()
}

/// It is this host's as before, and runs.
fn goes_on_here(rig: &mut Rig, operation: OperationId, why: FailureCode) {
    assert_eq!(rig.outcome(operation), Some(Some(why)));
    rig.live(ALL);
    assert_eq!((rig.guests[&guest(1)], releases(rig)), (PowerState::Running, false));
    assert_eq!(rig.kept.wishes[&guest(1)].power, Power::Running);
}

#[test]
fn it_is_given_up_only_once_the_other_host_has_what_it_wrote_until_it_was_off() {
    let mut rig = protected();
    let operation = hand_over(&mut rig);
    rig.live(SHUTDOWN.0 + 3_500);
    assert_eq!(steps(&rig), ["Backup", "Ship", "Shutdown", "ForceOff", "Backup"], "it does not listen");
    assert!(!releases(&rig), "the last delta is not there yet");
    rig.live(5_000);
    assert_eq!(steps(&rig), ["Backup", "Ship", "Shutdown", "ForceOff", "Backup", "Ship"]);
    assert!(releases(&rig));
    assert_eq!(rig.outcome(operation), None);
    right(&mut rig, Right::Waits);
    right(&mut rig, Right::Elsewhere);
    assert_eq!((rig.outcome(operation), releases(&rig)), (Some(None), false));
    rig.live(ALL);
    assert_eq!((rig.guests[&guest(1)], rig.kept.wishes.get(&guest(1))), (PowerState::Off, None));
    assert_eq!(steps(&rig).len(), 6, "no branch is made of what the other host has: {:?}", rig.log);
    assert!(rig.agent.backups.sets.of(guest(1)).all(|point| point.why == Why::Replica));
}

#[test]
fn whatever_goes_wrong_before_it_is_given_up_the_guest_goes_on_where_it_was() {
    // A copy that comes to nothing while it runs: it is never shut down.
    let mut rig = protected();
    rig.peers_gone = true;
    let operation = hand_over(&mut rig);
    rig.live(ALL);
    assert!(!steps(&rig).contains(&"Shutdown"), "{:?}", rig.log);
    goes_on_here(&mut rig, operation, FailureCode::TargetAway);
    // … and once it is off.
    let mut rig = protected();
    let operation = hand_over(&mut rig);
    rig.live(SHUTDOWN.0);
    rig.peers_gone = true;
    rig.live(5_000);
    goes_on_here(&mut rig, operation, FailureCode::TargetAway);
    // The last delta can't be made.
    let mut rig = protected();
    let operation = hand_over(&mut rig);
    rig.live(SHUTDOWN.0);
    rig.broken = Some(FailureCode::NoSpace);
    rig.live(5_000);
    goes_on_here(&mut rig, operation, FailureCode::TargetAway);
    // Whoever has it hangs.
    let mut rig = protected();
    let operation = hand_over(&mut rig);
    rig.live(SHUTDOWN.0 + 3_500);
    rig.by_hand = true;
    rig.live(4 * ALL);
    assert_eq!(rig.outcome(operation), Some(Some(FailureCode::TimedOut)));
    assert!(!releases(&rig));
    // The lease ends meanwhile.
    let mut rig = protected();
    let operation = hand_over(&mut rig);
    rig.live(3_000);
    right(&mut rig, Right::Waits);
    assert_eq!(rig.outcome(operation), Some(Some(FailureCode::WrongState)));
}

#[test]
fn where_nobody_takes_it_it_comes_back() {
    let mut rig = protected();
    let operation = hand_over(&mut rig);
    rig.live(20_000);
    assert!(releases(&rig));
    right(&mut rig, Right::Waits);
    rig.live(30_000);
    assert_eq!((rig.outcome(operation), releases(&rig)), (None, false), "what it wins back is not given up again");
    right(&mut rig, Right::Here);
    goes_on_here(&mut rig, operation, FailureCode::TargetAway);
}

#[test]
fn an_agent_killed_in_any_step_goes_back_or_finds_it_done() {
    for lived in (500..15_000).step_by(500) {
        let mut rig = protected();
        let operation = hand_over(&mut rig);
        rig.live(lived);
        rig.restart();
        rig.live(1_000);
        assert_eq!((rig.outcome(operation), starts(&rig)), (None, 0), "{lived}: the guard was not heard");
        guard(&mut rig);
        goes_on_here(&mut rig, operation, FailureCode::Interrupted);
    }
    for then in [Right::Waits, Right::Elsewhere] {
        let mut rig = protected();
        let operation = hand_over(&mut rig);
        rig.live(20_000);
        assert!(releases(&rig));
        rig.restart();
        right(&mut rig, then);
        rig.live(1_000);
        right(&mut rig, Right::Elsewhere);
        rig.live(ALL);
        assert_eq!((rig.outcome(operation), starts(&rig)), (Some(None), 0));
        assert_eq!(rig.kept.wishes.get(&guest(1)), None);
    }
}

fn starts(rig: &Rig) -> usize {
    steps(rig).into_iter().filter(|step| *step == "Start").count()
}

/// A guest that its admin switched off.
fn stopped() -> Rig {
    let mut rig = protected();
    rig.command(1, Verb::Stop);
    rig.live(60_000);
    assert_eq!((rig.guests[&guest(1)], rig.kept.wishes[&guest(1)].power), (PowerState::Off, Power::Stopped));
    rig
}

/// What the newest point says that the guest is meant to do.
fn told(rig: &Rig) -> Option<Meant> {
    rig.agent.backups.sets.newest(guest(1)).map(|point| point.meant)
}

#[test]
fn what_was_switched_off_is_handed_over_as_it_is_and_stays_off_also_where_nobody_takes_it() {
    let mut rig = stopped();
    let operation = hand_over(&mut rig);
    rig.live(5_000);
    assert!(releases(&rig), "{:?}", rig.log);
    right(&mut rig, Right::Waits);
    right(&mut rig, Right::Elsewhere);
    assert_eq!((rig.outcome(operation), rig.kept.wishes.get(&guest(1))), (Some(None), None));
    rig.live(ALL);
    assert_eq!(steps(&rig), Vec::<&str>::new(), "its copy was as good as new");
    let mut rig = stopped();
    let operation = hand_over(&mut rig);
    rig.live(5_000);
    right(&mut rig, Right::Waits);
    right(&mut rig, Right::Here);
    assert_eq!(rig.outcome(operation), Some(Some(FailureCode::TargetAway)));
    rig.live(ALL);
    assert_eq!((rig.guests[&guest(1)], rig.kept.wishes[&guest(1)].power), (PowerState::Off, Power::Stopped));
}

#[test]
fn the_host_with_its_copy_is_told_what_a_guest_is_meant_to_do_soon_and_again_before_it_takes_that_for_too_old() {
    let mut rig = protected();
    assert_eq!(told(&rig), Some(Meant::Run));
    // Its host does so for an instant when all its data is here.
    rig.set_state(1, PowerState::Paused);
    assert_eq!(rig.agent.meant(guest(1)), Meant::Run);
    rig.live(60_000);
    assert_eq!(told(&rig), Some(Meant::Pause));
    rig.set_state(1, PowerState::Running);
    rig.live(60_000);
    assert_eq!(told(&rig), Some(Meant::Run));
    let mut rig = stopped();
    assert_eq!(told(&rig), Some(Meant::StayOff));
    rig.log.clear();
    rig.live(4 * 3_600_000);
    assert_eq!(steps(&rig).iter().filter(|step| **step == "Ship").count(), 8, "once in half an hour");
    rig.command(1, Verb::Start);
    rig.live(60_000);
    assert_eq!(told(&rig), Some(Meant::Run));
}

#[test]
fn a_guest_that_its_host_pauses_for_an_instant_is_handed_over_all_the_same_and_nothing_is_done_to_it_meanwhile() {
    let mut rig = protected();
    rig.set_state(1, PowerState::Paused);
    let operation = hand_over(&mut rig);
    rig.live(2_000);
    assert!(!steps(&rig).contains(&"Shutdown"), "{:?}", rig.log);
    rig.set_state(1, PowerState::Running);
    rig.live(5_000);
    assert!(steps(&rig).contains(&"Shutdown") && rig.outcome(operation).is_none(), "{:?}", rig.log);
    let mut rig = protected();
    rig.set_state(1, PowerState::Paused);
    let operation = hand_over(&mut rig);
    rig.live(10_000);
    assert_eq!(rig.outcome(operation), Some(Some(FailureCode::WrongState)), "its user did");
    assert!(!steps(&rig).contains(&"Shutdown"), "{:?}", rig.log);
}

#[test]
fn a_lease_that_is_away_for_a_moment_is_waited_for_but_not_for_long() {
    let mut rig = protected();
    right(&mut rig, Right::Waits);
    let operation = hand_over(&mut rig);
    rig.live(10_000);
    assert_eq!((rig.outcome(operation), steps(&rig)), (None, Vec::new()));
    right(&mut rig, Right::Here);
    rig.live(20_000);
    assert!(releases(&rig), "{:?}", rig.log);
    let mut rig = protected();
    right(&mut rig, Right::Waits);
    let operation = hand_over(&mut rig);
    rig.live(ALL);
    assert_eq!(rig.outcome(operation), Some(Some(FailureCode::WrongState)));
    // Until then it can be left.
    let mut rig = protected();
    right(&mut rig, Right::Waits);
    let operation = hand_over(&mut rig);
    rig.live(5_000);
    rig.cancel(operation);
    assert_eq!(rig.outcome(operation), Some(Some(FailureCode::Cancelled)));
}

#[test]
fn what_can_t_be_handed_over_is_refused_with_the_reason_and_not_touched() {
    let check = |spoil: fn(&mut Rig), code: FailureCode| {
        let mut rig = protected();
        spoil(&mut rig);
        rig.log.clear();
        let refused = rig.refused(1, Verb::HandOver { shutdown_ms: SHUTDOWN });
        assert_eq!(refused, code);
        assert!(!steps(&rig).contains(&"Shutdown"));
    };
    check(|rig| rig.set_state(1, PowerState::Off), FailureCode::WrongState);
    let paused = |rig: &mut Rig| {
        rig.set_state(1, PowerState::Paused);
        rig.live(5_000);
    };
    check(paused, FailureCode::WrongState);
    check(
        |rig| rig.follow(1, BackupPolicy { generation: Generation(2), ..BackupPolicy::default() }),
        FailureCode::WrongState,
    );
    check(|rig| rig.tell(Event::StoreAway { why: "no disk".into() }), FailureCode::NoSpace);
}

#[test]
fn it_can_be_cancelled_until_it_is_shut_down() {
    let mut rig = protected();
    let operation = hand_over(&mut rig);
    rig.live(500);
    rig.cancel(operation);
    goes_on_here(&mut rig, operation, FailureCode::Cancelled);
    let mut rig = protected();
    let operation = hand_over(&mut rig);
    rig.live(4_000);
    rig.cancel(operation);
    assert_eq!(rig.outcome(operation), None);
}

#[test]
fn a_guest_that_comes_back_is_started_from_the_other_host_s_last_point_with_no_branch_before() {
    let mut rig = protected();
    hand_over(&mut rig);
    rig.live(20_000);
    right(&mut rig, Right::Elsewhere);
    rig.live(ALL);
    let at = rig.wall;
    rig.brought(roost_protocol::backup::BackupSummary {
        origin: KEEPER,
        why: Why::Replica,
        ..super::rig::summary(77, guest(1), at)
    });
    rig.restart();
    rig.log.clear();
    right(&mut rig, Right::Here);
    rig.live(5_000);
    assert_eq!(rig.guests[&guest(1)], PowerState::Running);
    assert!(rig.log.iter().any(|line| line.starts_with("run Restore")));
    assert!(rig.agent.backups.sets.of(guest(1)).all(|point| point.why == Why::Replica), "{:?}", rig.log);
    assert!(!rig.kept.runs[&guest(1)].handed_over, "what it writes now no other host was given");
    let restored = |task: &Task| matches!(task, Task::Pull { .. });
    assert!(rig.tasks.values().all(|(task, _)| restored(task)) || rig.tasks.is_empty());
}
