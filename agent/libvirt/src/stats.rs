//! Numbers of all domains from one call: which groups to ask for, and how the answer is read.

use crate::{Reason, State, Uuid};
use std::collections::BTreeMap;
use virt_sys as sys;

/// Most disks, and most network cards, that are read of one domain; QEMU's own limits are far below.
const MOST_DEVICES: usize = 256;

/// Which numbers to fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StatsGroups {
    /// State and reason.
    pub state: bool,
    /// CPU time.
    pub cpu: bool,
    /// Balloon and what the guest says of its memory.
    pub balloon: bool,
    /// Number of virtual CPUs.
    pub vcpu: bool,
    /// Network cards.
    pub interface: bool,
    /// Disks.
    pub block: bool,
    /// Only domains that run.
    pub running_only: bool,
}

impl StatsGroups {
    /// All groups, of running domains.
    pub const RUNNING: Self =
        Self { state: true, cpu: true, balloon: true, vcpu: true, interface: true, block: true, running_only: true };

    pub(crate) fn bits(self) -> u32 {
        [
            (self.state, sys::VIR_DOMAIN_STATS_STATE),
            (self.cpu, sys::VIR_DOMAIN_STATS_CPU_TOTAL),
            (self.balloon, sys::VIR_DOMAIN_STATS_BALLOON),
            (self.vcpu, sys::VIR_DOMAIN_STATS_VCPU),
            (self.interface, sys::VIR_DOMAIN_STATS_INTERFACE),
            (self.block, sys::VIR_DOMAIN_STATS_BLOCK),
        ]
        .iter()
        .filter_map(|(wanted, bit)| wanted.then_some(*bit))
        .sum()
    }

    pub(crate) fn flags(self) -> u32 {
        let running = if self.running_only { sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_RUNNING } else { 0 };
        sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT | running
    }
}

/// Numbers of one domain. What was not asked for, or what a busy or hung QEMU could not tell, is absent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DomainStats {
    /// The domain.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// State and reason.
    pub state: Option<(State, Reason)>,
    /// CPU time.
    pub cpu: CpuStats,
    /// Memory.
    pub balloon: BalloonStats,
    /// Virtual CPUs now.
    pub vcpus: Option<u64>,
    /// Virtual CPUs at most.
    pub vcpus_max: Option<u64>,
    /// Each virtual CPU, in order of its number.
    pub vcpu: Vec<VcpuStats>,
    /// Disks, in libvirt's order.
    pub blocks: Vec<BlockStats>,
    /// Network cards, in libvirt's order.
    pub interfaces: Vec<InterfaceStats>,
}

/// One virtual CPU, ns since the domain started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VcpuStats {
    /// Run.
    pub time_ns: Option<u64>,
    /// Waited for IO.
    pub wait_ns: Option<u64>,
    /// Ready to run while the host ran something else.
    pub delay_ns: Option<u64>,
}

/// CPU time since the domain started, ns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuStats {
    /// All of it.
    pub time_ns: Option<u64>,
    /// Host user time.
    pub user_ns: Option<u64>,
    /// Host system time.
    pub system_ns: Option<u64>,
}

/// Memory, KiB. All but `current`, `maximum` and `rss` come from the guest's balloon driver and are as old as
/// `last_update_s` says; they need a statistics period ([`crate::Hypervisor::set_memory_stats_period`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BalloonStats {
    /// What the guest has now.
    pub current_kib: Option<u64>,
    /// What it may have at most.
    pub maximum_kib: Option<u64>,
    /// Free in the guest, caches not counted as free.
    pub unused_kib: Option<u64>,
    /// What the guest's kernel sees in all.
    pub available_kib: Option<u64>,
    /// What the guest could give up without swapping.
    pub usable_kib: Option<u64>,
    /// Page cache of the guest.
    pub disk_caches_kib: Option<u64>,
    /// Resident set of QEMU on the host.
    pub rss_kib: Option<u64>,
    /// Swapped in since boot.
    pub swap_in_kib: Option<u64>,
    /// Swapped out since boot.
    pub swap_out_kib: Option<u64>,
    /// Major faults since boot (a count).
    pub major_faults: Option<u64>,
    /// Minor faults since boot (a count).
    pub minor_faults: Option<u64>,
    /// When the guest last told, Unix seconds; 0 is never.
    pub last_update_s: Option<u64>,
}

/// One disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlockStats {
    /// Target name (`vda`).
    pub name: String,
    /// Image on the host; empty when there is none.
    pub path: String,
    /// Reads since start.
    pub rd_reqs: Option<u64>,
    /// Bytes read since start.
    pub rd_bytes: Option<u64>,
    /// Time spent reading, ns.
    pub rd_ns: Option<u64>,
    /// Writes since start.
    pub wr_reqs: Option<u64>,
    /// Bytes written since start.
    pub wr_bytes: Option<u64>,
    /// Time spent writing, ns.
    pub wr_ns: Option<u64>,
    /// Flushes since start.
    pub fl_reqs: Option<u64>,
    /// Time spent flushing, ns.
    pub fl_ns: Option<u64>,
    /// Size that the guest sees, bytes.
    pub capacity_bytes: Option<u64>,
    /// Highest byte written in the image (qcow2 on a device) or space it takes, bytes.
    pub allocation_bytes: Option<u64>,
    /// Size of the image file or device, bytes.
    pub physical_bytes: Option<u64>,
}

