//! Around every request: its id, its time-out, the headers every response has, and one line in the log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::Problem;
use super::server::Doubtful;
use super::{Api, Peer};

/// Longest time until a response begins: the longest wait a caller may ask for (60 s), and room to read a slow body.
const TIMEOUT: Duration = Duration::from_secs(100);
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Browsers: take types as they are said, show nothing of ours in frames, keep nothing, tell no one where from.
const ALWAYS: &[(HeaderName, &str)] = &[
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::CACHE_CONTROL, "no-store"),
    (header::REFERRER_POLICY, "no-referrer"),
];

/// The outermost layer.
pub(super) async fn around(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let id = api.request_id();
    let began = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let peer = Peer::of(request.extensions());
    let mut response = match acceptable(&api, &request) {
        Ok(()) => match tokio::time::timeout(TIMEOUT, next.run(request)).await {
            Ok(response) => response,
            Err(_) => Problem::new("timed_out", "The request took too long.").into_response(),
        },
        Err(problem) => problem.into_response(),
    };
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        response = with_headers_of(&response, problem.response(&id));
    }
    let headers = response.headers_mut();
    for (name, value) in ALWAYS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, value);
    }
    let took_ms = began.elapsed().as_millis();
    // Debug writes the path with escapes: it is the caller's text.
    tracing::debug!(id, %peer, %method, ?path, status = response.status().as_u16(), took_ms, "request");
    response
}

fn acceptable(api: &Api, request: &Request) -> Result<(), Problem> {
    if request.extensions().get::<Doubtful>().is_some() {
        return Err(Problem::new("bad_request", "A head has both Content-Length and Transfer-Encoding."));
    }
    api.names.admit(request.uri(), request.version(), request.headers())
}

/// Headers that were set beside a problem, such as Allow, stay.
fn with_headers_of(before: &Response, mut after: Response) -> Response {
    if let Some(allow) = before.headers().get(header::ALLOW) {
        after.headers_mut().insert(header::ALLOW, allow.clone());
    }
    after
}
