//! Backups that succeed.

use roost_libvirt::ForceOff;
use roost_protocol::backup::{Consistency, Freeze};
use roost_protocol::operation::FailureCode;

use super::lab::{DISK, Guest, Lab, in_lab, kill, moment, until};
use super::memory::Memory;
use crate::act::backup::{DEFINITION, MARK, Way, Wish};

const WAYS: [Option<Way>; 3] = [Some(Way::Pull), Some(Way::Overlay), None];

fn by(way: Option<Way>) -> Wish {
    Wish { way, ..Wish::default() }
}

/// One backup of a running guest; its disk shows one moment within it.
fn moment_of(lab: &Lab, guest: Guest, wish: Wish, set: &Memory) {
    let before = lab.ticks(guest);
    lab.back_up(guest, wish, set).unwrap();
    let shown = moment(&set.last().disks["hda"]);
    assert!(shown + 4 >= before && shown <= lab.ticks(guest) + 100, "{before} {shown}");
    lab.clean(guest);
    lab.ticks_on(guest);
}

#[test]
fn real_running_guests_are_caught_at_one_moment_by_each_way_and_only_changes_are_read() {
    in_lab("whole::real_running_guests_are_caught_at_one_moment_by_each_way_and_only_changes_are_read", |lab| {
        for (number, way) in (1..).zip(WAYS) {
            let (guest, set) = (lab.guest(number, "qcow2"), Memory::default());
            moment_of(&lab, guest, by(way), &set);
            let full = set.last();
            assert!(full.read >= 8 << 20 && full.parent.is_none(), "{way:?} {}", full.read);
            assert!(String::from_utf8_lossy(&full.files[DEFINITION]).contains("<domain"));
            assert!(full.files.contains_key(MARK));
            assert_eq!((full.facts.consistency, full.facts.note.as_str()), (Consistency::Crash, ""));
            for _ in 0..3 {
                let ticks = lab.ticks(guest);
                until("the guest writes", || lab.ticks(guest) > ticks + 20);
                moment_of(&lab, guest, by(way), &set);
                let changed = set.last();
                assert!(changed.read > 0 && changed.read <= 8 << 20, "{way:?} {}", changed.read);
                assert_eq!(changed.parent, Some(set.points().iter().rev().nth(1).unwrap().id));
            }
            assert_eq!(lab.hypervisor.checkpoints(&guest.0.bytes()).unwrap().len(), 1, "one bitmap is kept");
            byte_for_byte(&lab, guest, by(way), &set);
        }
    });
}

/// A paused guest's backup, an increment, equals its disk; and so does that of the guest when it is off.
fn byte_for_byte(lab: &Lab, guest: Guest, wish: Wish, set: &Memory) {
    let uuid = guest.0.bytes();
    lab.hypervisor.pause(&uuid).unwrap();
    lab.back_up(guest, wish, set).unwrap();
    lab.hypervisor.force_off(&uuid, ForceOff::Graceful).unwrap();
    let content = lab.content(guest, "qcow2");
    assert!(content == set.last().disks["hda"], "equal to the last byte");
    lab.back_up(guest, wish, set).unwrap();
    let stopped = set.last();
    assert_eq!(stopped.facts.consistency, Consistency::Stopped);
    assert!(content == stopped.disks["hda"] && stopped.read == 0, "off, nothing changed: {}", stopped.read);
    lab.back_up(guest, Wish { full: true, ..wish }, set).unwrap();
    assert!(content == set.last().disks["hda"] && set.last().read > 0);
    lab.clean(guest);
}

#[test]
fn real_raw_disks_and_lost_bitmaps_are_read_whole_and_compared() {
    in_lab("whole::real_raw_disks_and_lost_bitmaps_are_read_whole_and_compared", |lab| {
        let (raw, set) = (lab.guest(1, "raw"), Memory::default());
        moment_of(&lab, raw, Wish::default(), &set);
        moment_of(&lab, raw, Wish::default(), &set);
        assert!(set.last().parent.is_some() && set.last().read > 8 << 20 && !set.last().files.contains_key(MARK));
        let (guest, set) = (lab.guest(2, "qcow2"), Memory::default());
        moment_of(&lab, guest, Wish::default(), &set);
        kill(lab.qemu(guest));
        until("it is off", || !lab.hypervisor.domain(&guest.0.bytes()).unwrap().state.is_active());
        lab.begin_anew(guest);
        lab.back_up(guest, Wish::default(), &set).unwrap();
        let whole = set.last();
        assert!(whole.facts.note.contains("all was read"), "{}", whole.facts.note);
        assert!(whole.read > 8 << 20 && whole.parent.is_some() && whole.disks["hda"].len() as u64 == DISK);
        lab.back_up(guest, Wish::default(), &set).unwrap();
        assert!(set.last().read <= 8 << 20 && set.last().facts.note.is_empty(), "the next is an increment again");
        let refused = lab.back_up(guest, Wish { freeze: Freeze::Require, ..Wish::default() }, &set).unwrap_err();
        assert_eq!(refused.code, FailureCode::WrongState, "{}", refused.text);
        lab.clean(guest);
    });
}

#[test]
fn real_large_changes_are_read_below_layers_and_still_only_the_changes() {
    in_lab("whole::real_large_changes_are_read_below_layers_and_still_only_the_changes", |lab| {
        let (guest, set) = (lab.guest(1, "qcow2"), Memory::default());
        moment_of(&lab, guest, Wish::default(), &set);
        let wish = Wish { pull_most: Some(0), ..Wish::default() };
        moment_of(&lab, guest, wish, &set);
        let changed = set.last();
        assert!(changed.read > 0 && changed.read <= 8 << 20 && changed.parent.is_some(), "{}", changed.read);
        assert_eq!(lab.hypervisor.checkpoints(&guest.0.bytes()).unwrap().len(), 1);
        byte_for_byte(&lab, guest, wish, &set);
    });
}
