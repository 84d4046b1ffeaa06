//! The key file of an encrypted backup store: made and rotated by a command, read at the agent's start.
//!
//! It holds a domain secret, which never changes, and data keys, newest first. New data is sealed with the first; the
//! others still open what they sealed, until collection has rewritten it. Hosts and folders that exchange points have
//! the same domain secret: copy the file, don't make a second one.

use std::fmt::Write;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use ring::rand::{SecureRandom, SystemRandom};
use roost_store::Encryption;
use serde::Deserialize;

use crate::files;

/// Longest key file: some dozens of keys.
const LONGEST: u64 = 8 << 10;
/// Bits of a file's mode that let others in.
const OTHERS: u32 = 0o077;

/// Why there is no key to be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("read the key file {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("there is no key file {0}; make one: roost-agent store new-key {0}")]
    Missing(PathBuf),
    #[error("the key file {path} may be read by others (mode {mode:o}): chmod 600 {path}")]
    Open { path: PathBuf, mode: u32 },
    #[error("the key file {path} belongs to user {owner}: chown root {path}")]
    Owner { path: PathBuf, owner: u32 },
    #[error("the key file {path} is not as it was made: {why}")]
    Broken { path: PathBuf, why: String },
    #[error("{0} is there already; a store is lost without its key: use rotate-key, or choose another name")]
    There(PathBuf),
    #[error("write the key file {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("no random numbers to be had")]
    Random,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    domain: String,
    keys: Vec<String>,
}

/// The secrets in a file that nobody but its owner, root or us, can read.
pub(crate) fn read(path: &Path) -> Result<Encryption, KeyError> {
    let failed = |source| KeyError::Read { path: path.into(), source };
    let about = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(KeyError::Missing(path.into())),
        other => other.map_err(failed)?,
    };
    if about.mode() & OTHERS != 0 {
        return Err(KeyError::Open { path: path.into(), mode: about.mode() & 0o777 });
    }
    if about.uid() != 0 && about.uid() != nix::unistd::geteuid().as_raw() {
        return Err(KeyError::Owner { path: path.into(), owner: about.uid() });
    }
    let bytes = files::read_bounded(path, LONGEST).map_err(failed)?;
    let bytes = bytes.ok_or_else(|| KeyError::Missing(path.into()))?;
    let broken = |why: &str| KeyError::Broken { path: path.into(), why: why.into() };
    // What a parser says of a secret's line is not repeated.
    let text = std::str::from_utf8(&bytes).map_err(|_| broken("it is not text"))?;
    let file: KeyFile = toml::from_str(text).map_err(|_| broken("it has no `domain` and `keys`"))?;
    let secret = |text: &String| unhex(text).ok_or_else(|| broken("a secret is not 64 hexadecimal digits"));
    let mut keys = file.keys.iter().map(secret).collect::<Result<Vec<_>, _>>()?.into_iter();
    let current = keys.next().ok_or_else(|| broken("it has no key"))?;
    Ok(Encryption { domain: secret(&file.domain)?, current, older: keys.collect() })
}

/// Makes a new file.
pub(crate) fn make(path: &Path) -> Result<(), KeyError> {
    if path.exists() {
        return Err(KeyError::There(path.into()));
    }
    write(path, &Encryption { domain: random()?, current: random()?, older: Vec::new() })
}

/// Puts a new key in front; what the others sealed stays readable.
pub(crate) fn rotate(path: &Path) -> Result<(), KeyError> {
    let Encryption { domain, current, mut older } = read(path)?;
    older.insert(0, current);
    write(path, &Encryption { domain, current: random()?, older })
}

fn write(path: &Path, keys: &Encryption) -> Result<(), KeyError> {
    let mut text = String::from(
        "# Keys of a Roost backup store, newest first. Without this file the backups can't be read: keep a copy elsewhere.\n",
    );
    let all: Vec<String> =
        std::iter::once(&keys.current).chain(&keys.older).map(|key| format!("\"{}\"", HEXLOWER.encode(key))).collect();
    // Writing into a String can't fail.
    let _ = write!(text, "domain = \"{}\"\nkeys = [{}]\n", HEXLOWER.encode(&keys.domain), all.join(", "));
    files::write_atomically(path, text.as_bytes()).map_err(|source| KeyError::Write { path: path.into(), source })
}

fn random() -> Result<[u8; 32], KeyError> {
    let mut secret = [0; 32];
    SystemRandom::new().fill(&mut secret).map_err(|_| KeyError::Random)?;
    Ok(secret)
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?.try_into().ok()
}

#[cfg(test)]
mod test {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_file_is_made_once_rotated_in_place_and_kept_from_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("backup.key");
        assert!(read(&path).unwrap_err().to_string().contains("new-key"));
        make(&path).unwrap();
        let first = read(&path).unwrap();
        assert!(matches!(make(&path), Err(KeyError::There(_))));
        rotate(&path).unwrap();
        let second = read(&path).unwrap();
        assert_eq!((second.domain, second.older.as_slice()), (first.domain, [first.current].as_slice()));
        assert!(second.current != first.current && second.current != second.domain);
        for mode in [0o640, 0o604, 0o660] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(read(&path).unwrap_err().to_string().contains("chmod 600"));
        }
    }

    #[test]
    fn a_broken_key_file_is_told_without_its_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("backup.key");
        let secret = "ab".repeat(32);
        for text in [
            "".to_owned(),
            format!("domain = \"{secret}\"\nkeys = []"),
            format!("domain = \"{secret}\"\nkeys = [\"{}\"]", &secret[1..]),
            format!("domain = \"{secret}\"\nkeys = [\"{secret}\"]\nother = 1"),
            format!("domain = \"{secret}"),
        ] {
            files::write_atomically(&path, text.as_bytes()).unwrap();
            let why = read(&path).unwrap_err().to_string();
            assert!(why.contains("not as it was made") && !why.contains("abab"), "{why}");
        }
    }
}
