//! Alarms of the grid, silences and notifiers as callers see them. Secrets are not among them.

use std::cmp::Reverse;

use roost_aggregator_core::Grid;
use roost_aggregator_core::notify::{Item, Mail, MailTls, Notifier, Silence, Standing, Way};
use roost_protocol::Stamp;
use serde_json::{Value, json};

use super::{some_text, time};
use crate::api::page::{Listed, Order};
use crate::notify::file::place;

/// An alarm that stands, and when it is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AlarmView<'a> {
    pub(crate) grid: &'a Grid,
    pub(crate) alarm: &'a Standing,
    pub(crate) wall: Stamp,
}

impl Listed for AlarmView<'_> {
    const SCHEMA: &'static str = "grid_alarm";
    const SORT: Option<&'static str> = Some("-since");

    fn order(&self) -> Order {
        Order::Text(self.alarm.key.fingerprint())
    }

    fn property(&self, name: &str) -> Value {
        let (alarm, telling) = (self.alarm, &self.grid.intent().telling);
        let acknowledged = || telling.acknowledgement(&alarm.key, alarm.since);
        let item = || Item { alarm: alarm.clone(), cleared: None };
        match name {
            "id" => json!(alarm.key.fingerprint()),
            "code" => json!(alarm.key.code),
            "severity" => json!(alarm.severity().word()),
            "host" => json!(alarm.key.host),
            "host_name" => json!(alarm.host_name),
            "guest" => json!(alarm.key.guest),
            "guest_name" => json!(alarm.guest_name),
            "since" => time(alarm.since),
            "what" => json!(item().what()),
            "why" => json!(alarm.text),
            "to_do" => json!(item().to_do()),
            "acknowledged_by" => json!(acknowledged().map(|it| &it.by)),
            "acknowledged" => acknowledged().map_or(Value::Null, |it| time(it.at)),
            "note" => acknowledged().map_or(Value::Null, |it| some_text(&it.note)),
            "silenced_until" => telling.silence(self.wall, &alarm.key).map_or(Value::Null, |it| time(it.until)),
            "flapping" => json!(self.grid.flaps(&alarm.key)),
            _ => Value::Null,
        }
    }
}

/// A silence, and when it is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SilenceView<'a> {
    pub(crate) grid: &'a Grid,
    pub(crate) id: &'a str,
    pub(crate) silence: &'a Silence,
    pub(crate) wall: Stamp,
}

impl Listed for SilenceView<'_> {
    const SCHEMA: &'static str = "silence";

    fn order(&self) -> Order {
        Order::Newest(Reverse(self.silence.created.0), text_id(self.id))
    }

    fn property(&self, name: &str) -> Value {
        let silence = self.silence;
        match name {
            "id" => json!(self.id),
            "code" => json!(silence.code),
            "host" => json!(silence.host),
            "host_name" => silence.host.map_or(Value::Null, |host| json!(self.grid.host_name(host))),
            "guest" => json!(silence.guest),
            "guest_name" => silence.guest.map_or(Value::Null, |guest| json!(self.grid.guest_name(guest))),
            "created" => time(silence.created),
            "created_by" => json!(silence.by),
            "until" => time(silence.until),
            "holds" => json!(self.wall < silence.until),
            "note" => some_text(&silence.note),
            _ => Value::Null,
        }
    }
}

/// Ids of silences are random bytes in hexadecimal digits.
fn text_id(id: &str) -> [u8; 16] {
    u128::from_str_radix(id, 16).unwrap_or_default().to_be_bytes()
}

/// A notifier and how it does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NotifierView<'a> {
    pub(crate) grid: &'a Grid,
    pub(crate) notifier: &'a Notifier,
}

impl NotifierView<'_> {
    fn mail(&self) -> Option<&Mail> {
        match &self.notifier.way {
            Way::Mail(mail) => Some(mail),
            Way::Webhook(_) | Way::Syslog(_) | Way::Snmp(_) | Way::File => None,
        }
    }

    fn way(&self, name: &str) -> Value {
        let mail = self.mail();
        match (name, &self.notifier.way) {
            ("kind", Way::Mail(_)) => json!("mail"),
            ("kind", Way::Webhook(_)) => json!("webhook"),
            ("kind", Way::Syslog(_)) => json!("syslog"),
            ("kind", Way::Snmp(_)) => json!("snmp"),
            ("kind", Way::File) => json!("file"),
            ("file", Way::File) => json!(place(&self.notifier.name)),
            ("server", Way::Mail(mail)) => json!(mail.server),
            ("server", Way::Syslog(syslog)) => json!(syslog.server),
            ("server", Way::Snmp(snmp)) => json!(snmp.server),
            ("user", Way::Snmp(snmp)) => json!(snmp.user),
            ("hosts_too", Way::Snmp(snmp)) => json!(snmp.hosts_too),
            ("url", Way::Webhook(webhook)) => json!(webhook.url),
            ("transport", Way::Syslog(syslog)) => json!(if syslog.tcp { "tcp" } else { "udp" }),
            ("security", _) => mail.map_or(Value::Null, |mail| {
                json!(match mail.tls {
                    MailTls::StartTls => "starttls",
                    MailTls::Tls => "tls",
                    MailTls::Plain => "plain",
                })
            }),
            ("user", _) => json!(mail.and_then(|mail| mail.user.as_ref())),
            ("from", _) => json!(mail.map(|mail| &mail.from)),
            ("to", _) => json!(mail.map(|mail| &mail.to)),
            _ => Value::Null,
        }
    }
}

impl Listed for NotifierView<'_> {
    const SCHEMA: &'static str = "notifier";

    fn order(&self) -> Order {
        Order::Text(self.notifier.name.clone())
    }

    fn unseen(&self) -> &str {
        self.notifier.secret.as_ref().map_or("", |secret| &secret.0)
    }

    fn property(&self, name: &str) -> Value {
        let health = || self.grid.health(&self.notifier.name);
        match name {
            "name" => json!(self.notifier.name),
            "severity" => json!(self.notifier.least.word()),
            "gather_s" => json!(self.notifier.gather.0 / 1_000),
            "secret_set" => json!(self.notifier.secret.is_some()),
            "ca_set" => json!(self.notifier.ca.is_some()),
            "state" => json!(match health() {
                health if health.failing.is_some() => "failing",
                health if health.sent.is_some() => "works",
                _ => "untried",
            }),
            "last_sent" => health().sent.map_or(Value::Null, time),
            "failing_since" => health().failing.map_or(Value::Null, |(since, _)| time(since)),
            "last_error" => health().failing.map_or(Value::Null, |(_, why)| json!(why)),
            "waiting" => json!(health().waiting),
            other => self.way(other),
        }
    }
}
