//! The world: what happens next, and doing to the letter what the state machines ask.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use roost_protocol::{Millis, Time};
use roost_ward::{
    Action, Ballot, Council, Event, MemberId, Message, Order, Policy, Profile, Replica, Report, Rules, Start, Version,
    Wards, WardsAction,
};

use super::fault::{Fault, Step};
use super::guest::Command;
use super::machine::{Guest, Ills, Machine, WARD};
use super::network::Network;
use super::random::Random;
use super::truth::Truth;

/// A grid of one ward.
#[derive(Clone, Debug)]
pub struct Grid {
    /// Machines that may own the ward; they come first.
    pub hosts: usize,
    /// All that vote: hosts, then the aggregator, then witnesses.
    pub voters: usize,
    pub policy: Policy,
    pub profile: Profile,
    pub rules: Rules,
    /// All clocks right, no chance in delays: for stories.
    pub exact: bool,
}

impl Grid {
    pub(crate) fn council(&self) -> Council {
        let member = |number: usize| Machine::new(number, true, Ballot::blank()).member;
        let members: Vec<MemberId> = (0..self.voters).map(member).collect();
        let homes = members[..self.hosts].to_vec();
        Council { version: Version::default(), members, homes, policy: self.policy, profile: self.profile }
    }
}

/// What happens at a moment.
#[derive(Debug)]
pub(crate) enum Happening {
    Deliver {
        from: MemberId,
        to: usize,
        life: u32,
        message: Message,
    },
    Wake {
        machine: usize,
        number: u64,
    },
    Watchdog {
        machine: usize,
    },
    /// A command reaches the guest.
    Command {
        machine: usize,
        order: Order,
        what: Command,
    },
    /// The guard hears that it was carried out.
    Confirmed {
        machine: usize,
        life: u32,
        order: Order,
    },
    StartGuard {
        machine: usize,
        life: u32,
    },
    Boot {
        machine: usize,
        boots: u32,
    },
    Fault(Fault),
    Step(Step),
    /// The hardware bites.
    Reset {
        machine: usize,
        boots: u32,
    },
}

/// A moment and what happens then, in order of time, then of its making.
#[derive(Debug)]
struct Entry(u64, u64, Happening);

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// What was counted in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub events: u64,
    pub faults: u64,
    pub resets: u64,
    /// Guests that stopped since the lease ended.
    pub pauses: u64,
    pub kills: u64,
    pub raises: u64,
}

/// See the module.
#[derive(Debug)]
pub struct World {
    pub(crate) grid: Grid,
    pub(crate) now: u64,
    queue: BinaryHeap<Reverse<Entry>>,
    sequence: u64,
    at_once: u32,
    pub(crate) machines: Vec<Machine>,
    pub(crate) network: Network,
    pub(crate) random: Random,
    pub truth: Truth,
    pub counts: Counts,
    /// For stories.
    pub(crate) transcript: Option<Vec<(u64, String)>>,
}

/// Spans of the world around the guard, ms: least and most.
const SYNC: (u64, u64) = (1, 20);
const GUARD_RESTART: u64 = 200;
const REBOOT: (u64, u64) = (60_000, 240_000);
/// More things at one moment mean that a machine asks to be woken again and again.
const MOST_AT_ONCE: u32 = 10_000;
/// Clocks differ by ±0.5 %.
const PPM: u64 = 5_000;

impl World {
    /// All machines are on; the first host will own the ward.
    pub fn new(seed: u64, grid: Grid) -> Self {
        let council = grid.council();
        let machines = (0..grid.voters).map(|number| {
            let home = number < grid.hosts;
            Machine::new(number, home, Ballot::first(council.clone()))
        });
        let mut network = Network::new(grid.voters);
        network.plain = grid.exact;
        let mut world = Self {
            machines: machines.collect(),
            network,
            now: 0,
            queue: BinaryHeap::new(),
            sequence: 0,
            at_once: 0,
            random: Random::new(seed),
            truth: Truth::default(),
            counts: Counts::default(),
            transcript: grid.exact.then(Vec::new),
            grid,
        };
        for machine in 0..world.machines.len() {
            let ppm = world.random.range(0, 2 * PPM);
            world.machines[machine].ppm = i64::try_from(ppm).unwrap_or(0) - i64::try_from(PPM).unwrap_or(0);
            if world.grid.exact {
                world.machines[machine].ppm = 0;
            }
            world.boot(machine);
        }
        world
    }

    pub(crate) fn after(&mut self, delay: u64, happening: Happening) {
        self.sequence += 1;
        self.queue.push(Reverse(Entry(self.now + delay, self.sequence, happening)));
    }

    pub(crate) fn span(&mut self, (least, most): (u64, u64)) -> u64 {
        if self.grid.exact { least.midpoint(most) } else { self.random.range(least, most) }
    }

