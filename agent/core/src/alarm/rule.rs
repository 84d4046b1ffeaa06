//! What is bad, for how long, and how much it matters. Between the numbers of "bad" and "good" an alarm stays as it is.

use std::collections::VecDeque;

use roost_protocol::damper::{Level, Timing};
use roost_protocol::{MiB, Millis, Time};

use super::{Picture, Reading};

pub(super) fn timing(code: &str) -> Timing {
    let seconds = |raise_after, clear_after| Timing {
        raise_after: Millis::seconds(raise_after),
        clear_after: Millis::seconds(clear_after),
    };
    match code {
        "memory-pressure" => seconds(30, 60),
        "memory-low" => seconds(30, 60),
        "io-pressure" => seconds(120, 120),
        "cpu-busy" => seconds(600, 300),
        "disk-filling" => seconds(600, 600),
        // A guest that is started again within the minute was away, not down.
        "guest-down" => seconds(60, 0),
        "guest-unreachable" => seconds(0, 0),
        // The link itself tries for longer than a restart of the aggregator takes.
        "aggregator-away" => seconds(60, 10),
        _ => seconds(60, 60),
    }
}

/// PSI memory `some avg10`, hundredths of a percent: Facebook's oomd acts at 10 to 20 % by default.
const PRESSURE_BAD: u32 = 2_000;
const PRESSURE_GOOD: u32 = 1_000;
/// PSI of IO: a host that copies disks has much of it for minutes.
const IO_BAD: u32 = 6_000;
const IO_GOOD: u32 = 4_000;
/// Permille of memory that is available.
const MEMORY_BAD: u64 = 50;
const MEMORY_GOOD: u64 = 80;
const CPU_BAD: u32 = 950;
const CPU_GOOD: u32 = 850;
/// Permille of a file system that is free.
const LOW_BAD: u64 = 100;
const LOW_GOOD: u64 = 120;
const FULL_BAD: u64 = 20;
const FULL_GOOD: u64 = 40;
/// Hours until a file system is full, at the pace of the last day.
const HOURS_BAD: u64 = 72;
const HOURS_GOOD: u64 = 96;

pub(super) fn host(picture: &Picture<'_>) -> Vec<Reading> {
    let sample = picture.host;
    let pressure = sample.pressure.unwrap_or_default();
    let percent = |centi: u32| format!("{}.{:02} %", centi / 100, centi % 100);
    let available = share(sample.memory_available_mib, picture.memory);
    let disk = sample.disks.iter().filter_map(|disk| Some((share(disk.free_mib, disk.total_mib)?, &disk.path))).min();
    let low = |code, bad, good, what: &str| Reading {
        code,
        guest: None,
        level: disk.map_or(Level::Good, |(free, _)| below(free, bad, good)),
        text: disk.map_or(String::new(), |(free, path)| {
            format!("the file system of {path} has {}.{} % free: {what}", free / 10, free % 10)
        }),
    };
    let reading = |code, level, text| Reading { code, guest: None, level, text };
    vec![
        reading(
            "memory-pressure",
            above(pressure.memory_centi, PRESSURE_BAD, PRESSURE_GOOD),
            format!(
                "programs wait for memory {} of the time: give guests less, move some to another host, or add memory",
                percent(pressure.memory_centi)
            ),
        ),
        reading(
            "memory-low",
            available.map_or(Level::Good, |available| below(available, MEMORY_BAD, MEMORY_GOOD)),
            format!(
                "only {} of memory are available: the kernel may soon kill a guest; move or stop one",
                sample.memory_available_mib
            ),
        ),
        reading(
            "io-pressure",
            above(pressure.io_centi, IO_BAD, IO_GOOD),
            format!(
                "programs wait for disks {} of the time: see which guest reads or writes most",
                percent(pressure.io_centi)
            ),
        ),
        reading(
            "cpu-busy",
            above(sample.cpu_permille, CPU_BAD, CPU_GOOD),
            "all CPUs have been busy for ten minutes: see which guest takes most, or move one".into(),
        ),
        low("disk-low", LOW_BAD, LOW_GOOD, "remove old backups or images, or add a disk"),
        low("disk-full", FULL_BAD, FULL_GOOD, "guests will be paused when they write; free some space now"),
    ]
}

