//! What the tests share: the simulated grid, and the real one.

pub mod grid;
pub mod guards;
pub mod memory;
pub mod page_sharing;
pub mod simulation;
pub mod storm;
