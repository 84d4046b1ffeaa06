//! The store against plain bytes: random lives of drafts, removals, collections and restarts.

use std::ops::ControlFlow;

use proptest::prelude::*;
use roost_protocol::PointId;

use super::helper::{GUEST, content, meta, noise};
use crate::{BLOCK, Budget, Encryption, Options, Scope, Store};

/// One step of a life. Numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum Step {
    /// A point of this parent (by age; absent: none) with these writes and this size.
    Draft {
        parent: Option<usize>,
        size: usize,
        writes: Vec<Write>,
    },
    Abandon {
        parent: Option<usize>,
        writes: Vec<Write>,
    },
    Remove(usize),
    Pin(usize),
    Collect {
        bytes: u64,
    },
    Reopen,
    Verify,
}

#[derive(Clone, Debug)]
enum Write {
    /// Blocks from here of new bytes.
    New {
        at: usize,
        blocks: usize,
        seed: u64,
    },
    /// What another part of the disk has.
    Copy {
        from: usize,
        at: usize,
        blocks: usize,
    },
    /// What is there already.
    Same {
        at: usize,
        blocks: usize,
    },
    Zero {
        at: usize,
        blocks: usize,
    },
}

/// Blocks of the largest disk: three leaves.
const MOST: usize = 2400;

fn writes() -> impl Strategy<Value = Vec<Write>> {
    let (at, blocks) = (0..MOST, 1..90usize);
    let write = prop_oneof![
        4 => (at.clone(), blocks.clone(), 0..20u64).prop_map(|(at, blocks, seed)| Write::New { at, blocks, seed }),
        2 => (at.clone(), at.clone(), blocks.clone()).prop_map(|(from, at, blocks)| Write::Copy { from, at, blocks }),
        2 => (at.clone(), blocks.clone()).prop_map(|(at, blocks)| Write::Same { at, blocks }),
        1 => (at, 1..1500usize).prop_map(|(at, blocks)| Write::Zero { at, blocks }),
    ];
    prop::collection::vec(write, 0..12)
}

/// Sizes in bytes, some of them not whole blocks.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![Just(MOST * BLOCK), (0..MOST).prop_map(|blocks| blocks * BLOCK), 0..MOST * BLOCK]
}

fn step() -> impl Strategy<Value = Step> {
    let parent = prop::option::weighted(0.8, 0..4usize);
    prop_oneof![
        6 => (parent.clone(), size(), writes()).prop_map(|(parent, size, writes)| Step::Draft { parent, size, writes }),
        1 => (parent, writes()).prop_map(|(parent, writes)| Step::Abandon { parent, writes }),
        2 => (0..4usize).prop_map(Step::Remove),
        1 => (0..4usize).prop_map(Step::Pin),
        2 => prop_oneof![Just(0), Just(1), Just(u64::MAX)].prop_map(|bytes| Step::Collect { bytes }),
        1 => Just(Step::Reopen),
        1 => Just(Step::Verify),
    ]
}

/// A point as it should be.
#[derive(Clone, Debug)]
struct Right {
    point: PointId,
    image: Vec<u8>,
    pinned: bool,
}

struct Life {
    dir: tempfile::TempDir,
    options: Options,
    store: Option<Store>,
    points: Vec<Right>,
    now: u64,
}

impl Life {
    fn new(options: Options) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Some(Store::open(dir.path(), options.clone()).unwrap());
        Self { dir, options, store, points: Vec::new(), now: 0 }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn pick(&self, number: usize) -> Option<usize> {
        (!self.points.is_empty()).then(|| self.points.len() - 1 - number % self.points.len())
    }

