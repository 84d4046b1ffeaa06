//! What hosts with guards are told.

use std::collections::BTreeMap;

use roost_protocol::failover::{Council, GuardReport, Voter, Want, WardReport};
use roost_protocol::fence::FenceDevice;
use roost_protocol::guest::{Desired, GuestReport, Power, PowerState};
use roost_protocol::message::{Snapshot, ToAgent, ToAggregator};
use roost_protocol::{Generation, GuestId, Hidden, HostId, Millis, Stamp, Time};

use super::{hello, patient, record, report};
use crate::call::CallErrorCode;
use crate::event::{CallId, LinkId};
use crate::{Action, Call, Event, Grid, Intent};

const GUEST: GuestId = GuestId::from_u128(50);

fn host(number: u8) -> HostId {
    HostId::from_u128(u128::from(number))
}

struct Rig {
    grid: Grid,
    now: Time,
    /// What each host was told last.
    told: BTreeMap<u8, ToAgent>,
    /// Events on protection.
    lapses: Vec<String>,
}

impl Rig {
    fn new(hosts: u8) -> Self {
        let intent = Intent { hosts: (1..=hosts).map(|n| (host(n), record(n))).collect(), ..Intent::default() };
        let mut rig = Self {
            grid: Grid::new(patient(), intent, Vec::new()),
            now: Time(1_000_000),
            told: BTreeMap::new(),
            lapses: Vec::new(),
        };
        for number in 1..=hosts {
            let hello = hello(host(number));
            let remote = format!("192.0.2.{number}:40000");
            rig.tell(Event::Hello { link: link(number), key: [number; 32], certified: true, hello, remote });
        }
        rig
    }

    fn tell(&mut self, event: Event) {
        for action in self.grid.on(self.now, Stamp(0), event) {
            if let Action::Send { link, message: message @ ToAgent::Councils { .. } } = action {
                self.told.insert(u8::try_from(link.0).unwrap(), message);
            } else if let Action::Publish { event } = action
                && event.kind.starts_with("guest.")
                && event.kind.contains("protected")
            {
                self.lapses.push(event.kind);
            }
        }
    }

    /// A host with the guest or without, and its guard.
    fn says(&mut self, number: u8, has: bool, guard: GuardReport) {
        let desired = Some(Desired { power: Power::Running, generation: Generation(1) });
        let guest = GuestReport { desired, ..report(GUEST, "g", PowerState::Running) };
        let guests = if has { vec![guest] } else { Vec::new() };
        let snapshot = Snapshot { guests, guard: Some(Box::new(guard)), ..Snapshot::default() };
        self.tell(Event::Received { link: link(number), message: ToAggregator::Snapshot(snapshot) });
    }

    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now = self.now + Millis::seconds(1);
            self.tell(Event::Tick);
        }
    }
}

fn link(number: u8) -> LinkId {
    LinkId(u64::from(number))
}

fn guard(number: u8) -> GuardReport {
    GuardReport {
        incarnation: u32::from(number),
        key: [number; 32],
        listen: "0.0.0.0:7946".into(),
        may_own: true,
        ..GuardReport::default()
    }
}

#[test]
fn a_host_whose_guest_wants_it_is_told_its_council_and_all_where_guards_are() {
    let mut rig = Rig::new(3);
    for number in 2..=3 {
        rig.says(number, false, guard(number));
    }
    rig.says(1, true, GuardReport { wants: vec![Want { guest: GUEST, keeper: host(3) }], ..guard(1) });
    rig.pass(3);
    let Some(ToAgent::Councils { guards, councils, .. }) = rig.told.get(&1) else { panic!("{:?}", rig.told) };
    assert_eq!((councils.len(), &councils[0].homes, councils[0].voters.len()), (1, &vec![host(1), host(3)], 3));
    let addresses: Vec<_> = guards.iter().filter_map(|guard| guard.seat.as_ref()).map(|seat| &seat.addresses).collect();
    assert_eq!(addresses, [&["192.0.2.2:7946"], &["192.0.2.3:7946"]]);
    let Some(ToAgent::Councils { guards, councils, .. }) = rig.told.get(&2) else { panic!("{:?}", rig.told) };
    assert_eq!((guards.len(), councils.len()), (2, 0));
}

