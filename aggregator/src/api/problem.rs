//! Errors as callers see them: problem+json (RFC 9457) for REST, faults for XML-RPC, both from the registry's codes.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use roost_aggregator_core::call::{CallError, CallErrorCode};
use roost_protocol::operation::Failure;
use roost_registry::ErrorCode;
use serde_json::{Map, Value, json};

use crate::auth::{LoginError, NoHash};
use crate::handle::Away;

/// What problem types begin with; the code follows.
const DOCS: &str = "urn:roost:error:";
/// Wrong inputs told at once; more don't help.
const FAULTS: usize = 20;

/// One wrong input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// JSON pointer.
    pub(crate) pointer: String,
    pub(crate) code: &'static str,
    pub(crate) detail: String,
}

/// Why a request was not carried out.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    inner: Box<Inner>,
}

#[derive(Clone, Debug)]
struct Inner {
    code: &'static ErrorCode,
    detail: String,
    advice: Option<String>,
    faults: Vec<Fault>,
    retry_after_s: Option<u64>,
}

/// Stands for a code the registry does not have: a fault of our own, found by a test.
static UNKNOWN: ErrorCode = ErrorCode { code: "internal", status: 500, fault: -32603, title: "A fault of our own" };

impl Problem {
    /// `code` is one of the registry's; `detail` says what was tried and why it failed.
    pub(crate) fn new(code: &str, detail: impl Into<String>) -> Self {
        let code = roost_registry::error_code(code).unwrap_or(&UNKNOWN);
        let inner = Inner { code, detail: detail.into(), advice: None, faults: vec![], retry_after_s: None };
        Self { inner: Box::new(inner) }
    }

    /// What to do.
    pub(crate) fn advice(mut self, advice: impl Into<String>) -> Self {
        self.inner.advice = Some(advice.into());
        self
    }

    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.inner.retry_after_s = Some(seconds);
        self
    }

    /// Wrong inputs.
    pub(crate) fn faults(faults: Vec<Fault>) -> Self {
        let detail = match faults.as_slice() {
            [one] => format!("{}: {}", one.pointer, one.detail),
            many => format!("{} inputs are not acceptable", many.len()),
        };
        let mut problem = Self::new("invalid", detail);
        problem.inner.faults = faults;
        problem.inner.faults.truncate(FAULTS);
        problem
    }

    /// One wrong input.
    pub(crate) fn fault(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::faults(vec![Fault { pointer: pointer.into(), code: "invalid", detail: detail.into() }])
    }

    /// Nothing is called so.
    pub(crate) fn not_found(what: &str, name: &str) -> Self {
        Self::new("not_found", format!("There is no {what} {name:?}."))
    }

    pub(crate) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.inner.code.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// XML-RPC fault code.
    pub(crate) fn fault_code(&self) -> i32 {
        self.inner.code.fault
    }

    /// `code: sentence`, as XML-RPC faults say it.
    pub(crate) fn sentence(&self) -> String {
        let mut text = format!("{}: {}", self.inner.code.code, self.inner.detail);
        for fault in self.inner.faults.iter().filter(|_| self.inner.faults.len() > 1) {
            text.push_str(&format!("; {}: {}", fault.pointer, fault.detail));
        }
        if let Some(advice) = &self.inner.advice {
            text.push(' ');
            text.push_str(advice);
        }
        text
    }

    /// The problem document.
    pub(crate) fn json(&self, request_id: Option<&str>) -> Value {
        let inner = &self.inner;
        let mut json = Map::new();
        json.insert("type".into(), json!(format!("{DOCS}{}", inner.code.code)));
        json.insert("title".into(), json!(inner.code.title));
        json.insert("status".into(), json!(inner.code.status));
        json.insert("detail".into(), json!(inner.detail));
        json.insert("code".into(), json!(inner.code.code));
        let mut some = |name: &str, value: Option<Value>| value.map(|value| json.insert(name.into(), value));
        some("try", inner.advice.as_ref().map(|advice| json!(advice)));
        some("retry_after_s", inner.retry_after_s.map(|seconds| json!(seconds)));
        some("request_id", request_id.map(|id| json!(id)));
        let faults = inner.faults.iter();
        let faults: Vec<Value> =
            faults.map(|fault| json!({"pointer": fault.pointer, "code": fault.code, "detail": fault.detail})).collect();
        some("errors", (!faults.is_empty()).then(|| json!(faults)));
        Value::Object(json)
    }

    /// The response, with the id under which the request is found in the log.
    pub(crate) fn response(&self, request_id: &str) -> Response {
        let mut response = (self.status(), self.json(Some(request_id)).to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.inner.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status() == StatusCode::UNAUTHORIZED {
            // No Basic here: browsers would ask in a window of their own.
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"roost\""));
        }
        response
    }
}

/// Kept in the response's extensions until the outermost layer knows the request's id.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<CallError> for Problem {
    fn from(error: CallError) -> Self {
        let code = match error.code {
            CallErrorCode::NotFound => "not_found",
            CallErrorCode::AlreadyExists => "already_exists",
            CallErrorCode::WrongState => "wrong_state",
            CallErrorCode::Changed => "changed",
            CallErrorCode::KeyReused => "key_reused",
            CallErrorCode::Invalid => "invalid",
            CallErrorCode::Unplaceable => "unplaceable",
            CallErrorCode::HostUnreachable => "host_unreachable",
            CallErrorCode::TooMany => "busy",
            CallErrorCode::Storage => "no_space",
        };
        Self::new(code, error.text)
    }
}

impl From<Failure> for Problem {
    /// A host's "no" to what was asked of it just now.
    fn from(failure: Failure) -> Self {
        let word = serde_json::to_value(failure.code).ok();
        let known = word.as_ref().and_then(|word| word.as_str()).and_then(roost_registry::error_code);
        Self::new(known.map_or("invalid", |known| known.code), failure.text)
    }
}

impl From<Away> for Problem {
    fn from(_: Away) -> Self {
        Self::new("not_ready", "The aggregator is stopping.").advice("Try again when it is back.").retry_after(5)
    }
}

impl From<NoHash> for Problem {
    fn from(error: NoHash) -> Self {
        tracing::error!("{error}");
        Self::new("internal", "The password could not be hashed: the system gives no randomness or memory.")
    }
}

impl From<LoginError> for Problem {
    fn from(error: LoginError) -> Self {
        match error {
            LoginError::Wrong => Self::new("login_failed", "User or password is wrong."),
            LoginError::Slow(wait) => {
                Self::new("slow_down", "Too many log-ins were tried for this user or from this address.")
                    .advice(format!("Try again in {} s.", wait.seconds()))
                    .retry_after(wait.seconds())
            }
            LoginError::Hash(error) => error.into(),
            LoginError::Away(error) => error.into(),
        }
    }
}
