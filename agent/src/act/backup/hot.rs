//! Backup of a running guest: chooses the way, catches the moment, reads, and frees the guest.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use roost_libvirt::freeze::{Frozen, freeze};
use roost_libvirt::{Code, Error, Hypervisor, XmlForm};
use roost_protocol::backup::{Consistency, Freeze};
use roost_protocol::operation::{Failure, FailureCode};
use roost_protocol::{GuestId, PointId};

use super::definition::{self, Disk, State};
use super::reader::{self, Meter, Server, What};
use super::scratch::{Room, Scratch};
use super::sink::{Facts, Set, Sink};
use super::watch::{Stop, Watch};
use super::{Way, Wish, keep_files, overlay, pull, tidy, wall};
use crate::act::domain::hypervisor_failure;
use crate::act::image::Format;
use crate::act::nbd::client::Client;
use crate::act::{failure, io_failure};

/// What checkpoints of ours begin with.
const PREFIX: &str = "roost-";
/// Changed bytes above which reading takes so long that layers are gentler than copying aside (docs/decisions/0009).
const PULL_MOST: u64 = 256 << 20;

/// A backup of one running guest.
pub(super) struct Hot<'a> {
    pub(super) hypervisor: &'a Arc<Hypervisor>,
    pub(super) scratch: &'a Scratch,
    pub(super) room: &'a Room,
    pub(super) guest: GuestId,
    pub(super) wish: Wish,
    pub(super) unwanted: &'a AtomicBool,
    pub(super) tell: &'a dyn Fn(u32, &str),
    pub(super) stop: &'a Stop,
}

/// What is known of a guest before its moment.
struct Known {
    state: State,
    persistent: bool,
    /// The definition that belongs to the point.
    definition: String,
}

/// How a moment is to be caught.
struct Plan {
    way: Way,
    /// The checkpoint since which the changes are enough, with the point made at it.
    base: Option<(PointId, String)>,
    /// The new checkpoint; none when no disk can have one.
    mark: Option<String>,
    note: String,
}

fn fail(error: &Error) -> Failure {
    hypervisor_failure(error)
}

/// Frees the guest when the worker leaves, in whatever way it leaves.
struct Held<'a>(&'a Hot<'a>);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Err(why) = self.0.free() {
            tracing::error!(guest = %self.0.guest, why = why.text, "free a guest from its backup");
        }
    }
}

/// Ends the guard.
struct Over<'a>(&'a Stop);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.over();
    }
}

