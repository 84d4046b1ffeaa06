//! The tree against the MIBs: which objects there are, and what they say.

use roost_protocol::guest::PowerState;
use roost_protocol::{GuestId, Millis, Stamp, Time};

use super::note::{Change, Gather, Kind, Notice, Severity, Turn};
use super::*;
use crate::{Value, VarBind};

fn guest(number: u32) -> Guest {
    Guest {
        vcpus_us: vec![5, 6],
        pins: vec![Pin { vcpu: 1, physical: vec![0, 3] }],
        disks: vec![Disk {
            defined: Some((1 << 20) + 1),
            source: Source::Sparse,
            media: Media::HardDisk,
            ..Disk::default()
        }],
        nics: vec![Nic { if_index: 12, parent: 3, model: "virtio".into(), mac: vec![0x52, 0x54, 0, 0, 0, 1] }],
        ..Guest::new(number, GuestId::from_u128(u128::from(number)), &format!("desk-{number}"))
    }
}

fn view(guests: u32) -> View {
    View { guests: (1..=guests).map(guest).collect(), ..View::default() }
}

fn vm(tree: &Tree, arc: &[u32]) -> Value {
    tree.get(&Oid::join(&arc::VM, arc))
}

#[test]
fn every_readable_object_of_vm_mib_is_served() {
    let tree = view(2).tree(Time(0), None);
    for scalar in [
        &[1, 1, 1, 0][..],
        &[1, 1, 2, 0],
        &[1, 1, 3, 0],
        &[1, 1, 4, 0],
        &[1, 2, 0],
        &[1, 3, 0],
        &[1, 9, 0],
        &[1, 10, 0],
    ] {
        assert!(!matches!(vm(&tree, scalar), Value::NoSuchObject | Value::NoSuchInstance), "{scalar:?}");
    }
    let cell = |table: u32, column: u32, index: &[u32]| vm(&tree, &[&[1, table, 1, column][..], index].concat());
    for column in 2..=17 {
        assert!(!matches!(cell(4, column, &[2]), Value::NoSuchObject | Value::NoSuchInstance), "vmTable {column}");
    }
    assert_eq!(cell(5, 2, &[2, 2]), Value::Counter64(6));
    assert_eq!(cell(6, 3, &[2, 2, 196_611]), Value::Integer(1));
    assert_eq!(cell(6, 3, &[2, 1, 196_611]), Value::NoSuchInstance);
    for column in 3..=18 {
        assert!(!matches!(cell(7, column, &[2, 1]), Value::NoSuchObject | Value::NoSuchInstance), "storage {column}");
    }
    assert_eq!(cell(7, 11, &[2, 1]), Value::Integer(2), "a size is rounded up");
    assert_eq!(cell(7, 12, &[2, 1]), Value::Integer(-1), "a size that is not known");
    for column in 2..=5 {
        assert!(!matches!(cell(8, column, &[2, 1]), Value::NoSuchObject | Value::NoSuchInstance), "network {column}");
    }
    assert_eq!(vm(&tree, &[1, 4, 1, 1, 1]), Value::NoSuchObject, "vmIndex is not accessible");
    let per_guest = 16 + 2 + 2 + 16 + 4 + 14;
    assert_eq!(tree.len(), 8 + 10 + 11 + 5 + 2 * per_guest);
}

#[test]
fn every_object_of_the_grid_is_served_and_counters_begin_again_at_zero() {
    let (hosts_up, hosts_down) = (3, 1);
    let view = GridView { hosts_up, hosts_down, failovers: (1 << 32) + 7, failovers_failed: 2 };
    let tree = view.tree(Time(0), None);
    let values: Vec<Value> = (1..=4).map(|number| tree.get(&Oid::join(&arc::ROOST, &[1, 5, number, 0]))).collect();
    assert_eq!(values, [Value::Gauge32(3), Value::Gauge32(1), Value::Counter32(7), Value::Counter32(2)]);
    assert_eq!(tree.len(), 4);
    let subtree = &GridView::identity().subtrees[0];
    assert!(tree.rows().all(|(oid, _)| oid.starts_with(subtree)), "of these alone it says that it serves them");
}

#[test]
fn the_time_of_the_last_change_is_told_on_the_masters_clock() {
    let mut view = view(0);
    view.host.guests_changed = Time(40_000);
    let told = |now, uptime| vm(&view.tree(Time(now), uptime), &[1, 3, 0]);
    assert_eq!(told(50_000, Some(Millis(100_000))), Value::TimeTicks(9_000));
    assert_eq!(told(50_000, Some(Millis(3_000))), Value::TimeTicks(0), "before the master began");
    assert_eq!(told(50_000, None), Value::TimeTicks(0));
}

