//! What the benches share: figures, processes, and an aggregator of their own. Each bench measures the built programs and
//! prints one JSON line per figure.

pub mod aggregator;
pub mod api;
pub mod figure;
pub mod process;
