//! A demo host dies or comes back, and the grid is asked what happens until all has.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use reqwest::Method;
use roost_registry::find;
use serde_json::{Value, json};

use super::Script;
use super::timeline::Timeline;
use crate::client::{Client, Request};
use crate::failure::{Exit, Failure};
use crate::out::Out;
use crate::perform;

/// Between two looks; people see a tenth of a second in none of it.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A takeover takes half a minute; emulated guests on a loaded machine, several at once, take longer.
const PATIENCE: Duration = Duration::from_secs(180);

/// Cuts a host's power and shows how its guests come back.
pub(super) fn kill(client: &Client, number: u8, script: &Script, out: &mut Out<'_>) -> Result<(), Failure> {
    let name = format!("h{number}");
    let state = state(client, &name).map_err(|failure| unfit(&name, failure))?;
    if state != "up" {
        let hint = format!("roost demo revive-host {number}");
        return Err(Failure::new(Exit::WrongState, format!("kill {name}"), format!("it is not up but {state}"), hint));
    }
    let guests = guests(client)?;
    let here = guests.iter().filter(|guest| guest["host_name"] == name.as_str() && guest["state"] == "running");
    let (safe, unsafe_): (Vec<&Value>, Vec<&Value>) = here.partition(|guest| guest["protected"] == true);
    let before = failovers(client)?;
    let mut line = Timeline::begin(&name, Timestamp::now(), &safe, &before);
    script.run(&["kill-host", &number.to_string()], out)?;
    for guest in unsafe_ {
        let why = guest["unprotected_because"].as_str().unwrap_or("its policy asks for no failover");
        let name = guest["name"].as_str().unwrap_or_default();
        out.data(&(line.line(Timestamp::now(), &format!("{name} waits for its host: {why}")) + "\n"));
    }
    let began = Instant::now();
    while !line.is_done() && began.elapsed() < PATIENCE && !out.closed() {
        std::thread::sleep(LOOK_EVERY);
        // An answer that fails to come is not the end: the next one tells the same.
        let Ok((state, guests, failovers)) = seen(client, &name) else { continue };
        for told in line.look(Timestamp::now(), &state, &guests, &failovers) {
            out.data(&(told + "\n"));
        }
    }
    out.data(&format!("\n{}\n{}\n", line.table(), line.summary()));
    if line.is_done() {
        return Ok(());
    }
    let hint = "roost explain guest NAME says who voted and who did not";
    Err(Failure::new(Exit::Timeout, "wait for all guests", line.missing().join("; "), hint))
}

/// Powers a host on again and says what becomes of it.
pub(super) fn revive(client: &Client, number: u8, script: &Script, out: &mut Out<'_>) -> Result<(), Failure> {
    let name = format!("h{number}");
    let was = state(client, &name).map_err(|failure| unfit(&name, failure))?;
    if was == "up" {
        let hint = format!("roost demo kill-host {number}");
        return Err(Failure::new(Exit::WrongState, format!("revive {name}"), "it is up", hint));
    }
    let mut line = Timeline::begin(&name, Timestamp::now(), &[], &[]);
    script.run(&["revive-host", &number.to_string()], out)?;
    let began = Instant::now();
    let (mut told, mut safe) = (false, None);
    while began.elapsed() < PATIENCE && !out.closed() {
        std::thread::sleep(LOOK_EVERY);
        let Ok((state, guests, failovers)) = seen(client, &name) else { continue };
        if state != "up" {
            continue;
        }
        if !told {
            told = true;
            line.look(Timestamp::now(), &state, &guests, &failovers);
            for what in [format!("{name} is up: it votes again, and keeps copies for others")]
                .into_iter()
                .chain(stays(&name, &guests, &failovers))
            {
                out.data(&(line.line(Timestamp::now(), &what) + "\n"));
            }
        }
        // A host reports also what it only has old disks of.
        let such = |wanted: &[Value]| {
            let found = guests.iter().filter(|guest| wanted.contains(&guest["protected"]));
            found.filter_map(|guest| guest["id"].as_str()).collect::<BTreeSet<&str>>().len()
        };
        let (wished, now) = (such(&[json!(true), json!(false)]), such(&[json!(true)]));
        if safe != Some(now) {
            safe = Some(now);
            let what = format!("{now} of {wished} guests would go on elsewhere if their host died");
            out.data(&(line.line(Timestamp::now(), &what) + "\n"));
        }
        if now == wished {
            out.data(&format!("{name} is back, and all {now} guests are protected\n"));
            return Ok(());
        }
    }
    let why = if told { "not all guests are protected" } else { "it is not up" };
    Err(Failure::new(Exit::Timeout, format!("wait for {name}"), why, "roost guest list -o wide, roost host list"))
}

/// What a returned host finds of the guests that were taken from it.
fn stays(name: &str, guests: &[Value], failovers: &[Value]) -> Vec<String> {
    let taken = |guest: &&Value| {
        let from_here = |one: &Value| one["guest"] == guest["id"] && one["from"] == name && one["to"] != name;
        guest["host_name"] != name && guest["state"] == "running" && failovers.iter().any(from_here)
    };
    let stay = guests.iter().filter(taken).map(|guest| {
        let text = |name: &str| guest[name].as_str().unwrap_or_default();
        format!("{} stays on {}; what {name} had of it is kept as a point of its own", text("name"), text("host_name"))
    });
    stay.collect()
}

fn seen(client: &Client, name: &str) -> Result<(String, Vec<Value>, Vec<Value>), Failure> {
    Ok((state(client, name)?, guests(client)?, failovers(client)?))
}

fn state(client: &Client, name: &str) -> Result<String, Failure> {
    let request = Request { path: vec!["hosts".into(), name.into()], ..Request::default() };
    let host = client.send(Method::GET, "look at the host", &request)?.body;
    Ok(host["state"].as_str().unwrap_or("unknown").to_owned())
}

fn guests(client: &Client) -> Result<Vec<Value>, Failure> {
    list(client, "guest.list", "guests")
}

fn failovers(client: &Client) -> Result<Vec<Value>, Failure> {
    list(client, "failover.list", "failovers")
}

fn list(client: &Client, operation: &str, path: &str) -> Result<Vec<Value>, Failure> {
    let missing = || Failure::new(Exit::Failed, format!("list {path}"), "they are not in the table", "report this");
    let list = find(operation).ok_or_else(missing)?;
    perform::all(client, list, Request { path: vec![path.into()], ..Request::default() }, None)
}

/// Why nothing was done: there is no such host, or no demo that runs.
fn unfit(name: &str, failure: Failure) -> Failure {
    match failure.code.as_deref() {
        Some("not_found") => {
            Failure::usage(format!("find host {name}"), "the demo has none of that name", "roost host list")
        }
        Some(_) => failure,
        None => Failure::new(Exit::Failed, "find the demo", format!("it does not run: {}", failure.why), "make run"),
    }
}
