//! Doors that others built: OpenSSH's sshd, xrdp and Xspice, as desktops have them.

use std::fs;
use std::io::{Read, Write};
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
const SPICE_PORT: u16 = 5_900;
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

/// An X server whose screen SPICE shows; QEMU has the same library at this door.
fn xspice(folder: &Path, address: Ipv4Addr) -> Server {
    let (file, log) = (folder.join("xorg.conf"), folder.join("xorg.log"));
    // Without the number of heads and these sizes, in MiB, the driver takes none and crashes.
    let text = format!(
        r#"Section "Device"
  Identifier "spice"
  Driver "spiceqxl"
  Option "SpiceAddr" "{address}"
  Option "SpicePort" "{SPICE_PORT}"
  Option "SpiceDisableTicketing" "True"
  Option "NumHeads" "1"
  Option "FrameBufferSize" "16"
  Option "CommandBufferSize" "128"
  Option "SurfaceBufferSize" "128"
EndSection
Section "Screen"
  Identifier "screen"
  Device "spice"
  DefaultDepth 24
EndSection
Section "ServerFlags"
  Option "AutoAddDevices" "False"
EndSection
"#
    );
    fs::write(&file, text).unwrap();
    let mut xorg = Command::new("Xorg");
    xorg.arg("-config").arg(file).arg("-logfile").arg(log);
    // Any free display, no file that a killed one would leave behind, and the machine's own screen stays as it is.
    xorg.args(["-displayfd", "1", "-nolock", "-nolisten", "tcp", "-nolisten", "unix"]);
    Server::start(xorg.args(["-noreset", "-sharevts", "-novtswitch"]))
}

/// What a SPICE server finds wrong in the probe's words; 0: nothing.
fn spice_error(address: Ipv4Addr) -> u32 {
    let mut stream = std::net::TcpStream::connect((address, SPICE_PORT)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(SPICE).unwrap();
    // Magic, two numbers of its version, the length of what follows; that begins with the error.
    let mut reply = [0; 20];
    stream.read_exact(&mut reply).unwrap();
    u32::from_le_bytes([reply[16], reply[17], reply[18], reply[19]])
}

#[test]
fn real_sshd_xrdp_and_xspice_answer_to_their_own_words_only_and_are_missed_when_they_hang() {
    if std::env::var("ROOST_REAL").as_deref() != Ok("1") {
        return eprintln!("skipped, as ROOST_REAL=1 is not set");
    }
    let folder = tempfile::tempdir().unwrap();
    let address = own_address();
    let doors = [("ssh", SSH), ("rdp", RDP_PORT), ("spice", SPICE_PORT)];
    let servers = [sshd, xrdp, xspice].map(|start| start(folder.path(), address));
    doors.iter().for_each(|(_, port)| until_listening("tcp", address, *port));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let asked = |word: &str, port: u16, patience| {
        let probe = format!("{word}://{address}:{port}").parse().unwrap();
        runtime.block_on(ask(&probe, patience)).0
    };
    for (word, port) in doors {
        assert_eq!(asked(word, port, PATIENCE), Answer::Ok, "{word}");
    }
    assert_eq!(spice_error(address), 0, "it answers to wrong words too, but with an error");
    for word in ["rdp", "spice"] {
        assert_eq!(asked(word, SSH, PATIENCE), Answer::BadReply, "{word}");
    }
    // These wait for the client's words, and what they make of wrong ones is theirs.
    for (word, port) in [("ssh", RDP_PORT), ("spice", RDP_PORT), ("ssh", SPICE_PORT), ("rdp", SPICE_PORT)] {
        assert_ne!(asked(word, port, Duration::from_secs(2)), Answer::Ok, "{word} at {port}");
    }
    // A server that hangs still has its connections taken by the kernel.
    servers.iter().for_each(|server| server.signal(Signal::SIGSTOP));
    for (word, port) in doors {
        assert_eq!(asked("tcp", port, PATIENCE), Answer::Ok, "{word}");
        assert_eq!(asked(word, port, Duration::from_secs(2)), Answer::TimedOut, "{word}");
    }
    let [sshd, xrdp, xspice] = servers;
    for (server, word, port) in [(&xrdp, "rdp", RDP_PORT), (&xspice, "spice", SPICE_PORT)] {
        server.signal(Signal::SIGCONT);
        assert_eq!(asked(word, port, PATIENCE), Answer::Ok, "{word}");
    }
    for (server, word, port) in [(sshd, "ssh", SSH), (xspice, "spice", SPICE_PORT)] {
        drop(server);
        assert_eq!(asked(word, port, PATIENCE), Answer::Refused, "{word}");
    }
}