#[test]
fn states_are_those_of_the_mib() {
    let check = |state, reason, wanted| assert_eq!(OperState::of(state, reason), wanted);
    check(PowerState::Running, "booted", OperState::Running);
    check(PowerState::Paused, "by user", OperState::Paused);
    check(PowerState::Paused, "migrated", OperState::Migrating);
    check(PowerState::Off, "shut down", OperState::Shutdown);
    check(PowerState::Off, "saved", OperState::Suspended);
    check(PowerState::Off, "crashed", OperState::Crashed);
    check(PowerState::Crashed, "", OperState::Crashed);
    check(PowerState::Suspended, "", OperState::Suspended);
    check(PowerState::Unknown, "", OperState::Unknown);
    assert_eq!(AdminState::of(None, OperState::Paused), AdminState::Paused);
    assert_eq!(OperState::Crashed as i32, 12);
}

#[test]
fn dates_are_told_as_dates() {
    let check = |seconds: u64, wanted: &[u8]| assert_eq!(roost::date(Some(Stamp(seconds * 1_000 + 700))), wanted);
    check(0, b"\x07\xb2\x01\x01\0\0\0\x07+\0\0");
    check(951_782_400, b"\x07\xd0\x02\x1d\0\0\0\x07+\0\0");
    check(1_795_278_281, b"\x07\xea\x0b\x15\x10\x18\x29\x07+\0\0");
    assert_eq!(roost::date(None), [0; 8]);
}

fn change(number: u32, turn: Turn) -> Change {
    Change {
        number,
        id: GuestId::from_u128(u128::from(number)),
        name: format!("g{number}"),
        state: OperState::Running,
        persistent: true,
        turn,
    }
}

fn trap(binds: &[VarBind]) -> u32 {
    let Value::Oid(oid) = &binds[0].value else { panic!("{binds:?}") };
    *oid.last().unwrap()
}

#[test]
fn ten_changes_are_told_singly_and_a_storm_in_bulk_with_each_last_state() {
    let mut gather = Gather::default();
    let mut told = Vec::new();
    for number in 1..=500 {
        told.extend(gather.changed(Time(u64::from(number)), &change(number, Turn::Running)));
    }
    assert_eq!(told.len(), 10);
    for number in 1..=500 {
        told.extend(gather.changed(Time(4_000), &change(number, Turn::Shutdown)));
    }
    assert_eq!(told.len(), 10);
    let until = gather.deadline().unwrap();
    assert_eq!(until, Time(11) + Millis(5_000));
    assert!(gather.due(Time(until.0 - 1)).is_empty());
    let bulk = gather.due(until);
    assert_eq!(bulk.iter().map(|binds| trap(binds)).collect::<Vec<_>>(), [13], "the last state only");
    assert_eq!(bulk[0][1].value, Value::Octets([vec![0xff; 62], vec![0xf0]].concat()));
    assert_eq!(gather.deadline(), None);
    let after = gather.changed(Time(60_000), &change(7, Turn::Running));
    assert_eq!(after.len(), 1, "after the storm they are told singly again");
    assert_eq!(trap(&after[0]), 1);
}

#[test]
fn a_list_of_guests_has_a_bit_each() {
    assert_eq!(note::list(&[1, 8, 9]), [0x81, 0x80]);
    assert_eq!(note::list(&[4_096]).len(), 512);
    assert!(note::list(&[0, 4_097, u32::MAX]).is_empty());
}

#[test]
fn a_deleted_guest_says_whether_it_was_persistent() {
    let binds = note::single(&change(3, Turn::Deleted));
    let columns: Vec<u32> = binds[1..].iter().map(|bind| bind.oid[10]).collect();
    assert_eq!((trap(&binds), columns), (10, vec![2, 3, 6, 8]));
}

#[test]
fn notices_carry_what_the_mib_says_in_its_order() {
    let notice = |kind, guest: Option<u32>, detail| {
        let guest = guest.map(|number| (number, GuestId::from_u128(1), "g"));
        let notice =
            Notice { kind, host: "h", severity: Severity::Error, text: "t", event: "e", code: "c", guest, detail };
        let binds = note::notice(&notice);
        let short = |bind: &VarBind| match &bind.oid[..] {
            [1, 3, 6, 1, 2, 1, 236, 1, 4, 1, column, _] => format!("vm{column}"),
            [1, 3, 6, 1, 4, 1, _, 236, 1, rest @ ..] => format!("{rest:?}"),
            other => panic!("{other:?}"),
        };
        (trap(&binds), binds[1..].iter().map(short).collect::<Vec<_>>().join(" "))
    };
    let last = "[6, 1, 0] [6, 4, 0] [6, 2, 0] [6, 3, 0]";
    assert_eq!(notice(Kind::HostDown, None, None), (1, last.into()));
    assert_eq!(
        notice(Kind::BackupOverdue, Some(9), Some(Value::Integer(5))),
        (9, format!("vm2 vm3 [3, 1, 11, 9] {last}"))
    );
    assert_eq!(notice(Kind::MemoryPressure, None, Some(Value::Gauge32(5))), (12, format!("[2, 10, 0] {last}")));
    assert_eq!(notice(Kind::AlarmRaised, Some(9), None), (17, format!("[6, 5, 0] {last} vm2 vm3")));
}
