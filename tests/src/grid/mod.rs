//! A real grid for tests: the built programs, an aggregator on this machine, hosts in namespaces with their own libvirt.
//!
//! Needs root, libvirt and QEMU; a test asks [`wanted`] first. Everything is gone when the grid is dropped, and what a
//! killed test left behind goes at the next start.

mod api;
mod await_;
mod guest;
mod lab;
mod peer;
mod random;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

pub use api::{Answer, Api};
pub use await_::{eventually, lasts, until};
pub use guest::tiny;
pub use lab::Lab;
pub use peer::{Link, Peer};
pub use random::Random;

/// Ports of the grid's aggregator: on an address of the lab's own, and not those of an aggregator on all addresses.
pub const HTTPS: u16 = 18_443;
pub const QUIC: u16 = 14_433;
/// Before a program: its wall clock is two years ahead, and time passes as ever. What libfaketime leaves in shared memory
/// goes with the program.
const AHEAD: [&str; 5] = [
    "unshare",
    "--mount",
    "sh",
    "-c",
    "mount -t tmpfs none /dev/shm && \
     exec env LD_PRELOAD='/usr/$LIB/faketime/libfaketimeMT.so.1' FAKETIME=+2y FAKETIME_DONT_FAKE_MONOTONIC=1 \"$0\" \"$@\"",
];
/// Certificates last a year and a month.
const TWO_YEARS: Duration = Duration::from_secs(2 * 365 * 86_400);
/// How long a program may take to answer first on a loaded machine.
pub const START: Duration = Duration::from_secs(30);

/// Whether the real tests may run; says why where not.
pub fn wanted() -> bool {
    let asked = std::env::var("ROOST_REAL").is_ok_and(|value| value == "1");
    let root = Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout.starts_with(b"0\n"));
    if !asked || !root {
        eprintln!("skipped: a real grid needs root and ROOST_REAL=1 (root: {root}, ROOST_REAL: {asked})");
    }
    asked && root
}

/// Runs a story on a new grid of so many hosts, agents not yet started. Prints the logs when it goes wrong.
///
/// # Panics
/// When the story fails.
pub fn story(hosts: u8, tell: impl FnOnce(&mut Grid) -> Result<()>) {
    if !wanted() {
        return;
    }
    let mut grid = Grid::start(hosts).unwrap_or_else(|why| panic!("start a grid: {why:#}"));
    if let Err(why) = tell(&mut grid) {
        // First, so that it stands where somebody looks first.
        eprintln!("---- the story failed: {why:#}");
        grid.print_logs();
        panic!("{why:#}");
    }
}

/// Aggregator and hosts.
#[derive(Debug)]
pub struct Grid {
    pub lab: Arc<Lab>,
    pub api: Api,
    /// Settings, logs, data; on the machine, seen by all hosts.
    pub folder: PathBuf,
    /// Hosts (0: the aggregator) whose program is started with a clock two years ahead.
    pub ahead: BTreeSet<u8>,
    hosts: u8,
    /// Process ids inside the hosts, by number; 0 is the aggregator.
    running: Vec<Option<u32>>,
}

impl Grid {
    /// Hosts powered on, aggregator running, admin logged in.
    pub fn start(hosts: u8) -> Result<Self> {
        let lab = Arc::new(Lab::up(hosts)?);
        let folder = lab.folder().to_owned();
        fs::write(folder.join("password"), "correct horse battery staple\n")?;
        let address = lab.address(0);
        let settings = format!(
            "data_dir = '{0}/aggregator'\ngrid_key = '{0}/grid.key'\nquic_listen = '{address}:{QUIC}'\n\
             https_listen = '{address}:{HTTPS}'\npublic = ['{address}']\n",
            folder.display()
        );
        fs::write(folder.join("aggregator.toml"), settings)?;
        aggregator(&folder, &["init", "--admin-password-file", text(&folder.join("password"))?])?;
        let pem = aggregator(&folder, &["ca"])?;
        let begin = pem.find("-----BEGIN").context("the CA's certificate")?;
        let end = pem.find("-----END CERTIFICATE-----").context("the CA's certificate")? + 25;
        fs::write(folder.join("ca.pem"), format!("{}\n", &pem[begin..end]))?;
        let api = Self::client(&lab, &pem.as_bytes()[begin..end], Duration::ZERO)?;
        let running = vec![None; usize::from(hosts) + 1];
        let mut grid = Self { lab, api, folder, ahead: BTreeSet::new(), hosts, running };
        grid.start_aggregator()?;
        grid.log_in()?;
        Ok(grid)
    }

    fn client(lab: &Lab, ca: &[u8], ahead: Duration) -> Result<Api> {
        Api::new(&format!("https://{}:{HTTPS}", lab.address(0)), ca, ahead)
    }

