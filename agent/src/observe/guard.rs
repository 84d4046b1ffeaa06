//! Asks the guard, all the time, which guests of its wards may run here. Nothing the agent does or leaves undone changes a
//! lease: this only listens.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use roost_agent_core::{Event, Right};
use roost_protocol::{GuestId, codec};
use roost_ward::Standing;
use roost_ward::door::{LONGEST_FRAME, Reply, Request, Status, WardStatus};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::{interval, timeout};

/// A guest whose ward was won starts this much later at most.
const EVERY: Duration = Duration::from_millis(500);
/// The guard answers at once, or hangs.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the guard can't be asked.
#[derive(Debug, thiserror::Error)]
enum GuardError {
    #[error("reach {0}")]
    Reach(PathBuf, #[source] std::io::Error),
    #[error("talk to it")]
    Talk(#[from] std::io::Error),
    #[error("no answer within {PATIENCE:?}")]
    Silent,
    #[error("understand its answer")]
    Answer(#[from] codec::Error),
    #[error("it answers something else")]
    Other,
}

/// Tells what changed until nobody listens.
pub(crate) async fn watch(socket: PathBuf, events: mpsc::Sender<Event>) {
    let mut turn = interval(EVERY);
    let mut told: Option<Result<BTreeMap<GuestId, Right>, String>> = None;
    loop {
        turn.tick().await;
        let asked = timeout(PATIENCE, ask(&socket)).await.unwrap_or(Err(GuardError::Silent));
        let now = asked.map(|status| rights(&status)).map_err(|why| match std::error::Error::source(&why) {
            Some(cause) => format!("{why}: {cause}"),
            None => why.to_string(),
        });
        if told.as_ref() == Some(&now) {
            continue;
        }
        let event = match now.clone() {
            Ok(guests) => Event::Rights { guests },
            Err(why) => Event::GuardAway { why },
        };
        told = Some(now);
        if events.send(event).await.is_err() {
            return;
        }
    }
}

async fn ask(socket: &Path) -> Result<Status, GuardError> {
    let connected = UnixStream::connect(socket).await;
    let mut stream = connected.map_err(|why| GuardError::Reach(socket.to_owned(), why))?;
    let request = codec::encode(&Request::Status);
    stream.write_u32(u32::try_from(request.len()).map_err(|_| GuardError::Other)?).await?;
    stream.write_all(&request).await?;
    let length = usize::try_from(stream.read_u32().await?).map_err(|_| GuardError::Other)?;
    if length > LONGEST_FRAME {
        return Err(GuardError::Other);
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).await?;
    match codec::decode(&answer)? {
        Reply::Status(status) => Ok(status),
        Reply::Done | Reply::Refused(_) | Reply::Note(_) => Err(GuardError::Other),
    }
}

fn rights(status: &Status) -> BTreeMap<GuestId, Right> {
    let of = |ward: &WardStatus| match ward.standing {
        Standing::Running if ward.may_run => Right::Here,
        Standing::Off if ward.owner.is_some_and(|owner| owner != status.me) => Right::Elsewhere,
        Standing::Off
        | Standing::Asking
        | Standing::Candidate
        | Standing::Held
        | Standing::Running
        | Standing::Stopping => Right::Waits,
    };
    let all = status.wards.iter().flat_map(|ward| ward.guests.iter().map(move |guest| (*guest, of(ward))));
    all.collect()
}
