//! How far the copy of a guest that writes all the time is behind, as the API shows it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use roost_benches::figure::{Figure, alone, percentile};
use roost_tests::grid::{Grid, lasts, until};
use serde_json::json;

use crate::desk::{Desk, LONG};

/// 5 MB/s: bytes of a write, and writes a second.
const WRITE: (u64, u64) = (65_536, 80);
const DISK_MIB: u64 = 1_024;
const EVERY_S: u32 = 5;
const LOOK: Duration = Duration::from_millis(500);

/// Both hosts have joined.
pub(crate) fn measure(grid: &Grid, seconds: u32) -> Result<()> {
    let desk = Desk::make(grid, "behind", DISK_MIB, None)?;
    desk.start()?;
    desk.load("write", 0, DISK_MIB, WRITE.0, WRITE.1)?;
    let policy = json!({"name": "close", "replica_every_s": EVERY_S, "replica_max_lag_s": 60, "replica_host": "h2"});
    grid.api.post("/backup-policies", &policy)?;
    grid.api.done(reqwest::Method::POST, "/backup-sets/behind/actions/set-policy", &json!({"policy": "close"}))?;
    until("the replica follows", LONG, || {
        let seen = grid.api.get("/replicas/behind")?;
        ensure!(seen["state"] == "following", "{seen}");
        Ok(())
    })?;
    desk.met()?;
    let (mut lags, began) = (Vec::new(), Instant::now());
    while began.elapsed() < Duration::from_secs(seconds.into()) {
        let seen = grid.api.get("/replicas/behind")?;
        lags.push(Duration::from_secs(seen["lag_s"].as_u64().with_context(|| format!("its lag: {seen}"))?));
        lasts(LOOK);
    }
    let met = desk.met()?;
    let written = met.count * f64::from(u32::try_from(WRITE.0)?) / 1e6 / began.elapsed().as_secs_f64();
    desk.stop()?;
    alone("replica_guest_writes", "MB/s", written)?;
    alone("replica_write_p99", "ms", met.p99 / 1e3)?;
    let schedule = Some(f64::from(EVERY_S));
    for (name, percent) in [("replica_lag_p50", 50), ("replica_lag_p99", 99), ("replica_lag_most", 100)] {
        let ours = percentile(&mut lags, percent).as_secs_f64();
        Figure { name, unit: "s", ours, limit: schedule, ..Figure::default() }.print()?;
    }
    Ok(())
}
