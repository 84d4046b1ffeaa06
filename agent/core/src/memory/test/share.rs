//! Page sharing: when it begins, how fast it goes, when it ends, and that the host gets its knobs back.

use super::*;

/// A host whose kernel thread does as it is told: so many MiB of equal pages per guest, merged from the second pass on.
struct World {
    sample: Sample,
    mergeable: u64,
    state: State,
    policy: MemoryPolicy,
    now: Time,
    wrote: Vec<Knobs>,
}

impl World {
    fn new(ksm: Ksm, guests: usize, mergeable: u64) -> Self {
        let mut sample = sample(6_000, vec![guest(1_024, 300); guests]);
        sample.ksm = Some(ksm);
        let policy = MemoryPolicy::default();
        Self { sample, mergeable, state: State::default(), policy, now: Time(0), wrote: vec![] }
    }

    /// Two seconds: one look, and what the thread does with its knobs.
    fn step(&mut self) -> Plan {
        let plan = plan(self.now, &self.sample, &self.policy, &mut self.state);
        for deed in &plan.deeds {
            if let Deed::Share(knobs) = deed {
                self.apply(knobs);
                self.wrote.push(knobs.clone());
            }
        }
        self.scan();
        self.now = self.now + Millis(2_000);
        plan
    }

    fn apply(&mut self, knobs: &Knobs) {
        let now = &mut self.sample.ksm.as_mut().unwrap().knobs;
        assert!(knobs.pages_to_scan.is_none() || knobs.advisor == Some(false) || now.advisor != Some(true));
        let set = |old: &mut Option<u64>, new: Option<u64>| *old = new.or(*old);
        set(&mut now.run, knobs.run);
        set(&mut now.pages_to_scan, knobs.pages_to_scan);
        set(&mut now.sleep_ms, knobs.sleep_ms);
        set(&mut now.smart_scan, knobs.smart_scan);
        set(&mut now.use_zero_pages, knobs.use_zero_pages);
        set(&mut now.advisor_cpu_percent, knobs.advisor_cpu_percent);
        now.advisor = knobs.advisor.or(now.advisor);
    }

    /// 1 µs a page.
    fn scan(&mut self) {
        let memory: u64 = self.sample.guests.values().map(|guest| guest.resident.0).sum::<u64>() * 256;
        let ksm = self.sample.ksm.as_mut().unwrap();
        if ksm.knobs.run != Some(1) {
            return;
        }
        let batch = if ksm.knobs.advisor == Some(true) { 500 } else { ksm.knobs.pages_to_scan.unwrap() };
        let wakes = 2_000_000 / (ksm.knobs.sleep_ms.unwrap() * 1_000 + batch);
        let before = ksm.scanned.unwrap_or(ksm.unshared);
        let after = before + wakes * batch;
        ksm.cpu = ksm.cpu.map(|cpu| Millis(cpu.0 + wakes * batch / 1_000));
        ksm.scanned = ksm.scanned.map(|_| after);
        ksm.scans = after / memory;
        let ready = (after.saturating_sub(memory)).min(memory) * (self.mergeable * 256) / memory;
        ksm.sharing = ksm.sharing.max(ready);
        ksm.profit = ksm.profit.map(|_| i64::try_from(ksm.sharing * 4_096).unwrap());
    }

    fn run(&self) -> Option<u64> {
        self.sample.ksm.as_ref().unwrap().knobs.run
    }

    /// Steps until merging is at rest; fails after so many.
    fn until_rest(&mut self, most: u32) -> u32 {
        for step in 0..most {
            self.step();
            if self.run() == Some(0) {
                return step;
            }
        }
        panic!("still merging after {most} steps; wrote {:?}", self.wrote);
    }
}

#[test]
fn merging_begins_before_pressure_bursts_keeps_up_and_rests() {
    let mut world = World::new(ksm(), 9, 2_000);
    let first = world.step();
    assert_eq!(first.rung, Rung::Share);
    world.until_rest(2_000);
    assert_eq!(world.sample.ksm.as_ref().unwrap().saved(), MiB(2_000), "all that can be merged is");
    let mut runs: Vec<_> = world.wrote.iter().map(|knobs| (knobs.run, knobs.advisor)).collect();
    runs.retain(|change| *change != (None, None));
    assert_eq!(runs, [(Some(1), None), (None, Some(true)), (Some(0), None)]);
    let written = world.wrote.len();
    (0..200).for_each(|_| drop(world.step()));
    assert_eq!(world.wrote.len(), written, "knobs are written only when they change");
}

#[test]
fn a_burst_uses_no_more_cpu_than_it_may() {
    for permille in [100, 300, 700] {
        let mut world = World::new(ksm(), 9, 2_000);
        world.policy.ksm_cpu_permille = permille;
        (0..3).for_each(|_| drop(world.step()));
        let cpu = world.sample.ksm.as_ref().unwrap().cpu.unwrap().0;
        assert!(cpu <= 6 * u64::from(permille) * 11 / 10, "{cpu} ms of 6 s at {permille} permille");
    }
}

