//! The XML-RPC face: the session stands first, then the required inputs in the registry's order, then one struct with
//! the others. Everything else is as in REST.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use roost_registry::{FieldKind, Operation};
use serde_json::{Value, json};

use super::dispatch::{self, Output};
use super::input::{Given, Input};
use super::problem::Problem;
use super::{Api, Peer, rest};
use crate::auth::Caller;

mod introspect;
mod parse;
mod write;

/// Calls in one multicall.
const CALLS: usize = 100;

/// A fault: code and sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    code: i32,
    text: String,
}

impl Fault {
    fn new(code: i32, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

impl From<Problem> for Fault {
    fn from(problem: Problem) -> Self {
        Self { code: problem.fault_code(), text: problem.sentence() }
    }
}

struct Sender<'a> {
    headers: &'a HeaderMap,
    address: IpAddr,
}

/// `POST /RPC2`: answered with 200 also when it is a fault, as clients expect.
pub(super) async fn answer(State(api): State<Arc<Api>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let from = Sender { headers: &parts.headers, address: Peer::of(&parts.extensions) };
    let answer = match rest::read(&parts.headers, body).await {
        Ok(bytes) => called(&api, &from, &bytes).await,
        Err(problem) => Err(problem.into()),
    };
    let text = match answer {
        Ok(value) => write::response(&value),
        Err(fault) => write::fault(fault.code, &fault.text),
    };
    ([(header::CONTENT_TYPE, "text/xml; charset=utf-8")], text).into_response()
}

async fn called(api: &Api, from: &Sender<'_>, bytes: &[u8]) -> Result<Value, Fault> {
    let kind = from.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let text = parse::text(bytes, kind)?;
    let call = parse::call(&text)?;
    if call.method == "system.multicall" {
        return multicall(api, from, &call.params).await;
    }
    one(api, from, &call.method, call.params).await
}

/// Each call answers with a list of one value, or with a fault's struct; one that fails does not stop the others.
async fn multicall(api: &Api, from: &Sender<'_>, params: &[Value]) -> Result<Value, Fault> {
    let [Value::Array(calls)] = params else {
        return Err(Fault::new(-32602, "invalid: system.multicall takes one array of structs."));
    };
    if calls.len() > CALLS {
        return Err(Fault::new(-32602, format!("invalid: at most {CALLS} calls at once.")));
    }
    let mut answers = Vec::with_capacity(calls.len());
    for call in calls {
        let answer = match (&call["methodName"], &call["params"]) {
            (Value::String(method), _) if method == "system.multicall" => {
                Err(Fault::new(-32602, "invalid: system.multicall can't be nested."))
            }
            (Value::String(method), Value::Array(params)) => Box::pin(one(api, from, method, params.clone())).await,
            _ => Err(Fault::new(-32602, "invalid: a call needs methodName and params.")),
        };
        answers.push(match answer {
            Ok(value) => json!([value]),
            Err(fault) => json!({"faultCode": fault.code, "faultString": fault.text}),
        });
    }
    Ok(Value::Array(answers))
}

async fn one(api: &Api, from: &Sender<'_>, method: &str, params: Vec<Value>) -> Result<Value, Fault> {
    if method.starts_with("system.") {
        return introspect::call(method, &params);
    }
    let operation = introspect::method(method)?;
    let (caller, params) = caller(api, from, operation, params).await?;
    let mut input = Input::check(operation, given(operation, params)?, None)?;
    input.whole = true;
    let output = dispatch::run(api, &caller, operation, input).await?;
    Ok(match output {
        Output::Object(value) if operation.name == "session.login" => value["token"].clone(),
        Output::Object(value) | Output::Thing(value, _) | Output::Operation(_, value) => value,
        Output::List(page) => Value::Array(page.into_items()),
        Output::Picture(picture) => json!(STANDARD.encode(picture.png)),
        // XML-RPC has no "nothing".
        Output::Nothing => json!(true),
        Output::Stream(_) => return Err(Fault::new(-32601, "not_found: XML-RPC has no streams.")),
    })
}

/// The session's or API token's text stands first; empty means: as the Authorization header says.
async fn caller(
    api: &Api,
    from: &Sender<'_>,
    operation: &Operation,
    mut params: Vec<Value>,
) -> Result<(Caller, Vec<Value>), Fault> {
    if operation.public {
        return Ok((Caller::nobody(from.address), params));
    }
    let rest = if params.is_empty() { Vec::new() } else { params.split_off(1) };
    let session = match params.first() {
        Some(Value::String(session)) => session.as_str(),
        None => "",
        Some(_) => return Err(introspect::usage(operation, "the session must stand first, as a string")),
    };
    if session.is_empty() {
        let caller = rest::by_header(api, from.headers, from.address).await?;
        return Ok((caller.unwrap_or_else(|| Caller::nobody(from.address)), rest));
    }
    match api.auth.by_secret(session, from.address, (api.now)()).await.map_err(Problem::from)? {
        Some(caller) => Ok((caller, rest)),
        None => Err(Problem::new("login_required", "The session is not valid: mistyped, expired or ended.")
            .advice("Call session.login again.")
            .into()),
    }
}

/// Positional ones, then one struct; or, where that can't be mistaken, one struct with all.
fn given(operation: &Operation, mut params: Vec<Value>) -> Result<Vec<Given>, Fault> {
    let positional: Vec<_> = operation.positional().collect();
    let first_is_struct = positional.first().is_some_and(|field| matches!(field.kind, FieldKind::Object(_)));
    let named = match params.as_slice() {
        [Value::Object(_)] if !first_is_struct => params.pop(),
        _ if params.len() == positional.len() + 1 => params.pop(),
        _ if params.len() == positional.len() => None,
        _ => return Err(introspect::usage(operation, &format!("{} parameters were given", params.len()))),
    };
    let place = None;
    let mut given: Vec<Given> = positional
        .iter()
        .zip(params)
        .map(|(field, value)| Given { name: field.name.to_owned(), value, place })
        .collect();
    match named {
        None | Some(Value::Null) => {}
        Some(Value::Object(members)) => {
            let unknown = |name: &&String| !operation.xmlrpc_fields().any(|field| field.name == name.as_str());
            if let Some(name) = members.keys().find(unknown) {
                return Err(introspect::no_such_input(operation, name));
            }
            given.extend(members.into_iter().map(|(name, value)| Given { name, value, place }));
        }
        Some(_) => return Err(introspect::usage(operation, "the last parameter must be a struct")),
    }
    Ok(given)
}
