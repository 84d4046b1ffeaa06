//! Prometheus text. No names of users or guests as labels.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use roost_aggregator_core::chains::Tally;
use roost_aggregator_core::{Grid, Protection};

use super::Api;
use super::problem::Problem;
use super::view::{operation_state, presence, word};

const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
const HOST_STATES: [&str; 4] = ["up", "suspect", "down", "never"];
const GUEST_STATES: [&str; 7] = ["unknown", "running", "paused", "shutting_down", "off", "crashed", "suspended"];
const OPERATION_STATES: [&str; 5] = ["queued", "running", "succeeded", "failed", "cancelled"];

struct Counts {
    hosts: BTreeMap<String, usize>,
    guests: BTreeMap<String, usize>,
    operations: BTreeMap<String, usize>,
    alarms: usize,
    protected: usize,
    unprotected: usize,
    failovers: usize,
    tally: Tally,
    generation: u64,
    notifiers: usize,
    failing: usize,
}

pub(super) async fn metrics(State(api): State<Arc<Api>>) -> Result<Response, Problem> {
    let counts = api.handle.read(|grid, _, _| count(grid)).await?;
    let mut text = String::with_capacity(4_096);
    family(&mut text, "roost_build_info", "gauge", "Version of the aggregator");
    line(&mut text, "roost_build_info", Some(("version", env!("CARGO_PKG_VERSION"))), 1);
    states(&mut text, "roost_hosts", "Hosts by state", &HOST_STATES, &counts.hosts);
    states(&mut text, "roost_guests", "Guests by state", &GUEST_STATES, &counts.guests);
    states(&mut text, "roost_operations", "Operations kept, by state", &OPERATION_STATES, &counts.operations);
    one(&mut text, "roost_alarms", "gauge", "Raised alarms", counts.alarms);
    let help = "Guests that wish failover, and another host would go on with them";
    one(&mut text, "roost_guests_protected", "gauge", help, counts.protected);
    let help = "Guests that wish failover, and no host would go on with them now";
    one(&mut text, "roost_guests_unprotected", "gauge", help, counts.unprotected);
    one(&mut text, "roost_failovers_remembered", "gauge", "Takeovers that hosts remember", counts.failovers);
    let help = "Takeovers of guests whose host was missed, since the start";
    one(&mut text, "roost_failovers_total", "counter", help, counts.tally.begun);
    let help = "Of these, those whose guest could not be started at the first try";
    one(&mut text, "roost_failovers_failed_total", "counter", help, counts.tally.failed);
    one(&mut text, "roost_document_generation", "gauge", "Generation of the grid document", counts.generation);
    one(&mut text, "roost_notifiers", "gauge", "Notifiers", counts.notifiers);
    let help = "Notifiers whose last delivery failed";
    one(&mut text, "roost_notifiers_failing", "gauge", help, counts.failing);
    let events = api.events.load(Ordering::Relaxed);
    one(&mut text, "roost_events_total", "counter", "Events since the start", events);
    let requests = api.requests.load(Ordering::Relaxed);
    one(&mut text, "roost_api_requests_total", "counter", "Requests since the start", requests);
    if let Some(bytes) = resident_bytes() {
        one(&mut text, "process_resident_memory_bytes", "gauge", "Resident memory of the aggregator", bytes);
    }
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response())
}

fn count(grid: &Grid) -> Counts {
    let mut counts = Counts {
        hosts: BTreeMap::new(),
        guests: BTreeMap::new(),
        operations: BTreeMap::new(),
        alarms: 0,
        protected: 0,
        unprotected: 0,
        failovers: grid.failovers().len(),
        tally: grid.tally(),
        generation: grid.intent().generation.0,
        notifiers: grid.intent().telling.notifiers.len(),
        failing: grid.intent().telling.notifiers.keys().filter(|name| grid.health(name).failing.is_some()).count(),
    };
    let mut guests: BTreeMap<_, usize> = BTreeMap::new();
    for host in grid.hosts().values() {
        *counts.hosts.entry(presence(host).to_owned()).or_default() += 1;
        counts.alarms += grid.alarms(host).count();
        for guest in host.guests.values() {
            match grid.protection(guest.report.id) {
                _ if grid.guest_host(guest.report.id) != Some(host.id) => {}
                Protection::NotWished => {}
                Protection::By { .. } => counts.protected += 1,
                Protection::No(_) => counts.unprotected += 1,
            }
            *guests.entry(guest.report.state).or_default() += 1;
        }
    }
    for (state, number) in guests {
        counts.guests.insert(word(state).as_str().unwrap_or_default().to_owned(), number);
    }
    for operation in grid.operations().values() {
        *counts.operations.entry(operation_state(operation).to_owned()).or_default() += 1;
    }
    counts
}

fn family(text: &mut String, name: &str, kind: &str, help: &str) {
    // Writing into a String can't fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(text: &mut String, name: &str, label: Option<(&str, &str)>, value: impl std::fmt::Display) {
    let _ = match label {
        Some((label, of)) => writeln!(text, "{name}{{{label}=\"{of}\"}} {value}"),
        None => writeln!(text, "{name} {value}"),
    };
}

fn one(text: &mut String, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
    family(text, name, kind, help);
    line(text, name, None, value);
}

/// Each state has a line, also with none in it: a series that comes and goes can't be alerted on.
fn states(text: &mut String, name: &str, help: &str, states: &[&str], counts: &BTreeMap<String, usize>) {
    family(text, name, "gauge", help);
    for state in states {
        line(text, name, Some(("state", state)), counts.get(*state).copied().unwrap_or(0));
    }
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1_024)
}
