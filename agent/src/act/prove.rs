//! Boots a restore point in isolation and waits for the guest's sign of life. Its disks are layers over the point, which is
//! served read-only, so neither the point nor the guest it comes of is touched; whatever ends it, nothing is left.

mod isolate;
mod sign;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use roost_libvirt::{Code, Hypervisor, Picture, State, TRIAL};
use roost_protocol::GuestId;
use roost_protocol::operation::{Failure, FailureCode};

use self::sign::{Console, Sign};
use super::backup::definition;
use super::backup::{DEFINITION, INITRD, KERNEL, NVRAM, TPM_FOLDER};
use super::domain::hypervisor_failure;
use super::nbd::server::{Exports, Server};
use super::restore::identity::{self, Change};
use super::restore::origin::Origin;
use super::restore::{disk, restore_tpm};
use super::xml::Accelerator;
use super::{failure, io_failure};
use crate::files;

/// Between two looks at the trial.
const LOOK: Duration = Duration::from_millis(500);
/// How long the guest agent has for an answer, whole seconds; asked again until the patience ends.
const AGENT_S: u32 = 2;
/// Bytes that a trial may write; more is no boot.
const LAYERS: u64 = 4 << 30;
/// QEMU's user walks through it, nobody lists it.
const FOLDER_MODE: u32 = 0o711;

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The sign of life, or why there was none.
    pub(crate) sign: Result<String, String>,
    pub(crate) picture: Option<Picture>,
}

/// What a worker that proves has at hand.
pub(crate) struct Prove<'a> {
    pub(crate) hypervisor: &'a Arc<Hypervisor>,
    pub(crate) accelerator: Accelerator,
    /// The trial's own; removed in the end.
    pub(crate) folder: &'a Path,
    /// Set when nobody waits for it any more.
    pub(crate) unwanted: &'a AtomicBool,
    /// Percent done, and what is being done.
    pub(crate) tell: &'a dyn Fn(u32, &str),
}

