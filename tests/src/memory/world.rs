//! The run: guests start by admission control, the agent looks every two seconds, restarts now and then, and its deeds are
//! carried out.

use std::collections::{BTreeMap, VecDeque};

use roost_agent_core::memory::deadman::DeadMan;
use roost_agent_core::memory::{Deed, Plan, Sample, State, admit, deadman, floor, plan};
use roost_protocol::memory::{MemoryPolicy, Rung};
use roost_protocol::{GuestId, MiB, Stamp, Time};

use super::guest::{Driver, Guest, KERNEL, QEMU};
use super::host::Host;
use super::promise::{Broken, DIRECTION_CHANGES, HOARDED, QUIET, RELIEF};
use super::trace::{Kind, RUN, Trace, towards};
use crate::simulation::random::Random;

/// Lines of the transcript that are kept.
const LINES: usize = 400;

/// A rule broken on purpose, to see that it is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Nothing is ever taken.
    NeverSqueezes,
    /// What is to be given back is not.
    NeverGivesBack,
    /// Guests are squeezed below their floors.
    NoFloor,
    /// Every look is the first.
    Forgets,
    /// All starts are admitted.
    AdmitsAll,
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    pub transcript: Vec<String>,
    pub guests: usize,
    /// Guests admitted over what was provided for came to need more than there is; the run ended there.
    pub impossible: bool,
    pub refused: u32,
    pub squeezes: u32,
    pub rescues: u32,
    pub longest_below_reserve: u64,
    pub most_changes: u32,
    pub least_available: u64,
    pub most_overcommit_permille: u64,
    pub ksm_saved: u64,
}

struct World {
    seed: u64,
    random: Random,
    host: Host,
    waiting: VecDeque<(u64, Guest)>,
    guests: Vec<Guest>,
    policy: MemoryPolicy,
    state: State,
    /// The agent is dead until then.
    dead_until: u64,
    dead_man: DeadMan,
    below: u64,
    lines: VecDeque<String>,
    summary: Summary,
    mutant: Option<Mutant>,
}

/// One hour from this seed.
///
/// # Errors
/// The first promise that broke.
pub fn run(seed: u64, mutant: Option<Mutant>) -> Result<Summary, Broken> {
    let mut world = World::new(seed, mutant);
    for second in 0..RUN {
        let step = world.step(second);
        if step.is_ok() && world.impossible() {
            // Nobody could keep this host up: what counts is that people were told.
            world.summary.impossible = true;
            break;
        }
        step.map_err(|promise| Broken {
            seed,
            second,
            promise,
            transcript: world.lines.iter().cloned().collect::<Vec<_>>().join("\n"),
        })?;
    }
    world.summary.guests = world.guests.len();
    world.summary.most_changes = world.guests.iter().map(|guest| guest.direction.changes).max().unwrap_or(0);
    world.summary.transcript = world.lines.into();
    Ok(world.summary)
}

impl World {
    fn new(seed: u64, mutant: Option<Mutant>) -> Self {
        // Neighbouring seeds give the same numbers one later; those of their first numbers don't.
        let mut random = Random::new(Random::new(seed).next());
        let mut host = Host::new(&mut random);
        let count = 4 + random.below(24);
        let storm = random.chance(400);
        let kind = match random.below(5) {
            0 => Some(Kind::LogOnStorm),
            1 => Some(Kind::Scan),
            _ => None,
        };
        let mut waiting: VecDeque<_> = (0..count)
            .map(|number| {
                let at = if storm { number / 4 } else { number * 15 };
                (at, any_guest(&mut random, kind, at))
            })
            .collect();
        let peak = peak_need(&waiting);
        let slack = 1_050 + random.below(400);
        host.total = (peak * slack / 1_000 + host.base) * 10 / 8;
        // More than was provided for: admission decides.
        let late = 300 + random.below(900);
        let (more, gap) = if random.chance(200) { (count * 2, 5) } else { (count / 2, 20) };
        waiting.extend((0..more).map(|number| (late + number * gap, late_guest(&mut random, late))));
        let mut policy = MemoryPolicy { overcommit_permille: 3_000, ..MemoryPolicy::default() };
        policy.balloons = mutant != Some(Mutant::NeverSqueezes);
        let summary = Summary { least_available: u64::MAX, ..Summary::default() };
        let (state, lines) = (State::default(), VecDeque::new());
        let (guests, waiting) = (Vec::new(), waiting);
        Self {
            seed,
            random,
            host,
            waiting,
            guests,
            policy,
            state,
            dead_until: 0,
            dead_man: DeadMan::default(),
            below: 0,
            lines,
            summary,
            mutant,
        }
    }

