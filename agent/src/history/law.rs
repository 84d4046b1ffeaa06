//! How samples become fewer with age. A bucket holds sums, not means, so that nothing is lost by merging: an hour's sum is
//! the same from 10-second, 1-minute and 15-minute buckets.

use std::collections::BTreeMap;

/// Numbers of one series.
pub(crate) const LANES: usize = 14;

/// How long buckets of one width are kept, and how many lie in one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tier {
    pub(crate) step_s: u64,
    pub(crate) keep_s: u64,
    /// Seconds that one chunk spans.
    pub(crate) chunk_s: u64,
}

const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;

/// Finest first; each step divides the next, and each chunk's span the next one's.
pub(crate) const TIERS: [Tier; 3] = [
    Tier { step_s: 10, keep_s: DAY + HOUR, chunk_s: HOUR },
    Tier { step_s: 60, keep_s: 31 * DAY, chunk_s: DAY },
    Tier { step_s: 900, keep_s: 366 * DAY, chunk_s: 10 * DAY },
];

/// What was sampled in one span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bucket {
    /// Samples in it.
    pub(crate) count: u64,
    pub(crate) sums: [u64; LANES],
    /// The highest of lane 0 (CPU).
    pub(crate) peak: u64,
}

impl Bucket {
    /// Of one sample.
    pub(crate) fn of(lanes: [u64; LANES]) -> Self {
        Self { count: 1, sums: lanes, peak: lanes[0] }
    }

    /// Takes in another one of the same series.
    pub(crate) fn add(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        for (sum, more) in self.sums.iter_mut().zip(other.sums) {
            *sum = sum.saturating_add(more);
        }
        self.peak = self.peak.max(other.peak);
    }
}

/// Buckets by their beginning, seconds since 1970.
pub(crate) type Buckets = BTreeMap<u64, Bucket>;

/// Merges buckets into wider ones.
pub(crate) fn widen<'a>(buckets: impl IntoIterator<Item = (&'a u64, &'a Bucket)>, step_s: u64) -> Buckets {
    let step_s = step_s.max(1);
    let mut wide = Buckets::new();
    for (at, bucket) in buckets {
        wide.entry(at - at % step_s).or_default().add(bucket);
    }
    wide
}

/// The tier to answer from, and the width of what is told: at least `span / points`, a multiple of the tier's step, and of
/// a tier that reaches back far enough.
pub(crate) fn plan(age_s: u64, span_s: u64, points: u64) -> (usize, u64) {
    let wanted = span_s.div_ceil(points.max(1));
    let last = TIERS.len() - 1;
    let reaches = TIERS.iter().position(|tier| age_s <= tier.keep_s).unwrap_or(last);
    let coarse = TIERS.iter().rposition(|tier| tier.step_s <= wanted).unwrap_or(0);
    let tier = reaches.max(coarse);
    (tier, wanted.div_ceil(TIERS[tier].step_s).max(1) * TIERS[tier].step_s)
}

#[cfg(test)]
mod test {
    use proptest::prelude::*;

    use super::*;

    fn total(buckets: &Buckets) -> Bucket {
        let mut all = Bucket::default();
        buckets.values().for_each(|bucket| all.add(bucket));
        all
    }

    proptest! {
        #[test]
        fn nothing_is_lost_by_widening(samples in prop::collection::vec((0u64..40_000, any::<[u32; LANES]>()), 0..200)) {
            let mut fine = Buckets::new();
            for (at, lanes) in samples {
                fine.entry(at / 10 * 10).or_default().add(&Bucket::of(lanes.map(u64::from)));
            }
            let minutes = widen(&fine, 60);
            prop_assert_eq!(total(&minutes), total(&fine));
            prop_assert_eq!(widen(&minutes, 900), widen(&fine, 900), "by way of minutes or at once");
            prop_assert!(minutes.keys().all(|at| at % 60 == 0));
        }
    }

    #[test]
    fn tiers_nest() {
        for pair in TIERS.windows(2) {
            assert_eq!((pair[1].step_s % pair[0].step_s, pair[1].chunk_s % pair[0].chunk_s), (0, 0));
            assert!(pair[0].keep_s < pair[1].keep_s && pair[0].chunk_s % pair[1].step_s == 0);
        }
    }

    #[test]
    fn a_chart_is_answered_from_the_tier_that_suits_it() {
        assert_eq!(plan(HOUR, HOUR, 400), (0, 10));
        assert_eq!(plan(DAY, DAY, 100_000), (0, 10));
        assert_eq!(plan(DAY, DAY, 1_440), (1, 60));
        assert_eq!(plan(DAY, DAY, 300), (1, 300));
        assert_eq!(plan(40 * DAY, HOUR, 400), (2, 900));
        assert_eq!(plan(365 * DAY, 365 * DAY, 1_000), (2, 31_500 + 900));
        assert_eq!(plan(0, 0, 0), (0, 10));
    }
}
