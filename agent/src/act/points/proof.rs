//! Proves points: one trial at a time, its verdict with the point in the store, the picture of its screen beside it.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use roost_agent_core::{Made, TaskResult};
use roost_libvirt::{Hypervisor, Picture};
use roost_protocol::backup::{Proof, SENTENCE};
use roost_protocol::{GuestId, Millis, PointId};

use super::{Hands, Points, store_failure};
use crate::act::prove::{self, Prove};
use crate::act::restore::origin::FromStore;
use crate::act::{backup, io_failure, picture};
use crate::{files, look};

/// The trial's folder in the scratch folder; guests' rooms are named by ids.
const FOLDER: &str = "trial";

impl Points {
    /// Ends a trial that a dead agent left; waits for one of our own.
    pub(super) fn end_trial(&self, hypervisor: &Arc<Hypervisor>) {
        let _one = self.proving.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(why) = prove::sweep(hypervisor, &self.scratch.folder.join(FOLDER)) {
            tracing::warn!(why = why.text, "end a trial that was left");
        }
    }

    pub(super) fn prove(&self, guest: GuestId, point: PointId, patience: Millis, hands: &Hands<'_>) -> TaskResult {
        // The core begins one at a time; what is waited for is the end of what an earlier life left.
        let _one = self.proving.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = self.scratch.folder.join(FOLDER);
        let trial = Prove {
            hypervisor: hands.hypervisor,
            accelerator: hands.accelerator,
            folder: &folder,
            unwanted: hands.unwanted,
            tell: hands.tell,
        };
        let origin = FromStore { store: self.store.clone(), point };
        let verdict = trial.run(&origin, Duration::from_millis(patience.0))?;
        let at = backup::wall();
        let picture = verdict.picture.and_then(|picture| self.keep_picture(guest, &picture));
        let proof = match verdict.sign {
            Ok(by) => Proof::Proven { at, by },
            Err(why) => {
                let picture = picture.map(|path| format!("; its screen: {}", path.display())).unwrap_or_default();
                let mut why = why + &picture;
                why.truncate(why.floor_char_boundary(SENTENCE));
                Proof::Failed { at, why }
            }
        };
        self.store.set_proof(point, proof.clone()).map_err(|error| store_failure("note the proof", &error))?;
        Ok(Made::Proven { point, proof })
    }

    /// The newest picture of a guest's trial; without one the proof is as good.
    fn keep_picture(&self, guest: GuestId, picture: &Picture) -> Option<PathBuf> {
        let path = look::file(&self.pictures, guest);
        let kept = picture::png(picture).and_then(|png| {
            let written = files::make_folder(&self.pictures, 0o700).and_then(|()| files::write_atomically(&path, &png));
            written.map_err(|error| io_failure(format!("write {}", path.display()), &error))
        });
        kept.map_err(|why| tracing::warn!(why = why.text, "keep the picture of a trial")).ok()?;
        Some(path)
    }
}
