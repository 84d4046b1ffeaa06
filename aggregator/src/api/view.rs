//! What callers see of the grid's parts: each property of the registry's schemas, made from the core's types.

pub(crate) mod backup;
pub(crate) mod facts;
pub(crate) mod failover;
pub(crate) mod history;
pub(crate) mod memory;
pub(crate) mod notify;
pub(crate) mod performance;
pub(crate) mod room;

use std::cmp::Reverse;

use roost_aggregator_core::event::{GridEvent, Severity};
use roost_aggregator_core::grid::{Guest, Host, Presence};
use roost_aggregator_core::intent::{ApiTokenRecord, JoinTokenRecord, UserRecord};
use roost_aggregator_core::operation::{Operation, State};
use roost_aggregator_core::{Grid, Protection};
use roost_protocol::backup::Pulling;
use roost_protocol::failover::Fencing;
use roost_protocol::guest::{Power, PowerState};
use roost_protocol::host::Alarm;
use roost_protocol::operation::Failure;
use roost_protocol::probe::Access;
use roost_protocol::{Stamp, Time};
use serde_json::{Value, json};

use super::page::{Listed, Order};
use super::problem::Problem;
use crate::auth::Session;

/// RFC 3339 in UTC, with milliseconds always, so that texts stand in the order of their times; null for a time no
/// calendar has.
pub(crate) fn time(stamp: Stamp) -> Value {
    let stamp = i64::try_from(stamp.0).ok().and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok());
    stamp.map_or(Value::Null, |stamp| json!(format!("{stamp:.3}")))
}

/// A word of an enum that serializes as one.
pub(crate) fn word(value: impl serde::Serialize) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

fn hundredths(value: u32) -> Value {
    json!(f64::from(value) / 100.0)
}

fn tenths(value: u32) -> Value {
    json!(f64::from(value) / 10.0)
}

/// Absent where empty.
fn some_text(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { json!(text) }
}

/// A host, and when it is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostView<'a> {
    pub(crate) grid: &'a Grid,
    pub(crate) host: &'a Host,
    pub(crate) now: Time,
    pub(crate) wall: Stamp,
}

/// The state of a host in one word.
pub(crate) fn presence(host: &Host) -> &'static str {
    match host.presence {
        Presence::Never => "never",
        Presence::Up { .. } => "up",
        Presence::Suspect { .. } => "suspect",
        Presence::Down { .. } => "down",
    }
}

/// Guests of a host that run.
pub(crate) fn running(host: &Host) -> usize {
    host.guests.values().filter(|guest| guest.report.state == PowerState::Running).count()
}

impl HostView<'_> {
    fn since(&self) -> Value {
        match self.host.presence {
            Presence::Never => Value::Null,
            Presence::Up { since, .. } | Presence::Suspect { since, .. } | Presence::Down { since, .. } => time(since),
        }
    }

    fn last_seen(&self) -> Value {
        match self.host.presence {
            Presence::Never => Value::Null,
            Presence::Up { heard, .. } | Presence::Suspect { heard, .. } | Presence::Down { heard, .. } => {
                // To the second: the two clocks are read one after the other, and the same beat must stay the same time.
                let heard = self.wall.0.saturating_sub(self.now.since(heard).0);
                time(Stamp(heard / 1_000 * 1_000))
            }
        }
    }

    /// Seconds; a clock more than 68 years off is shown as 68 years off.
    fn clock_offset(&self) -> Value {
        let ahead = self.host.clock_ahead_ms;
        let most = if ahead < 0 { i32::MIN } else { i32::MAX };
        let seconds = i32::try_from(ahead / 1_000).unwrap_or(most);
        let millis = i32::try_from(ahead % 1_000).unwrap_or_default();
        json!(f64::from(seconds) + f64::from(millis) / 1_000.0)
    }

    fn watchdog(&self, name: &str) -> Value {
        let Some(guard) = &self.host.guard else { return Value::Null };
        let Some(fencing) = &guard.fencing else { return Value::Null };
        if name == "watchdog_test" {
            return failover::watchdog_test(fencing, guard.watchdog_test.as_ref());
        }
        let (word, detail) = match fencing {
            Fencing::Hardware(detail) => ("hardware", Some(detail)),
            Fencing::Soft(detail) => ("software", Some(detail)),
            Fencing::Parent => ("parent", None),
            Fencing::None(detail) => ("none", Some(detail)),
        };
        if name == "watchdog" { json!(word) } else { json!(detail) }
    }

    fn sampled(&self, name: &str) -> Value {
        let sample = &self.host.sample;
        if sample.at == Stamp(0) {
            return Value::Null;
        }
        match name {
            "memory_available_mib" => json!(sample.memory_available_mib),
            "cpu_percent" => tenths(sample.cpu_permille),
            _ => sample.pressure.map_or(Value::Null, |pressure| {
                json!({
                    "cpu_percent": hundredths(pressure.cpu_centi),
                    "memory_percent": hundredths(pressure.memory_centi),
                    "io_percent": hundredths(pressure.io_centi),
                })
            }),
        }
    }
}

