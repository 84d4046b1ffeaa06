//! Domains that were there before Roost: shown as they are, never touched, followed as they change.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use roost_tests::grid::{self, Grid, eventually, text};

/// What was there is listed this soon after the host is.
const FOUND: Duration = Duration::from_secs(20);
/// A change made beside Roost shows: promised within 2 s, on a machine that does not stand still meanwhile. Who hears of no
/// change sees it a minute later.
const FOLLOWED: Duration = Duration::from_secs(20);

const NAMES: [&str; 3] = ["old-running", "old-stopped", "old-transient"];

#[test]
fn real_hosts_join_and_what_ran_before_is_listed_and_left_alone() {
    grid::story(3, |grid| {
        make_old_domains(grid)?;
        let before = definitions(grid)?;
        grid.join_all()?;
        let listed = grid.api.get("/hosts?state=up")?;
        ensure!(listed["items"].as_array().is_some_and(|hosts| hosts.len() == 3), "{listed}");
        let told = listed["items"][0]["system"].as_str().context("its system")?;
        let release = fs::read_to_string("/etc/os-release")?;
        ensure!(!told.is_empty() && release.contains(told), "{told:?} is not in {release}");
        for (name, state) in [("old-running", "running"), ("old-stopped", "off"), ("old-transient", "running")] {
            let seen = grid.await_guest(name, state, FOUND)?;
            ensure!(seen["managed"] == false && seen["host_name"] == "h1", "{seen}");
        }
        ensure!(definitions(grid)? == before, "a definition changed");
        changes_beside_roost_show(grid)
    });
}

fn make_old_domains(grid: &Grid) -> Result<()> {
    for name in NAMES {
        let file = grid.folder.join(format!("{name}.xml"));
        fs::write(&file, grid.lab.tiny_xml(name)?)?;
        let verb = if name == "old-transient" { "create" } else { "define" };
        grid.virsh(1, &[verb, text(&file)?])?;
    }
    grid.virsh(1, &["start", "old-running"]).map(drop)
}

fn definitions(grid: &Grid) -> Result<Vec<String>> {
    NAMES.iter().map(|name| grid.virsh(1, &["dumpxml", name])).collect()
}

fn changes_beside_roost_show(grid: &Grid) -> Result<()> {
    grid.virsh(1, &["suspend", "old-running"])?;
    grid.await_guest("old-running", "paused", FOLLOWED)?;
    grid.virsh(1, &["resume", "old-running"])?;
    grid.await_guest("old-running", "running", FOLLOWED)?;
    grid.virsh(1, &["destroy", "old-running"])?;
    grid.await_guest("old-running", "off", FOLLOWED)?;
    grid.virsh(1, &["start", "old-stopped"])?;
    grid.await_guest("old-stopped", "running", FOLLOWED)?;
    grid.virsh(1, &["destroy", "old-transient"])?;
    gone(grid, "old-transient")?;
    grid.virsh(1, &["undefine", "old-running"])?;
    gone(grid, "old-running")?;
    let file = grid.folder.join("new.xml");
    fs::write(&file, grid.lab.tiny_xml("new")?)?;
    grid.virsh(1, &["define", text(&file)?])?;
    grid.await_guest("new", "off", FOLLOWED).map(drop)
}

fn gone(grid: &Grid, name: &str) -> Result<()> {
    eventually(&format!("{name} is no longer listed"), FOLLOWED, || {
        let guests = grid.api.guests()?;
        ensure!(guests.iter().all(|guest| guest["name"] != name), "it is");
        Ok(())
    })
}
