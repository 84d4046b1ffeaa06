//! Which backups begin now: limits on their number, on the host's pressure, on bandwidth, and on the disk.

use std::collections::VecDeque;

use roost_protocol::host::Pressure;
use roost_protocol::{GuestId, Millis, Time};

/// What a host allows its backups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Backups that read guests at a time.
    pub backups: usize,
    /// Deltas of replicas being made at a time; they are small, and have a promise in seconds to keep.
    pub replicas: usize,
    /// Points being brought to other places at a time.
    pub ships: usize,
    /// Above any of these backups by schedule wait (PSI `some avg10`, hundredths of a percent).
    pub pressure: Pressure,
    /// A backup that waited so long for the pressure to fall begins all the same, one at a time: a host that is always
    /// under pressure must not be without backups.
    pub patience: Millis,
    /// Bytes per second for all backups that read, and for all that are brought elsewhere; absent: no limit.
    pub read_bandwidth: Option<u64>,
    pub ship_bandwidth: Option<u64>,
    /// Below this share of the disk, in permille, nothing of backup begins, so that guests keep the rest.
    pub reserve_permille: u64,
    /// First and longest wait after a failure; doubles in between.
    pub retry_first: Millis,
    pub retry_longest: Millis,
    /// All points are read and compared this often.
    pub verify_every: Millis,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Two read streams fill a disk or a core; a third only makes all three longer.
            backups: 2,
            replicas: 4,
            ships: 2,
            pressure: Pressure { cpu_centi: 4_000, memory_centi: 1_000, io_centi: 3_000 },
            patience: Millis::seconds(3_600),
            read_bandwidth: None,
            ship_bandwidth: None,
            reserve_permille: 50,
            retry_first: Millis::seconds(60),
            retry_longest: Millis::seconds(3_600),
            verify_every: Millis::seconds(7 * 86_400),
        }
    }
}

impl Limits {
    /// True while another guest would take memory from those that run.
    pub fn short_of_memory(&self, pressure: Option<Pressure>) -> bool {
        pressure.is_some_and(|now| now.memory_centi > self.pressure.memory_centi)
    }

    /// True while the host is too busy for work that can wait.
    pub fn pressed(&self, pressure: Option<Pressure>) -> bool {
        let busy = |now: Pressure| now.cpu_centi > self.pressure.cpu_centi || now.io_centi > self.pressure.io_centi;
        self.short_of_memory(pressure) || pressure.is_some_and(busy)
    }

    /// Wait after so many failures in a row.
    pub fn retry(&self, failures: u32) -> Millis {
        let doubled = self.retry_first.0.saturating_mul(1 << failures.saturating_sub(1).min(20));
        Millis(doubled.min(self.retry_longest.0))
    }

    /// Whether backups are held because of the disk. Once held, they go on when there is a fifth more than the reserve.
    pub fn held(&self, room: Room, held: bool) -> bool {
        let permille = if held { self.reserve_permille * 6 / 5 } else { self.reserve_permille };
        u128::from(room.free) * 1_000 < u128::from(room.total) * u128::from(permille)
    }

    /// One task's part of a bandwidth: the limit is kept also when all run.
    pub(crate) fn share(bandwidth: Option<u64>, tasks: usize) -> Option<u64> {
        bandwidth.map(|all| (all / u64::try_from(tasks.max(1)).unwrap_or(1)).max(1))
    }
}

/// A file system, in bytes, and what the store takes of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    pub total: u64,
    pub free: u64,
    pub used: u64,
}

/// A backup that could begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub guest: GuestId,
    /// By command: pressure doesn't hold it back.
    pub asked: bool,
    pub priority: u32,
    /// How long it has been due.
    pub late: Millis,
}

/// The guests whose backup begins now, in order. `running` ones read already.
pub fn choose(limits: &Limits, running: usize, pressed: bool, mut waiting: Vec<Waiting>) -> Vec<GuestId> {
    waiting.sort_by_key(|one| {
        (std::cmp::Reverse(one.asked), std::cmp::Reverse(one.priority), std::cmp::Reverse(one.late), one.guest)
    });
    let mut chosen: Vec<GuestId> = Vec::new();
    for one in waiting {
        let reading = running + chosen.len();
        let room = reading < limits.backups;
        let may = one.asked || !pressed || (one.late >= limits.patience && reading == 0);
        if room && may {
            chosen.push(one.guest);
        }
    }
    chosen
}

