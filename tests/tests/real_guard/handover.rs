//! A guest that its admin moves to the host with its replica: it comes up there with all that it wrote, and where that
//! can't be it goes on where it was.

use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use roost_protocol::GuestId;
use roost_tests::grid::{self, Grid, START, eventually, tiny, until};
use roost_tests::guards::{Guards, now_ms};
use roost_ward::Standing;

use crate::joined::{DEVICE, PROTECTED, await_protected, is, join, make_guest, shows_protected, ward};

/// The tiny guest is deaf to its power button.
const DEAF: &str = "2";
/// A delta, a shut-down, another delta and a start on a loaded machine, over and over until it is noticed that nobody answers.
const HANDED_OVER: Duration = Duration::from_secs(180);
/// Where the counter stands on the disk.
const COUNTER: &str = "4M";

pub(crate) fn write(grid: &Grid, host: u8, number: u8) -> Result<()> {
    let write = format!("qemu-io -d {DEVICE} \"write -P {number} {COUNTER} 64k\"");
    let said = grid.virsh(host, &["qemu-monitor-command", "desk", "--hmp", &write])?;
    ensure!(said.trim().is_empty(), "{said}");
    Ok(())
}

pub(crate) fn reads(grid: &Grid, host: u8, number: u8) -> Result<()> {
    let read = format!("qemu-io -d {DEVICE} \"read -P {number} {COUNTER} 64k\"");
    let said = grid.virsh(host, &["qemu-monitor-command", "desk", "--hmp", &read])?;
    ensure!(said.trim().is_empty(), "it is not {number}: {said}");
    Ok(())
}

/// Counts on the guest's disk until the guest is off there; the last number that was written, and since when it stands.
fn count(grid: &Grid, host: u8, stopped: &Mutex<Option<(u8, u64)>>) -> Result<()> {
    let mut number = 1;
    while write(grid, host, number).is_ok() {
        *stopped.lock().map_err(|_| anyhow::anyhow!("the counter died"))? = Some((number, now_ms()?));
        number = after(number);
    }
    Ok(())
}

/// The number that is counted next; a blank disk shows 0.
fn after(number: u8) -> u8 {
    number.checked_add(1).unwrap_or(1)
}

/// Hands the guest over while somebody counts on its disk. It runs on the other host with the last number; how many
/// milliseconds it did not.
fn handed_over(grid: &Grid, from: u8, to: u8) -> Result<u64> {
    let last = Mutex::new(None);
    let runs_again = thread::scope(|scope| -> Result<u64> {
        let counter = scope.spawn(|| count(grid, from, &last));
        grid.roost(&["guest", "hand-over", "desk", "--shutdown", DEAF, "--timeout", "180"])?;
        eventually("it runs on the other host", HANDED_OVER, || is(grid, to, "running"))?;
        let at = now_ms()?;
        counter.join().map_err(|_| anyhow::anyhow!("the counter died"))??;
        Ok(at)
    })?;
    let (number, stood) = last.into_inner().ok().flatten().context("nothing was counted")?;
    is(grid, from, "shut off")?;
    // The next may have been written too, and nobody heard of it before the guest was switched off.
    reads(grid, to, number).or_else(|_| reads(grid, to, after(number)))?;
    write(grid, to, after(after(number)))?;
    Ok(runs_again.saturating_sub(stood))
}

fn explains(grid: &Grid) -> Result<()> {
    let told = grid.roost(&["explain", "guest", "desk"])?;
    for why in ["to be handed over to h", "has all that it wrote: it is given up here", "it runs here"] {
        ensure!(told.contains(why), "{why:?} is missing:\n{told}");
    }
    Ok(())
}

/// What the host's death would cost is told before.
fn tells_what_if_lost(grid: &Grid, home: u8, second: u8) -> Result<()> {
    let host = format!("h{home}");
    let lost: serde_json::Value = serde_json::from_str(&grid.roost(&["host", "if-lost", &host, "-o", "json"])?)?;
    let one = lost.get(0).unwrap_or(&lost["items"][0]);
    ensure!(one["name"] == "desk" && one["goes_on_at"] == format!("h{second}"), "{lost}");
    let all: serde_json::Value = serde_json::from_str(&grid.roost(&["failover", "plan", "-o", "json"])?)?;
    let hosts = all.as_array().or(all["items"].as_array()).context("hosts")?;
    let cost =
        |name: &str| hosts.iter().find(|host| host["name"] == name).map(|host| (&host["guests"], &host["go_on"]));
    ensure!(cost(&host) == Some((&serde_json::json!(1), &serde_json::json!(1))), "{all}");
    ensure!(hosts.len() == 3 && hosts.iter().all(|host| host["stay_down"] == 0), "{all}");
    Ok(())
}

