//! What survives the guard but not the boot: leases held and processes watched, in `/run`, with the boot's name.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use roost_protocol::codec;
use roost_ward::door::Process;
use roost_ward::{Kept, WardId};

/// One ward of this boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) kept: Option<Kept>,
    pub(crate) processes: Vec<Process>,
}

/// The folder.
#[derive(Debug)]
pub(crate) struct Keep {
    folder: PathBuf,
    boot: String,
}

impl Keep {
    pub(crate) fn new(folder: &Path, boot: String) -> Self {
        Self { folder: folder.to_owned(), boot }
    }

    fn path(&self, ward: WardId) -> PathBuf {
        self.folder.join(format!("ward-{:016x}", ward.0))
    }

    /// What was kept of a ward in this boot; nothing if it can't be read, which means: no lease.
    pub(crate) fn read(&self, ward: WardId) -> Memory {
        let Ok(bytes) = fs::read(self.path(ward)) else { return Memory::default() };
        match codec::decode::<(String, Option<Kept>, Vec<Process>)>(&bytes) {
            Ok((boot, kept, processes)) if boot == self.boot => Memory { kept, processes },
            Ok(_) => Memory::default(),
            Err(why) => {
                tracing::error!(%ward, %why, "what was kept can't be read");
                Memory::default()
            }
        }
    }

    /// All wards of which something was kept.
    pub(crate) fn wards(&self) -> Vec<WardId> {
        let Ok(files) = fs::read_dir(&self.folder) else { return Vec::new() };
        let names = files.filter_map(|file| file.ok()?.file_name().into_string().ok());
        names.filter_map(|name| u64::from_str_radix(name.strip_prefix("ward-")?, 16).ok().map(WardId)).collect()
    }

    /// Wholly there or as before: the file lies in memory, so nothing is synced.
    pub(crate) fn write(&self, ward: WardId, memory: &Memory) -> io::Result<()> {
        let bytes = codec::encode(&(self.boot.clone(), memory.kept, memory.processes.clone()));
        let (path, new) = (self.path(ward), self.folder.join("new"));
        fs::write(&new, bytes)?;
        fs::rename(new, path)
    }
}

#[cfg(test)]
mod test {
    use roost_protocol::{Epoch, GuestId};
    use roost_ward::Order;

    use super::*;

    #[test]
    fn a_lease_is_kept_in_its_boot_and_not_beyond() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept { epoch: Epoch(3), lease_until_ms: 77, order: Order(2), may_execute: true };
        let process = Process { guest: GuestId::from_u128(1), pid: 42, started: 99 };
        let memory = Memory { kept: Some(kept), processes: vec![process] };
        let keep = Keep::new(folder.path(), "one".into());
        assert_eq!(keep.read(WardId(5)), Memory::default());
        keep.write(WardId(5), &memory).unwrap();
        assert_eq!(Keep::new(folder.path(), "one".into()).read(WardId(5)), memory);
        assert_eq!(Keep::new(folder.path(), "two".into()).read(WardId(5)), Memory::default());
        fs::write(keep.path(WardId(5)), b"\xff").unwrap();
        assert_eq!(keep.read(WardId(5)), Memory::default());
    }
}
