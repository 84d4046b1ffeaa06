//! What ends the host when the guard can't: a timer outside it, petted only while every guest that may be executing has a
//! lease. The kernel's own timer (softdog) is shown as what it is.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use roost_protocol::failover::Fencing;
use roost_protocol::{Millis, Time};

use crate::clock;
use crate::privilege;

/// How the kernel names its timers in software.
const SOFT: [&str; 2] = ["Software Watchdog", "softdog"];

/// The watchdog.
#[derive(Debug)]
pub(crate) struct Watchdog {
    way: Way,
    fencing: Fencing,
    /// What it was told last.
    time_out: Option<Millis>,
}

#[derive(Debug)]
enum Way {
    None,
    /// Opening it arms it, so that is left to the first pet.
    Closed(PathBuf),
    Device(File),
    Parent(File),
}

/// Why a pet had no effect.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PetError {
    #[error("open the watchdog {path}")]
    Open { path: PathBuf, source: io::Error },
    #[error("set the watchdog's time-out to {0:?}")]
    TimeOut(Millis, #[source] io::Error),
    #[error("the watchdog knows {has:?} but not {wanted:?}")]
    Coarse { wanted: Millis, has: Millis },
    #[error("pet the watchdog")]
    Write(#[source] io::Error),
}

impl Watchdog {
    /// What these settings name: a device, `pipe:PATH` of a parent process, or `none`.
    pub(crate) fn of(setting: &str) -> io::Result<Self> {
        let (way, fencing) = if setting == "none" {
            (Way::None, Fencing::None("switched off in the settings".to_owned()))
        } else if let Some(path) = setting.strip_prefix("pipe:") {
            // Without a reader a write fails; it never waits.
            let pipe = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path)?;
            (Way::Parent(pipe), Fencing::Parent)
        } else {
            device(Path::new(setting))
        };
        Ok(Self { way, fencing, time_out: None })
    }

    pub(crate) fn fencing(&self) -> &Fencing {
        &self.fencing
    }

    /// Whether a host whose programs hang is ended for certain.
    pub(crate) fn is_fence(&self) -> bool {
        match self.fencing {
            Fencing::Hardware(_) | Fencing::Parent => true,
            Fencing::Soft(_) | Fencing::None(_) => false,
        }
    }

    /// Puts the end off by `time_out`, if it is still before `until`.
    pub(crate) fn pet(&mut self, until: Time, time_out: Millis) -> Result<(), PetError> {
        if let Way::Closed(path) = &self.way {
            let opened = OpenOptions::new().write(true).open(path);
            let device = opened.map_err(|source| PetError::Open { path: path.clone(), source })?;
            self.way = Way::Device(device);
        }
        if let Way::Device(device) = &self.way
            && self.time_out != Some(time_out)
        {
            let has = privilege::set_time_out(device, time_out).map_err(|why| PetError::TimeOut(time_out, why))?;
            if has > time_out {
                self.rest();
                self.way = Way::None;
                self.fencing = Fencing::None(format!("the device can't end the host within {} ms", time_out.0));
                return Err(PetError::Coarse { wanted: time_out, has });
            }
        }
        self.time_out = Some(time_out);
        // The last look at the clock: whatever took long before this line, the lease must still hold.
        if clock::now() >= until {
            return Ok(());
        }
        match &mut self.way {
            Way::None | Way::Closed(_) => Ok(()),
            Way::Device(device) => device.write_all(b"."),
            Way::Parent(pipe) => pipe.write_all(format!("pet {}\n", time_out.0).as_bytes()),
        }
        .map_err(PetError::Write)
    }

    /// Nothing here needs it any more: it is told not to end the host.
    pub(crate) fn rest(&mut self) {
        let told = match &mut self.way {
            Way::None | Way::Closed(_) => Ok(()),
            Way::Device(device) => device.write_all(b"V"),
            Way::Parent(pipe) => pipe.write_all(b"rest\n"),
        };
        if let Err(why) = told {
            tracing::error!(%why, "the watchdog can't be told to rest");
        }
    }
}

fn device(path: &Path) -> (Way, Fencing) {
    if !path.exists() {
        return (Way::None, Fencing::None(format!("{} does not exist", path.display())));
    }
    let identity = identity(path).unwrap_or_else(|| "unnamed".to_owned());
    let soft = SOFT.iter().any(|soft| identity.contains(soft));
    let fencing = if soft { Fencing::Soft(identity) } else { Fencing::Hardware(identity) };
    (Way::Closed(path.to_owned()), fencing)
}

/// What the driver calls itself; read without arming it.
fn identity(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    // The first device goes by two names.
    let name = if name == "watchdog" { "watchdog0" } else { name };
    Some(fs::read_to_string(format!("/sys/class/watchdog/{name}/identity")).ok()?.trim().to_owned())
}

#[cfg(test)]
mod test {
    use std::io::Read;

    use super::*;

    fn pipe() -> (Watchdog, File, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dog");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
        let dog = Watchdog::of(&format!("pipe:{}", path.display())).unwrap();
        (dog, reader, folder)
    }

    #[test]
    fn a_lease_that_has_ended_pets_nothing() {
        let (mut dog, mut reader, _folder) = pipe();
        dog.pet(Time(0), Millis(10_000)).unwrap();
        let mut text = [0; 64];
        assert_eq!(reader.read(&mut text).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        dog.pet(Time(u64::MAX), Millis(10_000)).unwrap();
        let count = reader.read(&mut text).unwrap();
        assert_eq!(&text[..count], b"pet 10000\n");
    }

    #[test]
    fn a_host_without_a_watchdog_is_shown_as_such() {
        let dog = Watchdog::of("/dev/there-is-none").unwrap();
        assert!(!dog.is_fence() && matches!(dog.fencing(), Fencing::None(_)));
        assert!(!Watchdog::of("none").unwrap().is_fence());
        assert!(pipe().0.is_fence());
    }
}
