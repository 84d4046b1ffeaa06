//! Calendar expressions: a subset of systemd's `OnCalendar=`, as arithmetic. No clock and no zone database: the time and
//! the zone's offsets are handed in.
//!
//! `[weekdays] [date] [time]`, or one of the words `minutely hourly daily weekly monthly quarterly semiannually yearly`.
//! Weekdays: `mon..fri,sun`. Date: `year-month-day` or `month-day`, `*-*~2` counts days from the month's end. Time:
//! `hour:minute[:second]`. Each number may be `*`, a list, a range `a..b`, or have a step `a/n`. Without a date: every day;
//! without a time: midnight.
//!
//! Where clocks are put forward, an expression that names hours and fell into the gap is met at the gap's end. Where they
//! are put back, local times that come twice are met the first time only, unless the expression is for every hour: then
//! no hour is without one.

use crate::Stamp;
use crate::backup::{Shift, Zone};

const MINUTE: i64 = 60;
const HOUR: i64 = 3_600;
const DAY: i64 = 86_400;
/// Years that an expression may mean; the search for the next moment ends after the last.
const YEARS: std::ops::RangeInclusive<i64> = 1970..=2200;
/// Items in one list; more is a mistake.
const ITEMS: usize = 64;

/// A calendar expression that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calendar {
    /// Bit 0: Monday.
    weekdays: u64,
    years: Vec<Span>,
    months: u64,
    days: u64,
    /// Days count from the month's end, the last is 1.
    from_end: bool,
    hours: u64,
    minutes: u64,
    seconds: u64,
}

/// From, to (both meant) and step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span(i64, i64, i64);

impl Span {
    fn has(self, number: i64) -> bool {
        (self.0..=self.1).contains(&number) && (number - self.0) % self.2 == 0
    }
}

/// Local time's offset from UTC between two moments, in seconds.
#[derive(Clone, Copy)]
struct Stretch {
    from: i64,
    to: i64,
    offset: i64,
}

impl Calendar {
    /// Reads an expression.
    ///
    /// # Errors
    /// What could not be read, and what would be.
    pub fn parse(text: &str) -> Result<Self, String> {
        let lower = text.trim().to_ascii_lowercase();
        let full = match lower.as_str() {
            "" => return Err("the calendar expression is empty: give for example daily or mon..fri 20:30".into()),
            "minutely" => "*-*-* *:*",
            "hourly" => "*-*-* *:00",
            "daily" => "*-*-* 00:00",
            "weekly" => "mon *-*-* 00:00",
            "monthly" => "*-*-01 00:00",
            "quarterly" => "*-01,04,07,10-01 00:00",
            "semiannually" => "*-01,07-01 00:00",
            "yearly" | "annually" => "*-01-01 00:00",
            other => other,
        };
        let mut calendar = Self::every_midnight();
        let mut stage = 0;
        for word in full.split_whitespace() {
            let kind = if word.contains(':') {
                3
            } else if word.starts_with(|c: char| c.is_ascii_alphabetic()) {
                1
            } else {
                2
            };
            if kind <= stage {
                return Err(format!("{word:?} stands where it can't: weekdays, then a date, then a time"));
            }
            stage = kind;
            match kind {
                1 => calendar.weekdays = weekdays(word)?,
                2 => calendar.date(word)?,
                _ => calendar.time(word)?,
            }
        }
        Ok(calendar)
    }

    fn every_midnight() -> Self {
        let years = vec![Span(*YEARS.start(), *YEARS.end(), 1)];
        let (weekdays, months, days) = (u64::MAX, u64::MAX, u64::MAX);
        Self { weekdays, years, months, days, from_end: false, hours: 1, minutes: 1, seconds: 1 }
    }

    fn date(&mut self, word: &str) -> Result<(), String> {
        let (head, days) = match word.rsplit_once('~') {
            Some((head, days)) => {
                self.from_end = true;
                (head, days)
            }
            None => word.rsplit_once('-').ok_or_else(|| format!("{word:?} is no date: give year-month-day"))?,
        };
        let (years, months) = head.rsplit_once('-').unwrap_or(("*", head));
        self.years = spans(years, *YEARS.start(), *YEARS.end())?;
        self.months = mask(months, 1, 12)?;
        self.days = mask(days, 1, 31)?;
        Ok(())
    }

