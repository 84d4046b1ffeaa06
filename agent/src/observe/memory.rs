//! Memory as the kernel tells it: the host's tables, pressure, NUMA nodes, page sharing and its thread's CPU. What a
//! kernel doesn't have is told once and then left out.

pub(crate) mod definition;
pub(crate) mod guests;
#[cfg(test)]
mod test;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::{SysconfVar, sysconf};
use roost_agent_core::memory::{HostMemory, Knobs, Ksm, Node};
use roost_protocol::host::Pressure;
use roost_protocol::{MiB, Millis};

use super::proc;

/// NUMA nodes that are told; the largest machines have 16.
const NODES: u32 = 64;

/// Looks at the tables below a root: `/`, or a made-up one in tests.
#[derive(Debug)]
pub(crate) struct Eye {
    root: PathBuf,
    page_bytes: u64,
    ticks_per_second: u64,
    /// The process number of the kernel's thread; absent inside a container.
    ksmd: Option<u32>,
    told: BTreeSet<&'static str>,
}

impl Eye {
    pub(crate) fn new(root: &Path) -> Self {
        let configured = |name, usual: u64| {
            sysconf(name)
                .ok()
                .flatten()
                .and_then(|value| u64::try_from(value).ok())
                .filter(|value| *value > 0)
                .unwrap_or(usual)
        };
        let (page_bytes, ticks_per_second) =
            (configured(SysconfVar::PAGE_SIZE, 4_096), configured(SysconfVar::CLK_TCK, 100));
        let mut eye = Self { root: root.into(), page_bytes, ticks_per_second, ksmd: None, told: BTreeSet::new() };
        eye.ksmd = eye.find_ksmd();
        eye
    }

    /// The host's own memory; `None` when even that can't be read.
    pub(crate) fn host(&mut self) -> Option<HostMemory> {
        let text = self.text("proc/meminfo")?;
        let kib = |name: &str| field(&text, name);
        let mib = |name: &str| MiB(kib(name).unwrap_or(0) / 1_024);
        let huge_kib = kib("HugePages_Total:").unwrap_or(0).saturating_mul(kib("Hugepagesize:").unwrap_or(0));
        let memory = self.text("proc/pressure/memory");
        if memory.is_none() {
            self.tell("PSI", "this kernel tells no pressure; memory is judged by what is available alone");
        }
        let full_centi = memory.as_deref().and_then(|text| proc::pressure_centi(full_as_some(text).as_bytes()));
        Some(HostMemory {
            total: mib("MemTotal:"),
            available: MiB(kib("MemAvailable:")? / 1_024),
            swap_total: mib("SwapTotal:"),
            swap_used: mib("SwapTotal:") - mib("SwapFree:"),
            huge: MiB(huge_kib / 1_024),
            pressure: memory.and_then(|memory| self.pressure(&memory)),
            full_centi,
            nodes: self.nodes(),
        })
    }

    fn pressure(&self, memory: &str) -> Option<Pressure> {
        let centi = |text: String| proc::pressure_centi(text.as_bytes());
        Some(Pressure {
            cpu_centi: centi(self.text("proc/pressure/cpu")?)?,
            memory_centi: proc::pressure_centi(memory.as_bytes())?,
            io_centi: centi(self.text("proc/pressure/io")?)?,
        })
    }

    fn nodes(&self) -> Vec<Node> {
        let one = |number: u32| {
            let text = self.text(&format!("sys/devices/system/node/node{number}/meminfo"))?;
            let mib = |name: &str| {
                let line = text.lines().find_map(|line| line.split_once(name))?.1;
                Some(MiB(line.split_whitespace().next()?.parse::<u64>().ok()? / 1_024))
            };
            Some(Node { number, total: mib("MemTotal:")?, free: mib("MemFree:")? })
        };
        // Numbers may have gaps; a single node says nothing that the host doesn't.
        let nodes: Vec<Node> = (0..NODES).filter_map(one).collect();
        if nodes.len() > 1 { nodes } else { Vec::new() }
    }

