//! Who votes on which guest: for each guest that its host wants to be gone on with elsewhere, a council of hosts, chosen
//! among its host's neighbours in the ring ([`crate::peers`]). Told whole to the host that runs the guest, which founds or
//! changes the ward; guards alone decide who runs what, so a wrong or late word here costs protection, never safety.
//!
//! A council stays as it is while it can: only a voter that left the grid, lost its votes or was silent for long is
//! replaced, one at a time, and none while a change is under way. Voices are spread over zones, so that one of them (a rack,
//! a power feed) takes as few of a council with it as can be, and then by how many each host has already.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use roost_protocol::failover::{
    Council, Fencing, GUARDS, Guard, GuardReport, Seat, TestResult, Voter, WARDS, Want, WardReport,
};
use roost_protocol::message::TEXT;
use roost_protocol::{GuestId, HostId, Millis, Time};

use crate::grid::{Grid, Host, Presence};
use crate::peers::addresses;

/// A voter that was silent for so long is replaced; longer than a host takes to start anew.
pub(crate) const GONE: Millis = Millis::seconds(900);
/// Voters of a new council, by how many there could be: five survive two losses, three survive one.
const SIZES: [usize; 2] = [5, 3];
/// Beside the two homes.
const FEWEST_OTHERS: usize = 1;

/// What a host is to councils.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate<'a> {
    /// Its guard's vote store, if a guard was heard of.
    pub(crate) incarnation: Option<u32>,
    pub(crate) may_own: bool,
    pub(crate) up: bool,
    /// Silent for so long that others take its places.
    pub(crate) gone: bool,
    /// Councils it votes in.
    pub(crate) votes: usize,
    /// What falls together with it; empty: not known.
    pub(crate) zone: &'a str,
    /// No host, but the guard beside the aggregator.
    pub(crate) witness: bool,
    /// The aggregator's own machine: the witness is no further voice.
    pub(crate) beside: bool,
}

/// Hosts of the grid that one host knows, itself among them. Who is missing has left.
pub(crate) type Candidates<'a> = BTreeMap<HostId, Candidate<'a>>;

/// The council of a guest that this host runs: `ward` as it is now, if there is one. None: it can't have one.
pub(crate) fn council(
    owner: HostId,
    guest: GuestId,
    keeper: Option<HostId>,
    ward: Option<&WardReport>,
    known: &Candidates<'_>,
) -> Option<Council> {
    match (ward, keeper) {
        (Some(ward), _) if !ward.settled => Some(ward.council.clone()),
        (Some(ward), _) if ward.council.voters.len() > 1 => Some(amended(owner, keeper, &ward.council, known)),
        (_, Some(keeper)) => founded(owner, Want { guest, keeper }, known),
        (_, None) => None,
    }
}

fn founded(owner: HostId, want: Want, known: &Candidates<'_>) -> Option<Council> {
    let home = |host: &HostId| known.get(host).is_some_and(|it| it.may_own && it.up && it.incarnation.is_some());
    let homes = [owner, want.keeper];
    if owner == want.keeper || !homes.iter().all(home) {
        return None;
    }
    let mut others = best(want.guest, &homes, known);
    // A witness, the last of them, is for where hosts alone are too few.
    if others.len() > FEWEST_OTHERS {
        others.retain(|host| known.get(host).is_some_and(|it| !it.witness));
    }
    let size = SIZES.into_iter().find(|size| homes.len() + others.len() >= *size)?;
    let mut voters: Vec<HostId> = homes.into_iter().chain(others).take(size).collect();
    voters.sort_unstable();
    let voters = voters.into_iter().filter_map(|host| voter(host, known)).collect();
    Some(Council { guest: want.guest, voters, homes: homes.to_vec() })
}

