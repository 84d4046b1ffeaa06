//! What callers see of a host's facts.

use roost_protocol::host::{NextImage, RunningImage, Virtualization};
use serde_json::{Value, json};

use super::{HostView, some_text, time};

impl HostView<'_> {
    pub(super) fn fact(&self, name: &str) -> Value {
        let Some(facts) = &self.host.facts else { return Value::Null };
        match name {
            "agent_version" => json!(facts.agent_version),
            "virtualization" => json!(match facts.virtualization {
                Virtualization::Hardware => "hardware",
                Virtualization::Software { .. } => "software",
                Virtualization::Unknown => "unknown",
            }),
            "virtualization_reason" => match &facts.virtualization {
                Virtualization::Software { why } => json!(why),
                Virtualization::Hardware | Virtualization::Unknown => Value::Null,
            },
            "hypervisor" => some_text(&facts.hypervisor),
            "kernel" => some_text(&facts.kernel),
            "system" => json!(facts.system),
            "image" => json!(facts.image.as_ref().map(image)),
            "boot_id" => json!(facts.boot_id),
            "cpus" => json!(facts.cpus),
            "memory_mib" => json!(facts.memory_mib),
            "addresses" => json!(facts.addresses),
            _ => Value::Null,
        }
    }
}

fn image(image: &RunningImage) -> Value {
    let next = image.next.as_ref().map(next_image);
    json!({"version": image.version, "made": time(image.made), "slot": image.slot, "next": next, "secure_boot": image.secure_boot})
}

/// An image that a host's next start uses.
pub(crate) fn next_image(image: &NextImage) -> Value {
    json!({"version": image.version, "made": time(image.made)})
}
