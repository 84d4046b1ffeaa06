//! The guard's one loop: waits for a datagram, a visitor, the disk, a signal or a deadline, tells the wards, and does what
//! they ask. Nothing in it waits for anything else: ballots are written by a thread of their own.

mod talk;
mod trial;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::Ed25519KeyPair;
use roost_protocol::cause::NOTE_HOSTS;
use roost_protocol::{HostId, Millis, Stamp, Time, codec};
use roost_ward::door::{MOST_ADDRESSES, MOST_WARDS, Note, Peer};
use roost_ward::{
    Action, Ballot, Event, Kept, Letter, MOST_WARDS_IN_PACKET, MemberId, Message, Packet, Replica, Report, Rules,
    Start, WardId, Wards, WardsAction,
};

use crate::clock;
use crate::config::Config;
use crate::keep::Keep;
use crate::outbox::{Outbox, Step};
use crate::post::Post;
use crate::process::Crews;
use crate::scribe::{Done, Scribe};
use crate::seal::{LONGEST_DATAGRAM, Seal};
use crate::store::{Crew, Opened};
use crate::visitors::{Visitor, Visitors};
use crate::watchdog::Watchdog;
use trial::Trial;

/// Datagrams taken in one turn, so that a flood doesn't keep leases from being looked at.
const MOST_AT_ONCE: usize = 64;
/// While guests are being stopped they are looked at this often.
const LOOK: Millis = Millis(20);
/// Processes of guests are looked for this often. A promise is longer than a lease by more than ten times that.
const SCAN: Millis = Millis(500);
/// Peers that don't answer are greeted this often, beside what is sent to them anyhow.
const GREET: Millis = Millis(2_000);
/// Notes kept for visitors that come later.
const MOST_NOTES: usize = 1_024;
/// Notes of one start are counted from its number times this.
const NOTES_PER_START: u64 = 1 << 32;

/// The running guard.
pub(crate) struct Guard {
    me: MemberId,
    wards: Wards,
    outbox: Outbox,
    post: Post,
    crews: Crews,
    /// Wards whose guests any home may start.
    anywhere: BTreeSet<WardId>,
    /// What was voted in wards that this machine takes no part in now.
    resting: BTreeMap<WardId, Ballot>,
    next_scan: Time,
    seal: Seal,
    peers: BTreeMap<HostId, Peer>,
    scribe: Scribe,
    keep: Keep,
    dog: Watchdog,
    trial: Trial,
    accept_no_fence: bool,
    visitors: Visitors,
    /// Visitors that wait until a new ward is on disk.
    founders: BTreeMap<WardId, Visitor>,
    notes: VecDeque<Note>,
    /// What happened before this is forgotten.
    remembers: Stamp,
    next_note: u64,
    socket: UdpSocket,
    listen: SocketAddr,
    timer: TimerFd,
    signals: SignalFd,
    next_greeting: Time,
    random: SystemRandom,
}

