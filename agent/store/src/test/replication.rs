//! Two stores exchange points; one of them may lie.

use std::sync::Arc;

use roost_protocol::PointId;

use super::helper::{GUEST, content, meta, noise, options, write};
use crate::node::Inner;
use crate::{
    Adopted, BLOCK, Budget, ChunkId, DiskReader, Encryption, Intake, Manifest, Options, Partial, Refusal, Store,
    StoreError,
};

fn store(options: Options) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options).unwrap();
    (dir, store)
}

/// Takes a point over, as the agents do it. Tells how many rounds and chunks it took.
fn replicate(from: &Store, intake: &mut Intake, point: PointId) -> (usize, usize) {
    let hold = from.hold(point).unwrap();
    let (mut rounds, mut chunks) = (0, 0);
    loop {
        match intake.adopt_point(hold.manifest()).unwrap() {
            Adopted::Point(adopted) => {
                assert_eq!(adopted, point);
                return (rounds, chunks);
            }
            Adopted::Missing(ids) => {
                assert_eq!(intake.wants(&ids).unwrap(), ids);
                for id in &ids {
                    intake.adopt(*id, &from.raw(*id).unwrap()).unwrap();
                }
                rounds += 1;
                chunks += ids.len();
            }
        }
    }
}

fn image() -> Vec<u8> {
    let mut image = vec![0; 3000 * BLOCK];
    image[..1100 * BLOCK].copy_from_slice(&noise(1, 1100 * BLOCK));
    image[2500 * BLOCK..2600 * BLOCK].copy_from_slice(&noise(2, 100 * BLOCK));
    image
}

#[test]
fn a_point_travels_and_only_what_is_lacking() {
    let ((_a, here), (_b, there)) = (store(options()), store(options()));
    let mut image = image();
    let first = write(&here, None, &image, 1);
    let (rounds, chunks) = replicate(&here, &mut there.intake().unwrap(), first);
    assert!(rounds <= 3 && chunks > 30, "{rounds} rounds, {chunks} chunks");
    assert_eq!(content(&there, first, "vda"), image);
    assert_eq!(there.manifest(first).unwrap(), here.manifest(first).unwrap());

    image[5 * BLOCK..6 * BLOCK].copy_from_slice(&noise(3, BLOCK));
    let second = write(&here, Some(first), &image, 2);
    let (_, chunks) = replicate(&here, &mut there.intake().unwrap(), second);
    assert_eq!(chunks, 4, "one chunk of blocks, leaf, inner node, file");
    assert_eq!(content(&there, second, "vda"), image);
    assert_eq!(replicate(&here, &mut there.intake().unwrap(), second), (0, 0));
}

/// Reads as the agents do: what is lacking is lent first. Tells how many chunks were.
fn read_lent(from: &Store, reader: &DiskReader, offset: usize, length: usize) -> (Vec<u8>, usize) {
    let (offset, mut buffer) = (offset as u64, vec![0; length]);
    let lacking = reader.lacks(offset, length as u64).unwrap();
    for id in &lacking {
        reader.lend(*id, &from.raw(*id).unwrap()).unwrap();
    }
    reader.read_at(offset, &mut buffer).unwrap();
    (buffer, lacking.len())
}

/// The point with its maps, as the agents bring them.
fn maps(from: &Store, to: &Store, point: PointId) -> Arc<Partial> {
    let (manifest, mut intake) = (from.manifest(point).unwrap(), to.intake().unwrap());
    loop {
        let missing = intake.missing_maps(&manifest).unwrap();
        if missing.is_empty() {
            return Arc::new(intake.partial(Manifest::clone(&manifest)));
        }
        for id in missing {
            intake.adopt(id, &from.raw(id).unwrap()).unwrap();
        }
    }
}

