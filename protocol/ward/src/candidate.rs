//! The candidate: whether this home should stand, asking before it does, and being elected.

use roost_protocol::{Epoch, Millis, Time};

use crate::council::{Policy, Version};
use crate::event::{Action, Refusal, Replica, Report};
use crate::id::MemberId;
use crate::message::{Candidacy, Message};
use crate::owner::{Owner, Poll};
use crate::rules::Rule;
use crate::ward::{ALONE, Seat, Ward};

/// Renewals that an owner gets to be heard when a candidate is back from being alone.
const GRACE_ROUNDS: u64 = 2;

impl Ward {
    /// When this home will try to stand, if nothing changes.
    pub(crate) fn try_at(&self) -> Option<Time> {
        let Seat::Off { next_try: Some(next_try) } = self.seat else { return None };
        let homes = &self.councils().newest.homes;
        if self.voter.mute || !homes.contains(&self.me) {
            return None;
        }
        let recorded = self.voter.ballot.voted;
        if recorded == Some(self.me) {
            return Some(next_try);
        }
        let rank = homes.iter().filter(|home| Some(**home) != recorded).take_while(|home| **home != self.me).count();
        let stagger = self.councils().timers().stagger.0.saturating_mul(u64::try_from(rank).unwrap_or(0));
        Some(next_try.max(self.voter.promise + Millis(stagger)))
    }

    pub(crate) fn try_soon(&mut self, now: Time) {
        if let Seat::Off { next_try } = &mut self.seat {
            *next_try = Some(now);
        }
    }

    /// What spoke against standing may not do so any more. Who waits for another reason goes on waiting: whoever gave the
    /// ward up must not snatch it from its next owner because a copy grew meanwhile.
    pub(crate) fn reconsider(&mut self, now: Time) {
        if matches!(self.seat, Seat::Off { next_try: None }) {
            self.try_soon(now);
        }
    }

    pub(crate) fn nominated(&mut self, now: Time, force: bool) {
        self.forced |= force;
        self.try_soon(now);
    }

    /// Whether this home was the last that owned the ward, as far as it knows: then its own disks are the newest copy.
    /// Who ran the ward was granted leases under its own version of the council by a majority, and whoever is elected
    /// has heard of it from one of them.
    pub(crate) fn was_last_owner(&self) -> bool {
        let ballot = &self.voter.ballot;
        let last = ballot.councils.newest.version.epoch;
        if last == Epoch(0) { ballot.councils.newest.homes.first() == Some(&self.me) } else { ballot.won == last }
    }

    /// What speaks against standing; advice, but for the copy's age.
    pub(crate) fn bar(&self, now: Time) -> Option<Refusal> {
        let mine = self.was_last_owner();
        let bars = &self.bars;
        match () {
            () if self.voter.mute => Some(Refusal::Mute),
            () if self.forced => None,
            () if bars.maintenance => Some(Refusal::Maintenance),
            () if mine => None,
            () if self.councils().policy() == Policy::Stay => Some(Refusal::Stays),
            () if bars.disarmed => Some(Refusal::Disarmed),
            () if bars.guests_answer => Some(Refusal::GuestsAnswer),
            () => self.copy_is_bad(now),
        }
    }

    fn copy_is_bad(&self, now: Time) -> Option<Refusal> {
        match self.replica {
            Replica::None if self.rules.keep(Rule::FreshReplica) => Some(Refusal::NoReplica),
            Replica::Until { point, max_rpo } if now.since(point) > max_rpo && self.rules.keep(Rule::FreshReplica) => {
                Some(Refusal::ReplicaTooOld)
            }
            Replica::None | Replica::Stateless | Replica::Until { .. } => None,
        }
    }

    /// Asks the council, unless something speaks against it.
    pub(crate) fn try_to_stand(&mut self, now: Time, out: &mut Vec<Action>) {
        if let Some(refusal) = self.bar(now) {
            self.stands_not(refusal, out);
            self.seat = Seat::Off { next_try: None };
            return;
        }
        let epoch = self.known.max(self.voter.ballot.epoch).next();
        let candidacy = Candidacy { epoch, newest: self.councils().newest.version };
        if self.voter.would(now, self.me, candidacy, true).is_err() {
            return self.off(Some(now), out);
        }
        if !self.rules.keep(Rule::AskFirst) {
            return self.stand(now, epoch, out);
        }
        // An answer to a question needs no disk.
        let patience = self.councils().timers().retry_min;
        self.seat = Seat::Asking(self.poll(now, epoch, patience));
        if self.told.is_none() {
            let owner = self.voter.ballot.voted;
            out.push(Action::Tell(Report::Asks { epoch, owner }));
        }
        self.send_all(&Message::Ask(candidacy), out);
        self.count_asked(now, out);
    }

