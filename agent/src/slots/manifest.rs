//! What an image is and who vouches for it: a short text, signed at its end.

use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};
use ring::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};

/// Longest manifest.
pub(super) const LIMIT: u64 = 4 << 10;
/// Largest file of an image, so that a wrong one can't fill the disk.
const FILE: u64 = 1 << 30;
const FIRST: &str = "roost-image 1";
const SIGNATURE: &str = "signature ";
/// The files of an image, in the manifest's order.
pub(super) const FILES: [&str; 2] = ["vmlinuz", "initrd.img"];

/// An image, as its manifest tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) version: String,
    /// Seconds since 1970: of two images the one with the later date is newer.
    pub(super) date: u64,
    /// As in [`FILES`].
    pub(super) files: [Whole; 2],
}

/// A file by length and SHA-256.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Whole {
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

/// Why an image is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Untrusted {
    #[error("its manifest is not signed by the key of this host's image")]
    Signature,
    #[error("its manifest can't be read: {0}")]
    Form(String),
}

impl Manifest {
    /// The text that is signed.
    fn text(&self) -> String {
        let mut text = format!("{FIRST}\nversion {}\ndate {}\n", self.version, self.date);
        for (name, file) in FILES.iter().zip(&self.files) {
            text += &format!("{name} {} {}\n", file.bytes, file.sha256);
        }
        text
    }

    /// The manifest as it lies beside the files.
    pub(super) fn sign(&self, key: &Ed25519KeyPair) -> String {
        let text = self.text();
        let signature = HEXLOWER.encode(key.sign(text.as_bytes()).as_ref());
        format!("{text}{SIGNATURE}{signature}\n")
    }

    /// Nothing of a manifest is looked at before its signature.
    pub(super) fn open(bytes: &[u8], key: &[u8]) -> Result<Self, Untrusted> {
        let whole = std::str::from_utf8(bytes).map_err(|_| Untrusted::Signature)?;
        let at = whole.rfind(SIGNATURE).ok_or(Untrusted::Signature)?;
        let (text, signature) = whole.split_at(at);
        let signature =
            HEXLOWER.decode(signature[SIGNATURE.len()..].trim_end().as_bytes()).map_err(|_| Untrusted::Signature)?;
        let key = UnparsedPublicKey::new(&ED25519, key);
        key.verify(text.as_bytes(), &signature).map_err(|_| Untrusted::Signature)?;
        Self::parse(text).map_err(Untrusted::Form)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines();
        if lines.next() != Some(FIRST) {
            return Err(format!("it does not begin with {FIRST:?}, so it is of another kind"));
        }
        let mut value = |name: &str| {
            let line = lines.next().and_then(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.map(str::to_owned).ok_or_else(|| format!("there is no {name}"))
        };
        let version = value("version")?;
        let date = value("date")?.parse().map_err(|_| "the date is no number".to_owned())?;
        let mut files = [Whole::default(), Whole::default()];
        for (name, file) in FILES.iter().zip(&mut files) {
            *file = Whole::parse(&value(name)?).ok_or_else(|| format!("{name} has no length up to 1 GiB and sum"))?;
        }
        Ok(Self { version, date, files })
    }
}

impl Whole {
    fn parse(text: &str) -> Option<Self> {
        let (bytes, sha256) = text.split_once(' ')?;
        let bytes = bytes.parse().ok().filter(|bytes| (1..=FILE).contains(bytes))?;
        let plain = sha256.len() == 64 && sha256.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
        plain.then(|| Self { bytes, sha256: sha256.to_owned() })
    }
}

/// Names a manifest.
pub(super) fn name(manifest: &[u8]) -> String {
    HEXLOWER.encode(digest(&SHA256, manifest).as_ref())
}

#[cfg(test)]
mod test {
    use ring::signature::KeyPair;

    use super::*;

    fn key(seed: u8) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
    }

    fn manifest() -> Manifest {
        let file = |bytes| Whole { bytes, sha256: "ab".repeat(32) };
        Manifest { version: "1.2.3".into(), date: 1_800_000_000, files: [file(12), file(70_000_000)] }
    }

    #[test]
    fn what_was_signed_is_what_is_read() {
        let signed = manifest().sign(&key(1));
        assert_eq!(Manifest::open(signed.as_bytes(), key(1).public_key().as_ref()), Ok(manifest()));
    }

    #[test]
    fn another_key_and_every_changed_byte_are_refused() {
        let (signed, public) = (manifest().sign(&key(1)).into_bytes(), key(1).public_key().as_ref().to_vec());
        assert_eq!(Manifest::open(&signed, key(2).public_key().as_ref()), Err(Untrusted::Signature));
        assert_eq!(Manifest::open(&signed, b""), Err(Untrusted::Signature));
        // The last byte ends the line.
        for at in 0..signed.len() - 1 {
            let mut changed = signed.clone();
            changed[at] ^= 1;
            assert_eq!(Manifest::open(&changed, &public), Err(Untrusted::Signature), "byte {at}");
            assert!(Manifest::open(&signed[..at], &public).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_signed_manifest_of_another_kind_says_what_is_wrong() {
        let refused = |text: &str, word: &str| {
            let signed = format!("{text}{SIGNATURE}{}\n", HEXLOWER.encode(key(1).sign(text.as_bytes()).as_ref()));
            let why = Manifest::open(signed.as_bytes(), key(1).public_key().as_ref()).unwrap_err().to_string();
            assert!(why.contains(word), "{why}");
        };
        refused("roost-image 2\n", "another kind");
        refused("roost-image 1\nversion 1\ndate soon\n", "no number");
        refused("roost-image 1\nversion 1\ndate 5\nvmlinuz 0 00\n", "vmlinuz");
        let huge = manifest().text().replace("70000000", "99000000000");
        refused(&huge, "initrd.img");
    }
}
