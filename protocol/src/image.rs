//! A file of a newer host image, which a host fetches from its aggregator on a connection of its own
//! ([`Purpose::Image`](crate::transport::Purpose::Image)): one question, then pieces up to the end. Nothing on the way is
//! trusted; the host checks what was signed.

use minicbor::{Decode, Encode};

/// Longest piece: a quarter of a frame.
pub const PIECE: usize = 256 << 10;

/// The question; the only message of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ImageFile {
    #[n(0)]
    Manifest,
    #[n(1)]
    Kernel,
    #[n(2)]
    Initrd,
}

/// A part of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ImagePiece {
    /// What comes next of the file, up to [`PIECE`] bytes.
    #[n(0)]
    Bytes(
        #[n(0)]
        #[cbor(with = "minicbor::bytes")]
        Vec<u8>,
    ),
    /// That was all of it.
    #[n(1)]
    End,
    /// There is none, or it can't be read; for people.
    #[n(2)]
    Failed {
        #[n(0)]
        why: String,
    },
}

impl ImageFile {
    pub const ALL: [Self; 3] = [Self::Manifest, Self::Kernel, Self::Initrd];

    /// Its name in the folder of an image.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Kernel => "vmlinuz",
            Self::Initrd => "initrd.img",
        }
    }
}
