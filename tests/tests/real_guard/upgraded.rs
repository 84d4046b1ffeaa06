//! Hosts that are restarted one after the other by `roost host upgrade`, while their guest runs elsewhere.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use roost_tests::grid::{self, Grid, START, eventually, program, until};
use roost_tests::guards::Guards;

use crate::joined::{PROTECTED, await_protected, is, join, make_guest, shows_protected, write_and_await_replica};

/// A host drained, restarted, and all guests protected again, on a loaded machine.
const TURN: Duration = Duration::from_secs(240);

/// The command as it runs beside the story, and what it said so far.
struct Upgrade {
    child: Child,
    log: PathBuf,
}

impl Upgrade {
    fn start(grid: &Grid) -> Result<Self> {
        let log = grid.folder.join("upgrade.log");
        let mut command = Command::new(program("roost")?);
        command.args(["host", "upgrade", "--one-by-one", "--restart-only"]).stderr(File::create(&log)?);
        command.env("ROOST_URL", grid.api.base()).env("ROOST_CA", grid.folder.join("ca.pem"));
        command.env("ROOST_TOKEN", grid.api.token.as_deref().context("a log-in")?);
        Ok(Self { child: command.spawn()?, log })
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn says(&self, text: &str) -> Result<()> {
        ensure!(self.said().contains(text), "{}", self.said());
        Ok(())
    }

    /// How it ends.
    fn end(&mut self) -> Result<ExitStatus> {
        until("the command ends", TURN, || self.child.try_wait()?.context("it goes on"))
    }
}

impl Drop for Upgrade {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Written by what restarts a host.
fn asked(grid: &Grid, host: u8) -> PathBuf {
    grid.folder.join(format!("restart-{host}"))
}

fn refused(grid: &Grid, words: &[&str], why: &str) -> Result<()> {
    let said = format!("{:#}", grid.roost(words).err().with_context(|| format!("{words:?} was done"))?);
    ensure!(said.contains(why), "{said}");
    Ok(())
}

/// Neither without maintenance, nor where something executes that only the kernel knows, nor one beside another.
fn is_refused_where_it_harms(grid: &Grid) -> Result<()> {
    refused(grid, &["host", "reboot", "h3"], "not in maintenance")?;
    refused(grid, &["host", "fetch-image", "h3"], "not started from a host image")?;
    grid.roost(&["host", "maintenance", "h3"])?;
    refused(grid, &["host", "upgrade", "h1", "--restart-only"], "h3 is in maintenance")?;
    let stray = ["bash", "-c", "exec -a qemu-system-x86_64 sleep 600"];
    let stray = grid.lab.spawn(3, &grid.folder.join("stray.log"), &stray)?;
    eventually("it is what it plays", START, || {
        let line = grid.lab.exec(3, &["cat", &format!("/proc/{stray}/cmdline")])?;
        ensure!(line.starts_with("qemu-system"), "{line:?}");
        Ok(())
    })?;
    refused(grid, &["host", "reboot", "h3"], "execute on this host")?;
    grid.lab.exec(3, &["kill", "-KILL", &stray.to_string()])?;
    ensure!(!asked(grid, 3).exists(), "it was restarted");
    grid.roost(&["host", "resume", "h3"]).map(drop)
}

/// What a power switch does, once the host asked for it; which must run no guest then.
fn restarts(grid: &mut Grid, guards: &mut Guards, upgrade: &Upgrade, host: u8) -> Result<()> {
    let asked = asked(grid, host);
    eventually(&format!("host {host} is restarted"), TURN, || {
        ensure!(asked.exists(), "{}", upgrade.said());
        Ok(())
    })?;
    for other in (1..=3).filter(|other| *other != host) {
        let seen = grid.api.get(&format!("/hosts/h{other}"))?;
        ensure!(seen["state"] == "up" && seen["maintenance"].is_null(), "two at once: {seen}");
    }
    let guest = grid.api.get("/guests/desk")?;
    ensure!(guest["state"] == "running" && guest["host_name"] != format!("h{host}"), "{guest}");
    guards.power_off(host)?;
    fs::remove_file(asked)?;
    guards.power_on(host)?;
    grid.start_agent(host)
}

fn boot(grid: &Grid, host: u8) -> Result<String> {
    Ok(grid.api.get(&format!("/hosts/h{host}"))?["boot_id"].as_str().context("its boot id")?.to_owned())
}

#[test]
fn real_hosts_are_restarted_one_by_one_while_their_guest_runs_and_an_interrupted_run_is_gone_on_with() {
    grid::story(3, |grid| {
        let mut guards = join(grid)?;
        for host in 1..=3 {
            let touch = format!("reboot_command = ['touch', '{}']", asked(grid, host).display());
            grid.set(host, &touch)?;
            grid.kill(host)?;
            grid.start_agent(host)?;
            grid.await_host(host, "up", START)?;
        }
        let guest = make_guest(grid)?;
        let second = await_protected(&guards, guest)?;
        shows_protected(grid, second)?;
        write_and_await_replica(grid)?;
        is_refused_where_it_harms(grid)?;
        let before = (1..=3).map(|host| boot(grid, host)).collect::<Result<Vec<_>>>()?;

        let mut first = Upgrade::start(grid)?;
        eventually("host 1 is drained", PROTECTED, || first.says("h1: is drained"))?;
        let pid = first.child.id().to_string();
        grid::output(Command::new("kill").args(["-INT", &pid]))?;
        ensure!(first.end()?.code() == Some(130), "{}", first.said());
        first.says("the same command goes on")?;
        println!("interrupted:\n{}", first.said());

        let mut upgrade = Upgrade::start(grid)?;
        for host in 1..=3 {
            restarts(grid, &mut guards, &upgrade, host)?;
        }
        let ended = upgrade.end()?;
        println!("gone on with:\n{}", upgrade.said());
        ensure!(ended.success(), "it ended with {ended}");
        for (host, before) in (1..=3).zip(before) {
            ensure!(boot(grid, host)? != before, "h{host} was not restarted");
            let seen = grid.api.get(&format!("/hosts/h{host}"))?;
            ensure!(seen["maintenance"].is_null(), "{seen}");
        }
        let shown = grid.api.get("/guests/desk")?;
        ensure!(shown["protected"] == true && shown["state"] == "running", "{shown}");
        let home: u8 =
            shown["host_name"].as_str().and_then(|name| name.strip_prefix('h')).context("its host")?.parse()?;
        is(grid, home, "running")?;
        grid.api.ok(Method::POST, &format!("/hosts/h{home}/actions/maintenance"), None)?;
        refused(grid, &["host", "reboot", &format!("h{home}")], "1 of its guests are up")
    });
}
