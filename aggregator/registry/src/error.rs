//! Stable error codes: the same word in REST problems, XML-RPC faults and the command's messages.

use crate::{Kind, Operation};

/// One reason for "no".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorCode {
    pub code: &'static str,
    /// HTTP status.
    pub status: u16,
    /// XML-RPC fault code.
    pub fault: i32,
    /// One short sentence for people.
    pub title: &'static str,
}

const fn code(code: &'static str, status: u16, fault: i32, title: &'static str) -> ErrorCode {
    ErrorCode { code, status, fault, title }
}

static CODES: &[ErrorCode] = &[
    code("bad_request", 400, -32600, "The request can't be read"),
    code("login_required", 401, 4010, "Log in first"),
    code("login_failed", 401, 4010, "User or password is wrong"),
    code("forbidden", 403, 4030, "Not allowed"),
    code("not_found", 404, 4040, "There is no such thing"),
    code("method_not_allowed", 405, -32601, "The path has no such method"),
    code("already_exists", 409, 4090, "Name or id is taken"),
    code("ambiguous", 409, 4090, "The name stands for several; use the id"),
    code("wrong_state", 409, 4090, "Not possible in the present state"),
    code("unplaceable", 409, 4090, "No host can take the guest"),
    code("cancelled", 409, 4090, "Cancelled before it was begun"),
    code("stale_epoch", 409, 4090, "The command came from an older aggregator"),
    code("in_progress", 409, 4090, "The same request is being carried out"),
    code("trimmed", 410, 4040, "Events that old are no longer kept"),
    code("changed", 412, 4120, "It was changed meanwhile"),
    code("too_large", 413, 4220, "The body is too large"),
    code("unsupported_media_type", 415, -32600, "The body must be JSON"),
    code("misdirected", 421, -32600, "The aggregator has no such name"),
    code("invalid", 422, 4220, "The input is not acceptable"),
    code("damaged", 422, 4220, "The restore point is damaged"),
    code("unsupported", 422, 4220, "This host, or its version, can't do it"),
    code("hypervisor", 422, 4220, "The hypervisor refused"),
    code("key_reused", 422, 4220, "The idempotency key stands for another request"),
    code("slow_down", 429, 4290, "Too many requests"),
    code("internal", 500, -32603, "A fault of our own"),
    code("interrupted", 500, -32603, "It broke off in the middle and was not repeated"),
    code("host_unreachable", 503, 5030, "The host is not connected"),
    code("hypervisor_away", 503, 5030, "The host's hypervisor service is away"),
    code("target_away", 503, 5030, "The host or folder for the copy is away, or refused"),
    code("not_ready", 503, 5030, "The service is starting"),
    code("busy", 503, 5030, "Too much at once; try again"),
    code("timed_out", 504, 5040, "Not done in time"),
    code("no_space", 507, 5030, "A disk is full"),
];

/// Codes every operation may answer with.
const ALWAYS: &[&str] = &["bad_request", "misdirected", "forbidden", "slow_down", "internal", "not_ready"];
/// Codes of everything that reaches a host; they may also come later, in the operation's `error`.
const SLOW: &[&str] = &[
    "wrong_state",
    "hypervisor",
    "hypervisor_away",
    "host_unreachable",
    "timed_out",
    "stale_epoch",
    "interrupted",
    "no_space",
    "target_away",
    "damaged",
    "unsupported",
    "cancelled",
    "busy",
];

/// All codes, by status.
pub fn error_codes() -> &'static [ErrorCode] {
    CODES
}

/// The code of this word.
pub fn error_code(code: &str) -> Option<&'static ErrorCode> {
    CODES.iter().find(|known| known.code == code)
}

pub(crate) fn of(operation: &Operation) -> Vec<&'static ErrorCode> {
    let slow: &[&str] = match operation.kind {
        Kind::Slow => SLOW,
        Kind::Read | Kind::Write => &[],
    };
    let keyed: &[&str] = if operation.keyed() { &["key_reused", "in_progress"] } else { &[] };
    let conditional: &[&str] = if operation.conditional() { &["changed"] } else { &[] };
    let login: &[&str] = if operation.public { &[] } else { &["login_required"] };
    let wanted = |known: &&ErrorCode| {
        [ALWAYS, slow, keyed, conditional, login, operation.errors].iter().any(|set| set.contains(&known.code))
    };
    CODES.iter().filter(wanted).collect()
}
