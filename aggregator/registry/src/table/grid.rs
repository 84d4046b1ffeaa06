//! The grid as a whole, and what happens in it.

use super::{cli, read};
use crate::{Faces, Field, FieldKind, Operation, Output};

const KIND: Field = Field::query("kind", FieldKind::Text, "Only events whose kind starts with this, such as guest.");

pub(super) const TABLE: &[Operation] = &[
    Operation {
        cli: cli("grid", "get"),
        ..read("grid.get", "Show the grid as a whole", "/grid", Output::Object("grid"))
    },
    Operation {
        inputs: &[Field::query("since", FieldKind::Integer, "Only events after this sequence number"), KIND],
        errors: &["trimmed"],
        cli: cli("event", "list"),
        ..read("event.list", "List events, oldest first", "/events", Output::List("event"))
    },
    Operation {
        detail: "Server-sent events; resume with the header Last-Event-ID. A comment every 15 s keeps the connection open.",
        inputs: &[Field::query("since", FieldKind::Integer, "Begin after this sequence number"), KIND],
        errors: &["trimmed"],
        permission: "event.list",
        faces: Faces {
            no_xmlrpc: Some("XML-RPC has no streams; poll event.list with `since`"),
            no_cli: Some("`roost events -f` follows the stream"),
        },
        ..read("event.stream", "Follow events as they happen", "/events/stream", Output::Stream("event"))
    },
];
