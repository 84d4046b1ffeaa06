//! What the agent is told at its start: the command line and one TOML file. Every setting has a default.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use roost_protocol::memory::MemoryPolicy;
use roost_store::Encryption;
use roost_ward::Profile;
use serde::Deserialize;

use crate::files;
use crate::keys::{self, KeyError};
use crate::offline::StoreArguments;
use crate::slots::ImageCommand;

/// Where the settings are looked for when no `--config` is given; it may be absent.
pub(crate) const DEFAULT_FILE: &str = "/etc/roost/agent.toml";
/// Largest settings file; a larger one is not a settings file.
const FILE_LIMIT: u64 = 64 << 10;
/// Longest file that is taken for a join token.
const TOKEN_LIMIT: u64 = 4 << 10;
/// A misspelt key is matched with a known one up to this many edits.
const SUGGEST_WITHIN: usize = 3;
/// Longest host name, as for DNS.
const NAME_LIMIT: usize = 253;
/// UDP port for other hosts unless another is set.
const PEER_PORT: u16 = 4434;
/// UDP port of an aggregator when its address names none.
const AGGREGATOR_PORT: u16 = 4433;

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "roost-agent", version, about = "Looks after the guests of one host and reports them to the grid")]
pub(crate) struct Arguments {
    /// Settings file (default: /etc/roost/agent.toml, if there is one).
    #[arg(long, global = true, env = "ROOST_AGENT_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run until stopped.
    Run {
        /// Address of the aggregator, HOST or HOST:PORT; overrides the settings file.
        #[arg(long)]
        aggregator: Option<String>,
        /// One-time join token for a host that has not joined yet.
        #[arg(long, env = "ROOST_JOIN_TOKEN", hide_env_values = true)]
        join_token: Option<String>,
    },
    /// Make this machine a host of a grid. Asks for what is missing.
    Join {
        /// Address of the aggregator, HOST or HOST:PORT.
        address: Option<String>,
        /// The one-time join token.
        #[arg(env = "ROOST_JOIN_TOKEN", hide_env_values = true)]
        token: Option<String>,
        /// Name of this host in the grid.
        #[arg(long)]
        name: Option<String>,
    },
    /// Monitoring by SNMP.
    Snmp {
        #[command(subcommand)]
        command: SnmpCommand,
    },
    /// Restore points offline: a store, or a copy of it, is listed, verified and exported by this program alone.
    Store(StoreArguments),
    /// On the host image: newer images. And where they are made: keys and signatures.
    Image {
        #[command(subcommand)]
        command: ImageCommand,
    },
    /// Tell what this host is a member of.
    Status,
    /// On the host image, at its start: find the answers, mount the data disk, write settings.
    Boot,
    /// On the host image: the status page of its screen, and the two questions.
    Console,
    /// Check the settings and print them.
    CheckConfig,
    /// Started by the agent beside itself: gives guests their memory back when the agent is dead or hangs.
    #[command(hide = true)]
    KeepMemory,
}

/// What to do about SNMP.
#[derive(Debug, Subcommand)]
pub(crate) enum SnmpCommand {
    /// Have the distribution's snmpd serve this agent: writes a drop-in for its configuration.
    Setup(SnmpSetup),
}

/// What snmpd is told.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SnmpSetup {
    /// SNMPv3 user for reading, by SHA-256 and AES. Passwords come from ROOST_SNMP_AUTH and ROOST_SNMP_PRIV, else they are
    /// made and printed.
    #[arg(long, value_name = "NAME")]
    pub(crate) v3_user: Option<String>,
    /// SNMPv2c community for reading. It travels readable, so it is not shown who uses a desktop.
    #[arg(long)]
    pub(crate) community: Option<String>,
    /// Address to listen on besides those in snmpd.conf, such as udp:192.0.2.7:161; may be given more than once.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Vec<String>,
    /// Receiver of SNMPv2c traps, HOST[:PORT]; their community is that of --community, or public.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) trap: Vec<String>,
    /// Receiver of SNMPv3 informs, HOST[:PORT], sent as the --v3-user.
    #[arg(long, value_name = "ADDRESS", requires = "v3_user")]
    pub(crate) inform: Vec<String>,
    /// Group of the agent's process, when it does not run as root.
    #[arg(long, value_name = "GROUP")]
    pub(crate) agent_group: Option<String>,
    /// Also put ROOST-MIB there, for programs on this host.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) mibs: Option<PathBuf>,
    /// Write there; - is standard output.
    #[arg(long, value_name = "FILE", default_value = "/etc/snmp/snmpd.conf.d/roost.conf")]
    pub(crate) output: PathBuf,
}

