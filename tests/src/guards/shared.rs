//! A guest that two hosts have the definition and folder of, as hosts with storage in common do.

use std::fs;

use anyhow::{Context, Result};
use reqwest::Method;

use super::Guards;
use crate::grid::{Grid, START, text, tiny};

/// The guest `desk` runs on host 1, and host 2 may take it over; each host with agent and guard.
pub fn shared_guest(grid: &mut Grid, profile: &str) -> Result<Guards> {
    grid.join_all()?;
    let guards = Guards::on(grid.lab.clone(), 3)?;
    grid.api.done(Method::POST, "/guests", &tiny("desk", "h1", true))?;
    let id = grid.await_guest("desk", "running", START)?["id"].as_str().context("its id")?.to_owned();
    let xml = grid.folder.join("desk.xml");
    fs::write(&xml, grid.virsh(1, &["dumpxml", "--inactive", "desk"])?)?;
    let (from, at) = (grid.folder.join("desk"), format!("/var/lib/roost/guests/{id}"));
    let copy = format!("test ! -d {at} || cp -r {at} {}", from.display());
    grid.lab.exec(1, &["sh", "-c", &copy])?;
    let copy = format!("test ! -d {0} || {{ mkdir -p /var/lib/roost/guests && cp -r {0} {at}; }}", from.display());
    grid.lab.exec(2, &["sh", "-c", &copy])?;
    guards.found(&[1, 2], profile, id.parse()?)?;
    for host in 1..=3 {
        grid.guarded(host, &guards.socket(host))?;
        grid.kill(host)?;
        grid.start_agent(host)?;
    }
    grid.virsh(2, &["define", text(&xml)?])?;
    Ok(guards)
}
