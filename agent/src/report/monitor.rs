//! What monitoring is told: gathers what the driver sees, keeps history, judges alarms, and sends notifications of what
//! changed. Nothing here waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use roost_agent_core::alarm::{Alarms, Picture};
use roost_agent_core::probe::Wanted;
use roost_agent_core::{Agent, Event};
use roost_protocol::backup::BackupBeat;
use roost_protocol::guest::{GuestReport, GuestSample, PowerState};
use roost_protocol::host::{Alarm, HostFacts, HostSample, Maintenance};
use roost_protocol::message::{BEAT_EVERY, ToAgent};
use roost_protocol::probe::GuestProbes;
use roost_protocol::{GuestId, HostId, Millis, Stamp, Time};
use roost_snmp::mib::Link;
use roost_snmp::mib::number::{Kept, Numbering};
use tokio::sync::watch;

use super::notes::Notes;
use super::snmp::{self, Snmp};
use crate::detail::{Demand, Details};
use crate::history::{self, Bucket, History, Request, Series};

/// Between two snapshots for those who ask.
const SHOW_EVERY: Millis = Millis::seconds(2);
/// Width of the finest history.
const HISTORY_EVERY_S: u64 = 10;

/// A snapshot of what is known.
#[derive(Debug, Default)]
pub(crate) struct Shot {
    pub(crate) host: Option<HostId>,
    pub(crate) facts: HostFacts,
    pub(crate) link: Link,
    /// As the aggregator said last.
    pub(crate) maintenance: Option<Maintenance>,
    pub(crate) heartbeats_missed: u64,
    /// Since when libvirt answers.
    pub(crate) hypervisor_since: Option<Time>,
    pub(crate) guests_changed: Time,
    pub(crate) sample: HostSample,
    pub(crate) guests: Vec<Shown>,
    pub(crate) alarms: Vec<Alarm>,
    /// Absent where the host has no store, and where nobody asks for metrics.
    pub(crate) backups: Option<BackupBeat>,
}

/// One guest in it.
#[derive(Debug)]
pub(crate) struct Shown {
    /// vmIndex; guests beyond the last number have none.
    pub(crate) number: Option<u32>,
    pub(crate) report: GuestReport,
    /// Absent while it doesn't run.
    pub(crate) sample: Option<GuestSample>,
}

/// What a monitor is given.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) details: Details,
    pub(crate) demand: Demand,
    /// Absent when its file can't be used.
    pub(crate) history: Option<History>,
    pub(crate) numbers: Vec<Kept>,
    pub(crate) snmp: Option<Snmp>,
    pub(crate) shots: watch::Sender<Arc<Shot>>,
    /// Which doors of which guests are to be tried.
    pub(crate) probes: watch::Sender<Arc<Wanted>>,
    /// Raised alarms as lines, where the host has a page that shows them.
    pub(crate) page: Option<watch::Sender<Vec<String>>>,
    /// Whether there is an aggregator to be connected to.
    pub(crate) has_aggregator: bool,
}

/// See the file's head.
#[derive(Debug)]
pub(crate) struct Monitor {
    parts: Parts,
    numbering: Numbering,
    alarms: Alarms,
    notes: Notes,
    sample: HostSample,
    samples: BTreeMap<GuestId, GuestSample>,
    gathered: BTreeMap<Series, Bucket>,
    slot: u64,
    link: Link,
    link_changed: Time,
    missed: u64,
    hypervisor_since: Option<Time>,
    there: BTreeSet<GuestId>,
    guests_changed: Time,
    shown_at: Option<Time>,
    asked: u64,
}

impl Monitor {
    pub(crate) fn new(mut parts: Parts) -> Self {
        let numbering = Numbering::new(std::mem::take(&mut parts.numbers));
        let link = if parts.has_aggregator { Link::Down { heard: None } } else { Link::NotConfigured };
        Self {
            parts,
            numbering,
            alarms: Alarms::default(),
            notes: Notes::default(),
            sample: HostSample::default(),
            samples: BTreeMap::new(),
            gathered: BTreeMap::new(),
            slot: 0,
            link,
            link_changed: Time(0),
            missed: 0,
            hypervisor_since: None,
            there: BTreeSet::new(),
            guests_changed: Time(0),
            shown_at: None,
            asked: 0,
        }
    }

