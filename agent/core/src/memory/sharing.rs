//! The law of page sharing (KSM). Merging costs less CPU when it is done fast: measured, 6.9 CPU seconds for all that can
//! be merged at full speed against 9.8 by the kernel's slow advisor, in a fourteenth of the time. So new memory is looked
//! through in a burst; when a burst no longer pays, the kernel's advisor keeps up what there is (an own slow pace where
//! there is no advisor); and when that doesn't pay either, scanning stops. What is merged stays merged.

use roost_protocol::memory::{MemoryPolicy, Rung, Sharing};
use roost_protocol::{MiB, Millis, Time};

use super::ladder::{Levels, should_share};
use super::reason::Cause;
use super::sample::{GuestMemory, Knobs, Ksm, Sample};

/// Nothing merges before its second look, so a burst is judged from its third pass on.
const PASSES: u64 = 3;
/// Poor stretches of keeping up in a row after which it ends.
const POOR: u32 = 2;
/// Keeping up is judged over this time at least.
const STRETCH: Millis = Millis::seconds(120);
/// Growth of guests that is worth a burst: this much, and this part of what there is.
const GROWN: (MiB, u32) = (MiB(64), 50);
/// Merged pages that became single again and are worth a burst: this much, and this part of the gain.
const LOST: (MiB, u32) = (MiB(32), 100);
/// Most CPU of keeping up, permille of one CPU.
const KEEP_CPU: u32 = 50;
/// The advisor is to look through all memory in this time; the kernel's own default.
const KEEP_TARGET_S: u64 = 200;
/// Between two batches.
const SLEEP_MS: u64 = 10;
/// Smallest and largest batch; larger ones hold a CPU for 100 ms.
const BATCH: (u64, u64) = (100, 50_000);
/// One page's look until it was measured, ns: measured 450 (hash alone) to 4,700 (with merging).
const COST_NS: u64 = 1_500;
/// PSI `some avg10` of CPU, hundredths of a percent, from which merging takes a quarter of its CPU.
const CPU_SHORT: u32 = 3_000;
/// Knobs changed under us so often: somebody else tunes, and we leave it to them for a while.
const FIGHTS: u32 = 3;
const FIGHT_WITHIN: Millis = Millis::seconds(600);
const YIELD: Millis = Millis::seconds(3_600);

/// What merging does now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not ours yet, or handed back.
    #[default]
    Left,
    /// New memory is looked through as fast as allowed.
    Burst {
        first_scan: u64,
    },
    Keep {
        poor: u32,
    },
    /// It doesn't pay; these were the guests' memory and the gain when it stopped.
    Rest {
        candidates: MiB,
        profit: i64,
    },
}

/// Counters at the beginning of a stretch.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    at: Time,
    scans: u64,
    scanned: Option<u64>,
    cpu: Option<Millis>,
    profit: i64,
}

/// What is remembered between looks.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) phase: Phase,
    /// The knobs before we touched them.
    found: Option<Knobs>,
    wrote: Option<Knobs>,
    fights: u32,
    fought: Option<Time>,
    yield_until: Time,
    mark: Mark,
    cost_ns: Option<u64>,
    candidates: MiB,
    rate: Option<(Time, Millis)>,
    /// CPU of the kernel's thread over the last look, permille of one CPU.
    pub(super) cpu_permille: Option<u32>,
}

