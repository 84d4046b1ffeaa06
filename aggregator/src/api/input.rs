//! Inputs of an operation: gathered by a face, checked against the registry, then read by name.

use std::collections::BTreeMap;

use ring::digest::{SHA256, digest};
use roost_aggregator_core::Grid;
use roost_protocol::{Stamp, Time};
use roost_registry::{Field, FieldKind, Operation, Place};
use serde_json::{Map, Number, Value};

use super::problem::{Fault, Problem};
use super::replay::Print;
use super::suggest::did_you_mean;
use super::version::{Tags, Version};
use crate::handle::Condition;

/// Longest text other than a document.
const TEXT: usize = 4_096;
/// Longest document (domain XML).
const DOCUMENT: usize = 512 << 10;
/// Items in a list.
const ITEMS: usize = 1_000;
/// Longest span of time: 100 years.
const SECONDS: u64 = 100 * 365 * 24 * 3_600;

/// One input as a face got it.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) name: String,
    pub(crate) value: Value,
    /// Where it stood, if the face has places.
    pub(crate) place: Option<Place>,
}

/// Checked inputs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Input {
    values: Map<String, Value>,
    /// The caller's Idempotency-Key.
    pub(crate) key: Option<String>,
    /// The caller's If-Match.
    pub(crate) if_match: Option<Tags>,
    /// The face has no pages: a list is given whole.
    pub(crate) whole: bool,
}

impl Input {
    /// All wrong inputs are told at once.
    pub(crate) fn check(operation: &Operation, given: Vec<Given>, key: Option<String>) -> Result<Self, Problem> {
        let mut values = Map::new();
        let mut faults = Vec::new();
        for one in given {
            match fitting(operation, &one) {
                _ if values.contains_key(&one.name) => faults.push(fault(&one.name, "is given twice".into())),
                Ok(value) => drop(values.insert(one.name, value)),
                Err(mut wrong) => faults.append(&mut wrong),
            }
        }
        let missing = |field: &Field| field.required && !values.contains_key(field.name);
        for field in operation.fields().filter(|field| missing(field)) {
            if !faults.iter().any(|fault| fault.pointer.trim_start_matches('/').starts_with(field.name)) {
                faults.push(fault(field.name, format!("is missing: {}", field.help)));
            }
        }
        if faults.is_empty() { Ok(Self { values, key, ..Self::default() }) } else { Err(Problem::faults(faults)) }
    }

    /// What stands for this request: equal for repeats of it, and only for them.
    pub(crate) fn print(&self, operation: &Operation) -> Print {
        // In order of the names, however they were given.
        let values: BTreeMap<&String, &Value> = self.values.iter().collect();
        let mut print = [0; 32];
        print.copy_from_slice(digest(&SHA256, format!("{}{values:?}", operation.name).as_bytes()).as_ref());
        print
    }

    /// The caller's condition, to be looked at at the moment of the change.
    pub(crate) fn only_if(
        &mut self,
        version: impl FnOnce(&Grid, Time, Stamp) -> Option<Version> + Send + 'static,
    ) -> Option<Condition> {
        Some(self.if_match.take()?.condition(version))
    }

    /// True: [`Input::only_if`] will give a condition.
    pub(crate) fn conditional(&self) -> bool {
        self.if_match.is_some()
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).and_then(Value::as_str)
    }

    /// A required text; checked before, so that it is there.
    pub(crate) fn required(&self, name: &str) -> Result<&str, Problem> {
        self.text(name).ok_or_else(|| Problem::fault(format!("/{name}"), "is missing"))
    }

    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.values.get(name).and_then(Value::as_u64)
    }

    pub(crate) fn boolean(&self, name: &str) -> Option<bool> {
        self.values.get(name).and_then(Value::as_bool)
    }

    pub(crate) fn value(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }
}

fn fault(pointer: &str, detail: String) -> Fault {
    Fault { pointer: format!("/{pointer}"), code: "invalid", detail }
}

