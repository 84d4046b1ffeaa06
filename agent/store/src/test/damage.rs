//! Any byte of a store is changed: what is read is right or refused, and verification names what is lost.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use roost_protocol::PointId;

use super::fault::{Fault, Faulty};
use super::helper::{GUEST, meta, noise, options, write};
use crate::{BLOCK, Budget, Options, Scope, Store};

/// What a store holds: by point, its disk.
type Held = BTreeMap<PointId, Vec<u8>>;

const SIZE: usize = 60 * BLOCK;

/// Two points, of which the second shares most of the first; and a third of another guest.
fn filled(options: &Options) -> (Faulty, Held) {
    let disk = Faulty::new(Fault::None);
    let store = Store::open_on(Arc::new(disk.clone()), options.clone()).unwrap();
    let mut image = noise(1, SIZE);
    image[40 * BLOCK..].fill(b'x');
    let first = write(&store, None, &image, 1);
    image[8 * BLOCK..9 * BLOCK].copy_from_slice(&noise(2, BLOCK));
    let second = write(&store, Some(first), &image, 2);
    let held = [(first, noise_with(1, None)), (second, noise_with(1, Some(2)))];
    drop(store);
    (disk, held.into_iter().collect())
}

fn noise_with(seed: u64, changed: Option<u64>) -> Vec<u8> {
    let mut image = noise(seed, SIZE);
    image[40 * BLOCK..].fill(b'x');
    if let Some(changed) = changed {
        image[8 * BLOCK..9 * BLOCK].copy_from_slice(&noise(changed, BLOCK));
    }
    image
}

/// Reads every block of every point: right or refused, and refused only where verification says so.
fn check(disk: &Faulty, held: &Held, options: &Options, what: &str) -> usize {
    let Ok(store) = Store::open_on(Arc::new(disk.clone()), options.clone()) else { return 1 };
    let broken = store.broken();
    let damages = store.verify(Scope::All, &mut |_| ControlFlow::Continue(())).unwrap();
    let mut block = [0; BLOCK];
    for (point, image) in held {
        if broken.iter().any(|(broken, _)| broken == point) {
            assert!(damages.iter().any(|damage| damage.point == *point), "{what}: {damages:?}");
            continue;
        }
        let reader = store.disk(*point, "vda").unwrap_or_else(|e| panic!("{what}: {e}"));
        for (at, right) in image.chunks(BLOCK).enumerate() {
            let offset = (at * BLOCK) as u64;
            let named = damages.iter().any(|damage| {
                damage.point == *point
                    && damage.disk == "vda"
                    && (damage.from..damage.from + damage.length).contains(&offset)
            });
            match reader.read_at(offset, &mut block) {
                Ok(()) => assert!(block == right, "{what}: wrong data at block {at}"),
                Err(error) => {
                    assert!(error.is_damage(), "{what}: {error:?}");
                    assert!(named, "{what}: block {at} is lost, but verification says {damages:?}");
                }
            }
        }
        let named = damages.iter().any(|damage| damage.point == *point && damage.disk == "domain.xml");
        assert_eq!(store.file(*point, "domain.xml").is_err(), named, "{what}");
    }
    damages.len() + store.faults().len()
}

/// Flips bytes of every file, as many as the stride says, and checks each time.
fn flip(options: &Options, stride: usize) {
    let (disk, held) = filled(options);
    let mut found = 0;
    for name in disk.names() {
        let bytes = disk.bytes(&name);
        for at in (0..bytes.len()).filter(|at| at % stride == 0 || *at < 300 || at + 40 > bytes.len()) {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            found += check(&disk.with(&name, changed), &held, options, &format!("byte {at} of {name}")).min(1);
        }
    }
    assert!(found > 300, "flips are seen: {found}");
}

#[test]
fn any_flipped_byte_is_named_or_harmless() {
    flip(&options(), 97);
}

#[test]
fn any_flipped_byte_of_an_encrypted_store_is_named_or_harmless() {
    let encryption = crate::Encryption { domain: [1; 32], current: [2; 32], older: vec![] };
    flip(&Options { encryption: Some(encryption), ..options() }, 701);
}

