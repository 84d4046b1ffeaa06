//! The grid's state machine.

use std::collections::{BTreeMap, BTreeSet};

use roost_protocol::backup::Share;
use roost_protocol::cause::Noted;
use roost_protocol::failover::GuardReport;
use roost_protocol::guest::{GuestReport, GuestSample};
use roost_protocol::host::{Alarm, Freshness, HostFacts, HostSample};
use roost_protocol::{Epoch, Generation, GridId, GuestId, HostId, Millis, OperationId, Stamp, Time};

use crate::account::LastUses;
use crate::backup::{Backups, Questions};
use crate::chains::Tally;
use crate::commands::Commands;
use crate::event::{Action, Event, GridEvent, LinkId};
use crate::history::{History, Line};
use crate::hosts::Greeting;
use crate::intent::Intent;
use crate::lapse::Lapses;
use crate::notify::Post;
use crate::operation::Operation;
use crate::peers::Told;
use crate::places::Places;
use crate::witness::Witnessing;

/// What a grid is told once.
#[derive(Clone, Debug)]
pub struct Config {
    pub grid: GridId,
    pub epoch: Epoch,
    /// Silence after which a host is suspect, and after which it is down.
    pub suspect_after: Millis,
    pub down_after: Millis,
    /// The database was empty though the grid key was there: take in hosts with a certificate of the grid until a document is adopted.
    pub recovering: bool,
}

/// One host as the grid knows it now.
#[derive(Clone, Debug)]
pub struct Host {
    pub id: HostId,
    pub name: String,
    pub presence: Presence,
    /// Absent until the first hello since the aggregator started.
    pub facts: Option<HostFacts>,
    pub freshness: Freshness,
    pub sample: HostSample,
    pub guests: BTreeMap<GuestId, Guest>,
    pub alarms: Vec<Alarm>,
    /// It said what alarms it has since it connected.
    pub alarms_known: bool,
    /// What it keeps of its own guests and for other hosts.
    pub backups: Backups,
    /// Its guard, as it said last; kept while it is away.
    pub guard: Option<GuardReport>,
    /// What it noted of wards, oldest first.
    pub notes: Vec<Noted>,
    /// Takeovers by it that people were told of, by ward and epoch.
    pub failovers_told: BTreeSet<(u64, Option<Epoch>)>,
    /// Those that were counted, by ward and moment, and whether they failed; none: it told of none yet.
    pub failovers_counted: Option<BTreeMap<(Stamp, u64), bool>>,
    /// Guests that were to be handed over while it is drained, and when that may be tried again.
    pub drained: BTreeMap<GuestId, Time>,
    /// The message version spoken with it.
    pub version: u32,
    /// Digest of the guests as the agent last stated it.
    pub digest: u64,
    /// How far the host's wall clock was ahead of ours at its last hello, ms.
    pub clock_ahead_ms: i64,
    /// Generation of the grid document that it keeps, by its own word.
    pub document: Generation,
    pub remote: String,
    /// What it was told of its peers.
    pub told: Told,
    /// Points of it that others may take, as it was told last or says that it was.
    pub shared: BTreeSet<Share>,
}

/// Whether a host is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Known, not heard since the aggregator started.
    Never,
    Up {
        link: LinkId,
        heard: Time,
        since: Stamp,
    },
    /// Missed heartbeats; the connection may still stand.
    Suspect {
        link: Option<LinkId>,
        heard: Time,
        since: Stamp,
    },
    Down {
        heard: Time,
        since: Stamp,
    },
}

/// One guest as its host reports it.
#[derive(Clone, Debug)]
pub struct Guest {
    pub report: GuestReport,
    pub sample: Option<GuestSample>,
}

/// The grid.
#[derive(Debug)]
pub struct Grid {
    pub(crate) config: Config,
    pub(crate) intent: Intent,
    pub(crate) hosts: BTreeMap<HostId, Host>,
    /// Which host speaks on a link, and the key it proved.
    pub(crate) links: BTreeMap<LinkId, Speaker>,
    pub(crate) places: Places,
    pub(crate) commands: Commands,
    pub(crate) history: History,
    pub(crate) uses: LastUses,
    pub(crate) questions: Questions,
    pub(crate) lapses: Lapses,
    pub(crate) post: Post,
    pub(crate) witness: Witnessing,
    pub(crate) tally: Tally,
    /// The last write of the intent failed: the next one writes all of it.
    pub(crate) resave: bool,
    /// The time of the event that was dealt with last.
    pub(crate) clock: Time,
    next_tick: Time,
}

/// Who is at the other end of a link.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Speaker {
    pub(crate) host: HostId,
    pub(crate) key: [u8; 32],
}

/// Now, on both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) time: Time,
    pub(crate) wall: Stamp,
}

/// How often silence and overdue operations are looked for.
const TICK: Millis = Millis(250);
/// A tick this late means that we were stopped (frozen, suspended, starved) and heard nobody: our silence, not theirs.
const ASLEEP: Millis = Millis::seconds(1);

