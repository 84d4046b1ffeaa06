//! The hosts: `tests/lab/hosts.sh` under a name and network of this process's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{output, text};

/// Begins the names of labs made here; the process id follows, so that labs of dead processes are known.
const PREFIX: &str = "rt";

/// Powered hosts, gone when dropped.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    net: String,
    folder: PathBuf,
}

impl Lab {
    /// So many hosts, after removing what killed tests left.
    pub fn up(hosts: u8) -> Result<Self> {
        sweep()?;
        let lab = Self::of(std::process::id())?;
        fs::create_dir_all(&lab.folder)?;
        lab.script(&["up", &hosts.to_string()])?;
        Ok(lab)
    }

    fn of(pid: u32) -> Result<Self> {
        // 10.100.0 to 10.149.249: beside the lab's and the demo's own networks.
        let net = format!("10.{}.{}", 100 + pid % 50, pid / 50 % 250);
        Ok(Self { prefix: format!("{PREFIX}{pid}"), net, folder: cache()?.join(format!("{PREFIX}{pid}")) })
    }

    /// For settings, logs and data.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Address of a host; 0 is the machine itself.
    pub fn address(&self, host: u8) -> String {
        format!("{}.{}", self.net, if host == 0 { 254 } else { host })
    }

    /// The network namespace of the switch, whose bridge is `vbr0`.
    pub fn switch(&self) -> String {
        format!("{}-sw", self.prefix)
    }

    /// What programs of a host have in their environment.
    pub fn mark(&self, host: u8) -> String {
        format!("ROOST_LAB={}/h{host}", self.prefix)
    }

    /// Runs a program in a host and gives its output.
    pub fn exec(&self, host: u8, words: &[&str]) -> Result<String> {
        self.script(&[&["exec", &host.to_string()], words].concat())
    }

    /// Starts a program in a host; its process id there.
    pub fn spawn(&self, host: u8, log: &Path, words: &[&str]) -> Result<u32> {
        let pid = self.script(&[&["spawn", &host.to_string(), text(log)?], words].concat())?;
        pid.trim().parse().with_context(|| format!("process id {pid:?}"))
    }

    /// Whether a process of a host lives and is not just waiting to be reaped.
    pub fn is_alive(&self, host: u8, pid: u32) -> bool {
        let status = self.exec(host, &["cat", &format!("/proc/{pid}/status")]);
        status.is_ok_and(|status| !status.contains("State:\tZ"))
    }

    /// Powers a host on or off, cuts or heals its cable, restarts its libvirt: a word of `hosts.sh`.
    pub fn host(&self, word: &str, host: u8) -> Result<()> {
        self.script(&[word, &host.to_string()]).map(drop)
    }

    /// Has a host lose so many percent of its frames, both ways.
    pub fn loss(&self, host: u8, percent: u8) -> Result<()> {
        self.script(&["loss", &host.to_string(), &percent.to_string()]).map(drop)
    }

    /// Has a host lose so many percent of the frames that come `from` it, or go `to` it.
    pub fn loss_one_way(&self, host: u8, percent: u8, way: &str) -> Result<()> {
        self.script(&["loss", &host.to_string(), &percent.to_string(), way]).map(drop)
    }

    /// Folder with the test guests, built at the first use.
    pub fn guest_folder(&self) -> Result<PathBuf> {
        let folder = cache()?.join("guest");
        output(Command::new(scripts().join("guest.sh")).arg(&folder))?;
        Ok(folder)
    }

    /// Domain XML of the 9 KB guest.
    pub fn tiny_xml(&self, name: &str) -> Result<String> {
        self.guest_folder()?;
        output(Command::new(scripts().join("domain.sh")).args(["--mb", name]))
    }

    fn script(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(scripts().join("hosts.sh"));
        command.args(words).env("HOSTS_PREFIX", &self.prefix).env("HOSTS_NET", &self.net);
        output(command.env("HOSTS_DIR", self.folder.join("hosts")))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let removed = self.script(&["down"]).and_then(|_| Ok(fs::remove_dir_all(&self.folder)?));
        if let Err(why) = removed {
            eprintln!("remove the lab {}: {why:#}", self.prefix);
        }
    }
}

/// Removes labs whose test process is dead.
fn sweep() -> Result<()> {
    for entry in fs::read_dir(cache()?)? {
        let name = entry?.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX)).and_then(|pid| pid.parse::<u32>().ok());
        if let Some(pid) = pid.filter(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            drop(Lab::of(pid)?);
        }
    }
    Ok(())
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("lab")
}

fn cache() -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.lab-cache");
    fs::create_dir_all(&folder)?;
    Ok(folder.canonicalize()?)
}
