//! Messages as bytes: every one survives the way there and back, and hostile bytes are errors.

#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that is not as it should be")]

use std::fmt::Debug;
use std::time::{Duration, Instant};

use minicbor::{Decode, Encode};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use roost_protocol::codec::{decode, encode};
use roost_protocol::enrol::{EnrolAnswer, EnrolRefusal, EnrolRequest};
use roost_protocol::guest::{
    Boot, Desired, Disk, DiskSpec, GuestReport, GuestSample, GuestSpec, NicSpec, Power, PowerState,
};
use roost_protocol::host::{
    Alarm, DiskUse, Freshness, HostFacts, HostSample, NextImage, NicRate, Pressure, RunningImage, Virtualization,
};
use roost_protocol::image::{ImageFile, ImagePiece};
use roost_protocol::memory::MemoryWish;
use roost_protocol::message::{Beat, Der, FRAME, Hello, Refusal, Refused, Snapshot, ToAgent, ToAggregator, Welcome};
use roost_protocol::operation::{Command, Failure, FailureCode, Outcome, Progress, Verb};
use roost_protocol::{Epoch, Generation, GridId, GuestId, HostId, MiB, Millis, OperationId, Stamp};

// Generators: small values of every message.

fn text() -> impl Strategy<Value = String> {
    "[a-zäß0-9]{0,6}"
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..20)
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    vec(text(), 0..3)
}

fn mib() -> impl Strategy<Value = MiB> {
    any::<u64>().prop_map(MiB)
}

fn stamp() -> impl Strategy<Value = Stamp> {
    any::<u64>().prop_map(Stamp)
}

fn millis() -> impl Strategy<Value = Millis> {
    any::<u64>().prop_map(Millis)
}

fn guest_id() -> impl Strategy<Value = GuestId> {
    any::<u128>().prop_map(GuestId::from_u128)
}

fn operation_id() -> impl Strategy<Value = OperationId> {
    any::<u128>().prop_map(OperationId::from_u128)
}

fn host_id() -> impl Strategy<Value = HostId> {
    any::<u128>().prop_map(HostId::from_u128)
}

fn grid_id() -> impl Strategy<Value = GridId> {
    any::<u128>().prop_map(GridId::from_u128)
}

fn ders() -> impl Strategy<Value = Vec<Der>> {
    vec(bytes().prop_map(Der), 0..3)
}

fn power() -> impl Strategy<Value = Power> {
    prop_oneof![Just(Power::Running), Just(Power::Stopped)]
}

fn power_state() -> impl Strategy<Value = PowerState> {
    use PowerState::{Crashed, Off, Paused, Running, ShuttingDown, Suspended, Unknown};
    prop::sample::select(vec![Unknown, Running, Paused, ShuttingDown, Off, Crashed, Suspended])
}

fn freshness() -> impl Strategy<Value = Freshness> {
    prop_oneof![Just(Freshness::Live), stamp().prop_map(|since| Freshness::Stale { since })]
}

fn facts() -> impl Strategy<Value = HostFacts> {
    let virtualization = prop_oneof![
        Just(Virtualization::Hardware),
        text().prop_map(|why| Virtualization::Software { why }),
        Just(Virtualization::Unknown),
    ];
    let words = (text(), text(), text(), text(), text());
    let next = (text(), stamp()).prop_map(|(version, made)| NextImage { version, made });
    let image = (text(), stamp(), of(text()), of(next), of(any::<bool>()));
    let image = image.prop_map(|(version, made, slot, next, secure_boot)| RunningImage {
        version,
        made,
        slot,
        next,
        secure_boot,
    });
    let newer = (proptest::option::of(text()), proptest::option::of(text()), proptest::option::of(image));
    (words, any::<u32>(), mib(), virtualization, texts(), newer).prop_map(
        |(words, cpus, memory_mib, virtualization, addresses, (peer_listen, system, image))| {
            let (name, agent_version, boot_id, hypervisor, kernel) = words;
            HostFacts {
                name,
                agent_version,
                boot_id,
                cpus,
                memory_mib,
                virtualization,
                hypervisor,
                kernel,
                addresses,
                peer_listen,
                system,
                image,
            }
        },
    )
}

