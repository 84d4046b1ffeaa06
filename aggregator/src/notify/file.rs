//! Files on the aggregator's machine: one alarm a line, a Common Base Event 1.0.1 in XML, for event servers that read files.
//! Who asks for a notifier can't say where it writes: its name is the file's, in the one folder for them.
//!
//! A line is whole or absent: what a killed aggregator left of one is cut off before the next is written, and so is what a
//! full disk took of a batch. What was written and not known to be is written once more, with the same ids.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use roost_aggregator_core::notify::{Digest, Item, NOTIFIERS, Notifier};
use roost_protocol::Stamp;
use roost_protocol::alarm::Severity;

use super::{Courier, Undelivered, time};
use crate::api::cbe::{self, Element, Situation};

/// Below the aggregator's data folder.
pub(crate) const FOLDER: &str = "events";
/// A file that would become larger is put aside first: some 8,000 alarms.
const LARGEST: u64 = 8 << 20;
/// Files of one notifier that are put aside; with the one that grows 40 MiB.
const OLDER: u32 = 4;
/// Files in the folder: those of notifiers that are gone stay, and someone who makes and deletes them must not fill the disk.
const FILES: usize = 4 * NOTIFIERS * (OLDER as usize + 1);
/// Read at once while the end of the last whole line is looked for.
const BLOCK: u64 = 64 << 10;
/// A host's clock may say anything; this is as late as the format can say, near the end of the year 9999.
const LATEST: Stamp = Stamp(253_402_200_000_000);

/// Where a notifier's file is, below the data folder.
pub(crate) fn place(notifier: &str) -> String {
    format!("{FOLDER}/{notifier}.xml")
}

/// The folder of all these files; one write at a time.
#[derive(Debug)]
pub(super) struct Folder(pub(super) PathBuf);

pub(super) async fn send(courier: &Courier, notifier: &Notifier, digest: &Digest) -> Result<(), Undelivered> {
    let grid = cbe::grid_name(&courier.grid);
    let lines: Vec<String> = digest.items.iter().map(|item| line(&grid, item, digest.test)).collect();
    let name = format!("{}.xml", notifier.name);
    // Kept by the thread that writes, so that a disk that hangs holds up one of them and no more.
    let folder = Arc::clone(&courier.folder).lock_owned().await;
    let path = folder.0.join(&name);
    let written = tokio::task::spawn_blocking(move || folder.append(&name, &lines)).await;
    let written = written.unwrap_or_else(|error| Err(("write to", io::Error::other(error))));
    written.map_err(|(what, source)| Undelivered::File { what, path, source })
}

