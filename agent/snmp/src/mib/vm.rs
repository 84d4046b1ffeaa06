//! VM-MIB, RFC 7666: all its tables, for reading (vmReadOnlyCompliances).

use roost_protocol::{MiB, Millis, Time};

use super::arc::{ROOST, VM};
use super::rows::Rows;
use super::view::{Disk, Guest, Nic, View};
use crate::{Oid, Value};

/// vmMemUnit and vmStorageSizeUnit: sizes are told in mebibytes, so that 2^31 of them fit.
const UNIT: i32 = 1 << 20;
/// TruthValue.
pub(super) const TRUE: i32 = 1;
/// hrDeviceIndex of CPU 0 in net-snmp's hrDeviceTable; vmCpuPhysIndex must be the same number.
const FIRST_CPU: u32 = 3 << 16;

pub(super) fn add(rows: &mut Rows, view: &View, now: Time, uptime: Option<Millis>) {
    let host = &view.host;
    let hypervisor = Oid::join(&ROOST, &[3, 1]);
    let up = host.hypervisor_since.map_or(Millis(0), |since| now.since(since));
    // In sysUpTime; a change before snmpd began is told as its beginning.
    let changed = uptime.map_or(0, |uptime| uptime.0.saturating_sub(now.since(host.guests_changed).0));
    rows.scalars(
        &at(&[1, 1]),
        vec![Value::text(&host.software), Value::text(&host.version), Value::Oid(hypervisor), Value::ticks(up.0)],
    );
    rows.scalar(&at(&[1, 2]), Value::integer(u64::try_from(view.guests.len()).unwrap_or(u64::MAX)));
    rows.scalar(&at(&[1, 3]), Value::ticks(changed));
    let guests = || view.guests.iter();
    rows.table(&at(&[1, 4, 1]), 2, 16, guests().map(|guest| (vec![guest.number], machine(guest))));
    rows.table(
        &at(&[1, 5, 1]),
        2,
        1,
        guests().flat_map(|guest| {
            let each = (1..).zip(&guest.vcpus_us);
            each.map(|(vcpu, time)| (vec![guest.number, vcpu], vec![Value::Counter64(*time)]))
        }),
    );
    rows.table(&at(&[1, 6, 1]), 3, 1, guests().flat_map(affinity));
    rows.table(
        &at(&[1, 7, 1]),
        3,
        16,
        guests().flat_map(|guest| (1..).zip(&guest.disks).map(|(n, disk)| (vec![guest.number, n], storage(disk)))),
    );
    rows.table(
        &at(&[1, 8, 1]),
        2,
        4,
        guests().flat_map(|guest| (1..).zip(&guest.nics).map(|(n, nic)| (vec![guest.number, n], network(nic)))),
    );
    // Both kinds of notifications are sent; which one is told by how many guests change at once.
    rows.scalar(&at(&[1, 9]), Value::Integer(TRUE));
    rows.scalar(&at(&[1, 10]), Value::Integer(TRUE));
}

fn at(arc: &[u32]) -> Oid {
    Oid::join(&VM, arc)
}

fn machine(guest: &Guest) -> Vec<Value> {
    vec![
        Value::text(&guest.name),
        Value::Octets(guest.id.bytes().to_vec()),
        Value::text(&guest.os),
        Value::Integer(guest.admin as i32),
        Value::Integer(guest.oper as i32),
        Value::Integer(match guest.autostart {
            None => 1,
            Some(true) => 2,
            Some(false) => 3,
        }),
        Value::Integer(if guest.persistent { 2 } else { 3 }),
        Value::integer(guest.cpus),
        Value::Integer(-1),
        Value::integer_or_unknown(guest.cpus_max),
        Value::Integer(UNIT),
        Value::integer(guest.memory.0),
        Value::Integer(-1),
        Value::integer_or_unknown(guest.memory_max.map(|MiB(mib)| mib)),
        Value::ticks(guest.up.unwrap_or_default().0),
        Value::Counter64(guest.cpu_time_us),
    ]
}

/// Rows for virtual CPUs that are bound; one that may run anywhere has no affinity.
fn affinity(guest: &Guest) -> impl Iterator<Item = (Vec<u32>, Vec<Value>)> + '_ {
    guest.pins.iter().flat_map(|pin| {
        let index = |cpu: u32| vec![guest.number, pin.vcpu.saturating_add(1), FIRST_CPU.saturating_add(cpu)];
        pin.physical.iter().map(move |cpu| (index(*cpu), vec![Value::Integer(1)]))
    })
}

fn storage(disk: &Disk) -> Vec<Value> {
    let mib = |bytes: Option<u64>| Value::integer_or_unknown(bytes.map(|bytes| bytes.div_ceil(1 << 20)));
    vec![
        // hrStorageTable shows file systems; which one an image lies on is not told.
        Value::Integer(0),
        Value::Integer(disk.source as i32),
        Value::text(&disk.source_text),
        Value::text(&disk.path),
        Value::Integer(if disk.read_only { 3 } else { 2 }),
        Value::Integer(disk.media as i32),
        Value::text(&disk.media_text),
        Value::Integer(UNIT),
        mib(disk.defined),
        mib(disk.allocated),
        Value::Counter64(disk.reads),
        Value::Counter64(disk.writes),
        Value::Counter64(disk.read_bytes),
        Value::Counter64(disk.written_bytes),
        Value::Counter64(disk.read_us),
        Value::Counter64(disk.write_us),
    ]
}

fn network(nic: &Nic) -> Vec<Value> {
    vec![
        Value::integer(nic.if_index),
        Value::integer(nic.parent),
        Value::text(&nic.model),
        Value::Octets(nic.mac.iter().take(8).copied().collect()),
    ]
}
