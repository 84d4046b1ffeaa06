//! A point is read on another host before it is here.

use super::*;
use crate::act::restore::origin::{FromAfar, Origin};

impl Hosts {
    /// Host 2 reads a point of host 1 there.
    fn far(&self, point: PointId) -> Result<FromAfar, PeerError> {
        let [one, two, ..] = self.hosts.as_slice() else { panic!("two hosts") };
        let watch = Watch { wanted: &|| true, moved: &|_| {} };
        two.peers.far(&two.store, point, one.id, &watch).map(|far| FromAfar(Arc::new(far)))
    }

    fn share(&mut self, point: PointId) {
        let share = Share { point, with: HostId::from_u128(2) };
        self.host(1).known.send_modify(|known| known.shares = vec![share]);
    }
}

#[test]
fn a_point_is_read_where_it_is_a_little_or_much_at_a_time() {
    let mut hosts = Hosts::new(2);
    let point = hosts.host(1).make(None, &many(1_500, 1), Why::Schedule);
    assert!(matches!(hosts.far(point), Err(PeerError::Refused { reason: No::NotShared, .. })));
    hosts.share(point);
    let origin = hosts.far(point).unwrap();
    assert!(hosts.host(2).store.usage().stored_bytes < 200_000, "maps are small");
    assert_eq!(
        (origin.files(), origin.file("domain.xml").unwrap()),
        (vec!["domain.xml".into()], b"<domain/>".to_vec())
    );
    let (disk, content) = (origin.disk("vda").unwrap(), hosts.host(1).content(point));
    assert_eq!(disk.data(), [(0, 1_500 * 4_096)]);
    for (offset, length) in [(4_095, 4_098), (1_499 * 4_096, 8_192), (0, 8 << 20), (3 << 20, 5 << 20)] {
        let mut read = vec![0; length];
        disk.read_at(offset as u64, &mut read).unwrap();
        assert!(read == content[offset..offset + length], "{length} bytes from {offset}");
    }
    assert!(hosts.host(2).store.usage().stored_bytes < 200_000, "none of the data is written");
}

#[test]
fn a_host_that_comes_back_is_read_on_and_one_that_stays_away_is_an_error_that_says_so() {
    let mut hosts = Hosts::new(2);
    let point = hosts.host(1).make(None, &many(1_500, 1), Why::Schedule);
    hosts.share(point);
    let (disk, content) = (hosts.far(point).unwrap().disk("vda").unwrap(), hosts.host(1).content(point));
    let known = hosts.host(2).known.borrow().clone();
    let mut read = vec![0; 4_096];
    disk.read_at(0, &mut read).unwrap();
    // The talk ends, and host 1 can't be reached; then it can.
    hosts.host(1).known.send_modify(|known| known.peers.clear());
    hosts.host(2).known.send_replace(Known::default());
    let error = disk.read_at(2 << 20, &mut read).unwrap_err();
    assert!(error.to_string().contains("was not told how to reach"), "{error}");
    let back = hosts.host(2).peer();
    std::thread::scope(|scope| {
        let reads = scope.spawn(|| {
            let mut read = vec![0; 4_096];
            disk.read_at(2 << 20, &mut read).map(|()| read)
        });
        hosts.hosts[0].known.send_modify(|known| known.peers.push(back));
        hosts.hosts[1].known.send_replace(known);
        assert!(reads.join().unwrap().unwrap() == content[2 << 20..(2 << 20) + 4_096]);
    });
}

#[test]
fn a_removed_point_is_an_error_at_once_unless_it_is_being_read() {
    let mut hosts = Hosts::new(2);
    let point = hosts.host(1).make(None, &many(1_500, 1), Why::Schedule);
    hosts.share(point);
    let (disk, content) = (hosts.far(point).unwrap().disk("vda").unwrap(), hosts.host(1).content(point));
    let mut read = vec![0; 4_096];
    disk.read_at(0, &mut read).unwrap();
    let one = hosts.host(1);
    one.store.remove(point).unwrap();
    one.store.collect(roost_store::Budget::ALL).unwrap();
    disk.read_at(4 << 20, &mut read).unwrap();
    assert!(read == content[4 << 20..(4 << 20) + 4_096], "the talk holds it");
    let mut much = vec![0; 1 << 20];
    let error = disk.read_at(0, &mut much).unwrap_err();
    assert!(error.to_string().contains("NotThere"), "{error}");
}