    fn time(&mut self, word: &str) -> Result<(), String> {
        let parts: Vec<&str> = word.split(':').collect();
        let (hours, minutes, seconds) = match parts.as_slice() {
            [hours, minutes] => (*hours, *minutes, "0"),
            [hours, minutes, seconds] => (*hours, *minutes, *seconds),
            _ => return Err(format!("{word:?} is no time: give hour:minute or hour:minute:second")),
        };
        self.hours = mask(hours, 0, 23)?;
        self.minutes = mask(minutes, 0, 59)?;
        self.seconds = mask(seconds, 0, 59)?;
        Ok(())
    }

    /// The first moment after `after` that the expression means; none when there is none until 2200.
    pub fn next_after(&self, after: Stamp, zone: Option<&Zone>) -> Option<Stamp> {
        let after = i64::try_from(after.0 / 1_000).ok()?;
        let stretches = stretches(zone);
        let mut before: Option<Stretch> = None;
        for stretch in stretches {
            if stretch.to > after
                && let Some(at) = self.next_within(after, stretch, before)
            {
                return u64::try_from(at).ok().map(|at| Stamp(at * 1_000));
            }
            before = Some(stretch);
        }
        None
    }

    /// The first moment of this stretch after `after`; `before` is the stretch before it.
    fn next_within(&self, after: i64, stretch: Stretch, before: Option<Stretch>) -> Option<i64> {
        let begins = stretch.from.max(after + 1);
        let mut local = begins + stretch.offset;
        if let Some(before) = before
            && !self.every_hour()
        {
            // Local time when the clocks were changed, as the old offset would have it.
            let old = stretch.from + before.offset;
            if begins == stretch.from && self.next_local(old).is_some_and(|at| at < stretch.from + stretch.offset) {
                return Some(stretch.from);
            }
            local = local.max(old);
        }
        self.next_local(local).map(|at| at - stretch.offset).filter(|at| *at < stretch.to)
    }

    fn every_hour(&self) -> bool {
        self.hours & 0xff_ffff == 0xff_ffff
    }

    /// The first local second from `local` on that is meant.
    fn next_local(&self, local: i64) -> Option<i64> {
        let (mut day, rest) = (local.div_euclid(DAY), local.rem_euclid(DAY));
        if self.is_day(day)
            && let Some(second) = self.next_second(rest)
        {
            return Some(day * DAY + second);
        }
        day += 1;
        loop {
            let (year, month, _) = civil(day);
            if year > *YEARS.end() {
                return None;
            }
            if !self.years.iter().any(|span| span.has(year)) {
                day = days_to(year + 1, 1, 1);
            } else if !has(self.months, month) {
                day = days_to(year, month + 1, 1);
            } else if self.is_day(day) {
                return self.next_second(0).map(|second| day * DAY + second);
            } else {
                day += 1;
            }
        }
    }

    fn is_day(&self, day: i64) -> bool {
        let (year, month, number) = civil(day);
        let number = if self.from_end { days_to(year, month + 1, 1) - day } else { number };
        // 1970-01-01 was a Thursday.
        has(self.weekdays, (day + 3).rem_euclid(7))
            && has(self.days, number)
            && has(self.months, month)
            && self.years.iter().any(|span| span.has(year))
    }

    /// The first second of a day from this one on.
    fn next_second(&self, from: i64) -> Option<i64> {
        let (hour, minute, second) = (from / HOUR, from % HOUR / MINUTE, from % MINUTE);
        if has(self.hours, hour) {
            if has(self.minutes, minute)
                && let Some(second) = next_bit(self.seconds, second)
            {
                return Some(hour * HOUR + minute * MINUTE + second);
            }
            if let Some(minute) = next_bit(self.minutes, minute + 1) {
                return Some(hour * HOUR + minute * MINUTE + next_bit(self.seconds, 0)?);
            }
        }
        let hour = next_bit(self.hours, hour + 1)?;
        Some(hour * HOUR + next_bit(self.minutes, 0)? * MINUTE + next_bit(self.seconds, 0)?)
    }
}

/// Seconds that local time is ahead of UTC at a moment.
pub fn offset_at(zone: Option<&Zone>, at: Stamp) -> i64 {
    let shifts = zone.map_or(&[][..], |zone| &zone.shifts);
    let shift = shifts.iter().rev().find(|shift| shift.from <= at).or(shifts.first());
    shift.map_or(0, |shift| i64::from(shift.minutes) * MINUTE)
}

