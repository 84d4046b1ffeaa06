//! `roost doctor`: one line a check, with a hint where something is wrong.

use reqwest::header::{DATE, HeaderMap};
use roost_registry::find;
use serde_json::Value;

use crate::client::{Client, Request};
use crate::context::{self, Trust, Wanted};
use crate::failure::{Exit, Failure};
use crate::out::{Out, clean};
use crate::perform;
use crate::run::Surroundings;

/// A clock further off than this makes certificates and logs confusing.
const CLOCK_S: i64 = 30;
/// The same for hosts, in seconds as the server reports them.
const HOST_CLOCK_S: f64 = 5.0;

/// What one check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

#[derive(Clone, Debug)]
struct Check {
    verdict: Verdict,
    about: String,
    found: String,
    hint: &'static str,
}

fn check(verdict: Verdict, about: &str, found: impl Into<String>, hint: &'static str) -> Check {
    Check { verdict, about: about.to_owned(), found: found.into(), hint }
}

pub(crate) fn doctor(wanted: &Wanted, around: &Surroundings, out: &mut Out<'_>) -> Result<(), Failure> {
    let checks = examine(wanted, around);
    for found in &checks {
        out.data(&line(found));
    }
    let failed = checks.iter().filter(|check| check.verdict == Verdict::Fail).count();
    if failed == 0 {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Failed,
        "find all well",
        format!("{failed} of {} checks failed", checks.len()),
        "see the hints above",
    ))
}

fn line(check: &Check) -> String {
    let word = match check.verdict {
        Verdict::Ok => "ok  ",
        Verdict::Warn => "warn",
        Verdict::Fail => "FAIL",
    };
    let hint = match check.verdict {
        Verdict::Ok => String::new(),
        Verdict::Warn | Verdict::Fail => format!("\n      try: {}", check.hint),
    };
    format!("{word}  {}: {}{hint}\n", clean(&check.about), clean(&check.found))
}

fn examine(wanted: &Wanted, around: &Surroundings) -> Vec<Check> {
    let mut checks = Vec::new();
    let connection = match context::resolve(wanted, around) {
        Ok(connection) => connection,
        Err(failure) => return vec![check(Verdict::Fail, "server", failure.why, "roost login https://HOST:8443")],
    };
    checks.push(check(Verdict::Ok, "server", format!("{} from {}", connection.url, connection.source), ""));
    let client = match Client::new(&connection) {
        Ok(client) => client,
        Err(failure) => {
            return with(
                checks,
                check(Verdict::Fail, "certificates", failure.why, "give the grid's CA with --ca FILE"),
            );
        }
    };
    match client.outside("healthz") {
        Ok((status, headers)) => {
            checks.push(reached(status, &connection.trust, client.url().scheme()));
            checks.push(clock(&headers, jiff::Timestamp::now()));
        }
        Err(failure) => {
            let hint = if failure.why.contains("certificate") {
                "roost login"
            } else {
                "is the aggregator running, and the port open?"
            };
            return with(checks, check(Verdict::Fail, "reached", failure.why, hint));
        }
    }
    match client.send(
        reqwest::Method::GET,
        "see the grid",
        &Request { path: vec!["grid".into()], ..Request::default() },
    ) {
        Ok(answer) => {
            checks.push(check(Verdict::Ok, "log-in", "accepted", ""));
            checks.push(version("aggregator", answer.body["version"].as_str().unwrap_or("?")));
        }
        Err(failure) => return with(checks, check(Verdict::Fail, "log-in", failure.why, "roost login")),
    }
    let request = Request { path: vec!["hosts".into()], ..Request::default() };
    match find("host.list").map(|list| perform::all(&client, list, request, None)) {
        Some(Ok(hosts)) => checks.extend(of_hosts(&hosts)),
        Some(Err(failure)) => checks.push(check(Verdict::Fail, "hosts", failure.why, "roost host list")),
        None => {}
    }
    checks
}

fn with(mut checks: Vec<Check>, last: Check) -> Vec<Check> {
    checks.push(last);
    checks
}

fn reached(status: u16, trust: &Trust, scheme: &str) -> Check {
    let by = match (scheme, trust) {
        ("http", _) => "without TLS, on this machine",
        (_, Trust::Pem(_)) => "its certificate is the grid's own",
        (_, Trust::System) => "its certificate is known to this machine",
    };
    if status == 200 {
        return check(Verdict::Ok, "reached", by, "");
    }
    check(Verdict::Warn, "reached", format!("{by}, but it says {status}"), "see the aggregator's log")
}