impl Guard {
    /// Opens everything, and stops what runs without a lease.
    pub(crate) fn new(config: &Config, host: HostId, opened: Opened) -> anyhow::Result<Self> {
        let random = SystemRandom::new();
        let key = Ed25519KeyPair::from_pkcs8(&opened.key).map_err(|why| anyhow::anyhow!("read our key: {why}"))?;
        let socket = UdpSocket::bind(config.listen)?;
        socket.set_nonblocking(true)?;
        let mut asked = SigSet::empty();
        asked.add(Signal::SIGTERM);
        asked.add(Signal::SIGINT);
        asked.thread_block()?;
        let mut guard = Self {
            me: MemberId { id: host, incarnation: opened.incarnation },
            wards: Wards::new(Rules::ALL),
            outbox: Outbox::default(),
            post: Post::default(),
            crews: Crews::default(),
            anywhere: BTreeSet::new(),
            resting: opened.resting,
            next_scan: Time(0),
            seal: Seal::new(host, key, opened.start, draw(&random)?),
            peers: BTreeMap::new(),
            scribe: Scribe::start(opened.store)?,
            keep: Keep::new(&config.run_dir, clock::boot()?),
            dog: Watchdog::of(&config.watchdog)?,
            trial: Trial::default(),
            accept_no_fence: config.accept_no_fence,
            visitors: Visitors::open(&config.socket())?,
            founders: BTreeMap::new(),
            notes: VecDeque::new(),
            remembers: clock::stamp(),
            next_note: opened.start.saturating_mul(NOTES_PER_START),
            listen: config.listen,
            socket,
            timer: TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?,
            signals: SignalFd::with_flags(&asked, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?,
            next_greeting: Time(0),
            random,
        };
        guard.pin(opened.peers);
        for (ward, ballot) in opened.ballots {
            let crew = opened.crews.get(&ward).cloned().unwrap_or_default();
            guard.resume(ward, ballot, crew)?;
        }
        guard.resume_trial(opened.test);
        Ok(guard)
    }

    /// Takes part in a ward from before, going on with its lease if one is left. Without one its guests stand still from
    /// here on.
    fn resume(&mut self, ward: WardId, ballot: Ballot, crew: Crew) -> io::Result<()> {
        let (kept, now) = (self.keep.read(ward), clock::now());
        if kept.is_some_and(|kept| kept.may_execute && now.0 < kept.lease_until_ms) {
            self.crews.run(ward);
        }
        self.crews.guests(ward, &crew.guests);
        if crew.anywhere {
            self.anywhere.insert(ward);
        }
        self.add(ward, ballot, kept)
    }

    fn add(&mut self, ward: WardId, ballot: Ballot, kept: Option<Kept>) -> io::Result<()> {
        let seed = draw(&self.random)?;
        let replica = if self.anywhere.contains(&ward) { Replica::Stateless } else { Replica::None };
        // The clock began when this machine booted.
        let (me, booted, rules) = (self.me, Time(0), Rules::ALL);
        self.wards.add(clock::now(), ward, Start { me, ballot, kept, replica, booted, seed, rules });
        Ok(())
    }

    /// Runs until it is asked to stop.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        let mut asked = false;
        while !asked || self.trial.ends() {
            self.turn();
            self.wait()?;
            if self.signals.read_signal()?.is_some() {
                asked = true;
                self.end_trial("the guard was asked to stop");
            }
        }
        let busy = self.wards.iter().any(|(_, ward)| ward.pet_until().is_some());
        if busy {
            tracing::warn!("strict guests may be executing: the watchdog stays armed until a guard is back");
        } else {
            self.dog.rest();
        }
        Ok(())
    }

    /// Does all that is due.
    fn turn(&mut self) {
        self.written();
        self.datagrams();
        self.talk();
        let actions = self.wards.wake(clock::now());
        self.perform(actions);
        self.confirm();
        self.try_watchdog();
        self.scan();
        self.greet();
        self.send();
        self.visitors.flush();
    }

    fn wait(&self) -> io::Result<()> {
        let now = clock::now();
        let look = self.crews.is_stopping().then(|| now + LOOK);
        let scan = self.crews.has_guests().then_some(self.next_scan);
        let due =
            [self.wards.deadline(), look, scan, self.post.deadline(), self.trial.deadline(), Some(self.next_greeting)];
        let due = due.into_iter().flatten().min();
        let due = due.unwrap_or(self.next_greeting);
        let timeout = if due <= now { PollTimeout::ZERO } else { PollTimeout::NONE };
        let at = TimeSpec::milliseconds(i64::try_from(due.0).unwrap_or(i64::MAX / 1_000_000));
        self.timer.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
        let of = |(descriptor, writes): (_, bool)| {
            let out = if writes { PollFlags::POLLOUT } else { PollFlags::empty() };
            PollFd::new(descriptor, PollFlags::POLLIN | out)
        };
        let own = [self.timer.as_fd(), self.signals.as_fd(), self.socket.as_fd(), self.scribe.bell()];
        let mut all: Vec<PollFd<'_>> = own.into_iter().map(|fd| (fd, false)).map(of).collect();
        all.extend(self.visitors.descriptors().map(of));
        match poll(&mut all, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(why) => Err(why.into()),
        }
    }

