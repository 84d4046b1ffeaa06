//! What the agent tells others: the aggregator over QUIC, monitoring by SNMP and Prometheus, the service manager and the
//! journal.

pub(crate) mod identity;
pub(crate) mod join;
pub(crate) mod link;
pub(crate) mod metrics;
pub(crate) mod monitor;
mod notes;
pub(crate) mod scrape;
pub(crate) mod service;
pub(crate) mod snmp;
#[cfg(test)]
mod test;
