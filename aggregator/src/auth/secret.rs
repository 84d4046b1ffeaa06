//! Random secrets with a checksum: `rst_` for API tokens, `rss_` for sessions. A scanner finds a leaked one by its shape.

use std::fmt;

use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};

/// What each kind begins with.
pub(crate) const API_TOKEN: &str = "rst_";
pub(crate) const SESSION: &str = "rss_";
/// Random bytes in a secret.
const BYTES: usize = 32;
/// Letters of the checksum: finds all but one of 4 billion mistyped ones without a look at any store.
const CHECK: usize = 8;
/// Letters of an id.
const ID: usize = 16;

/// The system gave no randomness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("get random bytes from the system")]
pub(crate) struct NoRandom;

/// Bytes from the system's random source.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], NoRandom> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NoRandom)?;
    Ok(bytes)
}

/// A secret; shown once, then only its hash is known.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret {
    kind: &'static str,
    bytes: [u8; BYTES],
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({}…)", self.kind)
    }
}

impl Secret {
    pub(crate) fn new(kind: &'static str) -> Result<Self, NoRandom> {
        Ok(Self { kind, bytes: random()? })
    }

    /// The secret in a text; none, where kind, length or checksum are wrong.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let kind = [API_TOKEN, SESSION].into_iter().find(|kind| text.starts_with(kind))?;
        let rest = &text[kind.len()..];
        if rest.len() != 2 * BYTES + CHECK {
            return None;
        }
        let bytes = HEXLOWER.decode(&rest.as_bytes()[..2 * BYTES]).ok()?;
        let secret = Self { kind, bytes: bytes.try_into().ok()? };
        (secret.reveal() == text).then_some(secret)
    }

    pub(crate) fn kind(&self) -> &'static str {
        self.kind
    }

    /// The text to show once.
    pub(crate) fn reveal(&self) -> String {
        let body = format!("{}{}", self.kind, HEXLOWER.encode(&self.bytes));
        let check = HEXLOWER.encode(digest(&SHA256, body.as_bytes()).as_ref());
        format!("{body}{}", &check[..CHECK])
    }

    /// All that is kept.
    pub(crate) fn hash(&self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, &self.bytes).as_ref());
        hash
    }

    /// Its name in lists; follows from the hash, no secret.
    pub(crate) fn id(&self) -> String {
        let mut id = HEXLOWER.encode(&self.hash());
        id.truncate(ID);
        id
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_secret_survives_its_text_and_a_mistyped_one_is_none() {
        let secret = Secret::new(API_TOKEN).unwrap();
        let text = secret.reveal();
        assert!(text.starts_with("rst_"));
        assert_eq!(Secret::parse(&text), Some(secret.clone()));
        assert!(!format!("{secret:?}").contains(&text[4..12]));
        for wrong in [&text[..text.len() - 1], &text.to_uppercase(), &text.replace("rst_", "rss_"), "rst_", "", "rst_é"]
        {
            assert_eq!(Secret::parse(wrong), None, "{wrong}");
        }
        assert_eq!(secret.id().len(), ID);
    }
}