/// Days since 1970-01-01 and its year, month and day, of a moment's local time.
pub fn local_day(zone: Option<&Zone>, at: Stamp) -> (i64, (i64, i64, i64)) {
    let seconds = i64::try_from(at.0 / 1_000).unwrap_or(i64::MAX / 2) + offset_at(zone, at);
    let day = seconds.div_euclid(DAY);
    (day, civil(day))
}

fn stretches(zone: Option<&Zone>) -> Vec<Stretch> {
    let shifts: &[Shift] = zone.map_or(&[], |zone| &zone.shifts);
    let seconds = |shift: &Shift| i64::try_from(shift.from.0 / 1_000).unwrap_or(i64::MAX);
    let mut all: Vec<Stretch> = Vec::with_capacity(shifts.len() + 1);
    for (index, shift) in shifts.iter().enumerate() {
        let from = if index == 0 { i64::MIN } else { seconds(shift) };
        let to = shifts.get(index + 1).map_or(i64::MAX, seconds);
        all.push(Stretch { from, to, offset: i64::from(shift.minutes) * MINUTE });
    }
    if all.is_empty() {
        all.push(Stretch { from: i64::MIN, to: i64::MAX, offset: 0 });
    }
    all
}

/// Days since 1970-01-01 of a date; a month of 13 is January of the next year. After H. Hinnant's `days_from_civil`.
fn days_to(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = (year + (month - 1).div_euclid(12), (month - 1).rem_euclid(12) + 1);
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Year, month and day of days since 1970-01-01. After H. Hinnant's `civil_from_days`.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

fn has(mask: u64, number: i64) -> bool {
    (0..64).contains(&number) && mask >> number & 1 == 1
}

fn next_bit(mask: u64, from: i64) -> Option<i64> {
    (from.max(0)..64).find(|number| has(mask, *number))
}

fn mask(text: &str, least: i64, most: i64) -> Result<u64, String> {
    let spans = spans(text, least, most)?;
    let numbers = (least..=most).filter(|number| spans.iter().any(|span| span.has(*number)));
    Ok(numbers.fold(0, |mask, number| mask | 1 << number))
}

fn spans(text: &str, least: i64, most: i64) -> Result<Vec<Span>, String> {
    let items: Vec<&str> = text.split(',').collect();
    if items.len() > ITEMS {
        return Err(format!("more than {ITEMS} numbers in one list"));
    }
    items.into_iter().map(|item| span(item, least, most)).collect()
}

fn span(item: &str, least: i64, most: i64) -> Result<Span, String> {
    let wrong = || format!("{item:?} is not understood: give {least} to {most}, *, a..b or a/n");
    let number = |text: &str| {
        let digits = (1..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse::<i64>().ok().filter(|number| digits && (least..=most).contains(number));
        number.ok_or_else(wrong)
    };
    let (range, step) = match item.split_once('/') {
        Some((range, step)) => {
            let step = step.parse::<i64>().ok().filter(|step| (1..=most.max(1)).contains(step)).ok_or_else(wrong)?;
            (range, Some(step))
        }
        None => (item, None),
    };
    let (from, to) = match (range, range.split_once("..")) {
        ("*", _) => (least, most),
        (_, Some((from, to))) => (number(from)?, number(to)?),
        (single, None) => {
            let from = number(single)?;
            (from, if step.is_some() { most } else { from })
        }
    };
    if from > to { Err(wrong()) } else { Ok(Span(from, to, step.unwrap_or(1))) }
}

fn weekdays(word: &str) -> Result<u64, String> {
    let mut mask = 0;
    for item in word.split(',') {
        let (from, to) = item.split_once("..").unwrap_or((item, item));
        let (from, to) = (weekday(from)?, weekday(to)?);
        let mut day = from;
        loop {
            mask |= 1 << day;
            if day == to {
                break;
            }
            day = (day + 1) % 7;
        }
    }
    Ok(mask)
}

fn weekday(text: &str) -> Result<u64, String> {
    const NAMES: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
    let place = NAMES.iter().position(|name| *name == text || name[..3] == *text);
    let place = place.and_then(|place| u64::try_from(place).ok());
    place.ok_or_else(|| format!("{text:?} is no weekday: give mon to sun, or for example daily"))
}
