//! Console logs of guests, kept within bounds: a guest that floods its serial port must not fill the host's disk.
//!
//! QEMU appends to the file, so what stands first can be taken out under its hands. Where virtlogd stands between, it
//! rotates the file below our bound and nothing is left to do.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{FallocateFlags, OFlag, fallocate};

use crate::files::CONSOLE_LOG;

/// A guest writes some MB a second at most, so that a log takes 100 MB at the worst moment.
const EVERY: Duration = Duration::from_secs(10);
/// A log that takes more bytes than this is cut.
const MOST: u64 = 4 << 20;
/// To so many; a start of a system writes a tenth of it.
const KEPT: u64 = 1 << 20;
/// Bytes in a block of `st_blocks`.
const SECTOR: u64 = 512;

/// Looks at them for ever. `guests`: the folder of all guests' folders.
pub(crate) async fn watch(guests: PathBuf) {
    let mut turn = tokio::time::interval(EVERY);
    loop {
        turn.tick().await;
        let guests = guests.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || trim_all(&guests)).await {
            tracing::error!(%error, "looking at the guests' console logs failed");
        }
    }
}

fn trim_all(guests: &Path) {
    let Ok(folders) = guests.read_dir() else { return };
    for folder in folders.flatten() {
        let log = folder.path().join(CONSOLE_LOG);
        match trim(&log) {
            Ok(true) => tracing::info!(log = %log.display(), "a console log was cut to its last part"),
            Ok(false) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(log = %log.display(), %error, "a console log can't be cut"),
        }
    }
}

/// True when it was too long and is no more.
fn trim(log: &Path) -> io::Result<bool> {
    // A link or a pipe in its place is none of ours.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(log)?;
    let found = file.metadata()?;
    if !found.is_file() || found.blocks().saturating_mul(SECTOR) <= MOST || found.len() <= KEPT {
        return Ok(false);
    }
    let block = found.blksize().max(1);
    let first = (found.len() - KEPT) / block * block;
    take_out(&file, first)?;
    Ok(true)
}

/// The first so many bytes of the file, without moving the others where the file system can't.
fn take_out(file: &File, bytes: u64) -> io::Result<()> {
    let bytes = i64::try_from(bytes).map_err(io::Error::other)?;
    let collapse = FallocateFlags::FALLOC_FL_COLLAPSE_RANGE;
    let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    Ok(fallocate(file, collapse, 0, bytes).or_else(|_| fallocate(file, hole, 0, bytes))?)
}

#[cfg(test)]
mod test {
    use std::io::Write;

    use super::*;

    fn flood(log: &Path, lines: u32) -> File {
        let mut file = OpenOptions::new().create(true).append(true).open(log).unwrap();
        for line in 0..lines {
            writeln!(file, "{line:0>99}").unwrap();
        }
        file
    }

    #[test]
    fn a_flooded_log_keeps_its_end_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join(CONSOLE_LOG);
        let mut writer = flood(&log, 60_000);
        assert!(trim(&log).unwrap());
        writeln!(writer, "the end").unwrap();
        let text = std::fs::read(&log).unwrap();
        assert!(text.ends_with(b"59999\nthe end\n"), "what the guest wrote last is there");
        let taken = std::fs::metadata(&log).unwrap().blocks() * SECTOR;
        assert!(taken <= KEPT + (64 << 10), "{taken}");
        assert!(!trim(&log).unwrap());
    }

    #[test]
    fn a_short_log_and_a_link_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (log, link) = (folder.path().join("a.log"), folder.path().join("b.log"));
        drop(flood(&log, 60_000));
        std::os::unix::fs::symlink(&log, &link).unwrap();
        assert!(trim(&link).is_err());
        assert_eq!(std::fs::metadata(&log).unwrap().len(), 6_000_000);
        let short = folder.path().join("c.log");
        drop(flood(&short, 30_000));
        assert!(!trim(&short).unwrap());
    }
}
