//! Hosts that only joined a grid: who votes, who has the replica and from what the guest comes back was said by nobody but
//! the aggregator, and it is dead when it counts.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use roost_protocol::GuestId;
use roost_tests::grid::{self, Grid, START, eventually, lasts, tiny, until};
use roost_tests::guards::{Guards, now_ms};
use roost_ward::door::WardStatus;
use roost_ward::{Standing, WardId};
use serde_json::json;

/// A first copy, a council of three, and a guest that is held, on a loaded machine.
pub(crate) const PROTECTED: Duration = Duration::from_secs(90);
/// Promise of the normal profile, and a guest made from its replica on a loaded machine.
pub(crate) const UP_AGAIN: Duration = Duration::from_secs(60);
/// The guest's disk, as its writes go.
pub(crate) const DEVICE: &str = "/machine/peripheral/virtio-disk0/virtio-backend";
/// Longer than a lease of the normal profile.
pub(crate) const A_WHILE: Duration = Duration::from_secs(12);

/// Three hosts with agent and guard, told no more than a join token.
pub(crate) fn join(grid: &mut Grid) -> Result<Guards> {
    join_all(grid, 3)
}

/// The same of so many.
pub(crate) fn join_all(grid: &mut Grid, hosts: u8) -> Result<Guards> {
    join_with(grid, hosts, "normal")
}

/// The same, with these timers.
pub(crate) fn join_with(grid: &mut Grid, hosts: u8, profile: &str) -> Result<Guards> {
    let guards = Guards::untold(grid.lab.clone(), hosts)?;
    for host in 1..=hosts {
        grid.configure(host, &grid.token(&format!("h{host}"))?)?;
        grid.guarded(host, &guards.socket(host))?;
        grid.set(host, &format!("failover_profile = '{profile}'"))?;
        grid.give_images(host)?;
        grid.start_agent(host)?;
        grid.await_host(host, "up", START)?;
    }
    Ok(guards)
}

pub(crate) fn make_guest(grid: &Grid) -> Result<GuestId> {
    let mut spec = tiny("desk", "h1", true);
    spec["disks"] = json!([{"from": "blank", "size_mib": 16}]);
    grid.api.done(Method::POST, "/guests", &spec)?;
    let id = grid.await_guest("desk", "running", START)?["id"].as_str().context("its id")?.parse()?;
    let policy = json!({"name": "ha", "replica_every_s": 5, "replica_failover": true});
    grid.api.post("/backup-policies", &policy)?;
    grid.api.done(Method::POST, "/backup-sets/desk/actions/set-policy", &json!({"policy": "ha"}))?;
    Ok(id)
}

pub(crate) fn ward(guards: &Guards, host: u8, guest: GuestId) -> Result<WardStatus> {
    let status = guards.status(host)?;
    status.wards.into_iter().find(|ward| ward.ward == WardId::of(guest)).context("the ward")
}

/// Host 1 owns the guest's ward, and its second home holds it too; which that is.
pub(crate) fn await_protected(guards: &Guards, guest: GuestId) -> Result<u8> {
    until("the guest is protected", PROTECTED, || {
        let seen = ward(guards, 1, guest)?;
        let whole = seen.homes.len() == 2 && seen.members.len() == 3 && seen.settled && seen.processes > 0;
        ensure!(whole && seen.may_run, "{seen:?}");
        let second = *seen.homes.get(1).context("a second home")?;
        let found = (2..=3).find(|host| guards.status(*host).is_ok_and(|status| status.me == second));
        let second = found.context("it is one of ours")?;
        let there = ward(guards, second, guest)?;
        ensure!(there.guests == [guest] && there.homes.len() == 2, "{there:?}");
        Ok(second)
    })
}

/// What is written now is in the replica a moment later.
pub(crate) fn write_and_await_replica(grid: &Grid) -> Result<()> {
    let write = format!("qemu-io -d {DEVICE} \"write -P 165 4M 1M\"");
    let said = grid.virsh(1, &["qemu-monitor-command", "desk", "--hmp", &write])?;
    ensure!(said.trim().is_empty(), "{said}");
    let before = grid.api.get("/replicas/desk")?["point"].clone();
    let mut points = vec![before];
    eventually("two more points were copied", PROTECTED, || {
        let point = grid.api.get("/replicas/desk")?["point"].clone();
        if points.last() != Some(&point) {
            points.push(point);
        }
        ensure!(points.len() > 2, "{points:?}");
        Ok(())
    })
}

pub(crate) fn is(grid: &Grid, host: u8, state: &str) -> Result<()> {
    let seen = grid.virsh(host, &["domstate", "desk"])?;
    ensure!(seen.trim() == state, "on host {host} it is {seen:?}");
    Ok(())
}

/// Once the data came in behind the running guest, its disk has what was written before its host died.
fn has_what_was_written(grid: &Grid, host: u8) -> Result<()> {
    let listed = grid.virsh(host, &["domblklist", "desk"])?;
    let disk = listed.split_whitespace().find(|word| word.starts_with('/')).context("its disk")?;
    eventually("its disk is whole", PROTECTED, || {
        // Its QEMU keeps in memory where on the file the data lies.
        grid.virsh(host, &["qemu-monitor-command", "desk", "--hmp", &format!("qemu-io -d {DEVICE} flush")])?;
        let read = format!("qemu-io -U -r -f qcow2 -c 'read -P 165 4M 1M' {disk} 2>&1 || true");
        let said = grid.lab.exec(host, &["sh", "-c", &read])?;
        ensure!(said.contains("read 1048576/1048576") && !said.contains("failed"), "{said}");
        Ok(())
    })
}

