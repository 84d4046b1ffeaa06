//! A process that stands for a guest: while it executes it writes the time down, on the clock that all hosts of a lab share.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use crate::grid::{Lab, START, eventually, text};

/// Clock 7 is CLOCK_BOOTTIME.
const PROGRAM: &str = "open F, '>>', shift; select F; $| = 1; \
                       while (1) { printf F \"%d\\n\", 1000 * clock_gettime(7); sleep 0.02 }";

/// The process.
#[derive(Debug)]
pub struct Recorder {
    lab: Arc<Lab>,
    host: u8,
    file: PathBuf,
    pid: u32,
}

impl Recorder {
    pub(super) fn start(lab: &Arc<Lab>, host: u8) -> Result<Self> {
        let file = lab.folder().join(format!("ticks-{host}"));
        let (program, start) = (lab.folder().join("recorder.pl"), lab.folder().join(format!("recorder-{host}.sh")));
        fs::write(&program, PROGRAM)?;
        // In a file: a guard takes whatever has the guest's id among its words for the guest, and who starts it must not
        // be made to stand still in its place.
        let words = [text(&program)?, text(&file)?, "-uuid", &super::GUEST.to_string()].join(" ");
        fs::write(&start, format!("exec perl -MTime::HiRes=clock_gettime,sleep {words}\n"))?;
        let log = lab.folder().join(format!("recorder-{host}.log"));
        let pid = lab.spawn(host, &log, &["sh", text(&start)?])?;
        Ok(Self { lab: Arc::clone(lab), host, file, pid })
    }

    /// The guard has it stand still; what it wrote before that is forgotten.
    pub fn await_stopped(&self) -> Result<()> {
        eventually("it stands still", START, || {
            let state = self.state()?;
            ensure!(state == "T", "it is {state}");
            Ok(())
        })?;
        Ok(fs::write(&self.file, "")?)
    }

    /// When it executed, ms: the first and the last moment, and the longest time between two.
    pub fn ticks(&self) -> Result<(u64, u64, u64)> {
        let text = fs::read_to_string(&self.file)?;
        let ticks: Vec<u64> = text.lines().filter_map(|line| line.parse().ok()).collect();
        let gap = ticks.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
        Ok((*ticks.first().context("it never executed")?, *ticks.last().context("it never executed")?, gap))
    }

    /// What the kernel says it does: T is standing still.
    pub fn state(&self) -> Result<String> {
        let stat = self.lab.exec(self.host, &["cat", &format!("/proc/{}/stat", self.pid)])?;
        let rest = stat.rsplit_once(") ").context("its name")?.1;
        Ok(rest.chars().take(1).collect())
    }
}

/// Now, on the recorders' clock.
pub fn now_ms() -> Result<u64> {
    let uptime = fs::read_to_string("/proc/uptime")?;
    let seconds: f64 = uptime.split(' ').next().context("uptime")?.parse()?;
    Ok(std::time::Duration::from_secs_f64(seconds).as_millis().try_into()?)
}
