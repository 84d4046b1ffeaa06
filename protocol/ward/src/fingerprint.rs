//! A digest of all that decides what a machine does next, with times as spans from now: two machines with the same
//! digest behave the same from here on. Checkers use it to know a state that they have seen.

use std::hash::{Hash, Hasher};

use roost_protocol::{Epoch, Millis, Time};

use crate::ballot::Kept;
use crate::event::Replica;
use crate::id::Round;
use crate::owner::{Grant, Guests, Owner, Poll};
use crate::voter::Voter;
use crate::ward::{Seat, Ward};
use crate::wards::Wards;

/// What lies ahead; the past is all the same.
fn ahead(now: Time, at: Time) -> Millis {
    at.since(now)
}

impl Wards {
    /// See the module.
    pub fn fingerprint<H: Hasher>(&self, now: Time, state: &mut H) {
        let Self { wards, next_pet, rules: _ } = self;
        next_pet.map(|at| ahead(now, at)).hash(state);
        for (id, ward) in wards {
            id.hash(state);
            ward.fingerprint(now, state);
        }
    }
}

impl Ward {
    /// See the module. Left out is what only reports depend on, chance, and numbers whose only use is to differ.
    pub fn fingerprint<H: Hasher>(&self, now: Time, state: &mut H) {
        let Self { me, rules: _, voter, seat, replica, bars, known, booted, heard, suspected: _, order: _, .. } = self;
        let Voter { me: _, rules: _, ballot, promise, mute } = voter;
        (me, ballot, ahead(now, *promise), mute).hash(state);
        (known.max(&ballot.epoch), heard.is_some(), ahead(now, *booted), bars, self.forced).hash(state);
        match replica {
            Replica::None | Replica::Stateless => replica.hash(state),
            Replica::Until { point, max_rpo } => (2u8, ahead(now, *point + *max_rpo)).hash(state),
        }
        match seat {
            Seat::Off { next_try } => (0u8, next_try.map(|at| ahead(now, at))).hash(state),
            Seat::Asking(poll) => hash_poll(1, now, poll, state),
            Seat::Candidate(poll) => hash_poll(2, now, poll, state),
            Seat::Owner(owner) => owner.fingerprint(now, state),
        }
    }

    /// How long ago the owner sent this round of this epoch, while a grant for it would still be heard.
    pub fn age_of_round(&self, now: Time, epoch: Epoch, round: Round) -> Option<Millis> {
        let Seat::Owner(owner) = &self.seat else { return None };
        owner.sent_at(round).filter(|_| owner.epoch == epoch).map(|sent| now.since(sent))
    }
}

fn hash_poll<H: Hasher>(kind: u8, now: Time, poll: &Poll, state: &mut H) {
    let Poll { epoch, yes, until } = poll;
    (kind, epoch, yes, ahead(now, *until)).hash(state);
}

impl Owner {
    fn fingerprint<H: Hasher>(&self, now: Time, state: &mut H) {
        let Self { epoch, guests, grants, sent: _, last_round: _, next_renew, raise, raise_at, leaving, kept } = self;
        (3u8, epoch, ahead(now, *next_renew), ahead(now, *raise_at), leaving).hash(state);
        match guests {
            Guests::Held | Guests::Running | Guests::Killing => guests.hash(state),
            Guests::Pausing { kill_at } => (9u8, ahead(now, *kill_at)).hash(state),
        }
        for Grant { member, until, version } in grants {
            (member, ahead(now, *until), version).hash(state);
        }
        if let Some(poll) = raise {
            hash_poll(4, now, poll, state);
        }
        if let Some(Kept { epoch, lease_until_ms, order: _, may_execute }) = kept {
            (epoch, ahead(now, Time(*lease_until_ms)), may_execute).hash(state);
        }
    }
}
