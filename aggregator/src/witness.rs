//! Asks the guard on this machine, where the settings name one, and tells it which hosts' guards there are: with it two hosts
//! have a third voice. Nothing that is done here or left undone changes a vote.

use std::path::PathBuf;
use std::time::Duration;

use roost_aggregator_core::witness::Witness;
use roost_protocol::HostId;
use roost_protocol::failover::Guard;
use roost_protocol::transport::local::{self, LocalError};
use roost_ward::MemberId;
use roost_ward::door::{LONGEST_FRAME, Reply, Request, Status};
use tokio::net::UnixStream;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::address;
use crate::handle::{Away, Handle};

/// Hosts that came, and a witness that came back, count this much later at most.
const EVERY: Duration = Duration::from_secs(2);
/// The guard answers at once, or hangs.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the guard can't be asked.
#[derive(Debug, thiserror::Error)]
enum WitnessError {
    #[error("reach {0}: run roost-guard there, or leave witness_socket out")]
    Reach(PathBuf, #[source] std::io::Error),
    #[error(transparent)]
    Talk(#[from] LocalError),
    #[error("no answer within {PATIENCE:?}")]
    Silent,
    #[error("it answers something else")]
    Other,
    #[error("it was told just now that it is the witness")]
    Unnamed,
    #[error("it is the guard {0}, not this grid's witness: a guard beside an aggregator needs a state_dir of its own")]
    AnotherS(HostId),
    #[error("it refuses: {0}")]
    Refused(String),
    #[error("ask the grid")]
    Grid(#[from] Away),
}

/// Until stopped.
pub(crate) async fn watch(socket: PathBuf, public: Vec<String>, handle: Handle, stop: CancellationToken) {
    let mut turn = interval(EVERY);
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut visitor = Visitor { socket, public, pinned: None };
    loop {
        tokio::select! {
            _ = turn.tick() => {}
            () = stop.cancelled() => return,
        }
        let seen = timeout(PATIENCE, visitor.visit(&handle)).await.unwrap_or(Err(WitnessError::Silent));
        if seen.is_err() {
            // What it was told last may not have come.
            visitor.pinned = None;
        }
        if handle.witness(seen.map_err(|why| crate::chain(&why))).await.is_err() {
            return;
        }
    }
}

struct Visitor {
    socket: PathBuf,
    public: Vec<String>,
    /// What this run of it was told.
    pinned: Option<(MemberId, Vec<Guard>)>,
}

impl Visitor {
    async fn visit(&mut self, handle: &Handle) -> Result<Witness, WitnessError> {
        let (id, guards) = handle.read(|grid, _, _| (grid.witness_id(), grid.guards_of_hosts())).await?;
        let connected = UnixStream::connect(&self.socket).await;
        let mut stream = connected.map_err(|why| WitnessError::Reach(self.socket.clone(), why))?;
        let status = match ask(&mut stream, &Request::Status).await? {
            Reply::Status(status) => status,
            Reply::Refused(_) => {
                // It waits to be told who it is, and answers no more questions on this connection.
                let _ = ask(&mut stream, &Request::Host(id)).await;
                return Err(WitnessError::Unnamed);
            }
            Reply::Done | Reply::Note(_) => return Err(WitnessError::Other),
        };
        if status.me.id != id {
            return Err(WitnessError::AnotherS(status.me.id));
        }
        self.pin(&mut stream, &status, guards).await?;
        let addresses = address::names(&self.public);
        Ok(Witness { incarnation: status.me.incarnation, key: status.key, listen: status.listen, addresses })
    }

    /// Whom it is to hear. One that it knows and that is not known here now stays.
    async fn pin(&mut self, stream: &mut UnixStream, status: &Status, guards: Vec<Guard>) -> Result<(), WitnessError> {
        let pinned = Some((status.me, guards));
        if self.pinned == pinned {
            return Ok(());
        }
        if let Some((_, guards)) = &pinned
            && let Reply::Refused(why) = ask(stream, &Request::pin(guards)).await?
        {
            return Err(WitnessError::Refused(why));
        }
        self.pinned = pinned;
        Ok(())
    }
}

async fn ask(stream: &mut UnixStream, request: &Request) -> Result<Reply, WitnessError> {
    Ok(local::ask(stream, request, LONGEST_FRAME).await?)
}
