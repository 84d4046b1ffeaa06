//! `roost-agent boot`: what happens once at the start of a machine that runs the host image, before the network and
//! everything else: the answers are found, the data disk is mounted, and settings are written. What is chosen is in the
//! pure files beside this one; here it is gathered and done.

mod answers;
mod disks;
mod network;
mod settings;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use roost_protocol::enrol::JoinToken;
use roost_snmp::setup::{self as snmp, Setup};

use crate::{files, setup, slots};
use answers::Answers;
use disks::{Choice, Disk};

/// Where the answers of the boot medium are looked for: an archive behind the initrd put them there.
const BROUGHT: &str = "/run/roost/roost.conf";
/// What the page on the console reads.
pub(crate) const FINDINGS: &str = "/run/roost/findings";
/// Labels and file systems of what may have been booted from: a stick, or a disc.
const MEDIA: [(&str, &str); 2] = [(disks::BOOT, "vfat"), ("ROOST-HOST", "iso9660")];
const TOKEN: &str = "/run/roost/join-token";
/// Where the data disk is mounted.
const DATA: &str = "/data";
/// Folders of the data disk, where they appear, and their modes. What libvirt knows of guests is state too.
const KEPT: [(&str, &str, u32); 5] = [
    ("roost", "/var/lib/roost", 0o711),
    ("roost-guard", "/var/lib/roost-guard", 0o700),
    ("libvirt", "/var/lib/libvirt", 0o755),
    ("libvirt-qemu", "/etc/libvirt/qemu", 0o755),
    ("snmp", "/var/lib/snmp", 0o755),
];
/// A stick or a disk that is slow to show itself is waited for so long.
const APPEARS: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(500);
/// A card and its switch agree on a link within this time, and a card without a cable costs it.
const LINKED: Duration = Duration::from_secs(8);
/// Longest of the files read here.
const LIMIT: u64 = 64 << 10;

/// Prepares this machine; says on the console what it found.
pub(crate) fn run() -> anyhow::Result<()> {
    files::make_folder(Path::new("/run/roost"), 0o755).context("make /run/roost")?;
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let mut answers = gather(&line);
    let data = data_disk(&answers, &line);
    let booted = network::booted(&line);
    let cards = if answers.nic.is_some() || booted.is_some() { cards() } else { linked_cards() };
    let uplink = network::uplink(&cards, answers.nic.as_deref(), booted);
    let mut found = std::mem::take(&mut answers.problems);
    match data {
        Ok(told) => found.extend(told),
        Err(why) => found.push(format!("no data disk: {why:#}; nothing is kept over a reboot")),
    }
    match &uplink {
        Ok(card) => {
            place("/run/systemd/network/20-uplink.network", &network::uplink_file(card))?;
            if answers.nic.is_none() && cards.len() > 1 {
                let (number, name, address) = (cards.len(), &card.name, &card.address);
                found.push(format!("of {number} network cards {name} ({address}) is used; nic= names another"));
            }
        }
        Err(why) => found.push(why.clone()),
    }
    place("/run/systemd/network/30-br0.network", &network::bridge_file(&answers))?;
    let name = answers.name.clone().unwrap_or_else(|| network::default_name(uplink.as_ref().ok()));
    nix::unistd::sethostname(&name).context("set the host's name")?;
    fs::write("/etc/hostname", format!("{name}\n")).context("write /etc/hostname")?;
    if let Some(token) = &answers.token {
        files::write_atomically(Path::new(TOKEN), token.as_bytes()).context("write the join token")?;
    }
    if let Some(from) = &answers.update {
        place(slots::UPDATE, &format!("{from}\n"))?;
    }
    if let Some(community) = &answers.community
        && let Err(why) = monitored(community)
    {
        found.push(format!("no SNMP: {why:#}"));
    }
    place("/etc/roost/agent.toml", &settings::agent(&answers, &name, TOKEN))?;
    place(FINDINGS, &format!("{}\n", found.join("\n")))?;
    for line in found {
        crate::say(&format!("roost: {line}"));
    }
    Ok(())
}

