//! A guest that was started at once runs on layers over its point, which the agent serves. Here its data is brought in
//! while it runs. When the agent dies, the guest goes on, and stands still where it reads what is not here yet; the next
//! agent serves the point again, lets the guest go on, and brings in the rest. Nothing here ever removes a layer.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use roost_libvirt::{Code, DomainInfo, Error, Hypervisor, Reason, State, XmlForm};
use roost_protocol::GuestId;
use roost_protocol::operation::{Failure, FailureCode};

use super::disk;
use super::identity;
use super::origin::Origin;
use crate::act::domain::hypervisor_failure;
use crate::act::import::{self, Element};
use crate::act::nbd::server::{Exports, Server};
use crate::act::place::Place;
use crate::act::{failure, io_failure};
use crate::files;

/// The socket at which QEMU finds a point's disks.
pub(super) const SOCKET: &str = "point";
/// Lies in the guest's folder as long as its disks need the point: its layers, a line each, target and path.
const PULLING: &str = "pulling";
/// Lies there while the guest is paused for an instant, so that the next agent lets it go on.
const SETTLING: &str = "settling";
/// Between two looks at data being brought in.
const LOOK: Duration = Duration::from_millis(200);
/// QEMU (9.2 to 10.2) tells of one read error a second and keeps further ones back until then. When such an event comes
/// after the guest was let go on, libvirt takes it for paused, and never again for running: all must have come before.
const LATE_EVENTS: Duration = Duration::from_millis(1_200);
/// Between two tries to begin a job.
const AGAIN: Duration = Duration::from_millis(500);
/// A guest that stops again within this time is not told of again.
const TOLD: Duration = Duration::from_secs(30);
/// A guest that libvirt would not pause is asked to be paused again this much later: something else is done to it.
const SETTLE_AGAIN: Duration = Duration::from_secs(5);
/// Jobs on one disk that may end early before this is told; it is tried again all the same.
const TRIES: u32 = 3;
/// And how long they may: QEMU, once it found nobody at the socket, looks again after 1, 2, 4, 8 and then every 16 s, and
/// until then all its reads fail.
const FOUND_AGAIN: Duration = Duration::from_secs(20);
/// How long a start waits for the point to be served, which is the first thing an agent does.
const SERVED: Duration = Duration::from_secs(30);

/// Points that are served to running guests.
#[derive(Debug, Default)]
pub(crate) struct Served {
    /// By guest, with the number of each; none where what is served may be at fault.
    all: Mutex<BTreeMap<GuestId, (Option<u64>, Server)>>,
    last: AtomicU64,
}

impl Served {
    fn all(&self) -> MutexGuard<'_, BTreeMap<GuestId, (Option<u64>, Server)>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves disks to a guest from now on, in place of what was served to it before.
    pub(super) fn begin(&self, guest: GuestId, folder: &Path, exports: Exports) -> Result<(), Failure> {
        let socket = folder.join(SOCKET);
        self.end(guest);
        // Of an agent that died.
        let _ = fs::remove_file(&socket);
        let server = Server::start(&socket, exports).map_err(|error| io_failure("serve the point", &error))?;
        server.let_qemu_in().map_err(|error| io_failure("open the point to QEMU", &error))?;
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.all().insert(guest, (Some(number), server));
        Ok(())
    }

    pub(crate) fn end(&self, guest: GuestId) {
        // Ended outside of the lock: it waits for its thread.
        let server = self.all().remove(&guest);
        drop(server);
    }

    /// Stays there for QEMU to find, until another takes its place.
    fn doubt(&self, guest: GuestId) {
        if let Some((number, _)) = self.all().get_mut(&guest) {
            *number = None;
        }
    }

    /// Which one is served now.
    fn number(&self, guest: GuestId) -> Option<u64> {
        self.all().get(&guest).and_then(|(number, _)| *number)
    }
}

/// Notes that the guest needs its point for these layers.
pub(super) fn mark(folder: &Path, layers: &BTreeMap<String, PathBuf>) -> Result<(), Failure> {
    let lines = layers.iter().map(|(target, path)| format!("{target} {}\n", path.display())).collect::<String>();
    let written = files::write_atomically(&folder.join(PULLING), lines.as_bytes());
    written.map_err(|error| io_failure("mark the guest's folder", &error))
}

/// The layers as marked, in the guest's folder only.
fn marked(folder: &Path) -> BTreeMap<String, PathBuf> {
    let lines = fs::read_to_string(folder.join(PULLING)).unwrap_or_default();
    let split = lines.lines().filter_map(|line| line.split_once(' '));
    let layers = split.map(|(target, path)| (target.to_owned(), PathBuf::from(path)));
    layers.filter(|(_, path)| path.parent() == Some(folder)).collect()
}

