//! A simulated guest: programs, file cache, a balloon driver with all its moods, and what the host sees of it.

use roost_agent_core::memory::{Balloon, GuestMemory, Told};
use roost_protocol::memory::MemoryWish;
use roost_protocol::{MiB, Millis};

use super::trace::{Trace, towards};
use crate::simulation::random::Random;

/// The guest's kernel, and QEMU beside it.
pub(super) const KERNEL: u64 = 60;
pub(super) const QEMU: u64 = 45;
/// Cache that can't be had back.
const CACHE_LEAST: u64 = 8;
/// A driver can't take the last pages.
const DRIVER_LEAVES: u64 = 24;

/// How the driver in the guest behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Driver {
    Good,
    /// Takes 4 MiB a second.
    Slow,
    /// Tells nothing any more from this age on.
    FallsSilent(u64),
    None,
}

#[derive(Clone, Debug)]
pub(super) struct Guest {
    pub(super) full: u64,
    pub(super) trace: Trace,
    pub(super) driver: Driver,
    pub(super) reports_free_pages: bool,
    pub(super) rescue: bool,
    pub(super) ours: bool,
    pub(super) wish: MemoryWish,
    pub(super) age: u64,
    pub(super) need: u64,
    cache: u64,
    /// What the balloon leaves.
    pub(super) size: u64,
    pub(super) asked: u64,
    /// It took pages back by itself and rests until it is asked anew.
    rescued: bool,
    /// Pages that the host holds for it.
    pub(super) resident: u64,
    told: Option<(u64, Told)>,
    period: u64,
    pub(super) direction: Direction,
}

/// Changes between taking and giving.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Direction {
    down: Option<bool>,
    pub(super) changes: u32,
}

impl Guest {
    pub(super) fn new(random: &mut Random, full: u64, trace: Trace) -> Self {
        let driver = match random.below(20) {
            0 => Driver::None,
            1 => Driver::Slow,
            2 => Driver::FallsSilent(300 + random.below(2_000)),
            _ => Driver::Good,
        };
        Self {
            full,
            trace,
            driver,
            reports_free_pages: random.chance(700),
            rescue: random.chance(950),
            ours: random.chance(950),
            wish: MemoryWish { weight: 50 + 50 * u32::try_from(random.below(4)).unwrap_or(0), ..MemoryWish::default() },
            age: 0,
            need: 0,
            cache: 0,
            size: full,
            asked: full,
            rescued: false,
            resident: KERNEL + QEMU,
            told: None,
            period: 10,
            direction: Direction::default(),
        }
    }

    /// As the agent makes guests.
    pub(super) fn willing(self) -> Self {
        Self { driver: Driver::Good, ours: true, rescue: true, ..self }
    }

    /// Whether the agent may ever take from it: what the host's memory must be enough for otherwise.
    pub(super) fn can_be_squeezed(&self) -> bool {
        self.ours && self.rescue && matches!(self.driver, Driver::Good)
    }

    /// What it is sure to keep, as far as anybody outside can know.
    pub(super) fn apparent_floor(&self) -> u64 {
        let mute = match self.driver {
            Driver::Good | Driver::Slow | Driver::FallsSilent(_) => false,
            Driver::None => self.age > 120,
        };
        let all = !self.ours || !self.rescue || mute;
        QEMU + if all { self.full } else { self.full * 4 / 10 }
    }

    /// One second. Says whether its programs ran out of memory that the balloon holds.
    pub(super) fn step(&mut self) -> bool {
        self.age += 1;
        let (need, cache, rate) = self.trace.wants(self.age);
        self.need = towards(self.need, need.min(self.full - KERNEL - DRIVER_LEAVES), rate);
        self.cache = towards(self.cache, cache, rate * 2);
        self.move_balloon();
        let mut killed = false;
        let must = KERNEL + self.need + CACHE_LEAST;
        if must > self.size {
            if self.rescue && self.driver != Driver::None {
                self.size = must.min(self.full);
                self.rescued = true;
            } else {
                killed = self.size < self.full;
            }
        }
        self.cache = self.cache.min(self.size.saturating_sub(KERNEL + self.need)).max(CACHE_LEAST);
        let holds = KERNEL + self.need + self.cache;
        // Without reports of free pages what was touched once stays with the guest, until its balloon takes it.
        let kept = if self.reports_free_pages { holds } else { holds.max(self.resident - QEMU) };
        self.resident = kept.min(self.size) + QEMU;
        self.tell();
        killed
    }

    fn move_balloon(&mut self) {
        let rate = match self.driver {
            Driver::Good | Driver::FallsSilent(_) => 200,
            Driver::Slow => 4,
            Driver::None => return,
        };
        if self.asked >= self.size {
            self.size = towards(self.size, self.asked, 500);
        } else if !self.rescued {
            let can = self.size.saturating_sub(KERNEL + self.need + CACHE_LEAST + DRIVER_LEAVES);
            self.size -= rate.min(can).min(self.size - self.asked);
        }
    }

    fn tell(&mut self) {
        let silent = match self.driver {
            Driver::Good | Driver::Slow => false,
            Driver::FallsSilent(from) => self.age >= from,
            Driver::None => true,
        };
        if silent || !self.age.is_multiple_of(self.period) {
            return;
        }
        let usable = self.size - KERNEL - self.need - CACHE_LEAST.min(self.size - KERNEL - self.need);
        let unused = (self.size - KERNEL - self.need).saturating_sub(self.cache);
        let told = Told { unused: MiB(unused), usable: MiB(usable), ..Told::default() };
        self.told = Some((self.age, told));
    }

    /// Carries out what the agent asks.
    pub(super) fn ask(&mut self, to: u64) {
        let down = to < self.asked.min(self.size);
        if self.direction.down.is_some_and(|before| before != down) {
            self.direction.changes += 1;
        }
        self.direction.down = Some(down);
        self.asked = to;
        self.rescued = false;
    }

    pub(super) fn set_period(&mut self, seconds: u32) {
        self.period = u64::from(seconds);
    }

    /// What the agent sees; numbers of the guest are `late` seconds older than they could be.
    pub(super) fn seen(&self, late: u64, shared: u64) -> GuestMemory {
        let told = self.told.map(|(at, told)| Told { age: Millis::seconds(self.age - at + late), ..told });
        GuestMemory {
            full: MiB(self.full),
            resident: MiB(self.resident),
            proportional: None,
            shared: Some(MiB(shared)),
            cpu_permille: if self.need * 3 > self.full { 300 } else { 10 },
            age: Millis::seconds(self.age),
            ours: self.ours,
            rescue: self.rescue,
            wish: self.wish.clone(),
            mergeable: true,
            balloon: Some(Balloon { current: MiB(self.size), told }),
        }
    }
}