/// snmpd, which starts later, answers who knows this word; to be read only.
fn monitored(community: &str) -> anyhow::Result<()> {
    let (listen, receivers) = (&[][..], &[][..]);
    let (socket, agent_group, user) = (None, None, None);
    let wanted = Setup { socket, agent_group, listen, community: Some(community), user, receivers };
    let folder = Path::new("/etc/snmp/snmpd.conf.d");
    files::make_folder(folder, 0o755).with_context(|| format!("make {}", folder.display()))?;
    setup::write(&folder.join(snmp::FILE), &snmp::drop_in(&wanted)?)
}

/// The kernel's parameters go before the file of the boot medium.
fn gather(line: &str) -> Answers {
    let mut answers = answers::from_command_line(line);
    let brought = files::read_bounded(Path::new(BROUGHT), LIMIT);
    let file = match brought {
        Ok(Some(bytes)) => Some(bytes),
        Ok(None) if answers.aggregator.is_some() => medium(Duration::ZERO),
        Ok(None) => medium(APPEARS),
        Err(why) => {
            answers.problems.push(format!("read {BROUGHT}: {why}"));
            None
        }
    };
    match file.map(String::from_utf8) {
        Some(Ok(text)) => answers = answers.or(answers::from_file(&text)),
        Some(Err(_)) => answers.problems.push("roost.conf is not text".into()),
        None => {}
    }
    // With a mistyped token the agent would not start, and guests that are here already need it.
    if let Some(Err(why)) = answers.token.as_deref().map(JoinToken::parse) {
        answers.token = None;
        answers.problems.push(format!("token: {why}"));
    }
    answers
}

/// roost.conf on the medium that was booted from, if there is one within this time.
fn medium(wait: Duration) -> Option<Vec<u8>> {
    let (path, kind) = appears(&MEDIA, wait)?;
    let at = Path::new("/run/roost/medium");
    files::make_folder(at, 0o700).ok()?;
    tool(Command::new("mount").args(["-t", kind, "-o", "ro", &path]).arg(at)).ok()?;
    let read = files::read_bounded(&at.join("roost.conf"), LIMIT);
    // It can be pulled from now on.
    let _left = tool(Command::new("umount").arg(at));
    read.ok().flatten()
}