    /// Lets the world go on until then.
    pub fn run_until(&mut self, end: u64) {
        while self.queue.peek().is_some_and(|Reverse(Entry(at, ..))| *at <= end) {
            let Some(Reverse(Entry(at, _, happening))) = self.queue.pop() else { break };
            self.at_once = if at == self.now { self.at_once + 1 } else { 0 };
            assert!(self.at_once < MOST_AT_ONCE, "the world stands still at {at} ms: {happening:?}");
            self.now = at;
            self.counts.events += 1;
            self.happen(happening);
        }
        self.now = end;
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Deliver { from, to, life, message } => self.deliver(from, to, life, message),
            Happening::Wake { machine, number } => self.wake(machine, number),
            Happening::Watchdog { machine } => self.watchdog(machine),
            Happening::Command { machine, order, what } => self.command(machine, order, what),
            Happening::Confirmed { machine, life, order } => {
                if self.machines[machine].life == life {
                    self.tell(machine, Event::Stopped { order });
                }
            }
            Happening::StartGuard { machine, life } => {
                if self.machines[machine].up && self.machines[machine].life == life {
                    self.start_guard(machine);
                }
            }
            Happening::Boot { machine, boots } => {
                if !self.machines[machine].up && self.machines[machine].boots == boots {
                    self.note(machine, "boots");
                    self.boot(machine);
                }
            }
            Happening::Fault(fault) => self.fault(fault),
            Happening::Step(step) => self.step(step),
            Happening::Reset { machine, boots } => {
                if self.machines[machine].boots == boots {
                    self.reset(machine);
                }
            }
        }
    }

    fn deliver(&mut self, from: MemberId, to: usize, life: u32, message: Message) {
        if self.machines[to].life != life {
            return;
        }
        if self.machines[to].ills.frozen {
            // It waits in the socket.
            return self.after(500, Happening::Deliver { from, to, life, message });
        }
        self.tell(to, Event::Heard { from, message });
    }

    /// Tells the guard, if it listens; if not, nobody hears.
    pub(crate) fn tell(&mut self, machine: usize, event: Event) {
        let clock = self.machines[machine].clock(self.now);
        if !self.machines[machine].hears() {
            if self.machines[machine].ills.frozen && matches!(event, Event::Stopped { .. }) {
                let (life, Event::Stopped { order }) = (self.machines[machine].life, event) else { return };
                self.after(500, Happening::Confirmed { machine, life, order });
            }
            return;
        }
        let Some(wards) = &mut self.machines[machine].wards else { return };
        let actions = wards.on(clock, WARD, event);
        self.carry_out(machine, actions);
    }

    fn wake(&mut self, machine: usize, number: u64) {
        if self.machines[machine].wake_number != number {
            return;
        }
        self.machines[machine].wake_at = u64::MAX;
        let clock = self.machines[machine].clock(self.now);
        if self.machines[machine].ills.frozen {
            return;
        }
        let Some(wards) = &mut self.machines[machine].wards else { return };
        let actions = wards.wake(clock);
        self.carry_out(machine, actions);
    }

    pub(crate) fn carry_out(&mut self, machine: usize, actions: Vec<WardsAction>) {
        // What follows a write leaves when it is synced.
        let mut synced = 0;
        for action in actions {
            match action {
                WardsAction::Pet { until, time_out } => self.pet(machine, until, time_out),
                WardsAction::Do { ward: _, action } => match action {
                    Action::Persist(ballot) => {
                        self.machines[machine].disk = *ballot;
                        synced += self.span(SYNC);
                    }
                    Action::Keep(kept) => self.machines[machine].kept = kept,
                    Action::Send { to, message } => self.send(machine, to, synced, message),
                    Action::Run { order, .. } => self.order(machine, order, Command::Run),
                    Action::Pause { order } => self.order(machine, order, Command::Pause),
                    Action::Kill { order } => self.order(machine, order, Command::Kill),
                    Action::Tell(report) => self.report(machine, &report),
                },
            }
        }
        self.set_alarm(machine);
    }

    fn set_alarm(&mut self, machine: usize) {
        let deadline = self.machines[machine].wards.as_ref().and_then(Wards::deadline);
        let Some(deadline) = deadline else { return };
        let at = self.machines[machine].moment(deadline).max(self.now);
        if at < self.machines[machine].wake_at {
            let this = &mut self.machines[machine];
            this.wake_at = at;
            this.wake_number += 1;
            let number = this.wake_number;
            self.after(at - self.now, Happening::Wake { machine, number });
        }
    }

    fn send(&mut self, from: usize, to: MemberId, synced: u64, message: Message) {
        let Some(target) = self.machines.iter().position(|machine| machine.member == to) else { return };
        let ways = self.network.ways(&mut self.random, from, target);
        let (sender, life) = (self.machines[from].member, self.machines[target].life);
        if let Some(delay) = ways[1] {
            let happening = Happening::Deliver { from: sender, to: target, life, message: message.clone() };
            self.after(synced + delay, happening);
        }
        if let Some(delay) = ways[0] {
            self.after(synced + delay, Happening::Deliver { from: sender, to: target, life, message });
        }
    }

    fn pet(&mut self, machine: usize, until: Time, time_out: Millis) {
        let clock = self.machines[machine].clock(self.now);
        if clock >= until {
            return;
        }
        let reset_at = self.machines[machine].moment(clock + time_out);
        let this = &mut self.machines[machine];
        this.reset_at = Some(reset_at);
        if reset_at < this.watch_at {
            this.watch_at = reset_at;
            self.after(reset_at - self.now, Happening::Watchdog { machine });
        }
    }

    fn watchdog(&mut self, machine: usize) {
        self.machines[machine].watch_at = u64::MAX;
        let Some(reset_at) = self.machines[machine].reset_at.filter(|_| self.machines[machine].up) else { return };
        if reset_at > self.now {
            self.machines[machine].watch_at = reset_at;
            return self.after(reset_at - self.now, Happening::Watchdog { machine });
        }
        let latency = self.grid.profile.timers().fence.map_or(0, |fence| fence.reset.0);
        let bites = self.span((0, latency));
        let boots = self.machines[machine].boots;
        self.after(bites, Happening::Reset { machine, boots });
    }

    pub(crate) fn crash(&mut self, machine: usize) {
        self.truth.ends(machine, self.now);
        let this = &mut self.machines[machine];
        this.up = false;
        this.wards = None;
        this.kept = None;
        this.life += 1;
        this.boots += 1;
        this.ills = Ills::default();
        this.guest = Guest::default();
        this.reset_at = None;
        this.wake_at = u64::MAX;
    }

    pub(crate) fn boot_later(&mut self, machine: usize, delay: u64) {
        let boots = self.machines[machine].boots;
        self.after(delay, Happening::Boot { machine, boots });
    }

    pub(crate) fn reset(&mut self, machine: usize) {
        self.counts.resets += 1;
        self.note(machine, "is reset by its watchdog");
        self.crash(machine);
        let delay = self.span(REBOOT);
        self.boot_later(machine, delay);
    }

    pub(crate) fn boot(&mut self, machine: usize) {
        let offset = self.random.range(0, 1_000_000_000);
        let now = self.now;
        let this = &mut self.machines[machine];
        this.up = true;
        this.offset = offset;
        this.booted = this.clock(now);
        self.start_guard(machine);
    }

    pub(crate) fn stop_guard(&mut self, machine: usize) {
        let this = &mut self.machines[machine];
        this.wards = None;
        this.life += 1;
        this.wake_at = u64::MAX;
        let life = this.life;
        self.after(GUARD_RESTART, Happening::StartGuard { machine, life });
    }

    pub(crate) fn start_guard(&mut self, machine: usize) {
        let seed = self.random.next();
        let now = self.machines[machine].clock(self.now);
        let rules = self.grid.rules;
        let this = &mut self.machines[machine];
        let replica = if this.home { Replica::Stateless } else { Replica::None };
        let (me, ballot, kept, booted) = (this.member, this.disk.clone(), this.kept, this.booted);
        let mut wards = Wards::new(rules);
        wards.add(now, WARD, Start { me, ballot, kept, replica, booted, seed, rules });
        let actions = wards.wake(now);
        this.wards = Some(wards);
        self.carry_out(machine, actions);
    }

    fn report(&mut self, machine: usize, report: &Report) {
        if matches!(report, Report::Raised { .. }) {
            self.counts.raises += 1;
        }
        if self.transcript.is_some()
            && let Some(text) = super::sentence::sentence(self, report)
        {
            self.note(machine, &text);
        }
    }

    pub(crate) fn note(&mut self, machine: usize, text: &str) {
        let name = self.name(machine);
        if let Some(transcript) = &mut self.transcript {
            transcript.push((self.now, format!("{name} {text}")));
        }
    }

    /// Hosts are numbered from 1; then come the aggregator and witnesses.
    pub(crate) fn name(&self, machine: usize) -> String {
        match machine.checked_sub(self.grid.hosts) {
            None => format!("host {}", machine + 1),
            Some(0) => "aggregator".into(),
            Some(other) => format!("witness {other}"),
        }
    }

    pub(crate) fn name_of(&self, member: MemberId) -> String {
        let known = self.machines.iter().position(|machine| machine.member.id == member.id);
        let name = known.map_or_else(|| member.to_string(), |machine| self.name(machine));
        if member.incarnation == 0 { name } else { format!("{name} (store {})", member.incarnation + 1) }
    }

    /// Who executes the guest, or would if it could.
    pub(crate) fn owner(&self) -> usize {
        self.truth.running().first().copied().unwrap_or(0)
    }

    pub(crate) fn aggregator(&self) -> usize {
        self.grid.hosts.min(self.machines.len() - 1)
    }
}
