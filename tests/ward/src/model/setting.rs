//! What a run of the model looks at: who takes part, which timers, what may go wrong and how often.

use roost_protocol::{HostId, Millis};
use roost_ward::{Change, Council, Fence, MemberId, Policy, Profile, Rules, Timers, Version};

/// One run.
#[derive(Clone, Debug)]
pub struct Setting {
    pub name: &'static str,
    /// Machines 0 .. hosts may own the ward.
    pub hosts: usize,
    /// Machines 0 .. voters vote on it; more exist only for changes of the council.
    pub voters: usize,
    pub machines: usize,
    /// In ticks.
    pub lease: u64,
    pub watchdog: u64,
    pub promise: u64,
    /// States beyond this epoch aren't looked at.
    pub max_epoch: u64,
    /// Messages under way at once; of more, any are lost.
    pub max_messages: usize,
    pub budget: Budget,
    /// A delivered message may come again.
    pub doubled: bool,
    pub rules: Rules,
    /// What is wrong beside the machines, on purpose.
    pub edge: Edge,
    /// Members after each change, in the order they may be proposed.
    pub changes: Vec<Vec<usize>>,
    /// Only the first host's own disks are good: who was not last may not run.
    pub stale_copies: bool,
    /// One state in so many is checked to heal within `HEALS_WITHIN` ticks; zero: none.
    pub heal_every: u64,
    /// Gives up after so many states.
    pub most_states: usize,
}

/// What may go wrong, and how often in one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    pub crashes: u8,
    pub freezes: u8,
    pub guard_crashes: u8,
    /// Ticks that one machine's clock misses, or counts twice.
    pub skews: u8,
    pub lost_stores: u8,
    pub fences: u8,
    pub releases: u8,
    pub changes: u8,
    /// Machines that speak up although nobody asked: a nomination.
    pub nominations: u8,
}

/// Mistakes of the programs around the state machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Edge {
    /// The hypervisor starts guests at host boot.
    pub autostart: bool,
    /// A voter whose store is lost goes on under its old name.
    pub lost_store_keeps_name: bool,
    /// Nothing resets a host whose program hangs.
    pub no_watchdog: bool,
}

impl Setting {
    /// Two hosts and an aggregator, lease 2, watchdog 1, promise 3.
    pub fn base(name: &'static str, hosts: usize, voters: usize, rules: Rules) -> Self {
        Self {
            name,
            hosts,
            voters,
            machines: voters,
            lease: 2,
            watchdog: 1,
            promise: 3,
            max_epoch: 2,
            max_messages: 4,
            budget: Budget::default(),
            doubled: false,
            rules: rules.with_unsafe_timers(),
            edge: Edge::default(),
            changes: Vec::new(),
            stale_copies: false,
            heal_every: 0,
            most_states: 40_000_000,
        }
    }

    pub(crate) fn timers(&self) -> Timers {
        let tick = Millis(1);
        let fence = Fence { pause: Millis(0), kill: tick, watchdog: Millis(self.watchdog), reset: Millis(0) };
        Timers {
            renew: tick,
            misses: 1,
            lease: Millis(self.lease),
            fence: Some(fence),
            promise: Millis(self.promise),
            retry_min: tick,
            retry_max: tick,
            stagger: Millis(0),
            raise: tick,
            cold: Millis(0),
        }
    }

    pub(crate) fn member(machine: usize) -> MemberId {
        MemberId::first(HostId::from_u128(1 + u128::try_from(machine).unwrap_or(0)))
    }

    pub(crate) fn council(&self) -> Council {
        Council {
            version: Version::default(),
            members: (0..self.voters).map(Self::member).collect(),
            homes: (0..self.hosts).map(Self::member).collect(),
            policy: Policy::Strict,
            profile: Profile::Custom(self.timers()),
        }
    }

    pub(crate) fn change(&self, number: usize) -> Option<Change> {
        let members = self.changes.get(number)?.iter().copied().map(Self::member).collect();
        let homes = (0..self.hosts).map(Self::member).collect();
        Some(Change { members, homes, policy: Policy::Strict, profile: Profile::Custom(self.timers()) })
    }
}
