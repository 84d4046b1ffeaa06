//! Guests that another host runs now: where commands go, and which policy is followed.

use std::collections::BTreeMap;

use roost_protocol::backup::{BackupBeat, BackupPolicy, ReplicaState, ReplicaStatus, SetSummary};
use roost_protocol::failover::{Council, GuardReport, Voter, WardReport};
use roost_protocol::guest::{Desired, GuestReport, Power, PowerState};
use roost_protocol::message::{Beat, Snapshot, ToAgent, ToAggregator};
use roost_protocol::operation::{Failure, FailureCode, Outcome, Verb};
use roost_protocol::{Generation, GuestId, HostId, Millis, OperationId, Stamp, Time};

use super::{config, hello, points_of, report};
use crate::event::LinkId;
use crate::intent::HostRecord;
use crate::{Action, Event, Grid, Intent};

const GUEST: GuestId = GuestId::from_u128(50);
const POLICY: &str = "near";

fn host(number: u64) -> HostId {
    HostId::from_u128(u128::from(number))
}

/// Three hosts; the first has the guest, and says that the second keeps its replica.
struct Rig {
    grid: Grid,
    now: Time,
    kinds: Vec<String>,
    /// Hosts that were given a policy.
    given: Vec<(LinkId, String)>,
    /// By which operation, the last time.
    asked: OperationId,
}

impl Rig {
    fn new() -> Self {
        let record = |n: u64| HostRecord::new(format!("h{n}"), [u8::try_from(n).unwrap(); 32], Stamp(0));
        let policy = BackupPolicy { name: POLICY.into(), generation: Generation(3), ..BackupPolicy::default() };
        let intent = Intent {
            hosts: (1..=3).map(|n| (host(n), record(n))).collect(),
            backup_policies: BTreeMap::from([(POLICY.into(), policy)]),
            ..Intent::default()
        };
        let grid = Grid::new(config(), intent, Vec::new());
        let mut rig =
            Self { grid, now: Time(1_000_000), kinds: Vec::new(), given: Vec::new(), asked: OperationId::from_u128(0) };
        (1..=3).for_each(|n| rig.up(n));
        rig.says(1, PowerState::Running, true);
        rig
    }

    fn tell(&mut self, event: Event) {
        for action in self.grid.on(self.now, Stamp(0), event) {
            match action {
                Action::Publish { event } => self.kinds.push(event.kind),
                Action::Send { link, message: ToAgent::Command(command) } => {
                    self.asked = command.operation;
                    if let Verb::SetBackupPolicy { policy: Some(policy) } = command.verb {
                        self.given.push((link, policy.name));
                    }
                }
                Action::Send { .. }
                | Action::Persist { .. }
                | Action::Used { .. }
                | Action::Notify { .. }
                | Action::Told { .. }
                | Action::Refuse { .. }
                | Action::Answer { .. }
                | Action::SpreadDocument
                | Action::Disconnect { .. } => {}
            }
        }
    }

    fn up(&mut self, number: u64) {
        let hello = hello(host(number));
        let (link, key) = (LinkId(number), [u8::try_from(number).unwrap(); 32]);
        self.tell(Event::Hello { link, key, certified: true, hello, remote: String::new() });
    }

    /// A host has the guest in this state; the first one tells of its backups too.
    fn says(&mut self, number: u64, state: PowerState, managed: bool) {
        let desired = managed.then_some(Desired { power: Power::Running, generation: Generation(1) });
        let report = GuestReport { desired, ..report(GUEST, "desk", state) };
        let replica = ReplicaStatus {
            guest: GUEST,
            host: Some(host(2)),
            state: ReplicaState::Following,
            lag: None,
            point: None,
            shows: None,
            every: Millis(5_000),
            max_lag: Millis(20_000),
        };
        let (policy, policy_name) = (Some(Generation(3)), POLICY.into());
        let set = SetSummary { policy, policy_name, ..points_of(GUEST, host(1)) };
        let backup = BackupBeat { sets: vec![set], replicas: vec![replica], ..BackupBeat::default() };
        let backup = (number == 1).then_some(backup);
        let message = ToAggregator::Snapshot(Snapshot {
            guests: vec![report],
            backup: backup.map(Box::new),
            ..Snapshot::default()
        });
        self.tell(Event::Received { link: LinkId(number), message });
    }

    /// A host owns the guest's ward, which has these homes.
    fn owns(&mut self, number: u64, homes: [u64; 2]) {
        let voters = (1..=3).map(|number| Voter { host: host(number), incarnation: 1 }).collect();
        let council = Council { guest: GUEST, voters, homes: homes.map(host).to_vec() };
        let guard = GuardReport {
            incarnation: 1,
            key: [1; 32],
            may_own: true,
            wards: vec![WardReport { council, settled: true }],
            ..GuardReport::default()
        };
        let beat = Beat { guard: Some(Box::new(guard)), ..Beat::default() };
        self.tell(Event::Received { link: LinkId(number), message: ToAggregator::Beat(beat) });
    }

