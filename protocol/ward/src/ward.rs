//! One ward on one machine: its voter, and, where this machine is a home, its candidate and owner.
//!
//! ```text
//!             may stand, own voter agrees           majority would             majority voted
//!     OFF ──────────────────────────────▶ ASKING ───────────────▶ CANDIDATE ───────────────▶ OWNER (held)
//!      ▲                                     │ refused, time out      │                         │ lease  ▲ paused
//!      │◀────────────────────────────────────┴────────────────────────┘                         ▼        │ or killed
//!      └──────────────── another's epoch, or released: guests stopped first ───────────────── OWNER (running)
//! ```

use minicbor::{Decode, Encode};
use roost_protocol::{Epoch, Millis, Time};

use crate::ballot::{Ballot, Kept};
use crate::council::Councils;
use crate::event::{Action, Bars, Event, Refusal, Replica, Report};
use crate::id::{MemberId, Order};
use crate::inquiry::Inquiry;
use crate::owner::{Guests, Owner, Poll};
use crate::rules::Rules;
use crate::voter::Voter;

/// So many questions in a row without any answer mean that a candidate is cut off; one may be lost.
pub(crate) const ALONE: u8 = 2;

/// What a ward is started with.
#[derive(Clone, Debug)]
pub struct Start {
    pub me: MemberId,
    /// What the store holds; [`Ballot::blank`] only under an incarnation that was never used.
    pub ballot: Ballot,
    /// What was kept in this very boot.
    pub kept: Option<Kept>,
    /// This home's copy of the guests.
    pub replica: Replica,
    /// When this machine booted, on the clock that `now` is read from; it must not stop while the machine sleeps.
    pub booted: Time,
    /// For the spread of retries.
    pub seed: u64,
    pub rules: Rules,
}

/// The state machine of one ward on one machine.
#[derive(Clone, Debug)]
pub struct Ward {
    pub(crate) me: MemberId,
    pub(crate) rules: Rules,
    pub(crate) voter: Voter,
    pub(crate) seat: Seat,
    pub(crate) replica: Replica,
    pub(crate) bars: Bars,
    /// The latest epoch heard of.
    pub(crate) known: Epoch,
    pub(crate) booted: Time,
    /// When the recorded owner was last heard.
    pub(crate) heard: Option<Time>,
    pub(crate) suspected: bool,
    /// Whom that was about.
    pub(crate) missing: Option<(MemberId, Epoch)>,
    /// What the others say of it, once somebody wants to know.
    pub(crate) inquiry: Option<Inquiry>,
    pub(crate) order: Order,
    /// An admin waived what is only good sense.
    pub(crate) forced: bool,
    /// So many of its last questions nobody answered; counted as far as it matters.
    pub(crate) unanswered: u8,
    pub(crate) told: Option<Refusal>,
    pub(crate) chance: u64,
}

/// What this machine is to the ward, beside a voter.
#[derive(Clone, Debug)]
pub(crate) enum Seat {
    /// Nothing of the ward executes here. `next_try`: none before something changes.
    Off {
        next_try: Option<Time>,
    },
    Asking(Poll),
    Candidate(Poll),
    Owner(Box<Owner>),
}

/// What a machine is to a ward, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Standing {
    #[n(0)]
    Off,
    #[n(1)]
    Asking,
    #[n(2)]
    Candidate,
    #[n(3)]
    Held,
    #[n(4)]
    Running,
    #[n(5)]
    Stopping,
}

impl Ward {
    /// A machine's part in a ward from now on. Nothing of the ward executes, unless `kept` says that it may.
    pub fn new(now: Time, start: Start) -> Self {
        let Start { me, ballot, kept, replica, booted, seed, rules } = start;
        let seat = match kept {
            Some(kept) => Seat::Owner(Box::new(Owner::resumed(now, kept, &ballot.councils, rules))),
            None => Seat::Off { next_try: Some(now) },
        };
        Self {
            me,
            rules,
            known: ballot.epoch,
            voter: Voter::start(now, me, rules, ballot),
            seat,
            replica,
            bars: Bars::default(),
            booted,
            heard: None,
            suspected: false,
            missing: None,
            inquiry: None,
            order: kept.map_or(Order::default(), |kept| kept.order),
            forced: false,
            unanswered: 0,
            told: None,
            chance: seed | 1,
        }
    }

