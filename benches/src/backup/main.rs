//! Backups of a real running guest by the real agent, beside virtnbdbackup and QEMU's own backup job on the same guest:
//! cost, what the guest feels, restore, boot at once, and how far a replica is behind.

mod at_once;
mod cost;
mod desk;
mod replica;
mod report;
mod way;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use roost_benches::figure;
use roost_tests::grid::{Grid, lasts, text};

use cost::Cost;
use desk::{Desk, Latency};
use way::{Qemu, Roost, VirtNbd, Way};

/// The data set's disk.
const DISK_MIB: u64 = 4_096;
/// Where the guest's own writes go: a part of the disk with no data, so large that most of them meet a cluster first.
const WRITES: (u64, u64) = (3_584, 512);
/// Bytes of one write, and how many a second: what a guest with a synced write each 20 ms does.
const WRITE: (u64, u64) = (4_096, 50);

/// Needs root, libvirt, QEMU and a C compiler. Prints one JSON line per figure.
#[derive(Debug, Parser)]
struct Arguments {
    /// Folder of v1.raw and v2.raw: a disk before and after a working day; not below /run or /etc.
    #[arg(long)]
    data: PathBuf,
    /// Encrypt our store.
    #[arg(long)]
    encrypted: bool,
    /// Only ours: no peers, no replica.
    #[arg(long)]
    alone: bool,
    /// Only how far a replica is behind.
    #[arg(long)]
    only_replica: bool,
    /// Seconds for which a load or a lag is watched.
    #[arg(long, default_value_t = 20)]
    seconds: u32,
    /// Seconds for which the replica's lag is watched.
    #[arg(long, default_value_t = 120)]
    lag_seconds: u32,
    /// Measure although the machine is busy.
    #[arg(long)]
    force: bool,
}

/// What one way came to.
#[derive(Debug)]
struct Outcome {
    name: &'static str,
    full: Cost,
    full_bytes: f64,
    increment: Cost,
    increment_bytes: f64,
    restore: Cost,
    felt: Felt,
}

/// What the guest's own writes met.
#[derive(Debug)]
struct Felt {
    idle: Latency,
    full: Latency,
    merge: Option<Latency>,
    increment: Latency,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    figure::refuse_when_busy(arguments.force)?;
    let data = arguments.data.canonicalize().context("the folder of v1.raw and v2.raw")?;
    let disks = [data.join("v1.raw"), data.join("v2.raw")];
    let mut grid = Grid::start(2)?;
    grid.join(1)?;
    if arguments.encrypted {
        encrypt(&mut grid)?;
    }
    desk::give_writer(&grid, 1)?;
    if !arguments.only_replica {
        backups(&grid, &disks, &arguments)?;
    }
    if arguments.alone {
        return Ok(());
    }
    grid.join(2)?;
    replica::measure(&grid, arguments.lag_seconds)
}

/// Has h1 keep its points encrypted.
fn encrypt(grid: &mut Grid) -> Result<()> {
    let key = grid.folder.join("store.key");
    let agent = roost_tests::grid::program("roost-agent")?;
    grid.lab.exec(1, &[text(&agent)?, "store", "new-key", text(&key)?])?;
    grid.kill(1)?;
    let settings = grid.folder.join("agent-1.toml");
    let told = format!("{}backup_key_file = '{}'\n", std::fs::read_to_string(&settings)?, key.display());
    std::fs::write(settings, told)?;
    grid.lab.exec(1, &["rm", "-rf", "/var/lib/roost/backups"])?;
    grid.start_agent(1)?;
    grid.await_host(1, "up", roost_tests::grid::START)
}

fn backups(grid: &Grid, disks: &[PathBuf; 2], arguments: &Arguments) -> Result<()> {
    let roost = Roost::default();
    let ours = contest(grid, "desk", &roost, disks, arguments.seconds)?;
    at_once::measure(grid, "desk", &roost.point())?;
    if arguments.alone {
        return report::print(&ours, &[]);
    }
    let mut peers = vec![contest(grid, "pushed", &Qemu::default(), disks, arguments.seconds)?];
    if VirtNbd::is_installed(grid) {
        peers.push(contest(grid, "fetched", &VirtNbd::default(), disks, arguments.seconds)?);
    } else {
        eprintln!("virtnbdbackup is not installed: no figures beside it");
    }
    report::print(&ours, &peers)
}

/// One guest, one way: first what it costs, with the guest at rest; then what the guest's writes feel; then the restore.
fn contest(grid: &Grid, guest: &str, way: &dyn Way, [v1, v2]: &[PathBuf; 2], seconds: u32) -> Result<Outcome> {
    eprintln!("{}", way.name());
    let desk = Desk::make(grid, guest, DISK_MIB, Some(v1))?;
    desk.start()?;
    let qemu = Some(desk.qemu()?);
    let rest = cost::at_rest(grid, qemu)?;
    let (full, outside) = cost::of(grid, qemu, rest, || way.full(&desk, &mut || Ok(())))?;
    let full = full.and(outside);
    let full_bytes = way.stored(grid)?;
    let changed = desk.day(v1, v2)?;
    let (increment, outside) = cost::of(grid, qemu, rest, || way.increment(&desk))?;
    let increment = increment.and(outside);
    let increment_bytes = way.stored(grid)? - full_bytes;
    eprintln!(
        "{changed} bytes changed; at rest {rest:?}\nfull {full:?} {full_bytes}\nincrement {increment:?} {increment_bytes}"
    );
    way.keep(&desk)?;
    let felt = felt(&desk, way, seconds)?;
    desk.stop()?;
    let rest = cost::at_rest(grid, None)?;
    let (restore, (path, outside)) = cost::of(grid, None, rest, || way.restore(&desk))?;
    let restore = restore.and(outside);
    eprintln!("{felt:?}\nrestore {restore:?}");
    same(grid, &path, v2)?;
    Ok(Outcome { name: way.name(), full, full_bytes, increment, increment_bytes, restore, felt })
}

/// What a guest feels that writes and syncs all the time.
fn felt(desk: &Desk<'_>, way: &dyn Way, seconds: u32) -> Result<Felt> {
    desk.load("write", WRITES.0, WRITES.1, WRITE.0, WRITE.1)?;
    lasts(Duration::from_secs(2));
    desk.met()?;
    lasts(Duration::from_secs(seconds.into()));
    let idle = desk.met()?;
    let mut before_merge = None;
    way.full(desk, &mut || {
        before_merge = Some(desk.met()?);
        Ok(())
    })?;
    let last = desk.met()?;
    let (full, merge) = before_merge.map_or((last, None), |full| (full, Some(last)));
    way.increment(desk)?;
    let increment = desk.met()?;
    desk.unload()?;
    Ok(Felt { idle, full, merge, increment })
}

fn same(grid: &Grid, restored: &str, v2: &Path) -> Result<()> {
    let said = grid.lab.exec(1, &["qemu-img", "compare", "-f", "qcow2", "-F", "raw", restored, text(v2)?])?;
    ensure!(said.contains("identical"), "the restored disk differs: {said}");
    Ok(())
}
