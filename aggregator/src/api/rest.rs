//! The REST face: finds the operation by method and path, gathers its inputs, and writes down what it came to.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use roost_protocol::look::Picture;
use roost_registry::{BASE, Http, Kind, Matched, Operation, Output as Shape, Place};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::dispatch::{self, Output};
use super::input::{Given, Input};
use super::ops::operation::{WAIT_MOST_S, until_ended};
use super::page::Page;
use super::problem::Problem;
use super::version::{Tags, Version};
use super::{Api, BODY, Peer, cbe, csv, html, iqy};
use crate::auth::{Caller, Via};

/// Slower bodies are given up.
const BODY_WITHIN: Duration = Duration::from_secs(30);
/// `__Host-`: browsers send it over HTTPS, to this host alone, and nobody else can set it.
const COOKIE: &str = "__Host-roost";
/// A page of another site can't send it, whatever its value.
const CSRF: &str = "x-roost-csrf";
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Longest Idempotency-Key.
const KEY: usize = 200;
/// Query parameters looked at.
const PARAMETERS: usize = 100;

/// Everything that has no route of its own.
pub(super) async fn answer(State(api): State<Arc<Api>>, request: Request) -> Response {
    let answer = if request.headers().contains_key(IDEMPOTENCY_KEY) {
        // On a task of its own: a caller whose connection breaks asks again by the same key for what came of it.
        let carried_out = tokio::spawn(async move { answered(&api, request).await }).await;
        carried_out.unwrap_or_else(|_| Err(Problem::new("internal", "The request broke off.")))
    } else {
        answered(&api, request).await
    };
    answer.unwrap_or_else(IntoResponse::into_response)
}

pub(super) async fn method_not_allowed() -> Problem {
    Problem::new("method_not_allowed", "The path has no such method.")
}

async fn answered(api: &Api, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let (path, matched) = match found(&parts)? {
        Ok(found) => found,
        Err(not_allowed) => return Ok(not_allowed),
    };
    let operation = matched.operation;
    let mut pairs = pairs(&parts)?;
    let caller = match iqy::token(operation, &mut pairs) {
        Some(token) => iqy::caller(api, &token, path, &pairs, Peer::of(&parts.extensions)).await?,
        None => who(api, &parts, operation).await?,
    };
    let mut given = Vec::new();
    for (name, value) in matched.values {
        given.push(Given { name: name.to_owned(), value: json!(decoded(value)?), place: Some(Place::Path) });
    }
    query(&parts, operation, &pairs, &mut given);
    if operation.name == "event.stream" {
        last_event_id(&parts.headers, &mut given)?;
    }
    self::body(&parts.headers, body, &mut given).await?;
    let mut input = Input::check(operation, given, idempotency_key(&parts.headers)?)?;
    input.if_match = if_match(&parts.headers, operation)?;
    let known = if operation.versioned() { Tags::if_none_match(&parts.headers)? } else { None };
    let format = input.text("format").unwrap_or("json").to_owned();
    if format == "iqy" {
        return iqy::answer(api, &caller, operation, &parts, path, pairs).await;
    }
    let output = dispatch::run(api, &caller, operation, input).await?;
    let wait = wait_wished(&parts.headers);
    let response = match output {
        Output::Operation(id, _) if wait > 0 => slow(&until_ended(api, id, wait).await?.0),
        Output::Operation(_, value) => slow(&value),
        Output::Object(value) if operation.name == "session.login" => logged_in(&value)?,
        Output::Object(value) => json_response(&value),
        Output::Thing(value, version) => one(&value, &version, known.as_ref())?,
        Output::List(page) => list(api, operation, &page, &parts, &format),
        Output::Stream(follow) => follow.response(),
        Output::Picture(picture) => shown(picture),
        Output::Nothing => StatusCode::NO_CONTENT.into_response(),
    };
    Ok(response)
}

type Found<'a> = (&'a str, Matched<'a>);

/// The operation of this method and path, or the answer that the path has other methods.
fn found(parts: &Parts) -> Result<Result<Found<'_>, Response>, Problem> {
    let path = parts.uri.path();
    let none = || Problem::new("not_found", "There is no such path.").advice(format!("See {BASE}/openapi.json."));
    let below = path.strip_prefix(BASE).ok_or_else(none)?;
    let method = match parts.method {
        Method::GET | Method::HEAD => Some(Http::Get),
        Method::POST => Some(Http::Post),
        Method::PUT => Some(Http::Put),
        Method::PATCH => Some(Http::Patch),
        Method::DELETE => Some(Http::Delete),
        _ => None,
    };
    if let Some(matched) = method.and_then(|method| roost_registry::route(method, below)) {
        return Ok(Ok((path, matched)));
    }
    let all = [Http::Get, Http::Post, Http::Put, Http::Patch, Http::Delete];
    let others: Vec<&str> =
        all.into_iter().filter(|http| roost_registry::route(*http, below).is_some()).map(Http::word).collect();
    if others.is_empty() {
        return Err(none());
    }
    let problem = Problem::new("method_not_allowed", format!("The path has only {}.", others.join(", ")));
    let mut response = problem.into_response();
    if let Ok(allow) = HeaderValue::from_str(&others.join(", ")) {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    Ok(Err(response))
}

