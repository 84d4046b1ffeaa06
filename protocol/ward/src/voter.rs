//! The voter: one vote per epoch, and a promise to each owner it granted a lease that it votes for nobody else until
//! the owner is fenced for certain.

use roost_protocol::{Epoch, Time};

use crate::ballot::Ballot;
use crate::council::{Councils, Policy, Version};
use crate::id::MemberId;
use crate::message::{Candidacy, Denial};
use crate::rules::{Rule, Rules};

#[derive(Clone, Debug)]
pub(crate) struct Voter {
    pub(crate) me: MemberId,
    pub(crate) rules: Rules,
    pub(crate) ballot: Ballot,
    /// Votes for nobody but the recorded owner before this.
    pub(crate) promise: Time,
    /// Its store failed: it says nothing more until it starts anew.
    pub(crate) mute: bool,
}

/// An owner's renewal, as the voter looks at it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Renewal<'a> {
    pub(crate) owner: MemberId,
    pub(crate) epoch: Epoch,
    pub(crate) version: Version,
    pub(crate) settled: bool,
    pub(crate) councils: Option<&'a Councils>,
}

/// What a voter did with a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Granted {
    No(Denial),
    /// Nothing to write.
    Yes,
    /// The ballot changed: write it first.
    Changed,
}

impl Voter {
    /// A voter that starts can't know what it promised before.
    pub(crate) fn start(now: Time, me: MemberId, rules: Rules, ballot: Ballot) -> Self {
        let wait = rules.keep(Rule::PromiseAtStart) && ballot.voted.is_some();
        let promise = if wait { now + ballot.councils.promise() } else { now };
        Self { me, rules, ballot, promise, mute: false }
    }

    /// Whether it would vote for this candidate. `stopped`: it is the recorded owner itself and its guests are stopped.
    pub(crate) fn would(&self, now: Time, from: MemberId, candidacy: Candidacy, stopped: bool) -> Result<(), Denial> {
        let ballot = &self.ballot;
        if candidacy.epoch <= ballot.epoch {
            return Err(Denial::Behind);
        }
        let newest = &ballot.councils.newest;
        if candidacy.newest < newest.version && self.rules.keep(Rule::KnowsNewestCouncil) {
            return Err(Denial::OtherCouncil);
        }
        if candidacy.newest == newest.version && !newest.members.is_empty() && !newest.homes.contains(&from) {
            return Err(Denial::NoHome);
        }
        let free = now >= self.promise || !self.rules.keep(Rule::WaitForPromise);
        // The recorded owner asks only while it owns nothing, or to raise the epoch of what it owns.
        let itself = ballot.voted == Some(from);
        if free || itself || (stopped && ballot.voted == Some(self.me)) {
            return Ok(());
        }
        Err(Denial::Promised(self.promise.since(now)))
    }

    /// Whether this is asked for the vote that was given already.
    pub(crate) fn repeats(&self, from: MemberId, candidacy: Candidacy) -> bool {
        candidacy.epoch == self.ballot.epoch && self.ballot.voted == Some(from)
    }

    /// Votes. The ballot is to be written before the vote is sent.
    pub(crate) fn vote(&mut self, now: Time, from: MemberId, epoch: Epoch) {
        if self.ballot.voted != Some(from) {
            self.promise = now;
        }
        self.ballot.epoch = epoch;
        self.ballot.voted = Some(from);
    }

    /// Grants a lease to an owner, or says why not.
    pub(crate) fn renew(&mut self, now: Time, renewal: Renewal<'_>) -> Granted {
        let ballot = &self.ballot;
        let newer = renewal.epoch > ballot.epoch || self.wins_tie(renewal);
        let own = ballot.voted == Some(renewal.owner) && ballot.epoch >= renewal.epoch;
        if !newer && !own && self.rules.keep(Rule::OlderIsRefused) {
            return Granted::No(Denial::Behind);
        }
        let known = ballot.councils.newest.version;
        let fits = match renewal.councils {
            Some(councils) => councils.newest.version >= known && councils.has(self.me),
            None => renewal.version == known,
        };
        if !fits {
            return Granted::No(Denial::OtherCouncil);
        }
        let mut changed = newer;
        if newer {
            self.ballot.epoch = renewal.epoch;
            self.ballot.voted = Some(renewal.owner);
        }
        if let Some(councils) = renewal.councils {
            changed |= self.ballot.councils.learn(councils);
        }
        changed |= self.settle(renewal);
        self.promise = self.promise.max(now + self.ballot.councils.promise());
        if changed { Granted::Changed } else { Granted::Yes }
    }

