//! The called host's side: keeps points of others, gives points away, and removes what their makers no longer want.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use roost_agent_core::Event;
use roost_protocol::peer::{CHUNKS, ChunkName, FromCalled, FromCaller, No, REASON, REMOVE};
use roost_protocol::transport::TransportError;
use roost_protocol::{HostId, PointId};
use roost_store::{Adopted, Budget, ChunkId, Intake, Manifest, Store, StoreError};
use tokio::sync::{mpsc, watch};

use super::talk::Talk;
use super::{Known, most_bytes};
use crate::files;
use crate::told::{chain, told};

/// A caller that says nothing for so long goes: others wait for its place.
const SILENCE: Duration = Duration::from_secs(60);
/// Share of the store's disk, in permille, that copies of others leave free: more than what holds our own backups.
const RESERVE_PERMILLE: u64 = 60;
/// Points kept of one host: 50 guests with 100 each.
const KEPT: usize = 5_000;
/// Time and bytes that giving room back after a removal takes at most.
const COLLECT: Budget = Budget { bytes: 1 << 30, time: Duration::from_secs(60) };

/// Where points of others go.
#[derive(Clone, Debug)]
pub(crate) struct Keeper {
    store: Store,
    /// The store's, to see how much room there is.
    folder: PathBuf,
    events: mpsc::Sender<Event>,
    collecting: Arc<AtomicBool>,
}

/// One caller that got past its greeting.
pub(super) struct Session<'a> {
    pub(super) keeper: &'a Keeper,
    pub(super) caller: HostId,
    pub(super) known: watch::Receiver<Known>,
}

/// Why a talk ends.
enum End {
    Gone(TransportError),
    No(No, String),
    /// The caller broke the rules.
    Lied(String),
}

impl From<TransportError> for End {
    fn from(error: TransportError) -> Self {
        match matches!(error, TransportError::Decode(_) | TransportError::Oversize { .. }) {
            true => Self::Lied(error.to_string()),
            false => Self::Gone(error),
        }
    }
}

impl From<StoreError> for End {
    fn from(error: StoreError) -> Self {
        let reason = match &error {
            StoreError::Lie(what) => return Self::Lied(what.clone()),
            StoreError::Full { .. } => No::NoRoom,
            StoreError::UnknownPoint(_) | StoreError::UnknownName { .. } => No::NotThere,
            StoreError::Damaged { .. } | StoreError::Missing(_) => No::Damaged,
            StoreError::Busy { .. } => No::Busy,
            StoreError::Io { .. }
            | StoreError::NotAStore { .. }
            | StoreError::NoKey { .. }
            | StoreError::Refused(_)
            | StoreError::Poisoned
            | StoreError::Worker(_) => No::Failed,
        };
        Self::No(reason, chain(&error))
    }
}

impl Keeper {
    pub(crate) fn new(store: Store, folder: PathBuf, events: mpsc::Sender<Event>) -> Self {
        Self { store, folder, events, collecting: Arc::default() }
    }

    pub(super) fn tell(&self, event: Event) {
        // Nobody listens any more only when the agent ends.
        let _ = self.events.blocking_send(event);
    }

    fn roomy(&self) -> bool {
        let Some((total, free)) = files::room(&self.folder) else { return true };
        u128::from(free) * 1_000 >= u128::from(total) * u128::from(RESERVE_PERMILLE)
    }

    /// Gives back the room of points that were removed; one at a time.
    fn collect(&self) {
        if self.collecting.swap(true, Ordering::AcqRel) {
            return;
        }
        let collected = self.store.collect(COLLECT);
        self.collecting.store(false, Ordering::Release);
        if let Err(error) = collected {
            tracing::warn!(why = chain(&error), "room of removed points is not given back");
        }
    }
}

