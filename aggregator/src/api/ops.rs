//! What each operation does, one file a noun.

pub(super) mod alarm;
pub(super) mod backup;
mod domain;
pub(super) mod event;
pub(super) mod failover;
pub(super) mod fence;
pub(super) mod find;
pub(super) mod grid;
pub(super) mod guest;
pub(super) mod history;
pub(super) mod host;
pub(super) mod image;
pub(super) mod memory;
pub(super) mod notifier;
pub(super) mod operation;
pub(super) mod policy;
pub(super) mod room;
pub(super) mod session;
pub(super) mod silence;
pub(super) mod token;
pub(super) mod user;
pub(super) mod watchdog;
