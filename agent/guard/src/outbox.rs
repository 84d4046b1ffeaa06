//! Actions of a ward in their order: what stands behind a ballot waits until that is on disk, and is dropped if it can't
//! be written. Stopping guests waits for nothing.

use std::collections::{BTreeMap, VecDeque};

use roost_ward::{Action, Ballot, WardId};

/// Actions that wait for a disk that hangs; a round of renewals is five of them, so this is minutes.
const MOST_WAITING: usize = 1_024;

/// What waits.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    wards: BTreeMap<WardId, Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    /// A ballot is being written.
    writing: bool,
    waiting: VecDeque<Action>,
}

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Hand it to the store and tell [`Outbox::written`].
    Write(Box<Ballot>),
    Do(Action),
}

/// The disk hangs and too much waits for it: the ballot counts as not written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl Outbox {
    /// Adds an action, and gives what may be done now, in order.
    pub(crate) fn put(&mut self, ward: WardId, action: Action) -> Result<Vec<Step>, Full> {
        let stops = matches!(action, Action::Pause { .. } | Action::Kill { .. });
        if stops {
            return Ok(vec![Step::Do(action)]);
        }
        let queue = self.wards.entry(ward).or_default();
        if queue.waiting.len() >= MOST_WAITING {
            queue.waiting.clear();
            return Err(Full);
        }
        queue.waiting.push_back(action);
        Ok(queue.ready())
    }

    /// A ballot was written, or not: then what waited for it is void.
    pub(crate) fn written(&mut self, ward: WardId, well: bool) -> Vec<Step> {
        let Some(queue) = self.wards.get_mut(&ward) else { return Vec::new() };
        queue.writing = false;
        if !well {
            queue.waiting.clear();
        }
        queue.ready()
    }

    /// Nothing waits of this ward, and nothing of it is remembered here from now on; false if something does.
    pub(crate) fn forget(&mut self, ward: WardId) -> bool {
        let idle = self.wards.get(&ward).is_none_or(|queue| !queue.writing && queue.waiting.is_empty());
        if idle {
            self.wards.remove(&ward);
        }
        idle
    }

    /// What waits of this ward is void: something before it failed.
    pub(crate) fn void(&mut self, ward: WardId) {
        if let Some(queue) = self.wards.get_mut(&ward) {
            queue.waiting.clear();
        }
    }
}

impl Queue {
    fn ready(&mut self) -> Vec<Step> {
        let mut out = Vec::new();
        while !self.writing
            && let Some(action) = self.waiting.pop_front()
        {
            match action {
                Action::Persist(ballot) => {
                    self.writing = true;
                    out.push(Step::Write(ballot));
                }
                Action::Keep(_)
                | Action::Send { .. }
                | Action::Run { .. }
                | Action::Pause { .. }
                | Action::Kill { .. }
                | Action::Tell(_) => out.push(Step::Do(action)),
            }
        }
        out
    }
}

#[cfg(test)]
mod test {
    use roost_protocol::Epoch;
    use roost_ward::{Order, Report};

    use super::*;

    const WARD: WardId = WardId(1);

    fn persist() -> Action {
        Action::Persist(Box::new(Ballot::blank()))
    }

    fn say(epoch: u64) -> Action {
        Action::Tell(Report::Released { epoch: Epoch(epoch) })
    }

    #[test]
    fn a_vote_is_told_only_when_it_is_on_disk() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.put(WARD, say(1)), Ok(vec![Step::Do(say(1))]));
        assert_eq!(outbox.put(WARD, persist()), Ok(vec![Step::Write(Box::new(Ballot::blank()))]));
        assert_eq!(outbox.put(WARD, say(2)), Ok(vec![]));
        assert_eq!(outbox.put(WARD, persist()), Ok(vec![]));
        assert_eq!(outbox.put(WARD, say(3)), Ok(vec![]));
        assert_eq!(outbox.put(WardId(2), say(9)), Ok(vec![Step::Do(say(9))]), "other wards don't wait");
        let second = vec![Step::Do(say(2)), Step::Write(Box::new(Ballot::blank()))];
        assert_eq!(outbox.written(WARD, true), second);
        assert_eq!(outbox.written(WARD, true), vec![Step::Do(say(3))]);
    }

    #[test]
    fn what_waited_for_a_ballot_that_was_not_written_is_never_told() {
        let mut outbox = Outbox::default();
        assert!(outbox.put(WARD, persist()).is_ok());
        assert_eq!(outbox.put(WARD, say(2)), Ok(vec![]));
        assert_eq!(outbox.written(WARD, false), vec![]);
        assert_eq!(outbox.put(WARD, say(3)), Ok(vec![Step::Do(say(3))]));
    }

    #[test]
    fn a_ward_is_forgotten_only_when_nothing_of_it_waits() {
        let mut outbox = Outbox::default();
        assert!(outbox.put(WARD, persist()).is_ok());
        assert!(!outbox.forget(WARD));
        outbox.written(WARD, true);
        assert!(outbox.forget(WARD) && outbox.wards.is_empty());
    }

    #[test]
    fn stopping_guests_waits_for_no_disk() {
        let mut outbox = Outbox::default();
        assert!(outbox.put(WARD, persist()).is_ok());
        let pause = Action::Pause { order: Order(4) };
        assert_eq!(outbox.put(WARD, pause.clone()), Ok(vec![Step::Do(pause)]));
    }

    #[test]
    fn a_disk_that_hangs_fills_no_memory() {
        let mut outbox = Outbox::default();
        assert!(outbox.put(WARD, persist()).is_ok());
        let full = (0..).find(|_| outbox.put(WARD, say(1)) == Err(Full)).unwrap();
        assert_eq!(full, MOST_WAITING);
    }
}
