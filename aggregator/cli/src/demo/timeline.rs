//! How the guests of a dead host come back, from what the grid says: a line for each thing that happened, a table of the
//! seconds between them, and one sentence at the end. Pure: answers and times in, text out.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::Value;

use crate::out::clean;

/// The dead host's guests.
#[derive(Debug)]
pub(super) struct Timeline {
    host: String,
    cut: Timestamp,
    state: String,
    /// Takeovers from before the cut, by guest and epoch.
    old: BTreeSet<(String, u64)>,
    /// By id.
    guests: BTreeMap<String, Course>,
}

/// What became of one guest.
#[derive(Debug, Default)]
struct Course {
    name: String,
    to: String,
    heard: Option<Timestamp>,
    missed: Option<Timestamp>,
    won: Option<Timestamp>,
    started: Option<Timestamp>,
    runs: Option<Timestamp>,
    /// What was written for so long before the cut is in no copy.
    lost_s: Option<f64>,
    trouble: Option<String>,
}

impl Timeline {
    /// Of these guests, which another host is to go on with; `failovers` are those of before.
    pub(super) fn begin(host: &str, cut: Timestamp, guests: &[&Value], failovers: &[Value]) -> Self {
        let course = |guest: &&Value| (text(&guest["id"]), Course { name: text(&guest["name"]), ..Course::default() });
        let guests = guests.iter().map(course).collect();
        let old = failovers.iter().map(key).collect();
        Self { host: host.into(), cut, state: "up".into(), old, guests }
    }

    /// All that are to come back have.
    pub(super) fn is_done(&self) -> bool {
        self.guests.values().all(|course| course.runs.is_some())
    }

    /// Takes in what the grid says now; what is new, a line each.
    pub(super) fn look(&mut self, now: Timestamp, state: &str, guests: &[Value], failovers: &[Value]) -> Vec<String> {
        let mut news: Vec<(Timestamp, String)> = Vec::new();
        if state != self.state {
            state.clone_into(&mut self.state);
            let what = if state == "suspect" { "is silent: it is suspected" } else { state };
            news.push((now, format!("{} {}", self.host, what.replace("down", "is down: not heard for long"))));
        }
        for one in failovers.iter().filter(|one| one["from"] == self.host.as_str() && !self.old.contains(&key(one))) {
            if let Some(course) = self.guests.get_mut(&text(&one["guest"])) {
                news.extend(course.follow(self.cut, one));
            }
        }
        for guest in guests.iter().filter(|guest| guest["state"] == "running" && guest["stale"] != true) {
            let course = self.guests.get_mut(&text(&guest["id"])).filter(|course| course.runs.is_none());
            let Some(course) = course.filter(|_| guest["host_name"] != self.host.as_str()) else { continue };
            course.runs = Some(now);
            course.to = text(&guest["host_name"]);
            news.push((now, format!("{} is seen running on {}", course.name, course.to)));
        }
        news.sort();
        news.into_iter().map(|(at, what)| self.line(at, &what)).collect()
    }

    /// One line of what happened, with the seconds since the cut.
    pub(super) fn line(&self, at: Timestamp, what: &str) -> String {
        format!("[{:>5.1} s] {}", seconds(self.cut, at), clean(what))
    }

    /// The seconds between, guest by guest.
    pub(super) fn table(&self) -> String {
        let mut rows =
            vec![["GUEST", "NOW ON", "MISSED", "VOTED", "STARTED", "SEEN", "SINCE THE CUT"].map(str::to_owned)];
        let mut courses: Vec<&Course> = self.guests.values().collect();
        courses.sort_by_key(|course| &course.name);
        for course in courses {
            let steps = [course.missed, course.won, course.started, course.runs];
            let mut before = self.cut;
            let mut cells = steps.into_iter().map(|at| {
                let Some(at) = at else { return "-".to_owned() };
                let cell = format!("+{:.1} s", seconds(before, at).max(0.0));
                before = at;
                cell
            });
            let mut cell = || cells.next().unwrap_or_default();
            let total = course.started.or(course.runs).map(|at| format!("{:.1} s", seconds(self.cut, at)));
            let named = |text: &String| if text.is_empty() { "-".to_owned() } else { clean(text) };
            let (name, to) = (named(&course.name), named(&course.to));
            rows.push([name, to, cell(), cell(), cell(), cell(), total.unwrap_or_else(|| "-".into())]);
        }
        aligned(&rows)
    }

    /// How it ended, in one sentence.
    pub(super) fn summary(&self) -> String {
        let back: Vec<&Course> = self.guests.values().filter(|course| course.runs.is_some()).collect();
        let hosts: BTreeSet<&str> = back.iter().map(|course| course.to.as_str()).collect();
        let after =
            range(back.iter().filter_map(|course| course.started.or(course.runs)).map(|at| seconds(self.cut, at)));
        let mut summary = format!("{} of {} guests of {} run again", back.len(), self.guests.len(), self.host);
        if let Some((first, last)) = after {
            let hosts: Vec<&str> = hosts.into_iter().collect();
            summary.push_str(&format!(" on {}: {first:.1} to {last:.1} s after the cut", hosts.join(", ")));
        }
        if let Some((_, most)) = range(back.iter().filter_map(|course| course.lost_s)) {
            summary.push_str(&format!("; lost is what was written in the last {most:.0} s before it, at most"));
        }
        clean(&summary)
    }

