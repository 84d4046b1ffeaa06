//! One machine: its clock, its vote store, the guard's state machine, its guest and its watchdog.

use roost_protocol::{HostId, Time};
use roost_ward::{Ballot, Kept, MemberId, Order, Ward, WardId, Wards};

use super::guest::Command;

pub(crate) const WARD: WardId = WardId(1);

/// What goes wrong on a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ills {
    /// The guard neither hears nor wakes, while its guest goes on.
    pub(crate) frozen: bool,
    /// Pausing does nothing.
    pub(crate) pause_stuck: bool,
    /// Killing does nothing.
    pub(crate) kill_stuck: bool,
}

/// No clock is wronger than this.
const PPM_MOST: i64 = 1_000_000;

#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) member: MemberId,
    /// It may own the ward.
    pub(crate) home: bool,
    /// The guard's program; none while it or the machine is down.
    pub(crate) wards: Option<Wards>,
    /// The power is on.
    pub(crate) up: bool,
    /// Rises at every end of the guard: what was meant for the one before is void.
    pub(crate) life: u32,
    /// Rises at every loss of power.
    pub(crate) boots: u32,
    pub(crate) disk: Ballot,
    pub(crate) kept: Option<Kept>,
    /// Parts in a million that its clock runs fast.
    pub(crate) ppm: i64,
    /// What its clock shows at the world's start.
    pub(crate) offset: u64,
    pub(crate) booted: Time,
    pub(crate) ills: Ills,
    pub(crate) guest: Guest,
    /// When the hardware resets it (world's time), if nobody pets before.
    pub(crate) reset_at: Option<u64>,
    /// When it will be woken (world's time), and the number of that alarm.
    pub(crate) wake_at: u64,
    pub(crate) wake_number: u64,
    pub(crate) watch_at: u64,
}

/// The truth about a guest on one host.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Guest {
    /// Its process is there, executing or not.
    pub(crate) loaded: bool,
    pub(crate) executes: bool,
    /// The newest command; older ones that are still under way are dropped.
    pub(crate) order: Order,
    /// What it was told and could not do.
    pub(crate) waits: Option<(Order, Command)>,
}

impl Machine {
    pub(crate) fn new(number: usize, home: bool, ballot: Ballot) -> Self {
        let id = 1 + u128::try_from(number).unwrap_or(0);
        Self {
            member: MemberId::first(HostId::from_u128(id)),
            home,
            wards: None,
            up: false,
            life: 0,
            boots: 0,
            disk: ballot,
            kept: None,
            ppm: 0,
            offset: 0,
            booted: Time(0),
            ills: Ills::default(),
            guest: Guest::default(),
            reset_at: None,
            wake_at: u64::MAX,
            wake_number: 0,
            watch_at: u64::MAX,
        }
    }

    /// What its clock shows.
    pub(crate) fn clock(&self, world: u64) -> Time {
        Time(self.offset + Self::stretched(world, self.ppm))
    }

    fn stretched(span: u64, ppm: i64) -> u64 {
        // A world of years times the fastest clock stays within i64.
        let drift = i64::try_from(span).unwrap_or(i64::MAX / PPM_MOST) * ppm / 1_000_000;
        span.saturating_add_signed(drift)
    }

    /// The first moment of the world at which its clock shows this.
    pub(crate) fn moment(&self, shown: Time) -> u64 {
        let local = shown.0.saturating_sub(self.offset);
        let mut world = Self::stretched(local, -self.ppm).saturating_sub(2);
        while self.clock(world) < shown {
            // Rounding is off by some ms after days; steps stay few.
            world += 1 + (shown.0 - self.clock(world).0) / 2;
        }
        world
    }

    pub(crate) fn ward(&self) -> Option<&Ward> {
        self.wards.as_ref().and_then(|wards| wards.get(WARD))
    }

    pub(crate) fn hears(&self) -> bool {
        self.wards.is_some() && !self.ills.frozen
    }
}
