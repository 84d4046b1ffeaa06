//! Where images are made: the key, and what is signed with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use data_encoding::HEXLOWER;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};

use super::manifest::{FILES, Manifest, Whole};
use super::shelf;
use crate::files;

/// Longest file of a key.
const LIMIT: u64 = 16 << 10;
/// An image may be of so much later than this machine's clock. Hosts take nothing older than what they have: one that is
/// of next year would keep them from all images of this year.
const AHEAD: Duration = Duration::from_secs(24 * 3_600);

pub(super) fn make_key(file: &Path) -> anyhow::Result<()> {
    if file.exists() {
        bail!("{} is there already: a key is never written over", file.display());
    }
    let Ok(key) = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()) else {
        bail!("the system gives no random numbers for a key")
    };
    let Ok(pair) = Ed25519KeyPair::from_pkcs8(key.as_ref()) else { bail!("the key that was made can't be read") };
    let public = PathBuf::from(format!("{}.pub", file.display()));
    let text = HEXLOWER.encode(pair.public_key().as_ref());
    fs::write(&public, format!("{text}\n")).with_context(|| format!("write {}", public.display()))?;
    files::write_atomically(file, key.as_ref()).with_context(|| format!("write {}", file.display()))
}

fn read_key(file: &Path) -> anyhow::Result<Ed25519KeyPair> {
    let bytes = files::read_bounded(file, LIMIT).with_context(|| format!("read {}", file.display()))?;
    let bytes = bytes.with_context(|| format!("there is no {}: roost-agent image key makes one", file.display()))?;
    let Ok(key) = Ed25519KeyPair::from_pkcs8(&bytes) else {
        bail!("{} is no Ed25519 key as roost-agent image key makes it", file.display())
    };
    Ok(key)
}

pub(super) fn sign(folder: &Path, key: &Path, version: &str, date: u64) -> anyhow::Result<()> {
    let key = read_key(key)?;
    let latest = (SystemTime::now() + AHEAD).duration_since(SystemTime::UNIX_EPOCH).context("this machine's clock")?;
    if date > latest.as_secs() {
        bail!("the date {date} is still to come: hosts with this image would take no other until then");
    }
    let mut files = [Whole::default(), Whole::default()];
    for (name, file) in FILES.iter().zip(&mut files) {
        *file = shelf::measure(&folder.join(name))?;
    }
    let text = Manifest { version: version.into(), date, files }.sign(&key);
    Manifest::open(text.as_bytes(), key.public_key().as_ref()).context("read again what was signed")?;
    fs::write(folder.join("manifest"), text).context("write the manifest")
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_signs_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key");
        make_key(&key).unwrap();
        assert!(make_key(&key).unwrap_err().to_string().contains("never written over"));
        for name in FILES {
            fs::write(folder.path().join(name), name).unwrap();
        }
        sign(folder.path(), &key, "1.0", 5).unwrap();
        let public =
            HEXLOWER.decode(fs::read_to_string(folder.path().join("key.pub")).unwrap().trim().as_bytes()).unwrap();
        let read = Manifest::open(&fs::read(folder.path().join("manifest")).unwrap(), &public).unwrap();
        assert_eq!((read.version.as_str(), read.date, read.files[0].bytes), ("1.0", 5, 7));
        let why = sign(folder.path(), &folder.path().join("none"), "1.0", 5).unwrap_err();
        assert!(why.to_string().contains("image key makes one"), "{why:#}");
        let why = sign(folder.path(), &key, "1.0", 1_000 * 1_800_000_000).unwrap_err();
        assert!(why.to_string().contains("still to come"), "{why:#}");
    }
}
