//! A host with a fence device dies: whoever takes its guest over has its power cut first, by a program of others, and need
//! not wait for the promise.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use roost_tests::grid::{self, Grid, eventually};
use roost_tests::guards::now_ms;
use serde_json::json;

use crate::joined::{PROTECTED, await_protected, is, join_with, make_guest, shows_protected};

/// Of the calm profile, less a renewal that may be as old when the host dies.
const PROMISE_MS: u64 = 44_000;
/// Not to be shown, nor to stand in a log.
const SECRET: &str = "hidden-plug-word";

/// It says off where the host is on: another machine's.
fn is_refused_if_off(grid: &Grid, file: &Path) -> Result<()> {
    fs::write(file, "off")?;
    let answer = grid.api.call(Method::POST, "/hosts/h1/actions/test-fence", None)?;
    ensure!(answer.status == 409, "{answer:?}");
    fs::write(file, "on")?;
    Ok(())
}

fn set(grid: &Grid, file: &Path) -> Result<()> {
    let option = format!("status_file={}", file.display());
    let device = json!({"agent": "fence_dummy", "secret": SECRET, "options": [option]});
    let shown = grid.api.ok(Method::PUT, "/hosts/h1/fence", Some(&device))?;
    ensure!(shown["fence"]["secret_set"] == true && shown["fence"]["tested"].is_null(), "{shown}");
    ensure!(!shown.to_string().contains(SECRET), "{shown}");
    is_refused_if_off(grid, file)?;
    let shown = grid.roost(&["host", "test-fence", "h1", "-o", "json"])?;
    ensure!(shown.contains("\"tested\"") && !shown.contains(SECRET), "{shown}");
    Ok(())
}

fn explains(grid: &Grid) -> Result<()> {
    eventually("it is explained", PROTECTED, || {
        let told = grid.roost(&["explain", "guest", "desk"])?;
        let cut = ["the others miss the owner h1", "h1 is missed: its power is cut by fence_dummy", "h1 has no power"];
        for why in cut.into_iter().chain(["was fenced for certain", "with the votes of h", "it runs here"]) {
            ensure!(told.contains(why), "{why:?} is missing:\n{told}");
        }
        Ok(())
    })
}

#[test]
fn real_missed_host_is_fenced_by_fence_dummy_and_its_guest_waits_for_no_promise() {
    grid::story(3, |grid| {
        let file = Path::new("/tmp").join(format!("fence_dummy.{}", std::process::id()));
        // Its promise is so long that a fence is sooner on any machine.
        let guards = join_with(grid, 3, "calm")?;
        let guest = make_guest(grid)?;
        let second = await_protected(&guards, guest)?;
        shows_protected(grid, second)?;
        set(grid, &file)?;

        let died = now_ms()?;
        guards.power_off(1)?;
        eventually("the guest runs on its second home", PROTECTED, || is(grid, second, "running"))?;
        let took = now_ms()? - died;
        println!("fenced: made from its replica, the guest runs after {took} ms");
        ensure!(took < PROMISE_MS, "it waited for the promise: {took} ms");
        explains(grid)?;
        eventually("the host has power again", PROTECTED, || {
            let power = fs::read_to_string(&file)?;
            ensure!(power == "on", "it is {power}");
            Ok(())
        })?;
        for host in 0..=3 {
            let log = fs::read_to_string(grid.log(host)).context("a log")?;
            ensure!(!log.contains(SECRET), "the log of host {host} shows the secret");
        }
        Ok(fs::remove_file(file)?)
    });
}
