//! Agent and QEMU are killed while a guest that counts on its disk is backed up: it goes on, and what was finished is whole.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use roost_tests::grid::{self, Grid, START, eventually, tiny, until};
use serde_json::{Value, json};

const LONG: Duration = Duration::from_secs(180);
/// A guest whose backup was broken off ticks on: each second by its own clock, which is slow where it is emulated.
const TICKS_ON: Duration = Duration::from_secs(10);
const IMAGE: &str = "/var/lib/roost/images/count.raw";
/// Counts in the first sector of the disk, each number synced before the next.
const COUNT: &str =
    "i=0; while :; do i=$((i+1)); printf '%015d\\n' $i | dd of=/dev/vda bs=16 count=1 conv=notrunc,fsync; done";

/// Of a number, with zeros before it.
const DIGITS: usize = 15;

#[test]
fn real_killed_agent_and_qemu_in_the_middle_of_backups_leave_whole_points_and_a_guest_that_goes_on() {
    grid::story(1, |grid| {
        grid.join_all()?;
        let disk = counting_guest(grid)?;
        let first = back_up(grid, &disk)?;
        for _ in 0..2 {
            let (operation, counted) = begun(grid, &disk)?;
            grid.kill(1)?;
            ticks_on(grid, &disk)?;
            grid.start_agent(1)?;
            grid.await_host(1, "up", START)?;
            ticks_on(grid, &disk)?;
            // It was asked for, so it is made all the same.
            let ended = grid.api.ended(&operation, LONG)?;
            ensure!(ended["state"] == "succeeded", "{ended}");
            shows_at_least(grid, counted)?;
        }
        let (operation, counted) = begun(grid, &disk)?;
        let qemu = grid.qemu(1, "desk")?;
        grid.lab.exec(1, &["kill", "-9", &qemu.to_string()])?;
        until("a crashed guest runs again", START, || {
            ensure!(grid.qemu(1, "desk")? != qemu, "still the old one");
            Ok(())
        })?;
        grid.api.ended(&operation, LONG)?;
        back_up(grid, &disk)?;
        shows_at_least(grid, counted)?;
        ensure!(points(grid)?.iter().any(|point| point["id"] == first), "points before stay");
        grid.api.done(Method::POST, "/backup-sets/desk/actions/verify", &json!({}))?;
        ensure!(points(grid)?.iter().all(|point| point["damaged"].is_null()), "all are whole");
        eventually("nothing is left of backups", START, || {
            let left = scratch(grid)?;
            ensure!(left.is_empty(), "left of backups: {left}");
            Ok(())
        })
    });
}

/// Gives its disk, a raw file, so that it can be looked into while the guest runs.
fn counting_guest(grid: &Grid) -> Result<String> {
    grid.lab.exec(1, &["sh", "-c", &format!("head -c 256M /dev/urandom > {IMAGE}")])?;
    let mut desk = tiny("desk", "h1", true);
    desk["memory_mib"] = json!(128);
    desk["boot"] =
        json!({"from": "kernel", "kernel": "vmlinuz", "initrd": "initrd.cpio", "cmdline": "console=ttyS0 roost.hb=1"});
    desk["disks"] = json!([{"from": "image", "path": "count.raw", "format": "raw"}]);
    grid.api.done(Method::POST, "/guests", &desk)?;
    let disk = grid.api.get("/guests/desk")?["disks"][0]["path"].as_str().context("its disk")?.to_owned();
    let ask = json!({"execute": "guest-exec", "arguments": {"path": "/bin/sh", "arg": ["-c", COUNT]}}).to_string();
    eventually("the guest's agent is there", LONG, || grid.virsh(1, &["qemu-agent-command", "desk", &ask]).map(drop))?;
    eventually("it counts", LONG, || {
        ensure!(count(grid, &disk)? > 10, "not yet");
        Ok(())
    })?;
    Ok(disk)
}

/// The number that the disk shows now.
fn count(grid: &Grid, disk: &str) -> Result<u64> {
    let text =
        grid.lab.exec(1, &["sh", "-c", &format!("dd if={disk} bs={DIGITS} count=1 2>/dev/null | tr -cd 0-9")])?;
    // What lay there before the first number has digits too, but not only.
    let digits = Some(text.trim()).filter(|text| text.len() == DIGITS);
    Ok(digits.and_then(|digits| digits.parse().ok()).unwrap_or(0))
}

/// It tells each second that it lives; what it writes may go to a layer that is not looked into.
fn ticks_on(grid: &Grid, disk: &str) -> Result<()> {
    let serial = std::path::Path::new(disk).with_file_name("serial.log");
    let ticks = || -> Result<usize> {
        let said = grid.lab.exec(1, &["sh", "-c", &format!("tr -cd '[:print:]\\n' < {}", grid::text(&serial)?)])?;
        Ok(said.matches("ROOST-HB").count())
    };
    let before = ticks()?;
    until("it ticks on", TICKS_ON, || {
        ensure!(ticks()? > before, "it stands still");
        Ok(())
    })
}

/// Where backups that are under way keep what the guest overwrites.
fn scratch(grid: &Grid) -> Result<String> {
    Ok(grid.lab.exec(1, &["ls", "/var/lib/roost/scratch"])?.trim().to_owned())
}

/// A backup that reads now, and the number that was written before it was asked for. One that was over before anybody
/// looked is asked for again.
fn begun(grid: &Grid, disk: &str) -> Result<(Value, u64)> {
    until("a backup reads", LONG, || {
        let counted = count(grid, disk)?;
        let operation = grid.api.post("/backup-sets/desk/actions/run", &json!({"full": true}))?;
        let path = format!("/operations/{}", operation["id"].as_str().context("its id")?);
        loop {
            if !scratch(grid)?.is_empty() {
                return Ok((operation, counted));
            }
            let shown = grid.api.get(&path)?;
            ensure!(shown["state"] != "failed" && shown["state"] != "succeeded", "it is over: {shown}");
        }
    })
}

fn back_up(grid: &Grid, disk: &str) -> Result<Value> {
    let counted = count(grid, disk)?;
    let made = grid.api.post("/backup-sets/desk/actions/run", &json!({}))?;
    let made = grid.api.ended(&made, LONG)?;
    ensure!(made["state"] == "succeeded", "{made}");
    shows_at_least(grid, counted)?;
    Ok(points(grid)?[0]["id"].clone())
}

fn points(grid: &Grid) -> Result<Vec<Value>> {
    let list = grid.api.get("/backup-sets/desk/backups")?;
    Ok(list["items"].as_array().context("points")?.clone())
}

/// The newest point, written out by the program alone, has counted so far at least.
fn shows_at_least(grid: &Grid, counted: u64) -> Result<()> {
    let point = points(grid)?[0]["id"].as_str().context("the point's id")?.to_owned();
    let program = grid::program("roost-agent")?;
    let program = grid::text(&program)?;
    let export = format!(
        "rm -f /var/out.*; {program} store export {point} --qcow2 /var/out.qcow2 --store /var/lib/roost/backups && \
         qemu-img convert -f qcow2 -O raw /var/out.qcow2 /var/out.raw"
    );
    grid.lab.exec(1, &["sh", "-c", &export])?;
    let shown = count(grid, "/var/out.raw")?;
    ensure!(shown >= counted, "point {point} shows {shown}, {counted} had been written before");
    Ok(())
}
