//! For tests: a real grid behind a small driver, two hosts, three guests, and a caller with an API token.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request as HttpRequest, StatusCode, header};
use roost_aggregator_core::event::{Action, CallId, Event, GridEvent, LinkId};
use roost_aggregator_core::intent::{ApiTokenRecord, HostRecord, Intent, JoinTokenRecord, UserRecord};
use roost_aggregator_core::{Call, Config, Grid};
use roost_protocol::backup::{BackupBeat, BackupSummary, Consistency, PointsPage, Proof, SetSummary, Target, Why};
use roost_protocol::guest::{GuestReport, PowerState};
use roost_protocol::host::{HostFacts, HostSample};
use roost_protocol::identity::GridKey;
use roost_protocol::message::{Beat, Hello, OLDEST, Snapshot, ToAgent, ToAggregator, VERSION};
use roost_protocol::operation::{Outcome, Progress};
use roost_protocol::{Epoch, Generation, GuestId, HostId, MiB, Millis, OperationId, PointId, Stamp, Time};
use serde_json::Value;
use tokio::sync::broadcast;
use tower::ServiceExt;

use super::{Api, Names, Peer, router};
use crate::auth::{API_TOKEN, Secret};
use crate::clock;
use crate::handle::{Request, handle};
use crate::notify::Courier;

/// The wall clock of these tests is the machine's: expiry is compared with it.
pub(super) struct Fake {
    pub(super) router: Router,
    pub(super) token: String,
    grid: Arc<Mutex<Grid>>,
    events: broadcast::Sender<Arc<GridEvent>>,
    time: Arc<AtomicU64>,
    samples: AtomicU64,
    /// The aggregator's data folder.
    pub(super) data: tempfile::TempDir,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {} {}", self.status, self.text))
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

pub(super) fn host(number: u128) -> HostId {
    HostId::from_u128(number)
}

pub(super) fn guest(number: u128) -> GuestId {
    GuestId::from_u128(number)
}

fn report(number: u128, name: &str, state: PowerState) -> GuestReport {
    GuestReport {
        id: guest(number),
        name: name.into(),
        state,
        reason: String::new(),
        persistent: true,
        desired: None,
        vcpus: 1,
        memory_mib: MiB(512),
        since: Stamp(1_700_000_000_000),
        restarts: 0,
        disks: vec![],
    }
}

fn intent(secret: &Secret, password_hash: Option<String>) -> Intent {
    let host_record = |name: &str, key: u8| HostRecord::new(name.into(), [key; 32], Stamp(1));
    let user = |hash: String| UserRecord { password_hash: hash, created: Stamp(1), full_name: String::new() };
    let record = ApiTokenRecord {
        hash: secret.hash(),
        user: "ada".into(),
        name: "tests".into(),
        created: Stamp(1),
        expires: Stamp(u64::MAX),
    };
    Intent {
        generation: Generation(1),
        hosts: BTreeMap::from([
            (host(1), host_record("h1", 1)),
            (host(2), host_record("h2", 2)),
            (host(3), host_record("h3", 3)),
        ]),
        users: BTreeMap::from([("ada".into(), user(password_hash.unwrap_or_default()))]),
        api_tokens: BTreeMap::from([(secret.id(), record)]),
        ..Intent::default()
    }
}

impl Fake {
    pub(super) fn new() -> Self {
        Self::with_password(None)
    }

