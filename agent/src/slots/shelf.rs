//! The slots as they lie on the data disk. An image is there once its manifest is, which is written last.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use data_encoding::HEXLOWER;
use ring::digest::{self, SHA256};

use super::choose::{self, Name, Record, Slot};
use super::manifest::{self, FILES, Manifest, Whole};
use crate::files;

const MANIFEST: &str = "manifest";
const RECORD: &str = "record";
/// How a slot is filled. The old image goes first, by its manifest, and the new manifest comes last: between them the
/// slot is empty, wherever the power goes.
const STEPS: [Step; 7] = [
    Step::Remove(MANIFEST),
    Step::Remove(RECORD),
    Step::Remove(FILES[0]),
    Step::Remove(FILES[1]),
    Step::Fetch(0),
    Step::Fetch(1),
    Step::Seal,
];
/// Longest record.
const LINE: u64 = 4 << 10;
/// Bytes that are copied at a time.
const PIECE: usize = 1 << 20;

/// A folder with two slots, and the key whose images it takes.
#[derive(Debug)]
pub(super) struct Shelf {
    pub(super) folder: PathBuf,
    pub(super) key: Vec<u8>,
}

/// Each is on the disk before the next begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Remove(&'static str),
    /// One of [`FILES`].
    Fetch(usize),
    /// The manifest.
    Seal,
}

/// An image that was offered, and the slot it is for.
#[derive(Debug)]
struct Offer {
    name: Name,
    bytes: Vec<u8>,
    manifest: Manifest,
}

/// Where a new image comes from, file by file.
pub(super) type Source<'a> = dyn FnMut(&str) -> anyhow::Result<Box<dyn Read>> + 'a;

impl Shelf {
    /// Images whose manifest is believed, and why others are not.
    pub(super) fn look(&self) -> (Vec<Slot>, Vec<String>) {
        let (mut slots, mut problems) = (Vec::new(), Vec::new());
        for name in Name::BOTH {
            match self.slot(name) {
                Ok(Some(slot)) => slots.push(slot),
                Ok(None) => {}
                Err(why) => problems.push(format!("the image in slot {} is not used: {why:#}", name.word())),
            }
        }
        (slots, problems)
    }

    fn slot(&self, name: Name) -> anyhow::Result<Option<Slot>> {
        let read = files::read_bounded(&self.at(name, MANIFEST), manifest::LIMIT).context("read its manifest")?;
        let Some(bytes) = read else { return Ok(None) };
        let read = Manifest::open(&bytes, &self.key)?;
        let line = files::read_bounded(&self.at(name, RECORD), LINE).ok().flatten().unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        // One of another image says nothing.
        let record = match line.split_once(' ') {
            Some((of, record)) if of == manifest::name(&bytes) => Record::parse(record),
            Some(_) | None => Record::Trial(0),
        };
        Ok(Some(Slot { name, manifest: read, record }))
    }

    /// Keeps what is known of the image in a slot, before anything is done about it.
    pub(super) fn note(&self, name: Name, record: &Record) -> anyhow::Result<()> {
        let bytes = fs::read(self.at(name, MANIFEST)).context("read the manifest")?;
        let line = format!("{} {}\n", manifest::name(&bytes), record.text());
        files::write_atomically(&self.at(name, RECORD), line.as_bytes()).context("write the record")
    }

    /// Copies an image's files to memory, and fails where they are not those that were signed.
    pub(super) fn load(&self, slot: &Slot, to: &Path) -> anyhow::Result<()> {
        for (name, whole) in FILES.iter().zip(&slot.manifest.files) {
            let from = File::open(self.at(slot.name, name)).with_context(|| format!("open its {name}"))?;
            copy(from, &to.join(name), whole).with_context(|| format!("its {name}"))?;
        }
        Ok(())
    }

    /// Takes a new image, if there is one.
    pub(super) fn take(
        &self,
        source: &mut Source<'_>,
        running: (Option<Name>, u64),
    ) -> anyhow::Result<Option<(Name, Manifest)>> {
        let Some(offer) = self.offer(source, running)? else { return Ok(None) };
        for step in STEPS {
            self.step(step, &offer, source)?;
        }
        Ok(Some((offer.name, offer.manifest)))
    }

    /// What the source has, where it is news.
    fn offer(&self, source: &mut Source<'_>, running: (Option<Name>, u64)) -> anyhow::Result<Option<Offer>> {
        let mut bytes = Vec::new();
        source(MANIFEST)?.take(manifest::LIMIT).read_to_end(&mut bytes).context("read the manifest")?;
        if bytes.is_empty() {
            bail!("no manifest is served there");
        }
        let manifest = Manifest::open(&bytes, &self.key)?;
        let (slots, _) = self.look();
        if !choose::is_news(manifest.date, running.1, &slots) {
            return Ok(None);
        }
        if choose::is_on_trial(running.0, &slots) {
            bail!("the image that runs is not known to be good yet, so the one before must stay");
        }
        Ok(Some(Offer { name: choose::room(running.0, &slots), bytes, manifest }))
    }

