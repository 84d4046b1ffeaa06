//! Which door of which desktop is tried when, and when one that doesn't answer counts as shut: after three misses in a row,
//! so that a moment's trouble is nobody's alarm. Spread over time by the guests' ids, so that no two are tried at once for
//! long, and bounded in number.

#[cfg(test)]
mod test;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use roost_protocol::probe::{Access, Answer, Probe};
use roost_protocol::{GuestId, Millis, Stamp, Time};

/// Between two tries of one door, give or take [`JITTER`].
pub const EVERY: Millis = Millis::seconds(30);
const JITTER: Millis = Millis::seconds(4);
/// One that missed is tried again sooner.
const AGAIN: Millis = Millis::seconds(10);
/// A door is shut after so many misses, and open after one answer.
const MISSES: u32 = 3;
/// Between two tries where somebody waits for what comes of it.
const HASTE: Millis = Millis::seconds(1);
/// Tries at the same time: with [`TIMEOUT`] so many that 512 guests of which none answers are tried in half a minute.
pub const AT_ONCE: usize = 48;
/// A door that has not answered by then has missed.
pub const TIMEOUT: Millis = Millis::seconds(2);

/// How often doors are tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// For people who want to know how desktops are.
    #[default]
    Calm,
    /// Before a guest is taken over: each second, and each answer counts.
    Hasty,
}

/// What is to be tried: guests that run, and their doors.
pub type Wanted = BTreeMap<GuestId, Vec<Probe>>;

/// One try.
pub type Try = (GuestId, Probe);

/// What is known of all doors.
#[derive(Debug, Default)]
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

    /// Doors that are new are tried within [`EVERY`]; those that are not wanted are forgotten.
    pub fn want(&mut self, now: Time, wanted: &Wanted) {
        let named = |(guest, probe): &Try| wanted.get(guest).is_some_and(|probes| probes.contains(probe));
        self.doors.retain(|door, _| named(door));
        for (guest, probes) in wanted {
            for probe in probes {
                let key = (*guest, probe.clone());
                let next = match self.pace {
                    Pace::Calm => now + Millis(spread(&key, 0, AGAIN)),
                    Pace::Hasty => now,
                };
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
        let Some(door) = self.doors.get_mut(key) else { return };
        door.busy = false;
        door.tries += 1;
        door.last = Some((answer, rtt_ms));
        let up = if answer == Answer::Ok {
            door.misses = 0;
            Some(true)
        } else {
            door.misses = door.misses.saturating_add(1);
            if door.misses >= MISSES || self.pace == Pace::Hasty { Some(false) } else { door.up }
        };
        if up != door.up {
            (door.up, door.since) = (up, wall);
        }
        if self.pace == Pace::Hasty {
            door.next = now + HASTE;
            return;
        }
        let pause = if (1..MISSES).contains(&door.misses) { AGAIN } else { EVERY };
        let jitter = Millis(spread(key, door.tries, Millis(2 * JITTER.0)));
        door.next = now + pause + jitter - JITTER;
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

/// The same for the same door and try; below `most`.
fn spread(key: &Try, tries: u64, most: Millis) -> u64 {
    let mut hasher = DefaultHasher::new();
    (key.0, key.1.to_string(), tries).hash(&mut hasher);
    hasher.finish() % most.0.max(1)
}