/// To a host that is cut off it is not handed over, and its user sees nothing of it but a restart at worst.
fn goes_on_where_it_was(grid: &Grid, guards: &Guards, guest: GuestId, home: u8, other: u8) -> Result<()> {
    grid.lab.host("cut", other)?;
    let said = grid.roost(&["guest", "hand-over", "desk", "--shutdown", DEAF, "--timeout", "180"]);
    let why = format!("{:#}", said.err().context("it was handed over to a host that is cut off")?);
    ensure!(why.contains("its replica isn't kept up"), "{why}");
    eventually("it goes on where it was", HANDED_OVER, || is(grid, home, "running"))?;
    ensure!(ward(guards, home, guest)?.standing == Standing::Running, "its ward was given up");
    grid.lab.host("heal", other)
}

/// Who would go on with the guest that this host has now.
fn protected_by(grid: &Grid, home: u8) -> Result<u8> {
    until("it is protected where it is now", PROTECTED, || {
        let shown = grid.api.get("/guests/desk")?;
        ensure!(shown["protected"] == true && shown["host_name"] == format!("h{home}"), "{shown}");
        let by = shown["protected_by"].as_str().and_then(|name| name.strip_prefix('h')).context("by whom")?;
        Ok(by.parse()?)
    })
}

#[test]
fn real_guest_is_handed_over_with_what_it_wrote_last_and_back_and_stays_where_nobody_can_take_it() {
    grid::story(3, |grid| {
        let guards = join(grid)?;
        let guest = make_guest(grid)?;
        let second = await_protected(&guards, guest)?;
        shows_protected(grid, second)?;
        tells_what_if_lost(grid, 1, second)?;
        let pause = handed_over(grid, 1, second)?;
        println!("handed over to h{second}: {pause} ms from its last write to running");
        explains(grid)?;
        let home = protected_by(grid, second)?;
        let pause = handed_over(grid, second, home)?;
        println!("… and on to h{home}: {pause} ms");
        let by = protected_by(grid, home)?;
        goes_on_where_it_was(grid, &guards, guest, home, by)
    });
}

/// What people see of a host's maintenance.
fn maintenance(grid: &Grid, word: &str) -> Result<()> {
    eventually("the host's maintenance is shown", HANDED_OVER, || {
        let shown = grid.api.get("/hosts/h1")?;
        ensure!(shown["maintenance"] == word, "{shown}");
        Ok(())
    })
}

#[test]
fn real_host_is_drained_of_what_others_can_go_on_with_and_kept_so_until_it_is_resumed() {
    grid::story(3, |grid| {
        let guards = join(grid)?;
        grid.api.done(Method::POST, "/guests", &tiny("pet", "h1", true))?;
        let guest = make_guest(grid)?;
        let second = await_protected(&guards, guest)?;
        shows_protected(grid, second)?;
        grid.roost(&["host", "drain", "h1"])?;
        eventually("the protected guest is elsewhere", HANDED_OVER, || is(grid, second, "running"))?;
        is(grid, 1, "shut off")?;
        // What nobody can go on with stays, and it is said why.
        maintenance(grid, "draining")?;
        eventually("it is told what stays", START, || {
            let stays = grid.roost(&["host", "if-lost", "h1"])?;
            let pet = stays.contains("pet") && stays.contains("no replica_failover");
            ensure!(pet && !stays.contains("desk"), "{stays}");
            Ok(())
        })?;
        ensure!(grid.virsh(1, &["domstate", "pet"])?.trim() == "running", "it was disturbed");

        // It is intent, and its guard knows.
        grid.kill_aggregator()?;
        grid.start_aggregator()?;
        grid.log_in()?;
        for host in 1..=3 {
            grid.await_host(host, "up", START)?;
        }
        maintenance(grid, "draining")?;
        let refused = grid.roost(&["guest", "create", "--name", "new", "--memory", "16", "--host", "h1"]);
        let why = format!("{:#}", refused.err().context("it takes new guests")?);
        ensure!(why.contains("in maintenance"), "{why}");
        eventually("its guard takes nothing over", PROTECTED, || {
            let ward = ward(&guards, 1, guest)?;
            ensure!(ward.disarmed && ward.standing == Standing::Off, "{ward:?}");
            Ok(())
        })?;
        eventually("another host than the one in maintenance has the replica", PROTECTED, || {
            ensure!(protected_by(grid, second)? != 1, "a host in maintenance has it");
            Ok(())
        })?;

        grid.roost(&["guest", "stop", "pet"])?;
        maintenance(grid, "drained")?;
        grid.roost(&["host", "resume", "h1"])?;
        eventually("its guard takes guests over again", PROTECTED, || {
            ensure!(guards.status(1)?.wards.iter().all(|ward| !ward.disarmed), "it does not");
            Ok(())
        })?;
        let shown = grid.api.get("/hosts/h1")?;
        ensure!(shown["maintenance"].is_null(), "{shown}");
        Ok(())
    });
}