    fn written(&mut self) {
        while let Some(done) = self.scribe.done() {
            match done {
                Done::Wish(visitor, well) => self.visitors.answer(visitor, &talk::written(well)),
                Done::Test(well) => self.trial_written(well),
                Done::Vote(ward, well) => {
                    self.founded(ward, well);
                    let steps = self.outbox.written(ward, well);
                    self.step(ward, steps);
                    if !well {
                        self.tell(ward, Event::StoreFailed);
                    }
                }
            }
        }
    }

    fn datagrams(&mut self) {
        let mut bytes = [0; LONGEST_DATAGRAM + 1];
        for _ in 0..MOST_AT_ONCE {
            let Ok((count, _)) = self.socket.recv_from(&mut bytes) else { return };
            match self.seal.open(clock::now(), bytes.get(..count).unwrap_or_default()) {
                Ok(came) => {
                    if let Some(nonce) = came.greet {
                        let greeting = self.seal.greeting(came.from, nonce);
                        self.post_bytes(came.from, &greeting);
                    }
                    self.packet(came.from, &came.body);
                }
                Err(why) => tracing::debug!(%why, "a datagram is dropped"),
            }
        }
    }

    fn packet(&mut self, from: HostId, body: &[u8]) {
        if body.is_empty() {
            return;
        }
        match codec::decode::<Packet>(body) {
            Ok(packet) if packet.to_incarnation == self.me.incarnation => {
                let from = MemberId { id: from, incarnation: packet.incarnation };
                for Letter { ward, message } in packet.letters.into_iter().take(MOST_WARDS_IN_PACKET) {
                    self.admit(ward, &message);
                    self.tell(ward, Event::Heard { from, message });
                }
            }
            Ok(_) => {}
            Err(why) => tracing::warn!(%from, %why, "a peer sent what can't be understood"),
        }
    }

    /// A council that this machine was added to, by one whose key is pinned.
    fn admit(&mut self, ward: WardId, message: &Message) {
        let Message::Renew { councils: Some(councils), .. } = message else { return };
        let room = self.wards.iter().count() < MOST_WARDS;
        if room && self.wards.get(ward).is_none() && councils.members().contains(&self.me) {
            let ballot = match self.resting.get(&ward) {
                // What it votes from here on is written behind this.
                Some(_) if !self.scribe.rest(None, ward, false) => return,
                Some(ballot) => ballot.clone(),
                None => Ballot::blank(),
            };
            self.resting.remove(&ward);
            let added = self.add(ward, ballot, None);
            if let Err(why) = added {
                tracing::error!(%ward, %why, "a new ward can't be taken part in");
            }
        }
    }

    /// Tells a ward, and does what it asks.
    fn tell(&mut self, ward: WardId, event: Event) {
        let actions = self.wards.on(clock::now(), ward, event);
        self.perform(actions);
    }

    fn perform(&mut self, actions: Vec<WardsAction>) {
        for action in actions {
            match action {
                WardsAction::Do { ward, action } => match self.outbox.put(ward, action) {
                    Ok(steps) => self.step(ward, steps),
                    Err(crate::outbox::Full) => self.store_failed(ward),
                },
                WardsAction::Pet { .. } if self.trial.holds() => {}
                WardsAction::Pet { until, time_out } => {
                    if let Err(why) = self.dog.pet(until, time_out) {
                        tracing::error!(why = %crate::chain(&why), "the watchdog");
                    }
                }
            }
        }
    }

    fn step(&mut self, ward: WardId, steps: Vec<Step>) {
        for step in steps {
            let done = match step {
                Step::Write(ballot) => self.scribe.vote(ward, ballot),
                Step::Do(action) => self.carry_out(ward, action),
            };
            if !done {
                self.store_failed(ward);
                return;
            }
        }
    }

    fn store_failed(&mut self, ward: WardId) {
        self.outbox.void(ward);
        self.tell(ward, Event::StoreFailed);
    }

