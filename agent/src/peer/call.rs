//! The caller's side: brings points to other hosts, takes points from them, and takes back what they keep.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::Connection;
use roost_agent_core::Event;
use roost_protocol::backup::Peer;
use roost_protocol::identity::Fingerprint;
use roost_protocol::peer::{CHUNKS, ChunkName, FromCalled, FromCaller, No, OLDEST, REMOVE, VERSION};
use roost_protocol::transport::{FrameReader, FrameWriter, TransportError, connect_host};
use roost_protocol::{HostId, PointId};
use roost_store::{Adopted, ChunkId, Manifest, Store, StoreError};

use super::talk::{FRAME_PATIENCE, Talk};
use super::{PeerError, Peers, most_bytes};
use crate::pace::Pace;
use crate::told::chain;

/// A link that broke while a point was taken is made again for so long.
const AGAIN: Duration = Duration::from_secs(120);
/// Between two tries.
const WAIT: Duration = Duration::from_secs(2);

/// Whether it is still wanted, and what was done so far.
pub(crate) struct Watch<'a> {
    pub(crate) wanted: &'a dyn Fn() -> bool,
    /// Bytes of chunks that went or came.
    pub(crate) moved: &'a dyn Fn(u64),
}

/// What travelled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) chunks: u64,
    pub(crate) bytes: u64,
}

/// A talk with one peer, and its name for what goes wrong.
#[derive(Debug)]
pub(super) struct Call {
    peers: Peers,
    talk: Talk,
    host: HostId,
    name: String,
}

impl Watch<'_> {
    fn still_wanted(&self) -> Result<(), PeerError> {
        if (self.wanted)() { Ok(()) } else { Err(PeerError::Cancelled) }
    }
}

/// Takes in a chunk that came, after checking it.
pub(super) type Put<'a> = dyn FnMut(ChunkId, &[u8]) -> Result<(), StoreError> + 'a;

fn here(source: StoreError) -> PeerError {
    PeerError::Store { tried: "keep the point", source }
}

impl Moved {
    fn add(&mut self, bytes: usize) {
        self.chunks += 1;
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }
}

impl Peers {
    /// Has a host keep a point of this store. Only chunks travel that it lacks; done again it goes on where it was.
    pub(crate) fn bring(
        &self,
        store: &Store,
        point: PointId,
        to: HostId,
        bandwidth: Option<u64>,
        watch: &Watch<'_>,
    ) -> Result<Moved, PeerError> {
        let here = |source| PeerError::Store { tried: "read the point", source };
        let hold = store.hold(point).map_err(here)?;
        let manifest = hold.manifest().to_bytes().map_err(here)?;
        let most = most_bytes(hold.manifest().summary().size_bytes);
        let mut call = self.call(to, watch)?;
        call.ask(&FromCaller::Offer { manifest })?;
        let (mut moved, mut pace) = (Moved::default(), Pace::new(bandwidth));
        loop {
            let answer = call.answer(watch)?;
            if let FromCalled::Kept { .. } = answer {
                return Ok(moved);
            }
            let FromCalled::Wants { names } = answer else {
                return Err(call.out_of_turn("neither what it lacks nor that it has all"));
            };
            if names.is_empty() || names.len() > CHUNKS {
                return Err(call.lied(format!("it wants {} chunks at a time", names.len())));
            }
            for name in names {
                let bytes = store.raw(ChunkId::from_bytes(name.0)).map_err(here)?;
                moved.add(bytes.len());
                if moved.bytes > most {
                    return Err(call.lied("it wants more chunks than the point can have".into()));
                }
                pace.passed(bytes.len());
                call.ask(&FromCaller::Chunk { name, bytes })?;
                (watch.moved)(moved.bytes);
                watch.still_wanted()?;
            }
            call.ask(&FromCaller::Sent)?;
        }
    }

    /// Takes a point into this store. A link that breaks is made again for a while, and nothing is asked for twice.
    pub(crate) fn take(
        &self,
        store: &Store,
        point: PointId,
        from: HostId,
        watch: &Watch<'_>,
    ) -> Result<Moved, PeerError> {
        let mut moved = Moved::default();
        self.patiently(point, from, watch, &mut moved, |moved| self.take_once(store, point, from, watch, moved))?;
        Ok(moved)
    }

