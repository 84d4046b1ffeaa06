//! Who may start, and what would fit instead.

use super::*;

fn asked(available: u64, guests: usize, full: u64) -> Result<(), Refusal> {
    // So much may be promised that other limits are met first.
    let policy = MemoryPolicy { overcommit_permille: 5_000, ..MemoryPolicy::default() };
    let sample = sample(available, vec![guest(1_024, 300); guests]);
    admit(&sample, &policy, &watched(&sample, &policy), &[], MiB(full))
}

#[test]
fn a_guest_that_fits_is_started_and_one_that_does_not_is_told_what_would() {
    assert_eq!(asked(8_000, 4, 2_048), Ok(()));
    let refusal = asked(1_500, 2, 4_096).unwrap_err();
    assert!(matches!(refusal.limit, Limit::Available { .. }), "{refusal:?}");
    assert!(asked(1_500, 2, refusal.fits.0).is_ok(), "{refusal:?}");
    assert!(asked(1_500, 2, refusal.fits.0 + 1).is_err(), "{refusal:?}");
    assert_eq!(
        refusal.to_string(),
        "a guest of 4096 MiB does not fit: it needs 2505 MiB at first, 0 MiB are free above the level to squeeze at, \
         and guests can give 571 MiB; one of 873 MiB would fit"
    );
}

#[test]
fn promises_and_floors_have_their_limits() {
    let (policy, crowd) = (MemoryPolicy::default(), sample(14_000, vec![guest(1_024, 300); 29]));
    let refusal = admit(&crowd, &policy, &watched(&crowd, &policy), &[], MiB(2_048)).unwrap_err();
    assert!(matches!(refusal.limit, Limit::Overcommit { .. } | Limit::Floors { .. }), "{refusal:?}");
    let policy = MemoryPolicy { overcommit_permille: 5_000, ..MemoryPolicy::default() };
    let sample = sample(14_000, vec![guest(1_024, 300); 33]);
    let refusal = admit(&sample, &policy, &State::default(), &[], MiB(2_048)).unwrap_err();
    assert!(matches!(refusal.limit, Limit::Floors { .. }), "{refusal:?}");
}

#[test]
fn guests_whose_start_was_begun_count() {
    let (policy, sample) = (MemoryPolicy::default(), sample(8_000, vec![]));
    let state = State::default();
    let mut starting = Vec::new();
    while admit(&sample, &policy, &state, &starting, MiB(1_024)).is_ok() {
        starting.push(MiB(1_024));
    }
    assert_eq!(starting.len(), 7, "4,724 MiB above the level to squeeze at, 662 MiB each");
}

#[test]
fn a_guest_is_expected_to_take_at_first_what_those_of_its_size_took() {
    let policy = MemoryPolicy { overcommit_permille: 5_000, ..MemoryPolicy::default() };
    let aged = |seconds, resident| {
        let guest = GuestMemory { age: Millis::seconds(seconds), resident: MiB(resident), ..guest(1_024, 300) };
        sample(4_500, vec![guest; 2])
    };
    let answer = |looks: &[Sample], full| {
        let mut state = State::default();
        for (at, sample) in (0..).zip(looks) {
            plan(Time(at * 2_000), sample, &policy, &mut state);
        }
        admit(looks.last().unwrap(), &policy, &state, &[], MiB(full)).map_err(|refusal| refusal.limit)
    };
    let needed = |answer| match answer {
        Err(Limit::Available { needed, .. }) => Some(needed),
        Ok(()) | Err(Limit::Rung(_) | Limit::Overcommit { .. } | Limit::Floors { .. }) => None,
    };
    let (young, settled) = (aged(60, 1_060), aged(600, 400));
    assert_eq!(answer(std::slice::from_ref(&settled), 1_024), Ok(()), "662 of 1,224 MiB, as the policy says");
    assert_eq!(answer(&[young.clone(), settled.clone()], 1_024), Ok(()), "1,060 of 1,224 MiB");
    let short = Sample { host: host(4_300), ..settled };
    assert_eq!(answer(std::slice::from_ref(&short), 1_024), Ok(()));
    assert_eq!(needed(answer(&[young.clone(), short.clone()], 1_024)), Some(MiB(1_060)));
    assert_eq!(needed(answer(&[young.clone(), short.clone()], 1_100)), Some(MiB(1_060)), "nor less for a larger one");
    assert_eq!(answer(&[young, short], 1_000), Ok(()), "nothing is known of smaller ones");
}

