//! Points are made, copied, checked and removed as the tasks ask; no guest is needed.

use std::cell::RefCell;
use std::path::Path;

use roost_protocol::backup::{Consistency, SENTENCE, Why};
use roost_protocol::{PointId, Stamp};

use super::*;
use crate::act::backup::sink::{Facts, Set};

const HOST: HostId = HostId::from_u128(1);
const GUEST: GuestId = GuestId::from_u128(2);
const SIZE: u64 = 1 << 20;

fn opened(folder: &Path, allowed: &[PathBuf], options: Options) -> Result<Points, StoreError> {
    Points::open(&folder.join("store"), folder.join("scratch"), (HOST, "h1"), allowed, options, None)
}

fn points(folder: &Path, allowed: &[PathBuf]) -> Points {
    opened(folder, allowed, Options::default()).unwrap()
}

fn set(points: &Points) -> Kept {
    let origin = kept::Origin { host: Some(HOST), name: "h1".into(), why: Why::Command, label: "n".repeat(400) };
    Kept { store: points.store.clone(), guest: GUEST, origin }
}

/// One point whose disk begins with this byte, block by block.
fn make(points: &Points, byte: u8, moment: u64) -> PointId {
    let set = set(points);
    let mut sink = set.draft(set.newest()).unwrap();
    let mut disk = sink.disk("vda", SIZE).unwrap();
    disk.write(0, &[byte; 8192]).unwrap();
    disk.close().unwrap();
    sink.file(crate::act::backup::MARK, format!("mark-{byte}").as_bytes()).unwrap();
    let (moment, consistency) = (Stamp(moment), Consistency::Filesystem);
    sink.finish(Facts { moment, guest_name: "web".into(), consistency, note: String::new() }).unwrap()
}

fn first_block(store: &Store, point: PointId) -> Vec<u8> {
    let mut block = vec![0; 4096];
    store.disk(point, "vda").unwrap().read_at(0, &mut block).unwrap();
    block
}

fn ship_to(points: &Points, point: PointId, path: &Path, unwanted: bool) -> Result<(), Failure> {
    ship::check(&points.allowed, path.to_str().unwrap())?;
    let to = Store::open(path, points.options.clone()).unwrap();
    let steps = RefCell::new(0);
    let tell = |_: u32, _: &str| *steps.borrow_mut() += 1;
    ship::ship(&points.store, &to, point, None, &AtomicBool::new(unwanted), &tell)
}

#[test]
fn the_newest_point_and_its_mark_are_found_again_and_lists_say_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let kept = points(folder.path(), &[]);
    let (first, second) = (make(&kept, 1, 10), make(&kept, 2, 20));
    let set = set(&kept);
    assert_eq!(set.newest(), Some(second));
    assert_eq!(set.marks().unwrap(), [(second, "mark-2".to_owned()), (first, "mark-1".to_owned())]);
    let all = kept.all();
    let told = all.iter().find(|point| point.point == second).unwrap();
    assert_eq!((told.guest, told.origin, told.parent, told.started), (GUEST, HOST, Some(first), Stamp(20)));
    assert_eq!((told.why, told.consistency, told.size), (Why::Command, Consistency::Filesystem, SIZE));
    assert_eq!(told.note.len(), SENTENCE);
}

#[test]
fn a_copy_in_a_folder_outlives_the_point_and_a_second_one_takes_little() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("nas");
    let kept = points(folder.path(), std::slice::from_ref(&target));
    let (first, second) = (make(&kept, 1, 10), make(&kept, 2, 20));
    ship_to(&kept, first, &target, false).unwrap();
    ship_to(&kept, second, &target, false).unwrap();
    ship_to(&kept, second, &target, false).unwrap();
    prune(&kept.store, &[first, second, first]).unwrap();
    assert_eq!(kept.all(), []);
    let copy = Store::open(&target, Options { read_only: true, ..Options::default() }).unwrap();
    assert_eq!((first_block(&copy, first)[0], first_block(&copy, second)[0]), (1, 2));
}

