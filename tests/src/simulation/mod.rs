//! The real cores of several agents and one aggregator, over a simulated network, hypervisor, ledger and clocks, from a
//! seed. Same seed, same run.

mod aggregator;
mod backup;
mod client;
mod faults;
mod host;
mod life;
mod network;
mod promise;
pub(crate) mod random;
mod world;

pub use faults::Faults;
pub use promise::Broken;
pub use world::{Setting, World};

/// A rule broken on purpose, to see that the promises notice. Only tests set one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// The ledger forgets which commands were taken when the agent restarts.
    LedgerForgetsCommands,
    /// The ledger says it wrote, and did not.
    LedgerLies,
    /// The aggregator's wish for a snapshot is lost, and so is each tenth beat.
    BeatsAreLost,
    /// The aggregator forgets operations that have not ended when it restarts.
    OperationsForgotten,
    /// A backup that is asked to give way goes on, and publishes what it read.
    CancelIsLost,
    /// A guest that is switched off on purpose is started again: the wish is not set before the act.
    WishNotKept,
}

/// Seconds that a backup under way at the end may take.
const CATCH_UP: u32 = 60;

/// Runs one seed.
///
/// # Errors
/// The promise that was broken; its text has the transcript's end.
pub fn run(seed: u64, faults: Faults, mutant: Option<Mutant>) -> Result<World, Broken> {
    live(seed, Setting { hosts: 3, guests: 4, faults, mutant, backups: false, alone: false })
}

/// Runs one seed with backups, schedules each 20 seconds and replicas; `alone`: without an aggregator until faults heal.
///
/// # Errors
/// As [`run`].
pub fn run_with_backups(seed: u64, faults: Faults, mutant: Option<Mutant>, alone: bool) -> Result<World, Broken> {
    live(seed, Setting { hosts: 3, guests: 4, faults, mutant, backups: true, alone })
}

fn live(seed: u64, setting: Setting) -> Result<World, Broken> {
    let mut world = World::new(seed, setting);
    world.live(120_000)?;
    world.heal();
    world.settle(180_000)?;
    // A point may be found damaged at any moment, also the last one: the one in its place is waited for, not excused.
    for _ in 0..CATCH_UP {
        if !world.is_catching_up() {
            break;
        }
        world.settle(1_000)?;
    }
    world.check_promises()?;
    Ok(world)
}
