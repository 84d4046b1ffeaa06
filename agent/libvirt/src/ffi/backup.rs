//! The calls for backups: jobs, checkpoints, snapshots, block jobs, freezing and the picture of the screen.

use super::{
    Connection, Domain, c_text, check, last_error,
    memory::{CArray, CText, MOST_TEXT, MOST_XML, text},
};
use crate::Error;
use libc::{c_char, c_int, c_uint, c_ulong};
use std::ptr::{self, NonNull};
use virt_sys as sys;

/// Bytes taken from a stream at once.
const STREAM_BYTES: usize = 64 * 1024;

/// A call on one disk of a domain that answers with yes or no.
#[derive(Debug, Clone, Copy)]
pub(crate) enum DiskAct {
    /// Active commit into the layer right below.
    Commit {
        bytes_per_s: u64,
    },
    /// Pull all that lies below into the active layer.
    Pull {
        bytes_per_s: u64,
    },
    Abort {
        flags: u32,
    },
    Speed {
        bytes_per_s: u64,
    },
}

/// One reference to a checkpoint, given back on drop.
pub(crate) struct Checkpoint(NonNull<sys::virDomainCheckpoint>);

impl Drop for Checkpoint {
    fn drop(&mut self) {
        // SAFETY: this is our one reference, and it is not used after this.
        unsafe { sys::virDomainCheckpointFree(self.0.as_ptr()) };
    }
}

impl Checkpoint {
    pub(crate) fn name(&self) -> String {
        // SAFETY: live while `self` is; the text belongs to it and is copied at once.
        unsafe { text(sys::virDomainCheckpointGetName(self.0.as_ptr()), MOST_TEXT) }
    }

    pub(crate) fn xml(&self) -> Result<String, Error> {
        let tried = || format!("get the XML of checkpoint {}", self.name());
        // SAFETY: as above; the text is ours to free.
        let xml = unsafe {
            let flags = sys::VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN;
            CText::new(sys::virDomainCheckpointGetXMLDesc(self.0.as_ptr(), flags))
        };
        xml.ok_or_else(|| last_error(tried))?.bounded(MOST_XML, tried)
    }

    pub(crate) fn delete(&self, metadata_only: bool) -> Result<(), Error> {
        let flags = if metadata_only { sys::VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY } else { 0 };
        // SAFETY: as above; the reference stays ours.
        let answer = unsafe { sys::virDomainCheckpointDelete(self.0.as_ptr(), flags) };
        check(answer, || format!("delete checkpoint {}", self.name())).map(drop)
    }
}

impl Domain {
    pub(crate) fn backup_begin(&self, xml: &str, checkpoint: Option<&str>) -> Result<(), Error> {
        let xml = c_text(xml, "begin a backup")?;
        let checkpoint = checkpoint.map(|xml| c_text(xml, "begin a backup")).transpose()?;
        let checkpoint_raw = checkpoint.as_ref().map_or(ptr::null(), |xml| xml.as_ptr());
        // SAFETY: the domain is live while `self` is, so for every `self.raw()` below; both texts outlive the call.
        let answer = unsafe { sys::virDomainBackupBegin(self.raw(), xml.as_ptr(), checkpoint_raw, 0) };
        check(answer, || self.on("begin a backup of")).map(drop)
    }

    pub(crate) fn backup_xml(&self) -> Result<String, Error> {
        let tried = || self.on("get the backup job of");
        // SAFETY: see `backup_begin`; the text is ours to free.
        let xml = unsafe { CText::new(sys::virDomainBackupGetXMLDesc(self.raw(), 0)) };
        xml.ok_or_else(|| last_error(tried))?.bounded(MOST_XML, tried)
    }

    pub(crate) fn abort_job(&self) -> Result<(), Error> {
        // SAFETY: see `backup_begin`.
        let answer = unsafe { sys::virDomainAbortJob(self.raw()) };
        check(answer, || self.on("abort the job of")).map(drop)
    }

    pub(crate) fn create_checkpoint(&self, xml: &str) -> Result<Checkpoint, Error> {
        let c_xml = c_text(xml, "create a checkpoint")?;
        // SAFETY: see `backup_begin`; `c_xml` outlives the call.
        let raw = unsafe { sys::virDomainCheckpointCreateXML(self.raw(), c_xml.as_ptr(), 0) };
        NonNull::new(raw).map(Checkpoint).ok_or_else(|| last_error(|| self.on("create a checkpoint of")))
    }

