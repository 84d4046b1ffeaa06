//! Real guards for tests: the built program on hosts in namespaces, a watchdog that powers the host off, and recorders, each
//! a process of a guest that writes down when it executes.

mod door;
mod recorder;
mod shared;

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use roost_protocol::{GuestId, HostId};
use roost_ward::door::{Peer, Reply, Request, Status};
use roost_ward::{Standing, WardId};

use crate::grid::{Lab, START, eventually, output, program, text};
pub use door::Door;
pub use recorder::{Recorder, now_ms};
pub use shared::shared_guest;

/// The ward of all stories.
pub const WARD: WardId = WardId(7);
/// Its guest.
pub const GUEST: GuestId = GuestId::from_u128(0x7000_0000_0000_4000_8000_0000_0000_0007);
const PORT: u16 = 7_946;
/// O_NONBLOCK of Linux on the processors we test on.
const NONBLOCK: i32 = 0o4000;
/// Between two looks of the watchdog.
const WATCH_EVERY: Duration = Duration::from_millis(20);

/// Hosts with a guard each.
#[derive(Debug)]
pub struct Guards {
    pub lab: Arc<Lab>,
    /// Those that are started from now on have wall clocks of their own.
    clocks: bool,
    hosts: u8,
    /// Their settings name their hosts; otherwise their agents do.
    named: bool,
    /// Process ids inside the hosts, by number.
    running: Vec<Option<u32>>,
    dogs: Vec<Dog>,
}

