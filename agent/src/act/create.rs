//! Makes guests: disks first, the definition last, and all of it undone when a step fails. A defined guest is whole.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use roost_libvirt::{Hypervisor, XmlForm};
use roost_protocol::guest::{Boot, DiskSpec, GuestSpec};
use roost_protocol::operation::{Failure, FailureCode};
use roost_protocol::{GuestId, MiB};

use super::domain::hypervisor_failure;
use super::image::{self, Format};
use super::import::Definition;
use super::place::Place;
use super::xml::{self, Accelerator, MARKER, MadeDisk, MadeKernel, Parts};
use super::{copy, failure, io_failure};
use crate::files::CONSOLE_LOG;

/// Disks a guest may be made with: `vda` to `vdz`.
const DISKS: usize = 26;
/// Network cards a guest may be made with.
const NICS: usize = 8;
/// Virtual CPUs: what q35 takes without an IOMMU.
const VCPUS: u32 = 255;
/// Largest kernel or initrd.
const KERNEL_BYTES: u64 = 2 << 30;
/// Longest kernel command line that Linux reads on x86.
const CMDLINE: usize = 2_048;

/// What a worker making guests has at hand.
pub(crate) struct Maker<'a> {
    pub(crate) hypervisor: &'a Hypervisor,
    pub(crate) place: &'a Place,
    pub(crate) accelerator: Accelerator,
    /// Set when nobody waits for it any more.
    pub(crate) unwanted: &'a AtomicBool,
    /// Percent done, and what is being done.
    pub(crate) tell: &'a dyn Fn(u32, &str),
}

