//! A lab host made small: its processes share a group of the kernel's with little memory, and its `/proc/meminfo` tells of
//! that memory as if it were all there is. The machine itself is short of nothing.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use roost_tests::grid::{Grid, eventually, lasts, text};

/// Where groups with a limit of memory are made (version 1 of the kernel's interface).
const GROUPS: &str = "/sys/fs/cgroup/memory";
/// Begins the names of ours; the process id follows.
const PREFIX: &str = "roost-bench-";
/// The tables are written anew so often.
const WRITE_EVERY: Duration = Duration::from_millis(200);
/// What is killed is gone within this.
const GONE: Duration = Duration::from_secs(30);
/// A table keeps its length, so that nobody reads half of one.
const LENGTH: usize = 512;

/// The group, and who writes its tables. Drop the grid first: a group with processes stays.
#[derive(Debug)]
pub(crate) struct Small {
    group: PathBuf,
    over: Arc<AtomicBool>,
    writer: Option<JoinHandle<()>>,
}

impl Small {
    /// Gives h1 so much memory; what already runs there goes into the group by [`Small::gather`].
    pub(crate) fn make(grid: &Grid, mib: u64) -> Result<Self> {
        sweep()?;
        let group = Path::new(GROUPS).join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir(&group).with_context(|| format!("make {}: cgroup v1 with memory is needed", group.display()))?;
        let mut small = Self { group, over: Arc::default(), writer: None };
        fs::write(small.group.join("memory.limit_in_bytes"), format!("{mib}M"))?;
        let told = grid.folder.join("meminfo");
        let file = fs::File::create(&told)?;
        let (group, over) = (small.group.clone(), small.over.clone());
        file.write_all_at(table(&group)?.as_bytes(), 0)?;
        small.writer = Some(thread::spawn(move || {
            while !over.load(Relaxed) {
                let written = table(&group).and_then(|table| Ok(file.write_all_at(table.as_bytes(), 0)?));
                if let Err(why) = written {
                    eprintln!("tell the small host's memory: {why:#}");
                }
                lasts(WRITE_EVERY);
            }
        }));
        grid.lab.exec(1, &["mount", "--bind", text(&told)?, "/proc/meminfo"])?;
        Ok(small)
    }

    /// Takes in all that runs on h1; what it starts later is in it too.
    pub(crate) fn gather(&self, grid: &Grid) -> Result<()> {
        let mark = grid.lab.mark(1);
        for entry in fs::read_dir("/proc")? {
            let path = entry?.path();
            // A process that ended meanwhile is none.
            let environment = fs::read(path.join("environ")).unwrap_or_default();
            let Some(pid) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if environment.split(|byte| *byte == 0).any(|one| one == mark.as_bytes()) {
                let _ = fs::write(self.group.join("cgroup.procs"), pid);
            }
        }
        let inside = fs::read_to_string(self.group.join("cgroup.procs"))?;
        ensure!(!inside.trim().is_empty(), "nothing of h1 is in {}", self.group.display());
        Ok(())
    }

    /// Processes that the kernel killed because nothing was left.
    pub(crate) fn killed(&self) -> Result<u64> {
        number(&fs::read_to_string(self.group.join("memory.oom_control"))?, "oom_kill ")
    }

    /// What could be had, MiB.
    pub(crate) fn available_mib(&self) -> Result<u64> {
        Ok(number(&table(&self.group)?.replace(" kB", ""), "MemAvailable:")? >> 10)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        if self.writer.take().is_some_and(|writer| writer.join().is_err()) {
            eprintln!("the writer of the small host's memory panicked");
        }
        // Killed processes leave it a moment later.
        let removed = eventually("the small host's group is gone", GONE, || Ok(fs::remove_dir(&self.group)?));
        if let Err(why) = removed {
            eprintln!("{why:#}");
        }
    }
}

/// Removes groups of benches that were killed: one with processes stays. Whoever measures has page sharing for itself, so
/// none is just being made.
fn sweep() -> Result<()> {
    for entry in fs::read_dir(GROUPS).with_context(|| format!("{GROUPS}: cgroup v1 with memory is needed"))? {
        let path = entry?.path();
        if path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(PREFIX)) {
            let _ = fs::remove_dir(&path);
        }
    }
    Ok(())
}

/// What a machine with the group's limit would tell.
fn table(group: &Path) -> Result<String> {
    let kib = |name: &str| -> Result<u64> {
        let told = fs::read_to_string(group.join(name))?;
        Ok(told.trim().parse::<u64>()? / 1_024)
    };
    let (limit, usage) = (kib("memory.limit_in_bytes")?, kib("memory.usage_in_bytes")?);
    Ok(as_told(limit, usage, &fs::read_to_string(group.join("memory.stat"))?))
}

fn as_told(limit: u64, usage: u64, stat: &str) -> String {
    let kib = |name: &str| number(stat, name).unwrap_or(0) / 1_024;
    let files = kib("total_active_file ") + kib("total_inactive_file ");
    let free = limit.saturating_sub(usage);
    let lines = [
        ("MemTotal", limit),
        ("MemFree", free),
        ("MemAvailable", (free + files).min(limit)),
        ("Buffers", 0),
        ("Cached", kib("total_cache ")),
        ("SwapTotal", 0),
        ("SwapFree", 0),
    ];
    let told: String = lines.map(|(name, kib)| format!("{:<16}{kib:>10} kB\n", format!("{name}:"))).concat();
    format!("{told:\n<LENGTH$}")
}

fn number(told: &str, name: &str) -> Result<u64> {
    let found = told.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("{name}in {told}"))?;
    Ok(found.trim().parse()?)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_small_host_tells_its_limit_as_all_there_is_and_files_as_available() {
        let stat = "total_cache 31457280\ntotal_active_file 10485760\ntotal_inactive_file 10485760\n";
        let told = as_told(1_048_576, 524_288, stat);
        assert_eq!(told.len(), LENGTH);
        for line in ["MemTotal:          1048576 kB", "MemFree:            524288 kB", "MemAvailable:       544768 kB"]
        {
            assert!(told.contains(line), "{told}");
        }
        assert!(as_told(100, 200, "").contains("MemAvailable:            0 kB"));
    }
}
