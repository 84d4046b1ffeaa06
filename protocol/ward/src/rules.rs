//! The rules that keep a guest from running twice, by name. A program keeps all of them; tests leave one out at a time
//! and must notice.

/// A rule of the protocol. What breaks without it stands in the model's tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// A voter votes for another only after its promise to the owner has run out.
    WaitForPromise,
    /// A voter that started promises at once, since it can't know what it promised before.
    PromiseAtStart,
    /// A lease counts from when its renewal was sent, not from when the grant came.
    LeaseFromSend,
    /// More than half of a council decides; not one voice, such as the aggregator's.
    Majority,
    /// Guests are paused when the lease ends.
    PauseAtEnd,
    /// The watchdog is petted only while the lease holds or no guest may be executing.
    PetWithLease,
    /// A proof that a host was fenced counts for the epoch it names only.
    ProofNamesEpoch,
    /// A changed council is in force only once the old one agreed too.
    OldCouncilAgrees,
    /// While a change is open, a candidate needs the votes of both councils.
    BothCouncilsVote,
    /// While a change is open, an owner needs the leases of both councils.
    BothCouncilsLease,
    /// A voter refuses a candidate that doesn't know the newest council.
    KnowsNewestCouncil,
    /// An elected owner lays the council down under its own epoch before it acts on it.
    RestampCouncil,
    /// A voter that ran a later epoch refuses an older owner.
    OlderIsRefused,
    /// An owner whose ward went to another host lets its guests go.
    StepDown,
    /// A home without the newest copy does not stand.
    FreshReplica,
    /// A candidate asks before it votes for itself, so that an isolated host doesn't run ahead.
    AskFirst,
    /// An answer to an older command says nothing about the guests now.
    OrdersAreCounted,
    /// What is kept across a restart of the guard is renewed, not taken for a lease.
    KeptLeaseEnds,
}

/// Which rules are kept: all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    unsafe_timers: bool,
    /// One bit for each rule left out.
    #[cfg(feature = "mutants")]
    broken: u32,
}

impl Rules {
    /// All of them.
    pub const ALL: Self = Self {
        unsafe_timers: false,
        #[cfg(feature = "mutants")]
        broken: 0,
    };

    /// All rules, and whatever timers somebody chose: `--unsafe-timers`, or a checker with timers of its own.
    #[must_use]
    pub const fn with_unsafe_timers(mut self) -> Self {
        self.unsafe_timers = true;
        self
    }

    pub(crate) const fn checks_timers(self) -> bool {
        !self.unsafe_timers
    }

    /// Without this one too.
    #[cfg(feature = "mutants")]
    #[must_use]
    pub const fn without(mut self, rule: Rule) -> Self {
        self.broken |= 1 << rule as u32;
        self
    }

    #[cfg(feature = "mutants")]
    pub(crate) fn keep(self, rule: Rule) -> bool {
        self.broken & (1 << rule as u32) == 0
    }

    #[cfg(not(feature = "mutants"))]
    pub(crate) const fn keep(self, _rule: Rule) -> bool {
        true
    }
}
