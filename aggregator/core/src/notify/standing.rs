//! Which alarms of the grid stand: those of its hosts and those that only the aggregator can see, damped so that what
//! comes and goes stays.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};
use roost_protocol::alarm::{Severity, severity};
use roost_protocol::damper::{Damper, Level, Timing};
use roost_protocol::guest::Power;
use roost_protocol::{HostId, Millis, Stamp, Time};

use super::Key;
use crate::grid::{Grid, Host, Now, Presence};

/// Hosts have damped their own already. What goes and comes again within this, a host that starts anew for example, never
/// went; the more often it comes back the longer it stays.
const TIMING: Timing = Timing { raise_after: Millis(0), clear_after: Millis::seconds(5) };
/// A host that was not heard since the aggregator started gets this much longer than one that fell silent.
const NEVER_HEARD: Millis = Millis::seconds(60);
/// A clock further off than this is an alarm: logs of two hosts can't be read side by side any more.
const CLOCK_OFF_MS: u64 = 5_000;
/// Codes of alarms that no host raises.
const OF_THE_GRID: [&str; 3] = [HOST_DOWN, CLOCK_OFF, AGENT_VERSION];
const HOST_DOWN: &str = "host-down";
const CLOCK_OFF: &str = "clock-off";
const AGENT_VERSION: &str = "agent-version";
/// Alarms that are looked at: a host has some tens at most, a grid thousands when all goes wrong at once.
const MOST: usize = 20_000;
/// Characters of an alarm's text that are kept.
const TEXT: usize = 500;

/// An alarm that stands.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Standing {
    #[n(0)]
    pub key: Key,
    #[n(1)]
    pub since: Stamp,
    #[n(2)]
    pub text: String,
    /// As it was called when it was seen last; both may be gone when it is over.
    #[n(3)]
    pub host_name: Option<String>,
    #[n(4)]
    pub guest_name: Option<String>,
}

impl Standing {
    pub fn severity(&self) -> Severity {
        severity(&self.key.code)
    }

    /// Whether the aggregator alone sees it; all others a host tells by itself where it has an snmpd.
    pub fn of_the_grid(&self) -> bool {
        OF_THE_GRID.contains(&self.key.code.as_str())
    }
}

/// All that stand, and those that stood of late.
#[derive(Debug, Default)]
pub(crate) struct Board {
    all: BTreeMap<Key, Entry>,
}

#[derive(Debug)]
struct Entry {
    damper: Damper,
    alarm: Standing,
    ended: Option<Stamp>,
}

impl Entry {
    fn new(now: Time, alarm: Standing) -> Self {
        let mut damper = Damper::default();
        damper.step(now, Level::Bad, &TIMING);
        Self { damper, alarm, ended: None }
    }
}

/// What a look changed.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    pub(crate) raised: Vec<Standing>,
    pub(crate) cleared: Vec<Standing>,
}

impl Board {
    /// Takes in what is seen. `known`: false of hosts that have said nothing yet: what they had, they still have.
    pub(crate) fn look(&mut self, now: Now, seen: Vec<Standing>, known: impl Fn(HostId) -> bool) -> Turns {
        let mut turns = Turns::default();
        let mut seen: BTreeMap<Key, Standing> =
            seen.into_iter().take(MOST).map(|alarm| (alarm.key.clone(), alarm)).collect();
        for (key, entry) in &mut self.all {
            let level = match (seen.remove(key), key.host.is_none_or(&known)) {
                (Some(fresh), _) => {
                    let since = if entry.damper.is_raised() { entry.alarm.since } else { fresh.since };
                    entry.alarm = Standing { since, ..fresh };
                    Level::Bad
                }
                (None, true) => Level::Good,
                (None, false) => Level::Between,
            };
            match entry.damper.step(now.time, level, &TIMING) {
                Some(true) => turns.raised.push(entry.alarm.clone()),
                Some(false) => {
                    entry.ended = Some(now.wall);
                    turns.cleared.push(entry.alarm.clone());
                }
                None => {}
            }
        }
        self.all.retain(|_, entry| !entry.damper.forgotten(now.time));
        for (key, alarm) in seen {
            turns.raised.push(alarm.clone());
            self.all.insert(key, Entry::new(now.time, alarm));
        }
        turns
    }

