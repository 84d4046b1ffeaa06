//! TLS: which certificates are believed, and trust on first use by the fingerprint of the grid's key.

use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use reqwest::Url;
use ring::digest::{SHA256, digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring as provider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::context::Trust;
use crate::failure::{Exit, Failure};

/// Where Debian and its kin keep the machine's certificate authorities.
const SYSTEM_CA: &str = "/etc/ssl/certs/ca-certificates.crt";
/// A server that says nothing for so long while its certificate is fetched is not there.
const PATIENCE: Duration = Duration::from_secs(10);

/// TLS settings that believe what `trust` says, and nothing else.
pub(crate) fn config(trust: &Trust) -> Result<ClientConfig, Failure> {
    let pem = match trust {
        Trust::Pem(pem) => pem.clone(),
        // No such file: nothing is trusted, and the error then says how to get trust.
        Trust::System => std::fs::read_to_string(SYSTEM_CA).unwrap_or_default(),
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()).flatten() {
        let added = roots.add(certificate);
        if let (Err(cause), Trust::Pem(_)) = (added, trust) {
            return Err(Failure::usage(
                "read the CA certificate",
                cause.to_string(),
                "give the grid's CA with --ca FILE",
            ));
        }
    }
    if roots.is_empty() && matches!(trust, Trust::Pem(_)) {
        return Err(Failure::usage("read the CA certificate", "there is none in it", "give a PEM file with --ca FILE"));
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(provider::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(broken)?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn broken(cause: rustls::Error) -> Failure {
    Failure::new(Exit::Failed, "set up TLS", cause.to_string(), "report this")
}

/// The grid's certificate as a server shows it, not yet believed.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) pem: String,
    pub(crate) fingerprint: String,
}

/// Asks a server for its certificates without believing it; nothing else is said to it. The last one it sends is the
/// grid's own, by which the others are judged later.
pub(crate) fn ask(url: &Url) -> Result<Shown, Failure> {
    let what = format!("fetch the certificate of {url}");
    let hint = match url.port() {
        Some(_) => "check name and port, and whether the aggregator runs there",
        None => "name the port too; an aggregator listens on 8443 unless set otherwise",
    };
    let failed = |why: String| Failure::new(Exit::Failed, what.clone(), why, hint);
    let host = url.host_str().ok_or_else(|| failed("the URL has no host".into()))?;
    let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = url.port_or_known_default().unwrap_or(443);
    let address = (bare.as_str(), port).to_socket_addrs().map_err(|cause| failed(cause.to_string()))?.next();
    let address = address.ok_or_else(|| failed("the name has no address".into()))?;
    let mut socket = TcpStream::connect_timeout(&address, PATIENCE).map_err(|cause| failed(cause.to_string()))?;
    let timed = socket.set_read_timeout(Some(PATIENCE)).and_then(|()| socket.set_write_timeout(Some(PATIENCE)));
    timed.map_err(|cause| failed(cause.to_string()))?;

    let crypto = Arc::new(provider::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&crypto)).with_safe_default_protocol_versions();
    let looking = builder.map_err(broken)?.dangerous().with_custom_certificate_verifier(Arc::new(Looking(crypto)));
    let name = ServerName::try_from(bare).map_err(|cause| failed(cause.to_string()))?;
    let mut tls = ClientConnection::new(Arc::new(looking.with_no_client_auth()), name).map_err(broken)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut socket).map_err(|cause| failed(cause.to_string()))?;
    }
    let last = tls.peer_certificates().and_then(<[_]>::last).ok_or_else(|| failed("it has none".into()))?;
    shown(last).ok_or_else(|| failed("it can't be read".into()))
}

fn shown(certificate: &CertificateDer<'_>) -> Option<Shown> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let hash = digest(&SHA256, parsed.tbs_certificate.subject_pki.raw);
    let fingerprint = HEXLOWER.encode(hash.as_ref());
    Some(Shown { pem: pem(certificate), fingerprint })
}

fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// True where two fingerprints are one, however they are written.
pub(crate) fn same(a: &str, b: &str) -> bool {
    let bare = |text: &str| text.chars().filter(char::is_ascii_hexdigit).collect::<String>().to_ascii_lowercase();
    bare(a).len() == 64 && bare(a) == bare(b)
}

/// Looks at certificates without judging them; only for [`ask`], over whose connection nothing is sent.
#[derive(Debug)]
struct Looking(Arc<CryptoProvider>);

impl ServerCertVerifier for Looking {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, leaf, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, leaf, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod test {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PublicKeyData};
    use rustls::{ServerConfig, ServerConnection, StreamOwned};
    use rustls_pki_types::PrivateKeyDer;

    use super::*;
    use crate::client::Client;
    use crate::context::Connection;

    /// A server of a grid with a key of its own: its address, and the fingerprint of that key.
    fn grid() -> (Url, String) {
        let key = KeyPair::generate().unwrap();
        let hash = digest(&SHA256, &key.subject_public_key_info());
        let fingerprint = hash.as_ref().iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":");
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).unwrap();
        let leaf_key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&leaf_key, &Issuer::new(params, key)).unwrap();
        let secret = PrivateKeyDer::try_from(leaf_key.serialize_der()).unwrap();
        let builder = ServerConfig::builder_with_provider(Arc::new(provider::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let config = Arc::new(builder.with_single_cert(vec![leaf.der().clone(), ca.der().clone()], secret).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let tls = ServerConnection::new(Arc::clone(&config)).unwrap();
                let mut stream = StreamOwned::new(tls, socket.unwrap());
                // A caller that doesn't believe us hangs up here; that is its right.
                if stream.read(&mut [0; 4_096]).is_ok_and(|length| length > 0) {
                    let _gone = stream.write_all(b"HTTP/1.1 200 x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                }
            }
        });
        (Url::parse(&url).unwrap(), fingerprint)
    }

    fn reach(url: &Url, trust: Trust) -> Result<u16, Failure> {
        let connection = Connection { url: url.to_string(), trust, token: None, source: String::new() };
        Client::new(&connection)?.outside("healthz").map(|(status, _)| status)
    }

    #[test]
    fn a_server_is_believed_by_its_grids_key_and_no_other() {
        let (url, fingerprint) = grid();
        let (other, _) = grid();
        let shown = ask(&url).unwrap();
        assert!(same(&shown.fingerprint, &fingerprint));
        assert_eq!(reach(&url, Trust::Pem(shown.pem.clone())).unwrap(), 200);
        let refused = reach(&other, Trust::Pem(shown.pem)).unwrap_err();
        assert!(refused.why.contains("certificate") && refused.hint.contains("roost login"), "{refused:?}");
        assert!(reach(&url, Trust::System).is_err());
    }

    #[test]
    fn half_a_fingerprint_is_none() {
        assert!(!same("", ""));
        assert!(!same("abcd", "abcd"));
        assert!(same(&"AB".repeat(32), &"ab:".repeat(32)));
    }
}
