//! What an object may hold.

use crate::Oid;

/// Longest text that is served: the limit of SnmpAdminString in VM-MIB.
pub(crate) const TEXT: usize = 255;

/// One value, as AgentX carries it (RFC 2741 §5.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Integer(i32),
    Octets(Vec<u8>),
    Null,
    Oid(Oid),
    IpAddress([u8; 4]),
    Counter32(u32),
    Gauge32(u32),
    /// Hundredths of a second.
    TimeTicks(u32),
    Opaque(Vec<u8>),
    Counter64(u64),
    NoSuchObject,
    NoSuchInstance,
    EndOfMibView,
}

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VarBind {
    pub oid: Oid,
    pub value: Value,
}

impl Value {
    /// At most [`TEXT`] bytes of it, whole characters.
    pub fn text(text: &str) -> Self {
        Self::Octets(text.as_bytes()[..text.floor_char_boundary(TEXT)].to_vec())
    }

    /// As an INTEGER; what doesn't fit is shown as the largest.
    pub fn integer(number: u64) -> Self {
        Self::Integer(i32::try_from(number).unwrap_or(i32::MAX))
    }

    /// As an INTEGER, -1 where it isn't known.
    pub fn integer_or_unknown(number: Option<u64>) -> Self {
        number.map_or(Self::Integer(-1), Self::integer)
    }

    /// A gauge stays at its largest value when it would pass it (RFC 2578 §7.1.7).
    pub fn gauge(number: u64) -> Self {
        Self::Gauge32(u32::try_from(number).unwrap_or(u32::MAX))
    }

    /// A counter begins again at zero (RFC 2578 §7.1.6).
    pub fn counter(number: u64) -> Self {
        Self::Counter32(wrapped(number))
    }

    /// A span in milliseconds, in hundredths of a second, which begin again at zero.
    pub fn ticks(millis: u64) -> Self {
        Self::TimeTicks(wrapped(millis / 10))
    }
}

fn wrapped(number: u64) -> u32 {
    u32::try_from(number & u64::from(u32::MAX)).unwrap_or(0)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn numbers_that_do_not_fit_are_bounded_as_their_kind_demands() {
        assert_eq!(Value::integer(u64::MAX), Value::Integer(i32::MAX));
        assert_eq!(Value::integer_or_unknown(None), Value::Integer(-1));
        assert_eq!(Value::gauge(u64::MAX), Value::Gauge32(u32::MAX));
        assert_eq!(Value::counter((1 << 32) + 5), Value::Counter32(5));
        assert_eq!(Value::ticks(1_234), Value::TimeTicks(123));
        assert_eq!(Value::text(&"é".repeat(200)), Value::Octets("é".repeat(127).into_bytes()));
    }
}
