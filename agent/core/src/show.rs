//! What others may read of an agent's core.

use roost_protocol::HostId;
use roost_protocol::host::{Alarm, Freshness, HostFacts, Maintenance};
use roost_protocol::probe::GuestProbes;

use crate::Agent;

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

    /// Which doors of its guests are tried.
    pub fn probes(&self) -> &[GuestProbes] {
        &self.probes
    }

    /// This host.
    pub fn host(&self) -> (HostId, &HostFacts) {
        (self.config.host, &self.config.facts)
    }
}
