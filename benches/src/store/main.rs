//! The chunk store beside its peers and the physical limit: full and incremental backup, restore, first read.
//!
//! Needs a folder with `v1.raw` and `v2.raw`, a disk before and after a working day. The dirty bitmap of a running guest is
//! imitated by the list of 64 KiB clusters that differ.

mod limit;
mod peer;

use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};
use roost_benches::figure::{self, Figure};
use roost_protocol::{GuestId, PointId};
use roost_store::{Budget, Meta, Options, Scope, Store};

/// What QEMU's dirty bitmaps resolve.
const CLUSTER: usize = 64 << 10;
/// Read at a time.
const PIECE: usize = 1 << 20;
const GUEST: GuestId = GuestId::from_u128(1);

#[derive(Debug, Parser)]
struct Arguments {
    /// Folder with v1.raw and v2.raw.
    #[arg(long)]
    data: PathBuf,
    /// Folder for stores; about 6 GiB.
    #[arg(long)]
    work: PathBuf,
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Leave the peers out.
    #[arg(long)]
    alone: bool,
    /// Measure although the machine is busy.
    #[arg(long)]
    force: bool,
}

/// What one piece of work cost.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    cpu_s: f64,
    wall_s: f64,
}

/// CPU seconds of this process, or of its ended children.
fn cpu(who: UsageWho) -> Result<f64> {
    let usage = getrusage(who)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(f64::from(u32::try_from(micros / 1000)?) / 1e3)
}

fn cost<T>(who: UsageWho, work: impl FnOnce() -> Result<T>) -> Result<(Cost, T)> {
    let (before, start) = (cpu(who)?, Instant::now());
    let clock = || Ok::<_, anyhow::Error>(clock_gettime(ClockId::CLOCK_MONOTONIC)?.num_milliseconds());
    let from = clock()?;
    let value = work()?;
    let spent = Cost { cpu_s: cpu(who)? - before, wall_s: start.elapsed().as_secs_f64() };
    // For `perf report --time` of a `perf record -k mono`.
    eprintln!("{spent:?} from {from} to {} ms of the monotonic clock", clock()?);
    Ok((spent, value))
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    figure::refuse_when_busy(arguments.force)?;
    let (v1, v2) = (arguments.data.join("v1.raw"), arguments.data.join("v2.raw"));
    let dirty = dirty(&v1, &v2)?;
    // First, because the peak of memory counts from the process's begin.
    let ours = ours(&arguments, &v1, &v2, &dirty)?;
    let limit = limit::measure(&v1, &v2, &dirty, &arguments.work.join("limit.raw"))?;
    let peers = if arguments.alone { Vec::new() } else { peer::measure(&arguments.work, &v1, &v2)? };
    report(&ours, &limit, &peers)
}

/// What ours came to.
#[derive(Debug)]
struct Ours {
    full: Cost,
    full_bytes: u64,
    increment: Cost,
    increment_bytes: u64,
    again: Cost,
    again_bytes: u64,
    restore: Cost,
    verify: Cost,
    first_read_ms: f64,
    open_ms: f64,
    collect: Cost,
    peak_mib: f64,
    index_kib_per_gib: f64,
}