impl Maker<'_> {
    /// A guest from a specification.
    pub(crate) fn create(&self, guest: GuestId, spec: &GuestSpec) -> Result<(), Failure> {
        check(spec)?;
        self.name_is_free(guest, &spec.name)?;
        let folder = self.place.begin(guest)?;
        match self.build(guest, spec, &folder) {
            Ok(()) => {
                // It is defined, hence whole; a mark left behind does no harm.
                if let Err(error) = self.place.finish(guest) {
                    tracing::warn!(%guest, %error, "unmark the finished guest");
                }
                Ok(())
            }
            // Whether it was defined isn't known: what was made stays until libvirt is back.
            Err(why) if why.code == FailureCode::HypervisorAway => Err(why),
            Err(why) => {
                if let Err(left) = self.place.remove(guest) {
                    tracing::error!(%guest, why = left.text, "undo a failed creation");
                }
                Err(why)
            }
        }
    }

    fn build(&self, guest: GuestId, spec: &GuestSpec, folder: &Path) -> Result<(), Failure> {
        let mut disks = Vec::new();
        for (index, disk) in spec.disks.iter().enumerate() {
            let share = (index * 90 / spec.disks.len(), (index + 1) * 90 / spec.disks.len());
            disks.push(self.disk(folder, index, disk, share)?);
        }
        let kernel = self.kernel(folder, &spec.boot)?;
        let serial = folder.join(CONSOLE_LOG);
        Place::make_file(&serial)?;
        self.still_wanted()?;
        (self.tell)(95, "define");
        let (kernel, accelerator) = (kernel.as_ref(), self.accelerator);
        let parts = Parts { guest, spec, accelerator, disks: &disks, kernel, serial: &serial };
        let definition = xml::domain(&parts).ok_or_else(|| invalid("a text holds a character that XML can't carry"))?;
        self.hypervisor.define(&definition).map_err(|error| hypervisor_failure(&error))?;
        Ok(())
    }

    fn disk(&self, folder: &Path, index: usize, spec: &DiskSpec, share: (usize, usize)) -> Result<MadeDisk, Failure> {
        let target = xml::target(index);
        match spec {
            DiskSpec::Blank { size_mib } => {
                (self.tell)(percent(share, 0, 1), &format!("make disk {target}"));
                let path = folder.join(format!("{target}.qcow2"));
                blank(&path, *size_mib)?;
                Ok(MadeDisk { path, format: Format::Qcow2 })
            }
            DiskSpec::Image { path: image, format } => {
                let format = parse_format(format)?;
                let path = folder.join(format!("{target}.{}", format.name()));
                let from = self.place.image(image)?;
                let refused = |error| invalid(format!("image {image:?}: {error}"));
                image::check(&from, format).map_err(refused)?;
                let copied = self.copy(&from, &path, &format!("copy {image} to {target}"), share)?;
                // Again, now that nobody else can write to it.
                image::check(&copied, format).map_err(refused)?;
                Ok(MadeDisk { path, format })
            }
        }
    }

    fn kernel(&self, folder: &Path, boot: &Boot) -> Result<Option<MadeKernel>, Failure> {
        let Boot::Kernel { kernel, initrd, cmdline } = boot else { return Ok(None) };
        let take = |image: &str, name: &str| -> Result<PathBuf, Failure> {
            let from = self.place.image(image)?;
            let length = from.metadata().map_err(|error| io_failure(format!("read {image:?}"), &error))?.len();
            if length > KERNEL_BYTES {
                return Err(invalid(format!("{image:?} has {length} bytes; {KERNEL_BYTES} are allowed")));
            }
            let path = folder.join(name);
            self.copy(&from, &path, &format!("copy {image}"), (90, 94))?;
            Ok(path)
        };
        let initrd = initrd.as_deref().map(|initrd| take(initrd, "initrd")).transpose()?;
        Ok(Some(MadeKernel { kernel: take(kernel, "kernel")?, initrd, cmdline: cmdline.clone() }))
    }

    fn copy(&self, from: &File, path: &Path, step: &str, share: (usize, usize)) -> Result<File, Failure> {
        let fresh = path.with_extension("new");
        let to = Place::make_file(&fresh)?;
        let mut told = 101;
        let go_on = |done, all| {
            let now = percent(share, done, all);
            if now != told {
                told = now;
                (self.tell)(now, step);
            }
            !self.unwanted.load(Ordering::Relaxed)
        };
        copy::copy(from, &to, go_on)
            .and_then(|()| std::fs::rename(&fresh, path))
            .map_err(|error| self.still_wanted().err().unwrap_or_else(|| io_failure(step, &error)))?;
        Ok(to)
    }

    fn still_wanted(&self) -> Result<(), Failure> {
        match self.unwanted.load(Ordering::Relaxed) {
            true => Err(failure(FailureCode::TimedOut, "it took too long and was undone")),
            false => Ok(()),
        }
    }

    fn name_is_free(&self, guest: GuestId, name: &str) -> Result<(), Failure> {
        let domains = self.hypervisor.domains().map_err(|error| hypervisor_failure(&error))?;
        let text = match domains.iter().find(|domain| domain.uuid == guest.bytes() || domain.name == name) {
            None => return Ok(()),
            Some(domain) if domain.uuid == guest.bytes() => "a guest with this id is there already".into(),
            Some(_) => format!("this host has a guest named {name:?} already; choose another name"),
        };
        Err(failure(FailureCode::AlreadyExists, text))
    }

    /// A guest from domain XML that passes the allow-list.
    pub(crate) fn import(&self, guest: GuestId, text: &str) -> Result<(), Failure> {
        let mut definition = Definition::parse(text).map_err(|error| invalid(error.to_string()))?;
        let name = definition.name().to_owned();
        for disk in &mut definition.disks().map_err(|error| invalid(error.to_string()))? {
            let (file, path) = self.place.imported(guest, &disk.path)?;
            let refused = |error| invalid(format!("disk {:?}: {error}", disk.path));
            image::check(&file, parse_format(&disk.format)?).map_err(refused)?;
            let path = path.to_str().ok_or_else(|| invalid("a disk's path is not UTF-8"))?;
            disk.set_path(path);
        }
        self.name_is_free(guest, &name)?;
        let definition = definition.finish(guest, self.accelerator).map_err(|error| invalid(error.to_string()))?;
        self.hypervisor.define(&definition).map(drop).map_err(|error| hypervisor_failure(&error))
    }

    /// Forgets a guest, and removes the folder this agent made for it.
    pub(crate) fn delete(&self, guest: GuestId, keep_disks: bool) -> Result<(), Failure> {
        let uuid = guest.bytes();
        let fail = |error| hypervisor_failure(&error);
        let definition = self.hypervisor.xml(&uuid, XmlForm { inactive: true, ..XmlForm::default() }).map_err(fail)?;
        let ours = !keep_disks && definition.contains(MARKER) && self.place.guest(guest).is_dir();
        if !ours {
            return self.hypervisor.undefine(&uuid).map_err(fail);
        }
        // First, so that however it is cut off, nobody needs what is marked and not defined. A full disk has no room for
        // the mark, and all the more reason to be freed.
        if let Err(why) = self.place.mark(guest) {
            tracing::warn!(%guest, why = why.text, "mark the guest as one to be removed");
        }
        if let Err(error) = self.hypervisor.undefine(&uuid) {
            let why = hypervisor_failure(&error);
            // Whether it is still defined isn't known without libvirt; a mark on a defined guest does no harm.
            if why.code != FailureCode::HypervisorAway
                && let Err(error) = self.place.finish(guest)
            {
                tracing::warn!(%guest, %error, "unmark the guest that stays");
            }
            return Err(why);
        }
        self.place.remove(guest)
    }

    /// Removes what an interrupted creation or removal left behind.
    pub(crate) fn clean_up(&self, guest: GuestId) -> Result<(), Failure> {
        let domains = self.hypervisor.domains().map_err(|error| hypervisor_failure(&error))?;
        let defined = domains.iter().any(|domain| domain.uuid == guest.bytes());
        match (defined, self.place.unfinished(guest)) {
            (false, true) => self.place.remove(guest),
            (true, _) | (false, false) => Ok(()),
        }
    }
}

