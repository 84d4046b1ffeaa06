//! A guest's whole life by REST, and what is refused.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use roost_tests::grid::{self, Grid, eventually, tiny, until};
use serde_json::{Value, json};

/// A state that an operation reached shows this soon, on a machine that stands still for some seconds too.
const SHOWN: Duration = Duration::from_secs(20);
/// A Linux guest without hardware virtualisation on a loaded machine.
const BOOT: Duration = Duration::from_secs(60);

#[test]
fn real_guest_lives_its_whole_life_by_rest() {
    grid::story(1, |grid| {
        grid.join_all()?;
        let mut spec = tiny("life", "h1", false);
        spec["disks"] = json!([{"from": "blank", "size_mib": 64}]);
        grid.api.done(Method::POST, "/guests", &spec)?;
        let seen = grid.await_guest("life", "off", SHOWN)?;
        ensure!(seen["managed"] == true && seen["disks"][0]["format"] == "qcow2", "{seen}");
        for (verb, state) in
            [("start", "running"), ("pause", "paused"), ("resume", "running"), ("reset", "running"), ("stop", "off")]
        {
            grid.api.act("life", verb)?;
            grid.await_guest("life", state, SHOWN)?;
            ensure!(virsh_state(grid, "life")? == state, "virsh says {}", virsh_state(grid, "life")?);
        }
        grid.api.done(Method::DELETE, "/guests/life", &Value::Null)?;
        nothing_is_left(grid)
    });
}

#[test]
fn real_linux_guest_shuts_down_when_asked_and_stays_off() {
    grid::story(1, |grid| {
        grid.join_all()?;
        let spec = json!({"name": "linux", "host": "h1", "memory_mib": 128, "start": true, "boot": {"from": "kernel",
            "kernel": "vmlinuz", "initrd": "initrd.cpio", "cmdline": "console=ttyS0 quiet panic=-1 roost.quiet=1"}});
        grid.api.done(Method::POST, "/guests", &spec)?;
        let seen = grid.await_guest("linux", "running", SHOWN)?;
        let serial = format!("/var/lib/roost/guests/{}/serial.log", seen["id"].as_str().context("its id")?);
        eventually("the guest has booted", BOOT, || {
            let words = grid.lab.exec(1, &["cat", &serial])?;
            ensure!(words.contains("ROOST-READY"), "it says {words:?}");
            Ok(())
        })?;
        grid.api.act("linux", "shutdown")?;
        let off = grid.await_guest("linux", "off", BOOT)?;
        ensure!(off["desired"] == "stopped" && off["restarts"] == 0, "{off}");
        Ok(())
    });
}

#[test]
fn real_refused_guests_leave_nothing_behind() {
    grid::story(1, |grid| {
        grid.join_all()?;
        // libvirt's own no: a machine that QEMU doesn't have.
        let xml = "<domain type='qemu'><name>odd</name><memory unit='MiB'>16</memory><vcpu>1</vcpu>\
                   <os><type arch='x86_64' machine='pc-nonsense'>hvm</type></os></domain>";
        let asked = grid.api.post("/guests/import", &json!({"host": "h1", "xml": xml}))?;
        let ended = grid.api.ended(&asked, BOOT)?;
        ensure!(ended["state"] == "failed", "{ended}");
        let error = &ended["error"];
        let said = error["detail"].as_str().is_some_and(|detail| detail.contains("libvirt"));
        ensure!(error["code"] == "hypervisor" && said, "not in libvirt's words: {ended}");
        nothing_is_left(grid)?;
        // Names that no file or XML could carry.
        for name in ["line\nbreak", &"x".repeat(300), "a/b", ""] {
            let answer = grid.api.call(Method::POST, "/guests", Some(&tiny(name, "h1", false)))?;
            ensure!(answer.status == 422 && answer.body["code"] == "invalid", "{name:?}: {answer:?}");
            ensure!(answer.body.to_string().contains("name"), "{name:?}: {answer:?}");
        }
        nothing_is_left(grid)?;
        // A name that both can.
        let name = "it's \"quoted\" & <odd> 🦉";
        grid.api.done(Method::POST, "/guests", &tiny(name, "h1", false))?;
        ensure!(grid.virsh(1, &["list", "--all", "--name"])?.contains(name), "virsh doesn't show {name:?}");
        let made = until("the guest is listed", SHOWN, || {
            grid.api.guests()?.into_iter().find(|guest| guest["name"] == name).context("it isn't")
        })?;
        grid.api.done(Method::DELETE, &format!("/guests/{}", made["id"].as_str().context("id")?), &Value::Null)?;
        nothing_is_left(grid)
    });
}

fn virsh_state(grid: &Grid, name: &str) -> Result<String> {
    Ok(grid.virsh(1, &["domstate", name])?.trim().replace("shut ", ""))
}

pub(crate) fn nothing_is_left(grid: &Grid) -> Result<()> {
    let domains = grid.virsh(1, &["list", "--all", "--name"])?;
    ensure!(domains.trim().is_empty(), "domains are left: {domains}");
    let files = grid.lab.exec(1, &["find", "/var/lib/roost/guests", "-mindepth", "1"])?;
    ensure!(files.is_empty(), "files are left: {files}");
    eventually("no guest is listed", SHOWN, || {
        let guests = grid.api.guests()?;
        ensure!(guests.is_empty(), "{guests:?}");
        Ok(())
    })
}
