//! `roost-agent console`: the page on the host's screen and serial line. Says how the host is, and asks the two
//! questions where Enter is pressed.

mod page;

use std::fs;
use std::io::{BufRead, IsTerminal, Write};
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use anyhow::Context;

use crate::boot::FINDINGS;
use crate::config::{self, Config};
use crate::files;
use crate::report::identity::Store;
use page::{Joined, Page};

/// How often it looks again.
const LOOK: Duration = Duration::from_secs(2);
/// Longest file of findings or alarms that is read.
const LIMIT: u64 = 64 << 10;
/// Raised alarms, by the agent.
pub(crate) const ALARMS: &str = "/run/roost/alarms";
/// Lines that may wait to be read; who types faster is not heard.
const LINES: usize = 8;
/// Clears a screen; what is older scrolls away.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Shows the page until it is stopped; prints it anew only when something changed.
pub(crate) fn run(config: &Config, addresses: impl Fn() -> Vec<String>) -> anyhow::Result<()> {
    let typed = typed()?;
    let mut shown = None;
    loop {
        let now = look(config, addresses());
        if shown.as_ref() != Some(&now) {
            show(&format!("{CLEAR}{now}"))?;
            shown = Some(now);
        }
        match typed.recv_timeout(LOOK) {
            Err(RecvTimeoutError::Timeout) => {}
            // Nobody can type there.
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(LOOK),
            Ok(_enter) => {
                if let Err(why) = ask(config, &typed) {
                    show(&format!("\n{why:#}\nPress Enter to go on.\n"))?;
                    let _enter = typed.recv();
                }
                shown = None;
            }
        }
    }
}

/// Lines from the keyboard, by a thread that waits for them.
fn typed() -> anyhow::Result<Receiver<String>> {
    let (sender, lines) = sync_channel(LINES);
    if std::io::stdin().is_terminal() {
        let read = move || {
            for line in std::io::stdin().lock().lines() {
                let Ok(line) = line else { return };
                if sender.send(line).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("keyboard".into()).spawn(read).context("start the keyboard's thread")?;
    }
    Ok(lines)
}

fn look(config: &Config, addresses: Vec<String>) -> String {
    let store = config.identity().is_dir().then(|| Store::open(&config.identity()).ok()).flatten();
    let membership = store.as_ref().and_then(|store| store.membership().ok().flatten());
    let fingerprint = store.and_then(|store| store.key().ok()).map(|key| key.key_fingerprint().to_string());
    Page {
        name: config.host_name().unwrap_or_default(),
        version: env!("CARGO_PKG_VERSION"),
        addresses,
        joined: membership.map(|of| Joined { host: of.host.to_string(), grid: of.grid.to_string() }),
        fingerprint,
        agent: agent(),
        guests: guests(),
        alarms: lines(ALARMS),
        findings: lines(FINDINGS),
    }
    .text()
}

fn lines(path: &str) -> Vec<String> {
    let bytes = files::read_bounded(path.as_ref(), LIMIT).ok().flatten().unwrap_or_default();
    String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
}

/// The line that the agent tells the service manager; else in which state the service manager sees it.
pub(crate) fn agent() -> String {
    let asked = ["show", "roost-agent.service", "-p", "StatusText", "-p", "ActiveState"];
    let told = Command::new("systemctl").args(asked).output();
    page::told(&told.map_or(String::new(), |told| String::from_utf8_lossy(&told.stdout).into_owned()))
}

/// Guests that QEMU runs now.
fn guests() -> usize {
    let Ok(folder) = fs::read_dir("/run/libvirt/qemu") else { return 0 };
    folder.flatten().filter(|entry| entry.path().extension().is_some_and(|end| end == "xml")).count()
}

/// The two questions. What was answered before is offered.
fn ask(config: &Config, typed: &Receiver<String>) -> anyhow::Result<()> {
    let address = question("Address of the aggregator", config.aggregator.as_deref(), typed)?;
    let name = question("Name of this host", Some(&config.host_name()?), typed)?;
    let token = question("Join token (roost1-...), nothing to go back", Some(""), typed)?;
    if token.is_empty() {
        return Ok(());
    }
    config::check_name(&name)?;
    show("Joining ...\n")?;
    let program = std::env::current_exe().context("find this program")?;
    let joined =
        Command::new(program).args(["join", &address, "--name", &name]).env("ROOST_JOIN_TOKEN", token).output();
    let joined = joined.context("join the grid")?;
    let said = if joined.status.success() { joined.stdout } else { joined.stderr };
    anyhow::bail!("{}", String::from_utf8_lossy(&said).trim().to_owned());
}

fn question(text: &str, default: Option<&str>, typed: &Receiver<String>) -> anyhow::Result<String> {
    let offered = default.filter(|word| !word.is_empty()).map_or(String::new(), |word| format!(" [{word}]"));
    show(&format!("{text}{offered}: "))?;
    let line = typed.recv().context("read the answer")?;
    match (line.trim(), default) {
        ("", Some(default)) => Ok(default.to_owned()),
        ("", None) => anyhow::bail!("nothing was entered"),
        (text, _) => Ok(text.to_owned()),
    }
}

fn show(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    // A serial line needs the carriage return.
    out.write_all(text.replace('\n', "\r\n").as_bytes()).and_then(|()| out.flush()).context("write to the console")
}
