//! All guests of a dead host on one survivor: those that others need come before all others, and are waited for until
//! they answer.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use reqwest::Method;
use roost_tests::grid::{self, Grid, START, eventually, tiny};
use serde_json::{Value, json};

use crate::answers::{DOOR, answer};
use crate::joined::join;

/// Unless `ROOST_CROWD` says otherwise (`make storm`: 20).
const GUESTS: usize = 9;
/// The last ones made are the ones that others need.
const FIRST: usize = 3;
/// The guard tells the agent of a lease within this.
const TOLD: SignedDuration = SignedDuration::from_secs(2);
/// A start of a higher priority holds others up for less than this.
const HOLDS_UP: SignedDuration = SignedDuration::from_secs(14);
/// A first copy and a council for each, on a loaded machine.
const PROTECTED: Duration = Duration::from_secs(240);
/// Promise of the normal profile, and guests made from replicas.
const UP_AGAIN: Duration = Duration::from_secs(180);

fn name(number: usize) -> String {
    format!("desk-{number:02}")
}

fn make_guests(grid: &Grid, guests: usize) -> Result<()> {
    for (policy, priority) in [("first", 9), ("later", 0)] {
        let rules = json!({"name": policy, "replica_every_s": 20, "replica_host": "h2", "replica_failover": true,
                           "priority": priority});
        grid.api.post("/backup-policies", &rules)?;
    }
    for number in 0..guests {
        let mut spec = tiny(&name(number), "h1", true);
        spec["disks"] = json!([{"from": "blank", "size_mib": 16}]);
        grid.api.done(Method::POST, "/guests", &spec)?;
        let policy = if number >= guests - FIRST { "first" } else { "later" };
        let set = format!("/backup-sets/{}/actions/set-policy", name(number));
        grid.api.done(Method::POST, &set, &json!({"policy": policy}))?;
    }
    Ok(())
}

/// Opens the door of the one that is waited for, once others wait, or none is left that could; when.
fn answer_late(grid: &Grid, guests: usize) -> Result<Timestamp> {
    eventually("others wait for one that does not answer", UP_AGAIN, || {
        let waits = fs::read_to_string(grid.log(2))?.contains("wait until it answers");
        ensure!(waits || grid.virsh(2, &["list", "--name"])?.split_whitespace().count() == guests, "nobody waits");
        Ok(())
    })?;
    let opened = Timestamp::now();
    answer(grid, 2)?;
    Ok(opened)
}

/// A takeover: whose, when its host could run it, when it was begun, when it ran.
#[derive(Debug)]
struct Takeover {
    name: String,
    leased: Timestamp,
    chosen: Timestamp,
    started: Timestamp,
}

/// In the order in which they were begun.
fn takeovers(grid: &Grid, guests: usize) -> Result<Vec<Takeover>> {
    let all = grid.api.get("/failovers?limit=100")?;
    let one = |it: &Value| {
        let time = |name: &str| -> Result<Timestamp> {
            Ok(it[name].as_str().with_context(|| format!("{name} of {it}"))?.parse()?)
        };
        let name = it["name"].as_str().context("name")?.to_owned();
        Ok(Takeover { name, leased: time("leased")?, chosen: time("chosen")?, started: time("started")? })
    };
    let mut found = all["items"].as_array().context("failovers")?.iter().map(one).collect::<Result<Vec<_>>>()?;
    found.sort_by_key(|it| it.chosen);
    ensure!(found.len() == guests, "{} of {guests} came back", found.len());
    Ok(found)
}

#[test]
fn real_crowd_of_a_dead_host_comes_back_and_those_that_are_needed_first() {
    grid::story(3, |grid| {
        let told = std::env::var("ROOST_CROWD").ok().map(|told| told.parse().context("ROOST_CROWD")).transpose()?;
        let guests = told.unwrap_or(GUESTS).max(FIRST);
        let guards = join(grid)?;
        make_guests(grid, guests)?;
        let last = name(guests - 1);
        grid.roost(&["guest", "probe", &last, "--probes", DOOR])?;
        eventually("all are protected", PROTECTED, || {
            let plan: Value = serde_json::from_str(&grid.roost(&["host", "if-lost", "h1", "-o", "json"])?)?;
            let all = plan.as_array().or(plan["items"].as_array()).context("guests")?;
            let safe = all.iter().filter(|guest| guest["goes_on_at"] == "h2").count();
            ensure!(safe == guests, "{safe}: {plan}");
            Ok(())
        })?;
        for number in 0..guests {
            grid.await_guest(&name(number), "running", START)?;
        }

        guards.power_off(1)?;
        let opened = answer_late(grid, guests)?;
        let found = grid::until("all run on the survivor", UP_AGAIN, || takeovers(grid, guests))?;
        let is_needed = |it: &&Takeover| (guests - FIRST..guests).any(|number| it.name == name(number));
        let needed = || found.iter().filter(is_needed);
        let known = needed().map(|it| it.leased).max().context("leases")? + TOLD;
        let begun = needed().map(|it| it.chosen).max().context("choices")?;
        // Wards are won one by one: what was begun before the last of those that are needed was won is not broken off.
        let too_soon: Vec<_> =
            found.iter().filter(|it| !is_needed(it) && it.chosen > known && it.chosen < begun).collect();
        ensure!(too_soon.is_empty(), "begun before those that are needed: {too_soon:?}; all: {found:?}");
        let awaited = needed().find(|it| it.name == last).context("the one that is probed")?;
        // A start that takes long holds nobody up until it is done.
        let (long, up) = (awaited.chosen + HOLDS_UP, awaited.started + TOLD);
        let barred = |at: Timestamp| at > awaited.chosen && at < opened && (at < long || at > up);
        let too_soon: Vec<_> = found.iter().filter(|it| !is_needed(it) && barred(it.chosen)).collect();
        ensure!(too_soon.is_empty(), "begun before {last} answered: {too_soon:?}; all: {found:?}");
        let ran = found.iter().map(|it| it.started).max().context("starts")?;
        println!(
            "{guests} guests: begun from {} on, {last} answers from {opened} on, all run at {ran}",
            found[0].chosen
        );
        let waited: Vec<_> = found.iter().filter(|it| it.chosen >= opened).collect();
        println!("{} of them waited for its answer", waited.len());
        for it in waited.iter().filter(|it| it.leased < opened - TOLD) {
            let told = grid.roost(&["explain", "guest", &it.name])?;
            ensure!(told.contains(&format!("waits until {last}, of a higher priority, answers")), "{told}");
        }
        ensure!(grid.virsh(2, &["list", "--name"])?.split_whitespace().count() == guests, "on the survivor");
        Ok(())
    });
}
