//! Keys and certificates: the grid's own key signs one certificate for each host's key. A certificate says which key
//! is which host; its dates never decide whether a known key is heard (clocks may be years off).

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use data_encoding::HEXLOWER;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SigningKey, SubjectPublicKeyInfo,
};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use x509_parser::certificate::X509Certificate;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::message::Der;
use crate::{GridId, HostId, Millis, Stamp};

/// The name in the aggregator's own certificate, whatever its address is.
pub const SERVER_NAME: &str = "roost-aggregator";
/// How long a host's certificate lasts; it is renewed at a third of it.
pub const HOST_LIFETIME: Millis = Millis::seconds(7 * DAY);
/// How long the aggregator's own certificate lasts: browsers refuse more than 398 days.
pub const SERVER_LIFETIME: Millis = Millis::seconds(397 * DAY);
/// How far back a certificate's begin lies, for clocks that are behind.
pub const BACKDATE: Millis = Millis::seconds(DAY);
/// Largest signing request looked at; ours has 250 bytes.
pub const REQUEST: usize = 4 << 10;
/// Largest certificate looked at; ours has 500 bytes, one with 100 names 4 KiB.
pub const CERTIFICATE: usize = 16 << 10;
/// Names and addresses in one server certificate: a machine has fewer.
pub const NAMES: usize = 100;

const DAY: u64 = 86_400;
/// 1975-01-01: earlier clocks are taken for this one.
const EARLIEST_S: u64 = 157_766_400;
/// 4096-01-01: no certificate ends later.
const LATEST_S: u64 = 67_090_377_600;

