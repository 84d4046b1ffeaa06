//! Asking the others whether they hear the owner that this home misses, before its power is cut: an owner that only this
//! home misses is well, and a home that nobody answers is itself cut off. Advice: no vote depends on it.
//!
//! It is read off what a voter answers a candidate: how much is left of its promise says when it heard the owner last.

use roost_protocol::{Epoch, Millis, Time};

use crate::council::Policy;
use crate::event::{Action, Report};
use crate::id::MemberId;
use crate::message::{Candidacy, Denial, Message};
use crate::rules::Rule;
use crate::ward::{Seat, Ward};

/// An answer says nothing any more after this.
const HOLDS: Millis = Millis(2_000);

/// What the others said of the owner.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inquiry {
    /// One of each member at most.
    answers: Vec<Answer>,
    /// The epoch of which it was told that its owner is missed.
    told: Option<Epoch>,
}

#[derive(Clone, Copy, Debug)]
struct Answer {
    member: MemberId,
    at: Time,
    hears: bool,
}

impl Ward {
    /// Asks, if this home misses the owner and would take over from it.
    pub(crate) fn inquire(&mut self, now: Time, out: &mut Vec<Action>) {
        if self.misses(now).is_none() {
            return;
        }
        self.inquiry.get_or_insert_default();
        let epoch = self.known.max(self.voter.ballot.epoch).next();
        let newest = self.councils().newest.version;
        self.send_all(&Message::Ask(Candidacy { epoch, newest }), out);
    }

    /// The owner and its epoch, where this home misses it, could run its guests, and lets nothing speak against that.
    fn misses(&self, now: Time) -> Option<(MemberId, Epoch)> {
        let councils = self.councils();
        let may = councils.policy() == Policy::Strict && councils.newest.homes.contains(&self.me);
        let (owner, epoch) = (self.voter.ballot.voted?, self.voter.ballot.epoch);
        // Who was elected a moment ago was not heard yet, and is not missed.
        let missing = self.suspected && self.missing == Some((owner, epoch)) && owner != self.me;
        let off = matches!(self.seat, Seat::Off { .. });
        (may && missing && off && self.bar(now).is_none()).then_some((owner, epoch))
    }

    /// A voter said no to a question; in an epoch of its own.
    pub(crate) fn heard_denial(&mut self, now: Time, from: MemberId, epoch: Epoch, why: Denial, out: &mut Vec<Action>) {
        if let Denial::Promised(left) = why
            && epoch == self.voter.ballot.epoch
        {
            // By either council while a change is open: by the longer promise it heard the owner later.
            let councils = self.councils();
            let promise = councils.newest.timers().promise.min(councils.in_force.timers().promise);
            let silent = Millis(promise.0.saturating_sub(left.0));
            self.answered(now, from, silent < self.councils().timers().suspect(), out);
        }
    }

    /// A voter answered whether it hears the owner.
    pub(crate) fn answered(&mut self, now: Time, from: MemberId, hears: bool, out: &mut Vec<Action>) {
        if !self.councils().has(from) {
            return;
        }
        let Some(inquiry) = &mut self.inquiry else { return };
        inquiry.answers.retain(|answer| answer.member != from);
        inquiry.answers.push(Answer { member: from, at: now, hears });
        let Some((owner, epoch)) = self.missed(now) else { return };
        let by = self.inquiry.iter().flat_map(|inquiry| &inquiry.answers).map(|answer| answer.member).collect();
        if let Some(inquiry) = self.inquiry.as_mut().filter(|inquiry| inquiry.told != Some(epoch)) {
            inquiry.told = Some(epoch);
            out.push(Action::Tell(Report::Missed { owner, epoch, by }));
        }
    }

    /// The owner and its epoch, where it is missed by more than half of the council, heard by nobody who answered, and this
    /// home would take over from it: then its power may be cut. See [`crate::Event::Fenced`].
    pub fn missed(&self, now: Time) -> Option<(MemberId, Epoch)> {
        let missing = self.misses(now)?;
        let fresh = |answer: &&Answer| now.since(answer.at) <= HOLDS;
        let answers = &self.inquiry.as_ref()?.answers;
        if answers.iter().filter(fresh).any(|answer| answer.hears) {
            return None;
        }
        let misses = |member| member == self.me || answers.iter().filter(fresh).any(|answer| answer.member == member);
        self.councils().agree(self.rules, Rule::BothCouncilsVote, misses).then_some(missing)
    }

    /// Whether the owner was not heard for a few rounds.
    pub fn is_suspected(&self) -> bool {
        self.suspected
    }
}

#[cfg(test)]
mod test {
    use roost_protocol::HostId;

    use super::*;
    use crate::ballot::Ballot;
    use crate::council::{Council, Version};
    use crate::event::{Bars, Event, Replica};
    use crate::id::Round;
    use crate::rules::Rules;
    use crate::timers::Profile;
    use crate::ward::Start;

    const START: Time = Time(10_000_000);

