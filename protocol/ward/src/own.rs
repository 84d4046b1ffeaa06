//! The owner: renewing, running guests while the lease holds and stopping them when it ends, giving the ward up,
//! changing its council.

use roost_protocol::{Epoch, Time};

use crate::ballot::Kept;
use crate::council::{Council, Policy, Version};
use crate::event::{Action, Change, ChangeRefusal, Report};
use crate::id::{MemberId, Order, Round};
use crate::message::{Candidacy, Denial, Message};
use crate::owner::{Guests, Owner, Poll};
use crate::rules::Rule;
use crate::voter::{Granted, Renewal};
use crate::ward::{Seat, Ward};

impl Ward {
    pub(crate) fn lease_end(&self, owner: &Owner) -> Time {
        owner.lease_end(self.councils(), self.rules)
    }

    /// Until when guests may execute that this order let run; none if it doesn't hold any more.
    pub fn may_run(&self, order: Order) -> Option<Time> {
        match &self.seat {
            Seat::Owner(owner) if owner.guests == Guests::Running && order == self.order => Some(self.lease_end(owner)),
            Seat::Off { .. } | Seat::Asking(_) | Seat::Candidate(_) | Seat::Owner(_) => None,
        }
    }

    pub(crate) fn owner_deadline(&self, owner: &Owner) -> Option<Time> {
        let lost = self.is_lost(owner);
        let renew = (!lost).then_some(owner.next_renew);
        let guests = match owner.guests {
            Guests::Running if self.rules.keep(Rule::PauseAtEnd) => {
                Some(self.lease_end(owner)).filter(|end| *end < Time(u64::MAX))
            }
            Guests::Pausing { kill_at } => Some(kill_at),
            Guests::Running | Guests::Held | Guests::Killing => None,
        };
        [renew, guests].into_iter().flatten().min()
    }

    /// Whether the ward went to another host.
    fn is_lost(&self, owner: &Owner) -> bool {
        let ballot = &self.voter.ballot;
        ballot.voted != Some(self.me) && ballot.epoch >= owner.epoch && self.rules.keep(Rule::StepDown)
    }

    pub(crate) fn owner_turn(&mut self, now: Time, out: &mut Vec<Action>) {
        let Some(mut owner) = self.take_owner() else { return };
        let lost = self.is_lost(&owner);
        if !lost && now >= owner.next_renew {
            self.renew(now, &mut owner, out);
        }
        self.guide(now, &mut owner, lost, out);
        let over = (lost || owner.leaving) && owner.guests == Guests::Held;
        let epoch = owner.epoch;
        self.seat = Seat::Owner(owner);
        if over && lost {
            self.off(Some(now), out);
        } else if over {
            self.give_up(now, epoch, out);
        }
    }

    fn take_owner(&mut self) -> Option<Box<Owner>> {
        match std::mem::replace(&mut self.seat, Seat::Off { next_try: None }) {
            Seat::Owner(owner) => Some(owner),
            other @ (Seat::Off { .. } | Seat::Asking(_) | Seat::Candidate(_)) => {
                self.seat = other;
                None
            }
        }
    }

    /// Asks every member for a lease, itself first.
    fn renew(&mut self, now: Time, owner: &mut Owner, out: &mut Vec<Action>) {
        let (lease, every) = (self.councils().lease(), self.councils().timers().renew);
        let round = owner.begin_round(now, lease);
        owner.next_renew = now + every;
        let version = self.councils().newest.version;
        let (epoch, settled) = (owner.epoch, self.councils().are_settled());
        let own = Renewal { owner: self.me, epoch, version, settled: false, councils: None };
        if !self.voter.mute && self.councils().has(self.me) && self.voter.renew(now, own) == Granted::Yes {
            owner.granted(self.me, now + lease, version);
        }
        for to in self.councils().members().into_iter().filter(|to| *to != self.me) {
            let knows = owner.grant(to).is_some_and(|grant| grant.version == version);
            let councils = (!knows).then(|| Box::new(self.councils().clone()));
            out.push(Action::Send { to, message: Message::Renew { epoch, round, version, settled, councils } });
        }
        self.settle(owner, out);
    }

    pub(crate) fn granted(
        &mut self,
        now: Time,
        from: MemberId,
        epoch: Epoch,
        round: Round,
        version: Version,
        out: &mut Vec<Action>,
    ) {
        let Some(mut owner) = self.take_owner() else { return };
        if let Some(sent) = owner.sent_at(round).filter(|_| owner.epoch == epoch && self.councils().has(from)) {
            let from_when = if self.rules.keep(Rule::LeaseFromSend) { sent } else { now };
            owner.granted(from, from_when + self.councils().lease(), version);
            self.settle(&mut owner, out);
            self.keep_lease(&mut owner, out);
        }
        self.seat = Seat::Owner(owner);
    }