/// Knobs to write now, and why.
pub(super) fn plan(
    now: Time,
    sample: &Sample,
    levels: &Levels,
    rung: Rung,
    policy: &MemoryPolicy,
    state: &mut State,
) -> Option<(Knobs, Vec<Cause>)> {
    let ksm = sample.ksm.as_ref()?;
    state.measure(now, ksm);
    if policy.sharing == Sharing::Never {
        let found = state.hand_back()?;
        return Some((found, vec![Cause::Wished]));
    }
    if state.somebody_else(now, ksm) {
        return None;
    }
    let mut why = Vec::new();
    let strangers = strangers(sample, policy);
    if strangers > 0 {
        state.phase = match state.phase {
            // Whoever left it on would have them merged.
            Phase::Left if ksm.knobs.run != Some(1) => Phase::Left,
            Phase::Left | Phase::Burst { .. } | Phase::Keep { .. } | Phase::Rest { .. } => {
                Phase::Rest { candidates: MiB(0), profit: ksm.profit() }
            }
        };
        why.push(Cause::Strangers { guests: strangers, trust: policy.trust.clone() });
    } else if should_share(sample, levels, policy) {
        state.work(now, sample, ksm, rung, policy, &mut why);
    } else if !matches!(state.phase, Phase::Left | Phase::Rest { .. }) {
        state.phase = Phase::Rest { candidates: candidates(sample), profit: ksm.profit() };
        why.push(Cause::Available {
            available: sample.host.available,
            total: sample.host.total,
            level: levels.share,
            name: "the level to merge pages at",
        });
    }
    if state.phase == Phase::Left {
        return None;
    }
    let knobs = state.knobs(sample, ksm, rung, policy, &mut why);
    let change = knobs.beside(&ksm.knobs);
    if change == Knobs::default() {
        return None;
    }
    state.found.get_or_insert_with(|| ksm.knobs.clone());
    state.wrote = Some(knobs);
    Some((change, why))
}

impl State {
    /// Knobs as they were before us, once.
    pub(super) fn hand_back(&mut self) -> Option<Knobs> {
        self.phase = Phase::Left;
        self.wrote = None;
        self.found.take()
    }

    pub(super) fn adopt(&mut self, found: Knobs) {
        self.found.get_or_insert(found);
    }

    fn measure(&mut self, now: Time, ksm: &Ksm) {
        if let (Some(cpu), Some((at, before))) = (ksm.cpu, self.rate) {
            let (spent, span) = (cpu.0.saturating_sub(before.0), now.since(at).0.max(1));
            self.cpu_permille = u32::try_from(spent.saturating_mul(1_000) / span).ok();
        }
        self.rate = ksm.cpu.map(|cpu| (now, cpu));
    }

    /// True while another program sets the knobs.
    fn somebody_else(&mut self, now: Time, ksm: &Ksm) -> bool {
        if now < self.yield_until {
            return true;
        }
        let Some(wrote) = &self.wrote else { return false };
        if wrote.beside(&ksm.knobs) == Knobs::default() {
            return false;
        }
        let recent = self.fought.is_some_and(|at| now.since(at) < FIGHT_WITHIN);
        self.fights = if recent { self.fights + 1 } else { 1 };
        self.fought = Some(now);
        if self.fights < FIGHTS {
            return false;
        }
        *self = Self { yield_until: now + YIELD, rate: self.rate, ..Self::default() };
        true
    }

    fn work(&mut self, now: Time, sample: &Sample, ksm: &Ksm, rung: Rung, policy: &MemoryPolicy, why: &mut Vec<Cause>) {
        let there = candidates(sample);
        self.candidates = self.candidates.min(there);
        let grown = there - self.candidates;
        let worth = grown >= GROWN.0 && grown >= there.permille(GROWN.1);
        match self.phase {
            Phase::Left => {
                why.push(Cause::Grown { mib: there });
                self.burst(now, ksm, there);
            }
            Phase::Burst { first_scan } => {
                if worth {
                    self.candidates = there;
                    self.phase = Phase::Burst { first_scan: ksm.scans };
                } else if ksm.scans > self.mark.scans {
                    let pays = self.judge(now, ksm, rung, policy, why);
                    if !pays && ksm.scans.saturating_sub(first_scan) >= PASSES {
                        self.phase = Phase::Keep { poor: 0 };
                    }
                }
            }
            Phase::Keep { poor } => {
                if worth {
                    why.push(Cause::Grown { mib: grown });
                    self.burst(now, ksm, there);
                } else if ksm.scans > self.mark.scans && now.since(self.mark.at) >= STRETCH {
                    let poor = if self.judge(now, ksm, rung, policy, why) { 0 } else { poor + 1 };
                    self.phase = match poor {
                        POOR => Phase::Rest { candidates: there, profit: ksm.profit() },
                        poor => Phase::Keep { poor },
                    };
                }
            }
            Phase::Rest { candidates, profit } => {
                let lost = mib(profit.saturating_sub(ksm.profit()));
                let candidates = candidates.min(there);
                self.phase = Phase::Rest { candidates, profit };
                let grown = there - candidates;
                if grown >= GROWN.0 && grown >= there.permille(GROWN.1) {
                    why.push(Cause::Grown { mib: grown });
                    self.burst(now, ksm, there);
                } else if lost >= LOST.0 && lost >= mib(profit).permille(LOST.1) {
                    why.push(Cause::Lost { mib: lost });
                    self.burst(now, ksm, there);
                }
            }
        }
    }

