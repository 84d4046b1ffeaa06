//! Agents that keep to what their guards say: a real guest comes up on the host that won its ward, and stays off on the one
//! that lost it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use roost_tests::grid::{self, Grid, START, eventually, lasts};
use roost_tests::guards::{now_ms, shared_guest};
use roost_ward::Standing;

/// Promise of the fast profile, the agent's wait before a start, libvirt's start; the rest is for a loaded machine.
const UP_AGAIN: Duration = Duration::from_secs(40);
/// What was done shows this soon.
const SHOWN: Duration = Duration::from_secs(30);
/// Longer than a lease.
const A_WHILE: Duration = Duration::from_secs(6);

fn is(grid: &Grid, host: u8, state: &str) -> Result<()> {
    let seen = grid.virsh(host, &["domstate", "desk"])?;
    ensure!(seen.trim() == state, "on host {host} it is {seen:?}");
    Ok(())
}

#[test]
fn real_guest_comes_up_where_its_ward_was_won_and_stays_off_where_it_was_lost() {
    grid::story(3, |grid| {
        let mut guards = shared_guest(grid, "fast")?;
        lasts(A_WHILE);
        is(grid, 1, "running")?;
        is(grid, 2, "shut off")?;

        // Without agents leases go on.
        grid.kill(1)?;
        lasts(A_WHILE);
        guards.await_standing(1, Standing::Running, START)?;
        is(grid, 1, "running")?;
        grid.start_agent(1)?;

        let died = now_ms()?;
        guards.power_off(1)?;
        eventually("the guest runs on host 2", UP_AGAIN, || is(grid, 2, "running"))?;
        println!("host dead: the guest runs on the other after {} ms", now_ms()? - died);

        guards.power_on(1)?;
        grid.start_agent(1)?;
        lasts(A_WHILE);
        is(grid, 1, "shut off")?;
        is(grid, 2, "running")?;
        eventually("host 1 keeps what it had of the guest", SHOWN, || {
            let points = grid.api.get("/backup-sets/desk/backups?host=h1")?;
            let kept = points["items"].as_array().context("points")?;
            ensure!(kept.len() == 1 && kept[0]["why"] == "branch", "{points}");
            Ok(())
        })?;

        // Given back, it goes home; what host 2 had is switched off there.
        guards.command(2, &["release", "7"])?;
        eventually("the guest runs on host 1", UP_AGAIN, || is(grid, 1, "running"))?;
        eventually("the guest is off on host 2", UP_AGAIN, || is(grid, 2, "shut off"))
    });
}
