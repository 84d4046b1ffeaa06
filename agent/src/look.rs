//! What people look at through the aggregator: screens of running guests and of trials, what was sampled, and what is tried
//! for them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use roost_libvirt::{Code, XmlForm};
use roost_protocol::look::{self, Look, PICTURE, Past, Picture, Seen};
use roost_protocol::memory::MemoryReport;
use roost_protocol::operation::{Failure, FailureCode};
use roost_protocol::{GuestId, Stamp};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::act::domain::{Slot, hypervisor_failure};
use crate::act::reboot::Reboot;
use crate::act::{backup, failure, fence, io_failure, picture, watchdog};
use crate::files;
use crate::history::History;
use crate::slots::Search;

/// Where pictures of trials lie, in the state folder.
pub(crate) const PICTURES: &str = "pictures";

/// What is said where nobody looks after memory.
const NOT_TUNED: &str = "this host doesn't tune its memory: tune_memory is false in its settings; set it to true and \
                         restart its agent";

/// Answers, from threads that may wait for libvirt.
#[derive(Clone, Debug)]
pub(crate) struct Looks {
    pub(crate) hypervisor: Slot,
    pub(crate) pictures: PathBuf,
    /// None where it can't be kept.
    pub(crate) history: Option<History>,
    /// How the host's memory was at the last look at it; none where nobody looks after it.
    pub(crate) memory: watch::Receiver<Option<MemoryReport>>,
    /// Where the guard listens, if there is one.
    pub(crate) guard: Option<PathBuf>,
    pub(crate) search: Search,
    pub(crate) reboot: Reboot,
}

impl Looks {
    pub(crate) fn answer(&self, look: Look) -> Seen {
        let seen = match look {
            Look::Screen { guest } => self.screen(guest).map(Seen::Picture),
            Look::Trial { guest } => trial(&self.pictures, guest).map(Seen::Picture),
            Look::History(past) => self.history(past).map(Seen::History),
            Look::Memory => self.memory(),
            Look::Power(device) => Handle::current().block_on(fence::power(&device)).map(Seen::Power),
            Look::Watchdog => Handle::current().block_on(watchdog::test(self.guard.as_deref())).map(|()| Seen::Begun),
            Look::NewerImage => Handle::current().block_on(self.search.ask()).map(Seen::Newer),
            Look::Reboot { boot } => Handle::current().block_on(self.reboot.begin(&boot)).map(|()| Seen::Begun),
        };
        seen.unwrap_or_else(Seen::Nothing)
    }

    fn history(&self, past: Past) -> Result<look::History, Failure> {
        let none = || failure(FailureCode::NotFound, "the host keeps no history; its journal says why");
        self.history.as_ref().ok_or_else(none)?.course(past)
    }

    fn memory(&self) -> Result<Seen, Failure> {
        let none = || match self.memory.has_changed() {
            Ok(_) => failure(FailureCode::Busy, "the host's first look at its memory has not ended; ask again"),
            Err(_) => failure(FailureCode::Unsupported, NOT_TUNED),
        };
        let report = self.memory.borrow().clone();
        report.map(|report| Seen::Memory(Box::new(report))).ok_or_else(none)
    }

    fn screen(&self, guest: GuestId) -> Result<Picture, Failure> {
        let current = self.hypervisor.borrow().clone();
        let away = || failure(FailureCode::HypervisorAway, "libvirt is not there; it is tried again by itself");
        let hypervisor = current.ok_or_else(away)?;
        let uuid = guest.bytes();
        let shot = hypervisor.screenshot(&uuid).map_err(|error| match error.code() {
            Some(Code::OperationInvalid) => failure(FailureCode::WrongState, "the guest is off and shows nothing"),
            _ if has_none(&hypervisor.xml(&uuid, XmlForm::default()).unwrap_or_default()) => {
                failure(FailureCode::WrongState, "the guest has no screen, only a console")
            }
            _ => hypervisor_failure(&error),
        })?;
        Ok(Picture { at: backup::wall(), png: picture::png(&shot)? })
    }
}

fn has_none(xml: &str) -> bool {
    !xml.is_empty() && (!xml.contains("<video>") || xml.contains("<model type='none'/>"))
}

/// The file of a guest's newest trial.
pub(crate) fn file(pictures: &Path, guest: GuestId) -> PathBuf {
    pictures.join(format!("{guest}.png"))
}

fn trial(pictures: &Path, guest: GuestId) -> Result<Picture, Failure> {
    let path = file(pictures, guest);
    let told = |error: io::Error| io_failure(format!("read {}", path.display()), &error);
    let none = || {
        let text = "there is no picture: no point of it was proven here yet, or the trial had no screen";
        failure(FailureCode::NotFound, text)
    };
    let png = files::read_bounded(&path, u64::try_from(PICTURE).unwrap_or(u64::MAX)).map_err(told)?.ok_or_else(none)?;
    let changed = fs::metadata(&path).and_then(|about| about.modified()).map_err(told)?;
    let since = changed.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Picture { at: Stamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)), png })
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_newest_trial_s_picture_is_shown_and_a_missing_one_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (_sender, hypervisor) = tokio::sync::watch::channel(None);
        let (tuner, memory) = tokio::sync::watch::channel(None);
        let (search, reboot) = (Search::default(), Reboot::new("", &[], Default::default()));
        let pictures = dir.path().to_owned();
        let looks = Looks { hypervisor, pictures, history: None, memory, guard: None, search, reboot };
        let Seen::Nothing(why) = looks.answer(Look::Memory) else { panic!() };
        assert_eq!(why.code, FailureCode::Busy, "it looks just now");
        drop(tuner);
        let Seen::Nothing(why) = looks.answer(Look::Memory) else { panic!() };
        assert_eq!(why.code, FailureCode::Unsupported);
        let guest = GuestId::from_u128(7);
        let Seen::Nothing(why) = looks.answer(Look::Trial { guest }) else { panic!() };
        assert_eq!(why.code, FailureCode::NotFound);
        fs::write(file(dir.path(), guest), b"a picture").unwrap();
        let Seen::Picture(picture) = looks.answer(Look::Trial { guest }) else { panic!() };
        assert_eq!(picture.png, b"a picture");
        let Seen::Nothing(why) = looks.answer(Look::Screen { guest }) else { panic!() };
        assert_eq!(why.code, FailureCode::HypervisorAway);
    }
}
