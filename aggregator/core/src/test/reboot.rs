//! Restarts of hosts: refused where they would harm.

use roost_protocol::message::Snapshot;

use super::*;

fn says(rig: &mut Rig, states: &[PowerState]) {
    let guests = states.iter().map(|state| report(GuestId::from_u128(7), "g", *state)).collect();
    let snapshot = Snapshot { guests, ..Snapshot::default() };
    rig.tell(Event::Received { link: LINK, message: ToAggregator::Snapshot(snapshot) });
}

/// Why it may not restart; empty: it may.
fn no(rig: &Rig) -> String {
    rig.grid.may_reboot(HOST).map_or_else(|why| why.text, |_| String::new())
}

#[test]
fn a_host_restarts_only_in_maintenance_and_where_nothing_is_up() {
    let mut rig = Rig::new();
    says(&mut rig, &[PowerState::Off]);
    assert!(no(&rig).contains("not in maintenance"), "{}", no(&rig));
    let what = Call::Maintenance { host: HOST, drain: Some(false) };
    rig.tell(Event::Called { call: CallId(1), by: "ada".into(), what });
    assert_eq!(no(&rig), "");
    for state in [PowerState::Running, PowerState::Paused, PowerState::Suspended, PowerState::Unknown] {
        says(&mut rig, &[state]);
        assert!(no(&rig).contains("1 of its guests are up"), "{}", no(&rig));
    }
    says(&mut rig, &[]);
    let begun = Call::RebootBegun { host: HOST };
    rig.tell(Event::Called { call: CallId(2), by: "ada".into(), what: begun });
    assert_eq!(rig.kinds.last().map(String::as_str), Some("host.reboot"));
    rig.pass(Millis::seconds(60));
    assert!(no(&rig).contains("not up"), "{}", no(&rig));
    assert!(rig.grid.may_look_for_image(HOST).is_err());
}

#[test]
fn a_host_does_not_restart_in_the_middle_of_work_or_while_it_is_drained() {
    let mut rig = Rig::new();
    says(&mut rig, &[]);
    rig.make("desk").unwrap();
    let what = Call::Maintenance { host: HOST, drain: Some(false) };
    rig.tell(Event::Called { call: CallId(2), by: "ada".into(), what });
    assert!(no(&rig).contains("work is going on"), "{}", no(&rig));
    assert!(rig.grid.may_test_watchdog(HOST).is_err());
}