fn fitting(operation: &Operation, given: &Given) -> Result<Value, Vec<Fault>> {
    let Some(field) = operation.fields().find(|field| field.name == given.name) else {
        let names: Vec<&str> = operation.fields().map(|field| field.name).collect();
        let detail = format!("{} has no such input{}", operation.name, did_you_mean(&given.name, &names));
        return Err(vec![Fault { pointer: format!("/{}", given.name), code: "unknown", detail }]);
    };
    // The query of a POST may not stand in for its body: proxies log queries.
    if given.place.is_some_and(|place| place != field.place) {
        let place = match field.place {
            Place::Path => "path",
            Place::Query => "query",
            Place::Body => "body",
        };
        return Err(vec![fault(field.name, format!("belongs in the {place}"))]);
    }
    // Path, query and XML-RPC carry text where JSON has types.
    let loose = given.place != Some(Place::Body);
    fit(field.kind, &given.value, loose, field.name, 0)
}

/// The value as this kind wants it. `loose`: text may stand for numbers and the other way round.
fn fit(kind: FieldKind, value: &Value, loose: bool, at: &str, depth: usize) -> Result<Value, Vec<Fault>> {
    let wrong = |detail: &str| Err(vec![fault(at, detail.to_owned())]);
    match kind {
        FieldKind::Text | FieldKind::Secret | FieldKind::Time => text(value, loose, TEXT).map_or_else(wrong, Ok),
        FieldKind::Document => text(value, loose, DOCUMENT).map_or_else(wrong, Ok),
        FieldKind::Choice(words) => match text(value, loose, TEXT) {
            Ok(Value::String(word)) if words.contains(&word.as_str()) => Ok(Value::String(word)),
            Ok(word) => {
                let hint = did_you_mean(word.as_str().unwrap_or_default(), words);
                wrong(&format!("must be one of {}{hint}", words.join(", ")))
            }
            Err(detail) => wrong(detail),
        },
        FieldKind::Integer => integer(value, loose).map_or_else(|| wrong("must be a whole number, 0 or more"), Ok),
        FieldKind::Seconds => match integer(value, loose) {
            Some(seconds) if seconds.as_u64().is_some_and(|seconds| seconds <= SECONDS) => Ok(seconds),
            Some(_) | None => wrong("must be whole seconds, 0 or more"),
        },
        FieldKind::Number => number(value, loose).map_or_else(|| wrong("must be a number"), Ok),
        FieldKind::Boolean => boolean(value, loose).map_or_else(|| wrong("must be true or false"), Ok),
        FieldKind::TextList => list(FieldKind::Text, value, loose, at, depth),
        FieldKind::List(schema) => list(FieldKind::Object(schema), value, loose, at, depth),
        FieldKind::Object(schema) => object(schema, value, loose, at, depth),
        FieldKind::Anything if value.is_object() => Ok(value.clone()),
        FieldKind::Anything => wrong("must be an object"),
    }
}

fn text(value: &Value, loose: bool, most: usize) -> Result<Value, &'static str> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if loose => number.to_string(),
        Value::Bool(_) | Value::Number(_) | Value::Null | Value::Array(_) | Value::Object(_) => {
            return Err("must be text");
        }
    };
    if text.len() > most { Err("is too long") } else { Ok(Value::String(text)) }
}

