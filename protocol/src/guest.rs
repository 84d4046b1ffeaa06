//! A guest: what was seen of it, what is wished of it, and what one is made from.

use minicbor::{Decode, Encode};
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use crate::memory::MemoryWish;
use crate::probe::Access;
use crate::{Generation, GuestId, MiB, Stamp};

/// What the hypervisor says a guest does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerState {
    #[default]
    #[n(0)]
    Unknown,
    #[n(1)]
    Running,
    #[n(2)]
    Paused,
    #[n(3)]
    ShuttingDown,
    #[n(4)]
    Off,
    #[n(5)]
    Crashed,
    #[n(6)]
    Suspended,
}

/// What should be. Kept by the host itself, with or without an aggregator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Power {
    #[n(0)]
    Running,
    #[n(1)]
    Stopped,
}

/// A host's own wish for a guest it manages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize)]
pub struct Desired {
    #[n(0)]
    pub power: Power,
    #[n(1)]
    pub generation: Generation,
}

/// A guest as its host sees it. A guest found on the host and not managed has no `desired`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct GuestReport {
    #[n(0)]
    pub id: GuestId,
    #[n(1)]
    pub name: String,
    #[n(2)]
    pub state: PowerState,
    /// Why it is in that state, in a word ("crashed", "destroyed", "booted"); empty when the hypervisor doesn't say.
    #[n(3)]
    pub reason: String,
    /// False: a transient domain, gone when it stops.
    #[n(4)]
    pub persistent: bool,
    #[n(5)]
    pub desired: Option<Desired>,
    #[n(6)]
    pub vcpus: u32,
    #[n(7)]
    pub memory_mib: MiB,
    /// When it was first seen in this state.
    #[n(8)]
    pub since: Stamp,
    /// Restarts after crashes by the agent since the guest was last asked to start.
    #[n(9)]
    pub restarts: u32,
    #[n(10)]
    pub disks: Vec<Disk>,
}

impl GuestReport {
    /// True where the host keeps this guest as wished by itself.
    pub fn managed(&self) -> bool {
        self.desired.is_some()
    }
}

/// One disk of a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Disk {
    /// Device name in the guest's definition, such as `vda`.
    #[n(0)]
    pub target: String,
    #[n(1)]
    pub path: String,
    /// `raw` or `qcow2`, from the definition, never from the image's own header.
    #[n(2)]
    pub format: String,
}

/// One sample of a guest; rates are means since the sample before.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct GuestSample {
    #[n(0)]
    pub id: GuestId,
    /// CPU in use, permille of one CPU.
    #[n(1)]
    pub cpu_permille: u32,
    /// Resident memory of the guest's process.
    #[n(2)]
    pub resident_mib: MiB,
    #[n(3)]
    pub read_bps: u64,
    #[n(4)]
    pub write_bps: u64,
    /// Balloon size; absent until the first balloon statistics.
    #[n(5)]
    pub balloon_mib: Option<MiB>,
    /// Memory the guest says is available to it.
    #[n(6)]
    pub available_mib: Option<MiB>,
    /// How its doors stand that are tried from its host.
    #[n(7)]
    #[cbor(default)]
    #[serde(default)]
    pub access: Vec<Access>,
    /// Bytes it received and sent a second, by its taps on the host; 0 where it has none.
    #[n(8)]
    #[cbor(default)]
    #[serde(default)]
    pub receive_bps: u64,
    #[n(9)]
    #[cbor(default)]
    #[serde(default)]
    pub transmit_bps: u64,
}

/// What a guest is made from.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestSpec {
    #[n(0)]
    pub name: String,
    #[n(1)]
    pub memory_mib: MiB,
    #[n(2)]
    #[serde(default = "one")]
    pub vcpus: u32,
    #[n(3)]
    #[serde(default)]
    pub disks: Vec<DiskSpec>,
    #[n(4)]
    #[serde(default)]
    pub nics: Vec<NicSpec>,
    #[n(5)]
    #[serde(default)]
    pub boot: Boot,
    /// What it is owed of its host's memory; absent: what all are.
    #[n(6)]
    #[serde(default)]
    pub memory: Option<MemoryWish>,
}

