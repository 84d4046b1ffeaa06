//! Carrying out one operation of the table, on one thing or on several.

use std::io::IsTerminal;

use clap::ArgMatches;
use reqwest::Method;
use roost_registry::{Operation, Output, Place, find, schema};
use serde_json::Value;

use crate::client::{Client, Request};
use crate::failure::{Exit, Failure, nearest};
use crate::input::{self, number, switch, text};
use crate::out::{Out, clean};
use crate::render::{self, Form};
use crate::{ask, command, wait};

/// Items asked for at once.
const PAGE: &str = "1000";
/// Names shown in a question; more are counted.
const SHOWN_NAMES: usize = 20;

/// Does what was asked and writes what came back.
pub(crate) fn perform(
    operation: &'static Operation,
    matches: &ArgMatches,
    connect: &dyn Fn() -> Result<Client, Failure>,
    form: &Form,
    out: &mut Out<'_>,
) -> Result<(), Failure> {
    let targets = targets(operation, matches);
    if command::asks(operation) && !switch(matches, "yes") && !agreed(operation, &targets, out)? {
        return Err(Failure::new(
            Exit::Failed,
            operation.name,
            "not agreed to; nothing was done",
            "answer y, or give --yes",
        ));
    }
    match operation.output {
        Output::List(name) => {
            let items =
                all(&connect()?, operation, input::request(operation, matches, None)?, number(matches, "limit"))?;
            let schema = schema(name).ok_or_else(|| no_schema(name))?;
            out.data(&render::list(schema, &items, form)?);
            Ok(())
        }
        Output::Operation => {
            let requests = requests(operation, matches, &targets)?;
            slow(&connect()?, operation, requests, matches, form, out)
        }
        Output::Picture => {
            let request = input::request(operation, matches, targets.first().map(String::as_str))?;
            picture(&connect()?, operation, &request, text(matches, "to").as_deref(), out)
        }
        Output::Object(_) | Output::Nothing | Output::Stream(_) => {
            let requests = requests(operation, matches, &targets)?;
            at_once(&connect()?, operation, &requests, form, out)
        }
    }
}

fn no_schema(name: &str) -> Failure {
    Failure::new(Exit::Failed, format!("show a {name}"), "its shape is not in the table", "report this")
}

/// The things named on the command line.
fn targets(operation: &Operation, matches: &ArgMatches) -> Vec<String> {
    let Some(field) = operation.inputs.iter().find(|field| field.place == Place::Path) else { return Vec::new() };
    let mut named: Vec<String> = Vec::new();
    for target in matches.get_many::<String>(field.name).into_iter().flatten() {
        if !named.contains(target) {
            named.push(target.clone());
        }
    }
    named
}

fn agreed(operation: &Operation, targets: &[String], out: &mut Out<'_>) -> Result<bool, Failure> {
    if !ask::can_ask() || !std::io::stdin().is_terminal() {
        return Err(Failure::usage(operation.name, "there is nobody to ask whether that is meant", "add --yes"));
    }
    let mut names: Vec<String> = targets.iter().take(SHOWN_NAMES).map(|name| clean(name)).collect();
    if targets.len() > SHOWN_NAMES {
        names.push(format!("and {} more", targets.len() - SHOWN_NAMES));
    }
    ask::yes(out, &format!("{} ({}): {}?", operation.summary, targets.len(), names.join(", ")))
}

/// What each request is called in messages, and the request.
type Named = (String, Request);

fn requests(operation: &Operation, matches: &ArgMatches, targets: &[String]) -> Result<Vec<Named>, Failure> {
    if targets.is_empty() {
        let called = text(matches, "name").unwrap_or_default();
        return Ok(vec![(called, input::request(operation, matches, None)?)]);
    }
    // The first also reads what can be read only once, such as stdin.
    let first = input::request(operation, matches, targets.first().map(String::as_str))?;
    let place = operation.path.split('/').skip(1).position(|segment| segment.starts_with('{')).unwrap_or(0);
    let for_target = |target: &String| {
        let mut request = first.clone();
        if let Some(segment) = request.path.get_mut(place) {
            segment.clone_from(target);
        }
        (target.clone(), request)
    };
    Ok(targets.iter().map(for_target).collect())
}

