//! What the guard is told at its start: the command line and one TOML file. Every setting has a default.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand, ValueEnum};
use data_encoding::HEXLOWER_PERMISSIVE;
use roost_protocol::{GuestId, HostId};
use roost_ward::MemberId;
use roost_ward::door::Peer;
use serde::Deserialize;

/// Where the settings are looked for when no `--config` is given; it may be absent.
const DEFAULT_FILE: &str = "/etc/roost/guard.toml";
/// Where guards listen.
const PORT: u16 = 7_946;

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "roost-guard", version, about = "Votes who may run a guest, and stops guests of this host in time")]
pub(crate) struct Arguments {
    /// Settings file (default: /etc/roost/guard.toml, if there is one).
    #[arg(long, global = true, env = "ROOST_GUARD_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Run until stopped.
    Run,
    #[command(flatten)]
    Ask(Question),
}

/// What the running guard is asked.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Question {
    /// Tell how the guard is: voter, key, fence, wards, leases, peers.
    Status,
    /// Tell what happened to a ward, and why.
    Explain {
        /// All wards unless given.
        #[arg(long)]
        ward: Option<u64>,
    },
    /// Pin the other guards, all of them: each as HOST=KEY@ADDRESS:PORT[,ADDRESS:PORT], by host id and key as its status
    /// tells them.
    Peers {
        #[arg(value_name = "HOST=KEY@ADDRESS:PORT", value_parser = peer)]
        peers: Vec<Peer>,
    },
    /// Take part in a new ward; the same is to be asked on all voters. Voters and homes are named as in their status.
    Found {
        ward: u64,
        /// Who votes: 3 or 5.
        #[arg(long, value_name = "VOTER", value_delimiter = ',', value_parser = member, required = true)]
        voters: Vec<MemberId>,
        /// Who may own it, in order; each is a voter.
        #[arg(long, value_name = "VOTER", value_delimiter = ',', value_parser = member, required = true)]
        homes: Vec<MemberId>,
        #[arg(long, value_enum, default_value_t = ProfileName::Normal)]
        profile: ProfileName,
    },
    /// Name all guests of a ward, on each home. They execute only while it has the ward's lease.
    Guests {
        ward: u64,
        guests: Vec<GuestId>,
        /// They keep nothing, or lie on storage that all homes reach: without this no other home takes over.
        #[arg(long)]
        anywhere: bool,
    },
    /// Give a ward up: its guests stand still here, and another home goes on without waiting.
    Release { ward: u64 },
    /// Have the watchdog end this host, to see whether it does. Refused while a guest is up here, or a ward is this host's.
    TestWatchdog,
    /// Have this home try to own a ward now. It needs the votes all the same.
    Nominate {
        ward: u64,
        /// Even with a copy that is too old, and although the guests' owner may still come back with newer data.
        #[arg(long)]
        start_stale_copy: bool,
    },
}

/// How fast a ward is: takes over after 11, 22 or 47.5 s.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ProfileName {
    Fast,
    Normal,
    Calm,
}

/// `HOST#INCARNATION`, as a status tells it.
fn member(text: &str) -> Result<MemberId, String> {
    let (id, incarnation) = text.split_once('#').unwrap_or((text, "0"));
    let id = id.parse().map_err(|why| format!("{id}: {why}"))?;
    let incarnation = incarnation.parse().map_err(|why| format!("{incarnation}: {why}"))?;
    Ok(MemberId { id, incarnation })
}

fn peer(text: &str) -> Result<Peer, String> {
    let parts = text.split_once('=').and_then(|(id, rest)| Some((id, rest.split_once('@')?)));
    let (id, (key, addresses)) = parts.ok_or("it is HOST=KEY@ADDRESS:PORT")?;
    let id = id.parse().map_err(|why| format!("{id}: {why}"))?;
    let key = HEXLOWER_PERMISSIVE.decode(key.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
    let key = key.ok_or("a key has 64 hexadecimal digits")?;
    Ok(Peer { id, key, addresses: addresses.split(',').map(str::to_owned).collect() })
}

/// The settings file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Who this machine is: the id that it got when it joined the grid. Absent: its agent says so.
    pub(crate) host: Option<HostId>,
    /// Where datagrams of other guards come in.
    pub(crate) listen: SocketAddr,
    /// Votes; on a disk that keeps what was synced.
    pub(crate) state_dir: PathBuf,
    /// Leases of this boot, and the socket; in memory.
    pub(crate) run_dir: PathBuf,
    /// The watchdog's device, or `none`; `pipe:PATH` is a parent process, for tests.
    pub(crate) watchdog: String,
    /// Let this host own strict guests although nothing resets it when it hangs as a whole.
    pub(crate) accept_no_fence: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            host: None,
            listen: SocketAddr::from(([0, 0, 0, 0], PORT)),
            state_dir: "/var/lib/roost-guard".into(),
            run_dir: "/run/roost-guard".into(),
            watchdog: "/dev/watchdog".into(),
            accept_no_fence: false,
        }
    }
}

/// Why the settings can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("read the settings {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("understand the settings {path}")]
    Parse { path: PathBuf, source: Box<toml::de::Error> },
}

impl Config {
    /// The settings in this file, or in the default one if there is one.
    pub(crate) fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let (path, named) = (path.unwrap_or(Path::new(DEFAULT_FILE)), path.is_some());
        match fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text)
                .map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) }),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !named => Ok(Self::default()),
            Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
        }
    }

    /// Where visitors knock.
    pub(crate) fn socket(&self) -> PathBuf {
        self.run_dir.join("guard.sock")
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn voters_and_peers_are_read_as_a_status_tells_them() {
        let id = HostId::from_u128(5);
        assert_eq!(member(&MemberId { id, incarnation: 9 }.to_string()), Ok(MemberId { id, incarnation: 9 }));
        assert!(member("5").is_err() && member(&format!("{id}#x")).is_err());
        let key = "0a".repeat(32);
        let read = peer(&format!("{id}={key}@10.0.0.1:7946,[fd00::1]:7946")).unwrap();
        assert_eq!((read.id, read.key, read.addresses.len()), (id, [10; 32], 2));
        for wrong in
            ["", "x", &format!("{id}={key}"), &format!("{id}=0a@10.0.0.1:1"), &format!("{id}={key}0@1.1.1.1:1")]
        {
            assert!(peer(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }
}
