//! snmpd, snmptrapd and a subagent in a folder of their own, on ports of their own; all of them end with the lab.

use std::fs;
use std::io::{BufRead, Write};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use roost_protocol::{GuestId, MiB, Millis, Stamp, Time};
use roost_snmp::edge::Edge;
use roost_snmp::mib::note::{self, Change, Gather, Kind, Notice, Severity, Turn};
use roost_snmp::mib::{Alarm, Disk, GridView, Guest, Media, Nic, OperState, Source, View};
use roost_snmp::setup::{Receiver, Setup, User, drop_in};
use tokio::sync::{mpsc, watch};

const USER: User<'static> = User { name: "mon", auth: "authpass12345", privacy: "privpass12345" };
pub(crate) const V2C: [&str; 3] = ["-v2c", "-c", "watch"];
pub(crate) const V3: [&str; 12] =
    ["-v3", "-l", "authPriv", "-u", "mon", "-a", "SHA-256", "-A", "authpass12345", "-x", "AES", "-X"];
/// Only what never comes takes so long.
const HANG: Duration = Duration::from_secs(90);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// Of the package python3-pysnmp4, which Debian 13 lacks.
const PYSNMP: &str = "/usr/lib/python3/dist-packages/pysnmp/hlapi/__init__.py";
const CHILD: &str = "ROOST_SNMP_TEST_SUBAGENT";

#[derive(Debug)]
pub(crate) struct Lab {
    folder: tempfile::TempDir,
    port: u16,
    snmpd: Child,
    traps: Child,
    agent: Child,
    grid: Option<Ended>,
}

