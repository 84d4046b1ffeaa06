//! How this machine becomes a host: over a connection pinned to the key that the token names.

use std::net::SocketAddr;
use std::time::Duration;

use quinn::Endpoint;
use roost_protocol::HostId;
use roost_protocol::enrol::{EnrolAnswer, EnrolRefusal, EnrolRequest, JoinToken};
use roost_protocol::host::HostFacts;
use roost_protocol::identity::{HostKey, IdentityError, peer_identity};
use roost_protocol::transport::{self, CloseCode, Purpose, TransportError};

use super::identity::{Membership, Store, StoreError};

/// An aggregator that writes the new host to its disk first may take this long.
const ANSWER: Duration = Duration::from_secs(30);

/// Why it did not become one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JoinError {
    #[error("find the aggregator {address}")]
    Resolve { address: String, source: std::io::Error },
    #[error("reach the aggregator {address}")]
    Reach { address: String, source: TransportError },
    #[error("talk to the aggregator")]
    Talk(#[from] TransportError),
    #[error("the aggregator refused: {text}")]
    Refused { reason: EnrolRefusal, text: String },
    #[error("the aggregator's answer does not fit: {0}")]
    Misfit(&'static str),
    #[error("use the host's key or certificate")]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl JoinError {
    /// True where trying again with the same token is pointless.
    pub(crate) fn hopeless(&self) -> bool {
        match self {
            Self::Refused { reason, .. } => match reason {
                EnrolRefusal::UnknownToken
                | EnrolRefusal::UsedToken
                | EnrolRefusal::ExpiredToken
                | EnrolRefusal::BadProof
                | EnrolRefusal::BadRequest => true,
                EnrolRefusal::TooMany => false,
            },
            Self::Resolve { .. }
            | Self::Reach { .. }
            | Self::Talk(_)
            | Self::Misfit(_)
            | Self::Identity(_)
            | Self::Store(_) => false,
        }
    }
}

/// What a machine says of itself when it joins.
#[derive(Debug)]
pub(crate) struct Applicant<'a> {
    pub(crate) token: &'a JoinToken,
    pub(crate) address: &'a str,
    pub(crate) name: &'a str,
    /// The id it would like.
    pub(crate) host: Option<HostId>,
    pub(crate) facts: HostFacts,
}

/// Joins, and keeps what joining gave.
pub(crate) async fn join(
    endpoint: &Endpoint,
    store: &Store,
    applicant: &Applicant<'_>,
) -> Result<Membership, JoinError> {
    // A host that joins again was perhaps removed, and its key is refused for good: it takes a new one.
    let again = store.membership().is_ok_and(|membership| membership.is_some());
    let key = if again { HostKey::generate()? } else { store.key()? };
    let membership = enrol(endpoint, &key, applicant).await?;
    if again {
        store.keep_key(&key)?;
    }
    store.keep_aggregator(applicant.address)?;
    store.keep(&membership)?;
    Ok(membership)
}

async fn enrol(endpoint: &Endpoint, key: &HostKey, applicant: &Applicant<'_>) -> Result<Membership, JoinError> {
    let connection = reach(endpoint, applicant).await?;
    let (mut reader, mut writer) = transport::open(&connection).await?;
    let exporter = transport::exporter(&connection)?;
    let (name, facts) = (applicant.name.to_owned(), applicant.facts.clone());
    let request = EnrolRequest::new(applicant.token, &exporter, key.csr()?, name, applicant.host, facts);
    writer.send(&request).await?;
    let answer = reader.recv_within(ANSWER).await?;
    connection.close(CloseCode::Done.into(), b"");
    let membership = match answer {
        EnrolAnswer::Accepted { host, chain, grid, ca } => Membership { host, grid, chain, ca },
        EnrolAnswer::Refused { reason, text } => return Err(JoinError::Refused { reason, text }),
    };
    check(&membership, key, applicant.token)?;
    Ok(membership)
}

fn check(membership: &Membership, key: &HostKey, token: &JoinToken) -> Result<(), JoinError> {
    if membership.grid_public()?.fingerprint() != token.fingerprint() {
        return Err(JoinError::Misfit("its grid is not the one in the token"));
    }
    let leaf = membership.chain.first().ok_or(JoinError::Misfit("there is no certificate in it"))?;
    let named = peer_identity(&leaf.0)?;
    if named.key_fingerprint != key.key_fingerprint() || named.host != membership.host {
        return Err(JoinError::Misfit("the certificate is not this host's"));
    }
    Ok(())
}

async fn reach(endpoint: &Endpoint, applicant: &Applicant<'_>) -> Result<quinn::Connection, JoinError> {
    let pin = applicant.token.fingerprint();
    let mut failed = None;
    for address in resolve(applicant.address).await? {
        match transport::connect(endpoint, address, Purpose::Join, pin, None).await {
            Ok(connection) => return Ok(connection),
            Err(source) => failed = Some(JoinError::Reach { address: applicant.address.to_owned(), source }),
        }
    }
    Err(failed.unwrap_or(JoinError::Misfit("the name has no address")))
}

/// All addresses of a name.
pub(crate) async fn resolve(name: &str) -> Result<Vec<SocketAddr>, JoinError> {
    let fail = |source| JoinError::Resolve { address: name.to_owned(), source };
    let name = crate::config::with_port(name);
    let found = tokio::time::timeout(transport::HANDSHAKE, tokio::net::lookup_host(name)).await;
    let found = found.map_err(|_| fail(std::io::ErrorKind::TimedOut.into()))?.map_err(fail)?;
    Ok(found.collect())
}
