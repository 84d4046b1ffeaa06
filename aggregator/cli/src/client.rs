//! HTTP: one request, one answer, or a failure that says what to do.

use std::error::Error;
use std::io::Read;
use std::time::Duration;

use reqwest::blocking::{Client as Http, Response};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, IF_MATCH};
use reqwest::{Method, Url, redirect};
use roost_registry::{BASE, Operation};
use serde_json::Value;

use crate::context::Connection;
use crate::failure::{Exit, Failure};
use crate::trust;

/// A server that can't be connected to in this time is away.
const CONNECT: Duration = Duration::from_secs(10);
/// Longest time for one answer; the server's longest wait is 60 s.
const ANSWER: Duration = Duration::from_secs(90);
/// Largest answer taken: 25,000 guests are 9 MB.
const LARGEST: u64 = 256 << 20;

/// One thing to ask of the server.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Request {
    /// Path segments below the base, not encoded.
    pub(crate) path: Vec<String>,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) body: Option<Value>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

/// A server, and the right to ask it.
pub(crate) struct Client {
    http: Http,
    url: Url,
    token: Option<String>,
}

impl Client {
    pub(crate) fn new(connection: &Connection) -> Result<Self, Failure> {
        let url = url(&connection.url)?;
        let builder = Http::builder()
            .use_preconfigured_tls(trust::config(&connection.trust)?)
            .connect_timeout(CONNECT)
            .timeout(ANSWER)
            .no_proxy()
            // A token goes to the server it is for, not where that server points.
            .redirect(redirect::Policy::none())
            .user_agent(concat!("roost/", env!("CARGO_PKG_VERSION")));
        let http = builder.build().map_err(|cause| unreachable(&url, &cause))?;
        Ok(Self { http, url, token: connection.token.clone() })
    }

    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// Carries out one operation of the table.
    pub(crate) fn call(&self, operation: &Operation, what: &str, request: &Request) -> Result<Answer, Failure> {
        let method = match operation.method {
            roost_registry::Http::Get => Method::GET,
            roost_registry::Http::Post => Method::POST,
            roost_registry::Http::Put => Method::PUT,
            roost_registry::Http::Patch => Method::PATCH,
            roost_registry::Http::Delete => Method::DELETE,
        };
        self.send(method, what, request)
    }

    /// Any method and path.
    pub(crate) fn send(&self, method: Method, what: &str, request: &Request) -> Result<Answer, Failure> {
        let response = self.start(method, request, "application/json", ANSWER)?;
        let answer = read(&self.url, response)?;
        if (200..300).contains(&answer.status) {
            return Ok(answer);
        }
        Err(self.refused(what, &answer))
    }

    /// A PNG.
    pub(crate) fn picture(&self, what: &str, request: &Request) -> Result<Vec<u8>, Failure> {
        let response = self.start(Method::GET, request, "image/png", ANSWER)?;
        if !response.status().is_success() {
            return Err(self.refused(what, &read(&self.url, response)?));
        }
        whole(&self.url, response)
    }

    /// The server's "no", with the way to log in here where that is what is missing.
    fn refused(&self, what: &str, answer: &Answer) -> Failure {
        let mut failure = Failure::from_problem(what, answer.status, &answer.body);
        if failure.code.as_deref() == Some("login_required") {
            failure.hint = format!("roost login {}", self.url);
        }
        failure
    }

    /// A stream of server-sent events after that one; it breaks off after `patience` at the latest.
    pub(crate) fn stream(
        &self,
        request: &Request,
        after: Option<&str>,
        patience: Duration,
    ) -> Result<Response, Failure> {
        let mut builder = self.builder(Method::GET, request, "text/event-stream", patience)?;
        if let Some(after) = after.and_then(|id| HeaderValue::from_str(id).ok()) {
            builder = builder.header("last-event-id", after);
        }
        let response = builder.send().map_err(|cause| unreachable(&self.url, &cause))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let answer = read(&self.url, response)?;
        Err(self.refused("follow events", &answer))
    }

