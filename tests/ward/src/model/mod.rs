//! Exhaustive model of one ward: the shipped state machines under every interleaving of deliveries, losses, delays,
//! ticks, crashes and stuck programs, within small bounds. Time is in ticks; what a machine does is its own code, what
//! happens to it is chosen here.

mod explore;
mod heal;
mod host;
mod net;
mod setting;
mod state;

pub use explore::{Outcome, explore};
pub use setting::{Budget, Edge, Setting};
pub use state::{Act, Broken};
