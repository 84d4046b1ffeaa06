//! A point's manifest: one JSON file that says all about the point, and which anybody can read (agent/store/README.md).
//!
//! What is fixed when the point is made stands under `point`, and the point's id is the hash of it, so a changed manifest
//! is found out. What may change later (pin, proof) stands under `notes` with a check of its own.

use roost_protocol::backup::{Consistency, Proof, Target, Why};
use roost_protocol::{GuestId, HostId, PointId, Stamp};
use serde::{Deserialize, Serialize};

use crate::chunks::Chunks;
use crate::error::{Refusal, Result, StoreError};
use crate::frame::CHUNK;
use crate::id::{ChunkId, Digest, Kind};
use crate::node::{Entry, MAX_DISK};
use crate::tree::Root;

/// What manifests of this kind are called.
pub const FORMAT: &str = "roost point 1";
/// Disks in one point, and files: a guest has far fewer.
pub const MAX_NAMES: usize = 64;
/// Largest file in a point: firmware variables and TPM states have less than 1 MiB.
pub const MAX_FILE: usize = 64 << 20;
/// Longest manifest: 64 files of 64 MiB have 2.2 MiB of ids.
pub(crate) const MAX_MANIFEST: u64 = 4 << 20;
/// Longest text in a manifest.
const TEXT: usize = 4096;
/// Longest name of a disk or file.
const NAME: usize = 64;

/// What the maker of a point says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// The moment the point shows.
    pub started: Stamp,
    pub finished: Stamp,
    pub guest_name: String,
    /// The host that made it.
    pub origin_host: Option<HostId>,
    pub origin_name: String,
    pub why: Why,
    pub consistency: Consistency,
    /// For people: the caller's label, or what was unusual.
    pub note: String,
}

/// One disk of a point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    pub name: String,
    /// As the guest sees it.
    pub size_bytes: u64,
    /// Of the whole content; how it is made stands in agent/store/README.md.
    pub digest: Digest,
    /// The top node of its map; absent: nothing but zeros.
    pub map: Option<ChunkId>,
    /// The digest of the top node's content.
    pub map_digest: Digest,
}

impl Disk {
    pub(crate) fn root(&self) -> Root {
        Root { size: self.size_bytes, top: self.map.map(|id| Entry { id, digest: self.map_digest }) }
    }
}

/// One small file of a point: definition, firmware variables, TPM state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    pub name: String,
    pub size_bytes: u64,
    /// BLAKE3 of the content (keyed in an encrypted store).
    pub digest: Digest,
    /// Pieces of 128 KiB, the last one shorter.
    pub chunks: Vec<ChunkId>,
}

impl File {
    /// Its content out of a store that has it; none where it has another digest.
    pub(crate) fn content(&self, chunks: &Chunks) -> Result<Option<Vec<u8>>> {
        let mut content = Vec::new();
        for id in &self.chunks {
            content.extend(chunks.content(id, Kind::Blob)?);
        }
        let same = content.len() as u64 == self.size_bytes && chunks.namer.digest(&content) == self.digest;
        Ok(same.then_some(content))
    }
}

/// What is fixed when a point is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    pub guest: GuestId,
    /// The point it was compared with; it needs nothing of it.
    pub parent: Option<PointId>,
    pub meta: Meta,
    /// How contents are named: `blake3`, or `blake3-keyed:` and the key's fingerprint.
    pub names: String,
    pub disks: Vec<Disk>,
    pub files: Vec<File>,
    /// Bytes of disks that were handed over for it.
    pub read_bytes: u64,
    /// Bytes by which its store grew.
    pub stored_bytes: u64,
    /// Makes points differ that are equal in all else.
    pub draw: String,
}

/// What may change after a point was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notes {
    /// No retention removes it.
    pub pinned: bool,
    /// Whether it was booted.
    pub proof: Proof,
    /// Where copies of it were brought to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<Target>,
}

/// One point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: String,
    /// The first 16 bytes of BLAKE3 over `point` as compact JSON in this order of fields.
    pub id: PointId,
    pub point: Point,
    pub notes: Notes,
    /// BLAKE3 over `notes` as compact JSON.
    pub notes_check: Digest,
}

/// A point in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    pub point: PointId,
    pub guest: GuestId,
    pub parent: Option<PointId>,
    pub meta: Meta,
    /// Of all its disks.
    pub size_bytes: u64,
    pub read_bytes: u64,
    pub stored_bytes: u64,
    pub pinned: bool,
    pub proof: Proof,
    pub copies: Vec<Target>,
    /// Names of its small files.
    pub files: Vec<String>,
}

impl Manifest {
    pub(crate) fn new(point: Point) -> Result<Self> {
        let id = id_of(&point)?;
        let mut manifest =
            Self { format: FORMAT.into(), id, point, notes: Notes::default(), notes_check: Digest::ZERO };
        manifest.set_notes(Notes::default())?;
        Ok(manifest)
    }

    pub(crate) fn set_notes(&mut self, notes: Notes) -> Result<()> {
        self.notes_check = check_of(&notes)?;
        self.notes = notes;
        Ok(())
    }

