//! What the host itself is like, of its own files.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::statvfs::fstatvfs;
use roost_protocol::host::{DiskUse, HostSample, NicRate, Pressure};
use roost_protocol::{MiB, Stamp};

use super::{EVERY, page_bytes, per_second, read, whole_ms};
use crate::files::room_of;
use crate::observe::proc::{self, CpuTicks};

/// Interfaces that are told of one host; taps of guests come and go, so the list is bounded.
const NICS: usize = 32;
/// Counters of what merging saves; the second since Linux 6.6.
const MERGED: [&str; 2] = ["pages_sharing", "ksm_zero_pages"];

/// The host's own files.
pub(super) struct Host {
    stat: Option<File>,
    memory: Option<File>,
    load: Option<File>,
    /// CPU, memory, disks; absent where the kernel has no PSI.
    pressure: Option<[File; 3]>,
    nics: Option<File>,
    /// Pages that were merged into others, and empty ones; none where the kernel merges none.
    merged: Vec<File>,
    disks: Vec<(PathBuf, File)>,
    cpu_before: CpuTicks,
    nics_before: BTreeMap<String, (u64, u64)>,
    at_before: Option<Instant>,
}

impl Host {
    pub(super) fn open(folders: &[PathBuf]) -> Self {
        let open = |path: &str| File::open(path).map_err(|error| tracing::info!(path, %error, "not sampled")).ok();
        let [cpu, memory, io] = ["cpu", "memory", "io"].map(|name| File::open(Path::new("/proc/pressure").join(name)));
        let pressure = match (cpu, memory, io) {
            (Ok(cpu), Ok(memory), Ok(io)) => Some([cpu, memory, io]),
            _ => {
                tracing::info!("this kernel tells no pressure (PSI); the samples go without");
                None
            }
        };
        Self {
            stat: open("/proc/stat"),
            memory: open("/proc/meminfo"),
            load: open("/proc/loadavg"),
            pressure,
            nics: open("/proc/net/dev"),
            merged: MERGED
                .iter()
                .filter_map(|name| File::open(Path::new("/sys/kernel/mm/ksm").join(name)).ok())
                .collect(),
            disks: distinct(folders),
            cpu_before: CpuTicks::default(),
            nics_before: BTreeMap::new(),
            at_before: None,
        }
    }

    pub(super) fn sample(&mut self, now: Instant, buffer: &mut [u8]) -> HostSample {
        let span = self.at_before.replace(now).map_or(EVERY, |before| now.duration_since(before));
        let cpu = self.stat.as_ref().and_then(|file| read(file, buffer)).and_then(proc::cpu).unwrap_or(self.cpu_before);
        let before = std::mem::replace(&mut self.cpu_before, cpu);
        let (busy, all) = (cpu.busy.saturating_sub(before.busy), cpu.all.saturating_sub(before.all));
        let memory =
            self.memory.as_ref().and_then(|file| read(file, buffer)).and_then(proc::memory).unwrap_or_default();
        let load = self.load.as_ref().and_then(|file| read(file, buffer)).and_then(proc::load_centi);
        HostSample {
            cpu_permille: u32::try_from(busy.saturating_mul(1_000).checked_div(all).unwrap_or(0)).unwrap_or(1_000),
            memory_available_mib: MiB(memory.available_kib / 1_024),
            swap_used_mib: MiB(memory.swap_used_kib / 1_024),
            load_centi: load.unwrap_or(0),
            pressure: self.pressure(buffer),
            disks: self.disks.iter().filter_map(|(path, file)| disk_use(path, file)).collect(),
            nics: self.nics(span, buffer),
            at: Stamp(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, whole_ms)),
            saved_by_sharing_mib: self.saved(buffer),
        }
    }

    fn saved(&self, buffer: &mut [u8]) -> Option<MiB> {
        let mut count = |file| std::str::from_utf8(read(file, buffer)?).ok()?.trim().parse::<u64>().ok();
        let pages = self.merged.iter().filter_map(&mut count).reduce(u64::saturating_add)?;
        Some(MiB::of_bytes(pages.saturating_mul(page_bytes())))
    }

    fn pressure(&self, buffer: &mut [u8]) -> Option<Pressure> {
        let [cpu, memory, io] = self.pressure.as_ref()?;
        let mut centi = |file| read(file, buffer).and_then(proc::pressure_centi);
        Some(Pressure { cpu_centi: centi(cpu)?, memory_centi: centi(memory)?, io_centi: centi(io)? })
    }

    fn nics(&mut self, span: Duration, buffer: &mut [u8]) -> Vec<NicRate> {
        let Some(bytes) = self.nics.as_ref().and_then(|file| read(file, buffer)) else { return Vec::new() };
        let mut counters = BTreeMap::new();
        let mut rates = Vec::new();
        for (name, received, sent) in proc::nics(bytes).filter(|(name, ..)| *name != "lo").take(NICS) {
            let before = self.nics_before.get(name).copied().unwrap_or((received, sent));
            rates.push(NicRate {
                name: name.to_owned(),
                receive_bps: per_second(received.saturating_sub(before.0), span),
                transmit_bps: per_second(sent.saturating_sub(before.1), span),
            });
            counters.insert(name.to_owned(), (received, sent));
        }
        self.nics_before = counters;
        rates
    }
}

/// Folders held open, one for each file system.
fn distinct(folders: &[PathBuf]) -> Vec<(PathBuf, File)> {
    let mut devices = Vec::new();
    let mut held = Vec::new();
    for path in folders {
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?.dev(), file)));
        match opened {
            Ok((device, file)) if !devices.contains(&device) => {
                devices.push(device);
                held.push((path.clone(), file));
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(path = %path.display(), %error, "not sampled"),
        }
    }
    held
}

fn disk_use(path: &Path, file: &File) -> Option<DiskUse> {
    let now = fstatvfs(file).ok()?;
    let (total, free) = room_of(&now);
    Some(DiskUse { path: path.display().to_string(), total_mib: MiB(total >> 20), free_mib: MiB(free >> 20) })
}

#[cfg(test)]
mod test {
    use super::super::BUFFER;
    use super::*;

    #[test]
    fn the_host_is_sampled() {
        let dir = tempfile::tempdir().unwrap();
        let mut host = Host::open(&[dir.path().into(), dir.path().into(), "/none".into()]);
        let sample = host.sample(Instant::now(), &mut vec![0; BUFFER]);
        assert!(sample.cpu_permille <= 1_000 && sample.memory_available_mib > MiB(0));
        assert_eq!((sample.disks.len(), sample.disks[0].total_mib > MiB(0)), (1, true));
    }
}
