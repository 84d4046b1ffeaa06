//! Backups in a row, into a real store.

use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;

use roost_protocol::PointId;
use roost_store::{Options, Scope, Store};

use super::lab::{DISK, Guest, Lab, in_lab, moment};
use crate::act::backup::kept::{Kept, Origin};
use crate::act::backup::{Backup, Wish};
use crate::act::points::prune;

/// Half of them while the guest stands still, half while it writes.
const HALF: usize = 250;
/// The name of its bitmap, which is in each point: one small frame. The manifest stands beside the packs.
const MOST_EACH: u64 = 512;
/// What the guest writes to, and what its disk held before: 8 MiB each.
const CONTENT: u64 = 16 << 20;

fn back_up(lab: &Lab, guest: Guest, store: &Store) -> PointId {
    let set = Kept { store: store.clone(), guest: guest.0, origin: Origin::default() };
    let (hypervisor, scratch, unwanted) = (&lab.hypervisor, &lab.scratch, &AtomicBool::new(false));
    Backup { hypervisor, scratch, unwanted, tell: &|_, _| {} }.run(guest.0, Wish::default(), &set).unwrap()
}

#[test]
fn real_five_hundred_backups_in_a_row_leave_no_layer_and_grow_by_nothing_but_new_data() {
    in_lab("many::real_five_hundred_backups_in_a_row_leave_no_layer_and_grow_by_nothing_but_new_data", |lab| {
        let store = Store::open(&lab.root.join("store"), Options::default()).unwrap();
        let guest = lab.guest(1, "qcow2");
        let uuid = guest.0.bytes();
        back_up(&lab, guest, &store);
        lab.hypervisor.pause(&uuid).unwrap();
        back_up(&lab, guest, &store);
        let before = store.usage().stored_bytes;
        for _ in 0..HALF {
            back_up(&lab, guest, &store);
        }
        let each = (store.usage().stored_bytes - before) / u64::try_from(HALF).unwrap();
        assert!(each <= MOST_EACH, "{each} bytes for a backup without new data");
        lab.clean(guest);
        lab.hypervisor.resume(&uuid).unwrap();
        for number in 0..HALF {
            let started = lab.ticks(guest);
            let point = back_up(&lab, guest, &store);
            if number % 25 == 0 {
                lab.clean(guest);
                lab.ticks_on(guest);
                let mut disk = vec![0; usize::try_from(DISK).unwrap()];
                store.disk(point, "hda").unwrap().read_at(0, &mut disk).unwrap();
                assert!(moment(&disk) + 4 >= started, "what was written before the backup began is in it");
            }
        }
        lab.clean(guest);
        assert_eq!(lab.hypervisor.checkpoints(&uuid).unwrap().len(), 1, "one bitmap is kept");
        let all: Vec<PointId> = store.points().iter().map(|point| point.point).collect();
        assert_eq!(all.len(), 2 * HALF + 2);
        prune(&store, &all[..all.len() - 3]).unwrap();
        let kept = store.usage().stored_bytes;
        assert!(kept <= 2 * CONTENT, "{kept} bytes for three points");
        assert_eq!(store.verify(Scope::All, &mut |_| ControlFlow::Continue(())).unwrap(), []);
    });
}
