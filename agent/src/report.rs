//! What the agent tells others: the aggregator over QUIC, the service manager and the journal.

pub(crate) mod identity;
pub(crate) mod join;
pub(crate) mod link;
pub(crate) mod service;
#[cfg(test)]
mod test;