/// A whole list, page by page, or as much of it as was asked for.
pub(crate) fn all(
    client: &Client,
    operation: &Operation,
    mut request: Request,
    limit: Option<i64>,
) -> Result<Vec<Value>, Failure> {
    let wanted = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(0));
    if limit.is_none() {
        request.query.push(("limit".into(), PAGE.into()));
    }
    let mut items = Vec::new();
    loop {
        let mut answer = client.call(operation, operation.name, &request)?;
        let page = answer.body["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
        let empty = page.is_empty();
        items.extend(page);
        let next = answer.body["next"].as_str().map(str::to_owned);
        // A server that gives a cursor with an empty page would be asked for ever.
        let Some(next) = next.filter(|_| !empty && items.len() < wanted) else { break };
        request.query.retain(|(name, _)| name != "cursor");
        request.query.push(("cursor".into(), next));
    }
    items.truncate(wanted);
    Ok(items)
}

fn at_once(
    client: &Client,
    operation: &Operation,
    requests: &[Named],
    form: &Form,
    out: &mut Out<'_>,
) -> Result<(), Failure> {
    let mut tally = Tally::default();
    for (target, request) in requests {
        match client.call(operation, &what(operation, target), request) {
            Ok(answer) => {
                match operation.output.schema().and_then(schema) {
                    Some(schema) => out.data(&render::one(schema, &answer.body, form)?),
                    None => out.say(&format!("{}: done", clean(&what(operation, target)))),
                }
                tally.done += 1;
            }
            Err(failure) => tally.add(meant(client, operation, target, failure), requests.len(), out),
        }
    }
    tally.end(requests.len())
}

/// To a file, or to whoever reads stdout.
fn picture(
    client: &Client,
    operation: &Operation,
    request: &Request,
    to: Option<&str>,
    out: &mut Out<'_>,
) -> Result<(), Failure> {
    if to.is_none() && std::io::stdout().is_terminal() {
        return Err(Failure::usage(operation.name, "a terminal shows no pictures", "add --to FILE.png"));
    }
    let png = client.picture(operation.name, request)?;
    let Some(path) = to else {
        out.bytes(&png);
        return Ok(());
    };
    let wrote = std::fs::write(path, &png);
    wrote.map_err(|cause| {
        Failure::new(Exit::Failed, format!("write {path}"), cause.to_string(), "choose another file")
    })?;
    out.say(&format!("{}: {} bytes", clean(path), png.len()));
    Ok(())
}

fn slow(
    client: &Client,
    operation: &Operation,
    requests: Vec<Named>,
    matches: &ArgMatches,
    form: &Form,
    out: &mut Out<'_>,
) -> Result<(), Failure> {
    let total = requests.len();
    let mut tally = Tally::default();
    let mut begun = Vec::new();
    for (target, request) in requests {
        match client.call(operation, &what(operation, &target), &request) {
            Ok(answer) => begun.push((what(operation, &target), answer.body)),
            Err(failure) => tally.add(meant(client, operation, &target, failure), total, out),
        }
    }
    if switch(matches, "no-wait") {
        for (_, started) in &begun {
            out.data(&no_wait(started, form)?);
            tally.done += 1;
        }
        return tally.end(total);
    }
    let limit = wait::Limit::new(number(matches, "timeout"));
    let mut ended = Vec::new();
    for (what, started) in begun {
        match wait::to_end(client, &what, started, &limit, out) {
            Ok(operation) => {
                out.say(&format!("{}: done", clean(&what)));
                ended.push(operation);
                tally.done += 1;
            }
            Err(failure) => tally.add(failure, total, out),
        }
    }
    if form.output != "table" && form.output != "wide" {
        let schema = schema("operation").ok_or_else(|| no_schema("operation"))?;
        let alone = if total == 1 { ended.first() } else { None };
        out.data(&alone.map_or_else(|| render::list(schema, &ended, form), |one| render::one(schema, one, form))?);
    }
    tally.end(total)
}

