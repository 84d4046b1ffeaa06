//! The guests of this host as last seen, and what follows from a change in what is seen.

use std::collections::{BTreeMap, BTreeSet};

use roost_protocol::guest::{GuestReport, Power, PowerState};
use roost_protocol::host::Freshness;
use roost_protocol::message::{GUESTS_PER_HOST, TEXT};
use roost_protocol::{GuestId, Stamp, Time};

use crate::agent::{Agent, Hypervisor, Now};
use crate::event::{Action, Cause, Seen};

/// All guests seen.
#[derive(Debug, Default)]
pub(crate) struct Guests {
    pub(crate) known: BTreeMap<GuestId, Known>,
    /// New, changed or gone since the last beat.
    pub(crate) dirty: BTreeSet<GuestId>,
}

/// One guest.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) seen: Seen,
    /// When it was first seen in this state.
    pub(crate) since: Stamp,
    pub(crate) since_time: Time,
    /// Starts by the agent itself since somebody asked for one.
    pub(crate) restarts: u32,
    /// When the agent will start it by itself.
    pub(crate) retry_at: Option<Time>,
}

impl Guests {
    /// The next time after `now` that a guest is to be started. One that is due already waits for something else, whose end
    /// is told.
    pub(crate) fn deadline(&self, now: Time) -> Option<Time> {
        self.known.values().filter_map(|known| known.retry_at).filter(|at| *at > now).min()
    }

    pub(crate) fn get(&self, guest: GuestId) -> Option<&Known> {
        self.known.get(&guest)
    }
}

/// True while the guest's process lives.
pub(crate) fn alive(state: PowerState) -> bool {
    match state {
        PowerState::Running | PowerState::Paused | PowerState::ShuttingDown | PowerState::Suspended => true,
        PowerState::Unknown | PowerState::Off | PowerState::Crashed => false,
    }
}

impl Agent {
    pub(crate) fn hypervisor_up(&mut self, now: Now, domains: Vec<Seen>, host_booted: bool, actions: &mut Vec<Action>) {
        let first = !std::mem::replace(&mut self.looked, true);
        self.hypervisor = Hypervisor::Up;
        self.clear_alarm("hypervisor-away", None);
        // After a boot every guest is off; that is no wish of anybody's.
        self.all_domains(now, domains, first && !host_booted, actions);
        self.end_seen(self.lists, actions);
        self.beats.hurry(now.time);
    }

    pub(crate) fn hypervisor_down(&mut self, now: Now, why: String, actions: &mut Vec<Action>) {
        self.end_seen(self.lists, actions);
        if let Hypervisor::Down { .. } = self.hypervisor {
            return;
        }
        self.hypervisor = Hypervisor::Down { since: now.wall };
        let text = format!(
            "libvirt does not answer ({why}); guests go on, what is shown of them may be old; the agent keeps trying"
        );
        self.raise_alarm(now, "hypervisor-away", None, text);
        self.beats.hurry(now.time);
    }

    /// Whether what is shown of guests is fresh.
    pub(crate) fn freshness(&self) -> Freshness {
        match self.hypervisor {
            Hypervisor::Unseen => Freshness::Stale { since: Stamp(0) },
            Hypervisor::Up => Freshness::Live,
            Hypervisor::Down { since } => Freshness::Stale { since },
        }
    }

    pub(crate) fn listed(&mut self, now: Now, asked: u64, domains: Vec<Seen>, actions: &mut Vec<Action>) {
        self.all_domains(now, domains, false, actions);
        self.end_seen(asked, actions);
    }

    fn all_domains(&mut self, now: Now, domains: Vec<Seen>, first: bool, actions: &mut Vec<Action>) {
        let present: BTreeSet<GuestId> = domains.iter().map(|seen| seen.guest).collect();
        let absent: Vec<GuestId> = self.guests.known.keys().filter(|id| !present.contains(id)).copied().collect();
        for guest in absent {
            self.gone(guest);
        }
        for seen in domains {
            let guest = seen.guest;
            let left_off = first && !alive(seen.state) && seen.cause == Cause::ShutDown;
            self.changed(now, seen, actions);
            if left_off {
                self.accept_stop(guest, "it shut itself down while the agent was away", actions);
            }
        }
    }