#[test]
fn a_point_is_read_before_its_data_is_here_and_none_of_it_is_written() {
    let ((_a, here), (_b, there)) = (store(options()), store(options()));
    let image = image();
    let point = write(&here, None, &image, 1);
    let partial = maps(&here, &there, point);
    let (chunks, stored) = (there.usage().chunks, there.usage().stored_bytes);
    assert!(chunks <= 6, "{chunks} chunks: three leaves, one inner node, small files");
    let reader = partial.disk("vda").unwrap();
    assert_eq!(reader.data_ranges().unwrap(), here.disk(point, "vda").unwrap().data_ranges().unwrap());
    let missing = reader.read_at(0, &mut [0; 10]);
    assert!(matches!(missing, Err(StoreError::Missing(_))), "{missing:?}");
    assert_eq!(read_lent(&here, &reader, 7, BLOCK), (image[7..7 + BLOCK].to_vec(), 1));
    assert_eq!(reader.lacks(7, 1).unwrap(), [], "it is at hand");
    assert_eq!(read_lent(&here, &reader, 2_000 * BLOCK, BLOCK), (vec![0; BLOCK], 0), "zeros travel never");
    let (whole, _) = read_lent(&here, &reader, 0, 1_024 * BLOCK);
    assert_eq!(whole, image[..1_024 * BLOCK]);
    let end = image.len() - 1_000 * BLOCK;
    assert_eq!(read_lent(&here, &reader, end, 1_000 * BLOCK).0, image[end..]);
    assert_eq!((there.usage().chunks, there.usage().stored_bytes), (chunks, stored));
    assert!(there.points().is_empty());
    assert_eq!(partial.file("domain.xml").unwrap(), here.file(point, "domain.xml").unwrap());
}

#[test]
fn what_is_here_already_is_not_lent_and_maps_outlive_collections() {
    let ((_a, here), (_b, there)) = (store(options()), store(options()));
    let mut image = image();
    let old = write(&there, None, &image, 1);
    image[5 * BLOCK..6 * BLOCK].copy_from_slice(&noise(3, BLOCK));
    let point = write(&here, None, &image, 2);
    let partial = maps(&here, &there, point);
    let reader = partial.disk("vda").unwrap();
    assert!(reader.lacks(0, image.len() as u64).unwrap().len() < 40, "the rest has the same names here");
    assert_eq!(read_lent(&here, &reader, 2_500 * BLOCK, 100 * BLOCK).1, 0);
    there.remove(old).unwrap();
    for _ in 0..3 {
        assert!(there.collect(Budget::ALL).unwrap().done);
    }
    drop(partial);
    let mut read = Vec::new();
    for offset in (0..image.len()).step_by(64 * BLOCK) {
        read.extend(read_lent(&here, &reader, offset, (64 * BLOCK).min(image.len() - offset)).0);
    }
    assert_eq!(read, image);
}

#[test]
fn a_lent_chunk_that_is_another_is_a_lie() {
    let ((_a, here), (_b, there)) = (store(options()), store(options()));
    let point = write(&here, None, &image(), 1);
    let reader = maps(&here, &there, point).disk("vda").unwrap();
    let lacking = reader.lacks(0, (200 * BLOCK) as u64).unwrap();
    let other = here.raw(lacking[1]).unwrap();
    let mut torn = here.raw(lacking[0]).unwrap();
    let last = torn.len() - 1;
    torn[last] ^= 1;
    for bytes in [other, torn, Vec::new()] {
        let told = reader.lend(lacking[0], &bytes);
        assert!(matches!(told, Err(StoreError::Lie(_))), "{told:?}");
    }
    let told = reader.read_at(0, &mut [0; 1]);
    assert!(matches!(told, Err(StoreError::Missing(id)) if id == lacking[0]), "{told:?}");
}

#[test]
fn an_intake_that_broke_off_goes_on_where_it_was() {
    let ((_a, here), (dir, there)) = (store(options()), store(options()));
    let point = write(&here, None, &image(), 1);
    let manifest = here.manifest(point).unwrap();
    let mut intake = there.intake().unwrap();
    let mut adopted = 0;
    while adopted < 10 {
        let missing = intake.missing(&manifest).unwrap();
        for id in missing.iter().take(6) {
            intake.adopt(*id, &here.raw(*id).unwrap()).unwrap();
            adopted += 1;
        }
    }
    assert!(there.points().is_empty());
    drop(intake);
    drop(there);
    let there = Store::open(dir.path(), options()).unwrap();
    let all = here.usage().chunks;
    let (_, chunks) = replicate(&here, &mut there.intake().unwrap(), point);
    assert_eq!(chunks, all - adopted);
    assert_eq!(content(&there, point, "vda"), image());
}

#[test]
fn a_collection_leaves_alone_what_an_intake_has_or_found() {
    let ((_a, here), (_b, there)) = (store(options()), store(options()));
    let old = write(&there, None, &image(), 1);
    let point = write(&here, None, &image(), 1);
    let manifest = here.manifest(point).unwrap();
    let mut intake = there.intake().unwrap();
    // It relies on chunks of a point that is removed now.
    let ids = intake.missing(&manifest).unwrap();
    there.remove(old).unwrap();
    for id in ids {
        intake.adopt(id, &here.raw(id).unwrap()).unwrap();
    }
    let missing = intake.missing(&manifest).unwrap();
    for _ in 0..3 {
        assert!(there.collect(Budget::ALL).unwrap().done);
    }
    for id in missing {
        intake.adopt(id, &here.raw(id).unwrap()).unwrap();
    }
    replicate(&here, &mut intake, point);
    assert_eq!(content(&there, point, "vda"), image());
}

