//! One simulated host: an agent core, its durable ledger, a hypervisor with guests that live on without the agent.

use std::collections::{BTreeMap, BTreeSet};

use roost_agent_core::event::{Cause, Seen};
use roost_agent_core::{Agent, Change, Config, Kept, Stage, Task, TaskId};
use roost_protocol::backup::BackupSummary;
use roost_protocol::guest::PowerState;
use roost_protocol::host::HostFacts;
use roost_protocol::{GuestId, HostId, MiB, Millis, PointId, Stamp, Time};

use super::Mutant;
use super::backup::{Begun, limits};

/// A host.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) id: HostId,
    /// Absent: the agent is dead.
    pub(crate) agent: Option<Agent>,
    /// Rises with each life of the agent; work of an earlier life comes to nothing.
    pub(crate) life: u64,
    pub(crate) ledger: Kept,
    pub(crate) document: Vec<u8>,
    pub(crate) disk_full: bool,
    pub(crate) libvirt_up: bool,
    pub(crate) guests: BTreeMap<GuestId, Machine>,
    pub(crate) tasks: BTreeMap<TaskId, Task>,
    pub(crate) cut: bool,
    /// Local milliseconds per true thousand.
    pub(crate) rate: u64,
    pub(crate) wall_ahead: u64,
    /// What the truth recorder counts.
    pub(crate) resets: BTreeMap<GuestId, u32>,
    pub(crate) forced: u32,
    /// The backup store: outlives the agent.
    pub(crate) store: BTreeMap<PointId, BackupSummary>,
    /// Points that verification will find damaged.
    pub(crate) rotten: BTreeSet<PointId>,
    /// Points kept for guests of other hosts.
    pub(crate) held: BTreeMap<PointId, GuestId>,
    pub(crate) cancelled: BTreeSet<TaskId>,
    pub(crate) begun: BTreeMap<TaskId, Begun>,
    /// The agent has seen all guests in this life.
    pub(crate) looked: bool,
    /// When the wall clock last leapt.
    pub(crate) clock_moved: u64,
}

/// One guest as it really is.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) name: String,
    pub(crate) state: PowerState,
    pub(crate) cause: Cause,
}

impl Host {
    pub(crate) fn new(number: u64, guests: u64) -> Self {
        let machine = |index: u64| Machine {
            name: format!("guest-{number}-{index}"),
            state: PowerState::Running,
            cause: Cause::Booted,
        };
        let guests = (0..guests).map(|index| (GuestId::from_u128(u128::from(number * 100 + index)), machine(index)));
        Self {
            id: HostId::from_u128(u128::from(number)),
            agent: None,
            life: 0,
            ledger: Kept::default(),
            document: Vec::new(),
            disk_full: false,
            libvirt_up: true,
            guests: guests.collect(),
            tasks: BTreeMap::new(),
            cut: false,
            rate: 1_000,
            wall_ahead: 0,
            resets: BTreeMap::new(),
            forced: 0,
            store: BTreeMap::new(),
            rotten: BTreeSet::new(),
            held: BTreeMap::new(),
            cancelled: BTreeSet::new(),
            begun: BTreeMap::new(),
            looked: false,
            clock_moved: 0,
        }
    }

    pub(crate) fn config(&self) -> Config {
        let facts = HostFacts { name: format!("host-{}", self.id), ..HostFacts::default() };
        Config {
            host: self.id,
            facts,
            list_every: Millis::seconds(30),
            restart_first: Millis::seconds(1),
            restart_longest: Millis::seconds(20),
            backup: limits(),
            guarded: false,
        }
    }

    pub(crate) fn time(&self, now: u64) -> Time {
        Time(now * self.rate / 1_000)
    }

    /// The true time at which the local clock shows `time`.
    pub(crate) fn true_time(&self, time: Time) -> u64 {
        (time.0 * 1_000).div_ceil(self.rate)
    }

    pub(crate) fn wall(&self, now: u64) -> Stamp {
        Stamp(1_800_000_000_000 + now + self.wall_ahead)
    }

    pub(crate) fn seen(&self, guest: GuestId) -> Option<Seen> {
        let machine = self.guests.get(&guest)?;
        Some(Seen {
            guest,
            name: machine.name.clone(),
            state: machine.state,
            cause: machine.cause,
            persistent: true,
            vcpus: 1,
            memory_mib: MiB(64),
            disks: Vec::new(),
        })
    }

    pub(crate) fn all_seen(&self) -> Vec<Seen> {
        self.guests.keys().filter_map(|guest| self.seen(*guest)).collect()
    }

