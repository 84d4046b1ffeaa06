//! What survives the guard but not the boot: leases held, and when the watchdog was petted for the last time in its test, in
//! `/run`, with the boot's name.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use roost_protocol::failover::WatchdogTest;
use roost_protocol::{Stamp, Time, codec};
use roost_ward::{Kept, WardId};

/// The file of the watchdog's test.
const PETTED: &str = "petted";

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

    /// The lease kept of a ward in this boot; none if it can't be read.
    pub(crate) fn read(&self, ward: WardId) -> Option<Kept> {
        let bytes = fs::read(self.path(ward)).ok()?;
        match codec::decode::<(String, Kept)>(&bytes) {
            Ok((boot, kept)) => (boot == self.boot).then_some(kept),
            Err(why) => {
                tracing::error!(%ward, %why, "the lease that was kept can't be read");
                None
            }
        }
    }

    /// When the watchdog was petted last before this test, if that was in this boot.
    pub(crate) fn petted(&self, test: &WatchdogTest) -> Option<Time> {
        let bytes = fs::read(self.folder.join(PETTED)).ok()?;
        let (boot, began, petted) = codec::decode::<(String, Stamp, u64)>(&bytes).ok()?;
        (boot == self.boot && began == test.at).then_some(Time(petted))
    }

    /// This test survives this guard from here on.
    pub(crate) fn keep_petted(&self, test: &WatchdogTest, petted: Time) -> io::Result<()> {
        fs::write(self.folder.join(PETTED), codec::encode(&(self.boot.clone(), test.at, petted.0)))
    }

    /// Wholly there or as before: the file lies in memory, so nothing is synced.
    pub(crate) fn write(&self, ward: WardId, kept: Option<Kept>) -> io::Result<()> {
        let path = self.path(ward);
        let Some(kept) = kept else {
            return match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                Ok(()) | Err(_) => Ok(()),
            };
        };
        let new = self.folder.join("new");
        fs::write(&new, codec::encode(&(self.boot.clone(), kept)))?;
        fs::rename(new, path)
    }
}

#[cfg(test)]
mod test {
    use roost_protocol::Epoch;
    use roost_protocol::failover::Fencing;
    use roost_ward::Order;

    use super::*;

    #[test]
    fn a_test_of_the_watchdog_is_under_way_in_its_boot_and_not_beyond() {
        let folder = tempfile::tempdir().unwrap();
        let keep = |boot: &str| Keep::new(folder.path(), boot.into());
        let test = |at| roost_ward::selftest::begun(Fencing::Parent, Stamp(at));
        assert_eq!(keep("one").petted(&test(5)), None);
        keep("one").keep_petted(&test(5), Time(77)).unwrap();
        assert_eq!(keep("one").petted(&test(5)), Some(Time(77)));
        assert_eq!(keep("one").petted(&test(6)), None, "another test");
        assert_eq!(keep("two").petted(&test(5)), None);
    }

    #[test]
    fn a_lease_is_kept_in_its_boot_and_not_beyond() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept { epoch: Epoch(3), lease_until_ms: 77, order: Order(2), may_execute: true };
        let keep = Keep::new(folder.path(), "one".into());
        assert_eq!(keep.read(WardId(5)), None);
        keep.write(WardId(5), Some(kept)).unwrap();
        assert_eq!(Keep::new(folder.path(), "one".into()).read(WardId(5)), Some(kept));
        assert_eq!(Keep::new(folder.path(), "two".into()).read(WardId(5)), None);
        fs::write(keep.path(WardId(5)), b"\xff").unwrap();
        assert_eq!(keep.read(WardId(5)), None);
        keep.write(WardId(5), None).unwrap();
        keep.write(WardId(5), None).unwrap();
        assert!(!keep.path(WardId(5)).exists());
    }
}
