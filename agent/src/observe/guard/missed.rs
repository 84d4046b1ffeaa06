//! Whose power may be cut, as the guard sees it, and what it is told of that. Only what it says itself counts: that most of
//! a council miss the owner, and that nobody hears it.

use roost_agent_core::{GuardWish, Missed};
use roost_protocol::HostId;
use roost_ward::door::{Request, Status, Told, WardStatus};
use roost_ward::{MemberId, Standing, WardId};

/// Wards of hosts of which this host hears nothing in any ward.
pub(super) fn missed(status: &Status) -> Vec<Missed> {
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
