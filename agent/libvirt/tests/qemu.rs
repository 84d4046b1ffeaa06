//! The promises that only a real QEMU can keep, under libvirt's embedded driver and without a daemon.
//!
//! Needs root, QEMU and libvirt's QEMU driver; runs only with `ROOST_REAL=1`, and then fails where it cannot run. The
//! machine is left as it was: users that libvirt wants are added in a mount namespace of the test's own.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stderr, reason = "a skipped test says why")]

use roost_libvirt::{
    BlockStats, Code, Event, EventKind, ForceOff, Hypervisor, Lifecycle, Reason, ShutdownMode, State, StatsGroups,
    StoppedWhy, SuspendedWhy, Uuid, XmlForm, qemu_pid, qemu_pids,
};
use std::{
    env, fs,
    path::Path,
    process::Command,
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

/// The tiny multiboot guest: it ticks, and writes to its disk.
const GUEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/lab/mb.S");
const QEMU_CONF: &str = "user = \"root\"\ngroup = \"root\"\ndynamic_ownership = 0\nremember_owner = 0\n\
                         security_driver = \"none\"\ncgroup_controllers = []\nnamespaces = []\nstdio_handler = \"file\"\n";
/// Set for the process inside the namespace.
const INSIDE: &str = "ROOST_LIBVIRT_INSIDE";
const UUID: Uuid = [0x77; 16];
const DISK_BYTES: u64 = 16 * 1024 * 1024;
/// Generous, since QEMU is first probed for its abilities on a loaded machine.
const SOON: Duration = Duration::from_secs(120);

/// Runs `test` in a mount and process namespace of its own, where all ends with it. The shell stays as process 1 to reap
/// what libvirt leaves behind, without which its probing of QEMU takes minutes.
fn in_namespace(name: &str, test: impl FnOnce(&Path)) {
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

fn kill(pid: u32, signal: &str) {
    assert!(Command::new("kill").args([format!("-{signal}"), pid.to_string()]).status().unwrap().success());
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}

/// Makes the driver's root, the guest's kernel and its disk; gives the URI and the domain's XML.
fn prepare(root: &Path) -> (String, String) {
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

fn xml(name: &str, uuid: &str, root: &Path) -> String {
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

/// Waits for one lifecycle event of the guest.
fn await_life(events: &Receiver<Event>, wanted: Lifecycle) {
    let end = Instant::now() + SOON;
    while let Ok(event) = events.recv_timeout(end.saturating_duration_since(Instant::now())) {
        if let Event::Domain(domain) = event
            && let EventKind::Lifecycle { event, .. } = domain.kind
            && (domain.uuid, event) == (UUID, wanted)
        {
            return;
        }
    }
    panic!("no {wanted:?}");
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn watch(hypervisor: &Hypervisor) -> Receiver<Event> {
    let (sender, events) = channel();
    hypervisor.on_event(move |event| drop(sender.send(event))).unwrap();
    events
}

fn state(hypervisor: &Hypervisor) -> (State, Reason) {
    let info = hypervisor.domain(&UUID).unwrap();
    (info.state, info.reason)
}

#[test]
fn real_guest_lives_is_killed_and_outlives_its_connection() {
    in_namespace("real_guest_lives_is_killed_and_outlives_its_connection", |root| {
        let (uri, xml) = prepare(root);
        let hypervisor = Hypervisor::open(&uri).unwrap();
        let events = watch(&hypervisor);
        assert!(hypervisor.alive());
        assert!(hypervisor.version().unwrap().qemu.major >= 7);
        assert_eq!(hypervisor.define(&xml).unwrap(), UUID);
        hypervisor.start_paused(&UUID).unwrap();
        await_life(&events, Lifecycle::Started);
        assert_eq!(state(&hypervisor).0, State::Paused);
        hypervisor.resume(&UUID).unwrap();
        await_life(&events, Lifecycle::Resumed);

        let pid = qemu_pid(&UUID).unwrap();
        assert_eq!(qemu_pids().get(&UUID), Some(&pid));
        assert!(fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().starts_with("qemu"));
        numbers_are_told(&hypervisor);
        refusals_have_codes(&hypervisor, &xml);
        a_hung_qemu_holds_up_one_call_only(&hypervisor, pid);

        kill(pid, "KILL");
        await_life(&events, Lifecycle::Stopped(StoppedWhy::Failed));
        assert_eq!(state(&hypervisor), (State::ShutOff, Reason::Crashed));
        until("the process is gone", || qemu_pid(&UUID).is_none());

        hypervisor.start(&UUID).unwrap();
        drop(hypervisor);
        assert!(events.iter().count() < 100, "the receiver goes with the connection");
        assert!(qemu_pid(&UUID).is_some(), "the guest outlives the connection");
        a_new_connection_takes_over(&uri);
    });
}

fn numbers_are_told(hypervisor: &Hypervisor) {
    let stats =
        || hypervisor.bulk_stats(StatsGroups::RUNNING).unwrap().into_iter().find(|one| one.uuid == UUID).unwrap();
    until("the guest writes", || stats().blocks[0].wr_bytes > Some(0));
    let stats = stats();
    assert_eq!(stats.state.unwrap().0, State::Running);
    assert!(stats.cpu.time_ns > Some(0));
    assert_eq!((stats.balloon.current_kib, stats.balloon.maximum_kib), (Some(32_768), Some(32_768)));
    assert!(stats.balloon.rss_kib > Some(1024));
    assert_eq!((stats.vcpus, stats.vcpus_max), (Some(1), Some(1)));
    let BlockStats { name, path, capacity_bytes, .. } = &stats.blocks[0];
    assert_eq!((&name[..], *capacity_bytes), ("hda", Some(DISK_BYTES)));
    assert!(path.ends_with("disk.raw"));
}

fn refusals_have_codes(hypervisor: &Hypervisor, xml: &str) {
    assert_eq!(hypervisor.start(&UUID).unwrap_err().code(), Some(Code::OperationInvalid));
    let asked = hypervisor.agent_command(&UUID, r#"{"execute":"guest-ping"}"#, 1);
    assert_eq!(asked.unwrap_err().code(), Some(Code::Unsupported), "no channel");
    assert!(hypervisor.interface_addresses(&UUID).is_err());
    assert!(hypervisor.shutdown(&UUID, ShutdownMode::Agent).is_err());
    hypervisor.shutdown(&UUID, ShutdownMode::Acpi).unwrap();
    hypervisor.set_balloon(&UUID, 16 * 1024).unwrap();
    hypervisor.set_memory_stats_period(&UUID, 2).unwrap();
    hypervisor.pause(&UUID).unwrap();
    assert_eq!(state(hypervisor), (State::Paused, Reason::User));
    hypervisor.resume(&UUID).unwrap();
    let kept = hypervisor.xml(&UUID, XmlForm { inactive: true, ..XmlForm::default() }).unwrap();
    assert!(kept.contains("<name>real</name>") && !kept.contains("<domain type='qemu' id="));

    let bad = xml.replace("<vcpu>1</vcpu>", "<nonsense/>");
    assert_eq!(hypervisor.define(&bad).unwrap_err().code(), Some(Code::XmlError), "the schema is checked");
    let clash = xml.replace("<name>real</name>", "<name>other</name>");
    assert!(hypervisor.define(&clash).is_err(), "the UUID is taken");
}

/// The first call for statistics hangs with QEMU; all other calls, and the next such call, do not.
fn a_hung_qemu_holds_up_one_call_only(hypervisor: &Hypervisor, pid: u32) {
    let prompt = Duration::from_secs(3);
    let host_only = StatsGroups { state: true, interface: true, running_only: true, ..StatsGroups::default() };
    kill(pid, "STOP");
    let start = Instant::now();
    assert_eq!(hypervisor.bulk_stats(host_only).unwrap().len(), 1);
    assert!(start.elapsed() < prompt, "state and interface ask no QEMU");
    std::thread::scope(|scope| {
        let hung = scope.spawn(|| hypervisor.bulk_stats(StatsGroups::RUNNING));
        std::thread::sleep(Duration::from_secs(1));
        let start = Instant::now();
        let domains = hypervisor.domains();
        let stats = hypervisor.bulk_stats(StatsGroups::RUNNING);
        let took = start.elapsed();
        let first_hangs = !hung.is_finished();
        kill(pid, "CONT");
        assert!(first_hangs, "libvirt has learnt not to wait: say so in bulk_stats");
        assert_eq!(domains.unwrap().len(), 1);
        let stats = stats.unwrap().remove(0);
        assert!(stats.cpu.time_ns.is_some(), "what the host knows is told");
        assert_eq!(stats.blocks.iter().filter_map(|disk| disk.wr_bytes).count(), 0, "what QEMU knows is not");
        assert!(took < prompt, "{took:?}");
        hung.join().unwrap().unwrap();
    });
}

fn a_new_connection_takes_over(uri: &str) {
    let hypervisor = Hypervisor::open(uri).unwrap();
    let events = watch(&hypervisor);
    assert_eq!(state(&hypervisor).0, State::Running);
    hypervisor.pause(&UUID).unwrap();
    await_life(&events, Lifecycle::Suspended(SuspendedWhy::Paused));
    hypervisor.force_off(&UUID, ForceOff::Kill).unwrap();
    await_life(&events, Lifecycle::Stopped(StoppedWhy::Destroyed));
    assert_eq!(state(&hypervisor), (State::ShutOff, Reason::Destroyed));
    assert!(qemu_pid(&UUID).is_none(), "gone when the call returns");
    hypervisor.undefine(&UUID).unwrap();
    assert!(hypervisor.domains().unwrap().is_empty());
}

#[test]
fn real_odd_names_work_or_are_refused() {
    in_namespace("real_odd_names_work_or_are_refused", |root| {
        let (uri, _) = prepare(root);
        let hypervisor = Hypervisor::open(&uri).unwrap();
        let long = "n".repeat(300);
        for (at, name) in ["🦀 guest", "-uuid", "a\nb", "a/b", "..", &long, "", "\u{202e}x"].into_iter().enumerate() {
            let uuid = format!("77777777-7777-7777-7777-7777777777{at:02x}");
            let Ok(guest) = hypervisor.define(&xml(name, &uuid, root)) else { continue };
            assert_eq!(hypervisor.domain(&guest).unwrap().name, name);
            if hypervisor.start(&guest).is_ok() {
                assert!(qemu_pid(&guest).is_some(), "{name}");
                hypervisor.force_off(&guest, ForceOff::Kill).unwrap();
            }
            hypervisor.undefine(&guest).unwrap();
        }
        assert!(hypervisor.domains().unwrap().is_empty());
    });
}
