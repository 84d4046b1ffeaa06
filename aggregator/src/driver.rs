//! The one task that owns the grid: it waits in one place, tells the core, and carries out what the core asks for.
//!
//! Answers of the core are carried out strictly in the order in which they were given, each after its changes are
//! durable; while one waits for the disk, the core already decides about what comes next.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use roost_aggregator_core::call::{CallError, CallErrorCode};
use roost_aggregator_core::event::{Action, CallId, Event, GridEvent, LinkId, Severity};
use roost_aggregator_core::grid::Host;
use roost_aggregator_core::intent::{Intent, IntentChange};
use roost_aggregator_core::{Grid, Reply};
use roost_protocol::message::{Hello, Refusal, Refused, ToAgent, ToAggregator};
use roost_protocol::{Epoch, Generation, Millis, codec, document};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, wall};
use crate::handle::{DriverEnd, Handle, Request};
use crate::ledger::{Changes, Durable, Ledger, LedgerError, WAITING};
use crate::notify::Delivery;

/// Messages of all links that wait for the driver; beyond it links are read more slowly.
pub(crate) const FROM_LINKS: usize = 4_096;
/// Messages that wait for one slow agent; beyond it the link is closed, so that nobody else waits.
pub(crate) const TO_LINK: usize = 256;
/// Changes of the intent within this time travel in one document.
const SPREAD_DELAY: Duration = Duration::from_millis(200);
/// Documents take at most about this much of the network, in bytes per second over all hosts.
const SPREAD_RATE: usize = 20_000_000;
/// Bytes of documents that are under way at once: each link keeps its copy until its host has it.
const SPREAD_BURST: usize = 4 << 20;
/// A host that broke a rule is to stay away that long.
const STAY_AWAY: Millis = Millis::seconds(60);
/// An agent that claims to have seen an epoch further ahead than this lies: epochs rise with the clock's seconds.
const EPOCH_AHEAD_S: u64 = 10 * 365 * 24 * 3_600;

/// What a link tells the driver.
#[derive(Debug)]
pub(crate) enum FromLink {
    Hello { link: LinkId, key: [u8; 32], certified: bool, hello: Box<Hello>, remote: String, to: ToLink },
    Received { link: LinkId, message: Box<ToAggregator> },
    Document { link: LinkId, intent: Box<Intent> },
    Closed { link: LinkId, why: String },
}

/// Words on their way to one agent; dropped: close once they are said.
#[derive(Debug)]
pub(crate) struct ToLink {
    pub(crate) queue: mpsc::Sender<Arc<ToAgent>>,
    pub(crate) last_word: LastWord,
    pub(crate) connection: quinn::Connection,
}

/// Why a link is closed. It stands beside the queue, because an agent is also told when its queue is full; the first one counts.
pub(crate) type LastWord = Arc<OnceLock<Refused>>;

#[derive(Debug)]
struct Link {
    to: ToLink,
    /// Generation of the document the agent keeps; it gets newer ones once it was welcomed.
    document: Generation,
    welcomed: bool,
}

/// An answer of the core whose turn has not come.
#[derive(Debug)]
struct Pending {
    durable: Option<Durable>,
    actions: Vec<Action>,
}

/// Owns the grid.
#[derive(Debug)]
pub(crate) struct Driver {
    grid: Grid,
    clock: Clock,
    ledger: Ledger,
    handle: Handle,
    requests: mpsc::Receiver<Request>,
    events: broadcast::Sender<Arc<GridEvent>>,
    deliveries: mpsc::Sender<Delivery>,
    from_links: mpsc::Receiver<FromLink>,
    links: BTreeMap<LinkId, Link>,
    calls: BTreeMap<CallId, oneshot::Sender<Reply>>,
    last_call: u64,
    pending: VecDeque<Pending>,
    /// The core was told that storage fails, and not yet that it works again by a success.
    told_failing: bool,
    spread_at: Option<Instant>,
    spread_not_before: Instant,
}

/// What [`Driver::next`] waits for.
#[expect(clippy::large_enum_variant, reason = "there is one at a time; boxing each costs more")]
enum Next {
    Durable(Result<(), LedgerError>),
    Link(FromLink),
    Request(Request),
    Tick,
    Spread,
    Stop,
}