/// Why a key, a request or a certificate was not accepted or made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    #[error("make a key")]
    Generate(#[source] rcgen::Error),
    #[error("read a private key (PKCS #8 in PEM, P-256)")]
    Key(#[source] rcgen::Error),
    #[error("read a private key: it is not of the kind P-256")]
    KeyKind,
    #[error("make a certificate")]
    Issue(#[source] rcgen::Error),
    #[error("put the name {name:?} into a certificate")]
    Name {
        name: String,
        #[source]
        source: rcgen::Error,
    },
    #[error("{count} names in one certificate; at most {NAMES} go in")]
    TooManyNames { count: usize },
    #[error("read a signing request")]
    Request(#[source] x509_parser::error::X509Error),
    #[error("signing request of {0} bytes; at most {REQUEST} are read")]
    RequestSize(usize),
    #[error("a signing request is not signed by the key it names, or its key is not P-256")]
    RequestProof,
    #[error("read a certificate")]
    Certificate(#[source] x509_parser::error::X509Error),
    #[error("certificate of {0} bytes; at most {CERTIFICATE} are read")]
    CertificateSize(usize),
    #[error("the certificate names no host of a grid")]
    NoHost,
    #[error("the system's random source failed")]
    Random,
    #[error("the signature is not of the grid's key")]
    Signature,
}

/// SHA-256 of a public key (its SubjectPublicKeyInfo in DER).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode, minicbor::Decode)]
#[cbor(transparent)]
pub struct Fingerprint(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 32]);

impl Fingerprint {
    /// Of this SubjectPublicKeyInfo.
    pub fn of(spki: &[u8]) -> Self {
        Self(sha256(spki))
    }

    /// The grid that has a key of this fingerprint.
    pub fn grid_id(&self) -> GridId {
        let mut id = [0; 16];
        id.copy_from_slice(&self.0[..16]);
        // RFC 9562: version 8 (made from something of our own), variant 10.
        id[6] = (id[6] & 0x0f) | 0x80;
        id[8] = (id[8] & 0x3f) | 0x80;
        GridId::from_bytes(id)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", HEXLOWER.encode_display(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl std::str::FromStr for Fingerprint {
    type Err = NotAFingerprint;
    fn from_str(text: &str) -> Result<Self, NotAFingerprint> {
        let nibble = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let text = text.as_bytes();
        let mut bytes = [0; 32];
        if text.len() != 64 {
            return Err(NotAFingerprint);
        }
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            *byte = nibble(pair[0]).zip(nibble(pair[1])).map(|(high, low)| high << 4 | low).ok_or(NotAFingerprint)?;
        }
        Ok(Self(bytes))
    }
}

/// A fingerprint has 64 hexadecimal digits.
#[derive(Debug, thiserror::Error)]
#[error("a fingerprint has 64 hexadecimal digits")]
pub struct NotAFingerprint;

/// The grid's own key: whoever holds it is the aggregator. P-256, because browsers take nothing newer.
pub struct GridKey {
    key: KeyPair,
    certificate: Der,
}

impl fmt::Debug for GridKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GridKey({})", self.grid_id())
    }
}

impl GridKey {
    /// A new grid.
    ///
    /// # Errors
    /// No randomness.
    pub fn generate() -> Result<Self, IdentityError> {
        Self::with(KeyPair::generate().map_err(IdentityError::Generate)?)
    }

    /// The key in this PKCS #8 PEM text. The caller sees to the file's mode.
    ///
    /// # Errors
    /// Not such a key.
    pub fn from_pem(pem: &str) -> Result<Self, IdentityError> {
        Self::with(read_key(pem)?)
    }

    fn with(key: KeyPair) -> Result<Self, IdentityError> {
        let params = authority_params(&key);
        let certificate = params.self_signed(&key).map_err(IdentityError::Issue)?;
        let certificate = Der(certificate.der().to_vec());
        Ok(Self { key, certificate })
    }

    /// PKCS #8 in PEM: a secret, to be written with mode 0600.
    pub fn to_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// The id of the grid: follows from the key.
    pub fn grid_id(&self) -> GridId {
        self.fingerprint().grid_id()
    }

    /// SHA-256 of the public key: what a join token pins.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.key.subject_public_key_info())
    }

    /// The grid's own certificate, valid from 1975 to 4096. Each start makes a new one (the signature differs), and each
    /// verifies what the key ever issued, because name, serial and key are always the same.
    pub fn ca_certificate(&self) -> &Der {
        &self.certificate
    }

    /// What everyone may know of this key.
    ///
    /// # Errors
    /// Never, short of a fault in this file.
    pub fn public(&self) -> Result<GridPublic, IdentityError> {
        GridPublic::from_certificate(&self.certificate.0)
    }

    /// A certificate chain (leaf first, then the grid's) that says: the key of this request is this host. Every name and
    /// extension in the request is ignored.
    ///
    /// # Errors
    /// Not a request, or not signed by the key it is about.
    pub fn issue_host(
        &self,
        request: &[u8],
        host: HostId,
        lifetime: Millis,
        now: Stamp,
    ) -> Result<Vec<Der>, IdentityError> {
        let (spki, _) = request_key(request)?;
        let name = format!("roost:{}/host/{host}", self.grid_id());
        let mut params = leaf_params(&host.to_string(), lifetime, now)?;
        params.subject_alt_names = vec![SanType::URI(ia5(&name)?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(&params, &spki)
    }

    /// A fresh key and certificate for the aggregator itself, for QUIC and HTTPS. Each name is a DNS name or an IP
    /// address; [`SERVER_NAME`] is always among them.
    ///
    /// # Errors
    /// A name that can't stand in a certificate.
    pub fn issue_server(&self, names: &[String], now: Stamp) -> Result<ServerCertificate, IdentityError> {
        if names.len() > NAMES {
            return Err(IdentityError::TooManyNames { count: names.len() });
        }
        let key = KeyPair::generate().map_err(IdentityError::Generate)?;
        let mut params = leaf_params(SERVER_NAME, SERVER_LIFETIME, now)?;
        params.subject_alt_names = vec![SanType::DnsName(ia5(SERVER_NAME)?)];
        for name in names.iter().filter(|name| *name != SERVER_NAME) {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(ia5(name)?),
            });
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let chain = self.sign(&params, &key)?;
        Ok(ServerCertificate { chain, key: key.serialize_der() })
    }

    fn sign(&self, params: &CertificateParams, public: &impl PublicKeyData) -> Result<Vec<Der>, IdentityError> {
        let authority = authority_params(&self.key);
        let issuer = Issuer::from_params(&authority, &self.key);
        let leaf = params.signed_by(public, &issuer).map_err(IdentityError::Issue)?;
        Ok(vec![Der(leaf.der().to_vec()), self.certificate.clone()])
    }

    /// A signature over these bytes; they begin with a word that says what they are for and is not DER.
    pub(crate) fn sign_bytes(&self, bytes: &[u8]) -> Result<Vec<u8>, IdentityError> {
        self.key.sign(bytes).map_err(IdentityError::Issue)
    }

    /// The private key's bytes (PKCS #8), from which other secrets are derived.
    pub(crate) fn secret(&self) -> &[u8] {
        self.key.serialized_der()
    }
}

/// The aggregator's own certificate and key, as TLS libraries take them.
pub struct ServerCertificate {
    /// Leaf first, then the grid's.
    pub chain: Vec<Der>,
    /// PKCS #8 in DER: a secret.
    pub key: Vec<u8>,
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerCertificate({} certificates)", self.chain.len())
    }
}

