//! The real cores over a simulated network, hypervisor and clocks: promises hold whatever goes wrong, and broken rules
//! are noticed.

#![expect(clippy::print_stdout, reason = "a replayed seed is for reading")]

use roost_tests::simulation::{Faults, Mutant, run, run_with_backups};

/// Seeds in one run of the tests; `ROOST_SEEDS` asks for more, `ROOST_SEED` replays one and prints its transcript.
const SEEDS: u64 = 1_000;
/// Within so many seeds a broken rule must be noticed.
const SEEDS_PER_MUTANT: u64 = 300;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn all_seeds(first: u64, faults: Faults) {
    if let Some(seed) = number("ROOST_SEED") {
        match run(seed, faults, None) {
            Ok(world) => println!("{}", world.transcript().join("\n")),
            Err(broken) => panic!("{}\n{broken}", broken.transcript),
        }
        return;
    }
    let seeds = number("ROOST_SEEDS").unwrap_or(SEEDS);
    for seed in first..first + seeds / 2 {
        if let Err(broken) = run(seed, faults, None) {
            panic!("{broken}\nreplay: ROOST_SEED={seed} cargo nextest run -p roost-tests simulation --no-capture");
        }
    }
}

#[test]
fn promises_hold_whatever_goes_wrong() {
    all_seeds(0, Faults::KEEP_DATA);
}

#[test]
fn promises_hold_even_when_the_aggregator_loses_its_data() {
    all_seeds(100_000, Faults::ALL);
}

/// Seeds with backups: each sees some 300 points made.
const SEEDS_WITH_BACKUPS: u64 = 60;

fn backup_seeds(first: u64, alone: bool) {
    if let Some(seed) = number("ROOST_BACKUP_SEED") {
        match run_with_backups(seed, Faults::KEEP_DATA, None, alone) {
            Ok(world) => println!("{}", world.transcript().join("\n")),
            Err(broken) => panic!("{}\n{broken}", broken.transcript),
        }
        return;
    }
    let (mut made, mut late) = (0, 0);
    for seed in first..first + number("ROOST_SEEDS").unwrap_or(SEEDS_WITH_BACKUPS) / 2 {
        match run_with_backups(seed, Faults::KEEP_DATA, None, alone) {
            Ok(world) => {
                let (points, told) = world.backups_seen();
                (made, late) = (made + points, late + told);
            }
            Err(broken) => panic!(
                "{broken}\nreplay: ROOST_BACKUP_SEED={seed} cargo nextest run -p roost-tests simulation --no-capture"
            ),
        }
    }
    assert!(made > 0 && late > 0, "{made} points, {late} late: nothing was tried");
}

#[test]
fn backups_keep_their_promises_whatever_goes_wrong() {
    backup_seeds(0, false);
}

#[test]
fn backups_keep_their_promises_with_no_aggregator() {
    backup_seeds(10_000, true);
}

#[test]
fn a_backup_that_does_not_give_way_is_noticed() {
    let broken = |seed| run_with_backups(seed, Faults::KEEP_DATA, Some(Mutant::CancelIsLost), false).err();
    let noticed = (0..SEEDS_PER_MUTANT).find_map(broken);
    assert_eq!(noticed.map(|broken| broken.promise), Some("no point is torn by a start"));
}

#[test]
fn a_seed_replays_to_the_same_transcript() {
    let run = || run(7, Faults::ALL, None).unwrap().transcript().join("\n");
    assert_eq!(run(), run());
}

fn is_noticed(mutant: Mutant) {
    let noticed = (0..SEEDS_PER_MUTANT).find_map(|seed| run(seed, Faults::KEEP_DATA, Some(mutant)).err());
    let broken = noticed.unwrap_or_else(|| panic!("{mutant:?} lived through {SEEDS_PER_MUTANT} seeds"));
    println!("{mutant:?} noticed by seed {}: {}", broken.seed, broken.promise);
}

#[test]
fn a_ledger_that_forgets_commands_is_noticed() {
    is_noticed(Mutant::LedgerForgetsCommands);
}

#[test]
fn a_ledger_that_lies_is_noticed() {
    is_noticed(Mutant::LedgerLies);
}

#[test]
fn lost_beats_are_noticed() {
    is_noticed(Mutant::BeatsAreLost);
}

#[test]
fn forgotten_operations_are_noticed() {
    is_noticed(Mutant::OperationsForgotten);
}

#[test]
fn a_wish_that_is_not_kept_is_noticed() {
    is_noticed(Mutant::WishNotKept);
}
