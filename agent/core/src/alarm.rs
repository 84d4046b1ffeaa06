//! Alarms on what is measured: raised when it was bad for a while, cleared when it was good for a while, and the longer the
//! more often it came back.

mod rule;
#[cfg(test)]
mod test;

use std::collections::BTreeMap;

pub use roost_protocol::alarm::{Severity, severity};
use roost_protocol::damper::Damper;
pub use roost_protocol::damper::Level;
use roost_protocol::guest::{GuestReport, GuestSample, Power, PowerState};
use roost_protocol::host::{Alarm, HostSample};
use roost_protocol::{GuestId, MiB, Stamp, Time};

use rule::Trend;

/// What is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    pub host: &'a HostSample,
    pub memory: MiB,
    /// In order of id.
    pub guests: &'a [GuestReport],
    /// Of those that run.
    pub samples: &'a BTreeMap<GuestId, GuestSample>,
    /// Since when the aggregator is away; `None` while it is there, or when there is none.
    pub aggregator_away: Option<Time>,
    /// Whether what is told of guests is fresh; if it isn't, nothing is concluded from it.
    pub fresh: bool,
}

/// A condition that was judged.
#[derive(Clone, Debug)]
struct Reading {
    code: &'static str,
    guest: Option<GuestId>,
    level: Level,
    text: String,
}

/// All that is watched.
#[derive(Debug, Default)]
pub struct Alarms {
    dampers: BTreeMap<(&'static str, Option<GuestId>), Damper>,
    trends: BTreeMap<String, Trend>,
}

impl Alarms {
    /// Judges what is seen; gives alarms that are raised (true) or cleared. To be asked about once a second.
    pub fn look(&mut self, now: Time, wall: Stamp, picture: &Picture<'_>) -> Vec<(Alarm, bool)> {
        let mut readings = rule::host(picture);
        readings.push(self.filling(now, picture));
        readings.push(rule::aggregator(now, picture));
        if picture.fresh {
            readings.extend(picture.guests.iter().map(guest_down));
            readings.extend(picture.guests.iter().map(|report| unreachable(report, picture.samples.get(&report.id))));
        }
        let mut turns = Vec::new();
        for Reading { code, guest, level, text } in &readings {
            let damper = self.dampers.entry((*code, *guest)).or_default();
            if let Some(raised) = damper.step(now, *level, &rule::timing(code)) {
                let alarm = Alarm { code: (*code).into(), guest: *guest, since: wall, text: text.clone() };
                turns.push((alarm, raised));
            }
        }
        if picture.fresh {
            turns.extend(self.forget_gone(wall, picture));
        }
        turns
    }

    /// Guests that are gone have no alarms.
    fn forget_gone(&mut self, wall: Stamp, picture: &Picture<'_>) -> Vec<(Alarm, bool)> {
        let there = |guest: GuestId| picture.guests.binary_search_by_key(&guest, |report| report.id).is_ok();
        let mut turns = Vec::new();
        self.dampers.retain(|(code, guest), damper| {
            let gone = guest.is_some_and(|guest| !there(guest));
            if gone && damper.is_raised() {
                turns.push((Alarm { code: (*code).into(), guest: *guest, since: wall, text: String::new() }, false));
            }
            !gone
        });
        turns
    }

    fn filling(&mut self, now: Time, picture: &Picture<'_>) -> Reading {
        let disks = &picture.host.disks;
        self.trends.retain(|path, _| disks.iter().any(|disk| disk.path == *path));
        let mut worst: Option<(u64, &str)> = None;
        for disk in disks {
            let trend = self.trends.entry(disk.path.clone()).or_default();
            trend.saw(now, disk.free_mib);
            if let Some(hours) = trend.hours_to_full() {
                worst = worst.into_iter().chain([(hours, disk.path.as_str())]).min();
            }
        }
        rule::filling(worst)
    }
}

fn guest_down(report: &GuestReport) -> Reading {
    let wished = report.desired.is_some_and(|desired| desired.power == Power::Running);
    let level = match report.state {
        PowerState::Off | PowerState::Crashed if wished => Level::Bad,
        PowerState::Unknown if wished => Level::Between,
        PowerState::Unknown
        | PowerState::Running
        | PowerState::Paused
        | PowerState::ShuttingDown
        | PowerState::Off
        | PowerState::Crashed
        | PowerState::Suspended => Level::Good,
    };
    let text = match level {
        // Of every guest, each second.
        Level::Good => String::new(),
        Level::Between | Level::Bad => {
            let why = if report.reason.is_empty() { String::new() } else { format!(" ({})", report.reason) };
            format!(
                "{} should run and does not{why}; the host keeps trying to start it: look at its last events",
                report.name
            )
        }
    };
    Reading { code: "guest-down", guest: Some(report.id), level, text }
}

/// The tries themselves are damped: see `probe.rs`.
fn unreachable(report: &GuestReport, sample: Option<&GuestSample>) -> Reading {
    let shut = sample.and_then(|sample| sample.access.iter().find(|access| !access.up));
    let running = report.state == PowerState::Running;
    let (level, text) = match shut {
        Some(door) if running => {
            let (name, probe, why) = (&report.name, &door.probe, door.answer.words());
            let text = format!("{name} runs, but at {probe} {why}: look at its screen and its network, or reset it");
            (Level::Bad, text)
        }
        Some(_) | None => (Level::Good, String::new()),
    };
    Reading { code: "guest-unreachable", guest: Some(report.id), level, text }
}
