//! Prometheus text of one host. The `libvirt_domain_*` names are those of Tinkoff's libvirt-exporter, so that dashboards
//! made for it work here. No names of users as labels.

mod backup;
mod text;

use std::collections::BTreeMap;

use roost_libvirt::{BlockStats, DomainStats, InterfaceStats, State, VcpuStats};
use roost_protocol::GuestId;
use roost_protocol::probe::Access;
use roost_snmp::mib::{HostState, Link};

use super::monitor::{Shot, Shown};
use super::snmp::{host_state, reclaimed};
use crate::detail::{Details, Look, Plain};
use text::{Kind, Text};

/// The page.
pub(crate) fn text(shot: &Shot, details: &Details) -> String {
    let (look, deep) = (details.plain.borrow().clone(), details.deep.borrow().clone());
    let mut text = Text::default();
    host(&mut text, shot);
    memory(&mut text, shot, &look);
    disks(&mut text, shot);
    guests(&mut text, shot);
    doors(&mut text, shot);
    backup::backups(&mut text, shot);
    text.one("libvirt_up", Kind::Gauge, "Whether libvirt answers.", u64::from(shot.hypervisor_since.is_some()));
    info(&mut text, shot, &look);
    balloons(&mut text, &deep);
    blocks(&mut text, &deep);
    interfaces(&mut text, &look);
    vcpus(&mut text, &deep);
    text.done()
}

fn host(text: &mut Text, shot: &Shot) {
    let facts = &shot.facts;
    let labels = [("version", facts.agent_version.as_str()), ("host", facts.name.as_str())];
    text.family("roost_build_info", Kind::Gauge, "Version of the agent and name of its host.").line(&labels, 1);
    let states = [
        ("online", HostState::Online),
        ("maintenance", HostState::Maintenance),
        ("draining", HostState::Draining),
        ("drained", HostState::Drained),
        ("isolated", HostState::Isolated),
    ];
    let present = host_state(shot);
    text.family("roost_host_state", Kind::Gauge, "State of this host as it sees itself; one of them is 1.");
    for (name, state) in states {
        text.line(&[("state", name)], u64::from(state == present));
    }
    let (up, configured) = match shot.link {
        Link::Up { .. } => (1, 1),
        Link::Down { .. } => (0, 1),
        Link::NotConfigured => (0, 0),
    };
    text.one("roost_aggregator_configured", Kind::Gauge, "Whether this host belongs to an aggregator.", configured);
    text.one("roost_aggregator_up", Kind::Gauge, "Whether the aggregator answers.", up);
    text.one(
        "roost_heartbeats_missed_total",
        Kind::Counter,
        "Heartbeats that got no answer in time.",
        shot.heartbeats_missed,
    );
    text.family("roost_alarm", Kind::Gauge, "Alarms that are raised, by code.");
    let mut codes: BTreeMap<&str, u64> = BTreeMap::new();
    shot.alarms.iter().for_each(|alarm| *codes.entry(&alarm.code).or_default() += 1);
    for (code, count) in codes {
        text.line(&[("code", code)], count);
    }
    text.one("roost_alarms", Kind::Gauge, "Alarms that are raised.", count(shot.alarms.len()));
    let (cpu, load) = (shot.sample.cpu_permille, shot.sample.load_centi);
    text.family("roost_host_cpu_ratio", Kind::Gauge, "CPU in use, of all CPUs.").scaled(&[], u64::from(cpu), 3);
    text.family("roost_host_load1", Kind::Gauge, "Load of the last minute.").scaled(&[], u64::from(load), 2);
}

