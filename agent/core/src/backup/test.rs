//! Backups of one host, driven through the agent's one door. Nothing sleeps; tasks end when the test says so.

mod branches;
mod handovers;
mod peers;
mod replicas;
mod restores;
mod rig;
mod takeovers;

use roost_protocol::backup::{BackupOptions, PointQuery, Proof, ProofPolicy, Retention, Why};
use roost_protocol::guest::PowerState;
use roost_protocol::host::Pressure;
use roost_protocol::operation::{FailureCode, Verb};
use roost_protocol::{GuestId, Millis, PointId, Stamp};

use super::plan::Limits;
use crate::event::{Event, Task};
use rig::{HOUR, Rig, guest, policy};

#[test]
fn guests_are_backed_up_by_schedule_with_no_aggregator_and_after_a_restart() {
    let mut rig = Rig::new(2);
    rig.follow(1, policy("hourly"));
    rig.live(5 * HOUR + 10_000);
    assert_eq!((rig.points(1).len(), rig.points(2).len()), (5, 0));
    rig.restart();
    rig.live(3 * HOUR);
    assert_eq!(rig.points(1).len(), 8);
    assert_eq!(rig.alarms(), [""; 0]);
}

#[test]
fn what_was_missed_while_the_host_was_off_is_made_up_once() {
    let mut rig = Rig::new(1);
    rig.follow(1, policy("hourly"));
    rig.live(2 * HOUR + 10_000);
    rig.sleep(30 * HOUR);
    rig.restart();
    rig.live(1_000);
    assert_eq!(rig.points(1).len(), 3);
    rig.live(HOUR);
    assert_eq!(rig.points(1).len(), 4);
}

#[test]
fn fifty_guests_due_at_once_run_two_at_a_time_and_all_get_their_turn() {
    let mut rig = Rig::new(50);
    for number in 1..=50 {
        rig.follow(number, policy("daily"));
    }
    rig.live(24 * HOUR + 3_600_000);
    assert!((1..=50).all(|number| rig.points(number).len() == 1));
    assert_eq!(rig.most_at_once, Limits::default().backups);
}

#[test]
fn a_stop_is_never_held_up_and_the_backup_is_made_again_of_the_guest_that_is_off() {
    let mut rig = Rig::new(1);
    rig.by_hand = true;
    let backup = rig.command(1, Verb::Backup { options: BackupOptions::default() });
    let first = rig.running(|task| matches!(task, Task::Backup { .. }));
    let stop = rig.command(1, Verb::Stop);
    let (cancel, off) = (rig.place_of("cancel"), rig.place_of("run ForceOff"));
    assert!(cancel < off, "{:?}", rig.log);
    let off = rig.running(|task| matches!(task, Task::ForceOff { .. }));
    rig.set_state(1, PowerState::Off);
    rig.succeed(off);
    assert_eq!(rig.outcome(stop), Some(None));
    rig.fail(first, FailureCode::Cancelled);
    assert_eq!(rig.outcome(backup), None, "it waits for its second try");
    let second = rig.running(|task| matches!(task, Task::Backup { .. }));
    rig.succeed(second);
    assert_eq!(rig.outcome(backup), Some(None));
}

#[test]
fn a_start_cancels_a_backup_of_the_guest_while_off_before_the_disks_change() {
    for behind_our_back in [false, true] {
        let mut rig = Rig::new(1);
        rig.by_hand = true;
        rig.set_state(1, PowerState::Off);
        rig.command(1, Verb::Backup { options: BackupOptions::default() });
        let task = rig.running(|task| matches!(task, Task::Backup { .. }));
        if behind_our_back {
            rig.set_state(1, PowerState::Running);
        } else {
            rig.command(1, Verb::Start);
            assert!(rig.place_of("cancel") < rig.place_of("run Start"));
        }
        assert!(rig.cancelled.contains(&task));
    }
}

#[test]
fn a_backup_that_waits_for_a_place_holds_up_no_stop() {
    let mut rig = Rig::new(4);
    rig.by_hand = true;
    for number in 1..=4 {
        rig.command(number, Verb::Backup { options: BackupOptions::default() });
    }
    let stop = rig.command(4, Verb::Stop);
    let off = rig.running(|task| matches!(task, Task::ForceOff { .. }));
    rig.set_state(4, PowerState::Off);
    rig.succeed(off);
    assert_eq!(rig.outcome(stop), Some(None));
}

