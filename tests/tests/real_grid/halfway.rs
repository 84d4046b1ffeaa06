//! The agent dies in the middle of making and removing a guest: either it is whole, or nothing of it is there.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use roost_tests::grid::{self, Grid, Random, lasts, tiny};
use serde_json::{Value, json};

use crate::lifecycle::nothing_is_left;

/// The agent is back and has told the end of what it had begun.
const ENDED: Duration = Duration::from_secs(60);
/// Making this guest takes some 300 ms, removing it 50 ms.
const MAKING_MS: u64 = 400;
const REMOVING_MS: u64 = 80;
const ROUNDS: u64 = 10;
const SEED: u64 = 20_261_121;
const NAME: &str = "halfway";

#[test]
fn real_guest_whose_agent_dies_halfway_is_whole_or_gone() {
    grid::story(1, |grid| {
        grid.join_all()?;
        let image = "dd if=/dev/urandom of=/var/lib/roost/images/big.raw bs=1M count=48 2>/dev/null";
        grid.lab.exec(1, &["sh", "-c", image])?;
        let mut random = Random::new(SEED);
        let mut made = 0;
        for round in 0..ROUNDS {
            let (making, removing) = (random.below(MAKING_MS), random.below(REMOVING_MS));
            let what = format!("seed {SEED}, round {round}: killed after {making} ms, {removing} ms");
            if make(grid, round % 2 == 0, making).with_context(|| what.clone())? {
                made += 1;
                remove(grid, removing).with_context(|| what.clone())?;
            }
            nothing_is_left(grid).context(what)?;
        }
        ensure!(made > 0, "no round made a guest: there was nothing to remove");
        Ok(())
    });
}

/// Whether there is a guest now.
fn make(grid: &mut Grid, start: bool, after_ms: u64) -> Result<bool> {
    let mut spec = tiny(NAME, "h1", start);
    spec["disks"] = json!([{"from": "image", "path": "big.raw", "format": "raw"}, {"from": "blank", "size_mib": 64}]);
    let asked = grid.api.post("/guests", &spec)?;
    let ended = killed_in_the_middle(grid, &asked, after_ms)?;
    if ended["state"] != "succeeded" {
        return Ok(false);
    }
    whole(grid, if start { "running" } else { "off" }).with_context(|| ended.to_string())?;
    Ok(true)
}

fn remove(grid: &mut Grid, after_ms: u64) -> Result<()> {
    grid.api.act(NAME, "stop")?;
    let asked = grid.api.ok(Method::DELETE, &format!("/guests/{NAME}"), None)?;
    let ended = killed_in_the_middle(grid, &asked, after_ms)?;
    if ended["state"] != "succeeded" {
        whole(grid, "off").with_context(|| ended.to_string())?;
        grid.api.done(Method::DELETE, &format!("/guests/{NAME}"), &Value::Null)?;
    }
    Ok(())
}

fn killed_in_the_middle(grid: &mut Grid, asked: &Value, after_ms: u64) -> Result<Value> {
    lasts(Duration::from_millis(after_ms));
    grid.kill(1)?;
    grid.start_agent(1)?;
    let ended = grid.api.ended(asked, ENDED)?;
    ensure!(ended["state"] == "succeeded" || ended["error"]["detail"].is_string(), "no reason: {ended}");
    Ok(ended)
}

/// The guest has its disks and does what it should, says Roost and says libvirt.
fn whole(grid: &Grid, state: &str) -> Result<()> {
    let seen = grid.await_guest(NAME, state, ENDED)?;
    let folder = format!("/var/lib/roost/guests/{}", seen["id"].as_str().context("its id")?);
    grid.lab.exec(1, &["cmp", "/var/lib/roost/images/big.raw", &format!("{folder}/vda.raw")])?;
    grid.lab.exec(1, &["qemu-img", "check", "-q", "-U", &format!("{folder}/vdb.qcow2")])?;
    ensure!(seen["managed"] == true && seen["disks"].as_array().is_some_and(|disks| disks.len() == 2), "{seen}");
    let virsh = grid.virsh(1, &["domstate", NAME])?;
    ensure!(virsh.trim().replace("shut ", "") == state, "virsh says {virsh}");
    Ok(())
}
