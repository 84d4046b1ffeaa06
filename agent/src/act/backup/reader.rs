//! Reading disks: a qemu-nbd at low priority for images nobody writes to, and the copy from a disk's server to the point.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use roost_protocol::operation::{Failure, FailureCode};

use super::definition::Disk;
use super::scratch::Room;
use super::sink::DiskSink;
use super::watch::Stop;
use crate::act::nbd::client::{Client, NbdError};
use crate::act::{failure, io_failure};

/// Ending of the files that hold process ids.
const PID: &str = "pid";
/// How nice qemu-nbd is to guests.
const NICE: &str = "10";
/// Longest that a killed process is waited for.
const KILLED: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(5);

/// What may be read of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// All of it.
    All,
    /// What the bitmap says was written to.
    Changed,
}

/// A server of one disk, gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) socket: PathBuf,
    /// The bitmap it tells of.
    pub(crate) bitmap: Option<String>,
    pid: PathBuf,
}

impl Server {
    /// Serves an image read-only, with a bitmap if one is named. `share` also lets QEMU open it for writing meanwhile.
    pub(crate) fn start(folder: &Path, disk: &Disk, bitmap: Option<&str>, share: bool) -> Result<Self, Failure> {
        let at = |ending: &str| folder.join(format!("{}.{ending}", disk.target));
        let (socket, pid) = (at("socket"), at(PID));
        let _ = fs::remove_file(&socket);
        let driver = if disk.device { "host_device" } else { "file" };
        let name = disk.path.to_str().ok_or_else(|| failure(FailureCode::Invalid, "a disk's path is not UTF-8"))?;
        let options = format!(
            "driver={},read-only=on,force-share={},file.driver={driver},file.filename={}",
            disk.format.name(),
            if share { "on" } else { "off" },
            name.replace(',', ",,"),
        );
        let mut command = Command::new("nice");
        command.args(["-n", NICE, "qemu-nbd", "--fork", "--read-only", "--shared=1", "--aio=threads", "--cache=none"]);
        command.args(["-x", &disk.target]).arg("-k").arg(&socket).arg("--pid-file").arg(&pid);
        if let Some(bitmap) = bitmap {
            command.args(["-B", bitmap]);
        }
        command.args(["--image-opts", &options]).stdin(Stdio::null());
        let server = Self { socket, bitmap: bitmap.map(str::to_owned), pid };
        let output = command.output().map_err(|error| io_failure("run qemu-nbd", &error))?;
        if output.status.success() {
            return Ok(server);
        }
        let words = String::from_utf8_lossy(&output.stderr);
        Err(failure(FailureCode::Internal, format!("qemu-nbd on {}: {}", disk.path.display(), words.trim())))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        end(&self.pid);
    }
}

/// Ends all servers of a room: QEMU can't merge into a disk that one reads.
pub(super) fn end_all(room: &Room) {
    room.files(PID).iter().for_each(|pid| end(pid));
}

/// Ends the process that wrote this file, if it still is that process.
fn end(pid_file: &Path) {
    let Some(number) = fs::read_to_string(pid_file).ok().and_then(|text| text.trim().parse::<i32>().ok()) else {
        return;
    };
    let named = |number: i32| fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
    let wanted = pid_file.as_os_str().as_encoded_bytes();
    let is_ours = || named(number).split(|byte| *byte == 0).any(|argument| argument == wanted);
    let end = Instant::now() + KILLED;
    // A dead one that nobody has reaped yet has no command line.
    while is_ours() && Instant::now() < end {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(number), nix::sys::signal::Signal::SIGKILL);
        thread::sleep(LOOK);
    }
    let _ = fs::remove_file(pid_file);
}

/// Counts, reports and slows down the reading of all disks.
pub(super) struct Meter<'a> {
    pub(super) stop: &'a Stop,
    pub(super) tell: &'a dyn Fn(u32, &str),
    /// Bytes per second; 0 is no limit.
    pub(super) speed: u64,
    began: Instant,
    read: u64,
    told: u32,
}

impl<'a> Meter<'a> {
    pub(super) fn new(stop: &'a Stop, tell: &'a dyn Fn(u32, &str), speed: u64) -> Self {
        Self { stop, tell, speed, began: Instant::now(), read: 0, told: 0 }
    }

    fn read(&mut self, bytes: u64) -> Result<(), Failure> {
        self.read += bytes;
        if let Some(due) = self.read.saturating_mul(1_000).checked_div(self.speed).map(Duration::from_millis) {
            thread::sleep(due.saturating_sub(self.began.elapsed()).min(Duration::from_secs(1)));
        }
        self.stop.check()
    }

    fn pass(&mut self, done: u64, all: u64, target: &str) {
        let percent = u32::try_from(u128::from(done) * 90 / u128::from(all.max(1))).unwrap_or(90);
        if percent != self.told {
            self.told = percent;
            (self.tell)(percent, &format!("read disk {target}"));
        }
    }
}

/// Failures of both ends.
enum Broken {
    Source(NbdError),
    Sink(Failure),
}

impl From<NbdError> for Broken {
    fn from(error: NbdError) -> Self {
        Self::Source(error)
    }
}

/// Copies a disk to its point.
pub(super) fn copy(
    client: &mut Client,
    what: What,
    target: &str,
    sink: &mut dyn DiskSink,
    meter: &mut Meter<'_>,
) -> Result<(), Failure> {
    let mut at = 0;
    while at < client.size() {
        let extents = client.extents(at).map_err(|error| source_failure(&error, meter.stop))?;
        let mut reads = Vec::new();
        for extent in extents {
            at = extent.offset + extent.length;
            if what == What::Changed && !extent.dirty {
                continue;
            }
            match extent.zero {
                true => sink.zero(extent.offset, extent.length)?,
                false => reads.push((extent.offset, extent.length)),
            }
        }
        let copied = client.read(reads.into_iter(), |offset, bytes| {
            let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            sink.write(offset, bytes).and_then(|()| meter.read(length)).map_err(Broken::Sink)
        });
        copied.map_err(|broken| match broken {
            Broken::Source(error) => source_failure(&error, meter.stop),
            Broken::Sink(why) => why,
        })?;
        meter.stop.check()?;
        meter.pass(at, client.size(), target);
    }
    Ok(())
}

/// A read that broke because the backup was broken off is told by that reason.
pub(super) fn source_failure(error: &NbdError, stop: &Stop) -> Failure {
    stop.check().err().unwrap_or_else(|| failure(FailureCode::Hypervisor, error.to_string()))
}
