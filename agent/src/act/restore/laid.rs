//! A new image file that QEMU laid out in advance: a disk's bytes go where they belong and are read back from there, with
//! no way through QEMU for each of them.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::unistd::{Whence, lseek};
use roost_protocol::operation::{Failure, FailureCode};
use serde::Deserialize;

use super::disk::{Meter, carried_out, weight, zeroes};
use crate::act::image::Format;
use crate::act::nbd::server::Image;
use crate::act::{failure, io_failure};

/// Read and written at a time: as much as one node of a disk's map tells of.
const STRETCH: u64 = 4 << 20;
/// What reads past the page cache are multiples of, in the file, in length and in memory.
const ALIGNED: u64 = 4_096;

/// Part of a disk that lies in one piece in the file. A line of `qemu-img map --output=json`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
struct Piece {
    /// Byte of the disk.
    start: u64,
    length: u64,
    /// Byte of the file.
    offset: Option<u64>,
}

/// Where each byte of a disk lies in its file.
#[derive(Debug)]
struct Layout(Vec<Piece>);

impl Layout {
    /// None when they are not all of the disk, in order, each with its place.
    fn new(pieces: Vec<Piece>, size: u64) -> Option<Self> {
        let follows = |end: u64, piece: &Piece| {
            (piece.start == end && piece.offset.is_some()).then(|| end.checked_add(piece.length))?
        };
        let whole = pieces.iter().try_fold(0, follows) == Some(size);
        whole.then_some(Self(pieces))
    }

    /// The parts of a range of the disk: its byte there, its length, its byte in the file.
    fn parts(&self, offset: u64, length: u64) -> impl Iterator<Item = (u64, u64, u64)> {
        let end = offset.saturating_add(length);
        let first = self.0.partition_point(|piece| piece.start.saturating_add(piece.length) <= offset);
        self.0[first..].iter().take_while(move |piece| piece.start < end).filter_map(move |piece| {
            let (from, to) = (piece.start.max(offset), (piece.start + piece.length).min(end));
            Some((from, to - from, piece.offset? + (from - piece.start)))
        })
    }
}

/// A disk's new file.
#[derive(Debug)]
pub(super) struct Laid {
    file: File,
    layout: Layout,
    size: u64,
    /// For messages.
    what: String,
}

impl Laid {
    /// Makes the file with room for all of the disk; nothing of it is used yet.
    pub(super) fn create(path: &Path, format: Format, size: u64) -> Result<Self, Failure> {
        let what = path.display().to_string();
        let tried = |error: io::Error| io_failure(format!("write {what}"), &error);
        let pieces = match format {
            Format::Raw => {
                File::create(path).and_then(|file| file.set_len(size)).map_err(tried)?;
                vec![Piece { start: 0, length: size, offset: Some(0) }]
            }
            Format::Qcow2 => {
                let mut create = Command::new("qemu-img");
                create.args(["create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", "--"]);
                carried_out("create", create.arg(path).arg(size.to_string()))?;
                map(path)?
            }
        };
        let layout = Layout::new(pieces, size).ok_or_else(|| {
            failure(FailureCode::Internal, format!("qemu-img laid {what} out in a way that is not understood"))
        })?;
        let file = OpenOptions::new().write(true).open(path).map_err(tried)?;
        Ok(Self { file, layout, size, what })
    }

    /// Writes all that the point has, durably.
    pub(super) fn fill(&self, target: &str, image: &dyn Image, meter: &mut Meter<'_>) -> Result<(), Failure> {
        let tried = |error: io::Error| io_failure(format!("write {}", self.what), &error);
        let step = format!("restore disk {target}");
        let (mut buffer, mut done) = (Vec::new(), 0);
        for (offset, length) in image.data() {
            for (at, length) in stretches(offset, length) {
                buffer.resize(bytes(length), 0);
                image
                    .read_at(at, &mut buffer)
                    .map_err(|error| failure(FailureCode::Damaged, format!("disk {target} at byte {at}: {error}")))?;
                for (from, part, place) in self.layout.parts(at, length) {
                    let inside = bytes(from - at);
                    self.file.write_all_at(&buffer[inside..inside + bytes(part)], place).map_err(tried)?;
                }
                done += length;
                meter.at(done, &step)?;
            }
        }
        meter.done(weight(image));
        self.file.sync_all().map_err(tried)
    }

