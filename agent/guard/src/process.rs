//! The kill switch: processes that execute guests, found by the guest's id on their command line, held by descriptor, stopped
//! and let go by signals. Nothing but the kernel is needed: no libvirt, no monitor, no agent.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use roost_protocol::GuestId;
use roost_ward::{Order, WardId};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Before a guest's id on the command line of its QEMU.
const BEFORE_ID: &[u8] = b"-uuid";

/// The processes of all wards.
#[derive(Debug, Default)]
pub(crate) struct Crews {
    wards: BTreeMap<WardId, Crew>,
}

/// The processes of one ward.
#[derive(Debug)]
struct Crew {
    guests: BTreeSet<GuestId>,
    held: BTreeMap<Process, OwnedFd>,
    aim: Aim,
}

/// Number and start time together name a process: numbers are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Process {
    pid: u32,
    /// Field 22 of `/proc/PID/stat`, clock ticks after boot.
    started: u64,
}

/// What its processes should be doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aim {
    Run,
    Pause(Order),
    Kill(Order),
    /// Stopped, and nothing is to be confirmed.
    Rest,
}

impl Crews {
    /// Makes these a ward's guests. Processes of one that is let off the list while it stands still are held all the same.
    pub(crate) fn guests(&mut self, ward: WardId, guests: &[GuestId]) {
        let crew = self.crew(ward);
        crew.guests = guests.iter().copied().collect();
        if crew.aim == Aim::Run {
            crew.held.clear();
        }
        self.scan();
    }

    /// The ward has no guests any more, and its processes are nobody's.
    pub(crate) fn forget(&mut self, ward: WardId) {
        self.wards.remove(&ward);
    }

    fn crew(&mut self, ward: WardId) -> &mut Crew {
        let none = || Crew { guests: BTreeSet::new(), held: BTreeMap::new(), aim: Aim::Rest };
        self.wards.entry(ward).or_insert_with(none)
    }

    /// The guests of a ward.
    pub(crate) fn of(&self, ward: WardId) -> impl Iterator<Item = GuestId> {
        self.wards.get(&ward).into_iter().flat_map(|crew| crew.guests.iter().copied())
    }

    /// How many processes of a ward are held and live.
    pub(crate) fn held(&self, ward: WardId) -> usize {
        self.wards.get(&ward).map_or(0, |crew| crew.held.values().filter(|fd| !is_gone(fd)).count())
    }

    /// Whether there is anything to look for.
    pub(crate) fn has_guests(&self) -> bool {
        self.wards.values().any(|crew| !crew.guests.is_empty())
    }

    /// Looks for processes of guests that came up. One whose ward doesn't run here is stopped at once.
    pub(crate) fn scan(&mut self) {
        if !self.has_guests() {
            return;
        }
        let Ok(listing) = fs::read_dir("/proc") else { return };
        for pid in listing.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()) {
            let Some(guest) = guest_of(pid) else { continue };
            for crew in self.wards.values_mut().filter(|crew| crew.guests.contains(&guest)) {
                crew.take(pid);
            }
        }
        for crew in self.wards.values_mut() {
            crew.held.retain(|_, fd| !is_gone(fd));
        }
    }

    /// Lets them execute.
    pub(crate) fn run(&mut self, ward: WardId) {
        self.aim(ward, Aim::Run);
    }

    /// Stops them; [`Crews::stopped`] tells when.
    pub(crate) fn pause(&mut self, ward: WardId, order: Order) {
        self.aim(ward, Aim::Pause(order));
    }

    /// Ends them; [`Crews::stopped`] tells when.
    pub(crate) fn kill(&mut self, ward: WardId, order: Order) {
        self.aim(ward, Aim::Kill(order));
    }

    fn aim(&mut self, ward: WardId, aim: Aim) {
        let crew = self.crew(ward);
        crew.aim = aim;
        for (process, fd) in &crew.held {
            signal(*process, fd, aim.signal());
        }
        // What came up since the last look is stopped too.
        self.scan();
    }

    /// Whether somebody must look again soon.
    pub(crate) fn is_stopping(&self) -> bool {
        self.wards.values().any(|crew| match crew.aim {
            Aim::Pause(_) | Aim::Kill(_) => true,
            Aim::Run | Aim::Rest => false,
        })
    }

    /// Wards of which nothing executes any more, as ordered; each is told once.
    pub(crate) fn stopped(&mut self) -> Vec<(WardId, Order)> {
        let mut done = Vec::new();
        for (ward, crew) in &mut self.wards {
            let order = match crew.aim {
                Aim::Pause(order) if crew.held.iter().all(|(process, fd)| is_stopped(*process, fd)) => order,
                Aim::Kill(order) if crew.held.values().all(is_gone) => order,
                Aim::Run | Aim::Pause(_) | Aim::Kill(_) | Aim::Rest => continue,
            };
            crew.aim = Aim::Rest;
            done.push((*ward, order));
        }
        done
    }
}

/// A guest that executes on this machine, or stands still, whoever looks after it.
pub(crate) fn any_guest() -> Option<GuestId> {
    let listing = fs::read_dir("/proc").ok()?;
    listing.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).find_map(guest_of)
}

impl Aim {
    fn signal(self) -> Signal {
        match self {
            Aim::Run => Signal::CONT,
            Aim::Pause(_) | Aim::Rest => Signal::STOP,
            Aim::Kill(_) => Signal::KILL,
        }
    }
}

