//! Memory density on a thread of its own, for looks and deeds block: look, plan, act, every two seconds. A hung libvirt
//! holds up nothing but this; guests then keep what they have, and their own drivers help them.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use roost_agent_core::Event;
use roost_agent_core::memory::{self, Alarm, Deed, GuestMemory, LOOK_EVERY, Plan, Room, Sample, State};
use roost_libvirt::Hypervisor;
use roost_protocol::memory::{InForce, MemoryAct, MemoryPolicy, MemoryReport};
use roost_protocol::{GuestId, Millis, Time, host};
use tokio::sync::{mpsc, watch};

use super::keeper::Keeper;
use crate::act::{balloon, ksm};
use crate::config::Config;
use crate::observe::memory::Eye;
use crate::observe::memory::guests::Guests;
use crate::report::link::wall;

/// Between looks until it is known what fits, for before that no start is refused; and so many, should libvirt be away.
const FIRST: (Millis, u32) = (Millis(100), 20);
/// The alarm's code.
const CODE: &str = "memory-short";

/// What the thread is given.
#[derive(Debug)]
pub(crate) struct Tuner {
    pub(crate) hypervisor: watch::Receiver<Option<Arc<Hypervisor>>>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) policy: watch::Receiver<InForce>,
    /// Knobs of page sharing as this boot's first agent found them are kept here.
    pub(crate) found: PathBuf,
    pub(crate) boot: String,
    pub(crate) keeper: Keeper,
    /// For people.
    pub(crate) report: watch::Sender<Option<MemoryReport>>,
}

/// Takes in how dense the host is packed.
#[derive(Debug)]
pub(crate) struct Density {
    /// The policy of the host's settings.
    file: MemoryPolicy,
    in_force: watch::Sender<InForce>,
    /// None where the host doesn't tune its memory.
    thread: Option<Thread>,
}

impl Density {
    /// What the settings say, and what an admin said before the agent was started anew.
    pub(crate) fn new(file: MemoryPolicy, kept: Option<&MemoryPolicy>) -> Self {
        Self { in_force: watch::Sender::new(InForce::of(kept, &file)), file, thread: None }
    }

    pub(crate) fn policy(&self) -> watch::Receiver<InForce> {
        self.in_force.subscribe()
    }

    pub(crate) fn tuned_by(self, thread: Thread) -> Self {
        Self { thread: Some(thread), ..self }
    }

    /// Followed at once.
    pub(crate) fn set(&self, policy: Option<Box<MemoryPolicy>>) {
        self.in_force.send_replace(InForce::of(policy.as_deref(), &self.file));
        match &self.thread {
            Some(thread) => thread.unpark(),
            None => tracing::warn!(
                "the aggregator's memory policy is kept; but for its trust group it counts once tune_memory is true"
            ),
        }
    }
}

/// Where knobs of page sharing are kept as they were found.
pub(crate) fn found_file(config: &Config) -> PathBuf {
    config.state_dir.join("ksm-found")
}

impl Tuner {
    /// Starts the thread. It ends when nobody takes its events any more; what it did to host and guests is then taken back
    /// by the keeper, unless the next agent comes soon.
    pub(crate) fn start(self) -> io::Result<Thread> {
        let started = thread::Builder::new().name("memory".into()).spawn(move || self.run())?;
        Ok(started.thread().clone())
    }

