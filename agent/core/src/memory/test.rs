//! Promises of one plan at a time; the simulation in `tests` keeps those that need time.

mod any;
mod balloons;
mod room;
mod share;

use std::collections::BTreeMap;

use roost_protocol::host::Pressure;
use roost_protocol::memory::{InForce, MemoryPolicy, MemoryWish, PolicyFrom};
use roost_protocol::{GuestId, MiB, Millis, Stamp, Time};

use super::*;

/// A host of 16 GiB with so much available.
fn host(available: u64) -> HostMemory {
    HostMemory {
        total: MiB(16_384),
        available: MiB(available),
        pressure: Some(Pressure::default()),
        ..HostMemory::default()
    }
}

/// A guest of 1 GiB that has run for an hour, uses so much of its balloon and told so just now.
fn guest(current: u64, used: u64) -> GuestMemory {
    let usable = MiB(current) - MiB(used);
    GuestMemory {
        full: MiB(1_024),
        resident: MiB(current),
        proportional: None,
        shared: None,
        cpu_permille: 10,
        age: Millis::seconds(3_600),
        ours: true,
        rescue: true,
        wish: MemoryWish::default(),
        mergeable: true,
        balloon: Some(Balloon {
            current: MiB(current),
            told: Some(Told { age: Millis(500), unused: MiB(usable.0 / 2), usable, ..Told::default() }),
        }),
    }
}

fn id(number: u128) -> GuestId {
    GuestId::from_u128(number)
}

fn sample(available: u64, guests: Vec<GuestMemory>) -> Sample {
    let guests = guests.into_iter().zip(1..).map(|(guest, number)| (id(number), guest)).collect();
    Sample { at: Stamp(1), host: host(available), ksm: None, guests }
}

fn ksm() -> Ksm {
    let knobs = Knobs {
        run: Some(0),
        pages_to_scan: Some(100),
        sleep_ms: Some(20),
        advisor: Some(false),
        advisor_cpu_percent: Some(70),
        advisor_target_s: Some(200),
        advisor_least_pages: Some(500),
        smart_scan: Some(1),
        use_zero_pages: Some(0),
    };
    Ksm { knobs, page_bytes: 4_096, scanned: Some(0), profit: Some(0), cpu: Some(Millis(0)), ..Ksm::default() }
}

/// A state that has watched these guests long enough.
fn watched(sample: &Sample, policy: &MemoryPolicy) -> State {
    let mut state = State::default();
    let calm = Sample { host: host(16_000), ..sample.clone() };
    for second in [0, 10, 20, 30] {
        plan(Time(second * 1_000), &calm, policy, &mut state);
    }
    state
}

/// The first moment that [`watched`] has not seen.
const NOW: Time = Time(40_000);

fn sizes(plan: &Plan) -> BTreeMap<GuestId, (MiB, MiB)> {
    let size = |deed: &Deed| match deed {
        Deed::Resize { guest, from, to } => Some((*guest, (*from, *to))),
        Deed::Share(_) | Deed::Period { .. } => None,
    };
    plan.deeds.iter().filter_map(size).collect()
}

#[test]
fn enough_memory_means_nothing_is_done() {
    let policy = MemoryPolicy::default();
    let mut sample = sample(12_000, vec![guest(1_024, 300); 4]);
    sample.ksm = Some(ksm());
    let mut state = watched(&sample, &policy);
    let plan = plan(NOW, &sample, &policy, &mut state);
    assert_eq!((plan.rung, plan.deeds, plan.alarm), (Rung::Free, vec![], None));
}

#[test]
fn every_deed_has_its_chain_of_causes_with_numbers() {
    let policy = MemoryPolicy::default();
    let sample = sample(2_000, vec![guest(1_024, 300); 4]);
    let mut state = watched(&sample, &policy);
    let plan = plan(NOW, &sample, &policy, &mut state);
    let resized = sizes(&plan).len();
    assert_eq!((resized, plan.told.len()), (4, 4));
    let act = &plan.told[0];
    assert_eq!(act.what, "takes memory: 1024 MiB to 815 MiB");
    assert_eq!(
        act.why,
        [
            "2000 MiB of 16384 MiB are available, the level to squeeze at is 3276 MiB",
            "idle guests give memory back",
            "2914 MiB are wanted from 4 guests, 0 MiB are under way",
            "it uses 300 MiB of 1024 MiB, 724 MiB are free to it, it keeps 153 MiB of them; floor 409 MiB, weight 100",
            "its part is 209 MiB, 204 thousandths of its memory",
        ]
    );
}

#[test]
fn the_alarm_is_raised_once_and_cleared_once() {
    let policy = MemoryPolicy { balloons: false, ..MemoryPolicy::default() };
    let mut state = State::default();
    let mut alarms = Vec::new();
    for (second, available) in [(0, 300), (2, 300), (4, 300), (6, 9_000), (12, 9_000), (20, 9_000)] {
        let plan = plan(Time(second * 1_000), &sample(available, vec![]), &policy, &mut state);
        alarms.extend(plan.alarm.map(|alarm| (second, alarm == Alarm::Clear)));
    }
    assert_eq!(alarms, [(0, false), (20, true)]);
}