#[test]
fn a_guest_that_crashes_under_its_backup_is_started_again_at_once() {
    let mut rig = Rig::new(1);
    let manage = Verb::Manage { power: roost_protocol::guest::Power::Running };
    rig.command(1, manage);
    rig.by_hand = true;
    rig.command(1, Verb::Backup { options: BackupOptions::default() });
    rig.set_state(1, PowerState::Off);
    rig.live(2_000);
    rig.running(|task| matches!(task, Task::Start { .. }));
}

#[test]
fn failures_are_told_tried_again_with_growing_waits_and_forgotten_after_a_success() {
    let mut rig = Rig::new(1);
    rig.follow(1, policy("hourly"));
    rig.broken = Some(FailureCode::NoSpace);
    rig.live(2 * HOUR - 1);
    assert_eq!(rig.alarms(), ["backup-failed"]);
    // After 0, 1, 3, 7, 15, 31 and 63 minutes of the first hour due.
    assert_eq!(rig.tries, 6);
    rig.live(HOUR + 1);
    assert_eq!(rig.alarms(), ["backup-failed", "backup-late"]);
    rig.restart();
    assert_eq!(rig.alarms(), ["backup-failed", "backup-late"]);
    rig.broken = None;
    rig.live(HOUR);
    assert_eq!(rig.alarms(), [""; 0]);
}

#[test]
fn a_clock_that_leaps_ahead_and_back_neither_stops_backups_nor_makes_a_storm() {
    let mut rig = Rig::new(1);
    rig.follow(1, policy("hourly"));
    rig.live(3 * HOUR + 10_000);
    rig.wall += 2 * 365 * 24 * HOUR;
    rig.live(2 * HOUR);
    let made = rig.points(1).len();
    assert!((5..=6).contains(&made), "{made}");
    rig.wall -= 2 * 365 * 24 * HOUR;
    rig.live(3 * HOUR);
    assert_eq!(rig.points(1).len(), made + 3);
    assert_eq!(rig.alarms(), [""; 0]);
}

#[test]
fn retention_is_applied_after_each_backup_and_spares_what_is_read() {
    let mut rig = Rig::new(1);
    let retention = Retention { last: 3, ..Retention::default() };
    rig.follow(1, roost_protocol::backup::BackupPolicy { retention, ..policy("hourly") });
    rig.live(10 * HOUR + 10_000);
    assert_eq!(rig.points(1).len(), 3);
    let oldest = rig.points(1)[0];
    assert_eq!(
        rig.refused(1, Verb::DeletePoint { point: PointId::from_u128(1), even_last: false }),
        FailureCode::NotFound
    );
    let pin = rig.command(1, Verb::PinPoint { point: oldest, pinned: true });
    rig.live(5 * HOUR);
    assert_eq!((rig.outcome(pin), rig.points(1).len(), rig.points(1)[0]), (Some(None), 4, oldest));
    assert_eq!(rig.refused(1, Verb::DeletePoint { point: oldest, even_last: false }), FailureCode::WrongState);
    let newest = rig.points(1)[3];
    let delete = rig.command(1, Verb::DeletePoint { point: newest, even_last: false });
    rig.live(1_000);
    assert_eq!((rig.outcome(delete), rig.points(1).len()), (Some(None), 3));
}

#[test]
fn the_only_whole_point_is_deleted_only_by_who_means_it() {
    let mut rig = Rig::new(1);
    rig.command(1, Verb::Backup { options: BackupOptions::default() });
    rig.live(1_000);
    let point = rig.points(1)[0];
    assert_eq!(rig.refused(1, Verb::DeletePoint { point, even_last: false }), FailureCode::WrongState);
    let delete = rig.command(1, Verb::DeletePoint { point, even_last: true });
    rig.live(1_000);
    assert_eq!((rig.outcome(delete), rig.points(1).len()), (Some(None), 0));
}

