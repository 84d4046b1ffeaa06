//! What the aggregator is told at its start: the command line and one TOML file. Every setting has a default.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use serde::Deserialize;

/// Where the settings are looked for when no `--config` is given; it may be absent.
pub(crate) const DEFAULT_FILE: &str = "/etc/roost/aggregator.toml";
/// Largest settings file; a larger one is not a settings file.
const FILE_LIMIT: u64 = 64 << 10;
/// A misspelt key is matched with a known one up to this many edits.
const SUGGEST_WITHIN: usize = 3;

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "roost-aggregator", version, about = "Looks after a Roost grid: hosts join it, admins steer it")]
pub(crate) struct Arguments {
    /// Settings file (default: /etc/roost/aggregator.toml, if there is one).
    #[arg(long, global = true, env = "ROOST_AGGREGATOR_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Where intent and operations are kept; overrides the settings file.
    #[arg(long, global = true)]
    pub(crate) data_dir: Option<PathBuf>,
    /// The grid's key; overrides the settings file.
    #[arg(long, global = true)]
    pub(crate) grid_key: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run until stopped.
    Run,
    /// Make the grid's key, if there is none, and the first admin. The aggregator must not be running.
    Init {
        /// The admin's user name.
        #[arg(long, default_value = "admin")]
        admin: String,
        /// Take the admin's password from the first line of this file.
        #[arg(long, conflicts_with = "admin_password_stdin")]
        admin_password_file: Option<PathBuf>,
        /// Take the admin's password from standard input. Without either a random one is printed.
        #[arg(long)]
        admin_password_stdin: bool,
    },
    /// Print a join token made while the aggregator is not running.
    Token {
        /// How long it may be used, in minutes.
        #[arg(long, default_value_t = 60)]
        minutes: u64,
        /// What it is for.
        #[arg(long, default_value = "")]
        note: String,
    },
    /// Check the settings and print them.
    CheckConfig,
    /// Print the grid's CA certificate (PEM) and its SHA-256 fingerprint.
    Ca,
}

/// The settings file.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Intent and operations. May be deleted: hosts and users come back from the agents.
    pub(crate) data_dir: PathBuf,
    /// The grid's key; `<data_dir>/grid.key` unless set. Keep a copy elsewhere: with it alone a lost aggregator comes back.
    pub(crate) grid_key: Option<PathBuf>,
    /// UDP, for agents.
    pub(crate) quic_listen: SocketAddr,
    /// TCP, for admins and programs.
    pub(crate) https_listen: SocketAddr,
    /// Names and addresses under which agents and admins reach this machine; the first is in the join hint.
    pub(crate) public: Vec<String>,
    /// Where the guard beside this aggregator is asked: with it two hosts have a third voice. Not on a machine that is itself
    /// a host of this grid, nor in a guest of it.
    pub(crate) witness_socket: Option<PathBuf>,
    /// AgentX socket of this machine's snmpd, usually /var/agentx/master: then it tells how many hosts are up, and of failovers.
    pub(crate) snmp_socket: Option<PathBuf>,
    /// Life of a host's certificate; it is renewed at a third of it.
    pub(crate) host_certificate_days: u32,
    /// Silence after which a host is shown as suspect.
    pub(crate) suspect_after_ms: u64,
    /// Silence after which a host is shown as down.
    pub(crate) down_after_ms: u64,
    /// Most agents connected at once.
    pub(crate) max_links: usize,
    /// Filter of what is logged, such as `info` or `roost_aggregator=debug`.
    pub(crate) log: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("/var/lib/roost-aggregator"),
            grid_key: None,
            quic_listen: SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 4433),
            https_listen: SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 8443),
            public: Vec::new(),
            witness_socket: None,
            snmp_socket: None,
            host_certificate_days: 7,
            suspect_after_ms: 6_000,
            down_after_ms: 15_000,
            max_links: 5_000,
            log: "info".to_owned(),
        }
    }
}

/// Every key of the file, for suggestions.
const KEYS: [&str; 12] = [
    "data_dir",
    "grid_key",
    "quic_listen",
    "https_listen",
    "public",
    "witness_socket",
    "snmp_socket",
    "host_certificate_days",
    "suspect_after_ms",
    "down_after_ms",
    "max_links",
    "log",
];

/// Why the settings are not acceptable.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("read settings {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} has {size} bytes, more than a settings file may have ({FILE_LIMIT})")]
    TooLarge { path: PathBuf, size: u64 },
    #[error("settings {path}")]
    Parse { path: PathBuf, source: Box<toml::de::Error> },
    #[error("settings {path}: unknown key `{key}`{hint}")]
    UnknownKey { path: PathBuf, key: String, hint: String },
    #[error("settings {path}: `{key}` {why}")]
    Value { path: PathBuf, key: &'static str, why: String },
}

impl Config {
    /// The settings of this command line: defaults, then the file, then the flags.
    pub(crate) fn load(arguments: &Arguments) -> Result<Self, ConfigError> {
        let default = Path::new(DEFAULT_FILE);
        let mut config = match &arguments.config {
            Some(path) => Self::read(path)?,
            None if default.exists() => Self::read(default)?,
            None => Self::default(),
        };
        if let Some(path) = &arguments.data_dir {
            config.data_dir.clone_from(path);
        }
        if let Some(path) = &arguments.grid_key {
            config.grid_key = Some(path.clone());
        }
        Ok(config)
    }