fn host_sample() -> impl Strategy<Value = HostSample> {
    let pressure = any::<(u32, u32, u32)>().prop_map(|(cpu_centi, memory_centi, io_centi)| Pressure {
        cpu_centi,
        memory_centi,
        io_centi,
    });
    let disk = (text(), mib(), mib()).prop_map(|(path, total_mib, free_mib)| DiskUse { path, total_mib, free_mib });
    let nic = (text(), any::<u64>(), any::<u64>()).prop_map(|(name, receive_bps, transmit_bps)| NicRate {
        name,
        receive_bps,
        transmit_bps,
    });
    let numbers = (any::<u32>(), mib(), mib(), any::<u32>(), stamp(), of(mib()));
    (numbers, of(pressure), vec(disk, 0..3), vec(nic, 0..3)).prop_map(|(numbers, pressure, disks, nics)| {
        let (cpu_permille, memory_available_mib, swap_used_mib, load_centi, at, saved_by_sharing_mib) = numbers;
        HostSample {
            cpu_permille,
            memory_available_mib,
            swap_used_mib,
            load_centi,
            pressure,
            disks,
            nics,
            at,
            saved_by_sharing_mib,
        }
    })
}

fn guest_report() -> impl Strategy<Value = GuestReport> {
    let desired =
        (power(), any::<u64>().prop_map(Generation)).prop_map(|(power, generation)| Desired { power, generation });
    let disk = (text(), text(), text()).prop_map(|(target, path, format)| Disk { target, path, format });
    let what = (guest_id(), text(), power_state(), text(), any::<bool>(), of(desired));
    (what, any::<u32>(), mib(), stamp(), any::<u32>(), vec(disk, 0..3)).prop_map(
        |(what, vcpus, memory_mib, since, restarts, disks)| {
            let (id, name, state, reason, persistent, desired) = what;
            GuestReport { id, name, state, reason, persistent, desired, vcpus, memory_mib, since, restarts, disks }
        },
    )
}

fn guest_sample() -> impl Strategy<Value = GuestSample> {
    (guest_id(), any::<u32>(), mib(), any::<[u64; 4]>(), of(mib()), of(mib())).prop_map(
        |(id, cpu_permille, resident_mib, rates, balloon_mib, available_mib)| GuestSample {
            id,
            cpu_permille,
            resident_mib,
            read_bps: rates[0],
            write_bps: rates[1],
            balloon_mib,
            available_mib,
            access: Vec::new(),
            receive_bps: rates[2],
            transmit_bps: rates[3],
        },
    )
}

fn alarm() -> impl Strategy<Value = Alarm> {
    (text(), of(guest_id()), stamp(), text()).prop_map(|(code, guest, since, text)| Alarm { code, guest, since, text })
}

fn failure_code() -> impl Strategy<Value = FailureCode> {
    use FailureCode as F;
    let first =
        [F::NotFound, F::WrongState, F::AlreadyExists, F::Invalid, F::Hypervisor, F::HypervisorAway, F::TimedOut];
    let rest = [F::StaleEpoch, F::Interrupted, F::NoSpace, F::Cancelled, F::Busy, F::Internal, F::HostUnreachable];
    prop::sample::select([&first[..], &rest, &[F::Unsupported, F::Damaged, F::TargetAway]].concat())
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let failure = (failure_code(), text()).prop_map(|(code, text)| Failure { code, text });
    (operation_id(), of(failure)).prop_map(|(operation, failure)| Outcome { operation, failure })
}

fn hello() -> impl Strategy<Value = Hello> {
    (any::<(u32, u32, u64, u64)>(), host_id(), facts(), stamp()).prop_map(|(numbers, host, facts, clock)| {
        let (newest, oldest, epoch, document) = numbers;
        Hello { newest, oldest, host, facts, epoch: Epoch(epoch), document: Generation(document), clock }
    })
}

fn snapshot() -> impl Strategy<Value = Snapshot> {
    let lists = (vec(guest_report(), 0..3), vec(alarm(), 0..3), vec(guest_sample(), 0..3));
    (any::<u64>(), lists, freshness(), host_sample()).prop_map(|(sequence, lists, freshness, sample)| {
        let (guests, alarms, samples) = lists;
        Snapshot { sequence, guests, alarms, freshness, sample, samples, backup: None, guard: None }
    })
}

