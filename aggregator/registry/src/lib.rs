//! The one table of operations. REST routes, XML-RPC methods, OpenAPI, the words of the `roost` command and the names of
//! permissions are all made from it, so that no face can lack what another has. Pure data: no IO, no clock.

mod error;
mod lookup;
mod openapi;
mod schema;
mod table;

pub use error::{ErrorCode, error_code, error_codes};
pub use lookup::{Matched, find, find_cli, nouns, operations, route, verbs};
pub use openapi::openapi;
pub use schema::{Property, Schema, Show, schema, schemas};

/// Where the REST face lives below the server's address; the paths of the table are relative to it.
pub const BASE: &str = "/api/v1";

/// One thing a caller can ask for.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// `noun.verb`: the XML-RPC method and the OpenAPI `operationId`.
    pub name: &'static str,
    /// One short sentence, without a full stop.
    pub summary: &'static str,
    /// More, for the reference; may be empty.
    pub detail: &'static str,
    pub method: Http,
    /// Below [`BASE`]; `{x}` stands for one path segment and has a field of the same name.
    pub path: &'static str,
    /// Noun and verb of the `roost` command, when the command has one made from this table.
    pub cli: Option<Cli>,
    /// What a caller must be allowed; equal to `name` unless two operations are one right.
    pub permission: &'static str,
    pub kind: Kind,
    /// Its own inputs; lists have more, see [`Operation::fields`].
    pub inputs: &'static [Field],
    pub output: Output,
    /// Codes of [`error_codes`] it may answer with, beside those every operation may ([`Operation::error_codes`]).
    pub errors: &'static [&'static str],
    /// True: needs no log-in.
    pub public: bool,
    pub faces: Faces,
}

/// Noun and verb on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cli {
    pub noun: &'static str,
    pub verb: &'static str,
}

/// Faces that leave this operation out, each with its reason; the parity test accepts no other gap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faces {
    /// Why XML-RPC has no such method; absent: it has.
    pub no_xmlrpc: Option<&'static str>,
    /// Why the command has no such noun and verb; absent: it has.
    pub no_cli: Option<&'static str>,
}

/// HTTP method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Http {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

impl Http {
    /// As it stands in a request line.
    pub const fn word(self) -> &'static str {
        match self {
            Http::Get => "GET",
            Http::Post => "POST",
            Http::Put => "PUT",
            Http::Patch => "PATCH",
            Http::Delete => "DELETE",
        }
    }
}

/// What carrying it out means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Changes nothing.
    Read,
    /// Changes something at once.
    Write,
    /// Answers 202 with an operation that goes on.
    Slow,
}

/// One input.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub name: &'static str,
    pub place: Place,
    pub kind: FieldKind,
    pub required: bool,
    pub help: &'static str,
}

/// Where an input stands in a REST request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Path,
    Query,
    Body,
}

