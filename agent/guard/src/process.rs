//! The kill switch: processes that execute guests, held by descriptor, stopped and let go by signals. Nothing but the
//! kernel is needed: no libvirt, no monitor, no agent.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use roost_protocol::GuestId;
use roost_ward::door::Process;
use roost_ward::{Order, WardId};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// The processes of all wards.
#[derive(Debug, Default)]
pub(crate) struct Crews {
    wards: BTreeMap<WardId, Crew>,
}

/// The processes of one ward.
#[derive(Debug)]
struct Crew {
    held: BTreeMap<GuestId, Held>,
    aim: Aim,
}

#[derive(Debug)]
struct Held {
    process: Process,
    fd: OwnedFd,
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
    /// Makes these a ward's processes. One that is new is stopped at once unless the ward's guests run.
    pub(crate) fn hold(&mut self, ward: WardId, processes: &[Process]) {
        let crew = self.wards.entry(ward).or_insert(Crew { held: BTreeMap::new(), aim: Aim::Rest });
        crew.held.retain(|_, held| processes.contains(&held.process) || (crew.aim != Aim::Run && !held.is_gone()));
        for process in processes {
            if crew.held.get(&process.guest).is_some_and(|held| held.process == *process) {
                continue;
            }
            let Some(held) = Held::take(process) else { continue };
            held.signal(crew.aim.signal());
            crew.held.insert(process.guest, held);
        }
    }

    /// The processes that are held and live.
    pub(crate) fn of(&self, ward: WardId) -> Vec<Process> {
        let crew = self.wards.get(&ward);
        let held = crew.into_iter().flat_map(|crew| crew.held.values());
        held.filter(|held| !held.is_gone()).map(|held| held.process.clone()).collect()
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
        let crew = self.wards.entry(ward).or_insert(Crew { held: BTreeMap::new(), aim });
        crew.aim = aim;
        for held in crew.held.values() {
            held.signal(aim.signal());
        }
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
                Aim::Pause(order) if crew.held.values().all(Held::is_stopped) => order,
                Aim::Kill(order) if crew.held.values().all(Held::is_gone) => order,
                Aim::Run | Aim::Pause(_) | Aim::Kill(_) | Aim::Rest => continue,
            };
            crew.aim = Aim::Rest;
            crew.held.retain(|_, held| !held.is_gone());
            done.push((*ward, order));
        }
        done
    }
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

impl Held {
    /// None if it is gone, or its number is another's now.
    fn take(process: &Process) -> Option<Self> {
        let pid = Pid::from_raw(i32::try_from(process.pid).ok()?)?;
        let fd = pidfd_open(pid, PidfdFlags::NONBLOCK).ok()?;
        // Read with the descriptor in hand: it was this process that was opened.
        (started(process.pid) == Some(process.started)).then(|| Self { process: process.clone(), fd })
    }

    fn signal(&self, signal: Signal) {
        if let Err(why) = pidfd_send_signal(&self.fd, signal)
            && why != rustix::io::Errno::SRCH
        {
            tracing::error!(pid = self.process.pid, ?signal, %why, "a guest's process can't be signalled");
        }
    }

    /// All its threads ended.
    fn is_gone(&self) -> bool {
        let mut ask = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        poll(&mut ask, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Gone, or each of its threads stands still.
    fn is_stopped(&self) -> bool {
        self.is_gone() || threads_stand(self.process.pid).unwrap_or(false)
    }
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
pub(crate) fn started(pid: u32) -> Option<u64> {
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

    /// A child that is ended with the test.
    struct Sleeper(Child);

    impl Sleeper {
        fn new() -> Self {
            Self(Command::new("sleep").arg("600").spawn().unwrap())
        }

        fn process(&self) -> Process {
            let pid = self.0.id();
            Process { guest: GuestId::from_u128(u128::from(pid)), pid, started: started(pid).unwrap() }
        }

        fn state(&self) -> String {
            let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
            fields(&stat).unwrap()[0].to_owned()
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn eventually(mut what: impl FnMut() -> bool) {
        let began = Instant::now();
        while !what() {
            assert!(began.elapsed() < Duration::from_secs(60), "it never came to be");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_process_stands_still_until_its_ward_runs_and_at_its_end() {
        let (mut crews, sleeper) = (Crews::default(), Sleeper::new());
        crews.hold(WARD, &[sleeper.process()]);
        eventually(|| sleeper.state() == "T");
        crews.run(WARD);
        eventually(|| sleeper.state() == "S");
        crews.pause(WARD, Order(3));
        assert!(crews.is_stopping());
        let mut told = Vec::new();
        eventually(|| {
            told.extend(crews.stopped());
            !told.is_empty()
        });
        assert_eq!((told, sleeper.state().as_str()), (vec![(WARD, Order(3))], "T"));
        assert!(!crews.is_stopping() && crews.stopped().is_empty());
    }

    #[test]
    fn a_killed_process_is_confirmed_only_when_it_is_gone() {
        let (mut crews, mut sleeper) = (Crews::default(), Sleeper::new());
        crews.hold(WARD, &[sleeper.process()]);
        crews.kill(WARD, Order(4));
        let mut told = Vec::new();
        eventually(|| {
            told.extend(crews.stopped());
            !told.is_empty()
        });
        assert_eq!(told, [(WARD, Order(4))]);
        assert!(!sleeper.0.wait().unwrap().success());
        assert!(crews.of(WARD).is_empty());
    }

    #[test]
    fn a_number_that_is_another_s_now_is_left_alone() {
        let (mut crews, sleeper) = (Crews::default(), Sleeper::new());
        let process = sleeper.process();
        crews.hold(WARD, &[Process { started: process.started + 1, ..process }]);
        crews.kill(WARD, Order(1));
        assert_eq!(crews.stopped(), [(WARD, Order(1))]);
        assert_ne!(sleeper.state(), "Z");
    }

    #[test]
    fn a_process_can_t_be_taken_off_the_list_to_run_on() {
        let (mut crews, sleeper) = (Crews::default(), Sleeper::new());
        crews.hold(WARD, &[sleeper.process()]);
        crews.hold(WARD, &[]);
        assert_eq!(crews.of(WARD), [sleeper.process()]);
        crews.run(WARD);
        crews.hold(WARD, &[]);
        assert!(crews.of(WARD).is_empty());
    }
}
