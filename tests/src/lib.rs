//! What the tests share: the simulated grid.

pub mod simulation;
