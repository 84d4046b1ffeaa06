//! What all threads of a store share, and the lanes in which packs are written.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::id::Kind;
use crate::index::{Hooks, Index};
use crate::seal::{KeyPrint, PackKey};

/// Which pack a chunk goes to: nodes stand apart from data, so that walking a disk's map reads little and in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Data,
    Nodes,
    /// The same for chunks that a collection moves.
    MovedData,
    MovedNodes,
}

impl Lane {
    pub(crate) const ALL: [Lane; 4] = [Self::Data, Self::Nodes, Self::MovedData, Self::MovedNodes];

    pub(crate) fn of(kind: Kind) -> Self {
        match kind {
            Kind::Data => Self::Data,
            Kind::Leaf | Kind::Inner | Kind::Blob => Self::Nodes,
        }
    }

    pub(crate) fn moved(kind: Kind) -> Self {
        match Self::of(kind) {
            Self::Data | Self::MovedData => Self::MovedData,
            Self::Nodes | Self::MovedNodes => Self::MovedNodes,
        }
    }

    pub(crate) const fn at(self) -> usize {
        match self {
            Self::Data => 0,
            Self::Nodes => 1,
            Self::MovedData => 2,
            Self::MovedNodes => 3,
        }
    }
}

/// What is known of a pack.
#[derive(Debug)]
pub(crate) struct PackState {
    pub(crate) print: KeyPrint,
    /// Absent: it was not given.
    pub(crate) key: Option<Arc<PackKey>>,
    /// Where its last frame ends.
    pub(crate) end: u64,
    /// The tick at which a draft last relied on something in it.
    pub(crate) touched: u64,
    /// Still being written.
    pub(crate) open: bool,
}

/// A frame that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) prefix: u64,
    pub(crate) why: String,
}

/// What all threads share; held for moments.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) index: Index,
    pub(crate) hooks: Hooks,
    pub(crate) packs: BTreeMap<u32, PackState>,
    /// Highest number of a pack so far.
    pub(crate) highest: u32,
    /// Counts beginnings of drafts and collections: "before" and "after" without a clock.
    pub(crate) tick: u64,
    /// Rises when the disk loses something that was written.
    pub(crate) poison: u64,
    /// When each running draft or intake began.
    pub(crate) sessions: BTreeMap<u64, u64>,
    /// Frames found damaged, by pack and offset. The index no longer has them, so that their content is stored anew when it
    /// comes again, which heals the points that need it.
    pub(crate) damaged: BTreeMap<(u32, u64), Fault>,
}

impl State {
    pub(crate) fn new(hook_bytes: usize) -> Self {
        Self {
            index: Index::default(),
            hooks: Hooks::new(hook_bytes),
            packs: BTreeMap::new(),
            highest: 0,
            tick: 0,
            poison: 0,
            sessions: BTreeMap::new(),
            damaged: BTreeMap::new(),
        }
    }

    pub(crate) fn next_tick(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }

    /// From now on collections leave alone what this session relies on.
    pub(crate) fn begin_session(&mut self) -> u64 {
        let session = self.next_tick();
        self.sessions.insert(session, session);
        session
    }
}
