//! The OpenAPI 3.1 document, made from the table alone.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::{BASE, Field, FieldKind, Kind, Operation, Output, Place, Schema, operations, schemas};

/// The document for this version of the program. Same table, same document, byte for byte.
pub fn openapi(version: &str) -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Roost",
            "version": version,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": BASE}],
        "security": [{"bearer": []}, {"cookie": []}, {"basic": []}],
        "tags": tags(),
        "paths": paths(),
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "cookie": {"type": "apiKey", "in": "cookie", "name": "__Host-roost"},
                "basic": {"type": "http", "scheme": "basic"},
            },
            "schemas": components(),
        },
    })
}

fn tags() -> Value {
    let mut tags: Vec<&str> = operations().iter().map(tag).collect();
    tags.sort_unstable();
    tags.dedup();
    tags.into_iter().map(|name| json!({ "name": name })).collect()
}

fn tag(operation: &Operation) -> &'static str {
    operation.name.split_once('.').map_or(operation.name, |(noun, _)| noun)
}

fn paths() -> Value {
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for operation in operations() {
        let method = operation.method.word().to_ascii_lowercase();
        paths.entry(operation.path).or_default().insert(method, one(operation));
    }
    json!(paths)
}

fn one(operation: &Operation) -> Value {
    let mut described = json!({
        "operationId": operation.name,
        "tags": [tag(operation)],
        "summary": operation.summary,
        "responses": responses(operation),
        "x-permission": operation.permission,
    });
    if !operation.detail.is_empty() {
        described["description"] = json!(operation.detail);
    }
    let parameters = parameters(operation);
    if !parameters.is_empty() {
        described["parameters"] = json!(parameters);
    }
    if let Some(body) = body(operation) {
        described["requestBody"] = body;
    }
    if operation.public {
        described["security"] = json!([]);
    }
    described
}

fn parameters(operation: &Operation) -> Vec<Value> {
    let mut parameters: Vec<Value> = operation.fields().filter_map(parameter).collect();
    if operation.keyed() {
        let help = "1 to 200 letters of the caller's choice. The same request with the same key within 24 h is answered \
                    with the first answer and not carried out again; another request with it is refused";
        parameters.push(header("Idempotency-Key", help));
    }
    if operation.versioned() {
        parameters.push(header("If-None-Match", "ETags the caller has: 304 while one of them is true"));
    }
    if operation.conditional() {
        let help = "An ETag of the thing: 412 unless it is still the same. Samples, such as CPU in use, don't count";
        parameters.push(header("If-Match", help));
    }
    if operation.kind == Kind::Slow {
        parameters.push(header("Prefer", "wait=30: answer when it has ended, or after 30 s"));
    }
    parameters
}

fn header(name: &str, help: &str) -> Value {
    json!({"name": name, "in": "header", "required": false, "description": help, "schema": {"type": "string"}})
}

fn parameter(field: &Field) -> Option<Value> {
    let place = match field.place {
        Place::Path => "path",
        Place::Query => "query",
        Place::Body => return None,
    };
    Some(json!({
        "name": field.name,
        "in": place,
        "required": field.required,
        "description": field.help,
        "schema": of_kind(field.kind),
    }))
}

fn body(operation: &Operation) -> Option<Value> {
    let fields: Vec<&Field> = operation.inputs.iter().filter(|field| field.place == Place::Body).collect();
    if fields.is_empty() {
        return None;
    }
    let members = fields.iter().map(|field| (field.name, field.kind, field.help, field.required));
    let mut schema = object(members);
    schema["additionalProperties"] = json!(false);
    let required = fields.iter().any(|field| field.required);
    Some(json!({"required": required, "content": {"application/json": {"schema": schema}}}))
}

