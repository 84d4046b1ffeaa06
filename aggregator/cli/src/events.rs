//! `roost events`: the history, or the stream, resumed where it broke off.

use std::io::{BufRead, BufReader, Read};
use std::time::Duration;

use clap::ArgMatches;
use roost_registry::{Schema, find, schema};
use serde_json::Value;

use crate::client::{Client, Request};
use crate::failure::{Exit, Failure};
use crate::input::{number, switch, text};
use crate::out::{Out, clean, clean_json};
use crate::perform;
use crate::render::{self, Form};

/// A stream is asked for anew this often, so that a dead connection is noticed; nothing is lost by it.
const PATIENCE: Duration = Duration::from_secs(120);
/// Pause before a broken stream is asked for again.
const PAUSE: Duration = Duration::from_secs(1);
/// Breaks in a row, without an event between them, after which the server is given up.
const BREAKS: u32 = 60;
/// Longest event taken.
const LONGEST: u64 = 1 << 20;

pub(crate) fn events(client: &Client, matches: &ArgMatches, form: &Form, out: &mut Out<'_>) -> Result<(), Failure> {
    let missing = || Failure::new(Exit::Failed, "show events", "events are not in the table", "report this");
    let schema = schema("event").ok_or_else(missing)?;
    let mut query = Vec::new();
    query.extend(number(matches, "since").map(|since| ("since".to_owned(), since.to_string())));
    query.extend(text(matches, "kind").map(|kind| ("kind".to_owned(), kind)));
    let count = matches.get_one::<u64>("count").copied();
    if switch(matches, "follow") {
        return follow(client, schema, query, count, form, out);
    }
    let list = find("event.list").ok_or_else(missing)?;
    let limit = count.and_then(|count| i64::try_from(count).ok());
    let items = perform::all(client, list, Request { path: vec!["events".into()], query, body: None }, limit)?;
    out.data(&render::list(schema, &items, form)?);
    Ok(())
}

fn follow(
    client: &Client,
    schema: &Schema,
    query: Vec<(String, String)>,
    count: Option<u64>,
    form: &Form,
    out: &mut Out<'_>,
) -> Result<(), Failure> {
    let request = Request { path: vec!["events".into(), "stream".into()], query, body: None };
    let mut left = count.unwrap_or(u64::MAX);
    let mut last: Option<String> = None;
    let mut breaks = 0;
    while left > 0 && !out.closed() {
        let before = left;
        match client.stream(&request, last.as_deref(), PATIENCE) {
            Ok(stream) => {
                let mut lines = BufReader::new(stream);
                while left > 0 && !out.closed() {
                    let Some(event) = next(&mut lines) else { break };
                    last = event.id.or(last);
                    if let Ok(data) = serde_json::from_str::<Value>(&event.data) {
                        out.data(&line(schema, &data, form)?);
                        left -= 1;
                    }
                }
            }
            // The server said no: asking again would not help.
            Err(failure) if failure.code.is_some() => return Err(failure),
            Err(failure) if breaks >= BREAKS => return Err(failure),
            Err(failure) => out.say(&format!("waiting for the server: {}", clean(&failure.why))),
        }
        breaks = if left < before { 0 } else { breaks + 1 };
        if left > 0 && !out.closed() {
            std::thread::sleep(PAUSE);
        }
    }
    Ok(())
}

fn line(schema: &Schema, event: &Value, form: &Form) -> Result<String, Failure> {
    match form.output.as_str() {
        "json" | "jsonl" => Ok(clean_json(&event.to_string()) + "\n"),
        _ => render::list(schema, std::slice::from_ref(event), &Form { no_headers: true, ..form.clone() }),
    }
}

/// One event of a stream.
#[derive(Debug, Default, PartialEq)]
struct Event {
    id: Option<String>,
    data: String,
}

/// The next event with data; none when the stream broke off. Half an event is none.
fn next(lines: &mut impl BufRead) -> Option<Event> {
    let mut event = Event::default();
    loop {
        let mut line = String::new();
        let read = lines.by_ref().take(LONGEST).read_line(&mut line).ok()?;
        if read == 0 || !line.ends_with('\n') || event.data.len() as u64 > LONGEST {
            return None;
        }
        let line = line.trim_end_matches(['\r', '\n']);
        if line.is_empty() {
            if event.data.is_empty() {
                continue;
            }
            return Some(event);
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "id" => event.id = Some(value.to_owned()),
            "data" => event.data.push_str(value),
            // Comments have no name; other fields are not ours.
            _ => {}
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn events_are_read_and_half_ones_are_not() {
        let mut stream =
            ": hello\n\nid: 7\nevent: x\ndata: {\"a\":\ndata: 1}\n\r\nid: 8\ndata: {}\n\nid: 9\ndata: {\"ha".as_bytes();
        assert_eq!(next(&mut stream), Some(Event { id: Some("7".into()), data: "{\"a\":1}".into() }));
        assert_eq!(next(&mut stream), Some(Event { id: Some("8".into()), data: "{}".into() }));
        assert_eq!(next(&mut stream), None);
    }
}
