//! What others may read of an agent's core.

use roost_protocol::HostId;
use roost_protocol::host::{Alarm, Freshness, HostFacts};

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

    /// This host.
    pub fn host(&self) -> (HostId, &HostFacts) {
        (self.config.host, &self.config.facts)
    }
}
