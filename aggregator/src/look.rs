//! Looking at something on a host: one question, one answer, on a stream of its own; nothing is kept here.

use std::time::Duration;

use quinn::Connection;
use roost_protocol::HostId;
use roost_protocol::look::{Look, Picture, SINCE, Seen};
use roost_protocol::operation::{Failure, FailureCode};
use roost_protocol::transport::{self, TransportError};
use tokio::time::timeout;

use crate::handle::{Away, Handle};

/// How long somebody who looks waits: a host that has much to do takes seconds for a screen.
const PATIENCE: Duration = Duration::from_secs(20);

/// Asks the host; what it says is as trustworthy as the host.
pub(crate) async fn look(handle: &Handle, host: HostId, what: Look) -> Result<Result<Picture, Failure>, Away> {
    let version = handle.read(move |grid, _, _| grid.hosts().get(&host).map(|host| host.version)).await?;
    if version.is_some_and(|version| version < SINCE) {
        return Ok(Err(failed(FailureCode::Unsupported, "its host's agent is too old to show it: upgrade it")));
    }
    let Some(connection) = handle.connection(host).await? else {
        return Ok(Err(failed(FailureCode::HostUnreachable, "its host is not connected")));
    };
    Ok(match timeout(PATIENCE, ask(&connection, &what)).await {
        Ok(Ok(Seen::Picture(picture))) => Ok(picture),
        Ok(Ok(Seen::Nothing(why))) => Err(why),
        Ok(Err(error)) => Err(failed(FailureCode::HostUnreachable, &crate::chain(&error))),
        Err(_) => {
            let text = format!("its host did not answer within {} s", PATIENCE.as_secs());
            Err(failed(FailureCode::TimedOut, &text))
        }
    })
}

async fn ask(connection: &Connection, what: &Look) -> Result<Seen, TransportError> {
    let (mut reader, mut writer) = transport::open(connection).await?;
    writer.send(what).await?;
    reader.recv().await
}

fn failed(code: FailureCode, text: &str) -> Failure {
    Failure { code, text: text.to_owned() }
}
