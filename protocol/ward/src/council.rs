//! Who votes on a ward, who may own it, and by which timers. A council changes only by a joint decision: from the moment
//! a new one is laid down until the old one and the new one agreed, majorities of both are needed for everything.

use minicbor::{Decode, Encode};
use roost_protocol::{Epoch, Millis};

use crate::id::MemberId;
use crate::rules::{Rule, Rules};
use crate::timers::{Profile, Timers, TimersRefusal};

/// Most voters in a council: more make no ward safer, but each renewal dearer.
pub const MOST_MEMBERS: usize = 5;

/// What a ward does when its host falls silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Policy {
    /// Never two: guests need a lease and pause when it ends; takeover by a majority after the promise.
    #[n(0)]
    Strict,
    /// Availability first: guests need no lease; takeover after a few missed renewals; the older epoch ends at first contact.
    #[n(1)]
    Eager,
    /// Never moved but by an admin: guests need no lease.
    #[n(2)]
    Stay,
}

/// When a council was laid down: in which owner's epoch, and the how manieth in it. An epoch has one owner, so no two
/// councils have the same version, and a later owner's is newer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Version {
    #[n(0)]
    pub epoch: Epoch,
    #[n(1)]
    pub number: u32,
}

/// The constitution of a ward.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Council {
    #[n(0)]
    pub version: Version,
    /// Who votes, in order of id.
    #[n(1)]
    pub members: Vec<MemberId>,
    /// Who may own the ward, in order of preference.
    #[n(2)]
    pub homes: Vec<MemberId>,
    #[n(3)]
    pub policy: Policy,
    #[n(4)]
    pub profile: Profile,
}

/// Why a council is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CouncilRefusal {
    #[error("a council has at most {MOST_MEMBERS} members, not {0}")]
    TooMany(usize),
    #[error("{0} stands twice")]
    Twice(MemberId),
    #[error(
        "a strict ward needs 3 or 5 voters, not {0}: two can't tell a dead host from a cut cable; add the aggregator or a witness, or choose eager or stay"
    )]
    NotOdd(usize),
    #[error("a ward needs a home")]
    NoHome,
    #[error("the home {0} is no member: its own vote must be among those that count")]
    HomeIsNoMember(MemberId),
    #[error("its timers are unsafe")]
    Timers(#[from] TimersRefusal),
}

impl Council {
    /// The first council of a new ward.
    ///
    /// # Errors
    /// It could not keep the promises of its policy.
    pub fn new(
        members: Vec<MemberId>,
        homes: Vec<MemberId>,
        policy: Policy,
        profile: Profile,
    ) -> Result<Self, CouncilRefusal> {
        let mut council = Self { version: Version::default(), members, homes, policy, profile };
        council.members.sort_unstable();
        council.check(Rules::default())?;
        Ok(council)
    }

    /// Nobody's: what a fresh store knows.
    pub(crate) fn none() -> Self {
        let (policy, profile) = (Policy::Strict, Profile::Normal);
        Self { version: Version::default(), members: Vec::new(), homes: Vec::new(), policy, profile }
    }

    /// Whether this council can keep what its policy promises.
    ///
    /// # Errors
    /// The first reason why not.
    pub fn check(&self, rules: Rules) -> Result<(), CouncilRefusal> {
        let count = self.members.len();
        if count > MOST_MEMBERS {
            return Err(CouncilRefusal::TooMany(count));
        }
        if let Some(pair) = self.members.windows(2).find(|pair| pair[0] >= pair[1]) {
            return Err(CouncilRefusal::Twice(pair[1]));
        }
        if self.policy == Policy::Strict && count != 3 && count != 5 {
            return Err(CouncilRefusal::NotOdd(count));
        }
        if self.homes.is_empty() {
            return Err(CouncilRefusal::NoHome);
        }
        if let Some(home) = self.homes.iter().find(|home| !self.has(**home)) {
            return Err(CouncilRefusal::HomeIsNoMember(*home));
        }
        if rules.checks_timers() {
            self.timers().check()?;
        }
        Ok(())
    }

