//! Looks at a disk image's header before any QEMU program does: an image can name other files as its backing or data
//! file, and QEMU would open them. Layout: QEMU's docs/interop/qcow2.txt.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const MAGIC: &[u8; 4] = b"QFI\xfb";
/// Bytes of a version 2 header, and of what this file reads of a version 3 header.
const HEADER_V2: usize = 72;
const HEADER_V3: usize = 104;
/// Dirty and corrupt bits (0, 1), compression type (3) and extended L2 entries (4) are harmless; bit 2 is an external
/// data file; others are unknown to the QEMU this was written for.
const EXTERNAL_DATA: u64 = 1 << 2;
const KNOWN_INCOMPATIBLE: u64 = 0b1_1111;
/// Largest disk a guest may be given.
pub(crate) const LARGEST_BYTES: u64 = 16 << 40;
/// Snapshots in one image; each costs QEMU memory when it opens it. QEMU's own limit is 65,536.
const SNAPSHOTS: u32 = 1_024;

/// How a disk's bytes are laid out. Always declared, never guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Raw,
    Qcow2,
}

impl Format {
    /// The format with this name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        match name {
            "raw" => Some(Self::Raw),
            "qcow2" => Some(Self::Qcow2),
            _ => None,
        }
    }

    /// Its name, for libvirt and as file ending.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// Why an image is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    #[error("the image can't be read: {0}")]
    Read(#[from] io::Error),
    #[error("the image is declared as {declared} but begins like {found}")]
    OtherFormat { declared: &'static str, found: &'static str },
    #[error("the image's header is cut short")]
    Short,
    #[error("qcow2 version {0} is unknown")]
    Version(u32),
    #[error("the image has a backing file; flatten it first (qemu-img convert)")]
    Backing,
    #[error("the image keeps its data in another file; convert it first (qemu-img convert)")]
    ExternalData,
    #[error("the image needs features {0:#x} that are unknown")]
    Features(u64),
    #[error("the image is encrypted")]
    Encrypted,
    #[error("the disk has {size} bytes; {LARGEST_BYTES} are allowed")]
    TooLarge { size: u64 },
    #[error("the image's {0} is outside its bounds")]
    Bounds(&'static str),
}

/// Size that a guest would see, if the image may be used.
pub(crate) fn check(file: &File, declared: Format) -> Result<u64, ImageError> {
    let length = file.metadata()?.len();
    let mut header = [0; HEADER_V3];
    let got = read_up_to(file, &mut header)?;
    let size = match declared {
        Format::Raw => match foreign(&header) {
            Some(found) => return Err(ImageError::OtherFormat { declared: "raw", found }),
            None => length,
        },
        Format::Qcow2 => qcow2(&header[..got], length)?,
    };
    if size > LARGEST_BYTES { Err(ImageError::TooLarge { size }) } else { Ok(size) }
}

fn read_up_to(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match file.read_at(&mut buffer[got..], u64::try_from(got).unwrap_or(u64::MAX))? {
            0 => break,
            more => got += more,
        }
    }
    Ok(got)
}

/// A format that QEMU could be led to believe in. A raw disk that begins with one was written by a guest with intent.
fn foreign(header: &[u8]) -> Option<&'static str> {
    let kinds: [(&[u8], &str); 6] = [
        (MAGIC, "qcow2"),
        (b"QED\0", "qed"),
        (b"KDMV", "vmdk"),
        (b"COWD", "vmdk"),
        (b"# Disk DescriptorFile", "vmdk"),
        (b"vhdxfile", "vhdx"),
    ];
    kinds.iter().find(|(magic, _)| header.starts_with(magic)).map(|(_, name)| *name)
}

fn qcow2(header: &[u8], length: u64) -> Result<u64, ImageError> {
    if !header.starts_with(MAGIC) {
        return Err(ImageError::OtherFormat { declared: "qcow2", found: foreign(header).unwrap_or("something else") });
    }
    if header.len() < HEADER_V2 {
        return Err(ImageError::Short);
    }
    let version = word(header, 4);
    match version {
        2 => {}
        3 if header.len() < HEADER_V3 => return Err(ImageError::Short),
        3 => features(long(header, 72))?,
        other => return Err(ImageError::Version(other)),
    }
    if long(header, 8) != 0 || word(header, 16) != 0 {
        return Err(ImageError::Backing);
    }
    if !(9..=21).contains(&word(header, 20)) {
        return Err(ImageError::Bounds("cluster size"));
    }
    if word(header, 32) != 0 {
        return Err(ImageError::Encrypted);
    }
    let size = long(header, 24);
    if size > LARGEST_BYTES {
        return Err(ImageError::TooLarge { size });
    }
    tables(header, length, size)?;
    Ok(size)
}

fn features(incompatible: u64) -> Result<(), ImageError> {
    if incompatible & EXTERNAL_DATA != 0 {
        return Err(ImageError::ExternalData);
    }
    match incompatible & !KNOWN_INCOMPATIBLE {
        0 => Ok(()),
        unknown => Err(ImageError::Features(unknown)),
    }
}