/// Ends whatever trial there is, also one of a dead agent, and removes what it left.
pub(crate) fn sweep(hypervisor: &Hypervisor, folder: &Path) -> Result<(), Failure> {
    hypervisor.end_trial().map_err(|error| hypervisor_failure(&error))?;
    for path in [folder, &swtpm()] {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(io_failure(format!("remove {}", path.display()), &error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

fn swtpm() -> PathBuf {
    Path::new(TPM_FOLDER).join(uuid::Uuid::from_bytes(TRIAL).to_string())
}

impl Prove<'_> {
    /// Boots the point; an error means that it could not be tried.
    pub(crate) fn run(&self, origin: &dyn Origin, patience: Duration) -> Result<Verdict, Failure> {
        sweep(self.hypervisor, self.folder)?;
        let ended = self.boot(origin, patience);
        match sweep(self.hypervisor, self.folder) {
            Ok(()) => {}
            Err(why) => tracing::warn!(why = why.text, "what is left of a trial is removed when libvirt is back"),
        }
        ended
    }

    fn boot(&self, origin: &dyn Origin, patience: Duration) -> Result<Verdict, Failure> {
        (self.tell)(0, "prepare an isolated guest");
        let definition = String::from_utf8(origin.file(DEFINITION)?)
            .map_err(|_| failure(FailureCode::Damaged, "the point's definition is not text"))?;
        let state = definition::read(&definition)?;
        files::make_folder(self.folder, FOLDER_MODE).map_err(|error| io_failure("make the trial's folder", &error))?;
        let (socket, console) = (self.folder.join("point"), self.folder.join("console"));
        let mut exports = Exports::new();
        for disk in &state.disks {
            exports.insert(disk.target.clone(), origin.disk(&disk.target)?);
        }
        let sizes: Vec<(String, u64)> = exports.iter().map(|(name, image)| (name.clone(), image.size())).collect();
        let server = Server::start(&socket, exports).map_err(|error| io_failure("serve the point", &error))?;
        server.let_qemu_in().map_err(|error| io_failure("open the point to QEMU", &error))?;
        let mut change = self.files(origin, &state)?;
        for (target, size) in sizes {
            let path = self.folder.join(format!("{target}.qcow2"));
            disk::layer(&path, &socket, &target, size)?;
            change.below.insert(target.clone(), socket.clone());
            change.disks.insert(target, path);
        }
        let xml = isolate::isolate(&identity::change(&definition, &change)?, self.folder, &console)?;
        restore_tpm(GuestId::from_bytes(TRIAL), origin)?;
        self.hypervisor.start_trial(&xml).map_err(|error| hypervisor_failure(&error))?;
        let talk = if xml.contains(isolate::AGENT) { sign::GOES_ON_BESIDE_AGENT } else { sign::GOES_ON };
        let sign = self.watch(&console, state.kernel.is_some().then_some(talk), patience)?;
        // A screen that can't be had is no reason to doubt the sign.
        let picture = self.hypervisor.screenshot(&TRIAL).ok();
        Ok(Verdict { sign, picture })
    }

    /// The small files, in the trial's folder.
    fn files(&self, origin: &dyn Origin, state: &definition::State) -> Result<Change, Failure> {
        let names = origin.files();
        let keep = |name: &str, wanted: bool| -> Result<Option<PathBuf>, Failure> {
            if !wanted || !names.iter().any(|known| known == name) {
                return Ok(None);
            }
            let path = self.folder.join(name);
            let written = files::write_atomically(&path, &origin.file(name)?);
            written.map_err(|error| io_failure(format!("write {}", path.display()), &error))?;
            Ok(Some(path))
        };
        Ok(Change {
            guest: GuestId::from_bytes(TRIAL),
            name: None,
            disks: BTreeMap::new(),
            below: BTreeMap::new(),
            nvram: keep(NVRAM, state.nvram.is_some())?,
            kernel: keep(KERNEL, state.kernel.is_some())?,
            initrd: keep(INITRD, state.initrd.is_some())?,
            serial: self.folder.join("console"),
            seed: None,
            accelerator: self.accelerator,
        })
    }

    /// Waits for the sign of life, or for the reason why there will be none.
    fn watch(
        &self,
        console: &Path,
        talk: Option<Duration>,
        patience: Duration,
    ) -> Result<Result<String, String>, Failure> {
        let began = Instant::now();
        let mut listener = Console::default();
        let mut last = String::new();
        loop {
            if self.unwanted.load(Ordering::Relaxed) {
                return Err(failure(FailureCode::Cancelled, "the proof was cancelled; nothing is left of it"));
            }
            let after = began.elapsed();
            if let Some(why) = self.over()? {
                return Ok(Err(format!("after {} s {why}", after.as_secs())));
            }
            let ping = self.hypervisor.agent_command(&TRIAL, r#"{"execute":"guest-ping"}"#, AGENT_S);
            if ping.is_ok() {
                return Ok(Ok(format!("guest agent, after {} s", after.as_secs())));
            }
            let (length, tail) = said(console);
            match listener.hear(after, length, &tail, talk) {
                Sign::Alive(sign) => return Ok(Ok(format!("{sign}, after {} s", after.as_secs()))),
                Sign::Dead(words) => return Ok(Err(format!("after {} s its console says {words:?}", after.as_secs()))),
                Sign::Nothing => {}
            }
            if let Some(line) = tail.lines().rev().find(|line| !line.trim().is_empty()) {
                last = line.trim().chars().filter(|letter| !letter.is_control()).take(80).collect();
            }
            if after >= patience {
                let said = if last.is_empty() { String::new() } else { format!("; its console ends with {last:?}") };
                return Ok(Err(format!("nothing from guest agent or console within {} s{said}", patience.as_secs())));
            }
            let percent = after.as_millis().saturating_mul(99) / patience.as_millis().max(1);
            (self.tell)(u32::try_from(percent).unwrap_or(99).min(99), "wait for a sign of life");
            std::thread::sleep(LOOK);
        }
    }

    /// Why the trial can't come alive any more.
    fn over(&self) -> Result<Option<String>, Failure> {
        let domain = match self.hypervisor.trial() {
            Err(error) if error.code() == Some(Code::NoDomain) => return Ok(Some("it switched itself off".into())),
            other => other.map_err(|error| hypervisor_failure(&error))?,
        };
        let written: u64 = fs::read_dir(self.folder)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.metadata().ok())
            .map(|file| file.blocks().saturating_mul(512))
            .sum();
        if written > LAYERS {
            return Err(failure(FailureCode::NoSpace, format!("it wrote more than {} MiB", LAYERS >> 20)));
        }
        Ok(match domain.state {
            State::Paused => Some("it stopped: a disk could not be read or written".into()),
            State::ShutOff | State::Crashed => Some("it crashed".into()),
            State::Running | State::Blocked | State::NoState | State::ShuttingDown | State::PmSuspended => None,
        })
    }
}

/// How much the console said, and the end of it.
fn said(console: &Path) -> (u64, String) {
    let read = || -> std::io::Result<(u64, Vec<u8>)> {
        let mut file = File::open(console)?;
        let length = file.metadata()?.len();
        let tail = u64::try_from(sign::TAIL).unwrap_or(u64::MAX);
        file.seek(SeekFrom::Start(length.saturating_sub(tail)))?;
        let mut bytes = Vec::new();
        file.take(tail).read_to_end(&mut bytes)?;
        Ok((length, bytes))
    };
    // Not there before the guest said anything.
    let (length, bytes) = read().unwrap_or_default();
    (length, String::from_utf8_lossy(&bytes).into_owned())
}
