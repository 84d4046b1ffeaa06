//! A machine joins: its token is checked, its key certified. Nothing is stored unless all of it is right; the core alone
//! decides, durably, that a token was used.

use std::net::IpAddr;

use roost_aggregator_core::call::{Call, CallError, CallErrorCode};
use roost_aggregator_core::intent::{HostRecord, Intent, JoinTokenRecord};
use roost_protocol::HostId;
use roost_protocol::enrol::{EXPORTER, EnrolAnswer, EnrolRefusal, EnrolRequest, NAME, check_proof};
use roost_protocol::identity::{Fingerprint, request_fingerprint};
use roost_protocol::transport::{self, CloseCode, FIRST_MESSAGE, Peer, TransportError};

use super::Shared;
use crate::clock::wall;

/// Why not, and what to tell the person at the machine.
struct No(EnrolRefusal, String);

/// One request, one answer.
pub(super) async fn serve(peer: &Peer, shared: &Shared) -> Result<(), TransportError> {
    let (mut reader, mut writer) = peer.accept().await?;
    let request: EnrolRequest = reader.recv_within(FIRST_MESSAGE).await?;
    let exporter = transport::exporter(&peer.connection)?;
    let from = peer.connection.remote_address().ip().to_canonical();
    let token = request.token_id.chars().take(32).collect::<String>();
    let answer = match attempt(request, &exporter, from, shared).await {
        Ok(answer) => answer,
        Err(No(reason, text)) => {
            tracing::warn!(%from, token, ?reason, "a machine could not join: {text}");
            EnrolAnswer::Refused { reason, text }
        }
    };
    writer.send(&answer).await?;
    // The applicant may hang up as soon as it has read the answer.
    let _hung_up = writer.finish().await;
    peer.connection.close(CloseCode::Done.into(), b"answered");
    Ok(())
}

async fn attempt(
    request: EnrolRequest,
    exporter: &[u8; EXPORTER],
    from: IpAddr,
    shared: &Shared,
) -> Result<EnrolAnswer, No> {
    if !shared.attempts.may_try(from, shared.clock.now()) {
        return Err(No(EnrolRefusal::TooMany, "too many attempts; wait a minute and try again".to_owned()));
    }
    let result = enrol(request, exporter, from, shared).await;
    if result.is_err() {
        shared.attempts.failed(from, shared.clock.now());
    }
    result
}

async fn enrol(
    request: EnrolRequest,
    exporter: &[u8; EXPORTER],
    from: IpAddr,
    shared: &Shared,
) -> Result<EnrolAnswer, No> {
    let key = checked_key(&request)?;
    let (id, wanted) = (request.token_id.clone(), request.host);
    let looked = shared.handle.read(move |grid, _, _| {
        let token = grid.intent().join_tokens.get(&id).cloned();
        let again = token.as_ref().and_then(|token| used_by_same(grid.intent(), token, key));
        (token, again, known_id(grid.intent(), wanted, key))
    });
    let (token, again, known) = looked.await.map_err(|away| No(EnrolRefusal::TooMany, away.to_string()))?;
    let Some(token) = token else {
        let text = "this aggregator does not know the join token; it may have been deleted: make a new one";
        return Err(No(EnrolRefusal::UnknownToken, text.to_owned()));
    };
    if !check_proof(&request, &token.secret_hash, exporter) {
        let text = "the join token is wrong, or somebody stands between this machine and the aggregator";
        return Err(No(EnrolRefusal::BadProof, text.to_owned()));
    }
    let host = again.or(known).unwrap_or_else(|| HostId::from(uuid::Uuid::new_v4()));
    let now = wall();
    let chain = shared.handle.key.issue_host(&request.csr, host, shared.host_lifetime, now).map_err(bad_request)?;
    if again.is_none() {
        let record = HostRecord::new(request.name, key.0, now);
        let call = Call::Enrol { host, record, token: request.token_id };
        shared.handle.call(&format!("join from {from}"), call).await.map_err(refused)?;
    }
    let (grid, ca) = (shared.handle.key.grid_id(), shared.handle.key.ca_certificate().clone());
    Ok(EnrolAnswer::Accepted { host, chain, grid, ca })
}

/// The key to be certified, once name and request are of the right shape.
fn checked_key(request: &EnrolRequest) -> Result<Fingerprint, No> {
    if !is_host_name(&request.name) {
        let text = format!("a host's name has 1 to {NAME} letters a-z, digits, dots, dashes or underscores");
        return Err(No(EnrolRefusal::BadRequest, text));
    }
    request_fingerprint(&request.csr).map_err(bad_request)
}

/// What a host may be called.
pub(crate) fn is_host_name(name: &str) -> bool {
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=NAME).contains(&name.len()) && name.bytes().all(letters)
}

fn bad_request(error: roost_protocol::identity::IdentityError) -> No {
    No(EnrolRefusal::BadRequest, crate::chain(&error))
}

/// The answer to the same machine was lost on the way: it has the secret and the very key, so it may ask again.
fn used_by_same(intent: &Intent, token: &JoinTokenRecord, key: Fingerprint) -> Option<HostId> {
    let host = token.used_by?;
    intent.hosts.get(&host).filter(|record| record.key == key.0 && record.removed.is_none()).map(|_| host)
}

/// The id that a returning machine gets: the one it had, unless another key holds it; or the one its key had.
fn known_id(intent: &Intent, wanted: Option<HostId>, key: Fingerprint) -> Option<HostId> {
    let free = |id: &HostId| intent.hosts.get(id).is_none_or(|record| record.key == key.0 || record.removed.is_some());
    let by_key = || intent.hosts.iter().find(|(_, record)| record.key == key.0).map(|(id, _)| *id);
    wanted.filter(free).or_else(by_key)
}

fn refused(error: CallError) -> No {
    let reason = match error.code {
        CallErrorCode::NotFound => EnrolRefusal::UnknownToken,
        CallErrorCode::WrongState => EnrolRefusal::UsedToken,
        CallErrorCode::Invalid => EnrolRefusal::ExpiredToken,
        CallErrorCode::TooMany | CallErrorCode::Storage => EnrolRefusal::TooMany,
        CallErrorCode::AlreadyExists
        | CallErrorCode::Unplaceable
        | CallErrorCode::HostUnreachable
        | CallErrorCode::Changed
        | CallErrorCode::KeyReused => EnrolRefusal::BadRequest,
    };
    No(reason, error.text)
}
