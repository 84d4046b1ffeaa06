//! How a machine becomes a host: a join token names the grid's key and holds a secret; the machine proves that it has
//! the secret inside a TLS session with that very key, and is given an id and a certificate.

use std::fmt;

use data_encoding::HEXLOWER;
use minicbor::{Decode, Encode};
use ring::hmac;

use crate::host::HostFacts;
use crate::identity::{Fingerprint, sha256};
use crate::message::Der;
use crate::{GridId, HostId};

/// What a token begins with; the digit is its version.
const PREFIX: &str = "roost";
const VERSION: char = '1';
const SECRET: usize = 16;
/// Finds all but one of 10^12 mistyped tokens.
const CHECKSUM: usize = 5;
const PAYLOAD: usize = 32 + SECRET + CHECKSUM;
/// 85 letters hold 425 bits, one more than the payload.
const LETTERS: usize = (PAYLOAD * 8).div_ceil(5);
/// Longest text looked at: a token with a space after every letter is shorter.
const TEXT: usize = 400;
/// Letters between two dashes.
const GROUP: usize = 5;
/// Crockford's base 32: no i, l, o, u.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Longest host name in a request, as for DNS.
pub const NAME: usize = 253;
/// Bytes of the TLS exporter that the proof binds to.
pub const EXPORTER: usize = 32;

/// What the administrator carries to a new machine. Holds a secret: shown once, stored only as a hash.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    fingerprint: Fingerprint,
    secret: [u8; SECRET],
}

/// Why a text is not a join token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("a join token begins with roost1-")]
    NoToken,
    #[error("the join token is of version {0}; this program reads version 1")]
    Version(char),
    #[error("the join token has {got} letters; {LETTERS} are needed, so its end is missing")]
    TooShort { got: usize },
    #[error("the join token is longer than {LETTERS} letters")]
    TooLong,
    #[error("{letter:?} (letter {position} after roost1-) does not occur in join tokens")]
    Letter { letter: char, position: usize },
    #[error("the join token is mistyped: its checksum does not fit")]
    Mistyped,
}

impl JoinToken {
    /// A token for the grid with this key; `random` must come from the system's random source.
    pub fn mint(fingerprint: Fingerprint, random: [u8; SECRET]) -> Self {
        Self { fingerprint, secret: random }
    }

    /// The token in a text; case, spaces, line ends and dashes don't matter, and i, l, o are read as 1, 1, 0.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        if text.len() > TEXT {
            return Err(TokenError::TooLong);
        }
        let clean: String = text.chars().filter(|c| !c.is_whitespace() && *c != '-').collect();
        let lower = clean.to_ascii_lowercase();
        let mut letters = lower.strip_prefix(PREFIX).ok_or(TokenError::NoToken)?.chars();
        match letters.next() {
            Some(VERSION) => {}
            Some(version) => return Err(TokenError::Version(version)),
            None => return Err(TokenError::NoToken),
        }
        Self::from_payload(&unpack(letters.as_str())?)
    }

    fn from_payload(payload: &[u8; PAYLOAD]) -> Result<Self, TokenError> {
        let (body, sum) = payload.split_at(PAYLOAD - CHECKSUM);
        if checksum(body) != sum {
            return Err(TokenError::Mistyped);
        }
        let mut token = Self { fingerprint: Fingerprint([0; 32]), secret: [0; SECRET] };
        token.fingerprint.0.copy_from_slice(&body[..32]);
        token.secret.copy_from_slice(&body[32..]);
        Ok(token)
    }

    /// The text to show once: `roost1-` and 17 groups of 5 letters.
    pub fn reveal(&self) -> String {
        let mut payload = [0; PAYLOAD];
        payload[..32].copy_from_slice(&self.fingerprint.0);
        payload[32..32 + SECRET].copy_from_slice(&self.secret);
        let sum = checksum(&payload[..32 + SECRET]);
        payload[32 + SECRET..].copy_from_slice(&sum);
        let mut text = format!("{PREFIX}{VERSION}");
        for (n, letter) in pack(&payload).enumerate() {
            if n % GROUP == 0 {
                text.push('-');
            }
            text.push(letter);
        }
        text
    }

    /// The key of the grid this token is for.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// SHA-256 of the secret: all that the aggregator stores. It checks a proof, but can't make one.
    pub fn secret_hash(&self) -> [u8; 32] {
        sha256(&self.secret)
    }

    /// Name of the token in lists and messages: the first 8 bytes of the hash, in hexadecimal. No secret.
    pub fn id(&self) -> String {
        HEXLOWER.encode(&self.secret_hash()[..8])
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({}, secret hidden)", self.id())
    }
}

/// The one message of a machine that wants to join.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct EnrolRequest {
    /// See [`prove`].
    #[cbor(n(0), with = "minicbor::bytes")]
    pub proof: [u8; SECRET],
    /// [`JoinToken::id`].
    #[n(1)]
    pub token_id: String,
    /// Signing request (PKCS #10 in DER).
    #[cbor(n(2), with = "minicbor::bytes")]
    pub csr: Vec<u8>,
    #[n(3)]
    pub name: String,
    /// The id the host had in an earlier life. Only granted when no other key holds it.
    #[n(4)]
    pub host: Option<HostId>,
    #[n(5)]
    pub facts: HostFacts,
}

