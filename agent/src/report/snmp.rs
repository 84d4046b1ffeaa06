//! SNMP: what the agent shows of its host, in the words of the MIBs.

use std::sync::Arc;

use roost_libvirt::{BlockStats, DomainStats};
use roost_protocol::guest::GuestReport;
use roost_protocol::host::Maintenance;
use roost_protocol::probe::{Access as Door, Answer};
use roost_protocol::{MiB, Millis, Time};
use roost_snmp::VarBind;
use roost_snmp::mib::{
    Access, AdminState, Alarm, Desk, Disk, Guest, Host, HostState, Ksm, Link, Media, Memory, Nic, OperState, Pin,
    Protocol, Source, View,
};
use tokio::sync::{mpsc, watch};

use super::monitor::{Asked, Shot, Shown};
use crate::detail::{Card, Details, Drive, Look, Plain};

/// Notifications that may wait for the subagent, which has a queue of its own.
pub(crate) const NOTES: usize = 256;

/// What a monitor needs of SNMP.
#[derive(Debug)]
pub(crate) struct Snmp {
    pub(crate) view: watch::Sender<Arc<View>>,
    pub(crate) notes: mpsc::Sender<Vec<VarBind>>,
    pub(crate) asked: Asked,
}

/// The snapshot in the words of the MIBs.
pub(crate) fn view(shot: &Shot, details: &Details) -> View {
    let (look, deep) = (details.plain.borrow().clone(), details.deep.borrow().clone());
    let boot_ms = boot_ms();
    let shown = |shown: &Shown| {
        let id = shown.report.id;
        Some(guest(shown.number?, shown, look.guests.get(&id), deep.get(&id), boot_ms))
    };
    let number = |guest| shot.guests.iter().find(|shown| shown.report.id == guest).and_then(|shown| shown.number);
    let alarm = |alarm: &roost_protocol::host::Alarm| Alarm {
        code: alarm.code.clone(),
        guest: alarm.guest.and_then(number),
        since: alarm.since,
        text: alarm.text.clone(),
    };
    View {
        host: host(shot),
        memory: memory(shot, &look),
        backup: roost_snmp::mib::Backup::default(),
        guests: shot.guests.iter().filter_map(shown).collect(),
        alarms: shot.alarms.iter().map(alarm).collect(),
    }
}

fn host(shot: &Shot) -> Host {
    let version = match shot.facts.hypervisor.as_str() {
        "" => shot.facts.agent_version.clone(),
        hypervisor => format!("{} ({hypervisor})", shot.facts.agent_version),
    };
    Host {
        id: shot.host,
        agent_version: shot.facts.agent_version.clone(),
        software: "Roost".into(),
        version,
        state: host_state(shot),
        link: shot.link,
        heartbeats_missed: shot.heartbeats_missed,
        hypervisor_since: shot.hypervisor_since,
        guests_changed: shot.guests_changed,
    }
}

/// As this host sees itself: out of service as an admin wished, out of reach of its aggregator, or in service.
pub(super) fn host_state(shot: &Shot) -> HostState {
    match (shot.maintenance, shot.link) {
        (Some(Maintenance::On), _) => HostState::Maintenance,
        (Some(Maintenance::Draining), _) => HostState::Draining,
        (Some(Maintenance::Drained), _) => HostState::Drained,
        (None, Link::Down { .. }) => HostState::Isolated,
        (None, Link::Up { .. } | Link::NotConfigured) => HostState::Online,
    }
}

fn memory(shot: &Shot, look: &Look) -> Memory {
    let sum = |of: fn(&Shown) -> MiB| -> u64 { shot.guests.iter().map(|shown| of(shown).bytes()).sum() };
    let ksm = look.ksm.unwrap_or_default();
    Memory {
        total: shot.facts.memory_mib.bytes(),
        available: shot.sample.memory_available_mib.bytes(),
        committed: sum(|shown| shown.sample.as_ref().map_or(MiB(0), |_| shown.report.memory_mib)),
        resident: sum(|shown| shown.sample.as_ref().map_or(MiB(0), |sample| sample.resident_mib)),
        reclaimed: sum(reclaimed),
        ksm: Ksm { shared: ksm.shared, saved: ksm.saved, run: ksm.run, full_scans: ksm.full_scans },
        pressure_centi: shot.sample.pressure.map_or(0, |pressure| pressure.memory_centi),
    }
}

/// What the balloon took from the guest.
pub(super) fn reclaimed(shown: &Shown) -> MiB {
    let balloon = shown.sample.as_ref().and_then(|sample| sample.balloon_mib);
    balloon.map_or(MiB(0), |balloon| MiB(shown.report.memory_mib.0.saturating_sub(balloon.0)))
}