    /// The newest council is in force once enough members of both granted under it.
    fn settle(&mut self, owner: &mut Owner, out: &mut Vec<Action>) {
        let councils = self.councils();
        let version = councils.newest.version;
        let knows = |member| owner.grant(member).is_some_and(|grant| grant.version == version);
        if councils.are_settled() || !councils.agree(self.rules, Rule::OldCouncilAgrees, knows) {
            return;
        }
        let councils = &mut self.voter.ballot.councils;
        let changed = councils.in_force.members != councils.newest.members;
        councils.in_force = councils.newest.clone();
        self.persist(out);
        if changed {
            let members = self.councils().in_force.members.clone();
            out.push(Action::Tell(Report::CouncilInForce { members }));
        }
    }

    /// Lets the guests execute while the lease holds, and stops them for certain when it ends.
    fn guide(&mut self, now: Time, owner: &mut Owner, lost: bool, out: &mut Vec<Action>) {
        let end = self.lease_end(owner);
        let may = now < end && !lost && !owner.leaving;
        let again = std::mem::take(&mut owner.tell_again) && owner.guests == Guests::Running;
        match owner.guests {
            Guests::Held | Guests::Pausing { .. } | Guests::Running
                if may && (again || owner.guests != Guests::Running) =>
            {
                self.command(owner, Guests::Running, out);
                out.push(Action::Tell(Report::Runs { epoch: owner.epoch }));
                out.push(Action::Run { order: self.order, epoch: owner.epoch });
            }
            Guests::Running if !may && self.rules.keep(Rule::PauseAtEnd) => {
                let fence = self.councils().timers().fence;
                let kill_at = fence.map_or(Time(u64::MAX), |fence| now + fence.pause);
                if !lost && !owner.leaving {
                    out.push(Action::Tell(Report::LeaseEnded { epoch: owner.epoch }));
                }
                self.command(owner, Guests::Pausing { kill_at }, out);
                out.push(Action::Pause { order: self.order });
            }
            Guests::Pausing { kill_at } if !may && now >= kill_at => {
                self.command(owner, Guests::Killing, out);
                out.push(Action::Tell(Report::Kills { epoch: owner.epoch }));
                out.push(Action::Kill { order: self.order });
            }
            Guests::Held | Guests::Running | Guests::Pausing { .. } | Guests::Killing => {}
        }
    }

    fn command(&mut self, owner: &mut Owner, guests: Guests, out: &mut Vec<Action>) {
        self.order = self.order.next();
        owner.guests = guests;
        self.keep(owner, out);
    }

    fn keep(&self, owner: &mut Owner, out: &mut Vec<Action>) {
        let may_execute = owner.guests.may_execute();
        let lease_until_ms = self.lease_end(owner).0;
        let kept = Kept { epoch: owner.epoch, lease_until_ms, order: self.order, may_execute };
        if owner.kept != Some(kept) {
            owner.kept = Some(kept);
            out.push(Action::Keep(Some(kept)));
        }
    }

    /// A longer lease is kept too, but for less than a round it isn't worth it.
    fn keep_lease(&self, owner: &mut Owner, out: &mut Vec<Action>) {
        let Some(kept) = owner.kept.filter(|kept| kept.may_execute) else { return };
        if self.lease_end(owner) >= kept.lease_until() + self.councils().timers().renew {
            self.keep(owner, out);
        }
    }

    /// The guests are stopped for certain.
    pub(crate) fn stopped(&mut self, now: Time, order: Order, out: &mut Vec<Action>) {
        let Some(mut owner) = self.take_owner() else { return };
        let ordered = match owner.guests {
            Guests::Pausing { .. } | Guests::Killing => order == self.order,
            Guests::Held | Guests::Running => false,
        };
        if ordered || !self.rules.keep(Rule::OrdersAreCounted) {
            owner.guests = Guests::Held;
            self.keep(&mut owner, out);
            out.push(Action::Tell(Report::Paused { epoch: owner.epoch }));
            owner.next_renew = owner.next_renew.min(now);
        }
        self.seat = Seat::Owner(owner);
    }

    pub(crate) fn release(&mut self) {
        if let Seat::Owner(owner) = &mut self.seat {
            owner.leaving = true;
        }
    }

