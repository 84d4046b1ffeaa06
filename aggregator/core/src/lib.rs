//! The deciding part of the aggregator: the grid as its agents report it, the intent, operations and events. No IO.

pub mod account;
pub mod backup;
pub mod call;
mod calls;
pub mod chains;
mod commands;
mod councils;
pub mod event;
pub mod fence;
pub mod grid;
mod history;
mod hosts;
pub mod intent;
mod joining;
mod lapse;
mod loss;
mod maintenance;
mod memory;
pub mod notify;
pub mod operation;
pub mod peers;
mod placement;
mod places;
mod probes;
mod protection;
pub mod reboot;
mod takeover;
#[cfg(test)]
mod test;
pub mod watchdog;
pub mod witness;
mod zones;

pub use call::{Call, CallError, CallErrorCode, Done, Reply};
pub use event::{Action, Event, GridEvent};
pub use grid::{Config, Grid};
pub use intent::{Intent, IntentChange};
pub use loss::{Fate, Loss};
pub use protection::Protection;