async fn who(api: &Api, parts: &Parts, operation: &Operation) -> Result<Caller, Problem> {
    let address = Peer::of(&parts.extensions);
    if operation.public {
        return Ok(Caller::nobody(address));
    }
    if let Some(caller) = by_header(api, &parts.headers, address).await? {
        return Ok(caller);
    }
    let Some(secret) = cookie(&parts.headers) else { return Ok(Caller::nobody(address)) };
    let caller =
        api.auth.by_secret(secret, address, (api.now)()).await?.filter(|caller| matches!(caller.via, Via::Session(_)));
    let Some(caller) = caller else { return Ok(Caller::nobody(address)) };
    let reading = matches!(operation.method, Http::Get);
    if !reading && !parts.headers.contains_key(CSRF) {
        return Err(Problem::new(
            "forbidden",
            "A request by cookie that changes something needs the header X-Roost-CSRF.",
        )
        .advice("Send X-Roost-CSRF: 1, or use Authorization: Bearer."));
    }
    Ok(caller)
}

/// By `Authorization`: Bearer, or Basic with the token as password. A wrong secret is refused, not overlooked.
pub(super) async fn by_header(api: &Api, headers: &HeaderMap, address: IpAddr) -> Result<Option<Caller>, Problem> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let refused = || {
        Problem::new("login_required", "The token is not valid: mistyped, expired or taken back.")
            .advice("Log in again.")
    };
    let (scheme, rest) = value.to_str().ok().and_then(|value| value.split_once(' ')).ok_or_else(refused)?;
    let (user, secret) = match scheme.to_ascii_lowercase().as_str() {
        "bearer" => (None, rest.trim().to_owned()),
        "basic" => {
            let bytes = STANDARD.decode(rest.trim()).map_err(|_| refused())?;
            let text = String::from_utf8(bytes).map_err(|_| refused())?;
            let (user, password) = text.split_once(':').ok_or_else(refused)?;
            (Some(user.to_owned()), password.to_owned())
        }
        _ => return Err(Problem::new("login_required", "Only Bearer and Basic are known.")),
    };
    let caller = api.auth.by_secret(&secret, address, (api.now)()).await?.ok_or_else(refused)?;
    // Excel and old clients need not know whose token it is; who says a name must say the right one.
    if user.is_some_and(|user| !user.is_empty() && user != caller.user) {
        return Err(refused());
    }
    Ok(Some(caller))
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, value)| value)
}

fn pairs(parts: &Parts) -> Result<Vec<(String, String)>, Problem> {
    let pairs = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
        .map_err(|_| Problem::new("bad_request", "The query can't be read."))?;
    if pairs.0.len() > PARAMETERS {
        return Err(Problem::new("bad_request", format!("The query has more than {PARAMETERS} parameters.")));
    }
    Ok(pairs.0)
}

fn query(parts: &Parts, operation: &Operation, pairs: &[(String, String)], given: &mut Vec<Given>) {
    for (name, value) in pairs {
        given.push(Given { name: name.clone(), value: json!(value), place: Some(Place::Query) });
    }
    let accepts_csv = parts
        .headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.trim_start().starts_with("text/csv"));
    let listed = matches!(operation.output, Shape::List(_));
    if listed && accepts_csv && !given.iter().any(|one| one.name == "format") {
        given.push(Given { name: "format".into(), value: json!("csv"), place: Some(Place::Query) });
    }
}

/// The header that browsers send when they come back; it wins over the query they began with.
fn last_event_id(headers: &HeaderMap, given: &mut Vec<Given>) -> Result<(), Problem> {
    let Some(id) = headers.get("last-event-id") else { return Ok(()) };
    let id = id.to_str().map_err(|_| Problem::new("bad_request", "Last-Event-ID is not text."))?;
    given.retain(|one| one.name != "since");
    given.push(Given { name: "since".into(), value: json!(id), place: Some(Place::Query) });
    Ok(())
}

async fn body(headers: &HeaderMap, body: Body, given: &mut Vec<Given>) -> Result<(), Problem> {
    let bytes = read(headers, body).await?;
    if bytes.is_empty() {
        return Ok(());
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if kind != "application/json" {
        return Err(Problem::new("unsupported_media_type", "The body must be JSON.")
            .advice("Send Content-Type: application/json."));
    }
    let members: Map<String, Value> = serde_json::from_slice(&bytes)
        .map_err(|error| Problem::new("bad_request", format!("The body is not a JSON object: {error}.")))?;
    // A member that is null is one that is not given.
    for (name, value) in members.into_iter().filter(|(_, value)| !value.is_null()) {
        given.push(Given { name, value, place: Some(Place::Body) });
    }
    Ok(())
}

/// The body, within its bounds. It is never unpacked: what is small stays small.
pub(super) async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    let too_large = || Problem::new("too_large", format!("The body has more than {BODY} bytes."));
    if headers.contains_key(header::CONTENT_ENCODING) {
        return Err(Problem::new("unsupported_media_type", "A packed body is not taken.").advice("Send it unpacked."));
    }
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > BODY) {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_WITHIN, to_bytes(body, BODY)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err(too_large()),
        Err(_) => Err(Problem::new("bad_request", "The body came too slowly.")),
    }
}

