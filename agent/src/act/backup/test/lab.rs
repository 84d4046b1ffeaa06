//! A mount and process namespace with its own libvirtd, and the tiny guest that writes to its disk.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use roost_libvirt::{Hypervisor, XmlForm, qemu_pid};
use roost_protocol::operation::Failure;
use roost_protocol::{GuestId, PointId};

use super::memory::Memory;
use crate::act::backup::scratch::Scratch;
use crate::act::backup::{Backup, Wish};
pub(crate) use crate::waiting::{run, until};

const KERNEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/lab/mb.S");
const INSIDE: &str = "ROOST_BACKUP_INSIDE";
/// Set for the process that is to be killed.
pub(crate) const ROLE: &str = "ROOST_BACKUP_ROLE";
pub(crate) const DISK: u64 = 64 << 20;
/// The guest writes one sector each so many ticks of 10 ms.
const EVERY: u32 = 2;
/// Places that the guest writes, one after the other, 64 KiB apart.
const PLACES: u32 = 128;

const SCRIPT: &str = r#"set -e
mount --bind "$R/passwd" /etc/passwd; mount --bind "$R/group" /etc/group
for folder in /run /var/lib/libvirt /var/cache/libvirt /var/log/libvirt /etc/libvirt; do
  mkdir -p $folder; mount -t tmpfs t $folder
