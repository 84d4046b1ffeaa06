//! Shapes of alarms of the grid, silences and notifiers.

use super::{ID, NAME, Property, hidden, maybe, restless, shown, wide};
use crate::FieldKind::{Boolean, Choice, Integer, Text, TextList, Time};

pub(crate) const SEVERITIES: &[&str] = &["info", "warning", "error", "critical"];
pub(crate) const NOTIFIER_KINDS: &[&str] = &["mail", "webhook", "syslog", "snmp", "file"];
pub(crate) const NOTIFIER_SECURITY: &[&str] = &["starttls", "tls", "plain"];
pub(crate) const NOTIFIER_TRANSPORTS: &[&str] = &["udp", "tcp"];

pub(super) const ALARM: &[Property] = &[
    shown("id", Text, "Names it while it stands"),
    shown("severity", Choice(SEVERITIES), "How much it matters"),
    shown("since", Time, "Raised at"),
    shown("what", Text, "What it is"),
    restless(wide("why", Text, "What was seen")),
    wide("to_do", Text, "What to do about it"),
    hidden("code", Text, "Stable word"),
    maybe(hidden("host", Text, "Id of the host it is about")),
    maybe(hidden("host_name", Text, "Its name")),
    maybe(hidden("guest", Text, "Id of the guest it is about")),
    maybe(hidden("guest_name", Text, "Its name")),
    maybe(shown("acknowledged_by", Text, "Who looks after it")),
    maybe(wide("acknowledged", Time, "Since when")),
    maybe(wide("note", Text, "A word of theirs on it")),
    maybe(shown("silenced_until", Time, "Nobody is told of it until then")),
    wide("flapping", Boolean, "It came and went more than once of late"),
];

pub(super) const SILENCE: &[Property] = &[
    ID,
    maybe(shown("code", Text, "Only alarms with this code")),
    maybe(hidden("host", Text, "Only of this host (id)")),
    maybe(shown("host_name", Text, "Its name")),
    maybe(hidden("guest", Text, "Only of this guest (id)")),
    maybe(shown("guest_name", Text, "Its name")),
    wide("created", Time, "Made at"),
    shown("created_by", Text, "Who made it"),
    shown("until", Time, "Ends at"),
    restless(shown("holds", Boolean, "It has not ended")),
    maybe(shown("note", Text, "Why")),
];

pub(super) const NOTIFIER: &[Property] = &[
    NAME,
    shown("kind", Choice(NOTIFIER_KINDS), "By which way"),
    shown("severity", Choice(SEVERITIES), "Alarms that matter less are not told"),
    wide("gather_s", Integer, "What comes within this after the first change is told with it, s"),
    maybe(shown("server", Text, "Mail, syslog, SNMP: the server")),
    maybe(wide("security", Choice(NOTIFIER_SECURITY), "Mail: how the server is spoken to")),
    maybe(wide("user", Text, "Mail: the account; SNMP: the user of SNMPv3")),
    maybe(wide("from", Text, "Mail: the sender")),
    maybe(shown("to", TextList, "Mail: the receivers")),
    maybe(shown("url", Text, "Webhook: where to")),
    maybe(wide("file", Text, "File: where it is, below the aggregator's data folder")),
    maybe(wide("transport", Choice(NOTIFIER_TRANSPORTS), "Syslog: how it travels")),
    maybe(wide("hosts_too", Boolean, "SNMP: tells of what hosts tell by themselves too")),
    wide("secret_set", Boolean, "It has a secret"),
    wide("ca_set", Boolean, "It has certificates of its own to believe"),
    restless(shown("state", Choice(&["works", "failing", "untried"]), "How it does since the aggregator's start")),
    restless(maybe(shown("last_sent", Time, "Told something last at"))),
    restless(maybe(wide("failing_since", Time, "Fails since"))),
    restless(maybe(shown("last_error", Text, "Why"))),
    restless(wide("waiting", Integer, "Changes that it was not told yet")),
];