#[test]
fn what_ended_guests_had_merged_takes_no_room() {
    let policy = MemoryPolicy::default();
    let told = |shared| GuestMemory { shared: Some(MiB(shared)), ..guest(1_024, 300) };
    let clean = sample(8_000, vec![told(0); 4]);
    let mut stale = clean.clone();
    stale.ksm = Some(Ksm { sharing: 1_000_000, page_bytes: 4_096, ..ksm() });
    let room = |sample: &Sample| fits(sample, &policy, &watched(sample, &policy), &[]);
    assert_eq!((room(&stale), stale.saved()), (room(&clean), MiB(0)));
    let merged = Sample { guests: sample(0, vec![told(100); 4]).guests, ..stale.clone() };
    assert_eq!(merged.saved(), MiB(400));
    let silent = Sample { guests: sample(0, vec![guest(1_024, 300)]).guests, ..stale };
    assert_eq!(silent.saved(), MiB(3_906), "an older kernel's guests don't tell");
}

#[test]
fn nothing_starts_while_the_reserve_is_touched() {
    let (policy, sample) = (MemoryPolicy::default(), sample(700, vec![guest(1_024, 300)]));
    let mut state = State::default();
    plan(Time(0), &sample, &policy, &mut state);
    let refusal = admit(&sample, &policy, &state, &[], MiB(64)).unwrap_err();
    assert_eq!((refusal.fits, refusal.limit), (MiB(0), Limit::Rung(Rung::Refuse)));
}

#[test]
fn how_many_more_is_counted_with_what_like_guests_take() {
    let policy = MemoryPolicy::default();
    let mut small = guest(1_024, 300);
    small.proportional = Some(MiB(200));
    let dense = sample(8_000, vec![small; 2]);
    let plain = sample(8_000, vec![guest(1_024, 300); 2]);
    let more = |sample: &Sample| how_many_more(sample, &policy, &watched(sample, &policy), MiB(1_024));
    assert_eq!((more(&plain), more(&dense)), (5, 16), "then no more may be promised");
    let told = watched(&dense, &policy).report(&dense, &policy).more;
    let of = |mib| told.iter().find(|told| told.memory_mib == MiB(mib)).map(|told| told.more);
    assert_eq!((of(1_024), of(16_384)), (Some(16), Some(0)), "{told:?}");
    assert!(of(512) > of(1_024) && of(2_048) < of(1_024), "{told:?}");
    let mut many = dense.clone();
    let sized = |(number, full)| (id(number), GuestMemory { full: MiB(full), ..guest(full, 50) });
    many.guests = (0..40).zip(100..).map(sized).collect();
    assert_eq!(watched(&many, &policy).report(&many, &policy).more.len(), roost_protocol::memory::SIZES);
}

#[test]
fn a_host_of_one_tebibyte_and_eight_nodes_is_planned() {
    let policy = MemoryPolicy::default();
    let mut big = sample(0, vec![]);
    big.host = HostMemory { total: MiB(1 << 20), available: MiB(1 << 19), ..HostMemory::default() };
    big.host.nodes = (0..8).map(|number| Node { number, total: MiB(1 << 17), free: MiB(1 << 16) }).collect();
    big.guests = (0..50)
        .map(|number| {
            let mut one = guest(1_024, 300);
            one.full = MiB(65_536);
            (id(number), one)
        })
        .collect();
    big.ksm = Some(ksm());
    let levels = Levels::of(&big, &policy);
    assert!(levels.reserve < levels.squeeze && levels.squeeze < levels.comfort && levels.comfort <= levels.share);
    assert!(levels.squeeze <= MiB(1 << 19));
    assert_eq!(plan(Time(0), &big, &policy, &mut State::default()).rung, Rung::Share);
}

#[test]
fn a_policy_that_changes_is_an_act_and_its_source_is_reported() {
    let (file, sample) = (MemoryPolicy::default(), sample(8_000, vec![]));
    let tight = MemoryPolicy { overcommit_permille: 500, balloons: false, ..MemoryPolicy::default() };
    let mut state = State::default();
    let before = InForce::of(None, &file);
    assert_eq!(state.follow(Stamp(1), &before), None, "how it began");
    let now = InForce::of(Some(&tight), &file);
    let act = state.follow(Stamp(2), &now).unwrap();
    assert_eq!(act.why, ["balloons was true, is false", "overcommit_permille was 2000, is 500"]);
    assert_eq!(state.follow(Stamp(3), &now), None);
    let report = state.report(&sample, &now.policy);
    assert_eq!((report.policy, report.acts), (Some(now), vec![act]));
    assert!(state.follow(Stamp(4), &before).unwrap().what.contains("settings"));
    assert_eq!(state.report(&sample, &file).policy.map(|policy| policy.from), Some(PolicyFrom::File));
}
