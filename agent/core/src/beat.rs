//! Heartbeats: what changed since the one before, at a steady pace, sooner when a guest changed.

use std::collections::BTreeMap;

use roost_protocol::guest::{GuestSample, digest};
use roost_protocol::host::HostSample;
use roost_protocol::message::{BEAT_EVERY, Beat, Snapshot, ToAggregator};
use roost_protocol::{GuestId, Millis, Time};

use crate::agent::{Agent, Now};
use crate::event::Action;

/// Changes within this time travel in one beat.
const GATHER: Millis = Millis(100);

/// What is to be told, and when.
#[derive(Debug, Default)]
pub(crate) struct Beats {
    link: Option<Link>,
    sequence: u64,
    host: HostSample,
    host_changed: bool,
    samples: BTreeMap<GuestId, Sample>,
}

#[derive(Debug)]
struct Sample {
    sample: GuestSample,
    changed: bool,
}

#[derive(Debug)]
struct Link {
    next: Time,
    snapshot: bool,
    alarms: bool,
    document: bool,
    facts: bool,
}

impl Beats {
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.link.as_ref().map(|link| link.next)
    }

    pub(crate) fn link_up(&mut self, now: Time) {
        self.link = Some(Link { next: now, snapshot: true, alarms: false, document: false, facts: true });
    }

    pub(crate) fn link_down(&mut self) {
        self.link = None;
    }

    pub(crate) fn want_snapshot(&mut self, now: Time) {
        if let Some(link) = &mut self.link {
            link.snapshot = true;
            link.next = now;
        }
    }

    pub(crate) fn alarms_changed(&mut self) {
        if let Some(link) = &mut self.link {
            link.alarms = true;
        }
    }

    /// Another grid document is kept.
    pub(crate) fn document_changed(&mut self) {
        if let Some(link) = &mut self.link {
            link.document = true;
        }
    }

    /// The host's facts are others than those told before.
    pub(crate) fn facts_changed(&mut self) {
        if let Some(link) = &mut self.link {
            link.facts = true;
        }
    }

    /// A guest is gone; it travels with the next beat.
    pub(crate) fn guests_changed(&mut self) {
        if let Some(link) = &mut self.link {
            link.next = link.next.min(Time(link.next.0.saturating_sub(BEAT_EVERY.0)) + GATHER);
        }
    }

    /// What changed is told now.
    pub(crate) fn at_once(&mut self, now: Time) {
        if let Some(link) = &mut self.link {
            link.next = link.next.min(now);
        }
    }

    /// Something changed that people wait for.
    pub(crate) fn hurry(&mut self, now: Time) {
        if let Some(link) = &mut self.link {
            link.next = link.next.min(now + GATHER);
        }
    }

    pub(crate) fn sampled(&mut self, host: HostSample, guests: Vec<GuestSample>) {
        self.host = host;
        self.host_changed = true;
        for sample in guests {
            match self.samples.get_mut(&sample.id) {
                Some(kept) if kept.sample == sample => {}
                Some(kept) => *kept = Sample { sample, changed: true },
                None => {
                    self.samples.insert(sample.id, Sample { sample, changed: true });
                }
            }
        }
    }
}

impl Agent {
    /// Sends what is due.
    pub(crate) fn beat(&mut self, now: Now, actions: &mut Vec<Action>) {
        let Some(link) = &mut self.beats.link else { return };
        if now.time < link.next {
            return;
        }
        link.next = now.time + BEAT_EVERY;
        // Before all domains were seen once a snapshot would say that every guest is gone.
        let snapshot = self.looked && std::mem::take(&mut link.snapshot);
        let alarms = std::mem::take(&mut link.alarms);
        let document = !snapshot && std::mem::take(&mut link.document);
        let facts = !snapshot && std::mem::take(&mut link.facts);
        let facts = facts.then(|| Box::new(self.config.facts.clone()));
        self.beats.sequence += 1;
        let known = &self.guests.known;
        self.beats.samples.retain(|guest, _| known.contains_key(guest));
        let guard = self.guard_news(snapshot);
        let message = match snapshot {
            true => ToAggregator::Snapshot(Snapshot { guard, ..self.snapshot(now.time) }),
            false => ToAggregator::Beat(Beat { guard, facts, ..self.changes(now.time, alarms, document) }),
        };
        self.guests.dirty.clear();
        self.backup_told(now.time);
        self.beats.host_changed = false;
        for sample in self.beats.samples.values_mut() {
            sample.changed = false;
        }
        actions.push(Action::Send(message));
    }

    fn snapshot(&self, now: Time) -> Snapshot {
        Snapshot {
            sequence: self.beats.sequence,
            guests: self.reports(),
            alarms: self.alarms.values().cloned().collect(),
            freshness: self.freshness(),
            sample: self.beats.host.clone(),
            samples: self.beats.samples.values().map(|kept| kept.sample.clone()).collect(),
            backup: self.whole_backup_beat(now).map(Box::new),
            guard: None,
        }
    }

    fn changes(&self, now: Time, alarms: bool, document: bool) -> Beat {
        let reports = self.reports();
        let gone = self.guests.dirty.iter().filter(|guest| !self.guests.known.contains_key(guest)).copied().collect();
        let digest = digest(reports.iter());
        let changed = self.beats.samples.values().filter(|kept| kept.changed);
        Beat {
            sequence: self.beats.sequence,
            guests: reports.into_iter().filter(|report| self.guests.dirty.contains(&report.id)).collect(),
            gone,
            alarms: alarms.then(|| self.alarms.values().cloned().collect()),
            freshness: self.freshness(),
            sample: self.beats.host_changed.then(|| self.beats.host.clone()),
            samples: changed.map(|kept| kept.sample.clone()).collect(),
            digest,
            document: document.then_some(self.document),
            backup: self.backup_beat(now).map(Box::new),
            guard: None,
            facts: None,
        }
    }
}

#[cfg(test)]
mod test {
    use roost_protocol::host::HostFacts;
    use roost_protocol::message::{VERSION, Welcome};
    use roost_protocol::{Epoch, Generation, GridId, HostId, Stamp};

    use super::*;
    use crate::event::Event;
    use crate::ledger::Kept;
    use crate::sample::config;

    #[test]
    fn what_a_host_is_travels_when_it_changes_and_not_again() {
        let mut agent = Agent::new(config(HostId::from_u128(1), false), Kept::default());
        let mut now = 0;
        let mut told = |agent: &mut Agent, event: Event| {
            now += BEAT_EVERY.0;
            let beat = |action| if let Action::Send(ToAggregator::Beat(beat)) = action { beat.facts } else { None };
            agent.on(Time(now), Stamp(now), event).into_iter().find_map(beat)
        };
        let welcome =
            Welcome { version: VERSION, grid: GridId::from_bytes([0; 16]), epoch: Epoch(1), document: Generation(0) };
        told(&mut agent, Event::HypervisorUp { domains: Vec::new(), host_booted: false });
        told(&mut agent, Event::LinkUp { welcome });
        let facts = HostFacts { boot_id: "b".into(), ..HostFacts::default() };
        let first = told(&mut agent, Event::Tick).map(|facts| facts.boot_id);
        assert!(first.is_some(), "they may have changed since the first message was made");
        assert_eq!(told(&mut agent, Event::Tick), None);
        assert_eq!(told(&mut agent, Event::Facts(facts.clone())), Some(Box::new(facts.clone())));
        assert_eq!(told(&mut agent, Event::Tick), None);
        assert_eq!(told(&mut agent, Event::Facts(facts)), None, "nothing new");
    }
}
