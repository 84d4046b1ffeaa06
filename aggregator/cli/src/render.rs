//! Answers as people and scripts read them. Pure: value and form in, text out.

use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};
use roost_registry::{FieldKind, Property, Schema, Show};
use serde_json::Value;

use crate::failure::Failure;
use crate::out::{clean, clean_json};

/// How an answer is written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Form {
    /// One of [`crate::command::OUTPUTS`].
    pub(crate) output: String,
    pub(crate) columns: Vec<String>,
    pub(crate) no_headers: bool,
    pub(crate) colour: bool,
}

/// A list of things of one shape.
pub(crate) fn list(schema: &Schema, items: &[Value], form: &Form) -> Result<String, Failure> {
    Ok(match form.output.as_str() {
        "json" => json(&Value::Array(items.to_vec())),
        "jsonl" => items.iter().map(|item| clean_json(&item.to_string()) + "\n").collect(),
        "csv" => csv(&columns(schema, form, Show::Wide)?, items, form),
        "name" => items.iter().map(|item| name(item) + "\n").collect(),
        "wide" => table(&columns(schema, form, Show::Wide)?, items, form),
        _ => table(&columns(schema, form, Show::Table)?, items, form),
    })
}

/// One thing: all it has, a line each, and below them a table of each list that it has.
pub(crate) fn one(schema: &Schema, item: &Value, form: &Form) -> Result<String, Failure> {
    let asked = !form.columns.is_empty();
    match form.output.as_str() {
        "json" => Ok(json(item)),
        "table" | "wide" if !asked => Ok(card(schema, item, form)),
        _ => list(schema, std::slice::from_ref(item), form),
    }
}

/// Any JSON.
pub(crate) fn json(value: &Value) -> String {
    clean_json(&format!("{value:#}")) + "\n"
}

/// What a thing is called where a name or id is wanted.
pub(crate) fn name(item: &Value) -> String {
    let text = item["name"].as_str().or(item["id"].as_str()).map(str::to_owned);
    clean(&text.unwrap_or_else(|| item["seq"].to_string()))
}

fn columns(schema: &Schema, form: &Form, least: Show) -> Result<Vec<&'static Property>, Failure> {
    if form.columns.is_empty() {
        return Ok(schema.columns(least).collect());
    }
    let known = || schema.properties.iter().map(|property| property.name);
    let of_name = |name: &String| {
        schema.property(name).ok_or_else(|| {
            let near = crate::failure::nearest(name, known()).map(|near| format!("did you mean {near}?"));
            let all = || format!("one of {}", known().collect::<Vec<_>>().join(","));
            Failure::usage(format!("show column {name}"), "there is no such column", near.unwrap_or_else(all))
        })
    };
    form.columns.iter().map(of_name).collect()
}

fn table(columns: &[&Property], items: &[Value], form: &Form) -> String {
    let mut table = bare(form);
    if !form.no_headers {
        table.set_header(columns.iter().map(|column| heading(column.name, form)));
    }
    for item in items {
        table.add_row(columns.iter().map(|column| cell(column, &item[column.name], form)));
    }
    if items.is_empty() && form.no_headers { String::new() } else { trimmed(&table) }
}

fn card(schema: &Schema, item: &Value, form: &Form) -> String {
    let (mut lines, mut tables) = (bare(form), String::new());
    for property in schema.properties.iter().filter(|property| !item[property.name].is_null()) {
        let value = &item[property.name];
        match (listed(property, form), value.as_array().filter(|items| !items.is_empty())) {
            (Some(columns), Some(items)) => {
                tables += &format!("\n{}\n", property.name.to_ascii_uppercase());
                tables.extend(table(&columns, items, form).lines().map(|line| format!("  {line}\n")));
            }
            _ => rows(&mut lines, property.name, property, value, form),
        }
    }
    trimmed(&lines) + &tables
}

