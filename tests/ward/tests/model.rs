//! The ward protocol, exhaustively: all interleavings within small bounds keep a guest from running twice, and every rule
//! left out is caught. `make model` looks further.

#![expect(clippy::print_stdout, reason = "figures are for reading")]

use roost_ward::{Rule, Rules};
use roost_ward_tests::model::{Budget, Edge, Outcome, Setting, explore};

const NONE: Budget = Budget {
    crashes: 0,
    freezes: 0,
    guard_crashes: 0,
    skews: 0,
    lost_stores: 0,
    fences: 0,
    releases: 0,
    changes: 0,
    nominations: 0,
};

/// States looked at where there are too many for every day.
const STATES: usize = 60_000;
/// Messages under way at once.
const MESSAGES: usize = 2;

/// Candidates stand without asking first: they may do more than ours, so what holds for them holds for ours.
fn unasked() -> Rules {
    Rules::default().without(Rule::AskFirst)
}

/// Looks further: minutes instead of seconds.
fn deep() -> bool {
    std::env::var_os("ROOST_DEEP").is_some()
}

/// What most tests look at.
fn usual(name: &'static str) -> Setting {
    if deep() { two(name) } else { short(name) }
}

/// Two hosts and an aggregator.
fn two(name: &'static str) -> Setting {
    Setting { max_messages: MESSAGES, ..Setting::base(name, 2, 3, unasked()) }
}

/// The same with the shortest timers that make sense.
fn short(name: &'static str) -> Setting {
    Setting { lease: 1, watchdog: 1, promise: 2, ..two(name) }
}

fn run(setting: &Setting) -> Outcome {
    let started = std::time::Instant::now();
    let outcome = explore(setting, std::env::var_os("ROOST_TRACE").is_some());
    println!("{outcome}\n  {:.1} s", started.elapsed().as_secs_f64());
    outcome
}

/// Holds, exhausted, and these things were possible.
fn holds(setting: &Setting, reached: &[&str]) {
    let outcome = run(setting);
    assert!(outcome.broken.is_none() && outcome.exhausted, "{outcome}");
    for what in reached {
        assert!(outcome.reached.contains_key(what), "never seen: {what}\n{outcome}");
    }
}

/// The rule is left out, and that is noticed.
fn caught(rule: Rule, setting: &Setting) {
    let rules = setting.rules.without(rule);
    notices(&Setting { rules, ..setting.clone() }, "I");
}

fn notices(setting: &Setting, kind: &str) {
    let outcome = explore(setting, true);
    println!("{outcome}");
    assert!(outcome.broken.as_ref().is_some_and(|(what, _)| what.starts_with(kind)), "{outcome}");
}

/// Too many states for every day: then as far as it goes.
fn holds_far(setting: &Setting) {
    if deep() {
        return holds(setting, &[TAKEN_OVER]);
    }
    let outcome = run(&Setting { most_states: STATES, ..setting.clone() });
    assert!(outcome.broken.is_none(), "{outcome}");
}

const TAKEN_OVER: &str = "another host took over";
const CAME_BACK: &str = "the first host came back or raised its epoch";
const WITHOUT_LAST: &str = "… while the last voter was down";

#[test]
fn lost_and_late_messages_run_no_guest_twice() {
    holds(&Setting { max_messages: 3, ..usual("losses and delays") }, &[TAKEN_OVER, CAME_BACK]);
}

#[test]
fn a_crash_of_anybody_runs_no_guest_twice() {
    let budget = Budget { crashes: 1, ..NONE };
    holds(&Setting { budget, ..usual("one crash") }, &[TAKEN_OVER, CAME_BACK, WITHOUT_LAST]);
}

#[test]
fn a_hanging_guard_runs_no_guest_twice() {
    let budget = Budget { freezes: 1, ..NONE };
    holds(&Setting { budget, ..usual("one hang") }, &[TAKEN_OVER, CAME_BACK]);
}

#[test]
fn a_restarted_guard_runs_no_guest_twice() {
    let budget = Budget { guard_crashes: 1, ..NONE };
    holds(&Setting { budget, ..usual("guard restarted") }, &[TAKEN_OVER, CAME_BACK]);
}

#[test]
fn three_epochs_run_no_guest_twice() {
    holds_far(&Setting { max_epoch: 3, ..short("three epochs") });
}

#[test]
fn clocks_that_differ_within_bounds_run_no_guest_twice() {
    let budget = Budget { skews: 1, ..NONE };
    let base = usual("one tick of skew");
    holds(&Setting { budget, promise: base.promise + 1, ..base }, &[TAKEN_OVER]);
}

#[test]
fn a_lost_vote_store_runs_no_guest_twice() {
    let budget = Budget { lost_stores: 1, ..NONE };
    holds(&Setting { budget, ..usual("aggregator lost its store") }, &[TAKEN_OVER]);
}

