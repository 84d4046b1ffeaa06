//! Texts that are kept and passed on, and never shown again.

use std::fmt;

use minicbor::{Decode, Encode};

/// A text that is never shown again, neither to callers nor in logs.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct Hidden(#[n(0)] pub String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden")
    }
}