    /// Takes one event in. `now` is read after it came.
    pub fn on(&mut self, now: Time, event: Event) -> Vec<Action> {
        let mut out = Vec::new();
        let was_last = self.was_last_owner();
        match event {
            Event::Wake => {}
            Event::Heard { from, message } => self.heard(now, from, message, &mut out),
            Event::Stopped { order } => self.stopped(now, order, &mut out),
            Event::Nominate { force } => {
                out.push(Action::Tell(Report::Nominated { force }));
                self.nominated(now, force);
            }
            Event::Release => self.release(),
            Event::Change(change) => self.change(now, change, &mut out),
            Event::Replica(replica) => {
                self.replica = replica;
                self.reconsider(now);
            }
            Event::Bars(bars) => {
                self.bars = bars;
                self.reconsider(now);
            }
            Event::Inquire => self.inquire(now, &mut out),
            Event::Fenced { owner, epoch } => self.fenced(now, owner, epoch, &mut out),
            Event::StoreFailed => self.store_failed(&mut out),
        }
        self.turn(now, &mut out);
        if was_last && !self.was_last_owner() {
            let Ballot { voted, councils, won, .. } = &self.voter.ballot;
            let to = voted.filter(|to| *to != self.me);
            out.push(Action::Tell(Report::Lost { epoch: *won, to, in_epoch: councils.newest.version.epoch }));
        }
        out
    }

    /// When to wake it at the latest.
    pub fn deadline(&self) -> Option<Time> {
        let seat = match &self.seat {
            Seat::Off { .. } => self.try_at(),
            Seat::Asking(poll) | Seat::Candidate(poll) => Some(poll.until),
            Seat::Owner(owner) => self.owner_deadline(owner),
        };
        let silence = self.suspect_at().filter(|_| !self.suspected);
        [seat, silence].into_iter().flatten().min()
    }

    /// Does what is due.
    fn turn(&mut self, now: Time, out: &mut Vec<Action>) {
        self.listen(now, out);
        match &self.seat {
            Seat::Off { .. } => {
                if self.try_at().is_some_and(|at| now >= at) {
                    self.try_to_stand(now, out);
                }
            }
            Seat::Asking(poll) | Seat::Candidate(poll) => {
                if now >= poll.until {
                    let hurry = poll.hurry;
                    self.unanswered = if poll.silent { ALONE.min(self.unanswered + 1) } else { 0 };
                    self.off(Some(now), out);
                    if hurry {
                        self.try_soon(now);
                    }
                }
            }
            Seat::Owner(_) => self.owner_turn(now, out),
        }
    }

    /// Tells when the recorded owner falls silent. Advice only: nothing here waits for it.
    fn listen(&mut self, now: Time, out: &mut Vec<Action>) {
        let Some(owner) = self.voter.ballot.voted else { return };
        if !self.suspected && self.suspect_at().is_some_and(|at| now >= at) {
            self.suspected = true;
            self.missing = Some((owner, self.voter.ballot.epoch));
            let silent = self.heard.map_or(Millis(0), |heard| now.since(heard));
            out.push(Action::Tell(Report::Suspect { owner, silent }));
        }
    }

    fn suspect_at(&self) -> Option<Time> {
        let others = self.voter.ballot.voted.is_some_and(|voted| voted != self.me);
        self.heard.filter(|_| others).map(|heard| heard + self.councils().timers().suspect())
    }

