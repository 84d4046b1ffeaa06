//! When a guest's next backup is due, and when it is late. Wall-clock time: a schedule is for people.

use roost_protocol::backup::{Schedule, Zone};
use roost_protocol::calendar::Calendar;
use roost_protocol::{GuestId, Millis, Stamp};

/// A schedule as one guest follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timetable {
    calendar: Calendar,
    zone: Option<Zone>,
    jitter: Millis,
}

impl Timetable {
    /// The schedule for this guest.
    ///
    /// # Errors
    /// The expression can't be read.
    pub fn new(schedule: &Schedule, guest: GuestId) -> Result<Self, String> {
        let calendar = Calendar::parse(&schedule.expression)?;
        Ok(Self { calendar, zone: schedule.zone.clone(), jitter: share(guest, schedule.jitter) })
    }

    /// When the next backup is due if the schedule's moments up to `answered` were answered: the next moment, later by the
    /// guest's share of the jitter. Moments missed since then are one backup, not many.
    pub fn due(&self, answered: Stamp) -> Option<Stamp> {
        self.calendar.next_after(answered, self.zone.as_ref()).map(|at| plus(at, self.jitter))
    }

    /// Up to which moment a backup begun at `now` answers. The clock may have been put back: what lies ahead of it was
    /// never answered.
    pub fn answers(&self, now: Stamp) -> Stamp {
        Stamp(now.0.saturating_sub(self.jitter.0))
    }

    /// When a set whose newest point (or whose policy) is of `newest` is late: two moments have passed.
    pub fn late_at(&self, newest: Stamp) -> Option<Stamp> {
        let first = self.calendar.next_after(self.answers(newest), self.zone.as_ref())?;
        self.due(first)
    }

    pub fn zone(&self) -> Option<&Zone> {
        self.zone.as_ref()
    }
}

/// This guest's share of a jitter: always the same, spread evenly over guests (FNV-1a, 64 bits).
pub fn share(guest: GuestId, jitter: Millis) -> Millis {
    Millis(hash(&guest.bytes()) % jitter.0.saturating_add(1))
}

/// A number that differs between ids and never between runs.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let mixed = bytes.iter().fold(0xcbf2_9ce4_8422_2325, step);
    // Ids that differ in few bits would be neighbours.
    (mixed ^ (mixed >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16
}

/// `at` later by `span`.
pub(crate) fn plus(at: Stamp, span: Millis) -> Stamp {
    Stamp(at.0.saturating_add(span.0))
}

#[cfg(test)]
mod test {
    use super::*;

    fn timetable(expression: &str, jitter: u64, guest: u128) -> Timetable {
        let schedule = Schedule { expression: expression.into(), jitter: Millis(jitter), zone: None };
        Timetable::new(&schedule, GuestId::from_u128(guest)).unwrap()
    }

    #[test]
    fn guests_begin_spread_over_the_jitter_and_each_always_at_its_own_time() {
        let window = 3_600_000;
        let offsets: Vec<u64> = (0..200).map(|n| share(GuestId::from_u128(n), Millis(window)).0).collect();
        assert_eq!(offsets, (0..200).map(|n| share(GuestId::from_u128(n), Millis(window)).0).collect::<Vec<_>>());
        let sixths = |part: u64| offsets.iter().filter(|offset| **offset * 6 / (window + 1) == part).count();
        assert!((0..6).all(|part| (15..=55).contains(&sixths(part))), "{:?}", (0..6).map(sixths).collect::<Vec<_>>());
        assert_eq!(share(GuestId::from_u128(7), Millis(0)), Millis(0));
    }

    #[test]
    fn missed_moments_are_one_backup_and_two_without_a_point_are_late() {
        let table = timetable("hourly", 600_000, 5);
        let hour = 3_600_000;
        let ten = Stamp(500_000 * hour);
        let due = table.due(table.answers(plus(ten, Millis(hour / 2)))).unwrap();
        assert!((500_001 * hour..=500_001 * hour + 600_000).contains(&due.0));
        // The host was off for a day: the next one is due at once, the one after it in its time.
        let late = Stamp(due.0 + 24 * hour);
        assert_eq!(table.due(table.answers(late)).unwrap(), Stamp(late.0 + hour));
        assert_eq!(table.late_at(due).unwrap(), Stamp(due.0 + 2 * hour));
    }
}