/// A guest's ward stands, and no host has a copy of it.
#[test]
fn a_guest_that_nobody_would_go_on_with_for_long_is_an_alarm_of_its_host() {
    let mut rig = Rig::new(3);
    let alarms = |rig: &Rig| rig.grid.hosts().values().map(|host| rig.grid.alarms(host).count()).collect::<Vec<_>>();
    let voters = (1..=3).map(|n| Voter { host: host(n), incarnation: u32::from(n) }).collect();
    let council = Council { guest: GUEST, voters, homes: vec![host(1), host(2)] };
    rig.says(1, true, GuardReport { wards: vec![WardReport { council, settled: true }], ..guard(1) });
    rig.pass(170);
    assert_eq!((alarms(&rig), rig.lapses.len()), (vec![0, 0, 0], 0));
    rig.pass(20);
    assert_eq!((alarms(&rig), rig.lapses.as_slice()), (vec![1, 0, 0], ["guest.unprotected".to_owned()].as_slice()));
    let alarm = rig.grid.alarms(&rig.grid.hosts()[&host(1)]).next().unwrap();
    assert!(alarm.guest == Some(GUEST) && alarm.code == "unprotected" && alarm.text.contains("no host keeps a copy"));
    rig.says(1, true, guard(1));
    rig.pass(20);
    assert_eq!(alarms(&rig), [1, 0, 0], "not wished any more, but only just");
    rig.pass(20);
    assert_eq!((alarms(&rig), rig.lapses.last().unwrap().as_str()), (vec![0, 0, 0], "guest.protected"));
}

fn device(address: &str) -> FenceDevice {
    let (agent, secret) = ("fence_ipmilan".to_owned(), Some(Hidden("hush".into())));
    FenceDevice { agent, address: Some(address.into()), user: None, secret, plug: None, options: BTreeMap::new() }
}

impl Rig {
    fn call(&mut self, what: Call) -> Result<(), CallErrorCode> {
        let event = Event::Called { call: CallId(1), by: "ada".into(), what };
        let answers = self.grid.on(self.now, Stamp(9), event);
        let reply =
            answers.into_iter().find_map(|it| if let Action::Answer { reply, .. } = it { Some(reply) } else { None });
        self.pass(3);
        reply.unwrap().map(drop).map_err(|error| error.code)
    }

    /// Whether a host was told how to cut host 1's power.
    fn may_cut(&self, number: u8) -> bool {
        let Some(ToAgent::Councils { guards, .. }) = self.told.get(&number) else { panic!("{:?}", self.told) };
        guards.iter().any(|guard| guard.host == host(1) && guard.fence.is_some())
    }
}

#[test]
fn a_fence_device_is_told_once_tested_to_who_would_take_over_and_not_while_people_work_on_the_host() {
    let mut rig = Rig::new(3);
    let voters = (1..=3).map(|n| Voter { host: host(n), incarnation: u32::from(n) }).collect();
    let council = Council { guest: GUEST, voters, homes: vec![host(1), host(2)] };
    rig.says(1, true, GuardReport { wards: vec![WardReport { council, settled: true }], ..guard(1) });
    rig.says(2, false, guard(2));
    rig.says(3, false, guard(3));
    let set = |device: FenceDevice| Call::SetFence { host: host(1), device: Some(Box::new(device)) };
    let tested = |device: FenceDevice| Call::FenceTested { host: host(1), device: Box::new(device) };
    assert_eq!(rig.call(set(device("bmc1"))), Ok(()));
    assert!(!rig.may_cut(2), "it may be another machine's");
    assert_eq!(rig.grid.fence_testers(host(1)), [host(2)]);
    assert_eq!(rig.call(tested(device("bmc2"))), Err(CallErrorCode::Changed));
    assert_eq!(rig.call(tested(device("bmc1"))), Ok(()));
    assert_eq!((rig.may_cut(2), rig.may_cut(3)), (true, false));
    for (drain, told) in [(Some(false), false), (None, true)] {
        assert_eq!(rig.call(Call::Maintenance { host: host(1), drain }), Ok(()));
        assert_eq!(rig.may_cut(2), told);
    }
    let without = |address: &str| FenceDevice { secret: None, ..device(address) };
    assert_eq!(rig.call(set(without("bmc2"))), Err(CallErrorCode::Invalid), "the secret is another device's");
    assert_eq!(rig.call(set(without("bmc1"))), Ok(()));
    assert!(rig.grid.fence(host(1)).unwrap().device.secret.is_some());
    assert!(!rig.may_cut(2), "it has to be tested anew");
    assert_eq!(rig.call(Call::SetFence { host: host(1), device: None }), Ok(()));
    assert_eq!(rig.grid.fence(host(1)), None);
}
