//! Identifiers: each has a kind, so that a host's id can't be passed for a guest's.

use std::fmt;
use std::str::FromStr;

use minicbor::{Decode, Encode};
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        #[cbor(transparent)]
        pub struct $name(#[cbor(n(0), with = "minicbor::bytes")] [u8; 16]);

        impl $name {
            /// The id with these 16 bytes (RFC 9562 order).
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The id with this number; meant for tests and simulation.
            pub const fn from_u128(number: u128) -> Self {
                Self(number.to_be_bytes())
            }

            /// The 16 bytes, RFC 9562 order.
            pub const fn bytes(&self) -> [u8; 16] {
                self.0
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(uuid.into_bytes())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", Uuid::from_bytes(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::try_parse(text).map(Self::from)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

uuid_id!(
    /// One grid: all hosts of one aggregator. Derived from the grid's CA key, so it survives a lost database.
    GridId
);
uuid_id!(
    /// One host's identity; bound to its key at enrolment.
    HostId
);
uuid_id!(
    /// One guest; equal to its libvirt UUID.
    GuestId
);
uuid_id!(
    /// One restore point of one guest; the store that makes it draws it.
    PointId
);
uuid_id!(
    /// One operation; commands are idempotent by it.
    OperationId
);

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, serde::Serialize, serde::Deserialize,
        )]
        #[cbor(transparent)]
        #[serde(transparent)]
        pub struct $name(#[n(0)] pub u64);

        impl $name {
            /// The one after this.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

counter!(
    /// Rises at every start of the aggregator; an agent refuses commands of an older one than it has seen.
    Epoch
);
counter!(
    /// Version of a wish or of the grid document; newer wins, older is refused, equal is nothing.
    Generation
);

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn an_id_survives_text_and_bytes() {
        let id = HostId::from_u128(0x1234_5678_9abc_def0_1122_3344_5566_7788);
        assert_eq!(id.to_string().parse::<HostId>().unwrap(), id);
        assert_eq!(HostId::from_bytes(id.bytes()), id);
        assert!("no id".parse::<HostId>().is_err());
    }
}
