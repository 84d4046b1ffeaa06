//! Copies an image so that holes stay holes, sharing blocks where the file system can.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::copy_file_range;
use nix::unistd::{Whence, lseek};

/// Between two looks at whether it is still wanted.
const CHUNK: u64 = 8 << 20;
/// Buffer where the kernel can't copy by itself.
const BUFFER: usize = 256 << 10;

/// Copies all of `from` into the empty file `to`, durably. `go_on(done, all)` in bytes; false ends it.
pub(crate) fn copy(from: &File, to: &File, mut go_on: impl FnMut(u64, u64) -> bool) -> io::Result<()> {
    let all = from.metadata()?.len();
    to.set_len(all)?;
    let mut done = 0;
    while let Some((start, end)) = next_data(from, done, all)? {
        let mut at = start;
        while at < end {
            if !go_on(at, all) {
                return Err(io::Error::new(io::ErrorKind::Interrupted, "no longer wanted"));
            }
            at += copy_some(from, to, at, (end - at).min(CHUNK))?;
        }
        done = end;
    }
    to.sync_all()
}

/// The next part that isn't a hole.
fn next_data(file: &File, from: u64, all: u64) -> io::Result<Option<(u64, u64)>> {
    if from >= all {
        return Ok(None);
    }
    let offset = |number: u64| i64::try_from(number).map_err(io::Error::other);
    let back = |number: i64| u64::try_from(number).unwrap_or(all).min(all);
    match lseek(file, offset(from)?, Whence::SeekData) {
        Ok(start) => Ok(Some((back(start), back(lseek(file, start, Whence::SeekHole)?)))),
        Err(Errno::ENXIO) => Ok(None),
        Err(Errno::EINVAL) => Ok(Some((from, all))),
        Err(errno) => Err(errno.into()),
    }
}

fn copy_some(from: &File, to: &File, at: u64, bytes: u64) -> io::Result<u64> {
    let mut source = i64::try_from(at).map_err(io::Error::other)?;
    let mut target = source;
    let length = usize::try_from(bytes).map_err(io::Error::other)?;
    let copied = match copy_file_range(from, Some(&mut source), to, Some(&mut target), length) {
        Ok(copied) => copied,
        Err(Errno::EXDEV | Errno::ENOSYS | Errno::EOPNOTSUPP | Errno::EINVAL) => copy_by_hand(from, to, at, length)?,
        Err(errno) => return Err(errno.into()),
    };
    match copied {
        0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the image became shorter while it was copied")),
        copied => u64::try_from(copied).map_err(io::Error::other),
    }
}

fn copy_by_hand(from: &File, to: &File, at: u64, length: usize) -> io::Result<usize> {
    let mut buffer = vec![0; length.min(BUFFER)];
    let got = from.read_at(&mut buffer, at)?;
    to.write_all_at(&buffer[..got], at)?;
    Ok(got)
}

#[cfg(test)]
mod test {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_copy_is_equal_and_its_holes_stay_holes() {
        let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        from.set_len(64 << 20).unwrap();
        from.write_all_at(b"begin", 0).unwrap();
        from.write_all_at(b"middle", 40 << 20).unwrap();
        let mut calls = 0;
        copy(&from, &to, |done, all| {
            calls += 1;
            done < all
        })
        .unwrap();
        let mut word = [0; 6];
        to.read_exact_at(&mut word, 40 << 20).unwrap();
        assert_eq!((&word, to.metadata().unwrap().len(), calls >= 2), (b"middle", 64 << 20, true));
        assert!(to.metadata().unwrap().blocks() * 512 < 8 << 20);
        assert_eq!(copy_by_hand(&from, &to, 40 << 20, 6).unwrap(), 6);
    }

    #[test]
    fn a_copy_that_is_no_longer_wanted_ends() {
        let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        from.write_all_at(&[1; 4_096], 0).unwrap();
        assert_eq!(copy(&from, &to, |_, _| false).unwrap_err().kind(), io::ErrorKind::Interrupted);
    }
}
