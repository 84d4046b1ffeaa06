//! Alarms come when something lasts, go when it is over, and do not flap.

use roost_protocol::guest::Desired;
use roost_protocol::host::{DiskUse, Pressure};
use roost_protocol::probe::{Access, Answer};
use roost_protocol::{Generation, Millis};

use super::*;

struct World {
    alarms: Alarms,
    now: u64,
    host: HostSample,
    guests: Vec<GuestReport>,
    samples: BTreeMap<GuestId, GuestSample>,
    away: Option<Time>,
    fresh: bool,
}

impl World {
    fn new() -> Self {
        let host = HostSample { memory_available_mib: MiB(50_000), ..HostSample::default() };
        let samples = BTreeMap::new();
        Self { alarms: Alarms::default(), now: 0, host, guests: vec![], samples, away: None, fresh: true }
    }

    /// Passes so many seconds; what was raised (+) and cleared (-), with the second in which it was.
    fn pass(&mut self, seconds: u64) -> Vec<String> {
        let mut all = Vec::new();
        for _ in 0..seconds {
            let picture = Picture {
                host: &self.host,
                memory: MiB(64_000),
                guests: &self.guests,
                samples: &self.samples,
                aggregator_away: self.away,
                fresh: self.fresh,
            };
            for (alarm, raised) in self.alarms.look(Time(self.now * 1_000), Stamp(0), &picture) {
                all.push(format!("{}{} {}", if raised { '+' } else { '-' }, alarm.code, self.now));
            }
            self.now += 1;
        }
        all
    }

    fn pressure(&mut self, centi: u32) {
        self.host.pressure = Some(Pressure { memory_centi: centi, ..Pressure::default() });
    }

    fn disk(&mut self, free: u64) {
        self.host.disks = vec![DiskUse { path: "/var".into(), total_mib: MiB(100_000), free_mib: MiB(free) }];
    }
}

fn guest(state: PowerState, power: Option<Power>) -> GuestReport {
    GuestReport {
        id: GuestId::from_u128(1),
        name: "desk".into(),
        state,
        reason: "crashed".into(),
        persistent: true,
        desired: power.map(|power| Desired { power, generation: Generation(1) }),
        vcpus: 1,
        memory_mib: MiB(1),
        since: Stamp(0),
        restarts: 0,
        disks: vec![],
    }
}

#[test]
fn pressure_that_lasts_is_an_alarm_and_a_moment_of_it_is_none() {
    let mut world = World::new();
    world.pressure(5_000);
    assert!(world.pass(29).is_empty());
    world.pressure(0);
    assert!(world.pass(100).is_empty());
    world.pressure(5_000);
    assert_eq!(world.pass(60), ["+memory-pressure 159"]);
    world.pressure(1_500);
    assert!(world.pass(600).is_empty(), "between bad and good it stays");
    world.pressure(900);
    assert_eq!(world.pass(600), ["-memory-pressure 849"]);
}

#[test]
fn what_flaps_stays_raised_for_longer_each_time_and_is_forgiven_in_the_end() {
    let mut world = World::new();
    let mut cleared = Vec::new();
    for _ in 0..6 {
        world.pressure(5_000);
        assert!(world.pass(40).iter().all(|turn| turn.starts_with('+')));
        world.pressure(0);
        cleared.push(world.pass(70).len());
    }
    assert_eq!(cleared, [1, 0, 0, 0, 0, 0], "after the first time, a minute is not enough");
    let quiet = world.pass(3_600);
    assert_eq!(quiet.len(), 1, "{quiet:?}");
    world.pass(3_700);
    world.pressure(5_000);
    world.pass(40);
    world.pressure(0);
    assert_eq!(world.pass(61).len(), 1, "an hour later a minute is enough again");
}

#[test]
fn a_guest_that_should_run_and_does_not_is_told_after_a_minute() {
    let mut world = World::new();
    world.guests = vec![guest(PowerState::Crashed, Some(Power::Running))];
    assert_eq!(world.pass(100), ["+guest-down 60"]);
    world.guests[0].state = PowerState::Running;
    assert_eq!(world.pass(1), ["-guest-down 100"]);
    for (state, power) in
        [(PowerState::Off, Some(Power::Stopped)), (PowerState::Off, None), (PowerState::Paused, Some(Power::Running))]
    {
        world.guests = vec![guest(state, power)];
        assert!(world.pass(100).is_empty(), "{state:?} {power:?}");
    }
}

