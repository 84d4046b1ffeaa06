//! With a management board as others built it: OpenIPMI's `ipmi_sim`, spoken to by `fence_ipmilan` and ipmitool.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use roost_protocol::Hidden;

use super::*;
use crate::waiting::{own_address, until, until_listening};

/// What the board's account is opened by.
const SECRET: &str = "hush-hush";
/// Where management boards listen.
const PORT: u16 = 623;
/// So many seconds a board gets to be off.
const POWER_TIMEOUT: &str = "4";

/// A board that runs, and the power of its host.
struct Board {
    address: Ipv4Addr,
    program: Child,
    folder: tempfile::TempDir,
}

impl Board {
    /// One whose host is on; `wire`: what it does with `set power`, as a line of shell.
    fn start(wire: &str) -> Self {
        let address = own_address();
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("state")).unwrap();
        fs::write(at("power"), "1\n").unwrap();
        let chassis = format!(
            "#!/bin/sh\ncd {}\n# Newer ones name the board first.\ncase $1 in get | set | check) ;; *) shift ;; esac\n\
             case \"$1 $2\" in\n'get power') echo \"power:$(cat power)\" ;;\n'set power') {wire} ;;\nesac\n",
            folder.path().display(),
        );
        fs::write(at("chassis"), chassis).unwrap();
        fs::set_permissions(at("chassis"), fs::Permissions::from_mode(0o700)).unwrap();
        let lan = format!(
            "name \"bmc\"\nset_working_mc 0x20\n  startlan 1\n    addr {address} {PORT}\n    priv_limit admin\n    \
             allowed_auths_admin none md2 md5 straight\n    guid a123456789abcdefa123456789abcdef\n  endlan\n  \
             chassis_control \"{}\"\n  user 2 true \"admin\" \"{SECRET}\" admin 10 none md2 md5 straight\n",
            at("chassis").display(),
        );
        fs::write(at("lan.conf"), lan).unwrap();
        let board = "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02\nmc_enable 0x20\n";
        fs::write(at("emu"), board).unwrap();
        let mut program = std::process::Command::new("ipmi_sim");
        program.args(["-n", "-c", "lan.conf", "-f", "emu", "-s", "state"]).current_dir(folder.path());
        program.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let program = program.spawn().expect("ipmi_sim of Debian's package openipmi");
        let board = Self { address, program, folder };
        until_listening("udp", board.address, PORT);
        board
    }

    fn device(&self) -> FenceDevice {
        // Which ciphers it knows is not asked: this board has no answer to that.
        let options = [("lanplus", "1"), ("cipher", "3"), ("power_timeout", POWER_TIMEOUT)];
        FenceDevice {
            agent: "fence_ipmilan".into(),
            address: Some(self.address.to_string()),
            user: Some("admin".into()),
            secret: Some(Hidden(SECRET.into())),
            plug: None,
            options: options.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        }
    }

    fn has_power(&self) -> bool {
        fs::read_to_string(self.folder.path().join("power")).unwrap().trim() == "1"
    }

    fn signal(&self, what: Signal) {
        nix::sys::signal::kill(Pid::from_raw(i32::try_from(self.program.id()).unwrap()), what).unwrap();
    }

    /// Programs that still speak to it.
    fn callers(&self) -> Vec<PathBuf> {
        let address = self.address.to_string();
        let calls = |process: &PathBuf| {
            let words = fs::read_to_string(process.join("cmdline")).unwrap_or_default();
            words.split('\0').any(|word| word == address)
        };
        fs::read_dir(Path::new("/proc")).unwrap().flatten().map(|entry| entry.path()).filter(calls).collect()
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

fn story(name: &str, wire: &str, tell: impl AsyncFnOnce(&Board)) {
    if std::env::var("ROOST_REAL").as_deref() != Ok("1") {
        return eprintln!("{name}: skipped, as ROOST_REAL=1 is not set");
    }
    let board = Board::start(wire);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(tell(&board));
}

#[test]
fn real_management_board_cuts_the_power_and_is_asked_whether_it_did() {
    story("off", "echo $3 > power", async |board| {
        let device = board.device();
        assert_eq!(power(&device).await, Ok(Power::On));
        assert_eq!(off(&device).await, Ok(()));
        assert!(!board.has_power());
        assert_eq!(power(&device).await, Ok(Power::Off));
        assert_eq!(on(&device).await, Ok(()));
        assert!(board.has_power());
    });
}

#[test]
fn real_management_board_whose_relay_sticks_proves_nothing() {
    story("stuck", "true", async |board| {
        let why = off(&board.device()).await.unwrap_err();
        assert!(why.text.contains("could not cut the power"), "{}", why.text);
        assert!(board.has_power());
    });
}

#[test]
fn real_management_board_refuses_a_wrong_password_which_proves_nothing() {
    story("password", "echo $3 > power", async |board| {
        let device = FenceDevice { secret: Some(Hidden("guessed-wrong".into())), ..board.device() };
        for why in [power(&device).await.unwrap_err(), off(&device).await.unwrap_err()] {
            assert_eq!(why.code, FailureCode::TargetAway, "{}", why.text);
            assert!(!why.text.contains("guessed-wrong"), "{}", why.text);
        }
        assert!(board.has_power());
    });
}

#[test]
fn real_management_board_that_hangs_proves_nothing_and_holds_nobody_up() {
    story("hang", "echo $3 > power", async |board| {
        let device = board.device();
        board.signal(Signal::SIGSTOP);
        for action in ["status", "off"] {
            let Err(why) = run(&device, action, Duration::from_secs(3)).await else { panic!("{action} ended") };
            assert_eq!(why.code, FailureCode::TimedOut, "{}", why.text);
            until("nobody calls it any more", || board.callers().is_empty());
        }
        board.signal(Signal::SIGCONT);
        assert_eq!(power(&device).await, Ok(Power::On), "what nobody waits for any more is not done later");
    });
}
