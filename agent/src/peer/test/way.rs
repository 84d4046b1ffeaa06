//! Points travel, and only what is lacking does.

use super::*;

#[test]
fn a_point_is_kept_by_another_host_and_the_next_one_costs_what_changed() {
    let mut hosts = Hosts::new(2);
    let first = hosts.host(1).make(None, &many(1_000, 1), Why::Schedule);
    let whole = hosts.bring(first).unwrap();
    assert!(whole.bytes > 1_000 * 4_096, "{whole:?}");
    assert!(matches!(hosts.host(2).told(), Event::Kept { point } if point.point == first && point.guest == GUEST));
    let second = hosts.host(1).make(Some(first), &[(7, 9), (900, 9)], Why::Replica);
    let delta = hosts.bring(second).unwrap();
    assert!(delta.bytes < 60_000 && delta.chunks < 10, "{delta:?}");
    assert_eq!(hosts.bring(second).unwrap(), call::Moved::default(), "it is there already");
    assert_eq!(hosts.hosts[0].content(second), hosts.hosts[1].content(second));
    assert_eq!(hosts.hosts[0].content(first), hosts.hosts[1].content(first));
}

#[test]
fn what_broke_off_goes_on_where_it_was() {
    let mut hosts = Hosts::new(3);
    let point = hosts.host(1).make(None, &many(1_500, 2), Why::Schedule);
    let one = &hosts.hosts[0];
    let watch = Watch { wanted: &|| true, moved: &|_| {} };
    let all = one.peers.bring(&one.store, point, HostId::from_u128(3), None, &watch).unwrap();
    let half = AtomicU64::new(0);
    let (wanted, moved) =
        (|| half.load(Ordering::Relaxed) < all.bytes / 2, |bytes: u64| half.store(bytes, Ordering::Relaxed));
    assert!(matches!(hosts.bring_while(point, &wanted, &moved), Err(PeerError::Cancelled)));
    let rest = hosts.bring(point).unwrap();
    let twice = half.load(Ordering::Relaxed) + rest.bytes - all.bytes;
    // What was on its way when the link broke is said again: at most a window of it.
    assert!(rest.bytes < all.bytes && twice <= 4 << 20, "{rest:?} {all:?} {half:?}");
    assert_eq!(hosts.hosts[0].content(point), hosts.hosts[1].content(point));
}

#[test]
fn a_point_is_given_to_its_maker_and_to_whom_it_is_shared_with_and_to_nobody_else() {
    let mut hosts = Hosts::new(2);
    let point = hosts.host(1).make(None, &many(300, 3), Why::Command);
    assert!(matches!(hosts.take(point), Err(PeerError::Refused { reason: No::NotShared, .. })));
    let share = Share { point, with: HostId::from_u128(2) };
    hosts.host(1).known.send_modify(|known| known.shares = vec![share]);
    assert!(hosts.take(point).unwrap().bytes > 300 * 4_096);
    assert_eq!(hosts.hosts[0].content(point), hosts.hosts[1].content(point));
    // Its maker lost it, and has it again.
    hosts.host(1).store.remove(point).unwrap();
    let (one, two) = (&hosts.hosts[0], &hosts.hosts[1]);
    one.peers.take(&one.store, point, two.id, &Watch { wanted: &|| true, moved: &|_| {} }).unwrap();
    assert_eq!(one.content(point), two.content(point));
    assert!(matches!(hosts.take(PointId::from_u128(5)), Err(PeerError::Refused { reason: No::NotThere, .. })));
}

#[test]
fn a_host_has_its_own_points_removed_and_no_others_and_pinned_ones_stay() {
    let mut hosts = Hosts::new(3);
    let points: Vec<PointId> = (1..=3).map(|byte| hosts.host(1).make(None, &many(40, byte), Why::Schedule)).collect();
    for point in &points {
        hosts.bring(*point).unwrap();
    }
    hosts.host(2).store.set_pinned(points[2], true).unwrap();
    let watch = Watch { wanted: &|| true, moved: &|_| {} };
    let gone = PointId::from_u128(9);
    let asked = [points[0], points[2], gone];
    let two = HostId::from_u128(2);
    assert_eq!(hosts.host(3).peers.remove(two, &asked, &watch).unwrap(), [gone], "made by another");
    assert_eq!(hosts.host(1).peers.remove(two, &asked, &watch).unwrap(), [points[0], gone]);
    let left: Vec<PointId> = hosts.host(2).store.points().iter().map(|point| point.point).collect();
    assert!(left.len() == 2 && left.contains(&points[1]) && left.contains(&points[2]));
}

#[test]
fn a_removed_host_is_refused_at_once_and_one_that_is_not_known_is_not_called() {
    let mut hosts = Hosts::new(2);
    let point = hosts.host(1).make(None, &many(10, 1), Why::Schedule);
    hosts.host(2).known.send_replace(Known::default());
    assert!(matches!(hosts.bring(point), Err(PeerError::Lost { .. })), "its certificate is still good");
    hosts.host(1).known.send_replace(Known::default());
    assert!(matches!(hosts.bring(point), Err(PeerError::Unknown(_))));
    assert!(hosts.host(2).store.points().is_empty());
}

#[test]
fn too_many_callers_of_one_host_are_told_to_come_again_and_others_get_in() {
    let mut hosts = Hosts::new(3);
    let point = hosts.host(1).make(None, &many(10, 1), Why::Schedule);
    let other = hosts.host(3).make(None, &many(10, 2), Why::Schedule);
    let held: Vec<_> = (0..listen::SESSIONS_EACH).map(|_| lies::welcome(&hosts, 1)).collect();
    assert!(matches!(hosts.bring(point), Err(PeerError::Refused { reason: No::Busy, .. })));
    let three = &hosts.hosts[2];
    let watch = Watch { wanted: &|| true, moved: &|_| {} };
    three.peers.bring(&three.store, other, HostId::from_u128(2), None, &watch).unwrap();
    drop(held);
    let began = Instant::now();
    while hosts.bring(point).is_err() {
        assert!(began.elapsed() < LONG);
    }
}