/// One network card, counted from the host's side of its tap.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InterfaceStats {
    /// Name of the tap on the host.
    pub name: String,
    /// Bytes to the host.
    pub rx_bytes: Option<u64>,
    /// Packets to the host.
    pub rx_packets: Option<u64>,
    /// Errors.
    pub rx_errors: Option<u64>,
    /// Drops.
    pub rx_drops: Option<u64>,
    /// Bytes from the host.
    pub tx_bytes: Option<u64>,
    /// Packets from the host.
    pub tx_packets: Option<u64>,
    /// Errors.
    pub tx_errors: Option<u64>,
    /// Drops.
    pub tx_drops: Option<u64>,
}

/// One typed parameter as libvirt sends it; kinds that no reader wants become `Other`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Int(i64),
    Uint(u64),
    Text(String),
    Other,
}

impl Value {
    fn number(&self) -> Option<u64> {
        match self {
            Self::Int(value) => u64::try_from(*value).ok(),
            Self::Uint(value) => Some(*value),
            Self::Text(_) | Self::Other => None,
        }
    }

    fn text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Int(_) | Self::Uint(_) | Self::Other => String::new(),
        }
    }

    /// As a C `int`, for the two that are ones.
    fn small(&self) -> Option<i32> {
        self.number().and_then(|value| i32::try_from(value).ok())
    }
}

/// Reads one domain's parameters (`virConnectGetAllDomainStats` lists the names); unknown ones are passed over.
pub(crate) fn decode(uuid: Uuid, name: String, params: Vec<(String, Value)>) -> DomainStats {
    let mut stats = DomainStats { uuid, name, ..DomainStats::default() };
    let mut vcpus = BTreeMap::new();
    let mut blocks = BTreeMap::new();
    let mut interfaces = BTreeMap::new();
    let (mut state, mut reason) = (None, 0);
    for (field, value) in params {
        match field.split_once('.') {
            Some(("state", "state")) => state = value.small(),
            Some(("state", "reason")) => reason = value.small().unwrap_or(0),
            Some(("cpu", rest)) => cpu(&mut stats.cpu, rest, &value),
            Some(("balloon", rest)) => balloon(&mut stats.balloon, rest, &value),
            Some(("vcpu", "current")) => stats.vcpus = value.number(),
            Some(("vcpu", "maximum")) => stats.vcpus_max = value.number(),
            Some(("vcpu", rest)) => {
                device(&mut vcpus, rest).into_iter().for_each(|(one, rest)| vcpu(one, rest, &value));
            }
            Some(("block", rest)) => {
                device(&mut blocks, rest).into_iter().for_each(|(one, rest)| block(one, rest, value.clone()));
            }
            Some(("net", rest)) => {
                device(&mut interfaces, rest).into_iter().for_each(|(one, rest)| interface(one, rest, value.clone()));
            }
            _ => {}
        }
    }
    stats.state = state.map(State::from_raw).map(|state| (state, Reason::from_raw(state, reason)));
    stats.vcpu = vcpus.into_values().collect();
    stats.blocks = blocks.into_values().collect();
    stats.interfaces = interfaces.into_values().collect();
    stats
}

/// The device that `3.rd.bytes` speaks of, made when it is new, and what it says of it.
fn device<'a, T: Default>(devices: &'a mut BTreeMap<u32, T>, field: &'a str) -> Option<(&'a mut T, &'a str)> {
    let (index, rest) = field.split_once('.')?;
    let index = index.parse().ok()?;
    if devices.len() >= MOST_DEVICES && !devices.contains_key(&index) {
        return None;
    }
    Some((devices.entry(index).or_default(), rest))
}

fn cpu(cpu: &mut CpuStats, field: &str, value: &Value) {
    match field {
        "time" => cpu.time_ns = value.number(),
        "user" => cpu.user_ns = value.number(),
        "system" => cpu.system_ns = value.number(),
        _ => {}
    }
}

fn vcpu(vcpu: &mut VcpuStats, field: &str, value: &Value) {
    match field {
        "time" => vcpu.time_ns = value.number(),
        "wait" => vcpu.wait_ns = value.number(),
        "delay" => vcpu.delay_ns = value.number(),
        _ => {}
    }
}

