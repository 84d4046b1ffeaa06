//! What a ward does with each message.

use roost_protocol::{Epoch, Millis, Time};

use crate::council::{Councils, Version};
use crate::event::{Action, Ground, Report};
use crate::id::MemberId;
use crate::message::{Candidacy, Denial, Message};
use crate::voter::{Granted, Renewal};
use crate::ward::{Seat, Ward};

/// A candidate asks again for a promise about to end no sooner than this, so that other answers may come.
const SOON: Millis = Millis(50);

impl Ward {
    pub(crate) fn heard(&mut self, now: Time, from: MemberId, message: Message, out: &mut Vec<Action>) {
        match message {
            Message::Renew { epoch, round, version, settled, councils } => {
                let renewal = Renewal { owner: from, epoch, version, settled, councils: councils.as_deref() };
                if let Some(answer) = self.renewed(now, renewal, out) {
                    let message = answer.unwrap_or(Message::Grant { epoch, round, version });
                    out.push(Action::Send { to: from, message });
                }
            }
            Message::Grant { epoch, round, version } => self.granted(now, from, epoch, round, version, out),
            Message::Refuse { epoch, why, councils } => self.refused(now, from, epoch, why, councils.as_deref(), out),
            Message::Ask(candidacy) => self.asked(now, from, candidacy, out),
            Message::Would { epoch, in_force, cold } => self.would(now, from, epoch, in_force, cold, out),
            Message::Stand(candidacy) => self.asked_to_vote(now, from, candidacy, out),
            Message::Vote { epoch, in_force } => self.voted(now, from, epoch, in_force, out),
            Message::Release { epoch } => {
                self.voter.freed(now, from, epoch);
            }
            Message::Fenced { owner, epoch } => self.proven(now, owner, epoch, out),
        }
    }

    /// Somebody owns the ward and renews. The answer is a refusal, a grant (`Some(None)`), or nothing.
    fn renewed(&mut self, now: Time, renewal: Renewal<'_>, out: &mut Vec<Action>) -> Option<Option<Message>> {
        self.known = self.known.max(renewal.epoch);
        if self.voter.mute {
            return None;
        }
        match self.voter.renew(now, renewal) {
            Granted::No(why) => return Some(Some(self.refusal(why, renewal.version))),
            Granted::Changed => self.persist(out),
            Granted::Yes => {}
        }
        (self.heard, self.inquiry) = (Some(now), None);
        if std::mem::take(&mut self.suspected) {
            out.push(Action::Tell(Report::HeardAgain { owner: renewal.owner }));
        }
        match &mut self.seat {
            Seat::Off { next_try } => *next_try = Some(now),
            Seat::Asking(_) | Seat::Candidate(_) => self.off(Some(now), out),
            Seat::Owner(_) => {}
        }
        Some(None)
    }

    fn refusal(&self, why: Denial, known: Version) -> Message {
        let councils = self.councils();
        let news = (councils.newest.version > known).then(|| Box::new(councils.clone()));
        Message::Refuse { epoch: self.voter.ballot.epoch, why, councils: news }
    }

    /// Whether, being the recorded owner, it runs nothing.
    fn is_stopped(&self) -> bool {
        match &self.seat {
            Seat::Off { .. } | Seat::Asking(_) | Seat::Candidate(_) => true,
            Seat::Owner(owner) => !owner.guests.may_execute(),
        }
    }

    fn asked(&self, now: Time, from: MemberId, candidacy: Candidacy, out: &mut Vec<Action>) {
        if self.voter.mute {
            return;
        }
        let in_force = self.councils().in_force.version;
        let message = match self.voter.would(now, from, candidacy, self.is_stopped()) {
            Ok(()) => Message::Would { epoch: candidacy.epoch, in_force, cold: self.is_cold(now) },
            Err(why) => self.refusal(why, candidacy.newest),
        };
        out.push(Action::Send { to: from, message });
    }