impl Drop for Lab {
    fn drop(&mut self) {
        for child in [&mut self.agent, &mut self.snmpd, &mut self.traps] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Lab {
    /// A lab with so many guests.
    pub(crate) fn start(guests: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (port, trap_port) = (free_port(), free_port());
        let dir = folder.path();
        let (address, listen) = (format!("127.0.0.1:{trap_port}"), [format!("udp:127.0.0.1:{port}")]);
        let receivers = [
            Receiver::Trap { address: &address, community: "traps" },
            Receiver::Inform { address: &address, user: USER },
        ];
        let socket = dir.join("agentx");
        let setup = Setup {
            socket: Some(&socket),
            agent_group: None,
            listen: &listen,
            community: Some("watch"),
            user: Some(USER),
            receivers: &receivers,
        };
        let text = drop_in(&setup).unwrap() + "rwcommunity writer\n";
        fs::write(dir.join("snmpd.conf"), text).unwrap();
        // The engine of the sender of an INFORM is the receiver's own.
        let receive = "disableAuthorization no\nauthCommunity log traps\nauthUser log mon priv\n\
             createUser mon SHA-256 authpass12345 AES privpass12345\n";
        fs::write(dir.join("snmptrapd.conf"), receive).unwrap();
        let traps = snmptrapd(dir, trap_port);
        let (snmpd, agent) = (snmpd(dir), agent(dir, guests));
        Self { folder, port, snmpd, traps, agent, grid: None }
    }

    fn dir(&self) -> &Path {
        self.folder.path()
    }

    fn command(&self, program: &str, access: &[&str], rest: &[&str]) -> Command {
        let mut command = net_snmp(program, self.dir());
        command.args(access);
        if access.first() == Some(&"-v3") {
            command.arg(USER.privacy);
        }
        let options = rest.iter().take_while(|word| word.starts_with('-') || word.parse::<u32>().is_ok()).count();
        command.args(&rest[..options]).arg(format!("127.0.0.1:{}", self.port)).args(&rest[options..]);
        command
    }

    /// What a program of net-snmp prints.
    pub(crate) fn run(&self, program: &str, access: &[&str], rest: &[&str]) -> String {
        let output = self.command(program, access, rest).output().unwrap();
        assert!(
            output.status.success(),
            "{program} {rest:?}: {}{}",
            self.log(),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Clients in Perl and Python, whose libraries share nothing with net-snmp, read the table of guests.
    pub(crate) fn read_by_others(&self, guests: u32) {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real_snmpd");
        let mut clients = vec![("perl", "client.pl")];
        if Path::new(PYSNMP).exists() {
            clients.push(("/usr/bin/python3", "client.py"));
        }
        for (program, script) in clients {
            let mut command = Command::new(program);
            command.arg(scripts.join(script)).args([self.port.to_string(), guests.to_string()]);
            let output = command.output().unwrap();
            let said =
                [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
            assert!(said.starts_with("all fine"), "{script}: {said}");
        }
    }

    /// What it complains of.
    pub(crate) fn fails(&self, program: &str, access: &[&str], rest: &[&str]) -> String {
        let output = self.command(program, access, rest).output().unwrap();
        assert!(!output.status.success(), "{program} {rest:?} succeeded");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    pub(crate) fn spawn(&self, program: &str, access: &[&str], rest: &[&str]) -> Ended {
        Ended(self.command(program, access, rest).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// Asks until the answer has this in it.
    pub(crate) fn wait_for(&self, access: &[&str], oid: &str, wanted: &str) {
        let mut last = String::new();
        let found = soon(|| {
            let output = self.command("snmpget", access, &["-r", "0", "-t", "2", "-Ovq", oid]).output().unwrap();
            last = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            let exact = wanted.parse::<u32>().is_ok();
            if exact { last.trim() == wanted } else { last.contains(wanted) }
        });
        assert!(found, "{oid}: {last} and not {wanted}\n{}", self.log());
    }

    fn log(&self) -> String {
        ["snmpd.log", "agent.log", "traps.log"]
            .map(|name| fs::read_to_string(self.dir().join(name)).unwrap_or_default())
            .join("\n")
    }

    /// Waits until so many received notifications have this in them.
    pub(crate) fn wait_for_traps(&self, wanted: &str, count: usize) -> Vec<String> {
        let mut lines = Vec::new();
        let found = soon(|| {
            let text = fs::read_to_string(self.dir().join("traps.log")).unwrap_or_default();
            lines = text.lines().filter(|line| line.contains(wanted)).map(str::to_owned).collect();
            lines.len() >= count
        });
        assert!(found, "{wanted}: {lines:#?}\n{}", self.log());
        lines
    }

    pub(crate) fn stop_snmpd(&mut self) {
        self.snmpd.kill().unwrap();
        self.snmpd.wait().unwrap();
    }

    pub(crate) fn start_snmpd(&mut self) {
        self.snmpd = snmpd(self.dir());
    }

    pub(crate) fn restart_snmpd(&mut self) {
        self.stop_snmpd();
        self.start_snmpd();
    }

    pub(crate) fn kill_agent(&mut self) {
        self.agent.kill().unwrap();
        self.agent.wait().unwrap();
    }

    pub(crate) fn start_agent(&mut self, guests: u32) {
        self.agent = agent(self.dir(), guests);
    }

    /// An aggregator's subagent, beside the host's.
    pub(crate) fn start_grid(&mut self) {
        self.grid = Some(Ended(subagent(self.dir(), "grid")));
    }

    pub(crate) fn stop_grid(&mut self) {
        self.grid = None;
    }

    pub(crate) fn freeze_agent(&self) {
        self.signal("-STOP");
    }

    pub(crate) fn thaw_agent(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let done = Command::new("kill").args([signal, &self.agent.id().to_string()]).status().unwrap();
        assert!(done.success());
    }

    /// One line on the subagent's standard input; see [`subagent_process`].
    pub(crate) fn tell_agent(&mut self, line: &str) {
        let input = self.agent.stdin.as_mut().unwrap();
        writeln!(input, "{line}").unwrap();
    }
}

/// A program that ends with its handle.
#[derive(Debug)]
pub(crate) struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn soon(mut done: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + HANG;
    while !done() {
        if Instant::now() > until {
            return false;
        }
        thread::sleep(LOOK);
    }
    true
}

fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn mibs() -> String {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    format!("{}:{}", here.join("tests/mibs").display(), here.join("mibs").display())
}

/// A program of net-snmp that reads and writes nothing outside this folder but our MIBs.
fn net_snmp(program: &str, dir: &Path) -> Command {
    let path = [PathBuf::from("/usr/sbin").join(program), PathBuf::from("/usr/bin").join(program)];
    let path = path.into_iter().find(|path| path.exists());
    let mut command = Command::new(path.unwrap_or_else(|| panic!("{program} is missing: tests/lab/deps.sh test")));
    command.env("SNMPCONFPATH", dir).env("SNMP_PERSISTENT_DIR", dir.join(program)).env("MIBDIRS", mibs());
    command.env("MIBS", "VM-MIB:ROOST-MIB").env("HOME", dir);
    command
}

fn daemon(program: &str, dir: &Path, arguments: &[&str]) -> Child {
    let mut command = net_snmp(program, dir);
    let conf = dir.join(format!("{program}.conf"));
    command.args(["-f", "-C", "-c"]).arg(conf).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn snmpd(dir: &Path) -> Child {
    let log = dir.join("snmpd.log");
    daemon("snmpd", dir, &["-Lf", &log.display().to_string(), "-I", "-smux"])
}

fn snmptrapd(dir: &Path, port: u16) -> Child {
    let log = dir.join("traps.log");
    // One line for each: kind of PDU, then all its objects.
    let format = "%W %P %v\n";
    let format = format!("{format} ");
    let arguments = ["-Lf", &log.display().to_string(), "-F", &format, "-OQ", &format!("udp:127.0.0.1:{port}")];
    daemon("snmptrapd", dir, &arguments)
}

fn agent(dir: &Path, guests: u32) -> Child {
    subagent(dir, &guests.to_string())
}

/// `what`: a number of guests, or `grid`.
fn subagent(dir: &Path, what: &str) -> Child {
    let log = fs::File::create(dir.join(if what == "grid" { "grid.log" } else { "agent.log" })).unwrap();
    Command::new(std::env::current_exe().unwrap())
        .args(["real_subagent_process", "--exact", "--nocapture", "--include-ignored"])
        .env(CHILD, format!("{} {what}", dir.join("agentx").display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// What smilint finds in ROOST-MIB, at its strictest level.
pub(crate) fn smilint() -> String {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new("smilint");
    command.env("SMIPATH", mibs()).args(["-s", "-l", "9"]).arg(here.join("mibs/ROOST-MIB.txt"));
    let output = command.output().unwrap();
    assert!(output.status.success());
    [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat()
}

/// Serves guests and follows what its standard input says: `crash N`, `storm N`, `alarm CODE`. Ends with its input.
pub(crate) fn subagent_process() {
    let Ok(told) = std::env::var(CHILD) else { return };
    let (socket, what) = told.rsplit_once(' ').unwrap();
    let socket = PathBuf::from(socket);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (sender, notes) = mpsc::channel(64);
    let began = Instant::now();
    if what == "grid" {
        let grid = GridView { hosts_up: 3, hosts_down: 1, failovers: 7, failovers_failed: 2 };
        let (_view, view) = watch::channel(Arc::new(grid));
        runtime.block_on(Edge { socket, began, view, notes, asked: Arc::default() }.run());
        return drop(sender);
    }
    let (_view, view) = watch::channel(Arc::new(view(what.parse().unwrap())));
    runtime.spawn(Edge { socket, began, view, notes, asked: Arc::default() }.run());
    let mut gather = Gather::default();
    let now = || Time(u64::try_from(began.elapsed().as_millis()).unwrap());
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let (word, rest) = line.split_once(' ').unwrap();
        let mut all = Vec::new();
        match word {
            "crash" => all.push(note::single(&change(rest.parse().unwrap(), Turn::Crashed, OperState::Crashed))),
            "storm" => {
                for number in 1..=rest.parse().unwrap() {
                    all.extend(gather.changed(now(), &change(number, Turn::Running, OperState::Running)));
                }
                all.extend(gather.due(gather.deadline().unwrap()));
            }
            "alarm" => all.push(note::notice(&Notice {
                kind: Kind::AlarmRaised,
                host: "host1",
                severity: Severity::Critical,
                text: "the state disk is full",
                event: "17",
                code: rest,
                guest: None,
                detail: None,
            })),
            other => panic!("{other}"),
        }
        all.into_iter().for_each(|binds| sender.blocking_send(binds).unwrap());
    }
}

fn change(number: u32, turn: Turn, state: OperState) -> Change {
    let guest = guest(number);
    Change { number, id: guest.id, name: guest.name, state, persistent: true, turn }
}

fn guest(number: u32) -> Guest {
    let mut guest = Guest::new(number, GuestId::from_u128(u128::from(number)), &format!("desk-{number:04}"));
    guest.oper = OperState::Running;
    guest.up = Some(Millis::seconds(100));
    guest.cpus = 2;
    guest.memory = MiB(3_072);
    guest.vcpus_us = vec![1_000_000, 2_000_000];
    guest.cpu_time_us = 3_000_000;
    guest.desk.owner = "mary".into();
    guest.disks = vec![Disk {
        source: Source::Sparse,
        source_text: "file qcow2".into(),
        path: format!("/var/lib/roost/guests/{number}/vda.qcow2"),
        media: Media::HardDisk,
        media_text: "vda on virtio".into(),
        defined: Some(10 << 30),
        ..Disk::default()
    }];
    guest.nics = vec![Nic { if_index: 9, parent: 3, model: "virtio".into(), mac: vec![0x52, 0x54, 0, 1, 2, 3] }];
    guest
}

fn view(guests: u32) -> View {
    let alarm = Alarm { code: "state-disk".into(), guest: None, since: Stamp(1_795_278_281_000), text: "full".into() };
    View { guests: (1..=guests).map(guest).collect(), alarms: vec![alarm], ..View::default() }
}
