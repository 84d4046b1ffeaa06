//! A point on another host that is read there piece by piece: its maps are brought here, its data comes when it is asked
//! for. Links that break are made again; whoever asks meanwhile waits, but not for long.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use roost_protocol::{HostId, PointId};
use roost_store::{ChunkId, DiskReader, Partial, Store};

use super::call::{Call, Put};
use super::{Moved, PeerError, Peers, Watch};

/// Longest that somebody waits for data from a host that is away. A guest is stopped then, which people see, and goes on
/// when it is back; in its own eyes its disk was never slower than this.
const AWAY: Duration = Duration::from_secs(10);
/// A host that was asked for data and says nothing for so long is taken for away.
const SILENT: Duration = Duration::from_secs(10);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(250);

/// Who asks: each has a talk of its own, so that who wants little never waits for who wants much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asks {
    Little,
    Much,
}

/// See the top of this file.
#[derive(Debug)]
pub(crate) struct Far {
    peers: Peers,
    from: HostId,
    partial: Arc<Partial>,
    little: Mutex<Option<Call>>,
    much: Mutex<Option<Call>>,
}

impl Peers {
    /// Has the maps and small files of a point brought here, so that it can be read from afar.
    pub(crate) fn far(&self, store: &Store, point: PointId, from: HostId, watch: &Watch<'_>) -> Result<Far, PeerError> {
        let mut moved = Moved::default();
        let partial = self.patiently(point, from, watch, &mut moved, |moved| {
            let (mut call, manifest) = self.call_for(point, from, watch)?;
            let mut intake = store.intake().map_err(|why| call.blame(why))?;
            loop {
                let missing = intake.missing_maps(&manifest).map_err(|why| call.blame(why))?;
                if missing.is_empty() {
                    return Ok(intake.partial(manifest));
                }
                call.fetch(&missing, watch, moved, &mut |id, bytes| intake.adopt(id, bytes))?;
            }
        })?;
        tracing::info!(%point, %from, moved.chunks, moved.bytes, "the maps of a point of another host are here");
        let peers = Self { patience: SILENT.min(self.patience), ..self.clone() };
        Ok(Far { peers, from, partial: Arc::new(partial), little: Mutex::default(), much: Mutex::default() })
    }
}

impl Far {
    pub(crate) fn partial(&self) -> &Arc<Partial> {
        &self.partial
    }

    /// Lends the reader what it lacks.
    pub(crate) fn lend(&self, asks: Asks, reader: &DiskReader, lacking: &[ChunkId]) -> Result<(), PeerError> {
        let began = Instant::now();
        let talk = match asks {
            Asks::Little => &self.little,
            Asks::Much => &self.much,
        };
        let mut talk = talk.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let new = talk.is_none();
            let why = match self.fetch(&mut talk, lacking, &mut |id, bytes| reader.lend(id, bytes)) {
                Ok(()) => return Ok(()),
                Err(why) => why,
            };
            // What it has still to say would be taken for the next answer.
            *talk = None;
            if !why.passes() || began.elapsed() >= AWAY.min(self.peers.patience * 2) {
                return Err(why);
            }
            // An old one may have ended for want of questions.
            if new {
                std::thread::sleep(PAUSE);
            }
        }
    }

    fn fetch(&self, talk: &mut Option<Call>, lacking: &[ChunkId], put: &mut Put<'_>) -> Result<(), PeerError> {
        let watch = Watch { wanted: &|| true, moved: &|_| {} };
        let call = match talk {
            Some(call) => call,
            None => talk.insert(self.peers.call_for(self.partial.manifest().id, self.from, &watch)?.0),
        };
        call.fetch(lacking, &watch, &mut Moved::default(), put)
    }
}
