//! Files that must be whole or absent: secrets and certificates, written beside and renamed.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Readable by the aggregator alone.
pub(crate) const SECRET: u32 = 0o600;
/// Readable by everyone.
pub(crate) const PUBLIC: u32 = 0o644;

/// The directory and what is missing above it. Others may look in: the CA certificate lies there, secrets have modes of
/// their own.
pub(crate) fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(path)
}

/// The file, empty if it was not there, closed to others from its first moment.
pub(crate) fn make_secret(path: &Path) -> io::Result<()> {
    OpenOptions::new().create(true).truncate(false).write(true).mode(SECRET).open(path).map(drop)
}

/// The file with this content and mode, durable on return; an old one is replaced in one step.
pub(crate) fn write_whole(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let beside = path.with_extension("new");
    match std::fs::remove_file(&beside) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    File::open(directory)?.sync_all()
}
