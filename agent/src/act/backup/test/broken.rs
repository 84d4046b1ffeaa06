//! Backups that are broken off: the guest goes on, and nothing is left.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use roost_protocol::operation::FailureCode;

use super::lab::{Guest, Lab, ROLE, in_lab, kill, moment, run, until};
use super::memory::{Fault, Memory};
use crate::act::backup::scratch::Scratch;
use crate::act::backup::{Way, Wish, tidy};

const WAYS: [Way; 2] = [Way::Pull, Way::Overlay];

fn by(way: Way) -> Wish {
    Wish { way: Some(way), ..Wish::default() }
}

/// A set that hangs in the middle of a backup until the end of the test.
fn hanging(lab: &Lab) -> (Memory, impl Fn() -> bool) {
    let (hanging, release) = (lab.root.join("hanging"), lab.root.join("release"));
    let _ = (std::fs::remove_file(&hanging), std::fs::remove_file(&release));
    let at = hanging.clone();
    (Memory::faulty(Fault::Hang { after: 2 << 20, hanging, release }), move || at.exists())
}

fn release(lab: &Lab) {
    std::fs::write(lab.root.join("release"), "").unwrap();
}

/// The guest is whole: it goes on, and its next backup shows a moment.
fn whole(lab: &Lab, guest: Guest) {
    lab.ticks_on(guest);
    let set = Memory::default();
    lab.back_up(guest, Wish::default(), &set).unwrap();
    moment(&set.last().disks["hda"]);
    lab.clean(guest);
}

#[test]
fn real_full_store_leaves_the_guest_running_and_nothing_behind() {
    in_lab("broken::real_full_store_leaves_the_guest_running_and_nothing_behind", |lab| {
        let guest = lab.guest(1, "qcow2");
        for way in WAYS {
            let set = Memory::faulty(Fault::Full(3 << 20));
            assert_eq!(lab.back_up(guest, by(way), &set).unwrap_err().code, FailureCode::NoSpace);
            assert!(set.points().is_empty());
            lab.clean(guest);
            assert!(lab.hypervisor.checkpoints(&guest.0.bytes()).unwrap().is_empty());
            whole(&lab, guest);
        }
    });
}

#[test]
fn real_hung_store_holds_up_no_guest_and_cancel_frees_it_at_once() {
    in_lab("broken::real_hung_store_holds_up_no_guest_and_cancel_frees_it_at_once", |lab| {
        let guest = lab.guest(1, "qcow2");
        for way in WAYS {
            let (set, hangs) = hanging(&lab);
            let unwanted = AtomicBool::new(false);
            thread::scope(|scope| {
                let backup = scope.spawn(|| lab.back_up_unless(guest, by(way), &set, &unwanted));
                until("the store hangs", &hangs);
                lab.ticks_on(guest);
                unwanted.store(true, Ordering::SeqCst);
                // The worker hangs on: the guard does it.
                until("the guest is freed", || {
                    let xml = lab.hypervisor.xml(&guest.0.bytes(), Default::default()).unwrap();
                    !xml.contains("scratch") && lab.hypervisor.backup_job(&guest.0.bytes()) == Ok(None)
                });
                assert!(!backup.is_finished());
                lab.ticks_on(guest);
                release(&lab);
                assert_eq!(backup.join().unwrap().unwrap_err().code, FailureCode::Cancelled);
            });
            whole(&lab, guest);
        }
    });
}

