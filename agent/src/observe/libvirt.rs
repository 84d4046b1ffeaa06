//! Watches libvirt: keeps a connection, tells all domains at its start and every change afterwards. One thread, because
//! libvirt's calls block.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use roost_agent_core::Event;
use roost_agent_core::event::Seen;
use roost_libvirt::{Code, Error, EventKind, Hypervisor, Lifecycle, TRIAL, Uuid, XmlForm};
use roost_protocol::GuestId;
use roost_protocol::guest::Disk;
use roost_protocol::host::HostFacts;
use roost_protocol::message::GUESTS_PER_HOST;
use tokio::sync::{mpsc, watch};

use super::{disks, facts, translate};
use crate::backoff::Backoff;
use crate::slots;

/// Events that may wait while domains are read; should more come, all domains are read again.
const SIGNALS: usize = 4_096;
/// Between two looks at whether the connection still stands, should its end not have been told.
const LOOK: Duration = Duration::from_secs(5);
/// First and longest wait before libvirt is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// What the thread is woken by.
#[derive(Debug)]
enum Signal {
    Domain {
        connection: u64,
        uuid: Uuid,
        definition: bool,
    },
    Lost {
        connection: u64,
        why: String,
    },
    /// Look what is asked for.
    Asked,
}

/// The watcher's handle.
#[derive(Debug)]
pub(crate) struct Watcher {
    signals: SyncSender<Signal>,
    /// The newest list that was asked for.
    asked: Arc<AtomicU64>,
    hypervisor: watch::Receiver<Option<Arc<Hypervisor>>>,
}

impl Watcher {
    /// Starts the thread. `changed` is set whenever a guest may have started or ended. It ends when nobody takes its
    /// events any more.
    pub(crate) fn start(
        uri: &str,
        host_booted: bool,
        facts: HostFacts,
        changed: Arc<AtomicBool>,
        events: mpsc::Sender<Event>,
    ) -> io::Result<Self> {
        let (sender, signals) = sync_channel(SIGNALS);
        let (slot, hypervisor) = watch::channel(None);
        let (overflow, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (uri, cache) = (uri.to_owned(), BTreeMap::new());
        let wake = sender.clone();
        let (to_list, listed) = (Arc::clone(&asked), 0);
        let mut watch = Watch {
            uri,
            host_booted,
            facts,
            changed,
            events,
            slot,
            wake,
            overflow,
            asked: to_list,
            listed,
            cache,
            connection: 0,
        };
        thread::Builder::new().name("libvirt".into()).spawn(move || {
            // An end here means that the driver is gone.
            let _ = watch.run(&signals);
        })?;
        Ok(Self { signals: sender, asked, hypervisor })
    }

    /// The connection, while there is one.
    pub(crate) fn hypervisor(&self) -> watch::Receiver<Option<Arc<Hypervisor>>> {
        self.hypervisor.clone()
    }

    /// Have all domains read again soon, under this number.
    pub(crate) fn list(&self, number: u64) {
        self.asked.store(number, Ordering::Release);
        // A full queue means that somebody is about to look anyway.
        let _ = self.signals.try_send(Signal::Asked);
    }
}

/// The driver is gone.
struct Over;

struct Watch {
    uri: String,
    host_booted: bool,
    facts: HostFacts,
    changed: Arc<AtomicBool>,
    events: mpsc::Sender<Event>,
    slot: watch::Sender<Option<Arc<Hypervisor>>>,
    wake: SyncSender<Signal>,
    overflow: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    /// The list that was told last.
    listed: u64,
    /// Disks by domain, until its definition changes.
    cache: BTreeMap<Uuid, Vec<Disk>>,
    /// Counts connections, so that a late word of an old one is known as such.
    connection: u64,
}

impl Watch {
    fn run(&mut self, signals: &Receiver<Signal>) -> Result<(), Over> {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            let why = match self.open() {
                Ok((hypervisor, domains)) => {
                    backoff.reset();
                    tracing::info!(uri = self.uri, domains = domains.len(), "libvirt is there");
                    let host_booted = std::mem::take(&mut self.host_booted);
                    self.tell(Event::HypervisorUp { domains, host_booted })?;
                    self.slot.send_replace(Some(hypervisor.clone()));
                    let why = self.watch(&hypervisor, signals)?;
                    self.slot.send_replace(None);
                    tracing::warn!(why, "libvirt went away; guests go on");
                    why
                }
                Err(error) => {
                    tracing::debug!(%error, "libvirt is not there");
                    error.to_string()
                }
            };
            self.tell(Event::HypervisorDown { why })?;
            thread::sleep(backoff.wait());
        }
    }