#[test]
fn a_filling_disk_stops_backups_first_and_they_go_on_when_there_is_room() {
    let mut rig = Rig::new(1);
    rig.follow(1, policy("hourly"));
    rig.by_hand = true;
    rig.live(HOUR + 1);
    let task = rig.running(|task| matches!(task, Task::Backup { .. }));
    rig.tell(Event::StoreRoom { total: 1_000, free: 40, used: 0 });
    assert!(rig.cancelled.contains(&task));
    rig.fail(task, FailureCode::Cancelled);
    assert_eq!(rig.alarms(), ["store-filling"]);
    let asked = rig.command(1, Verb::Backup { options: BackupOptions::default() });
    assert_eq!(rig.outcome(asked), Some(Some(FailureCode::NoSpace)));
    rig.live(HOUR / 2);
    assert_eq!(rig.tasks.len(), 0);
    rig.by_hand = false;
    rig.tell(Event::StoreRoom { total: 1_000, free: 500, used: 0 });
    rig.live(1_000);
    assert_eq!((rig.points(1).len(), rig.alarms()), (1, Vec::<String>::new()));
}

#[test]
fn a_store_that_is_away_is_told_and_what_was_due_is_made_when_it_is_back() {
    let mut rig = Rig::new(1);
    rig.follow(1, policy("hourly"));
    rig.tell(Event::StoreAway { why: "no disk".into() });
    rig.live(3 * HOUR);
    assert_eq!((rig.points(1).len(), rig.alarms()), (0, vec!["backup-late".to_owned(), "store-away".to_owned()]));
    rig.open_store();
    rig.live(1_000);
    assert_eq!((rig.points(1).len(), rig.alarms()), (1, Vec::<String>::new()));
}

#[test]
fn an_older_policy_is_refused_the_same_is_nothing_and_nonsense_never_gets_in() {
    let mut rig = Rig::new(1);
    let policy = |generation: u64, expression: &str| roost_protocol::backup::BackupPolicy {
        generation: roost_protocol::Generation(generation),
        ..policy(expression)
    };
    let set = |policy| Verb::SetBackupPolicy { policy: Some(Box::new(policy)) };
    assert_eq!(rig.refused(1, set(policy(4, "25:00"))), FailureCode::Invalid);
    assert_eq!(rig.refused(9, set(policy(4, "daily"))), FailureCode::NotFound);
    let first = rig.command(1, set(policy(5, "daily")));
    let again = rig.command(1, set(policy(5, "hourly")));
    assert_eq!((rig.outcome(first), rig.outcome(again)), (Some(None), Some(None)));
    assert_eq!(rig.refused(1, set(policy(4, "hourly"))), FailureCode::Invalid);
    assert_eq!(rig.kept.policies[&guest(1)], policy(5, "daily"));
    let none = rig.command(1, Verb::SetBackupPolicy { policy: None });
    assert_eq!((rig.outcome(none), rig.kept.policies.len()), (Some(None), 0));
}

#[test]
fn damage_is_told_marked_and_the_next_backup_builds_on_nothing() {
    let mut rig = Rig::new(1);
    rig.follow(1, policy("hourly"));
    rig.live(3 * HOUR + 10_000);
    let newest = rig.points(1)[2];
    rig.damaged.insert(newest);
    let verify = rig.command(1, Verb::VerifyBackup { point: None });
    rig.live(1_000);
    assert_eq!((rig.outcome(verify), rig.alarms()), (Some(None), vec!["backup-damaged".to_owned()]));
    rig.live(HOUR);
    assert!(rig.log.iter().any(|line| line.contains("run Backup") && line.contains("full: true")));
    let delete = rig.command(1, Verb::DeletePoint { point: newest, even_last: false });
    rig.live(1_000);
    assert_eq!((rig.outcome(delete), rig.alarms()), (Some(None), Vec::<String>::new()));
}

