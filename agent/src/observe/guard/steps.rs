//! What to ask of the guard next, so that it becomes as it is wished: from how it is now, each time anew. A step that came
//! to nothing is seen in its next status, and asked again.
//!
//! A ward begins with its owner as its only voter, which binds nothing. Its council comes next, then its guest, and only
//! then another home: so no other host can take over a guest that this host's guard doesn't hold yet. Others take part by
//! the owner's renewals.

use std::collections::BTreeMap;

use roost_agent_core::GuardWish;
use roost_protocol::failover::{Council, Guard, MAX_RPO};
use roost_protocol::{GuestId, HostId, Millis, Stamp};
use roost_ward::door::{Copied, Request, Status, Told, WardStatus};
use roost_ward::{Change, MemberId, Policy, Profile, Standing, WardId};

use super::missed;

/// A ward that goes on without this host is forgotten after this long: a change of its council that came to nothing would
/// still need its vote.
const LEFT_FOR: Millis = Millis::seconds(600);
/// A guard counts its notes from its start's number times this.
pub(super) const NOTES_PER_START: u64 = 1 << 32;

/// What this run of the guard was told, beside what its status shows.
#[derive(Debug, Default)]
pub(super) struct Memory {
    run: Option<(MemberId, u64)>,
    guards: Vec<Guard>,
    copies: BTreeMap<GuestId, Stamp>,
    /// Wards that go on without this host, and since when that is seen.
    left: BTreeMap<WardId, Stamp>,
}

/// What to ask now, in this order.
pub(super) fn steps(
    status: &Status,
    wish: &GuardWish,
    profile: Profile,
    wall: Stamp,
    memory: &mut Memory,
) -> Vec<Request> {
    let run = Some((status.me, status.next_note / NOTES_PER_START));
    if memory.run != run {
        *memory = Memory { run, ..Memory::default() };
    }
    let mut steps: Vec<Request> = Vec::new();
    if memory.guards != wish.guards {
        memory.guards.clone_from(&wish.guards);
        steps.push(Request::pin(&wish.guards));
    }
    let councils = wish.councils.as_deref().unwrap_or_default();
    let stays = |council: &&Council| !wish.release.contains(&council.guest);
    steps.extend(councils.iter().filter(stays).filter_map(|council| step(status, council, profile)));
    steps.extend(wish.release.iter().filter_map(|guest| release(status, *guest)));
    if wish.councils.is_some() {
        let wished = |guest: &GuestId| councils.iter().any(|council| council.guest == *guest);
        steps.extend(status.wards.iter().filter_map(|ward| end(status.me, ward, wished)));
        let wished: Vec<WardId> = councils.iter().map(|council| WardId::of(council.guest)).collect();
        let over = |ward: &&WardStatus| !wished.contains(&ward.ward) && is_empty(status.me, ward);
        steps.extend(status.wards.iter().filter(over).map(|ward| Request::Forget { ward: ward.ward }));
    }
    steps.extend(left(status, wall, memory));
    steps.extend(copies(status, wish, wall, memory));
    steps.extend(missed::steps(status, wish));
    steps
}

/// The next step to this council, with the timers of this profile.
fn step(status: &Status, council: &Council, profile: Profile) -> Option<Request> {
    let me = status.me;
    let members: Vec<MemberId> =
        council.voters.iter().map(|voter| MemberId { id: voter.host, incarnation: voter.incarnation }).collect();
    let member = |host: &HostId| members.iter().find(|member| member.id == *host).copied();
    let homes: Vec<MemberId> = council.homes.iter().filter_map(member).collect();
    if !homes.contains(&me) {
        return None;
    }
    let id = WardId::of(council.guest);
    let change = |homes: Vec<MemberId>| {
        let change = Change { members: members.clone(), homes, policy: Policy::Strict, profile };
        Some(Request::Tell { ward: id, what: Told::Change(change) })
    };
    let Some(ward) = status.wards.iter().find(|ward| ward.ward == id) else {
        let council = roost_ward::Council::new(vec![me], vec![me], Policy::Stay, Profile::Normal).ok()?;
        return Some(Request::Found { ward: id, council });
    };
    let guarded = ward.guests.contains(&council.guest);
    if !is_settled_owner(me, ward) {
        return None;
    }
    if ward.policy != Policy::Strict && guarded {
        // It was let go, and is wished again before that was done: it would stand still until the others grant leases.
        return Some(Request::Guests { ward: id, guests: Vec::new(), anywhere: false });
    }
    if ward.policy != Policy::Strict || ward.members != members {
        return change(if guarded { homes } else { vec![me] });
    }
    if !guarded {
        return Some(Request::Guests { ward: id, guests: vec![council.guest], anywhere: false });
    }
    if ward.homes == homes { None } else { change(homes) }
}

