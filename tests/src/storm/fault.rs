//! The plan of a storm: pure, the same for the same seed.

use std::time::Duration;

use crate::grid::Random;

/// Between the beginnings of two faults.
const BETWEEN_MS: (u64, u64) = (200, 2_000);
/// Hosts that are off, cut off or without a working guard at once: what councils of five survive.
const GRAVE_AT_ONCE: usize = 2;
/// Each aggregator that lost its data has to be told all by its hosts.
const WIPES: usize = 3;

/// What is done, and to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Host(u8, HostFault),
    Aggregator(AggregatorFault),
    /// By its place in the list of guests.
    Guest(usize, GuestFault),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostFault {
    KillAgent,
    KillGuard,
    KillLibvirt,
    StopAgent,
    StopGuard,
    StopLibvirt,
    Cut,
    /// Frames from the host are lost, those to it arrive.
    CutFrom,
    CutTo,
    Loss,
    PowerOff,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestFault {
    Kill,
    /// It hangs, and is killed at the fault's end: who let it run on could undo what its guard did.
    Stop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AggregatorFault {
    Kill,
    /// Its data is gone when it starts anew.
    Wipe,
    Stop,
    /// Started anew with a wall clock two years ahead, and again with the right one.
    StepClock,
}

const ON_HOSTS: [HostFault; 11] = [
    HostFault::KillAgent,
    HostFault::KillGuard,
    HostFault::KillLibvirt,
    HostFault::StopAgent,
    HostFault::StopGuard,
    HostFault::StopLibvirt,
    HostFault::Cut,
    HostFault::CutFrom,
    HostFault::CutTo,
    HostFault::Loss,
    HostFault::PowerOff,
];
const ON_GUESTS: [GuestFault; 2] = [GuestFault::Kill, GuestFault::Stop];
const ON_AGGREGATORS: [AggregatorFault; 4] =
    [AggregatorFault::Kill, AggregatorFault::Wipe, AggregatorFault::Stop, AggregatorFault::StepClock];

impl Fault {
    /// One at a time is done to each host, guest and aggregator.
    pub fn same_target(self, other: Fault) -> bool {
        match (self, other) {
            (Fault::Host(one, _), Fault::Host(other, _)) => one == other,
            (Fault::Guest(one, _), Fault::Guest(other, _)) => one == other,
            (Fault::Aggregator(_), Fault::Aggregator(_)) => true,
            (Fault::Host(..) | Fault::Guest(..) | Fault::Aggregator(_), _) => false,
        }
    }

    /// Its host owns no ward and votes on none for long.
    fn is_grave(self) -> bool {
        match self {
            Fault::Host(_, fault) => match fault {
                HostFault::StopGuard | HostFault::Cut | HostFault::CutFrom | HostFault::CutTo | HostFault::PowerOff => {
                    true
                }
                HostFault::KillAgent
                | HostFault::KillGuard
                | HostFault::KillLibvirt
                | HostFault::StopAgent
                | HostFault::StopLibvirt
                | HostFault::Loss => false,
            },
            Fault::Guest(..) | Fault::Aggregator(_) => false,
        }
    }

    /// Least and most. Some within a lease of 4 s, some beyond the promise of 11 s.
    fn lasts_ms(self) -> (u64, u64) {
        match self {
            Fault::Host(_, fault) => match fault {
                HostFault::KillAgent | HostFault::KillGuard => (100, 4_000),
                HostFault::KillLibvirt => (10, 20),
                HostFault::StopAgent | HostFault::StopLibvirt => (1_000, 12_000),
                HostFault::StopGuard => (500, 9_000),
                HostFault::Cut | HostFault::CutFrom | HostFault::CutTo => (500, 20_000),
                HostFault::Loss => (3_000, 20_000),
                HostFault::PowerOff => (500, 25_000),
            },
            Fault::Guest(_, GuestFault::Kill) => (10, 20),
            Fault::Guest(_, GuestFault::Stop) => (1_000, 12_000),
            Fault::Aggregator(AggregatorFault::StepClock) => (3_000, 15_000),
            Fault::Aggregator(AggregatorFault::Kill | AggregatorFault::Wipe | AggregatorFault::Stop) => (500, 15_000),
        }
    }
}

/// One fault of a storm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    pub begins: Duration,
    pub ends: Duration,
    pub fault: Fault,
}

/// So many faults, in the order of their beginnings. One at a time is done to each target, and to different ones many.
pub fn plan(seed: u64, faults: usize, hosts: u8, guests: usize) -> Vec<Planned> {
    let mut random = Random::new(seed);
    let mut planned: Vec<Planned> = Vec::new();
    let mut now = Duration::ZERO;
    while planned.len() < faults {
        now += Duration::from_millis(BETWEEN_MS.0 + random.below(BETWEEN_MS.1 - BETWEEN_MS.0));
        let fault = draw(&mut random, hosts, guests);
        let going_on: Vec<&Planned> = planned.iter().filter(|one| one.ends > now).collect();
        let grave = going_on.iter().filter(|one| one.fault.is_grave()).count();
        let wipe = Fault::Aggregator(AggregatorFault::Wipe);
        let wipes = planned.iter().filter(|one| one.fault == wipe).count();
        let busy = going_on.iter().any(|one| one.fault.same_target(fault));
        let much = fault.is_grave() && grave >= GRAVE_AT_ONCE || fault == wipe && wipes >= WIPES;
        if !busy && !much {
            let (least, most) = fault.lasts_ms();
            let ends = now + Duration::from_millis(least + random.below(most - least));
            planned.push(Planned { begins: now, ends, fault });
        }
    }
    planned
}

fn draw(random: &mut Random, hosts: u8, guests: usize) -> Fault {
    let mut place = |all: usize| usize::try_from(random.below(all as u64)).unwrap_or(0);
    match place(10) {
        0 => Fault::Guest(place(guests), ON_GUESTS[place(ON_GUESTS.len())]),
        1 => Fault::Aggregator(ON_AGGREGATORS[place(ON_AGGREGATORS.len())]),
        _ => {
            let host = u8::try_from(1 + place(usize::from(hosts))).unwrap_or(1);
            Fault::Host(host, ON_HOSTS[place(ON_HOSTS.len())])
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_seed_s_storm_is_always_the_same_and_has_every_kind_of_fault() {
        let storm = plan(7, 600, 5, 3);
        assert_eq!(storm, plan(7, 600, 5, 3));
        assert_ne!(storm, plan(8, 600, 5, 3));
        let on_host = |fault| storm.iter().any(|one| matches!(one.fault, Fault::Host(_, it) if it == fault));
        assert!(ON_HOSTS.into_iter().all(on_host));
        let on_guest = |fault| storm.iter().any(|one| matches!(one.fault, Fault::Guest(_, it) if it == fault));
        assert!(ON_GUESTS.into_iter().all(on_guest));
        assert!(ON_AGGREGATORS.into_iter().all(|it| storm.iter().any(|one| one.fault == Fault::Aggregator(it))));
        for (at, one) in storm.iter().enumerate() {
            let earlier: Vec<&Planned> = storm[..at].iter().filter(|other| other.ends > one.begins).collect();
            assert!(earlier.iter().all(|other| !other.fault.same_target(one.fault)), "{one:?} comes over another");
            let grave = earlier.iter().filter(|other| other.fault.is_grave()).count();
            assert!(grave + usize::from(one.fault.is_grave()) <= GRAVE_AT_ONCE, "{one:?}");
        }
    }
}
