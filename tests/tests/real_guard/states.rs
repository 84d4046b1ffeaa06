//! Guests that don't run when their host dies or is drained: what was off stays off, what stood paused stands paused, and
//! all of them are where the grid says.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use roost_tests::grid::{self, Grid, START, eventually, lasts, tiny, until};
use serde_json::{Value, json};

use crate::joined::{PROTECTED, join};

/// Promise of the normal profile, and guests made from their replicas on a loaded machine.
const UP_AGAIN: Duration = Duration::from_secs(90);
/// Longer than anything that would start a guest by itself.
const A_WHILE: Duration = Duration::from_secs(12);
/// The guests, and what each does.
const GUESTS: [(&str, &str); 3] = [("runs", "running"), ("rests", "shut off"), ("waits", "paused")];

fn make(grid: &Grid, name: &str, state: &str) -> Result<()> {
    let mut spec = tiny(name, "h1", true);
    spec["disks"] = json!([{"from": "blank", "size_mib": 16}]);
    grid.api.done(Method::POST, "/guests", &spec)?;
    grid.await_guest(name, "running", START)?;
    let set = format!("/backup-sets/{name}/actions/set-policy");
    grid.api.done(Method::POST, &set, &json!({"policy": "ha"}))?;
    match state {
        "shut off" => grid.api.act(name, "stop").map(drop),
        "paused" => grid.api.act(name, "pause").map(drop),
        _ => Ok(()),
    }
}

/// Another host than this one looks after the guest, which is protected there again, and does what it did.
fn is_elsewhere(grid: &Grid, name: &str, state: &str, from: u8) -> Result<u8> {
    let shown = grid.api.get(&format!("/guests/{name}"))?;
    let host = shown["host_name"].as_str().and_then(|name| name.strip_prefix('h')).context("its host")?.parse()?;
    ensure!(host != from && shown["managed"] == true && shown["stale"] == false, "{shown}");
    let seen = grid.virsh(host, &["domstate", name])?;
    ensure!(seen.trim() == state, "{name} on host {host} is {seen:?}");
    Ok(host)
}

fn is_protected(grid: &Grid, name: &str, by: Option<&str>) -> Result<Value> {
    let shown = grid.api.get(&format!("/guests/{name}"))?;
    ensure!(shown["protected"] == true, "{shown}");
    ensure!(by.is_none_or(|by| shown["protected_by"] == by), "{shown}");
    Ok(shown)
}

/// Its newest copy says what it does.
fn is_told(grid: &Grid, name: &str, meant: &str) -> Result<()> {
    let points = grid.api.get(&format!("/backup-sets/{name}/backups?host=h1"))?;
    let newest = points["items"].as_array().and_then(|all| all.first()).context("points")?;
    ensure!(newest["meant"] == meant, "{newest}");
    Ok(())
}

#[test]
fn real_guests_of_a_dead_and_of_a_drained_host_do_elsewhere_what_they_did() {
    grid::story(3, |grid| {
        let mut guards = join(grid)?;
        let policy = json!({"name": "ha", "replica_every_s": 5, "replica_failover": true});
        grid.api.post("/backup-policies", &policy)?;
        for (name, state) in GUESTS {
            make(grid, name, state)?;
        }
        for ((name, _), meant) in GUESTS.into_iter().zip(["run", "stay_off", "pause"]) {
            eventually("it is protected as it is", PROTECTED, || {
                is_protected(grid, name, None)?;
                is_told(grid, name, meant)
            })?;
        }
        let costs = grid.roost(&["host", "if-lost", "h1"])?;
        ensure!(GUESTS.iter().all(|(name, _)| costs.contains(name)), "{costs}");

        guards.power_off(1)?;
        for (name, state) in GUESTS {
            eventually("it is as it was, elsewhere", UP_AGAIN, || is_elsewhere(grid, name, state, 1).map(drop))?;
        }
        eventually("it is explained", START, || {
            let told = grid.roost(&["explain", "guest", "rests"])?;
            ensure!(told.contains("and stays off as it was"), "{told}");
            Ok(())
        })?;
        lasts(A_WHILE);
        for (name, state) in GUESTS {
            // One that runs pauses for an instant when all its data has come in.
            eventually("it is so still", START, || is_elsewhere(grid, name, state, 1).map(drop))?;
        }
        grid.api.act("waits", "resume")?;
        grid.await_guest("waits", "running", START)?;

        guards.power_on(1)?;
        grid.start_agent(1)?;
        grid.await_host(1, "up", START)?;
        let home = until("it is where it was", START, || is_elsewhere(grid, "rests", "shut off", 1))?;
        for (name, _) in GUESTS {
            eventually("it is protected where it is now", UP_AGAIN, || is_protected(grid, name, None).map(drop))?;
            ensure!(grid.virsh(1, &["domstate", name])?.trim() == "shut off", "{name} runs on the host that returned");
        }

        grid.roost(&["host", "drain", &format!("h{home}")])?;
        eventually("what is off is moved too", PROTECTED, || is_elsewhere(grid, "rests", "shut off", home).map(drop))?;
        grid.api.act("rests", "start")?;
        grid.await_guest("rests", "running", START)?;
        eventually("it runs there", START, || is_elsewhere(grid, "rests", "running", home).map(drop))
    });
}
