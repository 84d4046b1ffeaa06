//! The only door to the disk: a folder of files, written at ends and made durable on demand. Tests put a folder behind it
//! that loses power.

use std::fmt::Debug;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A folder with sub-folders of one level. Names are relative, made by the store, and never come from outside.
pub trait Files: Send + Sync + Debug {
    /// A new, empty file; fails where one is.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;
    /// Names in a folder, in any order.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;
    /// Replaces what is there, at once or not at all.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes the folder if it isn't there.
    fn make_folder(&self, folder: &str) -> io::Result<()>;
    /// Makes creations, renames and removals in the folder durable; `""` is the store's own.
    fn sync_folder(&self, folder: &str) -> io::Result<()>;
}

/// One open file.
pub trait File: Send + Sync + Debug {
    fn length(&self) -> io::Result<u64>;
    /// Fills the buffer or fails.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes all that was written durable.
    fn sync(&self) -> io::Result<()>;
}

/// A folder of the operating system. Only one process may write; the lock ends with it.
#[derive(Debug)]
pub(crate) struct Folder {
    root: PathBuf,
    _lock: Option<fs::File>,
}

/// Why the folder can't be had.
#[derive(Debug)]
pub(crate) enum Unlocked {
    Busy,
    Io(io::Error),
}

const LOCK: &str = "lock";

impl Folder {
    /// Makes the folder where it is missing, and locks it.
    pub(crate) fn lock(root: &Path) -> Result<Self, Unlocked> {
        fs::create_dir_all(root).map_err(Unlocked::Io)?;
        let lock = fs::OpenOptions::new().create(true).truncate(false).write(true).open(root.join(LOCK));
        let lock = lock.map_err(Unlocked::Io)?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => Unlocked::Busy,
            fs::TryLockError::Error(error) => Unlocked::Io(error),
        })?;
        Ok(Self { root: root.into(), _lock: Some(lock) })
    }

    /// For reading; takes no lock, so that read-only media and copies can be read.
    pub(crate) fn unlocked(root: &Path) -> Self {
        Self { root: root.into(), _lock: None }
    }
}

impl Files for Folder {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(self.root.join(name))?;
        Ok(Arc::new(Real(file)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(Real(fs::File::open(self.root.join(name))?)))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(self.root.join(folder))?;
        let names = entries.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.filter_map(Result::transpose).collect()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.root.join(from), self.root.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.root.join(name))
    }

    fn make_folder(&self, folder: &str) -> io::Result<()> {
        match fs::create_dir(self.root.join(folder)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        fs::File::open(self.root.join(folder))?.sync_all()
    }
}

#[derive(Debug)]
struct Real(fs::File);

impl File for Real {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// Writes a small file so that it is there whole or as it was before: aside, durable, renamed, folder durable.
pub(crate) fn write_whole(files: &dyn Files, folder: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    let aside = join(folder, &format!("{name}{ASIDE}"));
    match files.remove(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let written = files.create(&aside).and_then(|file| {
        file.write_at(bytes, 0)?;
        file.sync()
    });
    if let Err(error) = written.and_then(|()| files.rename(&aside, &join(folder, name))) {
        // Best effort: what is left is removed at the next open.
        let _ = files.remove(&aside);
        return Err(error);
    }
    files.sync_folder(folder)
}

/// Reads a whole file that may not be longer than this.
pub(crate) fn read_whole(files: &dyn Files, name: &str, most: u64) -> io::Result<Vec<u8>> {
    let file = files.open(name)?;
    let length = file.length()?;
    if length > most {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{length} bytes, more than {most}")));
    }
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Ends the names of files that are not finished.
pub(crate) const ASIDE: &str = ".tmp";

pub(crate) fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.into() } else { format!("{folder}/{name}") }
}
