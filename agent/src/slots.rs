//! `roost-agent image`: newer images of this host, kept on its data disk beside what it booted from, started by kexec and
//! left again where they don't come up (docs/decisions/0026). What is chosen is in `choose.rs`.

mod asked;
mod choose;
mod manifest;
mod origin;
mod shelf;
mod sign;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Subcommand;
use data_encoding::HEXLOWER;
use nix::fcntl::{Flock, FlockArg};
use roost_protocol::Stamp;
use roost_protocol::host::{NextImage, RunningImage};

use crate::boot::tool;
use crate::config::Config;
use crate::observe::facts;
use crate::{console, files};
pub(crate) use asked::Search;
use choose::{Choice, Name, Record, Slot};
use manifest::{FILES, Manifest};
use origin::Origin;
use shelf::Shelf;

/// Slots on the data disk.
const FOLDER: &str = "/data/image";
/// In the image: who signs newer ones, and of when it is itself.
const KEY: &str = "/usr/share/roost/image.pub";
const DATE: &str = "/usr/share/roost/image-date";
/// Names the slot among the kernel's parameters.
const PARAMETER: &str = "roost.slot=";
/// Among them too: this start is a trial (roost-image.service).
const TRIAL: &str = "roost.trial";
/// What the next kernel is not told: what boot loaders add for themselves, which slot and start this one is, and that a
/// disk may be made, for by now there is one.
const DROPPED: [&str; 5] = ["BOOT_IMAGE=", "initrd=", "roost.format=", PARAMETER, TRIAL];
/// Unless it was said otherwise: a new image that panics is left, and its start was counted.
const PANIC: &str = "panic=10";
/// What is about to be started.
const MEMORY: &str = "/run/roost/next";
/// Why a newer image does not run; the agent makes an alarm of it.
pub(crate) const PASSED_OVER: &str = "/run/roost/image-passed-over";
/// There where it was asked to run what it booted, and no newer image.
const FLOOR: &str = "/run/roost/image-floor";
/// Where newer images are looked for.
pub(crate) const UPDATE: &str = "/run/roost/update";
/// A new image has so long to be connected to the aggregator.
const WITHIN: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_secs(2);
/// Longest of the small files read here.
const LIMIT: u64 = 16 << 10;
/// Longest line that the kernel takes (COMMAND_LINE_SIZE of x86), its end in it.
const LINE: usize = 2_048;

/// What to do about images of hosts.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Make a key that signs images: FILE, and FILE.pub, which goes into images.
    Key { file: PathBuf },
    /// Sign the image in a folder, so that hosts take it: writes `manifest` beside its files.
    Sign {
        folder: PathBuf,
        /// Made by `roost-agent image key`.
        #[arg(long)]
        key: PathBuf,
        /// What people call it.
        #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
        image_version: String,
        /// Seconds since 1970. Hosts take what is newer than what they have.
        #[arg(long)]
        date: u64,
    },
    /// Take the image of a folder or an http:// address if it is newer; the next start uses it.
    Update {
        /// Else the answer `update=`, else this host's aggregator.
        from: Option<String>,
    },
    /// After the start of a new image: keep it once the agent is connected, else go back.
    Settle,
}

/// At the floor's start, once the data disk is mounted: starts the newest image that can be, and then does not come
/// back; tells for people what was found otherwise.
///
/// `floor`: stay where we are. `answers` stand behind the kernel's parameters of now. `leave` lets go of the data disk
/// and starts what was loaded.
pub(crate) fn begin(floor: bool, line: &str, answers: &str, leave: impl Fn() -> anyhow::Result<()>) -> Vec<String> {
    let mut found = Vec::new();
    let shelf = match open() {
        Ok(shelf) => shelf,
        Err(why) => return vec![format!("no newer image can be used: {why:#}")],
    };
    if floor {
        found.push("image=floor was asked for: newer images are left alone".into());
        if let Err(why) = fs::write(FLOOR, "") {
            crate::say(&format!("roost: write {FLOOR}: {why}"));
        }
    } else if running(line).is_none()
        && let Err(why) = go_up(&shelf, line, answers, leave)
    {
        found.push(format!("no newer image is started: {why:#}"));
    }
    let (slots, problems) = shelf.look();
    found.extend(passed_over(&slots, line, problems));
    if let Some(slot) = slots.iter().find(|slot| running(line) == Some(slot.name)) {
        let Manifest { version, date, .. } = &slot.manifest;
        found.push(format!("image {version} of {date} runs, from slot {}", slot.name.word()));
    }
    found
}

