//! Copies of points in folders: another store there, of which only the chunks travel that it lacks.

use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use roost_protocol::PointId;
use roost_protocol::operation::{Failure, FailureCode};
use roost_store::{Adopted, Store};

use super::store_failure;
use crate::act::failure;
use crate::pace::Pace;

/// Whether the host's owner allows copies in this folder.
pub(super) fn check(allowed: &[PathBuf], path: &str) -> Result<(), Failure> {
    let folder = Path::new(path);
    let plain = folder.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !plain || !allowed.iter().any(|allowed| folder.starts_with(allowed)) {
        let text = format!("{path} is not in a folder that this host allows for backups: add it to backup_targets");
        return Err(failure(FailureCode::Invalid, text));
    }
    Ok(())
}

/// Brings one point there, whole and checked. Done again it goes on where it was.
pub(crate) fn ship(
    from: &Store,
    to: &Store,
    point: PointId,
    bandwidth: Option<u64>,
    unwanted: &AtomicBool,
    tell: &dyn Fn(u32, &str),
) -> Result<(), Failure> {
    let here = |error| store_failure("read the point", &error);
    let there = |error| store_failure("write the copy", &error);
    let hold = from.hold(point).map_err(here)?;
    let mut intake = to.intake().map_err(there)?;
    let mut pace = Pace::new(bandwidth);
    let mut sent = 0_u64;
    loop {
        let missing = match intake.adopt_point(hold.manifest()).map_err(there)? {
            Adopted::Point(_) => return Ok(()),
            Adopted::Missing(missing) => missing,
        };
        for id in missing {
            if unwanted.load(Ordering::Relaxed) {
                return Err(failure(FailureCode::Cancelled, "the copy was cancelled; what is there is used next time"));
            }
            let bytes = from.raw(id).map_err(here)?;
            pace.passed(bytes.len());
            intake.adopt(id, &bytes).map_err(there)?;
            sent = sent.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
            // How much is to come is seen only on the way, so there is no percentage.
            tell(0, &format!("{} MiB copied", sent >> 20));
        }
    }
}
