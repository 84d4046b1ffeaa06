//! Waits in one place and changes in another: takes one event at a time, asks the core, and has its actions done. The
//! only file that knows observing, acting and reporting. Nothing here waits but for the next event.

pub(crate) mod exchange;
pub(crate) mod keeper;
pub(crate) mod memory;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use roost_agent_core::{Action, Agent, Change, Event, GuardWish};
use roost_protocol::message::{Hello, ToAggregator};
use roost_protocol::operation::{Failure, FailureCode};
use roost_protocol::{GuestId, Stamp, Time};
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, oneshot, watch};

use self::memory::Density;
use crate::act::domain::Workers;
use crate::act::fence;
use crate::ledger::{Reply, Request};
use crate::observe::libvirt::Watcher;
use crate::peer::Known;
use crate::report::link::{self, LinkEvent};
use crate::report::monitor::Monitor;
use crate::report::service;
use crate::{files, slots};

/// Answers of the core that may wait for the ledger. Past it, those that write nothing are dropped: the aggregator sees
/// a gap and asks for all.
const WAITING: usize = 1_024;
/// Longest text of an alarm that was written by another program.
const ALARM: u64 = 4 << 10;

/// All that the driver drives.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) agent: Agent,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) link: mpsc::Receiver<LinkEvent>,
    pub(crate) ledger: SyncSender<Request>,
    pub(crate) replies: mpsc::Receiver<Reply>,
    pub(crate) watcher: Watcher,
    pub(crate) workers: Workers,
    /// Takes in which hosts are dealt with.
    pub(crate) known: watch::Sender<Known>,
    /// Takes in how the guard is to be.
    pub(crate) guard: watch::Sender<GuardWish>,
    /// Takes in how dense the host is packed.
    pub(crate) density: Density,
    /// Takes in how cutting another host's power ended.
    pub(crate) fenced: mpsc::Sender<Event>,
    /// Kept once the first look at all domains since this boot has been decided on.
    pub(crate) new_boot: Option<String>,
    /// Told to people once: a damaged ledger was found here.
    pub(crate) aside: Option<PathBuf>,
    pub(crate) monitor: Monitor,
    /// Where the core's clock begins.
    pub(crate) began: Instant,
    pub(crate) stop: (Signal, Signal),
}

/// What woke the driver.
enum Woken {
    Event(Event),
    Link(LinkEvent),
    Reply(Reply),
    Deadline,
    Alive,
    Stop,
}

/// The rest of one answer of the core.
struct Answer {
    actions: VecDeque<Action>,
    /// The connection its messages are for.
    connection: u64,
}

/// What changes while it runs.
struct State {
    began: Instant,
    /// Answers in order; the first one may wait for the ledger.
    answers: VecDeque<Answer>,
    writing: bool,
    connection: u64,
    outbox: Option<mpsc::Sender<ToAggregator>>,
    /// Whether libvirt was asked once: before that, the aggregator would be told that all guests are gone.
    looked: bool,
    /// A link that waits for this.
    hello: Option<oneshot::Sender<Hello>>,
}

impl Driver {
    /// Runs until it is told to stop; guests go on.
    pub(crate) async fn run(mut self) {
        let (answers, began) = (VecDeque::new(), self.began);
        let mut state =
            State { began, answers, writing: false, connection: 0, outbox: None, looked: false, hello: None };
        let mut alive = service::alive_every().map(tokio::time::interval);
        self.tell_of_damage(&mut state);
        self.tell_of_image(&mut state);
        service::ready();
        service::status("no connection to an aggregator; guests are looked after");
        loop {
            match self.next(&state, alive.as_mut()).await {
                Woken::Event(event) => self.decide(&mut state, event),
                Woken::Link(event) => self.linked(&mut state, event),
                Woken::Reply(reply) => self.replied(&mut state, reply),
                Woken::Deadline => self.decide(&mut state, Event::Tick),
                Woken::Alive => service::alive(),
                Woken::Stop => break,
            }
        }
        service::stopping();
        tracing::info!("the agent ends; guests go on");
    }