/// Tries the newest, then the next.
fn go_up(shelf: &Shelf, line: &str, answers: &str, leave: impl Fn() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let date = own_date()?;
    loop {
        let slots = shelf.look().0;
        match choose::choose(date, &slots) {
            Choice::Floor => return Ok(()),
            Choice::GiveUp(name, record) => shelf.note(name, &record)?,
            Choice::Start(name, record) => {
                let slot = slots.iter().find(|slot| slot.name == name).context("the slot that was chosen")?;
                let trial = matches!(record, Record::Trial(_));
                match load(shelf, slot, &parameters(line, answers, name, trial)) {
                    Ok(()) => {
                        shelf.note(name, &record)?;
                        crate::say(&format!(
                            "roost: starting image {} of {}",
                            slot.manifest.version, slot.manifest.date
                        ));
                        return leave().inspect_err(|_| unload());
                    }
                    Err(why) => shelf.note(name, &Record::Bad(format!("{why:#}")))?,
                }
            }
        }
    }
}

/// Has the kernel hold the image, checked, ready to be started.
fn load(shelf: &Shelf, slot: &Slot, line: &str) -> anyhow::Result<()> {
    if line.len() >= LINE {
        bail!("the kernel's parameters would have {} bytes, it takes {}", line.len(), LINE - 1);
    }
    let to = Path::new(MEMORY);
    files::make_folder(to, 0o700).context("make room in memory")?;
    let loaded = shelf.load(slot, to).and_then(|()| {
        let mut kexec = Command::new("kexec");
        kexec.args(["-s", "-l"]).arg(to.join(FILES[0]));
        tool(kexec.arg(format!("--initrd={}", to.join(FILES[1]).display())).arg(format!("--command-line={line}")))
    });
    let _gone = fs::remove_dir_all(to);
    loaded
}

/// Has the kernel forget it, so that no reboot starts it unseen.
fn unload() {
    if let Err(why) = tool(Command::new("kexec").arg("-u")) {
        crate::say(&format!("roost: {why:#}"));
    }
}

/// Those of now, answers that came another way, which slot it is, and whether it is on trial.
fn parameters(line: &str, answers: &str, slot: Name, trial: bool) -> String {
    let kept = line.split_ascii_whitespace().filter(|word| !DROPPED.iter().any(|own| word.starts_with(own)));
    let mut words: Vec<String> = kept.map(str::to_owned).collect();
    for word in answers.split_ascii_whitespace().chain([PANIC]) {
        let key = word.split_inclusive('=').next().unwrap_or(word);
        if !words.iter().any(|known| known.starts_with(key)) {
            words.push(word.to_owned());
        }
    }
    words.push(format!("{PARAMETER}{}", slot.word()));
    words.extend(trial.then(|| TRIAL.to_owned()));
    words.join(" ")
}

fn passed_over(slots: &[Slot], line: &str, problems: Vec<String>) -> Vec<String> {
    let running = date_of(running(line), slots);
    let told: Vec<String> =
        running.ok().and_then(|date| choose::passed_over(date, slots)).into_iter().chain(problems).collect();
    if !told.is_empty()
        && let Err(why) = fs::write(PASSED_OVER, told.join("; "))
    {
        crate::say(&format!("roost: write {PASSED_OVER}: {why}"));
    }
    told
}

/// The words of `roost-agent image`.
pub(crate) fn run(command: &ImageCommand, config: &Config) -> anyhow::Result<()> {
    match command {
        ImageCommand::Key { file } => sign::make_key(file),
        ImageCommand::Sign { folder, key, image_version, date } => sign::sign(folder, key, image_version, *date),
        ImageCommand::Update { from } => update(from.as_deref(), config),
        ImageCommand::Settle => settle(),
    }
}

/// Takes a newer image, which runs from the next start on.
fn update(from: Option<&str>, config: &Config) -> anyhow::Result<()> {
    let set = files::read_bounded(Path::new(UPDATE), LIMIT).with_context(|| format!("read {UPDATE}"))?;
    let set = set.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
    if !Path::new(FOLDER).parent().is_some_and(is_mounted) {
        bail!("there is no data disk: a newer image could not be kept");
    }
    let from = match from.map(str::to_owned).or(set) {
        Some(at) => Origin::At(at),
        None => Origin::aggregator(config)?,
    };
    files::make_folder(Path::new(FOLDER), 0o700).with_context(|| format!("make {FOLDER}"))?;
    // One at a time: the timer's, and one that was asked for.
    let turn = fs::File::create(Path::new(FOLDER).join("turn")).context("open the slots' lock")?;
    let _turn = Flock::lock(turn, FlockArg::LockExclusive).map_err(|(_, why)| why).context("wait for my turn")?;
    let (shelf, line) = (open()?, command_line());
    let running = running(&line);
    let date = date_of(running, &shelf.look().0)?;
    let taken = shelf.take(&mut |file| from.open(file), (running, date));
    match taken.with_context(|| format!("take the image of {from}"))? {
        None => crate::say("no newer image"),
        Some((name, new)) => {
            let told = format!("image {} of {} is in slot {}", new.version, new.date, name.word());
            announce(&format!("{told}: the next start uses it"));
        }
    }
    Ok(())
}