    /// So many seconds go by in which all but the first host are heard.
    fn without_the_first(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now = self.now + Millis::seconds(1);
            for number in [2, 3] {
                let message = ToAggregator::Beat(Beat::default());
                self.tell(Event::Received { link: LinkId(number), message });
            }
            self.tell(Event::Tick);
        }
    }

    fn place(&self) -> HostId {
        self.grid.places.host(GUEST).unwrap()
    }

    fn taken_over(&self) -> usize {
        self.kinds.iter().filter(|kind| *kind == "guest.taken-over").count()
    }
}

#[test]
fn a_guest_that_runs_from_its_replica_is_that_host_s_once_its_own_is_silent_and_its_policy_goes_along() {
    let mut rig = Rig::new();
    rig.says(2, PowerState::Running, true);
    assert_eq!((rig.place(), rig.taken_over()), (host(1), 0), "its own host is up");
    rig.without_the_first(8);
    assert_eq!((rig.place(), rig.taken_over()), (host(2), 1));
    assert_eq!(rig.given, [(LinkId(2), POLICY.to_owned())]);
    // Also in the other order, and when the first one is back.
    rig.up(1);
    rig.says(1, PowerState::Off, false);
    rig.without_the_first(60);
    assert_eq!((rig.place(), rig.taken_over(), rig.given.len()), (host(2), 1, 1));
    let mut rig = Rig::new();
    rig.without_the_first(8);
    rig.says(2, PowerState::Running, true);
    assert_eq!((rig.place(), rig.taken_over()), (host(2), 1));
}

#[test]
fn no_host_takes_a_guest_by_its_own_word() {
    let mut rig = Rig::new();
    rig.says(3, PowerState::Running, true);
    rig.without_the_first(60);
    assert_eq!((rig.place(), rig.taken_over(), rig.given.len()), (host(1), 0, 0), "it does not keep the replica");
    rig.says(2, PowerState::Off, true);
    assert_eq!(rig.place(), host(1), "it does not run there");
    rig.up(1);
    rig.says(1, PowerState::Off, true);
    rig.says(3, PowerState::Running, true);
    assert_eq!(rig.place(), host(1), "its own host looks after it");
}

#[test]
fn after_a_restart_of_the_aggregator_a_guest_is_where_it_is_looked_after_whoever_comes_first() {
    let mut rig = Rig::new();
    rig.says(1, PowerState::Off, false);
    rig.says(2, PowerState::Running, true);
    assert_eq!((rig.place(), rig.taken_over()), (host(2), 1));
}

#[test]
fn a_host_that_gives_a_guest_up_after_the_other_was_heard_loses_its_place() {
    let mut rig = Rig::new();
    rig.says(1, PowerState::Off, true);
    rig.says(2, PowerState::Running, true);
    assert_eq!((rig.place(), rig.taken_over()), (host(1), 0), "it is looked after by its own host");
    rig.says(1, PowerState::Off, false);
    assert_eq!((rig.place(), rig.taken_over()), (host(2), 1));
}

#[test]
fn a_guest_that_is_handed_on_goes_to_the_owner_of_its_ward_and_not_to_a_host_that_has_just_returned() {
    let mut rig = Rig::new();
    rig.says(2, PowerState::Running, true);
    rig.says(3, PowerState::Running, true);
    rig.owns(3, [1, 3]);
    rig.says(1, PowerState::Off, false);
    assert_eq!((rig.place(), rig.taken_over()), (host(3), 1));
}

#[test]
fn a_takeover_that_no_aggregator_saw_hands_the_policy_on_whoever_is_heard_first() {
    let silent = || {
        let mut rig = Rig::new();
        rig.grid = Grid::new(config(), rig.grid.intent().clone(), Vec::new());
        (1..=3).for_each(|number| rig.up(number));
        rig.says(2, PowerState::Running, true);
        rig
    };
    let mut rig = silent();
    rig.owns(2, [1, 2]);
    rig.without_the_first(1);
    assert_eq!(rig.given, [], "who had it was not heard: its policy is not known");
    rig.says(1, PowerState::Off, false);
    rig.without_the_first(1);
    assert_eq!((rig.place(), &rig.given[..]), (host(2), &[(LinkId(2), POLICY.to_owned())][..]));
    // A host that was too slow for it is asked again, one that refuses is not.
    for (code, asked) in [(FailureCode::TimedOut, 2), (FailureCode::Invalid, 2)] {
        let failure = Some(Failure { code, text: "no".into() });
        let outcome = ToAggregator::Outcome(Outcome { operation: rig.asked, failure });
        rig.tell(Event::Received { link: LinkId(2), message: outcome });
        rig.without_the_first(10);
        assert_eq!(rig.given.len(), asked, "{code:?}");
    }
    let mut rig = silent();
    rig.owns(2, [2, 1]);
    rig.says(1, PowerState::Off, false);
    rig.without_the_first(1);
    assert_eq!(rig.given, [], "its ward was not taken over: an admin left it without a policy here");
}
