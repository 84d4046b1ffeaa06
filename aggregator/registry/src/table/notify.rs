//! Alarms of the grid, silences, and notifiers.

use super::{cli, read, write};
use crate::schema::{NOTIFIER_KINDS, NOTIFIER_SECURITY, NOTIFIER_TRANSPORTS, SEVERITIES};
use crate::{Field, FieldKind, Http, Operation, Output};

const ID: Field = Field::path("id", "Its id");
const NAME: Field = Field::path("name", "The notifier's name");
const NEW_NAME: Field =
    Field::body("name", FieldKind::Text, "Its name: a-z, digits, dots, dashes, underscores").required();
const KIND: Field = Field::body("kind", FieldKind::Choice(NOTIFIER_KINDS), "By which way").required();
const SEVERITY: Field =
    Field::body("severity", FieldKind::Choice(SEVERITIES), "Alarms that matter less are not told (default: warning)");
const GATHER: Field = Field::body(
    "gather_s",
    FieldKind::Seconds,
    "What comes within this after the first change is told with it (default: 30 s for mail, 2 s else)",
);
const SERVER: Field = Field::body("server", FieldKind::Text, "Mail, syslog, SNMP: NAME:PORT of the server");
const SECURITY: Field = Field::body(
    "security",
    FieldKind::Choice(NOTIFIER_SECURITY),
    "Mail: how the server is spoken to (default: starttls, and nothing is sent without it)",
);
const USER: Field = Field::body(
    "user",
    FieldKind::Text,
    "Mail: the account; its password is the secret. SNMP: the user of SNMPv3 informs; without one v2c traps are sent",
);
const HOSTS_TOO: Field = Field::body(
    "hosts_too",
    FieldKind::Boolean,
    "SNMP: tell of alarms of hosts too, which their own snmpd may have told (default: false)",
);
const FROM: Field = Field::body("from", FieldKind::Text, "Mail: the sender's address");
const TO: Field = Field::body("to", FieldKind::TextList, "Mail: addresses of the receivers");
const URL: Field = Field::body("url", FieldKind::Text, "Webhook: where to POST to");
const TRANSPORT: Field =
    Field::body("transport", FieldKind::Choice(NOTIFIER_TRANSPORTS), "Syslog: how it travels (default: udp)");
const CA: Field = Field::body("ca", FieldKind::Document, "Certificates to believe besides the machine's, PEM");
const SECRET: Field = Field::body(
    "secret",
    FieldKind::Secret,
    "Mail: the account's password; webhook: the key of the signature; SNMP: \
     the community, or the user's password for SHA-256 and AES. Never shown again; empty: none",
);

const NOT_FOUND: &[&str] = &["not_found"];

const ALARMS: &[Operation] = &[
    Operation {
        detail: "Of the whole grid, newest first: what, since when, why, what to do.",
        inputs: &[
            Field::query("severity", FieldKind::Choice(SEVERITIES), "Only those that matter at least so much"),
            Field::query("host", FieldKind::Text, "Only of this host (id or name)"),
            Field::query("guest", FieldKind::Text, "Only of this guest (id or name)"),
        ],
        errors: &["not_found", "ambiguous"],
        cli: cli("alarm", "list"),
        ..read("alarm.list", "List alarms that stand", "/alarms", Output::List("grid_alarm"))
    },
    Operation {
        inputs: &[ID],
        errors: NOT_FOUND,
        cli: cli("alarm", "get"),
        ..read("alarm.get", "Show one alarm that stands", "/alarms/{id}", Output::Object("grid_alarm"))
    },
    Operation {
        detail: "Whoever was not told of it yet is not told any more; that it is over is told to those who were.",
        inputs: &[ID, Field::body("note", FieldKind::Text, "A word on it, for the others")],
        errors: &["not_found", "invalid"],
        cli: cli("alarm", "acknowledge"),
        ..write(
            "alarm.acknowledge",
            "Say that you look after an alarm",
            Http::Post,
            "/alarms/{id}/actions/acknowledge",
            Output::Nothing,
        )
    },
    Operation {
        inputs: &[ID],
        errors: NOT_FOUND,
        cli: cli("alarm", "unacknowledge"),
        ..write(
            "alarm.unacknowledge",
            "Say that nobody looks after an alarm any more",
            Http::Post,
            "/alarms/{id}/actions/unacknowledge",
            Output::Nothing,
        )
    },
];

