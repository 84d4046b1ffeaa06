//! Hosts keep points for each other: replicas that follow over broken links, restores where the point is not, and a host
//! that lies to its peers.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use reqwest::Method;
use roost_protocol::backup;
use roost_protocol::peer::{FromCalled, FromCaller, No};
use roost_tests::grid::{self, Grid, Peer, QUIC, START, eventually, lasts, text, tiny, until};
use serde_json::{Value, json};

/// What was done shows this soon.
pub(crate) const SHOWN: Duration = Duration::from_secs(20);
/// A silent host is shown as down after 15 s.
const DOWN: Duration = Duration::from_secs(30);
/// A first copy at the limit that is set, with time to spare.
pub(crate) const SEEDED: Duration = Duration::from_secs(180);
/// Longer than a connection may be silent.
const CUT: Duration = Duration::from_secs(20);
/// Random data on the guest's disk.
const DATA_MIB: u64 = 32;
/// Where hosts keep chunks.
const PACKS: &str = "/var/lib/roost/backups/packs";

#[test]
fn real_replica_follows_over_a_cut_link_and_comes_back_where_its_host_is_dead() {
    grid::story(3, |grid| {
        // One delta has a fourth of it: 2 MiB per second, so that the link can be cut in the middle.
        join_with(grid, 1, "copy_mib_per_s = 8\n")?;
        grid.join(2)?;
        grid.join(3)?;
        make_guest(grid)?;
        let policy = json!({"name": "near", "replica_every_s": 5, "replica_max_lag_s": 15, "replica_host": "h2"});
        grid.api.post("/backup-policies", &policy)?;
        grid.api.done(Method::POST, "/backup-sets/kept/actions/set-policy", &json!({"policy": "near"}))?;
        first_copy_over_a_cut(grid)?;
        only_changes_travel(grid)?;
        let point = stop_and_copy_aside(grid)?;
        comes_back_elsewhere(grid, &point)
    });
}

/// Has a host join with more settings than others.
pub(crate) fn join_with(grid: &mut Grid, host: u8, settings: &str) -> Result<()> {
    let name = format!("h{host}");
    grid.configure(host, &grid.token(&name)?)?;
    let mut file = OpenOptions::new().append(true).open(grid.folder.join(format!("agent-{host}.toml")))?;
    file.write_all(settings.as_bytes())?;
    grid.give_images(host)?;
    grid.start_agent(host)?;
    grid.await_host(host, "up", START)
}

/// A running guest on h1 whose disk begins with what doesn't compress.
pub(crate) fn make_guest(grid: &Grid) -> Result<()> {
    let mut spec = tiny("kept", "h1", false);
    spec["disks"] = json!([{"from": "blank", "size_mib": 64}]);
    grid.api.done(Method::POST, "/guests", &spec)?;
    let random = grid.folder.join("random");
    let noise = format!("head -c {DATA_MIB}M /dev/urandom > {0} && truncate -s 64M {0}", random.display());
    grid.lab.exec(0, &["sh", "-c", &noise])?;
    let (disk, format) = disk(grid, "kept")?;
    grid.lab.exec(1, &["qemu-img", "convert", "-n", "-f", "raw", "-O", &format, text(&random)?, &disk])?;
    grid.api.act("kept", "start")?;
    grid.await_guest("kept", "running", SHOWN).map(drop)
}

/// The path of a guest's disk, and its format.
pub(crate) fn disk(grid: &Grid, name: &str) -> Result<(String, String)> {
    let guest = grid.api.get(&format!("/guests/{name}"))?;
    let word =
        |key: &str| guest["disks"][0][key].as_str().map(str::to_owned).with_context(|| format!("{key}: {guest}"));
    let path = word("path")?;
    let format = if path.ends_with("raw") { "raw" } else { "qcow2" };
    Ok((path, format.to_owned()))
}

pub(crate) fn replica(grid: &Grid) -> Result<Value> {
    grid.api.get("/replicas/kept")
}

fn await_replica(grid: &Grid, state: &str, limit: Duration) -> Result<Value> {
    until(&format!("the replica is {state}"), limit, || {
        let seen = replica(grid)?;
        ensure!(seen["state"] == state, "it is {seen}");
        Ok(seen)
    })
}

fn has_alarm(grid: &Grid, host: &str, code: &str) -> Result<String> {
    let seen = grid.api.get(&format!("/hosts/{host}"))?;
    let all = seen["alarms"].as_array().cloned().unwrap_or_default();
    let found = all.iter().find(|alarm| alarm["code"] == code);
    Ok(found.with_context(|| format!("alarm {code} among {all:?}"))?.to_string())
}