/// The device with the first of these labels and the file system of that one, waiting for it.
fn appears(wanted: &[(&str, &'static str)], wait: Duration) -> Option<(String, &'static str)> {
    let until = Instant::now() + wait;
    loop {
        let disks = list().unwrap_or_default();
        let seen =
            wanted.iter().find_map(|(label, kind)| Some((disks.iter().find(|disk| disk.label == *label)?, *kind)));
        match seen {
            Some((disk, kind)) => return Some((disk.path.clone(), kind)),
            None if Instant::now() >= until => return None,
            None => std::thread::sleep(LOOK),
        }
    }
}

/// Mounts the data disk, making it first where that was asked for, and tells what it did. A newer image on it is started.
fn data_disk(answers: &Answers, line: &str) -> anyhow::Result<Vec<String>> {
    if answers.data {
        // Also where one may be made: `format=` stays among the answers, and a second disk must not be made because the
        // first is slow to show itself.
        appears(&[(disks::LABEL, "xfs")], APPEARS);
    }
    let mut choice = disks::choose(&list()?, answers);
    if let Choice::Divide(disk) = &choice {
        divide(disk)?;
        choice = disks::choose(&list()?, answers);
    }
    let (path, new) = match choice {
        Choice::None(why) => bail!(why),
        Choice::Divide(disk) => bail!("a part was made on {disk}, and it does not show itself"),
        Choice::Mount(path) => (path, false),
        Choice::Format(path) => {
            make(&path)?;
            (path, true)
        }
    };
    mount(&path)?;
    let images = slots::begin(answers.floor, line, &answers.parameters(), || {
        tool(Command::new("umount").arg(DATA))?;
        let failed = tool(Command::new("kexec").arg("-e")).and_then(|()| bail!("kexec came back"));
        mount(&path)?;
        failed
    });
    for (folder, at, mode) in KEPT {
        let kept = Path::new(DATA).join(folder);
        files::make_folder(&kept, mode).with_context(|| format!("make {}", kept.display()))?;
        files::make_folder(Path::new(at), mode).with_context(|| format!("make {at}"))?;
        tool(Command::new("mount").arg("--bind").arg(&kept).arg(at))?;
    }
    let room = files::room(Path::new(DATA))
        .map_or_else(String::new, |(total, free)| format!(", {} of {} GiB free", free >> 30, total >> 30));
    let word = if new { "made and mounted" } else { "mounted" };
    let told = format!("data disk {path} is {word}{room}");
    Ok(std::iter::once(told).chain(images).collect())
}

fn mount(path: &str) -> anyhow::Result<()> {
    tool(Command::new("mount").args(["-t", "xfs", "-o", "noatime", path, DATA]))
}

/// Never over anything: lsblk saw nothing there, wipefs looks again, and mkfs itself refuses.
fn make(path: &str) -> anyhow::Result<()> {
    let mut wipefs = Command::new("wipefs");
    let looked = wipefs.args(["--no-act", "--noheadings", "--output", "TYPE", path]).output().context("run wipefs")?;
    let (held, why) = (String::from_utf8_lossy(&looked.stdout), String::from_utf8_lossy(&looked.stderr));
    if !looked.status.success() || !held.trim().is_empty() {
        bail!("{path} is not blank: {} {}", held.trim(), why.trim());
    }
    tool(Command::new("mkfs.xfs").args(["-q", "-m", "reflink=1", "-L", disks::LABEL, path]))?;
    tool(Command::new("udevadm").args(["settle", "-t", "10"]))
}

/// One more part, over the room that no part has. The copy of the table belongs at the end of the disk, and lies where
/// the image ended that was written to it.
fn divide(disk: &str) -> anyhow::Result<()> {
    tool(Command::new("sfdisk").args(["-q", "--relocate", "gpt-bak-std", disk]))?;
    let mut sfdisk = Command::new("sfdisk");
    let started = sfdisk.args(["-q", "--append", disk]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut sfdisk = started.context("run sfdisk")?;
    let part = format!("type=linux, name={}\n", disks::LABEL);
    sfdisk.stdin.take().context("sfdisk's input")?.write_all(part.as_bytes()).context("tell sfdisk")?;
    let ended = sfdisk.wait_with_output().context("wait for sfdisk")?;
    if !ended.status.success() {
        bail!("sfdisk: {}", String::from_utf8_lossy(&ended.stderr).trim());
    }
    tool(Command::new("udevadm").args(["settle", "-t", "10"]))
}

fn list() -> anyhow::Result<Vec<Disk>> {
    let asked = ["--json", "--bytes", "--tree=PATH", "-o", "PATH,TYPE,SIZE,RM,RO,TRAN,FSTYPE,LABEL,PARTLABEL,PTTYPE"];
    let told = Command::new("lsblk").args(asked).output().context("run lsblk")?;
    disks::parse(&told.stdout).context("read what lsblk told")
}

/// Where there is a choice, cards are given time for their links.
fn linked_cards() -> Vec<network::Card> {
    let mut seen = cards();
    if seen.len() < 2 {
        return seen;
    }
    for card in &seen {
        if let Err(why) = tool(Command::new("ip").args(["link", "set", "dev", &card.name, "up"])) {
            crate::say(&format!("roost: card {}: {why:#}", card.name));
        }
    }
    let until = Instant::now() + LINKED;
    loop {
        seen = cards();
        if Instant::now() >= until || seen.iter().all(|card| card.linked) {
            return seen;
        }
        std::thread::sleep(LOOK);
    }
}

/// Network cards with a device behind them, by name.
fn cards() -> Vec<network::Card> {
    let Ok(folder) = fs::read_dir("/sys/class/net") else { return Vec::new() };
    let mut cards: Vec<network::Card> = folder
        .flatten()
        .filter(|entry| entry.path().join("device").exists())
        .map(|entry| {
            // A card that is down refuses to tell whether it is linked.
            let word = |name| fs::read_to_string(entry.path().join(name)).unwrap_or_default().trim().to_owned();
            let name = entry.file_name().to_string_lossy().into_owned();
            network::Card { name, address: word("address"), linked: word("carrier") == "1" }
        })
        .collect();
    cards.sort();
    cards
}

pub(crate) fn tool(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let ended = command.output().with_context(|| format!("run {program}"))?;
    if !ended.status.success() {
        bail!("{program}: {}", String::from_utf8_lossy(&ended.stderr).trim());
    }
    Ok(())
}

fn place(path: &str, text: &str) -> anyhow::Result<()> {
    let path = Path::new(path);
    if let Some(folder) = path.parent() {
        files::make_folder(folder, 0o755).with_context(|| format!("make {}", folder.display()))?;
    }
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
