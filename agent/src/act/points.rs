//! What is done with restore points: making them in the host's store, verifying, pinning, removing them, bringing them to
//! folders, and making guests of them. The store itself is a crate of its own; here are its doors for tasks.

pub(crate) mod aside;
mod other;
mod proof;
pub(crate) mod ship;
#[cfg(test)]
mod test;

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{fs, io};

use roost_agent_core::event::BackupOrder;
use roost_agent_core::{Made, Task, TaskResult};
use roost_libvirt::Hypervisor;
use roost_protocol::backup::{BackupSummary, Damage, RestoreOrder, Target};
use roost_protocol::operation::{Failure, FailureCode};
use roost_protocol::{GuestId, HostId, PointId};
use roost_store::{Budget, Options, Progress, Scope, Store, StoreError};

use self::aside::Aside;
use super::backup::kept::{self, Kept};
use super::backup::scratch::Scratch;
use super::backup::{Backup, Wish, tidy};
use super::place::Place;
use super::restore::origin::{FromAfar, FromStore, Origin};
use super::restore::pull::{self, Pull, Served};
use super::restore::{Order, Restore};
use super::xml::Accelerator;
use super::{failure, io_failure};
use crate::peer::Peers;
use crate::told::told;
use crate::{files, look};

/// Bytes of layers that one guest's backup may take.
const SCRATCH_CAP: u64 = 8 << 30;
/// Held back for the end of a backup when the disk is full.
const SCRATCH_RESERVE: u64 = 16 << 20;
/// Longest that a guest's backup may read; then it is given up and the guest is freed.
const LONGEST: Duration = Duration::from_secs(4 * 3_600);
/// Time that one removal of points spends on giving room back; the next one goes on.
const COLLECT: Budget = Budget { bytes: 1 << 30, time: Duration::from_secs(60) };

/// The host's points and where they are made.
#[derive(Clone, Debug)]
pub(crate) struct Points {
    pub(crate) store: Store,
    /// Copies in folders are opened, and encrypted, as the store is.
    options: Options,
    folder: PathBuf,
    key_file: Option<PathBuf>,
    aside: Arc<Aside>,
    scratch: Arc<Scratch>,
    host: HostId,
    host_name: Arc<str>,
    /// Folders that targets may lie in.
    allowed: Arc<[PathBuf]>,
    /// Held while a point is proven: there is one trial on a host.
    proving: Arc<Mutex<()>>,
    /// Points that guests started at once run on.
    served: Arc<Served>,
    /// Pictures of the screens of trials, one a guest.
    pictures: PathBuf,
    /// The way to other hosts.
    pub(crate) peers: Option<Peers>,
    /// Points that are here only for restores.
    borrowed: Arc<other::Borrowed>,
    /// Stores with points out of folders that guests are restored from, one a guest, beside the host's own.
    fetched_all: PathBuf,
}

/// What a task of points is given beside itself.
pub(crate) struct Hands<'a> {
    pub(crate) hypervisor: &'a Arc<Hypervisor>,
    pub(crate) place: &'a Place,
    pub(crate) accelerator: Accelerator,
    pub(crate) unwanted: &'a AtomicBool,
    pub(crate) tell: &'a dyn Fn(u32, &str),
}

impl Points {
    /// Opens the host's store in `folder`, which is made where it is not there.
    pub(crate) fn open(
        folder: &Path,
        scratch: PathBuf,
        (host, host_name): (HostId, &str),
        allowed: &[PathBuf],
        options: Options,
        key_file: Option<PathBuf>,
    ) -> Result<Self, StoreError> {
        let store = Store::open(folder, options.clone())?;
        let (cap, reserve, longest) = (SCRATCH_CAP, SCRATCH_RESERVE, LONGEST);
        let (proving, served, pictures) = (Arc::default(), Arc::default(), scratch.with_file_name(look::PICTURES));
        let scratch = Arc::new(Scratch { folder: scratch, cap, reserve, longest, read_speed: 0 });
        Ok(Self {
            store,
            options,
            folder: folder.to_owned(),
            key_file,
            aside: Arc::new(Aside::new()),
            scratch,
            host,
            host_name: host_name.into(),
            allowed: allowed.into(),
            proving,
            served,
            pictures,
            peers: None,
            borrowed: Arc::default(),
            fetched_all: beside(folder, "-fetched"),
        })
    }

