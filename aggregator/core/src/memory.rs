//! How dense hosts are packed: what an admin said of one is intent, and the host keeps it. A grid that knows nothing of it
//! tells nothing, and the host goes on as it was told; only a word of an admin takes it back.

use roost_protocol::HostId;
use roost_protocol::memory::{MemoryOrder, MemoryPolicy, TRUST_SINCE};

use crate::call::{CallErrorCode, Done, Reply};
use crate::calls::error;
use crate::event::Action;
use crate::grid::{Grid, Now};
use crate::history::Line;
use crate::intent::{HostRecord, IntentChange};

impl Grid {
    /// Reading: what an admin said of a host's memory last.
    pub fn memory_order(&self, host: HostId) -> Option<&MemoryOrder> {
        self.intent.hosts.get(&host)?.memory.as_deref()
    }

    pub(crate) fn set_memory(
        &mut self,
        now: Now,
        by: &str,
        id: HostId,
        order: Box<MemoryOrder>,
        actions: &mut Vec<Action>,
    ) -> Reply {
        let record = self.member(id)?;
        if let Some(problem) = order.policy.as_ref().and_then(MemoryPolicy::problem) {
            return Err(error(CallErrorCode::Invalid, format!("{problem}; give other values")));
        }
        let old = self.hosts.get(&id).is_some_and(|host| host.version < TRUST_SINCE);
        if old && order.policy.as_ref().is_some_and(|policy| policy.trust.is_some()) {
            let text = format!("the agent of host {} is too old for trust groups: upgrade it", record.name);
            return Err(error(CallErrorCode::WrongState, text));
        }
        if record.memory.as_ref() == Some(&order) {
            return Ok(Done::Nothing);
        }
        let text = match &order.policy {
            None => format!("the settings of host {} say again how dense it is packed, asked by {by}", record.name),
            Some(policy) => {
                let values: Vec<String> =
                    policy.values().into_iter().map(|(name, value)| format!("{name} {value}")).collect();
                format!("the memory policy of host {} is {}, asked by {by}", record.name, values.join(", "))
            }
        };
        let record = HostRecord { memory: Some(order), ..record };
        self.change_intent(vec![IntentChange::Host { id, record }], actions);
        self.look_at_peers(id, now.time);
        self.tell_peers(now, actions);
        self.publish(now, Line::info("host.memory", text).host(id).user(by), actions);
        Ok(Done::Nothing)
    }
}
