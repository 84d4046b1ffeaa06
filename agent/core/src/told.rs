//! What the aggregator says of this host and its guests beside commands. Kept, since it holds while the aggregator is away.

use roost_protocol::host::Maintenance;
use roost_protocol::memory::{MemoryOrder, MemoryPolicy};
use roost_protocol::message::{GUESTS_PER_HOST, TEXT};
use roost_protocol::probe::{GuestProbes, PROBES};

use crate::agent::Agent;
use crate::event::Action;
use crate::ledger::Change;

impl Agent {
    /// How dense the host is packed, where an admin said it.
    pub fn memory(&self) -> Option<&MemoryPolicy> {
        self.memory.as_ref()
    }

    pub(crate) fn maintained(&mut self, maintenance: Option<Maintenance>, actions: &mut Vec<Action>) {
        if std::mem::replace(&mut self.maintenance, maintenance) != maintenance {
            actions.push(Action::Persist(vec![Change::Maintenance(maintenance)]));
        }
    }

    pub(crate) fn zone_told(&mut self, mut zone: String, actions: &mut Vec<Action>) {
        zone.truncate(zone.floor_char_boundary(TEXT));
        let others = &mut self.backups.others;
        if others.zone != zone {
            others.zone.clone_from(&zone);
            actions.push(Action::Persist(vec![Change::Zone(zone)]));
        }
    }

    /// Used before it is kept: a full disk doesn't stand in its way.
    pub(crate) fn memory_told(&mut self, order: MemoryOrder, actions: &mut Vec<Action>) {
        let MemoryOrder { policy } = order;
        if let Some(problem) = policy.as_ref().and_then(MemoryPolicy::problem) {
            let text = format!("the aggregator's memory policy is left aside: {problem}");
            actions.push(Action::Note { guest: None, at: None, text });
        } else if self.memory != policy {
            self.memory.clone_from(&policy);
            let policy = policy.map(Box::new);
            actions.push(Action::Memory(policy.clone()));
            actions.push(Action::Persist(vec![Change::Memory(policy)]));
        }
    }

    pub(crate) fn probes_told(&mut self, mut probes: Vec<GuestProbes>, actions: &mut Vec<Action>) {
        probes.truncate(GUESTS_PER_HOST);
        for of_guest in &mut probes {
            of_guest.probes.retain(|probe| probe.len() <= TEXT);
            of_guest.probes.truncate(PROBES);
        }
        if self.probes != probes {
            self.probes.clone_from(&probes);
            self.probes_changed();
            actions.push(Action::Persist(vec![Change::Probes(probes)]));
        }
    }
}

#[cfg(test)]
mod test {
    use roost_protocol::HostId;
    use roost_protocol::message::ToAgent;
    use roost_protocol::{Stamp, Time};

    use super::*;
    use crate::event::Event;
    use crate::ledger::Kept;
    use crate::sample::config;

    fn agent(memory: Option<MemoryPolicy>) -> Agent {
        Agent::new(config(HostId::from_u128(1), false), Kept { memory, ..Kept::default() })
    }

    /// What it does about memory when it is told this.
    fn told(agent: &mut Agent, order: Option<MemoryOrder>) -> Vec<Action> {
        let (peers, shares, probes, memory) = (Vec::new(), Vec::new(), Vec::new(), order.map(Box::new));
        let message = ToAgent::Peers { peers, shares, maintenance: None, zone: None, probes, memory };
        let actions = agent.on(Time(1), Stamp(1), Event::Received(message));
        let kept = |change: &Change| matches!(change, Change::Memory(_));
        let ours = |action: &Action| {
            matches!(action, Action::Memory(_) | Action::Note { .. })
                || matches!(action, Action::Persist(changes) if changes.iter().any(kept))
        };
        actions.into_iter().filter(ours).collect()
    }

    fn set(policy: Option<MemoryPolicy>) -> Option<MemoryOrder> {
        Some(MemoryOrder { policy })
    }

    #[test]
    fn an_admin_s_memory_policy_is_followed_kept_and_only_taken_back_by_a_word() {
        let dense = MemoryPolicy { overcommit_permille: 1_500, ..MemoryPolicy::default() };
        let boxed = Some(Box::new(dense.clone()));
        let mut new = agent(None);
        let both = [Action::Memory(boxed.clone()), Action::Persist(vec![Change::Memory(boxed)])];
        assert_eq!(told(&mut new, set(Some(dense.clone()))), both);
        let mut again = agent(Some(dense.clone()));
        assert_eq!(told(&mut again, None), [], "an aggregator that knows nothing, or an older one");
        assert_eq!(told(&mut again, set(Some(dense.clone()))), [], "nothing new");
        assert_eq!(told(&mut again, set(None)), [Action::Memory(None), Action::Persist(vec![Change::Memory(None)])]);
        assert_eq!(told(&mut again, set(None)), []);
    }

    #[test]
    fn a_memory_policy_that_can_not_hold_is_left_aside() {
        let mut agent = agent(None);
        let wrong = MemoryPolicy { overcommit_permille: 0, ..MemoryPolicy::default() };
        let actions = told(&mut agent, set(Some(wrong)));
        assert!(matches!(actions.as_slice(), [Action::Note { .. }]) && agent.memory.is_none(), "{actions:?}");
    }
}