fn clock(headers: &HeaderMap, now: jiff::Timestamp) -> Check {
    let date = headers.get(DATE).and_then(|date| date.to_str().ok());
    let Some(theirs) = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok()) else {
        return check(Verdict::Warn, "clock", "the server says no time", "see the aggregator's log");
    };
    let off = theirs.timestamp().as_second().saturating_sub(now.as_second());
    let verdict = if off.abs() > CLOCK_S { Verdict::Warn } else { Verdict::Ok };
    check(
        verdict,
        "clock",
        format!("the server's is {off} s ahead of ours"),
        "set both clocks, e.g. by systemd-timesyncd",
    )
}

fn version(about: &str, theirs: &str) -> Check {
    let ours = env!("CARGO_PKG_VERSION");
    let verdict = if theirs == ours { Verdict::Ok } else { Verdict::Warn };
    check(verdict, &format!("version of {about}"), format!("{theirs}, ours {ours}"), "upgrade the older one")
}

fn of_hosts(hosts: &[Value]) -> Vec<Check> {
    if hosts.is_empty() {
        return vec![check(Verdict::Warn, "hosts", "none has joined", "roost join-token create")];
    }
    hosts.iter().map(of_host).collect()
}

fn of_host(host: &Value) -> Check {
    let about = format!("host {}", host["name"].as_str().unwrap_or("?"));
    let state = host["state"].as_str().unwrap_or("?");
    let agent = host["agent_version"].as_str().unwrap_or("?");
    let off = host["clock_offset_s"].as_f64().unwrap_or(0.0);
    let alarm = host["alarms"].as_array().and_then(|alarms| alarms.first()).and_then(|alarm| alarm["text"].as_str());
    if state == "down" || state == "never" {
        return check(Verdict::Fail, &about, state, "is it switched on, and roost-agent running there?");
    }
    if state != "up" {
        return check(Verdict::Warn, &about, state, "wait some seconds; then look at its network");
    }
    if let Some(alarm) = alarm {
        return check(Verdict::Warn, &about, alarm, "roost host get, then on the host: journalctl -u roost-agent");
    }
    if host["stale"].as_bool() == Some(true) {
        return check(Verdict::Warn, &about, "what it shows may be old", "is libvirt running there?");
    }
    if off.abs() > HOST_CLOCK_S {
        return check(
            Verdict::Warn,
            &about,
            format!("its clock is {off:.0} s off"),
            "set its clock, e.g. by systemd-timesyncd",
        );
    }
    if agent != env!("CARGO_PKG_VERSION") {
        return version(&format!("the agent on {about}"), agent);
    }
    if let Some(next) = host["image"]["next"]["version"].as_str() {
        let found = format!("image {next} waits for its next start");
        return check(Verdict::Warn, &about, found, "roost host upgrade, with its name");
    }
    let guests = host["guests_running"].as_u64().unwrap_or(0);
    check(Verdict::Ok, &about, format!("up, {guests} guests running, agent {agent}"), "")
}

#[cfg(test)]
mod test {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_host_that_is_down_or_ill_is_told_with_a_hint() {
        let fine = json!({"name": "h", "state": "up", "agent_version": env!("CARGO_PKG_VERSION"), "guests_running": 3, "alarms": []});
        let but = |member: &str, value: Value| {
            let mut host = fine.clone();
            host[member] = value;
            of_host(&host)
        };
        assert_eq!(of_host(&fine).verdict, Verdict::Ok);
        assert_eq!(but("state", json!("down")).verdict, Verdict::Fail);
        for (member, value) in [
            ("state", json!("suspect")),
            ("stale", json!(true)),
            ("clock_offset_s", json!(-60.5)),
            ("agent_version", json!("0.0.1")),
            ("image", json!({"version": "1", "next": {"version": "2"}})),
            ("alarms", json!([{"code": "state-disk-full", "text": "full"}])),
        ] {
            let found = but(member, value);
            assert_eq!(found.verdict, Verdict::Warn, "{member}");
            assert!(!found.hint.is_empty());
        }
    }

    #[test]
    fn clocks_are_compared_with_the_server() {
        let at = |date: &str| {
            let headers = HeaderMap::from_iter([(DATE, date.parse().unwrap())]);
            clock(&headers, "2026-11-21T14:39:16Z".parse().unwrap()).verdict
        };
        assert_eq!(at("Sat, 21 Nov 2026 14:39:20 GMT"), Verdict::Ok);
        assert_eq!(at("Tue, 21 Nov 2028 14:39:20 GMT"), Verdict::Warn);
        assert_eq!(at("noon"), Verdict::Warn);
    }
}
