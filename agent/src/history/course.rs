//! What the numbers of a series mean: from samples to lanes, and back from sums to what was on average.

use roost_agent_core::probe::{answering_permille, slowest_ms};
use roost_protocol::guest::GuestSample;
use roost_protocol::host::HostSample;
use roost_protocol::look::{GuestMoment, HostMoment};
use roost_protocol::{MiB, Stamp};

use super::law::{Bucket, LANES};

/// What a guest's lanes mean: CPU permille, resident MiB, bytes read and written a second, balloon MiB and how many samples
/// had one, available MiB and how many samples had it, bytes received and sent a second, permille of its doors that answered
/// and how many samples had any, milliseconds of the slowest that answered and how many samples had one.
pub(crate) fn of_guest(sample: &GuestSample) -> Bucket {
    let optional = |number: Option<u64>| number.map_or([0, 0], |number| [number, 1]);
    let [balloon, balloons] = optional(sample.balloon_mib.map(|mib| mib.0));
    let [available, availables] = optional(sample.available_mib.map(|mib| mib.0));
    let [answering, judged] = optional(answering_permille(&sample.access).map(u64::from));
    let [slowest, answered] = optional(slowest_ms(&sample.access).map(u64::from));
    let lanes: [u64; LANES] = [
        u64::from(sample.cpu_permille),
        sample.resident_mib.0,
        sample.read_bps,
        sample.write_bps,
        balloon,
        balloons,
        available,
        availables,
        sample.receive_bps,
        sample.transmit_bps,
        answering,
        judged,
        slowest,
        answered,
    ];
    Bucket::of(lanes)
}

/// What the host's lanes mean: CPU permille, available and swapped MiB, load in hundredths, pressure of CPU, memory and IO
/// in hundredths of a percent, bytes received and sent a second, free MiB of the first file system, MiB saved by sharing;
/// the last three mean nothing.
pub(crate) fn of_host(sample: &HostSample) -> Bucket {
    let pressure = sample.pressure.unwrap_or_default();
    let (received, sent) = sample.nics.iter().fold((0u64, 0u64), |(received, sent), nic| {
        (received.saturating_add(nic.receive_bps), sent.saturating_add(nic.transmit_bps))
    });
    let lanes: [u64; LANES] = [
        u64::from(sample.cpu_permille),
        sample.memory_available_mib.0,
        sample.swap_used_mib.0,
        u64::from(sample.load_centi),
        u64::from(pressure.cpu_centi),
        u64::from(pressure.memory_centi),
        u64::from(pressure.io_centi),
        received,
        sent,
        sample.disks.first().map_or(0, |disk| disk.free_mib.0),
        sample.saved_by_sharing_mib.map_or(0, |saved| saved.0),
        0,
        0,
        0,
    ];
    Bucket::of(lanes)
}

/// A guest over the time of one bucket, which began at this second.
pub(super) fn guest((at_s, bucket): &(u64, Bucket)) -> GuestMoment {
    let [cpu, resident, read, written, balloon, balloons, available, availables, received, sent, doors @ ..] =
        bucket.sums;
    let [answering, judged, slowest, answered] = doors;
    let mean = |sum: u64| sum / bucket.count.max(1);
    let optional = |sum: u64, count: u64| sum.checked_div(count);
    GuestMoment {
        at: Stamp(at_s * 1_000),
        cpu_permille: small(mean(cpu)),
        cpu_peak_permille: small(bucket.peak),
        resident_mib: MiB(mean(resident)),
        read_bps: mean(read),
        write_bps: mean(written),
        balloon_mib: optional(balloon, balloons).map(MiB),
        available_mib: optional(available, availables).map(MiB),
        receive_bps: mean(received),
        transmit_bps: mean(sent),
        availability_permille: optional(answering, judged).map(small),
        access_rtt_ms: optional(slowest, answered).map(small),
    }
}

/// The host over the time of one bucket, which began at this second.
pub(super) fn host((at_s, bucket): &(u64, Bucket)) -> HostMoment {
    let means = bucket.sums.map(|sum| sum / bucket.count.max(1));
    let [cpu, available, swap, load, pressure_cpu, pressure_memory, pressure_io, received, sent, free, saved, ..] =
        means;
    HostMoment {
        at: Stamp(at_s * 1_000),
        cpu_permille: small(cpu),
        cpu_peak_permille: small(bucket.peak),
        memory_available_mib: MiB(available),
        swap_used_mib: MiB(swap),
        load_centi: small(load),
        pressure_cpu_centi: small(pressure_cpu),
        pressure_memory_centi: small(pressure_memory),
        pressure_io_centi: small(pressure_io),
        receive_bps: received,
        transmit_bps: sent,
        disk_free_mib: MiB(free),
        saved_by_sharing_mib: (bucket.count > 0).then_some(MiB(saved)),
    }
}

fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod test {
    use roost_protocol::probe::{Access, Answer};

    use super::*;

    #[test]
    fn what_was_sampled_comes_back_as_it_was_on_average() {
        let sample = |cpu, available| GuestSample {
            id: roost_protocol::GuestId::from_u128(1),
            cpu_permille: cpu,
            resident_mib: MiB(60),
            read_bps: 0,
            write_bps: 10,
            balloon_mib: None,
            available_mib: available,
            access: Vec::new(),
            receive_bps: u64::from(cpu),
            transmit_bps: 7,
        };
        let door = |answer, rtt_ms| Access { probe: String::new(), up: true, answer, rtt_ms, since: Stamp(0) };
        let mut bucket = of_guest(&sample(100, None));
        bucket.add(&of_guest(&sample(300, Some(MiB(20)))));
        let moment = guest(&(7, bucket));
        assert_eq!((moment.at, moment.cpu_permille, moment.cpu_peak_permille), (Stamp(7_000), 200, 300));
        assert_eq!((moment.resident_mib, moment.write_bps), (MiB(60), 10));
        assert_eq!((moment.receive_bps, moment.transmit_bps), (200, 7));
        assert_eq!((moment.available_mib, moment.balloon_mib), (Some(MiB(20)), None), "of those that said something");
        assert_eq!((moment.availability_permille, moment.access_rtt_ms), (None, None), "no door, no figure");
        let (ok, missed) = (door(Answer::Ok, Some(5)), door(Answer::TimedOut, None));
        let with = |access: &[Access]| of_guest(&GuestSample { access: access.to_vec(), ..sample(100, None) });
        bucket.add(&with(&[ok.clone(), door(Answer::Ok, Some(15))]));
        bucket.add(&with(&[ok, missed.clone()]));
        bucket.add(&with(&[missed]));
        let moment = guest(&(7, bucket));
        assert_eq!(moment.availability_permille, Some(500), "all, half, none, of the time with doors");
        assert_eq!(moment.access_rtt_ms, Some(10), "15 and 5: the slowest of those that answered");
        let sample = HostSample {
            cpu_permille: 5,
            load_centi: 150,
            saved_by_sharing_mib: Some(MiB(7)),
            ..HostSample::default()
        };
        let moment = host(&(8, of_host(&sample)));
        assert_eq!((moment.cpu_permille, moment.load_centi, moment.disk_free_mib), (5, 150, MiB(0)));
        assert_eq!(moment.saved_by_sharing_mib, Some(MiB(7)));
        assert_eq!(host(&(0, Bucket::default())), HostMoment::default());
    }
}
