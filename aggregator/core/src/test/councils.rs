//! Who votes on what, and when that changes.

use std::collections::BTreeSet;

use proptest::prelude::*;
use roost_protocol::failover::{Council, Voter, WardReport};
use roost_protocol::{GuestId, HostId};

use crate::councils::{Candidate, Candidates, council};

const GUEST: GuestId = GuestId::from_u128(70);
const OWNER: HostId = HostId::from_u128(1);

fn host(number: u8) -> HostId {
    HostId::from_u128(u128::from(number))
}

fn able() -> Candidate<'static> {
    Candidate {
        incarnation: Some(7),
        may_own: true,
        up: true,
        gone: false,
        votes: 0,
        zone: "",
        witness: false,
        beside: false,
    }
}

/// So many hosts, all with guards.
fn known(hosts: u8) -> Candidates<'static> {
    (1..=hosts).map(|number| (host(number), able())).collect()
}

fn hosts(council: &Council) -> BTreeSet<HostId> {
    council.voters.iter().map(|voter| voter.host).collect()
}

fn settled(council: &Council) -> WardReport {
    WardReport { council: council.clone(), settled: true }
}

fn ask(keeper: u8, ward: Option<&WardReport>, known: &Candidates<'_>) -> Option<Council> {
    council(OWNER, GUEST, Some(host(keeper)), ward, known)
}

#[test]
fn three_hosts_or_five_vote_and_fewer_protect_nothing() {
    let voters = |count| ask(2, None, &known(count)).map(|council| council.voters.len());
    let sizes: Vec<Option<usize>> = (1..=7).map(voters).collect();
    assert_eq!(sizes, [None, None, Some(3), Some(3), Some(5), Some(5), Some(5)]);
}

#[test]
fn a_home_has_a_guard_that_may_own_and_is_heard() {
    let check = |number, change: fn(&mut Candidate<'_>)| {
        let mut known = known(4);
        known.get_mut(&host(number)).map(change).unwrap();
        ask(2, None, &known)
    };
    assert_eq!(check(1, |it| it.may_own = false), None);
    assert_eq!(check(2, |it| it.may_own = false), None);
    assert_eq!(check(2, |it| it.up = false), None);
    assert_eq!(check(2, |it| it.incarnation = None), None);
    let voters = check(3, |it| it.incarnation = None).unwrap();
    assert_eq!(hosts(&voters), [host(1), host(2), host(4)].into(), "who has no guard has no voice");
    assert!(check(3, |it| it.may_own = false).is_some(), "a voter needs no watchdog");
    assert_eq!(ask(1, None, &known(4)), None, "no host takes over from itself");
}

#[test]
fn voices_are_spread() {
    let mut known = known(6);
    for _ in 0..3 {
        let council = ask(2, None, &known.clone().into_iter().filter(|(id, _)| *id <= host(4)).collect()).unwrap();
        for voter in hosts(&council) {
            known.get_mut(&voter).unwrap().votes += 1;
        }
    }
    let votes = |number| known[&host(number)].votes;
    assert!(votes(3).abs_diff(votes(4)) <= 1, "{known:?}");
}