    fn step(&self, step: Step, offer: &Offer, source: &mut Source<'_>) -> anyhow::Result<()> {
        match step {
            Step::Remove(file) => remove(&self.at(offer.name, file)),
            Step::Fetch(which) => {
                let (file, whole) = (FILES[which], &offer.manifest.files[which]);
                files::make_folder(&self.folder.join(offer.name.word()), 0o700).context("make the slot")?;
                files::sync_folder(&self.folder).context("keep the slot")?;
                copy(source(file)?, &self.at(offer.name, file), whole).with_context(|| format!("take {file}"))
            }
            Step::Seal => {
                files::write_atomically(&self.at(offer.name, MANIFEST), &offer.bytes).context("write the manifest")
            }
        }
    }

    fn at(&self, name: Name, file: &str) -> PathBuf {
        self.folder.join(name.word()).join(file)
    }
}

/// Gone, and known to be gone after a power cut too.
fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => {
            files::sync_folder(path.parent().unwrap_or(path)).with_context(|| format!("remove {}", path.display()))
        }
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(why) => Err(why).with_context(|| format!("remove {}", path.display())),
    }
}

/// Length and sum of a file.
pub(super) fn measure(path: &Path) -> anyhow::Result<Whole> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    run_through(file, u64::MAX, |_| Ok(())).with_context(|| format!("read {}", path.display()))
}

/// Copies exactly what was signed, and syncs it; where it is something else the copy is left without use.
fn copy(from: impl Read, to: &Path, whole: &Whole) -> anyhow::Result<()> {
    let mut file = File::create(to).with_context(|| format!("write {}", to.display()))?;
    let found = run_through(from, whole.bytes.saturating_add(1), |piece| file.write_all(piece))?;
    file.sync_all().with_context(|| format!("sync {}", to.display()))?;
    if found != *whole {
        bail!("it is not what was signed: {} bytes of {}", found.bytes, whole.bytes);
    }
    Ok(())
}