fn responses(operation: &Operation) -> Value {
    let mut responses = Map::new();
    let (status, mut good) = success(operation.output);
    if operation.versioned() {
        good["headers"] = json!({"ETag": {"description": "Its version", "schema": {"type": "string"}}});
        responses.insert("304".to_owned(), json!({"description": "It is as the caller has it"}));
    }
    responses.insert(status.to_owned(), good);
    let mut bad: BTreeMap<u16, Vec<String>> = BTreeMap::new();
    for code in operation.error_codes() {
        bad.entry(code.status).or_default().push(format!("`{}`: {}", code.code, code.title));
    }
    for (status, lines) in bad {
        let content = json!({"application/problem+json": {"schema": reference("problem")}});
        responses.insert(status.to_string(), json!({"description": lines.join("; "), "content": content}));
    }
    Value::Object(responses)
}

fn success(output: Output) -> (&'static str, Value) {
    let json_of = |schema: Value| json!({"application/json": {"schema": schema}});
    match output {
        Output::Object(name) => ("200", json!({"description": "It", "content": json_of(reference(name))})),
        Output::List(name) => {
            let mut content = json_of(reference(&page_name(name)));
            for other in ["text/csv", "text/html", "text/x-ms-iqy"] {
                content[other] = json!({"schema": {"type": "string"}});
            }
            if name == "event" {
                content["application/xml"] = json!({"schema": {"type": "string"}});
            }
            ("200", json!({"description": "One page", "content": content}))
        }
        Output::Operation => {
            let location = json!({"description": "Where to watch it", "schema": {"type": "string"}});
            let content = json_of(reference("operation"));
            ("202", json!({"description": "It goes on", "headers": {"Location": location}, "content": content}))
        }
        Output::Nothing => ("204", json!({"description": "Done"})),
        Output::Picture => {
            let content = json!({"image/png": {"schema": {"type": "string", "format": "binary"}}});
            ("200", json!({"description": "A picture; `last-modified` says when it was taken", "content": content}))
        }
        Output::Stream(name) => {
            let content = json!({"text/event-stream": {"schema": {"type": "string"}}});
            ("200", json!({"description": format!("Events; the data of each is a `{name}`"), "content": content}))
        }
    }
}

fn components() -> Value {
    let mut components = Map::new();
    for schema in schemas() {
        components.insert(schema.name.to_owned(), component(schema));
    }
    for operation in operations() {
        if let Output::List(name) = operation.output {
            components.insert(page_name(name), page(name));
        }
    }
    Value::Object(components)
}

fn component(schema: &Schema) -> Value {
    let members =
        schema.properties.iter().map(|property| (property.name, property.kind, property.help, property.always));
    let mut component = object(members);
    component["description"] = json!(schema.help);
    component
}

fn page_name(schema: &str) -> String {
    format!("{schema}_page")
}

fn page(name: &str) -> Value {
    json!({
        "type": "object",
        "required": ["items"],
        "properties": {
            "items": {"type": "array", "items": reference(name)},
            "next": {"type": ["string", "null"], "description": "Cursor of the next page; absent or null on the last"},
            "total": {"type": "integer", "description": "All items, where asked for"},
        },
    })
}

fn object(members: impl Iterator<Item = (&'static str, FieldKind, &'static str, bool)>) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (name, kind, help, always) in members {
        let mut property = of_kind(kind);
        property["description"] = json!(help);
        properties.insert(name.to_owned(), property);
        if always {
            required.push(name);
        }
    }
    let mut object = json!({"type": "object", "properties": properties});
    if !required.is_empty() {
        object["required"] = json!(required);
    }
    object
}

fn of_kind(kind: FieldKind) -> Value {
    match kind {
        FieldKind::Text | FieldKind::Document => json!({"type": "string"}),
        FieldKind::Secret => json!({"type": "string", "format": "password"}),
        FieldKind::Integer => json!({"type": "integer"}),
        FieldKind::Number => json!({"type": "number"}),
        FieldKind::Boolean => json!({"type": "boolean"}),
        FieldKind::Seconds => json!({"type": "integer", "minimum": 0}),
        FieldKind::Time => json!({"type": "string", "format": "date-time"}),
        FieldKind::Choice(words) => json!({"type": "string", "enum": words}),
        FieldKind::TextList => json!({"type": "array", "items": {"type": "string"}}),
        FieldKind::Object(name) => reference(name),
        FieldKind::List(name) => json!({"type": "array", "items": reference(name)}),
        FieldKind::Anything => json!({"type": "object"}),
    }
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}