    fn tell(&self, event: Event) -> Result<(), Over> {
        self.events.blocking_send(event).map_err(|_| Over)
    }

    fn open(&mut self) -> Result<(Arc<Hypervisor>, Vec<Seen>), Error> {
        let hypervisor = Arc::new(Hypervisor::open(&self.uri)?);
        self.connection += 1;
        let (connection, wake, overflow) = (self.connection, self.wake.clone(), self.overflow.clone());
        hypervisor.on_event(move |event| {
            let signal = signal(connection, event);
            if let Some(signal) = signal
                && let Err(TrySendError::Full(_)) = wake.try_send(signal)
            {
                overflow.store(true, Ordering::Relaxed);
            }
        })?;
        self.cache.clear();
        let domains = self.all(&hypervisor)?;
        self.refresh_facts(&hypervisor);
        Ok((hypervisor, domains))
    }

    /// Until the connection is gone; says why.
    fn watch(&mut self, hypervisor: &Hypervisor, signals: &Receiver<Signal>) -> Result<String, Over> {
        loop {
            let mut news = BTreeMap::new();
            let mut list = self.overflow.swap(false, Ordering::Relaxed);
            let first = match signals.recv_timeout(LOOK) {
                Ok(signal) => Some(signal),
                Err(RecvTimeoutError::Timeout) if !hypervisor.alive() => return Ok("libvirt does not answer".into()),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Err(Over),
            };
            // Many events of one domain in a row cost one look at it.
            for signal in first.into_iter().chain(std::iter::from_fn(|| signals.try_recv().ok())).take(SIGNALS) {
                match signal {
                    Signal::Asked => {}
                    Signal::Lost { connection, why } if connection == self.connection => return Ok(why),
                    Signal::Domain { connection, uuid, definition } if connection == self.connection => {
                        *news.entry(uuid).or_insert(false) |= definition;
                    }
                    Signal::Lost { .. } | Signal::Domain { .. } => {}
                }
            }
            // Read before the domains are: what was done before it was asked for is seen.
            let asked = self.asked.load(Ordering::Acquire);
            list |= asked > self.listed;
            if let Err(error) = self.look(hypervisor, news, list.then_some(asked))? {
                return Ok(error.to_string());
            }
        }
    }

    /// Reads what changed. The inner error means that the connection is gone.
    fn look(
        &mut self,
        hypervisor: &Hypervisor,
        news: BTreeMap<Uuid, bool>,
        list: Option<u64>,
    ) -> Result<Result<(), Error>, Over> {
        if !news.is_empty() || list.is_some() {
            self.changed.store(true, Ordering::Relaxed);
        }
        for (uuid, definition) in news {
            if definition {
                self.cache.remove(&uuid);
            }
            match hypervisor.domain(&uuid) {
                Ok(domain) => {
                    let disks = self.disks(hypervisor, &uuid);
                    self.tell(Event::Changed { domain: translate::seen(&domain, disks) })?;
                }
                Err(error) if error.code() == Some(Code::NoDomain) => {
                    self.cache.remove(&uuid);
                    self.tell(Event::Gone { guest: GuestId::from_bytes(uuid) })?;
                }
                Err(error) if error.is_connection_lost() || !hypervisor.alive() => return Ok(Err(error)),
                Err(error) => tracing::warn!(%error, "look at a domain"),
            }
        }
        let Some(asked) = list else { return Ok(Ok(())) };
        self.refresh_facts(hypervisor);
        match self.all(hypervisor) {
            Ok(domains) => {
                self.listed = asked;
                self.tell(Event::Listed { asked, domains })?;
            }
            Err(error) if error.is_connection_lost() || !hypervisor.alive() => return Ok(Err(error)),
            Err(error) => tracing::warn!(%error, "list domains"),
        }
        Ok(Ok(()))
    }

