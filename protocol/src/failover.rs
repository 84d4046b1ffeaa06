//! Failover as the aggregator coordinates it: where guards are, which guests another host is to go on with, and who votes
//! on each. Guards alone decide who runs what; nothing said here can start a guest. Message version [`SINCE`].

use std::fmt;

use minicbor::{Decode, Encode};
use ring::digest::{SHA256, digest};

use crate::cause::Noted;
use crate::fence::FenceDevice;
use crate::{GridId, GuestId, HostId, Millis, Stamp};

/// The first message version that has these words.
pub const SINCE: u32 = 4;
/// Wards that one host may report or be told of: as many as a guard takes part in.
pub const WARDS: usize = 256;
/// Guards that one host is told of: its neighbours, and who votes with it; fewer than a guard pins.
pub const GUARDS: usize = 128;

/// A replica older than this is not started by itself.
pub const MAX_RPO: Millis = Millis::seconds(3_600);

/// The name of a grid's witness: a guard beside its aggregator, which votes where two hosts alone could not. Made of the
/// grid's own, so that an aggregator that lost all calls it the same; hosts' ids are drawn by chance.
pub fn witness(grid: GridId) -> HostId {
    let mut words = b"roost witness".to_vec();
    words.extend(grid.bytes());
    let mut id = [0; 16];
    id.iter_mut().zip(digest(&SHA256, &words).as_ref()).for_each(|(to, from)| *to = *from);
    HostId::from_bytes(id)
}

/// One voice in a council: a host's guard, and which of its vote stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Voter {
    #[n(0)]
    pub host: HostId,
    #[n(1)]
    pub incarnation: u32,
}

/// Who votes on where one guest runs.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Council {
    #[n(0)]
    pub guest: GuestId,
    /// In order of host.
    #[n(1)]
    pub voters: Vec<Voter>,
    /// Hosts that may run it, in order of preference; each votes.
    #[n(2)]
    pub homes: Vec<HostId>,
}

/// A guest that another host is to go on with when its own dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Want {
    #[n(0)]
    pub guest: GuestId,
    /// The host that has its replica.
    #[n(1)]
    pub keeper: HostId,
}

/// A ward that the reporting host owns.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct WardReport {
    #[n(0)]
    pub council: Council,
    /// No change of its council is under way.
    #[n(1)]
    pub settled: bool,
}

/// How a host makes sure that a program that hangs can't keep guests running.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Fencing {
    /// A device outside the processor's reach.
    #[n(0)]
    Hardware(#[n(0)] String),
    /// The kernel's own timer: no fence when the whole machine stalls.
    #[n(1)]
    Soft(#[n(0)] String),
    /// A parent process that ends the host: for tests.
    #[n(2)]
    Parent,
    #[n(3)]
    None(#[n(0)] String),
}

/// A test of a host's watchdog: nothing executed on the host, it was petted no more, and had to end the host for that.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct WatchdogTest {
    /// Which watchdog that was; a test of another says nothing.
    #[n(0)]
    pub watchdog: Fencing,
    #[n(1)]
    pub at: Stamp,
    /// It was to fire so long after its last pet.
    #[n(2)]
    pub time_out: Millis,
    #[n(3)]
    pub result: TestResult,
}

/// What came of it. `lived`: so long after the last pet the host executed for certain.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum TestResult {
    /// Under way.
    #[n(0)]
    Running {
        #[n(0)]
        lived: Millis,
    },
    #[n(1)]
    Passed {
        #[n(0)]
        lived: Millis,
    },
    /// The host was ended, and later than leases count on.
    #[n(2)]
    Late {
        #[n(0)]
        lived: Millis,
    },
    /// The host was not ended.
    #[n(3)]
    Silent {
        #[n(0)]
        lived: Millis,
    },
    /// It says nothing about the watchdog, and why.
    #[n(4)]
    Void(#[n(0)] String),
}

impl TestResult {
    /// In one word.
    pub fn word(&self) -> &'static str {
        match self {
            TestResult::Running { .. } => "running",
            TestResult::Passed { .. } => "passed",
            TestResult::Late { .. } | TestResult::Silent { .. } => "failed",
            TestResult::Void(_) => "void",
        }
    }
}

/// What it showed, as a sentence about the watchdog.
impl fmt::Display for WatchdogTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |span: Millis| format!("{}.{}", span.0 / 1_000, span.0 % 1_000 / 100);
        let due = seconds(self.time_out);
        match &self.result {
            TestResult::Running { .. } => write!(f, "it is to end the host {due} s after the last pet"),
            TestResult::Passed { lived } => {
                let lived = seconds(*lived);
                write!(f, "it ended the host, due {due} s after the last pet: the host executed {lived} s of it")
            }
            TestResult::Late { lived } => {
                let lived = seconds(*lived);
                write!(f, "it ended the host too late: due {due} s after the last pet, still executing after {lived} s")
            }
            TestResult::Silent { lived } => {
                let lived = seconds(*lived);
                write!(f, "it did not end the host: due {due} s after the last pet, still executing after {lived} s")
            }
            TestResult::Void(why) => write!(f, "without result: {why}"),
        }
    }
}

impl WatchdogTest {
    /// The watchdog does not do what leases count on.
    pub fn failed(&self) -> bool {
        matches!(self.result, TestResult::Late { .. } | TestResult::Silent { .. })
    }
}

/// A host's guard, as its agent sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct GuardReport {
    #[n(0)]
    pub incarnation: u32,
    /// Its Ed25519 key.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub key: [u8; 32],
    /// Where it listens, as [`crate::host::HostFacts::peer_listen`].
    #[n(2)]
    pub listen: String,
    /// A host that hangs is ended for certain, or its admin does without.
    #[n(3)]
    pub may_own: bool,
    #[n(4)]
    pub wards: Vec<WardReport>,
    #[n(5)]
    pub wants: Vec<Want>,
    /// What happened to wards before this is not remembered.
    #[n(6)]
    pub remembers: Option<Stamp>,
    /// In a snapshot all that is remembered of wards, in a beat what is new, oldest first.
    #[n(7)]
    #[cbor(default)]
    pub notes: Vec<Noted>,
    /// None: an older agent doesn't tell.
    #[n(8)]
    pub fencing: Option<Fencing>,
    /// Of this watchdog. None: it was never tested, or an older agent doesn't tell.
    #[n(9)]
    pub watchdog_test: Option<WatchdogTest>,
}

/// Another host's guard.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Guard {
    #[n(0)]
    pub host: HostId,
    /// None: not known now, what was told before stays.
    #[n(1)]
    pub seat: Option<Seat>,
    /// What cuts its power, told to those that may take its guests over.
    #[n(2)]
    pub fence: Option<FenceDevice>,
}

/// How a guard is known and reached.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Seat {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub key: [u8; 32],
    #[n(1)]
    pub addresses: Vec<String>,
}