/// Gives up what this host owns. Nothing of it executes any more, and another home has all of it.
fn release(status: &Status, guest: GuestId) -> Option<Request> {
    let ward = status.wards.iter().find(|ward| ward.ward == WardId::of(guest))?;
    let another = ward.homes.iter().any(|home| *home != status.me);
    let gives_up = is_settled_owner(status.me, ward) && another && ward.processes == 0;
    gives_up.then_some(Request::Tell { ward: ward.ward, what: Told::Release })
}

fn is_settled_owner(me: MemberId, ward: &WardStatus) -> bool {
    ward.owner == Some(me) && ward.standing == Standing::Running && ward.may_run && ward.settled
}

/// The next step to the end of a ward that nobody wishes any more. One that was taken over, or made by hand, stays.
fn end(me: MemberId, ward: &WardStatus, wished: impl Fn(&GuestId) -> bool) -> Option<Request> {
    ward.guests.first().filter(|guest| WardId::of(**guest) == ward.ward && !wished(guest))?;
    if ward.guests.len() != 1 || ward.homes.first() != Some(&me) || !is_settled_owner(me, ward) {
        return None;
    }
    if ward.policy == Policy::Stay {
        return Some(Request::Guests { ward: ward.ward, guests: Vec::new(), anywhere: false });
    }
    let (members, homes) = (vec![me], vec![me]);
    let change = Change { members, homes, policy: Policy::Stay, profile: Profile::Normal };
    Some(Request::Tell { ward: ward.ward, what: Told::Change(change) })
}

/// What `end` leaves: owned here alone, with nothing in it.
fn is_empty(me: MemberId, ward: &WardStatus) -> bool {
    let alone = ward.members == [me] && ward.homes == [me] && ward.policy == Policy::Stay;
    alone && ward.guests.is_empty() && is_settled_owner(me, ward)
}

/// Forgets wards that went on without this host for long.
fn left(status: &Status, wall: Stamp, memory: &mut Memory) -> Vec<Request> {
    let gone = |ward: &&WardStatus| !ward.votes && ward.standing == Standing::Off && ward.processes == 0;
    let gone: Vec<WardId> = status.wards.iter().filter(gone).map(|ward| ward.ward).collect();
    memory.left.retain(|ward, _| gone.contains(ward));
    for ward in gone {
        memory.left.entry(ward).or_insert(wall);
    }
    let due = memory.left.iter().filter(|(_, since)| wall.0.saturating_sub(since.0) >= LEFT_FOR.0);
    due.map(|(ward, _)| Request::Forget { ward: *ward }).collect()
}

/// Says which guests of others could go on here, and from when their replicas are.
fn copies(status: &Status, wish: &GuardWish, wall: Stamp, memory: &mut Memory) -> Vec<Request> {
    let me = status.me;
    let mut steps = Vec::new();
    for (guest, shows) in &wish.copies {
        let id = WardId::of(*guest);
        let another_s = |ward: &&WardStatus| ward.owner.is_some_and(|owner| owner != me) && ward.homes.contains(&me);
        let Some(ward) = status.wards.iter().filter(another_s).find(|ward| ward.ward == id) else { continue };
        if !ward.guests.contains(guest) {
            steps.push(Request::Guests { ward: id, guests: vec![*guest], anywhere: false });
        } else if memory.copies.insert(*guest, *shows) != Some(*shows) {
            let age = Millis(wall.0.saturating_sub(shows.0));
            let copied = Copied::Until { age, max_rpo: MAX_RPO };
            steps.push(Request::Tell { ward: id, what: Told::Copy(copied) });
        }
    }
    let there = |guest: &GuestId| wish.copies.iter().any(|(other, _)| other == guest);
    let lost: Vec<GuestId> = memory.copies.keys().filter(|guest| !there(guest)).copied().collect();
    for guest in lost {
        memory.copies.remove(&guest);
        steps.push(Request::Tell { ward: WardId::of(guest), what: Told::Copy(Copied::None) });
    }
    steps
}

#[cfg(test)]
mod test {
    use roost_protocol::failover::{Seat, Voter};
    use roost_ward::door::Peer;

