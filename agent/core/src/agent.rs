//! The agent's state machine.

use roost_protocol::host::HostFacts;
use roost_protocol::{HostId, Millis, Stamp, Time};

use crate::event::{Action, Event};
use crate::ledger::Kept;

/// What an agent is told once.
#[derive(Clone, Debug)]
pub struct Config {
    pub host: HostId,
    pub facts: HostFacts,
    /// Time between slow full re-reads of all domains.
    pub list_every: Millis,
    /// First and longest wait before a crashed guest is started again; doubles in between.
    pub restart_first: Millis,
    pub restart_longest: Millis,
}

/// One host's decisions.
#[derive(Debug)]
pub struct Agent {
    config: Config,
    kept: Kept,
}

impl Agent {
    /// An agent that just started and has seen nothing yet.
    pub fn new(config: Config, kept: Kept) -> Self {
        Self { config, kept }
    }

    /// What to do about `event`. `now` is this machine's monotonic clock, `wall` its wall clock, for people only.
    pub fn on(&mut self, now: Time, wall: Stamp, event: Event) -> Vec<Action> {
        let _ = (now, wall, event, &self.config, &self.kept);
        Vec::new()
    }

    /// When the core wants to be told [`Event::Tick`] at the latest.
    pub fn deadline(&self) -> Option<Time> {
        None
    }

    /// The first message of a connection.
    pub fn hello(&self, wall: Stamp) -> roost_protocol::message::Hello {
        roost_protocol::message::Hello {
            newest: roost_protocol::message::VERSION,
            oldest: roost_protocol::message::OLDEST,
            host: self.config.host,
            facts: self.config.facts.clone(),
            epoch: self.kept.epoch,
            document: self.kept.document,
            clock: wall,
        }
    }
}
