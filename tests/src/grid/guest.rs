//! What tests make guests from.

use serde_json::{Value, json};

/// The 9 KB guest: up in under a second, deaf to ACPI, so it is stopped and never shut down.
pub fn tiny(name: &str, host: &str, start: bool) -> Value {
    json!({
        "name": name, "host": host, "memory_mib": 16, "start": start,
        "boot": {"from": "kernel", "kernel": "mb.elf", "cmdline": "h=100"},
    })
}
