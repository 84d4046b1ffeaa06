//! Hosts that keep their points encrypted with the grid's key: copies in a folder and on a peer are sealed too, come back
//! on either host, and outlive the change of the key.

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use roost_tests::grid::{self, Grid, START, eventually, program, text};
use serde_json::json;

use crate::peers::{SEEDED, disk, join_with, make_guest, replica, same_as_aside};

/// Where this host keeps its own points, and those of others.
const STORE: &str = "/var/lib/roost/backups";

#[test]
fn real_encrypted_points_are_sealed_wherever_they_lie_and_outlive_their_key() {
    grid::story(2, |grid| {
        let (key, nas) = (grid.folder.join("backup.key"), grid.folder.join("nas"));
        std::fs::create_dir(&nas)?;
        agent(grid, &["new-key", text(&key)?])?;
        for host in [1, 2] {
            let settings = format!("backup_key_file = '{}'\nbackup_targets = ['{}']\n", key.display(), nas.display());
            join_with(grid, host, &settings)?;
        }
        make_guest(grid)?;
        let policy =
            json!({"name": "sealed", "targets": [nas.join("store")], "replica_every_s": 5, "replica_host": "h2"});
        grid.api.post("/backup-policies", &policy)?;
        grid.api.done(Method::POST, "/backup-sets/kept/actions/set-policy", &json!({"policy": "sealed"}))?;
        let old = back_up(grid)?;
        everything_is_sealed(grid)?;

        agent(grid, &["rotate-key", text(&key)?])?;
        for host in [1, 2] {
            grid.kill(host)?;
            grid.start_agent(host)?;
            grid.await_host(host, "up", START)?;
        }
        grid.api.act("kept", "stop")?;
        let (disk, _) = disk(grid, "kept")?;
        grid.lab.exec(1, &["qemu-io", "-c", "write -P 165 40M 1M", &disk])?;
        let new = back_up(grid)?;
        for (name, point, from) in
            [("before", &old, None), ("after", &new, None), ("copied", &new, Some(nas.join("store")))]
        {
            let restore = format!("/backup-sets/kept/backups/{point}/actions/restore");
            let mut order = json!({"name": name, "host": "h2"});
            if let Some(from) = from {
                order["from"] = json!(from);
            }
            grid.api.done(Method::POST, &restore, &order)?;
        }
        grid.lab.exec(1, &["cp", &disk, text(&grid.folder.join("was"))?])?;
        same_as_aside(grid, "after")?;
        same_as_aside(grid, "copied")?;
        ensure!(same_as_aside(grid, "before").is_err(), "it has what was written after it");
        grid.lab.exec(1, &["qemu-io", "-c", "write -z 40M 1M", &disk])?;
        grid.lab.exec(1, &["cp", &disk, text(&grid.folder.join("was"))?])?;
        same_as_aside(grid, "before")?;

        // A machine that has a copy, and not the key.
        let empty = grid.folder.join("empty.toml");
        std::fs::write(&empty, "")?;
        let program = program("roost-agent")?;
        let store = nas.join("store");
        let refused = [text(&program)?, "--config", text(&empty)?, "store", "verify", text(&store)?];
        let refused = grid.lab.exec(0, &refused).err().context("it reads what is sealed")?.to_string();
        ensure!(refused.contains("key"), "{refused}");
        Ok(())
    });
}

fn agent(grid: &Grid, words: &[&str]) -> Result<()> {
    let program = program("roost-agent")?;
    let words: Vec<&str> = [text(&program)?, "store"].into_iter().chain(words.iter().copied()).collect();
    grid.lab.exec(0, &words).map(drop)
}

/// A point of now, in the store and in the folder, and its replica on h2.
fn back_up(grid: &Grid) -> Result<String> {
    grid.api.done(Method::POST, "/backup-sets/kept/actions/run", &json!({}))?;
    let points = grid.api.get("/backup-sets/kept/backups")?;
    let newest = points["items"].as_array().context("points")?.iter().find(|point| point["why"] == "command");
    let newest = newest.with_context(|| points.to_string())?["id"].as_str().context("an id")?.to_owned();
    eventually("the copies are there", SEEDED, || {
        let shown = grid.api.get(&format!("/backup-sets/kept/backups/{newest}"))?;
        ensure!(shown["copies"].to_string().contains("nas/store"), "{shown}");
        ensure!(replica(grid)?["state"] == "following", "{}", replica(grid)?);
        Ok(())
    })?;
    Ok(newest)
}

/// What the guest has on its disk stands in none of the stores.
fn everything_is_sealed(grid: &Grid) -> Result<()> {
    let random = std::fs::read(grid.folder.join("random"))?;
    // grep searches line by line.
    let sample = random[1 << 20..].windows(24).find(|bytes| !bytes.contains(&b'\n')).context("24 bytes of one line")?;
    let sample: String = sample.iter().map(|byte| format!("\\x{byte:02x}")).collect();
    let search = |host, place: &str| {
        let search = format!("LC_ALL=C grep -rlaP '{sample}' {place} || true");
        grid.lab.exec(host, &["sh", "-c", &search])
    };
    let (disk, _) = disk(grid, "kept")?;
    ensure!(search(1, &disk)?.contains(&disk), "the search finds nothing anywhere");
    for (host, place) in [(1, STORE), (2, STORE), (0, text(&grid.folder.join("nas"))?)] {
        let held: u64 = grid.lab.exec(host, &["du", "-sb", place])?.split_whitespace().next().context("du")?.parse()?;
        ensure!(held > 32 << 20, "{place} of host {host} has {held} bytes");
        let found = search(host, place)?;
        ensure!(found.trim().is_empty(), "host {host} has it in {found}");
    }
    Ok(())
}