fn memory(text: &mut Text, shot: &Shot, look: &Look) {
    let running = || shot.guests.iter().filter_map(|shown| Some((shown, shown.sample.as_ref()?)));
    let committed: u64 = running().map(|(shown, _)| shown.report.memory_mib.bytes()).sum();
    let resident: u64 = running().map(|(_, sample)| sample.resident_mib.bytes()).sum();
    let total = shot.facts.memory_mib.bytes();
    let mut gauge = |name: &str, help: &str, bytes| text.one(name, Kind::Gauge, help, bytes);
    gauge("roost_memory_total_bytes", "Memory of the host.", total);
    gauge("roost_memory_available_bytes", "Memory that is available.", shot.sample.memory_available_mib.bytes());
    gauge("roost_memory_committed_bytes", "The most that running guests may take.", committed);
    gauge("roost_memory_resident_bytes", "What the processes of guests take.", resident);
    let balloons = shot.guests.iter().map(|shown| reclaimed(shown).bytes()).sum();
    gauge("roost_memory_balloon_reclaimed_bytes", "Taken from guests by their balloons.", balloons);
    let permille = committed.saturating_mul(1_000).checked_div(total).unwrap_or(0);
    text.family("roost_memory_overcommit_ratio", Kind::Gauge, "Committed to total.").scaled(&[], permille, 3);
    if let Some(pressure) = shot.sample.pressure {
        let kinds = [
            ("cpu", "Share of time in which programs waited for a CPU, last 10 s.", pressure.cpu_centi),
            ("memory", "Share of time in which programs waited for memory, last 10 s.", pressure.memory_centi),
            ("io", "Share of time in which programs waited for disks, last 10 s.", pressure.io_centi),
        ];
        for (kind, help, centi) in kinds {
            // Hundredths of a percent.
            text.family(&format!("roost_{kind}_pressure_some_ratio"), Kind::Gauge, help).scaled(
                &[],
                u64::from(centi),
                4,
            );
        }
    }
    if let Some(ksm) = look.ksm {
        text.one("roost_memory_ksm_shared_bytes", Kind::Gauge, "Merged pages that are kept.", ksm.shared);
        text.one("roost_memory_ksm_saved_bytes", Kind::Gauge, "Pages that merging made needless.", ksm.saved);
        if let Some(profit) = ksm.profit {
            text.family("roost_memory_ksm_profit_bytes", Kind::Gauge, "Saved, less what merging takes.")
                .line(&[], profit);
        }
        text.one("roost_ksm_full_scans_total", Kind::Counter, "Passes of KSM over all memory.", ksm.full_scans);
    }
}

fn disks(text: &mut Text, shot: &Shot) {
    let disks = &shot.sample.disks;
    text.family("roost_filesystem_size_bytes", Kind::Gauge, "Size of a file system that the agent uses.");
    for disk in disks {
        text.line(&[("path", &disk.path)], disk.total_mib.bytes());
    }
    text.family("roost_filesystem_free_bytes", Kind::Gauge, "What of it is free.");
    for disk in disks {
        text.line(&[("path", &disk.path)], disk.free_mib.bytes());
    }
}

fn guests(text: &mut Text, shot: &Shot) {
    use roost_protocol::guest::PowerState;
    let states = [
        ("unknown", PowerState::Unknown),
        ("running", PowerState::Running),
        ("paused", PowerState::Paused),
        ("shutting_down", PowerState::ShuttingDown),
        ("off", PowerState::Off),
        ("crashed", PowerState::Crashed),
        ("suspended", PowerState::Suspended),
    ];
    text.family("roost_guests", Kind::Gauge, "Guests of this host by state.");
    for (word, state) in states {
        let number = shot.guests.iter().filter(|shown| shown.report.state == state).count();
        text.line(&[("state", word)], count(number));
    }
    let each = |text: &mut Text, of: &dyn Fn(&Shown) -> Option<u64>, decimals| {
        for shown in &shot.guests {
            if let Some(value) = of(shown) {
                text.scaled(&[("domain", &shown.report.name)], value, decimals);
            }
        }
    };
    text.family("roost_guest_cpu_ratio", Kind::Gauge, "CPU in use, of one CPU.");
    each(text, &|shown| Some(u64::from(shown.sample.as_ref()?.cpu_permille)), 3);
    text.family("roost_guest_resident_bytes", Kind::Gauge, "Resident memory of the guest's process.");
    each(text, &|shown| Some(shown.sample.as_ref()?.resident_mib.bytes()), 0);
    text.family("roost_guest_restarts", Kind::Gauge, "Restarts after crashes since it was last asked to start.");
    each(text, &|shown| Some(u64::from(shown.report.restarts)), 0);
}