/// What was tried, and why it did not work.
type Failed = (&'static str, io::Error);

impl Folder {
    /// Adds all of these lines, durable on return, or none of them but those that filled a file.
    fn append(&self, name: &str, lines: &[String]) -> Result<(), Failed> {
        DirBuilder::new().recursive(true).mode(0o750).create(&self.0).map_err(|error| ("make the folder of", error))?;
        let path = self.0.join(name);
        if !path.exists() && fs::read_dir(&self.0).map_err(|error| ("look for", error))?.count() >= FILES {
            let text = format!("{FILES} files are in the folder: remove those of notifiers that are gone");
            return Err(("make", io::Error::other(text)));
        }
        let mut file = open(&path).map_err(|error| ("open", error))?;
        let mut length = whole(&mut file).map_err(|error| ("cut the torn end of", error))?;
        let mut kept = length;
        for line in lines {
            let more = u64::try_from(line.len()).unwrap_or(u64::MAX).saturating_add(1);
            if length > 0 && length.saturating_add(more) > LARGEST {
                file = next(&file, &path).map_err(|error| ("put aside", error))?;
                (length, kept) = (0, 0);
            }
            file.write_all(format!("{line}\n").as_bytes()).map_err(|error| undone(&file, kept, error))?;
            length += more;
        }
        file.sync_data().map_err(|error| undone(&file, kept, error))?;
        // Its name and the folder's, should they be new.
        let folders = [Some(self.0.as_path()), self.0.parent()];
        let kept = folders.into_iter().flatten().try_for_each(|folder| File::open(folder)?.sync_all());
        kept.map_err(|error| ("keep", error))
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(path)
}

/// Its length without what follows its last whole line, which is cut off.
fn whole(file: &mut File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let mut end = length;
    while end > 0 {
        let begin = end.saturating_sub(BLOCK);
        let mut block = Vec::new();
        file.seek(SeekFrom::Start(begin))?;
        (&mut *file).take(end - begin).read_to_end(&mut block)?;
        if let Some(place) = block.iter().rposition(|byte| *byte == b'\n') {
            end = begin + u64::try_from(place).unwrap_or(0) + 1;
            break;
        }
        end = begin;
    }
    if end < length {
        file.set_len(end)?;
    }
    Ok(end)
}

/// The batch is told once more: none of it stays. Where even that fails, what is torn is cut off at the next opening.
fn undone(file: &File, kept: u64, error: io::Error) -> Failed {
    let _ = file.set_len(kept);
    ("write to", error)
}

/// Puts the file aside, the oldest of those that were is gone, and begins a new one.
fn next(file: &File, path: &Path) -> io::Result<File> {
    file.sync_data()?;
    let older = |number: u32| PathBuf::from(format!("{}.{number}", path.display()));
    for number in (1..OLDER).rev() {
        match fs::rename(older(number), older(number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    fs::rename(path, older(1))?;
    open(path)
}

/// One alarm that was raised or is over, or a `test`, which nobody should be woken by.
fn line(grid: &str, item: &Item, test: bool) -> String {
    let (alarm, over) = (&item.alarm, item.cleared.is_some());
    let key = &alarm.key;
    let (id, at) = (key.fingerprint(), time(item.cleared.unwrap_or(alarm.since).min(LATEST)));
    let (host, guest) = (key.host.map(|host| host.to_string()), key.guest.map(|guest| guest.to_string()));
    let since = time(alarm.since.min(LATEST));
    let severity = match (over || test, item.severity()) {
        (true, _) | (false, Severity::Info) => 10,
        (false, Severity::Warning) => 30,
        (false, Severity::Error) => 50,
        (false, Severity::Critical) => 60,
    };
    let kind = match (test, over) {
        (true, _) => "notifier.test",
        (false, false) => "alarm.raised",
        (false, true) => "alarm.cleared",
    };
    let element = Element {
        id: format!(
            "A{grid}{}{:012X}{}",
            id.to_ascii_uppercase(),
            alarm.since.min(LATEST).0,
            if over { 'C' } else { 'R' }
        ),
        time: &at,
        kind,
        severity,
        msg: &format!("{}{}: {}", if over { "over: " } else { "" }, item.what(), item.why()),
        more: vec![
            ("alarm", "string", &id),
            ("code", "string", &key.code),
            ("since", "dateTime", &since),
            ("hostName", "string", alarm.host_name.as_deref().unwrap_or_default()),
            ("guestName", "string", alarm.guest_name.as_deref().unwrap_or_default()),
            ("toDo", "string", item.to_do()),
        ],
        host: host.as_deref(),
        guest: guest.as_deref(),
        situation: Situation::of_alarm(&key.code, over),
    };
    element.alone()
}

#[cfg(test)]
mod test {
    use std::os::unix::fs::symlink;

    use super::*;

    fn lines(count: usize, size: usize) -> Vec<String> {
        (0..count).map(|number| format!("{number:03}") + &"x".repeat(size - 3)).collect()
    }

    fn rig() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder(dir.path().join(FOLDER));
        (dir, folder)
    }

    #[test]
    fn what_a_killed_aggregator_left_of_a_line_is_cut_off() {
        let (_dir, folder) = rig();
        let path = folder.0.join("a.xml");
        folder.append("a.xml", &lines(2, 3)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "000\n001\n");
        for torn in ["x".to_owned(), "x".repeat(usize::try_from(2 * BLOCK).unwrap() + 5), String::new()] {
            fs::write(&path, format!("000\n001\n{torn}")).unwrap();
            folder.append("a.xml", &lines(1, 5)).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "000\n001\n000xx\n");
        }
        fs::write(&path, "nothing but a torn one").unwrap();
        folder.append("a.xml", &lines(1, 5)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "000xx\n");
    }

    #[test]
    fn a_file_that_is_full_is_put_aside_and_the_oldest_one_goes() {
        let (_dir, folder) = rig();
        let size = 1 << 20;
        let sizes = || {
            let all = fs::read_dir(&folder.0).unwrap().map(|entry| entry.unwrap());
            let mut all: Vec<(String, u64)> =
                all.map(|one| (one.file_name().into_string().unwrap(), one.metadata().unwrap().len())).collect();
            all.sort_unstable();
            all
        };
        folder.append("a.xml", &lines(10, size)).unwrap();
        assert_eq!(sizes().iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a.xml", "a.xml.1"]);
        for _ in 0..8 {
            folder.append("a.xml", &lines(10, size)).unwrap();
        }
        let all = sizes();
        assert_eq!(all.len(), 1 + usize::try_from(OLDER).unwrap(), "{all:?}");
        assert!(all.iter().all(|(_, size)| *size <= LARGEST), "{all:?}");
        // Killed between two of the renames: one is missing.
        fs::remove_file(folder.0.join("a.xml.2")).unwrap();
        folder.append("a.xml", &lines(8, size)).unwrap();
        assert!(sizes().len() <= 1 + usize::try_from(OLDER).unwrap());
    }

    #[test]
    fn a_full_disk_is_an_error_that_says_where_and_is_over_when_there_is_room() {
        let (_dir, folder) = rig();
        folder.append("b.xml", &lines(1, 3)).unwrap();
        let path = folder.0.join("a.xml");
        symlink("/dev/full", &path).unwrap();
        let (what, why) = folder.append("a.xml", &lines(1, 3)).unwrap_err();
        assert_eq!((what, why.kind()), ("write to", io::ErrorKind::StorageFull));
        fs::remove_file(&path).unwrap();
        folder.append("a.xml", &lines(1, 3)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "000\n");
    }

    #[test]
    fn what_notifiers_that_are_gone_left_does_not_grow_without_end() {
        let (_dir, folder) = rig();
        fs::create_dir(&folder.0).unwrap();
        (0..FILES).for_each(|number| fs::write(folder.0.join(format!("{number}.xml")), "").unwrap());
        let (_, why) = folder.append("one-more.xml", &lines(1, 3)).unwrap_err();
        assert!(why.to_string().contains("notifiers that are gone"), "{why}");
        folder.append("0.xml", &lines(1, 3)).unwrap();
    }
}
