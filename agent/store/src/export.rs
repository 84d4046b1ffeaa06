//! Writes a disk of a point out as a raw image with holes.

use std::io::{Seek, SeekFrom, Write};
use std::ops::ControlFlow;

use roost_protocol::PointId;

use crate::error::{Result, StoreError, Tried};
use crate::store::Store;

/// Bytes read and written at a time: a few chunks.
const PIECE: usize = 1 << 20;

impl Store {
    /// Writes a disk to an empty file: only what is not zeros, and the last byte, so that the file has the disk's size.
    /// `progress` is told how many bytes of the disk are done and may stop it.
    ///
    /// # Errors
    /// `Damaged` or `Missing` where the point is not whole; what was written before that is right.
    pub fn export_raw(
        &self,
        point: PointId,
        disk: &str,
        out: &mut (impl Write + Seek),
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<()> {
        let reader = self.disk(point, disk)?;
        let mut piece = vec![0; PIECE];
        let mut end = 0;
        for range in reader.data_ranges()? {
            let mut at = range.start;
            out.seek(SeekFrom::Start(at)).tried(|| format!("seek in the image of {disk}"))?;
            while at < range.end {
                let length = PIECE.min(usize::try_from(range.end - at).unwrap_or(PIECE));
                reader.read_at(at, &mut piece[..length])?;
                out.write_all(&piece[..length]).tried(|| format!("write the image of {disk}"))?;
                at += length as u64;
                if progress(at).is_break() {
                    return Err(StoreError::Worker("the export was stopped".into()));
                }
            }
            end = range.end;
        }
        if end < reader.size() {
            let last = out.seek(SeekFrom::Start(reader.size() - 1)).and_then(|_| out.write_all(&[0]));
            last.tried(|| format!("write the image of {disk}"))?;
        }
        out.flush().tried(|| format!("write the image of {disk}"))
    }
}