impl Listed for HostView<'_> {
    const SCHEMA: &'static str = "host";
    const SORT: Option<&'static str> = Some("name");

    fn order(&self) -> Order {
        Order::Id(self.host.id.bytes())
    }

    fn unseen(&self) -> &str {
        let device = self.grid.fence(self.host.id).map(|fence| &fence.device);
        device.and_then(|device| device.secret.as_ref()).map_or("", |secret| &secret.0)
    }

    fn property(&self, name: &str) -> Value {
        match name {
            "id" => json!(self.host.id),
            "name" => json!(self.host.name),
            "state" => json!(presence(self.host)),
            "since" => self.since(),
            "last_seen" => self.last_seen(),
            "guests" => json!(self.host.guests.len()),
            "guests_running" => json!(running(self.host)),
            "maintenance" => json!(self.grid.maintenance_word(self.host)),
            "zone" => {
                Some(self.grid.zone(self.host.id)).filter(|zone| !zone.is_empty()).map_or(Value::Null, Value::from)
            }
            "watchdog" | "watchdog_detail" | "watchdog_test" => self.watchdog(name),
            "fence" => self.grid.fence(self.host.id).map_or(Value::Null, failover::fence),
            "stale" => json!(!self.host.fresh()),
            "alarms" => self.grid.alarms(self.host).map(|one| alarm(&one)).collect(),
            "store" => self.host.backups.store.as_ref().map_or(Value::Null, backup::store),
            "clock_offset_s" if self.host.facts.is_some() => self.clock_offset(),
            "memory_available_mib" | "cpu_percent" | "pressure" => self.sampled(name),
            other => self.fact(other),
        }
    }
}

fn alarm(alarm: &Alarm) -> Value {
    let mut value = json!({"code": alarm.code, "since": time(alarm.since), "text": alarm.text});
    if let Some(guest) = alarm.guest {
        value["guest"] = json!(guest);
    }
    value
}

/// A guest and its host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GuestView<'a> {
    pub(crate) grid: &'a Grid,
    pub(crate) host: &'a Host,
    pub(crate) guest: &'a Guest,
}

impl GuestView<'_> {
    /// What is still brought in of the point that it was started from.
    fn pulling(&self) -> Option<&Pulling> {
        self.host.backups.pulls.as_ref()?.get(&self.guest.report.id)
    }

    /// How its doors stand that its host tries.
    fn access(&self) -> Value {
        let doors = self.guest.sample.iter().flat_map(|sample| &sample.access);
        let door = |it: &Access| {
            json!({
                "probe": it.probe,
                "up": it.up,
                "answer": word(it.answer),
                "rtt_ms": it.rtt_ms,
                "since": time(it.since),
            })
        };
        doors.map(door).collect()
    }

    fn protection(&self, name: &str) -> Value {
        match (self.grid.protection(self.guest.report.id), name) {
            (Protection::NotWished, _) => Value::Null,
            (Protection::By { .. }, "protected") => json!(true),
            (Protection::By { host, .. }, "protected_by") => json!(self.grid.host_name(host)),
            (Protection::By { .. }, _) => Value::Null,
            (Protection::No(_), "protected") => json!(false),
            (Protection::No(why), "unprotected_because") => json!(why.join("; ")),
            (Protection::No(_), _) => Value::Null,
        }
    }
}

