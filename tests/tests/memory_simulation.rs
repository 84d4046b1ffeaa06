//! Memory density over simulated hosts and guests: nobody runs out of memory, nobody is squeezed too far, nothing
//! swings, and broken rules are noticed.

#![expect(clippy::print_stdout, reason = "a replayed seed is for reading")]

use roost_tests::memory::{Mutant, Summary, run};

/// Seeds in one run of the tests; `ROOST_SEEDS` asks for more, `ROOST_SEED` replays one and prints its transcript.
const SEEDS: u64 = 60;
/// Within so many seeds a broken rule must be noticed.
const SEEDS_PER_MUTANT: u64 = 100;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn no_guest_and_no_host_runs_out_of_memory_and_nothing_swings() {
    if let Some(seed) = number("ROOST_SEED") {
        match run(seed, None) {
            Ok(summary) => println!("{}\n{:?}", summary.transcript.join("\n"), told(&summary)),
            Err(broken) => panic!("{}\n{broken}", broken.transcript),
        }
        return;
    }
    let mut all = Vec::new();
    for seed in 0..number("ROOST_SEEDS").unwrap_or(SEEDS) {
        match run(seed, None) {
            Ok(summary) => all.push(summary),
            Err(broken) => {
                panic!(
                    "{broken}\nreplay: ROOST_SEED={seed} cargo nextest run -p roost-tests memory_simulation --no-capture"
                )
            }
        }
    }
    let most = |part: fn(&Summary) -> u64| all.iter().map(part).max().unwrap_or(0);
    let sum = |part: fn(&Summary) -> u64| all.iter().map(part).sum::<u64>();
    println!(
        "{} hours ({} ended as more was needed than there is): {} guests, {} starts refused, {} squeezes, {} rescues; at most {} changes of direction, {} s below \
         the reserve, {} permille overcommitted; least available {} permille; up to {} MiB saved by sharing",
        all.len(),
        all.iter().filter(|one| one.impossible).count(),
        sum(|one| u64::try_from(one.guests).unwrap_or(0)),
        sum(|one| u64::from(one.refused)),
        sum(|one| u64::from(one.squeezes)),
        sum(|one| u64::from(one.rescues)),
        most(|one| u64::from(one.most_changes)),
        most(|one| one.longest_below_reserve),
        most(|one| one.most_overcommit_permille),
        all.iter().map(|one| one.least_available).min().unwrap_or(0),
        most(|one| one.ksm_saved),
    );
    assert!(sum(|one| u64::from(one.squeezes)) > 0 && sum(|one| u64::from(one.refused)) > 0, "nothing was tried");
}

fn told(summary: &Summary) -> Summary {
    Summary { transcript: Vec::new(), ..summary.clone() }
}

#[test]
fn a_seed_replays_to_the_same_transcript() {
    let run = || run(7, None).map(|summary| summary.transcript).unwrap_or_else(|broken| vec![broken.transcript]);
    assert_eq!(run(), run());
}

fn is_noticed(mutant: Mutant) {
    let noticed = (0..SEEDS_PER_MUTANT).find_map(|seed| run(seed, Some(mutant)).err());
    let broken = noticed.unwrap_or_else(|| panic!("{mutant:?} lived through {SEEDS_PER_MUTANT} seeds"));
    println!("{mutant:?} noticed by {broken}");
}

#[test]
fn a_host_that_never_squeezes_is_noticed() {
    is_noticed(Mutant::NeverSqueezes);
}

#[test]
fn memory_that_is_not_given_back_is_noticed() {
    is_noticed(Mutant::NeverGivesBack);
}

#[test]
fn a_floor_that_is_not_kept_is_noticed() {
    is_noticed(Mutant::NoFloor);
}

#[test]
fn an_agent_that_forgets_is_noticed() {
    is_noticed(Mutant::Forgets);
}

#[test]
fn an_agent_that_admits_all_is_noticed() {
    is_noticed(Mutant::AdmitsAll);
}
