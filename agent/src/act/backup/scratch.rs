//! The local folder that a backup works in: one room a guest, locked while somebody works in it. It is capped, and some
//! of the disk is held in reserve, so that a guest never pauses for want of room while its backup runs.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{FallocateFlags, Flock, FlockArg, fallocate};
use nix::sys::statvfs::statvfs;
use roost_protocol::GuestId;
use roost_protocol::operation::{Failure, FailureCode};

use crate::act::{failure, io_failure};
use crate::files;

const LOCK: &str = "lock";
const RESERVE: &str = "reserve";
/// Lies in the room while the guest may be frozen.
const FROZEN: &str = "frozen";
/// QEMU's user walks through, nobody lists it.
const FOLDER_MODE: u32 = 0o711;
/// With less room than this a backup of a running guest is not begun.
const LEAST: u64 = 4 << 20;

/// The folder, and what a backup may take.
#[derive(Clone, Debug)]
pub(crate) struct Scratch {
    pub(crate) folder: PathBuf,
    /// Most bytes that one guest's backup may take in the folder.
    pub(crate) cap: u64,
    /// Bytes held back for the end of a backup when the disk is full.
    pub(crate) reserve: u64,
    /// Longest that a guest's backup may read.
    pub(crate) longest: Duration,
    /// Bytes read per second; 0 is no limit.
    pub(crate) read_speed: u64,
}

/// One guest's room, locked.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) path: PathBuf,
    /// Most bytes that may be taken, at most what the disk had.
    pub(crate) cap: u64,
    _lock: Flock<File>,
}

impl Scratch {
    /// All guests that have a room.
    pub(crate) fn guests(&self) -> Vec<GuestId> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    /// The guest's room, if nobody works in it.
    pub(crate) fn enter(&self, guest: GuestId) -> Result<Room, Failure> {
        let path = self.folder.join(guest.to_string());
        let failed = |error: io::Error| io_failure(format!("make {}", path.display()), &error);
        files::make_folder(&self.folder, FOLDER_MODE).map_err(failed)?;
        match DirBuilder::new().mode(FOLDER_MODE).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
            Ok(()) | Err(_) => {}
        }
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path.join(LOCK));
        let lock = Flock::lock(lock.map_err(failed)?, FlockArg::LockExclusiveNonblock);
        let lock = lock.map_err(|_| failure(FailureCode::Busy, "a backup of this guest is running"))?;
        let free = free(&path).map_err(failed)?;
        Ok(Room { path, cap: self.cap.min(free.saturating_sub(self.reserve)), _lock: lock })
    }

    /// Whether the guest has a room.
    #[cfg(test)]
    pub(crate) fn is_used(&self, guest: GuestId) -> bool {
        self.folder.join(guest.to_string()).exists()
    }
}

impl Room {
    /// Takes the reserve, before a running guest's writes depend on this disk.
    pub(crate) fn hold_reserve(&self, bytes: u64) -> Result<(), Failure> {
        if self.cap < LEAST {
            let text = format!("too little room for a backup in {}", self.path.display());
            return Err(failure(FailureCode::NoSpace, text));
        }
        let path = self.path.join(RESERVE);
        let made = File::create(&path).and_then(|file| {
            let bytes = i64::try_from(bytes).map_err(io::Error::other)?;
            Ok(fallocate(&file, FallocateFlags::empty(), 0, bytes)?)
        });
        made.map_err(|error| io_failure(format!("reserve {}", path.display()), &error))
    }

    /// Gives the reserve back.
    pub(crate) fn free_reserve(&self) {
        let _ = fs::remove_file(self.path.join(RESERVE));
    }

    /// Bytes taken, without the reserve.
    pub(crate) fn used(&self) -> u64 {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let counted = entries.filter(|entry| entry.file_name() != RESERVE);
        counted.filter_map(|entry| Some(entry.metadata().ok()?.blocks() * 512)).sum()
    }

    /// Bytes that the disk still has.
    pub(crate) fn free(&self) -> u64 {
        free(&self.path).unwrap_or(u64::MAX)
    }

    /// Remembers over a crash that the guest may be frozen.
    pub(crate) fn note_frozen(&self) -> Result<(), Failure> {
        let made = File::create(self.path.join(FROZEN)).map(drop);
        made.map_err(|error| io_failure("note that the guest is frozen", &error))
    }

    /// The guest thawed.
    pub(crate) fn note_thawed(&self) {
        let _ = fs::remove_file(self.path.join(FROZEN));
    }

    /// Whether it may be frozen.
    pub(crate) fn may_be_frozen(&self) -> bool {
        self.path.join(FROZEN).exists()
    }

    /// Files whose names end so.
    pub(crate) fn files(&self, ending: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let named = |path: &PathBuf| path.extension().is_some_and(|extension| extension == ending);
        entries.map(|entry| entry.path()).filter(named).collect()
    }

    /// Whether a path lies in here.
    pub(crate) fn holds(&self, path: &Path) -> bool {
        path.parent() == Some(&self.path)
    }

    /// Removes the room with all that is left in it; the lock goes last.
    pub(crate) fn leave(self) -> Result<(), Failure> {
        let gone = fs::remove_dir_all(&self.path);
        gone.map_err(|error| io_failure(format!("remove {}", self.path.display()), &error))
    }
}

fn free(path: &Path) -> io::Result<u64> {
    let (_, free) = files::room_of(&statvfs(path)?);
    Ok(free)
}

#[cfg(test)]
mod test {
    use super::*;

    fn scratch(folder: &Path) -> Scratch {
        let longest = Duration::from_secs(60);
        Scratch { folder: folder.join("scratch"), cap: 8 << 20, reserve: 1 << 20, longest, read_speed: 0 }
    }

    #[test]
    fn one_works_in_a_room_at_a_time_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (scratch, guest) = (scratch(dir.path()), GuestId::from_u128(7));
        let room = scratch.enter(guest).unwrap();
        assert_eq!(scratch.enter(guest).unwrap_err().code, FailureCode::Busy);
        room.hold_reserve(1 << 20).unwrap();
        assert!(room.used() < 4_096);
        fs::write(room.path.join("vda.layer"), vec![1; 100_000]).unwrap();
        assert!(room.used() >= 100_000);
        assert_eq!(room.files("layer"), [room.path.join("vda.layer")]);
        assert!(room.holds(&room.files("layer")[0]) && !room.holds(Path::new("/etc/passwd")));
        room.note_frozen().unwrap();
        assert!(room.may_be_frozen());
        assert_eq!(scratch.guests(), [guest]);
        room.leave().unwrap();
        assert!(!scratch.is_used(guest) && scratch.guests().is_empty());
        scratch.enter(guest).unwrap();
    }

    #[test]
    fn a_backup_is_not_begun_without_room() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch { reserve: u64::MAX, ..scratch(dir.path()) };
        let refused = scratch.enter(GuestId::from_u128(7)).unwrap().hold_reserve(1).unwrap_err();
        assert_eq!(refused.code, FailureCode::NoSpace);
    }
}
