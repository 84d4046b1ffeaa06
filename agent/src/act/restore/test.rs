//! Restores of real guests from a real store; `ROOST_REAL=1` and root are needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use roost_libvirt::{ForceOff, State, XmlForm};
use roost_protocol::backup::RestoreAs;
use roost_protocol::operation::{Failure, FailureCode};
use roost_protocol::{GuestId, PointId};
use roost_store::{Options, Store};

use super::origin::FromStore;
use super::pull::{Pull, Served};
use super::{Order, Restore};
use crate::act::backup::kept::{Kept, Origin};
use crate::act::backup::test::lab::{Guest, Lab, in_lab_as, run, until};
use crate::act::backup::{Backup, Wish};
use crate::act::place::Place;
use crate::act::xml::Accelerator;

struct Rig {
    lab: Lab,
    store: Store,
    place: Place,
    served: Served,
    guest: Guest,
    point: PointId,
    /// What its disk held.
    content: Vec<u8>,
}

fn as_new(name: &str) -> RestoreAs {
    RestoreAs::AsNew { name: name.into(), hostname: Some("desk-7".into()), windows_name: None, domain: None }
}

impl Rig {
    /// A guest that was backed up twice into a real store while it ran, and is off now.
    fn new(lab: Lab) -> Self {
        let store = Store::open(&lab.root.join("store"), Options::default()).unwrap();
        let place = Place::open(&lab.root.join("images"), &lab.root.join("guests")).unwrap();
        let guest = lab.guest(1, "qcow2");
        let served = Served::default();
        let rig = |point, content| Self { lab, store, place, served, guest, point, content };
        let mut rig = rig(PointId::from_u128(0), Vec::new());
        rig.back_up();
        let uuid = guest.0.bytes();
        rig.lab.hypervisor.pause(&uuid).unwrap();
        rig.point = rig.back_up();
        rig.lab.hypervisor.force_off(&uuid, ForceOff::Graceful).unwrap();
        rig.content = rig.lab.content(guest, "qcow2");
        rig
    }

    fn back_up(&self) -> PointId {
        let set = Kept { store: self.store.clone(), guest: self.guest.0, origin: Origin::default() };
        let (hypervisor, scratch, unwanted) = (&self.lab.hypervisor, &self.lab.scratch, &AtomicBool::new(false));
        Backup { hypervisor, scratch, unwanted, tell: &|_, _| {} }.run(self.guest.0, Wish::default(), &set).unwrap()
    }

    fn restore(&self, order: &Order, unwanted: bool) -> Result<(), Failure> {
        let (hypervisor, place, accelerator) = (&self.lab.hypervisor, &self.place, Accelerator::Tcg);
        let (unwanted, tell, served) = (&AtomicBool::new(unwanted), &|_: u32, _: &str| {}, &self.served);
        let origin = FromStore { store: self.store.clone(), point: self.point };
        Restore { hypervisor, place, accelerator, served, unwanted, tell }.run(order, &origin)
    }

    fn order(&self, guest: GuestId, to_be: RestoreAs) -> Order {
        Order { guest, to_be, replace: false, start: false, at_once: false }
    }

    /// The content of a guest's only disk, which lies in the guest's folder.
    fn disk_of(&self, guest: GuestId) -> Vec<u8> {
        let xml = self.lab.hypervisor.xml(&guest.bytes(), XmlForm { inactive: true, ..XmlForm::default() }).unwrap();
        let disk = crate::act::backup::definition::read(&xml).unwrap().disks.remove(0);
        assert!(disk.path.starts_with(self.place.guest(guest)), "{}", disk.path.display());
        let raw = self.lab.root.join("restored.raw");
        run(std::process::Command::new("qemu-img")
            .args(["convert", "-f", "qcow2", "-O", "raw"])
            .arg(&disk.path)
            .arg(&raw));
        fs::read(raw).unwrap()
    }

    fn state(&self, guest: GuestId) -> Option<State> {
        self.lab.hypervisor.domain(&guest.bytes()).ok().map(|domain| domain.state)
    }
}

