//! What dies and must not take guests with it: QEMU, agent, libvirt, the whole host.

use std::time::Duration;

use anyhow::{Result, ensure};
use reqwest::Method;
use roost_tests::grid::{self, Grid, tiny, until};

/// A crashed guest runs again: promised within 5 s, on a machine that does not stand still meanwhile. Who hears of no crash
/// sees it a minute later.
const RESTARTED: Duration = Duration::from_secs(20);
/// Agent or libvirt come back, and all is as it was.
const CONVERGED: Duration = Duration::from_secs(30);
/// How often libvirt is killed.
const LIBVIRT_DEATHS: u32 = 20;

#[test]
fn real_crashed_guest_runs_again_with_no_aggregator() {
    grid::story(1, |grid| {
        let old = with_guest(grid, "phoenix")?;
        grid.kill_aggregator()?;
        grid.lab.exec(1, &["kill", "-9", &old.to_string()])?;
        until("QEMU runs again", RESTARTED, || {
            ensure!(grid.qemu(1, "phoenix")? != old, "still the old one");
            let state = grid.virsh(1, &["domstate", "phoenix"])?;
            ensure!(state.trim() == "running", "virsh says {state}");
            Ok(())
        })?;
        grid.start_aggregator()?;
        grid.log_in()?;
        let seen = grid.await_guest("phoenix", "running", CONVERGED)?;
        ensure!(seen["restarts"] == 1, "{seen}");
        Ok(())
    });
}

#[test]
fn real_guests_outlive_agent_and_libvirt() {
    grid::story(1, |grid| {
        let pid = with_guest(grid, "rock")?;
        grid.kill(1)?;
        ensure!(grid.qemu(1, "rock")? == pid, "the guest went with the agent");
        grid.start_agent(1)?;
        grid.await_host(1, "up", CONVERGED)?;
        adopted(grid, pid)?;
        for _ in 0..LIBVIRT_DEATHS {
            grid.lab.host("restart-libvirt", 1)?;
        }
        adopted(grid, pid)?;
        // It is in the agent's hands again, not only shown.
        grid.api.act("rock", "pause")?;
        ensure!(grid.virsh(1, &["domstate", "rock"])?.trim() == "paused", "the agent has no hold of libvirt");
        ensure!(grid.qemu(1, "rock")? == pid, "the guest was restarted");
        Ok(())
    });
}

#[test]
fn real_host_that_lost_power_starts_its_guests_again_by_itself() {
    grid::story(1, |grid| {
        with_guest(grid, "morning")?;
        grid.api.done(Method::POST, "/guests", &tiny("sleeper", "h1", false))?;
        grid.kill_aggregator()?;
        grid.lab.host("off", 1)?;
        grid.lab.host("boot", 1)?;
        grid.start_agent(1)?;
        until("the guest runs after the boot", CONVERGED, || grid.qemu(1, "morning"))?;
        ensure!(grid.virsh(1, &["domstate", "sleeper"])?.trim() == "shut off", "a stopped guest was started");
        Ok(())
    });
}

/// A joined host with a running guest; QEMU's process id.
fn with_guest(grid: &mut Grid, name: &str) -> Result<u32> {
    grid.join_all()?;
    grid.api.done(Method::POST, "/guests", &tiny(name, "h1", true))?;
    grid.await_guest(name, "running", CONVERGED)?;
    grid.qemu(1, name)
}

/// The guest is shown fresh, as managed, and is the very same process.
fn adopted(grid: &Grid, pid: u32) -> Result<()> {
    until("the guest is shown as it is", CONVERGED, || {
        let seen = grid.api.get("/guests/rock")?;
        ensure!(seen["state"] == "running" && seen["stale"] == false && seen["managed"] == true, "{seen}");
        ensure!(seen["restarts"] == 0, "{seen}");
        Ok(())
    })?;
    ensure!(grid.qemu(1, "rock")? == pid, "the guest was restarted");
    Ok(())
}
