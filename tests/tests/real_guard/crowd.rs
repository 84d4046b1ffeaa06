//! Twenty guests of a dead host on one survivor: those that others need come first, and only a few are begun at once.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use roost_tests::grid::{self, Grid, START, eventually, tiny};
use serde_json::{Value, json};

use crate::joined::join;

const GUESTS: usize = 20;
/// The last ones made are the ones that others need.
const FIRST: usize = 5;
/// Guests that a host takes over at once.
const AT_ONCE: usize = 4;
/// Twenty first copies and twenty councils on a loaded machine.
const PROTECTED: Duration = Duration::from_secs(240);
/// Promise of the normal profile and twenty guests made from replicas.
const UP_AGAIN: Duration = Duration::from_secs(180);

fn name(number: usize) -> String {
    format!("desk-{number:02}")
}

fn make_guests(grid: &Grid) -> Result<()> {
    for (policy, priority) in [("first", 9), ("later", 0)] {
        let rules = json!({"name": policy, "replica_every_s": 20, "replica_host": "h2", "replica_failover": true,
                           "priority": priority});
        grid.api.post("/backup-policies", &rules)?;
    }
    for number in 0..GUESTS {
        let mut spec = tiny(&name(number), "h1", true);
        spec["disks"] = json!([{"from": "blank", "size_mib": 16}]);
        grid.api.done(Method::POST, "/guests", &spec)?;
        let policy = if number >= GUESTS - FIRST { "first" } else { "later" };
        let set = format!("/backup-sets/{}/actions/set-policy", name(number));
        grid.api.done(Method::POST, &set, &json!({"policy": policy}))?;
    }
    Ok(())
}

/// When each guest's takeover was begun and when it ran, in order of the first: RFC 3339, which sorts as it reads.
fn takeovers(grid: &Grid) -> Result<Vec<(String, String, String)>> {
    let all = grid.api.get("/failovers?limit=100")?;
    let one = |it: &Value| {
        let word = |name: &str| it[name].as_str().map(str::to_owned).with_context(|| format!("{name} of {it}"));
        Ok((word("chosen")?, word("started")?, word("name")?))
    };
    let mut found = all["items"].as_array().context("failovers")?.iter().map(one).collect::<Result<Vec<_>>>()?;
    found.sort();
    ensure!(found.len() == GUESTS, "{} of {GUESTS} came back", found.len());
    Ok(found)
}

#[test]
fn real_twenty_guests_of_a_dead_host_come_back_in_order_and_a_few_at_a_time() {
    grid::story(3, |grid| {
        let guards = join(grid)?;
        make_guests(grid)?;
        eventually("all are protected", PROTECTED, || {
            let plan: Value = serde_json::from_str(&grid.roost(&["host", "if-lost", "h1", "-o", "json"])?)?;
            let all = plan.as_array().or(plan["items"].as_array()).context("guests")?;
            let safe = all.iter().filter(|guest| guest["goes_on_at"] == "h2").count();
            ensure!(safe == GUESTS, "{safe}: {plan}");
            Ok(())
        })?;
        for number in 0..GUESTS {
            grid.await_guest(&name(number), "running", START)?;
        }

        guards.power_off(1)?;
        let found = grid::until("all run on the survivor", UP_AGAIN, || takeovers(grid))?;
        // Wards are won one by one: what was begun before the first of those that are needed was won is not broken off.
        let first: Vec<&str> = found.iter().take(FIRST + AT_ONCE).map(|(_, _, name)| name.as_str()).collect();
        let needed: Vec<String> = (GUESTS - FIRST..GUESTS).map(name).collect();
        ensure!(needed.iter().all(|name| first.iter().any(|it| it == name)), "begun first: {first:?}");
        let most = found
            .iter()
            .map(|(begun, ..)| found.iter().filter(|(other, runs, _)| other <= begun && runs > begun).count());
        let most = most.max().context("takeovers")?;
        println!("twenty guests: at most {most} under way at once; {} to {}", found[0].0, found[GUESTS - 1].1);
        ensure!(most <= AT_ONCE, "{most} were under way at once: {found:?}");
        ensure!(grid.virsh(2, &["list", "--name"])?.split_whitespace().count() == GUESTS, "on the survivor");
        Ok(())
    });
}
