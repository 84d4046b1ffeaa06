//! Object identifiers.

use std::fmt;
use std::ops::Deref;

/// Most sub-identifiers an identifier may have (RFC 2578 §3.5).
pub(crate) const LONGEST: usize = 128;

/// An object identifier; ordered as SNMP orders them, sub-identifier by sub-identifier.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Oid(Box<[u32]>);

impl Oid {
    /// `arc` followed by `rest`; what is beyond [`LONGEST`] sub-identifiers is cut, which no identifier of ours reaches.
    pub fn join(arc: &[u32], rest: &[u32]) -> Self {
        Self(arc.iter().chain(rest).take(LONGEST).copied().collect())
    }
}

impl From<&[u32]> for Oid {
    fn from(arc: &[u32]) -> Self {
        Self::join(arc, &[])
    }
}

impl Deref for Oid {
    type Target = [u32];
    fn deref(&self) -> &[u32] {
        &self.0
    }
}

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|sub| write!(f, ".{sub}"))
    }
}

impl fmt::Debug for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
