//! The subagent under the distribution's snmpd, asked by net-snmp's programs. Needs the Debian packages snmpd, snmp,
//! snmptrapd, smitools, libnet-snmp-perl and, on Debian 12, python3-pysnmp4; no root.
#![allow(clippy::unwrap_used, reason = "helpers of tests end the test like the tests themselves")]

#[path = "real_snmpd/lab.rs"]
mod lab;

use std::time::{Duration, Instant};

use lab::{Lab, V2C, V3};

const VM: &str = ".1.3.6.1.2.1.236";
const ROOST: &str = ".1.3.6.1.4.1.32473.236";
const SYSTEM: &str = ".1.3.6.1.2.1.1.1.0";

/// Not a test: the subagent's process, when a lab starts this program anew.
#[test]
fn real_subagent_process() {
    lab::subagent_process();
}

#[test]
fn real_mib_is_clean() {
    let said = lab::smilint();
    assert!(said.is_empty(), "{said}");
}

#[test]
fn real_tables_are_read_by_name_with_v2c_and_v3() {
    let lab = Lab::start(60);
    lab.wait_for(&V3, &format!("{VM}.1.2.0"), "60");
    for access in [&V2C[..], &V3] {
        let rows = lab.run("snmpbulkwalk", access, &["-On", VM]);
        assert_eq!(rows.lines().count(), 8 + 60 * (16 + 2 + 16 + 4), "{rows}");
        assert_eq!(lab.run("snmpwalk", access, &["-On", VM]), rows, "get-next and get-bulk tell the same");
    }
    let table = lab.run("snmptable", &V3, &["VM-MIB::vmTable"]);
    let row = table.lines().find(|line| line.contains("desk-0007")).unwrap_or_default();
    assert!(row.contains("running") && row.contains("persistent"), "{table}");
    let storage = lab.run("snmptable", &V3, &["VM-MIB::vmStorageTable"]);
    assert_eq!(storage.matches("/var/lib/roost/guests/").count(), 60, "{storage}");
    let uuid = lab.run("snmpget", &V3, &["-Ovq", "VM-MIB::vmUUID.7"]);
    assert_eq!(uuid.trim(), "\"00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 07 \"");
    let guests = lab.run("snmptable", &V3, &["ROOST-MIB::roostGuestTable"]);
    assert!(guests.contains("mary"), "{guests}");
    let alarms = lab.run("snmptable", &V2C, &["ROOST-MIB::roostAlarmTable"]);
    assert!(alarms.contains("state-disk"), "{alarms}");
    lab.read_by_others(60);
}

#[test]
fn real_all_that_the_zabbix_template_asks_is_answered() {
    let template = include_str!("../zabbix.yaml");
    let arc = format!("{}.1", &ROOST[1..]);
    assert!(template.contains(&format!("value: {arc}\n")), "the macro is the arc of ROOST-MIB's objects");
    let macros = [("{$ROOST.OID}", arc.as_str()), ("{#SNMPINDEX}", "2")];
    let asked: Vec<String> = template
        .lines()
        .filter_map(|line| line.trim().strip_prefix("snmp_oid: "))
        .map(|oid| macros.iter().fold(oid.trim_matches('\'').to_owned(), |oid, (name, value)| oid.replace(name, value)))
        .collect();
    let (tables, values): (Vec<&str>, Vec<&str>) =
        asked.iter().map(String::as_str).partition(|oid| oid.starts_with("discovery["));
    assert!(tables.len() == 1 && values.len() > 20, "{asked:?}");
    let lab = Lab::start(2);
    // As Zabbix asks by default: with a user, and its credentials.
    lab.wait_for(&V3, &format!("{VM}.1.2.0"), "2");
    let told = lab.run("snmpget", &V3, &[&["-On"], &values[..]].concat());
    assert_eq!(told.lines().count(), values.len(), "{told}");
    assert!(!told.contains("No Such"), "{told}");
    let columns = tables[0].trim_start_matches("discovery[").trim_end_matches(']').split(',').skip(1).step_by(2);
    for column in columns {
        assert_eq!(lab.run("snmpbulkwalk", &V3, &["-On", column]).lines().count(), 2, "{column}");
    }
}

#[test]
fn real_v2c_does_not_see_who_uses_a_desktop() {
    let lab = Lab::start(2);
    lab.wait_for(&V3, &format!("{VM}.1.2.0"), "2");
    let owner = format!("{ROOST}.1.3.1.1.1");
    assert!(lab.run("snmpget", &V3, &["-Ovq", &owner]).contains("mary"));
    assert!(lab.run("snmpget", &V2C, &["-Ovq", &owner]).contains("No Such"));
    let all = lab.run("snmpbulkwalk", &V2C, &["-On", ROOST]);
    assert!(!all.contains("mary") && all.contains(".1.3.1.2.1"), "{all}");
    let processes = lab.run("snmpbulkwalk", &V2C, &["-On", ".1.3.6.1.2.1.25.4"]);
    assert!(processes.lines().count() == 1 && processes.contains("No "), "{processes}");
}

