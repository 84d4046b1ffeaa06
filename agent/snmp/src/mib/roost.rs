//! ROOST-MIB: what VM-MIB, HOST-RESOURCES-MIB and IF-MIB don't tell of a host.

use roost_protocol::{Stamp, Time};

use super::arc::ROOST;
use super::rows::Rows;
use super::view::{Alarm, Desk, Link, Memory, OperState, SessionState, View};
use crate::{Oid, Value};

pub(super) fn add(rows: &mut Rows, view: &View, now: Time) {
    rows.scalars(&at(&[1, 1]), host(view, now));
    rows.scalars(&at(&[1, 2]), memory(&view.memory));
    let guests = view.guests.iter().map(|guest| (vec![guest.number], desk(&guest.desk)));
    rows.table(&at(&[1, 3, 1]), 1, 14, guests);
    let backup = &view.backup;
    rows.scalars(
        &at(&[1, 4]),
        vec![
            Value::Octets(date(backup.last_end)),
            Value::counter(backup.done),
            Value::counter(backup.failed),
            Value::Counter64(backup.store_size),
            Value::Counter64(backup.store_used),
        ],
    );
    rows.table(&at(&[1, 7, 1]), 2, 4, (1..).zip(&view.alarms).map(|(number, one)| (vec![number], alarm(one))));
}

fn at(arc: &[u32]) -> Oid {
    Oid::join(&ROOST, arc)
}

fn host(view: &View, now: Time) -> Vec<Value> {
    let host = &view.host;
    let seconds = |heard: Time| now.since(heard).0 / 1_000;
    let (link, silent_s) = match host.link {
        Link::Up { heard } => (1, seconds(heard)),
        Link::Down { heard } => (2, heard.map_or(u64::MAX, seconds)),
        Link::NotConfigured => (3, 0),
    };
    let count = |wanted: fn(&super::Guest) -> bool| {
        Value::gauge(u64::try_from(view.guests.iter().filter(|guest| wanted(guest)).count()).unwrap_or(u64::MAX))
    };
    vec![
        Value::Octets(host.id.map_or(vec![], |id| id.bytes().to_vec())),
        Value::text(&host.agent_version),
        Value::Integer(host.state as i32),
        Value::Integer(link),
        Value::gauge(silent_s),
        Value::counter(host.heartbeats_missed),
        count(|guest| guest.oper == OperState::Running),
        count(|_| true),
        count(|guest| guest.desk.session == SessionState::Active),
        Value::gauge(u64::try_from(view.alarms.len()).unwrap_or(u64::MAX)),
    ]
}

fn memory(memory: &Memory) -> Vec<Value> {
    let overcommit = memory.committed.saturating_mul(100).checked_div(memory.total).unwrap_or(0);
    vec![
        Value::Counter64(memory.total),
        Value::Counter64(memory.available),
        Value::Counter64(memory.committed),
        Value::Counter64(memory.resident),
        Value::Counter64(memory.reclaimed),
        Value::Counter64(memory.ksm.shared),
        Value::Counter64(memory.ksm.saved),
        Value::integer(u64::from(memory.ksm.run.min(2))),
        Value::counter(memory.ksm.full_scans),
        Value::Gauge32(memory.pressure_centi.min(10_000)),
        Value::gauge(overcommit),
    ]
}

fn desk(desk: &Desk) -> Vec<Value> {
    vec![
        Value::text(&desk.owner),
        Value::text(&desk.pool),
        Value::text(&desk.template),
        Value::Integer(desk.agent as i32),
        Value::Integer(desk.session as i32),
        Value::text(&desk.user),
        Value::Integer(desk.protocol as i32),
        Value::Integer(desk.access as i32),
        Value::gauge(desk.round_trip.0),
        Value::Integer(desk.backup as i32),
        Value::integer_or_unknown(desk.backup_age_s),
        Value::Integer(desk.replica as i32),
        Value::text(&desk.replica_host),
        Value::gauge(desk.replica_lag.0),
    ]
}

fn alarm(alarm: &Alarm) -> Vec<Value> {
    vec![
        Value::text(&alarm.code),
        Value::Integer(alarm.guest.map_or(0, |number| i32::try_from(number).unwrap_or(0))),
        Value::Octets(date(Some(alarm.since))),
        Value::text(&alarm.text),
    ]
}

/// DateAndTime (RFC 2579) in UTC; zeros where there is no time. Days to a date after Hinnant, "chrono-compatible low-level
/// date algorithms", civil_from_days.
pub(super) fn date(stamp: Option<Stamp>) -> Vec<u8> {
    let Some(Stamp(ms)) = stamp else { return vec![0; 8] };
    let (seconds, tenths) = (ms / 1_000, ms % 1_000 / 100);
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let (date, month) = (day_of_year - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = u16::try_from(year + era * 400 + u64::from(month <= 2)).unwrap_or(u16::MAX);
    let [century, year] = year.to_be_bytes();
    let small = |number: u64| u8::try_from(number).unwrap_or(0);
    let time = [small(second / 3_600), small(second / 60 % 60), small(second % 60), small(tenths)];
    [&[century, year, small(month), small(date)][..], &time, b"+\0\0"].concat()
}