fn one() -> u32 {
    1
}

/// Where a new guest's disk comes from. Paths are relative to the host's image folder.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "snake_case", deny_unknown_fields)]
pub enum DiskSpec {
    /// An empty qcow2 disk of this size.
    #[n(0)]
    Blank {
        #[n(0)]
        size_mib: MiB,
    },
    /// A copy of an image in the host's image folder; `format` is `raw` or `qcow2` and is never guessed.
    #[n(1)]
    Image {
        #[n(0)]
        path: String,
        #[n(1)]
        format: String,
    },
}

/// A network interface; `bridge` names one of the host's bridges, absent means the user-mode network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NicSpec {
    #[n(0)]
    #[serde(default)]
    pub bridge: Option<String>,
}

/// What a guest boots from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "snake_case", deny_unknown_fields)]
pub enum Boot {
    #[default]
    #[n(0)]
    Disk,
    /// A kernel in the host's image folder.
    #[n(1)]
    Kernel {
        #[n(0)]
        kernel: String,
        #[n(1)]
        initrd: Option<String>,
        #[n(2)]
        cmdline: String,
    },
}

/// Digest of a set of guests, in order of id: equal on both sides when they know the same. First 8 bytes of SHA-256
/// over the encoded reports.
pub fn digest<'a>(guests: impl Iterator<Item = &'a GuestReport>) -> u64 {
    let mut context = Context::new(&SHA256);
    for guest in guests {
        context.update(&crate::codec::encode(guest));
    }
    let digest = context.finish();
    let mut first = [0u8; 8];
    first.copy_from_slice(&digest.as_ref()[..8]);
    u64::from_be_bytes(first)
}

/// Longest guest name, bytes: what libvirt and file names of logs can carry.
pub const NAME: usize = 200;
/// Most memory of one guest.
const MEMORY: MiB = MiB(16 << 20);
/// Largest blank disk.
const DISK: MiB = MiB(64 << 20);

impl GuestSpec {
    /// Whether a guest can be made from this at all, whatever the host.
    ///
    /// # Errors
    /// What is wrong, and what is allowed.
    pub fn check(&self) -> Result<(), String> {
        check_name(&self.name)?;
        if !(MiB(1)..=MEMORY).contains(&self.memory_mib) {
            return Err(format!("memory is {}: give 1 MiB to {MEMORY}", self.memory_mib));
        }
        if !(1..=1024).contains(&self.vcpus) {
            return Err(format!("{} virtual CPUs: give 1 to 1024", self.vcpus));
        }
        if self.disks.len() > 24 || self.nics.len() > 16 {
            return Err("a guest has at most 24 disks and 16 network interfaces".into());
        }
        for disk in &self.disks {
            check_disk(disk)?;
        }
        if let Some(problem) = self.memory.as_ref().and_then(|wish| wish.problem(self.memory_mib)) {
            return Err(problem);
        }
        if let Boot::Kernel { cmdline, .. } = &self.boot
            && (cmdline.len() > 2_048 || cmdline.chars().any(char::is_control))
        {
            return Err("the kernel command line has control characters or more than 2048 bytes".into());
        }
        Ok(())
    }
}

fn check_disk(disk: &DiskSpec) -> Result<(), String> {
    match disk {
        DiskSpec::Blank { size_mib } if (MiB(1)..=DISK).contains(size_mib) => Ok(()),
        DiskSpec::Blank { size_mib } => Err(format!("a blank disk of {size_mib}: give 1 MiB to {DISK}")),
        DiskSpec::Image { format, .. } if format == "raw" || format == "qcow2" => Ok(()),
        DiskSpec::Image { format, .. } => Err(format!("image format {format:?}: give raw or qcow2")),
    }
}

/// Whether a guest may have this name.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<(), String> {
    if name.trim().is_empty() || name.trim() != name {
        return Err("the name is empty or has blanks at its ends".into());
    }
    if name.len() > NAME {
        return Err(format!("the name has {} bytes: {NAME} are allowed", name.len()));
    }
    if name == "." || name == ".." || name.contains('/') || name.chars().any(char::is_control) {
        return Err("the name has a slash, a line break or another control character".into());
    }
    Ok(())
}
