//! What several callers at once, other processes and bad requests may do.

use std::io::Cursor;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use roost_protocol::GuestId;
use roost_protocol::backup::Proof;

use super::helper::{GUEST, content, meta, noise, options, write};
use crate::{BLOCK, Budget, Options, Refusal, Scope, Store, StoreError};

#[test]
fn only_one_process_has_a_store_but_anybody_may_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options()).unwrap();
    let point = write(&store, None, &noise(1, 4 * BLOCK), 1);
    assert!(matches!(Store::open(dir.path(), options()), Err(StoreError::Busy { .. })));
    let reader = Store::open(dir.path(), Options { read_only: true, ..options() }).unwrap();
    assert_eq!(content(&reader, point, "vda"), noise(1, 4 * BLOCK));
    assert_eq!(reader.verify(Scope::All, &mut |_| ControlFlow::Continue(())).unwrap(), []);
    assert!(matches!(reader.remove(point), Err(StoreError::Refused(Refusal::ReadOnly))));
    assert!(matches!(reader.draft(GUEST, None), Err(StoreError::Refused(Refusal::ReadOnly))));
}

#[test]
fn a_folder_with_something_else_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("thesis.txt"), "mine").unwrap();
    let error = Store::open(dir.path(), options()).unwrap_err();
    assert!(error.to_string().contains("thesis.txt"), "{error}");
    let store = tempfile::tempdir().unwrap();
    write(&Store::open(store.path(), options()).unwrap(), None, &noise(1, 4 * BLOCK), 1);
    std::fs::remove_file(store.path().join("roost-store.json")).unwrap();
    assert!(
        matches!(Store::open(store.path(), options()), Err(StoreError::NotAStore { .. })),
        "never made anew over data"
    );
}

#[test]
fn requests_that_make_no_sense_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options()).unwrap();
    let mut draft = store.draft(GUEST, None).unwrap();
    for name in ["", ".", "..", ".hidden", "a/b", "ä", &"x".repeat(65)] {
        assert!(matches!(draft.disk(name, 0), Err(StoreError::Refused(Refusal::Name(_)))), "{name}");
    }
    assert!(matches!(draft.disk("vda", 65 << 40), Err(StoreError::Refused(Refusal::DiskTooLarge(_)))));
    let mut writer = draft.disk("vda", 10 * BLOCK as u64 + 100).unwrap();
    assert!(matches!(draft.disk("vda", 0), Err(StoreError::Refused(Refusal::Twice(_)))));
    for (offset, length) in [(1, BLOCK), (0, 100), (10 * BLOCK as u64, BLOCK), (u64::MAX - 4095, BLOCK)] {
        let refused = writer.write(offset, &vec![1; length]);
        assert!(matches!(refused, Err(StoreError::Refused(Refusal::Range { .. }))), "{offset} {refused:?}");
    }
    writer.write(10 * BLOCK as u64, &[1; 100]).unwrap();
    let unfinished = draft.finish(meta(1)).unwrap_err();
    assert!(matches!(unfinished, StoreError::Refused(Refusal::Unfinished(_))), "{unfinished:?}");
    assert!(store.points().is_empty());
}

#[test]
fn a_dropped_draft_leaves_nothing_and_its_room_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options()).unwrap();
    let mut draft = store.draft(GUEST, None).unwrap();
    let mut writer = draft.disk("vda", 300 * BLOCK as u64).unwrap();
    writer.write(0, &noise(1, 300 * BLOCK)).unwrap();
    drop(writer);
    drop(draft);
    drop(store);
    let store = Store::open(dir.path(), options()).unwrap();
    assert!(store.usage().stored_bytes > 0);
    assert!(store.collect(Budget::ALL).unwrap().done);
    assert_eq!((store.usage().stored_bytes, store.usage().chunks), (0, 0));
}

