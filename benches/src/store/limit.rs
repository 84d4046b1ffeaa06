//! What physics asks on this machine, in one thread: read, hash and zstd of the same bytes, with nothing else.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::Result;
use nix::sys::resource::UsageWho;
use nix::unistd::{Whence, lseek64};

use crate::{CLUSTER, PIECE, cost};

/// Bytes of a block.
const BLOCK: usize = 4096;
/// What is hashed and compressed at a time.
const FRAME: usize = 1 << 20;

#[derive(Debug)]
pub(crate) struct Limit {
    /// Read the data, BLAKE3, zstd -1, write, sync: all of it once.
    pub(crate) full_cpu_s: f64,
    pub(crate) full_bytes: u64,
    /// Read and hash the clusters that changed, zstd -1 of the 4 KiB blocks that did. Not written.
    pub(crate) increment_cpu_s: f64,
    /// Write and sync what came out.
    pub(crate) increment_write_cpu_s: f64,
    pub(crate) increment_bytes: u64,
    /// Read the data and hash it.
    pub(crate) hash_cpu_s: f64,
    /// Decode, hash, write.
    pub(crate) restore_cpu_s: f64,
}

pub(crate) fn measure(v1: &Path, v2: &Path, dirty: &[u64], out: &Path) -> Result<Limit> {
    let (a, b) = (File::open(v1)?, File::open(v2)?);
    // Once before, so that all is in the page cache for everybody.
    each(&b, &mut |_| Ok(()))?;
    let (hash, ()) = cost(UsageWho::RUSAGE_SELF, || {
        each(&a, &mut |bytes| {
            blake3::hash(bytes);
            Ok(())
        })
    })?;
    let mut zstd = zstd::bulk::Compressor::new(1)?;
    let mut frames = Vec::new();
    let (full, ()) = cost(UsageWho::RUSAGE_SELF, || {
        each(&a, &mut |bytes| {
            blake3::hash(bytes);
            frames.push(zstd.compress(bytes)?);
            Ok(())
        })
    })?;
    let (full_write, ()) = cost(UsageWho::RUSAGE_SELF, || write(out, &frames))?;
    let full_bytes = frames.iter().map(|frame| frame.len() as u64).sum();
    let (decode, ()) = cost(UsageWho::RUSAGE_SELF, || {
        let (file, mut at) = (File::create(out)?, 0);
        let mut zstd = zstd::bulk::Decompressor::new()?;
        for frame in &frames {
            let plain = zstd.decompress(frame, FRAME)?;
            blake3::hash(&plain);
            file.write_all_at(&plain, at)?;
            at += plain.len() as u64;
        }
        Ok(())
    })?;
    drop(frames);
    let mut increment = Vec::new();
    let changed = changed(&a, &b, dirty)?;
    let mut piece = vec![0; CLUSTER];
    let (increment_cost, ()) = cost(UsageWho::RUSAGE_SELF, || {
        for at in dirty {
            b.read_exact_at(&mut piece, *at)?;
            blake3::hash(&piece);
        }
        for bytes in changed.chunks(FRAME) {
            increment.push(zstd.compress(bytes)?);
        }
        Ok(())
    })?;
    let (increment_write, ()) = cost(UsageWho::RUSAGE_SELF, || write(out, &increment))?;
    std::fs::remove_file(out)?;
    Ok(Limit {
        full_cpu_s: full.cpu_s + full_write.cpu_s,
        full_bytes,
        increment_cpu_s: increment_cost.cpu_s,
        increment_write_cpu_s: increment_write.cpu_s,
        increment_bytes: increment.iter().map(|frame| frame.len() as u64).sum(),
        hash_cpu_s: hash.cpu_s,
        restore_cpu_s: decode.cpu_s,
    })
}

fn write(out: &Path, frames: &[Vec<u8>]) -> Result<()> {
    let (file, mut at) = (File::create(out)?, 0);
    for frame in frames {
        file.write_all_at(frame, at)?;
        at += frame.len() as u64;
    }
    Ok(file.sync_data()?)
}

/// The blocks that differ, one after the other.
fn changed(a: &File, b: &File, dirty: &[u64]) -> Result<Vec<u8>> {
    let (mut x, mut y) = (vec![0; CLUSTER], vec![0; CLUSTER]);
    let mut changed = Vec::new();
    for at in dirty {
        a.read_exact_at(&mut x, *at)?;
        b.read_exact_at(&mut y, *at)?;
        let blocks = x.chunks(BLOCK).zip(y.chunks(BLOCK)).filter(|(old, new)| old != new);
        blocks.for_each(|(_, new)| changed.extend_from_slice(new));
    }
    Ok(changed)
}

/// Every piece of the file's data.
fn each(file: &File, work: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut piece = vec![0; PIECE];
    for range in data(file)? {
        for at in range.clone().step_by(PIECE) {
            let length = PIECE.min(usize::try_from(range.end - at)?);
            file.read_exact_at(&mut piece[..length], at)?;
            work(&piece[..length])?;
        }
    }
    Ok(())
}

/// The file's ranges that are not holes.
pub(crate) fn data(file: &File) -> Result<Vec<Range<u64>>> {
    let end = file.metadata()?.len();
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < end {
        let Ok(start) = lseek64(file, i64::try_from(at)?, Whence::SeekData) else { break };
        let hole = lseek64(file, start, Whence::SeekHole)?;
        at = u64::try_from(hole)?;
        ranges.push(u64::try_from(start)?..at);
    }
    Ok(ranges)
}
