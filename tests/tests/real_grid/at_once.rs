//! A guest that is started at once from its backup while its data is brought in: the agent is killed in the middle, the
//! guest reads what is not here yet, and the backup is gone for a while.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use roost_tests::grid::{self, Grid, START, eventually, text, tiny};
use serde_json::{Value, json};

/// Emulated guests, and half a gigabyte through a debug build.
pub(crate) const LONG: Duration = Duration::from_secs(120);
pub(crate) const SHOWN: Duration = Duration::from_secs(30);
const IMAGE: &str = "/var/lib/roost/images/data.raw";
const PACKS: &str = "/var/lib/roost/backups/packs";

#[test]
fn real_guest_started_at_once_outlives_its_agent_and_its_backup_and_gets_all_its_data() {
    grid::story(1, |grid| {
        grid.join_all()?;
        let point = backed_up(grid)?;
        let quick = at_once(grid, 1, &point, "quick")?;
        grid.kill(1)?;
        ensure!(over_the_point(grid, 1, "quick")?, "the agent was killed too late to tell anything");
        let shown = grid.api.get("/guests/quick")?;
        ensure!(shown["restored_percent"].as_u64().is_some() && shown["restored_from"] == point, "{shown}");
        // It reads all of its disk while nobody serves the rest: it stands still, and sees no error.
        inside(grid, 1, "quick", "dd if=/dev/vda of=/dev/null bs=1M && echo read-all > /dev/ttyS0")?;
        eventually("it waits for its data", SHOWN, || {
            let state = grid.virsh(1, &["domstate", "quick", "--reason"])?;
            ensure!(state.contains("I/O error"), "it is {state}");
            Ok(())
        })?;
        grid.start_agent(1)?;
        grid.await_host(1, "up", START)?;
        whole(grid, 1, "quick")?;
        ticks_on(grid, 1, &quick)?;
        eventually("it has read its disk without an error", LONG, || {
            let said = serial(grid, 1, &quick)?;
            ensure!(said.contains("read-all") && !said.contains("I/O error"), "{}", tail(&said));
            Ok(())
        })?;
        same_disks(grid, 1, "quick")?;

        let orphan = at_once(grid, 1, &point, "orphan")?;
        grid.kill(1)?;
        ensure!(over_the_point(grid, 1, "orphan")?, "the agent was killed too late to tell anything");
        grid.lab.exec(1, &["mv", PACKS, "/var/lib/roost/gone"])?;
        grid.start_agent(1)?;
        eventually("what is missing is told", LONG, || {
            let alarm = alarm(grid, 1, "restore-pull")?.context("no alarm")?;
            ensure!(alarm.contains("vda") && alarm.contains("is kept"), "{alarm}");
            Ok(())
        })?;
        ensure!(over_the_point(grid, 1, "orphan")?, "its layer is kept");
        grid.kill(1)?;
        grid.lab.exec(1, &["sh", "-c", &format!("rm -rf {PACKS}; mv /var/lib/roost/gone {PACKS}")])?;
        grid.start_agent(1)?;
        grid.await_host(1, "up", START)?;
        whole(grid, 1, "orphan")?;
        ticks_on(grid, 1, &orphan)?;
        same_disks(grid, 1, "orphan")
    });
}

