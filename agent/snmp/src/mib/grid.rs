//! roostGrid of ROOST-MIB: what only the aggregator knows. Pools have no objects here until there are some.

use roost_protocol::{Millis, Time};

use super::Served;
use super::arc::ROOST;
use super::rows::Rows;
use crate::session::Identity;
use crate::{Oid, Tree, Value};

/// Its group; a host's subagent on the same machine registers all of ROOST-MIB, and the longer one of two counts
/// (RFC 2741, 7.1.4.1).
const GROUP: [u32; 2] = [1, 5];

/// The grid at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GridView {
    pub hosts_up: u64,
    pub hosts_down: u64,
    /// Takeovers that were begun, and of them those that failed; both rise.
    pub failovers: u64,
    pub failovers_failed: u64,
}

impl Served for GridView {
    fn identity() -> Identity {
        let group = Oid::join(&ROOST, &GROUP);
        let description = format!("roost-aggregator {}", env!("CARGO_PKG_VERSION"));
        Identity { id: group.clone(), description, subtrees: vec![group] }
    }

    fn tree(&self, _: Time, _: Option<Millis>) -> Tree {
        let mut rows = Rows::default();
        let values = vec![
            Value::gauge(self.hosts_up),
            Value::gauge(self.hosts_down),
            Value::counter(self.failovers),
            Value::counter(self.failovers_failed),
        ];
        rows.scalars(&Oid::join(&ROOST, &GROUP), values);
        rows.into_tree()
    }
}