/// The settings file.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// libvirt's address.
    pub(crate) libvirt_uri: String,
    /// Ledger and identity.
    pub(crate) state_dir: PathBuf,
    /// Images that guests may be made from; `<state_dir>/images` unless set.
    pub(crate) images_dir: Option<PathBuf>,
    /// Disks of guests made here, a folder each; `<state_dir>/guests` unless set.
    pub(crate) guests_dir: Option<PathBuf>,
    /// The host's own store of restore points; `<state_dir>/backups` unless set.
    pub(crate) backups_dir: Option<PathBuf>,
    /// Folders that copies of points may go to: mounts of NFS or SMB, or other disks.
    pub(crate) backup_targets: Vec<PathBuf>,
    /// Keys of an encrypted backup store, and of its copies in folders; without it they are not encrypted. A store is
    /// encrypted from its first day or never.
    pub(crate) backup_key_file: Option<PathBuf>,
    /// UDP socket at which other hosts bring and take backups, ADDRESS:PORT; empty: none can.
    pub(crate) peer_listen: String,
    /// Most that copies to other places take of the network, MiB per second in all; 0: as fast as it goes.
    pub(crate) copy_mib_per_s: u64,
    /// Address of the aggregator, HOST or HOST:PORT. Without one the agent works alone.
    pub(crate) aggregator: Option<String>,
    /// Name of this host in the grid; the machine's host name unless set.
    pub(crate) name: Option<String>,
    /// File with the one-time join token.
    pub(crate) join_token_file: Option<PathBuf>,
    /// Seconds between slow full re-reads of all domains.
    pub(crate) list_every_s: u64,
    /// First wait before a crashed guest is started again, milliseconds.
    pub(crate) restart_first_ms: u64,
    /// Longest wait before a crashed guest is started again, milliseconds.
    pub(crate) restart_longest_ms: u64,
    /// Merge equal pages of guests, resize their balloons by policy, and refuse what does not fit. Page sharing is the
    /// whole kernel's: of several agents on one machine at most one may.
    pub(crate) tune_memory: bool,
    /// How dense this host may be packed, a table.
    pub(crate) memory: MemoryPolicy,
    /// snmpd's AgentX socket; empty: no SNMP.
    pub(crate) snmp_socket: PathBuf,
    /// Where Prometheus finds /metrics, ADDRESS:PORT; 9177 is the usual port. Off unless set.
    pub(crate) metrics_listen: Option<SocketAddr>,
    /// History is kept in at most about so much.
    pub(crate) history_limit_mib: u64,
    /// Socket of this host's roost-guard: guests of wards run where its lease is. Off unless set.
    pub(crate) guard_socket: Option<PathBuf>,
    /// How soon another host goes on with a guest of this one that dies: after 11 s (fast), 22 s (normal) or 47.5 s (calm).
    /// The sooner, the shorter a cut that its guests sit out. For councils that are chosen from then on.
    pub(crate) failover_profile: FailoverProfile,
    /// What restarts this machine when an admin asks the aggregator for that, program and arguments; empty: nothing does.
    pub(crate) reboot_command: Vec<String>,
}

/// A set of timers that was tested as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FailoverProfile {
    Fast,
    Normal,
    Calm,
}

impl FailoverProfile {
    pub(crate) fn timers(self) -> Profile {
        match self {
            FailoverProfile::Fast => Profile::Fast,
            FailoverProfile::Normal => Profile::Normal,
            FailoverProfile::Calm => Profile::Calm,
        }
    }
}

/// All keys of the file, for suggestions; a test holds them to the struct.
const KEYS: [&str; 23] = [
    "libvirt_uri",
    "state_dir",
    "images_dir",
    "guests_dir",
    "backups_dir",
    "backup_targets",
    "backup_key_file",
    "peer_listen",
    "copy_mib_per_s",
    "aggregator",
    "name",
    "join_token_file",
    "list_every_s",
    "restart_first_ms",
    "restart_longest_ms",
    "tune_memory",
    "memory",
    "snmp_socket",
    "metrics_listen",
    "history_limit_mib",
    "guard_socket",
    "failover_profile",
    "reboot_command",
];

impl Default for Config {
    fn default() -> Self {
        Self {
            libvirt_uri: "qemu:///system".into(),
            state_dir: "/var/lib/roost".into(),
            images_dir: None,
            guests_dir: None,
            backups_dir: None,
            backup_targets: Vec::new(),
            backup_key_file: None,
            peer_listen: format!("[::]:{PEER_PORT}"),
            copy_mib_per_s: 0,
            aggregator: None,
            name: None,
            join_token_file: None,
            list_every_s: 60,
            restart_first_ms: 1_000,
            restart_longest_ms: 300_000,
            tune_memory: true,
            memory: MemoryPolicy::default(),
            snmp_socket: "/var/agentx/master".into(),
            metrics_listen: None,
            history_limit_mib: 1_024,
            guard_socket: None,
            failover_profile: FailoverProfile::Normal,
            reboot_command: vec!["systemctl".into(), "reboot".into()],
        }
    }
}

