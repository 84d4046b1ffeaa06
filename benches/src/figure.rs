//! Figures: one JSON line each, with the load under which they were measured.

use std::fs;
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// What a figure is to be at most, or at least where more is better.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// The value itself.
    Ours(f64),
    /// The value by the peer's, or by the limit where there is no peer.
    Ratio(f64),
    RatioAtLeast(f64),
}

/// One measured value beside a peer and a physical limit, where there are such.
#[derive(Debug, Default)]
pub struct Figure<'a> {
    pub name: &'a str,
    pub unit: &'a str,
    pub ours: f64,
    pub peer: Option<(&'a str, f64)>,
    pub limit: Option<f64>,
    pub goal: Option<Goal>,
}

impl Figure<'_> {
    /// Writes it to standard output. `ratio` is ours by the peer's, or by the limit where there is no peer.
    pub fn print(&self) -> Result<()> {
        let beside = self.peer.map(|(_, value)| value).or(self.limit);
        let ratio = beside.filter(|value| *value > 0.0).map(|value| round(self.ours / value));
        let mut line = json!({
            "figure": self.name,
            "ours": round(self.ours),
            "peer": self.peer.map(|(_, value)| round(value)),
            "peer_name": self.peer.map(|(name, _)| name),
            "limit": self.limit.map(round),
            "unit": self.unit,
            "ratio": ratio,
            "load": load()?,
        });
        if let Some((goal, met)) = self.goal(ratio) {
            line["goal"] = json!(round(goal));
            line["met"] = json!(met);
        }
        print(&line)
    }

    /// What is wanted, and whether it is so, if that is known.
    fn goal(&self, ratio: Option<f64>) -> Option<(f64, Option<bool>)> {
        match self.goal? {
            Goal::Ours(most) => Some((most, Some(self.ours <= most))),
            Goal::Ratio(most) => Some((most, ratio.map(|ratio| ratio <= most))),
            Goal::RatioAtLeast(least) => Some((least, ratio.map(|ratio| ratio >= least))),
        }
    }
}

/// A figure that has neither a peer nor a limit.
pub fn alone(name: &str, unit: &str, ours: f64) -> Result<()> {
    Figure { name, unit, ours, ..Figure::default() }.print()
}

fn print(line: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// Four significant digits: more were not measured.
fn round(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

/// The one-minute load average.
pub fn load() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg").context("read the load")?;
    text.split(' ').next().unwrap_or_default().parse().context("read the load")
}

/// Refuses to measure on a machine that is busy with other things.
pub fn refuse_when_busy(force: bool) -> Result<()> {
    let cores = std::thread::available_parallelism()?.get();
    let (load, most) = (load()?, f64::from(u32::try_from(cores)?) + 1.0);
    if force && load > most {
        eprintln!("the load is {load}, above {most}: wall-clock figures below are worse than this machine can do");
    }
    ensure!(force || load <= most, "the load is {load}, above {most} (cores + 1): wait, or say --force");
    Ok(())
}

/// The value that this share (in percent) of all values does not exceed; sorts them.
pub fn percentile(values: &mut [Duration], percent: usize) -> Duration {
    values.sort_unstable();
    let at = (values.len() * percent).div_ceil(100).saturating_sub(1);
    values.get(at).copied().unwrap_or_default()
}

/// In milliseconds.
pub fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_goal_is_held_against_the_value_or_its_ratio() {
        let figure = |goal| Figure { ours: 3.0, goal: Some(goal), ..Figure::default() };
        assert_eq!(figure(Goal::Ours(2.0)).goal(Some(0.5)), Some((2.0, Some(false))));
        assert_eq!(figure(Goal::Ratio(0.7)).goal(Some(0.5)), Some((0.7, Some(true))));
        assert_eq!(figure(Goal::Ratio(0.7)).goal(None), Some((0.7, None)));
        assert_eq!(figure(Goal::RatioAtLeast(1.5)).goal(Some(1.5)), Some((1.5, Some(true))));
        assert_eq!(figure(Goal::RatioAtLeast(1.5)).goal(Some(1.4)), Some((1.5, Some(false))));
        assert_eq!(Figure::default().goal(None), None);
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let mut values: Vec<Duration> = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&mut values, 99), Duration::from_millis(198));
        assert_eq!(percentile(&mut values, 100), Duration::from_millis(200));
        assert_eq!(percentile(&mut [], 99), Duration::ZERO);
    }
}
