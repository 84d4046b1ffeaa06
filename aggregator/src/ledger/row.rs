//! How an operation and its checksum stand in a row. Checksums find what the database's own check can't: bytes changed
//! inside a value.

use ring::digest::{SHA256, digest};
use roost_aggregator_core::account::Account;
use roost_aggregator_core::operation::{Operation, State};
use roost_protocol::operation::Failure;
use roost_protocol::{GuestId, HostId, OperationId, Stamp, codec};
use rusqlite::Row;

use super::LedgerError;

/// First 8 bytes of SHA-256 over a row's values.
pub(super) fn sum(bytes: &[u8]) -> i64 {
    let mut first = [0u8; 8];
    first.copy_from_slice(&digest(&SHA256, bytes).as_ref()[..8]);
    i64::from_be_bytes(first)
}

/// SQLite's integers are signed; a stamp beyond them would be 292 million years ahead.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The way back; negative values are never written.
pub(super) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// The stable word of a state.
pub(super) fn word(state: &State) -> &'static str {
    match state {
        State::Queued => "queued",
        State::Running => "running",
        State::Succeeded => "succeeded",
        State::Failed(_) => "failed",
        State::Cancelled => "cancelled",
    }
}

/// Why it failed, if it did.
pub(super) fn failure(state: &State) -> Option<Vec<u8>> {
    match state {
        State::Failed(failure) => Some(codec::encode(failure)),
        State::Queued | State::Running | State::Succeeded | State::Cancelled => None,
    }
}

/// Checksum over all values of an operation.
pub(super) fn operation_sum(operation: &Operation) -> i64 {
    let who = (operation.id, operation.host, operation.guest, &operation.guest_name, &operation.created_by);
    let when = (operation.created, operation.ended, operation.expires);
    let how = (word(&operation.state), failure(&operation.state), operation.percent, &operation.step, &operation.key);
    let mut bytes = codec::encode(&who);
    bytes.extend(codec::encode(&operation.verb));
    bytes.extend(codec::encode(&when));
    bytes.extend(codec::encode(&how));
    // Rows of older versions have none, and a sum without it.
    if let Some(started) = operation.started {
        bytes.extend(codec::encode(&started));
    }
    sum(&bytes)
}

/// An account as one text: user names have no slash.
pub(super) fn account(account: &Account) -> String {
    match account {
        Account::User(name) => format!("user/{name}"),
        Account::ApiToken(id) => format!("api_token/{id}"),
    }
}

/// The way back.
pub(super) fn account_of(text: &str) -> Option<Account> {
    match text.split_once('/')? {
        ("user", name) => Some(Account::User(name.to_owned())),
        ("api_token", id) => Some(Account::ApiToken(id.to_owned())),
        (_, _) => None,
    }
}

/// The columns [`operation`] reads, in this order.
pub(super) const OPERATION_COLUMNS: &str = "id, host, guest, guest_name, verb, created_by, created, ended, expires, \
                                            state, failure, percent, step, idempotency_key, sum, started";

/// The operation in this row, checked.
pub(super) fn operation(row: &Row<'_>) -> Result<Operation, LedgerError> {
    let state: String = row.get(9)?;
    let failure: Option<Vec<u8>> = row.get(10)?;
    let operation = Operation {
        id: OperationId::from_bytes(row.get(0)?),
        host: HostId::from_bytes(row.get(1)?),
        guest: GuestId::from_bytes(row.get(2)?),
        guest_name: row.get(3)?,
        verb: codec::decode(&row.get::<_, Vec<u8>>(4)?).map_err(|_| LedgerError::Row("operation"))?,
        created_by: row.get(5)?,
        created: Stamp(unsigned(row.get(6)?)),
        ended: row.get::<_, Option<i64>>(7)?.map(|at| Stamp(unsigned(at))),
        expires: Stamp(unsigned(row.get(8)?)),
        state: state_of(&state, failure.as_deref())?,
        percent: row.get(11)?,
        step: row.get(12)?,
        key: row.get(13)?,
        started: row.get::<_, Option<i64>>(15)?.map(|at| Stamp(unsigned(at))),
    };
    match operation_sum(&operation) == row.get::<_, i64>(14)? {
        true => Ok(operation),
        false => Err(LedgerError::Row("operation")),
    }
}

fn state_of(word: &str, failure: Option<&[u8]>) -> Result<State, LedgerError> {
    match (word, failure) {
        ("queued", None) => Ok(State::Queued),
        ("running", None) => Ok(State::Running),
        ("succeeded", None) => Ok(State::Succeeded),
        ("cancelled", None) => Ok(State::Cancelled),
        ("failed", Some(bytes)) => match codec::decode::<Failure>(bytes) {
            Ok(failure) => Ok(State::Failed(failure)),
            Err(_) => Err(LedgerError::Row("operation")),
        },
        (_, Some(_) | None) => Err(LedgerError::Row("operation")),
    }
}
