//! A host that joined and then lies: about itself, about others' guests and operations, and too much.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use roost_protocol::enrol::{EnrolAnswer, EnrolRefusal};
use roost_protocol::guest::{GuestReport, PowerState};
use roost_protocol::message::{Beat, Snapshot, ToAggregator};
use roost_protocol::operation::{Outcome, Progress};
use roost_protocol::{GuestId, HostId, MiB, OperationId, Stamp};
use roost_tests::grid::{self, Grid, Peer, QUIC, eventually, output, text, tiny};
use serde_json::json;

/// What was done shows this soon.
const SHOWN: Duration = Duration::from_secs(30);
/// More than a host may have.
const TOO_MANY: u128 = 600;

#[test]
fn real_rogue_host_reaches_no_further_than_itself() {
    grid::story(1, |grid| {
        grid.join_all()?;
        grid.api.done(Method::POST, "/guests", &tiny("victim", "h1", true))?;
        let victim = grid.await_guest("victim", "running", SHOWN)?["id"].as_str().context("its id")?.to_owned();
        let address = format!("{}:{QUIC}", grid.lab.address(0));
        names_in_a_signing_request_mean_nothing(grid, &address)?;
        let rogue = Peer::join(&address, &grid.token("rogue")?, "rogue")?;
        let h1: HostId = grid.api.get("/hosts/h1")?["id"].as_str().context("its id")?.parse()?;
        let end = rogue.hello_as(h1)?.end()?;
        ensure!(end.starts_with("UnknownKey"), "as another host: {end}");
        a_foreign_guest_stays_where_it_is(grid, &rogue, &victim)?;
        a_foreign_operation_is_not_ended(grid, &rogue, &victim)?;
        too_much_is_cut_off(grid, &rogue)?;
        // The honest one never noticed.
        grid.await_host(1, "up", SHOWN)?;
        grid.api.act(&victim, "reset")?;
        grid.api.ok(Method::DELETE, "/hosts/rogue", None)?;
        let end = rogue.hello_as(rogue.id()?)?.end()?;
        ensure!(end.starts_with("Removed"), "after it was removed: {end}");
        Ok(())
    });
}