fn no_wait(started: &Value, form: &Form) -> Result<String, Failure> {
    if form.output == "table" || form.output == "name" {
        return Ok(format!("{}\n", clean(started["id"].as_str().unwrap_or_default())));
    }
    render::one(schema("operation").ok_or_else(|| no_schema("operation"))?, started, form)
}

fn what(operation: &Operation, target: &str) -> String {
    if target.is_empty() { operation.name.to_owned() } else { format!("{} {target}", operation.name) }
}

/// How several requests went.
#[derive(Default)]
struct Tally {
    done: usize,
    failed: Vec<Failure>,
}

impl Tally {
    /// Where there are several, each failure is told at once; a single one is told at the end.
    fn add(&mut self, failure: Failure, total: usize, out: &mut Out<'_>) {
        if total > 1 {
            failure.show(out);
        }
        self.failed.push(failure);
    }

    fn end(self, total: usize) -> Result<(), Failure> {
        let count = self.failed.len();
        let Some(first) = self.failed.into_iter().next() else { return Ok(()) };
        if total == 1 {
            return Err(first);
        }
        let exit = if self.done > 0 { Exit::PartlyDone } else { first.exit };
        let why = format!("{count} of {total} failed, {} done", self.done);
        Err(Failure::new(exit, "do it for all", why, "see the messages above; then again for those that failed"))
    }
}

/// A name not found may be a slip of the pen: the nearest known one goes into the hint.
fn meant(client: &Client, operation: &Operation, target: &str, mut failure: Failure) -> Failure {
    let noun = operation.name.split('.').next().unwrap_or_default();
    if failure.exit != Exit::NotFound || !["guest", "host"].contains(&noun) {
        return failure;
    }
    let names = find(&format!("{noun}.list")).and_then(|list| {
        let query = vec![("fields".to_owned(), "name".to_owned())];
        let path = list.path.split('/').skip(1).map(str::to_owned).collect();
        all(client, list, Request { path, query, body: None }, None).ok()
    });
    let names = names.unwrap_or_default();
    if let Some(near) = nearest(target, names.iter().filter_map(|item| item["name"].as_str())) {
        failure.hint = format!("did you mean {near}?");
    }
    failure
}

/// `roost api METHOD PATH`.
pub(crate) fn api(client: &Client, matches: &ArgMatches, out: &mut Out<'_>) -> Result<(), Failure> {
    let method = text(matches, "method").unwrap_or_default().to_ascii_uppercase();
    let path = text(matches, "path").unwrap_or_default();
    let what = format!("{method} {path}");
    let known = ["GET", "POST", "PUT", "PATCH", "DELETE"].contains(&method.as_str());
    let method = Method::from_bytes(method.as_bytes()).ok().filter(|_| known);
    let method =
        method.ok_or_else(|| Failure::usage(&what, "there is no such method", "GET, POST, PUT, PATCH or DELETE"))?;
    let answer = client.send(method, &what, &raw(&path, text(matches, "data"))?)?;
    match answer.body {
        Value::Null => {}
        Value::String(text) => text.lines().for_each(|line| out.data(&(clean(line) + "\n"))),
        body @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            out.data(&render::json(&body))
        }
    }
    Ok(())
}

fn raw(path: &str, data: Option<String>) -> Result<Request, Failure> {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let bare = path.strip_prefix(roost_registry::BASE).unwrap_or(path);
    let segments = bare.trim_matches('/').split('/').map(str::to_owned).collect();
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let query = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(n, v)| (n.to_owned(), v.to_owned()));
    let data = match data.as_deref() {
        Some("-") => Some(input::file("-")?),
        Some(text) => Some(text.strip_prefix('@').map_or_else(|| Ok(text.to_owned()), input::file)?),
        None => None,
    };
    let parse = |text: String| {
        serde_json::from_str(&text).map_err(|cause| Failure::usage("read the body", cause.to_string(), "give JSON"))
    };
    Ok(Request { path: segments, query: query.collect(), body: data.map(parse).transpose()? })
}
