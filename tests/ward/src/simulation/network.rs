//! The network: cuts in one direction or both, losses, delays, doubles.

use super::random::Random;

/// A double comes so much later, ms.
const DOUBLE_AFTER: u64 = 3;
/// One in so many messages, in permille, comes twice.
const DOUBLED: u64 = 10;

#[derive(Clone, Debug)]
pub(crate) struct Network {
    /// How often a way is cut: `cuts[from][to]`.
    cuts: Vec<Vec<u32>>,
    pub(crate) loss_permille: u64,
    /// So many messages are late by up to `SPIKE`.
    pub(crate) spike_permille: u64,
    pub(crate) latency: (u64, u64),
    /// No doubles: for stories.
    pub(crate) plain: bool,
}

/// Longest delay, ms: longer than a lease.
const SPIKE: u64 = 15_000;

impl Network {
    pub(crate) fn new(machines: usize) -> Self {
        let cuts = vec![vec![0; machines]; machines];
        Self { cuts, loss_permille: 0, spike_permille: 0, latency: (0, 2), plain: false }
    }

    /// After how long a message comes; not at all, once or twice.
    pub(crate) fn ways(&self, random: &mut Random, from: usize, to: usize) -> [Option<u64>; 2] {
        if self.cuts[from][to] > 0 || random.chance(self.loss_permille) {
            return [None, None];
        }
        let mut delay = random.range(self.latency.0, self.latency.1);
        if random.chance(self.spike_permille) {
            delay += random.range(0, SPIKE);
        }
        let double = !self.plain && random.chance(DOUBLED);
        [Some(delay), double.then_some(delay + DOUBLE_AFTER)]
    }

    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        self.cuts[from][to] += 1;
    }

    pub(crate) fn heal(&mut self, from: usize, to: usize) {
        self.cuts[from][to] = self.cuts[from][to].saturating_sub(1);
    }

    pub(crate) fn isolate(&mut self, machine: usize) {
        for other in (0..self.cuts.len()).filter(|other| *other != machine) {
            self.cut(machine, other);
            self.cut(other, machine);
        }
    }

    pub(crate) fn join(&mut self, machine: usize) {
        for other in (0..self.cuts.len()).filter(|other| *other != machine) {
            self.heal(machine, other);
            self.heal(other, machine);
        }
    }
}