    fn id(number: u128) -> MemberId {
        MemberId::first(HostId::from_u128(number))
    }

    /// Host 2 of three, home after host 1, which it heard last at `START`.
    fn second() -> Ward {
        let council =
            Council::new(vec![id(1), id(2), id(3)], vec![id(1), id(2)], Policy::Strict, Profile::Normal).unwrap();
        let ballot = Ballot { epoch: Epoch(4), ..Ballot::first(council) };
        let replica = Replica::Stateless;
        let (kept, booted, seed, rules) = (None, Time(0), 7, Rules::ALL);
        let mut ward = Ward::new(START, Start { me: id(2), ballot, kept, replica, booted, seed, rules });
        let message = renewal(4);
        ward.on(START, Event::Heard { from: id(1), message });
        ward
    }

    fn renewal(epoch: u64) -> Message {
        let (version, councils) = (Version::default(), None);
        Message::Renew { epoch: Epoch(epoch), round: Round(1), version, settled: true, councils }
    }

    fn promised(ward: &mut Ward, now: Time, from: u128, left: u64) -> Vec<Action> {
        let why = Denial::Promised(Millis(left));
        let message = Message::Refuse { epoch: Epoch(4), why, councils: None };
        ward.on(now, Event::Heard { from: id(from), message })
    }

    fn asks(actions: &[Action]) -> usize {
        actions.iter().filter(|action| matches!(action, Action::Send { message: Message::Ask(_), .. })).count()
    }

    #[test]
    fn an_owner_is_missed_once_another_misses_it_too() {
        let mut ward = second();
        let early = START + Millis(4_000);
        assert_eq!(asks(&ward.on(early, Event::Inquire)), 0, "it was heard a moment ago");
        let late = START + Millis(6_000);
        ward.on(late, Event::Wake);
        assert_eq!(asks(&ward.on(late, Event::Inquire)), 2);
        assert_eq!(ward.missed(late), None, "nobody answered: it may be this home that is cut off");
        let told = promised(&mut ward, late, 3, 22_000 - 5_500);
        assert_eq!(ward.missed(late), Some((id(1), Epoch(4))));
        let (owner, epoch, by) = (id(1), Epoch(4), vec![id(3)]);
        assert_eq!(told, [Action::Tell(Report::Missed { owner, epoch, by })]);
        assert_eq!(promised(&mut ward, late, 3, 22_000 - 5_600), [], "told once");
        assert_eq!(ward.missed(late + HOLDS + Millis(1)), None, "an old answer is none");
    }

    #[test]
    fn an_owner_that_somebody_hears_is_not_missed() {
        let mut ward = second();
        let late = START + Millis(6_000);
        ward.on(late, Event::Wake);
        ward.on(late, Event::Inquire);
        promised(&mut ward, late, 3, 21_900);
        assert_eq!(ward.missed(late), None);
        promised(&mut ward, late, 3, 22_000 - 5_500);
        assert!(ward.missed(late).is_some());
        let message = renewal(4);
        ward.on(late, Event::Heard { from: id(1), message });
        assert_eq!(ward.missed(late), None, "it is heard again here");
    }

    #[test]
    fn answers_of_strangers_of_other_epochs_and_to_no_question_say_nothing() {
        let mut ward = second();
        let late = START + Millis(6_000);
        ward.on(late, Event::Wake);
        promised(&mut ward, late, 3, 10_000);
        assert_eq!(ward.missed(late), None, "nobody asked");
        ward.on(late, Event::Inquire);
        promised(&mut ward, late, 9, 10_000);
        let message = Message::Refuse { epoch: Epoch(3), why: Denial::Promised(Millis(10_000)), councils: None };
        ward.on(late, Event::Heard { from: id(3), message });
        assert_eq!(ward.missed(late), None);
    }

    #[test]
    fn a_home_that_would_not_take_over_misses_nobody() {
        let check = |event: Event| {
            let mut ward = second();
            let late = START + Millis(6_000);
            ward.on(late, event);
            assert_eq!(asks(&ward.on(late, Event::Inquire)), 0);
            promised(&mut ward, late, 3, 10_000);
            assert_eq!(ward.missed(late), None);
        };
        check(Event::Replica(Replica::None));
        check(Event::Bars(Bars { disarmed: true, ..Bars::default() }));
        check(Event::Bars(Bars { guests_answer: true, ..Bars::default() }));
    }

    #[test]
    fn who_was_elected_a_moment_ago_is_not_missed() {
        let mut ward = second();
        let late = START + Millis(30_000);
        ward.on(late, Event::Replica(Replica::None));
        let candidacy = Candidacy { epoch: Epoch(5), newest: Version::default() };
        ward.on(late, Event::Heard { from: id(1), message: Message::Stand(candidacy) });
        ward.on(late, Event::Replica(Replica::Stateless));
        assert_eq!(asks(&ward.on(late, Event::Inquire)), 0);
    }
}
