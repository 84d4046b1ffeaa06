//! Points of real guests are booted to prove them: one that starts, one whose disk no longer does, and an agent that is
//! killed in the middle.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use roost_tests::grid::{self, Grid, START, eventually, text, tiny};
use serde_json::{Value, json};

/// An emulated Linux guest is up in 13 s on an idle machine.
const PROVEN: Duration = Duration::from_secs(180);
/// A condition shows, and a killed trial is gone, this soon.
const SHOWN: Duration = Duration::from_secs(30);
/// A boot sector that asks for a log-in on the serial port, 18 times a second.
const BOOT: &[u8] =
    b"\x31\xc0\x8e\xd8\xfb\xbe\x22\x7c\xac\x84\xc0\x74\x12\x88\xc4\xba\xfd\x03\xec\xa8\x20\x74\xfb\xba\xf8\
                      \x03\x88\xe0\xee\xeb\xe9\xf4\xeb\xe3web login: \r\n\0";
const DISK: &str = "/var/lib/roost/images/boot.raw";
/// What a host is asked to see whether anything of a trial is left.
const LEFT: &str = "virsh -q -c qemu:///system list --all --name | grep roost-trial; ls -d /var/lib/roost/scratch/trial; \
                    pgrep -f [g]uest=roost-trial; true";

#[test]
fn real_points_are_proven_by_booting_them_and_one_that_does_not_start_is_told() {
    grid::story(1, |grid| {
        grid.join_all()?;
        make_guests(grid)?;
        for (name, sign) in [("desk", "guest agent"), ("web", "log-in")] {
            proven(grid, name, sign)?;
        }
        ensure!(grid.virsh(1, &["domstate", "desk"])?.trim() == "running", "the original is not touched");
        screens(grid)?;

        killed_in_the_middle(grid)?;
        proven_by_itself(grid)?;

        // The boot sector is lost; the next point can't start.
        grid.api.act("web", "stop")?;
        let disk = grid.api.get("/guests/web")?["disks"][0]["path"].as_str().context("its disk")?.to_owned();
        let format = if disk.ends_with(".raw") { "raw" } else { "qcow2" };
        grid.lab.exec(1, &["qemu-io", "-f", format, "-c", "write -z 0 512", &disk])?;
        grid.api.done(Method::POST, "/backup-sets/web/actions/run", &json!({}))?;
        let failed = grid.api.post("/backup-sets/web/actions/prove", &json!({}))?;
        let failed = grid.api.ended(&failed, PROVEN)?;
        ensure!(failed["error"].to_string().contains("no bootable device"), "{failed}");
        ensure!(failed["error"].to_string().contains("/pictures/"), "there is a picture: {failed}");
        a_picture(grid, "/backup-sets/web/picture")?;
        let point = newest(grid, "web")?;
        ensure!(point["proof"] == "failed", "{point}");
        eventually("people are told", SHOWN, || {
            let host = grid.api.get("/hosts/h1")?;
            ensure!(host["alarms"].to_string().contains("backup-unproven"), "{host}");
            Ok(())
        })?;
        let set = grid.api.get("/backup-sets/web")?;
        ensure!(!set["proven_point"].is_null() && set["proven_point"] != point["id"], "an older one is proven: {set}");
        nothing_left(grid)
    });
}

fn make_guests(grid: &Grid) -> Result<()> {
    let mut image = vec![0; 16 << 20];
    image[..BOOT.len()].copy_from_slice(BOOT);
    image[510..512].copy_from_slice(b"\x55\xaa");
    let made = grid.folder.join("boot.raw");
    fs::write(&made, image)?;
    grid.lab.exec(1, &["cp", text(&made)?, DISK])?;
    let mut desk = tiny("desk", "h1", true);
    desk["memory_mib"] = json!(128);
    desk["boot"] = json!({"from": "kernel", "kernel": "vmlinuz", "initrd": "initrd.cpio", "cmdline": "console=ttyS0"});
    desk["disks"] = json!([{"from": "blank", "size_mib": 64}]);
    let web = json!({
        "name": "web", "host": "h1", "memory_mib": 32, "start": true,
        "boot": {"from": "disk"}, "disks": [{"from": "image", "path": "boot.raw", "format": "raw"}],
    });
    for guest in [desk, web] {
        let name = guest["name"].as_str().context("a name")?.to_owned();
        grid.api.done(Method::POST, "/guests", &guest)?;
        grid.api.done(Method::POST, &format!("/backup-sets/{name}/actions/run"), &json!({}))?;
    }
    Ok(())
}

