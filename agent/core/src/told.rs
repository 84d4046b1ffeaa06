//! What the aggregator says of this host and its guests beside commands. Kept, since it holds while the aggregator is away.

use roost_protocol::host::Maintenance;
use roost_protocol::message::{GUESTS_PER_HOST, TEXT};
use roost_protocol::probe::{GuestProbes, PROBES};

use crate::agent::Agent;
use crate::event::Action;
use crate::ledger::Change;

impl Agent {
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