    /// As it stands in the store.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(self).map_err(|e| StoreError::Worker(format!("write JSON: {e}")))?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads a manifest and checks that it is genuine and within bounds. Damaged notes are replaced by careful ones: such
    /// a point counts as pinned.
    pub fn from_bytes(bytes: &[u8]) -> std::result::Result<Self, String> {
        let mut manifest: Self = match serde_json::from_slice(bytes) {
            Ok(manifest) => manifest,
            Err(whole) => without_notes(bytes).ok_or_else(|| format!("it can't be read as JSON: {whole}"))?,
        };
        if manifest.format != FORMAT {
            return Err(format!("its format {:?} is not known", manifest.format));
        }
        let genuine = id_of(&manifest.point).map_err(|e| e.to_string())?;
        if genuine != manifest.id {
            return Err("its content does not match its id".into());
        }
        manifest.point.check().map_err(|refusal| refusal.to_string())?;
        if check_of(&manifest.notes).map_err(|e| e.to_string())? != manifest.notes_check {
            let careful = Notes { pinned: true, ..Notes::default() };
            manifest.set_notes(careful).map_err(|e| e.to_string())?;
        }
        Ok(manifest)
    }

    /// The disk of this name.
    pub fn disk(&self, name: &str) -> Option<&Disk> {
        self.point.disks.iter().find(|disk| disk.name == name)
    }

    /// The file of this name.
    pub fn file(&self, name: &str) -> Option<&File> {
        self.point.files.iter().find(|file| file.name == name)
    }

    /// In short.
    pub fn summary(&self) -> Summary {
        Summary {
            point: self.id,
            guest: self.point.guest,
            parent: self.point.parent,
            meta: self.point.meta.clone(),
            size_bytes: self.point.disks.iter().map(|disk| disk.size_bytes).sum(),
            read_bytes: self.point.read_bytes,
            stored_bytes: self.point.stored_bytes,
            pinned: self.notes.pinned,
            proof: self.notes.proof.clone(),
            copies: self.notes.copies.clone(),
            files: self.point.files.iter().map(|file| file.name.clone()).collect(),
        }
    }
}

/// Reads all but the notes, where a byte of those makes the whole unreadable.
fn without_notes(bytes: &[u8]) -> Option<Manifest> {
    #[derive(Deserialize)]
    struct Fixed {
        format: String,
        id: PointId,
        point: Point,
    }
    let text = std::str::from_utf8(bytes).ok().map(str::to_owned);
    let text = text.unwrap_or_else(|| String::from_utf8_lossy(bytes).into_owned());
    let fixed = text.find("\n  \"notes\"").map(|at| text[..at].trim_end().trim_end_matches(',').to_owned() + "}")?;
    let Fixed { format, id, point } = serde_json::from_str(&fixed).ok()?;
    Some(Manifest { format, id, point, notes: Notes::default(), notes_check: Digest::ZERO })
}

fn id_of(point: &Point) -> Result<PointId> {
    let hash = blake3::hash(&compact(point)?);
    let mut id = [0; 16];
    id.copy_from_slice(&hash.as_bytes()[..16]);
    Ok(PointId::from_bytes(id))
}

fn check_of(notes: &Notes) -> Result<Digest> {
    Ok(Digest::from_bytes(*blake3::hash(&compact(notes)?).as_bytes()))
}

fn compact(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| StoreError::Worker(format!("write JSON: {e}")))
}

impl Point {
    /// Whether all names, sizes and texts are within bounds; a manifest may come from anybody.
    pub(crate) fn check(&self) -> std::result::Result<(), Refusal> {
        if self.disks.len() > MAX_NAMES || self.files.len() > MAX_NAMES {
            return Err(Refusal::TooMany(MAX_NAMES));
        }
        let disks = self.disks.iter().map(|disk| disk.name.as_str());
        let names: Vec<&str> = disks.chain(self.files.iter().map(|file| file.name.as_str())).collect();
        for (at, name) in names.iter().enumerate() {
            check_name(name)?;
            if names[..at].contains(name) {
                return Err(Refusal::Twice((*name).into()));
            }
        }
        self.disks.iter().try_for_each(|disk| check_disk(disk.size_bytes))?;
        for file in &self.files {
            let size = usize::try_from(file.size_bytes).unwrap_or(usize::MAX);
            if size > MAX_FILE || file.chunks.len() != size.div_ceil(CHUNK) {
                return Err(Refusal::FileTooLarge(file.size_bytes));
            }
        }
        let meta = &self.meta;
        for text in [&meta.guest_name, &meta.origin_name, &meta.note, &self.names, &self.draw] {
            if text.len() > TEXT {
                return Err(Refusal::Text(text.len()));
            }
        }
        Ok(())
    }
}

pub(crate) fn check_disk(size: u64) -> std::result::Result<(), Refusal> {
    if size > MAX_DISK { Err(Refusal::DiskTooLarge(size)) } else { Ok(()) }
}

/// Names stand in file names of exports, so they can't lead elsewhere.
pub(crate) fn check_name(name: &str) -> std::result::Result<(), Refusal> {
    let plain = name.bytes().all(|c| c.is_ascii_alphanumeric() || b"._-".contains(&c));
    let fits = (1..=NAME).contains(&name.len()) && plain && !name.starts_with('.');
    if fits { Ok(()) } else { Err(Refusal::Name(name.chars().take(NAME).collect())) }
}