    /// Reads the file back, past the page cache, and compares every block with the point's, by its hash.
    pub(super) fn compare(
        &self,
        target: &str,
        path: &Path,
        image: &dyn Image,
        meter: &mut Meter<'_>,
    ) -> Result<(), Failure> {
        let tried = |error: io::Error| io_failure(format!("read {} back", self.what), &error);
        let differs =
            |at: u64| failure(FailureCode::Internal, format!("disk {target} reads back otherwise at byte {at}"));
        let file = past_the_cache(path).map_err(tried)?;
        let (data, weight, step) = (image.data(), weight(image), format!("read disk {target} back"));
        let mut buffer = vec![0; bytes(STRETCH + 3 * ALIGNED)];
        let mut done = 0;
        for (start, length, place) in self.layout.parts(0, self.size) {
            for (from, length, zero) in runs(&file, place, length).map_err(tried)? {
                let from = start + (from - place);
                if zero {
                    zeroes(image, &data, from, length).map_err(|error| error.unwrap_or_else(|| differs(from)))?;
                    continue;
                }
                for (at, length) in stretches(from, length) {
                    let read = read_aligned(&file, place + (at - start), length, &mut buffer).map_err(tried)?;
                    let held = image.holds(at, read);
                    if !held.map_err(|error| failure(FailureCode::Damaged, error.to_string()))? {
                        return Err(differs(at));
                    }
                    done += length;
                    meter.at(done.min(weight), &step)?;
                }
            }
        }
        meter.done(weight);
        Ok(())
    }
}

/// Asks QEMU, which reads the file anew, where everything lies.
fn map(path: &Path) -> Result<Vec<Piece>, Failure> {
    let mut command = Command::new("qemu-img");
    command.args(["map", "--output=json", "-f", "qcow2", "--"]).arg(path).stdin(Stdio::null());
    let output = command.output().map_err(|error| io_failure("run qemu-img", &error))?;
    let said = serde_json::from_slice(&output.stdout);
    said.map_err(|error| {
        let words = String::from_utf8_lossy(&output.stderr);
        failure(FailureCode::Internal, format!("qemu-img map: {error}: {}", words.trim()))
    })
}

/// A range in parts that end where those of a disk's map do.
fn stretches(offset: u64, length: u64) -> impl Iterator<Item = (u64, u64)> {
    let end = offset.saturating_add(length);
    let next = move |at: &u64| Some((at / STRETCH + 1) * STRETCH).filter(|at| *at < end);
    std::iter::successors(Some(offset).filter(|at| *at < end), next)
        .map(move |at| (at, ((at / STRETCH + 1) * STRETCH).min(end) - at))
}

/// Not all file systems read past the cache; there at least what is clean leaves it.
fn past_the_cache(path: &Path) -> io::Result<File> {
    let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path);
    match direct {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            let file = File::open(path)?;
            posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
            Ok(file)
        }
        opened => opened,
    }
}

/// Where a part of the file has data and where holes (true): offset in the file and length.
fn runs(file: &File, offset: u64, length: u64) -> io::Result<Vec<(u64, u64, bool)>> {
    let end = offset + length;
    let seek = |at: u64, whence: Whence| -> io::Result<u64> {
        match lseek(file, i64::try_from(at).map_err(io::Error::other)?, whence) {
            Ok(found) => Ok(u64::try_from(found).map_err(io::Error::other)?.clamp(at, end)),
            // No data, no hole behind.
            Err(Errno::ENXIO) => Ok(end),
            Err(errno) => Err(errno.into()),
        }
    };
    let (mut at, mut found) = (offset, Vec::new());
    while at < end {
        let data = seek(at, Whence::SeekData)?;
        if data > at {
            found.push((at, data - at, true));
        }
        at = data;
        if at < end {
            let hole = seek(at, Whence::SeekHole)?.max(at + 1);
            found.push((at, hole - at, false));
            at = hole;
        }
    }
    Ok(found)
}

/// Reads at most a stretch. The range may lie anywhere, what is read begins and ends at whole multiples.
fn read_aligned<'a>(file: &File, offset: u64, length: u64, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let skip = buffer.as_ptr().align_offset(bytes(ALIGNED));
    let buffer = &mut buffer[skip..];
    let first = offset / ALIGNED * ALIGNED;
    let wanted = bytes(offset + length - first);
    let whole = bytes((offset + length).div_ceil(ALIGNED) * ALIGNED - first);
    let mut got = 0;
    while got < wanted {
        match file.read_at(&mut buffer[got..whole], first + got as u64) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(more) => got += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(&buffer[bytes(offset - first)..wanted])
}

