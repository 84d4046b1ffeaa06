//! Retention and schedule over 400 simulated days, against an oracle that was written another way: it labels every point
//! with words ("2026-03-02") and looks at all of history at every step.

#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that is not as it should be")]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use roost_agent_core::backup::retention::expired;
use roost_agent_core::backup::schedule::Timetable;
use roost_protocol::backup::{BackupSummary, Consistency, Proof, Retention, Schedule, Shift, Why, Zone};
use roost_protocol::{GuestId, HostId, Millis, PointId, Stamp};

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;
/// 2026-01-01 00:00 UTC, a Thursday.
const BEGIN: u64 = 1_767_225_600_000;

fn point(number: u128, at: u64) -> BackupSummary {
    BackupSummary {
        point: PointId::from_u128(number),
        guest: GuestId::from_u128(1),
        guest_name: "g".into(),
        origin: HostId::from_u128(1),
        started: Stamp(at),
        finished: Stamp(at + 1),
        why: Why::Schedule,
        consistency: Consistency::Crash,
        parent: None,
        size: 0,
        read: 0,
        stored: 0,
        pinned: false,
        proof: Proof::Untried,
        copies: Vec::new(),
        damaged: None,
        note: String::new(),
        meant: roost_protocol::backup::Meant::Run,
        priority: 0,
    }
}

/// Central Europe in 2026 and 2027.
fn zurich() -> Zone {
    let shift = |from: u64, minutes| Shift { from: Stamp(from * 1_000), minutes };
    let shifts = vec![
        shift(1_761_440_400, 60),
        shift(1_774_746_000, 120),
        shift(1_792_890_000, 60),
        shift(1_806_195_600, 120),
        shift(1_824_944_400, 60),
    ];
    Zone { name: "Europe/Zurich".into(), shifts }
}

// The oracle.

