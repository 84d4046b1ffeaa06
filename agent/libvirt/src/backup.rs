//! Backup jobs, checkpoints and snapshots of one domain.

use crate::{Code, Error, Hypervisor, Uuid};
use virt_sys as sys;

/// A dirty-bitmap mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointInfo {
    /// Its name, unique in the domain.
    pub name: String,
    /// What libvirt keeps of it: disks with the name of their bitmap.
    pub xml: String,
}

impl Hypervisor {
    /// Begins a backup job, at the same moment as a checkpoint when one is given. Scratch files that libvirt makes it
    /// removes when the job ends; [`Hypervisor::abort_job`] is how a pull job ends.
    ///
    /// # Errors
    /// [`Code::CheckpointInconsistent`] when a bitmap it needs is missing or broken; [`Code::OperationInvalid`] when the
    /// domain is off; [`Code::OperationTimeout`] while another job holds it.
    pub fn backup_begin(&self, uuid: &Uuid, xml: &str, checkpoint: Option<&str>) -> Result<(), Error> {
        self.connection.lookup(uuid)?.backup_begin(xml, checkpoint)
    }

    /// The backup job of a domain; none without one.
    ///
    /// # Errors
    /// See [`Hypervisor`].
    pub fn backup_job(&self, uuid: &Uuid) -> Result<Option<String>, Error> {
        match self.connection.lookup(uuid)?.backup_xml() {
            Ok(xml) => Ok(Some(xml)),
            Err(error) if matches!(error.code(), Some(Code::NoBackup | Code::OperationInvalid)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Ends the job of a domain, whatever it is (backup, migration, save).
    ///
    /// # Errors
    /// [`Code::OperationInvalid`] without one.
    pub fn abort_job(&self, uuid: &Uuid) -> Result<(), Error> {
        self.connection.lookup(uuid)?.abort_job()
    }

    /// Makes a checkpoint of a running domain.
    ///
    /// # Errors
    /// [`Code::OperationInvalid`] when it is off; [`Code::Unsupported`] or [`Code::ConfigUnsupported`] on raw disks.
    pub fn checkpoint_create(&self, uuid: &Uuid, xml: &str) -> Result<(), Error> {
        self.connection.lookup(uuid)?.create_checkpoint(xml).map(drop)
    }

    /// All checkpoints of a domain, older before younger.
    ///
    /// # Errors
    /// See [`Hypervisor`]; [`Code::NoCheckpoint`] for one that vanished meanwhile.
    pub fn checkpoints(&self, uuid: &Uuid) -> Result<Vec<CheckpointInfo>, Error> {
        let all = self.connection.lookup(uuid)?.checkpoints()?;
        all.iter().map(|one| Ok(CheckpointInfo { name: one.name(), xml: one.xml()? })).collect()
    }

    /// Forgets a checkpoint with its bitmaps. One whose bitmaps are lost (QEMU was killed), or of a stopped domain, is
    /// forgotten by libvirt alone; a bitmap left in an image does no harm and goes when its name is used again.
    ///
    /// # Errors
    /// [`Code::NoCheckpoint`] when there is none.
    pub fn checkpoint_delete(&self, uuid: &Uuid, name: &str) -> Result<(), Error> {
        let checkpoint = self.connection.lookup(uuid)?.checkpoint(name)?;
        match checkpoint.delete(false) {
            Err(error) if !error.is_connection_lost() && error.code() != Some(Code::OperationTimeout) => {
                checkpoint.delete(true)
            }
            answer => answer,
        }
    }

    /// Puts overlay files that are there already over the disks of a running domain, at one moment; libvirt keeps no
    /// snapshot of it, only the new chain.
    ///
    /// # Errors
    /// [`Code::OperationInvalid`] when it is off; [`Code::OperationFailed`] or [`Code::Internal`] when QEMU can't.
    pub fn snapshot_onto_overlays(&self, uuid: &Uuid, xml: &str) -> Result<(), Error> {
        let flags = sys::VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
            | sys::VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
            | sys::VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT
            | sys::VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC;
        self.connection.lookup(uuid)?.snapshot(xml, flags)
    }
}
