//! Who is squeezed, who is not, and who gets back.

use super::*;

fn once(available: u64, guests: Vec<GuestMemory>) -> BTreeMap<GuestId, (MiB, MiB)> {
    let (policy, sample) = (MemoryPolicy::default(), sample(available, guests));
    let mut state = watched(&sample, &policy);
    sizes(&plan(NOW, &sample, &policy, &mut state))
}

#[test]
fn only_guests_that_may_and_that_told_lately_are_squeezed() {
    let with = |available, change: fn(&mut GuestMemory)| {
        let mut one = guest(1_024, 300);
        change(&mut one);
        once(available, vec![one]).len()
    };
    let told = |change| with(2_000, change);
    assert_eq!(told(|_| {}), 1);
    assert_eq!(told(|one| one.ours = false), 0);
    assert_eq!(told(|one| one.wish.squeeze = false), 0);
    let booting = |available| with(available, |one| one.age = Millis::seconds(60));
    assert_eq!((booting(2_500), booting(2_000)), (0, 1), "it boots: not before the host is near its reserve");
    assert_eq!(told(|one| one.rescue = false), 0, "a mistake would kill its programs");
    assert_eq!(told(|one| (one.rescue, one.wish.floor_mib) = (false, Some(MiB(600)))), 1, "its owner named a floor");
    assert_eq!(told(|one| one.balloon = None), 0);
    assert_eq!(told(|one| one.balloon.as_mut().unwrap().told = None), 0);
    assert_eq!(told(|one| one.balloon.as_mut().unwrap().told.as_mut().unwrap().age = Millis::seconds(26)), 0);
    assert_eq!(told(|one| one.wish.floor_mib = Some(MiB(1_024))), 0);
}

#[test]
fn a_guest_keeps_what_it_uses_and_what_it_peaked_at() {
    let policy = MemoryPolicy::default();
    let busy = sample(16_000, vec![guest(1_024, 800)]);
    let mut state = watched(&busy, &policy);
    let idle = sample(3_000, vec![guest(1_024, 100)]);
    let taken = sizes(&plan(NOW, &idle, &policy, &mut state));
    assert!(taken[&id(1)].1 >= MiB(800), "{taken:?}");
}

#[test]
fn idle_guests_give_before_busy_ones_and_weight_protects() {
    let mut guests = vec![guest(1_024, 300); 12];
    guests[1].cpu_permille = 900;
    guests[2].wish.weight = 200;
    let taken = once(3_200, guests);
    let took = |number| taken[&id(number)].0 - taken[&id(number)].1;
    assert!(took(1) > took(2) && took(1) > took(3), "{taken:?}");
    assert!(took(1).0.abs_diff(2 * took(3).0) <= 2, "{taken:?}");
}

#[test]
fn a_second_step_waits_for_numbers_newer_than_the_first() {
    let policy = MemoryPolicy::default();
    let first = sample(2_000, vec![guest(1_024, 200)]);
    let mut state = watched(&first, &policy);
    let to = sizes(&plan(NOW, &first, &policy, &mut state))[&id(1)].1;
    let mut second = sample(2_000, vec![guest(to.0, 200)]);
    let age = |sample: &mut Sample, age| {
        sample.guests.get_mut(&id(1)).unwrap().balloon.as_mut().unwrap().told.as_mut().unwrap().age = age;
    };
    age(&mut second, Millis(3_000));
    assert!(sizes(&plan(NOW + Millis(2_000), &second, &policy, &mut state)).is_empty());
    age(&mut second, Millis(500));
    assert_eq!(sizes(&plan(NOW + Millis(4_000), &second, &policy, &mut state)).len(), 1);
}

#[test]
fn half_of_an_idle_guest_is_taken_in_five_seconds() {
    let policy = MemoryPolicy::default();
    let mut now = NOW;
    let mut state = watched(&sample(16_000, vec![guest(1_024, 100)]), &policy);
    let mut current = 1_024;
    for _ in 0..3 {
        let sample = sample(
            2_000,
            vec![{
                let mut one = guest(current, 100);
                one.balloon.as_mut().unwrap().told.as_mut().unwrap().unused = MiB(current - 150);
                one
            }],
        );
        if let Some((_, to)) = sizes(&plan(now, &sample, &policy, &mut state)).get(&id(1)) {
            current = to.0;
        }
        now = now + Millis(2_000);
    }
    assert!(current <= 512, "{current}");
}

/// Squeezed to 600 MiB at `NOW`, seen there two seconds later.
fn squeezed(policy: &MemoryPolicy) -> State {
    let first = sample(3_000, vec![guest(700, 200)]);
    let mut state = State::default();
    for second in [0, 10, 20, 30] {
        plan(Time(second * 1_000), &sample(3_300, vec![guest(700, 200)]), policy, &mut state);
    }
    assert_eq!(sizes(&plan(NOW, &first, policy, &mut state)).len(), 1);
    state
}

