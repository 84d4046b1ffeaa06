//! Which doors of which guests their hosts try. Intent, so it lasts; told to whichever host a guest is on, and to those that
//! may go on with it.

use std::collections::BTreeMap;

use roost_protocol::probe::{GuestProbes, NoProbe, PROBES, Probe};
use roost_protocol::{GuestId, HostId};

use crate::call::{CallErrorCode, Done, Reply};
use crate::calls::{error, within};
use crate::event::Action;
use crate::grid::{Grid, Host, Now};
use crate::history::Line;
use crate::intent::IntentChange;

/// Guests with probes: more than a grid has guests.
const GUESTS: usize = 50_000;

impl Grid {
    pub(crate) fn set_probes(
        &mut self,
        now: Now,
        by: &str,
        guest: GuestId,
        texts: &[String],
        actions: &mut Vec<Action>,
    ) -> Reply {
        let Some(host) = self.guest_host(guest) else {
            return Err(error(CallErrorCode::NotFound, "no such guest"));
        };
        if texts.len() > PROBES {
            let text = format!("{} probes: {PROBES} of a guest are tried", texts.len());
            return Err(error(CallErrorCode::Invalid, text));
        }
        let read: Result<Vec<Probe>, NoProbe> = texts.iter().map(|text| text.parse()).collect();
        let mut read = read.map_err(|why| error(CallErrorCode::Invalid, why.to_string()))?;
        read.sort_unstable();
        read.dedup();
        let probes: Vec<String> = read.iter().map(Probe::to_string).collect();
        if !self.intent.probes.contains_key(&guest) {
            within(self.intent.probes.len(), GUESTS, "guests with probes")?;
        }
        let name = self.hosts.get(&host).and_then(|host| host.guests.get(&guest)).map(|it| it.report.name.clone());
        let name = name.unwrap_or_else(|| guest.to_string());
        let text = match probes.is_empty() {
            true => format!("{name} is not probed any more, asked by {by}"),
            false => format!("{name} is probed at {}, asked by {by}", probes.join(", ")),
        };
        self.change_intent(vec![IntentChange::Probes { guest, probes }], actions);
        let keeps = |other: &&Host| other.id == host || other.backups.sets.contains_key(&guest);
        for told in self.hosts.values().filter(keeps).map(|host| host.id).collect::<Vec<_>>() {
            self.look_at_peers(told, now.time);
        }
        self.publish(now, Line::info("guest.probes", text).host(host).guest(guest).user(by), actions);
        Ok(Done::Nothing)
    }

    /// The guest was deleted.
    pub(crate) fn forget_probes(&mut self, guest: GuestId, actions: &mut Vec<Action>) {
        if self.intent.probes.contains_key(&guest) {
            self.change_intent(vec![IntentChange::Probes { guest, probes: Vec::new() }], actions);
        }
    }

    /// By the host that a guest is on, and by those that keep backups of it: they ask it before they take it over.
    pub(crate) fn probes_by_host(&self) -> BTreeMap<HostId, Vec<GuestProbes>> {
        let mut by_host: BTreeMap<HostId, Vec<GuestProbes>> = BTreeMap::new();
        let mut tell = |host, guest, probes: &Vec<String>| {
            by_host.entry(host).or_default().push(GuestProbes { guest, probes: probes.clone() });
        };
        for (guest, probes) in &self.intent.probes {
            if let Some(host) = self.guest_host(*guest) {
                tell(host, *guest, probes);
            }
        }
        let probed = |guest: &GuestId| Some((*guest, self.intent.probes.get(guest)?));
        for host in self.hosts.values() {
            let kept = host.backups.sets.keys().filter_map(probed);
            kept.filter(|(guest, _)| self.guest_host(*guest) != Some(host.id))
                .for_each(|(guest, probes)| tell(host.id, guest, probes));
        }
        by_host
    }
}
