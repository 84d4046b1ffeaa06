//! The deciding part of the aggregator: the grid as its agents report it, the intent, operations and events. No IO.

pub mod call;
pub mod event;
pub mod grid;
pub mod intent;
pub mod operation;

pub use call::{Call, CallError, Reply};
pub use event::{Action, Event};
pub use grid::{Config, Grid};
pub use intent::{Intent, IntentChange};
