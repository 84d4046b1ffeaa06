//! Promises of the table: nothing is ambiguous, nothing dangles.

use std::collections::{BTreeMap, BTreeSet};

use roost_registry::{
    FieldKind, Kind, Operation, Output, Place, Show, error_code, error_codes, find, openapi, operations, schema,
    schemas,
};
use serde_json::Value;

fn unique<T: Ord + std::fmt::Debug>(keys: impl Iterator<Item = T>) {
    let mut seen = BTreeSet::new();
    for key in keys {
        assert!(!seen.contains(&key), "twice: {key:?}");
        seen.insert(key);
    }
}

#[test]
fn no_two_operations_share_a_name_a_route_or_a_command() {
    unique(operations().iter().map(|operation| operation.name));
    unique(operations().iter().filter_map(|operation| operation.cli).map(|cli| (cli.noun, cli.verb)));
    // Two templates that differ only in the name of a parameter are one route.
    let shape = |operation: &Operation| {
        let segments = operation.path.split('/').map(|segment| if segment.starts_with('{') { "{}" } else { segment });
        (operation.method, segments.collect::<Vec<_>>().join("/"))
    };
    unique(operations().iter().map(shape));
    unique(schemas().iter().map(|schema| schema.name));
    unique(error_codes().iter().map(|code| code.code));
}

#[test]
fn parameters_of_a_path_and_its_fields_are_the_same() {
    for operation in operations() {
        let in_path: Vec<&str> =
            operation.path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}')).collect();
        let fields: Vec<&str> =
            operation.fields().filter(|field| field.place == Place::Path).map(|field| field.name).collect();
        assert_eq!(in_path, fields, "{}", operation.name);
        assert!(operation.fields().filter(|field| field.place == Place::Path).all(|field| field.required));
        unique(operation.fields().map(|field| field.name));
    }
}

#[test]
fn every_operation_names_a_permission_that_is_an_operation() {
    for operation in operations() {
        assert!(find(operation.permission).is_some(), "{}: {}", operation.name, operation.permission);
        assert!(!operation.summary.is_empty() && !operation.summary.ends_with('.'), "{}", operation.name);
    }
}

#[test]
fn every_operation_is_on_every_face_or_says_why_not() {
    for operation in operations() {
        assert_eq!(operation.cli.is_none(), operation.faces.no_cli.is_some(), "{}", operation.name);
    }
    let gaps: BTreeMap<&str, bool> = operations()
        .iter()
        .filter(|operation| operation.faces.no_cli.is_some() || operation.faces.no_xmlrpc.is_some())
        .map(|operation| (operation.name, operation.faces.no_xmlrpc.is_some()))
        .collect();
    assert_eq!(gaps, BTreeMap::from([("event.stream", true), ("session.login", false)]));
}

#[test]
fn only_logging_in_needs_no_log_in() {
    let public: Vec<&str> = operations().iter().filter(|operation| operation.public).map(|o| o.name).collect();
    assert_eq!(public, ["session.login"]);
}

#[test]
fn slow_is_what_answers_with_an_operation() {
    for operation in operations() {
        assert_eq!(operation.kind == Kind::Slow, operation.output == Output::Operation, "{}", operation.name);
        assert_eq!(operation.kind == Kind::Read, operation.method.word() == "GET", "{}", operation.name);
    }
}

#[test]
fn every_schema_and_code_that_is_named_exists() {
    let known = |kind: FieldKind, place: &str| {
        if let FieldKind::Object(name) | FieldKind::List(name) = kind {
            assert!(schema(name).is_some(), "{place}: {name}");
        }
    };
    for operation in operations() {
        for field in operation.fields() {
            known(field.kind, operation.name);
        }
        if let Some(name) = operation.output.schema() {
            let columns = schema(name).unwrap().columns(Show::Table).count();
            assert!(columns > 0, "{name} has no columns");
        }
        for code in operation.errors {
            assert!(error_code(code).is_some(), "{}: {code}", operation.name);
        }
    }
    for schema in schemas() {
        unique(schema.properties.iter().map(|property| property.name));
        for property in schema.properties {
            known(property.kind, schema.name);
        }
    }
}

fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match (name.as_str(), member) {
                    ("$ref", Value::String(target)) => found.push(target),
                    _ => references(member, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn every_reference_in_the_openapi_document_leads_somewhere() {
    let document = openapi("1.2.3");
    assert_eq!(document["openapi"], "3.1.0");
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 50);
    for target in found {
        let pointer = target.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{target}");
    }
}

#[test]
fn the_openapi_document_holds_every_operation_with_its_inputs() {
    let document = openapi("1.2.3");
    for operation in operations() {
        let described = &document["paths"][operation.path][operation.method.word().to_ascii_lowercase()];
        assert_eq!(described["operationId"], operation.name);
        let responses = described["responses"].as_object().unwrap();
        assert!(responses.keys().any(|status| status.starts_with('2')), "{}", operation.name);
        assert!(responses.contains_key("500"));
        assert_eq!(responses.contains_key("401"), !operation.public || operation.errors.contains(&"login_failed"));
        for field in operation.fields() {
            let named = match field.place {
                Place::Path | Place::Query => {
                    let parameters = described["parameters"].as_array().unwrap();
                    parameters.iter().any(|parameter| parameter["name"] == field.name)
                }
                Place::Body => {
                    let body = &described["requestBody"]["content"]["application/json"]["schema"]["properties"];
                    body.get(field.name).is_some()
                }
            };
            assert!(named, "{}: {}", operation.name, field.name);
        }
    }
}

#[test]
fn the_document_is_the_same_each_time() {
    assert_eq!(openapi("1").to_string(), openapi("1").to_string());
}
