//! What a host had of a guest that another one took over.

use roost_protocol::Millis;
use roost_protocol::backup::{ReplicaPolicy, Why};
use roost_protocol::guest::PowerState;
use roost_protocol::operation::{FailureCode, Verb};

use super::rig::{HOUR, Rig, guest, peer, policy};
use crate::event::Event;
use crate::right::Right;

/// A managed guest with hourly backups and a replica, whose ward is this host's.
fn rig() -> Rig {
    let mut rig = Rig::new(1);
    rig.peers(vec![peer(2)]);
    rig.tell(Event::Rights { guests: [(guest(1), Right::Here)].into() });
    rig.command(1, Verb::Manage { power: roost_protocol::guest::Power::Running });
    let replica = Some(ReplicaPolicy { host: None, every: Millis(5_000), max_lag: Millis(20_000), failover: false });
    rig.follow(1, roost_protocol::backup::BackupPolicy { replica, ..policy("hourly") });
    rig.live(HOUR + 30_000);
    assert_eq!(rig.alarms(), [""; 0]);
    rig
}

fn branches(rig: &Rig) -> usize {
    rig.agent.backups.sets.of(guest(1)).filter(|point| point.why == Why::Branch).count()
}

#[test]
fn what_a_returning_host_has_is_kept_as_a_branch_and_nothing_more_is_made_or_sent() {
    let mut rig = rig();
    rig.tell(Event::Rights { guests: [(guest(1), Right::Elsewhere)].into() });
    assert_eq!(branches(&rig), 0, "it still runs");
    rig.set_state(1, PowerState::Off);
    rig.live(5_000);
    assert_eq!((branches(&rig), rig.kept.wishes.contains_key(&guest(1))), (1, false));
    let ran = |rig: &Rig| rig.log.iter().filter(|line| line.starts_with("run Backup") || line.contains("Ship")).count();
    let before = ran(&rig);
    rig.live(5 * HOUR);
    assert_eq!((ran(&rig), branches(&rig), rig.alarms()), (before, 1, Vec::<String>::new()));
    // Also after a restart, and when it is its guest again.
    rig.guarded = true;
    rig.restart();
    let sent = |rig: &Rig| rig.log.iter().filter(|line| line.contains("Replica") || line.contains("run Ship")).count();
    let already = sent(&rig);
    rig.live(60_000);
    assert_eq!(sent(&rig), already, "before its guard is heard nothing is sent");
    let before = ran(&rig);
    rig.tell(Event::Rights { guests: [(guest(1), Right::Elsewhere)].into() });
    rig.live(5 * HOUR);
    assert_eq!((ran(&rig), branches(&rig)), (before, 1));
    rig.tell(Event::Rights { guests: [(guest(1), Right::Here)].into() });
    rig.live(2 * HOUR);
    assert!(ran(&rig) > before && branches(&rig) == 1, "the branch outlasts retention");
}

#[test]
fn a_branch_that_fails_is_tried_again_and_the_guest_stays_its_own_until_it_is_kept() {
    let mut rig = rig();
    rig.broken = Some(FailureCode::NoSpace);
    rig.tell(Event::Rights { guests: [(guest(1), Right::Elsewhere)].into() });
    rig.set_state(1, PowerState::Off);
    rig.live(HOUR);
    assert_eq!((branches(&rig), rig.kept.wishes.contains_key(&guest(1))), (0, true));
    let tries = rig.log.iter().filter(|line| line.contains("why: Branch")).count();
    assert!((2..=200).contains(&tries), "{tries}");
    rig.broken = None;
    rig.live(HOUR);
    assert_eq!((branches(&rig), rig.kept.wishes.contains_key(&guest(1))), (1, false));
}