fn beat() -> impl Strategy<Value = Beat> {
    let lists = (vec(guest_report(), 0..3), vec(guest_id(), 0..3), of(vec(alarm(), 0..3)), vec(guest_sample(), 0..3));
    (any::<(u64, u64)>(), lists, freshness(), of(host_sample()), of(facts())).prop_map(
        |(numbers, lists, freshness, sample, facts)| {
            let ((sequence, digest), (guests, gone, alarms, samples)) = (numbers, lists);
            Beat {
                sequence,
                guests,
                gone,
                alarms,
                freshness,
                sample,
                samples,
                digest,
                backup: None,
                document: None,
                guard: None,
                facts: facts.map(Box::new),
            }
        },
    )
}

fn spec() -> impl Strategy<Value = GuestSpec> {
    let disk = prop_oneof![
        mib().prop_map(|size_mib| DiskSpec::Blank { size_mib }),
        (text(), text()).prop_map(|(path, format)| DiskSpec::Image { path, format }),
    ];
    let nic = of(text()).prop_map(|bridge| NicSpec { bridge });
    let boot = prop_oneof![
        Just(Boot::Disk),
        (text(), of(text()), text()).prop_map(|(kernel, initrd, cmdline)| Boot::Kernel { kernel, initrd, cmdline }),
    ];
    (text(), mib(), any::<u32>(), vec(disk, 0..3), vec(nic, 0..3), boot).prop_map(
        |(name, memory_mib, vcpus, disks, nics, boot)| {
            let memory = (vcpus > 2).then(|| MemoryWish { share: false, ..MemoryWish::default() });
            GuestSpec { name, memory_mib, vcpus, disks, nics, boot, memory }
        },
    )
}

