//! An API client that believes the grid's own CA alone.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::{Client, RequestBuilder};
use serde_json::Value;

/// Longest single call.
const CALL: Duration = Duration::from_secs(60);

/// One admin's connections.
#[derive(Clone, Debug)]
pub struct Api {
    base: String,
    client: Client,
    token: String,
}

impl Api {
    /// A client of this server, which must show a certificate of this CA.
    ///
    /// # Errors
    /// The certificate is none.
    pub fn new(base: &str, ca: &[u8]) -> Result<Self> {
        // Who was first installed the same one.
        let _first = rustls::crypto::ring::default_provider().install_default();
        let ca = reqwest::Certificate::from_pem(ca)?;
        let client = Client::builder().add_root_certificate(ca).timeout(CALL).build()?;
        Ok(Self { base: format!("{base}/api/v1"), client, token: String::new() })
    }

    pub fn set_token(&mut self, token: &str) {
        token.clone_into(&mut self.token);
    }

    /// # Errors
    /// No answer, or a "no".
    pub async fn get(&self, path: &str) -> Result<Value> {
        Self::send(self.client.get(format!("{}{path}", self.base)).bearer_auth(&self.token)).await
    }

    /// Reads the answer to its end without looking at it, as a client in a hurry would; its length.
    ///
    /// # Errors
    /// No answer, or a "no".
    pub async fn fetch(&self, path: &str) -> Result<usize> {
        let answer = self.client.get(format!("{}{path}", self.base)).bearer_auth(&self.token).send().await?;
        Ok(answer.error_for_status()?.bytes().await?.len())
    }

    /// Asks whether the server lives: the cheapest answer that goes the way of all others.
    ///
    /// # Errors
    /// No answer, or a "no".
    pub async fn health(&self) -> Result<()> {
        let path = self.base.replace("/api/v1", "/healthz");
        let answer = self.client.get(path).send().await?;
        answer.error_for_status()?.bytes().await?;
        Ok(())
    }

    /// # Errors
    /// No answer, or a "no".
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let mut request = self.client.post(format!("{}{path}", self.base)).json(body);
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        Self::send(request).await
    }

    /// # Errors
    /// No answer, or a "no".
    pub async fn delete(&self, path: &str) -> Result<()> {
        let answer = self.client.delete(format!("{}{path}", self.base)).bearer_auth(&self.token).send().await?;
        ensure!(answer.status().is_success(), "{path}: {}", answer.status());
        Ok(())
    }

    /// Does slow work and waits for its end.
    ///
    /// # Errors
    /// No answer, or a "no".
    pub async fn post_and_wait(&self, path: &str) -> Result<Value> {
        let request = self.client.post(format!("{}{path}", self.base)).bearer_auth(&self.token);
        Self::send(request.header("prefer", "wait=30")).await
    }

    /// Asks for slow work; answered when that is on stable storage.
    ///
    /// # Errors
    /// No answer, or a "no".
    pub async fn post_only(&self, path: &str) -> Result<()> {
        let answer = self.client.post(format!("{}{path}", self.base)).bearer_auth(&self.token).send().await?;
        let (status, bytes) = (answer.status(), answer.bytes().await?);
        ensure!(status.is_success(), "{path}: {status} {}", String::from_utf8_lossy(&bytes));
        Ok(())
    }

    async fn send(request: RequestBuilder) -> Result<Value> {
        let answer = request.send().await.context("call the aggregator")?;
        let (status, bytes) = (answer.status(), answer.bytes().await?);
        ensure!(status.is_success(), "{status} {}", String::from_utf8_lossy(&bytes));
        Ok(serde_json::from_slice(&bytes)?)
    }
}
