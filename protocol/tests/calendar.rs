//! Calendar expressions against a slow oracle that looks at every second, and by examples.

#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that is not as it should be")]

use proptest::prelude::*;
use roost_protocol::Stamp;
use roost_protocol::backup::{Shift, Zone};
use roost_protocol::calendar::{Calendar, local_day};

const DAY: u64 = 86_400;

/// 2026-03-02, a Monday, 00:00 UTC.
const MONDAY: u64 = 1_772_409_600;

fn next(text: &str, after: u64) -> u64 {
    Calendar::parse(text).unwrap().next_after(Stamp(after * 1_000), None).unwrap().0 / 1_000
}

/// Days and seconds after [`MONDAY`].
fn at(days: u64, hour: u64, minute: u64) -> u64 {
    MONDAY + days * DAY + hour * 3_600 + minute * 60
}

#[test]
fn words_and_forms_mean_what_they_say() {
    for (text, after, expected) in [
        ("hourly", at(0, 0, 0), at(0, 1, 0)),
        ("daily", at(0, 0, 0), at(1, 0, 0)),
        ("Daily", at(0, 23, 59), at(1, 0, 0)),
        ("weekly", at(0, 0, 0), at(7, 0, 0)),
        ("monthly", at(0, 0, 0), at(30, 0, 0)),
        ("quarterly", at(0, 0, 0), at(30, 0, 0)),
        ("yearly", at(0, 0, 0), at(305, 0, 0)),
        ("*-*-* 02:00", at(0, 1, 59), at(0, 2, 0)),
        ("*-*-* 02:00", at(0, 2, 0), at(1, 2, 0)),
        ("02:00:30", at(0, 2, 0), at(0, 2, 0) + 30),
        ("mon..fri 20:30", at(4, 20, 30), at(7, 20, 30)),
        ("sat,sun", at(0, 0, 0), at(5, 0, 0)),
        ("fri..mon 1:00", at(0, 1, 0), at(4, 1, 0)),
        ("Monday 12:00", at(0, 12, 0), at(7, 12, 0)),
        ("*:0/15", at(0, 0, 0), at(0, 0, 15)),
        ("*:0/15", at(0, 23, 46), at(1, 0, 0)),
        ("8..18/2:00", at(0, 9, 0), at(0, 10, 0)),
        ("8..18/2:00", at(0, 18, 0), at(1, 8, 0)),
        ("*-*~1 23:00", at(0, 0, 0), at(29, 23, 0)),
        ("03-15", at(0, 0, 0), at(13, 0, 0)),
        ("2027-03-02", at(0, 0, 0), at(365, 0, 0)),
        ("*-02-29", at(0, 0, 0), at(729, 0, 0)),
    ] {
        assert_eq!(next(text, after), expected, "{text} after {after}");
    }
}

#[test]
fn a_day_that_never_comes_has_no_next_moment() {
    assert_eq!(Calendar::parse("02-30").unwrap().next_after(Stamp(0), None), None);
    assert_eq!(Calendar::parse("1990-01-01").unwrap().next_after(Stamp(MONDAY * 1_000), None), None);
}

#[test]
fn what_is_no_expression_is_refused_with_a_reason() {
    for text in [
        "",
        "  ",
        "sometimes",
        "25:00",
        "10",
        "10:60",
        "10:00:00:00",
        "*-13-01",
        "*-*-32",
        "mon..",
        "..5:00",
        "5..3:00",
        "*/0:00",
        "10:00 mon",
        "mon tue",
        "1:00 2:00",
        "-1:00",
        "00000:00",
        "*-*",
        "1,:0",
        "é:00",
        "mön",
    ] {
        // "*-*" is a date without a year: every day.
        if text == "*-*" {
            assert!(Calendar::parse(text).is_ok());
        } else {
            assert!(Calendar::parse(text).is_err(), "{text:?}");
        }
    }
    let long = vec!["1"; 65].join(",");
    assert!(Calendar::parse(&format!("{long}:00")).is_err());
}

/// Central Europe in 2026: forward on 29 March 01:00 UTC, back on 25 October 01:00 UTC.
fn zurich() -> Zone {
    let shift = |from: u64, minutes| Shift { from: Stamp(from * 1_000), minutes };
    Zone {
        name: "Europe/Zurich".into(),
        shifts: vec![shift(1_761_440_400, 60), shift(1_774_746_000, 120), shift(1_792_890_000, 60)],
    }
}

fn next_in_zurich(text: &str, after: u64) -> u64 {
    Calendar::parse(text).unwrap().next_after(Stamp(after * 1_000), Some(&zurich())).unwrap().0 / 1_000
}

#[test]
fn a_time_that_the_clocks_skip_is_met_at_the_end_of_the_gap() {
    let (forward, evening) = (1_774_746_000, 1_774_746_000 - 6 * 3_600);
    assert_eq!(next_in_zurich("02:30", evening), forward);
    assert_eq!(next_in_zurich("02:30", forward), forward + 23 * 3_600 + 1_800);
    assert_eq!(next_in_zurich("03:00", evening), forward);
    assert_eq!(next_in_zurich("01:30", evening), forward - 1_800);
    assert_eq!(next_in_zurich("*:0/15", forward - 900), forward);
    assert_eq!(next_in_zurich("*:30", forward - 1_800), forward + 1_800);
}

