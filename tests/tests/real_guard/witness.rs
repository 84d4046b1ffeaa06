//! Two hosts and a guard beside the aggregator: with its voice one goes on with the other's guest, and without it nothing
//! happens to a guest that runs.

use std::fs::OpenOptions;
use std::io::Write;

use anyhow::{Result, ensure};
use roost_tests::grid::{self, Grid, START, eventually, lasts};
use roost_tests::guards::Guards;

use crate::joined::{
    A_WHILE, PROTECTED, UP_AGAIN, await_protected, is, join_all, make_guest, shows_protected, ward,
    write_and_await_replica,
};

const HOME: u8 = 1;
const OTHER: u8 = 2;
/// What the other host tells of its election.
const WON: &str = "won epoch 2 with the votes of";
/// Where the aggregator runs.
const BESIDE: u8 = 0;

/// The aggregator is started anew, and all hosts are heard again.
fn restart(grid: &mut Grid) -> Result<()> {
    grid.start_aggregator()?;
    grid.log_in()?;
    for host in [HOME, OTHER] {
        grid.await_host(host, "up", START)?;
    }
    Ok(())
}

/// A guard beside the aggregator, which is told of its socket.
fn take_witness(grid: &mut Grid, guards: &mut Guards) -> Result<()> {
    guards.spawn(BESIDE)?;
    let mut settings = OpenOptions::new().append(true).open(grid.folder.join("aggregator.toml"))?;
    writeln!(settings, "witness_socket = '{}'", guards.socket(BESIDE).display())?;
    grid.kill_aggregator()?;
    restart(grid)
}

fn says_what_is_missing(grid: &Grid) -> Result<()> {
    eventually("it says why nobody would go on with it", PROTECTED, || {
        let shown = grid.api.get("/guests/desk")?;
        let why = shown["unprotected_because"].as_str().unwrap_or_default();
        ensure!(why.contains("2 hosts with a guard are heard, and 3 are needed to vote"), "{shown}");
        Ok(())
    })
}

#[test]
fn real_two_hosts_and_a_witness_go_on_with_a_dead_host_s_guest_and_need_it_for_nothing_else() {
    grid::story(2, |grid| {
        let mut guards = join_all(grid, 2)?;
        let guest = make_guest(grid)?;
        says_what_is_missing(grid)?;
        take_witness(grid, &mut guards)?;
        await_protected(&guards, guest)?;
        shows_protected(grid, OTHER)?;
        // The two hosts settle on it without waiting for it.
        eventually("the witness takes part", START, || {
            let wards = guards.status(BESIDE)?.wards;
            ensure!(wards.len() == 1 && wards.iter().all(|ward| ward.guests.is_empty() && ward.votes), "{wards:?}");
            Ok(())
        })?;
        write_and_await_replica(grid)?;

        // Its death, and the aggregator's, is nobody's loss.
        grid.kill_aggregator()?;
        guards.signal(BESIDE, "KILL")?;
        lasts(A_WHILE);
        is(grid, HOME, "running")?;
        let owned = ward(&guards, HOME, guest)?;
        ensure!(owned.may_run && owned.epoch.0 == 1, "{owned:?}");
        guards.spawn(BESIDE)?;
        restart(grid)?;
        shows_protected(grid, OTHER)?;

        guards.power_off(HOME)?;
        eventually("it runs on the other host", UP_AGAIN, || is(grid, OTHER, "running"))?;
        let told = eventually_told(grid)?;
        let won = told.lines().find(|line| line.contains(WON)).unwrap_or_default();
        ensure!(won.contains("the witness") && won.contains("h2"), "{told}");
        Ok(())
    });
}

/// Who voted, once the aggregator was told.
fn eventually_told(grid: &Grid) -> Result<String> {
    grid::until("it is explained", START, || {
        let told = grid.roost(&["explain", "guest", "desk"])?;
        ensure!(told.contains(WON), "{told}");
        Ok(told)
    })
}