    /// Writes to the ledger, as one transaction.
    pub(crate) fn persist(&mut self, changes: &[Change], mutant: Option<Mutant>) -> bool {
        if self.disk_full {
            return false;
        }
        if mutant == Some(Mutant::LedgerLies) {
            return true;
        }
        for change in changes {
            match change {
                Change::Wish { .. } if mutant == Some(Mutant::WishNotKept) => {}
                Change::Wish { guest, desired: Some(desired) } => {
                    self.ledger.wishes.insert(*guest, *desired);
                }
                Change::Wish { guest, desired: None } => {
                    self.ledger.wishes.remove(guest);
                }
                Change::Operation { record } => {
                    self.ledger.operations.insert(record.command.operation, record.clone());
                }
                Change::Forget { operation } => {
                    self.ledger.operations.remove(operation);
                }
                Change::Epoch(epoch) => self.ledger.epoch = *epoch,
                Change::Policy { guest, policy: Some(policy) } => {
                    self.ledger.policies.insert(*guest, (**policy).clone());
                }
                Change::Policy { guest, policy: None } => {
                    self.ledger.policies.remove(guest);
                }
                Change::Run { guest, run: Some(run) } => {
                    self.ledger.runs.insert(*guest, (**run).clone());
                }
                Change::Run { guest, run: None } => {
                    self.ledger.runs.remove(guest);
                }
                Change::Peers(peers) => self.ledger.peers.clone_from(peers),
                Change::Shares(shares) => self.ledger.shares.clone_from(shares),
                Change::Maintenance(it) => self.ledger.maintenance = *it,
                Change::Zone(zone) => self.ledger.zone.clone_from(zone),
                Change::Probes(probes) => self.ledger.probes.clone_from(probes),
                Change::Memory(policy) => self.ledger.memory = policy.as_deref().cloned(),
            }
        }
        true
    }

    /// A new life of the agent, from what its ledger kept.
    pub(crate) fn begin_life(&mut self, mutant: Option<Mutant>) {
        self.life += 1;
        self.tasks.clear();
        self.cancelled.clear();
        self.begun.clear();
        self.looked = false;
        let mut kept = self.ledger.clone();
        if mutant == Some(Mutant::LedgerForgetsCommands) {
            kept.operations.retain(|_, record| record.stage != Stage::Taken);
        }
        self.agent = Some(Agent::new(self.config(), kept));
    }

    /// Carries out a task on the real guests; true when a guest changed.
    pub(crate) fn carry_out(&mut self, task: &Task) -> Result<GuestId, String> {
        let guest = task.guest();
        if let Task::Create { spec, .. } = task {
            let machine = Machine { name: spec.name.clone(), state: PowerState::Off, cause: Cause::Unknown };
            if self.guests.insert(guest, machine).is_some() {
                return Err("created twice".into());
            }
            return Ok(guest);
        }
        let Some(machine) = self.guests.get_mut(&guest) else { return Err("no such guest".into()) };
        let (state, cause) = match task {
            Task::Start { .. } => (PowerState::Running, Cause::Booted),
            Task::Shutdown { .. } => (PowerState::Off, Cause::ShutDown),
            Task::ForceOff { .. } => (PowerState::Off, Cause::Destroyed),
            Task::Pause { .. } => (PowerState::Paused, Cause::ByUser),
            Task::Resume { .. } => (PowerState::Running, Cause::ByUser),
            Task::Reset { .. } => (machine.state, machine.cause),
            Task::Delete { .. } => {
                self.guests.remove(&guest);
                return Ok(guest);
            }
            Task::Create { .. }
            | Task::Import { .. }
            | Task::CleanUp { .. }
            | Task::Backup { .. }
            | Task::Ship { .. }
            | Task::Restore { .. }
            | Task::Pull { .. }
            | Task::Verify { .. }
            | Task::Prune { .. }
            | Task::Pin { .. }
            | Task::Prove { .. } => return Ok(guest),
        };
        (machine.state, machine.cause) = (state, cause);
        match task {
            Task::Reset { .. } => *self.resets.entry(guest).or_default() += 1,
            Task::ForceOff { .. } => self.forced += 1,
            Task::Create { .. }
            | Task::Import { .. }
            | Task::Start { .. }
            | Task::Shutdown { .. }
            | Task::Pause { .. }
            | Task::Resume { .. }
            | Task::Delete { .. }
            | Task::CleanUp { .. }
            | Task::Backup { .. }
            | Task::Ship { .. }
            | Task::Restore { .. }
            | Task::Pull { .. }
            | Task::Verify { .. }
            | Task::Prune { .. }
            | Task::Pin { .. }
            | Task::Prove { .. } => {}
        }
        Ok(guest)
    }
}
