//! Tasks become calls to libvirt, or work on points. Each runs on a thread of its own kind, counted; a call that hangs is given up and
//! holds up nothing but its own guest.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use roost_agent_core::{Event, Made, Task, TaskId, TaskResult};
use roost_libvirt::{Code, Error, ForceOff, Hypervisor, ShutdownMode, State};
use roost_protocol::backup::Target;
use roost_protocol::memory::InForce;
use roost_protocol::operation::{Failure, FailureCode};
use tokio::sync::{Semaphore, mpsc, watch};

use super::apart;
use super::create::Maker;
use super::failure;
use super::place::Place;
use super::points::{Hands, Points};
use super::reboot::Gate;
use super::restore::pull::await_served;
use super::xml::Accelerator;

/// Calls to libvirt at a time; its daemon serves 20 by default.
const SHORT: usize = 6;
/// Guests being made at a time: disks are the limit.
const LONG: usize = 2;
/// Tasks about points at a time; the core begins few. A target that hangs holds one of them.
const POINTS: usize = 8;
/// Tasks that talk to other hosts at a time. They have a lane of their own: a host that hangs holds up no backup here.
const OTHERS: usize = 8;
/// Tasks that may wait; a host reports at most 512 guests with one task each.
const WAITING: usize = 1_024;
/// Guests whose data is brought in at a time; those that are off take a place until they run.
const PULLS: usize = 8;
/// Threads that may hang before new tasks are refused.
const HANGING: usize = 40;
/// One call on one guest; libvirt itself gives up on a hung QEMU after 30 s.
const SHORT_LIMIT: Duration = Duration::from_secs(60);
/// Making or removing a guest with large disks.
const LONG_LIMIT: Duration = Duration::from_secs(4 * 3_600);
/// A first backup, a restore or a verification of large disks, or its copy over a thin line.
const POINTS_LIMIT: Duration = Duration::from_secs(24 * 3_600);

/// The connection to libvirt while there is one.
pub(crate) type Slot = watch::Receiver<Option<Arc<Hypervisor>>>;

/// Carries out tasks.
#[derive(Debug)]
pub(crate) struct Workers {
    tools: Arc<Tools>,
    short: Arc<Semaphore>,
    long: Arc<Semaphore>,
    points: Arc<Semaphore>,
    pulls: Arc<Semaphore>,
    others: Arc<Semaphore>,
    /// Set for tasks that nobody waits for any more.
    unwanted: Arc<Mutex<HashMap<TaskId, Arc<AtomicBool>>>>,
    waiting: Arc<AtomicUsize>,
    gate: Gate,
    events: mpsc::Sender<Event>,
}

#[derive(Debug)]
struct Tools {
    slot: Slot,
    policy: watch::Receiver<InForce>,
    place: Place,
    accelerator: Accelerator,
    /// Absent where the host's store can't be used.
    points: Option<Points>,
    threads: AtomicUsize,
}

impl Workers {
    /// Workers that report to `events`.
    pub(crate) fn new(
        (slot, policy): (Slot, watch::Receiver<InForce>),
        place: Place,
        accelerator: Accelerator,
        points: Option<Points>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let tools = Arc::new(Tools { slot, policy, place, accelerator, points, threads: AtomicUsize::new(0) });
        let lane = |size| Arc::new(Semaphore::new(size));
        let (short, long, points) = (lane(SHORT), lane(LONG), lane(POINTS));
        let (pulls, others) = (lane(PULLS), lane(OTHERS));
        let (unwanted, waiting) = (Arc::default(), Arc::new(AtomicUsize::new(0)));
        Self { tools, short, long, points, pulls, others, unwanted, waiting, gate: Gate::default(), events }
    }

    /// What guests are changed through.
    pub(crate) fn gate(&self) -> Gate {
        self.gate.clone()
    }

