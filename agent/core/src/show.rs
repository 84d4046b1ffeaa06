//! What others may read of an agent's core.

use roost_protocol::HostId;
use roost_protocol::host::{Alarm, Freshness, HostFacts, Maintenance};

use crate::agent::Agent;
use crate::event::Action;
use crate::ledger::Change;

impl Agent {
    /// All alarms that are raised, in order of code and guest.
    pub fn raised(&self) -> impl Iterator<Item = &Alarm> {
        self.alarms.values()
    }

    /// Whether what is told of guests is fresh.
    pub fn is_fresh(&self) -> bool {
        self.freshness() == Freshness::Live
    }

    /// Whether the aggregator has this host out of service.
    pub fn maintenance(&self) -> Option<Maintenance> {
        self.maintenance
    }

    /// Kept, since it holds while the aggregator is away too.
    pub(crate) fn maintained(&mut self, maintenance: Option<Maintenance>, actions: &mut Vec<Action>) {
        if std::mem::replace(&mut self.maintenance, maintenance) != maintenance {
            actions.push(Action::Persist(vec![Change::Maintenance(maintenance)]));
        }
    }

    /// This host.
    pub fn host(&self) -> (HostId, &HostFacts) {
        (self.config.host, &self.config.facts)
    }
}
