//! Timed simulation of one ward: the shipped state machines with real timers on machines with clocks that differ, a
//! network that loses and delays, disks that take time, guests that start slowly and get stuck, and faults. What really
//! executes is recorded apart from what the protocol believes.

mod fault;
mod guest;
mod machine;
mod network;
mod random;
mod sentence;
mod storm;
mod story;
mod truth;
mod world;

pub use fault::{Fault, Step};
pub use storm::{Figures, Storm, losses, recovery, run_ahead, storm, storm_on};
pub use story::tell;
pub use truth::Truth;
pub use world::{Grid, World};
