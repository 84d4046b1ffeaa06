//! What must hold at the end of every run, whatever went wrong in it.

use std::collections::BTreeMap;

use roost_agent_core::Stage;
use roost_aggregator_core::grid::Presence;
use roost_protocol::guest::{Power, PowerState, digest};

use super::world::World;

/// A promise that did not hold.
#[derive(Debug)]
pub struct Broken {
    pub promise: &'static str,
    pub seed: u64,
    pub detail: String,
    /// All that happened; shown is its end.
    pub transcript: String,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const END: usize = 60;
        let lines: Vec<&str> = self.transcript.lines().collect();
        let end = lines[lines.len().saturating_sub(END)..].join("\n");
        write!(f, "seed {}: {}: {}\n{end}", self.seed, self.promise, self.detail)
    }
}

impl std::error::Error for Broken {}

impl World {
    /// All promises.
    ///
    /// # Errors
    /// The first one that does not hold.
    pub fn check_promises(&self) -> Result<(), Broken> {
        self.both_sides_know_the_same()?;
        self.no_command_is_run_twice()?;
        self.no_acknowledged_operation_is_lost()?;
        self.wishes_are_kept()?;
        self.the_intent_survives()?;
        self.backups_are_well()
    }

    pub(crate) fn broken(&self, promise: &'static str, detail: String) -> Broken {
        let transcript = self.transcript.join("\n");
        Broken { promise, seed: self.seed, detail, transcript }
    }

    fn both_sides_know_the_same(&self) -> Result<(), Broken> {
        const PROMISE: &str = "after faults heal, the aggregator and every agent know the same guests";
        let Some(grid) = &self.aggregator.grid else {
            return Err(self.broken(PROMISE, "the aggregator is dead".into()));
        };
        for host in &self.hosts {
            let Some(agent) = &host.agent else { return Err(self.broken(PROMISE, "an agent is dead".into())) };
            let reports = agent.reports();
            let Some(shown) = grid.hosts().get(&host.id) else {
                return Err(self.broken(PROMISE, format!("host {} is not listed", host.id)));
            };
            if !matches!(shown.presence, Presence::Up { .. }) {
                return Err(self.broken(PROMISE, format!("host {} is {:?}", host.id, shown.presence)));
            }
            if digest(reports.iter()) != digest(shown.guests.values().map(|guest| &guest.report)) {
                return Err(self.broken(PROMISE, format!("digests of host {} differ", host.id)));
            }
            let truth: Vec<_> = host.guests.iter().map(|(id, machine)| (*id, machine.state)).collect();
            let told: Vec<_> = reports.iter().map(|report| (report.id, report.state)).collect();
            if truth != told {
                return Err(self.broken(PROMISE, format!("host {}: truth {truth:?}, told {told:?}", host.id)));
            }
        }
        Ok(())
    }

    fn no_command_is_run_twice(&self) -> Result<(), Broken> {
        const PROMISE: &str = "no command is run twice";
        let mut asked: BTreeMap<_, u32> = BTreeMap::new();
        for operation in &self.resets_asked {
            *asked.entry(*operation).or_default() += 1;
        }
        for host in &self.hosts {
            for (guest, done) in &host.resets {
                let most = asked.get(guest).copied().unwrap_or(0);
                if *done > most {
                    return Err(
                        self.broken(PROMISE, format!("guest {guest} was reset {done} times, asked {most} times"))
                    );
                }
            }
        }
        match &self.twice {
            Some(detail) => Err(self.broken(PROMISE, detail.clone())),
            None => Ok(()),
        }
    }

    fn no_acknowledged_operation_is_lost(&self) -> Result<(), Broken> {
        const PROMISE: &str = "an acknowledged operation ends";
        for (id, life) in &self.acknowledged {
            if *life != self.data_life {
                continue;
            }
            let operation = self.aggregator.grid.as_ref().and_then(|grid| grid.operations().get(id));
            match operation {
                None => return Err(self.broken(PROMISE, format!("operation {id} is forgotten"))),
                Some(operation) if !operation.state.ended() => {
                    return Err(self.broken(
                        PROMISE,
                        format!("operation {id} ({}) has not ended: {:?}", operation.verb.word(), operation.state),
                    ));
                }
                Some(operation) => {
                    let stored = self.aggregator.operations.get(id).map(|stored| &stored.state);
                    if stored != Some(&operation.state) {
                        return Err(self.broken(PROMISE, format!("operation {id} is not on disk as shown: {stored:?}")));
                    }
                }
            }
        }
        Ok(())
    }

    fn wishes_are_kept(&self) -> Result<(), Broken> {
        const PROMISE: &str = "a host keeps its guests as wished, by itself";
        for host in &self.hosts {
            for (guest, desired) in &host.ledger.wishes {
                let state = host.guests.get(guest).map(|machine| machine.state);
                let off = matches!(state, Some(PowerState::Off | PowerState::Crashed));
                if desired.power == Power::Running && off {
                    return Err(self.broken(PROMISE, format!("guest {guest} should run and is {state:?}")));
                }
            }
            let open = host.ledger.operations.values().filter(|record| record.stage == Stage::Taken).count();
            if open > 0 {
                return Err(self.broken(PROMISE, format!("host {} has {open} commands that never end", host.id)));
            }
            for guest in host.guests.keys() {
                let wish = host.ledger.wishes.get(guest).map(|desired| desired.power);
                if let Some(meant) = self.meant.get(guest).filter(|meant| **meant != wish) {
                    return Err(self
                        .broken(PROMISE, format!("guest {guest} is meant to be {meant:?}, its host keeps {wish:?}")));
                }
            }
        }
        Ok(())
    }

    fn the_intent_survives(&self) -> Result<(), Broken> {
        const PROMISE: &str = "hosts and users survive the loss of the aggregator's data";
        let intent = &self.aggregator.intent;
        if intent.hosts.len() == self.hosts.len() && intent.users.contains_key("admin") {
            return Ok(());
        }
        Err(self.broken(PROMISE, format!("{} hosts, {} users", intent.hosts.len(), intent.users.len())))
    }
}
