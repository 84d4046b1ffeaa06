//! Many buckets in few bytes: each is told by what differs from the one before. An idle guest's takes about five bytes.

use super::law::{Bucket, Buckets, LANES};

/// First byte of a chunk. Since 2 whoever reads skips lanes that it doesn't know, so that more of them need no new
/// version.
const VERSION: u8 = 2;
/// The same for readers that know eleven lanes and stop at more: as long as there are no more, they can read on.
const ELEVEN: u8 = 1;
/// The mask's first bit that those don't know.
const TWELFTH: u64 = 1 << 13;
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
        Self { bytes: vec![ELEVEN], at: start, last: [0; NUMBERS] }
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
        let mask: u64 = (0..NUMBERS).filter(differs).map(|lane| 1 << lane).sum();
        if mask >= TWELFTH
            && let Some(version) = self.bytes.first_mut()
        {
            *version = VERSION;
        }
        put(&mut self.bytes, mask);
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
    // Another one is of a later version.
    let known = matches!(bytes.split_off_first(), Some(&(VERSION | ELEVEN)));
    let (mut at, mut last) = (start, [0u64; NUMBERS]);
    let next = move || {
        if bytes.is_empty() {
            return None;
        }
        at = at.checked_add(get(&mut bytes)?)?;
        let mut mask = get(&mut bytes)?;
        while mask != 0 {
            let lane = usize::try_from(mask.trailing_zeros()).ok()?;
            mask &= mask - 1;
            let difference = unzigzag(get(&mut bytes)?);
            if let Some(number) = last.get_mut(lane) {
                *number = number.wrapping_add(difference);
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
                let mut sums = [0; LANES];
                sums[..6].copy_from_slice(&[slot % 3, 5_120, 0, 0, 20_480, 10]);
                (slot * 10, Bucket { count: 10, sums, peak: 2 })
            })
            .collect();
        let chunk = Chunk::of(0, &buckets);
        assert!(chunk.bytes().len() < 360 * 6, "{}", chunk.bytes().len());
    }

    #[test]
    fn chunks_of_eleven_lanes_and_of_more_than_there_are_now_are_read() {
        // Two buckets: the first has 10 samples, a peak of 5 and 3 in the last of eleven lanes; the second one sample less.
        let eleven = [1, 0, 0b1000_0011, 0b10_0000, 20, 10, 6, 10, 1, 1];
        let read = |bytes: &[u8]| super::read(0, bytes).collect::<Vec<_>>();
        let mut sums = [0; LANES];
        sums[10] = 3;
        let first = Bucket { count: 10, sums, peak: 5 };
        assert_eq!(read(&eleven), [(0, first), (10, Bucket { count: 9, ..first })]);
        // Lane 60, told as one more in each: the numbers after it keep their places.
        let more = [2, 0, 0x81, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10, 20, 2, 10, 1, 1];
        assert_eq!(read(&more).iter().map(|(at, bucket)| (*at, bucket.count)).collect::<Vec<_>>(), [(0, 10), (10, 9)]);
        assert_eq!(read(&[3, 0, 1, 20]), []);
    }
}