    /// Does it again when it failed for what passes; not for long without anything that came.
    pub(super) fn patiently<T>(
        &self,
        point: PointId,
        from: HostId,
        watch: &Watch<'_>,
        moved: &mut Moved,
        mut once: impl FnMut(&mut Moved) -> Result<T, PeerError>,
    ) -> Result<T, PeerError> {
        let mut since = Instant::now();
        loop {
            let before = moved.bytes;
            let why = match once(moved) {
                Ok(done) => return Ok(done),
                Err(why) => why,
            };
            if moved.bytes > before {
                since = Instant::now();
            }
            if !why.passes() || since.elapsed() >= self.patience.min(AGAIN) {
                return Err(why);
            }
            tracing::info!(%point, %from, why = chain(&why), "a point is not here yet; again soon");
            let pause = Instant::now();
            while pause.elapsed() < WAIT {
                watch.still_wanted()?;
                std::thread::sleep(WAIT / 8);
            }
        }
    }

    fn take_once(
        &self,
        store: &Store,
        point: PointId,
        from: HostId,
        watch: &Watch<'_>,
        moved: &mut Moved,
    ) -> Result<(), PeerError> {
        let (mut call, manifest) = self.call_for(point, from, watch)?;
        let mut intake = store.intake().map_err(here)?;
        loop {
            let missing = match intake.adopt_point(&manifest) {
                Ok(Adopted::Point(_)) => return Ok(()),
                Ok(Adopted::Missing(missing)) => missing,
                Err(why) => return Err(call.blame(why)),
            };
            call.fetch(&missing, watch, moved, &mut |id, bytes| intake.adopt(id, bytes))?;
        }
    }

    /// A talk in which chunks of this point can be fetched, and the point's manifest.
    pub(super) fn call_for(
        &self,
        point: PointId,
        from: HostId,
        watch: &Watch<'_>,
    ) -> Result<(Call, Manifest), PeerError> {
        let mut call = self.call(from, watch)?;
        call.ask(&FromCaller::Take { point })?;
        let FromCalled::Manifest { bytes } = call.answer(watch)? else { return Err(call.out_of_turn("no manifest")) };
        match Manifest::from_bytes(&bytes) {
            Ok(manifest) if manifest.id == point => Ok((call, manifest)),
            Ok(_) => Err(call.lied("it gave the manifest of another point".into())),
            Err(why) => Err(call.lied(format!("its manifest: {why}"))),
        }
    }

    /// Has a host remove points that this one made. Those that are gone there.
    pub(crate) fn remove(&self, at: HostId, points: &[PointId], watch: &Watch<'_>) -> Result<Vec<PointId>, PeerError> {
        let mut call = self.call(at, watch)?;
        let mut gone = Vec::new();
        for page in points.chunks(REMOVE) {
            call.ask(&FromCaller::Remove { points: page.to_vec() })?;
            let FromCalled::Removed { points } = call.answer(watch)? else {
                return Err(call.out_of_turn("not what it removed"));
            };
            gone.extend(points.into_iter().filter(|point| page.contains(point)));
        }
        Ok(gone)
    }

    /// A talk that has got past its greeting.
    fn call(&self, host: HostId, watch: &Watch<'_>) -> Result<Call, PeerError> {
        let badge = self.badge.borrow().clone().ok_or(PeerError::NotJoined)?;
        let peer = self.known.borrow().peer(host).cloned();
        let peer = peer.filter(|peer| !peer.addresses.is_empty()).ok_or(PeerError::Unknown(host))?;
        let connection = self.runtime.block_on(self.connect(&badge, &peer))?;
        let lost = |source| PeerError::Lost { name: peer.name.clone(), source: Box::new(source) };
        let opened = self.runtime.block_on(roost_protocol::transport::open(&connection));
        let (reader, writer): (FrameReader, FrameWriter) = opened.map_err(lost)?;
        let (reader, writer) = (reader.with_patience(FRAME_PATIENCE), writer.with_patience(FRAME_PATIENCE));
        let talk = Talk { runtime: self.runtime.clone(), connection, reader, writer };
        let mut call = Call { peers: self.clone(), talk, host, name: peer.name.clone() };
        call.ask(&FromCaller::Hello { newest: VERSION, oldest: OLDEST, to: host })?;
        let FromCalled::Welcome { version } = call.answer(watch)? else { return Err(call.out_of_turn("no welcome")) };
        if (OLDEST..=VERSION).contains(&version) {
            return Ok(call);
        }
        Err(call.lied(format!("it speaks version {version}, which was not offered")))
    }

