//! Fifty guests that are to be backed up at the same moment: the host's limits hold, and all get their turn.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use roost_tests::grid::{self, Grid, eventually, tiny, until};
use serde_json::{Value, json};

const GUESTS: usize = 50;
/// Backups that read at a time (agent/core, `Limits`).
const AT_ONCE: usize = 2;
/// Fifty emulated guests on two processors.
const MADE: Duration = Duration::from_secs(300);
/// Their host has told of all.
const LISTED: Duration = Duration::from_secs(20);
const BACKED_UP: Duration = Duration::from_secs(240);

#[test]
fn real_fifty_guests_due_at_once_are_backed_up_two_at_a_time_and_all_go_on() {
    grid::story(1, |grid| {
        grid.join_all()?;
        let names: Vec<String> = (0..GUESTS).map(|number| format!("g{number}")).collect();
        let made = names.iter().map(|name| {
            let mut spec = tiny(name, "h1", true);
            spec["disks"] = json!([{"from": "blank", "size_mib": 16}]);
            grid.api.post("/guests", &spec)
        });
        all_succeed(grid, made.collect::<Result<_>>()?, MADE)?;
        eventually("all are listed", LISTED, || {
            let listed = grid.api.guests()?.len();
            ensure!(listed == GUESTS, "{listed} are");
            Ok(())
        })?;
        let asked = names.iter().map(|name| grid.api.post(&format!("/backup-sets/{name}/actions/run"), &json!({})));
        let asked: Vec<Value> = asked.collect::<Result<_>>()?;
        let mut most = 0;
        until("all have their point", BACKED_UP, || {
            most = most.max(grid.lab.exec(1, &["ls", "/var/lib/roost/scratch"])?.lines().count());
            let sets = grid.api.get("/backup-sets?limit=200")?;
            let sets = sets["items"].as_array().context("sets")?;
            let done = sets.iter().filter(|set| set["points"] == 1).count();
            ensure!(done == GUESTS, "{done} have");
            Ok(())
        })?;
        all_succeed(grid, asked, BACKED_UP)?;
        ensure!((1..=AT_ONCE).contains(&most), "{most} were read at a time");
        eventually("all go on", LISTED, || {
            let guests = grid.api.guests()?;
            let running = guests.iter().filter(|guest| guest["state"] == "running").count();
            ensure!(running == GUESTS, "{running} run");
            Ok(())
        })
    });
}

fn all_succeed(grid: &Grid, operations: Vec<Value>, limit: Duration) -> Result<()> {
    for operation in operations {
        let ended = grid.api.ended(&operation, limit)?;
        ensure!(ended["state"] == "succeeded", "{ended}");
    }
    Ok(())
}