    fn stands_not(&mut self, refusal: Refusal, out: &mut Vec<Action>) {
        if self.told != Some(refusal) {
            self.told = Some(refusal);
            out.push(Action::Tell(Report::StandsNot(refusal)));
        }
    }

    /// Whether it started not long ago and has not heard the owner since.
    pub(crate) fn is_cold(&self, now: Time) -> bool {
        now < self.cold_until()
    }

    /// A store that knows no council knows no owner that it could have missed.
    pub(crate) fn cold_until(&self) -> Time {
        let knows = !self.councils().newest.members.is_empty();
        if self.heard.is_none() && knows { self.booted + self.councils().timers().cold } else { Time(0) }
    }

    fn poll(&self, now: Time, epoch: Epoch, patience: Millis) -> Poll {
        let warm = self.forced || self.was_last_owner() || !self.is_cold(now);
        Poll { epoch, yes: vec![self.me], until: now + patience, warm, hurry: false, silent: true }
    }

    pub(crate) fn would(
        &mut self,
        now: Time,
        from: MemberId,
        epoch: Epoch,
        in_force: Version,
        cold: bool,
        out: &mut Vec<Action>,
    ) {
        match &mut self.seat {
            Seat::Asking(poll) if poll.epoch == epoch => {
                poll.add(from);
                poll.warm |= !cold;
                poll.silent = false;
            }
            Seat::Off { .. } => return self.answered(now, from, false, out),
            Seat::Asking(_) | Seat::Candidate(_) | Seat::Owner(_) => return,
        }
        self.confirm(in_force);
        self.count_asked(now, out);
    }

    fn count_asked(&mut self, now: Time, out: &mut Vec<Action>) {
        let Seat::Asking(poll) = &self.seat else { return };
        if !poll.won(self.councils(), self.rules) {
            return;
        }
        if poll.warm && std::mem::take(&mut self.unanswered) >= ALONE {
            // It was cut off and the owner may have been too: whose guests only paused gets time to speak first.
            let grace = Millis(self.councils().timers().renew.0.saturating_mul(GRACE_ROUNDS));
            self.seat = Seat::Off { next_try: Some(now + grace) };
        } else if poll.warm {
            let epoch = poll.epoch;
            self.stand(now, epoch, out);
        } else {
            // Everything just started, and the last owner has the newest data: it gets time to come back.
            self.stands_not(Refusal::ColdStart, out);
        }
    }

    /// Votes for itself, durably, then asks the others.
    fn stand(&mut self, now: Time, epoch: Epoch, out: &mut Vec<Action>) {
        let candidacy = Candidacy { epoch, newest: self.councils().newest.version };
        if self.voter.would(now, self.me, candidacy, true).is_err() {
            return self.off(Some(now), out);
        }
        self.told = None;
        self.voter.vote(now, self.me, epoch);
        self.persist(out);
        let patience = self.councils().timers().retry_max;
        self.seat = Seat::Candidate(self.poll(now, epoch, patience));
        self.send_all(&Message::Stand(candidacy), out);
        self.count_votes(now, out);
    }

    pub(crate) fn voted(&mut self, now: Time, from: MemberId, epoch: Epoch, in_force: Version, out: &mut Vec<Action>) {
        let poll = match &mut self.seat {
            Seat::Candidate(poll) => Some(poll),
            Seat::Owner(owner) => owner.raise.as_mut(),
            Seat::Off { .. } | Seat::Asking(_) => None,
        };
        let Some(poll) = poll.filter(|poll| poll.epoch == epoch) else { return };
        poll.add(from);
        self.confirm(in_force);
        self.count_votes(now, out);
    }

    fn count_votes(&mut self, now: Time, out: &mut Vec<Action>) {
        let won = |poll: &Poll| poll.won(self.councils(), self.rules);
        match &self.seat {
            Seat::Candidate(poll) if won(poll) => self.elected(now, out),
            Seat::Owner(owner) if owner.raise.as_ref().is_some_and(won) => self.raised(now, out),
            Seat::Off { .. } | Seat::Asking(_) | Seat::Candidate(_) | Seat::Owner(_) => {}
        }
    }

    fn elected(&mut self, now: Time, out: &mut Vec<Action>) {
        let seat = std::mem::replace(&mut self.seat, Seat::Off { next_try: None });
        let Seat::Candidate(poll) = seat else { return };
        self.forced = false;
        self.lay_down_councils(poll.epoch);
        self.persist(out);
        out.push(Action::Tell(Report::Elected { epoch: poll.epoch, votes: poll.yes }));
        self.seat = Seat::Owner(Box::new(Owner::elected(now, poll.epoch)));
    }

