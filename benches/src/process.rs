//! What a process costs, as the kernel counts it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Clock ticks per second of `/proc/PID/stat`: 100 on every Linux.
const TICKS: f64 = 100.0;

/// CPU seconds (user and system) a process has used.
pub fn cpu(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid}"))?;
    let (_, fields) = text.rsplit_once(") ").context("read stat")?;
    let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<f64>).sum::<Result<f64, _>>()?;
    Ok(ticks / TICKS)
}

/// CPU seconds of several.
pub fn cpu_of_all(pids: &[u32]) -> Result<f64> {
    pids.iter().map(|pid| cpu(*pid)).sum()
}

/// Resident memory in MiB.
pub fn resident(pid: u32) -> Result<f64> {
    kib(&format!("/proc/{pid}/status"), "VmRSS:")
}

/// Memory in MiB, pages shared with others counted in part.
pub fn proportional(pid: u32) -> Result<f64> {
    kib(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

/// Memory in MiB that this process alone has and that no file holds: heap, stacks, what it wrote.
pub fn private(pid: u32) -> Result<f64> {
    kib(&format!("/proc/{pid}/smaps_rollup"), "Private_Dirty:")
}

fn kib(file: &str, key: &str) -> Result<f64> {
    let text = fs::read_to_string(file).with_context(|| format!("read {file}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)).with_context(|| format!("{key} in {file}"))?;
    let number = line.split_whitespace().next().unwrap_or_default();
    Ok(number.parse::<f64>()? / 1024.0)
}

/// Nanoseconds of CPU the calling thread has used.
pub fn thread_ns() -> Result<f64> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").context("read schedstat")?;
    Ok(text.split(' ').next().unwrap_or_default().parse()?)
}

/// All processes with this name (at most 15 letters) whose environment holds `mark`.
pub fn marked(name: &str, mark: &str) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process that ended meanwhile is none.
        let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        if comm.trim_end() == name && environment.split(|byte| *byte == 0).any(|one| one == mark.as_bytes()) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// A program of the release build: in `folder`, or beside this bench.
pub fn program(folder: Option<&Path>, name: &str) -> Result<PathBuf> {
    let path = match folder {
        Some(folder) => folder.join(name),
        None => std::env::current_exe()?.with_file_name(name),
    };
    ensure!(path.is_file(), "{} is missing: cargo build --release --locked", path.display());
    Ok(path)
}
