//! The grid document: what the administrator wants (hosts, users, tokens), signed and sealed with the grid's key. Every
//! agent keeps the newest copy, so that an aggregator that lost its data but not its key gets it back from any host.

use minicbor::{Decode, Encode};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::{SecureRandom, SystemRandom};

use crate::identity::{GridKey, GridPublic, IdentityError};
use crate::{Generation, GridId, codec};

/// Largest sealed document: it must fit in one frame of 1 MiB.
pub const SEALED: usize = 900 << 10;
/// Largest content: what is left after nonce, tag, signature and the envelope.
pub const PLAIN: usize = SEALED - 512;

/// First bytes of what is signed. No certificate begins so; a signature for one can't be used as the other's.
const SIGNED_AS: &[u8] = b"roost grid document 1\0";
const KEY_SALT: &[u8] = b"roost grid document";
const KEY_INFO: &[u8] = b"sealing key 1";

/// Why a document was not sealed, or not accepted.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    #[error("the grid document has {length} bytes; at most {limit} fit")]
    TooLarge { length: usize, limit: usize },
    #[error("read the grid document")]
    Decode(#[from] codec::Error),
    #[error("the grid document belongs to grid {0}")]
    OtherGrid(GridId),
    #[error("sign or check the grid document")]
    Signature(#[from] IdentityError),
    #[error("open the grid document: it was sealed with another key or changed")]
    Sealed,
    #[error("the system's random source failed")]
    Random,
}

#[derive(Encode, Decode)]
struct Envelope {
    #[n(0)]
    grid: GridId,
    #[n(1)]
    generation: Generation,
    #[cbor(n(2), with = "minicbor::bytes")]
    nonce: [u8; 12],
    #[cbor(n(3), with = "minicbor::bytes")]
    ciphertext: Vec<u8>,
    #[cbor(n(4), with = "minicbor::bytes")]
    signature: Vec<u8>,
}

impl Envelope {
    fn header(&self) -> Vec<u8> {
        let mut bytes = SIGNED_AS.to_vec();
        bytes.extend_from_slice(&self.grid.bytes());
        bytes.extend_from_slice(&self.generation.0.to_be_bytes());
        bytes
    }

    /// All parts but the last have a fixed length.
    fn signed(&self) -> Vec<u8> {
        let mut bytes = self.header();
        bytes.extend_from_slice(&self.nonce);
        bytes.extend_from_slice(&self.ciphertext);
        bytes
    }
}

/// The document of this generation, readable only with the grid's key. `plaintext` has at most [`PLAIN`] bytes.
///
/// # Errors
/// Too large, or no randomness.
pub fn seal(key: &GridKey, generation: Generation, plaintext: &[u8]) -> Result<Vec<u8>, DocumentError> {
    if plaintext.len() > PLAIN {
        return Err(DocumentError::TooLarge { length: plaintext.len(), limit: PLAIN });
    }
    let mut nonce = [0; 12];
    SystemRandom::new().fill(&mut nonce).map_err(|_| DocumentError::Random)?;
    let ciphertext = plaintext.to_vec();
    let mut envelope = Envelope { grid: key.grid_id(), generation, nonce, ciphertext, signature: Vec::new() };
    let header = envelope.header();
    sealing_key(key)?
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(header), &mut envelope.ciphertext)
        .map_err(|_| DocumentError::Sealed)?;
    envelope.signature = key.sign_bytes(&envelope.signed())?;
    Ok(codec::encode(&envelope))
}

/// Generation and content of a document of this grid.
///
/// # Errors
/// Another grid's, changed, or no document.
pub fn open(key: &GridKey, bytes: &[u8]) -> Result<(Generation, Vec<u8>), DocumentError> {
    let mut envelope = verified(&key.public()?, bytes)?;
    let (header, nonce) = (envelope.header(), Nonce::assume_unique_for_key(envelope.nonce));
    let plain = sealing_key(key)?
        .open_in_place(nonce, Aad::from(header), &mut envelope.ciphertext)
        .map_err(|_| DocumentError::Sealed)?;
    Ok((envelope.generation, plain.to_vec()))
}