fn bytes(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod test {
    use super::*;

    fn piece(start: u64, length: u64, offset: u64) -> Piece {
        Piece { start, length, offset: Some(offset) }
    }

    #[test]
    fn every_byte_of_a_disk_has_its_place_or_the_file_is_refused() {
        let layout = Layout::new(vec![piece(0, 10, 100), piece(10, 5, 300)], 15).unwrap();
        assert_eq!(layout.parts(8, 4).collect::<Vec<_>>(), [(8, 2, 108), (10, 2, 300)]);
        assert_eq!(layout.parts(10, 100).collect::<Vec<_>>(), [(10, 5, 300)]);
        assert_eq!(layout.parts(15, 1).count(), 0);
        let nowhere = Piece { offset: None, ..piece(0, 15, 0) };
        for (pieces, size) in [
            (vec![piece(0, 10, 0)], 15),
            (vec![piece(0, 10, 0), piece(11, 4, 11)], 15),
            (vec![piece(0, 20, 0)], 15),
            (vec![nowhere], 15),
            (vec![piece(0, 10, 0), piece(10, u64::MAX, 10)], 15),
        ] {
            assert!(Layout::new(pieces.clone(), size).is_none(), "{pieces:?}");
        }
    }

    #[test]
    fn stretches_cover_a_range_and_end_with_the_nodes_of_a_map() {
        let (from, length) = (STRETCH - 4_096, STRETCH + 8_192);
        let all: Vec<_> = stretches(from, length).collect();
        assert_eq!(all, [(from, 4_096), (STRETCH, STRETCH), (2 * STRETCH, 4_096)]);
        assert_eq!(stretches(7, 0).count(), 0);
    }

    #[test]
    fn holes_and_data_of_a_file_are_told_apart_and_read_wherever_they_lie() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let file = File::create(&path).unwrap();
        file.set_len(1 << 20).unwrap();
        file.write_all_at(&[7; 5_000], 500_000).unwrap();
        let file = past_the_cache(&path).unwrap();
        let runs = runs(&file, 4_096, (1 << 20) - 4_096).unwrap();
        let ends = runs.iter().map(|(at, length, _)| (*at, at + length)).collect::<Vec<_>>();
        assert!(ends.windows(2).all(|pair| pair[0].1 == pair[1].0), "{runs:?}");
        assert_eq!((ends[0].0, ends.last().unwrap().1), (4_096, 1 << 20));
        let with_data = runs.iter().find(|(_, _, zero)| !zero).unwrap();
        assert!(with_data.0 <= 500_000 && with_data.0 + with_data.1 >= 505_000 && with_data.1 < 1 << 18, "{runs:?}");
        let mut buffer = vec![0; bytes(STRETCH + 3 * ALIGNED)];
        let read = read_aligned(&file, 499_999, 5_002, &mut buffer).unwrap();
        assert_eq!((read[0], read[1], read[5_000], read[5_001], read.len()), (0, 7, 7, 0, 5_002));
        assert!(read_aligned(&file, (1 << 20) - 1, 2, &mut buffer).is_err(), "beyond the end");
    }

    /// A disk of 9 MiB with data at both ends of its first stretch and in its last.
    struct Small(Vec<u8>);

    impl Image for Small {
        fn size(&self) -> u64 {
            self.0.len() as u64
        }

        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
            buffer.copy_from_slice(&self.0[bytes(offset)..][..buffer.len()]);
            Ok(())
        }

        fn data(&self) -> Vec<(u64, u64)> {
            vec![(0, 4_096), (STRETCH - 8_192, 16_384), (8 << 20, 12_288)]
        }
    }

    #[test]
    fn what_does_not_read_back_as_it_was_written_is_found_wherever_it_lies() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let mut small = Small(vec![0; 9 << 20]);
        for (offset, length) in small.data() {
            small.0[bytes(offset)..][..bytes(length)].fill(5);
        }
        let (unwanted, tell) = (std::sync::atomic::AtomicBool::new(false), |_: u32, _: &str| {});
        let mut meter = Meter::new(&unwanted, &tell, 100);
        let laid = Laid::create(&path, Format::Raw, small.size()).unwrap();
        laid.fill("vda", &small, &mut meter).unwrap();
        let mut compared = || laid.compare("vda", &path, &small, &mut meter);
        compared().unwrap();
        assert!(std::fs::read(&path).unwrap() == small.0);
        // In data, at its last byte, in a hole, and data that is a hole.
        for (at, wrong) in [(100, 6), ((8 << 20) + 12_287, 6), (6 << 20, 1), (STRETCH, 0)] {
            let right = small.0[bytes(at)];
            laid.file.write_all_at(&[wrong], at).unwrap();
            laid.file.sync_all().unwrap();
            assert!(compared().unwrap_err().text.contains("reads back otherwise"), "{at}");
            laid.file.write_all_at(&[right], at).unwrap();
            laid.file.sync_all().unwrap();
        }
        laid.file.set_len(4 << 20).unwrap();
        laid.file.set_len(9 << 20).unwrap();
        assert!(compared().unwrap_err().text.contains("reads back otherwise"), "its end is lost");
    }
}