#[test]
fn a_guest_that_suffers_gets_back_at_once_even_when_the_host_is_short() {
    let policy = MemoryPolicy::default();
    let suffering: [fn(&mut GuestMemory); 3] = [
        |one| one.balloon.as_mut().unwrap().told.as_mut().unwrap().usable = MiB(20),
        |one| one.balloon.as_mut().unwrap().told.as_mut().unwrap().swapped_in = MiB(50),
        |one| one.balloon.as_mut().unwrap().current = MiB(690),
    ];
    for (case, suffer) in suffering.into_iter().enumerate() {
        let mut state = squeezed(&policy);
        let there = sample(3_000, vec![guest(600, 200)]);
        let mut low = guest(600, 200);
        low.balloon.as_mut().unwrap().told.as_mut().unwrap().usable = MiB(200);
        let mut at = there.clone();
        at.guests.insert(id(1), low.clone());
        let to = sizes(&plan(NOW + Millis(2_000), &at, &policy, &mut state));
        // Whatever it did there, stand at what was asked last.
        let stands = to.get(&id(1)).map_or(MiB(600), |(_, to)| *to);
        low.balloon.as_mut().unwrap().current = stands;
        plan(NOW + Millis(4_000), &sample(3_000, vec![low.clone()]), &policy, &mut state);
        suffer(&mut low);
        let got = sizes(&plan(NOW + Millis(6_000), &sample(3_000, vec![low]), &policy, &mut state));
        assert!(got.get(&id(1)).is_some_and(|(from, to)| to > from), "case {case}: {got:?}");
    }
}

#[test]
fn a_balloon_without_a_driver_is_left_alone() {
    let policy = MemoryPolicy::default();
    let mut state = squeezed(&policy);
    let mut last = None;
    for second in 1..400 {
        let now = NOW + Millis::seconds(second);
        let deeds = sizes(&plan(now, &sample(3_000, vec![guest(700, 200)]), &policy, &mut state));
        if let Some(size) = deeds.get(&id(1)) {
            last = Some((second, *size));
        }
    }
    assert_eq!(last, Some((30, (MiB(700), MiB(1_024)))), "asked once for all it has, then never again");
}

#[test]
fn a_new_agent_gives_back_what_it_finds_squeezed() {
    let (policy, mut state) = (MemoryPolicy::default(), State::default());
    let mut current = 500;
    for second in 0..30 {
        let look = sample(12_000, vec![guest(current, 200)]);
        if let Some((_, to)) = sizes(&plan(Time(second * 1_000), &look, &policy, &mut state)).get(&id(1)) {
            current = to.0;
        }
    }
    assert_eq!(current, 1_024);
}

#[test]
fn a_foreign_guest_keeps_the_size_it_was_given() {
    let (policy, mut state) = (MemoryPolicy::default(), State::default());
    let mut foreign = guest(500, 490);
    foreign.ours = false;
    for second in 0..60 {
        let look = sample(12_000, vec![foreign.clone()]);
        assert_eq!(plan(Time(second * 1_000), &look, &policy, &mut state).deeds, []);
    }
}

#[test]
fn the_dead_mans_rule_gives_all_back_and_leaves_the_host_what_it_needs() {
    let (policy, full) = (MemoryPolicy::default(), MiB(1_024));
    let squeezed = |current| deadman::Owed { current: MiB(current), full };
    let mut owed: BTreeMap<GuestId, deadman::Owed> = (1..=4).map(|number| (id(number), squeezed(440))).collect();
    let (mut rule, mut now) = (deadman::DeadMan::default(), NOW);
    while owed.values().any(|owed| owed.current < owed.full) {
        for (guest, size) in rule.give_back(now, &host(6_000), &policy, &owed) {
            owed.get_mut(&guest).unwrap().current = size;
        }
        now = now + deadman::STEP_EVERY;
    }
    assert!(now.since(NOW) <= Millis::seconds(10), "{:?}", now.since(NOW));
    let poor = BTreeMap::from([(id(1), squeezed(500)), (id(2), squeezed(400))]);
    let mut rule = deadman::DeadMan::default();
    let neediest = rule.give_back(NOW, &host(3_500), &policy, &poor);
    assert_eq!(neediest, BTreeMap::from([(id(2), MiB(400 + 224))]), "3,276 MiB stay with the host");
    assert!(rule.give_back(NOW + deadman::STEP_EVERY, &host(3_500), &policy, &poor).is_empty(), "not yet used");
}

#[test]
fn an_agent_is_dead_when_it_hangs_or_does_not_come_back() {
    let later = |ms| NOW + Millis(ms);
    assert!(!deadman::dead(later(29_999), NOW, None) && deadman::dead(later(30_000), NOW, None));
    assert!(!deadman::dead(later(4_999), NOW, Some(NOW)) && deadman::dead(later(5_000), NOW, Some(NOW)));
}

#[test]
fn who_gets_memory_back_is_never_asked_for_less_than_it_has() {
    let policy = MemoryPolicy::default();
    let short = sample(2_000, vec![guest(1_024, 300)]);
    let mut state = watched(&short, &policy);
    let taken = sizes(&plan(NOW, &short, &policy, &mut state));
    assert_eq!(taken[&id(1)], (MiB(1_024), MiB(815)));
    // Nothing has come of it yet when there is enough again.
    let mut silent = guest(1_024, 300);
    silent.balloon.as_mut().unwrap().told = None;
    let calm = sample(4_150, vec![silent]);
    let looks = (1..15).map(|look| NOW + Millis::seconds(2 * look));
    let given = looks.flat_map(|at| sizes(&plan(at, &calm, &policy, &mut state))).next();
    assert_eq!(given, Some((id(1), (MiB(1_024), MiB(1_024)))));
}
