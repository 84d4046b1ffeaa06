//! The running aggregator: its parts put together, started in order, and stopped.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use roost_aggregator_core::Grid;
use roost_protocol::Millis;
use roost_protocol::identity::{GridKey, SERVER_NAME};
use roost_protocol::transport::{Listener, TransportError};
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, wall};
use crate::config::Config;
use crate::driver::Driver;
use crate::handle::{self, Handle};
use crate::https::Certificate;
use crate::ledger::{Ledger, LedgerError, Store};
use crate::listen::{self, Shared};
use crate::notify::{self, Courier, Delivery};
use crate::{address, api, init, service, snmp, witness};

/// Own certificates last 397 days; new ones are made this often, so that addresses and a corrected clock come in soon.
const RENEW_EVERY: Duration = Duration::from_secs(3_600);

/// What runs, before it runs.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) driver: Driver,
    pub(crate) handle: Handle,
    pub(crate) shared: Arc<Shared>,
    pub(crate) clock: Clock,
    pub(crate) ledger: Ledger,
    /// Notifications on their way out.
    pub(crate) deliveries: mpsc::Receiver<Delivery>,
    /// Ends when the driver and every other holder of the ledger has ended.
    pub(crate) storage: JoinHandle<()>,
}

/// Reads what was kept and puts the parts together. The epoch is durable on return.
pub(crate) fn assemble(config: &Config, key: Arc<GridKey>) -> Result<Parts, LedgerError> {
    let clock = Clock::start();
    let (mut store, kept) = Store::open(&config.ledger_path(), true, wall())?;
    if let Some(aside) = &kept.set_aside {
        tracing::error!(aside = %aside.display(), "the damaged database lies here, should an expert want it");
    }
    if kept.recovering {
        tracing::warn!("the database was lost: hosts and users come back with the first agent that connects");
    }
    let settings = roost_aggregator_core::Config {
        grid: key.grid_id(),
        epoch: store.begin_epoch(wall())?,
        suspect_after: Millis(config.suspect_after_ms),
        down_after: Millis(config.down_after_ms),
        recovering: kept.recovering,
    };
    let mut grid = Grid::new(settings, kept.intent, kept.operations);
    grid.remember_uses(kept.uses);
    grid.remember_told(kept.told);
    let wrap = |source| LedgerError::File { what: "start the thread for", path: config.ledger_path(), source };
    let (ledger, storage) = Ledger::start(store).map_err(wrap)?;
    let (handle, end) = handle::handle(key);
    let (post, deliveries) = mpsc::channel(notify::UNDER_WAY);
    let (driver, to_driver) = Driver::new(grid, clock, ledger.clone(), handle.clone(), end, post);
    let shared = Arc::new(Shared::new(handle.clone(), to_driver, clock, config));
    Ok(Parts { driver, handle, shared, clock, ledger, deliveries, storage })
}

/// Runs until told to stop.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    let path = config.grid_key_path();
    if !path.exists() {
        anyhow::bail!("there is no grid key {}; run `roost-aggregator init` first", path.display());
    }
    let key = Arc::new(init::read_key(&path)?);
    let parts = assemble(&config, Arc::clone(&key)).context("open the database")?;
    init::write_ca(&config, &key)?;
    let grid = GridThread::start().context("start the thread of the grid")?;
    let listener = Arc::new(grid.within(|| bind(config.quic_listen, &key))?);
    let certificate = Certificate::new(&key, &config.public)?;
    let clock = parts.clock;
    let courier = Arc::new(Courier::new(config.api_url(), key.grid_id().to_string(), &config.data_dir));
    let serving = api::Serving {
        listener: bind_https(config.https_listen).await?,
        tls: certificate.server_config()?,
        router: api::router(api::Api::new(parts.handle.clone(), names(&config), courier.clone(), move || clock.now())),
    };
    let stop = CancellationToken::new();
    let mut driver = grid.tasks.spawn(parts.driver.run(stop.clone()));
    let listening = grid.tasks.spawn(listen::run(Arc::clone(&listener), parts.shared, stop.clone()));
    let renewing = tokio::spawn(renew(Arc::clone(&listener), key, config.public.clone(), certificate, stop.clone()));
    let answering = tokio::spawn(api::serve(serving, stop.clone()));
    let posting = tokio::spawn(notify::run(courier, parts.deliveries, parts.handle.clone(), stop.clone()));
    let witness = config.witness_socket.clone().map(|socket| {
        let (public, handle) = (config.public.clone(), parts.handle.clone());
        tokio::spawn(witness::watch(socket, public, handle, stop.clone()))
    });
    let asked = config.snmp_socket.clone().map(|socket| {
        let handle = parts.handle.clone();
        tokio::spawn(snmp::serve(socket, handle, stop.clone()))
    });
    let watching = tokio::spawn(service::watchdog(parts.handle.clone(), stop.clone()));
    tracing::info!(quic = %config.quic_listen, https = %config.https_listen, "listening");
    service::tell(NotifyState::Ready);
    let outcome = tokio::select! {
        signal = service::asked_to_stop() => signal.context("wait for signals"),
        ended = &mut driver => Err(anyhow::anyhow!("the driver ended: {ended:?}")),
    };
    tracing::info!("stopping");
    service::tell(NotifyState::Stopping);
    stop.cancel();
    // Each ends by the token; the driver last, when all that was answered is durable.
    for task in [answering, listening, renewing, watching, posting].into_iter().chain(witness).chain(asked) {
        task.await.context("stop a task")?;
    }
    if outcome.is_ok() {
        driver.await.context("stop the driver")?;
    }
    drop((listener, parts.handle, parts.ledger));
    let storage = parts.storage;
    let threads = move || {
        grid.end();
        storage.join()
    };
    tokio::task::spawn_blocking(threads).await.context("stop the threads")?.ok();
    outcome
}

