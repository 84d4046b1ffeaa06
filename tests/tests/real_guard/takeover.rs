//! Failover with plain local disks: the host that keeps a guest's replica wins its ward and starts it from there.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use roost_tests::grid::{self, Grid, START, eventually, lasts, text, tiny};
use roost_tests::guards::{Guards, now_ms};
use roost_ward::Standing;
use serde_json::json;

/// Promise of the fast profile, the restore, libvirt's start; the rest is for a loaded machine.
const UP_AGAIN: Duration = Duration::from_secs(60);
/// What was done shows this soon.
const SHOWN: Duration = Duration::from_secs(60);
/// Longer than a lease.
const A_WHILE: Duration = Duration::from_secs(6);
const NOISE: &str = "head -c 8M /dev/urandom > NOISE && truncate -s 64M NOISE";

/// A running guest of host 1 with data on its disk, whose replica host 2 keeps; its id.
fn replicated(grid: &Grid) -> Result<String> {
    let mut spec = tiny("desk", "h1", false);
    spec["disks"] = json!([{"from": "blank", "size_mib": 64}]);
    grid.api.done(Method::POST, "/guests", &spec)?;
    let noise = grid.folder.join("noise");
    grid.lab.exec(0, &["sh", "-c", &NOISE.replace("NOISE", text(&noise)?)])?;
    let disk = grid.api.get("/guests/desk")?["disks"][0]["path"].as_str().context("its disk")?.to_owned();
    let format = if disk.ends_with("raw") { "raw" } else { "qcow2" };
    grid.lab.exec(1, &["qemu-img", "convert", "-n", "-f", "raw", "-O", format, text(&noise)?, &disk])?;
    grid.api.act("desk", "start")?;
    grid.api.post("/backup-policies", &json!({"name": "near", "replica_every_s": 5, "replica_host": "h2"}))?;
    grid.api.done(Method::POST, "/backup-sets/desk/actions/set-policy", &json!({"policy": "near"}))?;
    eventually("host 2 has a replica", SHOWN, || {
        let seen = grid.api.get("/replicas/desk")?;
        ensure!(seen["state"] == "following", "{seen}");
        Ok(())
    })?;
    Ok(grid.await_guest("desk", "running", START)?["id"].as_str().context("its id")?.to_owned())
}

fn is_running(grid: &Grid, host: u8) -> Result<()> {
    let seen = grid.virsh(host, &["domstate", "desk"])?;
    ensure!(seen.trim() == "running", "on host {host} it is {seen:?}");
    Ok(())
}

/// All data of the guest's disk is on host 2, and is what was written on host 1.
fn same_data(grid: &Grid) -> Result<()> {
    let xml = grid.virsh(2, &["dumpxml", "desk"])?;
    ensure!(!xml.contains("protocol='nbd'"), "it still needs its point");
    let disk = grid.virsh(2, &["domblklist", "desk"])?;
    let disk = disk.split_whitespace().find(|word| word.starts_with('/')).context("its disk")?.to_owned();
    let compare = format!("qemu-img compare -U {} {disk} || true", text(&grid.folder.join("noise"))?);
    let said = grid.lab.exec(2, &["sh", "-c", &compare])?;
    ensure!(said.contains("identical"), "{said}");
    Ok(())
}

#[test]
fn real_guest_of_a_dead_host_comes_up_from_its_replica_and_the_dead_host_keeps_its_branch() {
    grid::story(3, |grid| {
        grid.join_all()?;
        let id = replicated(grid)?;
        let mut guards = Guards::on(grid.lab.clone(), 3)?;
        guards.found(&[1, 2], "fast", id.parse()?)?;
        for host in 1..=3 {
            grid.guarded(host, &guards.socket(host))?;
            grid.kill(host)?;
            grid.start_agent(host)?;
        }
        guards.await_standing(1, Standing::Running, START)?;
        lasts(A_WHILE);
        is_running(grid, 1)?;
        ensure!(grid.virsh(2, &["domstate", "desk"]).is_err(), "host 2 has only its replica");

        let died = now_ms()?;
        guards.power_off(1)?;
        eventually("the guest runs on host 2", UP_AGAIN, || is_running(grid, 2))?;
        println!("host dead: the guest runs from its replica after {} ms", now_ms()? - died);
        eventually("the aggregator looks for it there", SHOWN, || {
            let seen = grid.api.get("/guests/desk")?;
            ensure!(seen["host_name"] == "h2" && seen["state"] == "running", "{seen}");
            Ok(())
        })?;
        eventually("all its data is there", SHOWN, || same_data(grid))?;

        guards.power_on(1)?;
        grid.start_agent(1)?;
        eventually("host 1 keeps what it had", SHOWN, || {
            let points = grid.api.get("/backup-sets/desk/backups?host=h1")?;
            let newest = points["items"].as_array().and_then(|points| points.first()).context("points")?;
            ensure!(newest["why"] == "branch", "{newest}");
            Ok(())
        })?;
        is_running(grid, 2)?;
        ensure!(grid.api.get("/guests/desk")?["host_name"] == "h2", "it is host 2's from now on");
        let seen = grid.virsh(1, &["domstate", "desk"])?;
        ensure!(seen.trim() == "shut off", "on host 1 it is {seen:?}");
        Ok(())
    });
}
