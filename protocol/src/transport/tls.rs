//! TLS for the link: 1.3 only, ring, and certificates of one grid whose dates are not looked at.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};

use super::{Identity, Purpose};
use crate::identity::{self, Fingerprint, ServerCertificate};
use crate::message::Der;

/// ring, and X25519 alone for the key exchange: both ends are ours.
fn provider() -> Arc<CryptoProvider> {
    let ring = rustls::crypto::ring::default_provider();
    Arc::new(CryptoProvider { kx_groups: vec![rustls::crypto::ring::kx_group::X25519], ..ring })
}

/// The aggregator's side.
pub(super) fn server(authority: &Der, own: ServerCertificate) -> Result<ServerConfig, Error> {
    listening(authority, &own.chain, own.key, &Purpose::AGGREGATOR)
}

/// The side of a host that others call: who calls shows a certificate, always.
pub(super) fn host(authority: &Der, own: &Identity) -> Result<ServerConfig, Error> {
    listening(authority, &own.chain, own.key.secret().to_vec(), &[Purpose::Peer])
}

fn listening(authority: &Der, own: &[Der], key: Vec<u8>, purposes: &[Purpose]) -> Result<ServerConfig, Error> {
    let provider = provider();
    let inner = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(&authority.0)?), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| Error::General(error.to_string()))?;
    let mandatory = !purposes.contains(&Purpose::Join);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(Hosts { inner, mandatory }))
        .with_single_cert(chain(own), PrivatePkcs8KeyDer::from(key).into())?;
    config.alpn_protocols = purposes.iter().map(|purpose| purpose.alpn().to_vec()).collect();
    // No resumption: each connection proves both keys anew, and there is no ticket key to steal.
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// A host's or an applicant's side towards its aggregator.
pub(super) fn client(purpose: Purpose, pin: Fingerprint, own: Option<&Identity>) -> Result<ClientConfig, Error> {
    calling(purpose, pin, Whom::Aggregator, own)
}

/// A host's side towards another host, known by its key.
pub(super) fn caller(pin: Fingerprint, key: Fingerprint, own: &Identity) -> Result<ClientConfig, Error> {
    calling(Purpose::Peer, pin, Whom::Host(key), Some(own))
}

fn calling(purpose: Purpose, pin: Fingerprint, whom: Whom, own: Option<&Identity>) -> Result<ClientConfig, Error> {
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { pin, whom, provider }));
    let mut config = match own {
        Some(own) => builder
            .with_client_auth_cert(chain(&own.chain), PrivatePkcs8KeyDer::from(own.key.secret().to_vec()).into())?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![purpose.alpn().to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(config)
}

fn chain(ders: &[Der]) -> Vec<CertificateDer<'static>> {
    ders.iter().map(|der| CertificateDer::from(der.0.clone())).collect()
}

fn roots(authority: &[u8]) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(authority.to_vec()))?;
    Ok(roots)
}

/// The certificate's own begin, given to the verifier as the present: chain, signatures, names and purposes are checked
/// as ever, and no clock of anybody can make them fail.
fn its_own_time(certificate: &CertificateDer<'_>) -> Result<UnixTime, Error> {
    let begin = identity::begin(certificate).map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
    Ok(UnixTime::since_unix_epoch(std::time::Duration::from_secs(begin)))
}

/// The server's side: a certificate may be missing (a machine that joins has none); if there is one, it is of this grid.
struct Hosts {
    inner: Arc<dyn ClientCertVerifier>,
    mandatory: bool,
}

impl fmt::Debug for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hosts")
    }
}

impl ClientCertVerifier for Hosts {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.inner.verify_client_cert(end_entity, intermediates, its_own_time(end_entity)?)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Who has to be at the other end.
#[derive(Clone, Copy)]
enum Whom {
    /// Known by the name that only its certificates have.
    Aggregator,
    /// Known by its key.
    Host(Fingerprint),
}

/// The caller's side: the server's chain must hold the grid's certificate, known by the pinned fingerprint of its key, and
/// the leaf must be of the one meant, issued by that key.
struct Pinned {
    pin: Fingerprint,
    whom: Whom,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pinned({})", self.pin)
    }
}

impl Pinned {
    fn host(
        &self,
        leaf: &CertificateDer<'_>,
        authority: &CertificateDer<'_>,
        key: Fingerprint,
    ) -> Result<ServerCertVerified, Error> {
        if identity::certificate_fingerprint(leaf).ok() != Some(key) {
            return Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure));
        }
        let algorithms = self.provider.signature_verification_algorithms.all;
        let (roots, now) = (roots(authority)?, its_own_time(leaf)?);
        let parsed = ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &[], now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authority = intermediates
            .iter()
            .find(|der| identity::certificate_fingerprint(der).is_ok_and(|found| found == self.pin))
            .ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        match self.whom {
            Whom::Aggregator => {
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots(authority)?), self.provider.clone())
                    .build()
                    .map_err(|error| Error::General(error.to_string()))?
                    .verify_server_cert(end_entity, &[], server_name, ocsp_response, its_own_time(end_entity)?)
            }
            Whom::Host(key) => self.host(end_entity, authority, key),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