fn if_match(headers: &HeaderMap, operation: &Operation) -> Result<Option<Tags>, Problem> {
    let tags = Tags::if_match(headers)?;
    if tags.is_some() && operation.kind != Kind::Read && !operation.conditional() {
        return Err(Problem::new(
            "bad_request",
            format!("{} changes no one thing that If-Match could be about.", operation.name),
        ));
    }
    Ok(tags.filter(|_| operation.conditional()))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    match key.to_str() {
        Ok(key) if (1..=KEY).contains(&key.len()) => Ok(Some(key.to_owned())),
        Ok(_) | Err(_) => {
            Err(Problem::new("bad_request", format!("Idempotency-Key must have 1 to {KEY} ASCII letters.")))
        }
    }
}

/// Seconds from `Prefer: wait=30`.
fn wait_wished(headers: &HeaderMap) -> u64 {
    let lines = headers.get_all("prefer").iter().filter_map(|line| line.to_str().ok());
    let mut waits = lines.flat_map(|line| line.split([',', ';'])).filter_map(|part| part.trim().strip_prefix("wait="));
    waits.find_map(|wait| wait.trim().parse::<u64>().ok()).unwrap_or(0).min(WAIT_MOST_S)
}

pub(super) fn decoded(text: &str) -> Result<String, Problem> {
    let wrong = || Problem::new("bad_request", "The path is not percent-encoded UTF-8.");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next().ok_or_else(wrong)?, rest.next().ok_or_else(wrong)?];
        let digits = std::str::from_utf8(&digits).map_err(|_| wrong())?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| wrong())?);
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

fn json_response(value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => Problem::new("internal", format!("The answer can't be written: {error}.")).into_response(),
    }
}

/// A picture of a moment, which nobody is to keep.
fn shown(picture: Picture) -> Response {
    let taken = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(picture.at.0));
    let headers = [
        (header::CONTENT_TYPE, "image/png"),
        (header::LAST_MODIFIED, taken.as_str()),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, picture.png).into_response()
}

/// With its ETag; nothing but that when the caller has it already.
fn one(value: &Value, version: &Version, known: Option<&Tags>) -> Result<Response, Problem> {
    let mut response = match known {
        Some(known) if known.have(version) => StatusCode::NOT_MODIFIED.into_response(),
        Some(_) | None => json_response(value),
    };
    let etag = HeaderValue::from_str(&version.etag());
    let etag = etag.map_err(|_| Problem::new("internal", "The ETag can't be written."))?;
    response.headers_mut().insert(header::ETAG, etag);
    Ok(response)
}

/// 202 while it goes on, 200 when it ended while the caller waited.
fn slow(value: &Value) -> Response {
    let ended = !matches!(value["state"].as_str(), Some("queued" | "running"));
    let status = if ended { StatusCode::OK } else { StatusCode::ACCEPTED };
    let location = format!("{BASE}/operations/{}", value["id"].as_str().unwrap_or_default());
    (status, [(header::LOCATION, location)], json_response(value)).into_response()
}

fn logged_in(value: &Value) -> Result<Response, Problem> {
    let token = value["token"].as_str().unwrap_or_default();
    let cookie = format!("{COOKIE}={token}; Path=/; Secure; HttpOnly; SameSite=Lax");
    let cookie =
        HeaderValue::from_str(&cookie).map_err(|_| Problem::new("internal", "The cookie can't be written."))?;
    let mut response = json_response(value);
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    Ok(response)
}

fn list(api: &Api, operation: &Operation, page: &Page, parts: &Parts, format: &str) -> Response {
    let text = |kind: &'static str, text: String| ([(header::CONTENT_TYPE, kind)], text).into_response();
    let mut response = match format {
        "csv" => text("text/csv; charset=utf-8; header=present", csv::write(page)),
        "html" => text("text/html; charset=utf-8", html::write(operation.summary, page)),
        "cbe" => {
            let grid = cbe::grid_name(&api.handle.key.fingerprint().grid_id().to_string());
            text("application/xml; charset=utf-8", cbe::write(&grid, page))
        }
        _ => json_response(page),
    };
    let (path, query) = (parts.uri.path(), parts.uri.query().unwrap_or_default());
    let link = page.next.as_deref().map(|next| link_to_next(path, query, next));
    if let Some(link) = link.and_then(|link| HeaderValue::from_str(&link).ok()) {
        response.headers_mut().insert(header::LINK, link);
    }
    response
}

fn link_to_next(path: &str, query: &str, next: &str) -> String {
    let mut kept: Vec<&str> = query
        .split('&')
        .filter(|pair| !pair.is_empty() && !pair.starts_with("cursor=") && !pair.starts_with("offset="))
        .collect();
    let cursor = format!("cursor={next}");
    kept.push(&cursor);
    format!("<{}>; rel=\"next\"", Uri::try_from(format!("{path}?{}", kept.join("&"))).unwrap_or_default())
}