done
mkdir -p /run/lock /var/lib/libvirt/images; cp "$R"/etc/* /etc/libvirt/
[ ! -e /dev/kvm ] || { : > /run/no-kvm; mount --bind /run/no-kvm /dev/kvm; mount -o remount,bind,ro /dev/kvm; }
"$@"
"#;
const QEMU_CONF: &str = "user = \"root\"\ngroup = \"root\"\ndynamic_ownership = 0\nremember_owner = 0\n\
                         security_driver = \"none\"\ncgroup_controllers = []\nnamespaces = []\nstdio_handler = \"file\"\n";
const LIBVIRTD_CONF: &str = "auth_unix_rw = \"none\"\nlog_outputs = \"3:file:/var/log/libvirt/libvirtd.log\"\n";

/// Runs `test` in a namespace where all ends with it.
pub(crate) fn in_lab(name: &str, test: impl FnOnce(Lab)) {
    in_lab_as(&format!("act::backup::test::{name}"), test);
}

/// The same for a test with this whole name.
pub(crate) fn in_lab_as(name: &str, test: impl FnOnce(Lab)) {
    if env::var("ROOST_REAL").as_deref() != Ok("1") {
        return eprintln!("{name}: skipped, as ROOST_REAL=1 is not set");
    }
    if let Some(root) = env::var_os(INSIDE) {
        return test(Lab::open(Path::new(&root)));
    }
    let root = tempfile::tempdir().unwrap();
    for (file, line) in
        [("passwd", "libvirt-qemu:x:64055:994::/:/usr/sbin/nologin\n"), ("group", "libvirt-qemu:x:64055:\n")]
    {
        let users = fs::read_to_string(format!("/etc/{file}")).unwrap();
        let line = if users.contains("libvirt-qemu:") { "" } else { line };
        fs::write(root.path().join(file), users + line).unwrap();
    }
    fs::create_dir(root.path().join("etc")).unwrap();
    fs::write(root.path().join("etc/qemu.conf"), QEMU_CONF).unwrap();
    fs::write(root.path().join("etc/libvirtd.conf"), LIBVIRTD_CONF).unwrap();
    let status = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", SCRIPT, "sh"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env("R", root.path())
        .env(INSIDE, root.path())
        .status()
        .unwrap();
    assert!(status.success(), "inside the namespace: {status}");
}

/// One host.
pub(crate) struct Lab {
    pub(crate) root: PathBuf,
    pub(crate) hypervisor: Arc<Hypervisor>,
    pub(crate) scratch: Scratch,
}

/// One guest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guest(pub(crate) GuestId);

pub(crate) fn kill(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
}

fn start_libvirtd() {
    for old in ["/run/libvirtd.pid", "/run/libvirt/libvirt-sock"] {
        let _ = fs::remove_file(old);
    }
    // On one processor, as libvirt probes QEMU anew whenever two describe themselves differently.
    run(Command::new("taskset").args(["-c", "0", "libvirtd", "-d", "-p", "/run/libvirtd.pid"]));
}

fn connect() -> Arc<Hypervisor> {
    let mut found = None;
    until("libvirtd answers", || {
        found = Hypervisor::open("qemu:///system").ok().filter(|hypervisor| hypervisor.domains().is_ok());
        found.is_some()
    });
    Arc::new(found.unwrap())
}

impl Lab {
    fn open(root: &Path) -> Self {
        if env::var_os(ROLE).is_none() {
            start_libvirtd();
        }
        let at = |file: &str| root.join(file).display().to_string();
        run(Command::new("gcc").args(["-m32", "-c", "-o", &at("mb.o"), KERNEL]));
        let link = ["-m", "elf_i386", "-Ttext=0x100000", "-e", "_start", "-o", &at("mb.elf"), &at("mb.o")];
        run(Command::new("ld").args(link));
        let folder = root.join("scratch");
        let (longest, reserve) = (Duration::from_secs(600), 16 << 20);
        let scratch = Scratch { folder, cap: 1 << 30, reserve, longest, read_speed: 0 };
        Self { root: root.to_owned(), hypervisor: connect(), scratch }
    }

    /// kill -9, and a new one.
    pub(crate) fn kill_libvirtd(&self) {
        kill(fs::read_to_string("/run/libvirtd.pid").unwrap().trim().parse().unwrap());
        until("it is gone", || self.hypervisor.domains().is_err());
    }

    pub(crate) fn new_libvirtd(&mut self) {
        start_libvirtd();
        self.hypervisor = connect();
    }

    /// A running guest with a disk of `DISK` bytes in this format, partly filled, that it writes to all the time.
    pub(crate) fn guest(&self, number: u8, format: &str) -> Guest {
        let guest = Guest(GuestId::from_u128(0x7777_0000 + u128::from(number)));
        let disk = self.disk(guest, format);
        run(Command::new("qemu-img").args(["create", "-q", "-f", format]).arg(&disk).arg(DISK.to_string()));
        run(Command::new("qemu-io").args(["-f", format, "-c", "write -P 7 32M 8M"]).arg(&disk));
        self.hypervisor.define(&self.xml(guest, format)).unwrap();
        self.hypervisor.start(&guest.0.bytes()).unwrap();
        until("the guest writes", || self.ticks(guest) > 50);
        guest
    }

    /// Starts a guest that is off, with a new clock and an empty record of it.
    pub(crate) fn begin_anew(&self, guest: Guest) {
        let _ = fs::remove_file(self.root.join(format!("{}.serial", guest.0)));
        run(Command::new("qemu-io").args(["-c", "write -z 0 8M"]).arg(self.disk(guest, "qcow2")));
        self.hypervisor.start(&guest.0.bytes()).unwrap();
        until("the guest writes", || self.ticks(guest) > 50);
    }

    pub(crate) fn disk(&self, guest: Guest, format: &str) -> PathBuf {
        self.root.join(format!("{}.{format}", guest.0))
    }

    fn xml(&self, guest: Guest, format: &str) -> String {
        let (root, id, disk) = (self.root.display(), guest.0, self.disk(guest, format));
        format!(
            "<domain type='qemu'><name>g-{id}</name><uuid>{id}</uuid><memory unit='MiB'>32</memory><vcpu>1</vcpu>\
             <features><acpi/></features><os><type arch='x86_64' machine='pc'>hvm</type><kernel>{root}/mb.elf</kernel>\
             <cmdline>d={EVERY} h=5</cmdline></os><on_crash>destroy</on_crash><devices>\
             <emulator>/usr/bin/qemu-system-x86_64</emulator><disk type='file' device='disk'>\
             <driver name='qemu' type='{format}' discard='unmap'/><source file='{}'/><target dev='hda' bus='ide'/></disk>\
             <controller type='usb' model='none'/><serial type='file'><source path='{root}/{id}.serial'/></serial>\
             <memballoon model='none'/></devices></domain>",
            disk.display()
        )
    }

    /// The guest's clock, in ticks, as it told last.
    pub(crate) fn ticks(&self, guest: Guest) -> u32 {
        let text = fs::read(self.root.join(format!("{}.serial", guest.0))).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let told = text.rsplit("HB ").find_map(|rest| u32::from_str_radix(rest.get(..8)?, 16).ok());
        told.unwrap_or(0)
    }

    /// Waits until the guest has written each of its places.
    pub(crate) fn goes_round(&self, guest: Guest) {
        until("the guest writes all its places", || self.ticks(guest) > 2 * PLACES * EVERY);
    }

    /// Fails unless the guest goes on.
    pub(crate) fn ticks_on(&self, guest: Guest) {
        let before = self.ticks(guest);
        until("the guest ticks on", || self.ticks(guest) > before);
    }

    pub(crate) fn qemu(&self, guest: Guest) -> i32 {
        i32::try_from(qemu_pid(&guest.0.bytes()).unwrap()).unwrap()
    }

    pub(crate) fn back_up(&self, guest: Guest, wish: Wish, set: &Memory) -> Result<PointId, Failure> {
        self.back_up_unless(guest, wish, set, &AtomicBool::new(false))
    }

    pub(crate) fn back_up_unless(
        &self,
        guest: Guest,
        wish: Wish,
        set: &Memory,
        unwanted: &AtomicBool,
    ) -> Result<PointId, Failure> {
        let (hypervisor, scratch) = (&self.hypervisor, &self.scratch);
        Backup { hypervisor, scratch, unwanted, tell: &|_, _| {} }.run(guest.0, wish, set)
    }

    /// Nothing of a backup is left: no job, no layer, no process, no file.
    pub(crate) fn clean(&self, guest: Guest) {
        let uuid = guest.0.bytes();
        for inactive in [false, true] {
            let xml = self.hypervisor.xml(&uuid, XmlForm { inactive, ..XmlForm::default() }).unwrap();
            assert!(!xml.contains("scratch") && !xml.contains("<mirror"), "{xml}");
        }
        assert_eq!(self.hypervisor.backup_job(&uuid), Ok(None));
        assert_eq!(self.scratch.guests(), []);
        let names = |entry: fs::DirEntry| fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let all: Vec<_> = fs::read_dir("/proc").unwrap().flatten().map(names).collect();
        assert!(!all.iter().any(|line| String::from_utf8_lossy(line).contains("qemu-nbd")));
    }

    /// What the guest's disk holds, once it is off.
    pub(crate) fn content(&self, guest: Guest, format: &str) -> Vec<u8> {
        let raw = self.root.join("content.raw");
        run(Command::new("qemu-img")
            .args(["convert", "-f", format, "-O", "raw"])
            .arg(self.disk(guest, format))
            .arg(&raw));
        fs::read(raw).unwrap()
    }
}

/// The last tick that a captured disk holds. The guest writes (tick, sector) to one sector after the other; a capture of
/// one moment holds all writes up to one, and none after it.
pub(crate) fn moment(disk: &[u8]) -> u32 {
    let word = |at: usize| u32::from_le_bytes(disk[at..at + 4].try_into().unwrap());
    let slots = usize::try_from(PLACES).unwrap();
    let at = |slot: usize| slot * 65_536;
    let last = (0..slots).max_by_key(|slot| word(at(*slot))).unwrap();
    let (now, mut wanted) = (word(at(last)), word(at(last)));
    for back in 0..slots {
        let slot = (last + slots - back) % slots;
        let (tick, sector) = (word(at(slot)), word(at(slot) + 4));
        if tick == 0 {
            assert!(
                (0..=slot).all(|older| older > last || back > last || word(at(older)) == 0),
                "a hole before slot {slot}"
            );
            break;
        }
        assert_eq!(usize::try_from(sector).unwrap(), slot * 128);
        assert!(tick <= wanted && wanted - tick < 50 * EVERY, "slot {slot}: {tick} after {wanted}");
        wanted = tick;
    }
    now
}