#[test]
fn a_file_cut_anywhere_is_named_or_harmless() {
    let (disk, held) = filled(&options());
    for name in disk.names() {
        let bytes = disk.bytes(&name);
        for length in (0..bytes.len()).step_by(997).chain([0, bytes.len() - 1]) {
            check(&disk.with(&name, bytes[..length].to_vec()), &held, &options(), &format!("{name} cut at {length}"));
        }
    }
}

/// The pack with the data, damaged in the middle of its largest frame.
fn damaged() -> (Faulty, Held) {
    let (disk, held) = filled(&options());
    let pack = disk.names().into_iter().find(|name| name.ends_with(".pack")).unwrap();
    let mut bytes = disk.bytes(&pack);
    bytes[40_000] ^= 1;
    (disk.with(&pack, bytes), held)
}

#[test]
fn damage_costs_only_the_points_that_need_it_and_they_can_be_removed() {
    let (disk, held) = damaged();
    let store = Store::open_on(Arc::new(disk.clone()), options()).unwrap();
    let other = {
        let mut draft = store.draft(roost_protocol::GuestId::from_u128(99), None).unwrap();
        let mut writer = draft.disk("vda", SIZE as u64).unwrap();
        writer.write(0, &noise(5, SIZE)).unwrap();
        writer.close().unwrap();
        draft.finish(meta(5)).unwrap()
    };
    let damages = store.verify(Scope::All, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(damages.iter().all(|damage| held.contains_key(&damage.point) && damage.guest == GUEST), "{damages:?}");
    assert!(!damages.is_empty() && damages[0].why.contains("CRC"), "{damages:?}");
    assert_eq!(store.whole_points(damages[0].guest, &mut |_| ControlFlow::Continue(())).unwrap(), []);
    for point in held.keys() {
        store.remove(*point).unwrap();
    }
    assert!(store.collect(Budget::ALL).unwrap().done);
    assert_eq!(store.verify(Scope::All, &mut |_| ControlFlow::Continue(())).unwrap(), []);
    assert_eq!(super::helper::content(&store, other, "vda"), noise(5, SIZE));
}

#[test]
fn a_full_backup_after_damage_is_whole_and_heals_what_is_the_same() {
    let (disk, held) = damaged();
    let store = Store::open_on(Arc::new(disk.clone()), options()).unwrap();
    let before = store.verify(Scope::All, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(!before.is_empty());
    drop(store);
    // What is known to be damaged is still known after a restart.
    let store = Store::open_on(Arc::new(disk.clone()), options()).unwrap();
    assert_eq!(store.faults().len(), 1);
    let parent = store.points().last().map(|summary| summary.point);
    let image = noise_with(1, Some(2));
    let fresh = write(&store, parent, &image, 3);
    assert_eq!(super::helper::content(&store, fresh, "vda"), image);
    let none = &mut |_| ControlFlow::Continue(());
    assert_eq!(store.verify(Scope::Point(fresh), none).unwrap(), []);
    let oldest = store.points()[0].point;
    assert_eq!(store.older_whole(fresh, none).unwrap().is_some(), store.whole_points(GUEST, none).unwrap().len() > 1);
    assert!(held.contains_key(&oldest));
}

#[test]
fn an_increment_never_inherits_what_is_known_to_be_damaged() {
    let (disk, _) = damaged();
    let store = Store::open_on(Arc::new(disk.clone()), options()).unwrap();
    assert!(!store.verify(Scope::All, &mut |_| ControlFlow::Continue(())).unwrap().is_empty());
    let parent = store.points().last().map(|summary| summary.point);
    let mut draft = store.draft(GUEST, parent).unwrap();
    let mut writer = draft.disk("vda", SIZE as u64).unwrap();
    writer.write(50 * BLOCK as u64, &noise(8, BLOCK)).unwrap();
    let error = writer.close().unwrap_err();
    assert!(error.is_damage() && error.to_string().contains("without a parent"), "{error}");
    assert!(draft.finish(meta(4)).is_err());
}
