//! The aggregator under the distribution's snmpd, asked by net-snmp's programs. Needs the Debian packages snmpd and snmp; no
//! root.
#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that is not as it should be")]

use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use roost_snmp::mib::arc::ENTERPRISE;
use roost_snmp::setup::{Setup, drop_in};

/// Only what never comes takes so long.
const HANG: Duration = Duration::from_secs(90);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// A program that ends with its handle.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(command: &mut Command, log: &Path) -> Running {
    let log = fs::File::create(log).unwrap();
    Running(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap())
}

fn aggregator(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roost-aggregator"));
    command.arg("--config").arg(dir.join("aggregator.toml"));
    command
}

fn snmpd(dir: &Path) -> Command {
    let mut command = Command::new("/usr/sbin/snmpd");
    command.env("SNMPCONFPATH", dir).env("SNMP_PERSISTENT_DIR", dir.join("kept")).env("MIBS", "");
    command.args(["-f", "-Le", "-C", "-c"]).arg(dir.join("snmpd.conf"));
    command
}

/// The grid's objects, once they are told so or not at all.
fn wait_for(dir: &Path, port: u16, wanted: &[&str]) {
    let group = format!(".1.3.6.1.4.1.{ENTERPRISE}.236.1.5");
    let (until, mut told) = (Instant::now() + HANG, String::new());
    while Instant::now() < until {
        let mut command = Command::new("snmpget");
        command.env("MIBS", "").env("SNMPCONFPATH", dir).args(["-v2c", "-c", "watch", "-r0", "-t2", "-OnQt"]);
        command.arg(format!("127.0.0.1:{port}")).args((1..=4).map(|number| format!("{group}.{number}.0")));
        let output = command.output().unwrap();
        told = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        let values: Vec<&str> =
            told.lines().filter_map(|line| line.split_once(" = ")).map(|(_, value)| value).collect();
        if values == wanted {
            return;
        }
        thread::sleep(LOOK);
    }
    let logs = ["snmpd.log", "aggregator.log"].map(|name| fs::read_to_string(dir.join(name)).unwrap_or_default());
    panic!("{told} and not {wanted:?}\n{}", logs.join("\n"));
}

#[test]
fn real_the_aggregator_tells_of_its_grid_through_kills_of_both() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (socket, listen) = (dir.join("agentx"), [format!("udp:127.0.0.1:{port}")]);
    let setup = Setup {
        socket: Some(&socket),
        agent_group: None,
        listen: &listen,
        community: Some("watch"),
        user: None,
        receivers: &[],
    };
    fs::write(dir.join("snmpd.conf"), drop_in(&setup).unwrap()).unwrap();
    let settings = format!(
        "data_dir = '{}'\nquic_listen = '127.0.0.1:0'\nhttps_listen = '127.0.0.1:0'\nsnmp_socket = '{}'\n",
        dir.join("data").display(),
        socket.display()
    );
    fs::write(dir.join("aggregator.toml"), settings).unwrap();
    let made = aggregator(dir).arg("init").output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let run = || start(aggregator(dir).arg("run"), &dir.join("aggregator.log"));
    let serve = || start(&mut snmpd(dir), &dir.join("snmpd.log"));
    let (no_hosts, nobody) = (["0"; 4], ["No Such Object available on this agent at this OID"; 4]);
    let (ours, theirs) = (run(), serve());
    wait_for(dir, port, &no_hosts);
    drop(ours);
    wait_for(dir, port, &nobody);
    let ours = run();
    wait_for(dir, port, &no_hosts);
    drop(theirs);
    let _theirs = serve();
    wait_for(dir, port, &no_hosts);
    drop(ours);
    wait_for(dir, port, &nobody);
}
