//! Points of real guests through the API: made while they run and while they are off, restored, verified, deleted.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use roost_tests::grid::{self, Grid, tiny};
use serde_json::{Value, json};

/// A state that an operation reached shows this soon.
const SHOWN: Duration = Duration::from_secs(30);

#[test]
fn real_guest_comes_back_from_its_points_as_it_was_and_as_a_new_one() {
    grid::story(1, |grid| {
        grid.join_all()?;
        let mut spec = tiny("kept", "h1", true);
        spec["disks"] = json!([{"from": "blank", "size_mib": 64}]);
        spec["boot"]["cmdline"] = json!("h=100 d=5");
        grid.api.done(Method::POST, "/guests", &spec)?;
        let running = point_now(grid)?;
        ensure!(running["consistency"] == "crash", "a guest without an agent was caught while it ran: {running}");
        grid.api.act("kept", "stop")?;
        let off = point_now(grid)?;
        let set = grid.api.get("/backup-sets/kept")?;
        ensure!(set["points"] == 2 && set["newest_point"] == off["id"], "the set shows what was made: {set}");
        ensure!(off["consistency"] == "stopped" && off["parent"] == running["id"], "{off}");

        let id = off["id"].as_str().context("the point's id")?;
        let restore = format!("/backup-sets/kept/backups/{id}/actions/restore");
        grid.api.done(Method::POST, &restore, &json!({"name": "copy"}))?;
        same_disks(grid, "kept", "copy")?;
        grid.api.done(Method::POST, &restore, &json!({"start": true}))?;
        grid.await_guest("kept", "running", SHOWN)?;
        let refused = grid.api.post(&restore, &json!({}))?;
        let refused = grid.api.ended(&refused, SHOWN)?;
        ensure!(refused["error"]["code"] == "wrong_state", "the original runs: {refused}");

        grid.api.done(Method::POST, "/backup-sets/kept/actions/verify", &json!({}))?;
        let first = running["id"].as_str().context("the point's id")?;
        grid.api.done(Method::DELETE, &format!("/backup-sets/kept/backups/{first}"), &Value::Null)?;
        ensure!(points(grid)?.len() == 1, "{:?}", points(grid)?);
        Ok(())
    });
}

/// Makes a point and gives it as the list shows it.
fn point_now(grid: &Grid) -> Result<Value> {
    grid.api.done(Method::POST, "/backup-sets/kept/actions/run", &json!({}))?;
    points(grid)?.first().cloned().context("a point")
}

/// Newest first.
fn points(grid: &Grid) -> Result<Vec<Value>> {
    let list = grid.api.get("/backup-sets/kept/backups")?;
    Ok(list["items"].as_array().context("a list")?.clone())
}

fn same_disks(grid: &Grid, one: &str, other: &str) -> Result<()> {
    let disk = |name: &str| -> Result<String> {
        let guest = grid.api.get(&format!("/guests/{name}"))?;
        guest["disks"][0]["path"].as_str().map(str::to_owned).context("its disk")
    };
    grid.lab.exec(1, &["qemu-img", "compare", &disk(one)?, &disk(other)?]).map(drop)
}