    /// For whoever asks what was.
    pub(crate) fn history(&self) -> Option<History> {
        self.parts.history.clone()
    }

    /// Takes a look at an event before the core gets it; true when [`Monitor::second`] is due after it.
    pub(crate) fn saw(&mut self, now: Time, event: &Event) -> bool {
        if let Event::Sampled { host, guests } = event {
            self.sample = host.clone();
            self.samples.extend(guests.iter().map(|sample| (sample.id, sample.clone())));
            return true;
        }
        if let Event::HypervisorUp { .. } = event {
            self.hypervisor_since = Some(now);
        } else if let Event::HypervisorDown { .. } = event {
            self.hypervisor_since = None;
        } else if let Event::LinkUp { .. } = event {
            (self.link, self.link_changed) = (Link::Up { heard: now }, now);
        } else if let (Event::LinkDown, Link::Up { heard }) = (event, self.link) {
            (self.link, self.link_changed) = (Link::Down { heard: Some(heard) }, now);
        } else if let (Event::Received(ToAgent::BeatSeen { .. }), Link::Up { heard }) = (event, self.link) {
            self.missed += (now.since(heard).0 / BEAT_EVERY.0.max(1)).saturating_sub(2);
            self.link = Link::Up { heard: now };
        }
        false
    }

    /// Once a second, after the core took the samples in. Gives conditions for the core.
    pub(crate) fn second(&mut self, now: Time, wall: Stamp, agent: &Agent) -> Vec<Event> {
        let reports = agent.reports();
        let fresh = agent.is_fresh();
        if fresh {
            self.number(now, wall, &reports);
        }
        let of = |guest: &GuestId| reports.binary_search_by_key(guest, |report| report.id).ok();
        self.samples.retain(|guest, _| of(guest).is_some_and(|at| runs(&reports[at])));
        self.remember(wall);
        let (host, facts) = agent.host();
        let judged = self.judge(now, wall, facts, &reports, fresh);
        self.notify(now, facts, agent, &reports, fresh);
        if self.shown_at.is_none_or(|at| now.since(at) >= SHOW_EVERY) {
            self.shown_at = Some(now);
            self.want_probes(agent.probes(), &reports);
            self.show(now, host, facts, agent, reports);
        }
        judged
    }

    /// Guests that don't run have no doors.
    fn want_probes(&self, probes: &[GuestProbes], reports: &[GuestReport]) {
        let running =
            |guest: GuestId| reports.iter().any(|report| report.id == guest && report.state == PowerState::Running);
        let of = |texts: &[String]| texts.iter().filter_map(|text| text.parse().ok()).collect();
        let wanted = probes.iter().filter(|it| running(it.guest)).map(|it| (it.guest, of(&it.probes)));
        let wanted: Wanted = wanted.collect();
        self.parts.probes.send_if_modified(|before| {
            let changed = **before != wanted;
            if changed {
                *before = Arc::new(wanted);
            }
            changed
        });
    }

    fn number(&mut self, now: Time, wall: Stamp, reports: &[GuestReport]) {
        let there: BTreeSet<GuestId> = reports.iter().map(|report| report.id).collect();
        if there == self.there && self.shown_at.is_some() {
            return;
        }
        let changes = self.numbering.present(&there, wall);
        (self.there, self.guests_changed) = (there, now);
        if let Some(history) = &self.parts.history
            && !changes.is_empty()
            && !history.ask(Request::KeepNumbers(changes))
        {
            tracing::warn!("history is behind; numbers of guests for SNMP may change with the next restart");
        }
    }

