//! What visitors ask of the guard, and what they are answered.

use std::collections::BTreeSet;

use roost_protocol::failover::WatchdogTest;
use roost_protocol::{GuestId, HostId};
use roost_ward::door::{
    MOST_ADDRESSES, MOST_GUESTS, MOST_PEERS, MOST_RESTING, MOST_WARDS, Peer, PeerStatus, Reply, Request, Status, Told,
    WardStatus,
};
use roost_ward::{Action, Ballot, Council, Event, MemberId, Policy, Replica, Rules, Standing, WardId};

use super::{Guard, sockets};
use crate::clock;
use crate::store::Crew;
use crate::visitors::Visitor;

/// The answer to what had to be written.
pub(super) fn written(well: bool) -> Reply {
    if well { Reply::Done } else { Reply::Refused("the vote store can't be written".to_owned()) }
}

impl Guard {
    pub(super) fn talk(&mut self) {
        for (visitor, request) in self.visitors.requests() {
            if let Some(reply) = self.asked(visitor, request) {
                self.visitors.answer(visitor, &reply);
            }
        }
    }

    /// None: it is answered later.
    fn asked(&mut self, visitor: Visitor, request: Request) -> Option<Reply> {
        let answer = match request {
            Request::Status => Ok(Reply::Status(self.status())),
            Request::Peers(peers) => return self.take_peers(visitor, peers),
            Request::Pin { peers, keep } => return self.pin_some(visitor, peers, &keep),
            Request::Host(host) if host == self.me.id => Ok(Reply::Done),
            Request::Host(_) => Err(format!("this guard is host {}'s for good", self.me.id)),
            Request::Found { ward, council } => return self.found(visitor, ward, council),
            Request::Tell { ward, what } => self.told(ward, what),
            Request::Forget { ward } => return self.forget(visitor, ward),
            Request::Guests { ward, guests, anywhere } => return self.guests(visitor, ward, guests, anywhere),
            Request::TestWatchdog => return self.test_watchdog(visitor),
            Request::Follow { from } => {
                self.visitors.answer(visitor, &Reply::Done);
                self.follow(visitor, from);
                return None;
            }
        };
        Some(answer.unwrap_or_else(Reply::Refused))
    }

    /// Answers once they are on disk.
    fn take_peers(&mut self, visitor: Visitor, peers: Vec<Peer>) -> Option<Reply> {
        if peers.len() > MOST_PEERS {
            return Some(Reply::Refused(format!("at most {MOST_PEERS} peers")));
        }
        let sound =
            |peer: &Peer| peer.addresses.len() <= MOST_ADDRESSES && sockets(peer).count() == peer.addresses.len();
        if let Some(bad) = peers.iter().find(|peer| !sound(peer)) {
            let what = format!("{}: up to {MOST_ADDRESSES} addresses such as 10.0.0.1:7946", bad.id);
            return Some(Reply::Refused(what));
        }
        let takes = self.scribe.peers(visitor, peers.clone());
        self.pin(peers);
        (!takes).then(|| written(false))
    }

    /// Answers once they are on disk. Who votes in a ward here is heard until its council changed.
    fn pin_some(&mut self, visitor: Visitor, mut peers: Vec<Peer>, keep: &[HostId]) -> Option<Reply> {
        let voters: BTreeSet<HostId> =
            self.wards.iter().flat_map(|(_, ward)| ward.councils().members()).map(|member| member.id).collect();
        let told: BTreeSet<HostId> = peers.iter().map(|peer| peer.id).collect();
        let stays = |peer: &&Peer| !told.contains(&peer.id) && (keep.contains(&peer.id) || voters.contains(&peer.id));
        peers.extend(self.peers.values().filter(stays).cloned());
        peers.sort_unstable_by_key(|peer| peer.id);
        if peers.iter().eq(self.peers.values()) {
            return Some(Reply::Done);
        }
        self.take_peers(visitor, peers)
    }

