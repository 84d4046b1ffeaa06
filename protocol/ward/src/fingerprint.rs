//! A digest of all that decides what a machine does next, with times as spans from now: two machines with the same
//! digest behave the same from here on, but for what they keep for the guard's restart. Checkers use it to know a state that they have seen.

use std::hash::{Hash, Hasher};

use roost_protocol::{Epoch, Millis, Time};

use crate::ballot::Ballot;
use crate::council::Councils;
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
        let Self { wards, next_pet, time_out: _, rules: _ } = self;
        if wards.values().any(|ward| ward.pet_until().is_some()) {
            next_pet.map(|at| ahead(now, at)).hash(state);
        }
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
        (me, ahead(now, *promise), mute).hash(state);
        ballot.fingerprint(state);
        // Of `booted` and `heard` only this is left.
        let _ = (booted, heard);
        let cold = ahead(now, self.cold_until());
        (known.max(&ballot.epoch), cold, bars, self.forced, self.unanswered).hash(state);
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
        let age = owner.sent_at(round).filter(|_| owner.epoch == epoch).map(|sent| now.since(sent));
        age.filter(|age| *age < self.councils().lease())
    }
}

impl Ballot {
    /// See the module. A version stands for its council.
    pub fn fingerprint<H: Hasher>(&self, state: &mut H) {
        let Self { epoch, voted, councils: Councils { in_force, newest }, won } = self;
        (epoch, voted, won, in_force.version, in_force.members.is_empty(), newest.version).hash(state);
    }
}

fn hash_poll<H: Hasher>(kind: u8, now: Time, poll: &Poll, state: &mut H) {
    let Poll { epoch, yes, until, warm, hurry, silent } = poll;
    (kind, epoch, yes, ahead(now, *until), warm, hurry, silent).hash(state);
}

impl Owner {
    fn fingerprint<H: Hasher>(&self, now: Time, state: &mut H) {
        let Self { epoch, guests, grants, sent: _, next_renew, raise, raise_at, tell_again, leaving, kept: _ } = self;
        (3u8, epoch, ahead(now, *next_renew), ahead(now, *raise_at), tell_again, leaving).hash(state);
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
    }
}
