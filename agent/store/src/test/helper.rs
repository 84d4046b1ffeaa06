//! What tests of the store share.

use roost_protocol::{GuestId, PointId, Stamp};

use crate::{Meta, Options, Store};

pub(crate) const GUEST: GuestId = GuestId::from_u128(7);

pub(crate) fn meta(at: u64) -> Meta {
    Meta { started: Stamp(at), finished: Stamp(at), guest_name: "oak".into(), ..Meta::default() }
}

/// Small packs and no threads: many files from little data, and the same order every time.
pub(crate) fn options() -> Options {
    Options { threads: 0, pack_bytes: 64 << 10, hook_bytes: 64 << 10, ..Options::default() }
}

/// A point with this as its disk `vda`, all of it read.
pub(crate) fn write(store: &Store, parent: Option<PointId>, image: &[u8], at: u64) -> PointId {
    let mut draft = store.draft(GUEST, parent).unwrap();
    let mut writer = draft.disk("vda", image.len() as u64).unwrap();
    writer.write(0, image).unwrap();
    writer.close().unwrap();
    draft.file("domain.xml", format!("<domain at='{at}'/>").as_bytes()).unwrap();
    draft.finish(meta(at)).unwrap()
}

/// The whole disk as its bytes.
pub(crate) fn content(store: &Store, point: PointId, disk: &str) -> Vec<u8> {
    let reader = store.disk(point, disk).unwrap();
    let mut bytes = vec![0xaa; usize::try_from(reader.size()).unwrap()];
    reader.read_at(0, &mut bytes).unwrap();
    bytes
}

/// Bytes that look random, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length.div_ceil(8)).flat_map(|_| next()).take(length).collect()
}
