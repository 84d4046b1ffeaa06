//! A guard as tests see it: a ward of one guest.

use roost_protocol::failover::Fencing;
use roost_protocol::{Epoch, GuestId, HostId, Millis, Stamp};
use roost_ward::door::{Status, WardStatus};
use roost_ward::{MemberId, Policy, Standing, WardId};

use super::steps::NOTES_PER_START;

pub(super) const GUEST: GuestId = GuestId::from_u128(0x1234_5678_9abc_4000_8000_0000_0000_0001);

pub(super) fn member(number: u128) -> MemberId {
    MemberId { id: HostId::from_u128(number), incarnation: 7 }
}

pub(super) fn status(me: u128, wards: Vec<WardStatus>) -> Status {
    Status {
        me: member(me),
        key: [0; 32],
        fencing: Fencing::Parent,
        wards,
        peers: Vec::new(),
        first_note: 0,
        next_note: 5 * NOTES_PER_START + 3,
        listen: String::new(),
        may_own: true,
        remembers: Stamp(0),
        watchdog_test: None,
    }
}

pub(super) fn ward(owner: u128, here: bool) -> WardStatus {
    WardStatus {
        ward: WardId::of(GUEST),
        standing: if here { Standing::Running } else { Standing::Off },
        epoch: Epoch(1),
        owner: Some(member(owner)),
        promise_left: Millis(0),
        policy: Policy::Stay,
        members: vec![member(owner)],
        may_run: here,
        guests: Vec::new(),
        processes: 0,
        homes: vec![member(owner)],
        settled: true,
        votes: true,
        disarmed: false,
        suspected: false,
        missed: false,
        guests_answer: false,
    }
}