#[test]
fn newest_points_are_proven_in_idle_time_and_a_failed_proof_is_told() {
    let mut rig = Rig::new(1);
    let proof = Some(ProofPolicy { every: Millis(6 * HOUR), patience: Millis(60_000) });
    rig.follow(1, roost_protocol::backup::BackupPolicy { proof, ..policy("hourly") });
    rig.live(HOUR + 60_001);
    let proven = |rig: &Rig| {
        rig.agent.backups.sets.of(guest(1)).filter(|point| matches!(point.proof, Proof::Proven { .. })).count()
    };
    assert_eq!(proven(&rig), 1);
    rig.live(12 * HOUR);
    assert_eq!(proven(&rig), 3);
    rig.proofs_fail = true;
    rig.live(7 * HOUR);
    assert_eq!(rig.agent.set_summary(guest(1)).unwrap().proven.map(|(point, _)| point), Some(rig.points(1)[12]));
    assert!(rig.log.iter().any(|line| line.contains("Prove")));
}

#[test]
fn a_host_that_is_always_busy_has_its_points_proven_later_and_one_short_of_memory_boots_none() {
    let mut rig = Rig::new(1);
    let proof = Some(ProofPolicy { every: Millis(2 * HOUR), patience: Millis(60_000) });
    rig.follow(1, roost_protocol::backup::BackupPolicy { proof, ..policy("hourly") });
    let proven = |rig: &Rig| {
        rig.agent.backups.sets.of(guest(1)).filter(|point| matches!(point.proof, Proof::Proven { .. })).count()
    };
    rig.command(1, Verb::Backup { options: BackupOptions::default() });
    rig.pressure(9_000);
    // Backups by schedule wait for an hour each, and give the newest point that the proof waits for.
    rig.live(HOUR);
    assert_eq!(proven(&rig), 0);
    rig.live(12 * HOUR);
    assert!(proven(&rig) >= 2, "{}", proven(&rig));
    let before = proven(&rig);
    rig.pressed(Pressure { memory_centi: 9_000, ..Pressure::default() });
    rig.live(12 * HOUR);
    assert_eq!(proven(&rig), before);
}

#[test]
fn proofs_asked_for_at_once_run_one_at_a_time_and_each_ends() {
    let mut rig = Rig::new(3);
    for number in 1..=3 {
        rig.command(number, Verb::Backup { options: BackupOptions::default() });
    }
    rig.live(10_000);
    rig.by_hand = true;
    let proofs: Vec<_> = (1..=3).map(|number| rig.command(number, Verb::ProveBackup { point: None })).collect();
    for ended in 0..3 {
        assert_eq!(proofs.iter().filter(|proof| rig.outcome(**proof) == Some(None)).count(), ended);
        assert_eq!(rig.tasks.len(), 1);
        let task = rig.running(|task| matches!(task, Task::Prove { .. }));
        rig.succeed(task);
    }
    assert!(proofs.iter().all(|proof| rig.outcome(*proof) == Some(None)));
    rig.by_hand = false;
    rig.proofs_fail = true;
    let failed = rig.command(1, Verb::ProveBackup { point: None });
    rig.live(1_000);
    assert_eq!((rig.outcome(failed), rig.alarms()), (Some(Some(FailureCode::Damaged)), vec!["backup-unproven".into()]));
}

#[test]
fn points_are_told_page_by_page_and_the_largest_page_and_beat_fit_in_a_frame() {
    let mut rig = Rig::new(50);
    let long = "ä".repeat(200);
    let mut points = Vec::new();
    for number in 0..25_000u128 {
        let mut point = rig::summary(number, guest(1 + number % 50), 1_000_000 + u64::try_from(number / 50).unwrap());
        point.guest_name.clone_from(&long);
        point.note.clone_from(&long);
        point.damaged = Some(long.clone());
        points.push(point);
    }
    rig.tell(Event::StoreOpened { points });
    let mut query = PointQuery { ask: 7, limit: 1_000, ..PointQuery::default() };
    let (mut pages, mut seen) = (0, Vec::new());
    loop {
        let page = rig.agent.points_page(&query);
        let bytes = roost_protocol::codec::encode(&roost_protocol::message::ToAggregator::Points(page.clone())).len();
        assert!(bytes < roost_protocol::message::FRAME / 2, "{bytes}");
        pages += 1;
        query.after = page.points.last().map(|point| (point.guest, point.started, point.point));
        seen.extend(page.points.iter().map(|point| (point.guest, point.started, point.point)));
        if !page.more {
            break;
        }
    }
    assert_eq!((pages, seen.len()), (125, 25_000));
    assert!(seen.is_sorted_by(|a, b| a < b));
    let one = rig.agent.points_page(&PointQuery { guest: Some(guest(3)), limit: 600, ..PointQuery::default() });
    assert_eq!((one.points.len(), one.more, one.points[0].guest), (200, true, guest(3)));
    let beat = rig.agent.whole_backup_beat(rig.now()).unwrap();
    let bytes = roost_protocol::codec::encode(&beat).len();
    assert!(beat.sets.len() == 50 && bytes < 50 * 700, "{bytes}");
}

