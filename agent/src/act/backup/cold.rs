//! Backup of a guest that is off: its images are read as they lie. It may be started meanwhile, which ends the backup and
//! is never held up by it.

use std::fs::File;

use roost_libvirt::XmlForm;
use roost_protocol::PointId;
use roost_protocol::backup::Consistency;
use roost_protocol::operation::{Failure, FailureCode};

use super::definition::{self, Disk, State};
use super::hot::Hot;
use super::reader::{self, Meter, Server, What};
use super::sink::{Facts, Set, Sink};
use super::watch::Watch;
use super::{keep_files, wall};
use crate::act::domain::hypervisor_failure;
use crate::act::image::{self, Format};
use crate::act::nbd::client::Client;
use crate::act::{failure, io_failure};

/// Makes one point of a guest that is off.
pub(super) fn run(work: &Hot<'_>, set: &dyn Set) -> Result<PointId, Failure> {
    let form = XmlForm { inactive: true, secure: true, ..XmlForm::default() };
    let definition = work.hypervisor.xml(&work.guest.bytes(), form).map_err(|error| hypervisor_failure(&error))?;
    let state = definition::read(&definition)?;
    state.disks.iter().try_for_each(check)?;
    let moment = wall();
    // The newest point with a mark: the bitmap in the image tells what changed since.
    let base = if work.wish.full { None } else { set.marks()?.into_iter().next() };
    let parent = base.as_ref().map(|(point, _)| *point).or_else(|| set.newest());
    let mut sink = set.draft(parent)?;
    let mark = base.as_ref().map(|(_, mark)| mark.as_str());
    guarded(work, || read(work, &state, mark, sink.as_mut()))?;
    let active = work.hypervisor.domain(&work.guest.bytes()).map_err(|error| hypervisor_failure(&error))?.state;
    if active.is_active() {
        return Err(failure(FailureCode::WrongState, "the guest was started during its backup"));
    }
    keep_files(sink.as_mut(), work.guest, &state, &definition, &work.wish, None)?;
    let (consistency, note) = (Consistency::Stopped, String::new());
    sink.finish(Facts { moment, guest_name: state.name, consistency, note })
}

fn guarded(work: &Hot<'_>, read: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    std::thread::scope(|scope| {
        let (hypervisor, scratch, room) = (work.hypervisor, work.scratch, work.room);
        let (guest, unwanted, stop) = (work.guest, work.unwanted, work.stop);
        let watch = Watch { hypervisor, scratch, room, guest, unwanted, stop, running: false };
        let spawned = std::thread::Builder::new().name("backup-guard".into()).spawn_scoped(scope, move || watch.run());
        spawned.map_err(|error| io_failure("start the backup's guard", &error))?;
        let result = read();
        stop.over();
        result.and_then(|()| stop.check())
    })
}

/// An image that names other files is not read: they could be anybody's.
fn check(disk: &Disk) -> Result<(), Failure> {
    if disk.device {
        return Ok(());
    }
    let path = disk.path.display();
    let file = File::open(&disk.path).map_err(|error| io_failure(format!("open {path}"), &error))?;
    let checked = image::check(&file, disk.format);
    checked.map(drop).map_err(|error| failure(FailureCode::Invalid, format!("disk {path}: {error}")))
}

fn read(work: &Hot<'_>, state: &State, mark: Option<&str>, sink: &mut dyn Sink) -> Result<(), Failure> {
    let mut meter = Meter::new(work.stop, work.tell, work.scratch.read_speed);
    for disk in &state.disks {
        let mark = mark.filter(|_| disk.format == Format::Qcow2);
        // Without the bitmap, or with a broken one, all is read and compared.
        let with_bitmap = mark.and_then(|mark| Server::start(&work.room.path, disk, Some(mark), true).ok());
        let server = match with_bitmap {
            Some(server) => server,
            None => Server::start(&work.room.path, disk, None, true)?,
        };
        let context = server.bitmap.as_ref().map(|mark| format!("qemu:dirty-bitmap:{mark}"));
        let mut client = work.connected(Client::connect(&server.socket, &disk.target, context.as_deref()))?;
        let what = if client.has_bitmap() { What::Changed } else { What::All };
        let mut writer = sink.disk(&disk.target, client.size())?;
        reader::copy(&mut client, what, &disk.target, writer.as_mut(), &mut meter)?;
        writer.close()?;
    }
    Ok(())
}