/// People are told who would go on with the guest.
pub(crate) fn shows_protected(grid: &Grid, second: u8) -> Result<()> {
    eventually("the guest is shown as protected", PROTECTED, || {
        let shown = grid.api.get("/guests/desk")?;
        let by = format!("h{second}");
        ensure!(shown["protected"] == true && shown["protected_by"] == by, "{shown}");
        let host = grid.api.get("/hosts/h1")?;
        ensure!(host["watchdog"] == "parent", "{host}");
        Ok(())
    })
}

/// An aggregator that saw nothing of it tells how the guest came to its second home.
fn explains(grid: &Grid, second: u8) -> Result<()> {
    let told = grid.roost(&["explain", "guest", "desk"])?;
    let owner = ["the owner h1 was not heard for", "asks whether it may stand in epoch", "with the votes of h"];
    let rest = ["voted for h", "a majority granted a lease", "taken over: it is started from point", "it runs here"];
    for why in owner.into_iter().chain(rest) {
        ensure!(told.contains(why), "{why:?} is missing:\n{told}");
    }
    ensure!(told.lines().any(|line| line.contains("h1") && line.contains("remembers")), "what h1 forgot:\n{told}");
    let all: serde_json::Value =
        serde_json::from_str(&grid.roost(&["failover", "list", "--guest", "desk", "-o", "json"])?)?;
    let one = all.get(0).unwrap_or(&all["items"][0]);
    ensure!(one["from"] == "h1" && one["to"] == format!("h{second}"), "{all}");
    let moments = ["last_heard", "detected", "won", "leased", "chosen", "started"];
    let moments: Vec<&str> = moments.into_iter().filter_map(|name| one[name].as_str()).collect();
    ensure!(moments.len() == 6 && moments.is_sorted(), "{all}");
    Ok(())
}

/// What nobody wishes any more fills no guard; wished again it goes on where it was.
fn is_forgotten_and_wished_again(grid: &Grid, guards: &Guards, guest: GuestId, owner: u8) -> Result<()> {
    let protected = |what: &str| {
        eventually(what, PROTECTED, || {
            let shown = grid.api.get("/guests/desk")?;
            ensure!(shown["protected"] == true, "{shown}");
            Ok(())
        })
    };
    protected("the guest is protected where it is now")?;
    let before = ward(guards, owner, guest)?.epoch;
    grid.api.done(Method::POST, "/backup-sets/desk/actions/set-policy", &json!({}))?;
    eventually("its owner forgets the ward", PROTECTED, || {
        let status = guards.status(owner)?;
        ensure!(status.wards.is_empty(), "{:?}", status.wards);
        Ok(())
    })?;
    is(grid, owner, "running")?;
    grid.api.done(Method::POST, "/backup-sets/desk/actions/set-policy", &json!({"policy": "ha"}))?;
    protected("the guest is protected again")?;
    let after = ward(guards, owner, guest)?.epoch;
    ensure!(after > before, "epoch {after} follows {before}");
    is(grid, owner, "running")
}

#[test]
fn real_grid_that_hosts_only_joined_goes_on_with_a_dead_host_s_guest() {
    grid::story(3, |grid| {
        let mut guards = join(grid)?;
        let guest = make_guest(grid)?;
        let second = await_protected(&guards, guest)?;
        write_and_await_replica(grid)?;
        is(grid, 1, "running")?;
        shows_protected(grid, second)?;

        // What was told lasts: without the aggregator, and with agents and guards that were started anew.
        grid.kill_aggregator()?;
        for host in 1..=3 {
            grid.kill(host)?;
            guards.signal(host, "KILL")?;
            guards.spawn(host)?;
            grid.start_agent(host)?;
        }
        eventually("all is as before", PROTECTED, || {
            ensure!(ward(&guards, 1, guest)?.may_run, "no lease");
            is(grid, 1, "running")
        })?;
        lasts(A_WHILE);

        let died = now_ms()?;
        guards.power_off(1)?;
        eventually("the guest runs on its second home", UP_AGAIN, || is(grid, second, "running"))?;
        println!("host and aggregator dead: made from its replica, the guest runs after {} ms", now_ms()? - died);
        has_what_was_written(grid, second)?;

        guards.power_on(1)?;
        grid.start_agent(1)?;
        grid.start_aggregator()?;
        grid.log_in()?;
        lasts(A_WHILE);
        // Hosts that looked in vain for their aggregator for so long look for it each half a minute.
        eventually("the guest is shown where it is", PROTECTED, || {
            let shown = grid.api.get("/guests/desk")?;
            ensure!(shown["host_name"] == format!("h{second}") && shown["state"] == "running", "{shown}");
            Ok(())
        })?;
        is(grid, 1, "shut off")?;
        is(grid, second, "running")?;
        eventually("it is explained", PROTECTED, || explains(grid, second))?;
        ensure!(ward(&guards, 1, guest)?.standing == Standing::Off, "the returned host owns it");
        ensure!(ward(&guards, second, guest)?.standing == Standing::Running, "it was given up");
        is_forgotten_and_wished_again(grid, &guards, guest, second)
    });
}
