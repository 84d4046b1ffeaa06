//! Whatever comes in: no plan goes below a floor, above the full size, to a stranger, or divides by nothing.

use proptest::prelude::*;

use super::*;

prop_compose! {
    fn any_told()(age in 0u64..120_000, unused in 0u64..4_096, usable in 0u64..4_096, swapped in 0u64..200,
                  faults in 0u64..1_000_000) -> Told {
        Told { age: Millis(age), unused: MiB(unused), usable: MiB(usable), swapped_in: MiB(swapped), major_faults: faults }
    }
}

prop_compose! {
    fn any_guest()(full in 0u64..8_192, part in 0u64..1_100, resident in 0u64..9_000, age in 0u64..400_000,
                   flags in any::<[bool; 4]>(), balloon in any::<bool>(), told in proptest::option::of(any_told()),
                   cpu in 0u32..2_000, weight in 0u32..1_000, floor in proptest::option::of(0u64..9_000)) -> GuestMemory {
        GuestMemory {
            full: MiB(full),
            resident: MiB(resident),
            proportional: None,
            shared: None,
            cpu_permille: cpu,
            age: Millis(age),
            ours: flags[0],
            rescue: flags[1],
            wish: MemoryWish {
                weight,
                floor_mib: floor.map(MiB),
                squeeze: flags[2],
                trust: (weight % 8 == 0).then(|| "red".to_owned()),
                ..MemoryWish::default()
            },
            mergeable: flags[3],
            balloon: balloon.then_some(Balloon { current: MiB(full * part / 1_000), told }),
        }
    }
}

prop_compose! {
    fn any_sample()(total in 0u64..100_000, part in 0u64..=1_000, memory in 0u32..10_000, scans in 0u64..10,
                    pages in 0u64..1_000_000, ksm_there in any::<bool>(), profit in any::<i64>(),
                    guests in proptest::collection::vec(any_guest(), 0..12)) -> Sample {
        let mut all = sample(0, guests);
        all.host.total = MiB(total);
        all.host.available = MiB(total * part / 1_000);
        all.host.pressure = Some(Pressure { memory_centi: memory, ..Pressure::default() });
        all.ksm = ksm_there.then(|| Ksm { scans, sharing: pages, profit: Some(profit), ..ksm() });
        all
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_plan_breaks_a_bound(looks in proptest::collection::vec((0u64..30_000, any_sample()), 1..12)) {
        let policy = MemoryPolicy::default();
        let (mut state, mut now) = (State::default(), Time(0));
        for (wait, sample) in looks {
            now = now + Millis(wait);
            let plan = plan(now, &sample, &policy, &mut state);
            for (guest, (from, to)) in sizes(&plan) {
                let seen = &sample.guests[&guest];
                prop_assert_eq!(from, seen.current());
                prop_assert!(to <= seen.full.max(from), "{:?}", plan);
                prop_assert!(seen.balloon.is_some());
                if to < from && from <= seen.full {
                    let told = seen.balloon.unwrap().told.unwrap();
                    prop_assert!(seen.ours && seen.wish.squeeze && told.age <= Millis::seconds(25), "{:?}", plan);
                    prop_assert!(to >= floor(seen, &policy), "{:?}", plan);
                    prop_assert!(told.usable > from - to, "{:?}", plan);
                }
            }
            prop_assert_eq!(plan.told.len(), plan.deeds.iter().filter(|deed| !matches!(deed, Deed::Period { .. })).count());
            prop_assert!(plan.told.iter().all(|act| !act.why.is_empty()), "{:?}", plan.told);
            let fitting = fits(&sample, &policy, &state, &[]);
            if fitting > MiB(0) {
                prop_assert!(admit(&sample, &policy, &state, &[], fitting).is_ok());
            }
            prop_assert!(admit(&sample, &policy, &state, &[], fitting + MiB(1)).is_err());
            how_many_more(&sample, &policy, &state, MiB(512));
            state.report(&sample, &policy);
        }
    }

    #[test]
    fn same_looks_give_same_plans(looks in proptest::collection::vec((0u64..30_000, any_sample()), 1..6)) {
        let policy = MemoryPolicy::default();
        let run = || {
            let (mut state, mut now) = (State::default(), Time(0));
            let plan_one = |(wait, sample): &(u64, Sample)| {
                now = now + Millis(*wait);
                plan(now, sample, &policy, &mut state)
            };
            looks.iter().map(plan_one).collect::<Vec<_>>()
        };
        prop_assert_eq!(run(), run());
    }
}
