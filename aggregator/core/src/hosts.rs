//! Hosts: who is taken in, what they report, and when they fall silent.

use std::collections::{BTreeMap, BTreeSet};

use roost_protocol::failover::GuardReport;
use roost_protocol::guest::{GuestReport, GuestSample, digest};
use roost_protocol::host::{Freshness, HostFacts, HostSample};
use roost_protocol::message::{
    Beat, GUESTS_PER_HOST, Hello, OLDEST, Refusal, Refused, Snapshot, TEXT, ToAgent, ToAggregator, VERSION, Welcome,
};
use roost_protocol::probe::PROBES;
use roost_protocol::{Generation, GuestId, HostId, Millis};

use crate::backup::Backups;
use crate::councils;
use crate::event::{Action, LinkId};
use crate::grid::{Grid, Guest, Host, Now, Presence, Speaker};
use crate::history::Line;
use crate::intent::{HostRecord, Intent, IntentChange};
use crate::peers::Told;

/// An agent that was refused for good still asks now and then, in case an admin changes his mind.
const RETRY_REFUSED: Millis = Millis::seconds(600);

/// What the edge knows of a new link.
#[derive(Debug)]
pub(crate) struct Greeting {
    pub(crate) link: LinkId,
    pub(crate) key: [u8; 32],
    pub(crate) certified: bool,
    pub(crate) remote: String,
}

impl Host {
    fn unheard(id: HostId, name: String) -> Self {
        Self {
            id,
            name,
            presence: Presence::Never,
            facts: None,
            freshness: Freshness::default(),
            sample: HostSample::default(),
            guests: BTreeMap::new(),
            alarms: Vec::new(),
            alarms_known: false,
            digest: 0,
            clock_ahead_ms: 0,
            document: Generation(0),
            backups: Backups::default(),
            guard: None,
            notes: Vec::new(),
            failovers_told: BTreeSet::new(),
            failovers_counted: None,
            version: OLDEST,
            drained: BTreeMap::new(),
            remote: String::new(),
            told: Told::default(),
            shared: BTreeSet::new(),
        }
    }

    /// The link to it, if there is one.
    pub fn link(&self) -> Option<LinkId> {
        match self.presence {
            Presence::Up { link, .. } => Some(link),
            Presence::Suspect { link, .. } => link,
            Presence::Never | Presence::Down { .. } => None,
        }
    }

    /// True while what is shown of it is what it says now.
    pub fn fresh(&self) -> bool {
        matches!(self.presence, Presence::Up { .. }) && self.freshness == Freshness::Live
    }
}

impl Grid {
    /// Hosts of the intent are listed before they are heard; hosts that are not in it any more are not.
    pub(crate) fn list_known_hosts(&mut self) {
        for (id, record) in self.intent.hosts.iter().filter(|(_, record)| record.removed.is_none()) {
            let host = self.hosts.entry(*id).or_insert_with(|| Host::unheard(*id, record.name.clone()));
            host.name.clone_from(&record.name);
        }
    }

    pub(crate) fn hello(&mut self, now: Now, greeting: Greeting, hello: Hello, actions: &mut Vec<Action>) {
        let link = greeting.link;
        if let Err(refused) = self.admit(&greeting, &hello) {
            let text = format!("host {} ({}) was refused: {}", hello.facts.name, greeting.remote, refused.text);
            self.publish(now, Line::warning("host.refused", text).host(hello.host), actions);
            return actions.push(Action::Refuse { link, refused });
        }
        if hello.epoch >= self.config.epoch && hello.epoch > roost_protocol::Epoch(0) && self.newer_than_us(&hello) {
            self.config.epoch = hello.epoch.next();
        }
        self.replace_link(hello.host, link, actions);
        self.links.insert(link, Speaker { host: hello.host, key: greeting.key });
        let welcome = Welcome {
            version: hello.newest.min(VERSION),
            grid: self.config.grid,
            epoch: self.config.epoch,
            document: self.intent.generation,
        };
        actions.push(Action::Send { link, message: ToAgent::Welcome(welcome) });
        self.host_up(now, greeting, hello, actions);
        self.resend_commands(now, link, actions);
    }

    /// An epoch above ours was given out by an aggregator whose database we don't have.
    fn newer_than_us(&self, hello: &Hello) -> bool {
        hello.epoch > self.config.epoch
    }