pub(super) fn aggregator(now: Time, picture: &Picture<'_>) -> Reading {
    let level = if picture.aggregator_away.is_some() { Level::Bad } else { Level::Good };
    let away_s = picture.aggregator_away.map_or(0, |since| now.since(since).0 / 1_000);
    let text = format!(
        "the aggregator has not answered for {away_s} s; guests go on as wished: see whether it runs and whether the network is up"
    );
    Reading { code: "aggregator-away", guest: None, level, text }
}

/// `worst`: the file system that is full first, in hours from now.
pub(super) fn filling(worst: Option<(u64, &str)>) -> Reading {
    let level = worst.map_or(Level::Good, |(hours, _)| below(hours, HOURS_BAD, HOURS_GOOD));
    let text = worst.map_or(String::new(), |(hours, path)| {
        format!("the file system of {path} will be full in {hours} hours at the pace of the last day: see what grows")
    });
    Reading { code: "disk-filling", guest: None, level, text }
}

fn above(value: u32, bad: u32, good: u32) -> Level {
    match value {
        value if value >= bad => Level::Bad,
        value if value < good => Level::Good,
        _ => Level::Between,
    }
}

fn below(value: u64, bad: u64, good: u64) -> Level {
    match value {
        value if value < bad => Level::Bad,
        value if value >= good => Level::Good,
        _ => Level::Between,
    }
}

/// Permille; `None` of nothing.
fn share(part: MiB, whole: MiB) -> Option<u64> {
    part.0.saturating_mul(1_000).checked_div(whole.0)
}

/// Between two points of a trend, and how many are kept: a day.
const POINT_EVERY: Millis = Millis::seconds(600);
const POINTS: usize = 144;
/// With fewer, two hours, nothing is concluded: a copied image is no trend.
const ENOUGH: usize = 12;
/// A use that grows by less than this in an hour is noise.
const LEAST_MIB_AN_HOUR: u64 = 16;

/// How the free space of one file system went.
#[derive(Clone, Debug, Default)]
pub(super) struct Trend {
    points: VecDeque<(Time, MiB)>,
}

impl Trend {
    pub(super) fn saw(&mut self, now: Time, free: MiB) {
        if self.points.back().is_some_and(|(at, _)| now.since(*at) < POINT_EVERY) {
            return;
        }
        self.points.push_back((now, free));
        while self.points.len() > POINTS {
            self.points.pop_front();
        }
    }

    /// Hours until nothing is free. The pace is that between the mean of the first and of the last third, so that neither a
    /// moment's copy nor a moment's deletion decides.
    pub(super) fn hours_to_full(&self) -> Option<u64> {
        let count = self.points.len();
        if count < ENOUGH {
            return None;
        }
        let third = count / 3;
        let mean = |skip: usize| {
            let points = self.points.iter().skip(skip).take(third);
            let sum = points
                .fold((0u64, 0u64), |(at, free), point| (at.saturating_add(point.0.0), free.saturating_add(point.1.0)));
            let by = u64::try_from(third).unwrap_or(1).max(1);
            (sum.0 / by, sum.1 / by)
        };
        let (early, late) = (mean(0), mean(count - third));
        let used = early.1.checked_sub(late.1)?;
        let span_ms = late.0.saturating_sub(early.0);
        let an_hour = used.saturating_mul(3_600_000).checked_div(span_ms)?;
        if an_hour < LEAST_MIB_AN_HOUR {
            return None;
        }
        self.points.back().map(|(_, free)| free.0 / an_hour)
    }
}
