//! What the agent sees: domains through libvirt, samples from /proc, facts of the host.

pub(crate) mod console;
pub(crate) mod details;
pub(crate) mod disks;
pub(crate) mod facts;
pub(crate) mod guard;
mod hardware;
mod ksm;
pub(crate) mod libvirt;
pub(crate) mod memory;
pub(crate) mod probe;
pub(crate) mod proc;
pub(crate) mod room;
pub(crate) mod samples;
pub(crate) mod translate;
