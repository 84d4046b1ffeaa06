//! A host as its agent reports it.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::{MiB, Stamp};

/// What changes with a reboot or an upgrade, and seldom else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct HostFacts {
    #[n(0)]
    pub name: String,
    /// Version of the agent.
    #[n(1)]
    pub agent_version: String,
    /// The kernel's boot id: differs after each boot.
    #[n(2)]
    pub boot_id: String,
    /// Logical CPUs online.
    #[n(3)]
    pub cpus: u32,
    #[n(4)]
    pub memory_mib: MiB,
    #[n(5)]
    pub virtualization: Virtualization,
    /// For people: "libvirt 9.0.0, QEMU 7.2.22".
    #[n(6)]
    pub hypervisor: String,
    #[n(7)]
    pub kernel: String,
    /// IP addresses of the host, link-local ones left out.
    #[n(8)]
    pub addresses: Vec<String>,
    /// The UDP socket at which its agent listens for other hosts, `[::]:4434` or `192.0.2.7:4434`; absent: it does not. An
    /// unspecified address stands for all of its own. Since version 3.
    #[n(9)]
    pub peer_listen: Option<String>,
    /// For people: "Debian GNU/Linux 12 (bookworm)".
    #[n(10)]
    pub system: Option<String>,
    /// Where it was started from our image.
    #[n(11)]
    pub image: Option<RunningImage>,
}

/// The image that a host was started from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct RunningImage {
    #[n(0)]
    pub version: String,
    /// Hosts take what was made later.
    #[n(1)]
    pub made: Stamp,
    /// On its data disk, `a` or `b`; absent: its stick, or the network.
    #[n(2)]
    pub slot: Option<String>,
    /// What the next start uses, where that is a newer one.
    #[n(3)]
    pub next: Option<NextImage>,
    /// The machine starts only what is signed by a key that it knows (UEFI's Secure Boot). Absent: an older agent.
    #[n(4)]
    pub secure_boot: Option<bool>,
}

/// An image that lies on a host's data disk and is newer than what runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct NextImage {
    #[n(0)]
    pub version: String,
    #[n(1)]
    pub made: Stamp,
}

/// What guests run on; found by trying it, not by looking for a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Virtualization {
    #[n(0)]
    Hardware,
    #[n(1)]
    Software {
        #[n(0)]
        why: String,
    },
    #[default]
    #[n(2)]
    Unknown,
}

/// How far a host is that an admin took out of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Maintenance {
    /// It takes no guests, and keeps those it has.
    #[n(0)]
    On,
    /// Its guests are handed over.
    #[n(1)]
    Draining,
    /// Nothing runs on it that another host could go on with.
    #[n(2)]
    Drained,
}

/// Whether what the agent shows of its guests is fresh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Freshness {
    #[default]
    #[n(0)]
    Live,
    /// The libvirt daemon is away since then; guests go on, but what is shown of them may be old.
    #[n(1)]
    Stale {
        #[n(0)]
        since: Stamp,
    },
}

/// One sample of the host, taken each second; shares are in permille of one whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct HostSample {
    /// CPU in use, permille of all CPUs.
    #[n(0)]
    pub cpu_permille: u32,
    #[n(1)]
    pub memory_available_mib: MiB,
    #[n(2)]
    pub swap_used_mib: MiB,
    /// One-minute load average, in hundredths.
    #[n(3)]
    pub load_centi: u32,
    /// PSI `some avg10` of CPU, memory and io, in hundredths of a percent; absent where the kernel has no PSI.
    #[n(4)]
    pub pressure: Option<Pressure>,
    #[n(5)]
    pub disks: Vec<DiskUse>,
    #[n(6)]
    pub nics: Vec<NicRate>,
    /// The host's wall clock at the sample.
    #[n(7)]
    pub at: Stamp,
    /// Memory that its guests would need more if equal pages were not merged; absent where the kernel merges none.
    #[n(8)]
    pub saved_by_sharing_mib: Option<MiB>,
}

/// Pressure stall information, `some avg10`, in hundredths of a percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Pressure {
    #[n(0)]
    pub cpu_centi: u32,
    #[n(1)]
    pub memory_centi: u32,
    #[n(2)]
    pub io_centi: u32,
}

/// How full one file system is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct DiskUse {
    #[n(0)]
    pub path: String,
    #[n(1)]
    pub total_mib: MiB,
    #[n(2)]
    pub free_mib: MiB,
}

/// Traffic of one network interface, bytes per second.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct NicRate {
    #[n(0)]
    pub name: String,
    #[n(1)]
    pub receive_bps: u64,
    #[n(2)]
    pub transmit_bps: u64,
}

/// A condition that is raised until it clears. `code` is stable (`state-disk-full`), `text` says what and what to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize)]
pub struct Alarm {
    #[n(0)]
    pub code: String,
    /// The guest it is about; absent: the host.
    #[n(1)]
    pub guest: Option<crate::GuestId>,
    #[n(2)]
    pub since: Stamp,
    #[n(3)]
    pub text: String,
}
