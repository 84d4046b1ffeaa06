//! How short memory is: levels of available memory from the policy and the guests, and the rung they put the host on.
//! Going up is at once, going down takes time, so that nothing flickers.

use roost_protocol::memory::{MemoryPolicy, Rung, Sharing};
use roost_protocol::{MiB, Millis, Time};

use super::reason::Cause;
use super::sample::Sample;

/// One guest may take so much of its memory at once (an allocator that fills 60 % is the worst that is promised).
const JUMP_PERMILLE: u32 = 600;
/// So much of what merging saves may be written to, and so be needed again, before the next look.
const UNSHARE_PERMILLE: u32 = 100;
/// Between the level where squeezing begins and the one where it ends.
const BAND_PERMILLE: u32 = 50;
/// The reserve is at most this part of the host, whatever is risked.
const RESERVE_MOST_PERMILLE: u32 = 300;
/// Squeezing begins at most this early.
const SQUEEZE_MOST_PERMILLE: u32 = 500;
/// PSI `some avg10` of memory, hundredths of a percent, from which programs suffer.
const STALLED: u32 = 1_000;
/// PSI `full avg10` of memory, hundredths of a percent, from which nobody gets on.
const STUCK: u32 = 500;
/// Squeezing begins when the reserve would be reached within this time.
const FORESIGHT: Millis = Millis::seconds(30);
/// A rung is left when its reason was gone for so long.
const DOWN_AFTER: Millis = Millis::seconds(10);
/// The reserve may be touched for so long before people are told.
const ALARM_AFTER: Millis = Millis::seconds(30);

/// Levels of available memory, from the least to the most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Levels {
    /// Guests never get this.
    pub reserve: MiB,
    /// Below it guests are squeezed.
    pub squeeze: MiB,
    /// Up to it guests are squeezed; above it they get back what they are owed.
    pub comfort: MiB,
    /// Below it pages are merged.
    pub share: MiB,
}

impl Levels {
    /// The levels of this host with these guests.
    pub fn of(sample: &Sample, policy: &MemoryPolicy) -> Self {
        let total = sample.host.total - sample.host.huge;
        let saved = sample.saved();
        let least = policy.reserve_least_mib.min(total.permille(250));
        let reserve = total.permille(policy.reserve_permille).max(least) + saved.permille(UNSHARE_PERMILLE);
        let reserve = reserve.min(total.permille(RESERVE_MOST_PERMILLE));
        let jump = |guest: &super::sample::GuestMemory| {
            guest.full.permille(JUMP_PERMILLE).min(guest.current() - guest.resident.min(guest.current()))
        };
        let jump = sample.guests.values().map(jump).max().unwrap_or_default();
        let early = (reserve + jump).min(total.permille(SQUEEZE_MOST_PERMILLE));
        let squeeze = total.permille(policy.squeeze_below_permille).max(early);
        let comfort = squeeze + total.permille(BAND_PERMILLE);
        Self { reserve, squeeze, comfort, share: total.permille(policy.share_below_permille).max(comfort) }
    }
}

/// Where the host stands, and since when.
#[derive(Clone, Debug, Default)]
pub(super) struct Ladder {
    pub(super) rung: Rung,
    /// The last time there was a reason for this rung.
    justified: Time,
    /// Guests are to give memory until the comfort level is reached.
    pub(super) squeezing: bool,
    /// Since when the reserve is touched.
    touched: Option<Time>,
    /// Since when there was comfort without a break.
    pub(super) comfortable: Option<Time>,
    before: Option<(Time, MiB)>,
    /// How fast available memory falls, KiB a second, smoothed.
    falling_kib: u64,
    /// What led here.
    pub(super) why: Vec<Cause>,
}

