//! Guests that nobody would go on with although that is wished: an alarm once it lasts, until all was well for a while.
//! It is the aggregator's own, since only it sees councils, guards and copies together; one that starts anew counts anew.

use std::collections::BTreeMap;

use roost_protocol::host::Alarm;
use roost_protocol::{GuestId, Millis, Stamp, Time};

use crate::event::Action;
use crate::grid::{Grid, Host, Now, Presence};
use crate::history::Line;

/// Its code among a host's alarms.
const CODE: &str = "unprotected";
/// A host that starts anew, a council that changes and the first copy of a small disk are over by then.
const RAISE_AFTER: Millis = Millis::seconds(180);
/// What comes and goes within this stays an alarm.
const CLEAR_AFTER: Millis = Millis::seconds(30);
/// All guests of the grid are looked at; nothing here is urgent.
const LOOK_EVERY: Millis = Millis::seconds(5);

/// Guests without protection, and since when.
#[derive(Debug, Default)]
pub(crate) struct Lapses {
    next_look: Time,
    guests: BTreeMap<GuestId, Lapse>,
}

#[derive(Debug)]
struct Lapse {
    begun: Time,
    since: Stamp,
    why: Vec<String>,
    raised: bool,
    /// Nothing was lacking since then.
    well: Option<Time>,
}

/// What a look changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Raised,
    Cleared,
}

impl Lapses {
    /// Takes in what a guest lacks now.
    fn step(&mut self, now: Now, guest: GuestId, lacks: Vec<String>) -> Option<Turn> {
        if lacks.is_empty() {
            let lapse = self.guests.get_mut(&guest)?;
            let well = *lapse.well.get_or_insert(now.time);
            if lapse.raised && now.time.since(well) < CLEAR_AFTER {
                return None;
            }
            return self.guests.remove(&guest).filter(|lapse| lapse.raised).map(|_| Turn::Cleared);
        }
        let new = || Lapse { begun: now.time, since: now.wall, why: Vec::new(), raised: false, well: None };
        let lapse = self.guests.entry(guest).or_insert_with(new);
        (lapse.why, lapse.well) = (lacks, None);
        let due = !lapse.raised && now.time.since(lapse.begun) >= RAISE_AFTER;
        lapse.raised |= due;
        due.then_some(Turn::Raised)
    }
}

impl Grid {
    /// Raises and clears; called at each tick.
    pub(crate) fn watch_lapses(&mut self, now: Now, actions: &mut Vec<Action>) {
        if now.time < self.lapses.next_look {
            return;
        }
        self.lapses.next_look = now.time + LOOK_EVERY;
        // Of a host that isn't heard nothing is concluded.
        let heard = |host: &&Host| matches!(host.presence, Presence::Up { .. });
        let here = |host: &Host, guest: &GuestId| self.guest_host(*guest) == Some(host.id);
        let mut looks: BTreeMap<GuestId, Vec<String>> = BTreeMap::new();
        for host in self.hosts.values().filter(heard) {
            let guests = host.guests.keys().filter(|guest| here(host, guest));
            looks.extend(guests.map(|guest| (*guest, self.lacking(host, *guest))));
        }
        // A guest that is gone lacks nothing.
        let gone = self.lapses.guests.keys().filter(|guest| self.guest_host(**guest).is_none());
        looks.extend(gone.map(|guest| (*guest, Vec::new())).collect::<Vec<_>>());
        for (guest, lacks) in looks {
            if let Some(turn) = self.lapses.step(now, guest, lacks) {
                self.tell_lapse(now, guest, turn, actions);
            }
        }
    }

    fn tell_lapse(&mut self, now: Now, guest: GuestId, turn: Turn, actions: &mut Vec<Action>) {
        let line = match turn {
            Turn::Raised => {
                let minutes = RAISE_AFTER.0 / 60_000;
                Line::error("guest.unprotected", format!("for {minutes} min {}", self.lapse_text(guest)))
            }
            Turn::Cleared => {
                let text = format!("nothing is lacking any more in the protection of {}", self.guest_name(guest));
                Line::info("guest.protected", text)
            }
        };
        let line = self.guest_host(guest).into_iter().fold(line.guest(guest), Line::host);
        self.publish(now, line, actions);
    }

    fn lapse_text(&self, guest: GuestId) -> String {
        let why = self.lapses.guests.get(&guest).map_or(String::new(), |lapse| lapse.why.join("; "));
        let (name, host) = (self.guest_name(guest), self.guest_host(guest));
        let host = host.map_or_else(|| "its host".into(), |host| self.host_name(host));
        format!(
            "no other host would go on with {name} if {host} died now: {why}. Mend that, or give the guest a policy without failover"
        )
    }

    /// Reading: a host's alarms, its own and those on its guests' protection.
    pub fn alarms<'a>(&'a self, host: &'a Host) -> impl Iterator<Item = Alarm> + 'a {
        let here = move |guest: &GuestId| self.guest_host(*guest) == Some(host.id);
        // Looked at each second for all guests of the grid, of which few lack anything.
        let lapses = host.guests.keys().filter_map(move |guest| {
            let lapse = self.lapses.guests.get(guest).filter(|lapse| lapse.raised && here(guest))?;
            let text = format!("since then {}", self.lapse_text(*guest));
            Some(Alarm { code: CODE.into(), guest: Some(*guest), since: lapse.since, text })
        });
        host.alarms.iter().cloned().chain(lapses)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const GUEST: GuestId = GuestId::from_u128(9);

    /// What each look says, seconds after the first one, for what was lacking then.
    fn check(looks: &[(u64, bool, Option<Turn>)]) {
        let mut lapses = Lapses::default();
        for (second, lacks, wanted) in looks {
            let now = Now { time: Time(1_000) + Millis::seconds(*second), wall: Stamp(*second) };
            let lacks = if *lacks { vec!["no copy".to_owned()] } else { Vec::new() };
            assert_eq!(lapses.step(now, GUEST, lacks), *wanted, "after {second} s of {looks:?}");
        }
    }

    #[test]
    fn what_mends_itself_soon_is_no_alarm_and_what_lasts_is_one_until_it_is_well_for_a_while() {
        let (raised, cleared) = (Some(Turn::Raised), Some(Turn::Cleared));
        check(&[(0, true, None), (179, true, None), (180, false, None), (400, true, None)]);
        check(&[(0, true, None), (180, true, raised), (185, true, None), (190, false, None), (220, false, cleared)]);
        check(&[(0, true, None), (200, true, raised), (205, false, None), (230, true, None), (240, false, None)]);
        check(&[(0, true, None), (200, true, raised), (205, false, None), (210, true, None), (215, false, None)]);
        check(&[(0, false, None), (500, false, None)]);
    }
}