    /// False if what comes behind it must not be done.
    fn carry_out(&mut self, ward: WardId, action: Action) -> bool {
        match action {
            // The outbox hands ballots to the scribe.
            Action::Persist(_) => {}
            Action::Keep(kept) => {
                let kept = self.keep.write(ward, kept);
                if let Err(why) = &kept {
                    tracing::error!(%ward, %why, "a lease can't be kept");
                }
                return kept.is_ok();
            }
            Action::Send { to, message } => self.post.put(clock::now(), to, Letter { ward, message }),
            Action::Run { order, .. } => {
                let until = self.wards.get(ward).and_then(|known| known.may_run(order));
                if until.is_some_and(|until| clock::now() < until) {
                    self.crews.run(ward);
                }
            }
            Action::Pause { order } => self.crews.pause(ward, order),
            Action::Kill { order } => self.crews.kill(ward, order),
            // What a ward without guests may do harms nobody, and is no news.
            Action::Tell(Report::LeaseEnded { .. } | Report::Paused { .. }) if self.crews.of(ward).next().is_none() => {
            }
            Action::Tell(report) => self.note(ward, &report),
        }
        true
    }

    /// Tells wards whose guests are stopped so.
    fn confirm(&mut self) {
        loop {
            let stopped = self.crews.stopped();
            if stopped.is_empty() {
                return;
            }
            for (ward, order) in stopped {
                self.tell(ward, Event::Stopped { order });
            }
        }
    }

    /// A guest that comes up without a lease stands still within [`SCAN`].
    fn scan(&mut self) {
        let now = clock::now();
        if now >= self.next_scan {
            self.next_scan = now + SCAN;
            self.crews.scan();
        }
    }

    fn note(&mut self, ward: WardId, report: &Report) {
        let (number, at, kind) = (self.next_note, clock::stamp(), report.kind());
        let hosts = report.members().into_iter().map(|member| member.id).take(NOTE_HOSTS).collect();
        let (text, epoch, span) = (report.to_string(), report.epoch(), report.span());
        let note = Note { number, at, ward, kind, text, epoch, hosts, span };
        tracing::info!(%ward, "{}", note.text);
        self.next_note += 1;
        self.visitors.note(&note);
        if self.notes.len() >= MOST_NOTES {
            self.notes.pop_front();
            self.remembers = self.notes.front().map_or(at, |note| note.at);
        }
        self.notes.push_back(note);
    }

    fn pin(&mut self, peers: Vec<Peer>) {
        self.seal.pin(&peers);
        self.peers = peers.into_iter().map(|peer| (peer.id, peer)).collect();
        self.next_greeting = Time(0);
    }

    fn greet(&mut self) {
        let now = clock::now();
        if now < self.next_greeting {
            return;
        }
        self.next_greeting = now + GREET;
        let silent = |peer: &HostId| self.seal.heard(*peer).is_none_or(|heard| now.since(heard) > GREET);
        let silent: Vec<HostId> = self.peers.keys().copied().filter(silent).collect();
        for peer in silent {
            self.post_to(peer, b"");
        }
    }

    fn send(&mut self) {
        self.post.repeat(clock::now());
        for (to, body) in self.post.empty(self.me.incarnation) {
            self.post_to(to, &body);
        }
    }

    /// Over all networks; the first that comes counts. What can't be sent is lost, as on a network.
    fn post_to(&mut self, to: HostId, body: &[u8]) {
        if let Some(datagram) = self.seal.close(to, body) {
            self.post_bytes(to, &datagram);
        }
    }

    fn post_bytes(&self, to: HostId, datagram: &[u8]) {
        let addresses = self.peers.get(&to).into_iter().flat_map(sockets);
        for address in addresses {
            let _ = self.socket.send_to(datagram, address);
        }
    }
}

/// Where a peer listens; what is no address is left out.
fn sockets(peer: &Peer) -> impl Iterator<Item = SocketAddr> {
    peer.addresses.iter().take(MOST_ADDRESSES).filter_map(|address| address.parse().ok())
}

/// A number that nobody can guess, and not zero.
fn draw(random: &SystemRandom) -> io::Result<u64> {
    let mut bytes = [0; 8];
    random.fill(&mut bytes).map_err(|_| io::Error::other("no random numbers"))?;
    Ok(u64::from_be_bytes(bytes) | 1)
}