impl Session<'_> {
    /// Does what the caller asks for until it goes. To be run where blocking is allowed.
    pub(super) fn run(&self, mut talk: Talk) {
        let mut removed = false;
        let end = loop {
            match self.one(&mut talk, &mut removed) {
                Ok(()) => {}
                Err(end) => break end,
            }
        };
        match end {
            End::Gone(error) => tracing::debug!(caller = %self.caller, why = chain(&error), "a peer went"),
            End::No(reason, text) => self.refuse(talk, reason, text),
            End::Lied(what) => {
                tracing::error!(caller = %self.caller, what, "a peer broke the rules");
                self.keeper.tell(Event::PeerLied { host: self.caller, what: what.clone() });
                self.refuse(talk, No::Misbehaved, what);
            }
        }
        if removed {
            self.keeper.collect();
        }
    }

    fn refuse(&self, talk: Talk, reason: No, text: String) {
        tracing::info!(caller = %self.caller, ?reason, text, "refused a peer");
        let text = text.chars().take(REASON).collect();
        if let Err(error) = talk.last(&FromCalled::Refused { reason, text }) {
            tracing::debug!(caller = %self.caller, why = chain(&error), "it did not wait for the refusal");
        }
    }

    fn one(&self, talk: &mut Talk, removed: &mut bool) -> Result<(), End> {
        let message = talk.heard(SILENCE)?;
        self.still_known()?;
        match message {
            FromCaller::Offer { manifest } => self.keep(talk, &manifest),
            FromCaller::Take { point } => self.give(talk, point),
            FromCaller::Remove { points } => {
                *removed = true;
                Ok(talk.reply(&FromCalled::Removed { points: self.remove(&points)? })?)
            }
            FromCaller::Hello { .. } => out_of_turn("a greeting"),
            FromCaller::Chunk { .. } => out_of_turn("a chunk"),
            FromCaller::Sent => out_of_turn("an end of chunks"),
            FromCaller::Fetch { .. } => out_of_turn("a wish for chunks"),
        }
    }

    /// A host that was removed from the grid, or cut off, is not heard to its end.
    fn still_known(&self) -> Result<(), End> {
        match self.known.borrow().peer(self.caller) {
            Some(_) => Ok(()),
            None => Err(End::No(No::Stranger, "it is no host of the grid any more, or cut off".into())),
        }
    }

    fn keep(&self, talk: &mut Talk, manifest: &[u8]) -> Result<(), End> {
        let manifest = Manifest::from_bytes(manifest).map_err(|why| End::Lied(format!("its manifest: {why}")))?;
        if manifest.point.meta.origin_host != Some(self.caller) {
            return Err(End::Lied("it offers a point that another host made".into()));
        }
        let store = &self.keeper.store;
        let new = store.manifest(manifest.id).is_err();
        if new {
            self.may_keep_more()?;
        }
        let mut intake = store.intake()?;
        let most = most_bytes(manifest.summary().size_bytes);
        let mut got = 0_u64;
        while let Adopted::Missing(missing) = intake.adopt_point(&manifest)? {
            for page in missing.chunks(CHUNKS) {
                let names = page.iter().map(|id| ChunkName(*id.bytes())).collect();
                talk.reply(&FromCalled::Wants { names })?;
                got = got.saturating_add(receive(talk, &mut intake, page)?);
                if got > most {
                    return Err(End::Lied("its point has more chunks than one of its size can have".into()));
                }
                self.still_known()?;
                if !self.keeper.roomy() {
                    return Err(no_room());
                }
            }
        }
        if new {
            let point = told(&store.manifest(manifest.id)?.summary(), self.caller);
            tracing::info!(caller = %self.caller, point = %manifest.id, bytes = got, "keep a point of a peer");
            self.keeper.tell(Event::Kept { point });
        }
        Ok(talk.reply(&FromCalled::Kept { grew: intake.adopted_bytes() })?)
    }

    fn may_keep_more(&self) -> Result<(), End> {
        let theirs = |summary: &roost_store::Summary| summary.meta.origin_host == Some(self.caller);
        if self.keeper.store.points().iter().filter(|point| theirs(point)).count() >= KEPT {
            return Err(End::No(No::NoRoom, format!("{KEPT} of its points are kept here already: remove some")));
        }
        if self.keeper.roomy() { Ok(()) } else { Err(no_room()) }
    }

    fn give(&self, talk: &mut Talk, point: PointId) -> Result<(), End> {
        let hold = self.keeper.store.hold(point)?;
        let manifest = hold.manifest();
        let own = manifest.point.meta.origin_host == Some(self.caller);
        if !own && !self.known.borrow().shares(point, self.caller) {
            return Err(End::No(No::NotShared, "nobody said that it may have this point".into()));
        }
        talk.reply(&FromCalled::Manifest { bytes: manifest.to_bytes()? })?;
        tracing::info!(caller = %self.caller, %point, "give a point to a peer");
        // Said again after a broken link, a point may be asked for from its beginning.
        let most = most_bytes(manifest.summary().size_bytes);
        let mut given = 0_u64;
        loop {
            let wish = talk.heard(SILENCE)?;
            self.still_known()?;
            let names = match wish {
                FromCaller::Fetch { names } if names.len() <= CHUNKS => names,
                FromCaller::Fetch { .. } => return out_of_turn("too large a wish for chunks"),
                FromCaller::Hello { .. }
                | FromCaller::Offer { .. }
                | FromCaller::Chunk { .. }
                | FromCaller::Sent
                | FromCaller::Take { .. }
                | FromCaller::Remove { .. } => return out_of_turn("something else than a wish for chunks"),
            };
            for name in names {
                let bytes = self.keeper.store.raw(ChunkId::from_bytes(name.0))?;
                given = given.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
                if given > most {
                    return Err(End::Lied("it wants more chunks than the point can have".into()));
                }
                talk.reply(&FromCalled::Chunk { name, bytes })?;
            }
        }
    }

    /// Those of its own that are gone now. Pinned ones stay, and what others made is not its to remove.
    fn remove(&self, points: &[PointId]) -> Result<Vec<PointId>, End> {
        if points.len() > REMOVE {
            return out_of_turn("too many points to remove");
        }
        let mut gone = Vec::new();
        for point in points {
            let manifest = match self.keeper.store.manifest(*point) {
                Ok(manifest) => manifest,
                Err(StoreError::UnknownPoint(_)) => {
                    gone.push(*point);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if manifest.point.meta.origin_host != Some(self.caller) || manifest.notes.pinned {
                continue;
            }
            self.keeper.store.remove(*point)?;
            self.keeper.tell(Event::NotKept { guest: manifest.point.guest, point: *point });
            gone.push(*point);
        }
        Ok(gone)
    }
}

/// Takes the chunks of one wish, in its order; how many bytes they had.
fn receive(talk: &mut Talk, intake: &mut Intake, wanted: &[ChunkId]) -> Result<u64, End> {
    let mut got = 0_u64;
    for id in wanted {
        let bytes = match talk.heard(SILENCE)? {
            FromCaller::Chunk { name, bytes } if name.0 == *id.bytes() => bytes,
            FromCaller::Chunk { .. } => return out_of_turn("a chunk"),
            FromCaller::Sent => return out_of_turn("that all was sent, before it was,"),
            FromCaller::Hello { .. }
            | FromCaller::Offer { .. }
            | FromCaller::Take { .. }
            | FromCaller::Fetch { .. }
            | FromCaller::Remove { .. } => return out_of_turn("something else than chunks"),
        };
        got = got.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        intake.adopt(*id, &bytes)?;
    }
    match talk.heard(SILENCE)? {
        FromCaller::Sent => Ok(got),
        FromCaller::Chunk { .. } => out_of_turn("a chunk too many"),
        FromCaller::Hello { .. }
        | FromCaller::Offer { .. }
        | FromCaller::Take { .. }
        | FromCaller::Fetch { .. }
        | FromCaller::Remove { .. } => out_of_turn("something else than the end of chunks"),
    }
}

fn out_of_turn<T>(what: &str) -> Result<T, End> {
    Err(End::Lied(format!("it said {what} that was not asked for")))
}

fn no_room() -> End {
    End::No(No::NoRoom, "the disk of its store is almost full".into())
}