#[test]
fn what_a_peer_still_has_heals_a_damaged_point() {
    let ((_a, here), (dir, there)) = (store(options()), store(options()));
    let point = write(&here, None, &image(), 1);
    replicate(&here, &mut there.intake().unwrap(), point);
    there.set_pinned(point, true).unwrap();
    drop(there);
    for name in ["packs/00000001.pack", "packs/00000002.pack", "packs/00000003.pack"] {
        let mut bytes = std::fs::read(dir.path().join(name)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    let there = Store::open(dir.path(), options()).unwrap();
    let all = &mut |_| std::ops::ControlFlow::Continue(());
    // Under a damaged node nothing can be verified, so healing may take a second round.
    let mut rounds = 0;
    while !there.verify(crate::Scope::All, all).unwrap().is_empty() {
        let (_, chunks) = replicate(&here, &mut there.intake().unwrap(), point);
        assert!((1..=3).contains(&chunks), "{chunks}");
        rounds += 1;
    }
    assert!((1..=2).contains(&rounds), "{rounds}");
    assert_eq!(content(&there, point, "vda"), image());
    assert!(there.points()[0].pinned, "its own notes stay");
}

fn lie(result: Result<impl std::fmt::Debug, StoreError>, what: &str) {
    match result {
        Err(StoreError::Lie(why)) => assert!(why.contains(what), "{why}"),
        other => panic!("{what}: {other:?}"),
    }
}

#[test]
fn a_lying_peer_is_named_and_nothing_of_its_lie_is_kept() {
    let ((_a, here), (_b, there)) = (store(options()), store(options()));
    let point = write(&here, None, &image(), 1);
    let manifest = here.manifest(point).unwrap();
    let mut intake = there.intake().unwrap();
    let ids = intake.missing(&manifest).unwrap();
    let bytes = here.raw(ids[0]).unwrap();
    let other = ChunkId::from_bytes([7; 32]);
    lie(intake.adopt(other, &bytes), "came instead");
    lie(intake.adopt(ids[0], &bytes[..bytes.len() - 1]), "no frame");
    lie(intake.adopt(ids[0], &vec![0; 1 << 20]), "more than");
    for at in (0..bytes.len()).filter(|at| !(16..24).contains(at) && !(56..64).contains(at)) {
        let mut changed = bytes.clone();
        changed[at] ^= 0x40;
        assert!(intake.adopt(ids[0], &changed).is_err(), "byte {at}");
    }
    assert_eq!(there.usage().chunks, 0);

    let mut forged = (*manifest).clone();
    forged.point.meta.guest_name = "ash".into();
    lie(intake.missing(&forged), "does not match its id");
    let mut forged = manifest.point.clone();
    forged.disks[0].size_bytes += 1;
    lie(intake.missing(&Manifest::new(forged).unwrap()), "digest of disk");
    let mut forged = manifest.point.clone();
    forged.disks[0].name = "../../etc/passwd".into();
    lie(intake.missing(&Manifest::new(forged).unwrap()), "no name");
}

#[test]
fn a_map_whose_digests_lie_is_refused() {
    let ((_a, here), (_b, there)) = (store(options()), store(options()));
    let point = write(&here, None, &image(), 1);
    // A peer that has our software and changes a digest inside a node, and all above it to match.
    let manifest = here.manifest(point).unwrap();
    let top = manifest.point.disks[0].map.unwrap();
    let mut inner = Inner::from_bytes(&here.chunks().content(&top, crate::id::Kind::Inner).unwrap()).unwrap();
    let child = inner.children[0].as_mut().unwrap();
    child.digest = crate::Digest::from_bytes([9; 32]);
    let mut packer = crate::frame::Packer::new(1).unwrap();
    let packed = packer.whole(&here.chunks().namer, crate::id::Kind::Inner, inner.to_bytes()).unwrap();
    here.chunks().add(&packed).unwrap();
    let namer = &here.chunks().namer;
    let mut forged = manifest.point.clone();
    let digest = inner.digest(namer);
    let entry = crate::node::Entry { id: packed.id, digest };
    forged.disks[0].map = Some(packed.id);
    forged.disks[0].map_digest = digest;
    forged.disks[0].digest = crate::node::disk_digest(namer, forged.disks[0].size_bytes, Some(&entry));
    let forged = Manifest::new(forged).unwrap();
    let mut intake = there.intake().unwrap();
    let refused = loop {
        match intake.missing(&forged) {
            Ok(ids) => ids.iter().for_each(|id| intake.adopt(*id, &here.raw(*id).unwrap()).unwrap()),
            Err(error) => break error,
        }
    };
    lie(Err::<(), _>(refused), "another digest than its parent says");
    assert!(there.points().is_empty());
}

fn encrypted(current: u8, older: &[u8]) -> Options {
    let older = older.iter().map(|byte| [*byte; 32]).collect();
    Options { encryption: Some(Encryption { domain: [1; 32], current: [current; 32], older }), ..options() }
}

#[test]
fn points_travel_between_stores_with_different_data_keys_but_not_to_a_plain_one() {
    let ((_a, here), (_b, there), (_c, plain)) = (store(encrypted(2, &[])), store(encrypted(3, &[])), store(options()));
    let point = write(&here, None, &image(), 1);
    replicate(&here, &mut there.intake().unwrap(), point);
    assert_eq!(content(&there, point, "vda"), image());
    let refused = plain.intake().unwrap().missing(&here.manifest(point).unwrap()).unwrap_err();
    assert!(matches!(refused, StoreError::Refused(Refusal::OtherDomain)), "{refused:?}");
}

/// All files of a store.
fn files(dir: &std::path::Path) -> Vec<Vec<u8>> {
    let all = ["", "packs", "points"].into_iter().flat_map(|folder| std::fs::read_dir(dir.join(folder)).unwrap());
    all.map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| std::fs::read(path).unwrap())
        .collect()
}

#[test]
fn an_encrypted_store_shows_neither_content_nor_its_names_and_opens_with_its_keys_only() {
    let (dir, store) = store(encrypted(2, &[]));
    let mut draft = store.draft(GUEST, None).unwrap();
    let mut writer = draft.disk("vda", 8 * BLOCK as u64).unwrap();
    let secret = b"the recipe of the house ".repeat(BLOCK / 24 + 1)[..BLOCK].to_vec();
    writer.write(0, &secret).unwrap();
    writer.write(2 * BLOCK as u64, &noise(1, BLOCK)).unwrap();
    writer.close().unwrap();
    draft.file("nvram", b"boot from the secret disk").unwrap();
    draft.finish(meta(1)).unwrap();
    drop(store);
    let has =
        |needle: &[u8]| files(dir.path()).iter().any(|file| file.windows(needle.len()).any(|window| window == needle));
    assert!(!has(&secret[..24]) && !has(&noise(1, 32)) && !has(b"secret disk"));
    assert!(!has(&blake3::hash(&noise(1, BLOCK)).as_bytes()[..24]) && !has(&blake3::hash(&secret).as_bytes()[..24]));
    let other = Encryption { domain: [8; 32], current: [2; 32], older: vec![] };
    let wrong = Store::open(dir.path(), Options { encryption: Some(other), ..options() });
    assert!(matches!(wrong, Err(StoreError::NotAStore { .. })), "{wrong:?}");
    assert!(matches!(Store::open(dir.path(), options()), Err(StoreError::NotAStore { .. })));
    let store = Store::open(dir.path(), encrypted(5, &[])).unwrap();
    let point = store.points()[0].point;
    let error = store.file(point, "nvram").unwrap_err();
    assert!(matches!(error, StoreError::NoKey { .. }), "{error:?}");
    assert!(store.collect(Budget::ALL).unwrap().blocked.is_some(), "what can't be read can't be collected");
}

#[test]
fn a_rotated_key_is_needed_no_more_once_all_was_rewritten() {
    let (dir, store) = store(encrypted(2, &[]));
    let first = write(&store, None, &image(), 1);
    drop(store);
    let store = Store::open(dir.path(), encrypted(3, &[2])).unwrap();
    let mut changed = image();
    changed[7 * BLOCK..8 * BLOCK].copy_from_slice(&noise(9, BLOCK));
    let second = write(&store, Some(first), &changed, 2);
    assert!(store.collect(Budget::ALL).unwrap().done);
    assert_eq!(content(&store, first, "vda"), image());
    drop(store);
    let store = Store::open(dir.path(), encrypted(3, &[])).unwrap();
    assert_eq!(content(&store, first, "vda"), image());
    assert_eq!(content(&store, second, "vda"), changed);
}