impl Grid {
    /// A grid that has heard nobody yet.
    pub fn new(config: Config, intent: Intent, operations: Vec<Operation>) -> Self {
        let mut grid = Self {
            history: History::new(config.epoch),
            commands: Commands::new(operations),
            config,
            intent,
            uses: LastUses::new(),
            questions: Questions::default(),
            lapses: Lapses::default(),
            post: Post::default(),
            witness: Witnessing::default(),
            tally: Tally::default(),
            hosts: BTreeMap::new(),
            links: BTreeMap::new(),
            places: Places::default(),
            resave: false,
            clock: Time(0),
            next_tick: Time(0),
        };
        grid.list_known_hosts();
        grid
    }

    /// What to do about `event`. `now` is this machine's monotonic clock, `wall` its wall clock, for people only.
    pub fn on(&mut self, now: Time, wall: Stamp, event: Event) -> Vec<Action> {
        let now = Now { time: now, wall };
        self.clock = now.time;
        let mut actions = Vec::new();
        let late = now.time.since(self.next_tick);
        if late >= ASLEEP {
            self.forgive_silence(now, late);
        }
        match event {
            Event::Tick => {}
            Event::Hello { link, key, certified, hello, remote } => {
                self.hello(now, Greeting { link, key, certified, remote }, hello, &mut actions);
            }
            Event::Received { link, message } => self.received(now, link, message, &mut actions),
            Event::DocumentOffered { intent, .. } => self.document_offered(now, *intent, &mut actions),
            Event::Closed { link, why } => self.closed(now, link, &why, &mut actions),
            Event::Called { call, by, what } => self.called(now, call, by, what, &mut actions),
            Event::Used { who } => self.used(now, who, &mut actions),
            Event::Witness(told) => self.witness_told(now, told, &mut actions),
            Event::Notified { notifier, delivery, result } => {
                self.notified(now, &notifier, delivery, result, &mut actions);
            }
            Event::LedgerFailed { why } => self.ledger_failed(now, &why, &mut actions),
        }
        if now.time >= self.next_tick {
            self.next_tick = now.time + TICK;
            self.watch_silence(now, &mut actions);
            self.end_overdue(now, &mut actions);
            self.give_up_questions(now, &mut actions);
            self.tell_peers(now, &mut actions);
            self.drain_hosts(now, &mut actions);
            self.hand_on_policies(now, &mut actions);
            self.watch_lapses(now, &mut actions);
            self.watch_alarms(now, &mut actions);
        }
        actions
    }

    /// When the core wants to be told [`Event::Tick`] at the latest.
    pub fn deadline(&self) -> Option<Time> {
        Some(self.next_tick)
    }

    /// Reading: by id.
    pub fn hosts(&self) -> &BTreeMap<HostId, Host> {
        &self.hosts
    }

    /// Reading: the host a guest is on.
    pub fn guest_host(&self, guest: GuestId) -> Option<HostId> {
        self.places.host(guest)
    }

    /// Reading: guests with such names in order of name and id, from this place on.
    pub fn guests_by_name(
        &self,
        from: Option<(&str, GuestId)>,
        such: impl Fn(&str) -> bool,
    ) -> impl Iterator<Item = (&Host, &Guest)> {
        let named = self.places.by_name(from).filter(move |(name, _, _)| such(name));
        named.filter_map(|(_, guest, host)| {
            let host = self.hosts.get(&host)?;
            Some((host, host.guests.get(&guest)?))
        })
    }

    /// Reading: operations by id.
    pub fn operations(&self) -> &BTreeMap<OperationId, Operation> {
        self.commands.all()
    }

    /// Reading: the operation that was asked for with this key (`user/key`).
    pub fn operation_of_key(&self, key: &str) -> Option<&Operation> {
        self.commands.by_key(key)
    }

    /// Reading: the intent.
    pub fn intent(&self) -> &Intent {
        &self.intent
    }

    /// Reading: what it was told once; epoch and recovering may have changed since.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Reading: events after `sequence`, oldest first, at most `limit`; `None` when some of them were trimmed.
    pub fn events_after(&self, sequence: u64, limit: usize) -> Option<Vec<GridEvent>> {
        self.history.after(sequence, limit)
    }

    /// Reading: the newest `limit` events, oldest first.
    pub fn events_newest(&self, limit: usize) -> Vec<GridEvent> {
        self.history.newest(limit)
    }

    /// Reading: one number over all hosts' guests; equal on both sides of the grid when they know the same.
    pub fn digest(&self) -> u64 {
        self.hosts.values().fold(0, |digest, host| digest.rotate_left(1) ^ host.digest)
    }

    fn ledger_failed(&mut self, now: Now, why: &str, actions: &mut Vec<Action>) {
        self.resave = true;
        let text = format!(
            "the aggregator can't write its database ({why}); changes are refused until it can: free some space"
        );
        self.publish(now, Line::error("grid.storage", text), actions);
    }
}
