//! A guest that is started at once from its backup while its data is brought in: the agent is killed in the middle, the
//! guest reads what is not here yet, and the backup is gone for a while.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use roost_tests::grid::{self, Grid, START, eventually, tiny};
use serde_json::{Value, json};

/// Emulated guests, and half a gigabyte through a debug build.
const LONG: Duration = Duration::from_secs(120);
const SHOWN: Duration = Duration::from_secs(30);
const IMAGE: &str = "/var/lib/roost/images/data.raw";
const PACKS: &str = "/var/lib/roost/backups/packs";

#[test]
fn real_guest_started_at_once_outlives_its_agent_and_its_backup_and_gets_all_its_data() {
    grid::story(1, |grid| {
        grid.join_all()?;
        let point = backed_up(grid)?;
        let quick = at_once(grid, &point, "quick")?;
        grid.kill(1)?;
        ensure!(over_the_point(grid, "quick")?, "the agent was killed too late to tell anything");
        // It reads all of its disk while nobody serves the rest: it stands still, and sees no error.
        inside(grid, "quick", "dd if=/dev/vda of=/dev/null bs=1M && echo read-all > /dev/ttyS0")?;
        eventually("it waits for its data", SHOWN, || {
            let state = grid.virsh(1, &["domstate", "quick", "--reason"])?;
            ensure!(state.contains("I/O error"), "it is {state}");
            Ok(())
        })?;
        grid.start_agent(1)?;
        grid.await_host(1, "up", START)?;
        whole(grid, "quick")?;
        ticks_on(grid, &quick)?;
        eventually("it has read its disk without an error", LONG, || {
            let said = serial(grid, &quick)?;
            ensure!(said.contains("read-all") && !said.contains("I/O error"), "{}", tail(&said));
            Ok(())
        })?;
        same_disks(grid, "quick")?;

        let orphan = at_once(grid, &point, "orphan")?;
        grid.kill(1)?;
        ensure!(over_the_point(grid, "orphan")?, "the agent was killed too late to tell anything");
        grid.lab.exec(1, &["mv", PACKS, "/var/lib/roost/gone"])?;
        grid.start_agent(1)?;
        eventually("what is missing is told", LONG, || {
            let alarm = alarm(grid, "restore-pull")?.context("no alarm")?;
            ensure!(alarm.contains("vda") && alarm.contains("is kept"), "{alarm}");
            Ok(())
        })?;
        ensure!(over_the_point(grid, "orphan")?, "its layer is kept");
        grid.kill(1)?;
        grid.lab.exec(1, &["sh", "-c", &format!("rm -rf {PACKS}; mv /var/lib/roost/gone {PACKS}")])?;
        grid.start_agent(1)?;
        grid.await_host(1, "up", START)?;
        whole(grid, "orphan")?;
        ticks_on(grid, &orphan)?;
        same_disks(grid, "orphan")
    });
}

/// A Linux guest with half a gigabyte of noise on its disk, backed up; gives the point.
fn backed_up(grid: &Grid) -> Result<String> {
    grid.lab.exec(1, &["sh", "-c", &format!("head -c 512M /dev/urandom > {IMAGE}")])?;
    let mut desk = tiny("desk", "h1", false);
    desk["memory_mib"] = json!(128);
    let cmdline = "console=ttyS0 roost.hb=1";
    desk["boot"] = json!({"from": "kernel", "kernel": "vmlinuz", "initrd": "initrd.cpio", "cmdline": cmdline});
    desk["disks"] = json!([{"from": "image", "path": "data.raw", "format": "raw"}]);
    grid.api.done(Method::POST, "/guests", &desk)?;
    let made = grid.api.post("/backup-sets/desk/actions/run", &json!({}))?;
    let made = grid.api.ended(&made, LONG)?;
    ensure!(made["state"] == "succeeded", "{made}");
    let set = grid.api.get("/backup-sets/desk")?;
    set["newest_point"].as_str().map(str::to_owned).context("the point")
}

/// Restores as new, at once; gives its folder once it is up.
fn at_once(grid: &Grid, point: &str, name: &str) -> Result<String> {
    let restore = format!("/backup-sets/desk/backups/{point}/actions/restore");
    let asked = grid.api.post(&restore, &json!({"name": name, "at_once": true, "start": true}))?;
    let ended = grid.api.ended(&asked, LONG)?;
    ensure!(ended["state"] == "succeeded", "{ended}");
    let guest = grid.api.get(&format!("/guests/{name}"))?;
    ensure!(guest["state"] == "running", "{guest}");
    Ok(format!("/var/lib/roost/guests/{}", guest["id"].as_str().context("its id")?))
}

fn over_the_point(grid: &Grid, name: &str) -> Result<bool> {
    Ok(grid.virsh(1, &["dumpxml", name])?.contains("protocol='nbd'"))
}

/// Has a shell in the guest do this; the guest need not be up yet.
fn inside(grid: &Grid, name: &str, script: &str) -> Result<()> {
    let ask = json!({"execute": "guest-exec", "arguments": {"path": "/bin/sh", "arg": ["-c", script]}}).to_string();
    eventually("the guest's own agent takes an order", LONG, || {
        grid.virsh(1, &["qemu-agent-command", name, &ask]).map(drop)
    })
}

fn alarm(grid: &Grid, code: &str) -> Result<Option<String>> {
    let host = grid.api.get("/hosts/h1")?;
    let alarms = host["alarms"].as_array().context("alarms")?;
    let found = alarms.iter().find(|alarm| alarm["code"] == code);
    Ok(found.and_then(|alarm| alarm["text"].as_str()).map(str::to_owned))
}

fn whole(grid: &Grid, name: &str) -> Result<()> {
    eventually("all data is here", LONG, || {
        ensure!(!over_the_point(grid, name)?, "{:?}", alarm(grid, "restore-pulling")?);
        let state = grid.virsh(1, &["domstate", name, "--reason"])?;
        let block = grid.virsh(1, &["domblkerror", name])?;
        ensure!(state.starts_with("running"), "it is {state} {block}");
        Ok(())
    })?;
    eventually("nothing more is told of it", SHOWN, || {
        ensure!(alarm(grid, "restore-pulling")?.is_none() && alarm(grid, "restore-pull")?.is_none(), "alarms stay");
        Ok(())
    })
}

fn serial(grid: &Grid, folder: &str) -> Result<String> {
    grid.lab.exec(1, &["sh", "-c", &format!("tr -cd '[:print:]\\n' < {folder}/serial.log")])
}

fn tail(said: &str) -> String {
    said.lines().rev().take(5).collect::<Vec<_>>().join(" / ")
}

fn ticks_on(grid: &Grid, folder: &str) -> Result<()> {
    let ticks = |said: &str| said.matches("ROOST-HB").count();
    let before = ticks(&serial(grid, folder)?);
    eventually("it ticks on", LONG, || {
        let said = serial(grid, folder)?;
        ensure!(ticks(&said) > before, "{}", tail(&said));
        Ok(())
    })
}

fn same_disks(grid: &Grid, name: &str) -> Result<()> {
    grid.api.act(name, "stop")?;
    let guest: Value = grid.api.get(&format!("/guests/{name}"))?;
    let disk = guest["disks"][0]["path"].as_str().context("its disk")?;
    let info = grid.lab.exec(1, &["qemu-img", "info", disk])?;
    ensure!(!info.contains("backing"), "{info}");
    grid.lab.exec(1, &["qemu-img", "compare", "-f", "raw", "-F", "qcow2", IMAGE, disk]).map(drop)
}