    /// Whether it votes here.
    pub fn has(&self, member: MemberId) -> bool {
        self.members.contains(&member)
    }

    pub(crate) fn timers(&self) -> &Timers {
        self.profile.timers()
    }

    /// How many voices decide. An eager ward of two hosts goes on with one; a ward that never moves asks nobody.
    fn quorum(&self, rules: Rules) -> usize {
        if !rules.keep(Rule::Majority) {
            return 1;
        }
        match self.policy {
            Policy::Strict => self.members.len() / 2 + 1,
            Policy::Eager => self.members.len().div_ceil(2).max(1),
            Policy::Stay => 1,
        }
    }

    fn agrees(&self, rules: Rules, mut said_yes: impl FnMut(MemberId) -> bool) -> bool {
        self.members.iter().filter(|member| said_yes(**member)).count() >= self.quorum(rules)
    }

    /// Until when enough members hold, if each holds until then.
    fn holds_until<T: Copy + Ord + Default>(&self, rules: Rules, until: impl Fn(MemberId) -> T) -> T {
        let mut ends = [T::default(); MOST_MEMBERS];
        for (end, member) in ends.iter_mut().zip(&self.members) {
            *end = until(*member);
        }
        ends.sort_unstable_by(|one, other| other.cmp(one));
        ends.get(self.quorum(rules).saturating_sub(1)).copied().unwrap_or_default()
    }
}

/// The council in force, and the newest that was laid down; equal but while a change is open.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Councils {
    #[n(0)]
    pub in_force: Council,
    #[n(1)]
    pub newest: Council,
}

impl Councils {
    /// No change open.
    pub fn settled(council: Council) -> Self {
        Self { in_force: council.clone(), newest: council }
    }

    /// Whether no change is open.
    pub fn are_settled(&self) -> bool {
        self.in_force.version == self.newest.version
    }

    /// Everybody whose voice may count, in order.
    pub fn members(&self) -> Vec<MemberId> {
        let mut members = self.newest.members.clone();
        members.extend(self.in_force.members.iter().filter(|member| !self.newest.has(**member)));
        members
    }

    pub(crate) fn has(&self, member: MemberId) -> bool {
        self.newest.has(member) || self.in_force.has(member)
    }

    /// Strict while either is.
    pub fn policy(&self) -> Policy {
        if self.in_force.policy == Policy::Strict { Policy::Strict } else { self.newest.policy }
    }

    pub(crate) fn timers(&self) -> &Timers {
        self.newest.timers()
    }

    /// P: the longer one while a change is open (Q6). Who doesn't need leases is suspect sooner.
    pub(crate) fn promise(&self) -> Millis {
        let of = |council: &Council| match council.policy {
            Policy::Strict => council.timers().promise,
            Policy::Eager | Policy::Stay => council.timers().suspect(),
        };
        of(&self.in_force).max(of(&self.newest))
    }

    /// D: the shorter one while a change is open (Q6).
    pub(crate) fn lease(&self) -> Millis {
        self.in_force.timers().lease.min(self.newest.timers().lease)
    }

    /// The watchdog's time-out: the shorter one while a change is open (Q6).
    pub(crate) fn watchdog(&self) -> Option<Millis> {
        let of = |council: &Council| council.timers().fence.map(|fence| fence.watchdog);
        [of(&self.in_force), of(&self.newest)].into_iter().flatten().min()
    }

    /// Whether enough of both said yes.
    pub(crate) fn agree(&self, rules: Rules, open: Rule, mut said_yes: impl FnMut(MemberId) -> bool) -> bool {
        let newest = self.newest.agrees(rules, &mut said_yes);
        newest && (self.are_settled() || !rules.keep(open) || self.in_force.agrees(rules, said_yes))
    }

