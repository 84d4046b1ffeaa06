//! The store against plain bytes.

use super::helper::{GUEST, content, meta, noise, options};
use crate::{BLOCK, Store};

#[test]
fn what_was_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options()).unwrap();
    let mut disk = vec![0; 9 << 20];
    disk[BLOCK..5 * BLOCK].copy_from_slice(&noise(1, 4 * BLOCK));
    disk[8 << 20..(8 << 20) + 70 * BLOCK].copy_from_slice(&noise(2, 70 * BLOCK));
    let mut draft = store.draft(GUEST, None).unwrap();
    let mut writer = draft.disk("vda", disk.len() as u64).unwrap();
    writer.write(0, &disk).unwrap();
    writer.close().unwrap();
    draft.file("domain.xml", b"<domain/>").unwrap();
    let point = draft.finish(meta(1)).unwrap();
    assert_eq!(content(&store, point, "vda"), disk);
    assert_eq!(store.file(point, "domain.xml").unwrap(), b"<domain/>");

    disk[3 * BLOCK..4 * BLOCK].copy_from_slice(&noise(3, BLOCK));
    let mut draft = store.draft(GUEST, Some(point)).unwrap();
    let mut writer = draft.disk("vda", disk.len() as u64).unwrap();
    writer.write(2 * BLOCK as u64, &disk[2 * BLOCK..5 * BLOCK]).unwrap();
    writer.close().unwrap();
    let second = draft.finish(meta(2)).unwrap();
    assert_eq!(content(&store, second, "vda"), disk);
    drop(store);
    let store = Store::open(dir.path(), options()).unwrap();
    assert_eq!(content(&store, second, "vda"), disk);
    assert_eq!(store.points().len(), 2);
}