fn integer(value: &Value, loose: bool) -> Option<Value> {
    match value {
        Value::Number(number) => number.as_u64().or_else(|| whole(number).filter(|_| loose)).map(Value::from),
        Value::String(text) if loose => text.trim().parse::<u64>().ok().map(Value::from),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A whole number written as 3.0, as clients do that know only doubles above 2^31.
fn whole(number: &Number) -> Option<u64> {
    let number = number.as_f64()?;
    if number.fract() != 0.0 || !(0.0..=9e15).contains(&number) {
        return None;
    }
    format!("{number:.0}").parse().ok()
}

fn number(value: &Value, loose: bool) -> Option<Value> {
    match value {
        Value::Number(_) => Some(value.clone()),
        Value::String(text) if loose => text.trim().parse().ok().and_then(Number::from_f64).map(Value::Number),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

fn boolean(value: &Value, loose: bool) -> Option<Value> {
    match value {
        Value::Bool(_) => Some(value.clone()),
        Value::String(text) if loose => match text.as_str() {
            "true" | "1" | "yes" => Some(Value::Bool(true)),
            "false" | "0" | "no" => Some(Value::Bool(false)),
            _ => None,
        },
        Value::Number(number) if loose => match number.as_u64() {
            Some(0) => Some(Value::Bool(false)),
            Some(1) => Some(Value::Bool(true)),
            Some(_) | None => None,
        },
        Value::String(_) | Value::Number(_) | Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn list(kind: FieldKind, value: &Value, loose: bool, at: &str, depth: usize) -> Result<Value, Vec<Fault>> {
    let Value::Array(items) = value else {
        return Err(vec![fault(at, "must be a list".to_owned())]);
    };
    if items.len() > ITEMS {
        return Err(vec![fault(at, format!("has more than {ITEMS} items"))]);
    }
    let items = items.iter().enumerate().map(|(index, item)| fit(kind, item, loose, &format!("{at}/{index}"), depth));
    items.collect::<Result<Vec<Value>, _>>().map(Value::Array)
}

fn object(schema: &str, value: &Value, loose: bool, at: &str, depth: usize) -> Result<Value, Vec<Fault>> {
    let (Value::Object(members), Some(schema), true) = (value, roost_registry::schema(schema), depth < 8) else {
        return Err(vec![fault(at, "must be an object".to_owned())]);
    };
    let mut fitted = Map::new();
    let mut faults = Vec::new();
    for (name, value) in members {
        let at = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
        match schema.property(name) {
            Some(property) => match fit(property.kind, value, loose, &at, depth + 1) {
                Ok(value) => drop(fitted.insert(name.clone(), value)),
                Err(mut wrong) => faults.append(&mut wrong),
            },
            None => {
                let names: Vec<&str> = schema.properties.iter().map(|property| property.name).collect();
                let detail = format!("there is no such member{}", did_you_mean(name, &names));
                faults.push(Fault { pointer: format!("/{at}"), code: "unknown", detail });
            }
        }
    }
    for property in schema.properties.iter().filter(|property| property.always && !members.contains_key(property.name))
    {
        faults.push(fault(&format!("{at}/{}", property.name), format!("is missing: {}", property.help)));
    }
    if faults.is_empty() { Ok(Value::Object(fitted)) } else { Err(faults) }
}

#[cfg(test)]
mod test {
    use serde_json::json;

    use super::*;

    fn check(name: &str, value: Value, place: Option<Place>) -> Result<Value, String> {
        let operation = roost_registry::find("guest.create").unwrap();
        let base = [("name", json!("web")), ("memory_mib", json!(512))];
        let base = base.into_iter().filter(|(known, _)| *known != name);
        let mut given: Vec<Given> = base.map(|(name, value)| Given { name: name.into(), value, place: None }).collect();
        given.push(Given { name: name.into(), value, place });
        match Input::check(operation, given, None) {
            Ok(input) => Ok(input.value(name).unwrap().clone()),
            Err(problem) => Err(problem.sentence()),
        }
    }

    #[test]
    fn json_bodies_are_strict_and_other_faces_are_coerced() {
        let body = Some(Place::Body);
        assert_eq!(check("memory_mib", json!(512), body), Ok(json!(512)));
        for (name, value) in
            [("memory_mib", json!("512")), ("name", json!(2)), ("start", json!("true")), ("memory_mib", json!(-1))]
        {
            assert!(check(name, value.clone(), body).is_err(), "{name} {value}");
        }
        for (name, value, becomes) in [
            ("memory_mib", json!("512"), json!(512)),
            ("memory_mib", json!(512.0), json!(512)),
            ("name", json!(2), json!("2")),
            ("start", json!("1"), json!(true)),
            ("start", json!(0), json!(false)),
        ] {
            assert_eq!(check(name, value.clone(), None), Ok(becomes), "{name} {value}");
        }
        for value in [json!(1e300), json!("1e3"), json!("-5"), json!(null), json!([]), json!("99999999999999999999")] {
            assert!(check("memory_mib", value.clone(), None).is_err(), "{value}");
        }
    }

    #[test]
    fn an_unknown_or_misplaced_input_is_refused_with_its_pointer_and_a_suggestion() {
        let text = check("memory_mb", json!(1), None).unwrap_err();
        assert!(text.contains("/memory_mb") && text.contains("memory_mib"), "{text}");
        let text = check("disks", json!([{"from": "blank", "size": 5}]), None).unwrap_err();
        assert!(text.contains("/disks/0/size") && text.contains("size_mib"), "{text}");
        let text = check("vcpus", json!(1), Some(Place::Query)).unwrap_err();
        assert!(text.contains("belongs in the body"), "{text}");
        let text = check("boot", json!({"from": "floppy"}), None).unwrap_err();
        assert!(text.contains("/boot/from") && text.contains("disk, kernel"), "{text}");
    }
}
