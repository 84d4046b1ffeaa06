//! Notifications on their way out: mail, webhook, syslog, SNMP, files. What is told when is decided by the core; here it only travels.

mod alertmanager;
pub(crate) mod file;
mod mail;
mod snmp;
mod syslog;
mod webhook;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use roost_aggregator_core::notify::{Digest, NOTIFIERS, Notifier, Way};
use roost_protocol::Stamp;
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::handle::Handle;

/// Each notifier has one delivery under way; one that was made anew meanwhile has two for a moment.
pub(crate) const UNDER_WAY: usize = 2 * NOTIFIERS;
/// A receiver that takes longer is tried again; less than the core waits for news of a delivery.
const PATIENCE: Duration = Duration::from_secs(30);
/// Where Debian and its kin keep the machine's certificate authorities.
const SYSTEM_CA: &str = "/etc/ssl/certs/ca-certificates.crt";

/// One notification.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) notifier: Box<Notifier>,
    pub(crate) delivery: u64,
    pub(crate) digest: Box<Digest>,
}

/// Why it did not arrive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Undelivered {
    #[error("no answer within {} s", PATIENCE.as_secs())]
    TimedOut,
    #[error("read the certificates of the notifier's ca")]
    Roots,
    #[error("set up TLS")]
    Tls(#[from] rustls::Error),
    #[error("use the address {0:?}")]
    Address(String, #[source] lettre::address::AddressError),
    #[error("write the mail")]
    Compose(#[from] lettre::error::Error),
    #[error("hand the mail over to {0}")]
    Smtp(String, #[source] lettre::transport::smtp::Error),
    #[error("send the request")]
    Http(#[from] reqwest::Error),
    #[error("it answered {0}")]
    Status(reqwest::StatusCode),
    #[error("make SNMPv3's keys of the secret")]
    Keys(#[from] async_snmp::CryptoError),
    #[error("tell {0} by SNMP")]
    Snmp(String, #[source] Box<async_snmp::Error>),
    #[error("{what} {server}")]
    Socket { what: &'static str, server: String, source: std::io::Error },
    #[error("{what} {path}")]
    File { what: &'static str, path: PathBuf, source: std::io::Error },
}

/// Knows what every notification says of its sender.
#[derive(Debug)]
pub(crate) struct Courier {
    /// Where the API is, for those who want to look.
    url: String,
    grid: String,
    began: Instant,
    /// One write at a time, also where one was given up while its disk hangs.
    folder: Arc<Mutex<file::Folder>>,
}

impl Courier {
    /// `data`: the aggregator's data folder, below which files are written.
    pub(crate) fn new(url: String, grid: String, data: &Path) -> Self {
        let folder = Arc::new(Mutex::new(file::Folder(data.join(file::FOLDER))));
        Self { url, grid, began: Instant::now(), folder }
    }

    /// Brings it there, or says why not.
    pub(crate) async fn deliver(&self, notifier: &Notifier, digest: &Digest) -> Result<(), Undelivered> {
        let travel = async {
            match &notifier.way {
                Way::Mail(way) => mail::send(self, notifier, way, digest).await,
                Way::Webhook(way) => webhook::send(self, notifier, way, digest).await,
                Way::Syslog(way) => syslog::send(way, digest).await,
                Way::Snmp(way) => snmp::send(self, notifier, way, digest).await,
                Way::File => file::send(self, notifier, digest).await,
            }
        };
        tokio::time::timeout(PATIENCE, travel).await.map_err(|_| Undelivered::TimedOut)?
    }
}

/// Carries out what the driver hands over, all at once, until told to stop.
pub(crate) async fn run(
    courier: Arc<Courier>,
    mut deliveries: mpsc::Receiver<Delivery>,
    handle: Handle,
    stop: CancellationToken,
) {
    let travelling = TaskTracker::new();
    while let Some(Some(delivery)) = stop.run_until_cancelled(deliveries.recv()).await {
        let (courier, handle, stop) = (Arc::clone(&courier), handle.clone(), stop.clone());
        travelling.spawn(async move {
            let Delivery { notifier, delivery, digest } = delivery;
            let sent = stop.run_until_cancelled(courier.deliver(&notifier, &digest)).await;
            // What was cut off by our own end is told by the next start.
            let Some(result) = sent else { return };
            if let Err(error) = &result {
                tracing::warn!(notifier = notifier.name, error = %crate::chain(error), "a notification did not arrive");
            }
            let result = result.map_err(|error| crate::chain(&error));
            // The driver may have ended.
            let _ = handle.notified(notifier.name, delivery, result).await;
        });
    }
    travelling.close();
    travelling.wait().await;
}

/// The certificates to believe: the machine's and the notifier's own.
fn roots(notifier: &Notifier) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), Undelivered> {
    let system = std::fs::read(SYSTEM_CA).unwrap_or_default();
    let system = CertificateDer::pem_slice_iter(&system).flatten().collect::<Vec<_>>();
    let own = notifier.ca.as_deref().unwrap_or_default().as_bytes();
    let own = CertificateDer::pem_slice_iter(own).collect::<Result<Vec<_>, _>>().map_err(|_| Undelivered::Roots)?;
    let mut store = RootCertStore::empty();
    let mut believed = Vec::new();
    for certificate in system {
        // A machine may have one that we can't read.
        if store.add(certificate.clone()).is_ok() {
            believed.push(certificate);
        }
    }
    for certificate in own {
        store.add(certificate.clone())?;
        believed.push(certificate);
    }
    Ok((store, believed))
}

/// RFC 3339, UTC, to the millisecond.
fn time(stamp: Stamp) -> String {
    let millis = i64::try_from(stamp.0).ok().and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok());
    millis.map_or_else(|| "-".to_owned(), |at| format!("{at:.3}"))
}

#[cfg(test)]
mod test;
