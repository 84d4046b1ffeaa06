//! Makes a guest of a restore point: as it was, or as a new one. In two phases: all files are made and read back first,
//! then the definition is put in place; whatever goes wrong before that is undone, and the guest that was stays as it was.

pub(crate) mod disk;
pub(crate) mod identity;
mod iso;
mod laid;
pub(crate) mod origin;
pub(crate) mod pull;
mod seed;
#[cfg(test)]
mod test;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use roost_libvirt::{Code, Hypervisor, XmlForm};
use roost_protocol::GuestId;
use roost_protocol::backup::RestoreAs;
use roost_protocol::operation::{Failure, FailureCode};

use self::identity::Change;
use self::laid::Laid;
use self::origin::Origin;
use super::backup::definition::{self, State};
use super::backup::{DEFINITION, INITRD, KERNEL, NVRAM, TPM, TPM_FOLDER};
use super::domain::hypervisor_failure;
use super::nbd::server::Image;
use super::place::Place;
use super::xml::Accelerator;
use super::{failure, io_failure};
use crate::files::{self, CONSOLE_LOG};

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    /// The guest that comes of it.
    pub(crate) guest: GuestId,
    pub(crate) to_be: RestoreAs,
    /// Take the place of a guest that is there and off.
    pub(crate) replace: bool,
    pub(crate) start: bool,
    /// Define it before the data is here; who starts it brings the data in.
    pub(crate) at_once: bool,
}

/// What a worker that restores has at hand.
pub(crate) struct Restore<'a> {
    pub(crate) hypervisor: &'a Arc<Hypervisor>,
    pub(crate) place: &'a Place,
    pub(crate) accelerator: Accelerator,
    pub(crate) served: &'a pull::Served,
    /// Set when nobody waits for it any more.
    pub(crate) unwanted: &'a AtomicBool,
    /// Percent done, and what is being done.
    pub(crate) tell: &'a dyn Fn(u32, &str),
}

/// What was made, to be undone unless it is finished.
struct Made<'a> {
    place: &'a Place,
    guest: GuestId,
    /// The folder is new.
    folder: bool,
    files: Vec<PathBuf>,
    finished: bool,
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        self.files.iter().for_each(|file| drop(fs::remove_file(file)));
        if self.folder
            && let Err(why) = self.place.remove(self.guest)
        {
            tracing::error!(guest = %self.guest, why = why.text, "undo a restore");
        }
    }
}