#[test]
fn real_full_scratch_disk_and_its_cap_end_the_backup_and_not_the_guest() {
    in_lab("broken::real_full_scratch_disk_and_its_cap_end_the_backup_and_not_the_guest", |mut lab| {
        let guest = lab.guest(1, "qcow2");
        std::fs::create_dir(lab.root.join("small")).unwrap();
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "t"]).arg(lab.root.join("small")));
        let small = Scratch { folder: lab.root.join("small/scratch"), reserve: 8 << 20, ..lab.scratch.clone() };
        // The guest writes 8 MiB in all, which a layer needs 0.5 MiB for: only a fleece passes the cap, and only where there
        // was something before.
        lab.goes_round(guest);
        for (way, fill, cap) in [(Way::Pull, true, 1 << 30), (Way::Pull, false, 4 << 20), (Way::Overlay, true, 1 << 30)]
        {
            lab.scratch = Scratch { cap, ..small.clone() };
            let (set, hangs) = hanging(&lab);
            thread::scope(|scope| {
                let backup = scope.spawn(|| lab.back_up(guest, by(way), &set));
                until("the store hangs", &hangs);
                if fill {
                    // Somebody else fills the disk to the last byte, the reserve excepted.
                    let _ = Command::new("dd")
                        .args(["if=/dev/zero", "bs=64k"])
                        .arg(format!("of={}/small/other", lab.root.display()))
                        .output();
                }
                until("the guest is freed", || {
                    let xml = lab.hypervisor.xml(&guest.0.bytes(), Default::default()).unwrap();
                    !xml.contains("small/scratch") && lab.hypervisor.backup_job(&guest.0.bytes()) == Ok(None)
                });
                lab.ticks_on(guest);
                release(&lab);
                assert_eq!(backup.join().unwrap().unwrap_err().code, FailureCode::NoSpace, "{way:?}");
            });
            let _ = std::fs::remove_file(lab.root.join("small/other"));
            whole(&lab, guest);
        }
    });
}

#[test]
fn real_killed_agent_qemu_and_libvirtd_in_the_middle_leave_a_guest_that_runs_on_its_own_disks() {
    const NAME: &str =
        "broken::real_killed_agent_qemu_and_libvirtd_in_the_middle_leave_a_guest_that_runs_on_its_own_disks";
    in_lab(NAME, |mut lab| {
        if let Ok(way) = std::env::var(ROLE) {
            let way = if way == "pull" { Way::Pull } else { Way::Overlay };
            let (set, _) = hanging(&lab);
            let guest = Guest(uuid::Uuid::from_bytes(lab.hypervisor.domains().unwrap()[0].uuid).into());
            let _ = lab.back_up(guest, by(way), &set);
            return;
        }
        let guest = lab.guest(1, "qcow2");
        for way in ["pull", "overlay"] {
            killed_agent(&lab, guest, NAME, way);
        }
        for way in WAYS {
            killed_qemu(&lab, guest, way);
            killed_libvirtd(&mut lab, guest, way);
        }
    });
}

fn killed_agent(lab: &Lab, guest: Guest, name: &str, way: &str) {
    let (_, hangs) = hanging(lab);
    let mut agent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("act::backup::test::{name}"), "--nocapture"])
        .env(ROLE, way)
        .spawn()
        .unwrap();
    until("the agent is in the middle", hangs);
    agent.kill().unwrap();
    agent.wait().unwrap();
    lab.ticks_on(guest);
    assert!(lab.scratch.is_used(guest.0));
    tidy::all(&lab.hypervisor, &lab.scratch);
    lab.clean(guest);
    whole(lab, guest);
}

fn killed_qemu(lab: &Lab, guest: Guest, way: Way) {
    let (set, hangs) = hanging(lab);
    let ticks = lab.ticks(guest);
    thread::scope(|scope| {
        let backup = scope.spawn(|| lab.back_up(guest, by(way), &set));
        until("the store hangs", hangs);
        lab.ticks_on(guest);
        kill(lab.qemu(guest));
        release(lab);
        let made = backup.join().unwrap();
        // A frozen base is read without the guest's QEMU: all of it may be read before the death is noticed.
        assert!(made.is_err() || way == Way::Overlay, "{made:?}");
        if made.is_ok() {
            moment(&set.last().disks["hda"]);
        }
    });
    lab.clean(guest);
    // The guest never flushes, so a killed QEMU may lose what it wrote since the moment, and nothing older.
    let shown = moment(&lab.content(guest, "qcow2"));
    assert!(shown + 10 >= ticks, "{way:?}: {shown} of {ticks}");
    lab.begin_anew(guest);
    whole(lab, guest);
}

fn killed_libvirtd(lab: &mut Lab, guest: Guest, way: Way) {
    let (set, hangs) = hanging(lab);
    thread::scope(|scope| {
        let backup = scope.spawn(|| lab.back_up(guest, by(way), &set));
        until("the store hangs", hangs);
        lab.kill_libvirtd();
        lab.ticks_on(guest);
        release(lab);
        let _ = backup.join().unwrap();
    });
    lab.ticks_on(guest);
    lab.new_libvirtd();
    tidy::all(&lab.hypervisor, &lab.scratch);
    lab.clean(guest);
    whole(lab, guest);
}