/// True while the guest's disks need their point.
pub(crate) fn is_pulling(place: &Place, guest: GuestId) -> bool {
    place.guest(guest).join(PULLING).exists()
}

/// Waits until the guest's point is served, if it needs one: an agent that has just begun may be asked to start it before.
pub(crate) fn await_served(place: &Place, guest: GuestId) {
    let folder = place.guest(guest);
    let end = Instant::now() + SERVED;
    let ready = || {
        UnixStream::connect(folder.join(SOCKET)).is_ok()
            && marked(&folder).values().all(|layer| is_over_something(layer))
    };
    while is_pulling(place, guest) && !ready() && Instant::now() < end {
        thread::sleep(LOOK);
    }
}

/// Whether a qcow2 file names something below it.
fn is_over_something(layer: &Path) -> bool {
    let mut head = [0; 16];
    let read = fs::File::open(layer).and_then(|mut file| file.read_exact(&mut head));
    read.is_ok() && head[8..].iter().any(|byte| *byte != 0)
}

/// What a worker that brings data in has at hand.
pub(crate) struct Pull<'a> {
    pub(crate) hypervisor: &'a Arc<Hypervisor>,
    pub(crate) place: &'a Place,
    pub(crate) served: &'a Served,
    pub(crate) guest: GuestId,
    /// Set when nobody waits for it any more.
    pub(crate) unwanted: &'a AtomicBool,
    /// Percent done, and what is being done.
    pub(crate) tell: &'a dyn Fn(u32, &str),
}

/// How far one disk is.
#[derive(Debug, Default)]
struct Job {
    done: u64,
    all: u64,
    /// Ended early so often since it last brought something.
    early: u32,
    /// The first of these times.
    since: Option<Instant>,
    why: String,
}

impl Job {
    fn ended_early(&mut self, why: String) {
        (self.early, self.why) = (self.early + 1, why);
        self.since.get_or_insert_with(Instant::now);
        thread::sleep(AGAIN);
    }

    fn is_stuck(&self) -> bool {
        self.early >= TRIES && self.since.is_some_and(|since| since.elapsed() >= FOUND_AGAIN)
    }
}

