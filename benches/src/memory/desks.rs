//! Guests that hold the same and their own, and what the kernel counts of them, seen from the machine.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use roost_tests::grid::{Grid, eventually, tiny};
use serde_json::json;

/// Emulated guests boot and fill their memory slowly.
const FILLED: Duration = Duration::from_secs(1_200);
/// Of its memory a guest's own programs and kernel need so much, MiB.
const BESIDE: u32 = 72;

/// What all hold, and what each has of its own, MiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Content {
    pub(crate) same: u32,
    pub(crate) own: u32,
}

/// Started guests, by the process ids of their QEMUs.
#[derive(Debug)]
pub(crate) struct Desks(Vec<u32>);

impl Desks {
    /// Makes so many on h1, and waits until their memory is full.
    pub(crate) fn start(grid: &Grid, count: u32, content: Content) -> Result<Self> {
        let mut folders = Vec::new();
        for number in 0..count {
            let mut guest = tiny(&name(number), "h1", true);
            guest["memory_mib"] = json!(content.same + content.own + BESIDE);
            let fill = format!("roost.mem={} roost.same={}", content.own, content.same);
            let cmdline = format!("console=ttyS0 roost.hb=1 roost.quiet=1 {fill}");
            guest["boot"] = json!({"from": "kernel", "kernel": "vmlinuz", "initrd": "initrd.cpio", "cmdline": cmdline});
            grid.api.done(Method::POST, "/guests", &guest)?;
            let made = grid.api.get(&format!("/guests/{}", name(number)))?;
            folders.push(made["id"].as_str().context("its id")?.to_owned());
        }
        for folder in folders {
            let log = format!("/var/lib/roost/guests/{folder}/serial.log");
            eventually("a guest has filled its memory", FILLED, || {
                let said = grid.lab.exec(1, &["cat", &log])?;
                ensure!(said.contains("ROOST-SAME"), "it has not");
                Ok(())
            })?;
        }
        (0..count)
            .map(|number| one("qemu-system-x86_64", &[&format!("guest={},", name(number))]))
            .collect::<Result<_>>()
            .map(Self)
    }

    /// Pages that are merged, empty ones too.
    pub(crate) fn merged(&self) -> Result<u64> {
        let one = |pid: &u32| {
            let told = fs::read_to_string(format!("/proc/{pid}/ksm_stat")).context("a guest's ksm_stat")?;
            Ok(number(&told, "ksm_merging_pages")? + number(&told, "ksm_zero_pages").unwrap_or(0))
        };
        self.0.iter().map(one).sum()
    }
}

fn name(number: u32) -> String {
    format!("bench-memory-{number}")
}

/// The one process of this program, seen from the machine, whose command line has all these words.
pub(crate) fn one(program: &str, words: &[&str]) -> Result<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let Some(pid) = path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()) else { continue };
        // A process that ended meanwhile is none.
        let told = fs::read(path.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&told);
        let begins = line.split('\0').next().is_some_and(|first| first.ends_with(program));
        if begins && words.iter().all(|word| line.contains(word)) {
            found.push(pid);
        }
    }
    ensure!(found.len() == 1, "{} of {program} have {words:?}", found.len());
    found.first().copied().context("one")
}

/// Seconds of CPU of a process's threads, or of those with this name.
pub(crate) fn cpu_of_threads(pid: u32, named: Option<&str>) -> Result<f64> {
    let mut ns = 0.0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread = thread?.path();
        let comm = fs::read_to_string(thread.join("comm"))?;
        if named.is_none_or(|name| comm.trim_end() == name) {
            ns += first_number(&thread.join("schedstat"))?;
        }
    }
    Ok(ns / 1e9)
}

fn first_number(file: &Path) -> Result<f64> {
    let told = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    Ok(told.split(' ').next().unwrap_or_default().parse()?)
}

fn number(told: &str, name: &str) -> Result<u64> {
    let found = told.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("{name} in {told}"))?;
    Ok(found.trim().parse()?)
}