    /// Starts the aggregator and waits until it answers; the admin's clock is as far ahead as its.
    pub fn start_aggregator(&mut self) -> Result<()> {
        let ahead = if self.ahead.contains(&0) { TWO_YEARS } else { Duration::ZERO };
        let token = self.api.token.take();
        self.api = Self::client(&self.lab, &fs::read(self.folder.join("ca.pem"))?, ahead)?;
        self.api.token = token;
        let settings = self.folder.join("aggregator.toml");
        self.spawn(0, "roost-aggregator", &settings)?;
        eventually("the aggregator answers", START, || self.api.get("/grid").map(|_| ()).or_else(Api::refused))
    }

    /// Logs in as admin.
    pub fn log_in(&mut self) -> Result<()> {
        self.api.log_in("admin", "correct horse battery staple")
    }

    /// What the command `roost` says, as the admin.
    pub fn roost(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(program("roost")?);
        command.env("ROOST_URL", self.api.base()).env("ROOST_CA", self.folder.join("ca.pem"));
        command.env("ROOST_TOKEN", self.api.token.as_deref().context("a log-in")?).args(words);
        output(&mut command)
    }

    /// Sends the aggregator a signal.
    pub fn signal_aggregator(&self, signal: &str) -> Result<()> {
        self.signal(0, signal)
    }

    /// Kills the aggregator and waits for its end.
    pub fn kill_aggregator(&mut self) -> Result<()> {
        self.kill(0)
    }

    /// Stops the aggregator as its service manager does, and waits for its end.
    pub fn stop_aggregator(&mut self) -> Result<()> {
        self.end(0, "TERM")
    }

    /// Kills a host's agent (0: the aggregator) with SIGKILL and waits for its end.
    pub fn kill(&mut self, host: u8) -> Result<()> {
        self.end(host, "KILL")
    }

    fn end(&mut self, host: u8, signal: &str) -> Result<()> {
        self.signal(host, signal)?;
        let pid = self.pid(host)?;
        eventually("the killed program is gone", START, || {
            ensure!(!self.lab.is_alive(host, pid), "process {pid} of host {host} lives");
            Ok(())
        })?;
        self.running[usize::from(host)] = None;
        Ok(())
    }

    /// Sends a host's agent (0: the aggregator) a signal.
    pub fn signal(&self, host: u8, signal: &str) -> Result<()> {
        let pid = self.pid(host)?.to_string();
        self.lab.exec(host, &["kill", &format!("-{signal}"), &pid]).map(drop)
    }

    /// Resident memory of a host's agent (0: the aggregator).
    pub fn memory_kib(&self, host: u8) -> Result<u64> {
        let status = self.lab.exec(host, &["cat", &format!("/proc/{}/status", self.pid(host)?)])?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        line.trim().trim_end_matches(" kB").parse().with_context(|| format!("VmRSS {line:?}"))
    }

    /// Process id of a host's agent inside the host; 0: of the aggregator.
    pub fn pid(&self, host: u8) -> Result<u32> {
        let known = self.running.get(usize::from(host)).copied().flatten();
        known.with_context(|| format!("nothing of ours runs on host {host}"))
    }

    /// A join token for a host of this name.
    pub fn token(&self, name: &str) -> Result<String> {
        let made = self.api.post("/join-tokens", &json!({"name": name}))?;
        Ok(made["token"].as_str().context("the token")?.to_owned())
    }

    /// Writes a host's settings with this join token. All hosts share one kernel's page sharing, so none tunes memory.
    pub fn configure(&self, host: u8, token: &str) -> Result<()> {
        let secret = self.folder.join(format!("token-{host}"));
        fs::write(&secret, token)?;
        let settings = format!(
            "name = 'h{host}'\naggregator = '{}:{QUIC}'\njoin_token_file = '{}'\ntune_memory = false\n",
            self.lab.address(0),
            secret.display()
        );
        Ok(fs::write(self.folder.join(format!("agent-{host}.toml")), settings)?)
    }

    /// Has a host's agent listen to its guard from its next start on.
    pub fn guarded(&self, host: u8, socket: &Path) -> Result<()> {
        self.set(host, &format!("guard_socket = '{}'", socket.display()))
    }

    /// Adds a line to the settings of a host's agent; one that sets the same goes.
    pub fn set(&self, host: u8, line: &str) -> Result<()> {
        let settings = self.folder.join(format!("agent-{host}.toml"));
        let key = |line: &str| line.split_once('=').map(|(key, _)| key.trim().to_owned());
        let told = fs::read_to_string(&settings)?;
        let others = told.lines().filter(|other| key(other) != key(line));
        let told: String = others.chain([line]).map(|line| format!("{line}\n")).collect();
        Ok(fs::write(settings, told)?)
    }

    /// Starts a host's agent, which need not be connected when this returns.
    pub fn start_agent(&mut self, host: u8) -> Result<()> {
        let settings = self.folder.join(format!("agent-{host}.toml"));
        self.spawn(host, "roost-agent", &settings)
    }

    fn spawn(&mut self, host: u8, name: &str, settings: &Path) -> Result<()> {
        let clock: &[&str] = if self.ahead.contains(&host) { &AHEAD } else { &[] };
        let program = program(name)?;
        let words = [clock, &[text(&program)?, "--config", text(settings)?, "run"]].concat();
        let pid = self.lab.spawn(host, &self.log(host), &words)?;
        self.running[usize::from(host)] = Some(pid);
        Ok(())
    }