#[test]
fn notes_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options()).unwrap();
    let point = write(&store, None, &noise(1, 4 * BLOCK), 1);
    store.set_pinned(point, true).unwrap();
    store.set_proof(point, Proof::default()).unwrap();
    drop(store);
    let store = Store::open(dir.path(), options()).unwrap();
    assert!(store.points()[0].pinned);
}

#[test]
fn like_disks_of_two_guests_are_stored_once_wherever_their_files_lie() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Options { pack_bytes: 64 << 20, hook_bytes: 1 << 20, ..options() }).unwrap();
    let image = noise(1, 2000 * BLOCK);
    write(&store, None, &image, 1);
    let once = store.usage().stored_bytes;
    let mut other = noise(2, 3 * BLOCK);
    other.extend(&image[700 * BLOCK..1900 * BLOCK]);
    other.extend(noise(3, 5 * BLOCK));
    other.extend(&image[..700 * BLOCK]);
    let mut draft = store.draft(GuestId::from_u128(8), None).unwrap();
    let mut writer = draft.disk("sda", other.len() as u64).unwrap();
    writer.write(0, &other).unwrap();
    writer.close().unwrap();
    let point = draft.finish(meta(2)).unwrap();
    assert_eq!(content(&store, point, "sda"), other);
    let grown = store.usage().stored_bytes - once;
    assert!(grown < 100 << 10, "8 new blocks of 1,908 cost {grown} bytes");
}

#[test]
fn an_increment_costs_the_changed_blocks_and_little_more() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Options { pack_bytes: 64 << 20, ..options() }).unwrap();
    let mut image = noise(1, 8192 * BLOCK);
    let parent = write(&store, None, &image, 1);
    let before = store.usage().stored_bytes;
    let changed: Vec<usize> = (0..400).map(|number| number * 20 + number % 7).collect();
    for at in &changed {
        image[at * BLOCK..(at + 1) * BLOCK].copy_from_slice(&noise(*at as u64 + 5000, BLOCK));
    }
    write(&store, Some(parent), &image, 2);
    let grown = store.usage().stored_bytes - before;
    let floor = (changed.len() * BLOCK) as u64;
    assert!(grown * 100 <= floor * 105, "{grown} bytes for {floor}");
}

#[test]
fn drafts_removals_and_collections_at_once_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Options { threads: 1, ..options() }).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let lives: Vec<_> = (0..3u64)
            .map(|guest| {
                let store = store.clone();
                scope.spawn(move || life(&store, guest))
            })
            .collect();
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                store.collect(Budget { bytes: 200 << 10, time: Duration::from_millis(5) }).unwrap();
            }
        });
        for life in lives {
            life.join().unwrap();
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(store.verify(Scope::All, &mut |_| ControlFlow::Continue(())).unwrap(), []);
}

/// A guest whose points share much with each other's and those of the other guests.
fn life(store: &Store, guest: u64) {
    let mut image = noise(1, 120 * BLOCK);
    let mut parent = None;
    for day in 0..25u64 {
        let at = usize::try_from((day * 13 + guest * 31) % 100).unwrap() * BLOCK;
        image[at..at + 9 * BLOCK].copy_from_slice(&noise(day % 6 + 2, 9 * BLOCK));
        let mut draft = store.draft(GuestId::from_u128(u128::from(guest) + 1), parent).unwrap();
        let mut writer = draft.disk("vda", image.len() as u64).unwrap();
        // The parent goes while the draft relies on it.
        parent.map_or(Ok(()), |parent| store.remove(parent)).unwrap();
        writer.write(at as u64, &image[at..at + 9 * BLOCK]).unwrap();
        if day == 0 {
            writer.write(0, &image).unwrap();
        }
        writer.close().unwrap();
        let point = draft.finish(meta(day)).unwrap();
        assert!(content(store, point, "vda") == image, "guest {guest} day {day}");
        parent = Some(point);
    }
}

