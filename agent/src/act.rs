//! What the agent does to guests: one task at a time per guest, in workers that may hang without harm to others.

pub(crate) mod apart;
pub(crate) mod backup;
pub(crate) mod balloon;
pub(crate) mod copy;
pub(crate) mod create;
pub(crate) mod domain;
pub(crate) mod fence;
pub(crate) mod image;
pub(crate) mod import;
pub(crate) mod ksm;
pub(crate) mod nbd;
pub(crate) mod picture;
pub(crate) mod place;
pub(crate) mod points;
pub(crate) mod prove;
pub(crate) mod reboot;
pub(crate) mod restore;
#[cfg(test)]
mod test;
pub(crate) mod watchdog;
pub(crate) mod xml;

use std::io::ErrorKind;

use roost_protocol::operation::{Failure, FailureCode};

/// A "no" with its reason.
pub(crate) fn failure(code: FailureCode, text: impl Into<String>) -> Failure {
    Failure { code, text: text.into() }
}

/// What was tried, and what the system said.
pub(crate) fn io_failure(tried: impl std::fmt::Display, error: &std::io::Error) -> Failure {
    let full = matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
    let code = if full { FailureCode::NoSpace } else { FailureCode::Internal };
    failure(code, format!("{tried}: {error}"))
}
