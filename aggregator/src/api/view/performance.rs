//! What was sampled over a span of time, in one line a measure: mean, lowest, 95th percentile, highest.

use roost_protocol::look::{Course, GuestMoment, History, HostMoment};
use roost_protocol::{GuestId, Stamp};
use serde_json::{Value, json};

use super::time;
use crate::api::page::{Listed, Order};

/// One measure of a report.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Performance {
    place: u64,
    measure: &'static str,
    /// Of the first and the last step that were sampled.
    from: Stamp,
    last: Stamp,
    step_s: u64,
    figures: Figures,
}

/// Of many values.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Figures {
    count: usize,
    mean: f64,
    min: f64,
    p95: f64,
    max: f64,
}

impl Figures {
    /// None of no values. The 95th percentile is the value that 95 of 100 do not exceed.
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_unstable_by(f64::total_cmp);
        let count = values.len();
        let p95 = *values.get((count * 95).div_ceil(100).checked_sub(1)?)?;
        #[expect(clippy::cast_precision_loss, reason = "a history has some thousand steps")]
        let mean = values.iter().sum::<f64>() / count as f64;
        Some(Self { count, mean, min: *values.first()?, p95, max: *values.last()? })
    }
}

type Measure<T> = (&'static str, fn(&T) -> Option<f64>);

fn permille(value: u32) -> Option<f64> {
    Some(f64::from(value) / 10.0)
}

fn centi(value: u32) -> Option<f64> {
    Some(f64::from(value) / 100.0)
}

/// Of bytes and MiB: exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "an amount of memory or bytes a second is far below 2^53")]
fn amount(value: u64) -> Option<f64> {
    Some(value as f64)
}

const HOST: &[Measure<HostMoment>] = &[
    ("cpu_percent", |moment| permille(moment.cpu_permille)),
    ("memory_available_mib", |moment| amount(moment.memory_available_mib.0)),
    ("swap_used_mib", |moment| amount(moment.swap_used_mib.0)),
    ("load", |moment| centi(moment.load_centi)),
    ("pressure_cpu_percent", |moment| centi(moment.pressure_cpu_centi)),
    ("pressure_memory_percent", |moment| centi(moment.pressure_memory_centi)),
    ("pressure_io_percent", |moment| centi(moment.pressure_io_centi)),
    ("receive_bps", |moment| amount(moment.receive_bps)),
    ("transmit_bps", |moment| amount(moment.transmit_bps)),
    ("disk_free_mib", |moment| amount(moment.disk_free_mib.0)),
    ("saved_by_sharing_mib", |moment| amount(moment.saved_by_sharing_mib?.0)),
];

const GUEST: &[Measure<GuestMoment>] = &[
    ("cpu_percent", |moment| permille(moment.cpu_permille)),
    ("resident_mib", |moment| amount(moment.resident_mib.0)),
    ("balloon_mib", |moment| amount(moment.balloon_mib?.0)),
    ("available_mib", |moment| amount(moment.available_mib?.0)),
    ("read_bps", |moment| amount(moment.read_bps)),
    ("write_bps", |moment| amount(moment.write_bps)),
    ("receive_bps", |moment| amount(moment.receive_bps)),
    ("transmit_bps", |moment| amount(moment.transmit_bps)),
    ("availability_percent", |moment| permille(moment.availability_permille?)),
    ("access_rtt_ms", |moment| amount(moment.access_rtt_ms?.into())),
];

/// The report of this history. A measure without a value has no line.
pub(crate) fn report(history: &History) -> Vec<Performance> {
    let step_s = history.step.0 / 1_000;
    match &history.of {
        Course::Host(moments) => {
            lines(step_s, moments, HOST, |moment| moment.at, |moment| permille(moment.cpu_peak_permille))
        }
        Course::Guest(moments) => {
            lines(step_s, moments, GUEST, |moment| moment.at, |moment| permille(moment.cpu_peak_permille))
        }
    }
}

fn lines<T>(
    step_s: u64,
    moments: &[T],
    measures: &[Measure<T>],
    at: fn(&T) -> Stamp,
    peak: fn(&T) -> Option<f64>,
) -> Vec<Performance> {
    let (Some(first), Some(last)) = (moments.first(), moments.last()) else { return Vec::new() };
    let line = |(place, (measure, value)): (u64, &Measure<T>)| {
        let mut figures = Figures::of(moments.iter().filter_map(value).collect())?;
        if *measure == "cpu_percent" {
            // The highest sample is kept beside the mean of each step.
            figures.max = moments.iter().filter_map(peak).fold(figures.max, f64::max);
        }
        Some(Performance { place, measure, from: at(first), last: at(last), step_s, figures })
    };
    (0..).zip(measures).filter_map(line).collect()
}

impl Listed for &Performance {
    const SCHEMA: &'static str = "performance";

    fn order(&self) -> Order {
        Order::Number(self.place)
    }

    fn property(&self, name: &str) -> Value {
        let hundredths = |value: f64| json!((value * 100.0).round() / 100.0);
        match name {
            "measure" => json!(self.measure),
            "mean" => hundredths(self.figures.mean),
            "min" => hundredths(self.figures.min),
            "p95" => hundredths(self.figures.p95),
            "max" => hundredths(self.figures.max),
            "steps" => json!(self.figures.count),
            "step_s" => json!(self.step_s),
            "from" => time(self.from),
            "last" => time(self.last),
            _ => Value::Null,
        }
    }
}

/// One guest in the report over many.
#[derive(Clone, Debug)]
pub(crate) struct GuestUse {
    pub(crate) guest: GuestId,
    pub(crate) name: String,
    pub(crate) host_name: String,
    /// Its report, or why there is none.
    pub(crate) report: Result<Vec<Performance>, String>,
}

impl Listed for &GuestUse {
    const SCHEMA: &'static str = "guest_use";

    fn order(&self) -> Order {
        Order::Text(format!("{}\0{}", self.name, self.guest))
    }

    fn property(&self, name: &str) -> Value {
        let lines = self.report.as_deref().unwrap_or_default();
        let of = |measure: &str, figure: &str| {
            lines.iter().find(|line| line.measure == measure).map_or(Value::Null, |line| line.property(figure))
        };
        match name {
            "id" => json!(self.guest),
            "name" => json!(self.name),
            "host_name" => json!(self.host_name),
            "cpu_mean_percent" => of("cpu_percent", "mean"),
            "cpu_p95_percent" => of("cpu_percent", "p95"),
            "cpu_max_percent" => of("cpu_percent", "max"),
            "resident_mean_mib" => of("resident_mib", "mean"),
            "resident_max_mib" => of("resident_mib", "max"),
            "available_min_mib" => of("available_mib", "min"),
            "read_mean_bps" => of("read_bps", "mean"),
            "write_mean_bps" => of("write_bps", "mean"),
            "receive_mean_bps" => of("receive_bps", "mean"),
            "transmit_mean_bps" => of("transmit_bps", "mean"),
            "availability_mean_percent" => of("availability_percent", "mean"),
            "availability_min_percent" => of("availability_percent", "min"),
            "access_rtt_p95_ms" => of("access_rtt_ms", "p95"),
            "from" | "last" | "step_s" => of("cpu_percent", name),
            "missing" => match &self.report {
                Err(why) => json!(why),
                Ok(lines) if lines.is_empty() => json!("nothing was sampled then"),
                Ok(_) => Value::Null,
            },
            _ => Value::Null,
        }
    }
}

#[cfg(test)]
mod test {
    use roost_protocol::{MiB, Millis};

    use super::*;

    #[test]
    fn a_report_says_what_a_guest_was_like() {
        let moment = |number: u64| GuestMoment {
            at: Stamp(number * 10_000),
            cpu_permille: u32::try_from(number).unwrap() * 10,
            cpu_peak_permille: if number == 3 { 5_000 } else { 0 },
            resident_mib: MiB(60),
            available_mib: (number > 50).then_some(MiB(number)),
            availability_permille: (number > 96).then_some(if number == 97 { 500 } else { 1_000 }),
            ..GuestMoment::default()
        };
        let of = Course::Guest((1..=100).map(moment).collect());
        let report = report(&History { step: Millis(10_000), of });
        let measures: Vec<&str> = report.iter().map(|line| line.measure).collect();
        let always = ["read_bps", "write_bps", "receive_bps", "transmit_bps"];
        assert_eq!(measures[..3], ["cpu_percent", "resident_mib", "available_mib"]);
        assert_eq!((&measures[3..7], &measures[7..]), (&always[..], &["availability_percent"][..]));
        assert_eq!(report[7].figures, Figures { count: 4, mean: 87.5, min: 50.0, p95: 100.0, max: 100.0 });
        let cpu = &report[0];
        assert_eq!((cpu.from, cpu.last, cpu.step_s), (Stamp(10_000), Stamp(1_000_000), 10));
        assert_eq!(cpu.figures, Figures { count: 100, mean: 50.5, min: 1.0, p95: 95.0, max: 500.0 });
        assert_eq!(report[1].figures, Figures { count: 100, mean: 60.0, min: 60.0, p95: 60.0, max: 60.0 });
        assert_eq!(report[2].figures, Figures { count: 50, mean: 75.5, min: 51.0, p95: 98.0, max: 100.0 });
        let line = &report[0];
        assert_eq!((line.property("mean"), line.property("p95")), (json!(50.5), json!(95.0)));
    }

    #[test]
    fn a_guest_in_the_report_over_many_has_its_figures_or_says_why_not() {
        let (availability_permille, access_rtt_ms) = (Some(998), Some(7));
        let moment = GuestMoment {
            cpu_permille: 250,
            receive_bps: 9,
            availability_permille,
            access_rtt_ms,
            ..GuestMoment::default()
        };
        let sampled = report(&History { step: Millis(300_000), of: Course::Guest(vec![moment]) });
        let line = |report| GuestUse { guest: GuestId::from_u128(1), name: "a".into(), host_name: "h".into(), report };
        let (good, none, bad) = (line(Ok(sampled)), line(Ok(vec![])), line(Err("away".into())));
        let told = |line: &GuestUse, names: [&str; 4]| names.map(|name| (&line).property(name));
        let doors = ["availability_mean_percent", "availability_min_percent", "access_rtt_p95_ms", "missing"];
        assert_eq!(told(&good, doors), [json!(99.8), json!(99.8), json!(7.0), Value::Null]);
        let names = ["cpu_mean_percent", "receive_mean_bps", "step_s", "missing"];
        assert_eq!(told(&good, names), [json!(25.0), json!(9.0), json!(300), Value::Null]);
        assert_eq!(told(&none, names), [Value::Null, Value::Null, Value::Null, json!("nothing was sampled then")]);
        assert_eq!(told(&bad, names)[3], json!("away"));
    }

    #[test]
    fn of_nothing_there_is_no_line() {
        assert_eq!(report(&History { step: Millis(10_000), of: Course::Host(vec![]) }), []);
        assert_eq!(report(&History { step: Millis(10_000), of: Course::Host(vec![HostMoment::default()]) }).len(), 10);
        assert_eq!(Figures::of(vec![]), None);
        assert_eq!(Figures::of(vec![2.0]), Some(Figures { count: 1, mean: 2.0, min: 2.0, p95: 2.0, max: 2.0 }));
    }
}