    /// Until when enough of both hold.
    pub(crate) fn hold_until<T: Copy + Ord + Default>(&self, rules: Rules, until: impl Fn(MemberId) -> T) -> T {
        let newest = self.newest.holds_until(rules, &until);
        if self.are_settled() || !rules.keep(Rule::BothCouncilsLease) {
            return newest;
        }
        newest.min(self.in_force.holds_until(rules, until))
    }

    /// Takes over what is newer. True if something was.
    pub(crate) fn learn(&mut self, other: &Councils) -> bool {
        let newest = other.newest.version > self.newest.version;
        if newest {
            self.newest = other.newest.clone();
        }
        let in_force = other.in_force.version > self.in_force.version;
        if in_force {
            self.in_force = other.in_force.clone();
        }
        newest || in_force
    }
}

#[cfg(test)]
mod test {
    use roost_protocol::HostId;

    use super::*;

    fn member(number: u128) -> MemberId {
        MemberId::first(HostId::from_u128(number))
    }

    fn council(members: &[u128], homes: &[u128], policy: Policy) -> Result<Council, CouncilRefusal> {
        let ids = |numbers: &[u128]| numbers.iter().copied().map(member).collect();
        Council::new(ids(members), ids(homes), policy, Profile::Normal)
    }

    #[test]
    fn a_council_that_could_not_keep_its_promises_is_refused() {
        use CouncilRefusal::{HomeIsNoMember, NoHome, NotOdd, TooMany, Twice};
        let check = |members: &[u128], homes: &[u128], policy, expected: Result<(), CouncilRefusal>| {
            assert_eq!(council(members, homes, policy).map(drop), expected, "{members:?} {homes:?} {policy:?}");
        };
        check(&[1, 2, 3], &[1, 2], Policy::Strict, Ok(()));
        check(&[1, 2], &[1, 2], Policy::Strict, Err(NotOdd(2)));
        check(&[1, 2, 3, 4], &[1, 2], Policy::Strict, Err(NotOdd(4)));
        check(&[1, 2], &[1, 2], Policy::Eager, Ok(()));
        check(&[1], &[1], Policy::Stay, Ok(()));
        check(&[1, 2, 2], &[1], Policy::Strict, Err(Twice(member(2))));
        check(&[1, 2, 3], &[], Policy::Strict, Err(NoHome));
        check(&[1, 2, 3], &[1, 4], Policy::Strict, Err(HomeIsNoMember(member(4))));
        check(&[1, 2, 3, 4, 5, 6], &[1], Policy::Eager, Err(TooMany(6)));
    }

    #[test]
    fn while_a_change_is_open_both_councils_must_agree() {
        let old = council(&[1, 2, 3], &[1, 2], Policy::Strict).unwrap();
        let mut new = council(&[1, 2, 4], &[1, 2], Policy::Strict).unwrap();
        new.version.number = 1;
        let open = Councils { in_force: old, newest: new };
        let agree = |yes: &[u128]| {
            open.agree(Rules::default(), Rule::BothCouncilsVote, |who| yes.iter().any(|n| member(*n) == who))
        };
        assert!(agree(&[1, 2]) && agree(&[1, 3, 4]));
        assert!(!agree(&[1, 3]) && !agree(&[1, 4]) && !agree(&[3, 4]));
        assert_eq!(
            open.hold_until(Rules::default(), |who| if who == member(3) {
                5
            } else if who == member(1) {
                9
            } else {
                7
            }),
            7
        );
    }

    #[test]
    fn while_timers_change_the_longer_promise_and_the_shorter_lease_count() {
        let old = council(&[1, 2, 3], &[1, 2], Policy::Strict).unwrap();
        let mut new = Council { profile: Profile::Fast, ..old.clone() };
        new.version.number = 1;
        let open = Councils { in_force: old, newest: new };
        assert_eq!((open.promise(), open.lease()), (Millis(22_000), Millis(4_000)));
    }
}