    /// Answers once the ward is on disk.
    fn found(&mut self, visitor: Visitor, ward: WardId, council: Council) -> Option<Reply> {
        if self.wards.get(ward).is_some() {
            return Some(Reply::Done);
        }
        if let Err(why) = self.may_found(&council) {
            return Some(Reply::Refused(why));
        }
        if let Some(ballot) = self.resting.get(&ward).cloned() {
            return self.found_again(visitor, ward, ballot);
        }
        let ballot = Ballot::first(council);
        if let Err(why) = self.add(ward, ballot.clone(), None) {
            return Some(Reply::Refused(why.to_string()));
        }
        self.founders.insert(ward, visitor);
        match self.outbox.put(ward, Action::Persist(Box::new(ballot))) {
            Ok(steps) => self.step(ward, steps),
            Err(crate::outbox::Full) => self.founded(ward, false),
        }
        None
    }

    /// It goes on as it was: its epochs are known elsewhere, and must not begin anew.
    fn found_again(&mut self, visitor: Visitor, ward: WardId, ballot: Ballot) -> Option<Reply> {
        if !self.scribe.rest(Some(visitor), ward, false) {
            return Some(written(false));
        }
        self.resting.remove(&ward);
        self.add(ward, ballot, None).err().map(|why| Reply::Refused(why.to_string()))
    }

    /// Answers once it is on disk. To others this voter is as if it had crashed: it says nothing more, and what it said
    /// is kept for when it takes part again.
    fn forget(&mut self, visitor: Visitor, ward: WardId) -> Option<Reply> {
        if let Err(why) = self.may_forget(ward) {
            return Some(Reply::Refused(why));
        }
        let known = self.wards.remove(ward)?;
        self.resting.insert(ward, known.ballot().clone());
        self.crews.forget(ward);
        self.anywhere.remove(&ward);
        if let Err(why) = self.keep.write(ward, None) {
            tracing::warn!(%ward, %why, "what was kept of its lease stays until the next boot");
        }
        let takes = self.scribe.rest(Some(visitor), ward, true);
        (!takes).then(|| written(false))
    }

    fn may_forget(&mut self, ward: WardId) -> Result<(), String> {
        let Some(known) = self.wards.get(ward) else { return Err(format!("{ward} is unknown here")) };
        let newest = &known.councils().newest;
        let alone = known.councils().members() == [self.me] && newest.policy == Policy::Stay;
        let left = !newest.has(self.me) && known.standing() == Standing::Off;
        let empty = self.crews.of(ward).next().is_none();
        match () {
            () if !alone && !left => Err(format!("{ward} counts on this voter")),
            () if alone && !empty => Err(format!("{ward} has guests here")),
            () if left && self.crews.held(ward) > 0 => Err(format!("guests of {ward} are up here")),
            () if self.resting.len() >= MOST_RESTING => {
                Err(format!("the votes of {MOST_RESTING} wards are kept already"))
            }
            () if !self.outbox.forget(ward) => Err(format!("a vote on {ward} is being written")),
            () => Ok(()),
        }
    }

    fn may_found(&self, council: &Council) -> Result<(), String> {
        council.check(Rules::ALL).map_err(|why| crate::chain(&why))?;
        if !council.has(self.me) {
            return Err(format!("this voter is {}, which is not in the council", self.me));
        }
        if self.wards.iter().count() >= MOST_WARDS {
            return Err(format!("at most {MOST_WARDS} wards on one host"));
        }
        self.may_be_home(council.policy, &council.homes)
    }

    fn may_own(&self) -> bool {
        let fenced = self.dog.is_fence() && !self.watchdog_test().is_some_and(WatchdogTest::failed);
        fenced || self.accept_no_fence
    }

    fn may_be_home(&self, policy: Policy, homes: &[MemberId]) -> Result<(), String> {
        if policy == Policy::Strict && homes.contains(&self.me) && !self.may_own() {
            return Err(
                "this host has no hardware watchdog, or one that failed its test: a strict guest could run on if \
                        the whole host hung; set accept_no_fence to accept that, or choose eager or stay"
                    .to_owned(),
            );
        }
        Ok(())
    }

    pub(super) fn founded(&mut self, ward: WardId, well: bool) {
        if let Some(visitor) = self.founders.remove(&ward) {
            self.visitors.answer(visitor, &written(well));
        }
    }