impl Crew {
    fn take(&mut self, pid: u32) {
        let Some(process) = started(pid).map(|started| Process { pid, started }) else { return };
        if self.held.contains_key(&process) {
            return;
        }
        let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
        let Ok(fd) = pidfd_open(number, PidfdFlags::NONBLOCK) else { return };
        // Read again with the descriptor in hand: it was this process that was opened.
        if started(pid) == Some(process.started) {
            if self.aim != Aim::Run {
                signal(process, &fd, self.aim.signal());
            }
            self.held.insert(process, fd);
        }
    }
}

fn signal(process: Process, fd: &OwnedFd, signal: Signal) {
    if let Err(why) = pidfd_send_signal(fd, signal)
        && why != rustix::io::Errno::SRCH
    {
        tracing::error!(pid = process.pid, ?signal, %why, "a guest's process can't be signalled");
    }
}

/// All its threads ended.
fn is_gone(fd: &OwnedFd) -> bool {
    let mut ask = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    poll(&mut ask, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// Gone, or each of its threads stands still.
fn is_stopped(process: Process, fd: &OwnedFd) -> bool {
    is_gone(fd) || threads_stand(process.pid).unwrap_or(false)
}

/// The guest that a process executes, if it is a QEMU that libvirt started.
fn guest_of(pid: u32) -> Option<GuestId> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut words = line.split(|byte| *byte == 0).skip_while(|word| *word != BEFORE_ID);
    std::str::from_utf8(words.nth(1)?).ok()?.parse().ok()
}

/// Whether each thread is stopped or dead.
fn threads_stand(pid: u32) -> Option<bool> {
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let stat = fs::read_to_string(thread.ok()?.path().join("stat")).ok()?;
        if !matches!(fields(&stat)?.first()?, &("T" | "Z" | "X")) {
            return Some(false);
        }
    }
    Some(true)
}

/// When a process was started, clock ticks after boot.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Field 22; `fields` begins with the third.
    fields(&stat)?.get(19)?.parse().ok()
}

/// The fields behind the program's name, which may hold spaces and brackets.
fn fields(stat: &str) -> Option<Vec<&str>> {
    Some(stat.rsplit_once(')')?.1.split_ascii_whitespace().collect())
}

#[cfg(test)]
mod test {
    use std::process::{Child, Command};
    use std::time::{Duration, Instant};

    use super::*;

    const WARD: WardId = WardId(1);

    /// A child that looks like a guest's QEMU and is ended with the test.
    struct Guest {
        child: Child,
        id: GuestId,
    }

    impl Guest {
        fn new(number: u32) -> Self {
            let id = GuestId::from_u128((u128::from(std::process::id()) << 64) | u128::from(number));
            let id_text = id.to_string();
            let mut command = Command::new("sh");
            command.args(["-c", "read never", "sh", "-uuid", &id_text]);
            let child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
            let guest = Self { child, id };
            eventually(|| guest_of(guest.child.id()) == Some(id));
            guest
        }

        fn state(&self) -> String {
            let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
            fields(&stat).unwrap()[0].to_owned()
        }
    }

    impl Drop for Guest {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    fn eventually(mut what: impl FnMut() -> bool) {
        let began = Instant::now();
        while !what() {
            assert!(began.elapsed() < Duration::from_secs(60), "it never came to be");
            std::thread::yield_now();
        }
    }

    fn stopped(crews: &mut Crews) -> Vec<(WardId, Order)> {
        let mut told = Vec::new();
        eventually(|| {
            told.extend(crews.stopped());
            !told.is_empty()
        });
        told
    }

    #[test]
    fn a_guest_stands_still_until_its_ward_runs_and_at_its_end() {
        let (mut crews, guest) = (Crews::default(), Guest::new(1));
        crews.guests(WARD, &[guest.id]);
        eventually(|| guest.state() == "T");
        crews.run(WARD);
        eventually(|| guest.state() == "S");
        crews.pause(WARD, Order(3));
        assert!(crews.is_stopping());
        assert_eq!((stopped(&mut crews), guest.state().as_str()), (vec![(WARD, Order(3))], "T"));
        assert!(!crews.is_stopping() && crews.stopped().is_empty());
    }

    #[test]
    fn a_guest_that_comes_up_without_a_lease_is_stopped_and_with_one_is_not() {
        let mut crews = Crews::default();
        let id = |number: u32| GuestId::from_u128((u128::from(std::process::id()) << 64) | u128::from(number));
        crews.guests(WARD, &[id(2), id(3)]);
        let late = Guest::new(2);
        crews.scan();
        eventually(|| late.state() == "T");
        crews.run(WARD);
        let later = Guest::new(3);
        crews.scan();
        assert_eq!(crews.held(WARD), 2);
        assert_ne!(later.state(), "T");
        crews.pause(WARD, Order(1));
        stopped(&mut crews);
        assert_eq!((late.state().as_str(), later.state().as_str()), ("T", "T"));
    }

    #[test]
    fn a_killed_guest_is_confirmed_only_when_it_is_gone() {
        let (mut crews, mut guest) = (Crews::default(), Guest::new(4));
        crews.guests(WARD, &[guest.id]);
        crews.kill(WARD, Order(4));
        assert_eq!(stopped(&mut crews), [(WARD, Order(4))]);
        assert!(!guest.child.wait().unwrap().success());
        assert_eq!(crews.held(WARD), 0);
    }

    #[test]
    fn others_are_left_alone() {
        let (mut crews, guest) = (Crews::default(), Guest::new(5));
        crews.guests(WARD, &[GuestId::from_u128(1)]);
        crews.kill(WARD, Order(1));
        assert_eq!(stopped(&mut crews), [(WARD, Order(1))]);
        // It may still be on its way to its first wait; a stopped or dead one never gets there.
        eventually(|| guest.state() == "S");
    }
}
