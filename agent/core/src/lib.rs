//! The deciding part of an agent: told what was seen and what is asked, it answers with what to do. No IO, no clock.

mod admission;
pub mod agent;
pub mod alarm;
pub mod backup;
mod beat;
mod begin;
mod chain;
mod command;
pub mod event;
mod failover;
mod fence;
mod guests;
mod handover;
pub mod ledger;
pub mod memory;
mod order;
pub mod probe;
mod reconcile;
mod right;
#[cfg(test)]
mod sample;
mod show;
mod takeover;
mod told;

pub use agent::{Agent, Config};
pub use event::{Action, BackupOrder, Event, Lane, Made, Task, TaskId, TaskResult};
pub use failover::{GuardSeen, GuardWish};
pub use fence::Missed;
pub use ledger::{Change, Kept, Record, Stage};
pub use right::Right;
