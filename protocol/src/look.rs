//! What people look at for a moment, such as a screen or a chart: asked of a host on a stream of its own, which the
//! aggregator opens, answered from what the host sees just then, and kept nowhere on the way.

use minicbor::{Decode, Encode};

use crate::fence::{FenceDevice, Power};
use crate::host::NextImage;
use crate::memory::MemoryReport;
use crate::operation::Failure;
use crate::{GuestId, MiB, Millis, Stamp};

/// The first message version whose agents answer.
pub const SINCE: u32 = 4;
/// Largest picture: what fits into one frame with room to spare.
pub const PICTURE: usize = 960 << 10;
/// Most moments of a history: a point for each pixel of a chart, and far less than a frame.
pub const MOMENTS: u32 = 2_000;

/// The question; the only message on its stream.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Look {
    /// What a running guest shows on its first screen.
    #[n(0)]
    Screen {
        #[n(0)]
        guest: GuestId,
    },
    /// What the guest's newest proven, or not proven, restore point showed on its screen.
    #[n(1)]
    Trial {
        #[n(0)]
        guest: GuestId,
    },
    /// What was sampled of a guest, or of the host itself.
    #[n(2)]
    History(#[n(0)] Past),
    /// The host's memory, how it is shared out and why.
    #[n(3)]
    Memory,
    /// What another host's fence device says of that host.
    #[n(4)]
    Power(#[n(0)] Box<FenceDevice>),
    /// Whether the host's watchdog works: its guard has it end the host, unless something executes there.
    #[n(5)]
    Watchdog,
    /// Has the host look for a newer image now, unless it does so already.
    #[n(6)]
    NewerImage,
    /// Has the host restart, unless something executes there.
    #[n(7)]
    Reboot {
        /// Its boot id: the start that is to end. What comes twice restarts it once.
        #[n(0)]
        boot: String,
    },
}

/// Which history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Past {
    /// Absent: of the host.
    #[n(0)]
    pub guest: Option<GuestId>,
    /// So far back from its end.
    #[n(1)]
    pub span: Millis,
    /// Its end; absent: now, by the host's clock.
    #[n(2)]
    pub until: Option<Stamp>,
    /// About so many moments, at most [`MOMENTS`].
    #[n(3)]
    pub points: u32,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Seen {
    #[n(0)]
    Picture(#[n(0)] Picture),
    #[n(1)]
    Nothing(#[n(0)] Failure),
    #[n(2)]
    History(#[n(0)] History),
    #[n(3)]
    Memory(#[n(0)] Box<MemoryReport>),
    #[n(4)]
    Power(#[n(0)] Power),
    /// It was begun; what the host reports tells what came of it.
    #[n(5)]
    Begun,
    #[n(6)]
    Newer(#[n(0)] Newer),
}

/// How the search for a newer image stands.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Newer {
    /// It goes on: ask again.
    #[n(0)]
    Looking,
    /// The next start uses this one.
    #[n(1)]
    Waits(#[n(0)] NextImage),
    /// What runs is the newest.
    #[n(2)]
    None,
}

/// What was sampled, in order of time. Where nothing was, there is no moment.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct History {
    /// What each moment spans.
    #[n(0)]
    pub step: Millis,
    #[n(1)]
    pub of: Course,
}

/// The moments of one thing.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Course {
    #[n(0)]
    Host(#[n(0)] Vec<HostMoment>),
    #[n(1)]
    Guest(#[n(0)] Vec<GuestMoment>),
}

/// A host on average over one step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct HostMoment {
    /// Its beginning.
    #[n(0)]
    pub at: Stamp,
    /// Of all CPUs.
    #[n(1)]
    pub cpu_permille: u32,
    /// The highest sample.
    #[n(2)]
    pub cpu_peak_permille: u32,
    #[n(3)]
    pub memory_available_mib: MiB,
    #[n(4)]
    pub swap_used_mib: MiB,
    #[n(5)]
    pub load_centi: u32,
    /// Pressure stall, hundredths of a percent.
    #[n(6)]
    pub pressure_cpu_centi: u32,
    #[n(7)]
    pub pressure_memory_centi: u32,
    #[n(8)]
    pub pressure_io_centi: u32,
    /// Bytes a second.
    #[n(9)]
    pub receive_bps: u64,
    #[n(10)]
    pub transmit_bps: u64,
    /// Of the file system of the agent's state.
    #[n(11)]
    pub disk_free_mib: MiB,
    /// By merging equal pages.
    #[n(12)]
    pub saved_by_sharing_mib: Option<MiB>,
}

/// A guest on average over one step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct GuestMoment {
    /// Its beginning.
    #[n(0)]
    pub at: Stamp,
    /// Of one CPU.
    #[n(1)]
    pub cpu_permille: u32,
    /// The highest sample.
    #[n(2)]
    pub cpu_peak_permille: u32,
    #[n(3)]
    pub resident_mib: MiB,
    /// Bytes a second.
    #[n(4)]
    pub read_bps: u64,
    #[n(5)]
    pub write_bps: u64,
    /// What its balloon leaves it, where it has one.
    #[n(6)]
    pub balloon_mib: Option<MiB>,
    /// What it says it has free, where it says so.
    #[n(7)]
    pub available_mib: Option<MiB>,
    /// Received and sent, bytes a second.
    #[n(8)]
    #[cbor(default)]
    pub receive_bps: u64,
    #[n(9)]
    #[cbor(default)]
    pub transmit_bps: u64,
    /// Of its doors that are tried, those that answered when tried last; absent where none is tried.
    #[n(10)]
    pub availability_permille: Option<u32>,
    /// How long the slowest of them took that answered.
    #[n(11)]
    pub access_rtt_ms: Option<u32>,
}

/// A screen at a moment.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Picture {
    /// When it was taken.
    #[n(0)]
    pub at: Stamp,
    /// At most [`PICTURE`] bytes.
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    pub png: Vec<u8>,
}
