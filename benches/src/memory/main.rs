//! Page sharing of real guests: how soon and for how much of ksmd's CPU equal pages are merged, by the agent, by Debian's
//! ksmtuned, by the kernel's default pace and by its advisor, one after the other on the same guests; and what tuning
//! costs itself. Then how many guests a host holds. The machine's page sharing is used alone, and is as it was afterwards.

mod density;
mod desks;
mod small;
mod way;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use desks::{Content, Desks, cpu_of_threads, one};
use roost_benches::figure::{Figure, Goal, alone, refuse_when_busy};
use roost_benches::process;
use roost_tests::grid::{Grid, lasts};
use roost_tests::page_sharing::PageSharing;
use way::Way;

/// Between two looks at what is merged.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// All that can be merged is, when so many passes brought nothing more.
const SETTLED_SCANS: u64 = 3;
/// The part of what can be reached at which time and CPU are taken, percent.
const PART: u64 = 90;

/// Needs root, libvirt and QEMU, a kernel with KSM's advisor (6.8), and Debian's package lists. Prints one JSON line per
/// figure.
#[derive(Debug, Parser)]
struct Arguments {
    #[arg(long, default_value_t = 8)]
    guests: u32,
    /// MiB in each guest that all have.
    #[arg(long, default_value_t = 32)]
    same_mib: u32,
    /// MiB in each guest that it alone has.
    #[arg(long, default_value_t = 8)]
    own_mib: u32,
    /// A way that takes longer is given up.
    #[arg(long, default_value_t = 900)]
    limit_s: u64,
    /// The tuner's own cost is measured for so long.
    #[arg(long, default_value_t = 60)]
    tuner_s: u64,
    /// One half only.
    #[arg(long)]
    only: Option<Half>,
    /// Density by these ways only.
    #[arg(long)]
    way: Vec<density::Way>,
    /// Measure although the machine is busy.
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Half {
    Sharing,
    Density,
}

/// What one way took to 90 % of what can be reached.
#[derive(Clone, Copy, Debug)]
struct Reached {
    wall: Duration,
    /// Of ksmd, seconds.
    cpu: f64,
    pages: f64,
}

/// One number of it.
type Pick = fn(&Reached) -> f64;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    refuse_when_busy(arguments.force)?;
    if arguments.only != Some(Half::Density) {
        sharing(&arguments)?;
    }
    if arguments.only != Some(Half::Sharing) {
        density::measure(&arguments.way)?;
    }
    Ok(())
}

fn sharing(arguments: &Arguments) -> Result<()> {
    let sharing = PageSharing::take()?;
    let mut grid = Grid::start(1)?;
    way::untuned(&mut grid)?;
    let content = Content { same: arguments.same_mib, own: arguments.own_mib };
    let desks = Desks::start(&grid, arguments.guests, content)?;
    let mut contest = Contest { grid, sharing, desks, ksmd: ksmd()?, limit: Duration::from_secs(arguments.limit_s) };
    let most = contest.most()?;
    let mut reached = |way| contest.reach(way, most);
    let limit = reached(Way::Limit)?.context("the limit itself")?;
    let peers = [Way::Ksmtuned, Way::Kernel, Way::Advisor];
    let peers = peers.map(|way| reached(way).map(|reached| (way, reached)));
    contest.grid.kill(1)?;
    let ours = contest.reach(Way::Roost, most)?.context("roost did not get there")?;
    for peer in peers {
        let (way, reached) = peer?;
        compare(way, ours, reached, limit)?;
    }
    contest.tuner(Duration::from_secs(arguments.tuner_s))
}

/// The same guests for each way.
struct Contest {
    // Dropped in this order: page sharing is given back last.
    grid: Grid,
    desks: Desks,
    sharing: PageSharing,
    ksmd: u32,
    limit: Duration,
}

impl Contest {
    /// Pages that can be merged at all.
    fn most(&mut self) -> Result<u64> {
        way::reset(&self.sharing)?;
        let running = Way::Limit.begin(&mut self.grid, &self.sharing)?;
        let (mut most, mut scan, began) = (0, self.sharing.count("full_scans")?, Instant::now());
        loop {
            let (merged, now) = (self.desks.merged()?, self.sharing.count("full_scans")?);
            if merged > most + most / 1_000 {
                (most, scan) = (merged, now);
            } else if most > 0 && now >= scan + SETTLED_SCANS {
                break;
            }
            ensure!(began.elapsed() < self.limit, "{most} pages are merged, and it goes on");
            lasts(LOOK_EVERY);
        }
        drop(running);
        eprintln!("{most} pages can be merged");
        Ok(most)
    }

