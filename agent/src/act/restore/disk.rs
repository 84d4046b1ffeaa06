//! A point's disks as files of QEMU's: exported in one piece, or as layers over what is served.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use roost_protocol::operation::{Failure, FailureCode};

use crate::act::nbd::server::{Exports, Image, Server};
use crate::act::{failure, io_failure};

/// Between two looks at qemu-img.
const LOOK: Duration = Duration::from_millis(50);
/// Behind everything that guests do.
const NICE: &str = "10";

/// Progress of all disks, and whether it is still wanted.
pub(crate) struct Meter<'a> {
    unwanted: &'a AtomicBool,
    tell: &'a dyn Fn(u32, &str),
    all: u64,
    done: u64,
    told: u32,
}

impl<'a> Meter<'a> {
    pub(crate) fn new(unwanted: &'a AtomicBool, tell: &'a dyn Fn(u32, &str), all: u64) -> Self {
        Self { unwanted, tell, all, done: 0, told: 101 }
    }

    /// So many bytes of the present step are done.
    pub(super) fn at(&mut self, now: u64, step: &str) -> Result<(), Failure> {
        let part = u128::from(self.done + now) * 95 / u128::from(self.all.max(1));
        let percent = u32::try_from(part).unwrap_or(95).min(95);
        if percent != self.told {
            self.told = percent;
            (self.tell)(percent, step);
        }
        match self.unwanted.load(Ordering::Relaxed) {
            true => Err(failure(FailureCode::Cancelled, "the restore was broken off and undone")),
            false => Ok(()),
        }
    }

    /// A step of so many bytes is done.
    pub(super) fn done(&mut self, bytes: u64) {
        self.done += bytes;
    }
}

/// Bytes that a disk's data has.
pub(crate) fn weight(image: &dyn Image) -> u64 {
    image.data().iter().map(|(_, length)| length).sum()
}

/// Counts what is read, and keeps the first fault.
struct Counted {
    image: Arc<dyn Image>,
    read: AtomicU64,
    fault: std::sync::Mutex<Option<String>>,
}

impl Image for Counted {
    fn size(&self) -> u64 {
        self.image.size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let read = self.image.read_at(offset, buffer);
        if let Err(error) = &read
            && let Ok(mut fault) = self.fault.lock()
        {
            fault.get_or_insert(format!("byte {offset}: {error}"));
        }
        self.read.fetch_add(u64::try_from(buffer.len()).unwrap_or(0), Ordering::Relaxed);
        read
    }

    fn data(&self) -> Vec<(u64, u64)> {
        self.image.data()
    }
}

/// How QEMU's programs name a served disk.
fn served(socket: &Path, target: &str) -> Result<String, Failure> {
    let socket = socket.to_str().ok_or_else(|| failure(FailureCode::Invalid, "a path is not UTF-8"))?;
    let socket = socket.replace(',', ",,");
    Ok(format!("driver=raw,file.driver=nbd,file.server.type=unix,file.server.path={socket},file.export={target}"))
}

/// Makes a file that is as small as can be, and durable.
pub(crate) fn export(
    folder: &Path,
    target: &str,
    image: &Arc<dyn Image>,
    path: &Path,
    meter: &mut Meter<'_>,
) -> Result<(), Failure> {
    let socket = folder.join(format!("{target}.fill"));
    let _ = std::fs::remove_file(&socket);
    let (read, fault) = (AtomicU64::new(0), std::sync::Mutex::new(None));
    let counted = Arc::new(Counted { image: image.clone(), read, fault });
    let exports = Exports::from([(target.to_owned(), counted.clone() as Arc<dyn Image>)]);
    let _server = Server::start(&socket, exports).map_err(|error| io_failure("serve the point", &error))?;
    let mut command = Command::new("nice");
    command.args(["-n", NICE, "qemu-img", "convert", "-q", "--image-opts", &served(&socket, target)?]);
    command.args(["-O", "qcow2"]).arg(path);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let child = child.map_err(|error| io_failure("run qemu-img", &error))?;
    let step = format!("export disk {target}");
    let ended = watch(child, || meter.at(counted.read.load(Ordering::Relaxed), &step));
    let fault = counted.fault.lock().ok().and_then(|mut fault| fault.take());
    match (ended, fault) {
        (Err(_), Some(fault)) => return Err(failure(FailureCode::Damaged, format!("disk {target} at {fault}"))),
        (ended, _) => ended?,
    }
    meter.done(weight(image.as_ref()));
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|error| io_failure(format!("write {}", path.display()), &error))
}

/// Waits for a child while it is wanted; else ends it.
fn watch(mut child: Child, mut wanted: impl FnMut() -> Result<(), Failure>) -> Result<(), Failure> {
    loop {
        if let Err(why) = wanted() {
            let _ = child.kill();
            let _ = child.wait();
            return Err(why);
        }
        match child.try_wait() {
            Ok(None) => std::thread::sleep(LOOK),
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(_)) => {
                let output = child.wait_with_output().map_err(|error| io_failure("hear qemu-img", &error))?;
                let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                let full = words.contains("No space left");
                let code = if full { FailureCode::NoSpace } else { FailureCode::Internal };
                return Err(failure(code, format!("qemu-img convert: {words}")));
            }
            Err(error) => return Err(io_failure("wait for qemu-img", &error)),
        }
    }
}

/// Fails where a point has anything but zeroes in a range; without a failure of its own when it simply has.
pub(super) fn zeroes(image: &dyn Image, data: &[(u64, u64)], offset: u64, length: u64) -> Result<(), Option<Failure>> {
    let end = offset.saturating_add(length);
    let first = data.partition_point(|(from, length)| from.saturating_add(*length) <= offset);
    for (from, length) in data[first..].iter().take_while(|(from, _)| *from < end) {
        let (mut at, to) = ((*from).max(offset), from.saturating_add(*length).min(end));
        while at < to {
            let mut part = vec![0; usize::try_from((to - at).min(1 << 20)).unwrap_or(1 << 20)];
            let read = image.read_at(at, &mut part);
            read.map_err(|error| Some(failure(FailureCode::Damaged, error.to_string())))?;
            if part.iter().any(|byte| *byte != 0) {
                return Err(None);
            }
            at += u64::try_from(part.len()).unwrap_or(u64::MAX);
        }
    }
    Ok(())
}

/// An empty layer over a served disk.
pub(crate) fn layer(path: &Path, socket: &Path, target: &str, size: u64) -> Result<(), Failure> {
    let below = below(socket, target)?;
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", &below, "--"]);
    carried_out("create", command.arg(path).arg(size.to_string()))
}

/// Puts a layer that nobody uses over its served disk again; what the layer has stays.
pub(crate) fn layer_again(path: &Path, socket: &Path, target: &str) -> Result<(), Failure> {
    let below = below(socket, target)?;
    let mut command = Command::new("qemu-img");
    command.args(["rebase", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", &below, "--"]);
    carried_out("rebase", command.arg(path))
}

fn below(socket: &Path, target: &str) -> Result<String, Failure> {
    let socket = socket.to_str().ok_or_else(|| failure(FailureCode::Invalid, "a path is not UTF-8"))?;
    let below = serde_json::json!({
        "driver": "raw",
        "file": {"driver": "nbd", "server": {"type": "unix", "path": socket}, "export": target}
    });
    Ok(format!("json:{below}"))
}

pub(super) fn carried_out(what: &str, command: &mut Command) -> Result<(), Failure> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| io_failure("run qemu-img", &error))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            Err(failure(FailureCode::Internal, format!("qemu-img {what}: {}", String::from_utf8_lossy(&output.stderr))))
        }
    }
}
