//! The ward protocol with real timers: whatever goes wrong, no guest executes twice, and it comes back.

#![expect(clippy::print_stdout, reason = "figures are for reading")]

use roost_protocol::Millis;
use roost_ward::{Fence, NORMAL, Policy, Profile, Rule, Rules, Timers};
use roost_ward_tests::simulation::{Fault, Figures, Grid, Storm, losses, recovery, run_ahead, storm, storm_on};

/// Hours of the world in one storm; `ROOST_HOURS` asks for more, `ROOST_AFTER` goes on after so many that were played
/// before, `ROOST_SEED` replays one and tells what happened.
const HOURS: u64 = 2_500;
/// How far a long storm is gets told after so many.
const STEP: u64 = 10_000;
/// Runs of one fault each; their figures are the promises of the documents.
const RUNS: u64 = 100;
/// Within so many hours a broken rule must be noticed.
const HOURS_PER_MUTANT: u64 = 2_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

const NORMAL_STORM: Storm = Storm { profile: Profile::Normal, rules: Rules::ALL, without: &[], told: false };

/// Profiles as they are: the change between them would hide a timer that is wrong on purpose.
const ONE_PROFILE: &[Fault] = &[Fault::ProfileChanges];

fn weather(name: &str, what: &Storm, first: u64) {
    let one = number("ROOST_SEED");
    let first = first + number("ROOST_AFTER").unwrap_or(0);
    let what = Storm { told: one.is_some(), ..*what };
    let seeds = one.map_or(first..first + number("ROOST_HOURS").unwrap_or(HOURS), |seed| seed..seed + 1);
    let started = std::time::Instant::now();
    let mut figures = Figures::default();
    for first in seeds.clone().step_by(usize::try_from(STEP).unwrap_or(usize::MAX)) {
        storm_on(&what, first..seeds.end.min(first + STEP), &mut figures);
        println!("{}{name}: {figures}; {:.1} s", figures.transcript, started.elapsed().as_secs_f64());
        assert_eq!((figures.doubles, figures.not_one), (0, 0), "replay with ROOST_SEED: {figures}");
    }
}

#[test]
fn no_guest_runs_twice_in_a_storm() {
    weather("normal", &NORMAL_STORM, 0);
}

#[test]
fn no_guest_runs_twice_in_a_later_storm() {
    weather("normal", &NORMAL_STORM, 1_000_000);
}

#[test]
fn no_guest_runs_twice_in_a_storm_with_fast_timers() {
    weather("fast", &Storm { profile: Profile::Fast, without: ONE_PROFILE, ..NORMAL_STORM }, 2_000_000);
}

#[test]
fn no_guest_runs_twice_in_a_storm_with_calm_timers() {
    weather("calm", &Storm { profile: Profile::Calm, without: ONE_PROFILE, ..NORMAL_STORM }, 3_000_000);
}

#[test]
fn a_promise_that_is_too_short_is_noticed() {
    let promise = Millis(20_000);
    let profile = Profile::Custom(Timers { promise, ..NORMAL });
    let rules = Rules::ALL.with_unsafe_timers();
    let figures = noticed(&Storm { profile, rules, without: ONE_PROFILE, told: false });
    println!("promise of 20 s: {figures}");
}

fn noticed(what: &Storm) -> Figures {
    for first in (0..HOURS_PER_MUTANT).step_by(100) {
        let figures = storm(what, first..first + 100);
        if figures.doubles > 0 {
            return figures;
        }
    }
    panic!("lived through {HOURS_PER_MUTANT} hours: {what:?}");
}

#[test]
fn every_rule_that_is_left_out_is_noticed() {
    for rule in [Rule::WaitForPromise, Rule::Majority, Rule::PetWithLease] {
        let figures = noticed(&Storm { rules: Rules::ALL.without(rule), without: ONE_PROFILE, ..NORMAL_STORM });
        println!("without {rule:?}: {figures}");
    }
}

fn grid(hosts: usize, voters: usize, profile: Profile) -> Grid {
    Grid { hosts, voters, policy: Policy::Strict, profile, rules: Rules::ALL, exact: false }
}

fn recovers(name: &str, grid: &Grid, before: Option<Fault>, fault: Fault, p50: u64, p99: u64) {
    let figures = recovery(grid, before, fault, 0..RUNS);
    println!("{name}: {figures}");
    assert_eq!(figures.doubles, 0, "{name}: {figures}");
    assert_eq!(u64::try_from(figures.outages.len()), Ok(RUNS), "{name}: {figures}");
    assert!(figures.outage(500) <= p50 && figures.outage(990) <= p99, "{name}: {figures}");
}

#[test]
fn a_dead_host_s_guests_run_again_in_time() {
    let (three, five) = (grid(2, 3, Profile::Normal), grid(3, 5, Profile::Normal));
    recovers("power loss", &three, None, Fault::OwnerLosesPower, 24_000, 26_000);
    recovers("isolated", &three, None, Fault::OwnerIsolated, 24_000, 26_000);
    recovers("hangs", &three, None, Fault::OwnerHangs, 24_000, 26_000);
    recovers("isolated, can't pause", &three, None, Fault::OwnerIsolatedPauseStuck, 24_000, 26_000);
    recovers("isolated, can't stop", &three, None, Fault::OwnerIsolatedAllStuck, 24_000, 26_000);
    let before = Some(Fault::AggregatorDies);
    recovers("power loss without aggregator, 5 voters", &five, before, Fault::OwnerLosesPower, 24_000, 26_000);
    let fast = grid(2, 3, Profile::Fast);
    recovers("fast, power loss", &fast, None, Fault::OwnerLosesPower, 12_500, 14_000);
}

