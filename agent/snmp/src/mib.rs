//! The objects that are served: which there are, and how a snapshot of the host becomes a tree of them.

pub mod arc;
mod grid;
pub mod note;
pub mod number;
mod roost;
mod rows;
#[cfg(test)]
mod test;
mod view;
mod vm;

pub use grid::GridView;
pub use view::{
    Access, AdminState, AgentState, Alarm, Backup, BackupState, Desk, Disk, Guest, Host, HostState, Ksm, Link, Media,
    Memory, Nic, OperState, Pin, Protocol, ReplicaState, SessionState, Source, View,
};

use roost_protocol::{Millis, Time};

use crate::session::Identity;
use crate::{Oid, Tree};

/// A snapshot that can be served.
pub trait Served: Send + Sync + 'static {
    /// How the subagent that serves it introduces itself.
    fn identity() -> Identity;

    /// All its objects. `now` is on the clock of its times; `uptime` is the master's sysUpTime then, absent before the
    /// master told it.
    fn tree(&self, now: Time, uptime: Option<Millis>) -> Tree;
}

impl Served for View {
    fn identity() -> Identity {
        Identity {
            id: Oid::join(&arc::ROOST, &[3, 1]),
            description: format!("roost-agent {}", env!("CARGO_PKG_VERSION")),
            subtrees: vec![Oid::from(&arc::VM[..]), Oid::from(&arc::ROOST[..])],
        }
    }

    /// The time of vmTable's last change is told on the master's clock.
    fn tree(&self, now: Time, uptime: Option<Millis>) -> Tree {
        let mut rows = rows::Rows::default();
        vm::add(&mut rows, self, now, uptime);
        roost::add(&mut rows, self, now);
        rows.into_tree()
    }
}
