//! SNMP for a host: an AgentX subagent (RFC 2741) under the distribution's snmpd, which serves VM-MIB (RFC 7666) and
//! ROOST-MIB from a snapshot and sends their notifications. Beside the aggregator it serves roostGrid instead. Neither
//! libvirt nor a database is asked here.

pub mod edge;
pub mod mib;
mod oid;
pub mod pdu;
pub mod session;
pub mod setup;
mod tree;
mod value;
pub mod wire;

pub use oid::Oid;
pub use pdu::DecodeError;
pub use tree::Tree;
pub use value::{Value, VarBind};
