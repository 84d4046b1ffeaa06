//! Hosts.

use super::{REF_HOST, cli, read, write};
use crate::{Field, FieldKind, Http, Operation, Output};

pub(super) const TABLE: &[Operation] = &[
    Operation {
        inputs: &[
            Field::query("name", FieldKind::Text, "Only hosts whose name contains this"),
            Field::query("state", FieldKind::Choice(&["up", "suspect", "down", "never"]), "Only hosts in this state"),
        ],
        cli: cli("host", "list"),
        ..read("host.list", "List hosts", "/hosts", Output::List("host"))
    },
    Operation {
        inputs: &[REF_HOST],
        errors: &["not_found", "ambiguous"],
        cli: cli("host", "get"),
        ..read("host.get", "Show one host", "/hosts/{ref}", Output::Object("host"))
    },
    Operation {
        detail: "Its guests, one after the other, as far as the memory of those that have their copies goes; those that \
                 are off stay off there.",
        inputs: &[REF_HOST],
        errors: &["not_found", "ambiguous"],
        cli: cli("host", "if-lost"),
        ..read(
            "host.if_lost",
            "Show who would go on with a host's guests if it died now",
            "/hosts/{ref}/if-lost",
            Output::List("loss"),
        )
    },
    Operation {
        detail: "As its agent saw it within the last seconds: what is there, what was promised, what merging and balloons \
                 save, and the largest guest that could be started.",
        inputs: &[REF_HOST],
        errors: &["not_found", "ambiguous"],
        cli: cli("host", "memory"),
        ..read(
            "host.memory",
            "Show how a host's memory is shared out",
            "/hosts/{ref}/memory",
            Output::Object("host_memory"),
        )
    },
    Operation {
        detail: "The last 64 things that its agent did, newest first, each with its chain of causes and their numbers.",
        inputs: &[REF_HOST],
        errors: &["not_found", "ambiguous"],
        cli: cli("host", "explain-memory"),
        ..read(
            "host.explain_memory",
            "Tell what a host did about its memory, and why",
            "/hosts/{ref}/memory/acts",
            Output::List("memory_act"),
        )
    },
    Operation {
        detail: "It gets no new guests and replicas, and takes over nothing; its own guests stay and go on.",
        inputs: &[REF_HOST],
        errors: &["not_found", "ambiguous"],
        cli: cli("host", "maintenance"),
        ..write(
            "host.maintenance",
            "Keep new guests, replicas and takeovers off a host",
            Http::Post,
            "/hosts/{ref}/actions/maintenance",
            Output::Object("host"),
        )
    },
    Operation {
        detail: "Maintenance, and its protected guests are handed over, two at a time; `roost host get` shows how far it \
                 is, `roost host if-lost` what stays and why. It is kept empty until `roost host resume`.",
        inputs: &[REF_HOST],
        errors: &["not_found", "ambiguous"],
        cli: cli("host", "drain"),
        ..write(
            "host.drain",
            "Hand a host's protected guests over to other hosts",
            Http::Post,
            "/hosts/{ref}/actions/drain",
            Output::Object("host"),
        )
    },
    Operation {
        detail: "Guests that were handed over stay where they are.",
        inputs: &[REF_HOST],
        errors: &["not_found", "ambiguous"],
        cli: cli("host", "resume"),
        ..write(
            "host.resume",
            "End a host's maintenance",
            Http::Post,
            "/hosts/{ref}/actions/resume",
            Output::Object("host"),
        )
    },
    Operation {
        detail: "A rack, a power feed, a room: what fails at once. New replicas go to other zones where there is room, and \
                 the hosts that vote on a guest are chosen from as many as there are; what stands stays where it is.",
        inputs: &[
            REF_HOST,
            Field::body("zone", FieldKind::Text, "Its zone, such as rack-3; empty: not known").required(),
        ],
        errors: &["not_found", "ambiguous"],
        cli: cli("host", "set-zone"),
        ..write(
            "host.set_zone",
            "Tell what falls together with a host",
            Http::Post,
            "/hosts/{ref}/actions/set-zone",
            Output::Object("host"),
        )
    },
    Operation {
        detail: "Its key is refused from then on; its guests go on running. To bring the machine back, join it anew.",
        inputs: &[REF_HOST],
        errors: &["not_found", "ambiguous"],
        cli: cli("host", "remove"),
        ..write("host.remove", "Remove a host from the grid", Http::Delete, "/hosts/{ref}", Output::Nothing)
    },
];