    /// A page outside the API, such as `healthz`: its status and headers.
    pub(crate) fn outside(&self, page: &str) -> Result<(u16, HeaderMap), Failure> {
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push(page);
        }
        let response = self.http.get(url).send().map_err(|cause| unreachable(&self.url, &cause))?;
        Ok((response.status().as_u16(), response.headers().clone()))
    }

    fn start(
        &self,
        method: Method,
        request: &Request,
        accept: &'static str,
        patience: Duration,
    ) -> Result<Response, Failure> {
        let builder = self.builder(method, request, accept, patience)?;
        builder.send().map_err(|cause| unreachable(&self.url, &cause))
    }

    fn builder(
        &self,
        method: Method,
        request: &Request,
        accept: &'static str,
        patience: Duration,
    ) -> Result<reqwest::blocking::RequestBuilder, Failure> {
        let changes = [Method::PUT, Method::PATCH, Method::DELETE].contains(&method);
        let mut builder = self.http.request(method, self.full(request)?).header(ACCEPT, accept).timeout(patience);
        if changes {
            builder = builder.header(IF_MATCH, "*");
        }
        if let Some(token) = &self.token {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| {
                Failure::new(Exit::Login, "log in", "the token has characters no token has", "roost login")
            })?;
            value.set_sensitive(true);
            builder = builder.header(AUTHORIZATION, value);
        }
        if let Some(body) = &request.body {
            builder = builder.header(CONTENT_TYPE, "application/json").body(body.to_string());
        }
        Ok(builder)
    }

    fn full(&self, request: &Request) -> Result<Url, Failure> {
        let mut url = self.url.clone();
        if let Some(odd) = request.path.iter().find(|segment| matches!(segment.as_str(), "" | "." | "..")) {
            return Err(Failure::usage(format!("name {odd:?}"), "nothing can have that name", "use its id"));
        }
        let base = BASE.trim_start_matches('/').split('/');
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(base).extend(&request.path);
        }
        if !request.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&request.query);
        }
        Ok(url)
    }
}

/// A server's address: HTTPS, or plain HTTP to this very machine.
pub(crate) fn url(text: &str) -> Result<Url, Failure> {
    let what = || format!("use the address {text}");
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let url =
        Url::parse(&with_scheme).map_err(|cause| Failure::usage(what(), cause.to_string(), "https://HOST[:PORT]"))?;
    let local = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    match url.scheme() {
        "https" => Ok(url),
        "http" if local => Ok(url),
        _ => Err(Failure::usage(what(), "tokens only travel over https", "https://HOST[:PORT]")),
    }
}

fn read(url: &Url, response: Response) -> Result<Answer, Failure> {
    let status = response.status().as_u16();
    let bytes = whole(url, response)?;
    // What is no JSON is shown as the text it is.
    let body = if bytes.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&bytes).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()))
    };
    Ok(Answer { status, body })
}

fn whole(url: &Url, response: Response) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = response.take(LARGEST).read_to_end(&mut bytes);
    read.map_err(|cause| {
        Failure::new(Exit::Failed, format!("read the answer of {url}"), cause.to_string(), "roost doctor")
    })?;
    Ok(bytes)
}

fn unreachable(url: &Url, error: &reqwest::Error) -> Failure {
    let mut why = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        why = deeper.to_string();
        cause = deeper.source();
    }
    let untrusted = why.contains("certificate");
    let hint = if untrusted { "roost login, or give the grid's CA with --ca FILE" } else { "roost doctor" };
    let exit = if error.is_timeout() { Exit::Timeout } else { Exit::Failed };
    Failure::new(exit, format!("reach {url}"), why, hint)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_token_never_travels_in_the_clear() {
        for good in ["https://grid:8443", "grid.example", "http://127.0.0.1:1", "http://localhost", "http://[::1]:80"] {
            assert!(url(good).is_ok(), "{good}");
        }
        for bad in ["http://grid", "http://127.0.0.1.evil.example", "ftp://grid", "file:///etc"] {
            assert!(url(bad).is_err(), "{bad}");
        }
    }
}
