//! A namespace of its own for each test, with libvirt's embedded driver and a tiny guest in it.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its part")]
#![expect(clippy::print_stderr, reason = "a skipped test says why")]

use roost_libvirt::{Event, Hypervisor, Uuid};
use std::{
    env, fs,
    path::Path,
    process::Command,
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

/// The tiny multiboot guest: it ticks, and writes to its disk.
pub const GUEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/lab/mb.S");
pub const QEMU_CONF: &str = "user = \"root\"\ngroup = \"root\"\ndynamic_ownership = 0\nremember_owner = 0\n\
                         security_driver = \"none\"\ncgroup_controllers = []\nnamespaces = []\nstdio_handler = \"file\"\n";
/// Set for the process inside the namespace.
pub const INSIDE: &str = "ROOST_LIBVIRT_INSIDE";
pub const UUID: Uuid = [0x77; 16];
pub const DISK_BYTES: u64 = 16 * 1024 * 1024;
/// Generous, since QEMU is first probed for its abilities on a loaded machine.
pub const SOON: Duration = Duration::from_secs(120);

/// Runs `test` in a mount and process namespace of its own, where all ends with it. The shell stays as process 1 to reap
/// what libvirt leaves behind, without which its probing of QEMU takes minutes.
pub fn in_namespace(name: &str, test: impl FnOnce(&Path)) {
    if env::var("ROOST_REAL").as_deref() != Ok("1") {
        eprintln!("{name}: skipped, as ROOST_REAL=1 is not set");
        return;
    }
    if let Some(root) = env::var_os(INSIDE) {
        return test(Path::new(&root));
    }
    let root = tempfile::tempdir().unwrap();
    for (file, line) in
        [("passwd", "libvirt-qemu:x:64055:994::/:/usr/sbin/nologin\n"), ("group", "libvirt-qemu:x:64055:\n")]
    {
        let mut users = fs::read_to_string(format!("/etc/{file}")).unwrap();
        if !users.contains("libvirt-qemu:") {
            users.push_str(line);
        }
        fs::write(root.path().join(file), users).unwrap();
    }
    // On one CPU, as libvirt probes QEMU anew whenever two CPUs describe themselves differently.
    let script = "mount --bind \"$R/passwd\" /etc/passwd && mount --bind \"$R/group\" /etc/group && \
                  taskset -c 0 \"$@\"";
    let status = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script, "sh"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env("R", root.path())
        .env(INSIDE, root.path())
        .status()
        .unwrap();
    assert!(status.success(), "inside the namespace: {status}");
}

pub fn kill(pid: u32, signal: &str) {
    assert!(Command::new("kill").args([format!("-{signal}"), pid.to_string()]).status().unwrap().success());
}

pub fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}

/// Makes the driver's root, the guest's kernel and its disk; gives the URI and the domain's XML.
pub fn prepare(root: &Path) -> (String, String) {
    let at = |file: &str| root.join(file).display().to_string();
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/qemu.conf"), QEMU_CONF).unwrap();
    run(Command::new("gcc").args(["-m32", "-c", "-o", &at("mb.o"), GUEST]));
    run(Command::new("ld").args([
        "-m",
        "elf_i386",
        "-Ttext=0x100000",
        "-e",
        "_start",
        "-o",
        &at("mb.elf"),
        &at("mb.o"),
    ]));
    run(Command::new("strip").arg(at("mb.elf")));
    fs::File::create(root.join("disk.raw")).unwrap().set_len(DISK_BYTES).unwrap();
    let uri = format!("qemu:///embed?root={}", root.display());
    (uri, xml("real", "77777777-7777-7777-7777-777777777777", root))
}

pub fn xml(name: &str, uuid: &str, root: &Path) -> String {
    let root = root.display();
    format!(
        "<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>32</memory><vcpu>1</vcpu><features><acpi/></features>\
         <os><type arch='x86_64' machine='pc'>hvm</type><kernel>{root}/mb.elf</kernel><cmdline>p=1 d=5 h=100</cmdline></os>\
         <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>\
         <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{root}/disk.raw'/>\
         <target dev='hda' bus='ide'/></disk>\
         <serial type='file'><source path='{root}/serial'/></serial>\
         <memballoon model='virtio'><stats period='1'/></memballoon></devices></domain>"
    )
}

pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub fn watch(hypervisor: &Hypervisor) -> Receiver<Event> {
    let (sender, events) = channel();
    hypervisor.on_event(move |event| drop(sender.send(event))).unwrap();
    events
}