fn ours(arguments: &Arguments, v1: &Path, v2: &Path, dirty: &[u64]) -> Result<Ours> {
    let dir = arguments.work.join("roost");
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    let options = Options { threads: arguments.threads, ..Options::default() };
    let store = Store::open(&dir, options.clone())?;
    let (full, first) = cost(UsageWho::RUSAGE_SELF, || backup(&store, None, v1, None))?;
    let full_bytes = store.usage().stored_bytes;
    let (increment, second) = cost(UsageWho::RUSAGE_SELF, || backup(&store, Some(first), v2, Some(dirty)))?;
    let increment_bytes = store.usage().stored_bytes - full_bytes;
    let (again, third) = cost(UsageWho::RUSAGE_SELF, || backup(&store, Some(second), v2, None))?;
    let again_bytes = store.usage().stored_bytes - full_bytes - increment_bytes;
    let peak_mib = f64::from(u32::try_from(getrusage(UsageWho::RUSAGE_SELF)?.max_rss())?) / 1024.0;
    let usage = store.usage();
    drop(store);
    let start = Instant::now();
    let store = Store::open(&dir, options)?;
    let open_ms = start.elapsed().as_secs_f64() * 1e3;
    let start = Instant::now();
    let mut block = [0; 4096];
    store.disk(second, "vda")?.read_at(2 << 30, &mut block)?;
    let first_read_ms = start.elapsed().as_secs_f64() * 1e3;
    let out = arguments.work.join("restored.raw");
    // The better of two: the first also pays for memory that the machine had not given out yet.
    let (once, ()) = cost(UsageWho::RUSAGE_SELF, || restore(&store, second, &out))?;
    std::fs::remove_file(&out)?;
    let (twice, ()) = cost(UsageWho::RUSAGE_SELF, || restore(&store, second, &out))?;
    let restore = if once.cpu_s < twice.cpu_s { once } else { twice };
    ensure!(same(&out, v2)?, "the restored disk differs");
    std::fs::remove_file(&out)?;
    let (verify, damages) =
        cost(UsageWho::RUSAGE_SELF, || Ok(store.verify(Scope::All, &mut |_| ControlFlow::Continue(()))?))?;
    ensure!(damages.is_empty(), "{damages:?}");
    store.remove(first)?;
    store.remove(third)?;
    let (collect, collected) = cost(UsageWho::RUSAGE_SELF, || Ok(store.collect(Budget::ALL)?))?;
    eprintln!("{collected:?}; {usage:?}");
    let stored_gib = f64::from(u32::try_from(usage.chunks)?) * 128.0 / 1024.0 / 1024.0;
    let index_kib_per_gib = f64::from(u32::try_from(usage.index_bytes)?) / 1024.0 / stored_gib;
    Ok(Ours {
        full,
        full_bytes,
        increment,
        increment_bytes,
        again,
        again_bytes,
        restore,
        verify,
        first_read_ms,
        open_ms,
        collect,
        peak_mib,
        index_kib_per_gib,
    })
}

/// Reads a disk, or the clusters named, into a point.
fn backup(store: &Store, parent: Option<PointId>, disk: &Path, clusters: Option<&[u64]>) -> Result<PointId> {
    let file = File::open(disk)?;
    let size = file.metadata()?.len();
    let mut draft = store.draft(GUEST, parent)?;
    let mut writer = draft.disk("vda", size)?;
    let mut piece = vec![0; PIECE];
    match clusters {
        Some(clusters) => {
            for at in clusters {
                file.read_exact_at(&mut piece[..CLUSTER], *at)?;
                writer.write(*at, &piece[..CLUSTER])?;
            }
        }
        None => {
            for range in limit::data(&file)? {
                for at in range.clone().step_by(PIECE) {
                    let length = PIECE.min(usize::try_from(range.end - at)?);
                    file.read_exact_at(&mut piece[..length], at)?;
                    writer.write(at, &piece[..length])?;
                }
            }
        }
    }
    writer.close()?;
    Ok(draft.finish(Meta { guest_name: "bench".into(), ..Meta::default() })?)
}

fn restore(store: &Store, point: PointId, out: &Path) -> Result<()> {
    let mut file = File::create(out)?;
    store.export_raw(point, "vda", &mut file, &mut |_| ControlFlow::Continue(()))?;
    file.flush()?;
    Ok(())
}

/// Clusters that differ.
fn dirty(v1: &Path, v2: &Path) -> Result<Vec<u64>> {
    let (a, b) = (File::open(v1)?, File::open(v2)?);
    let (mut x, mut y) = (vec![0; PIECE], vec![0; PIECE]);
    let mut dirty = Vec::new();
    for at in (0..b.metadata()?.len()).step_by(PIECE) {
        a.read_exact_at(&mut x, at)?;
        b.read_exact_at(&mut y, at)?;
        let differs = |cluster: &usize| x[*cluster..cluster + CLUSTER] != y[*cluster..cluster + CLUSTER];
        dirty.extend((0..PIECE).step_by(CLUSTER).filter(differs).map(|cluster| at + cluster as u64));
    }
    Ok(dirty)
}

