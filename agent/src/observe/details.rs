//! Looks at what monitoring wants to know of guests: one thread for what libvirt tells at once, one for what only QEMU
//! knows, which a hung QEMU may hold up. Both rest while nobody asks.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use roost_libvirt::{Error, Hypervisor, StatsGroups, Uuid, XmlForm};
use roost_protocol::GuestId;
use tokio::sync::watch;

use super::{hardware, ksm, proc};
use crate::detail::{Card, Demand, Details, Hardware, Look, Plain};

/// Between two looks at what libvirt tells at once.
const PLAIN_EVERY: Duration = Duration::from_secs(5);
/// Between two questions to all QEMUs: 3 ms a guest.
const DEEP_EVERY: Duration = Duration::from_secs(15);
/// Between two looks whether anybody asks.
const LOOK: Duration = Duration::from_secs(1);
/// A definition is read again after so many looks, should a change of it have gone unseen.
const READ_AGAIN: u32 = 60;

type Slot = watch::Receiver<Option<Arc<Hypervisor>>>;

/// Starts both threads; they end with the receivers.
pub(crate) fn start(hypervisor: Slot, demand: Demand) -> io::Result<Details> {
    let (plain_sender, plain) = watch::channel(Arc::default());
    let (deep_sender, deep) = watch::channel(Arc::default());
    let mut known = BTreeMap::new();
    let (own, own_demand) = (hypervisor.clone(), demand.clone());
    thread::Builder::new().name("details".into()).spawn(move || {
        every(PLAIN_EVERY, &own, &own_demand, |hypervisor| {
            let guests = look(hypervisor, &mut known)?;
            Ok(plain_sender.send(Arc::new(Look { guests, ksm: ksm::read() })).is_ok())
        });
    })?;
    thread::Builder::new().name("deep".into()).spawn(move || {
        every(DEEP_EVERY, &hypervisor, &demand, |hypervisor| {
            let groups = StatsGroups { interface: false, state: false, ..StatsGroups::RUNNING };
            let all = hypervisor.bulk_stats(groups)?;
            let deep = all.into_iter().map(|one| (GuestId::from_bytes(one.uuid), one)).collect();
            Ok(deep_sender.send(Arc::new(deep)).is_ok())
        });
    })?;
    Ok(Details { plain, deep })
}

/// Calls `look` while libvirt is there and somebody asks, and once at the start; until it says that nobody listens.
fn every(
    pause: Duration,
    hypervisor: &Slot,
    demand: &Demand,
    mut look: impl FnMut(&Hypervisor) -> Result<bool, Error>,
) {
    let mut first = true;
    loop {
        let current = hypervisor.borrow().clone();
        match current {
            Some(hypervisor) if first || demand.is_raised() => {
                match look(&hypervisor) {
                    Ok(true) => first = false,
                    Ok(false) => return,
                    Err(error) => tracing::debug!(%error, "look at guests for monitoring"),
                }
                thread::sleep(pause);
            }
            Some(_) | None => thread::sleep(LOOK),
        }
        if hypervisor.has_changed().is_err() {
            return;
        }
    }
}

/// What is kept of a domain between two looks.
struct Known {
    /// libvirt's number while it runs, and its taps: another one means another definition.
    was: (Option<u32>, Vec<String>),
    age: u32,
    hardware: Arc<Hardware>,
    began_ms: Option<u64>,
}

fn look(hypervisor: &Hypervisor, known: &mut BTreeMap<Uuid, Known>) -> Result<BTreeMap<GuestId, Plain>, Error> {
    let groups = StatsGroups { interface: true, running_only: true, ..StatsGroups::default() };
    let mut interfaces: BTreeMap<Uuid, _> =
        hypervisor.bulk_stats(groups)?.into_iter().map(|one| (one.uuid, one.interfaces)).collect();
    let domains = hypervisor.domains()?;
    known.retain(|uuid, _| domains.iter().any(|domain| domain.uuid == *uuid));
    let mut pids = None;
    let mut all = BTreeMap::new();
    for info in domains {
        let interfaces = interfaces.remove(&info.uuid).unwrap_or_default();
        let now = (info.id, interfaces.iter().map(|one| one.name.clone()).collect());
        let fresh = known.get_mut(&info.uuid).is_some_and(|known| {
            known.age += 1;
            known.was == now && known.age < READ_AGAIN
        });
        if !fresh {
            let pid = info.id.and_then(|_| pids.get_or_insert_with(roost_libvirt::qemu_pids).get(&info.uuid).copied());
            let hardware =
                Arc::new(hypervisor.xml(&info.uuid, XmlForm::default()).map(|xml| read(&xml)).unwrap_or_default());
            known.insert(info.uuid, Known { was: now, age: 0, hardware, began_ms: pid.and_then(began_ms) });
        }
        let Some(known) = known.get(&info.uuid) else { continue };
        let (hardware, began_ms) = (known.hardware.clone(), known.began_ms);
        all.insert(GuestId::from_bytes(info.uuid), Plain { info, hardware, interfaces, began_ms });
    }
    Ok(all)
}

fn read(xml: &str) -> Hardware {
    let mut hardware = hardware::hardware(xml);
    for Card { target, bridge, if_index, bridge_index, .. } in &mut hardware.nics {
        (*if_index, *bridge_index) = (index_of(target), index_of(bridge));
    }
    hardware
}

/// ifIndex of an interface of this host; 0 where there is none.
fn index_of(name: &str) -> u32 {
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return 0;
    }
    let text = fs::read_to_string(format!("/sys/class/net/{name}/ifindex")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

fn began_ms(pid: u32) -> Option<u64> {
    let ticks = proc::process_start(&fs::read(format!("/proc/{pid}/stat")).ok()?)?;
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    ticks.saturating_mul(1_000).checked_div(u64::try_from(per_second).ok()?)
}