impl Pull<'_> {
    /// Ends when no disk needs the point any more. An error leaves the guest as it is, to be tried again.
    pub(crate) fn run(&self, open: &dyn Fn() -> Result<Box<dyn Origin>, Failure>) -> Result<(), Failure> {
        let mut mine = self.served.number(self.guest);
        let ended = self.bring_in(open, &mut mine);
        // A restore over the guest may serve another point already.
        let own = self.served.number(self.guest) == mine;
        if own && (ended.is_ok() || self.unwanted.load(Ordering::Relaxed)) {
            self.served.end(self.guest);
        }
        if own && ended.is_ok() {
            let _ = fs::remove_file(self.place.guest(self.guest).join(PULLING));
        }
        ended
    }

    fn bring_in(
        &self,
        open: &dyn Fn() -> Result<Box<dyn Origin>, Failure>,
        mine: &mut Option<u64>,
    ) -> Result<(), Failure> {
        let mut jobs: BTreeMap<String, Job> = BTreeMap::new();
        let (mut stood, mut told, mut afterwards, mut count, mut put) = (None, None, 0, None, false);
        let mut refused = None;
        self.unsettle();
        loop {
            if self.unwanted.load(Ordering::Relaxed) {
                return Err(failure(
                    FailureCode::Cancelled,
                    "what is restored over, or deleted, needs its data no more",
                ));
            }
            let Some((domain, disks)) = self.look()? else { return Ok(()) };
            let count = *count.get_or_insert(disks.len());
            if !disks.is_empty() && self.served.number(self.guest).is_none() {
                self.serve(&disks, open)?;
                *mine = self.served.number(self.guest);
            }
            // When it stops a second time, libvirt no longer says why.
            let unmeant = matches!(domain.reason, Reason::IoError | Reason::PausedUnknown);
            let stands = domain.state == State::Paused && unmeant;
            let layers = marked(&self.place.guest(self.guest));
            let at = if stands { Some(stood.unwrap_or_else(|| self.stood(layers.keys().next()))) } else { None };
            stood = at;
            if at.is_some_and(|at| at.elapsed() >= LATE_EVENTS) {
                if told.is_none_or(|at: Instant| at.elapsed() >= TOLD) {
                    tracing::info!(guest = %self.guest, "it stopped for want of its point, and is let go on");
                }
                (told, stood) = (Some(Instant::now()), None);
                self.go_on();
            }
            put &= !domain.state.is_active();
            match disks.first() {
                None if domain.state == State::Running => {
                    if refused.is_none_or(|at: Instant| at.elapsed() >= SETTLE_AGAIN) {
                        if self.settle(&layers)? {
                            return Ok(());
                        }
                        refused = Some(Instant::now());
                    }
                    (self.tell)(99, "wait until the guest can be paused for an instant");
                }
                None if !domain.state.is_active() && !layers.is_empty() => {
                    (self.tell)(99, "wait until the guest runs");
                    if !std::mem::replace(&mut put, true) {
                        self.put_back(&layers, open)?;
                        *mine = self.served.number(self.guest);
                    }
                }
                Some(target) if domain.state.is_active() => {
                    self.advance(target, jobs.entry(target.clone()).or_default())?;
                    (self.tell)(percent(&jobs, count), &format!("bring disk {target} in"));
                }
                Some(_) => (self.tell)(percent(&jobs, count), "wait until the guest runs"),
                // All is here; what it stopped for is no more, unless it stopped for something else.
                None if stands && afterwards < TRIES * 4 => afterwards += 1,
                None if domain.state.is_active() => (self.tell)(99, "wait until the guest goes on"),
                None => return Ok(()),
            }
            thread::sleep(LOOK);
        }
    }

    /// Makes durable what was brought in: QEMU takes the point away from a layer when it has read all of it, and writes
    /// where it put that only when the guest flushes. A pause makes it write; it is short, for the data is flushed before.
    fn settle(&self, layers: &BTreeMap<String, PathBuf>) -> Result<bool, Failure> {
        let tried = |error: std::io::Error| io_failure("flush the guest's disks", &error);
        for path in layers.values() {
            fs::File::open(path).and_then(|file| file.sync_data()).map_err(tried)?;
        }
        let uuid = self.guest.bytes();
        let note = self.place.guest(self.guest).join(SETTLING);
        files::write_atomically(&note, b"").map_err(tried)?;
        let paused = self.hypervisor.pause(&uuid);
        let resumed = self.hypervisor.resume(&uuid);
        match (&paused, &resumed) {
            (Ok(()), Err(error)) if error.code() != Some(Code::OperationInvalid) => {
                return Err(hypervisor_failure(error));
            }
            // It went off: the next look shows it.
            _ => drop(fs::remove_file(&note)),
        }
        Ok(paused.is_ok() && resumed.is_ok())
    }

    /// An agent that died while it had the guest paused: it goes on.
    fn unsettle(&self) {
        let note = self.place.guest(self.guest).join(SETTLING);
        if note.exists() {
            self.go_on();
            let _ = fs::remove_file(note);
        }
    }

    /// A guest that went off before what was brought in was durable gets its point back below its layers: what they lack
    /// is read from there again. What they have stays.
    fn put_back(
        &self,
        layers: &BTreeMap<String, PathBuf>,
        open: &dyn Fn() -> Result<Box<dyn Origin>, Failure>,
    ) -> Result<(), Failure> {
        let socket = self.place.guest(self.guest).join(SOCKET);
        let (uuid, form) = (self.guest.bytes(), XmlForm { inactive: true, secure: true, ..XmlForm::default() });
        let told = |error: Error| hypervisor_failure(&error);
        let xml = self.hypervisor.xml(&uuid, form).map_err(told)?;
        let xml = identity::over_served(&xml, layers, &socket)?;
        self.hypervisor.define(&xml).map_err(told)?;
        let targets: Vec<String> = layers.keys().cloned().collect();
        self.serve(&targets, open)?;
        // The last thing, for which a start waits.
        layers.iter().try_for_each(|(target, path)| disk::layer_again(path, &socket, target))
    }

    /// The moment from which a guest that stopped has no more reads under way: QEMU waits for them when it stops, and
    /// answers nothing meanwhile.
    fn stood(&self, target: Option<&String>) -> Instant {
        // What it answers doesn't matter.
        let _ = target.map(|target| self.hypervisor.block_job(&self.guest.bytes(), target));
        Instant::now()
    }

    /// Lets a guest that stopped for want of its point go on; should it stop again, it is let go on again.
    fn go_on(&self) {
        match self.hypervisor.resume(&self.guest.bytes()) {
            Ok(()) => {}
            Err(error) => tracing::warn!(guest = %self.guest, %error, "let a guest go on"),
        }
    }

    /// The domain and its disks that need the point; none where it is gone.
    fn look(&self) -> Result<Option<(DomainInfo, Vec<String>)>, Failure> {
        let uuid = self.guest.bytes();
        let gone = |error: &Error| error.code() == Some(Code::NoDomain);
        let both =
            self.hypervisor.domain(&uuid).and_then(|it| Ok((it, self.hypervisor.xml(&uuid, XmlForm::default())?)));
        match both {
            Err(error) if gone(&error) => Ok(None),
            Err(error) => Err(hypervisor_failure(&error)),
            Ok((domain, xml)) => Ok(Some((domain, over_the_point(&xml)?))),
        }
    }

    fn serve(&self, disks: &[String], open: &dyn Fn() -> Result<Box<dyn Origin>, Failure>) -> Result<(), Failure> {
        let lost = |why: Failure| {
            let text = format!("{}; disks {} need it: what the guest wrote is kept", why.text, disks.join(", "));
            failure(FailureCode::TargetAway, text)
        };
        let origin = open().map_err(lost)?;
        let export = |target: &String| Ok((target.clone(), origin.disk(target)?));
        let exports = disks.iter().map(export).collect::<Result<Exports, Failure>>().map_err(lost)?;
        self.served.begin(self.guest, &self.place.guest(self.guest), exports)
    }

    /// Begins the job on a disk, or looks how far it is.
    fn advance(&self, target: &str, job: &mut Job) -> Result<(), Failure> {
        let uuid = self.guest.bytes();
        match self.hypervisor.block_job(&uuid, target) {
            Ok(Some(now)) => {
                // A job that is begun again starts from nothing, and passes over what is here.
                if now.done > job.done {
                    (job.early, job.since, job.done) = (0, None, now.done);
                }
                job.all = now.all;
            }
            // Off, or gone: the next look shows it.
            Err(error) => job.why = error.to_string(),
            Ok(None) => {
                if job.all > 0 {
                    job.ended_early("reading the point failed".into());
                    job.all = 0;
                }
                if let Err(error) = self.hypervisor.block_pull(&uuid, target, 0) {
                    job.ended_early(error.to_string());
                } else {
                    // Before it tells anything of itself it may have ended.
                    job.all = job.all.max(1);
                }
            }
        }
        if !job.is_stuck() {
            return Ok(());
        }
        // The next try opens it anew.
        self.served.doubt(self.guest);
        let text = format!(
            "disk {target}: {} MiB are here, the rest is still in the backup ({}); what the guest wrote is kept",
            job.done >> 20,
            job.why
        );
        Err(failure(FailureCode::TargetAway, text))
    }
}

