//! The figures, each beside the best peer of this run.

use anyhow::Result;
use roost_benches::figure::{Figure, Goal, alone};

use crate::cost::Cost;
use crate::desk::Latency;
use crate::{Outcome, way};

/// One value of an outcome.
type Of<'a> = &'a dyn Fn(&Outcome) -> f64;

pub(crate) fn print(ours: &Outcome, peers: &[Outcome]) -> Result<()> {
    let least = |name: &str, unit: &str, of: Of<'_>, goal: Option<Goal>| {
        let all = peers.iter().map(|peer| (peer.name, of(peer)));
        let best = all.min_by(|a, b| a.1.total_cmp(&b.1));
        Figure { name, unit, ours: of(ours), peer: best, goal, ..Figure::default() }.print()
    };
    least("guest_full_cpu", "cpu_s", &|one| one.full.cpu.all, Some(Goal::Ratio(0.7)))?;
    least("guest_full_time", "s", &|one| one.full.wall_s, None)?;
    least("guest_full_stored", "MB", &|one| one.full_bytes / 1e6, Some(Goal::Ratio(1.0)))?;
    parts("guest_full", &ours.full)?;
    let bitmap = |one: &Outcome| one.increment.cpu.all;
    let peer = peers.iter().find(|peer| peer.name == way::BITMAP).map(|peer| (peer.name, bitmap(peer)));
    let (name, goal) = ("guest_increment_cpu_vs_qemu_bitmap_zstd", Some(Goal::Ratio(0.5)));
    Figure { name, unit: "cpu_s", ours: bitmap(ours), peer, goal, ..Figure::default() }.print()?;
    least("guest_increment_cpu", "cpu_s", &bitmap, None)?;
    least("guest_increment_time", "s", &|one| one.increment.wall_s, None)?;
    least("guest_increment_stored", "MB", &|one| one.increment_bytes / 1e6, Some(Goal::Ratio(1.0)))?;
    parts("guest_increment", &ours.increment)?;
    least("guest_restore_cpu", "cpu_s", &|one| one.restore.cpu.all, Some(Goal::Ratio(0.5)))?;
    least("guest_restore_time", "s", &|one| one.restore.wall_s, None)?;
    parts("guest_restore", &ours.restore)?;
    std::iter::once(ours).chain(peers).try_for_each(felt)
}

/// Who used our CPU, and the agent's memory.
fn parts(what: &str, cost: &Cost) -> Result<()> {
    alone(&format!("{what}_cpu_of_agent"), "cpu_s", cost.cpu.agent)?;
    alone(&format!("{what}_cpu_of_guest_qemu"), "cpu_s", cost.cpu.qemu)?;
    alone(&format!("{what}_agent_peak"), "MiB", cost.agent_peak_mib)
}

type Part = fn(&Latency) -> f64;

/// What is told of a latency.
const PARTS: [(&str, Part); 3] = [("p50", |met| met.p50), ("p99", |met| met.p99), ("most", |met| met.most)];

/// What the guest's writes met with one way, beside the same guest's idle time; goals are ours.
fn felt(one: &Outcome) -> Result<()> {
    let (idle, is_ours) = (&one.felt.idle, one.name == way::OURS);
    let phases = [("full", Some(&one.felt.full), 1.5), ("merge", one.felt.merge.as_ref(), 5.0)];
    let phases = phases.into_iter().chain([("increment", Some(&one.felt.increment), 1.5)]);
    for (phase, met, goal) in phases {
        let Some(met) = met else { continue };
        for (part, of) in PARTS {
            let name = format!("write_{part}_during_{phase}_vs_idle: {}, {} writes", one.name, met.count);
            let (ours, limit) = (of(met) / 1e3, Some(of(idle) / 1e3));
            let goal = Some(Goal::Ratio(goal)).filter(|_| is_ours && part == "p99");
            Figure { name: &name, unit: "ms", ours, limit, goal, ..Figure::default() }.print()?;
        }
    }
    Ok(())
}