#[test]
fn new_guests_and_lost_pages_wake_merging_again() {
    let mut world = World::new(ksm(), 9, 2_000);
    world.until_rest(2_000);
    world.sample.guests.insert(id(50), guest(1_024, 300));
    world.step();
    assert_eq!(world.run(), Some(1), "a new guest");
    world.until_rest(2_000);
    let ksm = world.sample.ksm.as_mut().unwrap();
    ksm.sharing /= 2;
    ksm.profit = Some(i64::try_from(ksm.sharing * 4_096).unwrap());
    world.step();
    assert_eq!(world.run(), Some(1), "pages were written to");
}

#[test]
fn nothing_is_merged_while_a_guest_of_another_trust_group_could_be() {
    let mut world = World::new(ksm(), 9, 2_000);
    world.step();
    assert_eq!(world.run(), Some(1));
    let red = MemoryWish { trust: Some("red".into()), ..MemoryWish::default() };
    let stranger = GuestMemory { wish: red.clone(), ..guest(1_024, 300) };
    world.sample.guests.insert(id(50), stranger.clone());
    let plan = world.step();
    assert_eq!(world.run(), Some(0), "at once");
    let why = plan.told.iter().flat_map(|act| &act.why).any(|why| why.starts_with("1 guests of a trust group run"));
    assert!(why, "{:?}", plan.told);
    (0..200).for_each(|_| drop(world.step()));
    assert_eq!((world.run(), world.wrote.len()), (Some(0), 2), "for as long as it runs");
    world.sample.guests.insert(id(50), GuestMemory { mergeable: false, ..stranger });
    world.step();
    assert_eq!(world.run(), Some(1), "one that is kept apart does not matter");
    world.policy.trust = red.trust;
    world.step();
    assert_eq!(world.run(), Some(0), "the host changed hands");
}

#[test]
fn merging_that_somebody_left_on_is_ended_where_groups_meet() {
    let mut found = ksm();
    found.knobs.run = Some(1);
    let mut world = World::new(found, 2, 100);
    world.policy.trust = Some("red".into());
    world.step();
    assert_eq!(world.run(), Some(0));
    let mut world = World::new(ksm(), 2, 100);
    world.policy.trust = Some("red".into());
    world.step();
    assert_eq!((world.run(), world.wrote.len()), (Some(0), 0), "it was off");
}

#[test]
fn guests_without_equal_pages_cost_little_cpu() {
    let mut world = World::new(ksm(), 9, 0);
    world.until_rest(2_000);
    let cpu = world.sample.ksm.as_ref().unwrap().cpu.unwrap();
    assert!(cpu < Millis::seconds(30), "{cpu:?} for 9 GiB");
}

#[test]
fn an_older_kernel_gets_an_own_slow_pace() {
    let knobs = Knobs {
        run: Some(0),
        pages_to_scan: Some(100),
        sleep_ms: Some(20),
        use_zero_pages: Some(0),
        ..Knobs::default()
    };
    let old = Ksm { knobs, scanned: None, profit: None, cpu: None, ..ksm() };
    let mut world = World::new(old, 4, 500);
    world.sample.host.available = MiB(6_000);
    let fast = world.step();
    let Deed::Share(knobs) = &fast.deeds[0] else { panic!("{fast:?}") };
    assert_eq!((knobs.run, knobs.advisor, knobs.smart_scan), (Some(1), None, None));
    assert!(knobs.pages_to_scan.unwrap() > 10_000);
}

#[test]
fn a_host_without_ksm_is_left_without() {
    let mut sample = sample(6_000, vec![guest(1_024, 300); 9]);
    sample.ksm = None;
    let plan = plan(Time(0), &sample, &MemoryPolicy::default(), &mut State::default());
    assert!(plan.deeds.iter().all(|deed| !matches!(deed, Deed::Share(_))));
}

#[test]
fn the_knobs_found_are_the_knobs_handed_back() {
    let found = ksm().knobs;
    let mut world = World::new(ksm(), 9, 2_000);
    (0..50).for_each(|_| drop(world.step()));
    assert_eq!(world.state.clone().sharing.hand_back(), Some(found.clone()));
    world.policy.sharing = roost_protocol::memory::Sharing::Never;
    assert_eq!(world.step().deeds.first(), Some(&Deed::Share(found)));
    assert_eq!(world.state.sharing.hand_back(), None, "once");
}

#[test]
fn another_tuner_is_not_fought() {
    let mut world = World::new(ksm(), 9, 2_000);
    for _ in 0..100 {
        world.step();
        world.sample.ksm.as_mut().unwrap().knobs.sleep_ms = Some(77);
    }
    assert!(world.wrote.len() <= 3, "{:?}", world.wrote);
}

#[test]
fn short_cpu_slows_merging_only_while_memory_is_not_short() {
    let pages = |available: u64| {
        let mut world = World::new(ksm(), 9, 2_000);
        world.sample.host.available = MiB(available);
        world.sample.host.pressure = Some(Pressure { cpu_centi: 5_000, ..Pressure::default() });
        let plan = world.step();
        let pages = |deed: &Deed| match deed {
            Deed::Share(knobs) => knobs.pages_to_scan,
            Deed::Resize { .. } | Deed::Period { .. } => None,
        };
        plan.deeds.iter().find_map(pages).unwrap()
    };
    assert!(pages(6_000) * 4 < pages(2_000));
}