    fn step(&mut self, step: &Step) {
        self.now += 1;
        match step {
            Step::Draft { parent, size, writes } => self.draft(*parent, Some(*size), writes),
            Step::Abandon { parent, writes } => self.draft(*parent, None, writes),
            Step::Remove(number) => {
                if let Some(at) = self.pick(*number) {
                    let gone = self.points.remove(at);
                    self.store().remove(gone.point).unwrap();
                }
            }
            Step::Pin(number) => {
                if let Some(at) = self.pick(*number) {
                    self.points[at].pinned ^= true;
                    self.store().set_pinned(self.points[at].point, self.points[at].pinned).unwrap();
                }
            }
            Step::Collect { bytes } => {
                let collected = self.store().collect(Budget { bytes: *bytes, ..Budget::ALL }).unwrap();
                assert_eq!(collected.blocked, None);
            }
            Step::Reopen => {
                self.store = None;
                self.store = Some(Store::open(self.dir.path(), self.options.clone()).unwrap());
            }
            Step::Verify => {
                assert_eq!(self.store().verify(Scope::All, &mut |_| ControlFlow::Continue(())).unwrap(), []);
            }
        }
    }

    fn draft(&mut self, parent: Option<usize>, size: Option<usize>, writes: &[Write]) {
        let parent = parent.and_then(|number| self.pick(number)).map(|at| self.points[at].clone());
        let size_bytes = size.unwrap_or(MOST * BLOCK);
        let mut image = parent.as_ref().map_or_else(Vec::new, |right| right.image.clone());
        image.resize(size_bytes, 0);
        let mut draft = self.store().draft(GUEST, parent.map(|right| right.point)).unwrap();
        let mut writer = draft.disk("vda", size_bytes as u64).unwrap();
        for one in writes {
            let (at, bytes) = bytes_of(one, &image);
            let bytes = &bytes[..bytes.len().min(size_bytes.saturating_sub(at))];
            if bytes.is_empty() {
                continue;
            }
            image[at..at + bytes.len()].copy_from_slice(bytes);
            if matches!(one, Write::Zero { .. }) {
                writer.zero(at as u64..(at + bytes.len()) as u64).unwrap();
            } else {
                writer.write(at as u64, bytes).unwrap();
            }
        }
        writer.close().unwrap();
        if size.is_some() {
            let point = draft.finish(meta(self.now)).unwrap();
            self.points.push(Right { point, image, pinned: false });
        }
    }

    fn check(&self) {
        assert_eq!(self.store().points().len(), self.points.len());
        for right in &self.points {
            assert!(content(self.store(), right.point, "vda") == right.image, "{}", right.point);
            assert_eq!(self.store().manifest(right.point).unwrap().notes.pinned, right.pinned);
            let digest = self.store().manifest(right.point).unwrap().disk("vda").unwrap().digest;
            assert_eq!(
                digest,
                plain_digest(&right.image, self.options.encryption.as_ref()),
                "the digest is of the content"
            );
        }
        assert_eq!(self.store().verify(Scope::All, &mut |_| ControlFlow::Continue(())).unwrap(), []);
    }
}

fn bytes_of(write: &Write, image: &[u8]) -> (usize, Vec<u8>) {
    let part = |at: usize, blocks: usize| {
        let mut bytes = image.get(at * BLOCK..).map_or_else(Vec::new, <[u8]>::to_vec);
        bytes.resize(blocks * BLOCK, 0);
        bytes
    };
    match write {
        Write::New { at, blocks, seed } => (at * BLOCK, noise(*seed, blocks * BLOCK)),
        Write::Copy { from, at, blocks } => (at * BLOCK, part(*from, *blocks)),
        Write::Same { at, blocks } => (at * BLOCK, part(*at, *blocks)),
        Write::Zero { at, blocks } => (at * BLOCK, vec![0; blocks * BLOCK]),
    }
}