    fn step(&mut self, second: u64) -> Result<(), String> {
        let mut killed = None;
        for (number, guest) in self.guests.iter_mut().enumerate() {
            let before = guest.size;
            if guest.step() {
                killed = Some(number);
            }
            self.summary.rescues += u32::from(guest.size > before && guest.size > guest.asked);
        }
        if let Some(number) = killed {
            return Err(format!("guest {number} ran out of memory that its balloon holds: {:?}", self.guests[number]));
        }
        let quiet = second + QUIET >= RUN;
        let mut most_hog = if quiet { 0 } else { self.most_hog() };
        if second < self.dead_until {
            // With nobody there who could squeeze, more would be asking for the impossible.
            most_hog = most_hog.min(self.host.hog);
        }
        self.host.step(second, &self.guests, most_hog);
        self.note_restart(second);
        if second < self.dead_until {
            self.act_for_the_dead(second);
        } else {
            self.start_guests(second)?;
            if second.is_multiple_of(2) {
                self.look(second)?;
            }
        }
        self.check(second)
    }

    /// More is needed than there is with a tenth to spare, and the agent has said so.
    fn impossible(&self) -> bool {
        let need: u64 = self.guests.iter().map(|guest| hard_need(guest, guest.need)).sum();
        need + self.host.base + self.host.hog > self.host.total * 9 / 10 && self.state.rung() >= Rung::Refuse
    }

    /// What programs need and what can't be taken from guests leaves this to others, with a tenth to spare.
    fn most_hog(&self) -> u64 {
        let need: u64 = self.guests.iter().map(|guest| hard_need(guest, guest.need)).sum();
        (self.host.total * 9 / 10).saturating_sub(self.host.base + need)
    }

    fn note_restart(&mut self, second: u64) {
        if second > self.dead_until && self.random.below(1_500) == 0 {
            self.dead_until = second + 3 + self.random.below(12);
            self.state = State::default();
            self.line(second, "the agent dies");
        }
    }

    fn start_guests(&mut self, second: u64) -> Result<(), String> {
        while self.waiting.front().is_some_and(|(at, _)| *at <= second) {
            let Some((_, guest)) = self.waiting.pop_front() else { break };
            let sample = self.sample(0);
            let answer = admit(&sample, &self.policy, &self.state, &[], MiB(guest.full));
            match answer {
                Err(refusal) if self.mutant != Some(Mutant::AdmitsAll) => {
                    self.summary.refused += 1;
                    self.line(second, &refusal.to_string());
                    self.waiting.push_back((second + 60, guest));
                    self.waiting.make_contiguous().sort_by_key(|(at, _)| *at);
                }
                Ok(()) | Err(_) => {
                    self.line(second, &format!("guest {} starts: {:?}", self.guests.len(), guest.trace.kind));
                    self.guests.push(guest);
                    let floors: u64 = self.guests.iter().map(Guest::apparent_floor).sum();
                    if floors + self.host.base > self.host.total {
                        return Err(format!("a guest is started and not all can have their floors: {floors} MiB"));
                    }
                }
            }
        }
        Ok(())
    }

    fn sample(&self, late: u64) -> Sample {
        let (host, ksm) = self.host.seen(&self.guests);
        let each = self.host.saved() / u64::try_from(self.guests.len().max(1)).unwrap_or(1);
        let guests = self.guests.iter().enumerate().map(|(number, guest)| (id(number), guest.seen(late, each)));
        Sample { at: Stamp(0), host, ksm: Some(ksm), guests: guests.collect() }
    }

    fn look(&mut self, second: u64) -> Result<(), String> {
        let sample = self.sample(self.random.clone().below(2));
        if self.mutant == Some(Mutant::Forgets) {
            self.state = State::default();
        }
        let mut policy = self.policy.clone();
        if self.mutant == Some(Mutant::NoFloor) {
            policy.floor_permille = 50;
        }
        let plan = plan(Time(second * 1_000), &sample, &policy, &mut self.state);
        self.carry_out(second, &sample, &plan)
    }

    fn carry_out(&mut self, second: u64, sample: &Sample, plan: &Plan) -> Result<(), String> {
        for act in &plan.told {
            self.line(second, &format!("{:?} {}: {}", act.guest.map(number), act.what, act.why.join("; ")));
        }
        for deed in &plan.deeds {
            match deed {
                Deed::Share(knobs) => self.host.set(knobs),
                Deed::Period { guest, seconds } => self.guests[number(*guest)].set_period(*seconds),
                Deed::Resize { guest, from, to } => {
                    let lowest = floor(&sample.guests[guest], &self.policy);
                    if *to < lowest && to < from {
                        return Err(format!("guest {} is squeezed to {to}, below {lowest}", number(*guest)));
                    }
                    self.summary.squeezes += u32::from(to < from);
                    if self.mutant == Some(Mutant::NeverGivesBack) && to > from {
                        continue;
                    }
                    self.guests[number(*guest)].ask(to.0);
                }
            }
        }
        if self.host.knobs().advisor == Some(true) && plan.deeds.iter().any(sets_pages_under_advisor) {
            return Err("pages_to_scan is written while the advisor owns it".into());
        }
        Ok(())
    }