    /// This epoch is over; the others need not wait. It tries itself only if nobody else does for a whole promise.
    fn give_up(&mut self, now: Time, epoch: Epoch, out: &mut Vec<Action>) {
        self.voter.freed(now, self.me, epoch);
        self.off(Some(now + self.councils().promise()), out);
        self.send_all(&Message::Release { epoch }, out);
        out.push(Action::Tell(Report::Released { epoch }));
    }

    pub(crate) fn owner_refused(
        &mut self,
        now: Time,
        from: MemberId,
        epoch: Epoch,
        why: Denial,
        out: &mut Vec<Action>,
    ) {
        let Some(mut owner) = self.take_owner() else { return };
        if why == Denial::OtherCouncil {
            owner.forget_version(from);
        }
        let leased = now < self.lease_end(&owner);
        let elsewhere = why == Denial::Behind && epoch >= owner.epoch && !self.is_lost(&owner);
        let held = owner.guests == Guests::Held;
        // Who needs no lease need win nobody back: the newer owner is heard soon.
        let strict = self.councils().policy() == Policy::Strict;
        if elsewhere && strict && leased && now >= owner.raise_at {
            self.raise(now, &mut owner, out);
        }
        self.seat = Seat::Owner(owner);
        if elsewhere && !leased && held {
            self.off(Some(now), out);
        } else {
            self.raised_alone(now, out);
        }
    }

    /// Wins back a voter that ran ahead: the same owner at a later epoch, while the guests go on.
    fn raise(&mut self, now: Time, owner: &mut Owner, out: &mut Vec<Action>) {
        owner.raise_at = now + self.councils().timers().raise;
        let epoch = self.known.max(self.voter.ballot.epoch).next();
        let candidacy = Candidacy { epoch, newest: self.councils().newest.version };
        if self.voter.mute || self.voter.would(now, self.me, candidacy, false).is_err() {
            return;
        }
        self.voter.vote(now, self.me, epoch);
        self.persist(out);
        owner.raise =
            Some(Poll { epoch, yes: vec![self.me], until: owner.raise_at, warm: true, hurry: false, silent: true });
        self.send_all(&Message::Stand(candidacy), out);
    }

    fn raised_alone(&mut self, now: Time, out: &mut Vec<Action>) {
        let Seat::Owner(owner) = &self.seat else { return };
        if owner.raise.as_ref().is_some_and(|poll| poll.won(self.councils(), self.rules)) {
            self.raised(now, out);
        }
    }

    /// The leases stay: they were granted to this very host.
    pub(crate) fn raised(&mut self, now: Time, out: &mut Vec<Action>) {
        let Some(mut owner) = self.take_owner() else { return };
        if let Some(poll) = owner.raise.take() {
            owner.epoch = poll.epoch;
            self.lay_down_councils(poll.epoch);
            self.persist(out);
            self.keep(&mut owner, out);
            owner.next_renew = now;
            out.push(Action::Tell(Report::Raised { epoch: poll.epoch, votes: poll.yes }));
        }
        self.seat = Seat::Owner(owner);
    }

    pub(crate) fn change(&mut self, now: Time, change: Change, out: &mut Vec<Action>) {
        match self.next_council(now, change) {
            Ok(council) => {
                let members = council.members.clone();
                self.voter.ballot.councils.newest = council;
                self.persist(out);
                out.push(Action::Tell(Report::CouncilOpen { members }));
                if let Seat::Owner(owner) = &mut self.seat {
                    owner.next_renew = now;
                }
            }
            Err(refusal) => out.push(Action::Tell(Report::CouncilRefused(refusal))),
        }
    }

    fn next_council(&self, now: Time, change: Change) -> Result<Council, ChangeRefusal> {
        let Seat::Owner(owner) = &self.seat else { return Err(ChangeRefusal::NotOwner) };
        let mine = self.voter.ballot.voted == Some(self.me) && !self.voter.mute;
        if !mine || now >= self.lease_end(owner) {
            return Err(ChangeRefusal::NotOwner);
        }
        if !self.councils().are_settled() || self.voter.ballot.epoch != owner.epoch {
            return Err(ChangeRefusal::Open);
        }
        let Change { mut members, homes, policy, profile } = change;
        if !homes.contains(&self.me) {
            return Err(ChangeRefusal::OwnerLeaves);
        }
        members.sort_unstable();
        let number = self.councils().newest.version.number.saturating_add(1);
        let council = Council { version: Version { epoch: owner.epoch, number }, members, homes, policy, profile };
        council.check(self.rules)?;
        Ok(council)
    }
}
