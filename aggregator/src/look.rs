//! Looking at something on a host: one question, one answer, on a stream of its own; nothing is kept here.

use std::time::Duration;

use quinn::Connection;
use roost_protocol::HostId;
use roost_protocol::fence::{FenceDevice, Power};
use roost_protocol::look::{History, Look, Newer, Past, Picture, SINCE, Seen};
use roost_protocol::memory::MemoryReport;
use roost_protocol::operation::{Failure, FailureCode};
use roost_protocol::transport::{self, TransportError};
use tokio::time::timeout;

use crate::handle::{Away, Handle};

/// How long somebody who looks waits: a host that has much to do takes seconds for a screen.
const PATIENCE: Duration = Duration::from_secs(20);

/// Asks the host, and picks out what it was asked for; what it says is as trustworthy as the host.
async fn look<T>(
    handle: &Handle,
    host: HostId,
    what: Look,
    pick: impl FnOnce(Seen) -> Option<T>,
) -> Result<Result<T, Failure>, Away> {
    let version = handle.read(move |grid, _, _| grid.hosts().get(&host).map(|host| host.version)).await?;
    if version.is_some_and(|version| version < SINCE) {
        return Ok(Err(failed(FailureCode::Unsupported, "its host's agent is too old to show it: upgrade it")));
    }
    let Some(connection) = handle.connection(host).await? else {
        return Ok(Err(failed(FailureCode::HostUnreachable, "its host is not connected")));
    };
    Ok(match timeout(PATIENCE, ask(&connection, &what)).await {
        Ok(Ok(Seen::Nothing(why))) => Err(why),
        Ok(Ok(seen)) => {
            pick(seen).ok_or_else(|| failed(FailureCode::Internal, "its host showed something else than was asked for"))
        }
        Ok(Err(error)) => Err(failed(FailureCode::HostUnreachable, &crate::chain(&error))),
        Err(_) => {
            let text = format!("its host did not answer within {} s", PATIENCE.as_secs());
            Err(failed(FailureCode::TimedOut, &text))
        }
    })
}

/// A picture of something on the host.
pub(crate) async fn picture(handle: &Handle, host: HostId, what: Look) -> Result<Result<Picture, Failure>, Away> {
    look(handle, host, what, |seen| if let Seen::Picture(picture) = seen { Some(picture) } else { None }).await
}

/// What the host sampled.
pub(crate) async fn history(handle: &Handle, host: HostId, past: Past) -> Result<Result<History, Failure>, Away> {
    let pick = |seen| if let Seen::History(history) = seen { Some(history) } else { None };
    look(handle, host, Look::History(past), pick).await
}

/// How the host's memory is shared out.
pub(crate) async fn memory(handle: &Handle, host: HostId) -> Result<Result<MemoryReport, Failure>, Away> {
    look(handle, host, Look::Memory, |seen| if let Seen::Memory(report) = seen { Some(*report) } else { None }).await
}

/// What another host's fence device says of that host, asked by this one.
pub(crate) async fn power(handle: &Handle, by: HostId, device: FenceDevice) -> Result<Result<Power, Failure>, Away> {
    let what = Look::Power(Box::new(device));
    look(handle, by, what, |seen| if let Seen::Power(power) = seen { Some(power) } else { None }).await
}

/// Has the host's guard test its watchdog, which ends the host.
pub(crate) async fn test_watchdog(handle: &Handle, host: HostId) -> Result<Result<(), Failure>, Away> {
    look(handle, host, Look::Watchdog, |seen| matches!(seen, Seen::Begun).then_some(())).await
}

/// Has the host look for a newer image, or tell of the search that goes on.
pub(crate) async fn newer_image(handle: &Handle, host: HostId) -> Result<Result<Newer, Failure>, Away> {
    look(handle, host, Look::NewerImage, |seen| if let Seen::Newer(newer) = seen { Some(newer) } else { None }).await
}

/// Has the host's agent restart it, if it is still in this boot.
pub(crate) async fn reboot(handle: &Handle, host: HostId, boot: String) -> Result<Result<(), Failure>, Away> {
    look(handle, host, Look::Reboot { boot }, |seen| matches!(seen, Seen::Begun).then_some(())).await
}

async fn ask(connection: &Connection, what: &Look) -> Result<Seen, TransportError> {
    let (mut reader, mut writer) = transport::open(connection).await?;
    writer.send(what).await?;
    reader.recv().await
}

fn failed(code: FailureCode, text: &str) -> Failure {
    Failure { code, text: text.to_owned() }
}
