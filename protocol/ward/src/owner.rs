//! What an owner knows of its epoch: who granted how long, and how its guests are.

use roost_protocol::{Epoch, Millis, Time};

use crate::ballot::Kept;
use crate::council::{Councils, Policy, Version};
use crate::id::{MemberId, Round};
use crate::rules::{Rule, Rules};

/// Rounds that may still be answered; more than any profile sends within one lease.
const MOST_ROUNDS: usize = 64;

#[derive(Clone, Debug)]
pub(crate) struct Owner {
    pub(crate) epoch: Epoch,
    pub(crate) guests: Guests,
    pub(crate) grants: Vec<Grant>,
    /// Rounds under way, oldest first, and when each was sent.
    pub(crate) sent: Vec<(Round, Time)>,
    pub(crate) next_renew: Time,
    pub(crate) raise: Option<Poll>,
    pub(crate) raise_at: Time,
    /// The guard was restarted: the guests may have missed that they may run.
    pub(crate) tell_again: bool,
    /// Guests are stopped first, then the epoch is given up.
    pub(crate) leaving: bool,
    /// What was kept last.
    pub(crate) kept: Option<Kept>,
}

/// How the guests of an owned ward are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Guests {
    /// Nothing executes.
    Held,
    /// They may be executing.
    Running,
    /// They were told to pause and may still be executing.
    Pausing { kill_at: Time },
    /// They were killed and may still be executing.
    Killing,
}

impl Guests {
    pub(crate) fn may_execute(self) -> bool {
        match self {
            Guests::Held => false,
            Guests::Running | Guests::Pausing { .. } | Guests::Killing => true,
        }
    }
}

/// What one member granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Grant {
    pub(crate) member: MemberId,
    pub(crate) until: Time,
    /// The newest council it knew.
    pub(crate) version: Version,
}

/// Voices collected for one epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Poll {
    pub(crate) epoch: Epoch,
    pub(crate) yes: Vec<MemberId>,
    pub(crate) until: Time,
    /// Somebody who says yes has been up for long: it isn't so that everything just started.
    pub(crate) warm: bool,
    /// Somebody's promise ends by `until`: then it asks again at once.
    pub(crate) hurry: bool,
    /// Nobody answered yet, neither yes nor no.
    pub(crate) silent: bool,
}

impl Poll {
    pub(crate) fn add(&mut self, member: MemberId) {
        if let Err(at) = self.yes.binary_search(&member) {
            self.yes.insert(at, member);
        }
    }

    pub(crate) fn won(&self, councils: &Councils, rules: Rules) -> bool {
        councils.agree(rules, Rule::BothCouncilsVote, |member| self.yes.contains(&member))
    }
}

impl Owner {
    pub(crate) fn elected(now: Time, epoch: Epoch) -> Self {
        Self {
            epoch,
            guests: Guests::Held,
            grants: Vec::new(),
            sent: Vec::new(),
            next_renew: now,
            raise: None,
            raise_at: now,
            tell_again: false,
            leaving: false,
            kept: None,
        }
    }

    /// After a restart of the guard in the same boot.
    pub(crate) fn resumed(now: Time, kept: Kept, councils: &Councils, rules: Rules) -> Self {
        let until = if rules.keep(Rule::KeptLeaseEnds) { kept.lease_until() } else { now + councils.lease() };
        let grants = councils.members().into_iter().map(|member| Grant { member, until, version: Version::default() });
        let guests = if kept.may_execute { Guests::Running } else { Guests::Held };
        let grants = grants.collect();
        Self { guests, grants, kept: Some(kept), tell_again: true, ..Self::elected(now, kept.epoch) }
    }

    /// When the lease ends: a guest may execute before, and not from then on.
    pub(crate) fn lease_end(&self, councils: &Councils, rules: Rules) -> Time {
        if councils.policy() != Policy::Strict {
            return Time(u64::MAX);
        }
        councils.hold_until(rules, |member| self.grant(member).map_or(Time(0), |grant| grant.until))
    }

    pub(crate) fn grant(&self, member: MemberId) -> Option<&Grant> {
        self.grants.iter().find(|grant| grant.member == member)
    }

    /// Notes a new round, sent now. Its number is the owner's clock, which goes on over a restart of the guard: two
    /// rounds of one number are of one moment, so that an answer to either is worth the same.
    pub(crate) fn begin_round(&mut self, now: Time, lease: Millis) -> Round {
        let round = Round(now.0);
        self.sent.retain(|(_, sent)| now < *sent + lease);
        if self.sent.len() >= MOST_ROUNDS {
            self.sent.remove(0);
        }
        if self.sent.last().is_none_or(|(last, _)| *last != round) {
            self.sent.push((round, now));
        }
        round
    }

    /// When this round was sent, if a grant for it still helps.
    pub(crate) fn sent_at(&self, round: Round) -> Option<Time> {
        self.sent.iter().find(|(sent, _)| *sent == round).map(|(_, at)| *at)
    }

    /// The member has to be told the councils in full again.
    pub(crate) fn forget_version(&mut self, member: MemberId) {
        if let Some(grant) = self.grants.iter_mut().find(|grant| grant.member == member) {
            grant.version = Version::default();
        }
    }

    pub(crate) fn granted(&mut self, member: MemberId, until: Time, version: Version) {
        match self.grants.iter_mut().find(|grant| grant.member == member) {
            Some(grant) => {
                grant.until = grant.until.max(until);
                grant.version = grant.version.max(version);
            }
            None => {
                self.grants.push(Grant { member, until, version });
                self.grants.sort_unstable_by_key(|grant| grant.member);
            }
        }
    }
}