/// At most one voter differs.
fn amended(owner: HostId, keeper: Option<HostId>, council: &Council, known: &Candidates<'_>) -> Council {
    let mut council = council.clone();
    let votes = |council: &Council, host: HostId| council.voters.iter().any(|voter| voter.host == host);
    let restored = council.voters.iter().position(|voter| {
        let now = known.get(&voter.host).and_then(|it| it.incarnation);
        now.is_some_and(|incarnation| incarnation != voter.incarnation)
    });
    let usable = |host: &HostId| known.get(host).is_some_and(|it| it.may_own && it.up && it.incarnation.is_some());
    let newcomer = keeper.filter(|keeper| usable(keeper) && !votes(&council, *keeper));
    let change = match (restored, newcomer) {
        (Some(at), _) => council.voters.get(at).map(|voter| (at, voter.host)),
        (None, Some(keeper)) => leaver(owner, &council, known).map(|at| (at, keeper)),
        (None, None) => lost(owner, keeper, &council, known)
            .and_then(|at| Some((at, *best(council.guest, &hosts(&council), known).first()?))),
    };
    if let Some((at, host)) = change
        && let (Some(seat), Some(new)) = (council.voters.get_mut(at), voter(host, known))
    {
        *seat = new;
        council.voters.sort_unstable();
    }
    match keeper.filter(|keeper| *keeper != owner && votes(&council, *keeper)) {
        Some(keeper) => council.homes = vec![owner, keeper],
        None => {
            let voting = hosts(&council);
            council.homes.retain(|home| voting.contains(home));
            if !council.homes.contains(&owner) {
                council.homes.insert(0, owner);
            }
        }
    }
    council
}

fn hosts(council: &Council) -> Vec<HostId> {
    council.voters.iter().map(|voter| voter.host).collect()
}

fn voter(host: HostId, known: &Candidates<'_>) -> Option<Voter> {
    Some(Voter { host, incarnation: known.get(&host)?.incarnation? })
}

/// A voter whose place is free: it left, or is gone for long.
fn lost(owner: HostId, keeper: Option<HostId>, council: &Council, known: &Candidates<'_>) -> Option<usize> {
    let gone = |host: HostId| known.get(&host).is_none_or(|it| it.gone);
    council.voters.iter().position(|voter| voter.host != owner && Some(voter.host) != keeper && gone(voter.host))
}

/// Who makes room for the host that has the replica now: one that is lost, or the home before it.
fn leaver(owner: HostId, council: &Council, known: &Candidates<'_>) -> Option<usize> {
    let before = |voter: &Voter| voter.host != owner && council.homes.contains(&voter.host);
    lost(owner, None, council, known)
        .or_else(|| council.voters.iter().position(before))
        .or_else(|| council.voters.iter().position(|voter| voter.host != owner))
}