fn balloon(balloon: &mut BalloonStats, field: &str, value: &Value) {
    let slot = match field {
        "current" => &mut balloon.current_kib,
        "maximum" => &mut balloon.maximum_kib,
        "unused" => &mut balloon.unused_kib,
        "available" => &mut balloon.available_kib,
        "usable" => &mut balloon.usable_kib,
        "disk_caches" => &mut balloon.disk_caches_kib,
        "rss" => &mut balloon.rss_kib,
        "swap_in" => &mut balloon.swap_in_kib,
        "swap_out" => &mut balloon.swap_out_kib,
        "major_fault" => &mut balloon.major_faults,
        "minor_fault" => &mut balloon.minor_faults,
        "last-update" => &mut balloon.last_update_s,
        _ => return,
    };
    *slot = value.number();
}

fn block(block: &mut BlockStats, field: &str, value: Value) {
    let slot = match field {
        "name" => return block.name = value.text(),
        "path" => return block.path = value.text(),
        "rd.reqs" => &mut block.rd_reqs,
        "rd.bytes" => &mut block.rd_bytes,
        "rd.times" => &mut block.rd_ns,
        "wr.reqs" => &mut block.wr_reqs,
        "wr.bytes" => &mut block.wr_bytes,
        "wr.times" => &mut block.wr_ns,
        "fl.reqs" => &mut block.fl_reqs,
        "fl.times" => &mut block.fl_ns,
        "capacity" => &mut block.capacity_bytes,
        "allocation" => &mut block.allocation_bytes,
        "physical" => &mut block.physical_bytes,
        _ => return,
    };
    *slot = value.number();
}

fn interface(interface: &mut InterfaceStats, field: &str, value: Value) {
    let slot = match field {
        "name" => return interface.name = value.text(),
        "rx.bytes" => &mut interface.rx_bytes,
        "rx.pkts" => &mut interface.rx_packets,
        "rx.errs" => &mut interface.rx_errors,
        "rx.drop" => &mut interface.rx_drops,
        "tx.bytes" => &mut interface.tx_bytes,
        "tx.pkts" => &mut interface.tx_packets,
        "tx.errs" => &mut interface.tx_errors,
        "tx.drop" => &mut interface.tx_drops,
        _ => return,
    };
    *slot = value.number();
}

#[cfg(test)]
mod test {
    use super::{DomainStats, MOST_DEVICES, Value, decode};
    use crate::{Reason, State};

    fn read(params: &[(&str, Value)]) -> DomainStats {
        decode([7; 16], "g".into(), params.iter().map(|(field, value)| ((*field).into(), value.clone())).collect())
    }

    #[test]
    fn each_number_lands_in_its_field() {
        let stats = read(&[
            ("state.state", Value::Int(5)),
            ("state.reason", Value::Int(3)),
            ("cpu.time", Value::Uint(9)),
            ("balloon.current", Value::Uint(1024)),
            ("balloon.last-update", Value::Uint(0)),
            ("vcpu.current", Value::Uint(2)),
            ("vcpu.1.time", Value::Uint(7)),
            ("vcpu.0.delay", Value::Uint(8)),
            ("vcpu.0.halted", Value::Other),
            ("block.count", Value::Uint(2)),
            ("block.1.name", Value::Text("vdb".into())),
            ("block.0.name", Value::Text("vda".into())),
            ("block.0.wr.bytes", Value::Uint(512)),
            ("net.count", Value::Uint(1)),
            ("net.0.tx.drop", Value::Uint(3)),
        ]);
        assert_eq!(stats.state, Some((State::ShutOff, Reason::Crashed)));
        assert_eq!((stats.cpu.time_ns, stats.balloon.current_kib, stats.vcpus), (Some(9), Some(1024), Some(2)));
        assert_eq!(stats.balloon.last_update_s, Some(0));
        assert_eq!((stats.vcpu[0].delay_ns, stats.vcpu[1].time_ns, stats.vcpu.len()), (Some(8), Some(7), 2));
        assert_eq!(stats.blocks.iter().map(|disk| &disk.name[..]).collect::<Vec<_>>(), ["vda", "vdb"]);
        assert_eq!((stats.blocks[0].wr_bytes, stats.blocks[0].rd_bytes), (Some(512), None));
        assert_eq!(stats.interfaces[0].tx_drops, Some(3));
    }

    #[test]
    fn nonsense_is_passed_over() {
        let stats = read(&[
            ("", Value::Other),
            (".", Value::Uint(1)),
            ("block.", Value::Uint(1)),
            ("block.-1.name", Value::Text("x".into())),
            ("block.99999999999.name", Value::Text("x".into())),
            ("balloon.current", Value::Int(-1)),
            ("state.state", Value::Uint(u64::MAX)),
        ]);
        assert_eq!(stats, DomainStats { uuid: [7; 16], name: "g".into(), ..DomainStats::default() });
    }

    #[test]
    fn a_flood_of_devices_is_cut() {
        let params: Vec<_> = (0..10_000).map(|at| (format!("net.{at}.rx.bytes"), Value::Uint(1))).collect();
        assert_eq!(decode([0; 16], String::new(), params).interfaces.len(), MOST_DEVICES);
    }
}