fn invalid(text: impl Into<String>) -> Failure {
    failure(FailureCode::Invalid, text)
}

fn parse_format(name: &str) -> Result<Format, Failure> {
    Format::parse(name).ok_or_else(|| invalid(format!("disk format {name:?} is unknown: say raw or qcow2")))
}

fn check(spec: &GuestSpec) -> Result<(), Failure> {
    let problem = if spec.name.trim().is_empty() {
        "a guest needs a name".into()
    } else if xml::escape(&spec.name).is_none() {
        "the name holds a character that libvirt can't carry".into()
    } else if spec.memory_mib == MiB(0) {
        "a guest needs memory: give memory_mib".into()
    } else if !(1..=VCPUS).contains(&spec.vcpus) {
        format!("vcpus must be 1 to {VCPUS}")
    } else if spec.disks.len() > DISKS || spec.nics.len() > NICS {
        format!("a guest may have {DISKS} disks and {NICS} network cards")
    } else if let Boot::Kernel { cmdline, .. } = &spec.boot
        && cmdline.len() > CMDLINE
    {
        format!("the kernel's command line has more than {CMDLINE} bytes")
    } else if let Some(problem) = spec.memory.as_ref().and_then(|wish| wish.problem(spec.memory_mib)) {
        problem
    } else {
        return Ok(());
    };
    Err(invalid(problem))
}

/// An empty disk.
fn blank(path: &Path, size: MiB) -> Result<(), Failure> {
    let bytes = size.bytes();
    if bytes == 0 || bytes > image::LARGEST_BYTES {
        return Err(invalid(format!("a disk must have 1 MiB to {} MiB", image::LARGEST_BYTES >> 20)));
    }
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-f", "qcow2", "--"]).arg(path).arg(bytes.to_string()).stdin(Stdio::null());
    let output = command.output().map_err(|error| io_failure("run qemu-img", &error))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        let code = if words.contains("No space left") { FailureCode::NoSpace } else { FailureCode::Internal };
        return Err(failure(code, format!("make an empty disk: {}", words.trim())));
    }
    let synced: io::Result<()> = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|error| io_failure(format!("write {}", path.display()), &error))
}

fn percent(share: (usize, usize), done: u64, all: u64) -> u32 {
    let (from, to) = (u64::try_from(share.0).unwrap_or(0), u64::try_from(share.1).unwrap_or(0));
    let part = u128::from(to - from) * u128::from(done) / u128::from(all.max(1));
    u32::try_from(from + u64::try_from(part).unwrap_or(0)).unwrap_or(100)
}

#[cfg(test)]
mod test {
    use super::*;

    fn refused(change: impl FnOnce(&mut GuestSpec), word: &str) {
        let (disks, nics, boot) = (vec![], vec![], Boot::Disk);
        let mut spec = GuestSpec { name: "a".into(), memory_mib: MiB(64), vcpus: 1, disks, nics, boot, memory: None };
        assert_eq!(check(&spec), Ok(()));
        change(&mut spec);
        let text = check(&spec).unwrap_err().text;
        assert!(text.contains(word), "{text}");
    }

    #[test]
    fn a_specification_that_no_guest_can_have_is_refused_before_anything_is_made() {
        refused(|spec| spec.name = " ".into(), "name");
        refused(|spec| spec.name = "a\0".into(), "character");
        refused(|spec| spec.memory_mib = MiB(0), "memory");
        refused(|spec| spec.vcpus = 0, "vcpus");
        refused(|spec| spec.disks = vec![DiskSpec::Blank { size_mib: MiB(1) }; 27], "26 disks");
        let long = Boot::Kernel { kernel: "k".into(), initrd: None, cmdline: "x".repeat(3_000) };
        refused(|spec| spec.boot = long, "command line");
        assert_eq!(blank(Path::new("/none"), MiB(0)).unwrap_err().code, FailureCode::Invalid);
        assert_eq!(blank(Path::new("/none"), MiB(u64::MAX)).unwrap_err().code, FailureCode::Invalid);
    }

    #[test]
    fn progress_stays_in_its_share() {
        assert_eq!(
            (percent((0, 45), 0, 10), percent((45, 90), u64::MAX, u64::MAX), percent((0, 90), 1, 0)),
            (0, 90, 90)
        );
    }
}
