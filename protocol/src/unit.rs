//! Numbers with their units.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, Sub};

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// A span in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
#[cbor(transparent)]
#[serde(transparent)]
pub struct Millis(#[n(0)] pub u64);

impl Millis {
    /// A span of whole seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1_000))
    }
}

/// A point on one machine's monotonic clock, in milliseconds. Never sent to another machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// How long `earlier` lies back; zero if it doesn't.
    #[must_use]
    pub const fn since(self, earlier: Time) -> Millis {
        Millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Millis> for Time {
    type Output = Time;
    fn add(self, span: Millis) -> Time {
        Time(self.0.saturating_add(span.0))
    }
}

impl Sub<Millis> for Time {
    type Output = Time;
    fn sub(self, span: Millis) -> Time {
        Time(self.0.saturating_sub(span.0))
    }
}

/// Wall-clock time, milliseconds since 1970-01-01 UTC: for people to read. Nothing is decided by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
#[cbor(transparent)]
#[serde(transparent)]
pub struct Stamp(#[n(0)] pub u64);

/// Memory or disk in mebibytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
#[cbor(transparent)]
#[serde(transparent)]
pub struct MiB(#[n(0)] pub u64);

impl MiB {
    /// The same in bytes.
    pub const fn bytes(self) -> u64 {
        self.0.saturating_mul(1 << 20)
    }

    /// Whole mebibytes in so many bytes.
    pub const fn of_bytes(bytes: u64) -> Self {
        Self(bytes >> 20)
    }

    /// So many thousandths of it, rounded down.
    #[must_use]
    pub fn permille(self, permille: u32) -> Self {
        Self(self.0.saturating_mul(u64::from(permille)) / 1_000)
    }
}

impl Add for MiB {
    type Output = MiB;
    fn add(self, other: MiB) -> MiB {
        MiB(self.0.saturating_add(other.0))
    }
}

/// Never below zero.
impl Sub for MiB {
    type Output = MiB;
    fn sub(self, other: MiB) -> MiB {
        MiB(self.0.saturating_sub(other.0))
    }
}

impl Sum for MiB {
    fn sum<I: Iterator<Item = MiB>>(all: I) -> MiB {
        all.fold(MiB(0), |sum, one| sum + one)
    }
}

impl fmt::Display for MiB {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0)
    }
}