const SILENCES: &[Operation] = &[
    Operation {
        detail: "Newest first; ended ones are kept for a day.",
        cli: cli("silence", "list"),
        ..read("silence.list", "List silences", "/silences", Output::List("silence"))
    },
    Operation {
        inputs: &[ID],
        errors: NOT_FOUND,
        cli: cli("silence", "get"),
        ..read("silence.get", "Show one silence", "/silences/{id}", Output::Object("silence"))
    },
    Operation {
        detail: "Alarms that fit all of what is said are told to nobody until it ends; what still stands then is told.",
        inputs: &[
            Field::body("for_s", FieldKind::Seconds, "How long").required(),
            Field::body("code", FieldKind::Text, "Only alarms with this code"),
            Field::body("host", FieldKind::Text, "Only of this host (id or name)"),
            Field::body("guest", FieldKind::Text, "Only of this guest (id or name)"),
            Field::body("note", FieldKind::Text, "Why, for the others"),
        ],
        errors: &["not_found", "ambiguous", "invalid"],
        cli: cli("silence", "create"),
        ..write(
            "silence.create",
            "Tell nobody of some alarms for a while",
            Http::Post,
            "/silences",
            Output::Object("silence"),
        )
    },
    Operation {
        inputs: &[ID],
        errors: NOT_FOUND,
        cli: cli("silence", "delete"),
        ..write("silence.delete", "End a silence", Http::Delete, "/silences/{id}", Output::Nothing)
    },
];

const NOTIFIERS: &[Operation] = &[
    Operation {
        cli: cli("notifier", "list"),
        ..read("notifier.list", "List notifiers and how they do", "/notifiers", Output::List("notifier"))
    },
    Operation {
        inputs: &[NAME],
        errors: NOT_FOUND,
        cli: cli("notifier", "get"),
        ..read("notifier.get", "Show one notifier", "/notifiers/{name}", Output::Object("notifier"))
    },
    Operation {
        detail: "It is told at once of what stands. Webhooks get Alertmanager's body (version 4), signed by X-Roost-Signature \
                 where there is a secret: t=SECONDS,v1=HMAC-SHA256 of SECONDS.BODY. Syslog is RFC 5424. SNMP sends ROOST-MIB's notifications, only of what no host \
                 tells by itself unless hosts_too says otherwise. A file gets a line for each: Common Base Event 1.0.1 as XML; it is \
                 events/NAME.xml below the aggregator's data folder, at 8 MiB it becomes NAME.xml.1, and the last four of them are kept.",
        inputs: &[
            NEW_NAME, KIND, SEVERITY, GATHER, SERVER, SECURITY, USER, FROM, TO, URL, TRANSPORT, HOSTS_TOO, SECRET, CA,
        ],
        errors: &["invalid", "already_exists"],
        cli: cli("notifier", "create"),
        ..write("notifier.create", "Add a notifier", Http::Post, "/notifiers", Output::Object("notifier"))
    },
    Operation {
        detail: "What is left out gets its default; only the secret stays as long as the receiver is the same.",
        inputs: &[
            NAME, KIND, SEVERITY, GATHER, SERVER, SECURITY, USER, FROM, TO, URL, TRANSPORT, HOSTS_TOO, SECRET, CA,
        ],
        errors: &["not_found", "invalid"],
        cli: cli("notifier", "replace"),
        ..write("notifier.replace", "Change a notifier", Http::Put, "/notifiers/{name}", Output::Object("notifier"))
    },
    Operation {
        inputs: &[NAME],
        errors: NOT_FOUND,
        cli: cli("notifier", "delete"),
        ..write("notifier.delete", "Delete a notifier", Http::Delete, "/notifiers/{name}", Output::Nothing)
    },
    Operation {
        detail: "Answers when it has arrived, or with the reason why it did not.",
        inputs: &[NAME],
        errors: &["not_found", "target_away"],
        cli: cli("notifier", "test"),
        ..write(
            "notifier.test",
            "Send a test notification",
            Http::Post,
            "/notifiers/{name}/actions/test",
            Output::Nothing,
        )
    },
];

/// Alarms, silences, notifiers.
pub(super) const TABLE: &[&[Operation]] = &[ALARMS, SILENCES, NOTIFIERS];
