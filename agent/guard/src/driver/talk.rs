//! What visitors ask of the guard, and what they are answered.

use roost_protocol::Epoch;
use roost_ward::door::{
    MOST_ADDRESSES, MOST_PEERS, MOST_PROCESSES, MOST_WARDS, Peer, PeerStatus, Process, Reply, Request, Status, Told,
    WardStatus,
};
use roost_ward::{Action, Ballot, Council, Event, Policy, Rules, Standing, WardId};

use super::{Guard, sockets};
use crate::clock;
use crate::visitors::Visitor;

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
            Request::Peers(peers) => self.take_peers(peers),
            Request::Found { ward, council } => return self.found(visitor, ward, council),
            Request::Tell { ward, what } => self.told(ward, what),
            Request::Hold { ward, processes } => self.hold(ward, processes),
            Request::Follow { from } => {
                self.visitors.answer(visitor, &Reply::Done);
                self.follow(visitor, from);
                return None;
            }
        };
        Some(answer.unwrap_or_else(Reply::Refused))
    }

    fn take_peers(&mut self, peers: Vec<Peer>) -> Result<Reply, String> {
        if peers.len() > MOST_PEERS {
            return Err(format!("at most {MOST_PEERS} peers"));
        }
        let sound =
            |peer: &Peer| peer.addresses.len() <= MOST_ADDRESSES && sockets(peer).count() == peer.addresses.len();
        if let Some(bad) = peers.iter().find(|peer| !sound(peer)) {
            return Err(format!("{}: up to {MOST_ADDRESSES} addresses such as 10.0.0.1:7946", bad.id));
        }
        if !self.scribe.peers(peers.clone()) {
            return Err("the disk hangs".to_owned());
        }
        self.pin(peers);
        Ok(Reply::Done)
    }

    /// Answers once the ward is on disk.
    fn found(&mut self, visitor: Visitor, ward: WardId, council: Council) -> Option<Reply> {
        if self.wards.get(ward).is_some() {
            return Some(Reply::Done);
        }
        if let Err(why) = self.may_found(&council) {
            return Some(Reply::Refused(why));
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

    fn may_found(&self, council: &Council) -> Result<(), String> {
        council.check(Rules::ALL).map_err(|why| crate::chain(&why))?;
        if !council.has(self.me) {
            return Err(format!("this voter is {}, which is not in the council", self.me));
        }
        if self.wards.iter().count() >= MOST_WARDS {
            return Err(format!("at most {MOST_WARDS} wards on one host"));
        }
        let fenced = self.dog.is_fence() || self.accept_no_fence;
        if council.policy == Policy::Strict && council.homes.contains(&self.me) && !fenced {
            return Err("this host has no hardware watchdog: a strict guest could run on if the whole host hung; \
                        set accept_no_fence to accept that, or choose eager or stay"
                .to_owned());
        }
        Ok(())
    }

    pub(super) fn founded(&mut self, ward: WardId, well: bool) {
        if let Some(visitor) = self.founders.remove(&ward) {
            let failed = || Reply::Refused("the vote store can't be written".to_owned());
            self.visitors.answer(visitor, &if well { Reply::Done } else { failed() });
        }
    }

    fn told(&mut self, ward: WardId, what: Told) -> Result<Reply, String> {
        if self.wards.get(ward).is_none() {
            return Err(format!("{ward} is unknown here"));
        }
        let event = match what {
            Told::Nominate { force } => Event::Nominate { force },
            Told::Release => Event::Release,
            Told::Change(change) => Event::Change(change),
            Told::Copy(copied) => Event::Replica(copied.replica(clock::now())),
            Told::Bars(bars) => Event::Bars(bars),
            Told::Fenced { owner, epoch } => Event::Fenced { owner, epoch },
        };
        self.tell(ward, event);
        Ok(Reply::Done)
    }

    /// The list is kept before anything on it may run, so that a guard started anew knows it.
    fn hold(&mut self, ward: WardId, processes: Vec<Process>) -> Result<Reply, String> {
        let Some(known) = self.wards.get(ward) else { return Err(format!("{ward} is unknown here")) };
        if processes.len() > MOST_PROCESSES {
            return Err(format!("at most {MOST_PROCESSES} processes in a ward"));
        }
        let epoch = known.owns().unwrap_or(Epoch(0));
        let may_run =
            known.standing() == Standing::Running && (known.pet_until().is_some_and(|until| clock::now() < until));
        self.crews.hold(ward, &processes);
        self.memories.entry(ward).or_default().processes = self.crews.of(ward);
        if !self.remember(ward) {
            return Err("the list of processes can't be kept".to_owned());
        }
        Ok(Reply::Held { may_run, epoch })
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
            processes: u32::try_from(self.crews.of(*ward).len()).unwrap_or(u32::MAX),
        });
        let silent = |id| self.seal.heard(id).map(|heard| now.since(heard));
        Status {
            me: self.me,
            key: self.seal.public(),
            fencing: self.dog.fencing().clone(),
            wards: wards.collect(),
            peers: self.peers.keys().map(|id| PeerStatus { id: *id, silent: silent(*id) }).collect(),
            next_note: self.next_note,
        }
    }
}
