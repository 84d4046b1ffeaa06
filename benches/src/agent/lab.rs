//! One host of `tests/lab/hosts.sh` with many of its 9 KB guests; gone when dropped.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use roost_benches::aggregator::run;
use roost_benches::process;

const PREFIX: &str = "bench";
const NET: &str = "10.98.0";

/// The machine's own address in the lab's network.
pub(crate) const MACHINE: [u8; 4] = [10, 98, 0, 254];

/// The host.
#[derive(Debug)]
pub(crate) struct Lab {
    folder: PathBuf,
}

impl Lab {
    /// Powers the host on.
    pub(crate) fn up(folder: &Path) -> Result<Self> {
        let lab = Self { folder: folder.join("hosts") };
        lab.script(&["up", "1"])?;
        Ok(lab)
    }

    /// Runs a shell line in the host and gives its output.
    pub(crate) fn shell(&self, line: &str) -> Result<String> {
        self.script(&["exec", "1", "sh", "-c", line])
    }

    /// Starts a program in the host; its output goes to `log`.
    pub(crate) fn spawn(&self, log: &Path, words: &[&str]) -> Result<()> {
        let log = log.to_str().context("a path in UTF-8")?;
        self.script(&[&["spawn", "1", log], words].concat()).map(drop)
    }

    /// Process ids, seen from here, of the host's programs with this name.
    pub(crate) fn pids(&self, name: &str) -> Result<Vec<u32>> {
        process::marked(name, &format!("ROOST_LAB={PREFIX}/h1"))
    }

    /// Starts so many guests; their QEMUs' process ids. Guests that are started through libvirt inherit no mark.
    pub(crate) fn guests(&self, count: usize) -> Result<Vec<u32>> {
        let images = scripts().join("../../.lab-cache/guest");
        run(Command::new(scripts().join("guest.sh")).arg(&images))?;
        let before = named("qemu-system-x86")?;
        for number in 0..count {
            let name = format!("bench-{number:03}");
            let xml = run(Command::new(scripts().join("domain.sh")).args(["--mb", &name]))?;
            let file = self.folder.join(format!("{name}.xml"));
            std::fs::write(&file, xml)?;
            self.shell(&format!("virsh -q -c qemu:///system create {}", file.display()))?;
        }
        let pids: Vec<u32> = named("qemu-system-x86")?.into_iter().filter(|pid| !before.contains(pid)).collect();
        let (mut own, libvirt) = (Vec::new(), self.namespace(&self.pids("libvirtd")?)?);
        for pid in pids {
            if namespace(pid).is_ok_and(|other| other == libvirt) {
                own.push(pid);
            }
        }
        ensure!(own.len() == count, "{} of {count} guests run", own.len());
        Ok(own)
    }

    fn namespace(&self, libvirtd: &[u32]) -> Result<PathBuf> {
        namespace(*libvirtd.first().context("the host's libvirtd")?)
    }

    fn script(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(scripts().join("hosts.sh"));
        command.args(words).env("HOSTS_PREFIX", PREFIX).env("HOSTS_NET", NET).env("HOSTS_DIR", &self.folder);
        run(&mut command)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(why) = self.script(&["down"]) {
            eprintln!("remove the lab: {why:#}");
        }
    }
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/lab")
}

/// Which PID namespace a process lives in.
fn namespace(pid: u32) -> Result<PathBuf> {
    Ok(std::fs::read_link(format!("/proc/{pid}/ns/pid"))?)
}

fn named(name: &str) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let comm = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if comm.trim_end() == name {
            found.push(pid);
        }
    }
    Ok(found)
}