/// The digest as agent/store/README.md tells to make it, from nothing but the content.
fn plain_digest(image: &[u8], encryption: Option<&Encryption>) -> crate::Digest {
    let key = encryption.map(|all| blake3::derive_key("roost store 1 content names", &all.domain));
    let hash = |bytes: &[u8]| key.map_or_else(|| blake3::hash(bytes), |key| blake3::keyed_hash(&key, bytes));
    let leaf = |part: &[u8]| {
        let mut all = vec![0; 1024 * 24];
        for (block, place) in part.chunks(BLOCK).zip(all.chunks_mut(24)) {
            let mut whole = block.to_vec();
            whole.resize(BLOCK, 0);
            if whole.iter().any(|byte| *byte != 0) {
                place.copy_from_slice(&hash(&whole).as_bytes()[..24]);
            }
        }
        if all.iter().all(|byte| *byte == 0) { [0; 32] } else { *hash(&all).as_bytes() }
    };
    let mut level: Vec<[u8; 32]> = image.chunks(1024 * BLOCK).map(leaf).collect();
    while level.len() > 1 {
        let up = |children: &[[u8; 32]]| {
            let mut all = children.concat();
            all.resize(64 * 32, 0);
            if all.iter().all(|byte| *byte == 0) { [0; 32] } else { *hash(&all).as_bytes() }
        };
        level = level.chunks(64).map(up).collect();
    }
    let mut all = (image.len() as u64).to_le_bytes().to_vec();
    all.extend(level.first().copied().unwrap_or([0; 32]));
    crate::Digest::from_bytes(*hash(&all).as_bytes())
}

fn small() -> Options {
    Options { threads: 0, pack_bytes: 200 << 10, hook_bytes: 16 << 10, cache_bytes: 1 << 20, ..Options::default() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn any_life_of_a_store_is_that_of_plain_bytes(steps in prop::collection::vec(step(), 1..16), mode in 0..3) {
        let encryption = Some(Encryption { domain: [3; 32], current: [4; 32], older: vec![] });
        let options = match mode {
            0 => small(),
            1 => Options { threads: 2, ..small() },
            _ => Options { encryption, ..small() },
        };
        let mut life = Life::new(options);
        for step in &steps {
            life.step(step);
        }
        life.check();
        life.step(&Step::Collect { bytes: u64::MAX });
        life.step(&Step::Reopen);
        life.check();
    }
}

#[test]
fn a_point_without_change_costs_nothing_and_500_of_them_leave_no_trace() {
    let mut life = Life::new(small());
    life.step(&Step::Draft {
        parent: None,
        size: MOST * BLOCK,
        writes: vec![Write::New { at: 0, blocks: 900, seed: 1 }],
    });
    let chunks = life.store().usage().chunks;
    let bytes = life.store().usage().stored_bytes;
    for _ in 0..500 {
        let same = Write::Same { at: 0, blocks: 20 };
        life.step(&Step::Draft { parent: Some(0), size: MOST * BLOCK, writes: vec![same] });
        life.step(&Step::Remove(1));
    }
    assert_eq!((life.store().usage().chunks, life.store().usage().stored_bytes), (chunks, bytes));
    life.check();
}

#[test]
fn a_leaf_written_block_by_block_for_a_year_refers_to_few_chunks() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Options { pack_bytes: 32 << 20, ..small() }).unwrap();
    let mut image = noise(1, 1024 * BLOCK);
    let mut parent = super::helper::write(&store, None, &image, 0);
    for day in 1..365 {
        let mut draft = store.draft(GUEST, Some(parent)).unwrap();
        let mut writer = draft.disk("vda", image.len() as u64).unwrap();
        let at = (day * 37 % 1024) * BLOCK;
        image[at..at + BLOCK].copy_from_slice(&noise(day as u64 + 10, BLOCK));
        writer.write(at as u64, &image[at..at + BLOCK]).unwrap();
        writer.close().unwrap();
        let point = draft.finish(meta(day as u64)).unwrap();
        store.remove(parent).unwrap();
        parent = point;
    }
    drop(store);
    let store = Store::open(dir.path(), Options { waste_percent: 1, ..small() }).unwrap();
    assert!(store.collect(Budget::ALL).unwrap().done);
    assert_eq!(content(&store, parent, "vda"), image);
    let usage = store.usage();
    assert!(usage.chunks <= 100, "{usage:?}");
    assert!(usage.stored_bytes < 14 << 20, "{usage:?}");
}