    use super::super::sample::{GUEST, member, status, ward};
    use super::*;

    fn wish() -> GuardWish {
        let voter = |number| Voter { host: HostId::from_u128(number), incarnation: 7 };
        let homes = vec![HostId::from_u128(1), HostId::from_u128(2)];
        let council = Council { guest: GUEST, voters: vec![voter(1), voter(2), voter(3)], homes };
        GuardWish { councils: Some(vec![council]), ..GuardWish::default() }
    }

    fn change(request: &Request) -> Option<Change> {
        let Request::Tell { what: Told::Change(change), .. } = request else { return None };
        Some(change.clone())
    }

    /// Does what is asked, as a guard would, until nothing more is.
    fn settle(status: &mut Status, wish: &GuardWish) -> Vec<Request> {
        let (mut memory, mut asked) = (Memory::default(), Vec::new());
        loop {
            let now = steps(status, wish, Profile::Fast, Stamp(0), &mut memory);
            if now.is_empty() {
                return asked;
            }
            for request in &now {
                if let Request::Found { .. } = request {
                    status.wards.push(ward(1, true));
                } else if let Request::Forget { .. } = request {
                    status.wards.clear();
                } else if let Request::Guests { guests, .. } = request {
                    status.wards[0].guests.clone_from(guests);
                } else if let Some(Change { members, homes, policy, .. }) = change(request) {
                    let ward = &mut status.wards[0];
                    (ward.members, ward.homes, ward.policy) = (members, homes, policy);
                } else {
                    panic!("{request:?}");
                }
            }
            asked.extend(now);
        }
    }

    #[test]
    fn no_other_home_is_named_before_the_guard_holds_the_guest() {
        let mut status = status(1, Vec::new());
        let asked = settle(&mut status, &wish());
        let held = asked.iter().position(|step| matches!(step, Request::Guests { .. })).unwrap();
        let homes = |step: &Request| change(step).map_or(0, |change| change.homes.len());
        assert!(asked[..held].iter().all(|step| homes(step) <= 1), "{asked:?}");
        assert_eq!(homes(asked.last().unwrap()), 2);
        assert_eq!(status.wards[0].members.len(), 3);
        assert!(asked.iter().filter_map(change).all(|change| change.profile == Profile::Fast), "{asked:?}");
    }

    #[test]
    fn a_ward_that_nobody_wishes_any_more_binds_its_guest_no_longer() {
        let mut status = status(1, Vec::new());
        settle(&mut status, &wish());
        assert_eq!(settle(&mut status, &GuardWish::default()), [], "an aggregator that is away ends nothing");
        let nothing = GuardWish { councils: Some(Vec::new()), ..GuardWish::default() };
        let asked = settle(&mut status, &nothing);
        let let_go = asked.iter().position(|step| matches!(step, Request::Guests { guests, .. } if guests.is_empty()));
        let stays = asked.iter().position(|step| change(step).is_some_and(|change| change.policy == Policy::Stay));
        assert!(stays.is_some() && stays < let_go, "{asked:?}");
        assert_eq!(asked.last(), Some(&Request::Forget { ward: WardId::of(GUEST) }), "it fills no guard");
        settle(&mut status, &wish());
        assert_eq!(status.wards[0].homes.len(), 2, "and can be wished again");
        // … also half-way, and what runs is not held while others' leases are on their way.
        status.wards[0] = WardStatus { guests: vec![GUEST], ..ward(1, true) };
        let asked = settle(&mut status, &wish());
        assert!(matches!(&asked[0], Request::Guests { guests, .. } if guests.is_empty()), "{asked:?}");
        assert_eq!((status.wards[0].homes.len(), status.wards[0].guests.len()), (2, 1));
    }

    #[test]
    fn a_ward_is_given_up_only_where_nothing_executes_and_another_home_is_there_and_only_once() {
        let mut status = status(1, Vec::new());
        settle(&mut status, &wish());
        let going = GuardWish { release: [GUEST].into(), ..wish() };
        let ask = |status: &Status| {
            steps(status, &going, Profile::Fast, Stamp(0), &mut Memory { guards: wish().guards, ..ran() })
        };
        let release = Request::Tell { ward: WardId::of(GUEST), what: Told::Release };
        assert_eq!(ask(&status), std::slice::from_ref(&release));
        status.wards[0].processes = 1;
        assert_eq!(ask(&status), [], "it still executes");
        let mut alone = status.clone();
        (alone.wards[0].processes, alone.wards[0].homes) = (0, vec![member(1)]);
        assert_eq!(ask(&alone), [], "nobody would go on with it");
        let given_up =
            |ward: &mut WardStatus| (ward.processes, ward.standing, ward.may_run) = (0, Standing::Off, false);
        given_up(&mut status.wards[0]);
        assert_eq!(ask(&status), []);
    }

