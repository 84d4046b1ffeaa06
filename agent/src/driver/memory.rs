//! Memory density on a thread of its own, for looks and deeds block: look, plan, act, every two seconds. A hung libvirt
//! holds up nothing but this; guests then keep what they have, and their own drivers help them.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use roost_agent_core::Event;
use roost_agent_core::memory::{self, Alarm, Deed, GuestMemory, LOOK_EVERY, Plan, Sample, State};
use roost_libvirt::Hypervisor;
use roost_protocol::memory::MemoryPolicy;
use roost_protocol::{GuestId, Millis, Time, host};
use tokio::sync::{mpsc, watch};

use crate::act::{balloon, ksm};
use crate::observe::memory::Eye;
use crate::observe::memory::guests::Guests;
use crate::report::link::wall;

/// The alarm's code.
const CODE: &str = "memory-short";

/// What the thread is given.
#[derive(Debug)]
pub(crate) struct Tuner {
    pub(crate) hypervisor: watch::Receiver<Option<Arc<Hypervisor>>>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) policy: MemoryPolicy,
    /// Knobs of page sharing as this boot's first agent found them are kept here.
    pub(crate) found: PathBuf,
    pub(crate) boot: String,
}

impl Tuner {
    /// Starts the thread. It ends when nobody takes its events any more, and gives the knobs back.
    pub(crate) fn start(self) -> io::Result<()> {
        thread::Builder::new().name("memory".into()).spawn(move || self.run()).map(drop)
    }

    fn run(self) {
        let (began, mut eye, mut guests) = (Instant::now(), Eye::new(Path::new("/")), Guests::default());
        let mut state = State::default();
        if let Some(found) = ksm::found(&self.found, &self.boot) {
            state.knobs_before(found);
        }
        let mut freshness = Millis(0);
        while !self.events.is_closed() {
            let now = Time(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
            let hypervisor = self.hypervisor.borrow().clone();
            if let Some(host) = eye.host() {
                let look = |hypervisor: &Arc<Hypervisor>| guests.look(now, wall(), &eye, hypervisor, freshness);
                let seen: BTreeMap<GuestId, GuestMemory> = hypervisor.as_ref().map(look).unwrap_or_default();
                let sample = Sample { at: wall(), host, ksm: eye.ksm(), guests: seen };
                let plan = memory::plan(now, &sample, &self.policy, &mut state);
                freshness = plan.ask_guests;
                self.carry_out(&sample, plan, hypervisor.as_deref());
            }
            thread::sleep(Duration::from_millis(LOOK_EVERY.0));
        }
        if let Some(knobs) = state.hand_back() {
            tell(ksm::write(Path::new(ksm::FOLDER), &knobs));
        }
    }

    fn carry_out(&self, sample: &Sample, plan: Plan, hypervisor: Option<&Hypervisor>) {
        for act in &plan.told {
            let guest = act.guest.map(|guest| guest.to_string());
            tracing::info!(guest, what = act.what, why = act.why.join("; "), "memory");
        }
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

/// What failed is tried again by the next plan.
fn tell<T, E: std::fmt::Display>(result: Result<T, E>) {
    if let Err(error) = result {
        tracing::warn!(%error, "act on memory");
    }
}
