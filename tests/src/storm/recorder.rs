//! Says which host executed which guest, without a word of Roost's: each guest writes to its serial port all the time,
//! which its host has as a file, and a file that grows is a guest that executes. All files are looked at from outside.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::grid::Lab;

/// Between two looks; a fifth of the time between two words of a guest.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A guest executed on a host, and on no other between its first and its last sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub host: u8,
    pub first: Duration,
    pub last: Duration,
}

/// The thread that looks.
#[derive(Debug)]
pub struct Recorder {
    end: Arc<AtomicBool>,
    thread: JoinHandle<BTreeMap<String, Vec<Run>>>,
}

impl Recorder {
    /// Looks at these guests, by id, on so many hosts from `began` on.
    pub fn start(lab: &Lab, hosts: u8, guests: &[String], began: Instant) -> Self {
        let file = |host: u8, guest: &str| {
            let var = lab.folder().join(format!("hosts/h{host}/disk/var"));
            var.join(format!("lib/roost/guests/{guest}/serial.log"))
        };
        let files = guests.iter().flat_map(|guest| (1..=hosts).map(move |host| (guest, host)));
        let files: Vec<(String, u8, PathBuf)> =
            files.map(|(guest, host)| (guest.clone(), host, file(host, guest))).collect();
        let end = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&end);
        let thread = thread::spawn(move || look(&files, began, &ends));
        Self { end, thread }
    }

    /// All runs of each guest, in order.
    pub fn end(self) -> Result<BTreeMap<String, Vec<Run>>> {
        self.end.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the recorder died"))
    }
}

fn look(files: &[(String, u8, PathBuf)], began: Instant, ends: &AtomicBool) -> BTreeMap<String, Vec<Run>> {
    let size = |file: &PathBuf| fs::metadata(file).map_or(0, |facts| facts.len());
    let mut sizes: Vec<u64> = files.iter().map(|(_, _, file)| size(file)).collect();
    let mut runs: BTreeMap<String, Vec<Run>> = BTreeMap::new();
    while !ends.load(Ordering::Relaxed) {
        sleep(LOOK_EVERY);
        for ((guest, host, file), known) in files.iter().zip(&mut sizes) {
            let now = size(file);
            if now > *known {
                saw(runs.entry(guest.clone()).or_default(), *host, began.elapsed());
            }
            *known = now;
        }
    }
    runs
}

fn saw(runs: &mut Vec<Run>, host: u8, at: Duration) {
    match runs.last_mut() {
        Some(run) if run.host == host => run.last = at,
        Some(_) | None => runs.push(Run { host, first: at, last: at }),
    }
}

/// Runs that are shorter than a lease although another host's came before and after: two hosts executed the guest at once.
/// A guest that goes on elsewhere stays there for a lease at least.
pub fn doubles(runs: &[Run], lease: Duration) -> Vec<(Run, Run)> {
    let pairs = runs.windows(2).skip(1);
    pairs.filter(|pair| pair[1].first - pair[0].first < lease).map(|pair| (pair[0], pair[1])).collect()
}

#[cfg(test)]
mod test {
    use super::*;

    fn runs(signs: &[(u8, u64)]) -> Vec<Run> {
        let mut runs = Vec::new();
        for (host, at) in signs {
            saw(&mut runs, *host, Duration::from_millis(*at));
        }
        runs
    }

    #[test]
    fn a_guest_on_two_hosts_at_once_is_seen_and_one_that_moves_is_not() {
        let lease = Duration::from_secs(4);
        let moved = runs(&[(1, 0), (1, 100), (2, 11_000), (2, 20_000), (3, 32_000)]);
        assert_eq!((moved.len(), doubles(&moved, lease)), (3, vec![]));
        let both = runs(&[(1, 0), (1, 100), (2, 150), (1, 200), (2, 250), (1, 300)]);
        assert_eq!(doubles(&both, lease).len(), 3);
        let once = runs(&[(1, 0), (1, 10_000), (2, 10_050), (1, 10_100), (1, 30_000)]);
        assert_eq!(doubles(&once, lease).len(), 1, "a single word from another host is enough");
    }
}
