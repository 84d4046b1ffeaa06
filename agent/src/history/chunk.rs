//! Many buckets in few bytes: each is told by what differs from the one before. An idle guest's takes about five bytes.

use super::law::{Bucket, Buckets, LANES};

/// First byte of every chunk; another one is of a later version and is not read.
const VERSION: u8 = 1;
/// Most buckets that are read of one chunk; ours have at most 1,440.
const MOST: usize = 4_096;
/// Numbers of a bucket: its lanes, its count and its peak.
const NUMBERS: usize = LANES + 2;

/// A chunk that grows.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    bytes: Vec<u8>,
    at: u64,
    last: [u64; NUMBERS],
}

impl Chunk {
    /// An empty one that begins at `start`.
    pub(crate) fn new(start: u64) -> Self {
        Self { bytes: vec![VERSION], at: start, last: [0; NUMBERS] }
    }

    /// Of all these; none of them may be before `start`.
    pub(crate) fn of(start: u64, buckets: &Buckets) -> Self {
        let mut chunk = Self::new(start);
        buckets.iter().for_each(|(at, bucket)| chunk.push(*at, bucket));
        chunk
    }

    /// Adds one that is not before the last one.
    pub(crate) fn push(&mut self, at: u64, bucket: &Bucket) {
        let numbers = numbers(bucket);
        put(&mut self.bytes, at.saturating_sub(self.at));
        let differs = |lane: &usize| numbers[*lane] != self.last[*lane];
        put(&mut self.bytes, (0..NUMBERS).filter(differs).map(|lane| 1 << lane).sum());
        for lane in (0..NUMBERS).filter(differs) {
            put(&mut self.bytes, zigzag(numbers[lane].wrapping_sub(self.last[lane])));
        }
        (self.at, self.last) = (at.max(self.at), numbers);
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

fn numbers(bucket: &Bucket) -> [u64; NUMBERS] {
    let mut all = [bucket.count; NUMBERS];
    all[1] = bucket.peak;
    all[2..].copy_from_slice(&bucket.sums);
    all
}

/// The buckets in these bytes; of damaged bytes, those before the damage.
pub(crate) fn read(start: u64, mut bytes: &[u8]) -> impl Iterator<Item = (u64, Bucket)> {
    let known = bytes.split_off_first() == Some(&VERSION);
    let (mut at, mut last) = (start, [0u64; NUMBERS]);
    let next = move || {
        if bytes.is_empty() {
            return None;
        }
        at = at.checked_add(get(&mut bytes)?)?;
        let mask = get(&mut bytes)?;
        for (lane, number) in last.iter_mut().enumerate() {
            if mask & (1 << lane) != 0 {
                *number = number.wrapping_add(unzigzag(get(&mut bytes)?));
            }
        }
        let [count, peak, sums @ ..] = last;
        Some((at, Bucket { count, sums, peak }))
    };
    std::iter::from_fn(next).take(if known { MOST } else { 0 })
}

/// Small numbers in both directions become small numbers.
fn zigzag(difference: u64) -> u64 {
    (difference << 1) ^ (difference >> 63).wrapping_neg()
}

fn unzigzag(number: u64) -> u64 {
    (number >> 1) ^ (number & 1).wrapping_neg()
}

/// Seven bits a byte, lowest first.
fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
}

fn get(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.split_off_first()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod test {
    use proptest::prelude::*;

    use super::*;

    fn bucket() -> impl Strategy<Value = Bucket> {
        (any::<u64>(), any::<[u64; LANES]>(), any::<u64>()).prop_map(|(count, sums, peak)| Bucket { count, sums, peak })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(buckets in prop::collection::btree_map(1_000u64..9_000, bucket(), 0..40)) {
            let chunk = Chunk::of(1_000, &buckets);
            prop_assert_eq!(read(1_000, chunk.bytes()).collect::<Buckets>(), buckets);
        }

        #[test]
        fn noise_is_read_to_its_damage_and_no_further(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let with_version = [&[VERSION][..], &bytes].concat();
            prop_assert!(read(u64::MAX - 5, &with_version).count() <= bytes.len());
            let _ = read(0, &bytes).count();
        }
    }

    #[test]
    fn an_idle_guest_takes_few_bytes() {
        let buckets: Buckets = (0..360u64)
            .map(|slot| {
                let bucket = Bucket { count: 10, sums: [slot % 3, 5_120, 0, 0, 20_480, 10, 0, 0, 0, 0, 0], peak: 2 };
                (slot * 10, bucket)
            })
            .collect();
        let chunk = Chunk::of(0, &buckets);
        assert!(chunk.bytes().len() < 360 * 6, "{}", chunk.bytes().len());
    }
}