    fn told(&mut self, ward: WardId, what: Told) -> Result<Reply, String> {
        if self.wards.get(ward).is_none() {
            return Err(format!("{ward} is unknown here"));
        }
        if let Told::Change(change) = &what {
            self.may_be_home(change.policy, &change.homes)?;
        }
        let event = match what {
            Told::Nominate { force } => Event::Nominate { force },
            Told::Release => Event::Release,
            Told::Change(change) => Event::Change(change),
            Told::Copy(copied) => Event::Replica(copied.replica(clock::now())),
            Told::Bars(bars) => Event::Bars(bars),
            Told::Fenced { owner, epoch } => Event::Fenced { owner, epoch },
            Told::Inquire => Event::Inquire,
        };
        self.tell(ward, event);
        Ok(Reply::Done)
    }

    /// Answers once the list is on disk. Guests that execute here without a lease are stopped before that.
    fn guests(&mut self, visitor: Visitor, ward: WardId, guests: Vec<GuestId>, anywhere: bool) -> Option<Reply> {
        if let Err(why) = self.may_guard(ward, &guests) {
            return Some(Reply::Refused(why));
        }
        self.crews.guests(ward, &guests);
        let changed = if anywhere { self.anywhere.insert(ward) } else { self.anywhere.remove(&ward) };
        if changed {
            self.tell(ward, Event::Replica(if anywhere { Replica::Stateless } else { Replica::None }));
        }
        let takes = self.scribe.crew(visitor, ward, Crew { guests, anywhere });
        (!takes).then(|| written(false))
    }

    fn may_guard(&self, ward: WardId, guests: &[GuestId]) -> Result<(), String> {
        if self.wards.get(ward).is_none() {
            return Err(format!("{ward} is unknown here"));
        }
        let others = self.wards.iter().map(|(other, _)| *other).filter(|other| *other != ward);
        let others: BTreeSet<GuestId> = others.flat_map(|other| self.crews.of(other)).collect();
        if let Some(twice) = guests.iter().find(|guest| others.contains(guest)) {
            return Err(format!("guest {twice} is in another ward"));
        }
        if others.len() + guests.len() > MOST_GUESTS {
            return Err(format!("at most {MOST_GUESTS} guests in the wards of one host"));
        }
        Ok(())
    }

    fn follow(&mut self, visitor: Visitor, from: u64) {
        self.visitors.follow(visitor);
        for note in self.notes.iter().filter(|note| note.number >= from) {
            self.visitors.answer(visitor, &Reply::Note(note.clone()));
        }
    }

    fn status(&self) -> Status {
        let now = clock::now();
        let wards = self.wards.iter().map(|(ward, known)| WardStatus {
            ward: *ward,
            standing: known.standing(),
            epoch: known.recorded().1,
            owner: known.recorded().0,
            promise_left: known.promise_left(now),
            policy: known.councils().policy(),
            members: known.councils().members(),
            may_run: known.standing() == Standing::Running && known.pet_until().is_some_and(|until| now < until),
            guests: self.crews.of(*ward).collect(),
            processes: u32::try_from(self.crews.held(*ward)).unwrap_or(u32::MAX),
            homes: known.councils().newest.homes.clone(),
            settled: known.councils().are_settled(),
            votes: known.councils().newest.has(self.me),
            disarmed: known.bars().disarmed,
            suspected: known.is_suspected(),
            missed: known.missed(now).is_some(),
            guests_answer: known.bars().guests_answer,
        });
        let silent = |id| self.seal.heard(id).map(|heard| now.since(heard));
        Status {
            me: self.me,
            key: self.seal.public(),
            fencing: self.dog.fencing().clone(),
            wards: wards.collect(),
            peers: self.peers.keys().map(|id| PeerStatus { id: *id, silent: silent(*id) }).collect(),
            first_note: self.notes.front().map_or(self.next_note, |note| note.number),
            next_note: self.next_note,
            listen: self.listen.to_string(),
            may_own: self.may_own(),
            remembers: self.remembers,
            watchdog_test: self.watchdog_test().cloned(),
        }
    }
}
