//! The grid, told the time by hand: who is heard, and whose silence it is.

mod chains;
mod councils;
mod guards;
mod maintenance;
mod peers;
mod placement;
mod reboot;
mod takeover;
mod watchdog;

use std::collections::BTreeMap;

use roost_protocol::backup::SetSummary;
use roost_protocol::guest::{Boot, GuestReport, GuestSpec, PowerState};
use roost_protocol::host::{HostFacts, NextImage, RunningImage};
use roost_protocol::message::{Beat, Hello, ToAggregator, VERSION};
use roost_protocol::operation::Verb;
use roost_protocol::{Epoch, Generation, GridId, GuestId, HostId, MiB, Millis, OperationId, PointId, Stamp, Time};

use crate::call::CallErrorCode;
use crate::event::{CallId, LinkId};
use crate::grid::Presence;
use crate::intent::HostRecord;
use crate::{Action, Call, Config, Event, Grid, Intent};

const HOST: HostId = HostId::from_u128(1);
const KEY: [u8; 32] = [7; 32];
const LINK: LinkId = LinkId(1);

fn config() -> Config {
    Config {
        grid: GridId::from_u128(1),
        epoch: Epoch(1),
        suspect_after: Millis::seconds(6),
        down_after: Millis::seconds(15),
        recovering: false,
    }
}

/// What a host tells of a guest's points: there is one.
fn points_of(guest: GuestId, origin: HostId) -> SetSummary {
    SetSummary {
        guest,
        origin,
        points: 1,
        stored: 0,
        newest: Some((PointId::from_u128(1), Stamp(0))),
        oldest: None,
        proven: None,
        damaged: 0,
        failure: None,
        next: None,
        running: false,
        policy: None,
        guest_name: "g".into(),
        policy_name: String::new(),
    }
}

/// A host as admins know it.
fn record(number: u8) -> HostRecord {
    let (name, key) = (format!("h{number}"), [number; 32]);
    HostRecord::new(name, key, Stamp(0))
}

/// A grid in which hosts may be silent for hours.
fn patient() -> Config {
    Config { suspect_after: Millis::seconds(3_600), down_after: Millis::seconds(7_200), ..config() }
}

/// The first words of a host that knows nothing yet.
fn hello(host: HostId) -> Hello {
    let (facts, epoch, document, clock) = (HostFacts::default(), Epoch(0), Generation(0), Stamp(0));
    Hello { newest: VERSION, oldest: VERSION, host, facts, epoch, document, clock }
}

/// A guest that nobody looks after.
fn report(id: GuestId, name: &str, state: PowerState) -> GuestReport {
    GuestReport {
        id,
        name: name.into(),
        state,
        reason: String::new(),
        persistent: true,
        desired: None,
        vcpus: 1,
        memory_mib: MiB(1),
        since: Stamp(0),
        restarts: 0,
        disks: Vec::new(),
    }
}

/// A grid with one known host, and its clock.
struct Rig {
    grid: Grid,
    now: Time,
    kinds: Vec<String>,
}

impl Rig {
    fn new() -> Self {
        let record = HostRecord::new("h".into(), KEY, Stamp(0));
        let intent = Intent { hosts: BTreeMap::from([(HOST, record)]), ..Intent::default() };
        let mut rig = Self { grid: Grid::new(config(), intent, Vec::new()), now: Time(1_000_000), kinds: Vec::new() };
        rig.hello(LINK, HOST, Generation(0), true);
        rig
    }

    fn hello(&mut self, link: LinkId, host: HostId, document: Generation, certified: bool) {
        let hello = Hello { document, ..hello(host) };
        self.tell(Event::Hello { link, key: KEY, certified, hello, remote: String::new() });
    }

    fn tell(&mut self, event: Event) {
        for action in self.grid.on(self.now, Stamp(0), event) {
            if let Action::Publish { event } = action
                && !event.kind.starts_with("alarm.")
            {
                self.kinds.push(event.kind);
            }
        }
    }

    /// Time goes by, and the core is told as often as it asks for.
    fn pass(&mut self, span: Millis) {
        let end = self.now + span;
        while let Some(at) = self.grid.deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.tell(Event::Tick);
        }
        self.now = end;
    }

    /// Time goes by while the whole process stands still.
    fn freeze(&mut self, span: Millis) {
        self.now = self.now + span;
        self.tell(Event::Tick);
    }

    fn beat(&mut self) {
        self.tell(Event::Received { link: LINK, message: ToAggregator::Beat(Beat::default()) });
    }

    fn make(&mut self, name: &str) -> Result<(), CallErrorCode> {
        let (name, disks, nics) = (name.to_owned(), Vec::new(), Vec::new());
        let spec = GuestSpec {
            name: name.clone(),
            memory_mib: MiB(64),
            vcpus: 1,
            disks,
            nics,
            boot: Boot::default(),
            memory: None,
        };
        self.call(&name, None, Verb::Create { spec, start: false })
    }

    fn import(&mut self, name: &str) -> Result<(), CallErrorCode> {
        self.call(name, Some(name.into()), Verb::Import { xml: String::new() })
    }

    fn call(&mut self, id: &str, guest_name: Option<String>, verb: Verb) -> Result<(), CallErrorCode> {
        let (host, timeout) = (Some(HOST), Millis::seconds(60));
        let seed = id.bytes().fold(u128::from(verb == Verb::Start), |sum, byte| sum * 251 + u128::from(byte));
        let (operation, guest) = (OperationId::from_u128(seed), GuestId::from_u128(seed));
        let what = Call::Guest { operation, guest, guest_name, host, verb, timeout, key: None };
        let event = Event::Called { call: CallId(1), by: "admin".into(), what };
        let answers = self.grid.on(self.now, Stamp(0), event);
        let answer = answers
            .into_iter()
            .find_map(|action| if let Action::Answer { reply, .. } = action { Some(reply) } else { None });
        answer.unwrap().map(drop).map_err(|error| error.code)
    }

    fn presence(&self) -> &'static str {
        match self.grid.hosts()[&HOST].presence {
            Presence::Never => "never",
            Presence::Up { .. } => "up",
            Presence::Suspect { .. } => "suspect",
            Presence::Down { .. } => "down",
        }
    }
}