/// Doors that are tried, and how.
fn doors(text: &mut Text, shot: &Shot) {
    let mut each = |name, help, of: fn(&Access) -> Option<u64>, decimals| {
        text.family(name, Kind::Gauge, help);
        for shown in &shot.guests {
            for door in shown.sample.iter().flat_map(|sample| &sample.access) {
                let (protocol, address) = door.probe.split_once("://").unwrap_or(("", &door.probe));
                let labels = [("domain", shown.report.name.as_str()), ("protocol", protocol), ("address", address)];
                if let Some(value) = of(door) {
                    text.scaled(&labels, value, decimals);
                }
            }
        }
    };
    each(
        "roost_guest_access_up",
        "Whether the guest answers there to its host; three misses in a row count as no.",
        |door| Some(u64::from(door.up)),
        0,
    );
    each(
        "roost_guest_access_rtt_seconds",
        "How long its last answer there took.",
        |door| door.rtt_ms.map(u64::from),
        3,
    );
}

fn info(text: &mut Text, shot: &Shot, look: &Look) {
    text.family("libvirt_domain_info_meta", Kind::Gauge, "A domain; its names are in the labels.");
    for shown in &shot.guests {
        let report = &shown.report;
        let os = look.guests.get(&report.id).map_or("", |plain| plain.hardware.os.as_str());
        let managed = if report.managed() { "true" } else { "false" };
        let uuid = report.id.to_string();
        let labels = [("domain", report.name.as_str()), ("uuid", &uuid), ("os_type", os), ("managed", managed)];
        text.line(&labels, 1);
    }
    let mut each = |name: &str, kind, help: &str, decimals, of: fn(&Plain) -> u64| {
        text.family(name, kind, help);
        for plain in look.guests.values() {
            text.scaled(&[("domain", &plain.info.name)], of(plain), decimals);
        }
    };
    let name = |name: &str| format!("libvirt_domain_info_{name}");
    each(&name("virtual_cpus"), Kind::Gauge, "Virtual CPUs.", 0, |plain| u64::from(plain.info.vcpus));
    each(&name("cpu_time_seconds_total"), Kind::Counter, "CPU time since its start.", 9, |plain| {
        plain.info.cpu_time_ns
    });
    let help = "The most memory it may have.";
    each(&name("maximum_memory_bytes"), Kind::Gauge, help, 0, |plain| plain.info.max_memory_kib.saturating_mul(1_024));
    let help = "The memory it has.";
    each(&name("memory_usage_bytes"), Kind::Gauge, help, 0, |plain| plain.info.memory_kib.saturating_mul(1_024));
    let help = "State: 0 none, 1 running, 2 blocked, 3 paused, 4 shutting down, 5 off, 6 crashed, 7 suspended.";
    each(&name("vstate"), Kind::Gauge, help, 0, |plain| state(plain.info.state));
}

fn state(state: State) -> u64 {
    match state {
        State::NoState => 0,
        State::Running => 1,
        State::Blocked => 2,
        State::Paused => 3,
        State::ShuttingDown => 4,
        State::ShutOff => 5,
        State::Crashed => 6,
        State::PmSuspended => 7,
    }
}

type Deep = BTreeMap<GuestId, DomainStats>;

fn balloons(text: &mut Text, deep: &Deep) {
    let mut each = |name: &str, kind, help: &str, of: fn(&DomainStats) -> Option<u64>| {
        text.family(&format!("libvirt_domain_memory_stats_{name}"), kind, help);
        for (stats, value) in deep.values().filter_map(|stats| Some((stats, of(stats)?))) {
            text.line(&[("domain", &stats.name)], value);
        }
    };
    each("actual_balloon_bytes", Kind::Gauge, "What its balloon leaves it.", |s| kib(s.balloon.current_kib));
    each("available_bytes", Kind::Gauge, "What its kernel sees in all.", |s| kib(s.balloon.available_kib));
    each("unused_bytes", Kind::Gauge, "Free in it, caches not counted.", |s| kib(s.balloon.unused_kib));
    each("usable_bytes", Kind::Gauge, "What it could give up without swapping.", |s| kib(s.balloon.usable_kib));
    each("rss_bytes", Kind::Gauge, "Resident memory of QEMU.", |s| kib(s.balloon.rss_kib));
    each("disk_cache_bytes", Kind::Gauge, "Page cache in it.", |s| kib(s.balloon.disk_caches_kib));
    each("major_fault_total", Kind::Counter, "Major faults in it since its boot.", |s| s.balloon.major_faults);
    each("minor_fault_total", Kind::Counter, "Minor faults in it since its boot.", |s| s.balloon.minor_faults);
}

