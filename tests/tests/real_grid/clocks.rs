//! Clocks that are years off, on a host and on the aggregator: nobody has to be called, then or when they are set right.

use std::time::Duration;

use anyhow::{Result, ensure};
use reqwest::Method;
use roost_tests::grid::{self, Grid, eventually, tiny};

/// Reconnecting; the longest wait between two tries is 30 s.
const RECONNECTED: Duration = Duration::from_secs(60);
/// Two years, less than a day off.
const TWO_YEARS_S: f64 = 2.0 * 365.0 * 86_400.0;
const DAY_S: f64 = 86_400.0;

#[test]
fn real_clocks_two_years_ahead_need_no_admin() {
    grid::story(2, |grid| {
        grid.join_all()?;
        for host in ["h1", "h2"] {
            grid.api.done(Method::POST, "/guests", &tiny(&format!("on-{host}"), host, true))?;
        }
        let pids = (grid.qemu(1, "on-h1")?, grid.qemu(2, "on-h2")?);

        grid.ahead.insert(1);
        grid.kill(1)?;
        grid.start_agent(1)?;
        obeys(grid)?;
        let host = grid.api.get("/hosts/h1")?;
        let ahead = host["clock_offset_s"].as_f64().unwrap_or_default();
        ensure!((ahead - TWO_YEARS_S).abs() < 2.0 * DAY_S, "shown as {ahead} s ahead");
        eventually("nobody is called", RECONNECTED, || {
            let host = grid.api.get("/hosts/h1")?;
            ensure!(host["alarms"].as_array().is_some_and(Vec::is_empty), "{host}");
            Ok(())
        })?;

        // The other way round: now the aggregator, and the host whose clock is right, meet over two years.
        grid.ahead.insert(0);
        restart_aggregator(grid)?;
        obeys(grid)?;
        // Both are set right, the aggregator first: what it did two years from now must not bind it.
        grid.ahead.remove(&0);
        restart_aggregator(grid)?;
        obeys(grid)?;
        grid.ahead.remove(&1);
        grid.kill(1)?;
        grid.start_agent(1)?;
        obeys(grid)?;
        ensure!(pids == (grid.qemu(1, "on-h1")?, grid.qemu(2, "on-h2")?), "guests were restarted");
        Ok(())
    });
}

fn restart_aggregator(grid: &mut Grid) -> Result<()> {
    grid.kill_aggregator()?;
    grid.start_aggregator()?;
    grid.log_in()
}

/// Both hosts are there and do what they are asked.
fn obeys(grid: &Grid) -> Result<()> {
    for host in [1, 2] {
        grid.await_host(host, "up", RECONNECTED)?;
        grid.await_guest(&format!("on-h{host}"), "running", RECONNECTED)?;
        grid.api.act(&format!("on-h{host}"), "pause")?;
        grid.api.act(&format!("on-h{host}"), "resume")?;
    }
    Ok(())
}