    /// Has a host join: token, images, agent; returns once it is listed as up.
    pub fn join(&mut self, host: u8) -> Result<()> {
        self.configure(host, &self.token(&format!("h{host}"))?)?;
        self.give_images(host)?;
        self.start_agent(host)?;
        self.await_host(host, "up", START)
    }

    /// All hosts, one after the other.
    pub fn join_all(&mut self) -> Result<()> {
        (1..=self.hosts).try_for_each(|host| self.join(host))
    }

    /// Puts the lab's test guests into a host's image folder.
    pub fn give_images(&self, host: u8) -> Result<()> {
        let guest = self.lab.guest_folder()?;
        self.lab.exec(host, &["mkdir", "-p", "/var/lib/roost/images"])?;
        for name in ["mb.elf", "vmlinuz", "initrd.cpio"] {
            self.lab.exec(host, &["cp", text(&guest.join(name))?, "/var/lib/roost/images/"])?;
        }
        Ok(())
    }

    /// Waits until a host is in this state.
    pub fn await_host(&self, host: u8, state: &str, limit: Duration) -> Result<()> {
        eventually(&format!("host h{host} is {state}"), limit, || {
            let seen = self.api.get(&format!("/hosts/h{host}"))?;
            ensure!(seen["state"] == state, "it is {}", seen["state"]);
            Ok(())
        })
    }

    /// Waits until all hosts keep what the aggregator was last told to keep, which is a moment after it did.
    pub fn await_document(&self) -> Result<()> {
        eventually("the hosts keep the newest grid document", START, || {
            let seen = self.api.get("/grid")?;
            ensure!(seen["generation_kept_by"] == self.hosts, "{seen}");
            Ok(())
        })
    }

    /// Waits until the API shows a guest so.
    pub fn await_guest(&self, guest: &str, state: &str, limit: Duration) -> Result<Value> {
        until(&format!("guest {guest} is {state}"), limit, || {
            let seen = self.api.get(&format!("/guests/{guest}"))?;
            ensure!(seen["state"] == state, "it is {seen}");
            Ok(seen)
        })
    }

    /// Process id of a guest's QEMU inside its host, by libvirt's own file.
    pub fn qemu(&self, host: u8, name: &str) -> Result<u32> {
        let file = format!("/run/libvirt/qemu/{name}.pid");
        let pid = self.lab.exec(host, &["cat", &file])?.trim().parse().context("a process id")?;
        ensure!(self.lab.is_alive(host, pid), "QEMU {pid} of {name} is gone");
        Ok(pid)
    }

    /// What virsh on a host says.
    pub fn virsh(&self, host: u8, words: &[&str]) -> Result<String> {
        self.lab.exec(host, &[&["virsh", "-q", "-c", "qemu:///system"], words].concat())
    }

    /// Log of a host's agent; 0: of the aggregator.
    pub fn log(&self, host: u8) -> PathBuf {
        self.folder.join(format!("log-{host}"))
    }

    fn print_logs(&self) {
        /// Enough to see how it ended.
        const LINES: usize = 60;
        for host in 0..=self.hosts {
            for log in [self.log(host), self.folder.join(format!("guard-{host}.log"))] {
                let Ok(bytes) = fs::read(&log) else { continue };
                let text = String::from_utf8_lossy(&bytes);
                let lines: Vec<&str> = text.lines().collect();
                let tail = &lines[lines.len().saturating_sub(LINES)..];
                let name = log.file_name().unwrap_or_default().to_string_lossy();
                eprintln!("---- end of {name} (log-0: aggregator)\n{}", tail.join("\n"));
            }
        }
    }
}

/// A program of this workspace: in `ROOST_BIN`, or beside whoever asks; tests lie one folder deeper.
pub fn program(name: &str) -> Result<PathBuf> {
    let asks = std::env::current_exe()?;
    let beside = asks.with_file_name(name);
    let above = asks.ancestors().nth(2).context("folder of the programs")?.join(name);
    let found = if beside.is_file() { beside } else { above };
    let path = std::env::var_os("ROOST_BIN").map_or(found, |folder| Path::new(&folder).join(name));
    ensure!(path.is_file(), "{} is not built: cargo build --workspace --bins", path.display());
    Ok(path)
}

/// Runs a command of the aggregator that ends by itself.
fn aggregator(folder: &Path, words: &[&str]) -> Result<String> {
    let mut command = Command::new(program("roost-aggregator")?);
    command.arg("--config").arg(folder.join("aggregator.toml")).args(words);
    output(&mut command)
}

/// Runs a program to its end and gives its output.
pub fn output(command: &mut Command) -> Result<String> {
    let what = format!("{command:?}");
    let ended = command.output().with_context(|| what.clone())?;
    if !ended.status.success() {
        bail!("{what}: {}\n{}", ended.status, String::from_utf8_lossy(&ended.stderr).trim_end());
    }
    Ok(String::from_utf8_lossy(&ended.stdout).into_owned())
}

/// A path as text.
pub fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path in UTF-8")
}