    /// Begins a task; returns at once. Its end comes as [`Event::Finished`].
    pub(crate) fn run(&self, task: TaskId, what: Task) {
        let (lane, limit) = match &what {
            Task::Create { .. } | Task::Delete { .. } | Task::CleanUp { .. } => (self.long.clone(), LONG_LIMIT),
            Task::Ship { to: Target::Peer { .. }, .. } | Task::Prune { at: Target::Peer { .. }, .. } => {
                (self.others.clone(), POINTS_LIMIT)
            }
            Task::Restore { order, .. } if matches!(order.from, Target::Peer { .. }) => {
                (self.others.clone(), POINTS_LIMIT)
            }
            Task::Backup { .. }
            | Task::Ship { .. }
            | Task::Restore { .. }
            | Task::Verify { .. }
            | Task::Prune { .. }
            | Task::Pin { .. }
            | Task::Prove { .. } => (self.points.clone(), POINTS_LIMIT),
            Task::Pull { .. } => (self.pulls.clone(), POINTS_LIMIT),
            Task::Import { .. }
            | Task::Start { .. }
            | Task::Shutdown { .. }
            | Task::ForceOff { .. }
            | Task::Pause { .. }
            | Task::Resume { .. }
            | Task::Reset { .. } => (self.short.clone(), SHORT_LIMIT),
        };
        let (tools, events, waiting) = (self.tools.clone(), self.events.clone(), self.waiting.clone());
        let flag = Arc::new(AtomicBool::new(false));
        let all = self.unwanted.clone();
        flags(&all).insert(task, flag.clone());
        let crowded = waiting.fetch_add(1, Ordering::Relaxed) >= WAITING;
        // Copies that are cut off are gone on with; all else keeps this host from restarting until it ends.
        let within = if is_copying(&what) { Some(None) } else { self.gate.enter().map(Some) };
        tokio::spawn(async move {
            let result = match (crowded, &within, lane.acquire().await) {
                (false, Some(_), Ok(_permit)) => in_time(tools, task, what, limit, &flag, &events).await,
                (_, None, _) => Err(failure(FailureCode::Busy, "this host is about to restart")),
                (true, ..) | (_, _, Err(_)) => Err(failure(FailureCode::Busy, "too many tasks wait on this host")),
            };
            drop(within);
            waiting.fetch_sub(1, Ordering::Relaxed);
            flags(&all).remove(&task);
            // Nobody listens any more only when the agent ends.
            let _ = events.send(Event::Finished { task, result }).await;
        });
    }
}

impl Workers {
    /// Asks a task to end soon.
    pub(crate) fn cancel(&self, task: TaskId) {
        if let Some(flag) = flags(&self.unwanted).get(&task) {
            flag.store(true, Ordering::Relaxed);
        }
    }
}

/// Reads guests, or writes points, which are whole or not there.
fn is_copying(task: &Task) -> bool {
    matches!(
        task,
        Task::Backup { .. } | Task::Ship { .. } | Task::Verify { .. } | Task::Prune { .. } | Task::Pin { .. }
    )
}

/// The map is whole after every change, so a thread that died in one leaves it usable.
fn flags(
    unwanted: &Mutex<HashMap<TaskId, Arc<AtomicBool>>>,
) -> std::sync::MutexGuard<'_, HashMap<TaskId, Arc<AtomicBool>>> {
    unwanted.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn in_time(
    tools: Arc<Tools>,
    task: TaskId,
    what: Task,
    limit: Duration,
    unwanted: &Arc<AtomicBool>,
    events: &mpsc::Sender<Event>,
) -> TaskResult {
    if tools.threads.fetch_add(1, Ordering::Relaxed) >= HANGING {
        tools.threads.fetch_sub(1, Ordering::Relaxed);
        return Err(failure(FailureCode::Busy, "too many calls to libvirt hang on this host"));
    }
    let (flag, events) = (unwanted.clone(), events.clone());
    let work = tokio::task::spawn_blocking(move || {
        let tell = |percent: u32, step: &str| {
            // Progress may be lost when the agent is busy; the end of the task never is.
            let _ = events.try_send(Event::Advanced { task, percent, step: step.to_owned() });
        };
        let result = tools.carry_out(&what, &flag, &tell);
        tools.threads.fetch_sub(1, Ordering::Relaxed);
        result
    });
    match tokio::time::timeout(limit, work).await {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => Err(failure(FailureCode::Internal, format!("the worker ended: {error}"))),
        Err(_) => {
            unwanted.store(true, Ordering::Relaxed);
            let text =
                format!("libvirt did not answer within {} s; look at the guest before trying again", limit.as_secs());
            Err(failure(FailureCode::TimedOut, text))
        }
    }
}

