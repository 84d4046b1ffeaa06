//! What the guard is told at its start: the command line and one TOML file. Every setting has a default.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use roost_protocol::HostId;
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
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum Command {
    /// Run until stopped.
    Run,
    /// Tell how the running guard is: fence, wards, leases, peers.
    Status,
}

/// The settings file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Who this machine is; the id that it got when it joined the grid.
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