#[test]
fn where_copies_are_is_known_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let place = Target::Directory { path: "/mnt/nas".into() };
    let kept = points(folder.path(), &[]);
    let point = make(&kept, 1, 10);
    for _ in 0..2 {
        assert_eq!(kept.shipped(point, place.clone()).unwrap(), Made::Shipped { point, to: place.clone() });
    }
    kept.store.set_pinned(point, true).unwrap();
    kept.shipped(PointId::from_u128(9), place.clone()).unwrap();
    drop(kept);
    let again = points(folder.path(), &[]).all();
    assert_eq!((again.len(), again[0].copies.as_slice(), again[0].pinned), (1, [place].as_slice(), true));
}

#[test]
fn a_cancelled_copy_is_no_point_and_goes_on_later() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("nas");
    let kept = points(folder.path(), std::slice::from_ref(&target));
    let point = make(&kept, 7, 10);
    assert_eq!(ship_to(&kept, point, &target, true).unwrap_err().code, FailureCode::Cancelled);
    assert_eq!(Store::open(&target, kept.options.clone()).unwrap().points(), []);
    ship_to(&kept, point, &target, false).unwrap();
}

#[test]
fn only_folders_that_the_host_allows_are_written_to() {
    let folder = tempfile::tempdir().unwrap();
    let allowed = folder.path().join("nas");
    let kept = points(folder.path(), std::slice::from_ref(&allowed));
    for path in ["/etc", "relative", &format!("{}/../etc", allowed.display()), &format!("{}2", allowed.display())] {
        let refused = ship::check(&kept.allowed, path).unwrap_err();
        assert!(refused.text.contains("backup_targets"), "{path}: {}", refused.text);
    }
    assert!(ship::check(&kept.allowed, allowed.join("a").to_str().unwrap()).is_ok());
}

#[test]
fn a_store_that_another_process_has_is_said_to_be_busy() {
    let folder = tempfile::tempdir().unwrap();
    let _kept = points(folder.path(), &[]);
    let error = opened(folder.path(), &[], Options::default()).unwrap_err();
    assert_eq!(store_failure("open", &error).code, FailureCode::Busy, "{error}");
}

/// Whether these bytes stand in any file of a folder.
fn stands(folder: &Path, wanted: &[u8]) -> bool {
    std::fs::read_dir(folder).unwrap().flatten().any(|entry| match entry.file_type().unwrap().is_dir() {
        true => stands(&entry.path(), wanted),
        false => std::fs::read(entry.path()).unwrap().windows(wanted.len()).any(|part| part == wanted),
    })
}

#[test]
fn an_encrypted_store_and_its_copies_show_nothing_without_the_key_and_its_key_can_be_rotated() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("nas");
    let allowed = std::slice::from_ref(&target);
    let secret = |current: u8, older: &[u8]| Options {
        encryption: Some(roost_store::Encryption {
            domain: [9; 32],
            current: [current; 32],
            older: older.iter().map(|byte| [*byte; 32]).collect(),
        }),
        ..Options::default()
    };
    let kept = opened(folder.path(), allowed, secret(1, &[])).unwrap();
    let first = make(&kept, 1, 10);
    ship_to(&kept, first, &target, false).unwrap();
    // A mark is stored as it is, were it not sealed.
    assert!(!stands(&folder.path().join("store"), b"mark-1") && !stands(&target, b"mark-1"));
    drop(kept);
    for wrong in [Options::default(), Options { read_only: true, ..Options::default() }] {
        for place in [folder.path().join("store"), target.clone()] {
            let refused = Store::open(&place, wrong.clone()).unwrap_err();
            assert!(matches!(refused, StoreError::NotAStore { .. }), "{refused}");
        }
    }
    let kept = opened(folder.path(), allowed, secret(2, &[1])).unwrap();
    let second = make(&kept, 2, 20);
    assert_eq!((first_block(&kept.store, first)[0], first_block(&kept.store, second)[0]), (1, 2));
    ship_to(&kept, second, &target, false).unwrap();
    // Collection seals anew what the older key sealed; then that one is needed no more.
    prune(&kept.store, &[]).unwrap();
    drop(kept);
    let kept = opened(folder.path(), allowed, secret(2, &[])).unwrap();
    assert_eq!((first_block(&kept.store, first)[0], first_block(&kept.store, second)[0]), (1, 2));
    let whole = kept.store.verify(Scope::All, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(whole, []);
}