#[test]
fn real_restored_guests_are_equal_to_the_last_byte_or_nothing_is_changed() {
    in_lab_as("act::restore::test::real_restored_guests_are_equal_to_the_last_byte_or_nothing_is_changed", |lab| {
        let rig = Rig::new(lab);
        let (own, new) = (rig.guest.0, GuestId::from_u128(0x9999));
        refusals(&rig, own, new);

        rig.restore(&rig.order(new, as_new("copy & new")), false).unwrap();
        assert!(rig.content == rig.disk_of(new) && rig.state(new) == Some(State::ShutOff));
        let xml = rig.lab.hypervisor.xml(&new.bytes(), XmlForm::default()).unwrap();
        assert!(xml.contains("copy &amp; new") && xml.contains("seed-"), "{xml}");
        rig.lab.hypervisor.start(&new.bytes()).unwrap();
        rig.lab.hypervisor.force_off(&new.bytes(), ForceOff::Kill).unwrap();

        // The original changes, then comes back as it was; its old disk lay outside our folder and stays.
        rig.lab.begin_anew(rig.guest);
        rig.lab.hypervisor.force_off(&own.bytes(), ForceOff::Graceful).unwrap();
        rig.restore(&Order { replace: true, start: true, ..rig.order(own, RestoreAs::AsItWas) }, false).unwrap();
        assert_eq!(rig.state(own), Some(State::Running));
        rig.lab.hypervisor.force_off(&own.bytes(), ForceOff::Kill).unwrap();
        rig.restore(&Order { replace: true, ..rig.order(own, RestoreAs::AsItWas) }, false).unwrap();
        assert!(rig.content == rig.disk_of(own));
        assert!(rig.lab.disk(rig.guest, "qcow2").exists());
        let disks = fs::read_dir(rig.place.guest(own)).unwrap().flatten();
        let disks = disks.filter(|entry| entry.path().extension().is_some_and(|ending| ending == "qcow2"));
        assert_eq!(disks.count(), 1, "the one before is gone");
    });
}

fn refusals(rig: &Rig, own: GuestId, new: GuestId) {
    let refused = |order: &Order, unwanted: bool, code: FailureCode| {
        let why = rig.restore(order, unwanted).unwrap_err();
        assert_eq!(why.code, code, "{}", why.text);
        assert!(!rig.place.guest(new).exists() && rig.state(new).is_none(), "undone");
    };
    refused(&rig.order(own, RestoreAs::AsItWas), false, FailureCode::AlreadyExists);
    refused(&rig.order(own, as_new("x")), false, FailureCode::AlreadyExists);
    refused(&rig.order(new, as_new(&format!("g-{own}"))), false, FailureCode::AlreadyExists);
    refused(&rig.order(new, as_new("fine")), true, FailureCode::Cancelled);
    rig.lab.hypervisor.start(&own.bytes()).unwrap();
    refused(&Order { replace: true, ..rig.order(own, RestoreAs::AsItWas) }, false, FailureCode::WrongState);
    rig.lab.hypervisor.force_off(&own.bytes(), ForceOff::Kill).unwrap();
}

impl Rig {
    /// Starts a guest at once from the point, and gives its layer.
    fn at_once(&self, guest: GuestId, name: &str) -> PathBuf {
        self.restore(&Order { at_once: true, ..self.order(guest, as_new(name)) }, false).unwrap();
        self.lab.hypervisor.start(&guest.bytes()).unwrap();
        let files = fs::read_dir(self.place.guest(guest)).unwrap().flatten().map(|entry| entry.path());
        files.into_iter().find(|path| path.extension().is_some_and(|ending| ending == "qcow2")).unwrap()
    }

    fn pull(&self, guest: GuestId) {
        let origin = || {
            let from = FromStore { store: self.store.clone(), point: self.point };
            Ok(Box::new(from) as Box<dyn super::origin::Origin>)
        };
        let (hypervisor, place, served) = (&self.lab.hypervisor, &self.place, &self.served);
        let (unwanted, tell) = (&AtomicBool::new(false), &|_: u32, _: &str| {});
        Pull { hypervisor, place, served, guest, unwanted, tell }.run(&origin).unwrap();
    }