impl Listed for GuestView<'_> {
    const SCHEMA: &'static str = "guest";
    const SORT: Option<&'static str> = Some("name");

    fn order(&self) -> Order {
        Order::Id(self.guest.report.id.bytes())
    }

    fn property(&self, name: &str) -> Value {
        let report = &self.guest.report;
        match name {
            "id" => json!(report.id),
            "name" => json!(report.name),
            "host" => json!(self.host.id),
            "host_name" => json!(self.host.name),
            "state" => word(report.state),
            "reason" => some_text(&report.reason),
            "managed" => json!(report.managed()),
            "desired" => report.desired.map_or(Value::Null, |desired| match desired.power {
                Power::Running => json!("running"),
                Power::Stopped => json!("stopped"),
            }),
            "vcpus" => json!(report.vcpus),
            "memory_mib" => json!(report.memory_mib),
            "since" => time(report.since),
            "restarts" => json!(report.restarts),
            "cpu_percent" => self.guest.sample.as_ref().map_or(Value::Null, |sample| tenths(sample.cpu_permille)),
            "resident_mib" => self.guest.sample.as_ref().map_or(Value::Null, |sample| json!(sample.resident_mib)),
            "stale" => json!(!self.host.fresh()),
            "disks" => json!(report.disks),
            "probes" => json!(self.grid.intent().probes.get(&report.id)),
            "access" => self.access(),
            "protected" | "protected_by" | "unprotected_because" => self.protection(name),
            "restored_percent" => self.pulling().map_or(Value::Null, |pull| json!(pull.percent)),
            "restored_from" => self.pulling().map_or(Value::Null, |pull| json!(pull.point)),
            "restore_trouble" => json!(self.pulling().and_then(|pull| pull.trouble.as_ref())),
            _ => Value::Null,
        }
    }
}

/// An operation, and its host's name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OperationView<'a> {
    pub(crate) operation: &'a Operation,
    pub(crate) host_name: Option<&'a str>,
}

/// The state of an operation in one word.
pub(crate) fn operation_state(operation: &Operation) -> &'static str {
    match operation.state {
        State::Queued => "queued",
        State::Running => "running",
        State::Succeeded => "succeeded",
        State::Failed(_) => "failed",
        State::Cancelled => "cancelled",
    }
}

fn failure(failure: &Failure) -> Value {
    let code = word(failure.code);
    Problem::new(code.as_str().unwrap_or("internal"), failure.text.as_str()).json(None)
}

impl Listed for OperationView<'_> {
    const SCHEMA: &'static str = "operation";

    fn order(&self) -> Order {
        Order::Newest(Reverse(self.operation.created.0), self.operation.id.bytes())
    }

    fn property(&self, name: &str) -> Value {
        let operation = self.operation;
        match name {
            "id" => json!(operation.id),
            "kind" => json!(format!("guest.{}", operation.verb.word())),
            "state" => json!(operation_state(operation)),
            "progress" if operation.step.is_empty() => json!({"percent": operation.percent}),
            "progress" => json!({"percent": operation.percent, "step": operation.step}),
            "resources" => json!([
                resource("guest", operation.guest, Some(operation.guest_name.as_str())),
                resource("host", operation.host, self.host_name),
            ]),
            "children" | "log" => json!([]),
            "created_by" => some_text(&operation.created_by),
            "created" => time(operation.created),
            "started" => operation.started.map_or(Value::Null, time),
            "ended" => operation.ended.map_or(Value::Null, time),
            "result" if operation.state == State::Succeeded => json!({"guest": operation.guest}),
            "error" => match &operation.state {
                State::Failed(why) => failure(why),
                State::Queued | State::Running | State::Succeeded | State::Cancelled => Value::Null,
            },
            _ => Value::Null,
        }
    }
}

fn resource(kind: &str, id: impl serde::Serialize, name: Option<&str>) -> Value {
    match name {
        Some(name) => json!({"kind": kind, "id": id, "name": name}),
        None => json!({"kind": kind, "id": id}),
    }
}

