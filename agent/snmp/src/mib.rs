//! The objects that are served: which there are, and how a snapshot of the host becomes a tree of them.

pub mod arc;
pub mod note;
pub mod number;
mod roost;
mod rows;
#[cfg(test)]
mod test;
mod view;
mod vm;

pub use view::{
    Access, AdminState, AgentState, Alarm, Backup, BackupState, Desk, Disk, Guest, Host, HostState, Ksm, Link, Media,
    Memory, Nic, OperState, Pin, Protocol, ReplicaState, SessionState, Source, View,
};

use roost_protocol::{Millis, Time};

use crate::session::Identity;
use crate::{Oid, Tree};

/// How the subagent introduces itself.
pub fn identity() -> Identity {
    Identity {
        id: Oid::join(&arc::ROOST, &[3, 1]),
        description: format!("roost-agent {}", env!("CARGO_PKG_VERSION")),
        subtrees: vec![Oid::from(&arc::VM[..]), Oid::from(&arc::ROOST[..])],
    }
}

/// All objects of this snapshot. `now` is on the clock of the times in `view`; `uptime` is the master's sysUpTime then,
/// on which the time of vmTable's last change is told.
pub fn tree(view: &View, now: Time, uptime: Option<Millis>) -> Tree {
    let mut rows = rows::Rows::default();
    vm::add(&mut rows, view, now, uptime);
    roost::add(&mut rows, view, now);
    rows.into_tree()
}