impl Driver {
    /// A driver and the sender that links are given.
    pub(crate) fn new(
        grid: Grid,
        clock: Clock,
        ledger: Ledger,
        handle: Handle,
        end: DriverEnd,
        deliveries: mpsc::Sender<Delivery>,
    ) -> (Self, mpsc::Sender<FromLink>) {
        let (to_driver, from_links) = mpsc::channel(FROM_LINKS);
        let driver = Self {
            grid,
            clock,
            ledger,
            handle,
            requests: end.requests,
            events: end.events,
            deliveries,
            from_links,
            links: BTreeMap::new(),
            calls: BTreeMap::new(),
            last_call: 0,
            pending: VecDeque::new(),
            told_failing: false,
            spread_at: None,
            spread_not_before: Instant::now(),
        };
        (driver, to_driver)
    }

    /// Runs until cancelled; what was decided by then is made durable and answered.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            match self.next(&stop).await {
                Next::Durable(result) => self.durable(result),
                Next::Link(from) => self.told_by(from),
                Next::Request(request) => self.request(request),
                Next::Tick => self.tell(Event::Tick),
                Next::Spread => self.spread(),
                Next::Stop => break,
            }
        }
        while let Some(durable) = self.pending.front_mut().and_then(|pending| pending.durable.take()) {
            let result = durable.await.unwrap_or(Err(LedgerError::Gone));
            self.durable(result);
        }
    }

    async fn next(&mut self, stop: &CancellationToken) -> Next {
        // Nothing new is taken in while the disk is that far behind.
        let room = self.pending.len() < WAITING;
        let tick = self.grid.deadline().map(|time| Instant::from_std(self.clock.instant(time)));
        let durable = self.pending.front_mut().and_then(|pending| pending.durable.as_mut());
        tokio::select! {
            result = ready(durable) => Next::Durable(result),
            Some(from) = self.from_links.recv(), if room => Next::Link(from),
            Some(request) = self.requests.recv(), if room => Next::Request(request),
            () = until(tick), if room => Next::Tick,
            () = until(self.spread_at) => Next::Spread,
            () = stop.cancelled() => Next::Stop,
        }
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::Read(read) => {
                self.handle.set_storage_failing(self.ledger.failing());
                read(&self.grid, self.clock.now(), wall());
            }
            Request::Call { by: _, what: _, only_if: _, reply } if self.ledger.failing() => {
                // The caller may have gone.
                drop(reply.send(Err(storage_failed())));
            }
            // Not worth a retry while the disk is full.
            Request::Used(_) if self.ledger.failing() => {}
            Request::Used(who) => self.tell(Event::Used { who }),
            Request::Witness(told) => self.tell(Event::Witness(told)),
            Request::Notified { notifier, delivery, result } => {
                self.tell(Event::Notified { notifier, delivery, result });
            }
            Request::Connection { host, reply } => {
                let link = self.grid.hosts().get(&host).and_then(Host::link).and_then(|link| self.links.get(&link));
                let connection = link.filter(|link| link.welcomed).map(|link| link.to.connection.clone());
                drop(reply.send(connection));
            }
            Request::Call { by, what, only_if, reply } => {
                if let Some(Err(no)) = only_if.map(|holds| holds(&self.grid, self.clock.now(), wall())) {
                    return drop(reply.send(Err(no)));
                }
                self.last_call += 1;
                let call = CallId(self.last_call);
                self.calls.insert(call, reply);
                self.tell(Event::Called { call, by, what });
            }
        }
    }

    fn told_by(&mut self, from: FromLink) {
        match from {
            FromLink::Hello { link, key, certified, mut hello, remote, to } => {
                self.links.insert(link, Link { to, document: hello.document, welcomed: false });
                if hello.epoch.0 > wall().0 / 1_000 + EPOCH_AHEAD_S {
                    tracing::warn!(host = %hello.host, epoch = %hello.epoch, "a host claims an epoch that can't be; ignored");
                    hello.epoch = Epoch(0);
                }
                self.tell(Event::Hello { link, key, certified, hello: *hello, remote });
            }
            FromLink::Received { link, message } => self.tell(Event::Received { link, message: *message }),
            FromLink::Document { link, intent } => self.tell(Event::DocumentOffered { link, intent }),
            FromLink::Closed { link, why } => {
                self.links.remove(&link);
                self.tell(Event::Closed { link, why });
            }
        }
    }

    /// Tells the core and queues its answer.
    fn tell(&mut self, event: Event) {
        let epoch = self.grid.config().epoch;
        let answer = self.grid.on(self.clock.now(), wall(), event);
        let (mut changes, actions) = split(answer);
        if self.grid.config().epoch != epoch {
            changes.get_or_insert_default().epoch = Some(self.grid.config().epoch);
        }
        if changes.is_none() && actions.is_empty() {
            return;
        }
        let durable = changes.map(|changes| self.ledger.persist(changes));
        self.pending.push_back(Pending { durable, actions });
        self.carry_out_ready();
    }

    /// The oldest answer's changes are durable, or can't be made so.
    fn durable(&mut self, result: Result<(), LedgerError>) {
        let Some(pending) = self.pending.pop_front() else { return };
        match result {
            Ok(()) => {
                self.told_failing = false;
                pending.actions.into_iter().for_each(|action| self.carry_out(action));
            }
            Err(error) => self.failed(&error, pending.actions),
        }
        self.carry_out_ready();
    }

    /// Nothing of that answer is carried out; its callers are told.
    fn failed(&mut self, error: &LedgerError, actions: Vec<Action>) {
        for action in actions {
            if let Action::Answer { call, reply: _ } = action {
                self.reply(call, Err(storage_failed()));
            }
        }
        if self.told_failing {
            return;
        }
        self.told_failing = true;
        if error.damage() {
            let generation = self.grid.intent().generation;
            let intent = vec![IntentChange::Replace(Box::new(self.grid.intent().clone()))];
            let operations = self.grid.operations().values().cloned().collect();
            let (uses, epoch) = (self.grid.uses().clone(), Some(self.grid.config().epoch));
            let told = self.grid.told().into_iter().map(|(name, told)| (name, Some(told))).collect();
            self.ledger.rebuild(Changes { intent, generation, operations, uses, told, epoch });
        }
        self.tell(Event::LedgerFailed { why: crate::chain(error) });
    }

    fn carry_out_ready(&mut self) {
        while let Some(pending) = self.pending.pop_front_if(|pending| pending.durable.is_none()) {
            pending.actions.into_iter().for_each(|action| self.carry_out(action));
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Send { link, message } => self.send(link, message),
            Action::Refuse { link, refused } => {
                if let Some(link) = self.links.remove(&link) {
                    link.to.last_word.get_or_init(|| refused);
                }
            }
            Action::Disconnect { host: _, link } => drop(self.links.remove(&link)),
            Action::Answer { call, reply } => self.reply(call, reply),
            Action::SpreadDocument => {
                let at = (Instant::now() + SPREAD_DELAY).max(self.spread_not_before);
                self.spread_at.get_or_insert(at);
            }
            Action::Notify { notifier, delivery, digest } => {
                // There is room for all that can be under way; one that is lost is sent again.
                if self.deliveries.try_send(Delivery { notifier, delivery, digest }).is_err() {
                    tracing::warn!(delivery, "too many notifications are under way");
                }
            }
            Action::Publish { event } => {
                log(&event);
                // No listener is no error.
                drop(self.events.send(Arc::new(event)));
            }
            // Taken out by `split`.
            Action::Persist { intent: _, generation: _, operations: _ }
            | Action::Used { who: _, at: _ }
            | Action::Told { notifier: _, told: _ } => {}
        }
    }

    fn reply(&mut self, call: CallId, reply: Reply) {
        if let Some(caller) = self.calls.remove(&call) {
            // The caller may have gone.
            drop(caller.send(reply));
        }
    }

    fn send(&mut self, id: LinkId, message: ToAgent) {
        let welcome = matches!(message, ToAgent::Welcome(_));
        self.push(id, Arc::new(message));
        let newest = self.grid.intent().generation;
        let Some(link) = self.links.get_mut(&id) else { return };
        if welcome {
            link.welcomed = true;
            if link.document < newest && self.spread_at.is_none() {
                self.spread_at = Some((Instant::now() + SPREAD_DELAY).max(self.spread_not_before));
            }
        }
    }

    /// A full queue belongs to an agent that does not read: it is cut off, nobody waits for it.
    fn push(&mut self, id: LinkId, message: Arc<ToAgent>) {
        let Some(link) = self.links.get(&id) else { return };
        if link.to.queue.try_send(message).is_err() {
            tracing::warn!(link = id.0, "a host does not read what it is sent; closing its link");
            link.to
                .last_word
                .get_or_init(|| misbehaved(&format!("{TO_LINK} messages wait for it and it does not read")));
            self.links.remove(&id);
        }
    }

    /// The newest document to agents that keep an older one: to as many as may have it at once, to the rest soon.
    fn spread(&mut self) {
        self.spread_at = None;
        let generation = self.grid.intent().generation;
        let behind = |link: &Link| link.welcomed && link.document < generation;
        let mut ids: Vec<LinkId> = self.links.iter().filter(|(_, link)| behind(link)).map(|(id, _)| *id).collect();
        if ids.is_empty() {
            return;
        }
        let sealed = match document::seal(&self.handle.key, generation, &codec::encode(self.grid.intent())) {
            Ok(sealed) => sealed,
            Err(error) => {
                tracing::error!(error = %crate::chain(&error), "cannot seal the grid document; agents keep the older one");
                return;
            }
        };
        let all = ids.len();
        ids.truncate((SPREAD_BURST / sealed.len().max(1)).max(1));
        let bytes = sealed.len().saturating_mul(ids.len());
        let pause = Duration::from_millis(u64::try_from(bytes / (SPREAD_RATE / 1_000)).unwrap_or(u64::MAX));
        self.spread_not_before = Instant::now() + pause;
        self.spread_at = (ids.len() < all).then_some(self.spread_not_before);
        let message = Arc::new(ToAgent::Document { generation, sealed });
        for id in ids {
            if let Some(link) = self.links.get_mut(&id) {
                link.document = generation;
            }
            self.push(id, Arc::clone(&message));
        }
    }
}