    /// All points that can be read, as the core knows them.
    pub(crate) fn all(&self) -> Vec<BackupSummary> {
        self.store.points().iter().map(|summary| told(summary, self.host)).collect()
    }

    /// Frees guests from layers that a dead agent left.
    pub(crate) fn tidy(&self, hypervisor: &Arc<Hypervisor>) {
        tidy::all(hypervisor, &self.scratch);
        self.end_trial(hypervisor);
    }

    /// Removes what was fetched for restores that no guest needs any more; to be called before anything is restored.
    pub(crate) fn tidy_fetched(&self, place: &Place) {
        for entry in fs::read_dir(&self.fetched_all).into_iter().flatten().flatten() {
            let guest = entry.file_name().to_str().and_then(|name| name.parse::<GuestId>().ok());
            if guest.is_some_and(|guest| !pull::is_pulling(place, guest)) {
                remove_fetched(&entry.path());
            }
        }
    }

    /// Carries out one of the tasks about points.
    pub(crate) fn carry_out(&self, what: &Task, hands: &Hands<'_>) -> TaskResult {
        match what {
            Task::Backup { guest, order } => self.back_up(*guest, order, hands),
            Task::Verify { guest, point } => self.verify(*guest, *point, hands),
            Task::Pin { point, pinned, .. } => {
                let done = self.store.set_pinned(*point, *pinned);
                done.map(|()| Made::Nothing).map_err(|error| store_failure("pin the point", &error))
            }
            Task::Prune { at: Target::Local, remove, .. } => prune(&self.store, remove),
            Task::Prune { at: Target::Directory { path }, remove, .. } => self.prune_aside(path, remove, hands),
            Task::Ship { point, to: Target::Directory { path }, bandwidth, .. } => {
                self.ship_aside(*point, path, *bandwidth, hands)?;
                self.shipped(*point, Target::Directory { path: path.clone() })
            }
            Task::Ship { point, to: Target::Peer { host }, bandwidth, .. } => {
                self.bring(*point, *host, *bandwidth, hands)
            }
            Task::Prune { at: Target::Peer { host }, remove, .. } => self.take_back(*host, remove, hands),
            Task::Ship { to: Target::Local, .. } => {
                Err(failure(FailureCode::Invalid, "a point is in its own host's store from the first"))
            }
            Task::Restore { guest, order } => self.restore(*guest, order, hands),
            Task::Prove { guest, point, patience } => self.prove(*guest, *point, *patience, hands),
            Task::Pull { guest, order } => self.pull(*guest, order, hands),
            Task::Create { .. }
            | Task::Import { .. }
            | Task::Start { .. }
            | Task::Shutdown { .. }
            | Task::ForceOff { .. }
            | Task::Pause { .. }
            | Task::Resume { .. }
            | Task::Reset { .. }
            | Task::Delete { .. }
            | Task::CleanUp { .. } => Err(failure(FailureCode::Internal, "no task about points")),
        }
    }

    /// Brings a point to a folder, by a process of its own.
    fn ship_aside(&self, point: PointId, path: &str, bandwidth: Option<u64>, hands: &Hands<'_>) -> Result<(), Failure> {
        ship::check(&self.allowed, path)?;
        // Its chunks stay where they are as long as the process reads.
        let _hold = self.store.hold(point).map_err(|error| store_failure("read the point", &error))?;
        let mut words = self.aside_words("copy");
        words.extend([point.to_string().into(), "--from".into(), self.folder.clone().into_os_string()]);
        words.extend(["--to".into(), path.into()]);
        words.extend(bandwidth.into_iter().flat_map(|bandwidth| ["--bandwidth".into(), bandwidth.to_string().into()]));
        self.aside.run(path, &words, hands.unwanted, hands.tell)
    }