    /// With a user `ada` who has this password.
    pub(super) fn with_password(password: Option<&str>) -> Self {
        let secret = Secret::new(API_TOKEN).unwrap();
        let hash = password.map(|password| crate::auth::hash_password(password).unwrap());
        let config = Config {
            grid: roost_protocol::GridId::from_u128(9),
            epoch: Epoch(7),
            suspect_after: Millis(6_000),
            down_after: Millis(15_000),
            recovering: false,
        };
        let grid = Arc::new(Mutex::new(Grid::new(config, intent(&secret, hash), vec![])));
        let (handle, mut end) = handle(Arc::new(GridKey::generate().unwrap()));
        let time = Arc::new(AtomicU64::new(1_000));
        let events = end.events.clone();
        let (shared, now) = (Arc::clone(&grid), Arc::clone(&time));
        tokio::spawn(async move {
            while let Some(request) = end.requests.recv().await {
                let time = Time(now.load(Ordering::Relaxed));
                match request {
                    Request::Used(who) => drop(shared.lock().unwrap().on(time, clock::wall(), Event::Used { who })),
                    // Nobody is told of anything but by the test button.
                    Request::Notified { .. } | Request::Witness(_) => {}
                    // Nobody can be looked at.
                    Request::Connection { host: _, reply } => drop(reply.send(None)),
                    Request::Read(read) => read(&shared.lock().unwrap(), time, clock::wall()),
                    Request::Call { by, what, only_if, reply } => {
                        let refused = only_if.map(|holds| holds(&shared.lock().unwrap(), time, clock::wall()));
                        if let Some(Err(no)) = refused {
                            drop(reply.send(Err(no)));
                            continue;
                        }
                        let event = Event::Called { call: CallId(1), by, what };
                        let mut actions = shared.lock().unwrap().on(time, clock::wall(), event);
                        if let Some(event) = actions.iter().find_map(points_told) {
                            actions.extend(shared.lock().unwrap().on(time, clock::wall(), event));
                        }
                        drop(reply.send(answer_in(&end.events, actions)));
                    }
                }
            }
        });
        let clock = Arc::clone(&time);
        let names = Names::new(["grid.test".to_owned()]);
        let data = tempfile::tempdir().unwrap();
        let courier = Arc::new(Courier::new("https://grid.test".into(), "g".into(), data.path()));
        let api = Api::new(handle, names, courier, move || Time(clock.load(Ordering::Relaxed)));
        let fake = Self {
            router: router(api),
            token: secret.reveal(),
            grid,
            events,
            time,
            samples: AtomicU64::new(100),
            data,
        };
        fake.connect(1, &[report(11, "web", PowerState::Running), report(12, "db", PowerState::Off)]);
        fake.connect(2, &[report(21, "web", PowerState::Running), report(22, "=cmd|x", PowerState::Paused)]);
        fake
    }

    fn connect(&self, number: u8, guests: &[GuestReport]) {
        let link = LinkId(number.into());
        let facts = HostFacts { name: format!("h{number}"), cpus: 4, memory_mib: MiB(8_192), ..HostFacts::default() };
        let hello = Hello {
            newest: VERSION,
            oldest: OLDEST,
            host: host(number.into()),
            facts,
            epoch: Epoch(1),
            document: Generation(1),
            clock: clock::wall(),
        };
        self.tell(Event::Hello { link, key: [number; 32], certified: true, hello, remote: "192.0.2.1:1".into() });
        let sample = HostSample { at: Stamp(1), memory_available_mib: MiB(4_096), ..HostSample::default() };
        let snapshot = Snapshot { sequence: 1, guests: guests.to_vec(), sample, ..Snapshot::default() };
        self.tell(Event::Received { link, message: ToAggregator::Snapshot(snapshot) });
    }

    /// Tells the grid and passes its events on.
    pub(super) fn tell(&self, event: Event) {
        let time = Time(self.time.load(Ordering::Relaxed));
        let actions = self.grid.lock().unwrap().on(time, clock::wall(), event);
        let _ = publish(&self.events, actions);
    }

    /// A host joins with this token.
    pub(super) fn join(&self, token: &str, number: u8, name: &str) {
        let record = HostRecord::new(name.into(), [number; 32], clock::wall());
        self.called(Call::Enrol { host: host(number.into()), record, token: token.into() });
    }

    /// This join token's time is over.
    pub(super) fn expire(&self, token: &str) {
        let record = self.grid.lock().unwrap().intent().join_tokens[token].clone();
        self.called(Call::PutJoinToken { id: token.into(), record: JoinTokenRecord { expires: Stamp(1), ..record } });
    }

    pub(super) fn called(&self, what: Call) {
        self.tell(Event::Called { call: CallId(1), by: "tests".into(), what });
    }

    /// A host says that an operation succeeded.
    pub(super) fn succeed(&self, number: u64, operation: OperationId) {
        let message = ToAggregator::Outcome(Outcome { operation, failure: None });
        self.tell(Event::Received { link: LinkId(number), message });
    }

    /// A host says that it has begun.
    pub(super) fn progress(&self, number: u64, operation: OperationId) {
        let message = ToAggregator::Progress(Progress { operation, percent: 0, step: "import".into() });
        self.tell(Event::Received { link: LinkId(number), message });
    }

    /// A host beats with a new sample.
    pub(super) fn sample(&self, number: u64) {
        let at = Stamp(self.samples.fetch_add(1, Ordering::Relaxed));
        let sample = HostSample { at, memory_available_mib: MiB(at.0), ..HostSample::default() };
        self.beat(number, Beat { sample: Some(sample), ..Beat::default() });
    }

    /// Somebody starts a guest beside us.
    pub(super) fn start_beside(&self, number: u64, guest: u128) {
        self.beat(number, Beat { guests: vec![report(guest, "db", PowerState::Running)], ..Beat::default() });
    }

    /// A host tells of its sets, replicas and store.
    pub(super) fn backups(&self, number: u64, told: BackupBeat) {
        self.beat(number, Beat { backup: Some(Box::new(told)), ..Beat::default() });
    }