fn verb() -> impl Strategy<Value = Verb> {
    prop_oneof![
        (spec(), any::<bool>()).prop_map(|(spec, start)| Verb::Create { spec, start }),
        text().prop_map(|xml| Verb::Import { xml }),
        of(millis()).prop_map(|force_after_ms| Verb::Shutdown { force_after_ms }),
        any::<bool>().prop_map(|keep_disks| Verb::Delete { keep_disks }),
        power().prop_map(|power| Verb::Manage { power }),
        prop::sample::select(vec![Verb::Start, Verb::Stop, Verb::Pause, Verb::Resume, Verb::Reset, Verb::Release]),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    (operation_id(), any::<u64>(), millis(), guest_id(), verb()).prop_map(
        |(operation, epoch, budget_ms, guest, verb)| Command { operation, epoch: Epoch(epoch), budget_ms, guest, verb },
    )
}

fn progress() -> impl Strategy<Value = Progress> {
    (operation_id(), any::<u32>(), text()).prop_map(|(operation, percent, step)| Progress { operation, percent, step })
}

fn to_aggregator() -> impl Strategy<Value = ToAggregator> {
    prop_oneof![
        hello().prop_map(ToAggregator::Hello),
        snapshot().prop_map(ToAggregator::Snapshot),
        beat().prop_map(ToAggregator::Beat),
        outcome().prop_map(ToAggregator::Outcome),
        progress().prop_map(ToAggregator::Progress),
        bytes().prop_map(|request| ToAggregator::Renew { request }),
        bytes().prop_map(|sealed| ToAggregator::Document { sealed }),
    ]
}

fn refused() -> impl Strategy<Value = Refused> {
    use Refusal::{Misbehaved, Removed, Replaced, UnknownKey, Version};
    let reason = prop::sample::select(vec![Version, Removed, UnknownKey, Replaced, Misbehaved]);
    (reason, text(), millis()).prop_map(|(reason, text, retry_after_ms)| Refused { reason, text, retry_after_ms })
}

fn to_agent() -> impl Strategy<Value = ToAgent> {
    let welcome = (any::<(u32, u64, u64)>(), grid_id()).prop_map(|((version, epoch, document), grid)| {
        ToAgent::Welcome(Welcome { version, grid, epoch: Epoch(epoch), document: Generation(document) })
    });
    prop_oneof![
        welcome,
        refused().prop_map(ToAgent::Refused),
        command().prop_map(ToAgent::Command),
        any::<(u64, bool)>().prop_map(|(sequence, want_snapshot)| ToAgent::BeatSeen { sequence, want_snapshot }),
        operation_id().prop_map(|operation| ToAgent::OutcomeSeen { operation }),
        ders().prop_map(|chain| ToAgent::Certificate { chain }),
        (any::<u64>(), bytes())
            .prop_map(|(number, sealed)| ToAgent::Document { generation: Generation(number), sealed }),
        operation_id().prop_map(|operation| ToAgent::Cancel { operation }),
    ]
}

fn enrol_request() -> impl Strategy<Value = EnrolRequest> {
    (any::<[u8; 16]>(), text(), bytes(), text(), of(host_id()), facts())
        .prop_map(|(proof, token_id, csr, name, host, facts)| EnrolRequest { proof, token_id, csr, name, host, facts })
}

fn enrol_answer() -> impl Strategy<Value = EnrolAnswer> {
    use EnrolRefusal::{BadProof, BadRequest, ExpiredToken, TooMany, UnknownToken, UsedToken};
    let reason = prop::sample::select(vec![UnknownToken, UsedToken, ExpiredToken, BadProof, BadRequest, TooMany]);
    prop_oneof![
        (host_id(), ders(), grid_id(), bytes().prop_map(Der))
            .prop_map(|(host, chain, grid, ca)| EnrolAnswer::Accepted { host, chain, grid, ca }),
        (reason, text()).prop_map(|(reason, text)| EnrolAnswer::Refused { reason, text }),
    ]
}

fn returns<T: Encode<()> + for<'b> Decode<'b, ()> + PartialEq + Debug>(message: &T) -> Result<(), TestCaseError> {
    let there = encode(message);
    prop_assert_eq!(&decode::<T>(&there).unwrap(), message);
    // A part of a message is not a message, nor is one with more behind it.
    for end in [0, there.len() / 2, there.len() - 1] {
        prop_assert!(decode::<T>(&there[..end]).is_err());
    }
    prop_assert!(decode::<T>(&[&there[..], &[0]].concat()).is_err());
    Ok(())
}

/// Whatever these bytes are, the decoder comes back with a value or an error.
fn survives(bytes: &[u8]) {
    let _any = decode::<ToAggregator>(bytes);
    let _any = decode::<ToAgent>(bytes);
    let _any = decode::<EnrolRequest>(bytes);
    let _any = decode::<EnrolAnswer>(bytes);
}

proptest! {
    #[test]
    fn what_an_agent_says_survives_the_way(message in to_aggregator()) {
        returns(&message)?;
    }

    #[test]
    fn what_an_aggregator_says_survives_the_way(message in to_agent()) {
        returns(&message)?;
    }

    #[test]
    fn joining_survives_the_way(request in enrol_request(), answer in enrol_answer()) {
        returns(&request)?;
        returns(&answer)?;
    }

    #[test]
    fn images_survive_the_way(bytes in bytes(), why in text()) {
        for file in ImageFile::ALL {
            returns(&file)?;
        }
        for piece in [ImagePiece::Bytes(bytes), ImagePiece::End, ImagePiece::Failed { why }] {
            returns(&piece)?;
        }
    }

    #[test]
    fn random_bytes_are_no_danger(bytes in vec(any::<u8>(), 0..200)) {
        survives(&bytes);
    }

    #[test]
    fn mutants_of_messages_are_no_danger(
        message in to_aggregator(),
        command in to_agent(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        for mut bytes in [encode(&message), encode(&command)] {
            for (at, value) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            survives(&bytes);
            let end = cut.index(bytes.len());
            survives(&bytes[..end]);
        }
    }
}

// Hostile bytes, each where a value is decoded and where one is skipped.

/// An outcome (a message of variant 3) whose field `index` is these bytes; fields above 1 are unknown and skipped.
fn outcome_with(index: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x82, 0x03, 0x81, 0x80 + index + 1, 0x50];
    bytes.extend_from_slice(&[7; 16]);
    bytes.extend(std::iter::repeat_n(0xf6, usize::from(index) - 1));
    bytes.extend_from_slice(value);
    bytes
}

#[test]
fn unknown_fields_are_skipped_and_the_rest_is_understood() {
    let known = ToAggregator::Outcome(Outcome { operation: OperationId::from_bytes([7; 16]), failure: None });
    let values: [&[u8]; 6] =
        [&[0xf6], &[0x83, 1, 2, 3], &[0xa1, 1, 0x61, b'x'], &[0x9f, 0xff], &[0xc1, 0], b"\x7f\x61a\xff"];
    for value in values {
        assert_eq!(decode::<ToAggregator>(&outcome_with(4, value)).unwrap(), known, "{value:x?}");
    }
}

#[test]
fn hostile_bytes_are_errors_and_cost_no_time() {
    let deep = 100_000;
    let hostile: Vec<Vec<u8>> = vec![
        vec![0x81; deep],                                             // arrays in arrays
        vec![0x9f; deep],                                             // the same without lengths
        [0xa1, 0x00].repeat(deep),                                    // maps in maps
        vec![0xc1; deep],                                             // tags upon tags
        [&[0x9b, 0x10, 0, 0, 0, 0, 0, 0, 0][..], &[0; 100]].concat(), // array of 2^60
        [&[0xbb, 0x10, 0, 0, 0, 0, 0, 0, 0][..], &[0; 100]].concat(), // map of 2^60
        vec![0x5b, 0x10, 0, 0, 0, 0, 0, 0, 0],                        // 2^60 bytes
        vec![0x7b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],   // 2^64 - 1 letters
        vec![0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],   // array of 2^64 - 1
        [&[0x5f][..], &[0x41, 0].repeat(deep)].concat(),              // bytes in pieces, without end
        [&[0x7f][..], &[0x61, b'x'].repeat(deep)].concat(),           // text in pieces, without end
        vec![0xff; deep],                                             // ends of nothing
        vec![0x1c, 0x3d, 0x5e, 0x7e],                                 // reserved lengths
        vec![0x62, 0xff, 0xfe],                                       // text that is not UTF-8
    ];
    let begun = Instant::now();
    for value in &hostile {
        let skipped_text = value.as_slice() == [0x62, 0xff, 0xfe];
        assert!(decode::<ToAggregator>(value).is_err());
        assert!(decode::<ToAggregator>(&outcome_with(1, value)).is_err());
        assert!(decode::<ToAggregator>(&outcome_with(9, value)).is_err() || skipped_text, "{:x?}", &value[..3]);
        survives(value);
    }
    // All of it takes milliseconds; the bound only tells linear from endless.
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_string_in_pieces_and_a_wrong_length_are_not_taken_for_an_id() {
    for id in [&[0x5f, 0x50][..], &[0x4f][..], &[0x58, 17], &[0x70]] {
        let mut bytes = vec![0x82, 0x03, 0x81, 0x82];
        bytes.extend_from_slice(id);
        bytes.extend_from_slice(&[7; 17]);
        bytes.push(0xf6);
        assert!(decode::<ToAggregator>(&bytes).is_err(), "{id:x?}");
    }
}

/// Structs travel as arrays, so that no key can stand twice: a map is not taken for one at all.
#[test]
fn a_map_with_a_key_twice_is_refused_like_any_map() {
    let map = [&[0x82, 0x03, 0x81, 0xa2, 0x00, 0x50][..], &[7; 16], &[0x00, 0x50], &[8; 16]].concat();
    assert!(decode::<ToAggregator>(&map).is_err());
}

#[test]
fn a_full_frame_of_the_smallest_values_is_decoded_or_refused_in_bounded_time() {
    let count = u32::try_from(FRAME - 32).unwrap();
    let list = [&[0x9a][..], &count.to_be_bytes(), &vec![0x40; FRAME - 32]].concat();
    let message = [&[0x82, 0x05, 0x81][..], &list].concat();
    let begun = Instant::now();
    assert!(
        matches!(decode::<ToAgent>(&message).unwrap(), ToAgent::Certificate { chain } if chain.len() == FRAME - 32)
    );
    assert!(begun.elapsed() < Duration::from_secs(10));
}
