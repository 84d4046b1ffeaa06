//! A guest that runs over its point while its data is brought in, beside the plain start of the same guest.

use std::time::{Duration, Instant};

use anyhow::Result;
use roost_benches::figure::{Figure, Goal, alone};
use roost_tests::grid::{Grid, lasts};
use serde_json::json;

use crate::desk::{Desk, Latency, watch};

/// Reads go anywhere on the disk's data, as often as they are answered.
const READS: (u64, u64) = (0, 2_560);
const READ: (u64, u64) = (4_096, 1_000);
const READING: Duration = Duration::from_secs(3);
const PLAIN: &str = "plain start";

/// The guest is off; so it is afterwards.
pub(crate) fn measure(grid: &Grid, name: &str, point: &str) -> Result<()> {
    let desk = Desk::of(grid, name);
    let plain_s = desk.start()?.as_secs_f64();
    let plain = reads(&desk)?;
    desk.stop()?;
    let restore = format!("/backup-sets/{name}/backups/{point}/actions/restore");
    let began = Instant::now();
    let asked = grid.api.post(&restore, &json!({"name": "quick", "at_once": true, "start": true}))?;
    watch(grid, &asked, |_| Ok(()))?;
    let quick = Desk::of(grid, "quick");
    quick.ready(0)?;
    let quick_s = began.elapsed().as_secs_f64();
    let met = reads(&quick)?;
    let here = !grid.virsh(1, &["dumpxml", "quick"])?.contains("protocol='nbd'");
    if here {
        eprintln!("all data was here before the reads ended: they tell nothing of a booted point");
    }
    quick.stop()?;
    let line = |name, unit, ours, peer, goal| {
        Figure { name, unit, ours, peer: Some((PLAIN, peer)), goal, ..Figure::default() }.print()
    };
    line("at_once_ready", "s", quick_s, plain_s, Some(Goal::Ours(plain_s + 2.0)))?;
    line("at_once_first_read", "ms", met.first / 1e3, plain.first / 1e3, Some(Goal::Ours(15.0)))?;
    line("at_once_read_p50", "ms", met.p50 / 1e3, plain.p50 / 1e3, None)?;
    line("at_once_read_p99", "ms", met.p99 / 1e3, plain.p99 / 1e3, Some(Goal::Ours(15.0)))?;
    line("at_once_read_most", "ms", met.most / 1e3, plain.most / 1e3, None)?;
    alone("at_once_reads", "reads", met.count)
}

/// Some seconds of reads at random places.
fn reads(desk: &Desk<'_>) -> Result<Latency> {
    desk.load("read", READS.0, READS.1, READ.0, READ.1)?;
    lasts(READING);
    let met = desk.met()?;
    desk.unload()?;
    Ok(met)
}
