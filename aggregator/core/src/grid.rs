//! The grid's state machine.

use std::collections::BTreeMap;

use roost_protocol::guest::{GuestReport, GuestSample};
use roost_protocol::host::{Alarm, Freshness, HostFacts, HostSample};
use roost_protocol::{Epoch, GridId, GuestId, HostId, Millis, OperationId, Stamp, Time};

use crate::event::{Action, Event, GridEvent, LinkId};
use crate::intent::Intent;
use crate::operation::Operation;

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
    /// Digest of the guests as the agent last stated it.
    pub digest: u64,
    /// How far the host's wall clock was ahead of ours at its last hello, ms.
    pub clock_ahead_ms: i64,
    pub remote: String,
}

/// Whether a host is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Known, not heard since the aggregator started.
    Never,
    Up { link: LinkId, heard: Time, since: Stamp },
    /// Missed heartbeats; the connection may still stand.
    Suspect { link: Option<LinkId>, heard: Time, since: Stamp },
    Down { heard: Time, since: Stamp },
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
    config: Config,
    intent: Intent,
    hosts: BTreeMap<HostId, Host>,
    operations: BTreeMap<OperationId, Operation>,
}

impl Grid {
    /// A grid that has heard nobody yet.
    pub fn new(config: Config, intent: Intent, operations: Vec<Operation>) -> Self {
        let operations = operations.into_iter().map(|operation| (operation.id, operation)).collect();
        Self { config, intent, hosts: BTreeMap::new(), operations }
    }

    /// What to do about `event`. `now` is this machine's monotonic clock, `wall` its wall clock, for people only.
    pub fn on(&mut self, now: Time, wall: Stamp, event: Event) -> Vec<Action> {
        let _ = (now, wall, event);
        Vec::new()
    }

    /// When the core wants to be told [`Event::Tick`] at the latest.
    pub fn deadline(&self) -> Option<Time> {
        None
    }

    /// Reading: by id.
    pub fn hosts(&self) -> &BTreeMap<HostId, Host> {
        &self.hosts
    }

    /// Reading: the host a guest is on.
    pub fn guest_host(&self, guest: GuestId) -> Option<HostId> {
        self.hosts.values().find(|host| host.guests.contains_key(&guest)).map(|host| host.id)
    }

    /// Reading: operations, newest last within what is kept.
    pub fn operations(&self) -> &BTreeMap<OperationId, Operation> {
        &self.operations
    }

    /// Reading: the intent.
    pub fn intent(&self) -> &Intent {
        &self.intent
    }

    /// Reading: what it was told once.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Reading: events after `sequence`, at most `limit`; `None` when some of them were trimmed.
    pub fn events_after(&self, sequence: u64, limit: usize) -> Option<Vec<GridEvent>> {
        let _ = (sequence, limit);
        Some(Vec::new())
    }
}
