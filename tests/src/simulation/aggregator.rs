//! The simulated aggregator: a grid core and its durable intent and operations, which can be lost.

use std::collections::BTreeMap;

use roost_aggregator_core::intent::{HostRecord, Intent, UserRecord};
use roost_aggregator_core::operation::Operation;
use roost_aggregator_core::{Config, Grid};
use roost_protocol::{Epoch, GridId, HostId, Millis, OperationId, Stamp};

use super::Mutant;

/// An aggregator.
#[derive(Debug)]
pub(crate) struct Aggregator {
    /// Absent: it is dead.
    pub(crate) grid: Option<Grid>,
    pub(crate) intent: Intent,
    pub(crate) operations: BTreeMap<OperationId, Operation>,
    pub(crate) epoch: Epoch,
    /// The database was lost and no document came back yet.
    pub(crate) empty: bool,
}

impl Aggregator {
    pub(crate) fn new(hosts: &[HostId]) -> Self {
        let record = |id: &HostId| HostRecord::new(format!("host-{id}"), key(*id), Stamp(0));
        let user = UserRecord { password_hash: String::new(), created: Stamp(0), full_name: String::new() };
        let mut intent = Intent { hosts: hosts.iter().map(|id| (*id, record(id))).collect(), ..Intent::default() };
        intent.users.insert("admin".into(), user);
        intent.generation = intent.generation.next();
        Self { grid: None, intent, operations: BTreeMap::new(), epoch: Epoch(0), empty: false }
    }

    pub(crate) fn begin_life(&mut self, mutant: Option<Mutant>) {
        self.epoch = self.epoch.next();
        let mut operations: Vec<Operation> = self.operations.values().cloned().collect();
        if mutant == Some(Mutant::OperationsForgotten) {
            operations.retain(|operation| operation.state.ended());
        }
        let config = Config {
            grid: GridId::from_u128(1),
            epoch: self.epoch,
            suspect_after: Millis::seconds(5),
            down_after: Millis::seconds(15),
            recovering: self.empty,
        };
        self.grid = Some(Grid::new(config, self.intent.clone(), operations));
    }

    /// The data directory is deleted; the grid key is kept.
    pub(crate) fn lose_data(&mut self) {
        self.intent = Intent::default();
        self.operations.clear();
        self.empty = true;
    }
}

/// The key a simulated host proves.
pub(crate) fn key(host: HostId) -> [u8; 32] {
    let mut key = [0; 32];
    key[..16].copy_from_slice(&host.bytes());
    key
}