    /// A store with the point out of a folder, brought here by a process of its own: whoever reads of it later, be it a
    /// guest, must not hang with the folder. It stays until the point is given back.
    fn fetch_aside(&self, guest: GuestId, point: PointId, path: &str, hands: &Hands<'_>) -> Result<Store, Failure> {
        ship::check(&self.allowed, path)?;
        let here = self.fetched(guest);
        let options = Options { read_only: true, ..self.options.clone() };
        let open = || Store::open(&here, options.clone()).ok().filter(|store| store.manifest(point).is_ok());
        if let Some(store) = open() {
            return Ok(store);
        }
        files::make_folder(&self.fetched_all, 0o700).map_err(|error| io_failure("make a folder for points", &error))?;
        let mut words = self.aside_words("copy");
        words.extend([point.to_string().into(), "--from".into(), path.into()]);
        words.extend(["--to".into(), here.clone().into_os_string()]);
        let brought = self.aside.run(path, &words, hands.unwanted, hands.tell);
        let brought = brought.and_then(|()| {
            open().ok_or_else(|| failure(FailureCode::Internal, "the point that was brought here can't be read"))
        });
        brought.inspect_err(|_| self.give_back(guest, point))
    }

    fn fetched(&self, guest: GuestId) -> PathBuf {
        self.fetched_all.join(guest.to_string())
    }

    fn prune_aside(&self, path: &str, remove: &[PointId], hands: &Hands<'_>) -> TaskResult {
        ship::check(&self.allowed, path)?;
        let mut words = self.aside_words("remove");
        words.extend(["--store".into(), path.into()]);
        words.extend(remove.iter().map(|point| point.to_string().into()));
        self.aside.run(path, &words, hands.unwanted, hands.tell)?;
        Ok(Made::Pruned { removed: remove.to_vec(), freed: 0 })
    }

    /// The agent's settings are not read again, only the keys.
    fn aside_words(&self, what: &str) -> Vec<OsString> {
        let mut words: Vec<OsString> =
            ["--config", "/dev/null", "store", what].into_iter().map(OsString::from).collect();
        words.extend(self.key_file.iter().flat_map(|file| ["--key".into(), file.clone().into_os_string()]));
        words
    }

    /// Notes the copy with the point, so that it is known after a restart.
    fn shipped(&self, point: PointId, to: Target) -> TaskResult {
        match self.store.add_copy(point, &to) {
            // Removed meanwhile; its copy is removed too.
            Ok(()) | Err(StoreError::UnknownPoint(_)) => Ok(Made::Shipped { point, to }),
            Err(error) => Err(store_failure("note the copy", &error)),
        }
    }

    fn back_up(&self, guest: GuestId, order: &BackupOrder, hands: &Hands<'_>) -> TaskResult {
        let scratch = Scratch { read_speed: order.bandwidth.unwrap_or(0), ..Scratch::clone(&self.scratch) };
        let work =
            Backup { hypervisor: hands.hypervisor, scratch: &scratch, unwanted: hands.unwanted, tell: hands.tell };
        let (host, name) = (Some(self.host), self.host_name.to_string());
        let origin = kept::Origin { host, name, why: order.why, label: order.note.clone() };
        let set = Kept { store: self.store.clone(), guest, origin };
        let BackupOrder { freeze, full, meant, priority, .. } = *order;
        let point = work.run(guest, Wish { freeze, full, meant, priority, ..Wish::default() }, &set)?;
        let kept = |error: StoreError| store_failure("look at the new point", &error);
        if order.pin {
            self.store.set_pinned(point, true).map_err(kept)?;
        }
        let summary = self.store.manifest(point).map_err(kept)?.summary();
        Ok(Made::Point(Box::new(told(&summary, self.host))))
    }

    /// With `at_once` it ends when the guest may be started; its data follows ([`Points::pull`]).
    fn restore(&self, guest: GuestId, order: &RestoreOrder, hands: &Hands<'_>) -> TaskResult {
        let work = Restore {
            hypervisor: hands.hypervisor,
            place: hands.place,
            accelerator: hands.accelerator,
            served: &self.served,
            unwanted: hands.unwanted,
            tell: hands.tell,
        };
        let wish = Order { guest, to_be: order.to_be.clone(), replace: true, start: false, at_once: order.at_once };
        let origin = self.origin(guest, order, hands)?;
        let done = work.run(&wish, &*origin);
        if done.is_err() || !order.at_once {
            self.give_back(guest, order.point);
        }
        done?;
        Ok(Made::Restored { pulling: order.at_once })
    }

