//! `system.*`: what there is, and how it is called.

use roost_registry::{FieldKind, Operation, Output, operations};
use serde_json::{Value, json};

use super::Fault;
use crate::api::problem::{Fault as InputFault, Problem};
use crate::api::suggest::did_you_mean;

/// Methods of the face itself: name, signature, help.
const OWN: &[(&str, &[&str], &str)] = &[
    ("system.listMethods", &["array"], "Names of all methods"),
    ("system.methodSignature", &["array", "string"], "Types of a method's result and parameters"),
    ("system.methodHelp", &["string", "string"], "What a method does"),
    ("system.getCapabilities", &["struct"], "Conventions this server keeps"),
    ("system.multicall", &["array", "array"], "Up to 100 calls at once: [{methodName, params}]"),
];

/// The operation of this name, if this face has it.
pub(super) fn method(name: &str) -> Result<&'static Operation, Fault> {
    let operation = roost_registry::find(name).filter(|operation| operation.faces.no_xmlrpc.is_none());
    operation.ok_or_else(|| {
        let names: Vec<&str> = names().collect();
        let hint = did_you_mean(name, &names);
        Fault::new(-32601, format!("not_found: there is no such method{hint}"))
    })
}

/// All methods.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    let registry = operations().iter().filter(|operation| operation.faces.no_xmlrpc.is_none());
    registry.map(|operation| operation.name).chain(OWN.iter().map(|own| own.0))
}

/// A fault that says how the method is called.
pub(super) fn usage(operation: &Operation, wrong: &str) -> Fault {
    Fault::new(-32602, format!("invalid: {wrong}; call it as {}.", shape(operation)))
}

/// A fault that names the input meant.
pub(super) fn no_such_input(operation: &Operation, name: &str) -> Fault {
    let names: Vec<&str> = operation.xmlrpc_fields().map(|field| field.name).collect();
    let detail = format!("{} has no such input in XML-RPC{}", operation.name, did_you_mean(name, &names));
    let fault = InputFault { pointer: format!("/{name}"), code: "unknown", detail };
    Problem::faults(vec![fault]).into()
}

/// Any `system.` method but multicall.
pub(super) fn call(method: &str, params: &[Value]) -> Result<Value, Fault> {
    match (method, params) {
        ("system.listMethods", []) => Ok(names().collect()),
        ("system.getCapabilities", []) => Ok(capabilities()),
        ("system.methodSignature", [Value::String(name)]) => signature(name),
        ("system.methodHelp", [Value::String(name)]) => help(name).map(Value::String),
        (known, _) if OWN.iter().any(|own| own.0 == known) => {
            Err(Fault::new(-32602, "invalid: the parameters don't fit; see system.methodSignature."))
        }
        (_, _) => Err(Fault::new(-32601, "not_found: there is no such method.")),
    }
}

fn signature(name: &str) -> Result<Value, Fault> {
    if let Some(own) = OWN.iter().find(|own| own.0 == name) {
        return Ok(json!([own.1]));
    }
    let operation = method(name)?;
    let mut least = vec![result(operation)];
    if !operation.public {
        least.push("string");
    }
    least.extend(operation.positional().map(|field| kind(field.kind)));
    let mut signatures = vec![least.clone()];
    if has_options(operation) {
        least.push("struct");
        signatures.push(least);
    }
    Ok(json!(signatures))
}

fn help(name: &str) -> Result<String, Fault> {
    if let Some(own) = OWN.iter().find(|own| own.0 == name) {
        return Ok(own.2.to_owned());
    }
    let operation = method(name)?;
    let mut text = format!("{}\n{}.", shape(operation), operation.summary);
    if !operation.detail.is_empty() {
        text.push('\n');
        text.push_str(operation.detail);
    }
    for field in operation.xmlrpc_fields() {
        let optional = if field.required { "" } else { ", optional" };
        text.push_str(&format!("\n  {} ({}{optional}): {}", field.name, kind(field.kind), field.help));
    }
    text.push_str(&format!("\nPermission: {}", operation.permission));
    Ok(text)
}

fn shape(operation: &Operation) -> String {
    let mut params: Vec<&str> = if operation.public { Vec::new() } else { vec!["session"] };
    params.extend(operation.positional().map(|field| field.name));
    if has_options(operation) {
        params.push("{options}");
    }
    format!("{}({})", operation.name, params.join(", "))
}

fn has_options(operation: &Operation) -> bool {
    operation.xmlrpc_fields().any(|field| !field.required)
}

fn result(operation: &Operation) -> &'static str {
    match operation.output {
        _ if operation.name == "session.login" => "string",
        Output::Object(_) | Output::Operation | Output::Stream(_) => "struct",
        Output::List(_) => "array",
        Output::Nothing => "boolean",
        Output::Picture => "string",
    }
}

fn kind(kind: FieldKind) -> &'static str {
    match kind {
        FieldKind::Text | FieldKind::Secret | FieldKind::Document | FieldKind::Choice(_) | FieldKind::Time => "string",
        FieldKind::Integer | FieldKind::Seconds => "int",
        FieldKind::Number => "double",
        FieldKind::Boolean => "boolean",
        FieldKind::TextList | FieldKind::List(_) => "array",
        FieldKind::Object(_) | FieldKind::Anything => "struct",
    }
}

fn capabilities() -> Value {
    let one = |url: &str, version: u32| json!({"specUrl": url, "specVersion": version});
    json!({
        "xmlrpc": one("http://www.xmlrpc.com/spec", 1),
        "introspection": one("http://xmlrpc-c.sourceforge.net/introspection.html", 1),
        "system.multicall": one("http://www.xmlrpc.com/discuss/msgReader$1208", 1),
        "faults_interop": one("http://xmlrpc-epi.sourceforge.net/specs/rfc.fault_codes.php", 20_010_516),
    })
}