/// The one answer to it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum EnrolAnswer {
    #[n(0)]
    Accepted {
        #[n(0)]
        host: HostId,
        /// Leaf first, then the grid's.
        #[n(1)]
        chain: Vec<Der>,
        #[n(2)]
        grid: GridId,
        /// The grid's own certificate; its key has the fingerprint in the token.
        #[n(3)]
        ca: Der,
    },
    #[n(1)]
    Refused {
        #[n(0)]
        reason: EnrolRefusal,
        /// What happened and what to do, for the person at the machine.
        #[n(1)]
        text: String,
    },
}

/// Why a machine is not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum EnrolRefusal {
    #[n(0)]
    UnknownToken,
    #[n(1)]
    UsedToken,
    #[n(2)]
    ExpiredToken,
    /// The secret is wrong, or the request was made for another TLS session.
    #[n(3)]
    BadProof,
    #[n(4)]
    BadRequest,
    #[n(5)]
    TooMany,
}

impl EnrolRequest {
    /// A request with its proof. `exporter` is [`crate::transport::exporter`] of the connection it is sent on.
    pub fn new(
        token: &JoinToken,
        exporter: &[u8; EXPORTER],
        csr: Vec<u8>,
        name: String,
        host: Option<HostId>,
        facts: HostFacts,
    ) -> Self {
        let mut request = Self { proof: [0; SECRET], token_id: token.id(), csr, name, host, facts };
        request.proof = prove(token, exporter, &request);
        request
    }
}

/// The secret, hidden under an HMAC whose key is the secret's hash, over this TLS session and this request (RFC 5802's
/// way). Who has only the stored hash can check a proof but not make one; who relays it into another session, or with
/// another key or name in it, is found out.
fn prove(token: &JoinToken, exporter: &[u8; EXPORTER], request: &EnrolRequest) -> [u8; SECRET] {
    let mut proof = mask(&token.secret_hash(), exporter, request);
    proof.iter_mut().zip(token.secret).for_each(|(byte, secret)| *byte ^= secret);
    proof
}

/// True where the request was made by one who has the secret with this hash, in the TLS session of this exporter.
pub fn check_proof(request: &EnrolRequest, secret_hash: &[u8; 32], exporter: &[u8; EXPORTER]) -> bool {
    let mut secret = mask(secret_hash, exporter, request);
    secret.iter_mut().zip(request.proof).for_each(|(byte, proof)| *byte ^= proof);
    // Not in constant time: both sides of the comparison are hashes that the sender can't steer.
    sha256(&secret) == *secret_hash
}

fn mask(secret_hash: &[u8; 32], exporter: &[u8; EXPORTER], request: &EnrolRequest) -> [u8; SECRET] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret_hash));
    let host = request.host.map(|host| host.bytes());
    let parts: [&[u8]; 4] = [exporter, &request.csr, request.name.as_bytes(), host.as_ref().map_or(&[], |h| &h[..])];
    for part in parts {
        // Each with its length, so that no byte can move from one part to the next.
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(part);
    }
    let mut mask = [0; SECRET];
    mask.copy_from_slice(&context.sign().as_ref()[..SECRET]);
    mask
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM] {
    let mut input = format!("{PREFIX}{VERSION}").into_bytes();
    input.extend_from_slice(body);
    let mut sum = [0; CHECKSUM];
    sum.copy_from_slice(&sha256(&input)[..CHECKSUM]);
    sum
}

/// Five bits a letter, highest first; the last letter is filled up with zeros.
fn pack(payload: &[u8; PAYLOAD]) -> impl Iterator<Item = char> {
    let bit = |n: usize| payload.get(n / 8).map_or(0, |byte| (byte >> (7 - n % 8)) & 1);
    (0..LETTERS).map(move |letter| {
        let value = (0..5).fold(0, |value, n| value << 1 | usize::from(bit(letter * 5 + n)));
        char::from(ALPHABET[value])
    })
}

fn unpack(letters: &str) -> Result<[u8; PAYLOAD], TokenError> {
    let mut payload = [0; PAYLOAD];
    let mut got = 0;
    for (index, letter) in letters.chars().enumerate() {
        let value = value_of(letter).ok_or(TokenError::Letter { letter, position: index + 1 })?;
        if index >= LETTERS {
            return Err(TokenError::TooLong);
        }
        for n in 0..5 {
            let at = index * 5 + n;
            let bit = (value >> (4 - n)) & 1;
            match payload.get_mut(at / 8) {
                Some(byte) => *byte |= bit << (7 - at % 8),
                None if bit == 1 => return Err(TokenError::Mistyped),
                None => {}
            }
        }
        got = index + 1;
    }
    if got < LETTERS { Err(TokenError::TooShort { got }) } else { Ok(payload) }
}

