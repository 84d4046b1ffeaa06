//! Which notifications are sent: for guests that changed, and for alarms that were raised or cleared. Each once, and an
//! alarm that lasts again after a day.

use std::collections::BTreeMap;

use roost_agent_core::alarm::severity;
use roost_protocol::guest::GuestReport;
use roost_protocol::host::Alarm;
use roost_protocol::{GuestId, Millis, Time};
use roost_snmp::VarBind;
use roost_snmp::mib::OperState;
use roost_snmp::mib::note::{self, Change, Gather, Kind, Notice, Turn};

/// An alarm that still stands is told again.
const AGAIN: Millis = Millis::seconds(24 * 3_600);

/// What was told.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    gather: Gather,
    /// Absent before the first look: what is found at the start is no change.
    guests: Option<BTreeMap<GuestId, Change>>,
    alarms: BTreeMap<(String, Option<GuestId>), (Time, Alarm)>,
}

type Note = Vec<VarBind>;

impl Notes {
    /// Bulk notifications that are due.
    pub(crate) fn due(&mut self, now: Time) -> Vec<Note> {
        self.gather.due(now)
    }

    /// Compares guests with those seen before.
    pub(crate) fn guests(
        &mut self,
        now: Time,
        reports: &[GuestReport],
        number: impl Fn(GuestId) -> Option<u32>,
    ) -> Vec<Note> {
        let seen: BTreeMap<GuestId, Change> =
            reports.iter().filter_map(|report| Some((report.id, change(report, number(report.id)?)))).collect();
        let mut notes = self.gather.due(now);
        if let Some(before) = &self.guests {
            for (guest, change) in &seen {
                let known = before.get(guest);
                if known.map(|known| known.state) != Some(change.state)
                    && let Some(turn) = Turn::into_state(change.state)
                    && (known.is_some() || turn != Turn::Shutdown)
                {
                    notes.extend(self.gather.changed(now, &Change { turn, ..change.clone() }));
                }
            }
            for gone in before.iter().filter(|(guest, _)| !seen.contains_key(guest)).map(|(_, change)| change) {
                notes.extend(self.gather.changed(now, &Change { turn: Turn::Deleted, ..gone.clone() }));
            }
        }
        self.guests = Some(seen);
        notes
    }

    /// Compares alarms with those told before.
    pub(crate) fn alarms<'a>(
        &mut self,
        now: Time,
        host: &str,
        raised: impl Iterator<Item = &'a Alarm>,
        reports: &[GuestReport],
        number: impl Fn(GuestId) -> Option<u32>,
    ) -> Vec<Note> {
        let raised: BTreeMap<_, _> = raised.map(|alarm| ((alarm.code.clone(), alarm.guest), alarm)).collect();
        let told = |alarm: &Alarm, up: bool| {
            let guest = alarm.guest.and_then(|guest| {
                let name = reports.iter().find(|report| report.id == guest).map_or("", |report| report.name.as_str());
                Some((number(guest)?, guest, name))
            });
            note::notice(&Notice {
                kind: Kind::of(&alarm.code, up),
                host,
                severity: if up { severity(&alarm.code).into() } else { note::Severity::Info },
                text: &alarm.text,
                event: "",
                code: &alarm.code,
                guest,
                detail: None,
            })
        };
        let mut notes = Vec::new();
        for (key, alarm) in &raised {
            let due = self.alarms.get(key).is_none_or(|(at, _)| now.since(*at) >= AGAIN);
            if due {
                notes.push(told(alarm, true));
                self.alarms.insert(key.clone(), (now, (*alarm).clone()));
            }
        }
        self.alarms.retain(|key, (_, alarm)| {
            let stands = raised.contains_key(key);
            if !stands {
                notes.push(told(alarm, false));
            }
            stands
        });
        notes
    }
}

fn change(report: &GuestReport, number: u32) -> Change {
    let state = OperState::of(report.state, &report.reason);
    let (id, name, persistent) = (report.id, report.name.clone(), report.persistent);
    Change { number, id, name, state, persistent, turn: Turn::Running }
}

#[cfg(test)]
mod test {
    use roost_protocol::guest::PowerState;
    use roost_protocol::{MiB, Stamp};
    use roost_snmp::Value;

    use super::*;

    fn guest(id: u128, state: PowerState) -> GuestReport {
        GuestReport {
            id: GuestId::from_u128(id),
            name: format!("g{id}"),
            state,
            reason: String::new(),
            persistent: true,
            desired: None,
            vcpus: 1,
            memory_mib: MiB(1),
            since: Stamp(0),
            restarts: 0,
            disks: vec![],
        }
    }

    /// The last part of each notification's name.
    fn told(notes: &[Note]) -> Vec<u32> {
        let last = |note: &Note| {
            let Value::Oid(oid) = &note[0].value else { return 0 };
            *oid.last().unwrap()
        };
        notes.iter().map(last).collect()
    }

    #[test]
    fn what_is_found_at_the_start_is_no_change_and_what_changes_is_told_once() {
        let mut notes = Notes::default();
        let number = |guest: GuestId| u32::try_from(u128::from_be_bytes(guest.bytes())).ok();
        let mut look =
            |seconds: u64, guests: &[GuestReport]| told(&notes.guests(Time(seconds * 1_000), guests, number));
        assert!(look(0, &[guest(1, PowerState::Running), guest(2, PowerState::Off)]).is_empty());
        assert!(look(1, &[guest(1, PowerState::Running), guest(2, PowerState::Off)]).is_empty());
        assert_eq!(look(2, &[guest(1, PowerState::Crashed), guest(2, PowerState::Running)]), [9, 1]);
        assert_eq!(
            look(3, &[guest(2, PowerState::Running), guest(3, PowerState::Off)]),
            [10],
            "a new one that is off is no news"
        );
    }

    #[test]
    fn an_alarm_is_told_once_when_it_clears_and_again_after_a_day() {
        let mut notes = Notes::default();
        let alarm = |code: &str| Alarm { code: code.into(), guest: None, since: Stamp(0), text: "t".into() };
        let (disk, link) = (alarm("disk-low"), alarm("aggregator-away"));
        let mut look = |hours: u64, alarms: &[&Alarm]| {
            told(&notes.alarms(Time(hours * 3_600_000), "h", alarms.iter().copied(), &[], |_| None))
        };
        assert_eq!(look(0, &[&disk, &link]), [15, 11]);
        assert!(look(23, &[&disk, &link]).is_empty());
        assert_eq!(look(24, &[&disk]), [11, 16]);
        assert_eq!(look(25, &[]), [18]);
        assert!(look(26, &[]).is_empty());
    }
}