#[test]
fn a_zone_takes_no_majority_with_it_where_there_are_zones_enough() {
    let zoned = |zones: &[&'static str]| -> Candidates<'static> {
        let hosts = zones.iter().zip(1..).map(|(zone, number)| (host(number), Candidate { zone, votes: 3, ..able() }));
        hosts.collect()
    };
    let third = |zones: &[&'static str]| {
        let mut known = zoned(zones);
        // It has fewest voices, and would be taken if there were no zones.
        known.get_mut(&host(3)).unwrap().votes = 0;
        hosts(&ask(2, None, &known).unwrap())
    };
    assert_eq!(third(&["a", "b", "a", "c"]), [host(1), host(2), host(4)].into());
    assert_eq!(third(&["a", "a", "a", "b"]), [host(1), host(2), host(4)].into());
    assert_eq!(third(&["a", "b", "", ""]), [host(1), host(2), host(3)].into(), "nothing is known of the rest");
    let five = ask(2, None, &zoned(&["a", "b", "a", "b", "c", "c", "d"])).unwrap();
    let in_zone =
        |zone| hosts(&five).iter().filter(|id| zoned(&["a", "b", "a", "b", "c", "c", "d"])[*id].zone == zone).count();
    assert_eq!(["a", "b", "c", "d"].map(in_zone).iter().max(), Some(&2));
    // Who is replaced, too.
    let mut known = zoned(&["a", "b", "c", "b", "d"]);
    let first = settled(&ask(2, None, &known.clone().into_iter().take(3).collect()).unwrap());
    known.get_mut(&host(3)).unwrap().gone = true;
    assert_eq!(hosts(&ask(2, Some(&first), &known).unwrap()), [host(1), host(2), host(5)].into());
}

#[test]
fn a_witness_votes_where_two_hosts_alone_could_not() {
    let with = |hosts: u8| {
        let mut known = known(hosts);
        known.insert(host(99), Candidate { may_own: false, witness: true, ..able() });
        known
    };
    assert_eq!(hosts(&ask(2, None, &with(2)).unwrap()), [host(1), host(2), host(99)].into());
    assert_eq!(hosts(&ask(2, None, &with(3)).unwrap()), [host(1), host(2), host(3)].into(), "hosts before it");
    assert!(!hosts(&ask(2, None, &with(4)).unwrap()).contains(&host(99)), "nor as the fifth");
    assert_eq!(ask(99, None, &with(2)), None, "it is no home");
    // On a host's own machine, or silent, it is no third voice.
    let mut known = with(2);
    known.get_mut(&host(2)).unwrap().beside = true;
    assert_eq!(ask(2, None, &known), None);
    let mut known = with(2);
    known.get_mut(&host(99)).unwrap().up = false;
    assert_eq!(ask(2, None, &known), None);
    // It stays when a third host comes, and takes the place of one that is gone.
    let council = settled(&ask(2, None, &with(2)).unwrap());
    assert_eq!(ask(2, Some(&council), &with(3)), Some(council.council.clone()));
    let council = settled(&ask(2, None, &with(3)).unwrap());
    let mut known = with(3);
    known.get_mut(&host(3)).unwrap().gone = true;
    known.get_mut(&host(3)).unwrap().up = false;
    assert_eq!(hosts(&ask(2, Some(&council), &known).unwrap()), [host(1), host(2), host(99)].into());
    // Its votes were lost: it is admitted as another one.
    let council = settled(&ask(2, None, &with(2)).unwrap());
    let mut known = with(2);
    known.get_mut(&host(99)).unwrap().incarnation = Some(8);
    let again = ask(2, Some(&council), &known).unwrap();
    assert!(again.voters.contains(&Voter { host: host(99), incarnation: 8 }), "{again:?}");
}

#[test]
fn a_host_that_is_silent_keeps_its_voice_until_it_is_gone_for_long() {
    let mut known = known(4);
    let first = ask(2, None, &known).unwrap();
    let third = *hosts(&first).iter().find(|id| **id > host(2)).unwrap();
    known.get_mut(&third).unwrap().up = false;
    assert_eq!(ask(2, Some(&settled(&first)), &known).unwrap(), first);
    known.get_mut(&third).unwrap().gone = true;
    let next = ask(2, Some(&settled(&first)), &known).unwrap();
    assert_eq!((next.voters.len(), hosts(&next).contains(&third)), (3, false));
    known.remove(&third);
    let open = WardReport { council: first.clone(), settled: false };
    assert_eq!(ask(2, Some(&open), &known).unwrap(), first, "not while a change is under way");
}

#[test]
fn a_lost_vote_store_and_a_moved_replica_change_one_voter() {
    let mut known = known(4);
    let first = ask(2, None, &known).unwrap();
    known.get_mut(&host(2)).unwrap().incarnation = Some(9);
    let next = ask(2, Some(&settled(&first)), &known).unwrap();
    assert!(next.voters.contains(&Voter { host: host(2), incarnation: 9 }) && hosts(&next) == hosts(&first));
    let other = (3..=4).find(|number| !hosts(&first).contains(&host(*number))).unwrap();
    let moved = ask(other, Some(&settled(&next)), &known).unwrap();
    assert_eq!(moved.homes, [OWNER, host(other)]);
    assert_eq!(hosts(&moved).difference(&hosts(&next)).count(), 1);
}

#[test]
fn a_ward_that_was_taken_over_goes_on_without_its_dead_host() {
    let mut known = known(4);
    let first = ask(2, None, &known).unwrap();
    let ask = |ward: &Council, known: &Candidates| council(host(2), GUEST, None, Some(&settled(ward)), known).unwrap();
    assert_eq!(ask(&first, &known), first);
    known.remove(&OWNER);
    let next = ask(&first, &known);
    assert_eq!((next.homes.clone(), next.voters.len()), (vec![host(2)], 3));
    assert!(!hosts(&next).contains(&OWNER));
    assert_eq!(ask(&next, &known), next);
}

proptest! {
    /// Whatever happens to hosts, a council has 3 or 5 different voices, its homes among them, the owner first, and no two
    /// that follow each other differ by more than one.
    #[test]
    fn a_council_changes_by_one_voice_at_a_time(
        hosts_in_grid in 3_u8..9,
        happenings in prop::collection::vec((2_u8..9, 0_u8..5, 2_u8..9), 1..40),
    ) {
        let mut known = known(hosts_in_grid);
        let mut now = ask(2, None, &known).unwrap();
        for (number, what, keeper) in happenings {
            let keeper = keeper.min(hosts_in_grid);
            match (what, known.get_mut(&host(number))) {
                (0, Some(it)) => it.up = false,
                (1, Some(it)) => (it.up, it.gone) = (false, true),
                (2, Some(it)) => *it = Candidate { incarnation: it.incarnation.map(|old| old + 1), ..able() },
                (3, Some(_)) => drop(known.remove(&host(number))),
                (4, Some(it)) => it.votes += 1,
                _ => {}
            }
            let next = ask(keeper, Some(&settled(&now)), &known).unwrap();
            let (before, after): (BTreeSet<Voter>, BTreeSet<Voter>) =
                (now.voters.iter().copied().collect(), next.voters.iter().copied().collect());
            prop_assert!(after.difference(&before).count() <= 1, "{now:?} {next:?}");
            prop_assert_eq!((hosts(&next).len(), next.voters.len()), (now.voters.len(), now.voters.len()));
            prop_assert!(next.homes.iter().all(|home| hosts(&next).contains(home)), "{next:?}");
            prop_assert_eq!(next.homes.first(), Some(&OWNER));
            now = next;
        }
    }
}