    fn asked_to_vote(&mut self, now: Time, from: MemberId, candidacy: Candidacy, out: &mut Vec<Action>) {
        self.known = self.known.max(candidacy.epoch);
        if self.voter.mute {
            return;
        }
        if !self.voter.repeats(from, candidacy) {
            let ground = self.ground(now, from);
            if let Err(why) = self.voter.would(now, from, candidacy, self.is_stopped()) {
                out.push(Action::Tell(Report::Denied { candidate: from, epoch: candidacy.epoch, why }));
                out.push(Action::Send { to: from, message: self.refusal(why, candidacy.newest) });
                return;
            }
            self.voter.vote(now, from, candidacy.epoch);
            self.heard = self.heard.and(Some(now));
            match &self.seat {
                Seat::Asking(_) | Seat::Candidate(_) => self.off(Some(now), out),
                // The candidate gets time to be heard as owner.
                Seat::Off { next_try: Some(at) } if *at <= now => self.off(Some(now), out),
                Seat::Off { .. } | Seat::Owner(_) => {}
            }
            self.persist(out);
            out.push(Action::Tell(Report::Voted { candidate: from, epoch: candidacy.epoch, ground }));
        }
        let in_force = self.councils().in_force.version;
        out.push(Action::Send { to: from, message: Message::Vote { epoch: candidacy.epoch, in_force } });
    }

    fn ground(&self, now: Time, from: MemberId) -> Ground {
        if self.voter.ballot.voted == Some(from) {
            Ground::OwnerItself
        } else if now >= self.voter.promise {
            Ground::PromiseOver
        } else {
            Ground::OwnStopped
        }
    }

    /// A voter said no: to a renewal, a question or a candidate.
    fn refused(
        &mut self,
        now: Time,
        from: MemberId,
        epoch: Epoch,
        why: Denial,
        councils: Option<&Councils>,
        out: &mut Vec<Action>,
    ) {
        self.known = self.known.max(epoch);
        self.heard_denial(now, from, epoch, why, out);
        if let Seat::Asking(poll) | Seat::Candidate(poll) = &mut self.seat {
            poll.silent = false;
        }
        if let (Seat::Asking(poll), Denial::Promised(left)) = (&mut self.seat, why)
            && now + left <= poll.until
        {
            poll.until = now + left.max(SOON);
            poll.hurry = true;
        }
        match &self.seat {
            Seat::Off { .. } => {
                self.learn(councils, out);
            }
            Seat::Asking(poll) | Seat::Candidate(poll) => {
                let late = epoch >= poll.epoch || why == Denial::OtherCouncil;
                if self.learn(councils, out) || late {
                    self.off(Some(now), out);
                }
            }
            Seat::Owner(_) => self.owner_refused(now, from, epoch, why, out),
        }
    }

    /// What was learnt is written at once: a later grant says that it is known.
    fn learn(&mut self, councils: Option<&Councils>, out: &mut Vec<Action>) -> bool {
        let news = councils.is_some_and(|councils| self.voter.ballot.councils.learn(councils));
        if news {
            self.persist(out);
        }
        news
    }

    /// A voter that knows the newest council in force ends the candidate's doubt.
    pub(crate) fn confirm(&mut self, in_force: Version) {
        let councils = &mut self.voter.ballot.councils;
        if in_force == councils.newest.version && !councils.are_settled() {
            councils.in_force = councils.newest.clone();
        }
    }

    /// A fence made here is told to everybody.
    pub(crate) fn fenced(&mut self, now: Time, owner: MemberId, epoch: Epoch, out: &mut Vec<Action>) {
        self.proven(now, owner, epoch, out);
        self.send_all(&Message::Fenced { owner, epoch }, out);
    }

    fn proven(&mut self, now: Time, owner: MemberId, epoch: Epoch, out: &mut Vec<Action>) {
        if owner != self.me && self.voter.freed(now, owner, epoch) {
            out.push(Action::Tell(Report::Fenced { owner, epoch }));
        }
    }
}