    fn admit(&self, greeting: &Greeting, hello: &Hello) -> Result<(), Refused> {
        let refuse = |reason, text: &str| Err(Refused { reason, text: text.into(), retry_after_ms: RETRY_REFUSED });
        if hello.newest < OLDEST || hello.oldest > VERSION {
            return refuse(Refusal::Version, "no message version in common: upgrade the older side");
        }
        if !greeting.certified {
            return refuse(
                Refusal::UnknownKey,
                "its certificate is not one of this grid's for this host: join it again",
            );
        }
        match self.intent.hosts.get(&hello.host) {
            Some(record) if record.removed.is_some() => {
                refuse(Refusal::Removed, "it was removed from the grid: join it again with a new token")
            }
            Some(record) if record.key != greeting.key => {
                refuse(Refusal::UnknownKey, "its key is not the one it joined with: join it again")
            }
            Some(_) => Ok(()),
            None if self.config.recovering => Ok(()),
            // Our intent went back in time, maybe to before it joined; what it keeps will tell whether it belongs here.
            None if hello.document > self.intent.generation => Ok(()),
            None => refuse(Refusal::UnknownKey, "this grid does not know it: join it with a token"),
        }
    }

    fn replace_link(&mut self, host: HostId, link: LinkId, actions: &mut Vec<Action>) {
        let Some(old) = self.hosts.get(&host).and_then(Host::link).filter(|old| *old != link) else { return };
        self.links.remove(&old);
        let text = "a newer connection of the same host took over".into();
        let refused = Refused { reason: Refusal::Replaced, text, retry_after_ms: Millis::seconds(30) };
        actions.push(Action::Refuse { link: old, refused });
    }

    fn host_up(&mut self, now: Now, greeting: Greeting, hello: Hello, actions: &mut Vec<Action>) {
        let id = hello.host;
        let name = self.intent.hosts.get(&id).map_or_else(|| hello.facts.name.clone(), |record| record.name.clone());
        let host = self.hosts.entry(id).or_insert_with(|| Host::unheard(id, name));
        let ahead = i128::from(hello.clock.0) - i128::from(now.wall.0);
        host.clock_ahead_ms = i64::try_from(ahead).unwrap_or(i64::MAX);
        host.document = hello.document;
        host.version = hello.newest.min(VERSION);
        host.remote = greeting.remote;
        host.facts = Some(hello.facts);
        host.told = Told::default();
        host.alarms_known = false;
        let was_up = matches!(host.presence, Presence::Up { .. });
        host.presence = Presence::Up { link: greeting.link, heard: now.time, since: now.wall };
        if !was_up {
            let text = format!("host {} is up", host.name);
            self.publish(now, Line::info("host.up", text).host(id), actions);
        }
        self.peers_changed(now, id);
    }

    pub(crate) fn received(&mut self, now: Now, link: LinkId, message: ToAggregator, actions: &mut Vec<Action>) {
        let Some(Speaker { host, .. }) = self.links.get(&link).copied() else { return };
        self.heard(now, host, link, actions);
        match message {
            ToAggregator::Snapshot(snapshot) => self.snapshot(now, link, host, snapshot, actions),
            ToAggregator::Beat(beat) => self.beat(now, link, host, beat, actions),
            ToAggregator::Outcome(outcome) => self.outcome(now, link, host, outcome, actions),
            ToAggregator::Points(page) => self.points_told(host, page, actions),
            ToAggregator::Progress(progress) => self.progress(now, host, progress),
            // The edge answers these itself.
            ToAggregator::Hello(_) | ToAggregator::Renew { .. } | ToAggregator::Document { .. } => {}
        }
    }

    fn heard(&mut self, now: Now, id: HostId, link: LinkId, actions: &mut Vec<Action>) {
        let Some(host) = self.hosts.get_mut(&id) else { return };
        match &mut host.presence {
            Presence::Up { heard, .. } => *heard = now.time,
            Presence::Never | Presence::Suspect { .. } | Presence::Down { .. } => {
                host.presence = Presence::Up { link, heard: now.time, since: now.wall };
                let text = format!("host {} is heard again", host.name);
                self.publish(now, Line::info("host.up", text).host(id), actions);
            }
        }
    }

