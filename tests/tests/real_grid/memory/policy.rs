//! How dense a host is packed, said by an admin through the grid: followed at once, kept, taken back.

use anyhow::{Result, ensure};
use reqwest::Method;
use roost_tests::grid::{self, Grid, START, eventually, tiny};
use serde_json::json;

use super::{ENOUGH, available, begun, join, refusal, small};
use crate::at_once::LONG;

/// MiB of a guest that the made-up host takes, but not one that promises half of its memory at most.
const BIG: u64 = 1_024;

#[test]
fn real_memory_policy_of_the_grid_holds_at_once_and_after_the_agents_death_until_it_is_cleared() {
    grid::story(1, |grid| {
        available(grid, ENOUGH)?;
        join(grid, &["tune_memory = true", "memory = { sharing = 'never', reserve_least_mib = 64 }"])?;
        ensure!(small(grid, "little", 64)?["state"] == "succeeded", "it fits");
        follows(grid, "file", 2_000)?;
        let wrong = grid.roost(&["host", "set-memory", "h1", "--overcommit-permille", "100"]);
        ensure!(wrong.as_ref().is_err_and(|why| format!("{why:#}").contains("500 to 5000")), "{wrong:?}");
        grid.roost(&["host", "set-memory", "h1", "--overcommit-permille", "500"])?;
        follows(grid, "grid", 500)?;
        let why = grid.roost(&["explain", "host", "h1", "memory", "-o", "json"])?;
        ensure!(why.contains("overcommit_permille was 2000, is 500"), "{why}");
        let refused = |grid: &Grid| -> Result<()> {
            let text = refusal(&small(grid, "big", BIG)?)?;
            ensure!(text.contains("guests were promised 64 MiB"), "{text}");
            Ok(())
        };
        refused(grid)?;

        // The aggregator is away while the next agent begins, so that it knows it by itself.
        grid.kill(1)?;
        grid.kill_aggregator()?;
        grid.start_agent(1)?;
        grid.start_aggregator()?;
        grid.log_in()?;
        grid.await_host(1, "up", LONG)?;
        follows(grid, "grid", 500)?;
        let why = grid.roost(&["explain", "host", "h1", "memory", "-o", "json"])?;
        ensure!(!why.contains("overcommit_permille was"), "it had to be told: {why}");
        refused(grid)?;
        grid.roost(&["host", "clear-memory", "h1"])?;
        follows(grid, "file", 2_000)?;
        let told = |grid: &Grid, name: &str| grid.api.get(&format!("/guests/{name}/room"));
        let room = told(grid, "little")?;
        ensure!(room["more"].as_u64() > Some(0) && room["hosts"][0]["name"] == "h1", "{room}");
        let made = small(grid, "big", BIG)?;
        ensure!(made["state"] == "succeeded", "{made}");
        eventually("the room that it took is counted", START, || {
            let (little, big) = (told(grid, "little")?, told(grid, "big")?);
            ensure!(little["more"].as_u64() < room["more"].as_u64() && big["more"] == 0, "{little} {big}");
            Ok(())
        })?;
        Ok(())
    });
}

#[test]
fn real_guest_of_a_trust_group_is_merged_only_on_a_host_of_its_group() {
    grid::story(1, |grid| {
        available(grid, ENOUGH)?;
        join(grid, &["tune_memory = true", "memory = { sharing = 'never', reserve_least_mib = 64 }"])?;
        let mut guest = tiny("red", "h1", true);
        guest["memory_wish"] = json!({"trust": "Red!"});
        let wrong = grid.api.ok(Method::POST, "/guests", Some(&guest));
        ensure!(wrong.as_ref().is_err_and(|why| format!("{why:#}").contains("1 to 32 of a-z")), "{wrong:?}");
        guest["memory_wish"] = json!({"trust": "red"});
        ensure!(begun(grid, &guest, 64)?["state"] == "succeeded", "it fits");
        mergeable(grid, false)?;
        grid.roost(&["host", "set-memory", "h1", "--trust", "red"])?;
        mergeable(grid, false)?;
        grid.roost(&["guest", "stop", "red"])?;
        grid.roost(&["guest", "start", "red"])?;
        mergeable(grid, true)?;
        grid.roost(&["host", "clear-memory", "h1"])?;
        grid.roost(&["guest", "stop", "red"])?;
        grid.roost(&["guest", "start", "red"])?;
        mergeable(grid, false)
    });
}

fn mergeable(grid: &Grid, wanted: bool) -> Result<()> {
    eventually("its pages may be merged, or not", START, || {
        let memory = grid.api.get("/hosts/h1/memory")?;
        let red = &memory["guests"][0];
        ensure!(red["trust"] == "red" && red["mergeable"] == wanted, "{memory}");
        Ok(())
    })
}

/// The host has looked at its guest and follows the policy of this source with this overcommit; all else is as its settings
/// say.
fn follows(grid: &Grid, from: &str, overcommit: u64) -> Result<()> {
    eventually("the host follows it", START, || {
        let memory = grid.api.get("/hosts/h1/memory")?;
        ensure!(memory["guests"].as_array().is_some_and(|guests| guests.len() == 1), "{memory}");
        let policy = &memory["policy"];
        ensure!(memory["policy_from"] == from && policy["overcommit_permille"] == overcommit, "{memory}");
        ensure!(policy["sharing"] == "never" && policy["reserve_least_mib"] == 64, "{memory}");
        Ok(())
    })
}