impl Listed for &GridEvent {
    const SCHEMA: &'static str = "event";

    fn order(&self) -> Order {
        Order::Number(self.sequence)
    }

    fn property(&self, name: &str) -> Value {
        match name {
            "seq" => json!(self.sequence),
            "time" => time(self.at),
            "kind" => json!(self.kind),
            "severity" => json!(match self.severity {
                Severity::Info => "info",
                Severity::Warning => "warning",
                Severity::Error => "error",
            }),
            "text" => json!(self.text),
            "user" => json!(self.user),
            "operation" => json!(self.operation),
            "resources" => {
                let host = self.host.map(|id| resource("host", id, None));
                let guest = self.guest.map(|id| resource("guest", id, None));
                host.into_iter().chain(guest).collect()
            }
            _ => Value::Null,
        }
    }
}

/// A record of the intent, with its key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Named<'a, T> {
    pub(crate) name: &'a str,
    pub(crate) record: &'a T,
    /// When somebody last came in with it.
    pub(crate) last_use: Option<Stamp>,
}

/// A join token, and when it is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JoinTokenView<'a> {
    pub(crate) id: &'a str,
    pub(crate) record: &'a JoinTokenRecord,
    /// Name of the host that used it, while the grid knows it.
    pub(crate) host_name: Option<&'a str>,
    pub(crate) wall: Stamp,
}

/// The state of a join token in one word.
pub(crate) fn join_token_state(record: &JoinTokenRecord, wall: Stamp) -> &'static str {
    match (record.used, record.spent(wall)) {
        (Some(_), _) => "used",
        (None, Some(_)) => "expired",
        (None, None) => "unused",
    }
}

impl Listed for JoinTokenView<'_> {
    const SCHEMA: &'static str = "join_token";
    const SORT: Option<&'static str> = Some("-created");

    fn order(&self) -> Order {
        Order::Text(self.id.to_owned())
    }

    fn property(&self, name: &str) -> Value {
        match name {
            "id" => json!(self.id),
            "name" => json!(self.record.host_name),
            "note" => some_text(&self.record.note),
            "state" => json!(join_token_state(self.record, self.wall)),
            "used" => self.record.used.map_or(Value::Null, time),
            "used_by" => json!(self.record.used_by),
            "used_by_name" => json!(self.host_name),
            "created_by" => some_text(&self.record.created_by),
            "created" => time(self.record.created),
            "expires" => time(self.record.expires),
            _ => Value::Null,
        }
    }
}

impl Listed for Named<'_, UserRecord> {
    const SCHEMA: &'static str = "user";

    fn order(&self) -> Order {
        Order::Text(self.name.to_owned())
    }

    fn unseen(&self) -> &str {
        &self.record.password_hash
    }

    fn property(&self, name: &str) -> Value {
        match name {
            "name" => json!(self.name),
            "created" => time(self.record.created),
            "last_login" => self.last_use.map_or(Value::Null, time),
            _ => Value::Null,
        }
    }
}

impl Listed for Named<'_, ApiTokenRecord> {
    const SCHEMA: &'static str = "api_token";

    fn order(&self) -> Order {
        Order::Text(self.name.to_owned())
    }

    fn property(&self, name: &str) -> Value {
        match name {
            "id" => json!(self.name),
            "name" => json!(self.record.name),
            "user" => json!(self.record.user),
            "created" => time(self.record.created),
            "expires" => time(self.record.expires),
            "last_used" => self.last_use.map_or(Value::Null, time),
            _ => Value::Null,
        }
    }
}

impl Listed for &Session {
    const SCHEMA: &'static str = "session";

    fn order(&self) -> Order {
        Order::Text(self.id.clone())
    }

    fn property(&self, name: &str) -> Value {
        match name {
            "id" => json!(self.id),
            "user" => json!(self.user),
            "address" => json!(self.address),
            "created" => time(self.created),
            "expires" => time(self.expires),
            "last_used" => time(self.last_used),
            _ => Value::Null,
        }
    }
}