impl Ladder {
    /// Takes in one look.
    pub(super) fn climb(&mut self, now: Time, sample: &Sample, levels: &Levels, policy: &MemoryPolicy) {
        self.follow(now, sample.host.available);
        self.why.clear();
        let available = sample.host.available;
        let stalled = sample.host.pressure.map_or(0, |pressure| pressure.memory_centi);
        if available < levels.reserve {
            self.touched.get_or_insert(now);
        } else {
            self.touched = None;
        }
        if available >= levels.comfort {
            self.comfortable.get_or_insert(now);
        } else {
            self.comfortable = None;
        }
        self.squeezing = self.must_squeeze(sample, levels, stalled);
        let (rung, level, name) = self.reached(now, sample, levels, policy);
        self.why.insert(0, Cause::Available { available, total: sample.host.total, level, name });
        if rung >= self.rung {
            self.rung = rung;
            self.justified = now;
        } else if now.since(self.justified) >= DOWN_AFTER {
            self.rung = rung;
        }
        self.why.push(Cause::Rung(self.rung));
    }

    fn follow(&mut self, now: Time, available: MiB) {
        if let Some((at, before)) = self.before {
            let span = now.since(at).0.max(1);
            let fell = (before - available).0.saturating_mul(1_024 * 1_000) / span;
            self.falling_kib = (self.falling_kib * 3 + fell) / 4;
        }
        self.before = Some((now, available));
    }

    /// What will be gone after this time, if it goes on as it does.
    pub(super) fn falls_within(&self, span: Millis) -> MiB {
        MiB(self.falling_kib.saturating_mul(span.0) / (1_024 * 1_000))
    }

    fn must_squeeze(&mut self, sample: &Sample, levels: &Levels, stalled: u32) -> bool {
        let available = sample.host.available;
        if available >= levels.comfort {
            let spare_kib = (available - levels.reserve).0.saturating_mul(1_024);
            let in_ms = spare_kib.saturating_mul(1_000).checked_div(self.falling_kib).map(Millis);
            let near = available < levels.comfort + sample.host.total.permille(BAND_PERMILLE * 2);
            let Some(reserve_in) = in_ms.filter(|span| near && *span < FORESIGHT) else { return false };
            self.why.push(Cause::Falling { mib_per_minute: self.falling_kib * 60 / 1_024, reserve_in });
            return true;
        }
        // Pressure of a cgroup's own limit shows here too: it counts only where the host itself is short.
        if stalled >= STALLED {
            self.why.push(Cause::Stalled { centi: stalled });
        }
        self.squeezing || available < levels.squeeze || stalled >= STALLED
    }

    fn reached(&self, now: Time, sample: &Sample, levels: &Levels, policy: &MemoryPolicy) -> (Rung, MiB, &'static str) {
        let available = sample.host.available;
        let stuck = sample.host.full_centi.unwrap_or(0) >= STUCK && available < levels.squeeze;
        let long = self.touched.is_some_and(|since| now.since(since) >= ALARM_AFTER);
        if long || available.0 < levels.reserve.0 / 2 {
            (Rung::Alarm, levels.reserve, "the reserve")
        } else if available < levels.reserve || stuck {
            (Rung::Refuse, levels.reserve, "the reserve")
        } else if self.squeezing {
            (Rung::Squeeze, levels.squeeze, "the level to squeeze at")
        } else if should_share(sample, levels, policy) {
            (Rung::Share, levels.share, "the level to merge pages at")
        } else {
            (Rung::Free, levels.share, "the level to merge pages at")
        }
    }
}

/// Whether merging pages is wanted, paying or not: before memory is short, and always where more was promised than there
/// is.
pub(super) fn should_share(sample: &Sample, levels: &Levels, policy: &MemoryPolicy) -> bool {
    let short = sample.host.available < levels.share || committed(sample) > sample.host.total;
    sample.ksm.is_some()
        && !sample.guests.is_empty()
        && match policy.sharing {
            Sharing::Auto => short,
            Sharing::Always => true,
            Sharing::Never => false,
        }
}

/// What running guests were promised.
pub fn committed(sample: &Sample) -> MiB {
    sample.guests.values().map(|guest| guest.full).sum()
}