/// Foretells when a disk is full, from how its free room went down over the last days.
#[derive(Clone, Debug, Default)]
pub struct Forecast {
    /// One each hour, oldest first.
    seen: VecDeque<(Time, u64)>,
}

const HOUR: Millis = Millis::seconds(3_600);
const DAY: Millis = Millis::seconds(86_400);
/// A week: pruning makes the free room rise and fall within a day.
const SAMPLES: usize = 7 * 24;
/// Less than this tells more of the hour than of the trend.
const LEAST: Millis = Millis(6 * HOUR.0);

impl Forecast {
    /// Takes in the free bytes of now.
    pub fn saw(&mut self, now: Time, free: u64) {
        if self.seen.back().is_some_and(|(last, _)| now.since(*last) < HOUR) {
            return;
        }
        if self.seen.len() == SAMPLES {
            self.seen.pop_front();
        }
        self.seen.push_back((now, free));
    }

    /// Days until nothing is free at the pace since the oldest sample; absent: not filling, or not known yet.
    pub fn days_to_full(&self, now: Time, free: u64) -> Option<u32> {
        let (then, had) = *self.seen.front()?;
        let span = now.since(then);
        let lost = had.checked_sub(free).filter(|lost| *lost > 0 && span >= LEAST)?;
        let days = u128::from(free) * u128::from(span.0) / (u128::from(lost) * u128::from(DAY.0));
        // Ten years are never.
        u32::try_from(days).ok().filter(|days| *days < 3_650)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn waiting(guest: u128, asked: bool, priority: u32, late: u64) -> Waiting {
        Waiting { guest: GuestId::from_u128(guest), asked, priority, late: Millis::seconds(late) }
    }

    fn check(running: usize, pressed: bool, all: &[Waiting], expected: &[u128]) {
        let limits = Limits::default();
        let expected: Vec<GuestId> = expected.iter().copied().map(GuestId::from_u128).collect();
        assert_eq!(choose(&limits, running, pressed, all.to_vec()), expected);
    }

    #[test]
    fn asked_ones_go_first_then_the_important_then_the_latest_and_never_more_than_allowed() {
        let all = [waiting(1, false, 0, 50), waiting(2, false, 9, 1), waiting(3, true, 0, 0), waiting(4, false, 0, 60)];
        check(0, false, &all, &[3, 2]);
        check(1, false, &all[..1], &[1]);
        check(0, false, &[all[0], all[3]], &[4, 1]);
        check(2, false, &all, &[]);
    }

    #[test]
    fn pressure_holds_back_what_can_wait_but_not_for_ever() {
        let all = [waiting(1, false, 0, 3_599), waiting(2, false, 0, 3_600), waiting(3, false, 0, 7_200)];
        check(0, true, &all[..1], &[]);
        check(0, true, &all, &[3]);
        check(1, true, &all, &[]);
        check(1, true, &[waiting(9, true, 0, 0)], &[9]);
    }

    #[test]
    fn waits_after_failures_double_up_to_the_longest() {
        let limits = Limits::default();
        let waits: Vec<u64> = [1, 2, 3, 6, 7, 40].iter().map(|n| limits.retry(*n).0 / 1_000).collect();
        assert_eq!(waits, [60, 120, 240, 1_920, 3_600, 3_600]);
    }

    #[test]
    fn a_filling_disk_holds_backups_before_it_is_full_and_lets_them_go_on_with_room_to_spare() {
        let limits = Limits::default();
        let room = |free| Room { total: 1_000_000, free, used: 0 };
        assert!(!limits.held(room(50_000), false) && limits.held(room(49_999), false));
        assert!(limits.held(room(59_999), true) && !limits.held(room(60_000), true));
        assert!(!limits.held(Room::default(), false));
    }

    #[test]
    fn the_forecast_follows_a_week_and_says_nothing_early() {
        let mut forecast = Forecast::default();
        let at = |hours: u64| Time(hours * HOUR.0);
        for hour in 0..24 * 20 {
            forecast.saw(at(hour), 1_000_000 - hour * 1_000);
        }
        assert_eq!(forecast.days_to_full(at(480), 520_000), Some(21));
        assert_eq!(forecast.days_to_full(at(480), 900_000), None);
        let mut young = Forecast::default();
        young.saw(at(0), 1_000);
        assert_eq!(young.days_to_full(at(5), 500), None);
        assert_eq!(young.days_to_full(at(6), 500), Some(0));
    }
}
