//! Storms on real grids: which faults come when (from a seed), how each is done to real processes, and a recorder that
//! knows nothing of Roost and says which host executed which guest.

mod fault;
mod inflict;
mod recorder;

pub use fault::{AggregatorFault, Fault, GuestFault, HostFault, Planned, plan};
pub use inflict::{Storm, processes};
pub use recorder::{Recorder, Run, doubles};
