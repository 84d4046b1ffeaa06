//! Pulled cables, a frozen aggregator, an aggregator that lost its disk, and strangers at its doors.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use roost_tests::grid::{self, Grid, HTTPS, QUIC, lasts, tiny, until};
use serde_json::{Value, json};

/// After the fault ends, all is as before.
const HEALED: Duration = Duration::from_secs(20);
/// An aggregator that lost its data lists everything again: promised within 10 s, on a machine that does not stand still
/// meanwhile.
const RECOVERED: Duration = Duration::from_secs(30);
/// A silent host is shown as suspect after 6 s and as down after 15 s.
const SUSPECT: Duration = Duration::from_secs(14);
const DOWN: Duration = Duration::from_secs(25);
/// How long the cable is out, and the aggregator stopped.
const CUT: Duration = Duration::from_secs(30);
const FROZEN: Duration = Duration::from_secs(60);
/// Longest an answer may take while strangers are at the door: less than the 10 s after which they are sent away.
const PROMPT: Duration = Duration::from_secs(8);

#[test]
fn real_commands_given_while_the_cable_is_out_end_exactly_once() {
    const GUESTS: [&str; 3] = ["before", "at-once", "later"];
    grid::story(1, |grid| {
        grid.join_all()?;
        for name in GUESTS {
            grid.api.done(Method::POST, "/guests", &tiny(name, "h1", false))?;
            grid.await_guest(name, "off", HEALED)?;
        }
        let start = |name: &str| grid.api.post(&format!("/guests/{name}/actions/start"), &json!({}));
        // One may be on its way, or its outcome on the way back, when the cable comes out.
        let mut asked = vec![start("before")?];
        grid.lab.host("cut", 1)?;
        let began = Instant::now();
        asked.push(start("at-once")?);
        grid.await_host(1, "suspect", SUSPECT)?;
        asked.push(start("later")?);
        grid.await_host(1, "down", DOWN)?;
        ensure!(grid.api.get("/guests/later")?["stale"] == true, "what is shown is not marked as old");
        lasts(CUT.saturating_sub(began.elapsed()));
        grid.lab.host("heal", 1)?;
        grid.await_host(1, "up", HEALED)?;
        for (name, asked) in GUESTS.iter().zip(&asked) {
            let ended = grid.api.ended(asked, HEALED)?;
            ensure!(ended["state"] == "succeeded", "{name}: {ended}");
            // Starts that QEMU saw, by libvirt's own log.
            let log = grid.lab.exec(1, &["cat", &format!("/var/log/libvirt/qemu/{name}.log")])?;
            ensure!(log.matches("starting up").count() == 1, "{name} was started again: {log}");
            grid.await_guest(name, "running", HEALED)?;
        }
        Ok(())
    });
}

#[test]
fn real_aggregator_that_froze_or_lost_its_disk_is_as_before() {
    grid::story(2, |grid| {
        grid.join_all()?;
        for host in ["h1", "h2"] {
            let name = format!("on-{host}");
            grid.api.done(Method::POST, "/guests", &tiny(&name, host, true))?;
            // libvirt's own "paused" at the beginning of a start may be heard last.
            grid.await_guest(&name, "running", HEALED)?;
        }
        grid.api.post("/users", &json!({"name": "ada", "password": "a long enough password"}))?;
        let token = grid.api.post("/api-tokens", &json!({"name": "script"}))?["token"].as_str().map(str::to_owned);
        let token = token.context("the API token")?;
        let before = picture(grid)?;
        let pids = (grid.qemu(1, "on-h1")?, grid.qemu(2, "on-h2")?);
        freeze(grid)?;
        until("all is as before the freeze", HEALED, || same(grid, &before))?;
        // What was asked for right before is on the aggregator's disk at once, and with the hosts a moment later.
        grid.await_document()?;

        grid.kill_aggregator()?;
        fs::remove_dir_all(grid.folder.join("aggregator"))?;
        let began = Instant::now();
        grid.start_aggregator()?;
        // Log-ins are limited, so look for the users another way first: the API token came back with them.
        grid.api.token = Some(token);
        until("all is as before the loss", RECOVERED, || same(grid, &before))?;
        ensure!(began.elapsed() < RECOVERED + grid::START, "it took {:?}", began.elapsed());
        ensure!(pids == (grid.qemu(1, "on-h1")?, grid.qemu(2, "on-h2")?), "guests were restarted");
        grid.log_in()?;
        grid.api.act("on-h1", "pause")?;
        grid.api.log_in("ada", "a long enough password")
    });
}

/// Stops the aggregator for longer than hosts wait before they look for it anew.
fn freeze(grid: &Grid) -> Result<()> {
    grid.signal_aggregator("STOP")?;
    lasts(FROZEN);
    grid.signal_aggregator("CONT")
}

/// Hosts, guests and users, without what changes by itself.
fn picture(grid: &Grid) -> Result<Value> {
    let hosts = grid.api.get("/hosts?fields=id,name,state&sort=name")?;
    let guests = grid.api.get("/guests?fields=id,name,host,state,managed,desired,restarts,stale&sort=name")?;
    let users = grid.api.get("/users?fields=name&sort=name")?;
    Ok(json!([hosts["items"], guests["items"], users["items"]]))
}

fn same(grid: &Grid, before: &Value) -> Result<()> {
    let now = picture(grid)?;
    ensure!(now == *before, "now {now}\nbefore {before}");
    Ok(())
}

#[test]
fn real_garbage_and_dawdlers_at_the_ports_hurt_nobody() {
    grid::story(1, |grid| {
        grid.join_all()?;
        grid.api.done(Method::POST, "/guests", &tiny("calm", "h1", true))?;
        let address = grid.lab.address(0);
        let dawdlers = dawdle(&address)?;
        shout(&address)?;
        let began = Instant::now();
        grid.api.act("calm", "pause")?;
        grid.api.act("calm", "resume")?;
        ensure!(began.elapsed() < PROMPT, "commands took {:?}", began.elapsed());
        let host = grid.api.get("/hosts/h1")?;
        ensure!(host["state"] == "up", "{host}");
        drop(dawdlers);
        Ok(())
    });
}

/// Connections that begin and never go on.
fn dawdle(address: &str) -> Result<Vec<TcpStream>> {
    const DAWDLERS: usize = 200;
    (0..DAWDLERS)
        .map(|n| {
            let mut stream = TcpStream::connect((address, HTTPS)).with_context(|| format!("connection {n}"))?;
            stream.write_all(&[0x16, 0x03, 0x01][..n % 4])?;
            Ok(stream)
        })
        .collect()
}

/// Bytes that mean nothing, at both doors.
fn shout(address: &str) -> Result<()> {
    const DATAGRAMS: u8 = 200;
    let socket = UdpSocket::bind((address, 0))?;
    for n in 0..DATAGRAMS {
        let bytes: Vec<u8> =
            (0..1200u16).map(|i| u8::try_from((i * 31 + u16::from(n) * 17) % 256).unwrap_or(0)).collect();
        socket.send_to(&bytes[..usize::from(n) * 6], (address, QUIC))?;
    }
    let mut stream = TcpStream::connect((address, HTTPS))?;
    stream.set_read_timeout(Some(PROMPT))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let mut answer = [0; 64];
    // An alert, or an end: anything but silence without end.
    let _alert_or_end: std::io::Result<usize> = stream.read(&mut answer);
    Ok(())
}
