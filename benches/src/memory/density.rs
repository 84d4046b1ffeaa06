//! How many guests a small host holds on office days until memory is short: by the agent, by ksmtuned with balloons set once,
//! and with nothing. Each way has a host of its own, the same guests with the same days, started at the same pace.

use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use reqwest::Method;
use roost_benches::figure::{Figure, Goal, alone};
use roost_tests::grid::{Grid, START, eventually, lasts, text, tiny};
use roost_tests::page_sharing::PageSharing;
use serde_json::{Value, json};

use crate::small::Small;
use crate::way;

/// The program of a desk, and where it lies in the guest.
const DAY: &str = include_str!("desk.sh");
/// MiB of the host, and of a guest.
const HOST: u64 = 3_072;
const GUEST: u64 = 384;
/// MiB of a guest's day: its image's programs, its own, what it needs idle, at most while somebody works, and files read.
const PROGRAMS: u64 = 64;
const OWN: u64 = 24;
const IDLE: u64 = 16;
const WORK: (u64, u64) = (48, 112);
const FILES: u64 = 64;
/// What one balloon for all day leaves: the most that a day needs with the guest's own kernel (72 MiB), and 16 MiB. With less
/// a guest kills its programs.
const STATIC: u64 = 72 + PROGRAMS + OWN + IDLE + WORK.1 + 16;
/// So many guests are made; the first few, which fit in any way, are started fast, the others with time to tune between.
const MADE: u32 = 24;
const FIRST: u32 = 4;
const PACE: (Duration, Duration) = (Duration::from_secs(6), Duration::from_secs(20));
/// PSI `some avg10` of memory at which a host is too full, percent; the kernel counts it for the whole machine, so it is this
/// host's own only when less than this part of its memory is available.
const STALLED: f64 = 10.0;
const NEAR: u64 = 10;
/// A start that is refused is tried again for so long: on a quiet machine all guests have worked and been idle since.
const PATIENCE: Duration = Duration::from_secs(100);
/// One way lasts at most so long.
const LONGEST: Duration = Duration::from_secs(480);
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// What was read and copied before is over after so long.
const CALM: Duration = Duration::from_secs(120);
/// A start takes its time on a busy machine.
const STARTED: Duration = Duration::from_secs(60);

/// One way to hold many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Way {
    Roost,
    /// Guests as virt-install makes them.
    Ksmtuned,
    /// Guests that report free pages and take back from their balloons in need, as ours do.
    KsmtunedReporting,
    Nothing,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Roost => "roost",
            Way::Ksmtuned => "ksmtuned, static balloon",
            Way::KsmtunedReporting => "ksmtuned, static balloon, free page reporting, autodeflate",
            Way::Nothing => "no tuning",
        }
    }
}

/// How it ended.
#[derive(Debug)]
enum End {
    Refused(String),
    Killed(u64),
    Stalled(f64),
    /// As many as there are, or as long as it may last.
    Enough,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Refused(why) => write!(f, "the next was refused: {why}"),
            End::Killed(count) => write!(f, "the kernel killed {count} of its processes"),
            End::Stalled(stalled) => write!(f, "its programs waited for memory {stalled} % of 10 s"),
            End::Enough => f.write_str("no more were tried"),
        }
    }
}

/// What one way came to.
#[derive(Debug)]
struct Held {
    guests: u32,
    started: u32,
    most_stalled: f64,
    end: End,
}

/// These ways, or all; ours is set beside the best of the peers where both were measured.
pub(crate) fn measure(ways: &[Way]) -> Result<()> {
    let sharing = PageSharing::take()?;
    let ways = if ways.is_empty() { Way::value_variants() } else { ways };
    let (mut ours, mut best) = (None, None::<(&str, f64)>);
    for way in ways {
        way::reset(&sharing)?;
        let Held { guests, started, most_stalled, end } = hold(*way, &sharing).with_context(|| way.name())?;
        eprintln!("{}: {guests} of {started} started; {end}; stalled at most {most_stalled} %", way.name());
        let guests = f64::from(guests);
        if *way == Way::Roost {
            ours = Some(guests);
        } else {
            alone(&format!("density: {}", way.name()), "guests", guests)?;
            best = best.filter(|(_, most)| *most >= guests).or(Some((way.name(), guests)));
        }
    }
    let Some(ours) = ours else { return Ok(()) };
    let (name, goal) = ("density: guests until memory is short; more is better", Some(Goal::RatioAtLeast(1.5)));
    Figure { name, unit: "guests", ours, peer: best, goal, ..Figure::default() }.print()
}

