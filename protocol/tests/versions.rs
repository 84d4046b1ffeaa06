//! Versions: a peer one version older or newer is understood, and numbers once given stay.

#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that is not as it should be")]

use minicbor::Encoder;
use roost_protocol::codec::{decode, encode};
use roost_protocol::guest::{Boot, Desired, Disk, DiskSpec, GuestReport, GuestSpec, NicSpec, Power, PowerState};
use roost_protocol::host::{Alarm, Freshness, HostFacts, HostSample, Maintenance, Pressure, Virtualization};
use roost_protocol::look::GuestMoment;
use roost_protocol::memory::MemoryOrder;
use roost_protocol::message::{Beat, Hello, OLDEST, ToAgent, ToAggregator, VERSION};
use roost_protocol::operation::{Command, Outcome, Verb};
use roost_protocol::{Epoch, Generation, GuestId, HostId, MiB, Millis, OperationId, Stamp};

#[test]
fn this_build_speaks_two_versions() {
    assert_eq!((VERSION, OLDEST), (5, VERSION - 1));
}

/// A peer of the version before leaves out what it does not know; fields that may be left out are optional.
#[test]
fn a_message_without_a_newer_optional_field_is_understood() {
    let mut bytes = vec![0x82, 0x03, 0x81, 0x81, 0x50];
    bytes.extend_from_slice(&[7; 16]);
    let outcome = Outcome { operation: OperationId::from_bytes([7; 16]), failure: None };
    assert_eq!(decode::<ToAggregator>(&bytes).unwrap(), ToAggregator::Outcome(outcome));
}

/// A peer of a version after ours sends a field more; it is skipped, whatever it holds.
#[test]
fn a_hello_of_a_newer_peer_is_understood() {
    let hello = golden_hello();
    let mut encoder = Encoder::new(Vec::new());
    encoder.array(9).unwrap();
    encoder.u32(hello.newest + 1).unwrap().u32(hello.oldest).unwrap();
    encoder.encode(hello.host).unwrap().encode(&hello.facts).unwrap();
    encoder.encode(hello.epoch).unwrap().encode(hello.document).unwrap().encode(hello.clock).unwrap();
    encoder.array(2).unwrap().str("new").unwrap().bool(true).unwrap().null().unwrap();
    let newer = decode::<Hello>(&encoder.into_writer()).unwrap();
    assert_eq!(newer, Hello { newest: hello.newest + 1, ..hello });
}

/// That a host is out of service and which doors it tries was added to what it is told of its peers: who doesn't say it is
/// understood, and who doesn't know it skips it.
#[test]
fn peers_are_understood_without_and_with_what_was_added_to_them() {
    let told = |maintenance, zone| ToAgent::Peers {
        peers: Vec::new(),
        shares: Vec::new(),
        maintenance,
        zone,
        probes: Vec::new(),
        memory: None,
    };
    let peers = |maintenance| told(maintenance, None);
    assert_eq!(decode::<ToAgent>(&[0x82, 0x09, 0x82, 0x80, 0x80]).unwrap(), peers(None));
    assert_eq!(encode(&peers(None)), [0x82, 0x09, 0x85, 0x80, 0x80, 0xf6, 0xf6, 0x80]);
    let drained = encode(&peers(Some(Maintenance::Drained)));
    assert_eq!(drained, [0x82, 0x09, 0x85, 0x80, 0x80, 0x82, 0x02, 0x80, 0xf6, 0x80]);
    // Then the zone of the host that is told.
    let zoned = [0x82, 0x09, 0x84, 0x80, 0x80, 0xf6, 0x61, 0x72];
    assert_eq!(decode::<ToAgent>(&zoned).unwrap(), told(None, Some("r".to_owned())));
    // Then how dense it is packed: not said, or that its own settings hold again.
    let cleared = [&[0x82, 0x09, 0x86], &drained[3..], &[0x80]].concat();
    let ToAgent::Peers { memory: Some(order), .. } = decode(&cleared).unwrap() else { panic!() };
    assert_eq!(*order, MemoryOrder::default());
    // What comes after it some day is skipped in the same way.
    let newer = [&[0x82, 0x09, 0x87], &drained[3..], &[0xf6], &[0x83, 0x01, 0x61, 0x78, 0xf6]].concat();
    assert_eq!(decode::<ToAgent>(&newer).unwrap(), peers(Some(Maintenance::Drained)));
}

