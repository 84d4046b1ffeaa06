//! The memory room over a simulated host with simulated guests: one hour from a seed, with promises as assertions.
//!
//! What is possible is asked for, no more: at each second what programs need, and guests that can't be squeezed in full,
//! fit into the host with a tenth to spare. All the rest (caches, promised memory, pages touched once) is overcommitted.

mod guest;
mod host;
mod promise;
mod trace;
mod world;

pub use promise::Broken;
pub use world::{Mutant, Summary, run};
