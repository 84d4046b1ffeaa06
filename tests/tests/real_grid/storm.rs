//! A storm of faults on five hosts: no guest ever executes on two, and afterwards everything is as it should be.
//!
//! `ROOST_STORM_SEED` plays a storm again, `ROOST_STORM_FAULTS` makes it longer; processes still take the time they take.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use roost_tests::grid::{self, Grid, START, eventually, lasts, tiny};
use roost_tests::guards::Guards;
use roost_tests::storm::{Recorder, Run, Storm, doubles, plan, processes};
use serde_json::json;

const HOSTS: u8 = 5;
const GUESTS: u8 = 3;
/// As many as must be survived before every merge.
const FAULTS: usize = 100;
/// Lease of the fast profile.
const LEASE: Duration = Duration::from_secs(4);
/// A first copy, a council of five, and a guest that is held, on a loaded machine.
const PROTECTED: Duration = Duration::from_secs(120);
/// All faults are over: hosts start, copies are made anew, councils change, back-off of crashed guests runs out.
const HEALED: Duration = Duration::from_secs(240);
/// How long all stays well then: longer than a takeover.
const STAYS: Duration = Duration::from_secs(15);

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Five hosts with agent and guard, told no more than a join token.
fn join(grid: &mut Grid) -> Result<Guards> {
    let guards = Guards::untold(grid.lab.clone(), HOSTS)?;
    for host in 1..=HOSTS {
        grid.configure(host, &grid.token(&format!("h{host}"))?)?;
        grid.guarded(host, &guards.socket(host))?;
        grid.set(host, "failover_profile = 'fast'")?;
        grid.give_images(host)?;
        grid.start_agent(host)?;
        grid.await_host(host, "up", START)?;
    }
    Ok(guards)
}

/// Guests that write ten times a second; their ids.
fn make_guests(grid: &Grid) -> Result<Vec<String>> {
    let policy = json!({"name": "ha", "replica_every_s": 5, "replica_failover": true});
    grid.api.post("/backup-policies", &policy)?;
    let mut ids = Vec::new();
    for guest in 1..=GUESTS {
        let name = format!("desk-{guest}");
        let mut spec = tiny(&name, &format!("h{guest}"), true);
        spec["boot"]["cmdline"] = json!("h=10");
        spec["disks"] = json!([{"from": "blank", "size_mib": 16}]);
        grid.api.done(Method::POST, "/guests", &spec)?;
        let id = grid.await_guest(&name, "running", START)?["id"].as_str().context("its id")?.to_owned();
        let set = format!("/backup-sets/{id}/actions/set-policy");
        grid.api.done(Method::POST, &set, &json!({"policy": "ha"}))?;
        ids.push(id);
    }
    Ok(ids)
}

/// Hosts are up; each guest executes once, where the grid says, and another host would go on with it.
fn is_well(grid: &Grid, guests: &[String]) -> Result<()> {
    for host in 1..=HOSTS {
        let seen = grid.api.get(&format!("/hosts/h{host}"))?;
        ensure!(seen["state"] == "up" && seen["stale"] == false, "{seen}");
    }
    for id in guests {
        let seen = grid.api.get(&format!("/guests/{id}"))?;
        ensure!(seen["state"] == "running" && seen["stale"] == false && seen["protected"] == true, "{seen}");
        let processes = processes(id)?;
        ensure!(processes.len() == 1, "{} QEMU processes of {seen}", processes.len());
        let host = seen["host_name"].as_str().and_then(|name| name.strip_prefix('h')).context("its host")?.parse()?;
        let name = seen["name"].as_str().context("its name")?;
        let state = grid.virsh(host, &["domstate", name])?;
        ensure!(state.trim() == "running", "{name} on host {host} is {state:?}");
    }
    Ok(())
}

fn judge(runs: &BTreeMap<String, Vec<Run>>, healed: Duration) -> Result<()> {
    for (guest, runs) in runs {
        let double = doubles(runs, LEASE);
        eprintln!("{guest}: {} runs on {:?}", runs.len(), runs.iter().map(|run| run.host).collect::<Vec<_>>());
        ensure!(double.is_empty(), "two hosts executed {guest} at once: {double:?} of {runs:?}");
        let last = runs.last().context("it never executed")?;
        ensure!(last.first < healed && last.last > healed, "it was well {healed:?} after the begin: {runs:?}");
    }
    Ok(())
}

#[test]
fn real_storm_of_faults_never_runs_a_guest_twice_and_leaves_everything_protected() {
    grid::story(HOSTS, |grid| {
        let clock = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let seed = number("ROOST_STORM_SEED", clock);
        let faults = usize::try_from(number("ROOST_STORM_FAULTS", FAULTS as u64))?;
        println!("ROOST_STORM_SEED={seed} ROOST_STORM_FAULTS={faults}");
        let mut guards = join(grid)?;
        let guests = make_guests(grid)?;
        eventually("all is well before the storm", PROTECTED, || is_well(grid, &guests))?;

        let began = Instant::now();
        let recorder = Recorder::start(&grid.lab, HOSTS, &guests, began);
        let plan = plan(seed, faults, HOSTS, guests.len());
        let mut storm = Storm::new(grid, &mut guards, HOSTS, guests.clone());
        let raged = storm.rage(&plan);
        println!("{faults} faults in {:?}; {} hosts were ended by their watchdogs", began.elapsed(), storm.resets);
        let over = Instant::now();
        let healed = raged.and_then(|()| {
            eventually("log in after the storm", HEALED, || grid.log_in())?;
            eventually("all is well after the storm", HEALED, || is_well(grid, &guests))
        });
        println!("well {:?} after the storm: {}", over.elapsed(), healed.is_ok());
        let moment = began.elapsed();
        lasts(STAYS);
        // A guest whose data has all come in pauses for an instant.
        let still = eventually("all is well still", START, || is_well(grid, &guests));
        // Whatever else went wrong: first whether a guest executed twice.
        let judged = judge(&recorder.end()?, moment);
        if healed.is_err() || judged.is_err() {
            guards.print_logs();
        }
        healed?;
        judged?;
        still
    });
}
