//! Whether the service lives and is ready, and which versions it speaks.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::Api;
use super::problem::Problem;

/// Longer than this, and the driver counts as stuck.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// What a client can rely on; only ever added to.
const FEATURES: &[&str] = &[
    "rest",
    "xmlrpc",
    "operations",
    "events-sse",
    "csv",
    "html",
    "iqy",
    "cbe",
    "idempotency-key",
    "etag",
    "api-tokens",
    "join-tokens",
];

static OPENAPI: LazyLock<String> = LazyLock::new(|| roost_registry::openapi(env!("CARGO_PKG_VERSION")).to_string());

pub(super) async fn versions() -> Json<Value> {
    Json(json!({
        "versions": [{"version": "v1", "path": roost_registry::BASE}],
        "features": FEATURES,
        "version": env!("CARGO_PKG_VERSION"),
        "openapi": format!("{}/openapi.json", roost_registry::BASE),
        "xmlrpc": "/RPC2",
    }))
}

pub(super) async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI.as_str()).into_response()
}

/// The process answers.
pub(super) async fn alive() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// The driver answers and the database can be written.
pub(super) async fn ready(State(api): State<Arc<Api>>) -> Result<Json<Value>, Problem> {
    let answer = tokio::time::timeout(ANSWERS_WITHIN, api.handle.read(|grid, _, _| grid.hosts().len())).await;
    let hosts = answer.map_err(|_| Problem::new("not_ready", "The grid's task does not answer."))??;
    if api.handle.storage_failing() {
        return Err(Problem::new("not_ready", "The database can't be written; hosts and guests are still shown.")
            .advice("Free space on its disk; it goes on by itself."));
    }
    Ok(Json(json!({"status": "ready", "hosts": hosts})))
}