/// Not offered: no watchdog was tried whose time-out is that short.
const SWIFT: Timers = Timers {
    renew: Millis(200),
    lease: Millis(2_000),
    fence: Some(Fence { pause: Millis(500), kill: Millis(500), watchdog: Millis(2_000), reset: Millis(1_000) }),
    promise: Millis(5_502),
    ..NORMAL
};

#[test]
fn a_watchdog_of_two_seconds_would_have_guests_back_in_eight() {
    assert_eq!(SWIFT.check(), Ok(()));
    let swift = Profile::Custom(SWIFT);
    recovers("swift, power loss", &grid(2, 3, swift), None, Fault::OwnerLosesPower, 7_500, 8_500);
    let lossy = losses(&grid(2, 3, swift), 200, 24, 0..2);
    println!("swift, 20 % loss: {lossy}");
    assert_eq!((lossy.counts.pauses, lossy.doubles), (0, 0), "{lossy}");
    let figures = storm(&Storm { profile: swift, without: ONE_PROFILE, ..NORMAL_STORM }, 5_000_000..5_000_050);
    println!("swift: {figures}");
    assert_eq!(figures.doubles, 0, "{figures}");
}

#[test]
fn a_host_that_is_cut_off_pauses_and_is_not_reset() {
    let three = grid(2, 3, Profile::Normal);
    let pausing = recovery(&three, None, Fault::OwnerIsolated, 0..RUNS);
    assert_eq!((pausing.counts.pauses, pausing.counts.resets), (RUNS, 0), "{pausing}");
    let rules = Rules::ALL.without(Rule::PauseAtEnd);
    let stubborn = recovery(&Grid { rules, ..three }, None, Fault::OwnerIsolated, 0..RUNS);
    assert_eq!((stubborn.counts.pauses, stubborn.counts.resets), (0, RUNS), "{stubborn}");
}

#[test]
fn nothing_that_happens_to_the_aggregator_disturbs_a_guest() {
    for (hosts, voters) in [(2, 3), (3, 5)] {
        for fault in [Fault::AggregatorDies, Fault::AggregatorIsolated, Fault::AggregatorLosesStore] {
            let figures = recovery(&grid(hosts, voters, Profile::Normal), None, fault, 0..RUNS);
            println!("{fault:?}, {voters} voters: {figures}");
            assert_eq!((figures.outages.len(), figures.doubles), (0, 0), "{fault:?}: {figures}");
        }
    }
}

#[test]
fn blips_and_restarts_of_the_guard_disturb_no_guest() {
    for fault in [Fault::Blip, Fault::GuardCrashes] {
        let figures = recovery(&grid(2, 3, Profile::Normal), None, fault, 0..RUNS);
        println!("{fault:?}: {figures}");
        assert_eq!((figures.outages.len(), figures.doubles), (0, 0), "{fault:?}: {figures}");
    }
}

#[test]
fn a_fifth_of_all_messages_lost_pauses_nothing_for_ten_days() {
    let figures = losses(&grid(2, 3, Profile::Normal), 200, 24, 0..10);
    println!("20 % loss: {figures}");
    assert_eq!((figures.counts.pauses, figures.doubles), (0, 0), "{figures}");
}

#[test]
fn a_host_that_was_away_does_not_harm_the_owner_later() {
    let asking = grid(2, 3, Profile::Normal);
    let figures = run_ahead(&asking, 0..RUNS);
    println!("asking first: {figures}");
    assert_eq!(figures.outages.len(), 0, "{figures}");
    let rules = Rules::ALL.without(Rule::AskFirst);
    let hasty = run_ahead(&Grid { rules, ..asking }, 0..RUNS);
    println!("not asking: {hasty}");
    assert!(hasty.counts.raises > figures.counts.raises, "without asking first epochs run ahead: {hasty}");
}

/// Not offered: a watchdog that bites within 2 s is rare, and none was measured yet.
#[test]
fn swift_timers_would_recover_within_seven_seconds() {
    let fence = Fence { pause: Millis(500), kill: Millis(500), watchdog: Millis(2_000), reset: Millis(500) };
    let swift = Timers {
        renew: Millis(250),
        lease: Millis(2_250),
        fence: Some(fence),
        promise: Millis(5_300),
        retry_min: Millis(200),
        retry_max: Millis(500),
        ..NORMAL
    };
    let profile = Profile::Custom(swift);
    assert_eq!(swift.check(), Ok(()));
    recovers("swift, power loss", &grid(2, 3, profile), None, Fault::OwnerLosesPower, 7_000, 7_200);
    let figures = storm(&Storm { profile, without: ONE_PROFILE, ..NORMAL_STORM }, 4_000_000..4_000_000 + RUNS);
    println!("swift: {figures}");
    assert_eq!((figures.doubles, figures.not_one), (0, 0), "{figures}");
}