/// A line of a card; of a thing within the thing, one for each of its members.
fn rows(lines: &mut Table, name: &str, property: &Property, value: &Value, form: &Form) {
    let within = if let FieldKind::Object(of) = property.kind { roost_registry::schema(of) } else { None };
    let Some(within) = within.filter(|_| value.is_object()) else {
        lines.add_row([heading(name, form), cell(property, value, form)]);
        return;
    };
    for member in within.properties.iter().filter(|member| !value[member.name].is_null()) {
        let name = format!("{name}.{}", member.name);
        lines.add_row([heading(&name, form), cell(member, &value[member.name], form)]);
    }
}

/// The columns of a list of things; nothing of any other property.
fn listed(property: &Property, form: &Form) -> Option<Vec<&'static Property>> {
    let FieldKind::List(of) = property.kind else { return None };
    let least = if form.output == "wide" { Show::Wide } else { Show::Table };
    let columns: Vec<_> = roost_registry::schema(of)?.columns(least).collect();
    (!columns.is_empty()).then_some(columns)
}

fn bare(form: &Form) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if form.colour {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table
}

fn trimmed(table: &Table) -> String {
    let mut text = String::new();
    for line in table.lines() {
        let line = line.strip_prefix(' ').unwrap_or(&line);
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn heading(name: &str, form: &Form) -> Cell {
    let cell = Cell::new(name.to_ascii_uppercase());
    if form.colour { cell.add_attribute(Attribute::Bold) } else { cell }
}

fn cell(property: &Property, value: &Value, form: &Form) -> Cell {
    let shown = text(value);
    let colour = if form.colour && matches!(property.name, "state" | "severity") { colour_of(&shown) } else { None };
    match colour {
        Some(colour) => Cell::new(shown).fg(colour),
        None => Cell::new(shown),
    }
}

fn colour_of(word: &str) -> Option<Color> {
    match word {
        "up" | "running" | "succeeded" => Some(Color::Green),
        "suspect" | "paused" | "shutting_down" | "queued" | "warning" => Some(Color::Yellow),
        "down" | "crashed" | "failed" | "error" => Some(Color::Red),
        "off" | "never" | "cancelled" => Some(Color::DarkGrey),
        _ => None,
    }
}

/// A value in one cell.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(truth) => if *truth { "yes" } else { "no" }.to_owned(),
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(real) => format!("{real:.1}"),
            None => number.to_string(),
        },
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => instant(text).unwrap_or_else(|| clean(text)),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(","),
        Value::Object(members) => {
            let shown = members.values().filter(|member| !member.is_null());
            shown.map(text).collect::<Vec<_>>().join(":")
        }
    }
}

