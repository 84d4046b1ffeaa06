//! Asks the guard, all the time, which guests of its wards may run here, and tells it who votes with it and what this host
//! keeps for others. Nothing the agent does or leaves undone changes a lease.

mod bars;
mod bell;
mod missed;
#[cfg(test)]
mod sample;
mod steps;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use roost_agent_core::{Event, GuardSeen, GuardWish, Right};
use roost_protocol::cause::Noted;
use roost_protocol::failover::{Council, Voter, WardReport};
use roost_protocol::transport::local::{self, LocalError};
use roost_protocol::{GuestId, HostId, Millis, Stamp};
use roost_ward::door::{LONGEST_FRAME, Note, Reply, Request, Status, WardStatus};
use roost_ward::{Profile, Standing, WardId};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{interval, timeout};

use self::bars::Knocker;
use self::bell::Bell;
use self::steps::{Memory, steps};

/// What the guard did is heard of at once; what it lacks is seen and told this much later at most.
const EVERY: Duration = Duration::from_millis(500);
/// The guard answers at once, or hangs.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the guard can't be asked.
#[derive(Debug, thiserror::Error)]
enum GuardError {
    #[error("reach {0}")]
    Reach(PathBuf, #[source] std::io::Error),
    #[error(transparent)]
    Talk(#[from] LocalError),
    #[error("no answer within {PATIENCE:?}")]
    Silent,
    #[error("it answers something else")]
    Other,
    #[error("it was told just now which host it is")]
    Unnamed,
}

/// Makes the guard what it is wished to be, and tells what changed, until nobody listens.
pub(crate) async fn watch(
    socket: PathBuf,
    host: HostId,
    profile: Profile,
    wish: watch::Receiver<GuardWish>,
    events: mpsc::Sender<Event>,
) {
    let mut turn = interval(EVERY);
    let bell = Bell::hang(socket.clone());
    let (memory, knocker) = (Memory::default(), Knocker::start());
    let mut visitor = Visitor {
        socket,
        host,
        profile,
        wish,
        memory,
        knocker,
        refused: String::new(),
        next_note: 0,
        notes: Vec::new(),
    };
    let mut told: Option<Result<BTreeMap<GuestId, Right>, String>> = None;
    let mut seen: Option<GuardSeen> = None;
    loop {
        tokio::select! {
            _ = turn.tick() => {}
            () = bell.rung() => {}
        }
        let asked = timeout(PATIENCE, visitor.visit()).await.unwrap_or(Err(GuardError::Silent));
        if asked.is_err() {
            // What it was told last may not have come.
            visitor.memory = Memory::default();
        }
        let notes = std::mem::take(&mut visitor.notes);
        if !notes.is_empty() && events.send(Event::GuardNoted { notes }).await.is_err() {
            return;
        }
        if let Ok((status, Some(wish))) = &asked {
            let now = guard(status, wish);
            if seen.as_ref() != Some(&now) {
                seen = Some(now.clone());
                if events.send(Event::GuardSeen(Box::new(now))).await.is_err() {
                    return;
                }
            }
        }
        let now = asked.map(|(status, _)| rights(&status)).map_err(|why| match std::error::Error::source(&why) {
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

/// Who asks.
struct Visitor {
    socket: PathBuf,
    host: HostId,
    /// Of wards that this host founds.
    profile: Profile,
    wish: watch::Receiver<GuardWish>,
    memory: Memory,
    knocker: Knocker,
    /// Why it did not do what it was asked last; told once.
    refused: String,
    /// Of its notes, the first that is not known here …
    next_note: u64,
    /// … and those that are not told yet.
    notes: Vec<Noted>,
}

impl Visitor {
    /// How the guard is, and how it is wished; asks for the next steps. A guard that its settings call otherwise than the
    /// grid calls this host is told nothing: its admin tells it.
    async fn visit(&mut self) -> Result<(Status, Option<GuardWish>), GuardError> {
        let connected = UnixStream::connect(&self.socket).await;
        let mut stream = connected.map_err(|why| GuardError::Reach(self.socket.clone(), why))?;
        let status = match ask(&mut stream, &Request::Status).await? {
            Reply::Status(status) => status,
            Reply::Refused(_) => {
                // It waits to be told who it is, and answers no more questions on this connection.
                let _ = ask(&mut stream, &Request::Host(self.host)).await;
                return Err(GuardError::Unnamed);
            }
            Reply::Done | Reply::Note(_) => return Err(GuardError::Other),
        };
        if status.me.id != self.host {
            return Ok((status, None));
        }
        let wish = self.wish.borrow().clone();
        let answering = self.knocker.answering(&status, &wish);
        let mut requests = steps(&status, &wish, self.profile, wall(), &mut self.memory);
        requests.extend(bars::steps(&status, &wish, &answering));
        for request in requests {
            if let Reply::Refused(why) = ask(&mut stream, &request).await?
                && why != self.refused
            {
                tracing::warn!(why, "the guard refused what failover needs");
                self.refused = why;
            }
        }
        self.hear_notes(&mut stream, &status).await?;
        Ok((status, Some(wish)))
    }

    /// All that it noted up to its status. Later requests on this connection would find notes among their answers.
    async fn hear_notes(&mut self, stream: &mut UnixStream, status: &Status) -> Result<(), GuardError> {
        let from = self.next_note.max(status.first_note);
        if from >= status.next_note {
            return Ok(());
        }
        ask(stream, &Request::Follow { from }).await?;
        while self.next_note < status.next_note {
            if let Reply::Note(note) = local::hear(stream, LONGEST_FRAME).await? {
                self.next_note = note.number + 1;
                self.notes.push(noted(note));
            }
        }
        Ok(())
    }
}

fn noted(note: Note) -> Noted {
    let Note { at, ward, kind, text, epoch, hosts, span, .. } = note;
    Noted { ward: ward.0, at, kind, epoch, hosts, span, text }.bounded()
}

fn wall() -> Stamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Stamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

async fn ask(stream: &mut UnixStream, request: &Request) -> Result<Reply, GuardError> {
    Ok(local::ask(stream, request, LONGEST_FRAME).await?)
}

/// What the core and the aggregator are to know of it.
fn guard(status: &Status, wish: &GuardWish) -> GuardSeen {
    let owned = |ward: &&WardStatus| {
        ward.owner == Some(status.me) && matches!(ward.standing, Standing::Running | Standing::Held)
    };
    let report = |ward: &WardStatus| {
        let wished = wish.councils.iter().flatten().map(|council| council.guest);
        let guest =
            ward.guests.first().copied().or_else(|| wished.into_iter().find(|it| WardId::of(*it) == ward.ward))?;
        let voters = ward.members.iter().map(|it| Voter { host: it.id, incarnation: it.incarnation }).collect();
        let homes = ward.homes.iter().map(|home| home.id).collect();
        Some(WardReport { council: Council { guest, voters, homes }, settled: ward.settled })
    };
    GuardSeen {
        incarnation: status.me.incarnation,
        key: status.key,
        listen: status.listen.clone(),
        may_own: status.may_own,
        fencing: Some(status.fencing.clone()),
        watchdog_test: status.watchdog_test.clone(),
        remembers: status.remembers,
        missed: missed::missed(status),
        answering: status.wards.iter().filter_map(still_answers).collect(),
        wards: status.wards.iter().filter(owned).filter_map(report).collect(),
    }
}

/// A guest that answers though no lease is left on which it could run.
fn still_answers(ward: &WardStatus) -> Option<(HostId, GuestId)> {
    let over = ward.guests_answer && ward.promise_left == Millis(0);
    ward.owner.filter(|_| over).zip(ward.guests.first()).map(|(owner, guest)| (owner.id, *guest))
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