    /// What the aggregator knew before it was started anew.
    pub(crate) fn remember(&mut self, now: Time, alarm: Standing) {
        self.all.entry(alarm.key.clone()).or_insert_with(|| Entry::new(now, alarm));
    }

    pub(crate) fn standing(&self) -> impl Iterator<Item = &Standing> {
        self.all.values().filter(|entry| entry.damper.is_raised()).map(|entry| &entry.alarm)
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Standing> {
        self.all.get(key).filter(|entry| entry.damper.is_raised()).map(|entry| &entry.alarm)
    }

    /// When an alarm was over; what is not known any more is over now.
    pub(crate) fn ended(&self, key: &Key, wall: Stamp) -> Stamp {
        self.all.get(key).and_then(|entry| entry.ended).unwrap_or(wall)
    }

    pub(crate) fn flaps(&self, key: &Key) -> bool {
        self.all.get(key).is_some_and(|entry| entry.damper.flaps())
    }
}

impl Grid {
    /// Everything that is wrong now, undamped.
    pub(crate) fn seen(&self, now: Now) -> Vec<Standing> {
        let mut seen = Vec::new();
        for host in self.hosts.values() {
            seen.extend(self.host_down(now, host));
            seen.extend(clock_off(now, host));
            seen.extend(agent_version(now, host));
            seen.extend(self.alarms(host).map(|alarm| Standing {
                key: Key { code: cut(alarm.code), host: Some(host.id), guest: alarm.guest },
                since: alarm.since,
                text: cut(alarm.text),
                host_name: Some(host.name.clone()),
                guest_name: alarm.guest.map(|guest| self.guest_name(guest)),
            }));
        }
        seen
    }

    fn host_down(&self, now: Now, host: &Host) -> Option<Standing> {
        // A host in maintenance may be switched off.
        if self.maintenance(host.id).is_some() {
            return None;
        }
        let patience = Millis(self.config.down_after.0 + NEVER_HEARD.0);
        let since = match host.presence {
            Presence::Down { since, .. } => since,
            Presence::Never if now.time.since(self.started()?) > patience => {
                Stamp(now.wall.0.saturating_sub(now.time.since(self.started()?).0))
            }
            Presence::Never | Presence::Up { .. } | Presence::Suspect { .. } => return None,
        };
        let wished = |guest: &&crate::grid::Guest| guest.report.desired.is_some_and(|it| it.power == Power::Running);
        let guests = host.guests.values().filter(wished).count();
        let text = match guests {
            0 => "the host is not heard any more".to_owned(),
            guests => format!("the host is not heard any more; {guests} of its guests are to run"),
        };
        Some(of_host(HOST_DOWN, host, since, text))
    }
}

fn of_host(code: &str, host: &Host, since: Stamp, text: String) -> Standing {
    let key = Key { code: code.into(), host: Some(host.id), guest: None };
    Standing { key, since, text, host_name: Some(host.name.clone()), guest_name: None }
}

fn clock_off(now: Now, host: &Host) -> Option<Standing> {
    let off = host.clock_ahead_ms.unsigned_abs();
    let heard = matches!(host.presence, Presence::Up { .. });
    let ahead = if host.clock_ahead_ms > 0 { "ahead of" } else { "behind" };
    let text = format!("its clock was {} s {ahead} the aggregator's when it connected", off / 1_000);
    (heard && off > CLOCK_OFF_MS).then(|| of_host(CLOCK_OFF, host, now.wall, text))
}

fn agent_version(now: Now, host: &Host) -> Option<Standing> {
    let (theirs, ours) = (host.facts.as_ref()?.agent_version.as_str(), env!("CARGO_PKG_VERSION"));
    let other = !theirs.is_empty() && theirs != ours && matches!(host.presence, Presence::Up { .. });
    let text = format!("its agent has version {theirs}, the aggregator {ours}");
    other.then(|| of_host(AGENT_VERSION, host, now.wall, text))
}

fn cut(mut text: String) -> String {
    if let Some((at, _)) = text.char_indices().nth(TEXT) {
        text.truncate(at);
    }
    text
}