    fn run(mut self) {
        let (began, mut eye, mut guests) = (Instant::now(), Eye::new(Path::new("/")), Guests::default());
        let mut state = State::default();
        if let Some(found) = ksm::found(&self.found, &self.boot) {
            state.knobs_before(found);
        }
        let (mut freshness, mut known, mut looks) = (Millis(0), false, 0u32);
        while !self.events.is_closed() {
            let now = Time(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
            tell(self.keeper.beat());
            let policy = self.policy.borrow().clone();
            if let Some(act) = state.follow(wall(), &policy) {
                log(&act);
            }
            let policy = policy.policy;
            let hypervisor = self.hypervisor.borrow().clone();
            if let Some(host) = eye.host() {
                let look = |hypervisor: &Arc<Hypervisor>| guests.look(now, wall(), &eye, hypervisor, freshness);
                let seen: BTreeMap<GuestId, GuestMemory> = hypervisor.as_ref().map(look).unwrap_or_default();
                let sample = Sample { at: wall(), host, ksm: eye.ksm(), guests: seen };
                let plan = memory::plan(now, &sample, &policy, &mut state);
                freshness = plan.ask_guests;
                // A host whose libvirt is away starts nothing, and its guests are not known.
                if hypervisor.is_some() {
                    let room = Room::of(&sample, &policy, &state);
                    // The agent is busy: the next look is soon.
                    known |= self.events.try_send(Event::Room(Box::new(room))).is_ok();
                }
                self.report.send_replace(Some(state.report(&sample, &policy)));
                self.carry_out(&sample, plan, hypervisor.as_deref());
            }
            looks = looks.saturating_add(1);
            let rest = if known || looks > FIRST.1 { LOOK_EVERY } else { FIRST.0 };
            // Sooner when the policy changes.
            thread::park_timeout(Duration::from_millis(rest.0));
        }
    }

    fn carry_out(&self, sample: &Sample, plan: Plan, hypervisor: Option<&Hypervisor>) {
        plan.told.iter().for_each(log);
        for deed in plan.deeds {
            match (deed, hypervisor) {
                (Deed::Share(knobs), _) => {
                    if let Some(now) = &sample.ksm
                        && ksm::found(&self.found, &self.boot).is_none()
                    {
                        tell(ksm::keep_found(&self.found, &self.boot, &now.knobs));
                    }
                    tell(ksm::write(Path::new(ksm::FOLDER), &knobs));
                }
                (Deed::Resize { guest, to, .. }, Some(hypervisor)) => {
                    tell(balloon::resize(hypervisor, guest, to).map_err(|failure| failure.text));
                }
                (Deed::Period { guest, seconds }, Some(hypervisor)) => {
                    tell(balloon::period(hypervisor, guest, seconds).map_err(|failure| failure.text));
                }
                (Deed::Resize { .. } | Deed::Period { .. }, None) => {}
            }
        }
        let (text, raised) = match plan.alarm {
            Some(Alarm::Raise(text)) => (text, true),
            Some(Alarm::Clear) => (String::new(), false),
            None => return,
        };
        let alarm = host::Alarm { code: CODE.into(), guest: None, since: wall(), text };
        // The agent is busy: the alarm is told with the next change.
        let _ = self.events.try_send(Event::Condition { alarm, raised });
    }
}

fn log(act: &MemoryAct) {
    let guest = act.guest.map(|guest| guest.to_string());
    tracing::info!(guest, what = act.what, why = act.why.join("; "), "memory");
}

/// What failed is tried again by the next plan.
pub(super) fn tell<T, E: std::fmt::Display>(result: Result<T, E>) {
    if let Err(error) = result {
        tracing::warn!(%error, "act on memory");
    }
}

#[cfg(test)]
mod test {
    use roost_protocol::MiB;
    use roost_protocol::guest::{Boot, GuestSpec};
    use roost_protocol::memory::MemoryWish;

    use super::*;
    use crate::act::xml::{Accelerator, Parts, domain};
    use crate::observe::memory::definition::read;

    #[test]
    fn what_a_guest_is_owed_is_read_again_from_its_definition() {
        for wish in [
            None,
            Some(MemoryWish {
                weight: 7,
                floor_mib: Some(MiB(40)),
                squeeze: false,
                share: false,
                trust: Some("red".into()),
            }),
        ] {
            let (name, memory_mib, boot) = ("g".into(), MiB(64), Boot::Disk);
            let spec =
                GuestSpec { name, memory_mib, vcpus: 1, disks: vec![], nics: vec![], boot, memory: wish.clone() };
            let (guest, accelerator, serial) = (GuestId::from_u128(1), Accelerator::Tcg, Path::new("/g/s"));
            let xml = domain(&Parts { guest, spec: &spec, accelerator, disks: &[], kernel: None, serial }).unwrap();
            let read = read(&xml).unwrap();
            assert_eq!((read.wish, read.full, read.ours), (wish.unwrap_or_default(), MiB(64), true));
        }
    }
}