/// Why the settings can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("read settings {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("there is no settings file {0}")]
    Missing(PathBuf),
    #[error("settings are not text")]
    NotText,
    #[error("settings: {0}")]
    Syntax(String),
    #[error("settings: unknown key `{key}`{}", suggestion(key))]
    UnknownKey { key: String },
    #[error("settings: {key}: {problem}")]
    Value { key: &'static str, problem: String },
    #[error("find out this machine's name")]
    Hostname(#[from] nix::Error),
}

impl Config {
    /// The settings in `path`, which must exist, or else in the default file, which may be absent.
    pub(crate) fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let file = path.unwrap_or(Path::new(DEFAULT_FILE));
        let read = files::read_bounded(file, FILE_LIMIT);
        match read.map_err(|source| ConfigError::Read { path: file.into(), source })? {
            Some(bytes) => Self::parse(std::str::from_utf8(&bytes).map_err(|_| ConfigError::NotText)?),
            None if path.is_none() => Ok(Self::default()),
            None => Err(ConfigError::Missing(file.into())),
        }
    }

    /// The settings in this text.
    pub(crate) fn parse(text: &str) -> Result<Self, ConfigError> {
        let syntax = |error: toml::de::Error| ConfigError::Syntax(error.to_string().trim_end().to_owned());
        let table: toml::Table = toml::from_str(text).map_err(syntax)?;
        if let Some(key) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(ConfigError::UnknownKey { key: key.clone() });
        }
        let config: Self = toml::from_str(text).map_err(syntax)?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let folders = [
            ("state_dir", Some(&self.state_dir)),
            ("images_dir", self.images_dir.as_ref()),
            ("guests_dir", self.guests_dir.as_ref()),
            ("guard_socket", self.guard_socket.as_ref()),
            ("backup_key_file", self.backup_key_file.as_ref()),
        ];
        for (key, path) in folders {
            if path.is_some_and(|path| !path.is_absolute()) {
                return Err(ConfigError::Value { key, problem: "must be an absolute path".into() });
            }
        }
        let problem = |key, problem: &str| Err(ConfigError::Value { key, problem: problem.into() });
        if self.libvirt_uri.is_empty() || self.libvirt_uri.contains('\0') {
            return problem("libvirt_uri", "must be a libvirt address such as qemu:///system");
        }
        if !(1..=86_400).contains(&self.list_every_s) {
            return problem("list_every_s", "must be 1 to 86400");
        }
        if self.restart_first_ms == 0 || self.restart_longest_ms < self.restart_first_ms {
            return problem("restart_longest_ms", "must be at least restart_first_ms, and that at least 1");
        }
        if !self.peer_listen.is_empty() && self.peer_address().is_none() {
            return problem("peer_listen", "must be ADDRESS:PORT such as [::]:4434, or empty for none");
        }
        if self.copy_mib_per_s > 1_048_576 {
            return problem("copy_mib_per_s", "must be at most 1048576");
        }
        if !self.snmp_socket.as_os_str().is_empty() && !self.snmp_socket.is_absolute() {
            return problem("snmp_socket", "must be an absolute path, or empty for no SNMP");
        }
        if !(16..=1_048_576).contains(&self.history_limit_mib) {
            return problem("history_limit_mib", "must be 16 to 1048576");
        }
        if let Some(wrong) = self.memory.problem() {
            return problem("memory", wrong);
        }
        self.name.as_deref().map_or(Ok(()), check_name)
    }

    /// Where images lie.
    pub(crate) fn images(&self) -> PathBuf {
        self.images_dir.clone().unwrap_or_else(|| self.state_dir.join("images"))
    }

    /// Where guests' own folders lie.
    pub(crate) fn guests(&self) -> PathBuf {
        self.guests_dir.clone().unwrap_or_else(|| self.state_dir.join("guests"))
    }

    /// Where the host's restore points lie.
    pub(crate) fn backups(&self) -> PathBuf {
        self.backups_dir.clone().unwrap_or_else(|| self.state_dir.join("backups"))
    }

    /// The keys of the backup store, if it is encrypted.
    pub(crate) fn backup_keys(&self) -> Result<Option<Encryption>, KeyError> {
        self.backup_key_file.as_deref().map(keys::read).transpose()
    }

    /// Where other hosts find this one, with a port that they can be told.
    pub(crate) fn peer_address(&self) -> Option<SocketAddr> {
        self.peer_listen.parse().ok().filter(|address: &SocketAddr| address.port() != 0)
    }

    /// Bytes per second for copies; absent: no limit.
    pub(crate) fn copy_bandwidth(&self) -> Option<u64> {
        (self.copy_mib_per_s > 0).then_some(self.copy_mib_per_s << 20)
    }

    /// Where key and certificates lie.
    pub(crate) fn identity(&self) -> PathBuf {
        self.state_dir.join("identity")
    }

    /// The name this host asks for.
    pub(crate) fn host_name(&self) -> Result<String, ConfigError> {
        match &self.name {
            Some(name) => Ok(name.clone()),
            None => Ok(nix::unistd::gethostname()?.to_string_lossy().into_owned()),
        }
    }

    /// The join token in the file named for it, if there is one.
    pub(crate) fn join_token(&self) -> Result<Option<String>, ConfigError> {
        let Some(path) = &self.join_token_file else { return Ok(None) };
        let bytes = files::read_bounded(path, TOKEN_LIMIT);
        let bytes = bytes.map_err(|source| ConfigError::Read { path: path.clone(), source })?;
        Ok(bytes.and_then(|bytes| String::from_utf8(bytes).ok()).map(|text| text.trim().to_owned()))
    }
}