/// A host of its own, and what runs there.
struct Rig<'a> {
    // The grid goes first: its processes are in the small host's group.
    grid: Grid,
    small: Small,
    way: Way,
    sharing: &'a PageSharing,
    started: u32,
}

fn hold(way: Way, sharing: &PageSharing) -> Result<Held> {
    let grid = Grid::start(1)?;
    let small = Small::make(&grid, HOST)?;
    let mut rig = Rig { grid, small, way, sharing, started: 0 };
    make_guests(&mut rig.grid, way)?;
    rig.small.gather(&rig.grid)?;
    if matches!(way, Way::Ksmtuned | Way::KsmtunedReporting) {
        ksmtuned(&rig.grid)?;
    }
    eventually("the machine is calm", CALM, || {
        let stalled = stalled()?;
        ensure!(stalled < STALLED / 10.0, "programs wait for memory {stalled} % of the time");
        Ok(())
    })?;
    rig.fill()
}

/// Inside the host, so that it sees the small host's tables.
fn ksmtuned(grid: &Grid) -> Result<()> {
    let (script, pid) = (way::fetched(grid)?, format!("PIDFILE={}", text(&grid.folder.join("ksmtuned.pid"))?));
    // It leaves its loop behind and ends.
    let words = ["env", &pid, "bash", "-c", ". \"$0\"; wait", text(&script)?];
    grid.lab.spawn(1, &grid.folder.join("ksmtuned.log"), &words).map(drop)
}

/// Guests that are off; with the agent gone for those that do without.
fn make_guests(grid: &mut Grid, way: Way) -> Result<()> {
    grid.configure(1, &grid.token("h1")?)?;
    if way == Way::Roost {
        grid.set(1, "tune_memory = true")?;
        // The usual least reserve is for hosts of common size; of this one it would be a sixth.
        grid.set(1, "memory = { reserve_least_mib = 64 }")?;
    }
    grid.give_images(1)?;
    give_desk(grid)?;
    grid.start_agent(1)?;
    grid.await_host(1, "up", START)?;
    for number in 0..MADE {
        grid.api.done(Method::POST, "/guests", &desk(number))?;
    }
    if way != Way::Roost {
        grid.kill(1)?;
    }
    Ok(())
}

/// The image that all desks have, and their program before the test guest's own.
fn give_desk(grid: &Grid) -> Result<()> {
    let file = grid.folder.join("desk");
    fs::write(&file, DAY)?;
    let make = format!(
        "cd {} && chmod +x desk && head -c {}M /dev/urandom > desk.raw && \
         {{ cat /var/lib/roost/images/initrd.cpio; echo desk | cpio -o -H newc -R 0:0 --quiet; }} > desk.cpio && \
         mv desk.raw desk.cpio /var/lib/roost/images/",
        text(&grid.folder)?,
        PROGRAMS + FILES
    );
    grid.lab.exec(1, &["sh", "-c", &make]).map(drop)
}

fn desk(number: u32) -> Value {
    let mut guest = tiny(&name(number), "h1", false);
    guest["memory_mib"] = json!(GUEST);
    guest["disks"] = json!([{"from": "image", "path": "desk.raw", "format": "raw"}]);
    let cmdline = format!(
        "console=ttyS0 quiet rdinit=/desk roost.quiet=1 roost.desk={number} roost.programs={PROGRAMS} roost.own={OWN} \
         roost.idle={IDLE} roost.work={}-{} roost.files={FILES}",
        WORK.0, WORK.1
    );
    guest["boot"] = json!({"from": "kernel", "kernel": "vmlinuz", "initrd": "desk.cpio", "cmdline": cmdline});
    guest
}

fn name(number: u32) -> String {
    format!("bench-desk-{number}")
}