    /// Parents before their children.
    pub(crate) fn checkpoints(&self) -> Result<Vec<Checkpoint>, Error> {
        let mut array = ptr::null_mut();
        let flags = sys::VIR_DOMAIN_CHECKPOINT_LIST_TOPOLOGICAL;
        // SAFETY: see `backup_begin`; libvirt writes an array that is ours to free, with one reference per entry.
        let count = unsafe { sys::virDomainListAllCheckpoints(self.raw(), &mut array, flags) };
        let count = check(count, || self.on("list the checkpoints of"))?;
        // SAFETY: the array was allocated by libvirt with malloc and holds `count` entries.
        let array = unsafe { CArray::new(array, count) };
        Ok(array.entries().iter().filter_map(|raw| NonNull::new(*raw)).map(Checkpoint).collect())
    }

    pub(crate) fn checkpoint(&self, name: &str) -> Result<Checkpoint, Error> {
        let c_name = c_text(name, "find a checkpoint")?;
        // SAFETY: see `backup_begin`; `c_name` outlives the call.
        let raw = unsafe { sys::virDomainCheckpointLookupByName(self.raw(), c_name.as_ptr(), 0) };
        NonNull::new(raw).map(Checkpoint).ok_or_else(|| last_error(|| self.on(&format!("find checkpoint {name} of"))))
    }

    pub(crate) fn snapshot(&self, xml: &str, flags: u32) -> Result<(), Error> {
        let c_xml = c_text(xml, "create a snapshot")?;
        // SAFETY: see `backup_begin`; `c_xml` outlives the call.
        let raw = unsafe { sys::virDomainSnapshotCreateXML(self.raw(), c_xml.as_ptr(), flags) };
        let snapshot = NonNull::new(raw).ok_or_else(|| last_error(|| self.on("create a snapshot of")))?;
        // SAFETY: our one reference, not used after this.
        unsafe { sys::virDomainSnapshotFree(snapshot.as_ptr()) };
        Ok(())
    }

    pub(crate) fn disk_act(&self, disk: &str, act: DiskAct) -> Result<(), Error> {
        let verb = match act {
            DiskAct::Commit { .. } => "commit",
            DiskAct::Pull { .. } => "pull into",
            DiskAct::Abort { .. } => "end the block job on",
            DiskAct::Speed { .. } => "set the speed of the block job on",
        };
        let tried = || self.on(&format!("{verb} disk {disk} of"));
        let c_disk = c_text(disk, &tried())?;
        let speed = |bytes: u64| c_ulong::try_from(bytes).map_err(|_| Error::Range { tried: tried() });
        let (raw, disk) = (self.raw(), c_disk.as_ptr());
        // SAFETY: see `backup_begin`; `c_disk` outlives the call, null stands for "all layers".
        let answer = unsafe {
            match act {
                DiskAct::Commit { bytes_per_s } => {
                    let flags = sys::VIR_DOMAIN_BLOCK_COMMIT_ACTIVE
                        | sys::VIR_DOMAIN_BLOCK_COMMIT_SHALLOW
                        | sys::VIR_DOMAIN_BLOCK_COMMIT_BANDWIDTH_BYTES;
                    sys::virDomainBlockCommit(raw, disk, ptr::null(), ptr::null(), speed(bytes_per_s)?, flags)
                }
                DiskAct::Pull { bytes_per_s } => {
                    sys::virDomainBlockPull(raw, disk, speed(bytes_per_s)?, sys::VIR_DOMAIN_BLOCK_PULL_BANDWIDTH_BYTES)
                }
                DiskAct::Abort { flags } => sys::virDomainBlockJobAbort(raw, disk, flags),
                DiskAct::Speed { bytes_per_s } => {
                    let flags = sys::VIR_DOMAIN_BLOCK_JOB_SPEED_BANDWIDTH_BYTES;
                    sys::virDomainBlockJobSetSpeed(raw, disk, speed(bytes_per_s)?, flags)
                }
            }
        };
        check(answer, tried).map(drop)
    }