    /// A guard's present run.
    fn ran() -> Memory {
        Memory { run: Some((member(1), 5)), ..Memory::default() }
    }

    #[test]
    fn a_ward_that_goes_on_without_this_host_is_forgotten_after_a_while() {
        let (mut memory, mut seen) =
            (Memory::default(), status(3, vec![WardStatus { votes: false, ..ward(1, false) }]));
        let mut ask =
            |seen: &Status, at: u64| steps(seen, &GuardWish::default(), Profile::Fast, Stamp(at), &mut memory);
        assert_eq!(ask(&seen, 1_000), []);
        assert_eq!(ask(&seen, LEFT_FOR.0), [], "a change that came to nothing needs its vote");
        seen.wards[0].votes = true;
        assert_eq!(ask(&seen, LEFT_FOR.0 + 1_000), []);
        seen.wards[0].votes = false;
        assert_eq!(ask(&seen, LEFT_FOR.0 + 2_000), []);
        assert_eq!(ask(&seen, 2 * LEFT_FOR.0 + 2_000), [Request::Forget { ward: WardId::of(GUEST) }]);
    }

    #[test]
    fn a_takeover_or_an_open_change_is_left_alone() {
        let check = |change: fn(&mut WardStatus)| {
            let mut ward = ward(1, true);
            change(&mut ward);
            assert_eq!(steps(&status(1, vec![ward]), &wish(), Profile::Fast, Stamp(0), &mut Memory::default()), []);
        };
        check(|ward| ward.settled = false);
        check(|ward| ward.may_run = false);
        check(|ward| ward.standing = Standing::Off);
        check(|ward| ward.owner = Some(member(2)));
    }

    #[test]
    fn a_replica_counts_once_its_guest_is_held_and_again_for_a_guard_that_was_started_anew() {
        let mut memory = Memory::default();
        let mut wish = GuardWish { copies: vec![(GUEST, Stamp(10_000))], ..GuardWish::default() };
        let mut seen = status(2, vec![WardStatus { homes: vec![member(1), member(2)], ..ward(1, false) }]);
        let mut ask = |seen: &Status, wish: &GuardWish| steps(seen, wish, Profile::Fast, Stamp(12_000), &mut memory);
        let guests = Request::Guests { ward: WardId::of(GUEST), guests: vec![GUEST], anywhere: false };
        assert_eq!(ask(&seen, &wish), [guests]);
        seen.wards[0].guests = vec![GUEST];
        let copy = |copied| Request::Tell { ward: WardId::of(GUEST), what: Told::Copy(copied) };
        let fresh = copy(Copied::Until { age: Millis(2_000), max_rpo: MAX_RPO });
        assert_eq!(ask(&seen, &wish), std::slice::from_ref(&fresh));
        assert_eq!(ask(&seen, &wish), []);
        seen.next_note += NOTES_PER_START;
        assert_eq!(ask(&seen, &wish), [fresh]);
        wish.copies.clear();
        assert_eq!(ask(&seen, &wish), [copy(Copied::None)]);
    }

    #[test]
    fn guards_are_pinned_when_they_change_and_unknown_ones_stay() {
        let (mut memory, seen) = (Memory::default(), status(1, Vec::new()));
        let seat = Some(Seat { key: [2; 32], addresses: vec!["192.0.2.2:7946".into()] });
        let known = Guard { host: HostId::from_u128(2), seat, fence: None };
        let unknown = Guard { host: HostId::from_u128(3), seat: None, fence: None };
        let wish = GuardWish { guards: vec![known, unknown], ..GuardWish::default() };
        let asked = steps(&seen, &wish, Profile::Fast, Stamp(0), &mut memory);
        let peer = Peer { id: HostId::from_u128(2), key: [2; 32], addresses: vec!["192.0.2.2:7946".into()] };
        assert_eq!(asked, [Request::Pin { peers: vec![peer], keep: vec![HostId::from_u128(3)] }]);
        assert_eq!(steps(&seen, &wish, Profile::Fast, Stamp(0), &mut memory), []);
    }
}