/// The public half of the grid's key, as hosts know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GridPublic {
    fingerprint: Fingerprint,
    point: Vec<u8>,
}

impl GridPublic {
    /// From the grid's certificate in DER. The caller compares the fingerprint with the one it pinned.
    ///
    /// # Errors
    /// Not a certificate.
    pub fn from_certificate(der: &[u8]) -> Result<Self, IdentityError> {
        let certificate = parse_certificate(der)?;
        let spki = certificate.public_key();
        Ok(Self { fingerprint: Fingerprint::of(spki.raw), point: spki.subject_public_key.data.to_vec() })
    }

    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    pub fn grid_id(&self) -> GridId {
        self.fingerprint.grid_id()
    }

    pub(crate) fn verify(&self, bytes: &[u8], signature: &[u8]) -> Result<(), IdentityError> {
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point);
        key.verify(bytes, signature).map_err(|_| IdentityError::Signature)
    }
}

/// A host's own key (P-256): made on the host, never leaves it, lasts as long as the host is in the grid.
pub struct HostKey {
    key: KeyPair,
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostKey({})", self.key_fingerprint())
    }
}

impl HostKey {
    /// A new key.
    ///
    /// # Errors
    /// No randomness.
    pub fn generate() -> Result<Self, IdentityError> {
        Ok(Self { key: KeyPair::generate().map_err(IdentityError::Generate)? })
    }

    /// The key in this PKCS #8 PEM text.
    ///
    /// # Errors
    /// Not such a key.
    pub fn from_pem(pem: &str) -> Result<Self, IdentityError> {
        Ok(Self { key: read_key(pem)? })
    }

    /// PKCS #8 in PEM: a secret, to be written with mode 0600.
    pub fn to_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// A signing request (PKCS #10 in DER) without any name in it.
    ///
    /// # Errors
    /// No randomness.
    pub fn csr(&self) -> Result<Vec<u8>, IdentityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&self.key).map_err(IdentityError::Issue)?;
        Ok(request.der().to_vec())
    }

    /// SHA-256 of the public key: by this the aggregator knows a host again.
    pub fn key_fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.key.subject_public_key_info())
    }

    pub(crate) fn secret(&self) -> &[u8] {
        self.key.serialized_der()
    }
}

/// Fingerprint of the key in a signing request whose own signature is right.
///
/// # Errors
/// Not a request, or not signed by the key it is about.
pub fn request_fingerprint(request: &[u8]) -> Result<Fingerprint, IdentityError> {
    Ok(request_key(request)?.1)
}

/// Who is at the other end, as its certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    pub grid: GridId,
    pub host: HostId,
    pub key_fingerprint: Fingerprint,
    pub not_before: Stamp,
    pub not_after: Stamp,
}

/// What a host's certificate (DER) says. Its signature is not checked here; TLS did, or the caller must.
///
/// # Errors
/// Not a certificate, or not a host's.
pub fn peer_identity(der: &[u8]) -> Result<PeerIdentity, IdentityError> {
    let certificate = parse_certificate(der)?;
    let (grid, host) = host_name(&certificate).ok_or(IdentityError::NoHost)?;
    let stamp = |seconds: i64| Stamp(u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000));
    Ok(PeerIdentity {
        grid,
        host,
        key_fingerprint: Fingerprint::of(certificate.public_key().raw),
        not_before: stamp(certificate.validity().not_before.timestamp()),
        not_after: stamp(certificate.validity().not_after.timestamp()),
    })
}

