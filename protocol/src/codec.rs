//! CBOR: the only file that knows it. See docs/decisions/0001.
//!
//! Structs travel as arrays in the order of their numbers, so no key can stand twice. A reader skips elements it doesn't
//! know and takes a missing `Option` for none: a field added later is an `Option`, and gets the next number.

use minicbor::{Decode, Encode};

/// The value as CBOR.
pub fn encode<T: Encode<()>>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    // Writing into a Vec can't fail; the encoder's error type is Infallible.
    let _: Result<(), minicbor::encode::Error<std::convert::Infallible>> = minicbor::encode(value, &mut bytes);
    bytes
}

/// Why bytes are not a message.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("decode message")]
    Decode(#[from] minicbor::decode::Error),
    #[error("{0} bytes follow the message")]
    Trailing(usize),
}

/// The value in these bytes, and nothing after it. The caller has bounded the length.
///
/// # Errors
/// Not CBOR of this shape, or more bytes than the value has.
pub fn decode<T: for<'b> Decode<'b, ()>>(bytes: &[u8]) -> Result<T, Error> {
    let mut decoder = minicbor::Decoder::new(bytes);
    let value = decoder.decode()?;
    match bytes.len() - decoder.position() {
        0 => Ok(value),
        rest => Err(Error::Trailing(rest)),
    }
}