/// "No" to a name that no host may have.
pub(crate) fn check_name(name: &str) -> Result<(), ConfigError> {
    match name {
        "" => Err(ConfigError::Value { key: "name", problem: "must not be empty".into() }),
        name if name.len() > NAME_LIMIT || name.chars().any(char::is_control) => {
            let problem = format!("must be at most {NAME_LIMIT} bytes without control characters");
            Err(ConfigError::Value { key: "name", problem })
        }
        _ => Ok(()),
    }
}

/// `address` with the port it has when it names none.
pub(crate) fn with_port(address: &str) -> String {
    let address = address.trim();
    let bare_v6 = address.matches(':').count() > 1 && !address.starts_with('[');
    let has_port = !bare_v6 && address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    match (bare_v6, has_port) {
        (true, _) => format!("[{address}]:{AGGREGATOR_PORT}"),
        (false, true) => address.to_owned(),
        (false, false) => format!("{address}:{AGGREGATOR_PORT}"),
    }
}

fn suggestion(key: &str) -> String {
    let near = KEYS.iter().map(|known| (edits(key, known), known)).min();
    match near {
        Some((distance, known)) if distance <= SUGGEST_WITHIN => format!("; did you mean `{known}`?"),
        _ => format!("; known keys are {}", KEYS.join(", ")),
    }
}

/// Levenshtein's distance.
fn edits(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, letter) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, against) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *against);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod test {
    use super::*;

    fn refused(text: &str, word: &str) {
        let error = Config::parse(text).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }

    #[test]
    fn an_empty_file_gives_the_defaults() {
        let config = Config::parse("").unwrap();
        assert_eq!(config, Config::default());
        assert_eq!(config.images(), Path::new("/var/lib/roost/images"));
    }

    #[test]
    fn a_wrong_setting_is_named_with_a_way_out() {
        refused("libvirt_url = 'x'", "did you mean `libvirt_uri`?");
        refused("zzzzzzzzzz = 1", "known keys are");
        refused("state_dir = 'relative'", "absolute");
        refused("list_every_s = 0", "1 to 86400");
        refused("restart_first_ms = 9\nrestart_longest_ms = 8", "at least");
        refused("snmp_socket = 'agentx'", "absolute");
        refused("metrics_listen = '9177'", "metrics_listen");
        refused("history_limit_mib = 1", "16 to 1048576");
        refused("memory = { floor_permille = 1 }", "memory: floor_permille");
        refused("memory = { flor_permille = 400 }", "flor_permille");
        refused("peer_listen = '4434'", "ADDRESS:PORT");
        refused("peer_listen = '[::]:0'", "ADDRESS:PORT");
        assert_eq!(Config::parse("peer_listen = ''").unwrap().peer_address(), None);
        refused("name = ''", "empty");
        refused("name = \"a\\nb\"", "control");
        refused("name = 5", "string");
        refused("[", "settings");
    }

    #[test]
    fn every_suggested_key_is_a_setting_and_every_setting_is_suggested() {
        let error = toml::from_str::<Config>("nonsense = 1").unwrap_err().to_string();
        for key in KEYS {
            assert!(error.contains(&format!("`{key}`")), "{key}");
        }
        assert_eq!(error.matches('`').count() / 2, KEYS.len() + 1);
    }

    #[test]
    fn an_address_without_port_gets_one() {
        let check = |text, wanted| assert_eq!(with_port(text), wanted);
        check("grid.example", "grid.example:4433");
        check(" 10.0.0.1:99 ", "10.0.0.1:99");
        check("fd00::1", "[fd00::1]:4433");
        check("[fd00::1]", "[fd00::1]:4433");
        check("[fd00::1]:5", "[fd00::1]:5");
    }
}
