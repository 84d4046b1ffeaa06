//! One look at the memory of a host and its guests, as the edge hands it in. What a kernel or a guest doesn't tell is
//! `None`, and nothing is decided from it.

use std::collections::BTreeMap;

use roost_protocol::host::Pressure;
use roost_protocol::memory::MemoryWish;
use roost_protocol::{GuestId, MiB, Millis, Stamp};

/// One look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Wall clock, for people.
    pub at: Stamp,
    pub host: HostMemory,
    /// Absent: this kernel can't merge pages.
    pub ksm: Option<Ksm>,
    /// Running guests only.
    pub guests: BTreeMap<GuestId, GuestMemory>,
}

impl Sample {
    /// What the guests would need more without merging. The kernel's counters keep what ended guests had for as long as
    /// merging is off, so they are believed only as far as the guests' own go, where these are told.
    pub fn saved(&self) -> MiB {
        let counted = self.ksm.as_ref().map_or(MiB(0), Ksm::saved);
        let own: Option<MiB> = self.guests.values().map(|guest| guest.shared).sum();
        own.map_or(counted, |own| own.min(counted))
    }
}

/// The host's own tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostMemory {
    pub total: MiB,
    /// What can be had without swapping (`MemAvailable`).
    pub available: MiB,
    pub swap_total: MiB,
    pub swap_used: MiB,
    /// Huge pages set aside; they are nobody's to merge or squeeze.
    pub huge: MiB,
    /// Absent where the kernel has no PSI.
    pub pressure: Option<Pressure>,
    /// PSI `full avg10` of memory, hundredths of a percent.
    pub full_centi: Option<u32>,
    /// Free memory of each NUMA node.
    pub nodes: Vec<Node>,
}

/// One NUMA node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Node {
    pub number: u32,
    pub total: MiB,
    pub free: MiB,
}

/// The counters and knobs of page sharing (`/sys/kernel/mm/ksm`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ksm {
    pub knobs: Knobs,
    /// Bytes of one page.
    pub page_bytes: u64,
    /// Pages that others are merged into, and those merged.
    pub shared: u64,
    pub sharing: u64,
    /// Pages looked at and found unique.
    pub unshared: u64,
    /// Pages that change too fast.
    pub volatile: u64,
    /// Empty pages merged with the kernel's own.
    pub zero: u64,
    pub scans: u64,
    /// Pages looked at since boot; absent before Linux 6.7.
    pub scanned: Option<u64>,
    /// Bytes saved less the bytes of bookkeeping; absent before Linux 6.4.
    pub profit: Option<i64>,
    /// CPU time of the kernel's thread since boot; absent where it can't be seen (inside a container).
    pub cpu: Option<Millis>,
}

/// What can be set; a knob this kernel doesn't have is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Knobs {
    pub run: Option<u64>,
    pub pages_to_scan: Option<u64>,
    pub sleep_ms: Option<u64>,
    /// True: the kernel itself sets `pages_to_scan` (Linux 6.8).
    pub advisor: Option<bool>,
    pub advisor_cpu_percent: Option<u64>,
    pub advisor_target_s: Option<u64>,
    pub advisor_least_pages: Option<u64>,
    pub smart_scan: Option<u64>,
    pub use_zero_pages: Option<u64>,
}

impl Ksm {
    /// Memory that would be needed more without merging.
    pub fn saved(&self) -> MiB {
        MiB::of_bytes(self.sharing.saturating_add(self.zero).saturating_mul(self.page_bytes))
    }

    /// Bytes saved less bookkeeping, also where the kernel doesn't tell: one item of 64 bytes for each page looked at.
    pub fn profit(&self) -> i64 {
        self.profit.unwrap_or_else(|| {
            let pages = |count: u64, bytes: u64| i64::try_from(count.saturating_mul(bytes)).unwrap_or(i64::MAX);
            let items = self.shared.saturating_add(self.sharing).saturating_add(self.unshared);
            pages(self.sharing, self.page_bytes) - pages(items.saturating_add(self.volatile), 64)
        })
    }
}

/// One running guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestMemory {
    /// What it has when nobody squeezes it (`currentMemory` of its definition).
    pub full: MiB,
    /// Of its process, with QEMU itself. Merged pages count as if they were its own.
    pub resident: MiB,
    /// Its fair part of resident pages; measured rarely.
    pub proportional: Option<MiB>,
    /// Merged with equal pages (`ksm_stat`).
    pub shared: Option<MiB>,
    /// What it used of one CPU, permille.
    pub cpu_permille: u32,
    /// Since its process began.
    pub age: Millis,
    /// False: found, not managed; nothing is done to it.
    pub ours: bool,
    /// The guest takes memory from its balloon by itself before it kills a program (`autodeflate`).
    pub rescue: bool,
    pub wish: MemoryWish,
    /// As it runs now its pages may be merged, whatever is wished.
    pub mergeable: bool,
    /// Absent: no balloon, or libvirt didn't tell.
    pub balloon: Option<Balloon>,
}

/// The guest's balloon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balloon {
    /// What it leaves the guest now.
    pub current: MiB,
    /// Absent: the driver in the guest has never told.
    pub told: Option<Told>,
}

/// What the driver in the guest told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// How long ago.
    pub age: Millis,
    /// Free, caches not counted.
    pub unused: MiB,
    /// What the guest's programs can have without swapping.
    pub usable: MiB,
    /// Since the guest's boot.
    pub swapped_in: MiB,
    pub major_faults: u64,
}

impl GuestMemory {
    /// What its balloon leaves it, or all.
    pub fn current(&self) -> MiB {
        self.balloon.map_or(self.full, |balloon| balloon.current)
    }

    /// Whether anything may be taken from it. Without a rescue by its own driver a sudden need kills its programs: only
    /// where its owner named a floor.
    pub fn may_give(&self) -> bool {
        self.ours && self.wish.squeeze && (self.rescue || self.wish.floor_mib.is_some())
    }

    /// What it uses for good: all it has less what its programs could still have.
    pub fn used(&self) -> Option<MiB> {
        let balloon = self.balloon?;
        Some(balloon.current - balloon.told?.usable)
    }
}
