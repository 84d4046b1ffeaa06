//! The machine's one page sharing (KSM): for one test or bench at a time, and as it was when that is over.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Where its knobs lie.
const FOLDER: &str = "/sys/kernel/mm/ksm";
/// A kernel older than the advisor has less; the advisor's mode is last, because it owns `pages_to_scan` while it is on.
const KNOBS: [&str; 8] = [
    "run",
    "pages_to_scan",
    "sleep_millisecs",
    "smart_scan",
    "use_zero_pages",
    "advisor_target_scan_time",
    "advisor_max_cpu",
    "advisor_mode",
];

/// Held by whoever uses it. Declare it before the hosts: it is given back after they are gone.
#[derive(Debug)]
pub struct PageSharing {
    _lock: fs::File,
    before: Vec<(PathBuf, String)>,
}

impl PageSharing {
    /// Waits for its turn, then notes how all is set.
    pub fn take() -> Result<Self> {
        let lock = fs::File::create("/run/lock/roost-page-sharing")?;
        lock.lock()?;
        let read = |name: &str| Ok((Path::new(FOLDER).join(name), read(name)?));
        let there = KNOBS.into_iter().filter(|name| Path::new(FOLDER).join(name).exists());
        Ok(Self { _lock: lock, before: there.map(read).collect::<Result<_>>()? })
    }

    /// An error that names the first knob that is set otherwise than it was.
    pub fn as_before(&self) -> Result<()> {
        for (path, before) in &self.before {
            let now = fs::read_to_string(path)?;
            ensure!(now == *before, "{} is {now}, it was {before}", path.display());
        }
        Ok(())
    }

    /// Sets one knob.
    pub fn set(&self, name: &str, value: &str) -> Result<()> {
        let path = Path::new(FOLDER).join(name);
        fs::write(&path, value).with_context(|| format!("write {value} to {}", path.display()))
    }

    /// One of the kernel's counters.
    pub fn count(&self, name: &str) -> Result<u64> {
        read(name)?.trim().parse().with_context(|| name.to_owned())
    }
}

impl Drop for PageSharing {
    fn drop(&mut self) {
        for (path, before) in self.before.iter().rev() {
            // Of choices the one in brackets is set.
            let chosen = before.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(chosen, _)| chosen);
            if let Err(why) = fs::write(path, chosen.unwrap_or(before)) {
                eprintln!("set {} as it was: {why}", path.display());
            }
        }
    }
}

fn read(name: &str) -> Result<String> {
    let path = Path::new(FOLDER).join(name);
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}