    /// Where the point of a restore is read from. One of another host is brought into this host's store first, unless the
    /// guest is to run before its data is here.
    fn origin(&self, guest: GuestId, order: &RestoreOrder, hands: &Hands<'_>) -> Result<Box<dyn Origin>, Failure> {
        let point = order.point;
        let store = match &order.from {
            Target::Local => self.store.clone(),
            Target::Directory { path } => self.fetch_aside(guest, point, path, hands)?,
            Target::Peer { host } if order.at_once && self.store.manifest(point).is_err() => {
                return Ok(Box::new(FromAfar(self.far(point, *host, hands)?)));
            }
            Target::Peer { host } => {
                self.borrow(guest, point, *host, hands)?;
                self.store.clone()
            }
        };
        Ok(Box::new(FromStore { store, point }))
    }

    /// A guest that is no more reads nothing; what it was served held its point.
    pub(super) fn end_serving(&self, guest: GuestId) {
        self.served.end(guest);
    }

    fn pull(&self, guest: GuestId, order: &RestoreOrder, hands: &Hands<'_>) -> TaskResult {
        let work = Pull {
            hypervisor: hands.hypervisor,
            place: hands.place,
            served: &self.served,
            guest,
            unwanted: hands.unwanted,
            tell: hands.tell,
        };
        let open = || -> Result<Box<dyn Origin>, Failure> {
            let gone = |why: Failure| {
                let text = format!("backup {} can't be read ({})", order.point, why.text);
                failure(FailureCode::TargetAway, text)
            };
            self.origin(guest, order, hands).map_err(gone)
        };
        let done = work.run(&open);
        if done.is_ok() || hands.unwanted.load(Ordering::Relaxed) {
            self.give_back(guest, order.point);
        }
        done?;
        Ok(Made::Nothing)
    }

    fn verify(&self, guest: GuestId, point: Option<PointId>, hands: &Hands<'_>) -> TaskResult {
        let scope = point.map_or(Scope::Guest(guest), Scope::Point);
        let mut watcher = |progress: Progress| {
            let percent = progress.points_done.saturating_mul(100) / progress.points.max(1);
            (hands.tell)(u32::try_from(percent.min(99)).unwrap_or(99), "reading and comparing");
            if hands.unwanted.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let found = self.store.verify(scope, &mut watcher);
        let damages: Vec<Damage> = found.map_err(|error| store_failure("verify", &error))?;
        if hands.unwanted.load(Ordering::Relaxed) {
            return Err(failure(FailureCode::Cancelled, "verification was cancelled"));
        }
        Ok(Made::Verified { damages })
    }
}

/// The folder of this name with something behind it.
fn beside(folder: &Path, end: &str) -> PathBuf {
    let mut name = folder.as_os_str().to_owned();
    name.push(end);
    name.into()
}

fn remove_fetched(folder: &Path) {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(folder = %folder.display(), %error, "remove a point that is needed no more");
        }
        Ok(()) | Err(_) => {}
    }
}

/// Points that are not there are none to worry about.
pub(crate) fn prune(store: &Store, remove: &[PointId]) -> TaskResult {
    let mut removed = Vec::new();
    for point in remove {
        match store.remove(*point) {
            Ok(()) | Err(StoreError::UnknownPoint(_)) => removed.push(*point),
            Err(error) => return Err(store_failure("remove a point", &error)),
        }
    }
    let collected = store.collect(COLLECT).map_err(|error| store_failure("give room back", &error))?;
    if let Some(why) = collected.blocked {
        tracing::warn!(why, "no room is given back before the store is healed: verify, and remove what is damaged");
    }
    Ok(Made::Pruned { removed, freed: collected.freed_bytes })
}

/// The store's "no" in the words that travel, and what was tried.
pub(crate) fn store_failure(tried: &str, error: &StoreError) -> Failure {
    let Failure { code, text } = kept::store_failure(error);
    failure(code, format!("{tried}: {text}"))
}