    /// What a loss of power leaves of QEMU.
    fn kill(&self, guest: GuestId) {
        let pid = roost_libvirt::qemu_pid(&guest.bytes()).unwrap().to_string();
        run(std::process::Command::new("kill").args(["-9", &pid]));
        until("it is off", || self.state(guest) == Some(State::ShutOff));
    }

    /// The guest writes to the first 8 MiB; the rest is the point's.
    fn has_its_data(&self, guest: GuestId) -> bool {
        self.content[8 << 20..] == self.disk_of(guest)[8 << 20..]
    }
}

fn is_over_something(layer: &Path) -> bool {
    let info = std::process::Command::new("qemu-img").args(["info", "-U"]).arg(layer).output().unwrap();
    String::from_utf8_lossy(&info.stdout).contains("backing")
}

#[test]
fn real_guest_that_starts_at_once_has_all_its_data_in_the_end() {
    in_lab_as("act::restore::test::real_guest_that_starts_at_once_has_all_its_data_in_the_end", |lab| {
        let rig = Rig::new(lab);
        let new = GuestId::from_u128(0x9998);
        let layer = rig.at_once(new, "at once");
        rig.pull(new);
        assert_eq!(rig.state(new), Some(State::Running));
        let serial = rig.place.guest(new).join("serial.log");
        let size = || fs::metadata(&serial).map_or(0, |file| file.len());
        let before = size();
        until("it ticks without the point", || size() > before + 100);
        // Whatever becomes of QEMU: this guest never flushes by itself.
        rig.kill(new);
        assert!(!is_over_something(&layer), "depth 0");
        assert!(rig.has_its_data(new));
        rig.lab.hypervisor.start(&new.bytes()).unwrap();
    });
}

#[test]
fn real_qemu_that_dies_as_all_data_is_in_loses_nothing_of_the_point() {
    in_lab_as("act::restore::test::real_qemu_that_dies_as_all_data_is_in_loses_nothing_of_the_point", |lab| {
        let rig = Rig::new(lab);
        let new = GuestId::from_u128(0x9997);
        let layer = rig.at_once(new, "died");
        let hypervisor = &rig.lab.hypervisor;
        let target = hypervisor.xml(&new.bytes(), XmlForm::default()).unwrap();
        let target = crate::act::backup::definition::read(&target).unwrap().disks.remove(0).target;
        hypervisor.block_pull(&new.bytes(), &target, 0).unwrap();
        until("all is in", || {
            hypervisor.block_job(&new.bytes(), &target).is_ok_and(|job| job.is_none()) && !is_over_something(&layer)
        });
        rig.kill(new);
        std::thread::scope(|scope| {
            let pulled = scope.spawn(|| rig.pull(new));
            until("its point is below it again", || is_over_something(&layer));
            hypervisor.start(&new.bytes()).unwrap();
            pulled.join().unwrap();
        });
        rig.kill(new);
        assert!(!is_over_something(&layer));
        assert!(rig.has_its_data(new));
    });
}

#[test]
fn real_qemu_that_long_found_nobody_to_read_from_gets_its_data_in_one_try() {
    in_lab_as("act::restore::test::real_qemu_that_long_found_nobody_to_read_from_gets_its_data_in_one_try", |lab| {
        let rig = Rig::new(lab);
        let new = GuestId::from_u128(0x9996);
        let layer = rig.at_once(new, "alone");
        rig.served.end(new);
        let since = Instant::now();
        until("it reads in vain, and looks for its point every 16 s only", || {
            let _ = rig.lab.hypervisor.block_pull(&new.bytes(), "hda", 0);
            since.elapsed() > Duration::from_secs(16)
        });
        rig.pull(new);
        rig.kill(new);
        assert!(!is_over_something(&layer));
        assert!(rig.has_its_data(new));
    });
}