    fn snapshot(&mut self, now: Now, link: LinkId, id: HostId, snapshot: Snapshot, actions: &mut Vec<Action>) {
        if snapshot.guests.len() > GUESTS_PER_HOST {
            return self.misbehaved(now, link, id, "it reports more guests than a host may have", actions);
        }
        let Some(host) = self.hosts.get_mut(&id) else { return };
        host.alarms = snapshot.alarms;
        host.alarms_known = true;
        host.freshness = snapshot.freshness;
        host.sample = snapshot.sample;
        let present: Vec<GuestId> = snapshot.guests.iter().map(|report| report.id).collect();
        let gone: Vec<GuestId> = host.guests.keys().filter(|guest| !present.contains(guest)).copied().collect();
        self.guests_changed(now, id, snapshot.guests, gone, actions);
        self.guest_samples(id, snapshot.samples);
        if let Some(told) = snapshot.backup {
            if let Some(host) = self.hosts.get_mut(&id) {
                host.backups = Backups::default();
            }
            self.backups_told(now, link, id, *told, actions);
        }
        if let Some(guard) = snapshot.guard {
            self.guard_told(now, id, *guard, true, actions);
        }
        let message = ToAgent::BeatSeen { sequence: snapshot.sequence, want_snapshot: false };
        actions.push(Action::Send { link, message });
    }

    fn beat(&mut self, now: Now, link: LinkId, id: HostId, beat: Beat, actions: &mut Vec<Action>) {
        let Some(host) = self.hosts.get_mut(&id) else { return };
        if !beat.guests.is_empty() && guests_after(host, &beat) > GUESTS_PER_HOST {
            return self.misbehaved(now, link, id, "it reports more guests than a host may have", actions);
        }
        host.freshness = beat.freshness;
        if let Some(document) = beat.document {
            host.document = document;
        }
        if let Some(alarms) = beat.alarms {
            host.alarms = alarms;
        }
        if let Some(sample) = beat.sample {
            host.sample = sample;
        }
        if !beat.guests.is_empty() || !beat.gone.is_empty() {
            self.guests_changed(now, id, beat.guests, beat.gone, actions);
        }
        self.guest_samples(id, beat.samples);
        if let Some(told) = beat.backup {
            self.backups_told(now, link, id, *told, actions);
        }
        if let Some(guard) = beat.guard {
            self.guard_told(now, id, *guard, false, actions);
        }
        if let Some(facts) = beat.facts {
            self.facts_told(now, id, *facts);
        }
        let same = self.hosts.get(&id).is_some_and(|host| host.digest == beat.digest);
        let message = ToAgent::BeatSeen { sequence: beat.sequence, want_snapshot: !same };
        actions.push(Action::Send { link, message });
    }

    /// What others are told of its addresses may be new.
    fn facts_told(&mut self, now: Now, id: HostId, facts: HostFacts) {
        let Some(host) = self.hosts.get_mut(&id).filter(|host| host.facts.as_ref() != Some(&facts)) else { return };
        let place = |facts: &HostFacts| (facts.addresses.clone(), facts.peer_listen.clone());
        let elsewhere = host.facts.as_ref().map(place) != Some(place(&facts));
        host.facts = Some(facts);
        if elsewhere {
            self.peers_changed(now, id);
        }
    }

    /// Whoever votes with its guard is told soon of where it is.
    fn guard_told(&mut self, now: Now, id: HostId, report: GuardReport, all: bool, actions: &mut Vec<Action>) {
        let mut report = councils::bounded(report);
        let notes = std::mem::take(&mut report.notes);
        self.watchdog_told(now, id, &report, actions);
        self.guard_changed(now, id, report);
        self.noted(now, id, notes, all, actions);
    }

    fn guard_changed(&mut self, now: Now, id: HostId, report: GuardReport) {
        let Some(host) = self.hosts.get_mut(&id).filter(|host| host.guard.as_ref() != Some(&report)) else { return };
        let seat = |report: &GuardReport| (report.key, report.incarnation, report.listen.clone(), report.may_own);
        let elsewhere = host.guard.as_ref().map(seat) != Some(seat(&report));
        host.guard = Some(report);
        if elsewhere {
            self.peers_changed(now, id);
        }
        self.look_at_peers(id, now.time);
    }