/// A guest with a screen shows it; one with a console only has none.
fn screens(grid: &Grid) -> Result<()> {
    let refused = grid.api.call(Method::GET, "/guests/web/screen", None)?;
    ensure!(refused.status == 409 && refused.body.to_string().contains("no screen"), "{refused:?}");
    let seen = grid.folder.join("seen.xml");
    fs::write(&seen, grid.lab.tiny_xml("seen")?.replace("<model type='none'/>", "<model type='vga'/>"))?;
    grid.virsh(1, &["create", text(&seen)?])?;
    grid.await_guest("seen", "running", SHOWN)?;
    // While its firmware sets the screen up there is nothing on it.
    eventually("its screen shows something", SHOWN, || a_picture(grid, "/guests/seen/screen"))?;
    grid.virsh(1, &["destroy", "seen"])?;
    eventually("it is gone", SHOWN, || {
        let refused = grid.api.call(Method::GET, "/guests/seen/screen", None)?;
        ensure!(refused.status == 404, "{refused:?}");
        Ok(())
    })
}

/// A program that others wrote can read it.
fn a_picture(grid: &Grid, path: &str) -> Result<()> {
    let (media_type, bytes) = grid.api.bytes(path)?;
    let file = grid.folder.join("picture.png");
    fs::write(&file, &bytes)?;
    let said = grid.lab.exec(0, &["python3", "-c", include_str!("png.py"), text(&file)?])?;
    let seen: Vec<u32> = said.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    ensure!(media_type == "image/png" && seen[0] >= 640 && seen[1] >= 400 && seen[2] > 1, "{media_type} {said}");
    Ok(())
}

fn newest(grid: &Grid, guest: &str) -> Result<Value> {
    let list = grid.api.get(&format!("/backup-sets/{guest}/backups"))?;
    list["items"][0].as_object().cloned().map(Value::Object).context("a point")
}

fn proven(grid: &Grid, guest: &str, sign: &str) -> Result<()> {
    let proof = grid.api.post(&format!("/backup-sets/{guest}/actions/prove"), &json!({}))?;
    let proof = grid.api.ended(&proof, PROVEN)?;
    let (point, set) = (newest(grid, guest)?, grid.api.get(&format!("/backup-sets/{guest}"))?);
    let by = point["proof_text"].as_str().unwrap_or_default();
    ensure!(point["proof"] == "proven" && by.contains(sign), "{proof} {point}");
    ensure!(set["proven_point"] == point["id"] && !set["proven"].is_null(), "the last proven restore shows: {set}");
    nothing_left(grid)
}

/// With a policy nobody has to ask.
fn proven_by_itself(grid: &Grid) -> Result<()> {
    grid.api.post("/backup-policies", &json!({"name": "proving", "prove_every_s": 60}))?;
    grid.api.done(Method::POST, "/backup-sets/desk/actions/run", &json!({}))?;
    ensure!(newest(grid, "desk")?["proof"] == "untried", "nobody asked for it");
    grid.api.done(Method::POST, "/backup-sets/desk/actions/set-policy", &json!({"policy": "proving"}))?;
    // It waits for its time, and for a host that is not busy.
    eventually("the newest point is proven", 2 * PROVEN, || {
        let point = newest(grid, "desk")?;
        ensure!(point["proof"] == "proven", "{point}");
        Ok(())
    })?;
    nothing_left(grid)
}

fn nothing_left(grid: &Grid) -> Result<()> {
    let left = grid.lab.exec(1, &["sh", "-c", &format!("{{ {LEFT}; }} 2>/dev/null")])?;
    ensure!(left.trim().is_empty(), "left of a trial: {left}");
    Ok(())
}

fn killed_in_the_middle(grid: &mut Grid) -> Result<()> {
    grid.api.done(Method::POST, "/backup-sets/desk/actions/run", &json!({}))?;
    let proof = grid.api.post("/backup-sets/desk/actions/prove", &json!({}))?;
    eventually("the trial runs", SHOWN, || grid.virsh(1, &["domstate", "roost-trial"]).map(drop))?;
    ensure!(grid.api.guests()?.len() == 2, "a trial is nobody's guest");
    grid.kill(1)?;
    eventually("libvirt ends what its dead owner began", SHOWN, || {
        ensure!(grid.virsh(1, &["domstate", "roost-trial"]).is_err(), "it runs on");
        Ok(())
    })?;
    grid.start_agent(1)?;
    grid.await_host(1, "up", START)?;
    let proof = grid.api.ended(&proof, PROVEN)?;
    let point = newest(grid, "desk")?;
    ensure!(point["proof"] == "proven", "it was done again: {proof} {point}");
    nothing_left(grid)
}