    /// Kind, cursor and end of the job on a disk; none without one.
    pub(crate) fn disk_job(&self, disk: &str) -> Result<Option<(i32, u64, u64)>, Error> {
        let tried = || self.on(&format!("ask for the block job on disk {disk} of"));
        let c_disk = c_text(disk, &tried())?;
        let mut info = sys::virDomainBlockJobInfo { type_: 0, bandwidth: 0, cur: 0, end: 0 };
        // SAFETY: see `backup_begin`; one structure is written.
        let answer = unsafe { sys::virDomainGetBlockJobInfo(self.raw(), c_disk.as_ptr(), &mut info, 0) };
        Ok((check(answer, tried)? == 1).then_some((info.type_, info.cur, info.end)))
    }

    /// Freezes or thaws all file systems; gives how many.
    pub(crate) fn freeze(&self, freeze: bool) -> Result<u32, Error> {
        let all: *mut *const c_char = ptr::null_mut();
        // SAFETY: see `backup_begin`; no mount points mean all of them.
        let (answer, verb) = unsafe {
            match freeze {
                true => (sys::virDomainFSFreeze(self.raw(), all, 0, 0), "freeze the file systems of"),
                false => (sys::virDomainFSThaw(self.raw(), all, 0, 0), "thaw the file systems of"),
            }
        };
        check(answer, || self.on(verb))
    }

    /// How long libvirt waits for the guest agent; none is libvirt's own choice.
    pub(crate) fn set_agent_patience(&self, seconds: Option<u32>) -> Result<(), Error> {
        let tried = || self.on("set the agent's time-out of");
        let seconds = match seconds {
            Some(seconds) => c_int::try_from(seconds).map_err(|_| Error::Range { tried: tried() })?,
            None => sys::VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_DEFAULT,
        };
        // SAFETY: see `backup_begin`.
        let answer = unsafe { sys::virDomainAgentSetResponseTimeout(self.raw(), seconds, 0) };
        check(answer, tried).map(drop)
    }

    /// The picture of the first screen, and its MIME type.
    pub(crate) fn screenshot(&self, connection: &Connection, limit: usize) -> Result<(String, Vec<u8>), Error> {
        let tried = || self.on("take a picture of the screen of");
        let stream = Stream::new(connection)?;
        // SAFETY: see `backup_begin`; the stream is live, the answer ours to free.
        let mime = unsafe { CText::new(sys::virDomainScreenshot(self.raw(), stream.0.as_ptr(), 0, 0)) };
        let mime = mime.ok_or_else(|| last_error(tried))?.bounded(MOST_TEXT, tried)?;
        Ok((mime, stream.read_all(limit, &tried)?))
    }
}

/// One stream, given back on drop.
struct Stream(NonNull<sys::virStream>);

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: this is our one reference, and it is not used after this.
        unsafe { sys::virStreamFree(self.0.as_ptr()) };
    }
}

impl Stream {
    fn new(connection: &Connection) -> Result<Self, Error> {
        let blocking: c_uint = 0;
        // SAFETY: the connection is live.
        let raw = unsafe { sys::virStreamNew(connection.raw(), blocking) };
        NonNull::new(raw).map(Self).ok_or_else(|| last_error(|| "open a stream".into()))
    }

    fn read_all(&self, limit_bytes: usize, tried: &impl Fn() -> String) -> Result<Vec<u8>, Error> {
        let mut all = Vec::new();
        let mut part = vec![0u8; STREAM_BYTES];
        loop {
            // SAFETY: the stream is live; libvirt writes at most `part.len()` bytes.
            let got = unsafe { sys::virStreamRecv(self.0.as_ptr(), part.as_mut_ptr().cast(), part.len()) };
            let got = check(got, tried)? as usize;
            if got == 0 {
                break;
            }
            if all.len() + got > limit_bytes {
                self.abort();
                return Err(Error::Oversize { tried: tried(), limit_bytes });
            }
            all.extend_from_slice(&part[..got.min(part.len())]);
        }
        // SAFETY: as above.
        let answer = unsafe { sys::virStreamFinish(self.0.as_ptr()) };
        check(answer, tried)?;
        Ok(all)
    }

    fn abort(&self) {
        // SAFETY: the stream is live.
        if unsafe { sys::virStreamAbort(self.0.as_ptr()) } < 0 {
            drop(last_error(|| "abort a stream".into()));
        }
    }
}
