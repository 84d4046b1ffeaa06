//! Which points of a set go. Rules count hours, days, ... that *have* a point, so that neither a host that was off nor a
//! clock that leapt empties a set.
//!
//! Whatever the rules say, these stay: pinned points, branches, the newest whole point, the newest proven one, and points
//! dated after now as a group of their own (a clock was ahead when they were made: they must not push others out, nor be
//! pushed out by a clock that is put right).

use std::collections::BTreeSet;

use roost_protocol::backup::{BackupSummary, Proof, Retention, Why, Zone};
use roost_protocol::calendar::local_day;
use roost_protocol::{Millis, PointId, Stamp};

/// A point may be dated so far ahead and still be of now: clocks are set by small steps.
const AHEAD: Millis = Millis::seconds(3_600);
/// Replica points kept while there is a replica: the one that the backup host has, and the next.
const REPLICA_POINTS: usize = 2;

/// Points that go, oldest first. `replicated`: the guest has a replica, so that its newest replica points are needed.
pub fn expired(
    points: &[&BackupSummary],
    retention: Retention,
    zone: Option<&Zone>,
    now: Stamp,
    replicated: bool,
) -> Vec<PointId> {
    let mut sorted: Vec<&BackupSummary> = points.to_vec();
    sorted.sort_by_key(|point| (point.started, point.point));
    let mut kept = BTreeSet::new();
    for ahead in [false, true] {
        let newest_first: Vec<&BackupSummary> =
            sorted.iter().rev().copied().filter(|point| is_ahead(point, now) == ahead).collect();
        keep_group(&newest_first, retention, zone, &mut kept);
    }
    let replicas = sorted.iter().rev().filter(|point| point.why == Why::Replica);
    kept.extend(replicas.take(if replicated { REPLICA_POINTS } else { 0 }).map(|point| point.point));
    sorted.iter().map(|point| point.point).filter(|point| !kept.contains(point)).collect()
}

/// Dated so far after now that a clock must have been wrong.
pub(super) fn is_ahead(point: &BackupSummary, now: Stamp) -> bool {
    point.started.0 > now.0.saturating_add(AHEAD.0)
}

fn keep_group(
    newest_first: &[&BackupSummary],
    retention: Retention,
    zone: Option<&Zone>,
    kept: &mut BTreeSet<PointId>,
) {
    let always = |point: &&&BackupSummary| point.pinned || point.why == Why::Branch;
    kept.extend(newest_first.iter().filter(always).map(|point| point.point));
    let whole = || newest_first.iter().copied().filter(|point| point.whole());
    // Where nothing is whole, a damaged point is better than none.
    kept.extend(whole().next().or(newest_first.first().copied()).map(|point| point.point));
    kept.extend(whole().find(|point| matches!(point.proof, Proof::Proven { .. })).map(|point| point.point));
    let ruled = |point: &&BackupSummary| match point.why {
        Why::Schedule | Why::Command => true,
        Why::Replica | Why::Branch => false,
    };
    // A damaged point takes no whole one's place, and stays no longer than if it were whole.
    let all: Vec<&BackupSummary> = newest_first.iter().copied().filter(ruled).collect();
    let whole: Vec<&BackupSummary> = whole().filter(ruled).collect();
    if retention.keeps_all() {
        kept.extend(all.iter().map(|point| point.point));
        return;
    }
    for points in [all, whole] {
        keep_by_rules(&points, retention, zone, kept);
    }
}

fn keep_by_rules(points: &[&BackupSummary], retention: Retention, zone: Option<&Zone>, kept: &mut BTreeSet<PointId>) {
    kept.extend(points.iter().take(size(retention.last)).map(|point| point.point));
    // Hours are those of UTC: local ones come twice, or not at all, when clocks are changed.
    newest_of_each(points, retention.hourly, kept, |at| i64::try_from(at.0 / 3_600_000).unwrap_or(i64::MAX));
    newest_of_each(points, retention.daily, kept, |at| local_day(zone, at).0);
    // 1970-01-01 was a Thursday; weeks begin on Monday.
    newest_of_each(points, retention.weekly, kept, |at| (local_day(zone, at).0 + 3).div_euclid(7));
    newest_of_each(points, retention.monthly, kept, |at| {
        let (year, month, _) = local_day(zone, at).1;
        year * 12 + month
    });
    newest_of_each(points, retention.yearly, kept, |at| local_day(zone, at).1.0);
}

/// Keeps the newest point of each of the last `number` spans that have one.
fn newest_of_each(points: &[&BackupSummary], number: u32, kept: &mut BTreeSet<PointId>, span: impl Fn(Stamp) -> i64) {
    let mut spans = BTreeSet::new();
    for point in points {
        if spans.len() == size(number) {
            return;
        }
        if spans.insert(span(point.started)) {
            kept.insert(point.point);
        }
    }
}

fn size(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