    fn burst(&mut self, now: Time, ksm: &Ksm, candidates: MiB) {
        self.phase = Phase::Burst { first_scan: ksm.scans };
        self.candidates = candidates;
        self.mark = Mark::of(now, ksm);
    }

    /// Whether the stretch since the mark was worth its CPU; a new stretch begins.
    fn judge(&mut self, now: Time, ksm: &Ksm, rung: Rung, policy: &MemoryPolicy, why: &mut Vec<Cause>) -> bool {
        let mark = std::mem::replace(&mut self.mark, Mark::of(now, ksm));
        let scanned = scanned(&mark, ksm);
        let cpu_ms = match (ksm.cpu, mark.cpu) {
            (Some(now), Some(before)) => now.0.saturating_sub(before.0),
            _ => scanned.saturating_mul(COST_NS) / 1_000_000,
        };
        if let (Some(_), Some(cost)) = (ksm.cpu, cpu_ms.saturating_mul(1_000_000).checked_div(scanned)) {
            let cost = cost.clamp(COST_NS / 5, COST_NS * 10);
            self.cost_ns = Some(self.cost_ns.map_or(cost, |old| (old * 3 + cost) / 4));
        }
        let gained = ksm.profit().saturating_sub(mark.profit) >> 20;
        let mib_per_cpu_s = gained.saturating_mul(1_000) / i64::try_from(cpu_ms.max(1)).unwrap_or(i64::MAX);
        let least = least(rung, policy);
        let pays = mib_per_cpu_s >= i64::try_from(least.0).unwrap_or(i64::MAX);
        why.push(match pays {
            true => Cause::Pays { mib_per_cpu_s, least },
            false => Cause::PaysNot { mib_per_cpu_s, least },
        });
        pays
    }

    fn knobs(&self, sample: &Sample, ksm: &Ksm, rung: Rung, policy: &MemoryPolicy, why: &mut Vec<Cause>) -> Knobs {
        let has = &ksm.knobs;
        // Empty pages are merged with the kernel's own only where the kernel counts them.
        let own = Knobs {
            run: Some(1),
            smart_scan: has.smart_scan.map(|_| 1),
            use_zero_pages: has.use_zero_pages.map(|_| 1),
            ..Knobs::default()
        };
        match self.phase {
            Phase::Left | Phase::Rest { .. } => Knobs { run: Some(0), ..Knobs::default() },
            Phase::Burst { .. } => {
                let crowd = sample.host.pressure.map_or(0, |pressure| pressure.cpu_centi);
                let mut cpu = policy.ksm_cpu_permille;
                if crowd >= CPU_SHORT && rung < Rung::Squeeze {
                    why.push(Cause::CpuShort { centi: crowd });
                    cpu /= 4;
                }
                self.paced(own, has, cpu)
            }
            Phase::Keep { .. } if has.advisor.is_some() => Knobs {
                advisor: Some(true),
                advisor_cpu_percent: has.advisor_cpu_percent.map(|_| u64::from(KEEP_CPU / 10)),
                advisor_target_s: has.advisor_target_s.map(|_| KEEP_TARGET_S),
                ..own
            },
            Phase::Keep { .. } => {
                why.push(Cause::Missing { knob: "advisor" });
                self.paced(own, has, KEEP_CPU)
            }
        }
    }

    /// An own pace that takes this part of one CPU.
    fn paced(&self, own: Knobs, has: &Knobs, cpu_permille: u32) -> Knobs {
        let cpu = u64::from(cpu_permille.clamp(1, 950));
        let work_ns = SLEEP_MS * 1_000_000 * cpu / (1_000 - cpu);
        let pages = (work_ns / self.cost_ns.unwrap_or(COST_NS).max(1)).clamp(BATCH.0, BATCH.1);
        let near = |now: u64| now.abs_diff(pages) <= pages / 3;
        // A slightly better guess of the cost is not worth a write.
        let keep = has.pages_to_scan.filter(|now| near(*now));
        Knobs {
            advisor: has.advisor.map(|_| false),
            pages_to_scan: Some(keep.unwrap_or(pages)),
            sleep_ms: Some(SLEEP_MS),
            ..own
        }
    }
}