#[test]
fn a_collection_stops_at_its_budget_and_goes_on_later() {
    let dir = tempfile::tempdir().unwrap();
    // Eight chunks in a pack, of which two stay.
    let options = || Options { pack_bytes: 1 << 20, ..options() };
    let store = Store::open(dir.path(), options()).unwrap();
    let mut image = noise(1, 50 * 32 * BLOCK);
    let first = write(&store, None, &image, 1);
    for cluster in (0..50).filter(|cluster| cluster % 4 > 0) {
        image[cluster * 32 * BLOCK..(cluster + 1) * 32 * BLOCK].fill(0);
    }
    let third = write(&store, Some(first), &image, 3);
    drop(store);
    let store = Store::open(dir.path(), options()).unwrap();
    store.remove(first).unwrap();
    let none = store.collect(Budget { bytes: u64::MAX, time: Duration::ZERO }).unwrap();
    assert_eq!((none.done, none.packs), (false, 0));
    let (mut rounds, mut freed) = (0, 0);
    loop {
        let collected = store.collect(Budget { bytes: 1, time: Duration::MAX }).unwrap();
        freed += collected.freed_bytes;
        if collected.done {
            break;
        }
        rounds += 1;
    }
    assert!(rounds > 1 && freed > 0, "{rounds} rounds, {freed} bytes");
    assert_eq!(content(&store, third, "vda"), image);
}

#[test]
fn a_reader_goes_on_when_its_point_is_removed_and_collected() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options()).unwrap();
    let image = noise(1, 100 * BLOCK);
    let point = write(&store, None, &image, 1);
    drop(store);
    let store = Store::open(dir.path(), options()).unwrap();
    let reader = store.disk(point, "vda").unwrap();
    store.remove(point).unwrap();
    assert!(store.collect(Budget::ALL).unwrap().done);
    let mut bytes = vec![0; image.len()];
    reader.read_at(0, &mut bytes).unwrap();
    assert!(bytes == image);
    drop(reader);
    assert!(store.collect(Budget::ALL).unwrap().freed_bytes > 0);
}

#[test]
fn an_exported_image_is_the_disk_with_its_holes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options()).unwrap();
    let mut image = vec![0; 2000 * BLOCK + 77];
    image[3 * BLOCK..9 * BLOCK].copy_from_slice(&noise(1, 6 * BLOCK));
    image[1500 * BLOCK..1501 * BLOCK].copy_from_slice(&noise(2, BLOCK));
    let point = write(&store, None, &image, 1);
    let mut out = Cursor::new(Vec::new());
    store.export_raw(point, "vda", &mut out, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(out.into_inner() == image);
    let ranges = store.disk(point, "vda").unwrap().data_ranges().unwrap();
    assert_eq!(ranges, [3 * BLOCK as u64..9 * BLOCK as u64, 1500 * BLOCK as u64..1501 * BLOCK as u64]);
    let stopped = store.export_raw(point, "vda", &mut Cursor::new(Vec::new()), &mut |_| ControlFlow::Break(()));
    assert!(stopped.is_err());
}

#[test]
fn a_disk_tells_whether_it_holds_these_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options()).unwrap();
    let mut bytes = noise(3, 70 * BLOCK + 100);
    bytes[33 * BLOCK..40 * BLOCK].fill(0);
    let point = write(&store, None, &bytes, 1);
    let disk = store.disk(point, "vda").unwrap();
    let (end, block) = (bytes.len(), BLOCK);
    let ranges = [0..end, 0..70 * block, block..2 * block, 30 * block..45 * block, 7..9, 34 * block + 1..41 * block];
    for range in ranges {
        let (at, mut other) = (range.start as u64, bytes[range.clone()].to_vec());
        assert!(disk.holds(at, &other).unwrap(), "{range:?}");
        for flip in [0, other.len() / 2, other.len() - 1] {
            other[flip] ^= 1;
            assert!(!disk.holds(at, &other).unwrap(), "{range:?} {flip}");
            other[flip] ^= 1;
        }
    }
    assert!(matches!(disk.holds(0, &vec![0; 71 * BLOCK]), Err(StoreError::Refused(Refusal::Range { .. }))));
}
