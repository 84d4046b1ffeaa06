//! Words that agent and aggregator share, and how they travel. `codec` is the only file that knows CBOR on the
//! outside; field numbers are the version rule: a new field gets a new number, unknown numbers are skipped.

pub mod alarm;
pub mod backup;
pub mod calendar;
pub mod cause;
pub mod codec;
pub mod damper;
pub mod document;
pub mod enrol;
pub mod failover;
pub mod fence;
pub mod guest;
mod hidden;
pub mod host;
pub mod id;
pub mod identity;
pub mod image;
pub mod look;
pub mod memory;
pub mod message;
pub mod operation;
pub mod peer;
pub mod probe;
pub mod transport;
pub mod unit;

pub use hidden::Hidden;
pub use id::{Epoch, Generation, GridId, GuestId, HostId, OperationId, PointId};
pub use unit::{MiB, Millis, Stamp, Time};