/// The watchdog of a host: what a timer on its board does.
#[derive(Debug)]
struct Dog {
    fired: Arc<AtomicBool>,
    /// And its host is off since.
    ended: Arc<AtomicBool>,
    /// Its host has no power, so neither has it.
    dark: Arc<AtomicBool>,
    /// It counts and never fires.
    broken: Arc<AtomicBool>,
    /// So many milliseconds before its time it fires.
    sooner: Arc<AtomicU64>,
    /// Held while its host is ended, or given power.
    switch: Arc<Mutex<()>>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Guards {
    /// So many hosts with running guards that know each other.
    pub fn start(hosts: u8) -> Result<Self> {
        Self::on(Arc::new(Lab::up(hosts)?), hosts)
    }

    /// The same on hosts that are up.
    pub fn on(lab: Arc<Lab>, hosts: u8) -> Result<Self> {
        let guards = Self::begin(lab, hosts, true)?;
        guards.introduce()?;
        Ok(guards)
    }

    /// The same, told nothing: they wait for their agents.
    pub fn untold(lab: Arc<Lab>, hosts: u8) -> Result<Self> {
        Self::begin(lab, hosts, false)
    }

    fn begin(lab: Arc<Lab>, hosts: u8, named: bool) -> Result<Self> {
        let (running, dogs) = (vec![None; usize::from(hosts) + 1], Vec::new());
        let mut guards = Self { lab, clocks: false, hosts, named, running, dogs };
        for host in 1..=hosts {
            let dog = Dog::watch(&guards, host)?;
            guards.dogs.push(dog);
            guards.spawn(host)?;
        }
        Ok(guards)
    }

    fn run_dir(&self, host: u8) -> PathBuf {
        self.lab.folder().join(format!("run-{host}"))
    }

    fn pipe(&self, host: u8) -> PathBuf {
        self.lab.folder().join(format!("dog-{host}"))
    }

    /// Where a host's guard listens for its agent.
    pub fn socket(&self, host: u8) -> PathBuf {
        self.run_dir(host).join("guard.sock")
    }

    fn settings(&self, host: u8) -> PathBuf {
        self.lab.folder().join(format!("guard-{host}.toml"))
    }

    fn clock(&self, host: u8) -> PathBuf {
        self.lab.folder().join(format!("clock-{host}"))
    }

    /// Starts each guard anew with a wall clock of its own, which is right.
    pub fn start_with_clocks(&mut self) -> Result<()> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("lab/clock.c");
        let library = self.lab.folder().join("clock.so");
        output(Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).args([library, source]))?;
        self.clocks = true;
        for host in 1..=self.hosts {
            self.set_clock(host, 0)?;
            self.signal(host, "KILL")?;
            self.spawn(host)?;
        }
        self.introduce()
    }

    /// Sets the wall clock of a host's guard so many seconds off; the guard runs on and sees it at once.
    pub fn set_clock(&self, host: u8, seconds: i64) -> Result<()> {
        Ok(fs::write(self.clock(host), seconds.to_string())?)
    }

    /// Log of a host's guard.
    pub fn log(&self, host: u8) -> PathBuf {
        self.lab.folder().join(format!("guard-{host}.log"))
    }

    fn id(host: u8) -> HostId {
        HostId::from_u128(u128::from(host))
    }

    /// Starts a host's guard, or a witness beside the aggregator (0), and waits until it answers.
    pub fn spawn(&mut self, host: u8) -> Result<()> {
        let settings = self.settings(host);
        let name = if self.named { format!("host = '{}'\n", Self::id(host)) } else { String::new() };
        // Beside the aggregator (0) is a witness: it sees the machine's own folders, and nothing ends its host.
        let (state, watchdog) = match host {
            0 => (self.lab.folder().join("witness").display().to_string(), "none".to_owned()),
            _ => ("/var/lib/roost-guard".to_owned(), format!("pipe:{}", self.pipe(host).display())),
        };
        let written = format!(
            "{name}listen = '{}:{PORT}'\nstate_dir = '{state}'\nrun_dir = '{}'\nwatchdog = '{watchdog}'\n",
            self.lab.address(host),
            self.run_dir(host).display(),
        );
        fs::write(&settings, written)?;
        let program = program("roost-guard")?;
        let preload = format!("LD_PRELOAD={}", self.lab.folder().join("clock.so").display());
        let clock = format!("WALL_CLOCK={}", self.clock(host).display());
        let before: &[&str] = if self.clocks { &["env", &preload, &clock] } else { &[] };
        let words = [before, &[text(&program)?, "--config", text(&settings)?, "run"]].concat();
        self.running[usize::from(host)] = Some(self.lab.spawn(host, &self.log(host), &words)?);
        eventually("the guard answers", START, || self.ask(host, &Request::Status).map(drop))
    }

    /// Tells all guards of all others: what an agent does with what the grid told it.
    pub fn introduce(&self) -> Result<()> {
        let peer = |host| {
            let status = self.status(host)?;
            let address = format!("{}:{PORT}", self.lab.address(host));
            Ok(Peer { id: status.me.id, key: status.key, addresses: vec![address] })
        };
        let peers = (1..=self.hosts).map(peer).collect::<Result<Vec<_>>>()?;
        (1..=self.hosts).try_for_each(|host| self.done(host, Request::Peers(peers.clone())))
    }

    /// A strict ward of one guest with these homes, of which all guards vote; the first home has its lease when this
    /// returns.
    pub fn found(&self, homes: &[u8], profile: &str, guest: GuestId) -> Result<()> {
        let member = |host| Ok(self.status(host)?.me.to_string());
        let voters = (1..=self.hosts).map(member).collect::<Result<Vec<String>>>()?.join(",");
        let home_names = homes.iter().map(|host| member(*host)).collect::<Result<Vec<String>>>()?.join(",");
        for host in 1..=self.hosts {
            self.command(host, &["found", "7", "--voters", &voters, "--homes", &home_names, "--profile", profile])?;
        }
        for host in homes {
            self.command(*host, &["guests", "7", &guest.to_string(), "--anywhere"])?;
        }
        self.await_standing(homes[0], Standing::Running, START)
    }

    /// What a `roost-guard` command says on a host.
    pub fn command(&self, host: u8, words: &[&str]) -> Result<String> {
        let (program, settings) = (program("roost-guard")?, self.settings(host));
        self.lab.exec(host, &[&[text(&program)?, "--config", text(&settings)?], words].concat())
    }

    /// One question on a connection of its own.
    pub fn ask(&self, host: u8, request: &Request) -> Result<Reply> {
        Door::open(&self.socket(host))?.ask(request)
    }

    /// A question that is to be answered by Done.
    pub fn done(&self, host: u8, request: Request) -> Result<()> {
        let reply = self.ask(host, &request)?;
        ensure!(reply == Reply::Done, "{request:?}: {reply:?}");
        Ok(())
    }

    pub fn status(&self, host: u8) -> Result<Status> {
        match self.ask(host, &Request::Status)? {
            Reply::Status(status) => Ok(status),
            other @ (Reply::Done | Reply::Refused(_) | Reply::Note(_)) => bail!("{other:?}"),
        }
    }

    /// Waits until a host is this to the ward.
    pub fn await_standing(&self, host: u8, standing: Standing, limit: Duration) -> Result<()> {
        eventually(&format!("host {host} is {standing:?}"), limit, || {
            let status = self.status(host)?;
            let ward = status.wards.iter().find(|ward| ward.ward == WARD).context("the ward")?;
            ensure!(ward.standing == standing, "it is {ward:?}");
            Ok(())
        })
    }

    /// A recorder on a host, once the guard holds it.
    pub fn recorder(&self, host: u8) -> Result<Recorder> {
        let recorder = Recorder::start(&self.lab, host)?;
        eventually("the guard holds it", START, || {
            let status = self.status(host)?;
            ensure!(status.wards.iter().any(|ward| ward.processes > 0), "{status:?}");
            Ok(())
        })?;
        Ok(recorder)
    }

    /// Sends a host's guard a signal. One that is killed is gone when this returns, and with it what it held.
    pub fn signal(&self, host: u8, signal: &str) -> Result<()> {
        let pid = self.running[usize::from(host)].context("a running guard")?;
        self.lab.exec(host, &["kill", &format!("-{signal}"), &pid.to_string()])?;
        if signal != "KILL" {
            return Ok(());
        }
        eventually("the killed guard is gone", START, || {
            ensure!(!self.lab.is_alive(host, pid), "guard {pid} of host {host} lives");
            Ok(())
        })
    }

    /// Resident memory of a host's guard.
    pub fn memory_kib(&self, host: u8) -> Result<u64> {
        let pid = self.running[usize::from(host)].context("a running guard")?;
        let status = self.lab.exec(host, &["cat", &format!("/proc/{pid}/status")])?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        line.trim().trim_end_matches(" kB").parse().with_context(|| format!("VmRSS {line:?}"))
    }

    /// Cuts a host's power: its processes are gone, and what it kept in memory.
    pub fn power_off(&self, host: u8) -> Result<()> {
        if let Some(dog) = self.dogs.get(usize::from(host) - 1) {
            dog.dark.store(true, Ordering::Relaxed);
        }
        self.lab.host("off", host)
    }

    /// Gives it power again and starts its guard, which finds nothing that it kept in memory.
    pub fn power_on(&mut self, host: u8) -> Result<()> {
        match fs::remove_dir_all(self.run_dir(host)) {
            Err(why) if why.kind() != std::io::ErrorKind::NotFound => return Err(why.into()),
            Ok(()) | Err(_) => {}
        }
        let dog = self.dogs.get(usize::from(host) - 1);
        {
            // What its watchdog still ends of the host that was would else be what is started here.
            let _switch = dog.map(|dog| dog.switch.lock().unwrap_or_else(PoisonError::into_inner));
            self.lab.host("boot", host)?;
        }
        if let Some(dog) = dog {
            dog.dark.store(false, Ordering::Relaxed);
        }
        self.spawn(host)
    }

    /// Whether the guard that was started last on a host still lives.
    pub fn is_running(&self, host: u8) -> bool {
        self.running.get(usize::from(host)).copied().flatten().is_some_and(|pid| self.lab.is_alive(host, pid))
    }

    /// A host's watchdog fires no more, or does so again.
    pub fn break_dog(&self, host: u8, broken: bool) {
        self.dogs[usize::from(host) - 1].broken.store(broken, Ordering::Relaxed);
    }

    /// A host's watchdog fires so much before its time: ending a host here takes some time itself.
    pub fn hurry_dog(&self, host: u8, sooner: Duration) {
        let ms = u64::try_from(sooner.as_millis()).unwrap_or(u64::MAX);
        self.dogs[usize::from(host) - 1].sooner.store(ms, Ordering::Relaxed);
    }

    /// Whether a host's watchdog ended it since this was asked last.
    pub fn take_reset(&self, host: u8) -> bool {
        self.dogs.get(usize::from(host) - 1).is_some_and(|dog| dog.fired.swap(false, Ordering::Relaxed))
    }

    /// Whether a host's watchdog ended it.
    pub fn was_reset(&self, host: u8) -> bool {
        self.dogs.get(usize::from(host) - 1).is_some_and(|dog| dog.fired.load(Ordering::Relaxed))
    }

    /// The same, and nothing of it is left to be done: it can be given power again.
    pub fn was_ended(&self, host: u8) -> bool {
        self.dogs.get(usize::from(host) - 1).is_some_and(|dog| dog.ended.load(Ordering::Relaxed))
    }

    /// The end of each log, for a story that went wrong.
    pub fn print_logs(&self) {
        for host in 1..=self.hosts {
            let log = fs::read_to_string(self.log(host)).unwrap_or_default();
            eprintln!("---- the log of guard {host}\n{log}");
        }
    }
}

