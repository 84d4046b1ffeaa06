//! What tests of several rooms begin with.

use roost_protocol::guest::PowerState;
use roost_protocol::host::HostFacts;
use roost_protocol::{GuestId, HostId, MiB, Millis};

use crate::agent::Config;
use crate::backup::plan::Limits;
use crate::event::{Cause, Seen};

/// A host, with a guard or without.
pub(crate) fn config(host: HostId, guarded: bool) -> Config {
    Config {
        host,
        facts: HostFacts::default(),
        list_every: Millis(60_000),
        restart_first: Millis(1_000),
        restart_longest: Millis(60_000),
        backup: Limits::default(),
        guarded,
    }
}

/// A small guest in this state.
pub(crate) fn seen(guest: GuestId, state: PowerState) -> Seen {
    Seen {
        guest,
        name: "g".into(),
        state,
        cause: Cause::Unknown,
        persistent: true,
        vcpus: 1,
        memory_mib: MiB(64),
        disks: Vec::new(),
    }
}