/// Type of an input or of a property of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    Text,
    /// Text never shown or kept: the command asks for it without echo.
    Secret,
    /// Long text: the command reads it from a file.
    Document,
    Integer,
    Number,
    Boolean,
    /// Whole seconds; the command also takes `90s`, `5m`, `2h`, `7d`.
    Seconds,
    /// RFC 3339, UTC.
    Time,
    Choice(&'static [&'static str]),
    TextList,
    /// An object of this schema.
    Object(&'static str),
    /// A list of objects of this schema.
    List(&'static str),
    /// Any object.
    Anything,
}

/// What comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// One object of this schema.
    Object(&'static str),
    /// `{"items": [...], "next": cursor, "total": n}` of this schema.
    List(&'static str),
    /// 202 and the operation (schema `operation`).
    Operation,
    /// 204.
    Nothing,
    /// A picture, `image/png`.
    Picture,
    /// Server-sent events whose data has this schema.
    Stream(&'static str),
}

impl Output {
    /// The schema of what comes back, when it has one.
    pub const fn schema(self) -> Option<&'static str> {
        match self {
            Output::Object(name) | Output::List(name) | Output::Stream(name) => Some(name),
            Output::Operation => Some("operation"),
            Output::Nothing | Output::Picture => None,
        }
    }
}

/// Inputs that every list takes beside its `format`. XML-RPC answers with an array alone, so it has no `cursor`, `total`
/// and `format`, and without `limit` it gives all there is.
pub const PAGE: &[Field] = &[
    Field::query("limit", FieldKind::Integer, "At most this many items (REST: default 100, at most 1000)"),
    Field::query(
        "offset",
        FieldKind::Integer,
        "Leave out this many first; items that come or go meanwhile shift the rest",
    ),
    Field::query("cursor", FieldKind::Text, "Go on where the page before ended: its `next`; nothing shifts"),
    Field::query("sort", FieldKind::Text, "Properties to sort by, `-` before one turns it round: -cpu_percent,name"),
    Field::query("fields", FieldKind::Text, "Only these properties, separated by commas"),
    Field::query("total", FieldKind::Boolean, "Also count all items"),
];

/// How a list is written. CSV, HTML and iqy are of the whole list unless `limit` says otherwise; iqy is a small file with
/// which Excel asks for the HTML, by a token of its own that is good for this list alone.
const FORMAT: &[Field] =
    &[Field::query("format", FieldKind::Choice(&["json", "csv", "html", "iqy"]), "How the list is written")];
/// Events may be Common Base Event 1.0.1 as well.
const FORMAT_OF_EVENTS: &[Field] =
    &[Field::query("format", FieldKind::Choice(&["json", "csv", "html", "iqy", "cbe"]), "How the list is written")];

impl Field {
    /// A path segment.
    pub const fn path(name: &'static str, help: &'static str) -> Self {
        Self { name, place: Place::Path, kind: FieldKind::Text, required: true, help }
    }

    /// An optional query parameter.
    pub const fn query(name: &'static str, kind: FieldKind, help: &'static str) -> Self {
        Self { name, place: Place::Query, kind, required: false, help }
    }

    /// An optional member of the body.
    pub const fn body(name: &'static str, kind: FieldKind, help: &'static str) -> Self {
        Self { name, place: Place::Body, kind, required: false, help }
    }

    /// The same, but it must be given.
    pub const fn required(mut self) -> Self {
        self.required = true;
        self
    }
}

/// Inputs of lists that make sense only where the answer is more than its items.
const PAGE_REST: &[&str] = &["cursor", "total", "format"];

impl Operation {
    /// Its own inputs, then those of every list if it is one.
    pub fn fields(&self) -> impl Iterator<Item = &'static Field> + use<> {
        let (page, format): (&'static [Field], &'static [Field]) = match self.output {
            Output::List("event") => (PAGE, FORMAT_OF_EVENTS),
            Output::List(_) => (PAGE, FORMAT),
            Output::Object(_) | Output::Operation | Output::Nothing | Output::Picture | Output::Stream(_) => (&[], &[]),
        };
        self.inputs.iter().chain(page).chain(format)
    }

    /// The inputs that the XML-RPC method takes.
    pub fn xmlrpc_fields(&self) -> impl Iterator<Item = &'static Field> + use<> {
        let list = matches!(self.output, Output::List(_));
        self.fields().filter(move |field| !(list && PAGE_REST.contains(&field.name)))
    }

    /// Parameters of the XML-RPC method after the session: the required ones in this order, then, where there are
    /// others, one struct with them that may be left out.
    pub fn positional(&self) -> impl Iterator<Item = &'static Field> + use<> {
        self.fields().filter(|field| field.required)
    }

    /// True: a repeat with the same Idempotency-Key is answered, not carried out again. Whoever logs in again gets another
    /// session: a kept answer would open one without the password being looked at.
    pub fn keyed(&self) -> bool {
        self.method == Http::Post && !self.public
    }

    /// True: its answer has an ETag, and If-None-Match counts.
    pub fn versioned(&self) -> bool {
        self.method == Http::Get && matches!(self.output, Output::Object(_))
    }

    /// True: it changes one thing that can be read, and If-Match counts.
    pub fn conditional(&self) -> bool {
        self.kind != Kind::Read && self.inputs.iter().any(|field| field.place == Place::Path)
    }

    /// Everything it may answer with, its own codes and those of every operation.
    pub fn error_codes(&self) -> Vec<&'static ErrorCode> {
        error::of(self)
    }
}
