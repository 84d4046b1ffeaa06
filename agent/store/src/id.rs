//! Names of contents: blocks, chunks, digests; and how they are computed.
//!
//! Without encryption all names are plain BLAKE3. In an encrypted store they are keyed with the domain secret, so that a
//! thief can't tell by its name what a chunk holds.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes in a block: what guests' file systems write, and the unit in which change is found.
pub const BLOCK: usize = 4096;
/// The same for arithmetic on offsets.
pub const BLOCK_BYTES: u64 = 4096;
/// Bytes kept of a block's hash: a collision would take 2^96 work. With 32 every increment would be 0.2 % larger.
pub(crate) const BLOCK_HASH: usize = 24;

/// Name of a block by its content; all zeros is the block of zeros.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct BlockHash(pub(crate) [u8; BLOCK_HASH]);

impl BlockHash {
    pub(crate) const ZERO: Self = Self([0; BLOCK_HASH]);

    /// Evenly spread bits, for tables.
    pub(crate) fn prefix(&self) -> u64 {
        prefix(&self.0)
    }
}

impl fmt::Debug for BlockHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", HEXLOWER.encode_display(&self.0))
    }
}

macro_rules! hash_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The one with these bytes.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// Its bytes.
            pub const fn bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", HEXLOWER.encode_display(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", HEXLOWER.encode_display(&self.0))
            }
        }

        impl FromStr for $name {
            type Err = NotHex;
            fn from_str(text: &str) -> Result<Self, NotHex> {
                unhex(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hash_type!(
    /// Name of a chunk: of blocks, of a node of a disk's map, or of a piece of a file.
    ChunkId
);
hash_type!(
    /// Name of a content as the guest sees it, however it is stored.
    Digest
);

impl ChunkId {
    /// Evenly spread bits, for tables; never zero.
    pub(crate) fn prefix(&self) -> u64 {
        prefix(&self.0) | 1
    }
}

impl Digest {
    /// Of nothing but zeros.
    pub(crate) const ZERO: Self = Self([0; 32]);
}

/// The text is not 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not 64 hexadecimal digits")]
pub struct NotHex;

fn prefix(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

fn unhex(text: &str) -> Result<[u8; 32], NotHex> {
    HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(NotHex)
}

/// What a chunk holds. The number stands in frames and is part of what is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Blocks of disks.
    Data,
    /// 4 MiB of a disk's map.
    Leaf,
    /// 64 nodes of the level below.
    Inner,
    /// A piece of a file.
    Blob,
}

impl Kind {
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Data => 0,
            Self::Leaf => 1,
            Self::Inner => 2,
            Self::Blob => 3,
        }
    }

    pub(crate) const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Data),
            1 => Some(Self::Leaf),
            2 => Some(Self::Inner),
            3 => Some(Self::Blob),
            _ => None,
        }
    }
}

/// Computes names; plain or keyed.
#[derive(Clone)]
pub(crate) struct Namer {
    key: Option<[u8; 32]>,
}

impl fmt::Debug for Namer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.key.is_some() { "Namer(keyed)" } else { "Namer(plain)" })
    }
}

impl Namer {
    pub(crate) const fn plain() -> Self {
        Self { key: None }
    }

    /// Keyed with a secret of which only a derivative is used here.
    pub(crate) fn keyed(domain: &[u8; 32]) -> Self {
        Self { key: Some(blake3::derive_key("roost store 1 content names", domain)) }
    }

    /// Says which names these are: `blake3`, or `blake3-keyed:` and a fingerprint of the key.
    pub(crate) fn label(&self) -> String {
        match &self.key {
            None => "blake3".into(),
            Some(key) => {
                let print = blake3::Hash::from_bytes(blake3::derive_key("roost store 1 fingerprint of names", key));
                format!("blake3-keyed:{}", &print.to_hex()[..16])
            }
        }
    }

    fn hash(&self, content: &[u8]) -> [u8; 32] {
        match &self.key {
            None => *blake3::hash(content).as_bytes(),
            Some(key) => *blake3::keyed_hash(key, content).as_bytes(),
        }
    }

    /// The name of 4 KiB that are not all zeros.
    pub(crate) fn block(&self, block: &[u8]) -> BlockHash {
        let mut short = [0; BLOCK_HASH];
        short.copy_from_slice(&self.hash(block)[..BLOCK_HASH]);
        BlockHash(short)
    }

    /// The name of a chunk: of its kind and content; for blocks, of the list of their hashes.
    pub(crate) fn chunk(&self, kind: Kind, named: &[u8]) -> ChunkId {
        let mut hasher = match &self.key {
            None => blake3::Hasher::new(),
            Some(key) => blake3::Hasher::new_keyed(key),
        };
        hasher.update(b"roost chunk ").update(&[kind.number()]).update(named);
        ChunkId(*hasher.finalize().as_bytes())
    }

    /// The digest of a file, of a list of block hashes or of child digests.
    pub(crate) fn digest(&self, content: &[u8]) -> Digest {
        Digest(self.hash(content))
    }
}

/// True where every byte is zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // 64 bytes at a time let the compiler use wide registers, and data ends the loop early.
    let (head, tail) = bytes.as_chunks::<64>();
    head.iter().all(|wide| wide.iter().fold(0, |sum, byte| sum | byte) == 0) && tail.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn names_survive_text() {
        let id = Namer::plain().chunk(Kind::Leaf, b"x");
        assert_eq!(id.to_string().parse::<ChunkId>().unwrap(), id);
        assert!("12".parse::<ChunkId>().is_err());
        assert!("G".repeat(64).parse::<ChunkId>().is_err());
    }

    #[test]
    fn a_name_tells_kind_and_key_apart() {
        let plain = Namer::plain();
        assert_ne!(plain.chunk(Kind::Leaf, b"x"), plain.chunk(Kind::Inner, b"x"));
        let (a, b) = (Namer::keyed(&[1; 32]), Namer::keyed(&[2; 32]));
        assert_ne!(a.block(&[7; BLOCK]), b.block(&[7; BLOCK]));
        assert_ne!(a.label(), b.label());
    }

    #[test]
    fn zeros_are_seen_wherever_the_one_byte_is() {
        let mut block = [0; BLOCK];
        assert!(is_zero(&block));
        for at in [0, 63, 64, 2047, BLOCK - 1] {
            block[at] = 1;
            assert!(!is_zero(&block));
            block[at] = 0;
        }
        assert!(is_zero(&[]) && !is_zero(&[0, 1]));
    }
}
