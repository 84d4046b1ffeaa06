//! What callers see of the room that hosts have for more guests like one.

use roost_protocol::MiB;
use roost_protocol::memory::{MemoryReport, SIZES};
use roost_protocol::message::TEXT;
use serde_json::{Value, json};

/// One host's answer.
#[derive(Debug)]
pub(crate) struct HostRoom {
    name: String,
    /// How many, and the size that they were counted for; else why nobody knows.
    more: Result<(u32, MiB), String>,
    saved: MiB,
}

impl HostRoom {
    /// A host counts for the sizes of its own guests and the usual ones; for another one, the next larger tells how many
    /// there are at least.
    pub(crate) fn of(name: String, memory: MiB, report: &MemoryReport) -> Self {
        let sizes = report.more.iter().take(SIZES).filter(|of| of.memory_mib >= memory);
        let nearest = sizes.min_by_key(|of| of.memory_mib);
        let more = nearest.map(|of| (of.more, of.memory_mib));
        let saved = report.saved_by_sharing_mib + report.saved_by_balloons_mib;
        Self { name, more: more.ok_or_else(|| "does not count for guests so large".to_owned()), saved }
    }

    pub(crate) fn unknown(name: String, why: String) -> Self {
        Self { name, more: Err(why), saved: MiB(0) }
    }

    fn json(&self, memory: MiB) -> Value {
        let why = self.more.as_ref().err().map(|why| why.chars().take(TEXT).collect::<String>());
        let more = self.more.as_ref().ok();
        json!({
            "name": self.name,
            "more": more.map(|(more, _)| more),
            "at_least": more.is_some_and(|(_, counted)| *counted != memory),
            "saved_mib": more.map(|_| self.saved),
            "why": why,
        })
    }
}

/// All of them, those with the most room first.
pub(crate) fn guest_room(name: &str, memory: MiB, mut rooms: Vec<HostRoom>) -> Value {
    let more = |room: &HostRoom| room.more.as_ref().map_or(0, |(more, _)| *more);
    rooms.sort_by(|one, other| more(other).cmp(&more(one)).then_with(|| one.name.cmp(&other.name)));
    json!({
        "name": name,
        "memory_mib": memory,
        "more": rooms.iter().map(|room| u64::from(more(room))).sum::<u64>(),
        "hosts": rooms.iter().map(|room| room.json(memory)).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod test {
    use roost_protocol::memory::MoreGuests;

    use super::*;

    #[test]
    fn room_is_that_of_the_guest_s_size_or_at_least_that_of_the_next_larger() {
        let more = |memory_mib, more| MoreGuests { memory_mib: MiB(memory_mib), more };
        let report =
            MemoryReport { more: vec![more(2_048, 3), more(512, 14), more(1_024, 7)], ..MemoryReport::default() };
        let of = |memory| guest_room("desk", MiB(memory), vec![HostRoom::of("h1".into(), MiB(memory), &report)]);
        assert_eq!((&of(1_024)["more"], &of(1_024)["hosts"][0]["at_least"]), (&json!(7), &json!(false)));
        assert_eq!((&of(600)["more"], &of(600)["hosts"][0]["at_least"]), (&json!(7), &json!(true)));
        let large = of(4_096);
        assert_eq!((&large["more"], &large["hosts"][0]["more"]), (&json!(0), &json!(null)));
        assert!(large["hosts"][0]["why"].as_str().unwrap().contains("so large"), "{large}");
        let rooms = vec![
            HostRoom::unknown("h1".into(), "is not up".into()),
            HostRoom::of("h3".into(), MiB(2_048), &report),
            HostRoom::of("h2".into(), MiB(512), &report),
        ];
        let all = guest_room("desk", MiB(512), rooms);
        let names: Vec<_> =
            all["hosts"].as_array().unwrap().iter().map(|host| host["name"].as_str().unwrap()).collect();
        assert_eq!((names, &all["more"]), (vec!["h2", "h3", "h1"], &json!(17)), "{all}");
    }
}