/// In bytes.
fn kib(kib: Option<u64>) -> Option<u64> {
    kib.map(|kib| kib.saturating_mul(1_024))
}

fn blocks(text: &mut Text, deep: &Deep) {
    let mut each = |name: &str, help: &str, decimals, of: fn(&BlockStats) -> Option<u64>| {
        text.family(&format!("libvirt_domain_block_stats_{name}_total"), Kind::Counter, help);
        for stats in deep.values() {
            for block in &stats.blocks {
                let labels = [("domain", stats.name.as_str()), ("target_device", block.name.as_str())];
                if let Some(value) = of(block) {
                    text.scaled(&labels, value, decimals);
                }
            }
        }
    };
    each("read_bytes", "Bytes read.", 0, |block| block.rd_bytes);
    each("read_requests", "Reads.", 0, |block| block.rd_reqs);
    each("read_time_seconds", "Time spent reading.", 9, |block| block.rd_ns);
    each("write_bytes", "Bytes written.", 0, |block| block.wr_bytes);
    each("write_requests", "Writes.", 0, |block| block.wr_reqs);
    each("write_time_seconds", "Time spent writing.", 9, |block| block.wr_ns);
    each("flush_requests", "Flushes.", 0, |block| block.fl_reqs);
    each("flush_time_seconds", "Time spent flushing.", 9, |block| block.fl_ns);
}

fn interfaces(text: &mut Text, look: &Look) {
    let mut each = |name: &str, help: &str, of: fn(&InterfaceStats) -> Option<u64>| {
        text.family(&format!("libvirt_domain_interface_stats_{name}_total"), Kind::Counter, help);
        for plain in look.guests.values() {
            for one in &plain.interfaces {
                let labels = [("domain", plain.info.name.as_str()), ("target_device", one.name.as_str())];
                if let Some(value) = of(one) {
                    text.line(&labels, value);
                }
            }
        }
    };
    each("receive_bytes", "Bytes received.", |one| one.rx_bytes);
    each("receive_packets", "Packets received.", |one| one.rx_packets);
    each("receive_errors", "Errors in receiving.", |one| one.rx_errors);
    each("receive_drops", "Packets dropped in receiving.", |one| one.rx_drops);
    each("transmit_bytes", "Bytes sent.", |one| one.tx_bytes);
    each("transmit_packets", "Packets sent.", |one| one.tx_packets);
    each("transmit_errors", "Errors in sending.", |one| one.tx_errors);
    each("transmit_drops", "Packets dropped in sending.", |one| one.tx_drops);
}

fn vcpus(text: &mut Text, deep: &Deep) {
    let mut each = |name: &str, help: &str, of: fn(&VcpuStats) -> Option<u64>| {
        text.family(&format!("libvirt_domain_vcpu_{name}_seconds_total"), Kind::Counter, help);
        for stats in deep.values() {
            for (number, vcpu) in stats.vcpu.iter().enumerate() {
                let labels = [("domain", stats.name.as_str()), ("vcpu", &number.to_string())];
                if let Some(value) = of(vcpu) {
                    text.scaled(&labels, value, 9);
                }
            }
        }
    };
    each("time", "Time a virtual CPU ran.", |vcpu| vcpu.time_ns);
    each("wait", "Time it waited for IO.", |vcpu| vcpu.wait_ns);
    each("delay", "Time it was ready while the host ran something else.", |vcpu| vcpu.delay_ns);
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