    /// The process that outlives the agent, after the silence it waits for.
    fn act_for_the_dead(&mut self, second: u64) {
        if !second.is_multiple_of(deadman::STEP_EVERY.0 / 1_000) {
            return;
        }
        let (host, _) = self.host.seen(&self.guests);
        let owed: BTreeMap<GuestId, deadman::Owed> = self
            .guests
            .iter()
            .enumerate()
            .filter(|(_, guest)| guest.ours && guest.asked < guest.full)
            .map(|(number, guest)| (id(number), deadman::Owed { current: MiB(guest.size), full: MiB(guest.full) }))
            .collect();
        for (guest, to) in self.dead_man.give_back(Time(second * 1_000), &host, &self.policy, &owed) {
            self.guests[number(guest)].ask(to.0);
        }
    }

    fn check(&mut self, second: u64) -> Result<(), String> {
        let available = self.host.available(&self.guests);
        self.summary.least_available = self.summary.least_available.min(available * 1_000 / self.host.total);
        self.summary.ksm_saved = self.summary.ksm_saved.max(self.host.saved());
        let committed: u64 = self.guests.iter().map(|guest| guest.full).sum();
        let overcommit = committed * 1_000 / self.host.total;
        self.summary.most_overcommit_permille = self.summary.most_overcommit_permille.max(overcommit);
        if available == 0 {
            return Err("the host is out of memory".into());
        }
        self.below = if available * 20 < self.host.total { self.below + 1 } else { 0 };
        self.summary.longest_below_reserve = self.summary.longest_below_reserve.max(self.below);
        if self.below > RELIEF {
            return Err(format!("the reserve is touched for {} s, {available} MiB are available", self.below));
        }
        for (number, guest) in self.guests.iter().enumerate() {
            if guest.direction.changes > DIRECTION_CHANGES {
                return Err(format!("guest {number} was squeezed and freed {} times", guest.direction.changes));
            }
            let back = guest.size + guest.full / 100 + 4 >= guest.full;
            let mute = matches!(guest.driver, Driver::None);
            if second + 1 == RUN && !back && !mute && available * 1_000 > self.host.total * HOARDED {
                return Err(format!("guest {number} did not get its memory back: {guest:?}"));
            }
        }
        Ok(())
    }

    fn line(&mut self, second: u64, text: &str) {
        if self.lines.len() == LINES {
            self.lines.pop_front();
        }
        let available = self.host.available(&self.guests);
        self.lines.push_back(format!("{second:>4} s {available:>6} of {} MiB  {text}", self.host.total));
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("seed", &self.seed).field("guests", &self.guests.len()).finish_non_exhaustive()
    }
}

fn any_guest(random: &mut Random, kind: Option<Kind>, start: u64) -> Guest {
    let full = 1_024 * (1 + random.below(4));
    let kind = kind.filter(|_| random.chance(700)).unwrap_or_else(|| match random.below(10) {
        0..=2 => Kind::Idle,
        3..=6 => Kind::Office,
        7 => Kind::LogOnStorm,
        8 => {
            if random.chance(500) {
                Kind::Scan
            } else {
                Kind::Leak
            }
        }
        _ => Kind::Allocator,
    });
    let trace = Trace::new(random, kind, full - KERNEL, start);
    Guest::new(random, full, trace)
}

/// One that nobody provided for: a desktop.
fn late_guest(random: &mut Random, start: u64) -> Guest {
    let full = 1_024 * (1 + random.below(4));
    let kind = if random.chance(500) { Kind::Idle } else { Kind::Office };
    let trace = Trace::new(random, kind, full - KERNEL, start);
    Guest::new(random, full, trace).willing()
}

/// What this guest takes from the host whatever is done: its floor, what its programs need and a tenth for them to go on
/// with; all of it where nothing can be done.
fn hard_need(guest: &Guest, need: u64) -> u64 {
    let least = guest.full * 4 / 10;
    let held = if guest.can_be_squeezed() { least.max(KERNEL + need + guest.full / 10) } else { guest.full };
    held.min(guest.full) + QEMU
}

/// Most that all guests need at one time, each started when it wants.
fn peak_need(guests: &VecDeque<(u64, Guest)>) -> u64 {
    let mut needs: Vec<u64> = vec![0; guests.len()];
    let mut peak = 0;
    for second in 0..RUN {
        let mut sum = 0;
        for ((start, guest), need) in guests.iter().zip(&mut needs) {
            let Some(age) = second.checked_sub(*start) else { continue };
            let (to, _, rate) = guest.trace.wants(age);
            *need = towards(*need, to, rate);
            sum += hard_need(guest, *need);
        }
        peak = peak.max(sum);
    }
    peak
}

fn sets_pages_under_advisor(deed: &Deed) -> bool {
    match deed {
        Deed::Share(knobs) => knobs.pages_to_scan.is_some() && knobs.advisor != Some(false),
        Deed::Resize { .. } | Deed::Period { .. } => false,
    }
}

fn id(number: usize) -> GuestId {
    GuestId::from_u128(u128::try_from(number).unwrap_or(0))
}

fn number(guest: GuestId) -> usize {
    usize::try_from(u128::from_be_bytes(guest.bytes())).unwrap_or(usize::MAX)
}
