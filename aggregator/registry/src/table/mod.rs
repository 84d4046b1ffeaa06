//! The table itself, one file a noun or a family of nouns.

mod access;
mod backup;
mod failover;
mod grid;
mod guest;
mod history;
mod host;
mod notify;
mod operation;

use std::sync::LazyLock;

use crate::{Cli, Faces, Field, Http, Kind, Operation, Output};

pub(crate) static ALL: LazyLock<Vec<Operation>> = LazyLock::new(|| {
    let parts = [host::TABLE, guest::TABLE, failover::TABLE, history::TABLE, operation::TABLE, grid::TABLE]
        .into_iter()
        .chain(backup::TABLE.iter().copied());
    let parts = parts.chain(notify::TABLE.iter().copied()).chain(access::TABLE.iter().copied());
    parts.flatten().copied().collect()
});

const REF_HOST: Field = Field::path("ref", "The host: its id, or its name when only one has it");
const REF_GUEST: Field = Field::path("ref", "The guest: its id, or its name when only one has it");

/// What most operations share; the tables say what differs.
const COMMON: Operation = Operation {
    name: "",
    summary: "",
    detail: "",
    method: Http::Get,
    path: "",
    cli: None,
    permission: "",
    kind: Kind::Read,
    inputs: &[],
    output: Output::Nothing,
    errors: &[],
    public: false,
    faces: Faces { no_xmlrpc: None, no_cli: None },
};

/// Of what is looked at on a host.
const LOOK: &[&str] = &[
    "not_found",
    "ambiguous",
    "wrong_state",
    "invalid",
    "hypervisor",
    "hypervisor_away",
    "host_unreachable",
    "timed_out",
    "busy",
    "no_space",
];

const fn cli(noun: &'static str, verb: &'static str) -> Option<Cli> {
    Some(Cli { noun, verb })
}

const fn read(name: &'static str, summary: &'static str, path: &'static str, output: Output) -> Operation {
    Operation { name, summary, path, permission: name, output, ..COMMON }
}

const fn write(
    name: &'static str,
    summary: &'static str,
    method: Http,
    path: &'static str,
    output: Output,
) -> Operation {
    Operation { name, summary, method, path, permission: name, kind: Kind::Write, output, ..COMMON }
}

const fn slow(name: &'static str, summary: &'static str, method: Http, path: &'static str) -> Operation {
    Operation { name, summary, method, path, permission: name, kind: Kind::Slow, output: Output::Operation, ..COMMON }
}