/// RFC 3339 as people read it, to the second.
fn instant(text: &str) -> Option<String> {
    // Only what has the shape of a date is worth parsing.
    if text.as_bytes().get(10) != Some(&b'T') {
        return None;
    }
    let at: jiff::Timestamp = text.parse().ok()?;
    Some(at.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}

fn csv(columns: &[&Property], items: &[Value], form: &Form) -> String {
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    let mut write = |record: Vec<String>| {
        // Writing to memory does not fail, and all records are of one length.
        let _never: Result<(), csv::Error> = writer.write_record(&record);
    };
    if !form.no_headers {
        write(columns.iter().map(|column| column.name.to_owned()).collect());
    }
    for item in items {
        write(columns.iter().map(|column| field(&item[column.name])).collect());
    }
    String::from_utf8(writer.into_inner().unwrap_or_default()).unwrap_or_default()
}

/// A value in a CSV field; a text that a spreadsheet would run as a formula is disarmed.
fn field(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => {
            let cleaned = clean(text);
            if cleaned.starts_with(['=', '+', '-', '@']) { format!("'{cleaned}") } else { cleaned }
        }
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(_) | Value::Object(_) => clean_json(&value.to_string()),
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use serde_json::json;

    fn guests() -> Vec<Value> {
        vec![
            json!({"id": "6a0f", "name": "web1", "host": "h", "host_name": "host-1", "state": "running", "managed": true,
                   "vcpus": 2, "memory_mib": 512, "since": "2026-11-21T14:39:16.123Z", "restarts": 0, "cpu_percent": 12.25,
                   "stale": false, "disks": [{"target": "vda", "path": "/i/a", "format": "raw"}]}),
            json!({"id": "7b1e", "name": "=evil\u{1b}[2J,\"x\"\n", "host": "h", "host_name": "host-2", "state": "off", "managed": false,
                   "vcpus": 1, "memory_mib": 64, "restarts": 3, "stale": true, "disks": []}),
        ]
    }

    fn shown(output: &str, form: Form) -> String {
        let schema = roost_registry::schema("guest").unwrap();
        list(schema, &guests(), &Form { output: output.to_owned(), ..form }).unwrap()
    }

    #[test]
    fn a_table_of_guests() {
        let want = "\
NAME                        HOST_NAME   STATE     MANAGED   VCPUS   MEMORY_MIB   SINCE                  CPU_PERCENT
web1                        host-1      running   yes       2       512          2026-11-21 14:39:16Z   12.2
=evil\\u{1b}[2J,\"x\"\\n       host-2      off       no        1       64           -                      -
";
        let got = shown("table", Form::default());
        let squeeze =
            |text: &str| text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>();
        assert_eq!(squeeze(&got), squeeze(want), "{got}");
        assert!(!got.contains('\u{1b}') && got.lines().all(|line| line == line.trim_end()));
    }

    #[test]
    fn chosen_columns_without_headings() {
        let columns = vec!["name".to_owned(), "vcpus".to_owned()];
        let form = Form { columns, no_headers: true, ..Form::default() };
        let got = shown("csv", form);
        assert_eq!(got, "web1,2\r\n\"'=evil\\u{1b}[2J,\"\"x\"\"\\n\",1\r\n");
    }

    #[test]
    fn an_unknown_column_is_refused_with_the_nearest() {
        let schema = roost_registry::schema("guest").unwrap();
        let form = Form { columns: vec!["vcpu".to_owned()], ..Form::default() };
        let refused = list(schema, &guests(), &form).unwrap_err();
        assert_eq!((refused.exit.code(), refused.hint.as_str()), (2, "did you mean vcpus?"));
    }

    #[test]
    fn json_says_all_and_names_say_only_names() {
        let all: Value = serde_json::from_str(&shown("json", Form::default())).unwrap();
        assert_eq!(all, Value::Array(guests()));
        assert_eq!(shown("jsonl", Form::default()).lines().count(), 2);
        assert_eq!(shown("name", Form::default()), "web1\n=evil\\u{1b}[2J,\"x\"\\n\n");
    }

    #[test]
    fn colours_only_where_wanted() {
        let coloured = shown("table", Form { colour: true, ..Form::default() });
        assert!(coloured.contains('\u{1b}'));
        assert!(!coloured.contains("\u{1b}[2J"));
    }

    #[test]
    fn one_guest_is_a_card() {
        let schema = roost_registry::schema("guest").unwrap();
        let card = one(schema, &guests()[0], &Form { output: "table".into(), ..Form::default() }).unwrap();
        assert!(card.lines().next().unwrap().starts_with("ID"));
        assert!(card.ends_with("\nDISKS\n  TARGET  PATH  FORMAT\n  vda     /i/a  raw\n"), "{card}");
    }

    #[test]
    fn lists_of_a_card_are_as_wide_as_asked() {
        let schema = roost_registry::schema("guest_room").unwrap();
        let room = json!({"name": "g", "hosts": [{"name": "h1", "more": 3, "at_least": false, "saved_mib": 70}]});
        let card = |output: &str| one(schema, &room, &Form { output: output.into(), ..Form::default() }).unwrap();
        assert!(!card("table").contains("70") && card("wide").contains("SAVED_MIB"), "{}", card("wide"));
    }

    #[test]
    fn a_thing_within_a_thing_is_a_line_for_each_of_its_members() {
        let schema = roost_registry::schema("host").unwrap();
        let host = json!({"name": "h1", "pressure": {"cpu_percent": 22.6, "memory_percent": 2.0}});
        let card = one(schema, &host, &Form { output: "table".into(), ..Form::default() }).unwrap();
        let lines: Vec<Vec<&str>> = card.lines().map(|line| line.split_whitespace().collect()).collect();
        let want = [["NAME", "h1"], ["PRESSURE.CPU_PERCENT", "22.6"], ["PRESSURE.MEMORY_PERCENT", "2.0"]];
        assert_eq!(lines, want, "{card}");
    }
}