    fn guests_changed(
        &mut self,
        now: Now,
        id: HostId,
        reports: Vec<GuestReport>,
        gone: Vec<GuestId>,
        actions: &mut Vec<Action>,
    ) {
        for guest in gone {
            let Some(was) = self.hosts.get_mut(&id).and_then(|host| host.guests.remove(&guest)) else { continue };
            self.places.gone(id, guest, &was.report.name);
            let text = format!("guest {} is gone", was.report.name);
            self.publish(now, Line::info("guest.gone", text).host(id).guest(guest), actions);
        }
        for report in reports {
            self.guest_changed(now, id, report, actions);
        }
        if let Some(host) = self.hosts.get_mut(&id) {
            host.digest = digest(host.guests.values().map(|guest| &guest.report));
        }
    }

    fn guest_changed(&mut self, now: Now, id: HostId, report: GuestReport, actions: &mut Vec<Action>) {
        let guest = report.id;
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let before = host.guests.get(&guest).map(|was| &was.report);
        let place = self.places.told(id, guest, before.map(|was| was.name.as_str()), &report.name);
        let was = before.map(|was| was.state);
        let (state, name, reason) = (report.state, report.name.clone(), report.reason.clone());
        match host.guests.get_mut(&guest) {
            Some(kept) => kept.report = report,
            None => {
                host.guests.insert(guest, Guest { report, sample: None });
            }
        }
        if place != id && was.is_none() {
            let text = format!("guest {name} ({guest}) is reported by two hosts; commands go to the first");
            self.publish(now, Line::warning("guest.conflict", text).host(id).guest(guest), actions);
        }
        if was != Some(state) {
            let why = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
            let text = format!("guest {name} is {}{why}", crate::commands::describe(state));
            self.publish(now, Line::info("guest.state", text).host(id).guest(guest), actions);
        }
        self.follow_guest(now, guest, (place != id).then_some(id), actions);
    }

    fn guest_samples(&mut self, id: HostId, samples: Vec<GuestSample>) {
        let Some(host) = self.hosts.get_mut(&id) else { return };
        for mut sample in samples {
            // A host may say what it likes.
            sample.access.retain(|access| access.probe.len() <= TEXT);
            sample.access.truncate(PROBES);
            if let Some(guest) = host.guests.get_mut(&sample.id) {
                guest.sample = Some(sample);
            }
        }
    }

    pub(crate) fn misbehaved(&mut self, now: Now, link: LinkId, id: HostId, why: &str, actions: &mut Vec<Action>) {
        let refused = Refused { reason: Refusal::Misbehaved, text: why.into(), retry_after_ms: Millis::seconds(60) };
        actions.push(Action::Refuse { link, refused });
        self.publish(now, Line::error("host.misbehaved", format!("host {id} was cut off: {why}")).host(id), actions);
        self.closed(now, link, why, actions);
    }

    pub(crate) fn closed(&mut self, now: Now, link: LinkId, why: &str, actions: &mut Vec<Action>) {
        let Some(Speaker { host: id, .. }) = self.links.remove(&link) else { return };
        let Some(host) = self.hosts.get_mut(&id).filter(|host| host.link() == Some(link)) else { return };
        let heard = match host.presence {
            Presence::Up { heard, .. } | Presence::Suspect { heard, .. } | Presence::Down { heard, .. } => heard,
            Presence::Never => now.time,
        };
        host.presence = Presence::Suspect { link: None, heard, since: now.wall };
        let text = format!("the link to host {} closed ({why})", host.name);
        self.publish(now, Line::info("host.suspect", text).host(id), actions);
    }

    /// We were stopped for so long: every host has as much time left as it had before.
    pub(crate) fn forgive_silence(&mut self, now: Now, late: Millis) {
        for host in self.hosts.values_mut() {
            match &mut host.presence {
                Presence::Up { heard, .. } | Presence::Suspect { heard, .. } => *heard = (*heard + late).min(now.time),
                Presence::Never | Presence::Down { .. } => {}
            }
        }
    }

