//! The host image boots in QEMU and its agent joins a grid. `make image-test` builds the image and runs these; they are
//! left out where `ROOST_IMAGE` does not name its folder.

mod machine;

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use machine::{Firmware, Machine, image};
use roost_tests::grid::{self, Grid, QUIC, eventually};

/// From power on to joined, emulated, on a busy machine of two processors.
const BOOT: Duration = Duration::from_secs(480);

/// A grid without hosts and the image's folder, where these tests are wanted.
fn story(tell: impl FnOnce(&mut Grid) -> Result<()>) {
    if image().is_none() {
        return eprintln!("skipped: ROOST_IMAGE names no folder with the host image; make image-test");
    }
    grid::story(0, tell);
}

/// The two answers as kernel parameters.
fn answers(grid: &Grid, name: &str) -> Result<String> {
    Ok(format!("roost.aggregator={}:{QUIC} roost.token={} roost.name={name}", grid.lab.address(0), grid.token(name)?))
}

fn is_up(grid: &Grid, name: &str) -> Result<String> {
    grid::until(&format!("{name} is up"), BOOT, || {
        let seen = grid.api.get(&format!("/hosts/{name}"))?;
        ensure!(seen["state"] == "up", "it is {}", seen["state"]);
        Ok(seen["id"].as_str().context("its id")?.to_owned())
    })
}

#[test]
fn image_joins_with_answers_among_the_kernel_s_parameters_and_says_that_it_keeps_nothing() {
    story(|grid| {
        let machine = Machine::kernel(grid, &answers(grid, "img1")?).start()?;
        is_up(grid, "img1")?;
        machine.says("agent       connected to the aggregator", BOOT)?;
        machine.says("nothing is kept over a reboot", BOOT)?;
        ensure!(!machine.said().contains("Failed to start"), "{}", machine.said());
        Ok(())
    });
}

#[test]
fn image_joins_from_a_stick_by_bios_with_answers_in_its_file() {
    story(|grid| from_stick(grid, "bios", Firmware::Bios));
}

#[test]
fn image_joins_from_a_stick_by_uefi_with_answers_in_its_file() {
    story(|grid| from_stick(grid, "uefi", Firmware::Uefi));
}

fn from_stick(grid: &mut Grid, name: &str, firmware: Firmware) -> Result<()> {
    let (address, token) = (grid.lab.address(0), grid.token(name)?);
    let file = format!("# answered\r\naggregator={address}:{QUIC}\r\ntoken={token}\r\nname={name}\r\n");
    let _machine = Machine::stick(grid, firmware, &file)?.start()?;
    is_up(grid, name).map(drop)
}

#[test]
fn image_joins_by_network_boot_with_ipxe() {
    story(|grid| {
        let _machine = Machine::network(grid, &answers(grid, "pxe")?)?.start()?;
        is_up(grid, "pxe").map(drop)
    });
}

#[test]
fn image_with_a_changed_root_is_not_started() {
    story(|grid| {
        let machine = Machine::kernel(grid, &answers(grid, "tampered")?).tampered(grid)?.start()?;
        machine.says("it is damaged or was changed; this host is not started", BOOT)?;
        ensure!(!machine.said().contains("Welcome to"), "{}", machine.said());
        Ok(())
    });
}

#[test]
fn image_says_why_its_aggregator_is_not_reached_and_joins_once_it_is() {
    story(|grid| {
        let parameters = answers(grid, "late")?;
        grid.stop_aggregator()?;
        let machine = Machine::kernel(grid, &parameters).start()?;
        machine.says("no connection to the aggregator: reach the aggregator", BOOT)?;
        grid.start_aggregator()?;
        grid.log_in()?;
        is_up(grid, "late").map(drop)
    });
}

#[test]
fn image_says_why_its_token_is_refused() {
    story(|grid| {
        // Its life is over long before the machine is up.
        let made = grid.api.post("/join-tokens", &serde_json::json!({"name": "late", "ttl_s": 1}))?;
        let token = made["token"].as_str().context("the token")?;
        let parameters = format!("roost.aggregator={}:{QUIC} roost.token={token}", grid.lab.address(0));
        let machine = Machine::kernel(grid, &parameters).start()?;
        machine.says("the aggregator refused:", BOOT)?;
        let hosts = grid.api.get("/hosts")?;
        ensure!(hosts["items"].as_array().is_some_and(Vec::is_empty), "it was let in: {hosts}");
        Ok(())
    });
}

#[test]
fn image_keeps_its_state_on_a_blank_disk_it_was_allowed_to_take_and_leaves_others_alone() {
    story(|grid| {
        let full = grid.folder.join("full.raw");
        fs::File::create(&full)?.set_len(3 << 30)?;
        grid::output(std::process::Command::new("mkfs.ext4").args(["-q", "-L", "precious"]).arg(&full))?;
        let before = first_bytes(&full)?;
        let blank = grid.folder.join("blank.raw");
        fs::File::create(&blank)?.set_len(2 << 30)?;
        let parameters = format!("{} roost.format=blank", answers(grid, "disk")?);
        let machine = Machine::kernel(grid, &parameters).disk(&full).disk(&blank).start()?;
        let host = is_up(grid, "disk")?;
        machine.says("is made and mounted", BOOT)?;
        drop(machine); // its power is cut
        eventually("it is seen to be away", BOOT, || {
            let seen = grid.api.get("/hosts/disk")?;
            ensure!(seen["state"] != "up", "it is up");
            Ok(())
        })?;
        let machine = Machine::kernel(grid, &parameters).disk(&full).disk(&blank).start()?;
        ensure!(is_up(grid, "disk")? == host, "it came back as another host");
        machine.says("is mounted", BOOT)?;
        drop(machine);
        ensure!(first_bytes(&full)? == before, "a disk that was not blank was written to");
        Ok(())
    });
}

fn first_bytes(path: &std::path::Path) -> Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(64 << 20).read_to_end(&mut bytes)?;
    Ok(bytes)
}