/// A Linux guest with half a gigabyte of noise on its disk, backed up; gives the point.
pub(crate) fn backed_up(grid: &Grid) -> Result<String> {
    let image = grid.folder.join("data.raw");
    let noise = format!("head -c 512M /dev/urandom > {0} && cp {0} {IMAGE}", text(&image)?);
    grid.lab.exec(1, &["sh", "-c", &noise])?;
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
pub(crate) fn at_once(grid: &Grid, on: u8, point: &str, name: &str) -> Result<String> {
    let restore = format!("/backup-sets/desk/backups/{point}/actions/restore");
    let wish = json!({"name": name, "host": format!("h{on}"), "at_once": true, "start": true});
    let asked = grid.api.post(&restore, &wish)?;
    let ended = grid.api.ended(&asked, LONG)?;
    ensure!(ended["state"] == "succeeded", "{ended}");
    let guest = grid.await_guest(name, "running", SHOWN)?;
    Ok(format!("/var/lib/roost/guests/{}", guest["id"].as_str().context("its id")?))
}

pub(crate) fn over_the_point(grid: &Grid, on: u8, name: &str) -> Result<bool> {
    Ok(grid.virsh(on, &["dumpxml", name])?.contains("protocol='nbd'"))
}

/// Has a shell in the guest do this; the guest need not be up yet.
pub(crate) fn inside(grid: &Grid, on: u8, name: &str, script: &str) -> Result<()> {
    let ask = json!({"execute": "guest-exec", "arguments": {"path": "/bin/sh", "arg": ["-c", script]}}).to_string();
    eventually("the guest's own agent takes an order", LONG, || {
        grid.virsh(on, &["qemu-agent-command", name, &ask]).map(drop)
    })
}

pub(crate) fn alarm(grid: &Grid, on: u8, code: &str) -> Result<Option<String>> {
    let host = grid.api.get(&format!("/hosts/h{on}"))?;
    let alarms = host["alarms"].as_array().context("alarms")?;
    let found = alarms.iter().find(|alarm| alarm["code"] == code);
    Ok(found.and_then(|alarm| alarm["text"].as_str()).map(str::to_owned))
}

/// How much of the data of a guest that was started at once is here, as everybody sees it; none: all.
fn percent(grid: &Grid, name: &str) -> Result<Option<u64>> {
    Ok(grid.api.get(&format!("/guests/{name}"))?["restored_percent"].as_u64())
}

pub(crate) fn whole(grid: &Grid, on: u8, name: &str) -> Result<()> {
    eventually("all data is here", LONG, || {
        ensure!(!over_the_point(grid, on, name)?, "{:?} %", percent(grid, name)?);
        let state = grid.virsh(on, &["domstate", name, "--reason"])?;
        let block = grid.virsh(on, &["domblkerror", name])?;
        ensure!(state.starts_with("running"), "it is {state} {block}");
        Ok(())
    })?;
    eventually("nothing more is told of it", SHOWN, || {
        ensure!(percent(grid, name)?.is_none(), "{:?} %", percent(grid, name)?);
        ensure!(alarm(grid, on, "restore-pull")?.is_none(), "the alarm stays");
        Ok(())
    })
}

pub(crate) fn serial(grid: &Grid, on: u8, folder: &str) -> Result<String> {
    grid.lab.exec(on, &["sh", "-c", &format!("tr -cd '[:print:]\\n' < {folder}/serial.log")])
}

pub(crate) fn tail(said: &str) -> String {
    said.lines().rev().take(5).collect::<Vec<_>>().join(" / ")
}

pub(crate) fn ticks_on(grid: &Grid, on: u8, folder: &str) -> Result<()> {
    let ticks = |said: &str| said.matches("ROOST-HB").count();
    let before = ticks(&serial(grid, on, folder)?);
    eventually("it ticks on", LONG, || {
        let said = serial(grid, on, folder)?;
        ensure!(ticks(&said) > before, "{}", tail(&said));
        Ok(())
    })
}

/// The guest's disk is the image that was backed up, byte by byte.
pub(crate) fn same_disks(grid: &Grid, on: u8, name: &str) -> Result<()> {
    grid.api.act(name, "stop")?;
    let guest: Value = grid.api.get(&format!("/guests/{name}"))?;
    let disk = guest["disks"][0]["path"].as_str().context("its disk")?;
    let info = grid.lab.exec(on, &["qemu-img", "info", disk])?;
    ensure!(!info.contains("backing"), "{info}");
    let image = grid.folder.join("data.raw");
    grid.lab.exec(on, &["qemu-img", "compare", "-f", "raw", "-F", "qcow2", text(&image)?, disk]).map(drop)
}
