//! Which door of which desktop is tried when, and when one that doesn't answer counts as shut: after three misses in a row,
//! so that a moment's trouble is nobody's alarm. Spread over time by the guests' ids, so that no two are tried at once for
//! long, and bounded in number.

#[cfg(test)]
mod test;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use roost_protocol::probe::{Access, Answer, Probe};
use roost_protocol::{GuestId, Millis, Stamp, Time};

/// Tries at the same time: with [`TIMEOUT`] so many that 512 guests of which none answers are tried in half a minute.
pub const AT_ONCE: usize = 48;
/// A door that has not answered by then has missed.
pub const TIMEOUT: Millis = Millis::seconds(2);

/// How often doors are tried, and when one counts as shut.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between two tries of one door, give or take `jitter`.
    every: Millis,
    jitter: Millis,
    /// One that missed is tried again sooner.
    again: Millis,
    /// A door is shut after so many misses in a row, and open after one answer.
    misses: u32,
}

impl Pace {
    /// For people who want to know how desktops are.
    pub const CALM: Self =
        Self { every: Millis::seconds(30), jitter: Millis::seconds(4), again: Millis::seconds(10), misses: 3 };
    /// Before a guest is taken over: the newest answer counts.
    pub const HASTY: Self = Self { every: Millis::seconds(1), jitter: Millis(0), again: Millis::seconds(1), misses: 1 };
}

/// What is to be tried: guests that run, and their doors.
pub type Wanted = BTreeMap<GuestId, Vec<Probe>>;

/// One try.
pub type Try = (GuestId, Probe);

/// What is known of all doors.
#[derive(Debug)]
pub struct Prober {
    pace: Pace,
    doors: BTreeMap<Try, Door>,
}

#[derive(Debug)]
struct Door {
    next: Time,
    /// A try is under way.
    busy: bool,
    tries: u64,
    misses: u32,
    /// None: not judged yet.
    up: Option<bool>,
    since: Stamp,
    last: Option<(Answer, Option<u32>)>,
}

impl Prober {
    pub fn new(pace: Pace) -> Self {
        Self { pace, doors: BTreeMap::new() }
    }

    /// Doors that are new are tried soon; those that are not wanted are forgotten.
    pub fn want(&mut self, now: Time, wanted: &Wanted) {
        let named = |(guest, probe): &Try| wanted.get(guest).is_some_and(|probes| probes.contains(probe));
        self.doors.retain(|door, _| named(door));
        for (guest, probes) in wanted {
            for probe in probes {
                let key = (*guest, probe.clone());
                let next = now + Millis(spread(&key, 0, self.pace.again));
                self.doors.entry(key).or_insert(Door {
                    next,
                    busy: false,
                    tries: 0,
                    misses: 0,
                    up: None,
                    since: Stamp(0),
                    last: None,
                });
            }
        }
    }

    /// Tries to begin now, longest due first.
    pub fn due(&mut self, now: Time) -> Vec<Try> {
        let free = AT_ONCE.saturating_sub(self.doors.values().filter(|door| door.busy).count());
        let mut due: Vec<(Time, Try)> = self
            .doors
            .iter()
            .filter(|(_, door)| !door.busy && door.next <= now)
            .map(|(key, door)| (door.next, key.clone()))
            .collect();
        due.sort_unstable();
        due.truncate(free);
        for (_, key) in &due {
            if let Some(door) = self.doors.get_mut(key) {
                door.busy = true;
            }
        }
        due.into_iter().map(|(_, key)| key).collect()
    }

    /// When to ask again what is due; none: when something ends or is wanted.
    pub fn deadline(&self) -> Option<Time> {
        let busy = self.doors.values().filter(|door| door.busy).count();
        let next = self.doors.values().filter(|door| !door.busy).map(|door| door.next).min();
        next.filter(|_| busy < AT_ONCE)
    }

    /// A try ended; what is not wanted any more is of no interest. `rtt_ms`: how long the answer took.
    pub fn ended(&mut self, now: Time, wall: Stamp, key: &Try, answer: Answer, rtt_ms: Option<u32>) {
        let Pace { every, jitter, again, misses } = self.pace;
        let Some(door) = self.doors.get_mut(key) else { return };
        door.busy = false;
        door.tries += 1;
        door.last = Some((answer, rtt_ms));
        let up = if answer == Answer::Ok {
            door.misses = 0;
            Some(true)
        } else {
            door.misses = door.misses.saturating_add(1);
            if door.misses >= misses { Some(false) } else { door.up }
        };
        if up != door.up {
            (door.up, door.since) = (up, wall);
        }
        let pause = if (1..misses).contains(&door.misses) { again } else { every };
        let spread = Millis(spread(key, door.tries, Millis(2 * jitter.0)));
        door.next = now + pause + spread - jitter;
    }

    /// All doors that were judged, guest by guest.
    pub fn shown(&self) -> BTreeMap<GuestId, Vec<Access>> {
        let mut shown: BTreeMap<GuestId, Vec<Access>> = BTreeMap::new();
        for ((guest, probe), door) in &self.doors {
            let (Some(up), Some((answer, rtt_ms))) = (door.up, door.last) else { continue };
            let access = Access { probe: probe.to_string(), up, answer, rtt_ms, since: door.since };
            shown.entry(*guest).or_default().push(access);
        }
        shown
    }
}

/// How many of a guest's doors answered when they were tried last, permille; none where none was judged. Not `up`: what is
/// kept over time shows each miss.
pub fn answering_permille(doors: &[Access]) -> Option<u32> {
    let answered = doors.iter().filter(|door| door.answer == Answer::Ok).count();
    u32::try_from((answered * 1_000).checked_div(doors.len())?).ok()
}

/// How long the slowest of those that answered took, milliseconds; none where none did.
pub fn slowest_ms(doors: &[Access]) -> Option<u32> {
    doors.iter().filter(|door| door.answer == Answer::Ok).filter_map(|door| door.rtt_ms).max()
}

/// The same for the same door and try; below `most`.
fn spread(key: &Try, tries: u64, most: Millis) -> u64 {
    let mut hasher = DefaultHasher::new();
    (key.0, key.1.to_string(), tries).hash(&mut hasher);
    hasher.finish() % most.0.max(1)
}