    async fn connect(&self, badge: &Arc<super::Badge>, peer: &Peer) -> Result<Connection, PeerError> {
        let mut failed = PeerError::Unknown(peer.host);
        for address in peer.addresses.iter().filter_map(|address| address.parse().ok()) {
            let key = Fingerprint(peer.key);
            match connect_host(&self.endpoint, address, badge.pin, key, &badge.identity).await {
                Ok(connection) => return Ok(connection),
                Err(source) => {
                    failed = PeerError::Away { name: peer.name.clone(), address, source: Box::new(source) };
                }
            }
        }
        Err(failed)
    }
}

impl Call {
    /// Fetches chunks of the point that was taken, and hands each on.
    pub(super) fn fetch(
        &mut self,
        wanted: &[ChunkId],
        watch: &Watch<'_>,
        moved: &mut Moved,
        put: &mut Put<'_>,
    ) -> Result<(), PeerError> {
        for page in wanted.chunks(CHUNKS) {
            self.ask(&FromCaller::Fetch { names: page.iter().map(|id| ChunkName(*id.bytes())).collect() })?;
            for id in page {
                let FromCalled::Chunk { name, bytes } = self.answer(watch)? else {
                    return Err(self.out_of_turn("no chunk"));
                };
                if name.0 != *id.bytes() {
                    return Err(self.lied("it gave another chunk than was asked for".into()));
                }
                moved.add(bytes.len());
                put(*id, &bytes).map_err(|why| self.blame(why))?;
                (watch.moved)(moved.bytes);
                watch.still_wanted()?;
            }
        }
        Ok(())
    }

    /// What the store finds wrong with what came is the peer's fault, or this host's.
    pub(super) fn blame(&self, why: StoreError) -> PeerError {
        let StoreError::Lie(what) = why else { return here(why) };
        self.lied(what)
    }

    fn ask(&mut self, message: &FromCaller) -> Result<(), PeerError> {
        match self.talk.ask(message) {
            Ok(()) => Ok(()),
            // What it said before it went tells more than that it went.
            Err(source) => match self.talk.answer(Duration::ZERO, &|| true) {
                Ok(Some(FromCalled::Refused { reason, text })) => Err(self.refused(reason, &text)),
                Ok(_) | Err(_) => Err(self.lost(source)),
            },
        }
    }

    fn answer(&mut self, watch: &Watch<'_>) -> Result<FromCalled, PeerError> {
        match self.talk.answer(self.peers.patience, watch.wanted) {
            Ok(Some(FromCalled::Refused { reason, text })) => Err(self.refused(reason, &text)),
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(PeerError::Cancelled),
            Err(source @ (TransportError::Decode(_) | TransportError::Oversize { .. })) => {
                Err(self.lied(source.to_string()))
            }
            Err(source) => Err(self.lost(source)),
        }
    }

    fn lost(&self, source: TransportError) -> PeerError {
        PeerError::Lost { name: self.name.clone(), source: Box::new(source) }
    }

    fn refused(&self, reason: No, text: &str) -> PeerError {
        let text = text.chars().take(roost_protocol::peer::REASON).collect();
        PeerError::Refused { name: self.name.clone(), reason, text }
    }

    fn out_of_turn(&self, what: &str) -> PeerError {
        self.lied(format!("it said {what}"))
    }

    /// Tells the core, which has it cut off.
    fn lied(&self, what: String) -> PeerError {
        let event = Event::PeerLied { host: self.host, what: what.clone() };
        let _ = self.peers.runtime.block_on(self.peers.events.send(event));
        PeerError::Lied { name: self.name.clone(), what }
    }
}