/// Bytes of each copy that h1 has brought to h2, oldest first.
fn copies(grid: &Grid) -> Result<Vec<u64>> {
    let log = fs::read_to_string(grid.log(1))?;
    let lines = log.lines().filter(|line| line.contains("a point is kept by another host"));
    let bytes = |line: &str| {
        let number = line.split("bytes=").nth(1)?.split_whitespace().next()?;
        number.parse().ok()
    };
    lines.map(|line| bytes(line).with_context(|| format!("bytes in {line:?}"))).collect()
}

fn kept_bytes(grid: &Grid, host: u8) -> Result<u64> {
    let said = grid.lab.exec(host, &["du", "-sb", PACKS])?;
    said.split_whitespace().next().and_then(|number| number.parse().ok()).with_context(|| said.clone())
}

/// The link breaks in the middle of the first copy; what had come is not sent again.
fn first_copy_over_a_cut(grid: &Grid) -> Result<()> {
    until("a part of the first copy is there", SEEDED, || {
        let bytes = kept_bytes(grid, 2)?;
        ensure!(bytes > 8 << 20, "{bytes} bytes");
        Ok(())
    })?;
    ensure!(copies(grid)?.is_empty(), "the first copy was whole before the link was cut");
    grid.lab.host("cut", 2)?;
    let told = until("people are told of the lag", SEEDED, || has_alarm(grid, "h1", "replica-lag"))?;
    ensure!(told.contains("replica"), "{told}");
    lasts(CUT);
    ensure!(replica(grid)?["state"] != "following", "{}", replica(grid)?);
    grid.lab.host("heal", 2)?;
    let seen = await_replica(grid, "following", SEEDED)?;
    ensure!(seen["replica_host_name"] == "h2" && seen["lag_s"].as_u64().is_some_and(|lag| lag <= 60), "{seen}");
    let rest = *copies(grid)?.first().context("a copy")?;
    ensure!(rest < (DATA_MIB - 4) << 20, "{rest} bytes were sent after the cut: all of it again");
    eventually("the lag is within its limit", SHOWN, || {
        ensure!(has_alarm(grid, "h1", "replica-lag").is_err(), "still told");
        Ok(())
    })
}

fn only_changes_travel(grid: &Grid) -> Result<()> {
    let before = copies(grid)?.len();
    // Through the guest's own device, as its writes go.
    let device = "/machine/peripheral/virtio-disk0/virtio-backend";
    let write = format!("qemu-io -d {device} \"write -P 165 40M 1M\"");
    let said = grid.virsh(1, &["qemu-monitor-command", "kept", "--hmp", &write])?;
    ensure!(said.trim().is_empty(), "{said}");
    until("two more copies went", SEEDED, || {
        let all = copies(grid)?;
        ensure!(all.len() >= before + 2, "{all:?}");
        Ok(())
    })?;
    let all = copies(grid)?;
    ensure!(all[1..].iter().all(|bytes| *bytes < 1 << 20), "more than what changed went: {all:?}");
    ensure!(all[before..].iter().max() > all[before..].iter().min(), "what changed did not go: {all:?}");
    eprintln!("bytes of the copies: {all:?}");
    let set = grid.api.get("/backup-sets?host=h2")?;
    ensure!(set["items"][0]["own"] == false, "{set}");
    Ok(())
}

/// The replica is exact once the guest is off; its disk is put aside to compare.
fn stop_and_copy_aside(grid: &Grid) -> Result<String> {
    grid.api.act("kept", "stop")?;
    let seen = until("the replica shows the guest as it is", SEEDED, || {
        let copies_before = copies(grid)?.len();
        lasts(Duration::from_secs(6));
        let seen = replica(grid)?;
        ensure!(seen["lag_s"] == 0 && copies(grid)?.len() == copies_before, "{seen}");
        Ok(seen)
    })?;
    let (disk, _) = disk(grid, "kept")?;
    grid.lab.exec(1, &["cp", &disk, text(&grid.folder.join("was"))?])?;
    Ok(seen["point"].as_str().context("its point")?.to_owned())
}