#[test]
fn a_power_fence_runs_no_guest_twice() {
    let budget = Budget { fences: 1, ..NONE };
    holds(&Setting { budget, ..short("power fence") }, &[TAKEN_OVER]);
}

#[test]
fn a_released_ward_runs_on_one_host() {
    let budget = Budget { releases: 1, ..NONE };
    holds(&Setting { budget, ..short("release") }, &[TAKEN_OVER]);
}

#[test]
fn doubled_messages_run_no_guest_twice() {
    holds(&Setting { doubled: true, ..two("doubled") }, &[TAKEN_OVER]);
}

#[test]
fn three_hosts_without_an_aggregator_run_no_guest_twice() {
    holds(&Setting { hosts: 3, ..two("three hosts") }, &[TAKEN_OVER]);
}

#[test]
fn five_voters_run_no_guest_twice() {
    holds_far(&Setting { voters: 5, machines: 5, ..short("five voters") });
}

#[test]
fn candidates_that_ask_first_run_no_guest_twice() {
    let rules = Rules::default().with_unsafe_timers();
    holds_far(&Setting { rules, max_epoch: 3, max_messages: 3, ..short("asking first") });
}

#[test]
fn a_host_that_returns_starts_no_stale_guest() {
    // A host whose guest hangs is reset by its watchdog, and returns.
    holds_far(&Setting { stale_copies: true, max_epoch: 3, ..short("stale copy") });
}

/// The aggregator's seat goes to a fourth machine.
fn changing(name: &'static str) -> Setting {
    let budget = Budget { changes: 1, ..NONE };
    let changes = vec![vec![0, 1, 3]];
    Setting { budget, changes, machines: 4, ..short(name) }
}

#[test]
fn a_changing_council_runs_no_guest_twice() {
    holds_far(&changing("council changes"));
}

#[test]
fn from_every_state_the_ward_heals() {
    let budget = Budget { crashes: 1, ..NONE };
    holds(&Setting { heal_every: 10, budget, ..short("heals") }, &[TAKEN_OVER]);
}

#[test]
fn every_rule_left_out_is_caught() {
    let crash = Budget { crashes: 1, ..NONE };
    caught(Rule::WaitForPromise, &two("no waiting"));
    caught(Rule::PromiseAtStart, &Setting { budget: crash, ..two("no promise at start") });
    caught(Rule::LeaseFromSend, &two("lease from receipt"));
    caught(Rule::Majority, &two("one voice decides"));
    caught(Rule::PetWithLease, &two("watchdog always petted"));
    caught(Rule::OlderIsRefused, &two("older owner is granted"));
    caught(Rule::StepDown, &two("no stepping down"));
}

#[test]
fn every_rule_of_stores_proofs_and_restarts_left_out_is_caught() {
    let budget = Budget { fences: 1, crashes: 1, ..NONE };
    caught(Rule::ProofNamesEpoch, &Setting { budget, max_epoch: 3, ..short("proof without epoch") });
    let budget = Budget { guard_crashes: 1, ..NONE };
    caught(Rule::KeptLeaseEnds, &Setting { budget, ..two("kept lease taken for new") });
    let budget = Budget { crashes: 1, ..NONE };
    let stale = Setting { stale_copies: true, budget, max_epoch: 3, ..short("stale copies may run") };
    caught(Rule::FreshReplica, &stale);
}

#[test]
fn every_rule_of_councils_left_out_is_caught() {
    for rule in [Rule::OldCouncilAgrees, Rule::BothCouncilsVote, Rule::BothCouncilsLease, Rule::KnowsNewestCouncil] {
        caught(rule, &changing("council rules"));
    }
}

#[test]
fn every_mistake_around_the_machines_is_caught() {
    let crash = Budget { crashes: 1, ..NONE };
    let edge = Edge { autostart: true, ..Edge::default() };
    notices(&Setting { edge, budget: crash, ..two("autostart") }, "I");
    let edge = Edge { lost_store_keeps_name: true, ..Edge::default() };
    let budget = Budget { lost_stores: 1, ..NONE };
    notices(&Setting { edge, budget, ..two("lost store keeps its name") }, "I");
    let edge = Edge { no_watchdog: true, ..Edge::default() };
    notices(&Setting { edge, ..two("no watchdog") }, "I");
    let budget = Budget { skews: 1, ..NONE };
    notices(&Setting { budget, ..two("skew beyond the bound") }, "I");
}

#[test]
fn the_promise_is_as_short_as_it_can_be() {
    let more: &[(u64, u64)] = if deep() { &[(2, 2), (3, 1)] } else { &[] };
    for (lease, watchdog) in [(1, 1), (2, 1)].iter().chain(more).copied() {
        let promise = lease + watchdog;
        holds(&Setting { lease, watchdog, promise, ..two("just long enough") }, &[TAKEN_OVER]);
        notices(&Setting { lease, watchdog, promise: promise - 1, ..two("one tick short") }, "I1");
    }
}