fn same(a: &Path, b: &Path) -> Result<bool> {
    Ok(File::open(a)?.metadata()?.len() == File::open(b)?.metadata()?.len() && dirty(a, b)?.is_empty())
}

fn megabytes(bytes: u64) -> Result<f64> {
    Ok(f64::from(u32::try_from(bytes / 1000).context("a size in KB")?) / 1e3)
}

fn report(ours: &Ours, limit: &limit::Limit, peers: &[peer::Peer]) -> Result<()> {
    let best = |value: fn(&peer::Peer) -> Option<f64>| {
        let all = peers.iter().filter_map(|peer| Some((peer.name, value(peer)?)));
        all.min_by(|a, b| a.1.total_cmp(&b.1))
    };
    let line = |name, unit, ours, peer, limit| Figure { name, unit, ours, peer, limit, ..Figure::default() }.print();
    let full_limit = Some(limit.full_cpu_s);
    line("store_full_cpu_vs_best_peer", "cpu_s", ours.full.cpu_s, best(|p| p.full.map(|c| c.cpu_s)), full_limit)?;
    line("store_full_wall", "s", ours.full.wall_s, best(|p| p.full.map(|c| c.wall_s)), None)?;
    let full_mb = Some(megabytes(limit.full_bytes)?);
    line("store_full_stored", "MB", megabytes(ours.full_bytes)?, best(|p| p.full_mb), full_mb)?;
    let floor = Some(limit.increment_cpu_s);
    let peer = best(|p| p.increment.map(|c| c.cpu_s));
    line("store_increment_cpu_vs_best_scanning_peer", "cpu_s", ours.increment.cpu_s, peer, floor)?;
    line("store_increment_cpu_vs_zstd_hash_limit", "cpu_s", ours.increment.cpu_s, None, floor)?;
    let written = Some(limit.increment_cpu_s + limit.increment_write_cpu_s);
    line("store_increment_cpu_vs_limit_with_write", "cpu_s", ours.increment.cpu_s, None, written)?;
    let peer = best(|p| p.increment.map(|c| c.wall_s));
    line("store_increment_time_vs_best_scanning_peer", "s", ours.increment.wall_s, peer, None)?;
    let (stored, floor) = (megabytes(ours.increment_bytes)?, megabytes(limit.increment_bytes)?);
    line("store_increment_stored", "MB", stored, best(|p| p.increment_mb), Some(floor))?;
    line("store_increment_stored_vs_4k_floor", "MB", stored, None, Some(floor))?;
    line("store_full_read_again_cpu", "cpu_s", ours.again.cpu_s, None, Some(limit.hash_cpu_s))?;
    figure::alone("store_full_read_again_stored", "MB", megabytes(ours.again_bytes)?)?;
    let peer = best(|p| p.restore.map(|c| c.cpu_s));
    line("store_restore_cpu_vs_best_peer", "cpu_s", ours.restore.cpu_s, peer, Some(limit.restore_cpu_s))?;
    line("store_restore_wall", "s", ours.restore.wall_s, best(|p| p.restore.map(|c| c.wall_s)), None)?;
    figure::alone("store_verify_cpu", "cpu_s", ours.verify.cpu_s)?;
    figure::alone("store_collect_cpu", "cpu_s", ours.collect.cpu_s)?;
    figure::alone("store_first_read_ms", "ms", ours.first_read_ms)?;
    figure::alone("store_open_ms", "ms", ours.open_ms)?;
    figure::alone("store_peak_rss_mib", "MiB", ours.peak_mib)?;
    figure::alone("store_index_kib_per_gib", "KiB", ours.index_kib_per_gib)
}
