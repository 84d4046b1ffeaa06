//! Random runs: storms of faults, and how long one fault takes to get over.

use std::fmt;

use roost_ward::{Policy, Profile, Rules};

use super::fault::{Fault, KINDS, Step};
use super::world::{Counts, Grid, Happening, World};

/// An hour, ms.
const HOUR: u64 = 3_600_000;
/// The last faults end so long before the end of a run.
const CALM: u64 = 700_000;
const FIRST_FAULT: u64 = 30_000;
const BETWEEN: (u64, u64) = (1_000, 60_000);
/// While the guest runs nowhere, one in so many faults happens: else it seldom ran at all.
const IDLE_ONE_IN: usize = 4;
/// The whole site fails in one of so many times that it is drawn.
const SITE_ONE_IN: usize = 4;

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Storm {
    pub profile: Profile,
    pub rules: Rules,
    /// Kinds of faults that don't fit the run.
    pub without: &'static [Fault],
    /// Keeps what happened, to be read.
    pub told: bool,
}

/// What many runs gave.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub runs: u64,
    pub simulated_ms: u64,
    pub takeovers: u64,
    pub doubles: usize,
    pub first_double: Option<u64>,
    /// Runs that did not end with exactly one host running the guest, and the first of them.
    pub not_one: u64,
    pub first_not_one: Option<u64>,
    pub counts: Counts,
    pub outages: Vec<u64>,
    pub transcript: String,
}

impl Figures {
    /// Hours of the world.
    pub fn hours(&self) -> u64 {
        self.simulated_ms / HOUR
    }

    /// The outage that so many permille don't exceed, ms.
    pub fn outage(&self, permille: usize) -> u64 {
        let mut sorted = self.outages.clone();
        sorted.sort_unstable();
        sorted.get((sorted.len().saturating_sub(1)) * permille / 1_000).copied().unwrap_or(0)
    }

    fn add(&mut self, seed: u64, world: &World) {
        self.runs += 1;
        self.simulated_ms += world.now;
        self.takeovers += world.truth.moves;
        self.doubles += world.truth.doubles.len();
        if !world.truth.doubles.is_empty() {
            self.first_double.get_or_insert(seed);
        }
        if world.truth.running().len() != 1 {
            self.not_one += 1;
            self.first_not_one.get_or_insert(seed);
        }
        self.outages.extend(&world.truth.outages);
        let Counts { events, faults, resets, pauses, kills, raises } = world.counts;
        self.counts.events += events;
        self.counts.faults += faults;
        self.counts.resets += resets;
        self.counts.pauses += pauses;
        self.counts.kills += kills;
        self.counts.raises += raises;
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { events, faults, resets, pauses, kills, raises } = self.counts;
        let Self { runs, takeovers, doubles, first_double, not_one, first_not_one, .. } = self;
        let seconds = |permille| format!("{}.{:02}", self.outage(permille) / 1_000, self.outage(permille) % 1_000 / 10);
        write!(
            f,
            "{runs} runs, {} simulated hours, {faults} faults, {takeovers} takeovers, {resets} watchdog resets, \
             {pauses} pauses, {kills} kills, {raises} raises, {events} events; outages p50 {} s, p99 {} s; \
             {doubles} double runs (first seed {first_double:?}), {not_one} runs not ending with one runner (first seed \
             {first_not_one:?})",
            self.hours(),
            seconds(500),
            seconds(990)
        )
    }
}

/// Two hosts and an aggregator, three hosts, or three hosts with an aggregator and a witness.
fn grid(seed: u64, storm: &Storm) -> Grid {
    let (hosts, voters) = match seed % 3 {
        0 => (2, 3),
        1 => (3, 3),
        _ => (3, 5),
    };
    Grid { hosts, voters, policy: Policy::Strict, profile: storm.profile, rules: storm.rules, exact: false }
}

/// An hour of faults for each seed.
pub fn storm(storm: &Storm, seeds: std::ops::Range<u64>) -> Figures {
    let mut figures = Figures::default();
    storm_on(storm, seeds, &mut figures);
    figures
}

/// The same, added to these figures.
pub fn storm_on(storm: &Storm, seeds: std::ops::Range<u64>, figures: &mut Figures) {
    for seed in seeds {
        let mut world = World::new(seed, grid(seed, storm));
        world.transcript = storm.told.then(Vec::new);
        let mut at = FIRST_FAULT;
        loop {
            at += world.random.range(BETWEEN.0, BETWEEN.1);
            if at >= HOUR - CALM {
                break;
            }
            world.run_until(at);
            let idle = world.truth.running().is_empty();
            if !idle || world.random.index(IDLE_ONE_IN) == 0 {
                let fault = draw(&mut world, storm);
                world.after(0, Happening::Fault(fault));
            }
        }
        world.run_until(HOUR);
        if world.truth.running().len() != 1 {
            // A host that boots late and knows of newer data waits for that for ten minutes (`Timers::cold`) after its boot.
            world.run_until(HOUR + CALM);
        }
        figures.add(seed, &world);
        if storm.told {
            figures.transcript.push_str(&super::story::transcript(&world));
        }
    }
}

fn draw(world: &mut World, storm: &Storm) -> Fault {
    loop {
        let fault = KINDS[world.random.index(KINDS.len())];
        let rare = fault == Fault::WholeSite && world.random.index(SITE_ONE_IN) > 0;
        if !rare && !storm.without.contains(&fault) {
            return fault;
        }
    }
}

/// How long the guest is away after one fault in a calm grid, over many seeds.
pub fn recovery(grid: &Grid, before: Option<Fault>, fault: Fault, seeds: std::ops::Range<u64>) -> Figures {
    const SETTLED: u64 = 120_000;
    const BEFORE: u64 = 30_000;
    const END: u64 = 400_000;
    let mut figures = Figures::default();
    for seed in seeds {
        let mut world = World::new(seed, grid.clone());
        world.network.loss_permille = 1;
        let at = SETTLED + world.random.range(0, 5_000);
        if let Some(before) = before {
            world.after(at - BEFORE, Happening::Fault(before));
        }
        world.after(at, Happening::Fault(fault));
        world.run_until(at - 1);
        world.truth.outages.clear();
        world.run_until(END);
        // From the fault, not from when the guest stopped.
        let again = world.truth.stretches.iter().find(|stretch| stretch.from > at);
        world.truth.outages = again.map(|again| again.from - at).into_iter().collect();
        figures.add(seed, &world);
    }
    figures
}

/// A calm grid on a network that loses so much each way.
pub fn losses(grid: &Grid, loss_permille: u64, hours: u64, seeds: std::ops::Range<u64>) -> Figures {
    let mut figures = Figures::default();
    for seed in seeds {
        let mut world = World::new(seed, grid.clone());
        world.network.loss_permille = loss_permille;
        world.run_until(hours * HOUR);
        figures.add(seed, &world);
    }
    figures
}

/// A host is away for 90 s and back, then the aggregator dies: the owner must go on.
pub fn run_ahead(grid: &Grid, seeds: std::ops::Range<u64>) -> Figures {
    let mut figures = Figures::default();
    for seed in seeds {
        let mut world = World::new(seed, grid.clone());
        world.after(120_000, Happening::Step(Step::Isolated(1)));
        world.after(210_000, Happening::Step(Step::Joined(1)));
        world.after(230_000, Happening::Step(Step::LosesPower(grid.hosts)));
        world.run_until(119_000);
        world.truth.outages.clear();
        world.run_until(400_000);
        figures.add(seed, &world);
    }
    figures
}
