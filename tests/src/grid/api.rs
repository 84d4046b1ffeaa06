//! An API client that believes the grid's own CA alone.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail, ensure};
use reqwest::Method;
use reqwest::blocking::Client;
use reqwest::header::IF_MATCH;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};

/// Longest single call; waiting for an operation takes up to half of it.
const CALL: Duration = Duration::from_secs(20);
/// Seconds that one call waits for an operation.
const WAIT_S: u64 = 10;

/// Status and body.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

/// A clock that is ahead.
#[derive(Debug)]
struct Ahead(Duration);

impl TimeProvider for Ahead {
    fn current_time(&self) -> Option<UnixTime> {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        Some(UnixTime::since_unix_epoch(since_1970 + self.0))
    }
}

/// One admin's connection.
#[derive(Clone, Debug)]
pub struct Api {
    base: String,
    client: Client,
    pub token: Option<String>,
}

impl Api {
    /// A client of this server, which must show a certificate of this CA. The client's clock is this far ahead.
    pub fn new(base: &str, ca: &[u8], ahead: Duration) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca)?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_details(provider, Arc::new(Ahead(ahead)))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = Client::builder().use_preconfigured_tls(tls).timeout(CALL).build()?;
        Ok(Self { base: base.to_owned(), client, token: None })
    }

    /// Where it is.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Logs in and keeps the session's token.
    pub fn log_in(&mut self, user: &str, password: &str) -> Result<()> {
        self.token = None;
        let session = self.post("/sessions", &json!({"user": user, "password": password}))?;
        self.token = Some(session["token"].as_str().context("the session's token")?.to_owned());
        Ok(())
    }

    /// Any call, whatever the answer.
    pub fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer> {
        self.call_if(None, method, path, body)
    }

    /// The same, where the thing is still what this tag says.
    pub fn call_if(&self, tag: Option<&str>, method: Method, path: &str, body: Option<&Value>) -> Result<Answer> {
        let mut request = self.client.request(method.clone(), format!("{}/api/v1{path}", self.base));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(tag) = tag {
            request = request.header(IF_MATCH, tag);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().with_context(|| format!("{method} {path}"))?;
        let status = answer.status().as_u16();
        let text = answer.text()?;
        let body = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap_or(json!(text)) };
        Ok(Answer { status, body })
    }

    /// A call that must succeed.
    pub fn ok(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let answer = self.call(method.clone(), path, body)?;
        ensure!((200..300).contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.body);
        Ok(answer.body)
    }

    /// What is no JSON: its media type and its bytes.
    pub fn bytes(&self, path: &str) -> Result<(String, Vec<u8>)> {
        let request = self.client.get(format!("{}/api/v1{path}", self.base));
        let answer = request.bearer_auth(self.token.as_deref().unwrap_or_default()).send()?;
        let status = answer.status().as_u16();
        let media_type = answer.headers().get("content-type").and_then(|value| value.to_str().ok());
        let media_type = media_type.unwrap_or_default().to_owned();
        let bytes = answer.bytes()?.to_vec();
        ensure!(status == 200, "GET {path}: {status} {}", String::from_utf8_lossy(&bytes));
        Ok((media_type, bytes))
    }

    pub fn get(&self, path: &str) -> Result<Value> {
        self.ok(Method::GET, path, None)
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.ok(Method::POST, path, Some(body))
    }

    /// A "no" from the server is an answer too.
    pub(super) fn refused(why: anyhow::Error) -> Result<()> {
        if why.to_string().contains(": 401 ") { Ok(()) } else { Err(why) }
    }

    /// Waits for an operation's end, whatever it is.
    pub fn ended(&self, operation: &Value, limit: Duration) -> Result<Value> {
        let id = operation["id"].as_str().ok_or_else(|| anyhow!("no operation: {operation}"))?;
        let began = Instant::now();
        loop {
            let seen = self.get(&format!("/operations/{id}/wait?seconds={WAIT_S}"))?;
            match seen["state"].as_str() {
                Some("succeeded" | "failed" | "cancelled") => return Ok(seen),
                _ if began.elapsed() > limit => bail!("not ended within {limit:?}: {seen}"),
                _ => {}
            }
        }
    }

    /// Slow work that must succeed; a null body is none.
    pub fn done(&self, method: Method, path: &str, body: &Value) -> Result<Value> {
        let body = Some(body).filter(|body| !body.is_null());
        let ended = self.ended(&self.ok(method, path, body)?, Duration::from_secs(60))?;
        ensure!(ended["state"] == "succeeded", "{path}: {ended}");
        Ok(ended)
    }

    /// An action on a guest that must succeed.
    pub fn act(&self, guest: &str, verb: &str) -> Result<Value> {
        self.done(Method::POST, &format!("/guests/{guest}/actions/{verb}"), &json!({}))
    }

    /// All guests, by name where only one has it.
    pub fn guests(&self) -> Result<Vec<Value>> {
        let list = self.get("/guests?limit=1000")?;
        Ok(list["items"].as_array().context("a list")?.clone())
    }
}
