//! What libvirt knows of guests beyond what is decided on: looked at by `observe`, shown by `report`. Gathered only while
//! somebody asks for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use roost_libvirt::{DomainInfo, DomainStats, InterfaceStats};
use roost_protocol::GuestId;
use tokio::sync::watch;

/// Monitoring asks every minute or five; who was silent for so long asks no more.
const WANTED_FOR: Duration = Duration::from_secs(15 * 60);

/// Told by those who were asked by monitoring, so that those who look know whether to.
#[derive(Clone, Debug)]
pub(crate) struct Demand {
    began: Instant,
    /// Milliseconds after `began` until which somebody wants to know.
    until: Arc<AtomicU64>,
}

impl Demand {
    /// At the start everything is looked at once, so that the first who asks gets an answer.
    pub(crate) fn new() -> Self {
        let demand = Self { began: Instant::now(), until: Arc::default() };
        demand.until.store(1, Ordering::Relaxed);
        demand
    }

    /// Somebody asks.
    pub(crate) fn raise(&self) {
        let until = self.began.elapsed() + WANTED_FOR;
        self.until.store(u64::try_from(until.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn is_raised(&self) -> bool {
        self.began.elapsed() < Duration::from_millis(self.until.load(Ordering::Relaxed))
    }
}

/// The newest of both kinds.
#[derive(Clone, Debug)]
pub(crate) struct Details {
    pub(crate) plain: watch::Receiver<Arc<Look>>,
    pub(crate) deep: watch::Receiver<Arc<BTreeMap<GuestId, DomainStats>>>,
}

/// What was seen at once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Look {
    pub(crate) guests: BTreeMap<GuestId, Plain>,
    /// Absent on a kernel without it.
    pub(crate) ksm: Option<Ksm>,
}

/// Kernel same-page merging, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ksm {
    pub(crate) shared: u64,
    pub(crate) saved: u64,
    pub(crate) run: u32,
    pub(crate) full_scans: u64,
    /// What is saved without what merging itself takes; absent on kernels before 6.1.
    pub(crate) profit: Option<i64>,
}

/// What libvirt tells without asking QEMU.
#[derive(Clone, Debug)]
pub(crate) struct Plain {
    pub(crate) info: DomainInfo,
    pub(crate) hardware: Arc<Hardware>,
    pub(crate) interfaces: Vec<InterfaceStats>,
    /// When its process began, in milliseconds after the host's boot.
    pub(crate) began_ms: Option<u64>,
}

/// What its definition says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hardware {
    /// libosinfo's name of its operating system; empty where the definition has none.
    pub(crate) os: String,
    pub(crate) disks: Vec<Drive>,
    pub(crate) nics: Vec<Card>,
    /// Virtual CPUs bound to physical ones.
    pub(crate) pins: Vec<(u32, Vec<u32>)>,
}

/// A disk in a definition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Drive {
    /// `file`, `block`, `network` …
    pub(crate) kind: String,
    /// `disk`, `cdrom` …
    pub(crate) device: String,
    pub(crate) format: String,
    pub(crate) path: String,
    pub(crate) target: String,
    pub(crate) bus: String,
    pub(crate) read_only: bool,
}

/// A network card in a definition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Card {
    pub(crate) mac: String,
    pub(crate) bridge: String,
    /// Its tap on the host.
    pub(crate) target: String,
    pub(crate) model: String,
    pub(crate) if_index: u32,
    pub(crate) bridge_index: u32,
}