    /// Who did not come back, and why if that is known.
    pub(super) fn missing(&self) -> Vec<String> {
        let gone = self.guests.values().filter(|course| course.runs.is_none());
        gone.map(|course| {
            let why = match (&course.won, &course.trouble) {
                (None, _) => "nobody won its ward",
                (Some(_), Some(trouble)) => trouble,
                (Some(_), None) => "its new host has not started it yet",
            };
            format!("{}: {}", clean(&course.name), clean(why))
        })
        .collect()
    }
}

impl Course {
    /// What is new in this takeover.
    fn follow(&mut self, cut: Timestamp, one: &Value) -> Vec<(Timestamp, String)> {
        let mut news = Vec::new();
        self.to = text(&one["to"]);
        self.heard = time(&one["last_heard"]);
        let copied = time(&one["chosen"]).zip(one["copy_age_s"].as_f64());
        self.lost_s = copied.map(|(chosen, age)| (age - seconds(cut, chosen)).max(0.0));
        self.trouble = one["trouble"].as_str().map(str::to_owned);
        let votes: Vec<&str> = one["votes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let silent = self.heard.zip(time(&one["detected"])).map(|(heard, missed)| seconds(heard, missed));
        let silent = silent.map_or(String::new(), |seconds| format!(", {seconds:.1} s after its last sign"));
        let source = one["source"].as_str().map_or(String::new(), |source| format!(": {source}"));
        let steps = [
            (&mut self.missed, &one["detected"], format!("is missed by {}{silent}", self.to)),
            (&mut self.won, &one["won"], format!("is {}'s by the votes of {}", self.to, votes.join(", "))),
            (&mut self.started, &one["started"], format!("runs on {}{source}", self.to)),
        ];
        for (known, told, what) in steps {
            if let (None, Some(at)) = (&known, time(told)) {
                *known = Some(at);
                news.push((at, format!("{} {what}", self.name)));
            }
        }
        news
    }
}

fn key(failover: &Value) -> (String, u64) {
    (text(&failover["guest"]), failover["epoch"].as_u64().unwrap_or(0))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

fn range(all: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    all.fold(None, |range, one| {
        Some(range.map_or((one, one), |(least, most): (f64, f64)| (least.min(one), most.max(one))))
    })
}

fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod test {
    use serde_json::json;

    use super::*;

    fn at(seconds: f64) -> Timestamp {
        Timestamp::from_second(1_000_000).unwrap() + jiff::SignedDuration::from_secs_f64(seconds)
    }

    fn takeover(epoch: u64, started: Option<f64>) -> Value {
        let time = |seconds: f64| json!(at(seconds).to_string());
        json!({
            "guest": "id-1", "from": "h2", "to": "h1", "epoch": epoch, "last_heard": time(-0.4), "detected": time(5.1),
            "won": time(22.0), "votes": ["h1", "h3"], "started": started.map(time), "chosen": time(22.2), "copy_age_s": 29, "source": "from point p",
        })
    }

    #[test]
    fn each_thing_is_told_once_and_the_table_has_the_seconds_between() {
        let guest = json!({"id": "id-1", "name": "desk", "host_name": "h2", "state": "running"});
        let mut line = Timeline::begin("h2", at(0.0), &[&guest], &[takeover(3, Some(-50.0))]);
        let old = takeover(3, Some(-50.0));
        assert_eq!(line.look(at(1.0), "up", std::slice::from_ref(&guest), std::slice::from_ref(&old)), [""; 0]);
        assert_eq!(line.look(at(6.0), "suspect", &[], &[]), ["[  6.0 s] h2 is silent: it is suspected"]);
        let won = [old.clone(), takeover(4, None)];
        assert_eq!(
            line.look(at(22.5), "suspect", &[], &won),
            [
                "[  5.1 s] desk is missed by h1, 5.5 s after its last sign",
                "[ 22.0 s] desk is h1's by the votes of h1, h3",
            ]
        );
        assert_eq!((line.is_done(), line.missing()), (false, vec!["desk: its new host has not started it yet".into()]));
        let there = json!({"id": "id-1", "name": "desk", "host_name": "h1", "state": "running", "stale": false});
        let all = [old, takeover(4, Some(23.5))];
        let told = line.look(at(24.0), "down", std::slice::from_ref(&there), &all);
        assert_eq!(
            told,
            [
                "[ 23.5 s] desk runs on h1: from point p",
                "[ 24.0 s] desk is seen running on h1",
                "[ 24.0 s] h2 is down: not heard for long",
            ]
        );
        assert!(line.is_done() && line.look(at(25.0), "down", &[there], &all).is_empty());
        assert_eq!(
            line.table(),
            "GUEST  NOW ON  MISSED  VOTED    STARTED  SEEN    SINCE THE CUT\n\
             desk   h1      +5.1 s  +16.9 s  +1.5 s   +0.5 s  23.5 s\n"
        );
        let summary = "1 of 1 guests of h2 run again on h1: 23.5 to 23.5 s after the cut; \
                       lost is what was written in the last 7 s before it, at most";
        assert_eq!(line.summary(), summary);
    }

    #[test]
    fn who_does_not_come_back_is_named_with_the_reason() {
        let guests = [json!({"id": "id-1", "name": "desk"}), json!({"id": "id-2", "name": "web"})];
        let mut line = Timeline::begin("h2", at(0.0), &[&guests[0], &guests[1]], &[]);
        let mut stuck = takeover(4, None);
        stuck["trouble"] = json!("its disk is full");
        line.look(at(30.0), "up", &[], &[stuck]);
        assert_eq!(line.missing(), ["desk: its disk is full", "web: nobody won its ward"]);
        assert_eq!(line.summary(), "0 of 2 guests of h2 run again");
    }
}
