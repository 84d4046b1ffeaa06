//! Small files that are either wholly there or not at all, and the room there is for files.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::sys::statvfs::{Statvfs, statvfs};

/// Name of the console's log in a guest's folder.
pub(crate) const CONSOLE_LOG: &str = "serial.log";

/// Puts `bytes` at `path` (mode 0600): after a crash there is the old content or the new, never a mixture.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_os_string();
    name.push(".new");
    let fresh = path.with_file_name(name);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    sync_folder(path.parent().unwrap_or(Path::new(".")))
}

/// Makes the file, if it isn't there, and closes it to other users.
pub(crate) fn make_private(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))
}

/// Makes names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// A folder with exactly this mode, and its parents.
pub(crate) fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// The file's content, if there is one and it has at most `limit` bytes.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
        return Err(io::Error::other(format!("{} is longer than {limit} bytes", path.display())));
    }
    Ok(Some(bytes))
}

/// Bytes that the file system has for files in all, and those free.
pub(crate) fn room(folder: &Path) -> Option<(u64, u64)> {
    Some(room_of(&statvfs(folder).ok()?))
}

/// As df counts: blocks that the file system holds back from files are neither free nor part of the whole.
pub(crate) fn room_of(told: &Statvfs) -> (u64, u64) {
    let [blocks, free, available] = [told.blocks(), told.blocks_free(), told.blocks_available()];
    let held_back = free.saturating_sub(available);
    let bytes = |blocks: u64| blocks.saturating_mul(told.fragment_size());
    (bytes(blocks.saturating_sub(held_back)), bytes(available))
}

#[cfg(test)]
mod test {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_file_system_has_room_and_a_folder_that_is_gone_has_none() {
        let (total, free) = room(Path::new("/")).unwrap();
        assert!(total > 0 && free <= total);
        assert_eq!(room(Path::new("/does/not/exist")), None);
    }

    #[test]
    fn blocks_that_are_held_back_count_as_df_counts_them() {
        let told = Command::new("df").args(["-B1", "--output=used,avail", "/"]).output().unwrap();
        let told = String::from_utf8(told.stdout).unwrap();
        let df: u64 = told.split_whitespace().filter_map(|word| word.parse::<u64>().ok()).sum();
        assert_eq!(room(Path::new("/")).unwrap().0, df, "{told}");
    }

    #[test]
    fn a_secret_file_is_replaced_whole_and_stays_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_atomically(&path, b"one").unwrap();
        write_atomically(&path, b"two").unwrap();
        assert_eq!(read_bounded(&path, 3).unwrap().as_deref(), Some(&b"two"[..]));
        assert!(read_bounded(&path, 2).is_err());
        assert_eq!(read_bounded(&dir.path().join("none"), 2).unwrap(), None);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