impl Restore<'_> {
    /// Makes the guest. When it says so, every byte on its disks was read back and compared.
    pub(crate) fn run(&self, order: &Order, origin: &dyn Origin) -> Result<(), Failure> {
        order.to_be.check().map_err(|why| failure(FailureCode::Invalid, why))?;
        let definition = origin.file(DEFINITION)?;
        let definition = String::from_utf8(definition)
            .map_err(|_| failure(FailureCode::Damaged, "the point's definition is not text"))?;
        let state = definition::read(&definition)?;
        let before = self.before(order)?;
        let images = self.images(&state, origin)?;
        let folder = self.place.guest(order.guest);
        let fresh = !folder.exists();
        if fresh {
            self.place.begin(order.guest)?;
        }
        let mut made =
            Made { place: self.place, guest: order.guest, folder: fresh, files: Vec::new(), finished: false };
        let change = self.files(order, origin, &state, &folder, &mut made)?;
        if order.at_once {
            return self.at_once(order, &definition, change, images, origin, (before.as_ref(), made));
        }
        let change = self.fill(change, &state, &images)?;
        self.define(order, &definition, &change, origin, before.as_ref(), made)?;
        if order.start {
            (self.tell)(99, "start");
            self.hypervisor.start(&order.guest.bytes()).map_err(|error| hypervisor_failure(&error))?;
        }
        Ok(())
    }

    /// The guest that would be replaced, if there is one and it may be.
    fn before(&self, order: &Order) -> Result<Option<State>, Failure> {
        let uuid = order.guest.bytes();
        let domain = match self.hypervisor.domain(&uuid) {
            Err(error) if error.code() == Some(Code::NoDomain) => return self.name_is_free(order).map(|()| None),
            other => other.map_err(|error| hypervisor_failure(&error))?,
        };
        if domain.state.is_active() {
            return Err(failure(FailureCode::WrongState, "the original runs; stop it first, or restore as new"));
        }
        if order.to_be != RestoreAs::AsItWas || !order.replace {
            let text = "a guest with this id is there; allow its replacement, or restore as new";
            return Err(failure(FailureCode::AlreadyExists, text));
        }
        let form = XmlForm { inactive: true, ..XmlForm::default() };
        let xml = self.hypervisor.xml(&uuid, form).map_err(|error| hypervisor_failure(&error))?;
        definition::read(&xml).map(Some)
    }

    fn name_is_free(&self, order: &Order) -> Result<(), Failure> {
        let RestoreAs::AsNew { name, .. } = &order.to_be else { return Ok(()) };
        let domains = self.hypervisor.domains().map_err(|error| hypervisor_failure(&error))?;
        match domains.iter().any(|domain| domain.name == *name) {
            true => Err(failure(FailureCode::AlreadyExists, format!("this host has a guest named {name:?} already"))),
            false => Ok(()),
        }
    }

    fn images(&self, state: &State, origin: &dyn Origin) -> Result<BTreeMap<String, Arc<dyn Image>>, Failure> {
        state.disks.iter().map(|disk| Ok((disk.target.clone(), origin.disk(&disk.target)?))).collect()
    }

    /// Makes the small files, and names the disks'.
    fn files(
        &self,
        order: &Order,
        origin: &dyn Origin,
        state: &State,
        folder: &Path,
        made: &mut Made<'_>,
    ) -> Result<Change, Failure> {
        // New names for each restore: the old files stay until the new ones are whole.
        let draw = uuid::Uuid::new_v4().simple().to_string();
        let draw = &draw[..8];
        let names = origin.files();
        let mut keep = |name: &str, wanted: bool| -> Result<Option<PathBuf>, Failure> {
            if !wanted || !names.iter().any(|known| known == name) {
                return Ok(None);
            }
            let path = folder.join(format!("{name}-{draw}"));
            write(&path, &origin.file(name)?, made)?;
            Ok(Some(path))
        };
        let nvram = keep(NVRAM, state.nvram.is_some())?;
        let (kernel, initrd) = (keep(KERNEL, state.kernel.is_some())?, keep(INITRD, state.initrd.is_some())?);
        let seed = match seed::image(order.guest, &order.to_be) {
            Some(bytes) => {
                let path = folder.join(format!("seed-{draw}.iso"));
                write(&path, &bytes, made)?;
                Some(path)
            }
            None => None,
        };
        let mut disks = BTreeMap::new();
        for disk in &state.disks {
            let format = if order.at_once { "qcow2" } else { disk.format.name() };
            let path = folder.join(format!("{}-{draw}.{format}", disk.target));
            made.files.push(path.clone());
            disks.insert(disk.target.clone(), path);
        }
        let name = match &order.to_be {
            RestoreAs::AsItWas => None,
            RestoreAs::AsNew { name, .. } => Some(name.clone()),
        };
        let (guest, accelerator, serial) = (order.guest, self.accelerator, folder.join(CONSOLE_LOG));
        Ok(Change { guest, name, disks, below: BTreeMap::new(), nvram, kernel, initrd, serial, seed, accelerator })
    }

    /// Fills the disks and reads them back.
    fn fill(
        &self,
        change: Change,
        state: &State,
        images: &BTreeMap<String, Arc<dyn Image>>,
    ) -> Result<Change, Failure> {
        let all: u64 = images.values().map(|image| disk::weight(image.as_ref())).sum();
        let mut meter = disk::Meter::new(self.unwanted, self.tell, all * 2);
        for disk in &state.disks {
            let (Some(path), Some(image)) = (change.disks.get(&disk.target), images.get(&disk.target)) else {
                continue;
            };
            let laid = Laid::create(path, disk.format, image.size())?;
            laid.fill(&disk.target, image.as_ref(), &mut meter)?;
            laid.compare(&disk.target, path, image.as_ref(), &mut meter)?;
        }
        Ok(change)
    }

    /// From here on the guest is the restored one.
    fn define(
        &self,
        order: &Order,
        definition: &str,
        change: &Change,
        origin: &dyn Origin,
        before: Option<&State>,
        mut made: Made<'_>,
    ) -> Result<(), Failure> {
        self.still_wanted()?;
        (self.tell)(97, "define");
        let folder = self.place.guest(order.guest);
        files::sync_folder(&folder).map_err(|error| io_failure("write the guest's folder", &error))?;
        // Checkpoints of the guest that was speak of disks that are gone.
        for checkpoint in self.hypervisor.checkpoints(&order.guest.bytes()).unwrap_or_default() {
            let _ = self.hypervisor.checkpoint_delete(&order.guest.bytes(), &checkpoint.name);
        }
        let xml = identity::change(definition, change)?;
        self.hypervisor.define(&xml).map_err(|error| hypervisor_failure(&error))?;
        made.finished = true;
        if change.name.is_none() {
            restore_tpm(order.guest, origin)?;
        }
        // Files of the guest that was, in our own folder only: others may be somebody's.
        for disk in before.into_iter().flat_map(|state| &state.disks) {
            let replaced = !change.disks.values().any(|path| *path == disk.path);
            if replaced && disk.path.parent() == Some(&folder) {
                let _ = fs::remove_file(&disk.path);
            }
        }
        self.place.finish(order.guest).map_err(|error| io_failure("finish the guest's folder", &error))
    }

    fn still_wanted(&self) -> Result<(), Failure> {
        match self.unwanted.load(Ordering::Relaxed) {
            true => Err(failure(FailureCode::Cancelled, "the restore was broken off and undone")),
            false => Ok(()),
        }
    }

    /// Defines the guest on layers over the point, which is served from now on; [`pull`] brings the data in.
    fn at_once(
        &self,
        order: &Order,
        definition: &str,
        mut change: Change,
        images: BTreeMap<String, Arc<dyn Image>>,
        origin: &dyn Origin,
        (before, made): (Option<&State>, Made<'_>),
    ) -> Result<(), Failure> {
        let folder = self.place.guest(order.guest);
        let sizes: Vec<(String, u64)> = images.iter().map(|(name, image)| (name.clone(), image.size())).collect();
        let socket = folder.join(pull::SOCKET);
        for (target, size) in &sizes {
            let Some(path) = change.disks.get(target) else { continue };
            disk::layer(path, &socket, target, *size)?;
            change.below.insert(target.clone(), socket.clone());
        }
        pull::mark(&folder, &change.disks)?;
        self.served.begin(order.guest, &folder, images)?;
        let defined = self.define(order, definition, &change, origin, before, made);
        if defined.is_err() {
            self.served.end(order.guest);
        }
        defined
    }
}

