//! What must hold in every second of a run.

use std::fmt;

/// Most changes between taking and giving of one guest in an hour.
pub(super) const DIRECTION_CHANGES: u32 = 24;
/// The reserve may be touched for so many seconds in a row.
pub(super) const RELIEF: u64 = 120;
/// At the end of a run, after so many quiet seconds, either all guests have all their memory again or so little is left
/// to the host (permille) that they can't.
pub(super) const QUIET: u64 = 900;
pub(super) const HOARDED: u64 = 400;
/// A promise that did not hold.
#[derive(Clone, Debug)]
pub struct Broken {
    pub seed: u64,
    pub second: u64,
    pub promise: String,
    pub transcript: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {} at {} s: {}", self.seed, self.second, self.promise)
    }
}

impl std::error::Error for Broken {}