/// Others that could vote, best first: hosts before the witness, in zones with fewest of these and of each other, with
/// fewest voices, and each guest with others of its own.
fn best(guest: GuestId, but: &[HostId], known: &Candidates<'_>) -> Vec<HostId> {
    let beside = but.iter().any(|host| known.get(host).is_some_and(|it| it.beside));
    let able = |(host, it): &(&HostId, &Candidate<'_>)| {
        it.up && it.incarnation.is_some() && !but.contains(host) && !(it.witness && beside)
    };
    let mut able: Vec<(HostId, Candidate<'_>)> = known.iter().filter(able).map(|(host, it)| (*host, *it)).collect();
    let mut zones: Vec<&str> = but.iter().filter_map(|host| Some(known.get(host)?.zone)).collect();
    let mut best = Vec::new();
    while best.len() < SIZES[0] {
        let rank = |(_, (host, it)): &(usize, &(HostId, Candidate<'_>))| {
            let together = zones.iter().filter(|zone| !zone.is_empty() && **zone == it.zone).count();
            (it.witness, together, it.votes, tie(guest, *host), *host)
        };
        let Some(at) = able.iter().enumerate().min_by_key(rank).map(|(at, _)| at) else { break };
        let (host, it) = able.swap_remove(at);
        zones.push(it.zone);
        best.push(host);
    }
    best
}

/// The same for the same, in this process: what there is stays, so another process need not draw alike.
fn tie(guest: GuestId, host: HostId) -> u64 {
    let mut hasher = DefaultHasher::new();
    (guest, host).hash(&mut hasher);
    hasher.finish()
}

impl Grid {
    /// Councils of the guests that this host runs, and the guards of others that it deals with.
    pub(crate) fn councils_of(
        &self,
        now: Time,
        id: HostId,
        others: &BTreeSet<HostId>,
        voices: &BTreeMap<HostId, usize>,
    ) -> (Vec<Guard>, Vec<Council>) {
        let witness = self.witness_votes(now, voices);
        let mut guards: Vec<Guard> = others.iter().take(GUARDS).map(|other| self.guard_of(id, *other)).collect();
        guards.extend(witness.as_ref().map(|(guard, _)| guard.clone()));
        let Some(report) = self.hosts.get(&id).and_then(|host| host.guard.as_ref()) else {
            return (guards, Vec::new());
        };
        let known: Candidates<'_> = others
            .iter()
            .chain([&id])
            .filter_map(|host| Some((*host, self.candidate(now, self.hosts.get(host)?, voices))))
            .chain(witness.map(|(guard, candidate)| (guard.host, candidate)))
            .collect();
        let wanted: BTreeMap<GuestId, HostId> =
            report.wants.iter().take(WARDS).map(|want| (want.guest, want.keeper)).collect();
        let ward = |guest: GuestId| report.wards.iter().find(|ward| ward.council.guest == guest);
        let mut councils: Vec<Council> = wanted
            .iter()
            .filter_map(|(guest, keeper)| council(id, *guest, Some(*keeper), ward(*guest), &known))
            .collect();
        // What it took over stays a ward, though nobody here knows its policy.
        let taken_over =
            |ward: &&WardReport| ward.council.homes.first() != Some(&id) && !wanted.contains_key(&ward.council.guest);
        let taken_over = report.wards.iter().take(WARDS).filter(taken_over);
        councils.extend(taken_over.filter_map(|ward| council(id, ward.council.guest, None, Some(ward), &known)));
        (guards, councils)
    }

    /// Hosts that vote together.
    pub(crate) fn fellow_voters(&self) -> impl Iterator<Item = (HostId, HostId)> {
        let reports = self.hosts.values().filter_map(|host| host.guard.as_ref());
        let councils = reports.flat_map(|report| report.wards.iter().map(|ward| &ward.council.voters));
        councils.flat_map(|voters| {
            let pairs = voters.iter().flat_map(|one| voters.iter().map(|other| (one.host, other.host)));
            pairs.filter(|(one, other)| one < other)
        })
    }

    fn candidate(&self, now: Time, host: &Host, votes: &BTreeMap<HostId, usize>) -> Candidate<'_> {
        let guard = host.guard.as_ref();
        let gone = match host.presence {
            Presence::Down { heard, .. } => now.since(heard) >= GONE,
            // Who was not heard since this aggregator started may be as it was.
            Presence::Never | Presence::Up { .. } | Presence::Suspect { .. } => false,
        };
        Candidate {
            incarnation: guard.map(|guard| guard.incarnation),
            may_own: guard.is_some_and(|guard| guard.may_own),
            up: matches!(host.presence, Presence::Up { .. }),
            gone,
            votes: votes.get(&host.id).copied().unwrap_or(0),
            zone: self.zone(host.id),
            witness: false,
            beside: self.is_beside(host),
        }
    }

    /// How many councils each host votes in.
    pub(crate) fn voices(&self) -> BTreeMap<HostId, usize> {
        let mut voices = BTreeMap::new();
        let reports = self.hosts.values().filter_map(|host| host.guard.as_ref());
        for voter in reports.flat_map(|report| &report.wards).flat_map(|ward| &ward.council.voters) {
            *voices.entry(voter.host).or_default() += 1;
        }
        voices
    }

    /// As this one is told of it.
    fn guard_of(&self, told: HostId, host: HostId) -> Guard {
        Guard { host, seat: self.seat(host), fence: self.fence_told(told, host) }
    }

    pub(crate) fn seat(&self, id: HostId) -> Option<Seat> {
        let host = self.hosts.get(&id)?;
        let (guard, facts) = (host.guard.as_ref()?, host.facts.as_ref()?);
        Some(Seat { key: guard.key, addresses: addresses(&guard.listen, &facts.addresses, &host.remote) })
    }
}

/// What a host says of its guard, cut to what may be.
pub(crate) fn bounded(mut report: GuardReport) -> GuardReport {
    report.wards.truncate(WARDS);
    report.wants.truncate(WARDS);
    for ward in &mut report.wards {
        ward.council.voters.truncate(SIZES[0] * 2);
        ward.council.homes.truncate(SIZES[0]);
    }
    report.fencing.iter_mut().for_each(bound);
    if let Some(test) = &mut report.watchdog_test {
        bound(&mut test.watchdog);
        if let TestResult::Void(text) = &mut test.result {
            text.truncate(text.floor_char_boundary(TEXT));
        }
    }
    report
}

fn bound(fencing: &mut Fencing) {
    if let Fencing::Hardware(text) | Fencing::Soft(text) | Fencing::None(text) = fencing {
        text.truncate(text.floor_char_boundary(TEXT));
    }
}
