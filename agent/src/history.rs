//! What was sampled, for charts and reports: 10 s for a day, 1 min for a month, 15 min for a year, kept by the host itself.
//! One thread owns the file; it is asked through a bounded channel.

mod chunk;
mod law;
mod store;
#[cfg(test)]
mod test;

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use roost_protocol::GuestId;
use roost_protocol::guest::GuestSample;
use roost_protocol::host::HostSample;
use roost_snmp::mib::number::{Change, Kept};
use tokio::sync::oneshot;

pub(crate) use law::{Bucket, LANES};
use store::Store;
pub(crate) use store::{Answer, HistoryError};

/// Requests that may wait: ten minutes of a disk that hangs, and charts.
const REQUESTS: usize = 64;
/// File name in the state folder.
pub(crate) const FILE: &str = "history.db";

/// What is sampled together: a guest, or the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Series(pub(crate) [u8; 16]);

impl Series {
    /// The host itself; no guest has this id.
    pub(crate) const HOST: Self = Self([0; 16]);
}

impl From<GuestId> for Series {
    fn from(guest: GuestId) -> Self {
        Self(guest.bytes())
    }
}

/// From `from` up to but without `to`, seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// What history is asked.
#[derive(Debug)]
pub(crate) enum Request {
    /// The last ten seconds of all series.
    Tick {
        at_s: u64,
        buckets: Vec<(Series, Bucket)>,
    },
    KeepNumbers(Vec<Change>),
    /// All series when none is named; at most about `points` buckets of each.
    #[allow(dead_code, reason = "asked once the aggregator passes charts and reports on; tested")]
    Query {
        series: Vec<Series>,
        span: Span,
        points: u64,
        answer: oneshot::Sender<Result<Answer, HistoryError>>,
    },
}

/// The handle of history; dropped, its thread ends.
#[derive(Clone, Debug)]
pub(crate) struct History {
    requests: SyncSender<Request>,
}

impl History {
    /// Opens the file in this folder and starts the thread. Also gives the numbers of vmIndex that are kept there.
    pub(crate) fn start(folder: &Path, limit_bytes: u64) -> Result<(Self, Vec<Kept>), HistoryError> {
        let store = Store::open(&folder.join(FILE), limit_bytes)?;
        let numbers = store.numbers()?;
        let (requests, waiting) = sync_channel(REQUESTS);
        let thread = thread::Builder::new().name("history".into()).spawn(move || serve(store, &waiting));
        thread.map_err(HistoryError::Thread)?;
        Ok((Self { requests }, numbers))
    }

    /// Asks; false when the thread is behind or gone, and the request is lost.
    pub(crate) fn ask(&self, request: Request) -> bool {
        match self.requests.try_send(request) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }
}

fn serve(mut store: Store, requests: &Receiver<Request>) {
    let mut failed = false;
    while let Ok(request) = requests.recv() {
        let result = match request {
            Request::Tick { at_s, buckets } => store.tick(at_s, &buckets),
            Request::KeepNumbers(changes) => store.keep_numbers(&changes),
            Request::Query { series, span, points, answer } => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
                // Whoever asked may have gone.
                let _ = answer.send(store.query(&series, span, points, now));
                continue;
            }
        };
        // A full disk fails every time; it is told once, and once when it is over.
        match &result {
            Err(error) if !failed => {
                tracing::error!(error = %error, source = ?std::error::Error::source(error), "history")
            }
            Ok(()) if failed => tracing::info!("history is kept again"),
            Ok(()) | Err(_) => {}
        }
        failed = result.is_err();
    }
}

/// What a guest's lanes mean: CPU permille, resident MiB, bytes read and written a second, balloon MiB and how many samples
/// had one, available MiB and how many samples had it.
pub(crate) fn of_guest(sample: &GuestSample) -> Bucket {
    let optional = |mib: Option<roost_protocol::MiB>| mib.map_or([0, 0], |mib| [mib.0, 1]);
    let ([balloon, balloons], [available, availables]) = (optional(sample.balloon_mib), optional(sample.available_mib));
    let (cpu, resident) = (u64::from(sample.cpu_permille), sample.resident_mib.0);
    Bucket::of([cpu, resident, sample.read_bps, sample.write_bps, balloon, balloons, available, availables, 0, 0])
}

/// What the host's lanes mean: CPU permille, available and swapped MiB, load in hundredths, pressure of CPU, memory and IO
/// in hundredths of a percent, bytes received and sent a second, free MiB of the first file system.
pub(crate) fn of_host(sample: &HostSample) -> Bucket {
    let pressure = sample.pressure.unwrap_or_default();
    let (received, sent) = sample.nics.iter().fold((0u64, 0u64), |(received, sent), nic| {
        (received.saturating_add(nic.receive_bps), sent.saturating_add(nic.transmit_bps))
    });
    let lanes: [u64; LANES] = [
        u64::from(sample.cpu_permille),
        sample.memory_available_mib.0,
        sample.swap_used_mib.0,
        u64::from(sample.load_centi),
        u64::from(pressure.cpu_centi),
        u64::from(pressure.memory_centi),
        u64::from(pressure.io_centi),
        received,
        sent,
        sample.disks.first().map_or(0, |disk| disk.free_mib.0),
    ];
    Bucket::of(lanes)
}
