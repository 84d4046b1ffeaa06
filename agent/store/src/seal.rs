//! Encryption at rest: AES-256-GCM under a key of each pack, which is derived from a key of the ring and the pack's salt.
//!
//! A pack's key seals each offset at most twice (table and payload of one frame), so a nonce is never used again; the salt
//! is drawn anew for every pack. The domain secret only makes names and never changes; data keys may be rotated: new packs
//! use the current one, and collecting rewrites what an older one sealed.

use std::fmt;

use data_encoding::HEXLOWER;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

use crate::error::{Result, StoreError};

/// Bytes that sealing adds.
pub(crate) const TAG: usize = 16;
/// A key's fingerprint, as packs name it; all zeros: not sealed.
pub(crate) type KeyPrint = [u8; 8];

/// A pack's own random bytes.
pub(crate) type Salt = [u8; 32];

/// The secrets of an encrypted store.
#[derive(Clone, PartialEq, Eq)]
pub struct Encryption {
    /// Names contents. The same for ever and in all stores that exchange points; who has it can only guess contents.
    pub domain: [u8; 32],
    /// Seals what is written from now on.
    pub current: [u8; 32],
    /// Still open what they sealed.
    pub older: Vec<[u8; 32]>,
}

impl fmt::Debug for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encryption(key {}, {} older)", show(&print(&self.current)), self.older.len())
    }
}

/// All keys by their fingerprints.
#[derive(Clone, Default)]
pub(crate) struct Keys {
    current: Option<(KeyPrint, [u8; 32])>,
    older: Vec<(KeyPrint, [u8; 32])>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", show(&self.current()))
    }
}

impl Keys {
    pub(crate) fn new(encryption: Option<&Encryption>) -> Self {
        let with_print = |key: &[u8; 32]| (print(key), *key);
        Self {
            current: encryption.map(|all| with_print(&all.current)),
            older: encryption.map_or_else(Vec::new, |all| all.older.iter().map(with_print).collect()),
        }
    }

    /// What new packs name; zeros for none.
    pub(crate) fn current(&self) -> KeyPrint {
        self.current.map_or([0; 8], |(print, _)| print)
    }

    /// What opens and seals a pack's frames.
    pub(crate) fn pack(&self, print: KeyPrint, salt: Salt) -> Result<PackKey> {
        if print == [0; 8] {
            return Ok(PackKey { salt, cipher: None });
        }
        let mut all = self.current.iter().chain(&self.older);
        let Some((_, secret)) = all.find(|(known, _)| *known == print) else {
            return Err(StoreError::NoKey { what: "a pack".into(), key: show(&print) });
        };
        let key = blake3::keyed_hash(&blake3::derive_key("roost store 1 pack keys", secret), &salt);
        let key = UnboundKey::new(&AES_256_GCM, key.as_bytes())
            .map_err(|_| StoreError::Worker("AES-256-GCM takes no key of 32 bytes".into()))?;
        Ok(PackKey { salt, cipher: Some(LessSafeKey::new(key)) })
    }
}

fn print(key: &[u8; 32]) -> KeyPrint {
    let mut print = [0; 8];
    print.copy_from_slice(&blake3::derive_key("roost store 1 key fingerprint", key)[..8]);
    print
}

/// As people read it.
pub(crate) fn show(print: &KeyPrint) -> String {
    HEXLOWER.encode(print)
}

/// A salt nobody can foresee.
pub(crate) fn salt() -> Result<Salt> {
    let mut salt = [0; 32];
    SystemRandom::new().fill(&mut salt).map_err(|_| StoreError::Worker("no random numbers to be had".into()))?;
    Ok(salt)
}

/// What is sealed in a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    Table,
    Payload,
}

/// Checks and seals the frames of one pack.
pub(crate) struct PackKey {
    salt: Salt,
    cipher: Option<LessSafeKey>,
}

impl fmt::Debug for PackKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.cipher.is_some() { "PackKey(sealed)" } else { "PackKey(plain)" })
    }
}

impl PackKey {
    pub(crate) fn overhead(&self) -> usize {
        if self.cipher.is_some() { TAG } else { 0 }
    }

    /// The first 8 bytes of BLAKE3 keyed with the salt: a guest can't write a block that passes for a frame.
    pub(crate) fn check(&self, offset: u64, header: &[u8], table: &[u8]) -> [u8; 8] {
        let mut hasher = blake3::Hasher::new_keyed(&self.salt);
        hasher.update(&offset.to_le_bytes()).update(header).update(table);
        let mut check = [0; 8];
        check.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        check
    }

    /// Appends the bytes, sealed where the pack is.
    pub(crate) fn seal(&self, part: Part, offset: u64, bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let from = out.len();
        out.extend_from_slice(bytes);
        let Some(cipher) = &self.cipher else { return Ok(()) };
        let tag = cipher
            .seal_in_place_separate_tag(nonce(part, offset), Aad::empty(), &mut out[from..])
            .map_err(|_| StoreError::Worker("AES-256-GCM refused to seal a frame".into()))?;
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// The bytes as they were before sealing; `None` where they were changed since.
    pub(crate) fn open<'a>(&self, part: Part, offset: u64, bytes: &'a mut [u8]) -> Option<&'a [u8]> {
        match &self.cipher {
            None => Some(bytes),
            Some(cipher) => cipher.open_in_place(nonce(part, offset), Aad::empty(), bytes).ok().map(|open| &*open),
        }
    }
}

fn nonce(part: Part, offset: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&offset.to_le_bytes());
    nonce[8] = match part {
        Part::Table => 0,
        Part::Payload => 1,
    };
    Nonce::assume_unique_for_key(nonce)
}
