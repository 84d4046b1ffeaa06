//! What callers see of what was sampled.

use roost_protocol::Millis;
use roost_protocol::look::{GuestMoment, HostMoment};
use serde_json::{Value, json};

use super::{hundredths, tenths, time};
use crate::api::page::{Listed, Order};

/// A host over one step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostMomentView<'a> {
    pub(crate) step: Millis,
    pub(crate) moment: &'a HostMoment,
}

impl Listed for HostMomentView<'_> {
    const SCHEMA: &'static str = "host_moment";

    fn order(&self) -> Order {
        Order::Number(self.moment.at.0)
    }

    fn property(&self, name: &str) -> Value {
        let moment = self.moment;
        match name {
            "time" => time(moment.at),
            "step_s" => json!(self.step.0 / 1_000),
            "cpu_percent" => tenths(moment.cpu_permille),
            "cpu_peak_percent" => tenths(moment.cpu_peak_permille),
            "memory_available_mib" => json!(moment.memory_available_mib),
            "swap_used_mib" => json!(moment.swap_used_mib),
            "load" => hundredths(moment.load_centi),
            "pressure_cpu_percent" => hundredths(moment.pressure_cpu_centi),
            "pressure_memory_percent" => hundredths(moment.pressure_memory_centi),
            "pressure_io_percent" => hundredths(moment.pressure_io_centi),
            "receive_bps" => json!(moment.receive_bps),
            "transmit_bps" => json!(moment.transmit_bps),
            "disk_free_mib" => json!(moment.disk_free_mib),
            "saved_by_sharing_mib" => json!(moment.saved_by_sharing_mib),
            _ => Value::Null,
        }
    }
}

/// A guest over one step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GuestMomentView<'a> {
    pub(crate) step: Millis,
    pub(crate) moment: &'a GuestMoment,
}

impl Listed for GuestMomentView<'_> {
    const SCHEMA: &'static str = "guest_moment";

    fn order(&self) -> Order {
        Order::Number(self.moment.at.0)
    }

    fn property(&self, name: &str) -> Value {
        let moment = self.moment;
        match name {
            "time" => time(moment.at),
            "step_s" => json!(self.step.0 / 1_000),
            "cpu_percent" => tenths(moment.cpu_permille),
            "cpu_peak_percent" => tenths(moment.cpu_peak_permille),
            "resident_mib" => json!(moment.resident_mib),
            "balloon_mib" => json!(moment.balloon_mib),
            "available_mib" => json!(moment.available_mib),
            "read_bps" => json!(moment.read_bps),
            "write_bps" => json!(moment.write_bps),
            "receive_bps" => json!(moment.receive_bps),
            "transmit_bps" => json!(moment.transmit_bps),
            "availability_percent" => moment.availability_permille.map_or(Value::Null, tenths),
            "access_rtt_ms" => json!(moment.access_rtt_ms),
            _ => Value::Null,
        }
    }
}
