//! Doors that others built: OpenSSH's sshd and xrdp, as desktops have them.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::*;
use crate::waiting::{own_address, run, until_listening};

const SSH: u16 = 2_222;
const RDP_PORT: u16 = 3_389;
/// Far more than an answer takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program and its children, in a group of its own.
struct Server(Child);

impl Server {
    fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        Self(command.spawn().expect("a Debian package of deps.sh"))
    }

    fn signal(&self, signal: Signal) {
        killpg(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

fn sshd(folder: &Path, address: Ipv4Addr) -> Server {
    let key = folder.join("key");
    run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key));
    // It wants this folder, which nobody makes without systemd.
    fs::create_dir_all("/run/sshd").unwrap();
    let mut sshd = Command::new("/usr/sbin/sshd");
    sshd.args(["-D", "-f", "/dev/null", "-o", "PidFile=none", "-o", &format!("ListenAddress={address}:{SSH}"), "-h"]);
    Server::start(sshd.arg(key))
}

fn xrdp(folder: &Path, address: Ipv4Addr) -> Server {
    let theirs = fs::read_to_string("/etc/xrdp/xrdp.ini").unwrap();
    let log = format!("LogFile={}", folder.join("xrdp.log").display());
    let listen = format!("port=tcp://{address}:{RDP_PORT}");
    let mut lines: Vec<&str> = theirs.lines().collect();
    let mut replace = |begins: &str, with| {
        let line = lines.iter_mut().find(|line| line.starts_with(begins)).unwrap();
        *line = with;
    };
    replace("port=", listen.as_str());
    replace("LogFile=", log.as_str());
    let file = folder.join("xrdp.ini");
    fs::write(&file, lines.join("\n")).unwrap();
    Server::start(Command::new("xrdp").args(["--nodaemon", "--config"]).arg(file))
}

#[test]
fn real_sshd_and_xrdp_answer_to_their_own_words_only_and_are_missed_when_they_hang() {
    if std::env::var("ROOST_REAL").as_deref() != Ok("1") {
        return eprintln!("skipped, as ROOST_REAL=1 is not set");
    }
    let folder = tempfile::tempdir().unwrap();
    let address = own_address();
    let (sshd, xrdp) = (sshd(folder.path(), address), xrdp(folder.path(), address));
    until_listening("tcp", address, SSH);
    until_listening("tcp", address, RDP_PORT);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let asked = |word: &str, port: u16, patience| {
        let probe = format!("{word}://{address}:{port}").parse().unwrap();
        runtime.block_on(ask(&probe, patience)).0
    };
    assert_eq!(asked("ssh", SSH, PATIENCE), Answer::Ok);
    assert_eq!(asked("rdp", RDP_PORT, PATIENCE), Answer::Ok);
    assert_eq!(asked("rdp", SSH, PATIENCE), Answer::BadReply);
    assert_ne!(asked("ssh", RDP_PORT, Duration::from_secs(2)), Answer::Ok, "xrdp waits for the client's words");
    // A server that hangs still has its connections taken by the kernel.
    sshd.signal(Signal::SIGSTOP);
    xrdp.signal(Signal::SIGSTOP);
    for (word, port) in [("ssh", SSH), ("rdp", RDP_PORT)] {
        assert_eq!(asked("tcp", port, PATIENCE), Answer::Ok);
        assert_eq!(asked(word, port, Duration::from_secs(2)), Answer::TimedOut, "{word}");
    }
    xrdp.signal(Signal::SIGCONT);
    assert_eq!(asked("rdp", RDP_PORT, PATIENCE), Answer::Ok);
    drop(sshd);
    assert_eq!(asked("ssh", SSH, PATIENCE), Answer::Refused);
}