    /// From nothing merged to 90 %; nothing when it takes too long.
    fn reach(&mut self, way: Way, most: u64) -> Result<Option<Reached>> {
        way::reset(&self.sharing)?;
        ensure!(self.desks.merged()? < most / 20, "pages are still merged");
        let (cpu, began, wanted) = (process::cpu(self.ksmd)?, Instant::now(), most * PART / 100);
        let running = way.begin(&mut self.grid, &self.sharing)?;
        let reached = loop {
            let merged = self.desks.merged()?;
            let (wall, cpu) = (began.elapsed(), process::cpu(self.ksmd)? - cpu);
            if merged >= wanted {
                break Some(Reached { wall, cpu, pages: f64::from(u32::try_from(merged)?) });
            }
            if wall > self.limit {
                eprintln!("{}: given up at {merged} of {wanted} pages, {cpu} s of ksmd", way.name());
                break None;
            }
            lasts(LOOK_EVERY);
        };
        drop(running);
        eprintln!("{}: {reached:?}", way.name());
        Ok(reached)
    }

    /// What the tuner costs while it keeps up what is merged: its thread, and the process that stands in for it.
    fn tuner(&self, span: Duration) -> Result<()> {
        let settings = self.grid.folder.join("agent-1.toml");
        let settings = settings.to_str().context("a path in UTF-8")?;
        let (agent, keeper) = (one("roost-agent", &[settings, "\0run"])?, one("exe", &[settings, "keep-memory"])?);
        let libvirtd = process::marked("libvirtd", &self.grid.lab.mark(1))?;
        let cost = || Ok::<_, anyhow::Error>(cpu_of_threads(agent, Some("memory"))? + cpu_of_threads(keeper, None)?);
        let (before, all, daemon, began) =
            (cost()?, process::cpu(agent)?, process::cpu_of_all(&libvirtd)?, Instant::now());
        lasts(span);
        let share = |cpu: f64| cpu / began.elapsed().as_secs_f64();
        let (tuner, all, daemon) = (
            share(cost()? - before),
            share(process::cpu(agent)? - all),
            share(process::cpu_of_all(&libvirtd)? - daemon),
        );
        let (name, goal) = ("tuner_cpu_share", Some(Goal::Ours(0.005)));
        Figure { name, unit: "cores", ours: tuner, goal, ..Figure::default() }.print()?;
        alone("agent_cpu_share: all of it, with everything else that it does", "cores", all)?;
        alone("libvirtd_cpu_share: beside it", "cores", daemon)
    }
}

/// Ours beside one peer.
fn compare(way: Way, ours: Reached, peer: Option<Reached>, limit: Reached) -> Result<()> {
    let beside = |pick: Pick| peer.as_ref().map(|peer| (way.name(), pick(peer)));
    let first = way == Way::Ksmtuned;
    let goal = |most| first.then_some(Goal::Ratio(most));
    let figures: [(&str, &str, Pick, Option<Goal>); 3] = [
        ("time_to_90_percent", "s", |of| of.wall.as_secs_f64(), goal(0.34)),
        ("ksmd_cpu_to_90_percent", "cpu_s", |of| of.cpu, goal(1.0)),
        ("pages_merged_per_ksmd_cpu_s: more is better", "pages", |of| of.pages / of.cpu.max(0.01), None),
    ];
    for (name, unit, pick, goal) in figures {
        let (ours, peer, limit) = (pick(&ours), beside(pick), Some(pick(&limit)));
        Figure { name, unit, ours, peer, limit, goal }.print()?;
    }
    Ok(())
}

/// The kernel's thread that merges; a program may call itself so too, but has memory.
fn ksmd() -> Result<u32> {
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let is = |file: &str, begin: &str| {
            std::fs::read_to_string(path.join(file)).is_ok_and(|told| told.starts_with(begin))
        };
        if is("comm", "ksmd\n") && is("statm", "0 ") {
            return path.file_name().and_then(|name| name.to_str()?.parse().ok()).context("its number");
        }
    }
    anyhow::bail!("this machine has no ksmd: run it outside of containers, on a kernel with KSM")
}