#[test]
fn nothing_is_concluded_about_guests_while_the_hypervisor_is_away() {
    let mut world = World::new();
    world.guests = vec![guest(PowerState::Off, Some(Power::Running))];
    world.fresh = false;
    assert!(world.pass(100).is_empty());
    world.fresh = true;
    assert_eq!(world.pass(61).len(), 1);
    world.fresh = false;
    world.guests.clear();
    assert!(world.pass(10).is_empty());
    world.fresh = true;
    assert_eq!(world.pass(1), ["-guest-down 171"], "a guest that is gone is not down");
}

#[test]
fn a_disk_is_told_when_it_is_low_and_when_it_will_be() {
    let mut world = World::new();
    world.disk(9_000);
    assert_eq!(world.pass(100), ["+disk-low 60"]);
    world.disk(1_000);
    assert_eq!(world.pass(100), ["+disk-full 160"]);
    world.disk(50_000);
    assert_eq!(world.pass(200), ["-disk-low 260", "-disk-full 260"]);

    let mut world = World::new();
    let mut turns = Vec::new();
    for hour in 0..12 {
        world.disk(60_000 - hour * 1_000);
        turns.extend(world.pass(3_600));
    }
    assert_eq!(turns.len(), 1, "{turns:?}");
    assert!(turns[0].starts_with("+disk-filling"), "{turns:?}");
    for _ in 0..30 {
        turns.extend(world.pass(3_600));
    }
    assert_eq!(turns.len(), 2, "{turns:?}");

    let mut world = World::new();
    for hour in 0..30 {
        world.disk(60_000 - hour % 2);
        assert!(world.pass(3_600).is_empty(), "noise is no trend");
    }
}

#[test]
fn the_aggregator_is_missed_after_a_minute() {
    let mut world = World::new();
    assert!(world.pass(10).is_empty());
    world.away = Some(Time(10_000));
    assert_eq!(world.pass(100), ["+aggregator-away 70"]);
    world.away = None;
    assert_eq!(world.pass(20), ["-aggregator-away 120"]);
}

#[test]
fn a_clock_that_jumps_ahead_raises_no_more_than_is_true() {
    let mut damper = Damper::default();
    let timing = rule::timing("memory-pressure");
    assert_eq!(damper.step(Time(0), Level::Bad, &timing), None);
    assert_eq!(damper.step(Time(u64::MAX), Level::Bad, &timing), Some(true));
    assert_eq!(damper.step(Time(0), Level::Good, &timing), None);
    assert_eq!(damper.step(Time(0) + Millis::seconds(60), Level::Good, &timing), Some(false));
}

#[test]
fn a_guest_that_runs_and_does_not_answer_is_an_alarm_until_it_answers_or_is_off() {
    let mut world = World::new();
    world.guests = vec![guest(PowerState::Running, None)];
    let answers = |up: bool| {
        let answer = if up { Answer::Ok } else { Answer::TimedOut };
        let access = |number: u8, up| Access {
            probe: format!("rdp://192.0.2.{number}:3389"),
            up,
            answer,
            rtt_ms: None,
            since: Stamp(0),
        };
        let id = GuestId::from_u128(1);
        let sample = GuestSample {
            id,
            cpu_permille: 0,
            resident_mib: MiB(1),
            read_bps: 0,
            write_bps: 0,
            balloon_mib: None,
            available_mib: None,
            access: vec![access(1, true), access(2, up)],
            receive_bps: 0,
            transmit_bps: 0,
        };
        BTreeMap::from([(id, sample)])
    };
    assert_eq!(world.pass(5), [""; 0], "nothing is tried");
    world.samples = answers(true);
    assert_eq!(world.pass(5), [""; 0]);
    world.samples = answers(false);
    assert_eq!(world.pass(5), ["+guest-unreachable 10"]);
    world.samples = answers(true);
    assert_eq!(world.pass(5), ["-guest-unreachable 15"]);
    world.samples = answers(false);
    assert!(world.pass(600)[0].starts_with("+guest-unreachable"));
    world.guests = vec![guest(PowerState::Off, None)];
    assert!(world.pass(600)[0].starts_with("-guest-unreachable"));
}
