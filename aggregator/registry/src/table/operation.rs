//! Operations: slow work that goes on after the answer.

use super::{cli, read, write};
use crate::{Field, FieldKind, Http, Operation, Output};

const ID: Field = Field::path("id", "The operation's id");
const STATES: &[&str] = &["queued", "running", "succeeded", "failed", "cancelled"];

pub(super) const TABLE: &[Operation] = &[
    Operation {
        inputs: &[
            Field::query("state", FieldKind::Choice(STATES), "Only operations in this state"),
            Field::query("resource", FieldKind::Text, "Only operations on this host or guest (id)"),
        ],
        cli: cli("operation", "list"),
        ..read("operation.list", "List operations, newest first", "/operations", Output::List("operation"))
    },
    Operation {
        inputs: &[
            ID,
            Field::query("wait", FieldKind::Seconds, "Answer when it has ended, or after this long (at most 60)"),
        ],
        errors: &["not_found"],
        cli: cli("operation", "get"),
        ..read("operation.get", "Show one operation", "/operations/{id}", Output::Object("operation"))
    },
    Operation {
        detail: "Answers with the operation as it is then, ended or not.",
        inputs: &[ID, Field::query("seconds", FieldKind::Seconds, "How long to wait (at most 60)").required()],
        errors: &["not_found"],
        permission: "operation.get",
        cli: cli("operation", "wait"),
        ..read("operation.wait", "Wait for an operation to end", "/operations/{id}/wait", Output::Object("operation"))
    },
    Operation {
        detail: "Only what is not yet begun can be cancelled.",
        inputs: &[ID],
        errors: &["not_found", "wrong_state"],
        cli: cli("operation", "cancel"),
        ..write(
            "operation.cancel",
            "Cancel an operation",
            Http::Delete,
            "/operations/{id}",
            Output::Object("operation"),
        )
    },
];
