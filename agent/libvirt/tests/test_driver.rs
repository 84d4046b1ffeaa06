//! The promises that libvirt's own test driver can keep: definitions, life cycle, events in order, errors.
//!
//! All connections of one process share the default node, so each test has a UUID and a name of its own.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use roost_libvirt::{
    Code, DomainInfo, Error, Event, EventKind, ForceOff, Hypervisor, Lifecycle, Reason, ShutdownMode, State,
    StatsGroups, StoppedWhy, SuspendedWhy, Uuid, XmlForm,
};
use std::{
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

const SOON: Duration = Duration::from_secs(10);
const NOBODY: Uuid = [0xee; 16];

fn open() -> Hypervisor {
    Hypervisor::open("test:///default").unwrap()
}

fn xml(name: &str, last: u8) -> String {
    let name = name.replace('&', "&amp;").replace('<', "&lt;");
    format!(
        "<domain type='test'><name>{name}</name><uuid>11111111-2222-3333-4444-5555555555{last:02x}</uuid>\
         <memory unit='KiB'>65536</memory><currentMemory unit='KiB'>32768</currentMemory><vcpu>2</vcpu>\
         <os><type arch='x86_64'>hvm</type></os></domain>"
    )
}

fn uuid(last: u8) -> Uuid {
    let mut uuid = [0x55; 16];
    uuid[..10].copy_from_slice(&[0x11, 0x11, 0x11, 0x11, 0x22, 0x22, 0x33, 0x33, 0x44, 0x44]);
    uuid[15] = last;
    uuid
}

fn state(hypervisor: &Hypervisor, uuid: &Uuid) -> (State, Reason) {
    let DomainInfo { state, reason, .. } = hypervisor.domain(uuid).unwrap();
    (state, reason)
}

/// The next `count` lifecycle events of one domain.
fn lives(events: &Receiver<Event>, of: &Uuid, count: usize) -> Vec<Lifecycle> {
    let mut lives = Vec::new();
    while lives.len() < count {
        match events.recv_timeout(SOON) {
            Ok(Event::Domain(domain)) if domain.uuid == *of => {
                if let EventKind::Lifecycle { event, .. } = domain.kind {
                    lives.push(event);
                }
            }
            Ok(_) => {}
            Err(error) => panic!("{error} after {lives:?}"),
        }
    }
    lives
}

#[test]
fn a_whole_life_is_told_in_order() {
    let hypervisor = open();
    let (sender, events) = channel();
    hypervisor.on_event(move |event| drop(sender.send(event))).unwrap();
    assert_eq!(hypervisor.on_event(|_| {}), Err(Error::AlreadyWatched));

    let guest = hypervisor.define(&xml("life", 1)).unwrap();
    assert_eq!(guest, uuid(1));
    assert_eq!(state(&hypervisor, &guest).0, State::ShutOff);
    hypervisor.start(&guest).unwrap();
    assert_eq!(state(&hypervisor, &guest), (State::Running, Reason::Booted));
    hypervisor.pause(&guest).unwrap();
    assert_eq!(state(&hypervisor, &guest), (State::Paused, Reason::User));
    hypervisor.resume(&guest).unwrap();
    assert_eq!(state(&hypervisor, &guest), (State::Running, Reason::Unpaused));
    hypervisor.set_balloon(&guest, 16_384).unwrap();
    assert_eq!(hypervisor.domain(&guest).unwrap().memory_kib, 16_384);
    hypervisor.set_autostart(&guest, true).unwrap();

    let all = hypervisor.domains().unwrap();
    let info = all.iter().find(|info| info.uuid == guest).unwrap();
    assert_eq!((&info.name[..], info.persistent, info.autostart), ("life", true, true));
    assert_eq!((info.max_memory_kib, info.vcpus), (65_536, 2));
    assert!(info.id.is_some());

    hypervisor.force_off(&guest, ForceOff::Kill).unwrap();
    assert_eq!(state(&hypervisor, &guest), (State::ShutOff, Reason::Destroyed));
    assert_eq!(hypervisor.domain(&guest).unwrap().id, None);
    hypervisor.undefine(&guest).unwrap();
    assert_eq!(hypervisor.domain(&guest).unwrap_err().code(), Some(Code::NoDomain));

    let wanted = [
        Lifecycle::Defined,
        Lifecycle::Started,
        Lifecycle::Suspended(SuspendedWhy::Paused),
        Lifecycle::Resumed,
        Lifecycle::Stopped(StoppedWhy::Destroyed),
        Lifecycle::Undefined,
    ];
    assert_eq!(lives(&events, &guest, wanted.len()), wanted);
}

#[test]
fn a_transient_domain_is_gone_when_it_stops() {
    let hypervisor = open();
    let guest = hypervisor.create_transient(&xml("transient", 2)).unwrap();
    let info = hypervisor.domain(&guest).unwrap();
    assert_eq!((info.persistent, info.autostart, info.state), (false, false, State::Running));
    hypervisor.force_off(&guest, ForceOff::Kill).unwrap();
    assert_eq!(hypervisor.domain(&guest).unwrap_err().code(), Some(Code::NoDomain));
}

#[test]
fn each_call_on_nobody_says_so() {
    let hypervisor = open();
    let answers = [
        hypervisor.domain(&NOBODY).map(drop),
        hypervisor.xml(&NOBODY, XmlForm::default()).map(drop),
        hypervisor.start(&NOBODY),
        hypervisor.start_paused(&NOBODY),
        hypervisor.shutdown(&NOBODY, ShutdownMode::Agent),
        hypervisor.reboot(&NOBODY, ShutdownMode::Acpi),
        hypervisor.force_off(&NOBODY, ForceOff::Graceful),
        hypervisor.pause(&NOBODY),
        hypervisor.resume(&NOBODY),
        hypervisor.reset(&NOBODY),
        hypervisor.undefine(&NOBODY),
        hypervisor.set_autostart(&NOBODY, false),
        hypervisor.set_memory_stats_period(&NOBODY, 1),
        hypervisor.set_balloon(&NOBODY, 1),
        hypervisor.agent_command(&NOBODY, "{}", 1).map(drop),
        hypervisor.interface_addresses(&NOBODY).map(drop),
    ];
    for (at, answer) in answers.into_iter().enumerate() {
        let error = answer.unwrap_err();
        assert_eq!(error.code(), Some(Code::NoDomain), "call {at}: {error}");
        assert!(!error.is_connection_lost());
        assert!(error.to_string().contains("eeeeeeee-eeee-"), "it tells which: {error}");
    }
}

#[test]
fn a_refusal_has_a_code_to_decide_by() {
    let hypervisor = open();
    let guest = hypervisor.define(&xml("codes", 3)).unwrap();
    let code = |answer: Result<(), Error>| answer.unwrap_err().code();
    assert_eq!(code(hypervisor.force_off(&guest, ForceOff::Kill)), Some(Code::OperationInvalid));
    hypervisor.start(&guest).unwrap();
    assert_eq!(code(hypervisor.start(&guest)), Some(Code::Internal), "QEMU's driver says OperationInvalid");
    assert_eq!(code(hypervisor.set_balloon(&guest, u64::MAX / 1024)), Some(Code::InvalidArgument));
    assert!(matches!(hypervisor.set_memory_stats_period(&guest, u32::MAX), Err(Error::Range { .. })));
    assert!(hypervisor.agent_command(&guest, "{}", u32::MAX).is_err(), "the test driver has no agents");
    assert_eq!(code(hypervisor.define("<domain").map(drop)), Some(Code::XmlError));
    assert_eq!(code(hypervisor.define("").map(drop)), Some(Code::XmlError));
    assert_eq!(code(hypervisor.create_transient("<domain type='test'/>").map(drop)), Some(Code::XmlError));
    hypervisor.force_off(&guest, ForceOff::Kill).unwrap();
    hypervisor.undefine(&guest).unwrap();

    assert!(matches!(hypervisor.define("<a>\0</a>"), Err(Error::Nul { .. })));
    assert!(matches!(Hypervisor::open("test:///\0"), Err(Error::Nul { .. })));
    let nowhere = Hypervisor::open("qemu+unix:///system?socket=/nonexistent/socket").unwrap_err();
    assert!(nowhere.code().is_some(), "{nowhere}");
    assert!(Hypervisor::open("nonsense:///").is_err());
}

#[test]
fn odd_names_work_or_are_refused() {
    let hypervisor = open();
    let long = "n".repeat(300);
    let odd = ["🦀 guest", "a&b<c", " ", "-uuid", "a\nb", "a/b", "..", &long, "", "\u{1}", "\u{202e}x"];
    for (at, name) in odd.into_iter().enumerate() {
        let last = 0x40 + u8::try_from(at).unwrap();
        let Ok(guest) = hypervisor.define(&xml(name, last)) else { continue };
        assert_eq!(hypervisor.domain(&guest).unwrap().name, name);
        assert!(hypervisor.domains().unwrap().iter().any(|info| info.name == name));
        hypervisor.start(&guest).unwrap();
        assert!(hypervisor.bulk_stats(StatsGroups::RUNNING).unwrap().iter().any(|stats| stats.name == name));
        hypervisor.force_off(&guest, ForceOff::Kill).unwrap();
        hypervisor.undefine(&guest).unwrap();
    }
}

#[test]
fn statistics_of_running_domains_are_read() {
    let hypervisor = open();
    let guest = hypervisor.define(&xml("stats", 5)).unwrap();
    let of = |groups| {
        let all = hypervisor.bulk_stats(groups).unwrap();
        all.into_iter().find(|stats| stats.uuid == guest)
    };
    assert_eq!(of(StatsGroups::RUNNING), None);
    let stopped = of(StatsGroups { running_only: false, ..StatsGroups::RUNNING }).unwrap();
    assert_eq!(stopped.state.unwrap().0, State::ShutOff);
    hypervisor.start(&guest).unwrap();
    let running = of(StatsGroups::RUNNING).unwrap();
    assert_eq!(running.state, Some((State::Running, Reason::Booted)));
    hypervisor.force_off(&guest, ForceOff::Kill).unwrap();
    hypervisor.undefine(&guest).unwrap();
}

#[test]
fn a_connection_dropped_in_a_storm_of_events_leaves_nothing_behind() {
    for _ in 0..20 {
        let hypervisor = open();
        let (sender, events) = channel();
        hypervisor.on_event(move |event| drop(sender.send(event))).unwrap();
        let guest = hypervisor.define(&xml("storm", 6)).unwrap();
        for _ in 0..20 {
            hypervisor.start(&guest).unwrap();
            hypervisor.force_off(&guest, ForceOff::Kill).unwrap();
        }
        hypervisor.undefine(&guest).unwrap();
        drop(hypervisor);
        // The receiver went with the connection, so this ends.
        assert!(events.iter().all(|event| matches!(event, Event::Domain(_))));
    }
}

#[test]
fn a_receiver_that_panics_harms_nobody() {
    let hypervisor = open();
    let (sender, events) = channel();
    hypervisor
        .on_event(move |event| {
            let _ = sender.send(event);
            panic!("on purpose");
        })
        .unwrap();
    let guest = hypervisor.define(&xml("panic", 7)).unwrap();
    hypervisor.undefine(&guest).unwrap();
    assert_eq!(lives(&events, &guest, 2), [Lifecycle::Defined, Lifecycle::Undefined]);
}

#[test]
fn many_threads_share_one_connection() {
    let hypervisor = open();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let hypervisor = &hypervisor;
            scope.spawn(move || {
                for _ in 0..20 {
                    let guest = hypervisor.define(&xml(&format!("many-{thread}"), 0x80 + thread)).unwrap();
                    hypervisor.start(&guest).unwrap();
                    hypervisor.domains().unwrap();
                    hypervisor.force_off(&guest, ForceOff::Kill).unwrap();
                    hypervisor.undefine(&guest).unwrap();
                    assert_eq!(hypervisor.start(&guest).unwrap_err().code(), Some(Code::NoDomain));
                }
            });
        }
    });
}

#[test]
fn the_connection_tells_its_versions() {
    let hypervisor = open();
    assert!(hypervisor.alive());
    let versions = hypervisor.version().unwrap();
    assert!(versions.libvirt.major >= 9, "{}", versions.libvirt);
    let last = hypervisor.domains().unwrap().into_iter().next().unwrap();
    assert!(
        hypervisor
            .xml(&last.uuid, XmlForm { inactive: true, secure: true, migratable: false })
            .unwrap()
            .contains(&last.name)
    );
}