    /// An owner's first act: the newest council becomes its own. A change that its predecessor left open stays open
    /// until both councils grant under this version, so that no half-done change of an older owner can win later.
    pub(crate) fn lay_down_councils(&mut self, epoch: Epoch) {
        let ballot = &mut self.voter.ballot;
        ballot.won = epoch;
        if self.rules.keep(Rule::RestampCouncil) {
            ballot.councils.newest.version = Version { epoch, number: 0 };
        } else {
            ballot.councils.in_force = ballot.councils.newest.clone();
        }
    }
}

#[cfg(test)]
mod test {
    use roost_protocol::HostId;

    use super::*;
    use crate::ballot::Ballot;
    use crate::council::Council;
    use crate::event::{Bars, Event};
    use crate::rules::Rules;
    use crate::timers::Profile;
    use crate::ward::Start;

    const START: Time = Time(10_000_000);

    fn id(number: u128) -> MemberId {
        MemberId::first(HostId::from_u128(number))
    }

    fn asks(actions: &[Action]) -> bool {
        actions.iter().any(|action| matches!(action, Action::Send { message: Message::Ask(_), .. }))
    }

    fn hear(ward: &mut Ward, now: Time, from: u128, message: Message) -> Vec<Action> {
        ward.on(now, Event::Heard { from: id(from), message })
    }

    /// Host 1 of three, the first home before host 2, that owned epoch 1 and gave it up.
    fn gave_up() -> Ward {
        let council =
            Council::new(vec![id(1), id(2), id(3)], vec![id(1), id(2)], Policy::Strict, Profile::Normal).unwrap();
        let (ballot, replica) = (Ballot::first(council), Replica::Stateless);
        let (kept, booted, seed, rules) = (None, Time(0), 7, Rules::ALL);
        let mut ward = Ward::new(START, Start { me: id(1), ballot, kept, replica, booted, seed, rules });
        let now = START + ward.councils().promise();
        assert!(asks(&ward.on(now, Event::Wake)));
        let epoch = Epoch(1);
        let in_force = Version::default();
        hear(&mut ward, now, 3, Message::Would { epoch, in_force, cold: false });
        let won = hear(&mut ward, now, 3, Message::Vote { epoch, in_force });
        let renewal = won.into_iter().find_map(|action| {
            let Action::Send { message: Message::Renew { round, version, .. }, .. } = action else { return None };
            Some((round, version))
        });
        let (round, version) = renewal.expect("an owner renews");
        let granted = hear(&mut ward, now, 3, Message::Grant { epoch, round, version });
        assert!(granted.iter().any(|action| matches!(action, Action::Run { .. })), "{granted:?}");
        let leaves = ward.on(now, Event::Release);
        let Some(Action::Pause { order }) = leaves.iter().find(|action| matches!(action, Action::Pause { .. })) else {
            panic!("{leaves:?}")
        };
        let left = ward.on(now, Event::Stopped { order: *order });
        assert!(left.contains(&Action::Tell(Report::Released { epoch })), "{left:?}");
        ward
    }

    #[test]
    fn who_gave_the_ward_up_does_not_snatch_it_from_the_next_owner() {
        let mut ward = gave_up();
        let now = START + ward.councils().promise();
        let (point, max_rpo) = (now, Millis(1_000_000));
        assert!(!asks(&ward.on(now, Event::Replica(Replica::Until { point, max_rpo }))));
        let newest = ward.councils().newest.version;
        let voted = hear(&mut ward, now, 2, Message::Stand(Candidacy { epoch: Epoch(2), newest }));
        assert!(voted.iter().any(|action| matches!(action, Action::Send { message: Message::Vote { .. }, .. })));
        assert!(!voted.iter().any(|action| matches!(action, Action::Tell(Report::Suspect { .. }))), "{voted:?}");
        // Its agent tells what it has and what answers, before the winner is heard as owner.
        assert!(!asks(&ward.on(now, Event::Replica(Replica::Stateless))));
        assert!(!asks(&ward.on(now, Event::Bars(Bars::default()))));
        assert!(asks(&ward.on(now + ward.councils().promise() + Millis(5_000), Event::Wake)), "nobody took it");
    }

    #[test]
    fn who_votes_for_another_lets_it_speak_before_standing_itself() {
        let mut ward = gave_up();
        let now = START + Millis(90_000);
        let newest = ward.councils().newest.version;
        let voted = hear(&mut ward, now, 2, Message::Stand(Candidacy { epoch: Epoch(2), newest }));
        assert!(!asks(&voted) && !asks(&ward.on(now, Event::Wake)), "{voted:?}");
    }

    #[test]
    fn a_home_that_was_refused_stands_once_nothing_speaks_against_it() {
        let mut ward = gave_up();
        let now = START + Millis(90_000);
        assert!(!asks(&ward.on(now, Event::Bars(Bars { maintenance: true, ..Bars::default() }))));
        assert!(!asks(&ward.on(now, Event::Wake)));
        assert!(asks(&ward.on(now, Event::Bars(Bars::default()))));
    }
}