#[test]
fn a_set_outlives_its_guest_and_its_alarms_do_not() {
    let mut rig = Rig::new(1);
    rig.follow(1, policy("hourly"));
    rig.live(HOUR + 10_000);
    rig.broken = Some(FailureCode::NoSpace);
    rig.live(HOUR);
    assert_eq!(rig.alarms(), ["backup-failed"]);
    rig.guests.clear();
    rig.tell(Event::Gone { guest: guest(1) });
    rig.live(5 * HOUR);
    assert_eq!((rig.points(1).len(), rig.alarms()), (1, Vec::<String>::new()));
    let summary = rig.agent.set_summary(guest(1)).unwrap();
    assert_eq!((summary.points, summary.guest_name.as_str()), (1, "guest-1"));
}

#[test]
fn a_command_for_a_backup_can_be_left_in_the_middle() {
    let mut rig = Rig::new(1);
    rig.by_hand = true;
    let backup = rig.command(1, Verb::Backup { options: BackupOptions::default() });
    let task = rig.running(|task| matches!(task, Task::Backup { order, .. } if order.why == Why::Command));
    rig.tell(Event::Received(roost_protocol::message::ToAgent::Cancel { operation: backup }));
    assert!(rig.cancelled.contains(&task));
    rig.fail(task, FailureCode::Cancelled);
    assert_eq!(rig.outcome(backup), Some(Some(FailureCode::Cancelled)));
    assert_eq!(rig.tasks.len(), 0);
}

#[test]
fn pressure_on_the_host_holds_schedules_back_but_not_commands() {
    let mut rig = Rig::new(2);
    rig.follow(1, policy("hourly"));
    rig.pressure(9_000);
    rig.live(HOUR + HOUR / 2);
    rig.command(2, Verb::Backup { options: BackupOptions::default() });
    rig.live(1_000);
    assert_eq!((rig.points(1).len(), rig.points(2).len()), (0, 1));
    // After an hour it goes all the same.
    rig.live(HOUR);
    assert_eq!(rig.points(1).len(), 1);
    rig.pressure(100);
    rig.live(HOUR);
    assert_eq!(rig.points(1).len(), 2);
}

/// What the aggregator is told adds up to what is.
#[test]
fn beats_tell_sets_as_they_change() {
    let mut rig = Rig::new(1);
    rig.link();
    rig.follow(1, policy("hourly"));
    rig.live(HOUR + 10_000);
    let told = rig.told_sets[&guest(1)].clone();
    assert_eq!((told.points, told.newest.map(|(point, _)| point)), (1, Some(rig.points(1)[0])));
    assert!(told.next.is_some_and(|next| next > Stamp(rig.wall)));
    let _: GuestId = told.guest;
}

#[test]
fn who_hears_of_the_end_was_told_before_what_came_of_it() {
    let mut rig = Rig::new(1);
    rig.link();
    rig.live(5_000);
    let told = |rig: &Rig| rig.told_at_the_end.get(&guest(1)).map(|set| (set.points, set.newest, set.running));
    for wanted in 1..=2 {
        let backup = rig.command(1, Verb::Backup { options: BackupOptions::default() });
        rig.live(1_000);
        assert_eq!(rig.outcome(backup), Some(None));
        let newest = rig.agent.backups.sets.newest(guest(1)).map(|point| (point.point, point.started));
        assert_eq!(told(&rig), Some((wanted, newest, false)));
    }
    let newest = *rig.points(1).last().unwrap();
    let delete = rig.command(1, Verb::DeletePoint { point: newest, even_last: false });
    rig.live(1_000);
    assert_eq!((rig.outcome(delete), told(&rig).map(|(points, ..)| points)), (Some(None), Some(1)));
}
