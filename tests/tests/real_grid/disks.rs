//! Disks that are full or lie: a host's state disk without room, and bytes of the aggregator's database that changed.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use roost_tests::grid::{self, Grid, Random, eventually, text, tiny, until};
use serde_json::{Value, json};

/// Size of the state disk: the test guests' images take 15 MiB.
const ROOM: &str = "size=32m";
/// The alarm shows, and goes, this soon; the agent looks every 2 s whether there is room.
const SHOWN: Duration = Duration::from_secs(30);
/// A crashed guest runs again: promised within 5 s, on a machine that does not stand still meanwhile.
const RESTARTED: Duration = Duration::from_secs(20);
/// An aggregator whose database was damaged lists everything again this soon. Hosts whose connection breaks again and
/// again wait longer, up to 30 s.
const RECOVERED: Duration = Duration::from_secs(60);
/// Places changed at random, and how often.
const PLACES: u64 = 8;
const ROUNDS: u64 = 6;
const SEED: u64 = 20_261_121;

#[test]
fn real_full_state_disk_raises_an_alarm_and_harms_no_guest() {
    grid::story(1, |grid| {
        let state = "/var/lib/roost";
        grid.lab.exec(1, &["mkdir", "-p", state])?;
        grid.lab.exec(1, &["mount", "-t", "tmpfs", "-o", ROOM, "small", state])?;
        grid.join_all()?;
        for (name, start) in [("rock", true), ("phoenix", true), ("sleeper", false)] {
            grid.api.done(Method::POST, "/guests", &tiny(name, "h1", start))?;
        }
        let (rock, phoenix) = (grid.qemu(1, "rock")?, grid.qemu(1, "phoenix")?);
        let fill = ["sh", "-c", "! dd if=/dev/zero of=/var/lib/roost/fill bs=4k 2>/dev/null"];
        grid.lab.exec(1, &fill)?;

        refused_for_want_of_room(grid, &grid.api.post("/guests/sleeper/actions/start", &json!({}))?)?;
        refused_for_want_of_room(grid, &grid.api.post("/guests", &tiny("new", "h1", false))?)?;
        alarm(grid, true)?;
        grid.lab.exec(1, &["kill", "-9", &phoenix.to_string()])?;
        until("a crashed guest runs again", RESTARTED, || {
            ensure!(grid.qemu(1, "phoenix")? != phoenix, "still the old one");
            Ok(())
        })?;
        // An agent that starts on a full disk is no worse, and says so by itself.
        grid.kill(1)?;
        grid.start_agent(1)?;
        alarm(grid, true)?;
        grid.lab.exec(1, &["rm", "/var/lib/roost/fill"])?;
        alarm(grid, false)?;
        grid.api.act("sleeper", "start")?;
        grid.api.done(Method::POST, "/guests", &tiny("new", "h1", true))?;
        ensure!(grid.qemu(1, "rock")? == rock, "a guest was restarted");
        let left = grid.lab.exec(1, &["ls", "/var/lib/roost/guests"])?;
        ensure!(left.lines().count() == grid.api.guests()?.len(), "half-made guests stay: {left}");
        Ok(())
    });
}

fn refused_for_want_of_room(grid: &Grid, asked: &Value) -> Result<()> {
    let ended = grid.api.ended(asked, SHOWN)?;
    ensure!(ended["state"] == "failed" && ended["error"]["code"] == "no_space", "{ended}");
    ensure!(ended["error"]["detail"].as_str().is_some_and(|text| text.contains("disk")), "{ended}");
    Ok(())
}

/// The host shows the alarm, in words that help, or none.
fn alarm(grid: &Grid, raised: bool) -> Result<()> {
    eventually(&format!("the alarm is raised: {raised}"), SHOWN, || {
        let host = grid.api.get("/hosts/h1")?;
        let alarms = host["alarms"].as_array().context("alarms")?;
        let found = alarms.iter().find(|alarm| alarm["code"] == "state-disk");
        ensure!(host["state"] == "up" && found.is_some() == raised, "{host}");
        let helps = found.and_then(|alarm| alarm["text"].as_str()).is_none_or(|text| text.contains("free some space"));
        ensure!(helps, "{host}");
        Ok(())
    })
}

#[test]
fn real_flipped_bytes_in_the_database_are_made_good() {
    grid::story(2, |grid| {
        // What follows is in the journal alone, and with it goes that there ever were hosts.
        grid.stop_aggregator()?;
        grid.start_aggregator()?;
        grid.log_in()?;
        grid.join_all()?;
        for host in ["h1", "h2"] {
            grid.api.done(Method::POST, "/guests", &tiny(&format!("on-{host}"), host, true))?;
        }
        grid.api.post("/users", &json!({"name": "ada", "password": "a long enough password"}))?;
        let token = grid.api.post("/api-tokens", &json!({"name": "script"}))?;
        grid.api.token = token["token"].as_str().map(str::to_owned);
        let before = picture(grid)?;
        let mut random = Random::new(SEED);
        let mut set_aside = false;
        for round in 0..ROUNDS {
            grid.await_document()?;
            // Its last changes are in the journal beside the database, or have been brought into it.
            if round.is_multiple_of(2) {
                grid.kill_aggregator()?;
            } else {
                grid.stop_aggregator()?;
            }
            let flipped = flip(grid, &mut random, round)?;
            grid.start_aggregator().with_context(|| flipped.clone())?;
            until("all is as before", RECOVERED, || {
                let now = picture(grid)?;
                ensure!(now == before, "now {now}\nbefore {before}");
                Ok(())
            })
            .with_context(|| flipped.clone())?;
            set_aside |= grid.lab.exec(0, &["ls", text(&folder(grid))?])?.contains("corrupt");
            grid.api.act("on-h1", if round.is_multiple_of(2) { "pause" } else { "resume" }).context(flipped)?;
        }
        ensure!(set_aside, "no round damaged anything");
        grid.api.log_in("ada", "a long enough password")
    });
}

/// Changes some bytes of the stopped aggregator's database; says which, for a replay.
fn flip(grid: &Grid, random: &mut Random, round: u64) -> Result<String> {
    let path = folder(grid).join(if round.is_multiple_of(2) { "ledger.db-wal" } else { "ledger.db" });
    let mut bytes = fs::read(&path)?;
    let length = u64::try_from(bytes.len())?;
    let places: Vec<u64> = match round {
        // What a reader sees first of each file.
        0 | 1 => (0..4).map(|_| random.below(100)).collect(),
        // A version that no program ever wrote.
        3 => vec![60],
        _ => (0..PLACES).map(|_| random.below(length)).collect(),
    };
    for place in &places {
        bytes[usize::try_from(*place)?] ^= u8::try_from(1 + random.below(255))?;
    }
    fs::write(&path, bytes)?;
    Ok(format!("seed {SEED}, round {round}: {} of {length} bytes, at {places:?}", path.display()))
}

fn folder(grid: &Grid) -> PathBuf {
    grid.folder.join("aggregator")
}

/// Hosts, guests, users and tokens, without what changes by itself.
fn picture(grid: &Grid) -> Result<Value> {
    let hosts = grid.api.get("/hosts?fields=id,name,state&sort=name")?;
    let guests = grid.api.get("/guests?fields=id,name,host,managed,desired,restarts,stale&sort=name")?;
    let users = grid.api.get("/users?fields=name&sort=name")?;
    let tokens = grid.api.get("/api-tokens?fields=id,name")?;
    Ok(json!([hosts["items"], guests["items"], users["items"], tokens["items"]]))
}