#[test]
fn a_silent_host_is_suspect_after_6_s_and_down_after_15() {
    let mut rig = Rig::new();
    for (step, shown) in [(5_750, "up"), (500, "suspect"), (8_500, "suspect"), (500, "down")] {
        rig.pass(Millis(step));
        assert_eq!(rig.presence(), shown, "at {:?}", rig.now);
    }
    assert_eq!(rig.kinds, ["host.up", "host.suspect", "host.down"]);
    rig.beat();
    assert_eq!(rig.presence(), "up");
}

#[test]
fn a_frozen_aggregator_blames_no_host_for_its_own_silence() {
    let mut rig = Rig::new();
    rig.pass(Millis::seconds(4));
    rig.freeze(Millis::seconds(60));
    assert_eq!(rig.presence(), "up", "it had 2 s left before the freeze and has them after");
    rig.beat();
    rig.pass(Millis::seconds(5));
    assert_eq!((rig.presence(), rig.kinds.len()), ("up", 1), "{:?}", rig.kinds);
}

#[test]
fn a_host_that_died_during_a_freeze_is_noticed_afterwards() {
    let mut rig = Rig::new();
    rig.freeze(Millis::seconds(60));
    rig.pass(Millis::seconds(16));
    assert_eq!(rig.presence(), "down");
}

#[test]
fn an_intent_that_went_back_in_time_hears_hosts_it_forgot_until_it_has_their_document() {
    let (forgotten, stranger) = (HostId::from_u128(2), HostId::from_u128(3));
    let mut rig = Rig::new();
    rig.hello(LinkId(2), forgotten, Generation(0), true);
    rig.hello(LinkId(2), forgotten, Generation(9), false);
    assert_eq!(rig.kinds, ["host.up", "host.refused", "host.refused"], "nothing newer, or no certificate");
    rig.hello(LinkId(2), forgotten, Generation(9), true);
    rig.hello(LinkId(3), stranger, Generation(9), true);
    assert_eq!(rig.grid.hosts().len(), 3);
    let mut intent = rig.grid.intent().clone();
    intent.generation = Generation(9);
    intent.hosts.insert(forgotten, intent.hosts[&HOST].clone());
    rig.tell(Event::DocumentOffered { link: LinkId(2), intent: Box::new(intent) });
    let listed: Vec<HostId> = rig.grid.hosts().keys().copied().collect();
    assert_eq!(listed, [HOST, forgotten], "a document says who belongs to the grid");
}

#[test]
fn a_name_is_given_once_whatever_way_the_guest_comes() {
    let mut rig = Rig::new();
    let report = report(GuestId::from_u128(1), "there", PowerState::Off);
    let beat = Beat { guests: vec![report], ..Beat::default() };
    rig.tell(Event::Received { link: LINK, message: ToAggregator::Beat(beat) });
    assert_eq!(rig.make("there"), Err(CallErrorCode::AlreadyExists));
    assert_eq!(rig.import("there"), Err(CallErrorCode::AlreadyExists));
    assert_eq!((rig.make("coming"), rig.make("coming")), (Ok(()), Err(CallErrorCode::AlreadyExists)));
    assert_eq!(rig.import("coming"), Err(CallErrorCode::AlreadyExists));
    let gone = Beat { gone: vec![GuestId::from_u128(1)], ..Beat::default() };
    rig.tell(Event::Received { link: LINK, message: ToAggregator::Beat(gone) });
    assert_eq!(rig.import("there"), Ok(()), "the name is free again");
}

#[test]
fn what_a_host_says_of_itself_is_shown_anew_when_it_changes() {
    let mut rig = Rig::new();
    let next = Some(NextImage { version: "2".into(), made: Stamp(2) });
    let image = Some(RunningImage { version: "1".into(), next, ..RunningImage::default() });
    let facts = HostFacts { image, ..HostFacts::default() };
    let beat = Beat { facts: Some(Box::new(facts.clone())), ..Beat::default() };
    rig.tell(Event::Received { link: LINK, message: ToAggregator::Beat(beat) });
    rig.beat();
    assert_eq!(rig.grid.hosts()[&HOST].facts, Some(facts));
}
