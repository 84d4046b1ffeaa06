//! Jobs on one disk of a running domain: merging an overlay down, pulling a chain up. Speeds in bytes per second, 0 is
//! no limit.

use crate::{Error, Hypervisor, Uuid, ffi::DiskAct};
use virt_sys as sys;

/// Most bytes of a picture; a 4K screen as PPM has 25 MiB.
const MOST_PICTURE: usize = 64 * 1024 * 1024;

/// A job on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockJob {
    /// What it does.
    pub kind: BlockJobKind,
    /// How far it is, bytes; it may fall behind again while the guest writes.
    pub done: u64,
    /// What it has to do, bytes.
    pub all: u64,
}

impl BlockJob {
    /// Whether the two layers were equal when it was asked; only then a commit can be ended by a pivot.
    pub fn in_step(&self) -> bool {
        self.done >= self.all && self.all > 0
    }
}

/// libvirt's `virDomainBlockJobType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BlockJobKind {
    /// Data comes up into the active layer.
    Pull,
    /// The disk is copied away.
    Copy,
    /// A lower layer is merged down.
    Commit,
    /// The active layer is merged down.
    ActiveCommit,
    /// A backup job.
    Backup,
    /// A number this crate does not know.
    Other(i32),
}

impl BlockJobKind {
    /// The kind of [`crate::EventKind::BlockJob`]'s number.
    pub fn from_raw(raw: i32) -> Self {
        match raw {
            1 => Self::Pull,
            2 => Self::Copy,
            3 => Self::Commit,
            4 => Self::ActiveCommit,
            5 => Self::Backup,
            other => Self::Other(other),
        }
    }
}

/// How a job on a disk is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndJob {
    /// Go over to the layer that was written to; fails unless in step.
    Pivot,
    /// Give it up; the chain stays as it is.
    Cancel,
}

/// A picture of a screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// `image/png` or `image/x-portable-pixmap`.
    pub mime: String,
    /// The file.
    pub bytes: Vec<u8>,
}

impl Hypervisor {
    /// Begins to merge the active layer of a disk (`vda`) into the one right below (a template further down stays as it
    /// is); needs [`EndJob::Pivot`] to end.
    ///
    /// # Errors
    /// [`crate::Code::OperationInvalid`] when the domain is off or the disk has no layers or a job.
    pub fn block_commit(&self, uuid: &Uuid, disk: &str, bytes_per_s: u64) -> Result<(), Error> {
        self.connection.lookup(uuid)?.disk_act(disk, DiskAct::Commit { bytes_per_s })
    }

    /// Begins to pull all lower layers of a disk into the active one; ends by itself, with an event.
    ///
    /// # Errors
    /// As [`Hypervisor::block_commit`].
    pub fn block_pull(&self, uuid: &Uuid, disk: &str, bytes_per_s: u64) -> Result<(), Error> {
        self.connection.lookup(uuid)?.disk_act(disk, DiskAct::Pull { bytes_per_s })
    }

    /// Ends the job on a disk; when this returns, it is over.
    ///
    /// # Errors
    /// [`crate::Code::OperationInvalid`] without one; others when a commit is not in step yet.
    pub fn block_job_end(&self, uuid: &Uuid, disk: &str, how: EndJob) -> Result<(), Error> {
        let flags = match how {
            EndJob::Pivot => sys::VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT,
            EndJob::Cancel => 0,
        };
        self.connection.lookup(uuid)?.disk_act(disk, DiskAct::Abort { flags })
    }

    /// The job on a disk; none without one.
    ///
    /// # Errors
    /// [`crate::Code::InvalidArgument`] without that disk.
    pub fn block_job(&self, uuid: &Uuid, disk: &str) -> Result<Option<BlockJob>, Error> {
        let job = self.connection.lookup(uuid)?.disk_job(disk)?;
        Ok(job.map(|(raw, done, all)| BlockJob { kind: BlockJobKind::from_raw(raw), done, all }))
    }

    /// Limits the job on a disk.
    ///
    /// # Errors
    /// [`crate::Code::OperationInvalid`] without one.
    pub fn block_job_speed(&self, uuid: &Uuid, disk: &str, bytes_per_s: u64) -> Result<(), Error> {
        self.connection.lookup(uuid)?.disk_act(disk, DiskAct::Speed { bytes_per_s })
    }

    /// Takes a picture of the first screen of a running domain.
    ///
    /// # Errors
    /// [`crate::Code::OperationInvalid`] when it is off; libvirt's when it has no screen; [`Error::Oversize`].
    pub fn screenshot(&self, uuid: &Uuid) -> Result<Picture, Error> {
        let (mime, bytes) = self.connection.lookup(uuid)?.screenshot(&self.connection, MOST_PICTURE)?;
        Ok(Picture { mime, bytes })
    }
}

#[cfg(test)]
mod test {
    use super::{BlockJob, BlockJobKind};

    #[test]
    fn a_job_that_has_not_begun_is_not_in_step() {
        let job = |done, all| BlockJob { kind: BlockJobKind::from_raw(4), done, all }.in_step();
        assert!(!job(0, 0) && !job(1, 2) && job(2, 2));
        assert_eq!(BlockJobKind::from_raw(77), BlockJobKind::Other(77));
    }
}