/// Grid and generation of a document whose signature is right: what an agent does before it keeps one.
///
/// # Errors
/// Another grid's, changed, or no document.
pub fn peek(grid: &GridPublic, bytes: &[u8]) -> Result<(GridId, Generation), DocumentError> {
    let envelope = verified(grid, bytes)?;
    Ok((envelope.grid, envelope.generation))
}

fn verified(grid: &GridPublic, bytes: &[u8]) -> Result<Envelope, DocumentError> {
    if bytes.len() > SEALED {
        return Err(DocumentError::TooLarge { length: bytes.len(), limit: SEALED });
    }
    let envelope: Envelope = codec::decode(bytes)?;
    if envelope.grid != grid.grid_id() {
        return Err(DocumentError::OtherGrid(envelope.grid));
    }
    grid.verify(&envelope.signed(), &envelope.signature)?;
    Ok(envelope)
}

fn sealing_key(key: &GridKey) -> Result<LessSafeKey, DocumentError> {
    let derived = Salt::new(HKDF_SHA256, KEY_SALT).extract(key.secret());
    let unbound: UnboundKey = derived.expand(&[KEY_INFO], &AES_256_GCM).map_err(|_| DocumentError::Sealed)?.into();
    Ok(LessSafeKey::new(unbound))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_document_opens_with_its_key_also_when_that_was_read_back_from_its_file() {
        let key = GridKey::generate().unwrap();
        let sealed = seal(&key, Generation(7), b"who is in the grid").unwrap();
        let again = GridKey::from_pem(&key.to_pem()).unwrap();
        assert_eq!(open(&again, &sealed).unwrap(), (Generation(7), b"who is in the grid".to_vec()));
        assert_eq!(peek(&key.public().unwrap(), &sealed).unwrap(), (key.grid_id(), Generation(7)));
        assert!(!sealed.windows(3).any(|three| three == b"who"));
    }

    #[test]
    fn a_changed_document_is_refused_wherever_it_was_changed() {
        let key = GridKey::generate().unwrap();
        let public = key.public().unwrap();
        let sealed = seal(&key, Generation(7), b"content").unwrap();
        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 1;
            assert!(peek(&public, &bad).is_err() && open(&key, &bad).is_err(), "byte {at}");
            assert!(peek(&public, &sealed[..at]).is_err());
        }
    }

    #[test]
    fn another_grids_document_is_refused_even_if_it_bears_this_ones_id() {
        let (key, other) = (GridKey::generate().unwrap(), GridKey::generate().unwrap());
        let foreign = seal(&other, Generation(9), b"content").unwrap();
        assert!(matches!(open(&key, &foreign), Err(DocumentError::OtherGrid(id)) if id == other.grid_id()));
        let mut envelope: Envelope = codec::decode(&foreign).unwrap();
        envelope.grid = key.grid_id();
        envelope.signature = other.sign_bytes(&envelope.signed()).unwrap();
        let error = peek(&key.public().unwrap(), &codec::encode(&envelope)).unwrap_err();
        assert!(matches!(error, DocumentError::Signature(_)), "{error:?}");
    }

    #[test]
    fn the_largest_document_fits_and_a_larger_one_is_refused() {
        let key = GridKey::generate().unwrap();
        let sealed = seal(&key, Generation(1), &vec![7; PLAIN]).unwrap();
        assert!(sealed.len() <= SEALED);
        assert_eq!(open(&key, &sealed).unwrap().1.len(), PLAIN);
        assert!(matches!(seal(&key, Generation(1), &vec![7; PLAIN + 1]), Err(DocumentError::TooLarge { .. })));
        assert!(matches!(open(&key, &vec![0; SEALED + 1]), Err(DocumentError::TooLarge { .. })));
    }
}
