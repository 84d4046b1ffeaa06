//! Answers to requests with an Idempotency-Key, so that a repeat is answered and not carried out again. Operations on
//! guests keep their keys themselves, on disk; what is kept here is gone when the aggregator ends, because some of these
//! answers hold a token that nobody is to find on a disk.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use roost_protocol::{Millis, Time};
use serde_json::Value;

use super::problem::Problem;

/// How long an answer is kept.
const KEEP: Millis = Millis::seconds(24 * 3_600);
/// Answers of one user; the oldest makes room, so that one user can't push out the others.
const MOST_OF_USER: usize = 200;
/// Answers in all: about 2 MB.
const MOST: usize = 2_000;

/// Whose key, and the key.
pub(super) type Key = (String, String);

/// What stands for a request: operation and inputs, hashed.
pub(super) type Print = [u8; 32];

#[derive(Debug)]
struct Entry {
    print: Print,
    until: Time,
    /// Absent: it is being carried out.
    answer: Option<Value>,
}

/// All kept answers.
#[derive(Clone, Debug, Default)]
pub(super) struct Replays {
    all: Arc<Mutex<BTreeMap<Key, Entry>>>,
}

/// What to do with a request.
#[derive(Debug)]
pub(super) enum Turn {
    /// Carry it out, then keep its answer.
    First(Ticket),
    /// Answer this.
    Again(Value),
}

/// The right to carry out a request; dropped without an answer, the key is free again.
#[derive(Debug)]
pub(super) struct Ticket {
    replays: Replays,
    key: Key,
    kept: bool,
}

impl Replays {
    /// What to do with this request.
    pub(super) fn begin(&self, key: Key, print: Print, now: Time) -> Result<Turn, Problem> {
        let mut all = self.lock();
        all.retain(|_, entry| entry.answer.is_none() || entry.until > now);
        match all.get(&key) {
            Some(entry) if entry.print != print => return Err(reused()),
            Some(Entry { answer: Some(answer), .. }) => return Ok(Turn::Again(answer.clone())),
            Some(_) => {
                let problem = Problem::new("in_progress", "The same request with this key is being carried out.");
                return Err(problem.advice("Send it again in a moment to get its answer.").retry_after(1));
            }
            None => {}
        }
        make_room(&mut all, |other| other.0 == key.0, MOST_OF_USER)?;
        make_room(&mut all, |_| true, MOST)?;
        all.insert(key.clone(), Entry { print, until: now + KEEP, answer: None });
        Ok(Turn::First(Ticket { replays: self.clone(), key, kept: false }))
    }

    /// True where the key stands for a request already.
    pub(super) fn know(&self, key: &Key) -> bool {
        self.lock().contains_key(key)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Entry>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// It was carried out, and this came of it.
    pub(super) fn keep(mut self, answer: Value) {
        if let Some(entry) = self.replays.lock().get_mut(&self.key) {
            entry.answer = Some(answer);
        }
        self.kept = true;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.kept {
            self.replays.lock().remove(&self.key);
        }
    }
}

/// The key stands for another request.
pub(super) fn reused() -> Problem {
    Problem::new("key_reused", "This Idempotency-Key was sent with another request before; nothing was done.")
        .advice("Use a new key for each new request.")
}

/// Forgets the oldest answer of `which` if there are that many. Requests being carried out stay.
fn make_room(all: &mut BTreeMap<Key, Entry>, which: impl Fn(&Key) -> bool, most: usize) -> Result<(), Problem> {
    if all.keys().filter(|key| which(key)).count() < most {
        return Ok(());
    }
    let answered = all.iter().filter(|(key, entry)| which(key) && entry.answer.is_some());
    let oldest = answered.min_by_key(|(_, entry)| entry.until).map(|(key, _)| key.clone());
    match oldest {
        Some(oldest) => drop(all.remove(&oldest)),
        None => return Err(Problem::new("busy", "Too many requests with a key are being carried out.").retry_after(1)),
    }
    Ok(())
}

#[cfg(test)]
mod test {
    use serde_json::json;

    use super::*;

    fn key(user: &str, number: usize) -> Key {
        (user.to_owned(), number.to_string())
    }

    fn first(replays: &Replays, key: Key, now: Time) -> Ticket {
        match replays.begin(key, [1; 32], now).unwrap() {
            Turn::First(ticket) => ticket,
            Turn::Again(answer) => panic!("{answer}"),
        }
    }

    #[test]
    fn a_repeat_is_answered_for_a_day_and_another_request_is_refused() {
        let replays = Replays::default();
        let ticket = first(&replays, key("ada", 1), Time(0));
        let meanwhile = replays.begin(key("ada", 1), [1; 32], Time(0)).unwrap_err();
        assert!(meanwhile.sentence().starts_with("in_progress: "), "{meanwhile:?}");
        ticket.keep(json!({"token": "t"}));
        let late = Time(KEEP.0 - 1);
        assert!(
            matches!(replays.begin(key("ada", 1), [1; 32], late), Ok(Turn::Again(answer)) if answer["token"] == "t")
        );
        let other = replays.begin(key("ada", 1), [2; 32], late).unwrap_err();
        assert!(other.sentence().starts_with("key_reused: "), "{other:?}");
        drop(first(&replays, key("bob", 1), late));
        drop(first(&replays, key("ada", 1), Time(KEEP.0)));
        assert!(!replays.know(&key("ada", 1)), "a request that came to nothing leaves its key free");
    }

    #[test]
    fn what_is_kept_is_bounded_for_each_user_and_in_all() {
        let replays = Replays::default();
        for number in 0..MOST_OF_USER {
            first(&replays, key("ada", number), Time(0)).keep(json!(number));
        }
        for number in 0..2 * MOST {
            let user = format!("user{}", number % 100);
            first(&replays, key(&user, number), Time(1)).keep(json!(number));
        }
        assert_eq!(replays.lock().len(), MOST);
        let running: Vec<Ticket> =
            (0..MOST_OF_USER).map(|number| first(&replays, key("eve", number), Time(2))).collect();
        assert!(replays.begin(key("eve", MOST_OF_USER), [1; 32], Time(2)).is_err(), "nothing running makes room");
        drop(running);
        drop(first(&replays, key("eve", MOST_OF_USER), Time(2)));
    }
}