    /// Takes in one domain; a guest that shuts itself down is meant to stay off.
    pub(crate) fn changed(&mut self, now: Now, seen: Seen, actions: &mut Vec<Action>) {
        let guest = seen.guest;
        let seen = bounded(seen);
        let was = self.guests.known.get(&guest).map(|known| known.seen.clone());
        if was.as_ref() == Some(&seen) {
            return;
        }
        let was_alive = was.as_ref().is_some_and(|was| alive(was.state));
        let same_state = was.as_ref().is_some_and(|was| was.state == seen.state);
        let stopped_itself = was_alive && !alive(seen.state) && leaves_for_good(seen.cause);
        let known = self.guests.known.entry(guest).or_insert_with(|| Known {
            seen: seen.clone(),
            since: now.wall,
            since_time: now.time,
            restarts: 0,
            retry_at: None,
        });
        known.seen = seen;
        if !same_state {
            known.since = now.wall;
            known.since_time = now.time;
        }
        if alive(known.seen.state) {
            known.retry_at = None;
        }
        self.mark_dirty(now, guest);
        self.came_alive(guest, actions);
        self.state_seen(now, guest, actions);
        if stopped_itself && !self.pending.has(guest) {
            self.accept_stop(guest, "it shut itself down", actions);
        }
    }

    fn accept_stop(&mut self, guest: GuestId, why: &str, actions: &mut Vec<Action>) {
        let runs = self.wishes.get(&guest).is_some_and(|desired| desired.power == Power::Running);
        if runs && !self.pending.has(guest) {
            self.wish(guest, Some(Power::Stopped), actions);
            actions.push(Action::Note { guest: Some(guest), at: None, text: format!("stays off: {why}") });
        }
    }

    pub(crate) fn gone(&mut self, guest: GuestId) {
        if self.guests.known.remove(&guest).is_some() {
            self.guests.dirty.insert(guest);
            self.beats.guests_changed();
        }
    }

    pub(crate) fn mark_dirty(&mut self, now: Now, guest: GuestId) {
        self.guests.dirty.insert(guest);
        self.beats.hurry(now.time);
    }

    /// The guest as the aggregator is told of it.
    pub(crate) fn report(&self, guest: GuestId) -> Option<GuestReport> {
        let known = self.guests.get(guest)?;
        Some(GuestReport {
            id: guest,
            name: known.seen.name.clone(),
            state: known.seen.state,
            reason: word(known.seen.cause).into(),
            persistent: known.seen.persistent,
            // What is another host's is not looked after here, although its wish lasts until a point keeps what is here.
            desired: self.wishes.get(&guest).copied().filter(|_| !self.rights.is_elsewhere(guest)),
            vcpus: known.seen.vcpus,
            memory_mib: known.seen.memory_mib,
            since: known.since,
            restarts: known.restarts,
            disks: known.seen.disks.clone(),
        })
    }

    /// All reports, in order of id, no more than a host may send.
    pub fn reports(&self) -> Vec<GuestReport> {
        self.guests.known.keys().take(GUESTS_PER_HOST).filter_map(|guest| self.report(*guest)).collect()
    }
}

/// Somebody inside or outside meant it to be off, and it was no accident.
fn leaves_for_good(cause: Cause) -> bool {
    match cause {
        Cause::ShutDown | Cause::Saved | Cause::Migrated => true,
        Cause::Unknown | Cause::Booted | Cause::Destroyed | Cause::Crashed | Cause::ByUser | Cause::DiskError => false,
    }
}

fn word(cause: Cause) -> &'static str {
    match cause {
        Cause::Unknown => "",
        Cause::Booted => "booted",
        Cause::ShutDown => "shut down",
        Cause::Destroyed => "destroyed",
        Cause::Crashed => "crashed",
        Cause::Saved => "saved",
        Cause::Migrated => "migrated",
        Cause::ByUser => "by user",
        Cause::DiskError => "disk error",
    }
}

/// What a guest or its definition says is cut before it is kept.
fn bounded(mut seen: Seen) -> Seen {
    const DISKS: usize = 32;
    cut(&mut seen.name);
    seen.disks.truncate(DISKS);
    for disk in &mut seen.disks {
        cut(&mut disk.target);
        cut(&mut disk.path);
        cut(&mut disk.format);
    }
    seen
}

fn cut(text: &mut String) {
    if let Some((end, _)) = text.char_indices().nth(TEXT) {
        text.truncate(end);
    }
}
