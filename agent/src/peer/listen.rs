//! Listens for other hosts: who is of the grid as it is known here gets a place, and a thread that deals with it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use roost_agent_core::Event;
use roost_protocol::host::Alarm;
use roost_protocol::peer::{FromCalled, FromCaller, No, OLDEST, VERSION};
use roost_protocol::transport::{CloseCode, FIRST_MESSAGE, Handshake, Listener, Peer, TransportError, trust};
use roost_protocol::{HostId, Stamp};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use super::serve::Session;
use super::talk::{FRAME_PATIENCE, Talk};
use super::{Badge, Keeper, Known};
use crate::report::link::wall;
use crate::told::chain;

/// Callers at a time, and of these from one host: each has a thread. A guest that reads its point from afar has up to two
/// talks at a time, and fifteen may be brought to one host when another is emptied.
const SESSIONS: usize = 64;
pub(super) const SESSIONS_EACH: usize = 32;
/// A port that is taken is tried again so often.
const RETRY: Duration = Duration::from_secs(10);
const ALARM: &str = "peer-port";

/// All that listening needs.
#[derive(Debug)]
pub(crate) struct Listen {
    pub(crate) address: SocketAddr,
    pub(crate) keeper: Keeper,
    pub(crate) badge: watch::Receiver<Option<Arc<Badge>>>,
    pub(crate) known: watch::Receiver<Known>,
    pub(crate) events: mpsc::Sender<Event>,
}

/// How many callers each host has here.
type Places = Arc<Mutex<BTreeMap<HostId, usize>>>;

/// One caller's place; free again when dropped.
struct Place {
    places: Places,
    host: HostId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = places.get_mut(&self.host) {
            *count -= 1;
        }
        places.retain(|_, count| *count > 0);
    }
}

fn place(places: &Places, host: HostId) -> Option<Place> {
    let mut counts = places.lock().unwrap_or_else(PoisonError::into_inner);
    let (all, own) = (counts.values().sum::<usize>(), counts.get(&host).copied().unwrap_or(0));
    if all >= SESSIONS || own >= SESSIONS_EACH {
        return None;
    }
    counts.insert(host, own + 1);
    drop(counts);
    Some(Place { places: places.clone(), host })
}

impl Listen {
    /// Listens once this host is in a grid, until nobody gives it badges any more.
    pub(crate) async fn run(mut self) {
        let mut alarmed = false;
        let places = Places::default();
        loop {
            let Some(badge) = self.badge.borrow_and_update().clone() else {
                if self.badge.changed().await.is_err() {
                    return;
                }
                continue;
            };
            match Listener::bind_host(self.address, &badge.identity, &badge.ca) {
                Ok(listener) => {
                    if std::mem::take(&mut alarmed) {
                        self.condition(String::new(), false).await;
                    }
                    tracing::info!(address = %self.address, "listen for other hosts");
                    if self.serve(&listener, &badge, &places).await.is_none() {
                        return;
                    }
                    listener.endpoint().close(CloseCode::ShuttingDown.into(), b"");
                }
                Err(error) => {
                    alarmed = true;
                    let text = format!("other hosts can't bring backups here: {}; see peer_listen", chain(&error));
                    self.condition(text, true).await;
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn condition(&self, text: String, raised: bool) {
        let alarm = Alarm { code: ALARM.into(), guest: None, since: if raised { wall() } else { Stamp(0) }, text };
        let _ = self.events.send(Event::Condition { alarm, raised }).await;
    }

    /// Until this host has another key; none when the agent ends.
    async fn serve(&mut self, listener: &Listener, badge: &Arc<Badge>, places: &Places) -> Option<()> {
        loop {
            tokio::select! {
                changed = self.badge.changed() => {
                    changed.ok()?;
                    let now = self.badge.borrow_and_update().clone();
                    if !now.is_some_and(|now| now.same(badge)) {
                        return Some(());
                    }
                }
                handshake = listener.accept() => {
                    let caller = Caller {
                        handshake: handshake?,
                        own: badge.host,
                        keeper: self.keeper.clone(),
                        known: self.known.clone(),
                        places: places.clone(),
                    };
                    tokio::spawn(caller.meet());
                }
            }
        }
    }
}

/// Somebody who calls.
struct Caller {
    handshake: Handshake,
    own: HostId,
    keeper: Keeper,
    known: watch::Receiver<Known>,
    places: Places,
}

impl Caller {
    async fn meet(self) {
        let from = self.handshake.remote_address();
        let Caller { handshake, own, keeper, known, places } = self;
        let peer = match handshake.finish().await {
            Ok(peer) => peer,
            Err(error) => return tracing::debug!(%from, why = chain(&error), "handshake failed"),
        };
        let Some(host) = of_the_grid(&peer, &known.borrow()) else {
            tracing::info!(%from, "refused a caller that is no host of the grid, as far as is known here");
            return peer.connection.close(CloseCode::NoCertificate.into(), b"not a host of the grid, or cut off");
        };
        let talk = match greet(&peer, own).await {
            Ok(talk) => talk,
            Err(error) => {
                tracing::info!(%from, %host, why = chain(&error), "a caller did not get past its greeting");
                return peer.connection.close(CloseCode::Misbehaved.into(), error.to_string().as_bytes());
            }
        };
        let place = place(&places, host);
        // A thread that hangs on a disk keeps its place, and so no others hang behind it.
        tokio::task::spawn_blocking(move || match &place {
            Some(_place) => {
                let mut talk = talk;
                if talk.reply(&FromCalled::Welcome { version: VERSION }).is_ok() {
                    Session { keeper: &keeper, caller: host, known }.run(talk);
                }
            }
            None => {
                let text = "too many hosts bring or take points here; soon again".into();
                let _ = talk.last(&FromCalled::Refused { reason: No::Busy, text });
            }
        });
    }
}

/// The caller, if it is one of the hosts that are dealt with.
fn of_the_grid(peer: &Peer, known: &Known) -> Option<HostId> {
    let identity = peer.identity.as_ref()?;
    let told = known.peer(identity.host)?;
    (told.key == identity.key_fingerprint.0).then_some(identity.host)
}

/// The stream of a caller that said whom it means and has a version in common.
async fn greet(peer: &Peer, own: HostId) -> Result<Talk, TransportError> {
    let (mut reader, mut writer) = peer.accept().await?;
    let no = match reader.recv_within::<FromCaller>(FIRST_MESSAGE).await? {
        FromCaller::Hello { newest, oldest, .. } if newest < OLDEST || oldest > VERSION => No::Version,
        FromCaller::Hello { to, .. } if to != own => No::Stranger,
        FromCaller::Hello { .. } => {
            trust(&peer.connection, &mut reader);
            let (reader, writer) = (reader.with_patience(FRAME_PATIENCE), writer.with_patience(FRAME_PATIENCE));
            let (runtime, connection) = (Handle::current(), peer.connection.clone());
            return Ok(Talk { runtime, connection, reader, writer });
        }
        FromCaller::Offer { .. }
        | FromCaller::Chunk { .. }
        | FromCaller::Sent
        | FromCaller::Take { .. }
        | FromCaller::Fetch { .. }
        | FromCaller::Remove { .. } => No::Misbehaved,
    };
    writer
        .send(&FromCalled::Refused { reason: no, text: "the first word is not one that is taken here".into() })
        .await?;
    writer.finish().await?;
    Err(TransportError::Closed { why: format!("{no:?}") })
}