    async fn next(&mut self, state: &State, alive: Option<&mut tokio::time::Interval>) -> Woken {
        let deadline = self.agent.deadline().map(|at| state.began + Duration::from_millis(at.0));
        let deadline = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let alive = async {
            match alive {
                Some(interval) => drop(interval.tick().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = self.stop.0.recv() => Woken::Stop,
            _ = self.stop.1.recv() => Woken::Stop,
            () = alive => Woken::Alive,
            () = deadline => Woken::Deadline,
            Some(reply) = self.replies.recv() => Woken::Reply(reply),
            Some(event) = self.link.recv() => Woken::Link(event),
            Some(event) = self.events.recv() => Woken::Event(event),
        }
    }

    fn decide(&mut self, state: &mut State, event: Event) {
        let second = self.monitor.saw(state.now(), &event);
        self.ask(state, event);
        self.proceed(state);
        if second {
            for event in self.monitor.second(state.now(), link::wall(), &self.agent) {
                self.ask(state, event);
            }
            self.proceed(state);
        }
    }

    /// Puts the core's answer behind those that wait.
    fn ask(&mut self, state: &mut State, event: Event) {
        let first_look = matches!(event, Event::HypervisorUp { .. });
        let looked = first_look || matches!(event, Event::HypervisorDown { .. });
        let actions = self.agent.on(state.now(), link::wall(), event);
        let writes = |action: &Action| matches!(action, Action::Persist(_) | Action::Run { .. } | Action::Begin { .. });
        if state.answers.len() >= WAITING && !actions.iter().any(writes) {
            tracing::warn!("the ledger is slow; an answer was dropped");
        } else if !actions.is_empty() {
            state.answers.push_back(Answer { actions: actions.into(), connection: state.connection });
        }
        if first_look && let Some(boot) = self.new_boot.take() {
            self.ask_ledger(Request::KeepBoot(boot));
        }
        if looked
            && !std::mem::replace(&mut state.looked, true)
            && let Some(answer) = state.hello.take()
        {
            let _ = answer.send(self.agent.hello(link::wall()));
        }
    }

    /// Does what waits, up to the next write to the ledger.
    fn proceed(&mut self, state: &mut State) {
        while !state.writing {
            let Some(answer) = state.answers.front_mut() else { return };
            let connection = answer.connection;
            match answer.actions.pop_front() {
                None => drop(state.answers.pop_front()),
                Some(Action::Persist(changes)) => match self.ledger.try_send(Request::Write(changes)) {
                    Ok(()) => state.writing = true,
                    Err(error) => {
                        // Its queue holds far more than can wait, so its thread is gone: nothing can be promised.
                        tracing::error!(%error, "the ledger's thread is gone; the agent ends");
                        std::process::exit(1);
                    }
                },
                Some(action) => self.apply(state, connection, action),
            }
        }
    }

    fn apply(&mut self, state: &mut State, connection: u64, action: Action) {
        match action {
            Action::Persist(_) => {}
            Action::Run { task, what } => {
                tracing::info!(guest = %what.guest(), task = task.0, what = word(&what), "begin");
                self.workers.run(task, what);
            }
            Action::Cancel { task } => self.workers.cancel(task),
            Action::Begin { operation } => self.ask(state, Event::Begin { operation }),
            Action::Send(message) if connection == state.connection => state.send(message),
            Action::Send(_) => {}
            Action::KeepDocument { generation, sealed } => {
                self.ask_ledger(Request::KeepDocument { generation, sealed });
            }
            Action::SendDocument => self.ask_ledger(Request::ReadDocument),
            Action::Peers { peers, shares } => drop(self.known.send_replace(Known { peers, shares })),
            Action::Guard(wish) => drop(self.guard.send_replace(*wish)),
            Action::Memory(policy) => self.density.set(policy),
            Action::Fence { host, device } => fence::begin(host, *device, self.fenced.clone()),
            Action::List(number) => self.watcher.list(number),
            Action::Note { guest, at, text } => note(guest, at, &text),
        }
    }

    fn ask_ledger(&self, request: Request) {
        if let Err(error) = self.ledger.try_send(request) {
            tracing::error!(%error, "the ledger takes nothing");
        }
    }

    fn replied(&mut self, state: &mut State, reply: Reply) {
        match reply {
            Reply::Written(Ok(())) => state.writing = false,
            Reply::Written(Err(lost)) => self.not_written(state, lost.changes, lost.why),
            Reply::NotKept { why } => {
                tracing::error!(why, "the ledger can't be written");
                self.decide(state, Event::LedgerFailed { lost: Vec::new(), why });
            }
            Reply::Recovered => {
                tracing::info!("the ledger can be written again");
                self.decide(state, Event::LedgerRecovered);
            }
            Reply::Document(Some(sealed)) => state.send(ToAggregator::Document { sealed }),
            Reply::Document(None) => {}
        }
        self.proceed(state);
    }

    /// What follows a promise that can't be kept isn't done, and the core is told all of it.
    fn not_written(&mut self, state: &mut State, mut lost: Vec<Change>, why: String) {
        tracing::error!(why, "the ledger can't be written");
        state.writing = false;
        let mut tasks = Vec::new();
        for action in state.answers.pop_front().map(|answer| answer.actions).unwrap_or_default() {
            match action {
                Action::Persist(changes) => lost.extend(changes),
                Action::Run { task, .. } => tasks.push(task),
                Action::Cancel { .. }
                | Action::Begin { .. }
                | Action::Send(_)
                | Action::KeepDocument { .. }
                | Action::SendDocument
                | Action::Peers { .. }
                | Action::Guard(_)
                | Action::Memory(_)
                | Action::Fence { .. }
                | Action::List(_)
                | Action::Note { .. } => {}
            }
        }
        self.ask(state, Event::LedgerFailed { lost, why: why.clone() });
        for task in tasks {
            let result = Err(Failure { code: FailureCode::NoSpace, text: why.clone() });
            self.ask(state, Event::Finished { task, result });
        }
    }

    fn linked(&mut self, state: &mut State, event: LinkEvent) {
        match event {
            LinkEvent::WantHello(answer) if state.looked => {
                // A link that ended meanwhile asks again.
                let _ = answer.send(self.agent.hello(link::wall()));
            }
            LinkEvent::WantHello(answer) => state.hello = Some(answer),
            LinkEvent::Up { welcome, outbox } => {
                state.connection += 1;
                state.outbox = Some(outbox);
                service::status(service::CONNECTED);
                self.decide(state, Event::LinkUp { welcome });
            }
            LinkEvent::Down => {
                state.outbox = None;
                self.decide(state, Event::LinkDown);
            }
            LinkEvent::Received(message) => self.decide(state, Event::Received(message)),
            LinkEvent::Condition { alarm, raised } => self.decide(state, Event::Condition { alarm, raised }),
        }
    }

    /// A newer host image that does not run (slots.rs).
    fn tell_of_image(&mut self, state: &mut State) {
        let Ok(Some(text)) = files::read_bounded(Path::new(slots::PASSED_OVER), ALARM) else { return };
        let text = String::from_utf8_lossy(&text).into_owned();
        let alarm =
            roost_protocol::host::Alarm { code: "image-passed-over".into(), guest: None, since: link::wall(), text };
        self.decide(state, Event::Condition { alarm, raised: true });
    }

    fn tell_of_damage(&mut self, state: &mut State) {
        let Some(aside) = self.aside.take() else { return };
        let text = format!(
            "the agent's ledger was damaged and lies in {}; guests go on, but which of them this host keeps running must \
             be told to it again",
            aside.display()
        );
        let alarm =
            roost_protocol::host::Alarm { code: "ledger-damaged".into(), guest: None, since: link::wall(), text };
        self.decide(state, Event::Condition { alarm, raised: true });
    }
}

impl State {
    fn now(&self) -> Time {
        Time(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn send(&mut self, message: ToAggregator) {
        let Some(outbox) = &self.outbox else { return };
        if outbox.try_send(message).is_err() {
            // Dropping the outbox has the link begin anew, and with it the talk.
            self.outbox = None;
        }
    }
}

fn word(task: &roost_agent_core::Task) -> &'static str {
    use roost_agent_core::Task;
    match task {
        Task::Create { .. } => "create",
        Task::Import { .. } => "import",
        Task::Start { .. } => "start",
        Task::Shutdown { .. } => "shutdown",
        Task::ForceOff { .. } => "force off",
        Task::Pause { .. } => "pause",
        Task::Resume { .. } => "resume",
        Task::Reset { .. } => "reset",
        Task::Delete { .. } => "delete",
        Task::CleanUp { .. } => "clean up",
        Task::Backup { .. } => "back up",
        Task::Ship { .. } => "ship",
        Task::Restore { .. } => "restore",
        Task::Pull { .. } => "pull",
        Task::Verify { .. } => "verify",
        Task::Prune { .. } => "prune",
        Task::Pin { .. } => "pin",
        Task::Prove { .. } => "prove",
    }
}

fn note(guest: Option<GuestId>, at: Option<Stamp>, text: &str) {
    match guest {
        Some(guest) => tracing::info!(%guest, at = at.map(|at| at.0), "{text}"),
        None => tracing::info!(at = at.map(|at| at.0), "{text}"),
    }
}