    fn read(path: &Path) -> Result<Self, ConfigError> {
        let cannot = |source| ConfigError::Read { path: path.to_owned(), source };
        let size = std::fs::metadata(path).map_err(cannot)?.len();
        if size > FILE_LIMIT {
            return Err(ConfigError::TooLarge { path: path.to_owned(), size });
        }
        Self::parse(path, &std::fs::read_to_string(path).map_err(cannot)?)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let parse = |source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) };
        let table: toml::Table = text.parse().map_err(parse)?;
        if let Some(key) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(ConfigError::UnknownKey { path: path.to_owned(), key: key.clone(), hint: suggest(key) });
        }
        let config: Self = toml::from_str(text).map_err(parse)?;
        config.check().map_err(|(key, why)| ConfigError::Value { path: path.to_owned(), key, why })?;
        Ok(config)
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        if !(1..=365).contains(&self.host_certificate_days) {
            return Err(("host_certificate_days", "must be 1 to 365".to_owned()));
        }
        if self.suspect_after_ms < 2_000 || self.down_after_ms <= self.suspect_after_ms {
            let why = "must be more than suspect_after_ms, which must be 2000 (one heartbeat) or more".to_owned();
            return Err(("down_after_ms", why));
        }
        if self.max_links == 0 {
            return Err(("max_links", "must be 1 or more".to_owned()));
        }
        if self.snmp_socket.as_ref().is_some_and(|socket| !socket.is_absolute()) {
            return Err(("snmp_socket", "must be an absolute path such as /var/agentx/master".to_owned()));
        }
        match self.public.iter().find(|name| !public_name(name)) {
            Some(name) => Err(("public", format!("has {name:?}, which is neither a host name nor an address"))),
            None => Ok(()),
        }
    }

    /// Where the grid's key is.
    pub(crate) fn grid_key_path(&self) -> PathBuf {
        self.grid_key.clone().unwrap_or_else(|| self.data_dir.join("grid.key"))
    }

    /// Where the newer image of hosts lies that are started from the host image.
    pub(crate) fn image_folder(&self) -> PathBuf {
        self.data_dir.join("image")
    }

    /// Where the database is.
    pub(crate) fn ledger_path(&self) -> PathBuf {
        self.data_dir.join("ledger.db")
    }

    /// Where people and programs reach the API.
    pub(crate) fn api_url(&self) -> String {
        let name = self.public.first().cloned().unwrap_or_else(|| "localhost".to_owned());
        match name.parse::<IpAddr>() {
            Ok(address) => format!("https://{}", SocketAddr::new(address, self.https_listen.port())),
            Err(_) => format!("https://{name}:{}", self.https_listen.port()),
        }
    }

    /// Address and UDP port an agent is told at joining.
    pub(crate) fn join_address(&self) -> String {
        let name = self.public.first().cloned().unwrap_or_else(|| "localhost".to_owned());
        match name.parse::<IpAddr>() {
            Ok(address) => SocketAddr::new(address, self.quic_listen.port()).to_string(),
            Err(_) => format!("{name}:{}", self.quic_listen.port()),
        }
    }
}

fn public_name(name: &str) -> bool {
    let word = |label: &str| {
        !label.is_empty() && label.len() <= 63 && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    name.parse::<IpAddr>().is_ok() || (name.len() <= 253 && name.split('.').all(word))
}

fn suggest(key: &str) -> String {
    let nearest = KEYS.iter().map(|known| (distance(key, known), known)).min();
    match nearest {
        Some((far, known)) if far <= SUGGEST_WITHIN => format!("; did you mean `{known}`?"),
        Some(_) | None => format!("; known are {}", KEYS.join(", ")),
    }
}

/// Edits (Levenshtein) between two short words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut left = i + 1;
        let mut diagonal = std::mem::replace(&mut row[0], left);
        for (j, to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            left = changed.min(left + 1).min(diagonal + 1);
            row[j + 1] = left;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod test {
    use super::*;

    fn refused(text: &str) -> String {
        Config::parse(Path::new("t.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(Config::parse(Path::new("t.toml"), "").unwrap(), Config::default());
    }

    #[test]
    fn a_misspelt_key_is_refused_with_the_right_one() {
        assert!(refused("quic_liste = '[::]:1'").contains("did you mean `quic_listen`?"));
        assert!(refused("colour = 'red'").contains("known are data_dir"));
    }

    #[test]
    fn values_that_cannot_work_are_refused_by_name() {
        assert!(refused("down_after_ms = 10").contains("down_after_ms"));
        assert!(refused("host_certificate_days = 0").contains("host_certificate_days"));
        assert!(refused("public = ['a b']").contains("neither a host name nor an address"));
        assert!(refused("max_links = 0").contains("max_links"));
        assert!(refused("snmp_socket = 'agentx'").contains("snmp_socket` must be an absolute path"));
    }

    #[test]
    fn flags_win_over_the_file() {
        let arguments = Arguments::parse_from(["x", "--data-dir", "/d", "--grid-key", "/k", "check-config"]);
        let config = Config::load(&arguments).unwrap();
        assert_eq!((config.ledger_path(), config.grid_key_path()), ("/d/ledger.db".into(), "/k".into()));
    }

    #[test]
    fn the_join_address_brackets_ipv6() {
        let config = Config { public: vec!["2001:db8::1".to_owned()], ..Config::default() };
        assert_eq!(config.join_address(), "[2001:db8::1]:4433");
    }
}