/// The changes of an answer, as one transaction, and the rest in its order.
fn split(answer: Vec<Action>) -> (Option<Changes>, Vec<Action>) {
    let mut changes: Option<Changes> = None;
    let mut actions = Vec::with_capacity(answer.len());
    for action in answer {
        match action {
            Action::Persist { intent, generation, operations } => {
                let all = changes.get_or_insert_default();
                all.intent.extend(intent);
                all.generation = all.generation.max(generation);
                all.operations.extend(operations);
            }
            Action::Used { who, at } => drop(changes.get_or_insert_default().uses.insert(who, at)),
            Action::Told { notifier, told } => drop(changes.get_or_insert_default().told.insert(notifier, told)),
            Action::Send { .. }
            | Action::Notify { .. }
            | Action::Refuse { .. }
            | Action::Answer { .. }
            | Action::SpreadDocument
            | Action::Publish { .. }
            | Action::Disconnect { .. } => actions.push(action),
        }
    }
    (changes, actions)
}

async fn ready(durable: Option<&mut Durable>) -> Result<(), LedgerError> {
    match durable {
        Some(durable) => durable.await.unwrap_or(Err(LedgerError::Gone)),
        None => std::future::pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn storage_failed() -> CallError {
    let text = "The aggregator can't write its database, so nothing was changed for good. Free space on its disk and \
                look at its log; it goes on by itself.";
    CallError { code: CallErrorCode::Storage, text: text.to_owned() }
}

fn log(event: &GridEvent) {
    let (kind, text) = (event.kind.as_str(), event.text.as_str());
    let (host, guest) = (event.host.map(tracing::field::display), event.guest.map(tracing::field::display));
    match event.severity {
        Severity::Info => tracing::info!(kind, host, guest, "{text}"),
        Severity::Warning => tracing::warn!(kind, host, guest, "{text}"),
        Severity::Error => tracing::error!(kind, host, guest, "{text}"),
    }
}

/// What an agent that broke a rule is told before its link is closed.
pub(crate) fn misbehaved(text: &str) -> Refused {
    Refused { reason: Refusal::Misbehaved, text: text.to_owned(), retry_after_ms: STAY_AWAY }
}