impl Hot<'_> {
    /// Makes one point. Whatever happens, the guest runs on its own disks afterwards.
    pub(super) fn run(&self, set: &dyn Set) -> Result<PointId, Failure> {
        let known = self.know()?;
        self.room.hold_reserve(self.scratch.reserve / 2)?;
        let mut mark = None;
        let result = std::thread::scope(|scope| {
            let _over = Over(self.stop);
            let (hypervisor, scratch, room) = (self.hypervisor, self.scratch, self.room);
            let (guest, unwanted, stop) = (self.guest, self.unwanted, self.stop);
            let watch = Watch { hypervisor, scratch, room, guest, unwanted, stop, running: true };
            let spawned = std::thread::Builder::new().name("backup-guard".into());
            let spawned = spawned.spawn_scoped(scope, move || watch.run());
            spawned.map_err(|error| io_failure("start the backup's guard", &error))?;
            self.capture(&known, set, &mut mark)
        });
        match &result {
            // Only the newest moment's bitmap is needed, and each costs the guest a little.
            Ok(_) => self.forget(|name| Some(name) != mark.as_deref()),
            // Nothing was made at this moment; older bitmaps know all changes since theirs.
            Err(_) => self.forget(|name| Some(name) == mark.as_deref()),
        }
        result
    }

    fn know(&self) -> Result<Known, Failure> {
        let uuid = self.guest.bytes();
        let xml = |form| self.hypervisor.xml(&uuid, form).map_err(|error| fail(&error));
        let state = definition::read(&xml(XmlForm::default())?)?;
        let persistent = self.hypervisor.domain(&uuid).map_err(|error| fail(&error))?.persistent;
        let definition = xml(XmlForm { inactive: persistent, secure: true, migratable: !persistent })?;
        Ok(Known { state, persistent, definition })
    }

    fn capture(&self, known: &Known, set: &dyn Set, mark: &mut Option<String>) -> Result<PointId, Failure> {
        let (mut plan, mut sink) = self.plan(known, set)?;
        *mark = plan.mark.clone();
        let held = Held(self);
        let mut facts = loop {
            match self.hold(known, &mut plan) {
                Ok(facts) => break facts,
                Err(why) if plan.base.is_none() || why.code == FailureCode::HypervisorAway => return Err(why),
                Err(why) => {
                    self.stop.check()?;
                    self.free()?;
                    self.forget(|_| true);
                    plan.note = format!("the record of changes was lost ({}): all was read", why.text);
                    plan.base = None;
                    plan.way = self.way(known, &plan.base);
                    sink = set.draft(set.newest())?;
                }
            }
        };
        let read = self.read(known, &mut plan, sink.as_mut());
        facts.note = plan.note;
        drop(held);
        read?;
        self.stop.check()?;
        self.stop.over();
        (self.tell)(95, "keep definition and firmware");
        keep_files(sink.as_mut(), self.guest, &known.state, &known.definition, &self.wish, plan.mark.as_deref())?;
        sink.finish(facts)
    }

    fn plan(&self, known: &Known, set: &dyn Set) -> Result<(Plan, Box<dyn Sink>), Failure> {
        let names = self.marks();
        let usable = |(_, mark): &(PointId, String)| names.contains(mark);
        let base = if self.wish.full { None } else { set.marks()?.into_iter().find(usable) };
        self.forget(|name| base.as_ref().is_none_or(|(_, mark)| mark != name));
        let parent = base.as_ref().map(|(point, _)| *point).or_else(|| set.newest());
        let mark = format!("{PREFIX}{}", uuid::Uuid::new_v4().simple());
        let mark = pull::checkpoint(&known.state, &mark).map(|_| mark);
        let way = self.way(known, &base);
        Ok((Plan { way, base, mark, note: String::new() }, set.draft(parent)?))
    }

    /// A transient guest that dies has no definition by which a layer could be merged, so it never gets one.
    fn way(&self, known: &Known, base: &Option<(PointId, String)>) -> Way {
        let bitmaps = known.state.disks.iter().all(|disk| disk.format == Format::Qcow2);
        match self.wish.way {
            _ if !known.persistent => Way::Pull,
            Some(way) if way == Way::Overlay || base.is_none() || bitmaps => way,
            Some(_) | None if base.is_some() && bitmaps => Way::Pull,
            Some(_) | None => Way::Overlay,
        }
    }

    /// Catches the moment; when this returns, what the disks held at it can be read.
    fn hold(&self, known: &Known, plan: &mut Plan) -> Result<Facts, Failure> {
        let invalid = || failure(FailureCode::Invalid, "a path can't be written as XML");
        let since = plan.base.as_ref().map(|(_, mark)| mark.as_str());
        let order = match plan.way {
            Way::Pull => pull::job(&known.state, self.room, since).ok_or_else(invalid)?,
            Way::Overlay => overlay::prepare(&known.state, self.room)?,
        };
        let (frozen, mut unsure) = match self.wish.freeze {
            Freeze::Never => (None, "not asked to freeze".to_owned()),
            Freeze::Try | Freeze::Require if !known.state.agent => (None, "the guest has no agent".to_owned()),
            Freeze::Try | Freeze::Require => {
                self.room.note_frozen()?;
                match freeze(self.hypervisor, &self.guest.bytes()) {
                    Frozen::Yes(thaw) => (Some(thaw), String::new()),
                    Frozen::No { why } => (None, why),
                }
            }
        };
        if frozen.is_none() && self.wish.freeze == Freeze::Require {
            return Err(failure(FailureCode::WrongState, format!("the guest can't be frozen: {unsure}")));
        }
        let begun = self.begin(known, plan, &order);
        let moment = wall();
        let was_frozen = frozen.is_some();
        let whole = frozen.is_some_and(roost_libvirt::freeze::Thaw::now);
        if whole {
            self.room.note_thawed();
        } else if was_frozen {
            unsure = "the guest thawed by itself or too late".into();
        }
        begun?;
        let free_choice = plan.way == Way::Pull && known.persistent && self.wish.way.is_none();
        if free_choice && self.changed_much(known, plan)? {
            // A pull job would slow the guest down for long. The layer's moment is another one, with its own freeze.
            self.free()?;
            let mark = plan.mark.clone();
            self.forget(|name| Some(name) == mark.as_deref());
            plan.way = Way::Overlay;
            return self.hold(known, plan);
        }
        let consistency = if whole { Consistency::Filesystem } else { Consistency::Crash };
        if !whole && self.wish.freeze != Freeze::Never {
            tracing::info!(guest = %self.guest, why = unsure, "a crash-consistent backup");
        }
        Ok(Facts { moment, guest_name: known.state.name.clone(), consistency, note: String::new() })
    }

    fn begin(&self, known: &Known, plan: &mut Plan, order: &str) -> Result<(), Failure> {
        let uuid = self.guest.bytes();
        let _hands = self.stop.hands();
        // Once the guard has freed the guest nothing may be begun.
        self.stop.check()?;
        let checkpoint = plan.mark.as_ref().and_then(|mark| pull::checkpoint(&known.state, mark));
        let begun = match plan.way {
            Way::Pull => self.hypervisor.backup_begin(&uuid, order, checkpoint.as_deref()),
            Way::Overlay => {
                // Before the layers, so that what is written between the two counts as changed at the next backup.
                let marked = checkpoint.map(|xml| self.hypervisor.checkpoint_create(&uuid, &xml));
                if let Some(Err(error)) = marked {
                    tracing::warn!(guest = %self.guest, %error, "no record of changes from here on");
                    plan.mark = None;
                }
                self.hypervisor.snapshot_onto_overlays(&uuid, order)
            }
        };
        begun.map_err(|error| fail(&error))
    }

    /// Whether so much has changed that reading it takes long.
    fn changed_much(&self, known: &Known, plan: &Plan) -> Result<bool, Failure> {
        let mut changed = 0;
        for disk in &known.state.disks {
            let mut client = self.pull_client(disk, plan)?;
            let mut at = 0;
            while at < client.size() && changed <= self.wish.pull_most.unwrap_or(PULL_MOST) {
                let extents = client.extents(at).map_err(|error| reader::source_failure(&error, self.stop))?;
                at = extents.last().map_or(u64::MAX, |last| last.offset + last.length);
                let dirty = extents.iter().filter(|extent| extent.dirty && !extent.zero);
                changed += dirty.map(|extent| extent.length).sum::<u64>();
            }
        }
        Ok(changed > self.wish.pull_most.unwrap_or(PULL_MOST))
    }

    fn pull_client(&self, disk: &Disk, plan: &Plan) -> Result<Client, Failure> {
        let bitmap = plan.base.as_ref().map(|_| pull::bitmap(&disk.target));
        let client = Client::connect(&self.room.path.join(pull::SOCKET), &disk.target, bitmap.as_deref());
        self.connected(client)
    }

    pub(super) fn connected(
        &self,
        client: Result<Client, crate::act::nbd::client::NbdError>,
    ) -> Result<Client, Failure> {
        let client = client.map_err(|error| reader::source_failure(&error, self.stop))?;
        let handle = client.handle().map_err(|error| io_failure("keep a handle on a disk's server", &error))?;
        self.stop.add(handle)?;
        Ok(client)
    }

    fn read(&self, known: &Known, plan: &mut Plan, sink: &mut dyn Sink) -> Result<(), Failure> {
        let mut meter = Meter::new(self.stop, self.tell, self.scratch.read_speed);
        for disk in &known.state.disks {
            let (mut client, _server) = match plan.way {
                Way::Pull => (self.pull_client(disk, plan)?, None),
                Way::Overlay => {
                    let server = self.serve(disk, plan)?;
                    let bitmap = server.bitmap.as_ref().map(|mark| format!("qemu:dirty-bitmap:{mark}"));
                    let client = Client::connect(&server.socket, &disk.target, bitmap.as_deref());
                    (self.connected(client)?, Some(server))
                }
            };
            let changed = plan.base.is_some() && client.has_bitmap();
            let what = if changed { What::Changed } else { What::All };
            let mut writer = sink.disk(&disk.target, client.size())?;
            reader::copy(&mut client, what, &disk.target, writer.as_mut(), &mut meter)?;
            writer.close()?;
        }
        Ok(())
    }

    fn serve(&self, disk: &Disk, plan: &mut Plan) -> Result<Server, Failure> {
        let mark = plan.base.as_ref().map(|(_, mark)| mark.as_str()).filter(|_| disk.format == Format::Qcow2);
        if let Some(mark) = mark {
            match Server::start(&self.room.path, disk, Some(mark), false) {
                Ok(server) => return Ok(server),
                Err(why) => plan.note = format!("the record of changes of {} was lost ({})", disk.target, why.text),
            }
        }
        Server::start(&self.room.path, disk, None, false)
    }

    fn free(&self) -> Result<(), Failure> {
        (self.tell)(92, "free the guest");
        let _hands = self.stop.hands();
        tidy::one(self.hypervisor, self.room, self.guest)
    }

    /// Names of our checkpoints.
    fn marks(&self) -> Vec<String> {
        let all = self.hypervisor.checkpoints(&self.guest.bytes()).unwrap_or_default();
        all.into_iter().map(|one| one.name).filter(|name| name.starts_with(PREFIX)).collect()
    }

    fn forget(&self, which: impl Fn(&str) -> bool) {
        for name in self.marks().iter().filter(|name| which(name)) {
            match self.hypervisor.checkpoint_delete(&self.guest.bytes(), name) {
                Err(error) if error.code() != Some(Code::NoCheckpoint) => {
                    tracing::warn!(guest = %self.guest, %error, "forget a checkpoint");
                }
                Ok(()) | Err(_) => {}
            }
        }
    }
}