fn leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn length(year: u64, month: u64) -> u64 {
    match month {
        2 => 28 + u64::from(leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Minutes that local time is ahead, by looking at each shift in turn.
fn ahead(zone: Option<&Zone>, at: u64) -> u64 {
    let mut minutes = 0;
    for (index, shift) in zone.map_or(&[][..], |zone| &zone.shifts).iter().enumerate() {
        if index == 0 || shift.from.0 <= at {
            minutes = u64::try_from(shift.minutes).unwrap();
        }
    }
    minutes
}

/// The labels of a moment: hour, day, week, month, year.
fn labels(zone: Option<&Zone>, at: u64) -> [String; 5] {
    let local = at + ahead(zone, at) * 60_000;
    let mut days = local / DAY;
    // The Monday of its week names the week.
    let monday = days - (days + 3) % 7;
    let (mut year, mut month) = (1970, 1);
    while days >= length(year, month) {
        days -= length(year, month);
        month += 1;
        if month > 12 {
            (year, month) = (year + 1, 1);
        }
    }
    let hour = format!("h{:09}", at / HOUR);
    let day = format!("{year:04}-{month:02}-{:02}", days + 1);
    [hour, day, format!("w{monday:07}"), format!("{year:04}-{month:02}"), format!("{year:04}")]
}

/// A point with the labels of its moment.
type Labelled = (u64, PointId, [String; 5]);

fn labelled(point: &BackupSummary, zone: Option<&Zone>) -> Labelled {
    (point.started.0, point.point, labels(zone, point.started.0))
}

/// What is to be kept of these points, none of them special.
fn oracle(all: &[Labelled], rules: Retention) -> BTreeSet<PointId> {
    let mut kept = BTreeSet::new();
    let mut sorted: Vec<&Labelled> = all.iter().collect();
    sorted.sort_unstable();
    let last = usize::try_from(rules.last).unwrap();
    for index in 0..sorted.len() {
        if sorted.len() - index <= last.max(1) || rules == Retention::default() {
            kept.insert(sorted[index].1);
        }
    }
    let numbers = [rules.hourly, rules.daily, rules.weekly, rules.monthly, rules.yearly];
    for (rule, number) in numbers.into_iter().enumerate() {
        let mut of_label: BTreeMap<&str, PointId> = BTreeMap::new();
        for (_, point, labels) in &sorted {
            of_label.insert(&labels[rule], *point);
        }
        let skip = of_label.len().saturating_sub(usize::try_from(number).unwrap());
        kept.extend(of_label.into_values().skip(skip));
    }
    kept
}

fn prune(set: &mut Vec<BackupSummary>, rules: Retention, zone: Option<&Zone>, now: u64) -> Vec<BackupSummary> {
    let gone = expired(&set.iter().collect::<Vec<_>>(), rules, zone, Stamp(now), false);
    let (removed, left) = set.drain(..).partition(|point| gone.contains(&point.point));
    *set = left;
    removed
}

/// 400 days by the schedule; a seed says which backups are missed.
fn four_hundred_days(expression: &str, rules: Retention, zone: Option<&Zone>, seed: u64) {
    let schedule = Schedule { expression: expression.into(), jitter: Millis(20 * 60_000), zone: zone.cloned() };
    let table = Timetable::new(&schedule, GuestId::from_u128(u128::from(seed))).unwrap();
    let (mut history, mut set) = (Vec::new(), Vec::new());
    let mut answered = Stamp(BEGIN);
    let mut number = 0;
    while let Some(due) = table.due(answered).filter(|due| due.0 < BEGIN + 400 * DAY) {
        assert!(due > answered);
        answered = table.answers(due);
        number += 1;
        // Now and then the host is off for some days.
        let off = (due.0 / (5 * DAY)).wrapping_mul(seed | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 61 == 0;
        if off {
            continue;
        }
        let new = point(number, due.0);
        history.push(labelled(&new, zone));
        set.push(new);
        // How often it is pruned changes nothing; here at least each day.
        let looked = number % 499 == 0 || due.0 > BEGIN + 400 * DAY - 4 * HOUR || number < 100;
        if looked || number % 8 == 0 {
            prune(&mut set, rules, zone, due.0);
        }
        if looked {
            let kept: BTreeSet<PointId> = set.iter().map(|point| point.point).collect();
            assert_eq!(kept, oracle(&history, rules), "{expression} {rules:?} after {number}");
        }
    }
    assert!(history.len() > 100);
}

#[test]
fn over_400_days_what_is_kept_is_what_the_oracle_keeps() {
    let rules =
        |last, hourly, daily, weekly, monthly, yearly| Retention { last, hourly, daily, weekly, monthly, yearly };
    let zone = zurich();
    for (seed, (expression, rules)) in [
        ("daily", rules(3, 0, 7, 4, 12, 2)),
        ("*:0/30", rules(0, 24, 7, 4, 6, 0)),
        ("mon..fri 20:30", rules(1, 0, 5, 0, 0, 1)),
        ("hourly", rules(10, 48, 0, 0, 3, 0)),
        ("hourly", rules(0, 0, 0, 0, 1, 0)),
        ("0/6:15", Retention::default()),
    ]
    .into_iter()
    .enumerate()
    {
        let seed = u64::try_from(seed).unwrap();
        four_hundred_days(expression, rules, None, seed);
        four_hundred_days(expression, rules, Some(&zone), seed + 100);
    }
}

#[test]
fn a_schedule_in_local_time_runs_each_day_once_also_when_clocks_are_changed() {
    for expression in ["02:30", "03:00", "00:00", "23:59"] {
        let schedule = Schedule { expression: expression.into(), jitter: Millis(0), zone: Some(zurich()) };
        let table = Timetable::new(&schedule, GuestId::from_u128(1)).unwrap();
        let mut days: BTreeMap<String, u32> = BTreeMap::new();
        let mut at = Stamp(BEGIN - HOUR - 1_000);
        while let Some(due) = table.due(at).filter(|due| due.0 < BEGIN + 400 * DAY - HOUR) {
            *days.entry(labels(Some(&zurich()), due.0)[1].clone()).or_default() += 1;
            at = due;
        }
        assert_eq!((days.len(), days.values().max()), (400, Some(&1)), "{expression}");
    }
}

// Whatever happens to a set, some points stay.

fn any_point() -> impl Strategy<Value = BackupSummary> {
    let why =
        prop_oneof![6 => Just(Why::Schedule), 2 => Just(Why::Command), 2 => Just(Why::Replica), 1 => Just(Why::Branch)];
    let proof = prop_oneof![
        5 => Just(Proof::Untried),
        2 => Just(Proof::Proven { at: Stamp(1), by: "console".into() }),
        1 => Just(Proof::Failed { at: Stamp(1), why: "dark".into() }),
    ];
    (any::<u128>(), 0..500u64, 0..48u64, why, proof, prop::bool::weighted(0.1), prop::bool::weighted(0.2)).prop_map(
        |(number, day, half, why, proof, pinned, damaged)| {
            let damaged = damaged.then(|| "vda".to_owned());
            BackupSummary { why, proof, pinned, damaged, ..point(number, BEGIN + day * DAY + half * HOUR / 2) }
        },
    )
}

fn any_rules() -> impl Strategy<Value = Retention> {
    (0..4u32, 0..5u32, 0..5u32, 0..4u32, 0..4u32, 0..3u32).prop_map(|(last, hourly, daily, weekly, monthly, yearly)| {
        Retention { last, hourly, daily, weekly, monthly, yearly }
    })
}

fn newest(points: &[BackupSummary], which: impl Fn(&BackupSummary) -> bool) -> Option<PointId> {
    points.iter().filter(|point| which(point)).max_by_key(|point| (point.started, point.point)).map(|point| point.point)
}

proptest! {
    #[test]
    fn pinned_whole_proven_and_branches_stay(
        points in prop::collection::vec(any_point(), 1..60),
        rules in any_rules(),
        now in 0..600u64,
        replicated: bool,
    ) {
        let now = BEGIN + now * DAY;
        let refs: Vec<&BackupSummary> = points.iter().collect();
        let gone = expired(&refs, rules, None, Stamp(now), replicated);
        let stays = |point: PointId| !gone.contains(&point);
        for point in &points {
            prop_assert!(stays(point.point) || !(point.pinned || point.why == Why::Branch));
        }
        let usable = |point: &BackupSummary| point.whole();
        prop_assert!(newest(&points, usable).is_none_or(stays));
        let proven = |point: &BackupSummary| point.whole() && matches!(point.proof, Proof::Proven { .. });
        prop_assert!(newest(&points, proven).is_none_or(stays));
        // Half an hour ahead is still now: clocks are set by small steps.
        let today = |point: &BackupSummary| point.whole() && point.started.0 <= now + HOUR;
        prop_assert!(newest(&points, today).is_none_or(stays));
        if replicated {
            prop_assert!(newest(&points, |point| point.why == Why::Replica).is_none_or(stays));
        }
        prop_assert!(points.iter().any(|point| stays(point.point)));
    }

    /// Pruning twice removes nothing more, and the order of points means nothing.
    #[test]
    fn pruning_is_settled_after_once(points in prop::collection::vec(any_point(), 1..60), rules in any_rules()) {
        let now = BEGIN + 600 * DAY;
        let mut set = points.clone();
        prune(&mut set, rules, None, now);
        prop_assert!(prune(&mut set, rules, None, now).is_empty());
        let mut turned: Vec<BackupSummary> = points.into_iter().rev().collect();
        prune(&mut turned, rules, None, now);
        let ids = |set: &[BackupSummary]| set.iter().map(|point| point.point).collect::<BTreeSet<_>>();
        prop_assert_eq!(ids(&set), ids(&turned));
    }

    /// A clock that was two years ahead for a while takes no place from points of today, and is put right without loss.
    #[test]
    fn points_dated_ahead_push_nothing_out(
        ours in prop::collection::vec(0..400u64, 1..40),
        theirs in prop::collection::vec(0..40u64, 1..20),
        rules in any_rules(),
    ) {
        let now = BEGIN + 400 * DAY;
        let ours: Vec<BackupSummary> =
            ours.iter().zip(1u128..).map(|(day, number)| point(number, BEGIN + day * DAY)).collect();
        let theirs: Vec<BackupSummary> =
            theirs.iter().zip(1000u128..).map(|(day, number)| point(number, now + 700 * DAY + day * DAY)).collect();
        let mut alone = ours.clone();
        prune(&mut alone, rules, None, now);
        let mut both = [ours, theirs].concat();
        prune(&mut both, rules, None, now);
        let left: Vec<&BackupSummary> = both.iter().filter(|point| point.started.0 <= now).collect();
        prop_assert_eq!(left, alone.iter().collect::<Vec<_>>());
    }

    #[test]
    fn plain_sets_are_as_the_oracle_says(days in prop::collection::vec((0..300u64, 0..48u64), 1..80), rules in any_rules()) {
        let points: Vec<BackupSummary> =
            days.iter().zip(1u128..).map(|((day, half), number)| point(number, BEGIN + day * DAY + half * HOUR / 2)).collect();
        let mut set = points.clone();
        prune(&mut set, rules, None, BEGIN + 300 * DAY);
        let kept: BTreeSet<PointId> = set.iter().map(|point| point.point).collect();
        let points: Vec<Labelled> = points.iter().map(|point| labelled(point, None)).collect();
        prop_assert_eq!(kept, oracle(&points, rules));
    }
}
