//! Ways to tune page sharing: the agent, ksmtuned as Debian ships it, the kernel's default pace and its advisor.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use roost_tests::grid::{Grid, START, output};
use roost_tests::page_sharing::PageSharing;

/// One way. Memory is short from the beginning for each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// As fast as ksmd can: what can be reached at all.
    Limit,
    Kernel,
    Advisor,
    Ksmtuned,
    Roost,
}

impl Way {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Way::Limit => "ksmd without a pause",
            Way::Kernel => "kernel default, 100 pages each 20 ms",
            Way::Advisor => "kernel advisor, default target 200 s",
            Way::Ksmtuned => "ksmtuned",
            Way::Roost => "roost",
        }
    }

    /// Begins; what comes back ends it.
    pub(crate) fn begin(self, grid: &mut Grid, sharing: &PageSharing) -> Result<Running> {
        match self {
            Way::Limit => {
                sharing.set("pages_to_scan", "20000")?;
                sharing.set("sleep_millisecs", "1")?;
                sharing.set("use_zero_pages", "1")?;
                sharing.set("run", "1")?;
            }
            Way::Kernel => sharing.set("run", "1")?,
            Way::Advisor => {
                sharing.set("advisor_mode", "scan-time")?;
                sharing.set("run", "1")?;
            }
            Way::Ksmtuned => return ksmtuned(grid).map(Running),
            Way::Roost => {
                grid.set(1, "tune_memory = true")?;
                grid.set(1, "memory = { sharing = 'always', balloons = false }")?;
                grid.start_agent(1)?;
            }
        }
        Ok(Running(None))
    }
}

/// A program that tunes; it ends when dropped.
#[derive(Debug)]
pub(crate) struct Running(Option<Child>);

impl Drop for Running {
    fn drop(&mut self) {
        let Some(mut child) = self.0.take() else { return };
        let group = i32::try_from(child.id()).map(Pid::from_raw);
        if let Err(why) = group.map_err(anyhow::Error::from).and_then(|group| Ok(killpg(group, Signal::SIGKILL)?)) {
            eprintln!("end ksmtuned: {why:#}");
        }
        let _ = child.wait();
    }
}

/// Nothing merged, and all set as the kernel does.
pub(crate) fn reset(sharing: &PageSharing) -> Result<()> {
    sharing.set("run", "2")?;
    sharing.set("advisor_mode", "none")?;
    for (name, value) in [
        ("pages_to_scan", "100"),
        ("sleep_millisecs", "20"),
        ("advisor_target_scan_time", "200"),
        ("advisor_max_cpu", "70"),
        ("smart_scan", "1"),
        ("use_zero_pages", "0"),
        ("run", "0"),
    ] {
        sharing.set(name, value)?;
    }
    Ok(())
}

/// The script of the Debian package, with its defaults, in a process group of its own. The threshold is above all there is:
/// a machine of its size that is short of memory.
fn ksmtuned(grid: &Grid) -> Result<Option<Child>> {
    let script = fetched(grid)?;
    // It leaves its loop behind and ends; `wait` keeps the group's first process.
    let mut command = Command::new("bash");
    command.args(["-c", ". \"$0\"; wait"]).arg(script).env("KSM_THRES_COEF", "200");
    command.env("PIDFILE", grid.folder.join("ksmtuned.pid")).stdin(Stdio::null()).process_group(0);
    Ok(Some(command.spawn().context("start ksmtuned")?))
}

/// The script as the package has it.
pub(crate) fn fetched(grid: &Grid) -> Result<PathBuf> {
    let script = grid.folder.join("ksmtuned/usr/sbin/ksmtuned");
    let fetch = "apt-get -o APT::Sandbox::User=root download -qq ksmtuned && dpkg-deb -x ksmtuned_*.deb ksmtuned";
    output(Command::new("sh").args(["-c", fetch]).current_dir(&grid.folder)).context("fetch Debian's ksmtuned")?;
    Ok(script)
}

/// The host has joined, and its agent leaves memory alone.
pub(crate) fn untuned(grid: &mut Grid) -> Result<()> {
    grid.configure(1, &grid.token("h1")?)?;
    grid.give_images(1)?;
    grid.start_agent(1)?;
    grid.await_host(1, "up", START)
}
