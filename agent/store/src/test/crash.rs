//! Power cuts, full disks and failing disks at every single write of a store's life.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use roost_protocol::PointId;

use super::fault::{Fate, Fault, Faulty};
use super::helper::{GUEST, meta, noise, options};
use crate::{BLOCK, BLOCK_BYTES, Budget, Scope, Store, StoreError};

/// What was promised so far.
#[derive(Debug, Default)]
struct Promises {
    /// Finished, and not asked to be removed.
    kept: BTreeMap<PointId, Image>,
    /// Removed for good.
    gone: BTreeSet<PointId>,
    pinned: BTreeSet<PointId>,
}

/// Two leaves.
const SIZE: u64 = 5 << 20;

/// A disk's blocks that are not zeros.
type Image = BTreeMap<u64, Vec<u8>>;

fn set(image: &mut Image, from: u64, bytes: &[u8]) {
    image.extend((from..).zip(bytes.chunks(BLOCK).map(<[u8]>::to_vec)));
}

/// True where the disk is this image and nothing else.
fn is(store: &Store, point: PointId, image: &Image) -> bool {
    let disk = store.disk(point, "vda").unwrap();
    let blocks = |range: std::ops::Range<u64>| range.start / BLOCK_BYTES..range.end / BLOCK_BYTES;
    let there: Vec<u64> = disk.data_ranges().unwrap().into_iter().flat_map(blocks).collect();
    let mut block = [0; BLOCK];
    disk.size() == SIZE
        && there.iter().eq(image.keys())
        && image.iter().all(|(at, bytes)| {
            disk.read_at(at * BLOCK_BYTES, &mut block).unwrap();
            bytes == &block
        })
}

/// A life with everything in it. Errors end a step, not the life, unless power is gone.
fn live(disk: &Faulty, promises: &mut Promises) -> Result<(), StoreError> {
    let mut image = Image::new();
    let mut parent = None;
    for day in 0..4u64 {
        let store = match Store::open_on(Arc::new(disk.clone()), options()) {
            Ok(store) => store,
            Err(error) if day == 3 => return Err(error),
            Err(_) => continue,
        };
        set(&mut image, day * 7, &noise(day + 1, 20 * BLOCK));
        set(&mut image, 1100, &noise(day + 100, BLOCK));
        let day_before = parent;
        if let Ok(point) = backup(&store, parent, &image, day, promises) {
            parent = Some(point);
        }
        if day == 1 && parent.is_some_and(|point| store.set_pinned(point, true).is_ok()) {
            promises.pinned.extend(parent);
        }
        // Begun and given up.
        if let Ok(mut draft) = store.draft(GUEST, parent)
            && let Ok(mut writer) = draft.disk("vda", SIZE)
        {
            let _ = writer.write(0, &noise(day + 50, 3 * BLOCK));
            let _ = writer.close();
        }
        if day >= 2
            && let Some(point) = day_before
        {
            remove(&store, point, promises);
            let _ = store.collect(Budget::ALL);
        }
    }
    Ok(())
}

fn backup(
    store: &Store,
    parent: Option<PointId>,
    image: &Image,
    day: u64,
    promises: &mut Promises,
) -> Result<PointId, StoreError> {
    let mut draft = store.draft(GUEST, parent)?;
    let mut writer = draft.disk("vda", SIZE)?;
    for (at, block) in image {
        writer.write(at * BLOCK_BYTES, block)?;
    }
    writer.close()?;
    draft.file("domain.xml", format!("<domain day='{day}'/>").as_bytes())?;
    let point = draft.finish(meta(day))?;
    promises.kept.insert(point, image.clone());
    Ok(point)
}

fn remove(store: &Store, point: PointId, promises: &mut Promises) {
    promises.kept.remove(&point);
    if store.remove(point).is_ok() {
        promises.gone.insert(point);
    }
}