impl Rig<'_> {
    /// Starts one after the other until the host is too full.
    fn fill(&mut self) -> Result<Held> {
        let (began, mut due, mut refused) = (Instant::now(), Instant::now(), None::<(Instant, String)>);
        let (mut most_stalled, mut told) = (0.0_f64, Instant::now());
        let end = loop {
            let (stalled, killed) = (stalled()?, self.small.killed()?);
            most_stalled = most_stalled.max(stalled);
            if killed > 0 {
                break End::Killed(killed);
            }
            if stalled > STALLED && self.small.available_mib()? < HOST / NEAR {
                break End::Stalled(stalled);
            }
            if refused.as_ref().is_some_and(|(since, _)| since.elapsed() >= PATIENCE) || began.elapsed() >= LONGEST {
                break refused.map_or(End::Enough, |(_, why)| End::Refused(why));
            }
            if due <= Instant::now() && self.started < MADE {
                refused =
                    self.start(self.started)?.map(|why| (refused.map_or_else(Instant::now, |(since, _)| since), why));
                self.started += u32::from(refused.is_none());
                due = Instant::now() + if self.started < FIRST { PACE.0 } else { PACE.1 };
            }
            if told <= Instant::now() {
                self.tell(began, stalled)?;
                told = Instant::now() + PACE.1;
            }
            lasts(LOOK_EVERY);
        };
        self.tell(began, most_stalled)?;
        // Neither the one that was too much counts, nor any that has not taken yet what it needs at work.
        let over = matches!(end, End::Killed(_) | End::Stalled(_));
        let guests = self.worked()?.min(self.started.saturating_sub(u32::from(over)));
        Ok(Held { guests, started: self.started, most_stalled, end })
    }

    /// Starts one; why not, if the agent refuses.
    fn start(&self, number: u32) -> Result<Option<String>> {
        let name = name(number);
        if self.way == Way::Roost {
            let asked = self.grid.api.post(&format!("/guests/{name}/actions/start"), &json!({}))?;
            let ended = self.grid.api.ended(&asked, STARTED)?;
            if ended["state"] == "succeeded" {
                return Ok(None);
            }
            ensure!(ended["error"]["code"] == "wrong_state", "{ended}");
            return Ok(Some(ended["error"]["detail"].as_str().unwrap_or_default().to_owned()));
        }
        if matches!(self.way, Way::Ksmtuned | Way::Nothing) {
            self.plain(&name)?;
        }
        self.grid.virsh(1, &["start", &name])?;
        if self.way != Way::Nothing {
            self.grid.virsh(1, &["setmem", &name, &format!("{STATIC}M"), "--live"])?;
        }
        Ok(None)
    }

    /// Its balloon as virt-install leaves it: without free page reporting and autodeflate.
    fn plain(&self, name: &str) -> Result<()> {
        let xml = self.grid.virsh(1, &["dumpxml", "--inactive", name])?;
        let plain = xml.replace(" autodeflate='on'", "").replace(" freePageReporting='on'", "");
        ensure!(plain.len() < xml.len(), "its balloon is plain already: {xml}");
        let file = self.grid.folder.join(format!("{name}.xml"));
        fs::write(&file, plain)?;
        self.grid.virsh(1, &["define", text(&file)?]).map(drop)
    }

    fn tell(&self, began: Instant, stalled: f64) -> Result<()> {
        let merged = self.sharing.count("pages_sharing")? + self.sharing.count("ksm_zero_pages").unwrap_or(0);
        let (age, guests, available) = (began.elapsed().as_secs(), self.started, self.small.available_mib()?);
        let merged = merged * 4 / 1_024;
        eprintln!(
            "{age} s: {guests} guests, {available} of {HOST} MiB available, {merged} merged, stalled {stalled} %"
        );
        Ok(())
    }

    /// Guests that have been at work once; says how many had to kill programs of theirs.
    fn worked(&self) -> Result<u32> {
        let count = |words: &str| -> Result<u32> {
            let script = format!("grep -lE '{words}' /var/lib/roost/guests/*/serial.log | wc -l");
            Ok(self.grid.lab.exec(1, &["sh", "-c", &script])?.trim().parse()?)
        };
        eprintln!("{} guests had to kill programs of theirs", count("Out of memory|oom-kill")?);
        count("ROOST-WORK")
    }
}

/// What the kernel tells: a group's own limit stalls the machine too.
fn stalled() -> Result<f64> {
    let told = fs::read_to_string("/proc/pressure/memory").context("the kernel's PSI")?;
    let some = told.split_once("avg10=").and_then(|(_, rest)| rest.split_once(' ')).context("avg10")?;
    Ok(some.0.parse()?)
}