    /// Page sharing; `None` on a kernel without it.
    pub(crate) fn ksm(&mut self) -> Option<Ksm> {
        let number = |name: &str| self.number(name);
        let Some(run) = number("run") else {
            self.tell("KSM", "this kernel can't merge equal pages; memory is saved by balloons alone");
            return None;
        };
        let advisor = self.text("sys/kernel/mm/ksm/advisor_mode").map(|mode| !mode.contains("[none]"));
        let knobs = Knobs {
            run: Some(run),
            pages_to_scan: number("pages_to_scan"),
            sleep_ms: number("sleep_millisecs"),
            advisor,
            advisor_cpu_percent: number("advisor_max_cpu"),
            advisor_target_s: number("advisor_target_scan_time"),
            advisor_least_pages: number("advisor_min_pages_to_scan"),
            smart_scan: number("smart_scan"),
            use_zero_pages: number("ksm_zero_pages").and(number("use_zero_pages")),
        };
        let count = |name: &str| number(name).unwrap_or(0);
        let profit = self.text("sys/kernel/mm/ksm/general_profit").and_then(|text| text.trim().parse().ok());
        let ksm = Ksm {
            page_bytes: self.page_bytes,
            shared: count("pages_shared"),
            sharing: count("pages_sharing"),
            unshared: count("pages_unshared"),
            volatile: count("pages_volatile"),
            zero: count("ksm_zero_pages"),
            scans: count("full_scans"),
            scanned: number("pages_scanned"),
            profit,
            cpu: self.ksmd_cpu(),
            knobs,
        };
        if advisor.is_none() {
            self.tell("KSM advisor", "this kernel has no advisor for page sharing (Linux 6.8); it is paced from here");
        }
        Some(ksm)
    }

    fn ksmd_cpu(&self) -> Option<Millis> {
        self.cpu(self.ksmd?)
    }

    fn find_ksmd(&self) -> Option<u32> {
        let entries = fs::read_dir(self.root.join("proc")).ok()?;
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let mut pids: Vec<u32> = pids.collect();
        pids.sort_unstable();
        // A program may call itself so too; a thread of the kernel has no memory of its own.
        let is_ksmd = |pid: &u32| {
            let comm = self.text(&format!("proc/{pid}/comm"));
            let statm = self.text(&format!("proc/{pid}/statm"));
            comm.is_some_and(|comm| comm.trim() == "ksmd") && statm.is_some_and(|statm| statm.starts_with("0 "))
        };
        pids.into_iter().find(is_ksmd)
    }

    /// What a process holds, and how much of it is merged.
    pub(crate) fn process(&self, pid: u32) -> Option<(MiB, Option<MiB>)> {
        let pages = proc::resident_pages(self.text(&format!("proc/{pid}/statm"))?.as_bytes())?;
        let merged = self.text(&format!("proc/{pid}/ksm_stat"));
        let merged = merged.and_then(|text| {
            let zero = field(&text, "ksm_zero_pages").unwrap_or(0);
            Some(field(&text, "ksm_merging_pages")?.saturating_add(zero))
        });
        let mib = |pages: u64| MiB::of_bytes(pages.saturating_mul(self.page_bytes));
        Some((mib(pages), merged.map(mib)))
    }

    /// Whether a QEMU lets the kernel merge its guest's memory, as it was started; `None` when that can't be read.
    pub(crate) fn merges(&self, pid: u32) -> Option<bool> {
        let line = fs::read(self.root.join(format!("proc/{pid}/cmdline"))).ok()?;
        let mut arguments = line.split(|byte| *byte == 0);
        arguments.find(|argument| *argument == b"-machine")?;
        let alone = |option: &[u8]| option == b"mem-merge=off";
        Some(!arguments.next()?.split(|byte| *byte == b',').any(alone))
    }

    /// CPU time that a process has used.
    pub(crate) fn cpu(&self, pid: u32) -> Option<Millis> {
        self.millis(proc::process_ticks(self.text(&format!("proc/{pid}/stat"))?.as_bytes())?)
    }

    /// Since a process began.
    pub(crate) fn age(&self, pid: u32) -> Option<Millis> {
        let start = self.millis(proc::process_start(self.text(&format!("proc/{pid}/stat"))?.as_bytes())?)?;
        let uptime = self.text("proc/uptime")?;
        let seconds: u64 = uptime.split('.').next()?.parse().ok()?;
        Some(Millis(seconds.saturating_mul(1_000).saturating_sub(start.0)))
    }

    fn millis(&self, ticks: u64) -> Option<Millis> {
        ticks.saturating_mul(1_000).checked_div(self.ticks_per_second).map(Millis)
    }

    /// Its fair part of what it holds. Dear: the kernel walks all its pages (1 ms for each 100 MB), so ask rarely.
    pub(crate) fn proportional(&self, pid: u32) -> Option<MiB> {
        let text = self.text(&format!("proc/{pid}/smaps_rollup"))?;
        field(&text, "Pss:").map(|kib| MiB(kib / 1_024))
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.text(&format!("sys/kernel/mm/ksm/{name}"))?.trim().parse().ok()
    }

    fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok()
    }

    /// Once for each thing.
    fn tell(&mut self, what: &'static str, text: &str) {
        if self.told.insert(what) {
            tracing::info!(what, "{text}");
        }
    }
}

/// The number behind a name at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// PSI's `full` line where a reader looks for `some`.
fn full_as_some(text: &str) -> String {
    text.lines().filter_map(|line| line.strip_prefix("full ")).map(|rest| format!("some {rest}\n")).collect()
}