    /// Hosts that were silent too long.
    pub(crate) fn watch_silence(&mut self, now: Now, actions: &mut Vec<Action>) {
        let (suspect, down) = (self.config.suspect_after, self.config.down_after);
        let (mut lines, mut silent) = (Vec::new(), Vec::new());
        for (id, host) in &mut self.hosts {
            let next = match host.presence {
                Presence::Up { link, heard, .. } if now.time.since(heard) >= suspect => {
                    Presence::Suspect { link: Some(link), heard, since: now.wall }
                }
                Presence::Suspect { heard, .. } if now.time.since(heard) >= down => {
                    Presence::Down { heard, since: now.wall }
                }
                Presence::Never | Presence::Up { .. } | Presence::Suspect { .. } | Presence::Down { .. } => continue,
            };
            let down = matches!(next, Presence::Down { .. });
            host.presence = next;
            silent.push(*id);
            let text = format!("host {} is {}", host.name, if down { "down: not heard for long" } else { "silent" });
            lines.push(if down {
                Line::error("host.down", text).host(*id)
            } else {
                Line::warning("host.suspect", text).host(*id)
            });
        }
        for line in lines {
            self.publish(now, line, actions);
        }
        for id in silent {
            self.follow_guests_of(now, id, actions);
        }
    }

    /// A genuine grid document that may be newer than what we have.
    pub(crate) fn document_offered(&mut self, now: Now, intent: Intent, actions: &mut Vec<Action>) {
        if intent.generation <= self.intent.generation {
            return;
        }
        let text = format!(
            "the grid document of generation {} came back from a host; ours was {}",
            intent.generation, self.intent.generation
        );
        self.intent = intent;
        self.config.recovering = false;
        self.resave = true;
        self.save_intent(Vec::new(), Vec::new(), actions);
        self.drop_strangers(now, actions);
        self.list_known_hosts();
        self.publish(now, Line::warning("grid.recovered", text), actions);
    }

    /// Closes links of hosts that the intent does not have, or not any more.
    fn drop_strangers(&mut self, now: Now, actions: &mut Vec<Action>) {
        let strangers: Vec<(LinkId, HostId)> = self
            .links
            .iter()
            .filter(|(_, speaker)| {
                !self.intent.hosts.get(&speaker.host).is_some_and(|record| trusted(record, &speaker.key))
            })
            .map(|(link, speaker)| (*link, speaker.host))
            .collect();
        for (link, host) in strangers {
            self.cut_off(now, link, host, "the grid document does not have it, or not any more", actions);
        }
        let intent = &self.intent;
        self.hosts.retain(|id, _| intent.hosts.get(id).is_some_and(|record| record.removed.is_none()));
        let hosts = &self.hosts;
        self.places.keep(|host| hosts.contains_key(host));
        for host in self.hosts.values_mut() {
            host.told.look(now.time);
        }
    }

    pub(crate) fn cut_off(&mut self, now: Now, link: LinkId, host: HostId, why: &str, actions: &mut Vec<Action>) {
        self.links.remove(&link);
        let refused = Refused { reason: Refusal::Removed, text: why.into(), retry_after_ms: RETRY_REFUSED };
        actions.push(Action::Refuse { link, refused });
        self.publish(now, Line::warning("host.refused", format!("host {host} was cut off: {why}")).host(host), actions);
    }

    /// Asks for the changes to be durable, and for the document to be spread when the intent is among them.
    pub(crate) fn save_intent(
        &mut self,
        changes: Vec<IntentChange>,
        operations: Vec<crate::operation::Operation>,
        actions: &mut Vec<Action>,
    ) {
        let intent = if std::mem::take(&mut self.resave) {
            vec![IntentChange::Replace(Box::new(self.intent.clone()))]
        } else {
            changes
        };
        let spread = !intent.is_empty();
        actions.push(Action::Persist { intent, generation: self.intent.generation, operations });
        if spread {
            actions.push(Action::SpreadDocument);
        }
    }
}

/// Guests that the host would have after this beat.
fn guests_after(host: &Host, beat: &Beat) -> usize {
    let mut guests: BTreeSet<GuestId> = host.guests.keys().copied().collect();
    for gone in &beat.gone {
        guests.remove(gone);
    }
    guests.extend(beat.guests.iter().map(|report| report.id));
    guests.len()
}

fn trusted(record: &HostRecord, key: &[u8; 32]) -> bool {
    record.removed.is_none() && record.key == *key
}