impl Tools {
    fn carry_out(&self, what: &Task, unwanted: &AtomicBool, tell: &dyn Fn(u32, &str)) -> TaskResult {
        let current = self.slot.borrow().clone();
        let Some(hypervisor) = current else {
            return Err(failure(FailureCode::HypervisorAway, "libvirt is not there; it is tried again by itself"));
        };
        let maker =
            Maker { hypervisor: &hypervisor, place: &self.place, accelerator: self.accelerator, unwanted, tell };
        let uuid = what.guest().bytes();
        let call = match what {
            Task::Create { guest, spec } => return maker.create(*guest, spec).map(|()| Made::Nothing),
            Task::Import { guest, xml } => return maker.import(*guest, xml).map(|()| Made::Nothing),
            Task::Delete { guest, keep_disks } => {
                maker.delete(*guest, *keep_disks)?;
                self.points.iter().for_each(|points| points.end_serving(*guest));
                return Ok(Made::Nothing);
            }
            Task::CleanUp { guest } => return maker.clean_up(*guest).map(|()| Made::Nothing),
            Task::Backup { .. }
            | Task::Ship { .. }
            | Task::Restore { .. }
            | Task::Pull { .. }
            | Task::Verify { .. }
            | Task::Prune { .. }
            | Task::Pin { .. }
            | Task::Prove { .. } => {
                let none = || failure(FailureCode::Unsupported, "this host has no backup store: see its alarms");
                let hands = Hands {
                    hypervisor: &hypervisor,
                    place: &self.place,
                    accelerator: self.accelerator,
                    unwanted,
                    tell,
                };
                return self.points.as_ref().ok_or_else(none)?.carry_out(what, &hands);
            }
            Task::Start { guest, paused } => {
                await_served(&self.place, *guest);
                let policy = self.policy.borrow().policy.clone();
                apart::keep(&hypervisor, *guest, &policy);
                if *paused { hypervisor.start_paused(&uuid) } else { hypervisor.start(&uuid) }
            }
            Task::Shutdown { .. } => hypervisor.shutdown(&uuid, ShutdownMode::Default),
            Task::ForceOff { .. } => hypervisor.force_off(&uuid, ForceOff::Kill),
            Task::Pause { .. } => hypervisor.pause(&uuid),
            Task::Resume { .. } => hypervisor.resume(&uuid),
            Task::Reset { .. } => hypervisor.reset(&uuid),
        };
        match call {
            Ok(()) => Ok(Made::Nothing),
            Err(error) if error.code() == Some(Code::OperationInvalid) && reached(&hypervisor, what) => {
                Ok(Made::Nothing)
            }
            Err(error) => Err(hypervisor_failure(&error)),
        }
    }
}

/// Whether the guest is already as the task would have made it: somebody was faster.
fn reached(hypervisor: &Hypervisor, what: &Task) -> bool {
    let Ok(domain) = hypervisor.domain(&what.guest().bytes()) else { return false };
    match what {
        Task::Start { .. } => domain.state.is_active(),
        Task::Shutdown { .. } | Task::ForceOff { .. } => domain.state == State::ShutOff,
        Task::Pause { .. } => domain.state == State::Paused,
        Task::Resume { .. } => domain.state == State::Running,
        Task::Create { .. }
        | Task::Import { .. }
        | Task::Reset { .. }
        | Task::Delete { .. }
        | Task::CleanUp { .. }
        | Task::Backup { .. }
        | Task::Ship { .. }
        | Task::Restore { .. }
        | Task::Pull { .. }
        | Task::Verify { .. }
        | Task::Prune { .. }
        | Task::Pin { .. }
        | Task::Prove { .. } => false,
    }
}

/// libvirt's "no" in the words that travel.
pub(crate) fn hypervisor_failure(error: &Error) -> Failure {
    if error.is_connection_lost() {
        return failure(FailureCode::HypervisorAway, error.to_string());
    }
    let text = error.to_string();
    let code = match error.code() {
        Some(Code::NoDomain) => FailureCode::NotFound,
        Some(Code::DomainExists) => FailureCode::AlreadyExists,
        Some(Code::OperationInvalid) => FailureCode::WrongState,
        Some(Code::OperationTimeout) => FailureCode::TimedOut,
        Some(Code::Busy) => FailureCode::Busy,
        Some(_) if text.contains("No space left on device") => FailureCode::NoSpace,
        Some(_) => FailureCode::Hypervisor,
        None => FailureCode::Invalid,
    };
    failure(code, text)
}