/// After the start of an image that is on trial: it is good once it is connected. Where this fails the machine starts
/// anew (roost-image.service), also where the slot can't even be seen: its start was counted before.
fn settle() -> anyhow::Result<()> {
    let (shelf, line) = (open()?, command_line());
    let Some(name) = running(&line) else { bail!("this system was not started from a slot") };
    let slot = shelf.look().0.into_iter().find(|slot| slot.name == name);
    let slot = slot.with_context(|| format!("slot {} is not there: was the data disk found?", name.word()))?;
    let until = Instant::now() + WITHIN;
    while Instant::now() < until {
        if console::agent() == crate::service::CONNECTED {
            shelf.note(name, &Record::Good)?;
            announce(&format!("image {} of {} is good", slot.manifest.version, slot.manifest.date));
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
    let why = format!("its agent was not connected to the aggregator within {} s", WITHIN.as_secs());
    shelf.note(name, &Record::Bad(why.clone()))?;
    bail!("image {} of {}: {why}; back to the one before", slot.manifest.version, slot.manifest.date)
}

fn announce(text: &str) {
    crate::say(text);
    // Also on the page of the console.
    let found = files::read_bounded(Path::new(crate::boot::FINDINGS), LIMIT).ok().flatten().unwrap_or_default();
    let found = format!("{text}\n{}", String::from_utf8_lossy(&found));
    if let Err(why) = files::write_atomically(Path::new(crate::boot::FINDINGS), found.as_bytes()) {
        crate::say(&format!("write {}: {why}", crate::boot::FINDINGS));
    }
}

fn open() -> anyhow::Result<Shelf> {
    let text = fs::read_to_string(KEY).with_context(|| format!("read {KEY}"))?;
    let key = HEXLOWER.decode(text.trim().as_bytes()).with_context(|| format!("{KEY} is no key"))?;
    Ok(Shelf { folder: PathBuf::from(FOLDER), key })
}

fn own_date() -> anyhow::Result<u64> {
    let text = fs::read_to_string(DATE).with_context(|| format!("read {DATE}"))?;
    text.trim().parse().with_context(|| format!("{DATE} is no date"))
}

/// Of what runs.
fn date_of(running: Option<Name>, slots: &[Slot]) -> anyhow::Result<u64> {
    match slots.iter().find(|slot| Some(slot.name) == running) {
        Some(slot) => Ok(slot.manifest.date),
        None => own_date(),
    }
}

/// The image that runs, where it is one of ours.
pub(crate) fn image() -> Option<RunningImage> {
    let own = own_date().ok()?;
    let slot = running(&command_line());
    let signed = slot.and_then(|name| open().ok()?.look().0.into_iter().find(|slot| slot.name == name));
    let (version, made) = match signed {
        Some(slot) => (slot.manifest.version, slot.manifest.date),
        None => (facts::release(&fs::read_to_string(facts::OS_RELEASE).ok()?, "IMAGE_VERSION")?, own),
    };
    let slot = slot.map(|name| name.word().to_owned());
    let secure_boot = Some(facts::is_secure_boot(Path::new(facts::SECURE_BOOT)));
    Some(RunningImage { version, made: stamp(made), slot, next: next(), secure_boot })
}

/// The newer image that the next start uses, read from two small files.
pub(crate) fn next() -> Option<NextImage> {
    if Path::new(FLOOR).exists() {
        return None;
    }
    let slots = open().ok()?.look().0;
    let next = choose::next(date_of(running(&command_line()), &slots).ok()?, slots)?;
    Some(NextImage { version: next.version, made: stamp(next.date) })
}

fn stamp(date: u64) -> Stamp {
    Stamp(date.saturating_mul(1_000))
}

/// The slot that this system was started from; none: it is the floor.
fn running(line: &str) -> Option<Name> {
    let word = line.split_ascii_whitespace().find_map(|word| word.strip_prefix(PARAMETER))?;
    Name::BOTH.into_iter().find(|name| name.word() == word)
}

fn command_line() -> String {
    fs::read_to_string("/proc/cmdline").unwrap_or_default()
}

fn is_mounted(at: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(1).is_some_and(|found| Path::new(found) == at))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_next_kernel_is_told_what_this_one_was_and_what_was_answered() {
        let line = "BOOT_IMAGE=/vmlinuz console=ttyS0 initrd=initrd.img roost.name=h1 roost.format=blank roost.slot=b roost.trial\n";
        let answers = "roost.name=other roost.token=t";
        let told = parameters(line, answers, Name::A, true);
        assert_eq!(told, "console=ttyS0 roost.name=h1 roost.token=t panic=10 roost.slot=a roost.trial");
        assert_eq!(parameters("panic=-1", "", Name::B, false), "panic=-1 roost.slot=b");
        assert_eq!(running(&told), Some(Name::A));
        assert_eq!((running("console=ttyS0"), running("roost.slot=c")), (None, None));
    }
}
