//! What programs in a guest need over an hour, in MiB: idle desktops, office days, boot storms, log-on storms, scans for
//! viruses, leaks, and a program that takes 60 % at once. Shapes are chosen, not measured: steps with a rate each.

use crate::simulation::random::Random;

/// Seconds of one run.
pub(super) const RUN: u64 = 3_600;
/// The storm of log-ons, and the scan of all guests, begin here.
const LOG_ON: u64 = 600;
const SCAN: u64 = 1_800;

/// One step: from `at` on the need goes to `need`, and the wish for file cache to `cache`, at most so fast.
#[derive(Clone, Copy, Debug)]
struct Step {
    at: u64,
    need: u64,
    cache: u64,
    mib_per_s: u64,
}

/// A guest's needs.
#[derive(Clone, Debug)]
pub(super) struct Trace {
    pub(super) kind: Kind,
    steps: Vec<Step>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Idle,
    Office,
    LogOnStorm,
    Scan,
    Leak,
    Allocator,
}

impl Trace {
    /// A trace for a guest whose programs can have `room` MiB; seconds count from its start at `start`.
    pub(super) fn new(random: &mut Random, kind: Kind, room: u64, start: u64) -> Self {
        let part = |permille: u64| room * permille / 1_000;
        let boot =
            Step { at: 0, need: part(150 + random.below(100)), cache: part(100), mib_per_s: 5 + random.below(30) };
        let mut steps = vec![boot];
        let mut step = |at: u64, need: u64, cache: u64, mib_per_s: u64| {
            steps.push(Step { at, need: part(need), cache: part(cache), mib_per_s });
        };
        match kind {
            Kind::Idle => {
                for at in (120..RUN).step_by(300) {
                    step(at, 150 + random.below(60), 100 + random.below(150), 5);
                }
            }
            Kind::Office => {
                for at in (60..RUN).step_by(120) {
                    step(at + random.below(60), 250 + random.below(300), 100 + random.below(300), 20);
                }
            }
            Kind::LogOnStorm => {
                let begin = LOG_ON.saturating_sub(start) + random.below(60);
                step(begin, 400 + random.below(150), 300, 10 + random.below(30));
                step(begin + 900, 300, 200, 10);
            }
            Kind::Scan => {
                let begin = SCAN.saturating_sub(start) + random.below(30);
                step(begin, 300, 900, 20 + random.below(40));
                step(begin + 600, 250, 300, 20);
            }
            Kind::Leak => step(90, 960, 50, 1),
            Kind::Allocator => {
                for at in (150..RUN).step_by(400) {
                    let begin = at + random.below(200);
                    step(begin, 200 + 600, 50, 100 + random.below(200));
                    step(begin + 20 + random.below(100), 200, 100, 500);
                }
            }
        }
        steps.sort_by_key(|step| step.at);
        Self { kind, steps }
    }

    /// Where need and cache go at this age, and how fast.
    pub(super) fn wants(&self, age: u64) -> (u64, u64, u64) {
        let step = self.steps.iter().rev().find(|step| step.at <= age).or(self.steps.first());
        step.map_or((0, 0, 1), |step| (step.need, step.cache, step.mib_per_s))
    }
}

/// `from` moved towards `to` by at most `most`.
pub(super) fn towards(from: u64, to: u64, most: u64) -> u64 {
    if from < to { from.saturating_add(most).min(to) } else { from.saturating_sub(most).max(to) }
}
