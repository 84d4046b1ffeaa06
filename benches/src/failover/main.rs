//! Failover by real guards, agents and QEMU: a host's power is cut, and how long it takes until its guest's processors run
//! on the other home. Beside it what no program could do better with these timers: the rest of the voters' promise, which
//! is lease, watchdog and clock error, counted from the last renewal that was heard.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use roost_benches::figure::{Figure, Goal, percentile, refuse_when_busy};
use roost_tests::grid::{Grid, START, eventually};
use roost_tests::guards::{Guards, now_ms, shared_guest};
use roost_ward::{Profile, Standing};

/// Hosts that take the guest from each other; the third one votes.
const HOMES: [u8; 2] = [1, 2];
/// Far above what is promised: a run that takes longer is a fault, not a figure.
const PATIENCE: Duration = Duration::from_secs(90);

/// Needs root, libvirt and QEMU. Prints one JSON line per figure.
#[derive(Debug, Parser)]
struct Arguments {
    /// Takeovers per profile.
    #[arg(long, default_value_t = 20)]
    runs: u32,
    /// Measure although the machine is busy.
    #[arg(long)]
    force: bool,
}

/// What one profile promises: seconds at the median and at the 99th percentile.
#[derive(Clone, Copy, Debug)]
struct Promise {
    name: &'static str,
    profile: Profile,
    p50: f64,
    p99: f64,
}

const PROMISES: [Promise; 2] = [
    Promise { name: "normal", profile: Profile::Normal, p50: 24.0, p99: 26.0 },
    Promise { name: "fast", profile: Profile::Fast, p50: 12.5, p99: 14.0 },
];

/// What one takeover took.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// From the cut to running processors.
    ours: Duration,
    /// From the cut to the end of the promise.
    limit: Duration,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    refuse_when_busy(arguments.force)?;
    for promise in PROMISES {
        let runs = measure(promise, arguments.runs)?;
        for (part, percent, goal) in [("p50", 50, promise.p50), ("p99", 99, promise.p99)] {
            let of = |pick: fn(&Run) -> Duration| {
                let mut all: Vec<Duration> = runs.iter().map(pick).collect();
                percentile(&mut all, percent).as_secs_f64()
            };
            let name = format!("cut_to_running_{}_{part}: {} runs", promise.name, runs.len());
            let (ours, limit) = (of(|run| run.ours), Some(of(|run| run.limit)));
            let goal = Some(Goal::Ours(goal));
            Figure { name: &name, unit: "s", ours, limit, goal, ..Figure::default() }.print()?;
        }
    }
    Ok(())
}

/// The guest goes from one home to the other and back.
fn measure(promise: Promise, runs: u32) -> Result<Vec<Run>> {
    let mut grid = Grid::start(3)?;
    let mut guards = shared_guest(&mut grid, promise.name)?;
    let wait = Duration::from_millis(promise.profile.timers().promise.0);
    let mut done = Vec::new();
    for home in HOMES.into_iter().cycle().take(usize::try_from(runs)?) {
        let other = if home == HOMES[0] { HOMES[1] } else { HOMES[0] };
        eventually("the guest runs at home", PATIENCE, || is(&grid, home, "running"))?;
        guards.await_standing(other, Standing::Off, PATIENCE)?;
        let owner = guards.status(home)?.me;
        eventually("the other host's guard hears the owner", PATIENCE, || {
            let wards = guards.status(other)?.wards;
            ensure!(wards.iter().any(|ward| ward.owner == Some(owner)), "{wards:?}");
            Ok(())
        })?;
        let cut = now_ms()?;
        guards.power_off(home)?;
        eventually("the guest runs on the other host", PATIENCE, || is(&grid, other, "running"))?;
        let ours = Duration::from_millis(now_ms()? - cut);
        let heard = last_heard(&guards, other)?;
        let limit = (Duration::from_millis(heard) + wait).saturating_sub(Duration::from_millis(cut));
        eprintln!("{} {home} to {other}: {ours:?}, of which the promise {limit:?}", promise.name);
        done.push(Run { ours, limit });
        guards.power_on(home)?;
        grid.start_agent(home)?;
        grid.await_host(home, "up", START)?;
        eventually("the guest is off where it was", PATIENCE, || is(&grid, home, "shut off"))?;
    }
    Ok(done)
}

fn is(grid: &Grid, host: u8, state: &str) -> Result<()> {
    let seen = grid.virsh(host, &["domstate", "desk"])?;
    ensure!(seen.trim() == state, "on host {host} it is {seen:?}");
    Ok(())
}

/// When the new owner's guard heard the one before last, on the clock of [`now_ms`].
fn last_heard(guards: &Guards, host: u8) -> Result<u64> {
    let asked = now_ms()?;
    let told = guards.command(host, &["explain", "--ward", "7"])?;
    let now = asked.midpoint(now_ms()?);
    let missed = told.lines().rev().find(|line| line.contains("was not heard for")).context("who was missed")?;
    let ago = missed.split(" s ago").next().context("when")?.trim().parse::<f64>().context("when")?;
    let words: Vec<&str> = missed.split(' ').collect();
    let silent = words.iter().rev().nth(1).context("how long")?.parse::<u64>().context("how long")?;
    let ago: u64 = Duration::from_secs_f64(ago).as_millis().try_into()?;
    Ok(now.saturating_sub(ago + silent))
}
