//! The HTTPS certificate: issued by the grid's own CA for every name and address of this machine, and changed while
//! connections stand.

use std::sync::{Arc, PoisonError, RwLock};

use anyhow::Context;
use roost_protocol::identity::GridKey;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::address;
use crate::clock::wall;

/// The certificate that new connections are shown.
#[derive(Debug)]
pub(crate) struct Certificate {
    now: RwLock<Arc<CertifiedKey>>,
    provider: Arc<CryptoProvider>,
}

impl Certificate {
    /// Issued now, for these names and this machine's own.
    pub(crate) fn new(key: &GridKey, public: &[String]) -> anyhow::Result<Arc<Self>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let now = RwLock::new(Arc::new(issue(key, public, &provider)?));
        Ok(Arc::new(Self { now, provider }))
    }

    /// A fresh one from now on.
    pub(crate) fn renew(&self, key: &GridKey, public: &[String]) -> anyhow::Result<()> {
        let fresh = Arc::new(issue(key, public, &self.provider)?);
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// What the server needs.
    pub(crate) fn server_config(self: &Arc<Self>) -> anyhow::Result<ServerConfig> {
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.provider));
        let resolver = Arc::clone(self);
        Ok(builder.with_safe_default_protocol_versions()?.with_no_client_auth().with_cert_resolver(resolver))
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _client: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.now.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn issue(key: &GridKey, public: &[String], provider: &CryptoProvider) -> anyhow::Result<CertifiedKey> {
    let issued = key.issue_server(&address::names(public), wall()).context("issue the HTTPS certificate")?;
    let chain = issued.chain.into_iter().map(|der| CertificateDer::from(der.0)).collect();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(issued.key));
    CertifiedKey::from_der(chain, key, provider).context("use the HTTPS certificate")
}