    fn store_failed(&mut self, out: &mut Vec<Action>) {
        self.voter.mute = true;
        out.push(Action::Tell(Report::Mute));
        match self.seat {
            Seat::Off { .. } | Seat::Asking(_) | Seat::Candidate(_) => self.seat = Seat::Off { next_try: None },
            Seat::Owner(_) => {}
        }
    }

    /// Gives up what it stands for or owns; nothing executes any more.
    pub(crate) fn off(&mut self, next_try: Option<Time>, out: &mut Vec<Action>) {
        if let Seat::Owner(owner) = &self.seat
            && owner.kept.is_some()
        {
            out.push(Action::Keep(None));
        }
        let wait = self.retry();
        self.seat = Seat::Off { next_try: next_try.map(|at| at + wait) };
        self.forced = false;
    }

    /// A span between two tries, by chance (xorshift64*).
    fn retry(&mut self) -> Millis {
        let timers = self.councils().timers();
        let (min, spread) = (timers.retry_min.0, timers.retry_max.0.saturating_sub(timers.retry_min.0));
        if spread == 0 {
            return Millis(min);
        }
        self.chance ^= self.chance >> 12;
        self.chance ^= self.chance << 25;
        self.chance ^= self.chance >> 27;
        Millis(min + (self.chance.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % (spread + 1))
    }

    pub(crate) fn persist(&self, out: &mut Vec<Action>) {
        out.push(Action::Persist(Box::new(self.voter.ballot.clone())));
    }

    pub(crate) fn send_all(&self, message: &crate::message::Message, out: &mut Vec<Action>) {
        for to in self.councils().members().into_iter().filter(|to| *to != self.me) {
            out.push(Action::Send { to, message: message.clone() });
        }
    }

    /// The councils as known here.
    pub fn councils(&self) -> &Councils {
        &self.voter.ballot.councils
    }

    /// The ballot as it should stand on disk.
    pub fn ballot(&self) -> &Ballot {
        &self.voter.ballot
    }

    /// The recorded owner and its epoch: what a fence has to be told, read before it fences.
    pub fn recorded(&self) -> (Option<MemberId>, Epoch) {
        (self.voter.ballot.voted, self.voter.ballot.epoch)
    }

    /// How much longer it votes for nobody but the recorded owner.
    pub fn promise_left(&self, now: Time) -> Millis {
        self.voter.promise.since(now)
    }

    /// What it was told that speaks against standing.
    pub fn bars(&self) -> Bars {
        self.bars
    }

    /// The epoch owned here.
    pub fn owns(&self) -> Option<Epoch> {
        match &self.seat {
            Seat::Owner(owner) => Some(owner.epoch),
            Seat::Off { .. } | Seat::Asking(_) | Seat::Candidate(_) => None,
        }
    }

    /// The epoch it collects voices for.
    pub fn polls(&self) -> Option<Epoch> {
        match &self.seat {
            Seat::Asking(poll) | Seat::Candidate(poll) => Some(poll.epoch),
            Seat::Owner(owner) => owner.raise.as_ref().map(|poll| poll.epoch),
            Seat::Off { .. } => None,
        }
    }

    /// What this machine is to the ward.
    pub fn standing(&self) -> Standing {
        match &self.seat {
            Seat::Off { .. } => Standing::Off,
            Seat::Asking(_) => Standing::Asking,
            Seat::Candidate(_) => Standing::Candidate,
            Seat::Owner(owner) => match owner.guests {
                Guests::Held => Standing::Held,
                Guests::Running => Standing::Running,
                Guests::Pausing { .. } | Guests::Killing => Standing::Stopping,
            },
        }
    }

    /// Until when the watchdog may be petted: none, if nothing that needs a lease may be executing.
    pub fn pet_until(&self) -> Option<Time> {
        match &self.seat {
            Seat::Owner(owner) if owner.guests.may_execute() => Some(self.lease_end(owner)),
            Seat::Off { .. } | Seat::Asking(_) | Seat::Candidate(_) | Seat::Owner(_) => None,
        }
    }
}
