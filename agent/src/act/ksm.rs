//! Writes the knobs of page sharing, in the order the kernel takes them, and keeps on disk how they were before.

use std::io;
use std::path::{Path, PathBuf};

use roost_agent_core::memory::Knobs;
use serde::{Deserialize, Serialize};

use crate::files;

/// Where they lie.
pub(crate) const FOLDER: &str = "/sys/kernel/mm/ksm";
/// Largest file with knobs as found.
const FOUND_BYTES: u64 = 4 << 10;

/// One knob that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("write {value} to {path}")]
pub(crate) struct KnobError {
    path: PathBuf,
    value: String,
    source: io::Error,
}

/// Writes those that are set. All are tried; the first failure is told.
pub(crate) fn write(folder: &Path, knobs: &Knobs) -> Result<(), KnobError> {
    let mode = |on: bool| String::from(if on { "scan-time" } else { "none" });
    let number = |value: Option<u64>| value.map(|value| value.to_string());
    // The advisor owns pages_to_scan while it is on; so it goes first when it goes off, and last when it comes on.
    let all = [
        ("advisor_mode", knobs.advisor.filter(|on| !on).map(mode)),
        ("pages_to_scan", number(knobs.pages_to_scan)),
        ("sleep_millisecs", number(knobs.sleep_ms)),
        ("smart_scan", number(knobs.smart_scan)),
        ("use_zero_pages", number(knobs.use_zero_pages)),
        ("advisor_max_cpu", number(knobs.advisor_cpu_percent)),
        ("advisor_target_scan_time", number(knobs.advisor_target_s)),
        ("advisor_min_pages_to_scan", number(knobs.advisor_least_pages)),
        ("advisor_mode", knobs.advisor.filter(|on| *on).map(mode)),
        ("run", number(knobs.run)),
    ];
    let mut first = Ok(());
    for (name, value) in all {
        let Some(value) = value else { continue };
        let path = folder.join(name);
        // Never made anew: a knob that isn't there is an error.
        let written = std::fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()));
        if let Err(source) = written
            && first.is_ok()
        {
            first = Err(KnobError { path, value, source });
        }
    }
    first
}

/// Knobs as they were before this boot's first agent changed them, so that a killed agent's successor gives back the
/// right ones.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Found {
    boot: String,
    run: Option<u64>,
    pages_to_scan: Option<u64>,
    sleep_ms: Option<u64>,
    advisor: Option<bool>,
    advisor_cpu_percent: Option<u64>,
    advisor_target_s: Option<u64>,
    advisor_least_pages: Option<u64>,
    smart_scan: Option<u64>,
    use_zero_pages: Option<u64>,
}

/// Keeps the knobs as found; done before the first write.
pub(crate) fn keep_found(file: &Path, boot: &str, knobs: &Knobs) -> io::Result<()> {
    let Knobs { run, pages_to_scan, sleep_ms, advisor, advisor_cpu_percent, .. } = knobs.clone();
    let Knobs { advisor_target_s, advisor_least_pages, smart_scan, use_zero_pages, .. } = knobs.clone();
    let found = Found {
        boot: boot.into(),
        run,
        pages_to_scan,
        sleep_ms,
        advisor,
        advisor_cpu_percent,
        advisor_target_s,
        advisor_least_pages,
        smart_scan,
        use_zero_pages,
    };
    files::write_atomically(file, &serde_json::to_vec(&found).map_err(io::Error::other)?)
}

/// The knobs that an earlier agent of this boot found; none after a reboot, which resets them.
pub(crate) fn found(file: &Path, boot: &str) -> Option<Knobs> {
    let bytes = files::read_bounded(file, FOUND_BYTES).ok()??;
    let found: Found = serde_json::from_slice(&bytes).ok()?;
    (found.boot == boot).then_some(Knobs {
        run: found.run,
        pages_to_scan: found.pages_to_scan,
        sleep_ms: found.sleep_ms,
        advisor: found.advisor,
        advisor_cpu_percent: found.advisor_cpu_percent,
        advisor_target_s: found.advisor_target_s,
        advisor_least_pages: found.advisor_least_pages,
        smart_scan: found.smart_scan,
        use_zero_pages: found.use_zero_pages,
    })
}

#[cfg(test)]
mod test {
    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        names.iter().for_each(|name| std::fs::write(folder.path().join(name), "x").unwrap());
        folder
    }

    #[test]
    fn only_knobs_that_are_set_are_written() {
        let folder = folder(&["run", "pages_to_scan", "advisor_mode", "sleep_millisecs"]);
        let knobs = Knobs { run: Some(1), advisor: Some(false), pages_to_scan: Some(500), ..Knobs::default() };
        write(folder.path(), &knobs).unwrap();
        let text = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!((text("run").as_str(), text("pages_to_scan").as_str()), ("1", "500"));
        assert_eq!((text("advisor_mode").as_str(), text("sleep_millisecs").as_str()), ("none", "x"));
    }

    #[test]
    fn a_missing_knob_is_told_and_the_others_are_written() {
        let folder = folder(&["run"]);
        let error = write(folder.path(), &Knobs { run: Some(0), smart_scan: Some(1), ..Knobs::default() }).unwrap_err();
        assert!(error.to_string().contains("smart_scan"), "{error}");
        assert_eq!(std::fs::read_to_string(folder.path().join("run")).unwrap(), "0");
        assert!(!folder.path().join("smart_scan").exists());
    }

    #[test]
    fn knobs_as_found_outlive_the_agent_but_not_the_boot() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ksm-found");
        let knobs = Knobs { run: Some(0), advisor: Some(true), sleep_ms: Some(20), ..Knobs::default() };
        keep_found(&file, "boot-1", &knobs).unwrap();
        assert_eq!(found(&file, "boot-1"), Some(knobs));
        assert_eq!((found(&file, "boot-2"), found(&dir.path().join("none"), "boot-1")), (None, None));
        std::fs::write(&file, "nonsense").unwrap();
        assert_eq!(found(&file, "boot-1"), None);
    }
}
