//! Waiting for an operation to end, with its progress on stderr.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use roost_registry::find;
use serde_json::Value;

use crate::client::{Client, Request};
use crate::failure::{Exit, Failure};
use crate::out::{Out, clean};

/// How long one question waits at the server where somebody watches; the bar moves this often.
const WATCHED: u64 = 1;
/// The same where nobody does.
const UNWATCHED: u64 = 20;
/// A server that is away for longer than this while an operation is waited for is given up.
const AWAY: Duration = Duration::from_secs(60);
/// Pause before a server that did not answer is asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// How long to wait.
pub(crate) struct Limit(Option<Instant>);

impl Limit {
    pub(crate) fn new(seconds: Option<i64>) -> Self {
        let span = seconds.map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)));
        Self(span.and_then(|span| Instant::now().checked_add(span)))
    }

    fn over(&self) -> bool {
        self.0.is_some_and(|end| Instant::now() >= end)
    }

    /// Whole seconds one question may wait, at most `most`.
    fn slice(&self, most: u64) -> u64 {
        self.0.map_or(most, |end| end.saturating_duration_since(Instant::now()).as_secs().min(most))
    }
}

/// Waits until the operation has ended well; the answer is the operation as it is then.
pub(crate) fn to_end(
    client: &Client,
    what: &str,
    started: Value,
    limit: &Limit,
    out: &mut Out<'_>,
) -> Result<Value, Failure> {
    let id = started["id"].as_str().unwrap_or_default().to_owned();
    let mut shown = Shown::new(what, out.watched);
    let mut now = started;
    let mut away: Option<Instant> = None;
    loop {
        match now["state"].as_str() {
            Some("succeeded") => break,
            Some("failed" | "cancelled") => {
                shown.clear();
                return Err(ended_badly(what, &id, &now));
            }
            _ => shown.show(&now, out),
        }
        if limit.over() {
            shown.clear();
            let why = format!("not done in time; operation {id} goes on");
            return Err(Failure::new(Exit::Timeout, what, why, format!("roost operation wait {id} --seconds 60")));
        }
        match ask(client, what, &id, limit.slice(if out.watched { WATCHED } else { UNWATCHED })) {
            Ok(newer) => (now, away) = (newer, None),
            Err(failure) if may_come_back(&failure, &mut away) => std::thread::sleep(PAUSE),
            Err(failure) => {
                shown.clear();
                return Err(failure);
            }
        }
    }
    shown.clear();
    Ok(now)
}

fn ask(client: &Client, what: &str, id: &str, seconds: u64) -> Result<Value, Failure> {
    let get = find("operation.get")
        .ok_or_else(|| Failure::new(Exit::Failed, what, "operation.get is gone", "report this"))?;
    let path = vec!["operations".to_owned(), id.to_owned()];
    let request = Request { path, query: vec![("wait".into(), seconds.to_string())], body: None };
    Ok(client.call(get, what, &request)?.body)
}

/// A server that restarts is away for a while; what it accepted it still knows then.
fn may_come_back(failure: &Failure, away: &mut Option<Instant>) -> bool {
    let silent = failure.code.is_none() || failure.code.as_deref() == Some("not_ready");
    let since = *away.get_or_insert_with(Instant::now);
    silent && matches!(failure.exit, Exit::Failed | Exit::Timeout) && since.elapsed() < AWAY
}

fn ended_badly(what: &str, id: &str, now: &Value) -> Failure {
    let error = &now["error"];
    if error.is_object() {
        let status = error["status"].as_u64().and_then(|status| u16::try_from(status).ok()).unwrap_or(500);
        return Failure::from_problem(what, status, error);
    }
    let state = now["state"].as_str().unwrap_or("failed");
    Failure::new(Exit::Failed, what, format!("the operation {state}"), format!("roost operation get {id}"))
}

/// What the person sees meanwhile: a bar, or a line for each new step.
struct Shown {
    bar: Option<ProgressBar>,
    what: String,
    last: String,
}

impl Shown {
    fn new(what: &str, watched: bool) -> Self {
        let bar = watched.then(|| {
            let bar = ProgressBar::new(100);
            if let Ok(style) = ProgressStyle::with_template("{prefix} [{bar:30}] {percent:>3}% {msg} {elapsed}") {
                bar.set_style(style);
            }
            bar.set_prefix(clean(what));
            bar
        });
        Self { bar, what: clean(what), last: String::new() }
    }

    fn show(&mut self, operation: &Value, out: &mut Out<'_>) {
        let progress = &operation["progress"];
        let percent = progress["percent"].as_u64().unwrap_or(0).min(100);
        let state = operation["state"].as_str().unwrap_or("running");
        let step = clean(progress["step"].as_str().filter(|step| !step.is_empty()).unwrap_or(state));
        match &self.bar {
            Some(bar) => {
                bar.set_position(percent);
                bar.set_message(step);
            }
            None => {
                let line = format!("{}: {percent}% {step}", self.what);
                if line != self.last {
                    out.say(&line);
                    self.last = line;
                }
            }
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