    /// Two eager owners of one epoch: the one with the lower id stays.
    fn wins_tie(&self, renewal: Renewal<'_>) -> bool {
        let tie = renewal.epoch == self.ballot.epoch && self.ballot.voted.is_some_and(|voted| renewal.owner < voted);
        tie && self.ballot.councils.policy() != Policy::Strict
    }

    fn settle(&mut self, renewal: Renewal<'_>) -> bool {
        let councils = &mut self.ballot.councils;
        let now = renewal.settled && renewal.version == councils.newest.version && !councils.are_settled();
        if now {
            councils.in_force = councils.newest.clone();
        }
        now
    }

    /// The owner of this epoch runs nothing any more: the promise to it is void. True if there was one.
    pub(crate) fn freed(&mut self, now: Time, owner: MemberId, epoch: Epoch) -> bool {
        let named = self.ballot.epoch == epoch || !self.rules.keep(Rule::ProofNamesEpoch);
        let void = self.ballot.voted == Some(owner) && named && now < self.promise;
        if void {
            self.promise = now;
        }
        void
    }
}

#[cfg(test)]
mod test {
    use roost_protocol::{HostId, Millis};

    use super::*;
    use crate::council::Council;
    use crate::timers::Profile;

    const START: Time = Time(1_000_000);
    const P: Millis = Millis(22_000);

    fn id(number: u128) -> MemberId {
        MemberId::first(HostId::from_u128(number))
    }

    fn voter() -> Voter {
        let council =
            Council::new(vec![id(1), id(2), id(3)], vec![id(1), id(2)], Policy::Strict, Profile::Normal).unwrap();
        let ballot = Ballot { epoch: Epoch(4), ..Ballot::first(council) };
        Voter::start(START, id(3), Rules::default(), ballot)
    }

    fn renewal(owner: u128, epoch: u64) -> Renewal<'static> {
        Renewal { owner: id(owner), epoch: Epoch(epoch), version: Version::default(), settled: true, councils: None }
    }

    fn asks(voter: &Voter, now: Time, from: u128, epoch: u64) -> Result<(), Denial> {
        voter.would(now, id(from), Candidacy { epoch: Epoch(epoch), newest: Version::default() }, false)
    }

    #[test]
    fn a_restarted_voter_votes_for_nobody_new_for_a_whole_promise() {
        let voter = voter();
        assert_eq!(asks(&voter, START, 2, 5), Err(Denial::Promised(P)));
        assert_eq!(asks(&voter, START + P - Millis(1), 2, 5), Err(Denial::Promised(Millis(1))));
        assert_eq!(asks(&voter, START + P, 2, 5), Ok(()));
        assert_eq!(asks(&voter, START, 1, 5), Ok(()), "the recorded owner itself need not wait");
    }

    #[test]
    fn a_grant_renews_the_promise_and_an_older_owner_gets_none() {
        let mut voter = voter();
        let late = START + P;
        assert_eq!(voter.renew(late, renewal(1, 4)), Granted::Yes);
        assert_eq!(asks(&voter, late + P - Millis(1), 2, 5), Err(Denial::Promised(Millis(1))));
        voter.vote(late + P, id(2), Epoch(5));
        assert_eq!(voter.renew(late + P, renewal(1, 4)), Granted::No(Denial::Behind));
        assert_eq!(asks(&voter, late + P, 1, 5), Err(Denial::Behind), "one vote an epoch");
    }

    #[test]
    fn a_proof_of_another_epoch_frees_nothing() {
        let mut voter = voter();
        assert!(!voter.freed(START, id(1), Epoch(3)) && !voter.freed(START, id(2), Epoch(4)));
        assert!(voter.freed(START, id(1), Epoch(4)));
        assert_eq!(asks(&voter, START, 2, 5), Ok(()));
    }

    #[test]
    fn who_is_no_home_gets_no_vote() {
        assert_eq!(asks(&voter(), START + P, 3, 5), Err(Denial::NoHome));
    }
}