fn guest(number: u32, shown: &Shown, plain: Option<&Plain>, deep: Option<&DomainStats>, boot_ms: u64) -> Guest {
    let GuestReport { id, name, state, reason, persistent, desired, vcpus, memory_mib, .. } = &shown.report;
    let oper = OperState::of(*state, reason);
    let hardware = plain.map(|plain| &plain.hardware);
    let running = shown.sample.is_some();
    let microseconds = |ns: u64| ns / 1_000;
    let autostart = match (desired, plain) {
        // Roost itself starts what is wished to run.
        (Some(desired), _) => Some(desired.power == roost_protocol::guest::Power::Running),
        (None, Some(plain)) if plain.info.persistent => Some(plain.info.autostart),
        (None, _) => None,
    };
    Guest {
        os: hardware.map_or(String::new(), |hardware| hardware.os.clone()),
        admin: AdminState::of(*desired, oper),
        oper,
        autostart,
        persistent: *persistent,
        cpus: if running { deep.and_then(|deep| deep.vcpus).unwrap_or(u64::from(*vcpus)) } else { 0 },
        cpus_max: Some(deep.and_then(|deep| deep.vcpus_max).unwrap_or(u64::from(*vcpus))),
        memory: match (&shown.sample, running) {
            (Some(sample), true) => sample.balloon_mib.unwrap_or(*memory_mib),
            (Some(_) | None, _) => MiB(0),
        },
        memory_max: Some(*memory_mib),
        up: plain
            .and_then(|plain| plain.began_ms)
            .filter(|_| running)
            .map(|began| Millis(boot_ms.saturating_sub(began))),
        cpu_time_us: plain.map_or(0, |plain| microseconds(plain.info.cpu_time_ns)),
        vcpus_us: deep
            .map_or(vec![], |deep| deep.vcpu.iter().map(|vcpu| microseconds(vcpu.time_ns.unwrap_or(0))).collect()),
        pins: hardware.map_or(vec![], |hardware| {
            hardware.pins.iter().map(|(vcpu, physical)| Pin { vcpu: *vcpu, physical: physical.clone() }).collect()
        }),
        disks: hardware.map_or(vec![], |hardware| hardware.disks.iter().map(|drive| disk(drive, deep)).collect()),
        nics: hardware.map_or(vec![], |hardware| hardware.nics.iter().map(nic).collect()),
        desk: shown.sample.as_ref().map_or_else(Desk::default, |sample| desk(&sample.access)),
        ..Guest::new(number, *id, name)
    }
}

/// The first door that is shut, or else the first.
fn desk(doors: &[Door]) -> Desk {
    let Some(door) = doors.iter().find(|door| !door.up).or(doors.first()) else { return Desk::default() };
    let protocol = match door.probe.split_once("://") {
        Some(("rdp", _)) => Protocol::Rdp,
        Some(("spice", _)) => Protocol::Spice,
        Some(("vnc", _)) => Protocol::Vnc,
        Some(("ssh", _)) => Protocol::Ssh,
        Some(_) | None => Protocol::None,
    };
    let access = match door.answer {
        Answer::Ok => Access::Ok,
        Answer::Refused => Access::Refused,
        Answer::TimedOut => Access::Timeout,
        Answer::BadReply => Access::BadReply,
    };
    let round_trip = Millis(door.rtt_ms.map_or(0, u64::from));
    Desk { protocol, access, round_trip, ..Desk::default() }
}

fn disk(drive: &Drive, deep: Option<&DomainStats>) -> Disk {
    let stats = deep.and_then(|deep| deep.blocks.iter().find(|block| block.name == drive.target));
    let counter = |of: fn(&BlockStats) -> Option<u64>| stats.and_then(of).unwrap_or(0);
    Disk {
        source: match (drive.kind.as_str(), drive.format.as_str()) {
            ("file", "raw") => Source::Raw,
            ("file", "qcow2") => Source::Sparse,
            ("block", _) => Source::Block,
            ("network", _) => Source::Network,
            ("", _) => Source::Unknown,
            _ => Source::Other,
        },
        source_text: format!("{} {}", drive.kind, drive.format).trim().to_owned(),
        path: drive.path.clone(),
        read_only: drive.read_only,
        media: match drive.device.as_str() {
            "disk" | "lun" | "" => Media::HardDisk,
            "cdrom" => Media::OpticalDisk,
            _ => Media::Other,
        },
        media_text: format!("{} on {}", drive.target, drive.bus),
        defined: stats.and_then(|stats| stats.capacity_bytes),
        allocated: stats.and_then(|stats| stats.physical_bytes),
        reads: counter(|stats| stats.rd_reqs),
        writes: counter(|stats| stats.wr_reqs),
        read_bytes: counter(|stats| stats.rd_bytes),
        written_bytes: counter(|stats| stats.wr_bytes),
        read_us: counter(|stats| stats.rd_ns) / 1_000,
        write_us: counter(|stats| stats.wr_ns) / 1_000,
    }
}

fn nic(card: &Card) -> Nic {
    let mac: Option<Vec<u8>> = card.mac.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
    Nic {
        if_index: u64::from(card.if_index),
        parent: u64::from(card.bridge_index),
        model: card.model.clone(),
        mac: mac.unwrap_or_default(),
    }
}

/// Since the host's boot.
fn boot_ms() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map(std::time::Duration::from);
    now.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The empty view, before anything was seen.
pub(crate) fn nothing() -> Arc<View> {
    Arc::new(View { host: Host { guests_changed: Time(0), ..Host::default() }, ..View::default() })
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_host_is_in_the_state_that_an_admin_wished_before_it_is_out_of_reach() {
        let check = |maintenance, link, expected| {
            assert_eq!(host_state(&Shot { maintenance, link, ..Shot::default() }), expected);
        };
        let (up, down) = (Link::Up { heard: Time(1) }, Link::Down { heard: None });
        check(None, up, HostState::Online);
        check(None, Link::NotConfigured, HostState::Online);
        check(None, down, HostState::Isolated);
        check(Some(Maintenance::On), up, HostState::Maintenance);
        check(Some(Maintenance::Draining), up, HostState::Draining);
        check(Some(Maintenance::Drained), down, HostState::Drained);
    }
}