#[test]
fn real_nothing_can_be_set() {
    let lab = Lab::start(1);
    lab.wait_for(&V3, &format!("{VM}.1.2.0"), "1");
    let set = lab.fails("snmpset", &["-v2c", "-c", "writer"], &[&format!("{VM}.1.9.0"), "i", "2"]);
    assert!(set.contains("notWritable"), "{set}");
    assert!(lab.run("snmpget", &V3, &["-Ovq", &format!("{VM}.1.9.0")]).trim() == "true");
}

#[test]
fn real_three_hundred_guests_are_walked_with_v3() {
    let lab = Lab::start(300);
    lab.wait_for(&V3, &format!("{VM}.1.2.0"), "300");
    let mut fastest = Duration::MAX;
    for _ in 0..5 {
        let began = Instant::now();
        let rows = lab.run("snmpbulkwalk", &V3, &["-On", "-Cr25", &format!("{VM}.1.4")]);
        fastest = fastest.min(began.elapsed());
        assert_eq!(rows.lines().count(), 300 * 16);
    }
    // Printed, not demanded: the machine may be busy. A walk that takes ten seconds is broken anywhere.
    eprintln!("vmTable of 300 guests, {} objects by v3: {fastest:?}", 300 * 16);
    assert!(fastest < Duration::from_secs(10));
}

#[test]
fn real_a_killed_agent_a_restarted_snmpd_and_a_frozen_agent_come_back() {
    let mut lab = Lab::start(3);
    let number = format!("{VM}.1.2.0");
    lab.wait_for(&V3, &number, "3");

    lab.kill_agent();
    lab.wait_for(&V3, &number, "No Such Object");
    lab.start_agent(4);
    lab.wait_for(&V3, &number, "4");

    lab.restart_snmpd();
    lab.wait_for(&V3, &number, "4");

    lab.freeze_agent();
    // The first question waits for the frozen agent; what others answer does not.
    let asked = lab.spawn("snmpget", &V3, &["-r", "0", "-t", "30", &number]);
    let mut slowest = Duration::ZERO;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        let asked = Instant::now();
        let answer = lab.run("snmpget", &V2C, &["-r", "0", "-t", "5", "-Ovq", SYSTEM]);
        slowest = slowest.max(asked.elapsed());
        assert!(!answer.trim().is_empty());
    }
    eprintln!("slowest other answer beside a frozen agent, with the program's own start: {slowest:?}");
    assert!(slowest < Duration::from_secs(2));
    drop(asked);
    lab.thaw_agent();
    lab.wait_for(&V3, &number, "4");
}

#[test]
fn real_the_grid_is_asked_beside_a_host_on_the_same_machine() {
    let mut lab = Lab::start(2);
    let up = format!("{ROOST}.1.5.1.0");
    lab.wait_for(&V3, &format!("{VM}.1.2.0"), "2");
    lab.wait_for(&V3, &up, "No Such Object");
    lab.start_grid();
    lab.wait_for(&V3, &up, "3");
    for access in [&V2C[..], &V3] {
        let grid = lab.run("snmpwalk", access, &["-Oqs", "ROOST-MIB::roostGrid"]);
        let expected = "roostGridHostsUp.0 3\nroostGridHostsDown.0 1\nroostGridFailovers.0 7\n\
                        roostGridFailoversFailed.0 2\n";
        assert_eq!(grid, expected);
        let all = lab.run("snmpbulkwalk", access, &["-On", ROOST]);
        assert!(all.contains(".1.4.5.0") && all.contains(".1.5.4.0") && all.contains(".1.7.1.2.1"), "{all}");
    }
    let number = lab.run("snmpget", &V3, &["-Ovq", &format!("{ROOST}.1.1.8.0")]);
    assert_eq!(number.trim(), "2", "the host's own objects are its subagent's");
    lab.restart_snmpd();
    lab.wait_for(&V3, &up, "3");
    lab.stop_grid();
    lab.wait_for(&V3, &up, "No Such Object");
}

#[test]
fn real_traps_and_informs_arrive() {
    let mut lab = Lab::start(20);
    lab.wait_for(&V3, &format!("{VM}.1.2.0"), "20");
    lab.tell_agent("crash 7");
    let crashed = lab.wait_for_traps("vmCrashed", 2);
    assert!(crashed.iter().all(|line| line.contains("desk-0007") && line.contains("crashed")), "{crashed:#?}");
    assert!(crashed.iter().any(|line| line.contains("TRAP2")) && crashed.iter().any(|line| line.contains("INFORM")));
    lab.tell_agent("storm 20");
    let bulk = lab.wait_for_traps("vmBulkRunning", 2);
    assert!(bulk[0].contains("vmAffectedVMs"), "{bulk:#?}");
    lab.tell_agent("alarm state-disk");
    let alarm = lab.wait_for_traps("roostAlarmRaised", 2);
    assert!(alarm[0].contains("state-disk") && alarm[0].contains("critical"), "{alarm:#?}");
    // What happens while snmpd is away is told once it is back.
    lab.stop_snmpd();
    lab.tell_agent("crash 15");
    lab.start_snmpd();
    let late = lab.wait_for_traps("desk-0015", 2);
    assert!(late[0].contains("vmCrashed"), "{late:#?}");
}
