//! Backs up guests that run, and guests that are off. A running guest is caught at one moment and read while it goes on
//! ([`hot`]); whatever goes wrong, it goes on on its own disks ([`watch`], [`tidy`]). How and why: docs/decisions/0009.

mod cold;
pub(crate) mod definition;
mod hot;
pub(crate) mod kept;
mod overlay;
mod pull;
pub(crate) mod reader;
pub(crate) mod scratch;
pub(crate) mod sink;
#[cfg(test)]
pub(crate) mod test;
pub(crate) mod tidy;
mod watch;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use roost_libvirt::Hypervisor;
use roost_protocol::backup::{Freeze, Meant};
use roost_protocol::operation::{Failure, FailureCode};
use roost_protocol::{GuestId, PointId, Stamp};

use self::definition::State;
use self::hot::Hot;
use self::scratch::{Room, Scratch};
use self::sink::{Set, Sink};
use self::watch::Stop;
use super::domain::hypervisor_failure;
use super::failure;
use crate::files;

/// Names of a point's files.
pub(crate) const DEFINITION: &str = "domain.xml";
pub(crate) const NVRAM: &str = "nvram";
pub(crate) const KERNEL: &str = "kernel";
pub(crate) const INITRD: &str = "initrd";
/// Before the name of each file of the TPM's state.
pub(crate) const TPM: &str = "tpm-";
/// In points of a guest that was not meant to run: empty files, so that hosts which don't know them keep them too.
pub(crate) const PAUSED: &str = "meant-paused";
pub(crate) const OFF: &str = "meant-off";
/// The same of guests that others go before or after: its priority follows; absent: 0.
pub(crate) const PRIORITY: &str = "priority-";
/// The checkpoint that a point was made at.
pub(crate) const MARK: &str = "mark";
/// Where libvirt keeps the states of TPMs, below a folder named by the guest's id.
pub(crate) const TPM_FOLDER: &str = "/var/lib/libvirt/swtpm";
/// Largest file beside the disks: what the store takes. Firmware and TPM have less than 1 MiB, kernels 30.
const FILE_BYTES: u64 = 64 << 20;

/// How the moment of a running guest is held for reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// QEMU copies aside what the guest overwrites: [`pull`].
    Pull,
    /// The guest writes into layers: [`overlay`].
    Overlay,
}

/// What is asked of one backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) freeze: Freeze,
    /// Read all, whatever is known of changes.
    pub(crate) full: bool,
    /// What the guest is meant to do.
    pub(crate) meant: Meant,
    pub(crate) priority: u32,
    /// For tests and measurements; else the best for the case.
    pub(crate) way: Option<Way>,
    /// For tests: changed bytes above which layers are taken.
    pub(crate) pull_most: Option<u64>,
}

/// What a worker that makes backups has at hand.
pub(crate) struct Backup<'a> {
    pub(crate) hypervisor: &'a Arc<Hypervisor>,
    pub(crate) scratch: &'a Scratch,
    /// Set when nobody waits for it any more.
    pub(crate) unwanted: &'a AtomicBool,
    /// Percent done, and what is being done.
    pub(crate) tell: &'a dyn Fn(u32, &str),
}

impl Backup<'_> {
    /// Makes one point of a guest.
    pub(crate) fn run(&self, guest: GuestId, wish: Wish, set: &dyn Set) -> Result<PointId, Failure> {
        let domain = self.hypervisor.domain(&guest.bytes()).map_err(|error| hypervisor_failure(&error))?;
        let room = self.enter(guest)?;
        // What an earlier one left; else its layers would become part of this one.
        tidy::one(self.hypervisor, &room, guest)?;
        let (stop, scratch) = (Stop::default(), self.scratch);
        let (hypervisor, unwanted, tell) = (self.hypervisor, self.unwanted, self.tell);
        let work = Hot { hypervisor, scratch, room: &room, guest, wish, unwanted, tell, stop: &stop };
        let result = if domain.state.is_active() { work.run(set) } else { cold::run(&work, set) };
        // If libvirt is gone, the room must stay until it is back.
        match tidy::one(self.hypervisor, &room, guest).and_then(|()| room.leave()) {
            Ok(()) => {}
            Err(why) => tracing::warn!(%guest, why = why.text, "the end of a backup waits for libvirt"),
        }
        result
    }

    /// The guest's room; right after a restart what was broken off is still being ended in it.
    fn enter(&self, guest: GuestId) -> Result<Room, Failure> {
        let began = Instant::now();
        loop {
            match self.scratch.enter(guest) {
                Err(why) if why.code == FailureCode::Busy && began.elapsed() < TIDYING => {}
                other => return other,
            }
            if self.unwanted.load(Ordering::Relaxed) {
                return Err(failure(FailureCode::Cancelled, "the backup was broken off"));
            }
            thread::sleep(LOOK);
        }
    }
}

/// How long a backup waits for the end of what a dead agent's backup left on the guest, and between two looks.
const TIDYING: Duration = Duration::from_secs(600);
const LOOK: Duration = Duration::from_millis(200);

/// Puts into the point what is not on disks.
fn keep_files(
    sink: &mut dyn Sink,
    guest: GuestId,
    state: &State,
    definition: &str,
    wish: &Wish,
    mark: Option<&str>,
) -> Result<(), Failure> {
    sink.file(DEFINITION, definition.as_bytes())?;
    if wish.priority > 0 {
        sink.file(&format!("{PRIORITY}{}", wish.priority), &[])?;
    }
    match wish.meant {
        Meant::Run => {}
        Meant::Pause => sink.file(PAUSED, &[])?,
        Meant::StayOff => sink.file(OFF, &[])?,
    }
    for (name, path) in [(NVRAM, &state.nvram), (KERNEL, &state.kernel), (INITRD, &state.initrd)] {
        if let Some(path) = path
            && let Some(bytes) = read_file(path)?
        {
            sink.file(name, &bytes)?;
        }
    }
    if state.tpm {
        keep_tpm(sink, &Path::new(TPM_FOLDER).join(guest.to_string()))?;
    }
    mark.map_or(Ok(()), |mark| sink.file(MARK, mark.as_bytes()))
}

/// All files of a TPM's state, which lie one folder deep (`tpm2/tpm2-00.permall`).
fn keep_tpm(sink: &mut dyn Sink, folder: &Path) -> Result<(), Failure> {
    for version in ["tpm2", "tpm1.2"] {
        let entries = fs::read_dir(folder.join(version)).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file())) {
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            if name.starts_with('.') {
                continue;
            }
            if let Some(bytes) = read_file(&entry.path())? {
                sink.file(&format!("{TPM}{version}-{name}"), &bytes)?;
            }
        }
    }
    Ok(())
}

/// A guest that never started has no firmware variables yet.
fn read_file(path: &Path) -> Result<Option<Vec<u8>>, Failure> {
    let failed = |error| failure(FailureCode::Internal, format!("read {}: {error}", path.display()));
    files::read_bounded(path, FILE_BYTES).map_err(failed)
}

/// For people only.
pub(crate) fn wall() -> Stamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Stamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