    fn all(&mut self, hypervisor: &Hypervisor) -> Result<Vec<Seen>, Error> {
        let mut domains = hypervisor.domains()?;
        if domains.len() > GUESTS_PER_HOST {
            tracing::error!(found = domains.len(), shown = GUESTS_PER_HOST, "more domains than a host may report");
            domains.truncate(GUESTS_PER_HOST);
        }
        self.changed.store(true, Ordering::Relaxed);
        self.cache.retain(|uuid, _| domains.iter().any(|domain| domain.uuid == *uuid));
        Ok(domains.iter().map(|domain| translate::seen(domain, self.disks(hypervisor, &domain.uuid))).collect())
    }

    fn disks(&mut self, hypervisor: &Hypervisor, uuid: &Uuid) -> Vec<Disk> {
        if let Some(known) = self.cache.get(uuid) {
            return known.clone();
        }
        match hypervisor.xml(uuid, XmlForm::default()) {
            Ok(xml) => {
                let found = disks::disks(&xml);
                self.cache.insert(*uuid, found.clone());
                found
            }
            Err(error) => {
                tracing::debug!(%error, "read a domain's disks");
                Vec::new()
            }
        }
    }

    fn refresh_facts(&mut self, hypervisor: &Hypervisor) {
        let mut facts = self.facts.clone();
        facts.addresses = facts::addresses();
        if let Some(image) = &mut facts.image {
            image.next = slots::next();
        }
        if let Ok(versions) = hypervisor.version() {
            facts.hypervisor = format!("libvirt {}, QEMU {}", versions.libvirt, versions.qemu);
        }
        if facts != self.facts {
            self.facts = facts.clone();
            // Whether the driver is gone shows at the next event.
            let _ = self.tell(Event::Facts(facts));
        }
    }
}

/// Events that change what is told of a domain; the others are not looked at.
fn signal(connection: u64, event: roost_libvirt::Event) -> Option<Signal> {
    let event = match event {
        roost_libvirt::Event::ConnectionLost { reason } => {
            return Some(Signal::Lost { connection, why: format!("the connection to libvirt was lost ({reason:?})") });
        }
        // A point that is proven is nobody's guest.
        roost_libvirt::Event::Domain(event) if event.uuid == TRIAL => return None,
        roost_libvirt::Event::Domain(event) => event,
    };
    let definition = match event.kind {
        EventKind::Lifecycle { event: turn, .. } => match turn {
            Lifecycle::Defined | Lifecycle::Undefined | Lifecycle::Started | Lifecycle::Stopped(_) => true,
            Lifecycle::Suspended(_)
            | Lifecycle::Resumed
            | Lifecycle::Shutdown
            | Lifecycle::PmSuspended
            | Lifecycle::Crashed
            | Lifecycle::Other(_) => false,
            _ => false,
        },
        EventKind::BlockJob { .. } => true,
        EventKind::IoError { .. } | EventKind::Watchdog { .. } => false,
        EventKind::Reboot | EventKind::Balloon { .. } | EventKind::Agent { .. } | EventKind::Graphics { .. } | _ => {
            return None;
        }
    };
    Some(Signal::Domain { connection, uuid: event.uuid, definition })
}