    /// Adds the second to the ten seconds it belongs to, and hands those over when they are past.
    fn remember(&mut self, wall: Stamp) {
        let slot = wall.0 / 1_000 / HISTORY_EVERY_S;
        if slot != self.slot {
            let past = std::mem::replace(&mut self.slot, slot);
            let buckets: Vec<_> = std::mem::take(&mut self.gathered).into_iter().collect();
            if let Some(history) = &self.parts.history
                && !buckets.is_empty()
                && !history.ask(Request::Tick { at_s: past * HISTORY_EVERY_S, buckets })
            {
                tracing::warn!("history is behind; ten seconds of it are lost");
            }
        }
        self.gathered.entry(Series::HOST).or_default().add(&history::of_host(&self.sample));
        for (guest, sample) in &self.samples {
            self.gathered.entry(Series::from(*guest)).or_default().add(&history::of_guest(sample));
        }
    }

    fn judge(&mut self, now: Time, wall: Stamp, facts: &HostFacts, reports: &[GuestReport], fresh: bool) -> Vec<Event> {
        let aggregator_away = match self.link {
            Link::Down { .. } => Some(self.link_changed),
            Link::Up { .. } | Link::NotConfigured => None,
        };
        let (host, samples, memory) = (&self.sample, &self.samples, facts.memory_mib);
        let picture = Picture { host, memory, guests: reports, samples, aggregator_away, fresh };
        let turns = self.alarms.look(now, wall, &picture);
        turns.into_iter().map(|(alarm, raised)| Event::Condition { alarm, raised }).collect()
    }

    fn notify(&mut self, now: Time, facts: &HostFacts, agent: &Agent, reports: &[GuestReport], fresh: bool) {
        let number = |guest: GuestId| self.numbering.get(guest);
        let mut notes = self.notes.alarms(now, &facts.name, agent.raised(), reports, number);
        notes.extend(if fresh { self.notes.guests(now, reports, number) } else { self.notes.due(now) });
        let Some(snmp) = &self.parts.snmp else { return };
        for binds in notes {
            if snmp.notes.try_send(binds).is_err() {
                tracing::warn!("SNMP is behind; a notification is lost");
            }
        }
        let asked = snmp.asked.load(Ordering::Relaxed);
        if std::mem::replace(&mut self.asked, asked) != asked {
            self.parts.demand.raise();
        }
    }

    fn show(&mut self, now: Time, host: HostId, facts: &HostFacts, agent: &Agent, reports: Vec<GuestReport>) {
        let shown = |report: GuestReport| Shown {
            number: self.numbering.get(report.id),
            sample: self.samples.get(&report.id).cloned(),
            report,
        };
        if let Some(page) = &self.parts.page {
            let lines: Vec<String> = agent.raised().map(|alarm| line(alarm, &reports)).collect();
            page.send_if_modified(|old| {
                *old != lines && {
                    *old = lines;
                    true
                }
            });
        }
        // Of every point of every guest.
        let listened = self.parts.shots.receiver_count() > 0;
        let shot = Arc::new(Shot {
            host: Some(host),
            facts: facts.clone(),
            link: self.link,
            maintenance: agent.maintenance(),
            heartbeats_missed: self.missed,
            hypervisor_since: self.hypervisor_since,
            guests_changed: self.guests_changed,
            sample: self.sample.clone(),
            guests: reports.into_iter().map(shown).collect(),
            alarms: agent.raised().cloned().collect(),
            backups: listened.then(|| agent.whole_backup_beat(now)).flatten(),
        });
        if let Some(snmp) = &self.parts.snmp {
            snmp.view.send_replace(Arc::new(snmp::view(&shot, &self.parts.details)));
        }
        self.parts.shots.send_replace(shot);
    }
}

/// An alarm for people who see no names beside it.
fn line(alarm: &Alarm, reports: &[GuestReport]) -> String {
    let named = alarm.guest.and_then(|guest| reports.iter().find(|report| report.id == guest));
    named.map_or_else(|| alarm.text.clone(), |report| format!("guest {}: {}", report.name, alarm.text))
}

/// Whether there is a process to sample.
fn runs(report: &GuestReport) -> bool {
    match report.state {
        PowerState::Running | PowerState::Paused | PowerState::ShuttingDown | PowerState::Suspended => true,
        PowerState::Unknown | PowerState::Off | PowerState::Crashed => false,
    }
}

/// How often SNMP was asked.
pub(crate) type Asked = Arc<AtomicU64>;