impl Mark {
    fn of(at: Time, ksm: &Ksm) -> Self {
        Self { at, scans: ksm.scans, scanned: ksm.scanned, cpu: ksm.cpu, profit: ksm.profit() }
    }
}

impl Knobs {
    /// Those of these knobs that stand otherwise in `now`; what the kernel sets itself is left out.
    pub fn beside(&self, now: &Knobs) -> Knobs {
        fn differs<T: PartialEq + Copy>(wanted: Option<T>, now: Option<T>) -> Option<T> {
            wanted.filter(|_| wanted != now)
        }
        Knobs {
            run: differs(self.run, now.run),
            pages_to_scan: differs(self.pages_to_scan, now.pages_to_scan).filter(|_| self.advisor != Some(true)),
            sleep_ms: differs(self.sleep_ms, now.sleep_ms),
            advisor: differs(self.advisor, now.advisor),
            advisor_cpu_percent: differs(self.advisor_cpu_percent, now.advisor_cpu_percent),
            advisor_target_s: differs(self.advisor_target_s, now.advisor_target_s),
            advisor_least_pages: differs(self.advisor_least_pages, now.advisor_least_pages),
            smart_scan: differs(self.smart_scan, now.smart_scan),
            use_zero_pages: differs(self.use_zero_pages, now.use_zero_pages),
        }
    }
}

/// When memory is short, less is enough.
fn least(rung: Rung, policy: &MemoryPolicy) -> MiB {
    match rung {
        Rung::Free | Rung::Share => policy.ksm_pay_mib,
        Rung::Squeeze | Rung::Refuse | Rung::Alarm => MiB(policy.ksm_pay_mib.0 / 4),
    }
}

/// Pages looked at since the mark; where the kernel doesn't count them, all known ones once for each pass.
fn scanned(mark: &Mark, ksm: &Ksm) -> u64 {
    match (ksm.scanned, mark.scanned) {
        (Some(now), Some(before)) => now.saturating_sub(before),
        _ => {
            let known = ksm.shared.saturating_add(ksm.sharing).saturating_add(ksm.unshared);
            known.saturating_add(ksm.volatile).saturating_mul(ksm.scans.saturating_sub(mark.scans))
        }
    }
}

/// Memory of guests that may be merged.
fn candidates(sample: &Sample) -> MiB {
    sample.guests.values().filter(|guest| guest.mergeable).map(|guest| guest.resident).sum()
}

/// Guests whose pages the kernel would merge with those of guests that must not know of them.
fn strangers(sample: &Sample, policy: &MemoryPolicy) -> usize {
    let other = |guest: &&GuestMemory| guest.mergeable && guest.wish.trust != policy.trust;
    sample.guests.values().filter(other).count()
}

fn mib(bytes: i64) -> MiB {
    MiB::of_bytes(u64::try_from(bytes).unwrap_or(0))
}

/// Knobs in words.
pub(super) fn in_words(knobs: &Knobs) -> String {
    let number = |name: &str, value: Option<u64>| value.map(|value| format!("{name} {value}"));
    let all = [
        number("run", knobs.run),
        knobs.advisor.map(|on| format!("advisor {}", if on { "on" } else { "off" })),
        number("pages_to_scan", knobs.pages_to_scan),
        number("sleep_millisecs", knobs.sleep_ms),
        number("advisor_max_cpu", knobs.advisor_cpu_percent),
        number("advisor_target_scan_time", knobs.advisor_target_s),
        number("advisor_min_pages_to_scan", knobs.advisor_least_pages),
        number("smart_scan", knobs.smart_scan),
        number("use_zero_pages", knobs.use_zero_pages),
    ];
    let words: Vec<String> = all.into_iter().flatten().collect();
    format!("sets page sharing: {}", words.join(", "))
}