    fn beat(&self, number: u64, beat: Beat) {
        self.tell(Event::Received { link: LinkId(number), message: ToAggregator::Beat(beat) });
    }

    pub(super) fn later(&self, seconds: u64) {
        self.time.fetch_add(seconds * 1_000, Ordering::Relaxed);
    }

    pub(super) fn request(method: &str, path: &str) -> axum::http::request::Builder {
        let request = HttpRequest::builder().method(method).uri(path).header(header::HOST, "grid.test:8443");
        request.extension(Peer(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7))))
    }

    pub(super) async fn send(&self, request: HttpRequest<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, 64 << 20).await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        Answer { status: parts.status, headers: parts.headers, text }
    }

    /// With the token.
    pub(super) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, None).await
    }

    /// With the token, at `/api/v1`.
    pub(super) async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let request = Self::request(method, &format!("/api/v1{path}"))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token));
        let request = match body {
            Some(body) => request.header(header::CONTENT_TYPE, "application/json").body(Body::from(body.to_string())),
            None => request.body(Body::empty()),
        };
        self.send(request.unwrap()).await
    }

    /// An XML-RPC call with this text as body.
    pub(super) async fn xml(&self, body: impl Into<Body>) -> Answer {
        self.send(Self::request("POST", "/RPC2").header(header::CONTENT_TYPE, "text/xml").body(body.into()).unwrap())
            .await
    }

    /// An XML-RPC call of a method with these parameters, written as XML.
    pub(super) async fn call(&self, method: &str, params: &[&str]) -> String {
        let params: String = params.iter().map(|value| format!("<param><value>{value}</value></param>")).collect();
        let body = format!(
            "<?xml version='1.0'?><methodCall><methodName>{method}</methodName><params>{params}</params></methodCall>"
        );
        self.xml(body).await.text
    }
}

fn publish(events: &broadcast::Sender<Arc<GridEvent>>, actions: Vec<Action>) -> Vec<Action> {
    let mut rest = Vec::new();
    for action in actions {
        if let Action::Publish { event } = action {
            // Nobody may be listening.
            drop(events.send(Arc::new(event)));
        } else {
            rest.push(action);
        }
    }
    rest
}

/// What a host that has five points answers when it is asked for points: two on a page.
fn points_told(action: &Action) -> Option<Event> {
    let Action::Send { link, message: ToAgent::Points(query) } = action else { return None };
    let (guest, after) = (query.guest?, query.after.map_or(0, |(_, at, _)| at.0));
    let points = (1..=5).filter(|at| *at > after).take(2).map(|at| point(guest, at)).collect::<Vec<_>>();
    let more = points.last().is_some_and(|point| point.started < Stamp(5));
    let page = PointsPage { ask: query.ask, points, more };
    Some(Event::Received { link: *link, message: ToAggregator::Points(page) })
}

fn point(guest: GuestId, at: u64) -> BackupSummary {
    BackupSummary {
        point: PointId::from_u128(at.into()),
        guest,
        guest_name: "db".into(),
        origin: host(1),
        started: Stamp(at),
        finished: Stamp(at + 1),
        why: Why::Schedule,
        consistency: Consistency::Filesystem,
        parent: None,
        size: 10 << 20,
        read: 1 << 20,
        stored: 1,
        pinned: false,
        proof: Proof::Untried,
        copies: vec![Target::Peer { host: host(2) }],
        damaged: None,
        note: String::new(),
        meant: roost_protocol::backup::Meant::Run,
        priority: 0,
    }
}

/// One guest's points in one line, as its host tells.
pub(super) fn set(number: u128, policy: Option<(&str, u64)>) -> SetSummary {
    SetSummary {
        guest: guest(number),
        origin: host(1),
        points: 5,
        stored: 5,
        newest: Some((PointId::from_u128(5), Stamp(5))),
        oldest: Some(Stamp(1)),
        proven: None,
        damaged: 0,
        failure: None,
        next: None,
        running: false,
        policy: policy.map(|(_, generation)| Generation(generation)),
        guest_name: "db".into(),
        policy_name: policy.map_or_else(String::new, |(name, _)| name.into()),
    }
}

fn answer_in(events: &broadcast::Sender<Arc<GridEvent>>, actions: Vec<Action>) -> roost_aggregator_core::Reply {
    let mut answers = publish(events, actions).into_iter().filter_map(|action| match action {
        Action::Answer { reply, .. } => Some(reply),
        Action::Persist { .. }
        | Action::Used { .. }
        | Action::Notify { .. }
        | Action::Told { .. }
        | Action::Send { .. }
        | Action::Refuse { .. }
        | Action::SpreadDocument
        | Action::Publish { .. }
        | Action::Disconnect { .. } => None,
    });
    answers.next_back().unwrap()
}
