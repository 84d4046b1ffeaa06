//! Hosts whose watchdogs are tested when they join: one that ends its host, and one that never fires.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use roost_tests::grid::{self, Grid, START, eventually, lasts};
use roost_tests::guards::{GUEST, Guards};

use crate::joined::join_with;

/// A watchdog that never fires is given 20 s, on a loaded machine.
const OVER: Duration = Duration::from_secs(90);
/// In the middle of what counts as in time, however long the lab takes to end a host.
const SOONER: Duration = Duration::from_secs(2);

fn result(grid: &Grid, host: &str) -> Result<String> {
    let shown = grid.api.get(&format!("/hosts/{host}"))?;
    Ok(shown["watchdog_test"]["result"].as_str().with_context(|| shown.to_string())?.to_owned())
}

fn await_result(grid: &Grid, host: &str, wanted: &str) -> Result<()> {
    eventually(&format!("the watchdog of {host} has {wanted}"), OVER, || {
        let result = result(grid, host)?;
        ensure!(result == wanted, "it is {result}");
        Ok(())
    })
}

/// Why the test is not begun.
fn refused(grid: &Grid, host: &str) -> Result<String> {
    let answer = grid.api.call(Method::POST, &format!("/hosts/{host}/actions/test-watchdog"), None)?;
    ensure!(answer.status == 409, "{answer:?}");
    Ok(format!("{answer:?}"))
}

/// Nothing that executes is ended: neither without maintenance, nor where something is up that only the kernel knows.
fn is_refused_where_it_harms(grid: &Grid, guards: &Guards) -> Result<()> {
    let why = refused(grid, "h1")?;
    ensure!(why.contains("not in maintenance"), "{why}");
    grid.api.ok(Method::POST, "/hosts/h1/actions/maintenance", None)?;
    let log = grid.lab.folder().join("stray.log");
    let stray = guards.lab.spawn(1, &log, &["sh", "-c", "sleep 600; true", "-uuid", &GUEST.to_string()])?;
    eventually("the guard sees it", START, || {
        let why = refused(grid, "h1")?;
        ensure!(why.contains("is up on this host"), "{why}");
        Ok(())
    })?;
    guards.lab.exec(1, &["kill", "-KILL", &stray.to_string()])?;
    eventually("it is gone", START, || {
        ensure!(!guards.lab.is_alive(1, stray), "it lives");
        Ok(())
    })?;
    let changed =
        grid.api.call_if(Some("\"of-another-time\""), Method::POST, "/hosts/h1/actions/test-watchdog", None)?;
    ensure!(changed.status == 412, "{changed:?}");
    await_result(grid, "h1", "untested")
}

#[test]
fn real_watchdog_that_ends_its_host_passes_and_one_that_never_fires_fails_and_harms_nothing() {
    grid::story(2, |grid| {
        let mut guards = join_with(grid, 2, "normal")?;
        guards.hurry_dog(1, SOONER);
        guards.break_dog(2, true);
        for host in ["h1", "h2"] {
            await_result(grid, host, "untested")?;
        }
        is_refused_where_it_harms(grid, &guards)?;
        grid.api.ok(Method::POST, "/hosts/h2/actions/maintenance", None)?;
        let shown = grid.roost(&["host", "test-watchdog", "h1"])?;
        grid.api.ok(Method::POST, "/hosts/h2/actions/test-watchdog", None)?;
        println!("begun:\n{shown}");

        eventually("the watchdog ends host 1", OVER, || {
            ensure!(guards.was_ended(1), "it goes on");
            Ok(())
        })?;
        guards.power_on(1)?;
        grid.start_agent(1)?;
        await_result(grid, "h1", "passed")?;
        println!("{}", grid.roost(&["host", "get", "h1"])?);

        await_result(grid, "h2", "failed")?;
        println!("{}", grid.roost(&["host", "get", "h2"])?);
        ensure!(!guards.status(2)?.may_own, "a guest would count on a watchdog that does not work");
        ensure!(guards.status(1)?.may_own, "the watchdog of host 1 works");
        eventually("it is an alarm", START, || {
            let shown = grid.api.get("/hosts/h2")?.to_string();
            ensure!(shown.contains("watchdog-failed"), "{shown}");
            Ok(())
        })?;
        // A watchdog that was only late would fire now, were it not petted again.
        guards.break_dog(2, false);
        lasts(Duration::from_secs(2));
        ensure!(!guards.was_reset(2) && guards.is_running(2), "host 2 was ended");
        Ok(())
    });
}