impl Drop for Guards {
    fn drop(&mut self) {
        for dog in &mut self.dogs {
            dog.end.store(true, Ordering::Relaxed);
            if let Some(thread) = dog.thread.take() {
                let _ = thread.join();
            }
        }
    }
}

impl Dog {
    fn watch(guards: &Guards, host: u8) -> Result<Self> {
        let path = guards.pipe(host);
        output(Command::new("mkfifo").arg(&path))?;
        // Open for writing too: it never ends when a guard does.
        let mut pipe = OpenOptions::new().read(true).write(true).custom_flags(NONBLOCK).open(&path)?;
        let [fired, ended, dark, end, broken] = std::array::from_fn(|_| Arc::new(AtomicBool::new(false)));
        let (lab, has_fired) = (Arc::clone(&guards.lab), Arc::clone(&fired));
        let (is_dark, ends, is_broken) = (Arc::clone(&dark), Arc::clone(&end), Arc::clone(&broken));
        let switch = Arc::new(Mutex::new(()));
        let (sooner, held) = (Arc::new(AtomicU64::new(0)), Arc::clone(&switch));
        let (hurry, is_off) = (Arc::clone(&sooner), Arc::clone(&ended));
        let thread = thread::spawn(move || {
            let mut until = None;
            while !ends.load(Ordering::Relaxed) {
                let mut bytes = [0; 4_096];
                let count = pipe.read(&mut bytes).unwrap_or(0);
                let words = String::from_utf8_lossy(&bytes[..count]).into_owned();
                let early = Duration::from_millis(hurry.load(Ordering::Relaxed));
                until = words.lines().fold(until, |_, line| Some(time_out(line)? - early));
                until = until.filter(|_| !is_dark.load(Ordering::Relaxed));
                if until.is_some_and(|until| Instant::now() >= until) && !is_broken.load(Ordering::Relaxed) {
                    has_fired.store(true, Ordering::Relaxed);
                    let _switch = held.lock().unwrap_or_else(PoisonError::into_inner);
                    let _ = lab.host("off", host);
                    // A pet of the host that was is none of the next one's.
                    while pipe.read(&mut bytes).is_ok_and(|count| count > 0) {}
                    is_off.store(true, Ordering::Relaxed);
                    until = None;
                }
                thread::sleep(WATCH_EVERY);
            }
        });
        Ok(Self { fired, ended, dark, broken, sooner, switch, end, thread: Some(thread) })
    }
}

/// `pet 5000` puts the end off by so many milliseconds, `rest` for ever.
fn time_out(line: &str) -> Option<Instant> {
    let ms = line.strip_prefix("pet ")?.parse().ok()?;
    Some(Instant::now() + Duration::from_millis(ms))
}