fn value_of(letter: char) -> Option<u8> {
    let plain = match letter {
        'i' | 'l' => '1',
        'o' => '0',
        other => other,
    };
    let index = ALPHABET.iter().position(|known| char::from(*known) == plain)?;
    u8::try_from(index).ok()
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::codec;

    const EXPORT: [u8; EXPORTER] = [3; EXPORTER];

    fn token(seed: u8) -> JoinToken {
        let mut fingerprint = [0; 32];
        fingerprint.iter_mut().zip(seed..).for_each(|(byte, value)| *byte = value.wrapping_mul(37));
        JoinToken::mint(Fingerprint(fingerprint), [seed ^ 0xa5; SECRET])
    }

    fn request(token: &JoinToken) -> EnrolRequest {
        EnrolRequest::new(token, &EXPORT, vec![1, 2, 3], "alpha".into(), None, HostFacts::default())
    }

    #[test]
    fn a_token_survives_text_and_how_people_type() {
        for seed in [0, 1, 77] {
            let token = token(seed);
            let text = token.reveal();
            assert_eq!(text.len(), "roost1".len() + LETTERS + LETTERS.div_ceil(GROUP));
            assert_eq!(JoinToken::parse(&text).unwrap(), token);
            let typed = format!("  {}\n", text.to_uppercase().replace('-', " ").replace('0', "O"));
            assert_eq!(JoinToken::parse(&typed).unwrap(), token);
            assert_eq!(
                JoinToken::parse(&text.replace('-', "").replace('1', "l").replacen('l', "1", 1)).unwrap(),
                token
            );
        }
    }

    #[test]
    fn a_token_that_is_no_token_says_what_is_wrong() {
        let text = token(5).reveal();
        let end = text.len() - 1;
        let cases = [
            (String::new(), TokenError::NoToken),
            ("roost".into(), TokenError::NoToken),
            ("ghost1-abc".into(), TokenError::NoToken),
            (text.replace("roost1", "roost2"), TokenError::Version('2')),
            (text[..end].into(), TokenError::TooShort { got: LETTERS - 1 }),
            (format!("{text}0"), TokenError::TooLong),
            ("x".repeat(TEXT + 1), TokenError::TooLong),
            ("roost1-ab!".into(), TokenError::Letter { letter: '!', position: 3 }),
            ("roost1-äb".into(), TokenError::Letter { letter: 'ä', position: 1 }),
        ];
        for (text, error) in cases {
            assert_eq!(JoinToken::parse(&text).unwrap_err(), error, "{text}");
        }
    }

    #[test]
    fn every_single_mistyped_letter_is_found() {
        let text = token(9).reveal();
        for at in "roost1-".len()..text.len() {
            let old = &text[at..=at];
            let new = if old == "x" { "y" } else { "x" };
            if old != "-" {
                let typed = format!("{}{new}{}", &text[..at], &text[at + 1..]);
                assert_eq!(JoinToken::parse(&typed), Err(TokenError::Mistyped), "{typed}");
            }
        }
    }

    #[test]
    fn a_proof_fits_its_secret_session_and_request_only() {
        let token = token(1);
        let good = request(&token);
        let hash = token.secret_hash();
        assert!(check_proof(&good, &hash, &EXPORT));
        assert!(!check_proof(&good, &super::test::token(2).secret_hash(), &EXPORT));
        assert!(!check_proof(&good, &hash, &[4; EXPORTER]));
        assert!(!check_proof(&EnrolRequest { csr: vec![1, 2, 4], ..good.clone() }, &hash, &EXPORT));
        assert!(!check_proof(&EnrolRequest { name: "beta".into(), ..good.clone() }, &hash, &EXPORT));
        assert!(!check_proof(&EnrolRequest { host: Some(HostId::from_u128(0)), ..good.clone() }, &hash, &EXPORT));
        let moved = EnrolRequest { csr: vec![1, 2, 3, b'a'], name: "lpha".into(), ..good };
        assert!(!check_proof(&moved, &hash, &EXPORT));
    }

    #[test]
    fn the_stored_hash_alone_makes_no_proof() {
        let token = token(1);
        let mut forged = request(&token);
        forged.proof = mask(&token.secret_hash(), &EXPORT, &forged);
        assert!(!check_proof(&forged, &token.secret_hash(), &EXPORT));
    }

    #[test]
    fn requests_and_answers_survive_the_wire_and_hide_secrets() {
        let token = token(1);
        let request = request(&token);
        assert_eq!(codec::decode::<EnrolRequest>(&codec::encode(&request)).unwrap(), request);
        let chain = vec![Der(vec![1]), Der(vec![2, 3])];
        let ca = Der(vec![4]);
        let answers = [
            EnrolAnswer::Accepted { host: HostId::from_u128(1), chain, grid: GridId::from_u128(2), ca },
            EnrolAnswer::Refused { reason: EnrolRefusal::TooMany, text: "later".into() },
        ];
        for answer in answers {
            assert_eq!(codec::decode::<EnrolAnswer>(&codec::encode(&answer)).unwrap(), answer);
        }
        assert_eq!(format!("{token:?}"), format!("JoinToken({}, secret hidden)", token.id()));
        assert_eq!(token.id().len(), 16);
    }
}
