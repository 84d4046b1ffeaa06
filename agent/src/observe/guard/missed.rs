//! Whose power may be cut, as the guard sees it, and what it is told of that. Only what it says itself counts: that most of
//! a council miss the owner, and that nobody hears it. Where half of the grid is silent, power is nobody's to cut: a switch
//! that starts anew looks the same. Takeovers need no such rule, since they are voted for and wait for promises.

use std::collections::BTreeSet;

use roost_agent_core::{GuardWish, Missed};
use roost_protocol::HostId;
use roost_ward::door::{Request, Status, Told, WardStatus};
use roost_ward::{MemberId, Standing, WardId};

/// One host may die, however few there are; more at once are half of the grid if they are half of the others.
const SEVERAL: usize = 2;

/// Wards of hosts of which this host hears nothing in any ward.
pub(super) fn missed(status: &Status) -> Vec<Missed> {
    let owners = status.wards.iter().filter(|ward| ward.votes).filter_map(|ward| ward.owner);
    let others: BTreeSet<HostId> = owners.map(|owner| owner.id).filter(|id| *id != status.me.id).collect();
    let silent = others.iter().filter(|host| !is_heard(status, **host)).count();
    if silent >= SEVERAL && silent * 2 >= others.len() {
        return Vec::new();
    }
    let of = |ward: &WardStatus| {
        let owner = ward.owner.filter(|owner| ward.missed && !is_heard(status, owner.id))?;
        Some(Missed { owner: owner.id, incarnation: owner.incarnation, ward: ward.ward.0, epoch: ward.epoch })
    };
    status.wards.iter().filter_map(of).collect()
}

/// Whether the host renews in any ward that this one votes in.
fn is_heard(status: &Status, host: HostId) -> bool {
    let renews = |ward: &WardStatus| ward.votes && !ward.suspected && ward.owner.is_some_and(|owner| owner.id == host);
    status.wards.iter().any(renews)
}

/// Has the guard ask about owners that have a fence device, and tells it what was proven.
pub(super) fn steps(status: &Status, wish: &GuardWish) -> Vec<Request> {
    let fenced = |host: HostId| wish.guards.iter().any(|guard| guard.host == host && guard.fence.is_some());
    let asks = |ward: &&WardStatus| {
        let suspect = ward.suspected && ward.standing == Standing::Off && ward.homes.contains(&status.me);
        suspect && ward.owner.is_some_and(|owner| fenced(owner.id))
    };
    let asked = status.wards.iter().filter(asks).map(|ward| Request::Tell { ward: ward.ward, what: Told::Inquire });
    // Told until the ward is another's: a datagram to a voter may be lost.
    let proven = wish.proofs.iter().filter_map(|proof| {
        let owner = MemberId { id: proof.owner, incarnation: proof.incarnation };
        let ward = status.wards.iter().find(|ward| ward.ward == WardId(proof.ward))?;
        let stands = ward.owner == Some(owner) && ward.epoch == proof.epoch;
        let what = Told::Fenced { owner, epoch: proof.epoch };
        stands.then_some(Request::Tell { ward: ward.ward, what })
    });
    asked.chain(proven).collect()
}

#[cfg(test)]
mod test {
    use super::super::sample::{member, status, ward};
    use super::*;

    /// Host 9 votes with these owners, of which some are silent.
    fn missing(owners: u128, silent: u128) -> usize {
        let of = |owner| {
            let silent = owner <= silent;
            WardStatus {
                ward: WardId(u64::try_from(owner).unwrap()),
                suspected: silent,
                missed: silent,
                ..ward(owner, false)
            }
        };
        let found = missed(&status(9, (1..=owners).map(of).collect()));
        assert!(
            found.iter().all(|it| member(1).incarnation == it.incarnation && it.owner <= HostId::from_u128(silent))
        );
        found.len()
    }

    #[test]
    fn no_power_is_cut_where_half_of_the_grid_is_silent() {
        assert_eq!((missing(1, 1), missing(2, 1)), (1, 1), "one of few");
        assert_eq!((missing(3, 2), missing(4, 2), missing(4, 4)), (0, 0, 0));
        assert_eq!((missing(5, 2), missing(40, 3)), (2, 3));
    }
}
