//! What work in a lab's host costs: CPU of everything in it, by the kernel's count, less what it uses at rest.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use roost_tests::grid::{Grid, lasts};

/// Clock ticks per second of `/proc/PID/stat`: 100 on every Linux.
const TICKS: f64 = 100.0;
/// Long enough that ticks of 10 ms tell an idle guest's few percent.
const REST: Duration = Duration::from_secs(10);

/// CPU seconds, by who used them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cpu {
    /// All processes of the host, ended ones too: its first process reaps and thereby counts them.
    pub(crate) all: f64,
    pub(crate) agent: f64,
    pub(crate) qemu: f64,
}

impl Cpu {
    fn each(self, other: Self, both: impl Fn(f64, f64) -> f64) -> Self {
        let Self { all, agent, qemu } = self;
        Self { all: both(all, other.all), agent: both(agent, other.agent), qemu: both(qemu, other.qemu) }
    }

    fn used(grid: &Grid, qemu: Option<u32>) -> Result<Self> {
        let agent = grid.pid(1)?;
        let mut used = Self::default();
        // A process that ends meanwhile is in nobody's way.
        for line in grid.lab.exec(1, &["sh", "-c", "cat /proc/[0-9]*/stat 2>/dev/null; true"])?.lines() {
            let (pid, rest) = line.split_once(' ').context("read stat")?;
            let (_, fields) = rest.rsplit_once(") ").context("read stat")?;
            // Its own, user and system, and those of its children that ended.
            let ticks = fields.split(' ').skip(11).take(4).map(str::parse::<f64>).sum::<Result<f64, _>>()?;
            let (pid, seconds): (u32, f64) = (pid.parse()?, ticks / TICKS);
            used.all += seconds;
            used.agent += if pid == agent { seconds } else { 0.0 };
            used.qemu += if Some(pid) == qemu { seconds } else { 0.0 };
        }
        Ok(used)
    }
}

/// What a piece of work took; CPU beyond what the host uses at rest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) wall_s: f64,
    pub(crate) cpu: Cpu,
    /// The agent's largest memory meanwhile.
    pub(crate) agent_peak_mib: f64,
}

impl Cost {
    /// With CPU seconds used outside the host on its behalf.
    pub(crate) fn and(mut self, outside: f64) -> Self {
        self.cpu.all += outside;
        self
    }
}

/// What h1 uses each second while nothing is asked of it, with this guest running.
pub(crate) fn at_rest(grid: &Grid, qemu: Option<u32>) -> Result<Cpu> {
    let (before, began) = (Cpu::used(grid, qemu)?, Instant::now());
    lasts(REST);
    let used = Cpu::used(grid, qemu)?.each(before, |after, before| after - before);
    let seconds = began.elapsed().as_secs_f64();
    Ok(used.each(Cpu::default(), |used, _| used / seconds))
}

/// Does work on h1.
pub(crate) fn of<T>(grid: &Grid, qemu: Option<u32>, rest: Cpu, work: impl FnOnce() -> Result<T>) -> Result<(Cost, T)> {
    let agent = grid.pid(1)?;
    grid.lab.exec(1, &["sh", "-c", &format!("echo 5 > /proc/{agent}/clear_refs")])?;
    let (before, began) = (Cpu::used(grid, qemu)?, Instant::now());
    let done = work()?;
    let wall_s = began.elapsed().as_secs_f64();
    let used = Cpu::used(grid, qemu)?.each(before, |after, before| after - before);
    let cpu = used.each(rest, |used, rest| (used - rest * wall_s).max(0.0));
    Ok((Cost { wall_s, cpu, agent_peak_mib: peak(grid, agent)? }, done))
}

fn peak(grid: &Grid, agent: u32) -> Result<f64> {
    let status = grid.lab.exec(1, &["cat", &format!("/proc/{agent}/status")])?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().with_context(|| format!("VmHWM {line:?}"))?;
    Ok(kib / 1024.0)
}
