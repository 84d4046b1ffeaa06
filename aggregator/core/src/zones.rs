//! What falls together: a rack, a power feed, a room. Intent; replicas and voters are chosen by it.

use roost_protocol::HostId;

use crate::call::{CallError, CallErrorCode, Done, Reply};
use crate::calls::error;
use crate::event::Action;
use crate::grid::{Grid, Now};
use crate::history::Line;
use crate::intent::{HostRecord, IntentChange};

impl Grid {
    /// A host that belongs to the grid, to be changed.
    pub(crate) fn member(&self, id: HostId) -> Result<HostRecord, CallError> {
        let record = self.intent.hosts.get(&id).filter(|record| record.removed.is_none());
        record.cloned().ok_or_else(|| error(CallErrorCode::NotFound, "no such host"))
    }

    /// Reading: what falls together with a host, such as its rack; empty: not known.
    pub fn zone(&self, host: HostId) -> &str {
        self.intent.hosts.get(&host).map_or("", |record| &record.zone)
    }

    pub(crate) fn set_zone(
        &mut self,
        now: Now,
        by: &str,
        id: HostId,
        zone: String,
        actions: &mut Vec<Action>,
    ) -> Reply {
        let record = self.member(id)?;
        if record.zone == zone {
            return Ok(Done::Nothing);
        }
        let text = match zone.as_str() {
            "" => format!("the zone of host {} is not known any more, asked by {by}", record.name),
            zone => format!("host {} is in zone {zone}, asked by {by}", record.name),
        };
        self.change_intent(vec![IntentChange::Host { id, record: HostRecord { zone, ..record } }], actions);
        self.peers_changed(now, id);
        self.publish(now, Line::info("host.zone", text).host(id).user(by), actions);
        Ok(Done::Nothing)
    }
}
