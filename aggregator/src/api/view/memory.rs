//! What callers see of a host's memory. The host's words are cut to what an honest one says.

use roost_aggregator_core::Grid;
use roost_protocol::HostId;
use roost_protocol::memory::{CAUSES, GuestMemoryReport, MemoryAct, MemoryReport, SIZES};
use roost_protocol::message::{GUESTS_PER_HOST, TEXT};
use serde_json::{Value, json};

use super::{tenths, time, word};
use crate::api::page::{Listed, Order};

/// All but what was done.
pub(crate) fn host_memory(grid: &Grid, host: HostId, report: &MemoryReport) -> Value {
    let guests = report.guests.iter().take(GUESTS_PER_HOST).map(|guest| guest_memory(grid, guest));
    let more = report.more.iter().take(SIZES).map(|of| json!({"memory_mib": of.memory_mib, "more": of.more}));
    json!({
        "name": grid.host_name(host),
        "host": host,
        "rung": word(report.rung),
        "total_mib": report.total_mib,
        "available_mib": report.available_mib,
        "reserve_mib": report.reserve_mib,
        "committed_mib": report.committed_mib,
        "overcommit_percent": tenths(report.overcommit_permille),
        "saved_by_sharing_mib": report.saved_by_sharing_mib,
        "saved_by_balloons_mib": report.saved_by_balloons_mib,
        "sharing_cpu_percent": report.ksm_cpu_permille.map(tenths),
        "fits_mib": report.fits_mib,
        "more": more.collect::<Vec<_>>(),
        "policy_from": report.policy.as_ref().map(|policy| policy.from),
        "policy": report.policy.as_ref().map(|policy| &policy.policy),
        "guests": guests.collect::<Vec<_>>(),
    })
}

fn guest_memory(grid: &Grid, guest: &GuestMemoryReport) -> Value {
    json!({
        "guest": guest.id,
        "name": grid.guest_name(guest.id),
        "memory_mib": guest.full_mib,
        "current_mib": guest.current_mib,
        "resident_mib": guest.resident_mib,
        "usable_mib": guest.usable_mib,
        "shared_mib": guest.shared_mib,
        "mergeable": guest.mergeable,
        "trust": guest.trust.as_deref().map(|trust| trust.chars().take(TEXT).collect::<String>()),
    })
}

/// Something that was done, and its place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ActView<'a> {
    pub(crate) grid: &'a Grid,
    pub(crate) place: u64,
    pub(crate) act: &'a MemoryAct,
}

impl Listed for ActView<'_> {
    const SCHEMA: &'static str = "memory_act";

    fn order(&self) -> Order {
        Order::Number(self.place)
    }

    fn property(&self, name: &str) -> Value {
        let cut = |text: &String| text.chars().take(TEXT).collect::<String>();
        match name {
            "time" => time(self.act.at),
            "guest_name" => json!(self.act.guest.map(|guest| self.grid.guest_name(guest))),
            "guest" => json!(self.act.guest),
            "what" => json!(cut(&self.act.what)),
            "why" => self.act.why.iter().take(CAUSES).map(cut).collect(),
            _ => Value::Null,
        }
    }
}