/// The thread of the links and of the driver. A beat goes from the socket to the grid and back on it without waking
/// another one, which costs more than all else about a beat; callers of the API, their cryptography and their JSON are
/// on the other threads and can't make a host wait.
#[derive(Debug)]
struct GridThread {
    tasks: tokio::runtime::Handle,
    ended: CancellationToken,
    thread: JoinHandle<()>,
}

impl GridThread {
    fn start() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (tasks, ended) = (runtime.handle().clone(), CancellationToken::new());
        let until = ended.clone();
        let thread = std::thread::Builder::new().name("grid".to_owned());
        let thread = thread.spawn(move || runtime.block_on(until.cancelled()))?;
        Ok(Self { tasks, ended, thread })
    }

    /// Sockets and timers that `make` makes belong to this thread.
    fn within<T>(&self, make: impl FnOnce() -> T) -> T {
        let _inside = self.tasks.enter();
        make()
    }

    fn end(self) {
        self.ended.cancel();
        drop(self.thread.join());
    }
}

/// What callers may name in Host: all that the certificate is for.
fn names(config: &Config) -> api::Names {
    api::Names::new(address::names(&config.public).into_iter().chain([SERVER_NAME.to_owned()]))
}

async fn bind_https(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let any_v4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port());
    match TcpListener::bind(address).await {
        Err(error) if is_any_v6(address) && is_no_ipv6(&error) => TcpListener::bind(any_v4).await,
        result => result,
    }
    .with_context(|| format!("open TCP socket {address}"))
}

/// A kernel without IPv6 refuses `[::]`; the same on IPv4 is what was meant.
fn bind(address: SocketAddr, key: &GridKey) -> Result<Listener, TransportError> {
    let any_v4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port());
    match Listener::bind(address, key, wall()) {
        Err(TransportError::Bind { source, .. }) if is_any_v6(address) && is_no_ipv6(&source) => {
            Listener::bind(any_v4, key, wall())
        }
        result => result,
    }
}

fn is_any_v6(address: SocketAddr) -> bool {
    address.is_ipv6() && address.ip().is_unspecified()
}

fn is_no_ipv6(error: &std::io::Error) -> bool {
    /// EAFNOSUPPORT, which std has no name for.
    const NO_FAMILY: i32 = 97;
    error.raw_os_error() == Some(NO_FAMILY) || error.kind() == std::io::ErrorKind::AddrNotAvailable
}

async fn renew(
    listener: Arc<Listener>,
    key: Arc<GridKey>,
    public: Vec<String>,
    certificate: Arc<Certificate>,
    stop: CancellationToken,
) {
    while stop.run_until_cancelled(tokio::time::sleep(RENEW_EVERY)).await.is_some() {
        if let Err(error) = certificate.renew(&key, &public) {
            tracing::error!("cannot renew the HTTPS certificate: {error:#}");
        }
        if let Err(error) = listener.renew(&key, wall()) {
            tracing::error!(error = %crate::chain(&error), "cannot renew the QUIC certificate");
        }
    }
}