/// Opens what is left and holds it against the promises.
fn check(disk: &Faulty, promises: &Promises, what: &str) {
    let store = Store::open_on(Arc::new(disk.clone()), options()).unwrap_or_else(|e| panic!("{what}: open: {e:?}"));
    holds(&store, promises, what);
    // It goes on living.
    let mut image = Image::new();
    set(&mut image, 1000, &noise(999, 20 * BLOCK));
    let mut more = Promises::default();
    backup(&store, None, &image, 9, &mut more).unwrap_or_else(|e| panic!("{what}: next backup: {e:?}"));
    let collected = store.collect(Budget::ALL).unwrap_or_else(|e| panic!("{what}: collect: {e:?}"));
    assert!(collected.done, "{what}: {collected:?}");
    holds(&store, promises, what);
    holds(&store, &more, what);
    drop(store);
    let names = disk.names();
    assert!(!names.iter().any(|name| name.ends_with(".tmp")), "{what}: {names:?}");
    let store = Store::open_on(Arc::new(disk.clone()), options()).unwrap_or_else(|e| panic!("{what}: reopen: {e:?}"));
    holds(&store, promises, what);
    holds(&store, &more, what);
}

fn holds(store: &Store, promises: &Promises, what: &str) {
    assert_eq!(store.broken(), [], "{what}");
    let there: BTreeMap<PointId, bool> = store.points().iter().map(|s| (s.point, s.pinned)).collect();
    for (point, image) in &promises.kept {
        assert!(there.contains_key(point), "{what}: point {point} is lost");
        assert!(is(store, *point, image), "{what}: point {point} has another content");
        assert!(store.file(*point, "domain.xml").is_ok(), "{what}");
    }
    for point in &promises.gone {
        assert!(!there.contains_key(point), "{what}: removed point {point} is back");
    }
    for point in &promises.pinned {
        assert!(there.get(point).is_none_or(|pinned| *pinned), "{what}: the pin is lost");
    }
    let damages = store.verify(Scope::All, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(damages, [], "{what}");
}

fn life_without_faults() -> u64 {
    let disk = Faulty::new(Fault::None);
    let mut promises = Promises::default();
    live(&disk, &mut promises).unwrap();
    check(&disk.after(Fate::Lost), &promises, "no fault");
    assert_eq!(promises.kept.len(), 2, "the script does what it says");
    assert_eq!(promises.gone.len(), 2);
    disk.operations()
}

fn cut(at: u64, fates: &[Fate]) {
    let disk = Faulty::new(Fault::Cut(at));
    let mut promises = Promises::default();
    let _ = live(&disk, &mut promises);
    for fate in fates {
        check(&disk.after(*fate), &promises, &format!("power cut at {at}, {fate:?}"));
    }
}

#[test]
fn a_power_cut_at_any_write_leaves_every_finished_point() {
    let all = life_without_faults();
    assert!(all > 150, "{all} operations");
    for at in 0..all {
        cut(at, &[Fate::Lost, Fate::Kept]);
    }
}

#[test]
fn torn_and_reordered_writes_leave_every_finished_point() {
    let all = life_without_faults();
    for at in 0..all {
        cut(at, &[Fate::Mixed(at * 3 + 1), Fate::Mixed(at * 3 + 2)]);
    }
}

#[test]
fn a_power_cut_while_recovering_from_one_loses_nothing() {
    let all = life_without_faults();
    for at in (0..all).step_by(7) {
        let disk = Faulty::new(Fault::Cut(at));
        let mut promises = Promises::default();
        let _ = live(&disk, &mut promises);
        let first = disk.after(Fate::Mixed(at));
        for again in 0..12 {
            let second = first.after(Fate::Kept);
            second.set(Fault::Cut(again));
            let _ = Store::open_on(Arc::new(second.clone()), options()).map(|store| store.collect(Budget::ALL));
            check(&second.after(Fate::Mixed(again)), &promises, &format!("cut at {at}, then at {again}"));
        }
    }
}

#[test]
fn a_disk_that_is_full_at_any_write_costs_only_what_was_being_made() {
    let all = life_without_faults();
    for at in 0..all {
        for count in [1, 1000] {
            let disk = Faulty::new(Fault::Full(at, count));
            let mut promises = Promises::default();
            let _ = live(&disk, &mut promises);
            disk.set(Fault::None);
            check(&disk.after(Fate::Mixed(at)), &promises, &format!("full from {at} for {count}"));
        }
    }
}

#[test]
fn a_write_or_sync_that_fails_once_loses_no_finished_point() {
    let all = life_without_faults();
    for at in 0..all {
        let disk = Faulty::new(Fault::Broken(at));
        let mut promises = Promises::default();
        let _ = live(&disk, &mut promises);
        disk.set(Fault::None);
        check(&disk.after(Fate::Lost), &promises, &format!("operation {at} failed"));
    }
}