fn comes_back_elsewhere(grid: &Grid, point: &str) -> Result<()> {
    let restore = format!("/backup-sets/kept/backups/{point}/actions/restore");
    let as_it_was = json!({"host": "h2", "start": true});
    let refused = grid.api.call(Method::POST, &restore, Some(&as_it_was))?;
    ensure!(refused.status == 409 && refused.body.to_string().contains("h1"), "its host lives: {refused:?}");
    grid.lab.host("off", 1)?;
    grid.await_host(1, "down", DOWN)?;
    let refused = grid.api.call(Method::POST, &restore, Some(&as_it_was))?;
    ensure!(refused.status == 409, "its host may live: {refused:?}");
    let kept = grid.api.get("/backup-sets/kept/backups")?;
    let points = kept["items"].as_array().context("a list")?;
    ensure!(points.iter().any(|kept| kept["id"] == point), "h2 tells of what it keeps: {kept}");

    grid.api.done(Method::POST, &restore, &json!({"name": "saved", "host": "h2"}))?;
    same_as_aside(grid, "saved")?;
    let (saved, format) = disk(grid, "saved")?;
    let said = grid.lab.exec(2, &["qemu-io", "-r", "-f", &format, "-c", "read -P 165 40M 1M", &saved])?;
    ensure!(said.contains("read 1048576/1048576") && !said.contains("failed"), "what was written last: {said}");
    grid.api.ok(Method::DELETE, "/hosts/h1", None)?;
    grid.api.done(Method::POST, &restore, &as_it_was)?;
    let back = grid.await_guest("kept", "running", SHOWN)?;
    ensure!(back["host_name"] == "h2", "{back}");
    Ok(())
}

/// A guest of h2 has the disk that was put aside.
pub(crate) fn same_as_aside(grid: &Grid, name: &str) -> Result<()> {
    let (disk, _) = disk(grid, name)?;
    grid.lab.exec(2, &["qemu-img", "compare", text(&grid.folder.join("was"))?, &disk]).map(drop)
}

#[test]
fn real_point_is_restored_on_a_host_that_does_not_have_it() {
    grid::story(2, |grid| {
        grid.join_all()?;
        make_guest(grid)?;
        grid.api.act("kept", "stop")?;
        grid.api.done(Method::POST, "/backup-sets/kept/actions/run", &json!({}))?;
        let (disk, _) = disk(grid, "kept")?;
        grid.lab.exec(1, &["cp", &disk, text(&grid.folder.join("was"))?])?;
        let points = grid.api.get("/backup-sets/kept/backups")?;
        let point = points["items"][0]["id"].as_str().context("a point")?.to_owned();
        let restore = format!("/backup-sets/kept/backups/{point}/actions/restore");
        grid.api.done(Method::POST, &restore, &json!({"name": "moved", "host": "h2", "start": true}))?;
        grid.await_guest("moved", "running", SHOWN)?;
        grid.api.act("moved", "stop")?;
        same_as_aside(grid, "moved")?;
        // It was borrowed, and h2 has no point of it now.
        eventually("h2 keeps nothing", SHOWN, || {
            let sets = grid.api.get("/backup-sets?host=h2")?;
            ensure!(sets["items"].as_array().is_some_and(Vec::is_empty), "{sets}");
            Ok(())
        })
    });
}

#[test]
fn real_host_that_lies_to_its_peers_is_cut_off_and_one_that_was_removed_is_not_heard() {
    grid::story(2, |grid| {
        grid.join_all()?;
        let rogue = Peer::join(&format!("{}:{QUIC}", grid.lab.address(0)), &grid.token("rogue")?, "rogue")?;
        let mut link = rogue.hello()?;
        let (h1, h2) = until("the rogue is told of both", SHOWN, || {
            let peers = link.peers()?;
            let named = |name: &str| peers.iter().find(|peer| peer.name == name).cloned();
            named("h1").zip(named("h2")).filter(|(one, _)| !one.addresses.is_empty()).context("both")
        })?;
        let lie = [FromCaller::Offer { manifest: b"not a manifest".to_vec() }];
        let said = until("h1 hears it", SHOWN, || rogue.call(&h1, &lie))?;
        let Some(FromCalled::Refused { reason: No::Misbehaved, .. }) = said.last() else { bail!("{said:?}") };
        let told = until("people are told", SHOWN, || has_alarm(grid, "h1", "peer-misbehaved"))?;
        ensure!(told.contains("rogue"), "{told}");
        ensure!(rogue.call(&h1, &[]).is_err(), "it is heard again");
        until("h2 hears it", SHOWN, || {
            ensure!(welcome(&rogue, &h2)?, "what it did to h1 is between them");
            Ok(())
        })?;
        grid.api.ok(Method::DELETE, "/hosts/rogue", None)?;
        eventually("h2 does not hear a removed host", SHOWN, || {
            ensure!(rogue.call(&h2, &[]).is_err(), "it is heard");
            Ok(())
        })?;
        // The honest ones never noticed.
        grid.await_host(1, "up", SHOWN)?;
        grid.await_host(2, "up", SHOWN)
    });
}

fn welcome(rogue: &Peer, host: &backup::Peer) -> Result<bool> {
    Ok(matches!(rogue.call(host, &[])?.as_slice(), [FromCalled::Welcome { .. }]))
}