/// How its doors stood was added to a guest's moment.
#[test]
fn a_moment_of_a_guest_is_understood_without_its_doors_and_with_more_than_them() {
    let moment = GuestMoment { at: Stamp(5), cpu_permille: 7, ..GuestMoment::default() };
    let older = [0x8a, 5, 7, 0, 0, 0, 0, 0xf6, 0xf6, 0, 0];
    assert_eq!(decode::<GuestMoment>(&older).unwrap(), moment);
    assert_eq!(encode(&moment), older, "where none is tried, nothing is said");
    let tried = GuestMoment { availability_permille: Some(1_000), access_rtt_ms: None, ..moment };
    let newer = [&[0x8d], &older[1..], &[0x19, 0x03, 0xe8, 0xf6, 0x61, 0x78]].concat();
    assert_eq!(decode::<GuestMoment>(&newer).unwrap(), tried);
}

#[test]
fn an_unknown_message_and_a_missing_needed_field_are_errors() {
    assert!(decode::<ToAggregator>(&[0x82, 0x18, 200, 0x80]).is_err());
    assert!(decode::<ToAggregator>(&[0x82, 0x03, 0x81, 0x80]).is_err());
}

// Numbers once given stay: a change here breaks every peer in the field.

fn golden_hello() -> Hello {
    let facts = HostFacts {
        name: "alpha".into(),
        agent_version: "0.1.0".into(),
        boot_id: "b".into(),
        cpus: 4,
        memory_mib: MiB(8192),
        virtualization: Virtualization::Software { why: "no kvm".into() },
        hypervisor: "h".into(),
        kernel: "k".into(),
        addresses: vec!["192.0.2.1".into()],
        peer_listen: None,
        system: None,
        image: None,
    };
    let (epoch, document, clock) = (Epoch(3), Generation(4), Stamp(1_700_000_000_000));
    Hello { newest: 2, oldest: 1, host: HostId::from_u128(1), facts, epoch, document, clock }
}

fn golden_beat() -> Beat {
    let desired = Some(Desired { power: Power::Running, generation: Generation(2) });
    let disks = vec![Disk { target: "vda".into(), path: "/a".into(), format: "raw".into() }];
    let guest = GuestReport {
        id: GuestId::from_u128(5),
        name: "g".into(),
        state: PowerState::Running,
        reason: "booted".into(),
        persistent: true,
        desired,
        vcpus: 1,
        memory_mib: MiB(64),
        since: Stamp(9),
        restarts: 0,
        disks,
    };
    let alarm = Alarm { code: "c".into(), guest: None, since: Stamp(8), text: "t".into() };
    Beat {
        sequence: 7,
        guests: vec![guest],
        gone: vec![GuestId::from_u128(6)],
        alarms: Some(vec![alarm]),
        freshness: Freshness::Stale { since: Stamp(1) },
        sample: Some(HostSample { pressure: Some(Pressure::default()), ..HostSample::default() }),
        samples: Vec::new(),
        digest: u64::MAX,
        backup: None,
        document: None,
        guard: None,
        facts: None,
    }
}

fn golden_command() -> Command {
    let disks =
        vec![DiskSpec::Blank { size_mib: MiB(10) }, DiskSpec::Image { path: "p".into(), format: "qcow2".into() }];
    let boot = Boot::Kernel { kernel: "k".into(), initrd: None, cmdline: "c".into() };
    let nics = vec![NicSpec { bridge: Some("br0".into()) }];
    let spec = GuestSpec { name: "g".into(), memory_mib: MiB(64), vcpus: 2, disks, nics, boot, memory: None };
    Command {
        operation: OperationId::from_u128(1),
        epoch: Epoch(2),
        budget_ms: Millis(30_000),
        guest: GuestId::from_u128(3),
        verb: Verb::Create { spec, start: true },
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_numbers_of_messages_never_change() {
    assert_eq!(hex(&encode(&ToAggregator::Hello(golden_hello()))), HELLO);
    assert_eq!(hex(&encode(&ToAggregator::Beat(golden_beat()))), BEAT);
    assert_eq!(hex(&encode(&ToAgent::Command(golden_command()))), COMMAND);
}

const HELLO: &str = "82008187020150000000000000000000000000000000018965616c70686165302e312e30616204192000820181666e6f206b766d6168616b81693139322e302e322e3103041b0000018bcfe56800";
const BEAT: &str = "8202818807818b5000000000000000000000000000000005616782018066626f6f746564f582820080020118400900818363766461622f616372617781500000000000000000000000000000000681846163f608617482018101880000000083000000808000801bffffffffffffffff";
const COMMAND: &str = "820281855000000000000000000000000000000001021975305000000000000000000000000000000003820082866167184002828200810a82018261706571636f7732818163627230820183616bf66163f5";