/// Of all disks that needed the point at first; a disk that has no job any more is done.
fn percent(jobs: &BTreeMap<String, Job>, count: usize) -> u32 {
    let begun = jobs.len();
    let last = jobs.values().map(|job| job.done.saturating_mul(100) / job.all.max(1)).max().unwrap_or(0).min(100);
    let before = u64::try_from(begun.saturating_sub(1)).unwrap_or(0).saturating_mul(100);
    let all = u64::try_from(count.max(1)).unwrap_or(1);
    u32::try_from((before + last) / all).unwrap_or(99).min(99)
}

/// Disks that anything below is served for.
fn over_the_point(xml: &str) -> Result<Vec<String>, Failure> {
    fn served(element: &Element) -> bool {
        let own = element.name == "source" && element.attribute("protocol") == Some("nbd");
        own || element.children.iter().filter(|child| child.name != "mirror").any(served)
    }
    let root = import::tree(xml).map_err(|error| failure(FailureCode::Invalid, error.to_string()))?;
    let devices = root.child("devices").map(|devices| devices.children.as_slice()).unwrap_or_default();
    let disks = devices.iter().filter(|device| device.name == "disk" && served(device));
    Ok(disks.filter_map(|disk| disk.child("target")?.attribute("dev").map(str::to_owned)).collect())
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn disks_over_the_point_are_found_and_progress_counts_all_of_them() {
        let disk = |target: &str, below: &str| {
            format!("<disk type='file'><source file='/x'/>{below}<target dev='{target}' bus='virtio'/></disk>")
        };
        let below = "<backingStore type='network'><source protocol='nbd' name='vda'/><backingStore/></backingStore>";
        let xml = format!(
            "<domain><devices>{}{}{}</devices></domain>",
            disk("vda", below),
            disk("vdb", "<backingStore/>"),
            disk("vdc", below)
        );
        assert_eq!(over_the_point(&xml).unwrap(), ["vda", "vdc"]);
        let job = |done, all| Job { done, all, ..Job::default() };
        let mut jobs = BTreeMap::from([("vda".to_owned(), job(50, 100))]);
        assert_eq!((percent(&jobs, 2), percent(&BTreeMap::new(), 2)), (25, 0));
        jobs.insert("vda".into(), job(100, 100));
        jobs.insert("vdc".into(), job(0, 100));
        assert_eq!(percent(&jobs, 2), 99);
    }
}
