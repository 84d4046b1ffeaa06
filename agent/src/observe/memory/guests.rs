//! Memory of the running guests: their processes, their definitions, and what their balloons tell through libvirt.

use std::collections::BTreeMap;

use roost_agent_core::memory::{Balloon, GuestMemory, Told};
use roost_libvirt::{BalloonStats, Hypervisor, StatsGroups, XmlForm};
use roost_protocol::{GuestId, MiB, Millis, Stamp, Time};

use super::Eye;
use super::definition::{self, Definition};

/// Between two questions for a process' fair part of its memory.
const FAIR_EVERY: Millis = Millis::seconds(300);

/// What is kept of guests between looks.
#[derive(Debug, Default)]
pub(crate) struct Guests {
    known: BTreeMap<GuestId, Known>,
    asked_at: Option<Time>,
}

#[derive(Debug)]
struct Known {
    pid: u32,
    since: Time,
    /// Its age when it was first seen.
    age: Millis,
    /// CPU time so far, and when.
    cpu: Option<(Time, Millis)>,
    cpu_permille: u32,
    definition: Definition,
    balloon: Option<(Time, BalloonStats, Option<Millis>)>,
    fair: Option<(Time, MiB)>,
}

impl Guests {
    /// The running guests. Balloons are asked when the last answer is older than `freshness`.
    pub(crate) fn look(
        &mut self,
        now: Time,
        wall: Stamp,
        eye: &Eye,
        hypervisor: &Hypervisor,
        freshness: Millis,
    ) -> BTreeMap<GuestId, GuestMemory> {
        self.walk(now, eye, hypervisor);
        if self.asked_at.is_none_or(|at| now.since(at) >= freshness) {
            self.asked_at = Some(now);
            self.ask(now, wall, hypervisor);
        }
        let mut seen = BTreeMap::new();
        for (id, known) in &mut self.known {
            let Some((resident, shared)) = eye.process(known.pid) else { continue };
            if known.fair.is_none_or(|(at, _)| now.since(at) >= FAIR_EVERY) {
                known.fair = eye.proportional(known.pid).map(|fair| (now, fair));
            }
            known.used_cpu(now, eye.cpu(known.pid));
            seen.insert(*id, known.memory(now, resident, shared));
        }
        seen
    }

    /// Guests that came and went.
    fn walk(&mut self, now: Time, eye: &Eye, hypervisor: &Hypervisor) {
        let pids = roost_libvirt::qemu_pids();
        self.known.retain(|id, known| pids.get(&id.bytes()) == Some(&known.pid));
        for (uuid, pid) in pids {
            let id = GuestId::from_bytes(uuid);
            if self.known.contains_key(&id) {
                continue;
            }
            // As it is to be started next: what it has in full doesn't follow its balloon there.
            let xml = hypervisor.xml(&uuid, XmlForm { inactive: true, ..XmlForm::default() });
            let Some(mut definition) = xml.ok().and_then(|xml| definition::read(&xml)) else { continue };
            // One that was saved, or edited while it runs, was started by another definition than that.
            definition.mergeable = eye.merges(pid).unwrap_or(definition.mergeable);
            let age = eye.age(pid).unwrap_or_default();
            let known =
                Known { pid, since: now, age, cpu: None, cpu_permille: 0, definition, balloon: None, fair: None };
            self.known.insert(id, known);
        }
    }

    fn ask(&mut self, now: Time, wall: Stamp, hypervisor: &Hypervisor) {
        let groups = StatsGroups { balloon: true, running_only: true, ..StatsGroups::default() };
        let all = match hypervisor.bulk_stats(groups) {
            Ok(all) => all,
            Err(error) => {
                tracing::debug!(%error, "ask for balloons");
                return;
            }
        };
        for one in all {
            let Some(known) = self.known.get_mut(&GuestId::from_bytes(one.uuid)) else { continue };
            let age = age(one.balloon.last_update_s, wall);
            known.balloon = one.balloon.current_kib.map(|_| (now, one.balloon, age));
        }
    }
}

impl Known {
    /// Since the look before.
    fn used_cpu(&mut self, now: Time, used: Option<Millis>) {
        let before = std::mem::replace(&mut self.cpu, used.map(|used| (now, used)));
        let Some(((at, before), used)) = before.zip(used) else { return };
        let permille = used.0.saturating_sub(before.0).saturating_mul(1_000).checked_div(now.since(at).0);
        self.cpu_permille = permille.map_or(0, |permille| u32::try_from(permille).unwrap_or(u32::MAX));
    }

    fn memory(&self, now: Time, resident: MiB, shared: Option<MiB>) -> GuestMemory {
        let full = self.definition.full;
        let balloon = self.balloon.as_ref().filter(|_| self.definition.balloon);
        GuestMemory {
            full,
            resident,
            proportional: self.fair.map(|(_, fair)| fair),
            shared,
            cpu_permille: self.cpu_permille,
            age: Millis(self.age.0.saturating_add(now.since(self.since).0)),
            ours: self.definition.ours,
            rescue: self.definition.rescue,
            wish: self.definition.wish.clone(),
            mergeable: self.definition.mergeable,
            balloon: balloon
                .and_then(|(at, stats, age)| as_told(stats, age.map(|age| Millis(age.0 + now.since(*at).0)))),
        }
    }
}

/// The balloon in the core's words; what the guest never told stays unknown.
pub(super) fn as_told(stats: &BalloonStats, age: Option<Millis>) -> Option<Balloon> {
    let mib = |kib: u64| MiB(kib / 1_024);
    let told = || {
        let (unused, usable) = (mib(stats.unused_kib?), mib(stats.usable_kib?));
        let (swapped_in, major_faults) = (mib(stats.swap_in_kib.unwrap_or(0)), stats.major_faults.unwrap_or(0));
        Some(Told { age: age?, unused, usable, swapped_in, major_faults })
    };
    Some(Balloon { current: mib(stats.current_kib?), told: told() })
}

/// How old numbers of this second are; both clocks are this host's own.
pub(super) fn age(last_update_s: Option<u64>, wall: Stamp) -> Option<Millis> {
    let at = last_update_s.filter(|at| *at > 0)?;
    Some(Millis(wall.0.saturating_sub(at.saturating_mul(1_000))))
}
