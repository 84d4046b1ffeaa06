//! The Network Block Device protocol over unix sockets, as far as backups need it: a client that reads disks and asks
//! what is data and what changed, and a server that gives a restore point to QEMU. Source of all numbers: the NetworkBlockDevice project's
//! doc/proto.md.

pub(crate) mod client;
pub(crate) mod server;
#[cfg(test)]
mod test;
mod wire;