/// Tables that QEMU reads into memory when it opens the image.
fn tables(header: &[u8], length: u64, size: u64) -> Result<(), ImageError> {
    let inside = |name, offset: u64, bytes: u64| match offset.checked_add(bytes) {
        Some(end) if end <= length => Ok(()),
        Some(_) | None => Err(ImageError::Bounds(name)),
    };
    let cluster = 1u64 << word(header, 20);
    // One L1 entry covers a cluster of L2 entries; with extended entries half as much.
    let most_entries = size / (cluster * (cluster / 16)) + 2;
    let entries = u64::from(word(header, 36));
    if entries > most_entries {
        return Err(ImageError::Bounds("L1 table"));
    }
    inside("L1 table", long(header, 40), entries * 8)?;
    inside("refcount table", long(header, 48), u64::from(word(header, 56)).saturating_mul(cluster))?;
    let snapshots = word(header, 60);
    if snapshots > SNAPSHOTS {
        return Err(ImageError::Bounds("snapshot table"));
    }
    // 40 bytes is the smallest entry.
    inside("snapshot table", long(header, 64), u64::from(snapshots) * 40)
}

/// The caller checked the length.
fn word(header: &[u8], at: usize) -> u32 {
    header[at..at + 4].iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

fn long(header: &[u8], at: usize) -> u64 {
    u64::from(word(header, at)) << 32 | u64::from(word(header, at + 4))
}

#[cfg(test)]
mod test {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    /// A sound, empty version 3 image of 1 GiB with these bytes put in.
    fn image(puts: &[(usize, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; 262_144];
        let base: [(usize, &[u8]); 9] = [
            (0, MAGIC),
            (4, &3u32.to_be_bytes()),
            (20, &16u32.to_be_bytes()),
            (24, &(1u64 << 30).to_be_bytes()),
            (36, &2u32.to_be_bytes()),
            (40, &(196_608u64).to_be_bytes()),
            (48, &(65_536u64).to_be_bytes()),
            (56, &1u32.to_be_bytes()),
            (100, &104u32.to_be_bytes()),
        ];
        for (at, put) in base.iter().chain(puts) {
            bytes[*at..at + put.len()].copy_from_slice(put);
        }
        bytes
    }

    fn verdict(bytes: &[u8], format: Format) -> Result<u64, ImageError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        check(&file, format)
    }

    fn refused(puts: &[(usize, &[u8])], word: &str) {
        let error = verdict(&image(puts), Format::Qcow2).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }

    #[test]
    fn a_sound_image_is_taken_with_its_size() {
        assert_eq!(verdict(&image(&[]), Format::Qcow2).unwrap(), 1 << 30);
        assert_eq!(verdict(&image(&[(4, &2u32.to_be_bytes())]), Format::Qcow2).unwrap(), 1 << 30);
        assert_eq!(verdict(&[0; 1024], Format::Raw).unwrap(), 1024);
    }

    #[test]
    fn an_image_that_names_other_files_is_refused() {
        refused(&[(8, &1_024u64.to_be_bytes()), (16, &11u32.to_be_bytes())], "backing");
        refused(&[(8, &1_024u64.to_be_bytes())], "backing");
        refused(&[(72, &4u64.to_be_bytes())], "another file");
        let error = verdict(&image(&[]), Format::Raw).unwrap_err().to_string();
        assert!(error.contains("declared as raw but begins like qcow2"), "{error}");
        assert!(verdict(b"# Disk DescriptorFile\n", Format::Raw).is_err());
        assert!(verdict(b"KDMV", Format::Qcow2).is_err());
    }

    #[test]
    fn a_bomb_is_refused() {
        refused(&[(24, &(1u64 << 50).to_be_bytes())], "1125899906842624 bytes");
        refused(&[(60, &u32::MAX.to_be_bytes())], "snapshot table");
        refused(&[(60, &1_000u32.to_be_bytes()), (64, &u64::MAX.to_be_bytes())], "snapshot table");
        refused(&[(36, &u32::MAX.to_be_bytes())], "L1 table");
        refused(&[(40, &u64::MAX.to_be_bytes())], "L1 table");
        refused(&[(56, &u32::MAX.to_be_bytes())], "refcount table");
        refused(&[(20, &63u32.to_be_bytes())], "cluster size");
        refused(&[(72, &(1u64 << 40).to_be_bytes())], "unknown");
        refused(&[(4, &9u32.to_be_bytes())], "version 9");
        refused(&[(32, &1u32.to_be_bytes())], "encrypted");
        assert!(matches!(verdict(&image(&[])[..80], Format::Qcow2), Err(ImageError::Short)));
        assert!(matches!(verdict(b"QFI\xfb", Format::Qcow2), Err(ImageError::Short)));
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120), magic in any::<bool>()) {
            let mut bytes = bytes;
            if magic && bytes.len() > 8 {
                bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
            }
            let _ = verdict(&bytes, Format::Qcow2);
        }
    }
}
