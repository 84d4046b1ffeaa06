//! Tests of a host's watchdog: refused where they would harm, told of when they are over.

use roost_protocol::failover::{Fencing, GuardReport, TestResult, WatchdogTest};
use roost_protocol::message::Snapshot;

use super::*;

fn says(rig: &mut Rig, states: &[PowerState], guard: Option<GuardReport>) {
    let guests = states.iter().map(|state| report(GuestId::from_u128(7), "g", *state)).collect();
    let snapshot = Snapshot { guests, guard: guard.map(Box::new), ..Snapshot::default() };
    rig.tell(Event::Received { link: LINK, message: ToAggregator::Snapshot(snapshot) });
}

/// Why it may not be tested; empty: it may.
fn no(rig: &Rig) -> String {
    rig.grid.may_test_watchdog(HOST).map_or_else(|why| why.text, |()| String::new())
}

fn guard(result: Option<TestResult>) -> GuardReport {
    let watchdog = Fencing::Hardware("iTCO_wdt".into());
    let test = |result| WatchdogTest { watchdog: watchdog.clone(), at: Stamp(5), time_out: Millis(10_000), result };
    GuardReport { fencing: Some(watchdog.clone()), watchdog_test: result.map(test), ..GuardReport::default() }
}

#[test]
fn a_watchdog_is_tested_only_where_nothing_is_up_and_nobody_counts_on_the_host() {
    let mut rig = Rig::new();
    says(&mut rig, &[], None);
    assert!(no(&rig).contains("no guard"), "{}", no(&rig));
    says(&mut rig, &[], Some(GuardReport { fencing: Some(Fencing::None("gone".into())), ..guard(None) }));
    assert!(no(&rig).contains("no watchdog: gone"), "{}", no(&rig));
    says(&mut rig, &[PowerState::Off], Some(guard(None)));
    assert!(no(&rig).contains("not in maintenance"), "{}", no(&rig));
    let what = Call::Maintenance { host: HOST, drain: Some(false) };
    rig.tell(Event::Called { call: CallId(1), by: "ada".into(), what });
    assert_eq!(no(&rig), "");
    for state in [PowerState::Running, PowerState::Paused, PowerState::Unknown] {
        says(&mut rig, &[state], Some(guard(None)));
        assert!(no(&rig).contains("1 of its guests are up"), "{}", no(&rig));
    }
    says(&mut rig, &[], Some(guard(None)));
    rig.pass(Millis::seconds(60));
    assert!(no(&rig).contains("not up"), "{}", no(&rig));
}

#[test]
fn what_came_of_a_test_is_told_once() {
    let mut rig = Rig::new();
    let lived = Millis(9_800);
    let told = |rig: &Rig| rig.kinds.iter().filter(|kind| *kind == "host.watchdog").count();
    says(&mut rig, &[], Some(guard(Some(TestResult::Passed { lived }))));
    assert_eq!(told(&rig), 0, "it was known before this aggregator was started");
    says(&mut rig, &[], Some(guard(Some(TestResult::Running { lived: Millis(0) }))));
    assert_eq!(told(&rig), 0);
    for _ in 0..2 {
        says(&mut rig, &[], Some(guard(Some(TestResult::Silent { lived }))));
        assert_eq!(told(&rig), 1);
    }
}
