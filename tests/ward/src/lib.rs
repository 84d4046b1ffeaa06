//! The ward protocol under test: an exhaustive model and a timed simulator, both driving the code that ships. A crate of
//! its own, since both live from speed and need nothing but the protocol.

pub mod model;
pub mod simulation;