#[test]
fn a_time_that_comes_twice_is_met_once_unless_every_hour_is_meant() {
    let back = 1_792_890_000;
    assert_eq!(next_in_zurich("02:30", back - 2 * 3_600), back - 1_800);
    assert_eq!(next_in_zurich("02:30", back - 1_800), back + 3_600 + 1_800 + 23 * 3_600);
    assert_eq!(next_in_zurich("hourly", back - 3_600), back);
    assert_eq!(next_in_zurich("hourly", back), back + 3_600);
    assert_eq!(next_in_zurich("03:00", back - 2 * 3_600), back + 3_600);
}

// The oracle: every minute of a span, its fields taken apart by counting days one by one.

fn leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn length(year: u64, month: u64) -> u64 {
    match month {
        2 => 28 + u64::from(leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Year, month, day and weekday (Monday is 0) by counting from 1970.
fn date(mut days: u64) -> (u64, u64, u64, u64) {
    let weekday = (days + 3) % 7;
    let (mut year, mut month) = (1970, 1);
    while days >= length(year, month) {
        days -= length(year, month);
        month += 1;
        if month > 12 {
            (year, month) = (year + 1, 1);
        }
    }
    (year, month, days + 1, weekday)
}

#[derive(Clone, Debug)]
struct Form {
    weekdays: Option<(u64, u64)>,
    month: Option<u64>,
    day: Option<(u64, u64)>,
    hour: Option<(u64, u64)>,
    minute: (u64, u64),
}

impl Form {
    fn text(&self) -> String {
        const NAMES: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
        let name = |day: u64| NAMES[usize::try_from(day).unwrap()];
        let weekdays = self.weekdays.map_or(String::new(), |(a, b)| format!("{}..{} ", name(a), name(b)));
        let month = self.month.map_or("*".into(), |month| format!("{month:02}"));
        let day = self.day.map_or("*".into(), |(a, b)| format!("{a}..{b}"));
        let hour = self.hour.map_or("*".into(), |(a, step)| format!("{a}/{step}"));
        format!("{weekdays}*-{month}-{day} {hour}:{}/{}", self.minute.0, self.minute.1)
    }

    fn means(&self, (_, month, day, weekday): (u64, u64, u64, u64), minute: u64) -> bool {
        let (hour, minute) = (minute % 1_440 / 60, minute % 60);
        let stepped = |number: u64, (first, step): (u64, u64)| number >= first && (number - first).is_multiple_of(step);
        self.weekdays
            .is_none_or(|(a, b)| if a <= b { (a..=b).contains(&weekday) } else { weekday >= a || weekday <= b })
            && self.month.is_none_or(|wanted| wanted == month)
            && self.day.is_none_or(|(a, b)| (a..=b).contains(&day))
            && self.hour.is_none_or(|hours| stepped(hour, hours))
            && stepped(minute, self.minute)
    }
}

fn form() -> impl Strategy<Value = Form> {
    let day = (1..=31u64, 0..31u64).prop_map(|(a, more)| (a, (a + more).min(31)));
    (
        prop::option::of((0..7u64, 0..7u64)),
        prop::option::weighted(0.2, 1..=12u64),
        prop::option::of(day),
        prop::option::of((0..24u64, 1..24u64)),
        (0..60u64, 1..60u64),
    )
        .prop_map(|(weekdays, month, day, hour, minute)| Form { weekdays, month, day, hour, minute })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// 60 days, minute by minute, from somewhere between 2020 and 2060.
    #[test]
    fn the_next_moment_is_the_first_that_is_meant(form in form(), start in 26_297_280u64..47_336_000) {
        let calendar = Calendar::parse(&form.text()).unwrap();
        let dates: Vec<_> = (0..=60).map(|day| date(start / 1_440 + day)).collect();
        let date_of = |minute: u64| dates[usize::try_from(minute / 1_440 - start / 1_440).unwrap()];
        let expected = (start + 1..start + 60 * 1_440).find(|minute| form.means(date_of(*minute), *minute));
        let found = calendar.next_after(Stamp(start * 60_000), None).map(|at| at.0 / 60_000);
        match expected {
            Some(expected) => prop_assert_eq!(found, Some(expected), "{}", form.text()),
            None => prop_assert!(found.is_none_or(|at| at >= start + 60 * 1_440)),
        }
    }

    #[test]
    fn moments_rise_and_a_zone_only_shifts_them(form in form(), start in 26_297_280u64..47_336_000, minutes in -840..840i32) {
        let calendar = Calendar::parse(&form.text()).unwrap();
        let zone = Zone { name: "x".into(), shifts: vec![Shift { from: Stamp(0), minutes }] };
        let shift = |at: u64| u64::try_from(i64::try_from(at).unwrap() + i64::from(minutes) * 60_000).unwrap();
        let mut at = Stamp(start * 60_000);
        for _ in 0..20 {
            let Some(next) = calendar.next_after(at, Some(&zone)) else { break };
            prop_assert!(next > at);
            prop_assert_eq!(calendar.next_after(Stamp(shift(at.0)), None), Some(Stamp(shift(next.0))));
            at = next;
        }
    }

    #[test]
    fn days_have_the_dates_that_counting_gives(day in 0..80_000u64) {
        let (year, month, number, _) = date(day);
        let as_i64 = |n: u64| i64::try_from(n).unwrap();
        let (index, civil) = local_day(None, Stamp(day * DAY * 1_000 + 5));
        prop_assert_eq!((index, civil), (as_i64(day), (as_i64(year), as_i64(month), as_i64(number))));
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[a-z0-9*:., /~-]{0,24}|.{0,12}") {
        if let Ok(calendar) = Calendar::parse(&text) {
            let _next = calendar.next_after(Stamp(1_772_409_600_000), None);
        }
    }
}
