//! What happens to all hosts at once: their switch reboots, and the whole site loses its power. No guest moves, none runs
//! twice, and what was written last is there.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use roost_tests::grid::{self, Grid, START, eventually, lasts, tiny};
use roost_tests::guards::Guards;
use roost_tests::storm::{Recorder, processes};
use serde_json::json;

use crate::handover::{reads, write};
use crate::joined::{PROTECTED, join};

const HOSTS: u8 = 3;
/// What a switch takes to boot; longer than lease and promise of the normal profile.
const SWITCH: Duration = Duration::from_secs(40);
/// Hosts start one after the other, the last within the promise of those that voted for it.
const STAGGER: Duration = Duration::from_secs(5);
/// Leases come back, agents find their aggregator, guests start.
const BACK: Duration = Duration::from_secs(90);
/// Longer than a takeover.
const A_WHILE: Duration = Duration::from_secs(25);

/// The guest of each host, in order.
const GUESTS: [&str; 3] = ["desk", "desk-2", "desk-3"];

/// A guest on each host that writes ten times a second; their ids.
fn make_guests(grid: &Grid) -> Result<Vec<String>> {
    grid.api.post("/backup-policies", &json!({"name": "ha", "replica_every_s": 5, "replica_failover": true}))?;
    let mut ids = Vec::new();
    for (name, host) in GUESTS.into_iter().zip(1..) {
        let mut spec = tiny(name, &format!("h{host}"), true);
        spec["boot"]["cmdline"] = json!("h=10");
        spec["disks"] = json!([{"from": "blank", "size_mib": 16}]);
        grid.api.done(Method::POST, "/guests", &spec)?;
        ids.push(grid.await_guest(name, "running", START)?["id"].as_str().context("its id")?.to_owned());
        let set = format!("/backup-sets/{name}/actions/set-policy");
        grid.api.done(Method::POST, &set, &json!({"policy": "ha"}))?;
    }
    Ok(ids)
}

/// Each guest runs where it was made, once, and another host would go on with it.
fn are_home(grid: &Grid, ids: &[String]) -> Result<()> {
    for ((name, id), host) in GUESTS.into_iter().zip(ids).zip(1..) {
        let shown = grid.api.get(&format!("/guests/{name}"))?;
        let there = shown["host_name"] == format!("h{host}") && shown["state"] == "running";
        ensure!(there && shown["stale"] == false && shown["protected"] == true, "{shown}");
        ensure!(processes(id)?.len() == 1, "{} QEMU processes of {name}", processes(id)?.len());
        ensure!(grid.virsh(host, &["domstate", name])?.trim() == "running", "{name}");
    }
    Ok(())
}

/// Nobody but its own host executed a guest since the recorder began, and that did.
fn ran_at_home(recorder: Recorder, ids: &[String], since: Duration) -> Result<()> {
    let runs = recorder.end()?;
    for (id, host) in ids.iter().zip(1..) {
        let of = runs.get(id).context("it never executed")?;
        ensure!(of.iter().all(|run| run.host == host), "{id} of host {host}: {of:?}");
        ensure!(of.last().is_some_and(|run| run.last > since), "{id} executes no more: {of:?}");
    }
    Ok(())
}

fn switch_reboots(grid: &Grid, guards: &Guards, ids: &[String]) -> Result<()> {
    let before: Vec<Vec<u32>> = ids.iter().map(|id| processes(id)).collect::<Result<_>>()?;
    let began = Instant::now();
    let recorder = Recorder::start(&grid.lab, HOSTS, ids, began);
    (1..=HOSTS).try_for_each(|host| grid.lab.host("cut", host))?;
    lasts(SWITCH);
    (1..=HOSTS).try_for_each(|host| grid.lab.host("heal", host))?;
    let healed = Instant::now();
    eventually("all guests go on where they were", BACK, || are_home(grid, ids))?;
    eprintln!("switch away for {SWITCH:?}: all is as before {:?} after it came back", healed.elapsed());
    lasts(A_WHILE);
    eventually("all guests are there still", START, || are_home(grid, ids))?;
    let after: Vec<Vec<u32>> = ids.iter().map(|id| processes(id)).collect::<Result<_>>()?;
    ensure!(before == after, "guests were started anew: {before:?}, then {after:?}");
    ran_at_home(recorder, ids, healed.duration_since(began))?;
    ensure!((1..=HOSTS).all(|host| !guards.was_reset(host)), "a host that could pause its guests was reset");
    eventually("it is told that it paused", START, || {
        let told = grid.roost(&["explain", "guest", "desk", "-o", "json"])?;
        ensure!(told.contains("lease-ended"), "it did not even pause: {told}");
        Ok(())
    })
}

fn site_loses_power(grid: &mut Grid, guards: &mut Guards, ids: &[String]) -> Result<()> {
    let began = Instant::now();
    write(grid, 1, 77)?;
    grid.kill_aggregator()?;
    (1..=HOSTS).try_for_each(|host| guards.power_off(host))?;
    let recorder = Recorder::start(&grid.lab, HOSTS, ids, began);
    for host in (1..=HOSTS).rev() {
        guards.power_on(host)?;
        grid.start_agent(host)?;
        lasts(STAGGER);
    }
    grid.start_aggregator()?;
    grid.log_in()?;
    eventually("all guests are back where they were", BACK, || are_home(grid, ids))?;
    eprintln!("site without power: all is as before {:?} after it went", began.elapsed());
    reads(grid, 1, 77)?;
    let well = began.elapsed();
    lasts(A_WHILE);
    eventually("all guests are there still", START, || are_home(grid, ids))?;
    ran_at_home(recorder, ids, well)
}

#[test]
fn real_switch_that_reboots_and_a_site_without_power_move_no_guest_and_lose_nothing() {
    grid::story(HOSTS, |grid| {
        let mut guards = join(grid)?;
        let ids = make_guests(grid)?;
        eventually("all is well before", PROTECTED, || are_home(grid, &ids))?;
        switch_reboots(grid, &guards, &ids)?;
        site_loses_power(grid, &mut guards, &ids)
    });
}