fn run_through(from: impl Read, limit: u64, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<Whole> {
    let (mut from, mut piece) = (from.take(limit), vec![0; PIECE]);
    let (mut sum, mut bytes) = (digest::Context::new(&SHA256), 0);
    loop {
        let read = from.read(&mut piece)?;
        if read == 0 {
            return Ok(Whole { bytes, sha256: HEXLOWER.encode(sum.finish().as_ref()) });
        }
        sum.update(&piece[..read]);
        each(&piece[..read])?;
        bytes += u64::try_from(read).unwrap_or(u64::MAX);
    }
}

#[cfg(test)]
mod test {
    use ring::signature::{Ed25519KeyPair, KeyPair};

    use super::*;

    const FLOOR: (Option<Name>, u64) = (None, 10);

    fn key() -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap()
    }

    fn shelf() -> (tempfile::TempDir, Shelf) {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf { folder: folder.path().into(), key: key().public_key().as_ref().to_vec() };
        (folder, shelf)
    }

    /// What a server has of an image of this date.
    fn served(file: &str, date: u64) -> Vec<u8> {
        let text = |name: &str| format!("{name} of {date}").repeat(1_000).into_bytes();
        let whole = |name: &str| run_through(&text(name)[..], u64::MAX, |_| Ok(())).unwrap();
        let files = [whole(FILES[0]), whole(FILES[1])];
        match file {
            MANIFEST => Manifest { version: "1".into(), date, files }.sign(&key()).into_bytes(),
            name => text(name),
        }
    }

    fn take(shelf: &Shelf, running: (Option<Name>, u64), date: u64) -> anyhow::Result<Option<(Name, Manifest)>> {
        shelf.take(&mut |file| Ok(Box::new(io::Cursor::new(served(file, date)))), running)
    }

    #[test]
    fn an_image_is_taken_once_and_loaded_as_it_was_signed() {
        let (folder, shelf) = shelf();
        let (name, _) = take(&shelf, FLOOR, 11).unwrap().unwrap();
        assert_eq!(take(&shelf, FLOOR, 11).unwrap(), None, "it is there");
        assert_eq!(take(&shelf, (None, 12), 12).unwrap(), None, "it runs");
        let slot = shelf.look().0.remove(0);
        assert_eq!((slot.name, &slot.record), (name, &Record::Trial(0)));
        let to = folder.path().join("memory");
        fs::create_dir(&to).unwrap();
        shelf.load(&slot, &to).unwrap();
        assert_eq!(fs::read(to.join("initrd.img")).unwrap(), served("initrd.img", 11));
    }

    /// What the disk holds when the power goes after so many whole steps, and within the next.
    fn cut(shelf: &Shelf, whole: usize) {
        let mut source =
            |file: &str| -> anyhow::Result<Box<dyn Read>> { Ok(Box::new(io::Cursor::new(served(file, 13)))) };
        let offer = shelf.offer(&mut source, (Some(Name::A), 11)).unwrap().unwrap();
        for step in &STEPS[..whole] {
            shelf.step(*step, &offer, &mut source).unwrap();
        }
        match STEPS.get(whole) {
            Some(Step::Fetch(which)) => {
                let mut half = |file: &str| -> anyhow::Result<Box<dyn Read>> {
                    let bytes = served(file, 13);
                    Ok(Box::new(io::Cursor::new(bytes[..bytes.len() / 2].to_vec())))
                };
                shelf.step(Step::Fetch(*which), &offer, &mut half).unwrap_err();
            }
            Some(Step::Seal) => fs::write(shelf.at(offer.name, "manifest.new"), &offer.bytes[..50]).unwrap(),
            Some(Step::Remove(_)) | None => {}
        }
    }

    #[test]
    fn a_power_cut_at_any_step_leaves_the_good_image_and_no_half_one_and_the_next_try_succeeds() {
        for whole in 0..STEPS.len() {
            let (_folder, shelf) = shelf();
            // One that is good and runs, and the other slot full of one that was given up.
            for (date, record) in [(11, Record::Good), (12, Record::Bad("why".into()))] {
                let (name, _) = take(&shelf, FLOOR, date).unwrap().unwrap();
                shelf.note(name, &record).unwrap();
            }
            cut(&shelf, whole);
            let (slots, problems) = shelf.look();
            assert_eq!(problems, Vec::<String>::new(), "after {whole} steps");
            assert_eq!(choose::choose(10, &slots), choose::Choice::Start(Name::A, Record::Good), "after {whole} steps");
            let (new, _) = take(&shelf, (Some(Name::A), 11), 13).unwrap().unwrap();
            assert_eq!(new, Name::B);
            let slot = shelf.look().0.remove(1);
            assert_eq!(slot.record, Record::Trial(0), "after {whole} steps the new one has the record of the old");
            let to = tempfile::tempdir().unwrap();
            shelf.load(&slot, to.path()).unwrap();
        }
    }

    #[test]
    fn while_what_runs_is_on_trial_nothing_is_taken() {
        let (_folder, shelf) = shelf();
        let (good, _) = take(&shelf, FLOOR, 11).unwrap().unwrap();
        shelf.note(good, &Record::Good).unwrap();
        let (new, _) = take(&shelf, FLOOR, 12).unwrap().unwrap();
        shelf.note(new, &Record::Trial(1)).unwrap();
        let why = take(&shelf, (Some(new), 12), 13).unwrap_err().to_string();
        assert!(why.contains("not known to be good"), "{why}");
        shelf.note(new, &Record::Good).unwrap();
        assert_eq!(take(&shelf, (Some(new), 12), 13).unwrap().unwrap().0, good);
    }

    #[test]
    fn a_source_that_has_nothing_or_too_much_says_so_and_changes_nothing() {
        let (_folder, shelf) = shelf();
        take(&shelf, FLOOR, 11).unwrap().unwrap();
        let before = shelf.look();
        for (served, word) in [(0, "no manifest is served"), (1 << 20, "not signed by the key")] {
            let why = shelf.take(&mut |_| Ok(Box::new(io::repeat(b'x').take(served))), FLOOR).unwrap_err().to_string();
            assert!(why.contains(word), "{why}");
        }
        assert_eq!(shelf.look(), before);
    }

    #[test]
    fn a_changed_file_is_not_loaded_and_a_changed_manifest_is_not_believed() {
        let (folder, shelf) = shelf();
        let (name, _) = take(&shelf, FLOOR, 11).unwrap().unwrap();
        let slot = shelf.look().0.remove(0);
        let (file, manifest) = (shelf.at(name, "initrd.img"), shelf.at(name, MANIFEST));
        let mut bytes = fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&file, &bytes).unwrap();
        let why = format!("{:#}", shelf.load(&slot, folder.path()).unwrap_err());
        assert!(why.contains("initrd.img") && why.contains("not what was signed"), "{why}");
        bytes.push(0);
        fs::write(&file, &bytes).unwrap();
        assert!(shelf.load(&slot, folder.path()).is_err(), "one that is longer");
        let text = fs::read_to_string(&manifest).unwrap().replace("date 11", "date 99");
        fs::write(&manifest, text).unwrap();
        let (slots, problems) = shelf.look();
        assert!(slots.is_empty() && problems[0].contains("not signed by the key"), "{problems:?}");
    }

    #[test]
    fn a_record_of_another_image_says_nothing() {
        let (_folder, shelf) = shelf();
        let (name, _) = take(&shelf, FLOOR, 11).unwrap().unwrap();
        shelf.note(name, &Record::Good).unwrap();
        assert_eq!(shelf.look().0[0].record, Record::Good);
        fs::write(shelf.at(name, MANIFEST), served(MANIFEST, 12)).unwrap();
        assert_eq!(shelf.look().0[0].record, Record::Trial(0));
    }
}
