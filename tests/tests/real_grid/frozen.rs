//! A folder for copies: guests come back from it, and when it freezes guests, their backups and the agent itself go on, and the copy is made when it thaws.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use roost_tests::grid::{self, Grid, START, eventually, lasts, tiny};
use serde_json::json;

/// A command that no frozen folder may hold up, on a loaded machine.
const SOON: Duration = Duration::from_secs(60);
/// For so long the folder is frozen beside backups, unless `ROOST_FROZEN_S` says otherwise (`make storm`: ten minutes).
const FROZEN_S: u32 = 20;
/// Backups of each guest meanwhile.
const ROUNDS: u32 = 8;
const NAS: &str = "/mnt/nas";

#[test]
fn real_frozen_folder_for_copies_holds_up_nothing_but_its_copies() {
    grid::story(1, |grid| {
        let mount = format!(
            "mkdir -p {NAS}; truncate -s 256M /var/nas.img; mkfs.ext4 -q /var/nas.img; mount -o loop /var/nas.img {NAS}"
        );
        grid.lab.exec(1, &["sh", "-c", &mount])?;
        let told = thaw_at_the_end(grid);
        grid.lab.exec(1, &["umount", "-l", NAS])?;
        told
    });
}

fn thaw_at_the_end(grid: &mut Grid) -> Result<()> {
    let told = tell(grid);
    // Else nothing could be unmounted.
    let _ = grid.lab.exec(1, &["fsfreeze", "--unfreeze", NAS]);
    told
}

fn tell(grid: &mut Grid) -> Result<()> {
    grid.configure(1, &grid.token("h1")?)?;
    let settings = grid.folder.join("agent-1.toml");
    let more = std::fs::read_to_string(&settings)? + &format!("backup_targets = ['{NAS}']\n");
    std::fs::write(settings, more)?;
    grid.give_images(1)?;
    grid.start_agent(1)?;
    grid.await_host(1, "up", START)?;
    for name in ["one", "two"] {
        let mut spec = tiny(name, "h1", true);
        spec["disks"] = json!([{"from": "blank", "size_mib": 64}]);
        grid.api.done(Method::POST, "/guests", &spec)?;
    }
    let policy = json!({"name": "copied", "targets": [format!("{NAS}/store")]});
    grid.api.post("/backup-policies", &policy)?;
    for name in ["one", "two"] {
        grid.api.done(
            Method::POST,
            &format!("/backup-sets/{name}/actions/set-policy"),
            &json!({"policy": "copied"}),
        )?;
    }
    back_up(grid, "one")?;
    eventually("the first copy is there", SOON, || copies(grid, "one", 1))?;
    comes_back(grid)?;

    grid.lab.exec(1, &["fsfreeze", "--freeze", NAS])?;
    for name in ["one", "two"] {
        back_up(grid, name)?;
    }
    for _ in 0..ROUNDS {
        back_up(grid, "two").and_then(|()| back_up(grid, "one"))?;
        lasts(frozen()? / ROUNDS);
    }
    ensure!(grid.lab.exec(1, &["pgrep", "-f", "store copy"]).is_ok(), "a copy hangs by itself");
    // The agent ends and begins at once, whatever hangs.
    let began = Instant::now();
    grid.kill(1)?;
    grid.start_agent(1)?;
    grid.await_host(1, "up", START)?;
    back_up(grid, "one")?;
    ensure!(began.elapsed() < SOON + START, "{:?}", began.elapsed());
    grid.lab.exec(1, &["fsfreeze", "--unfreeze", NAS])?;
    eventually("all copies are made in the end", 4 * SOON, || {
        copies(grid, "one", points(grid, "one")?.len()).and_then(|()| copies(grid, "two", points(grid, "two")?.len()))
    })
}

fn frozen() -> Result<Duration> {
    let seconds =
        std::env::var("ROOST_FROZEN_S").ok().map(|told| told.parse().context("ROOST_FROZEN_S")).transpose()?;
    Ok(Duration::from_secs(seconds.unwrap_or(FROZEN_S).into()))
}

/// A guest of a copy in the folder, at once and not; nothing of the way stays behind.
fn comes_back(grid: &Grid) -> Result<()> {
    let point = points(grid, "one")?[0]["id"].as_str().context("a point")?.to_owned();
    for (name, at_once) in [("whole", false), ("quick", true)] {
        let order = json!({"name": name, "from": format!("{NAS}/store"), "start": true, "at_once": at_once});
        grid.api.done(Method::POST, &restore(&point), &order)?;
        grid.await_guest(name, "running", SOON)?;
    }
    let refused = grid.api.post(&restore(&point), &json!({"name": "other", "from": "/mnt/other"}))?;
    let refused = grid.api.ended(&refused, SOON)?;
    ensure!(refused["error"].to_string().contains("backup_targets"), "{refused}");
    eventually("what was fetched is gone", SOON, || {
        let left = grid.lab.exec(1, &["ls", "/var/lib/roost/backups-fetched"])?;
        ensure!(left.trim().is_empty(), "{left}");
        Ok(())
    })?;
    for name in ["whole", "quick"] {
        grid.api.act(name, "stop")?;
        grid.api.done(Method::DELETE, &format!("/guests/{name}"), &serde_json::Value::Null)?;
    }
    Ok(())
}

fn restore(point: &str) -> String {
    format!("/backup-sets/one/backups/{point}/actions/restore")
}

fn back_up(grid: &Grid, name: &str) -> Result<()> {
    let made = grid.api.post(&format!("/backup-sets/{name}/actions/run"), &json!({}))?;
    let made = grid.api.ended(&made, SOON)?;
    ensure!(made["state"] == "succeeded", "{made}");
    Ok(())
}

fn points(grid: &Grid, name: &str) -> Result<Vec<serde_json::Value>> {
    let list = grid.api.get(&format!("/backup-sets/{name}/backups"))?;
    Ok(list["items"].as_array().context("points")?.clone())
}

/// So many points of the guest have a copy.
fn copies(grid: &Grid, name: &str, wanted: usize) -> Result<()> {
    let all = points(grid, name)?;
    let copied = all.iter().filter(|point| point["copies"].as_array().is_some_and(|copies| !copies.is_empty()));
    let copied = copied.count();
    ensure!(copied >= wanted, "{copied} of {} are copied", all.len());
    Ok(())
}
