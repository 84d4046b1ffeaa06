//! Guests that another host took over: commands, names and backup policies follow them.

use roost_protocol::guest::{Power, PowerState};
use roost_protocol::{GuestId, HostId};

use crate::event::Action;
use crate::grid::{Grid, Host, Now, Presence};
use crate::history::Line;

impl Grid {
    /// Looks whether guests of a host that fell silent run elsewhere already.
    pub(crate) fn follow_guests_of(&mut self, now: Now, silent: HostId, actions: &mut Vec<Action>) {
        let replicated = self.hosts.get(&silent).map(|host| host.backups.replicas.keys().copied().collect::<Vec<_>>());
        for guest in replicated.unwrap_or_default() {
            self.follow_guest(now, guest, None, actions);
        }
    }

    /// A guest's place becomes the host that took it over, and that one follows its policy from then on. `told_by` reports
    /// the guest too.
    pub(crate) fn follow_guest(
        &mut self,
        now: Now,
        guest: GuestId,
        told_by: Option<HostId>,
        actions: &mut Vec<Action>,
    ) {
        let Some((from, to)) = self.taken_over(guest, told_by) else { return };
        self.places.moved(guest, to);
        let named = |id: HostId| self.hosts.get(&id).map(|host| host.name.clone()).unwrap_or_default();
        let name = self.hosts.get(&to).and_then(|host| Some(host.guests.get(&guest)?.report.name.clone()));
        let name = name.unwrap_or_default();
        let text = format!("guest {name} was taken over by {}; it was a guest of {}", named(to), named(from));
        self.publish(now, Line::warning("guest.taken-over", text).host(to).guest(guest), actions);
        self.hand_on_policy(now, guest, &name, (from, to), actions);
    }

    /// A takeover that no aggregator saw: the ward of a guest that is looked after here still names the host before it as
    /// first home, as it does until a policy is followed here.
    pub(crate) fn hand_on_policies(&mut self, now: Now, actions: &mut Vec<Action>) {
        let mut unseen = Vec::new();
        for host in self.hosts.values().filter(|host| is_up(host)) {
            for ward in host.guard.iter().flat_map(|guard| &guard.wards) {
                let (guest, first) = (ward.council.guest, ward.council.homes.first());
                let report = host.guests.get(&guest).map(|it| &it.report).filter(|report| report.desired.is_some());
                let here = self.guest_host(guest) == Some(host.id);
                if let (Some(first), Some(report)) = (first.filter(|first| **first != host.id && here), report) {
                    unseen.push((guest, report.name.clone(), (*first, host.id)));
                }
            }
        }
        for (guest, name, way) in unseen {
            self.hand_on_policy(now, guest, &name, way, actions);
        }
    }

    /// Where the guest was and where it is. No host can take another's guest by its own word alone: the one that had it is
    /// not up and said who keeps its replica, or it says that it does not look after the guest.
    fn taken_over(&self, guest: GuestId, told_by: Option<HostId>) -> Option<(HostId, HostId)> {
        let from = self.places.host(guest)?;
        let was = self.hosts.get(&from)?;
        let gave_up =
            was.guests.get(&guest).is_some_and(|it| it.report.desired.is_none() && !executes(it.report.state));
        let to = match is_up(was) {
            false => was.backups.replicas.get(&guest)?.status.host?,
            // It may say so after the other one was heard.
            true if gave_up => self.owner(guest, from).or(told_by).or_else(|| self.another(guest, from))?,
            true => return None,
        };
        let looks_after = |host: &&Host| is_up(host) && has_it(host, guest);
        self.hosts.get(&to).filter(looks_after).filter(|_| to != from).map(|_| (from, to))
    }

    /// Another host whose guard holds the guest's ward. A host that has returned may not have heard yet that it does not.
    fn owner(&self, guest: GuestId, but: HostId) -> Option<HostId> {
        let owns = |host: &&Host| {
            let wards = host.guard.iter().flat_map(|guard| &guard.wards);
            is_up(host) && host.id != but && wards.map(|ward| ward.council.guest).any(|its| its == guest)
        };
        self.hosts.values().find(owns).map(|host| host.id)
    }

    /// Another host that has the guest.
    fn another(&self, guest: GuestId, but: HostId) -> Option<HostId> {
        self.hosts.values().find(|host| host.id != but && has_it(host, guest)).map(|host| host.id)
    }
}

/// It looks after the guest, which is as it is meant to be, running or off.
fn has_it(host: &Host, guest: GuestId) -> bool {
    host.guests.get(&guest).map(|it| &it.report).is_some_and(|report| match report.desired.map(|it| it.power) {
        Some(Power::Running) => executes(report.state),
        Some(Power::Stopped) => report.state == PowerState::Off,
        None => false,
    })
}

fn is_up(host: &Host) -> bool {
    matches!(host.presence, Presence::Up { .. })
}

fn executes(state: PowerState) -> bool {
    match state {
        PowerState::Running | PowerState::Paused | PowerState::ShuttingDown => true,
        PowerState::Unknown | PowerState::Off | PowerState::Crashed | PowerState::Suspended => false,
    }
}