/// The request asks for an authority, for every name, and for the other host's id.
fn names_in_a_signing_request_mean_nothing(grid: &Grid, address: &str) -> Result<()> {
    let h1 = grid.api.get("/hosts/h1")?["id"].as_str().context("its id")?.to_owned();
    let names = format!("subjectAltName=DNS:*,DNS:roost-aggregator,URI:roost:x/host/{h1}");
    let (key, request, issued) =
        (grid.folder.join("odd.key"), grid.folder.join("odd.csr"), grid.folder.join("odd.der"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-outform", "DER"]);
    openssl.args(["-subj", "/CN=roost-aggregator", "-addext", &names, "-addext", "basicConstraints=critical,CA:TRUE"]);
    output(openssl.args(["-keyout", text(&key)?, "-out", text(&request)?]))?;
    let token = grid.token("odd")?;
    let stranger = Peer::stranger(address, &token)?;
    let answer = stranger.enrol(&token, "odd", Some(h1.parse()?), fs::read(&request)?)?;
    let EnrolAnswer::Accepted { host, chain, .. } = answer else { anyhow::bail!("{answer:?}") };
    ensure!(host.to_string() != h1, "it was given another host's id");
    fs::write(&issued, &chain.first().context("its certificate")?.0)?;
    let said =
        output(Command::new("openssl").args(["x509", "-inform", "DER", "-noout", "-text", "-in", text(&issued)?]))?;
    for bad in ["CA:TRUE", "roost-aggregator", "DNS:", &h1] {
        ensure!(!said.contains(bad), "the certificate says {bad}: {said}");
    }
    ensure!(said.contains(&host.to_string()), "the certificate doesn't name the host: {said}");
    // The token again, by a thief with a key of his own.
    let thief = Peer::join(address, &token, "thief").err().map(|why| why.to_string()).unwrap_or_default();
    ensure!(thief.contains(&format!("{:?}", EnrolRefusal::UsedToken)), "a used token: {thief}");
    told(grid, "host.join_refused", "thief")?;
    grid.api.ok(Method::DELETE, "/hosts/odd", None).map(drop)
}

fn a_foreign_guest_stays_where_it_is(grid: &Grid, rogue: &Peer, victim: &str) -> Result<()> {
    let mut link = rogue.hello()?;
    let claims = vec![report(victim.parse()?, "victim", PowerState::Off)];
    link.say(&ToAggregator::Snapshot(Snapshot { sequence: 1, guests: claims, ..Snapshot::default() }))?;
    told(grid, "guest.conflict", "victim")?;
    for name in [victim, "victim"] {
        let seen = grid.api.get(&format!("/guests/{name}"))?;
        ensure!(seen["host_name"] == "h1" && seen["state"] == "running", "{seen}");
        grid.api.act(name, "pause")?;
        ensure!(grid.virsh(1, &["domstate", "victim"])?.trim() == "paused", "the command went elsewhere");
        grid.api.act(name, "resume")?;
    }
    Ok(())
}

/// The real agent is stopped in time, so that the lie comes first.
fn a_foreign_operation_is_not_ended(grid: &Grid, rogue: &Peer, victim: &str) -> Result<()> {
    let mut link = rogue.hello()?;
    grid.signal(1, "STOP")?;
    let asked = grid.api.post(&format!("/guests/{victim}/actions/pause"), &json!({}))?;
    let operation: OperationId = asked["id"].as_str().context("its id")?.parse()?;
    link.say(&ToAggregator::Progress(Progress { operation, percent: 99, step: "lied".into() }))?;
    link.say(&ToAggregator::Outcome(Outcome { operation, failure: None }))?;
    told(grid, "host.misbehaved", "not its own")?;
    let seen = grid.api.get(&format!("/operations/{operation}"))?;
    grid.signal(1, "CONT")?;
    ensure!(seen["ended"].is_null() && seen["state"] == "queued" && !seen.to_string().contains("lied"), "{seen}");
    let ended = grid.api.ended(&asked, grid::START)?;
    ensure!(ended["state"] == "succeeded", "{ended}");
    ensure!(grid.virsh(1, &["domstate", "victim"])?.trim() == "paused", "the operation ended, and nothing was done");
    grid.api.act(victim, "resume").map(drop)
}

fn too_much_is_cut_off(grid: &Grid, rogue: &Peer) -> Result<()> {
    let many = |from: u128, to: u128| -> Vec<GuestReport> {
        (from..to).map(|n| report(GuestId::from_u128(n + 1), &format!("fake-{n}"), PowerState::Running)).collect()
    };
    let mut link = rogue.hello()?;
    link.say(&ToAggregator::Snapshot(Snapshot { guests: many(0, TOO_MANY), ..Snapshot::default() }))?;
    let end = link.end()?;
    ensure!(end.contains("more guests than a host may have"), "at once: {end}");
    // Bit by bit.
    let mut link = rogue.hello()?;
    for part in 0..TOO_MANY / 100 {
        let guests = many(part * 100, part * 100 + 100);
        link.say(&ToAggregator::Beat(Beat { sequence: 2, guests, ..Beat::default() }))?;
    }
    let end = link.end()?;
    ensure!(end.contains("more guests than a host may have"), "bit by bit: {end}");
    ensure!(grid.api.guests()?.len() <= 513, "they were kept");
    // And without end.
    let mut link = rogue.hello()?;
    let beat = ToAggregator::Beat(Beat { sequence: 2, ..Beat::default() });
    let flood = (0..5_000).try_for_each(|_| link.say(&beat));
    let end = link.end()?;
    ensure!(end.contains("20 messages per second"), "the flood: {end}; {flood:?}");
    told(grid, "host.misbehaved", "more guests")
}

fn report(id: GuestId, name: &str, state: PowerState) -> GuestReport {
    GuestReport {
        id,
        name: name.into(),
        state,
        reason: String::new(),
        persistent: true,
        desired: None,
        vcpus: 1,
        memory_mib: MiB(16),
        since: Stamp(0),
        restarts: 0,
        disks: Vec::new(),
    }
}

/// People are told.
fn told(grid: &Grid, kind: &str, word: &str) -> Result<()> {
    eventually(&format!("an event {kind} with {word:?}"), SHOWN, || {
        let events = grid.api.get(&format!("/events?kind={kind}&limit=1000"))?;
        let found = events["items"].as_array().is_some_and(|items| {
            items.iter().any(|item| item["text"].as_str().is_some_and(|text| text.contains(word)))
        });
        ensure!(found, "{events}");
        Ok(())
    })
}
