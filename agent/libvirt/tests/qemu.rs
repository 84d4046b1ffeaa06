//! The promises that only a real QEMU can keep, under libvirt's embedded driver and without a daemon.
//!
//! Needs root, QEMU and libvirt's QEMU driver; runs only with `ROOST_REAL=1`, and then fails where it cannot run. The
//! machine is left as it was: users that libvirt wants are added in a mount namespace of the test's own.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use roost_libvirt::{
    BlockStats, Code, Event, EventKind, ForceOff, Hypervisor, Lifecycle, Reason, ShutdownMode, State, StatsGroups,
    StoppedWhy, SuspendedWhy, XmlForm, qemu_pid, qemu_pids,
};
use std::{
    fs,
    sync::mpsc::Receiver,
    time::{Duration, Instant},
};

mod common;
use common::{DISK_BYTES, SOON, UUID, in_namespace, kill, prepare, until, watch, xml};

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
