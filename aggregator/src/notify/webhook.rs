//! A POST with Alertmanager's body, signed where the notifier has a secret.

use std::sync::Arc;
use std::time::SystemTime;

use data_encoding::HEXLOWER;
use reqwest::header::CONTENT_TYPE;
use reqwest::redirect;
use ring::hmac;
use roost_aggregator_core::notify::{Digest, Notifier, Webhook};
use rustls::ClientConfig;
use rustls::crypto::ring::default_provider;

use super::{Courier, PATIENCE, Undelivered, alertmanager, roots};

/// `t=SECONDS,v1=HEX`: HMAC-SHA256 with the secret over `SECONDS.BODY`, so that an old one can't be sent again later.
const SIGNATURE: &str = "x-roost-signature";

pub(super) async fn send(
    courier: &Courier,
    notifier: &Notifier,
    way: &Webhook,
    digest: &Digest,
) -> Result<(), Undelivered> {
    let tls = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let tls =
        tls.with_safe_default_protocol_versions()?.with_root_certificates(roots(notifier)?.0).with_no_client_auth();
    let client = reqwest::Client::builder()
        .use_preconfigured_tls(tls)
        // The signature and what is said are for the one receiver.
        .redirect(redirect::Policy::none())
        .timeout(PATIENCE)
        .user_agent(concat!("roost/", env!("CARGO_PKG_VERSION")))
        .build()?;
    let body = alertmanager::body(&notifier.name, &courier.url, digest).to_string();
    let mut request = client.post(&way.url).header(CONTENT_TYPE, "application/json");
    if let Some(secret) = &notifier.secret {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs());
        request = request.header(SIGNATURE, signature(&secret.0, now, &body));
    }
    let status = request.body(body).send().await?.status();
    if status.is_success() { Ok(()) } else { Err(Undelivered::Status(status)) }
}

pub(super) fn signature(secret: &str, seconds: u64, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, format!("{seconds}.{body}").as_bytes());
    format!("t={seconds},v1={}", HEXLOWER.encode(tag.as_ref()))
}