fn host_name(certificate: &X509Certificate<'_>) -> Option<(GridId, HostId)> {
    let names = &certificate.subject_alternative_name().ok()??.value.general_names;
    let [GeneralName::URI(name)] = names.as_slice() else { return None };
    let (grid, host) = name.strip_prefix("roost:")?.split_once("/host/")?;
    Some((grid.parse().ok()?, host.parse().ok()?))
}

/// When a certificate begins, in seconds since 1970; the verifiers take it for "now".
pub(crate) fn begin(der: &[u8]) -> Result<u64, IdentityError> {
    let seconds = parse_certificate(der)?.validity().not_before.timestamp();
    Ok(u64::try_from(seconds).unwrap_or(0))
}

/// Fingerprint of the key in this certificate.
pub(crate) fn certificate_fingerprint(der: &[u8]) -> Result<Fingerprint, IdentityError> {
    Ok(Fingerprint::of(parse_certificate(der)?.public_key().raw))
}

fn parse_certificate(der: &[u8]) -> Result<X509Certificate<'_>, IdentityError> {
    if der.len() > CERTIFICATE {
        return Err(IdentityError::CertificateSize(der.len()));
    }
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| IdentityError::Certificate(flat(error)))?;
    Ok(certificate)
}

/// The key of a request, once it has proved to hold its private half.
fn request_key(request: &[u8]) -> Result<(SubjectPublicKeyInfo, Fingerprint), IdentityError> {
    if request.len() > REQUEST {
        return Err(IdentityError::RequestSize(request.len()));
    }
    let (_, parsed) =
        X509CertificationRequest::from_der(request).map_err(|error| IdentityError::Request(flat(error)))?;
    parsed.verify_signature().map_err(|_| IdentityError::RequestProof)?;
    let raw = parsed.certification_request_info.subject_pki.raw;
    let spki = SubjectPublicKeyInfo::from_der(raw).map_err(|_| IdentityError::RequestProof)?;
    // Other kinds of key would be issued a certificate that the handshake then can't use.
    if spki.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 || spki.subject_public_key_info() != raw {
        return Err(IdentityError::RequestProof);
    }
    Ok((spki, Fingerprint::of(raw)))
}

fn flat(error: x509_parser::nom::Err<x509_parser::error::X509Error>) -> x509_parser::error::X509Error {
    match error {
        x509_parser::nom::Err::Incomplete(_) => x509_parser::error::X509Error::InvalidCertificate,
        x509_parser::nom::Err::Error(error) | x509_parser::nom::Err::Failure(error) => error,
    }
}

fn read_key(pem: &str) -> Result<KeyPair, IdentityError> {
    let key = KeyPair::from_pem(pem).map_err(IdentityError::Key)?;
    match key.is_compatible(&rcgen::PKCS_ECDSA_P256_SHA256) {
        true => Ok(key),
        false => Err(IdentityError::KeyKind),
    }
}

/// The grid's own certificate. Nothing in it may depend on anything but the key.
fn authority_params(key: &KeyPair) -> CertificateParams {
    let grid = Fingerprint::of(&key.subject_public_key_info()).grid_id();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("Roost grid {grid}"));
    params.serial_number = Some(SerialNumber::from_slice(&[1]));
    params.not_before = rcgen::date_time_ymd(1975, 1, 1);
    params.not_after = rcgen::date_time_ymd(4096, 1, 1);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params
}

fn leaf_params(name: &str, lifetime: Millis, now: Stamp) -> Result<CertificateParams, IdentityError> {
    let mut serial = [0; 16];
    SystemRandom::new().fill(&mut serial).map_err(|_| IdentityError::Random)?;
    // DER integers are signed; a serial must be positive.
    serial[0] = (serial[0] & 0x7f) | 0x40;
    let end = now.0.saturating_add(lifetime.0);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let at = |ms: u64| epoch + Duration::from_secs((ms / 1_000).clamp(EARLIEST_S, LATEST_S));
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = at(now.0.saturating_sub(BACKDATE.0));
    params.not_after = at(end);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn ia5(name: &str) -> Result<rcgen::string::Ia5String, IdentityError> {
    name.try_into().map_err(|source| IdentityError::Name { name: name.to_owned(), source })
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}
