//! A guest that is started at once from a point that only another host has: the data comes while it runs, whoever of the two
//! hosts and the aggregator is away meanwhile.

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use roost_tests::grid::{self, Grid, START, eventually};
use serde_json::Value;

use crate::at_once::{
    LONG, SHOWN, at_once, backed_up, inside, over_the_point, same_disks, serial, tail, ticks_on, whole,
};

/// What a host without the data may have of the point: its maps, and its small files, among them kernel and initrd.
const MAPS: u64 = 24 << 20;
const STORE: &str = "/var/lib/roost/backups";

#[test]
fn real_guest_started_at_once_from_a_peer_outlives_both_agents_and_the_aggregator() {
    grid::story(2, |grid| {
        grid.join_all()?;
        let point = backed_up(grid)?;
        let afar = at_once(grid, 2, &point, "afar")?;
        let had = stored(grid)?;
        in_use(grid, &point)?;
        // The one that has the data is gone, and the guest wants all of it: it stands still, and sees no error.
        grid.kill(1)?;
        ensure!(over_the_point(grid, 2, "afar")? && had < MAPS, "{had} bytes were brought before it was started");
        inside(grid, 2, "afar", "dd if=/dev/vda of=/dev/null bs=1M && echo read-all > /dev/ttyS0")?;
        eventually("it waits for its data", LONG, || {
            let state = grid.virsh(2, &["domstate", "afar", "--reason"])?;
            ensure!(state.contains("I/O error"), "it is {state}");
            Ok(())
        })?;
        eventually("people see what is missing", LONG, || {
            let shown = grid.api.get("/guests/afar")?;
            let told = shown["restore_trouble"].as_str().context("no trouble is told")?;
            ensure!(shown["restored_from"] == point && told.contains("is kept"), "{shown}");
            Ok(())
        })?;
        // Nobody tells the two of each other now: they remember. The guest's own host forgets what it was about, too.
        grid.kill_aggregator()?;
        grid.kill(2)?;
        grid.start_agent(1)?;
        grid.start_agent(2)?;
        eventually("the guest goes on", LONG, || {
            let state = grid.virsh(2, &["domstate", "afar"])?;
            ensure!(state.starts_with("running"), "it is {state}");
            Ok(())
        })?;
        grid.start_aggregator()?;
        grid.log_in()?;
        grid.await_host(1, "up", START)?;
        grid.await_host(2, "up", START)?;
        let_go(grid, &point)?;
        whole(grid, 2, "afar")?;
        ticks_on(grid, 2, &afar)?;
        eventually("it has read its disk without an error", LONG, || {
            let said = serial(grid, 2, &afar)?;
            ensure!(said.contains("read-all") && !said.contains("I/O error"), "{}", tail(&said));
            Ok(())
        })?;
        same_disks(grid, 2, "afar")?;
        let has = stored(grid)?;
        ensure!(has < MAPS, "{has} bytes of a point that was only read elsewhere");
        Ok(())
    });
}

/// The point can't be deleted while it is read elsewhere. Nothing comes in while that agent stands still.
fn in_use(grid: &Grid, point: &str) -> Result<()> {
    grid.signal(2, "STOP")?;
    let ended = deleted(grid, point)?;
    grid.signal(2, "CONT")?;
    ensure!(ended["error"]["code"] == "busy", "{ended}");
    Ok(())
}

/// Then it can. Were it deleted sooner, the guest would never be whole.
fn let_go(grid: &Grid, point: &str) -> Result<()> {
    eventually("the point is let go", LONG, || {
        let ended = deleted(grid, point)?;
        ensure!(ended["state"] == "succeeded", "{ended}");
        Ok(())
    })
}

/// How the deletion ended.
fn deleted(grid: &Grid, point: &str) -> Result<Value> {
    let asked = grid.api.call(Method::DELETE, &format!("/backup-sets/desk/backups/{point}?even_last=true"), None)?;
    grid.api.ended(&asked.body, SHOWN)
}

fn stored(grid: &Grid) -> Result<u64> {
    let said = grid.lab.exec(2, &["du", "-sb", STORE])?;
    said.split_whitespace().next().and_then(|number| number.parse().ok()).with_context(|| said.clone())
}
