//! A simulated host: its memory, a hog beside the guests, and a model of page sharing.

use roost_agent_core::memory::{HostMemory, Knobs, Ksm};
use roost_protocol::host::Pressure;
use roost_protocol::{MiB, Millis};

use super::guest::Guest;
use super::trace::{RUN, towards};
use crate::simulation::random::Random;

/// Nanoseconds for one page.
const PAGE_NS: u64 = 1_200;
/// The kernel's advisor looks at so many pages a second.
const ADVISED: u64 = 20_000;

#[derive(Clone, Debug)]
pub(super) struct Host {
    pub(super) total: u64,
    pub(super) base: u64,
    pub(super) hog: u64,
    hog_steps: Vec<(u64, u64)>,
    knobs: Knobs,
    old_kernel: bool,
    /// Part of guests' memory that is equal, permille.
    equal: u64,
    /// Pages written to each second, permille of the merged.
    churn: u64,
    unshare_at: u64,
    saved_kib: u64,
    scanned: u64,
    scans: u64,
    cpu_us: u64,
}

impl Host {
    pub(super) fn new(random: &mut Random) -> Self {
        let old_kernel = random.chance(300);
        let knobs = Knobs {
            run: Some(0),
            pages_to_scan: Some(100),
            sleep_ms: Some(20),
            use_zero_pages: Some(0),
            advisor: (!old_kernel).then_some(false),
            advisor_cpu_percent: (!old_kernel).then_some(70),
            advisor_target_s: (!old_kernel).then_some(200),
            advisor_least_pages: (!old_kernel).then_some(500),
            smart_scan: (!old_kernel).then_some(0),
        };
        let mut hog_steps = Vec::new();
        let mut at = 900 + random.below(300);
        while at + 700 < RUN {
            hog_steps.push((at, 50 + random.below(300)));
            at += 60 + random.below(600);
            hog_steps.push((at, 0));
            at += 60 + random.below(600);
        }
        Self {
            total: 0,
            base: 800,
            hog: 0,
            hog_steps,
            knobs,
            old_kernel,
            equal: random.below(500),
            churn: random.below(3),
            unshare_at: if random.chance(300) { 1_500 + random.below(1_000) } else { RUN },
            saved_kib: 0,
            scanned: 0,
            scans: 0,
            cpu_us: 0,
        }
    }

    pub(super) fn saved(&self) -> u64 {
        self.saved_kib / 1_024
    }

    pub(super) fn available(&self, guests: &[Guest]) -> u64 {
        let used: u64 = guests.iter().map(|guest| guest.resident).sum::<u64>() + self.base + self.hog;
        (self.total + self.saved()).saturating_sub(used)
    }

    /// One second. `most_hog`: what can be taken beside the guests without asking for the impossible.
    pub(super) fn step(&mut self, second: u64, guests: &[Guest], most_hog: u64) {
        let wish = self.hog_steps.iter().rev().find(|(at, _)| *at <= second).map_or(0, |(_, part)| *part);
        self.hog = towards(self.hog, (self.total * wish / 1_000).min(most_hog), 100).min(most_hog.max(self.hog));
        self.scan(second, guests);
    }

    fn scan(&mut self, second: u64, guests: &[Guest]) {
        let there: u64 = guests.iter().map(|guest| guest.resident * 1_024).sum();
        let most = there * self.equal / 1_000;
        if self.knobs.run == Some(1) {
            let pages = if self.knobs.advisor == Some(true) {
                ADVISED
            } else {
                let batch = self.knobs.pages_to_scan.unwrap_or(0);
                let wake_us = self.knobs.sleep_ms.unwrap_or(20) * 1_000 + batch * PAGE_NS / 1_000;
                batch * 1_000_000 / wake_us.max(1)
            };
            self.scanned += pages;
            self.cpu_us += pages * PAGE_NS / 1_000;
            self.scans = self.scanned / (there / 4).max(1);
            if self.scans > 1 {
                self.saved_kib = (self.saved_kib + pages * 4 * self.equal / 1_000).min(most);
            }
        }
        self.saved_kib -= self.saved_kib * self.churn / 1_000;
        if second >= self.unshare_at && second < self.unshare_at + 60 {
            self.saved_kib -= self.saved_kib / 40;
        }
        self.saved_kib = self.saved_kib.min(most);
    }

    pub(super) fn set(&mut self, knobs: &Knobs) {
        let own = &mut self.knobs;
        own.run = knobs.run.or(own.run);
        own.advisor = knobs.advisor.or(own.advisor);
        own.pages_to_scan = knobs.pages_to_scan.or(own.pages_to_scan);
        own.sleep_ms = knobs.sleep_ms.or(own.sleep_ms);
        own.advisor_cpu_percent = knobs.advisor_cpu_percent.or(own.advisor_cpu_percent);
        own.advisor_target_s = knobs.advisor_target_s.or(own.advisor_target_s);
        own.smart_scan = knobs.smart_scan.or(own.smart_scan);
        own.use_zero_pages = knobs.use_zero_pages.or(own.use_zero_pages);
    }

    pub(super) fn knobs(&self) -> &Knobs {
        &self.knobs
    }

    pub(super) fn seen(&self, guests: &[Guest]) -> (HostMemory, Ksm) {
        let available = self.available(guests);
        let short = available * 20 < self.total;
        let host = HostMemory {
            total: MiB(self.total),
            available: MiB(available),
            pressure: Some(Pressure { memory_centi: if short { 2_000 } else { 0 }, ..Pressure::default() }),
            ..HostMemory::default()
        };
        let sharing = self.saved_kib / 4;
        let ksm = Ksm {
            knobs: self.knobs.clone(),
            page_bytes: 4_096,
            sharing,
            scans: self.scans,
            scanned: (!self.old_kernel).then_some(self.scanned),
            profit: (!self.old_kernel).then(|| i64::try_from(sharing * 4_096).unwrap_or(i64::MAX)),
            cpu: Some(Millis(self.cpu_us / 1_000)),
            ..Ksm::default()
        };
        (host, ksm)
    }
}