fn write(path: &Path, bytes: &[u8], made: &mut Made<'_>) -> Result<(), Failure> {
    made.files.push(path.to_owned());
    files::write_atomically(path, bytes).map_err(|error| io_failure(format!("write {}", path.display()), &error))
}

/// The TPM's state, where libvirt looks for it when the guest starts.
pub(crate) fn restore_tpm(guest: GuestId, origin: &dyn Origin) -> Result<(), Failure> {
    for name in origin.files() {
        let Some((version, file)) = name.strip_prefix(TPM).and_then(|rest| rest.split_once('-')) else { continue };
        let plain = |text: &str| {
            text.bytes().all(|c| c.is_ascii_alphanumeric() || b"._-".contains(&c)) && !text.starts_with('.')
        };
        if !matches!(version, "tpm2" | "tpm1.2") || !plain(file) {
            return Err(failure(FailureCode::Invalid, format!("the point has a TPM file with an odd name: {name:?}")));
        }
        let folder = Path::new(TPM_FOLDER).join(guest.to_string()).join(version);
        let bytes = origin.file(&name)?;
        let written = files::make_folder(&folder, 0o700);
        let written = written.and_then(|()| files::write_atomically(&folder.join(file), &bytes));
        written.map_err(|error| io_failure("restore the TPM", &error))?;
    }
    Ok(())
}
