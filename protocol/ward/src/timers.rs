//! How long everything takes, and the inequalities that make it safe. Free choice is not offered: profiles are tested.

use minicbor::{Decode, Encode};
use roost_protocol::Millis;

/// Cores are woken this exactly; lease ends are seen at most so much late.
const TICK: Millis = Millis(100);
/// Two members' clocks differ in rate by at most this much, in permille (each ±1 %; crystals: ±0.02 %).
const SKEW_PERMILLE: u64 = 20;
/// On top of all, for what nobody thought of.
const SLACK: Millis = Millis(300);
/// So many renewals may be lost in a row before the lease ends.
const ROUNDS_IN_LEASE: u64 = 5;
/// A lease outlives those rounds by this.
const LEASE_SLACK: Millis = Millis(1_000);
/// Between the end of killing and the watchdog.
const KILL_SLACK: Millis = Millis(1_000);
/// The watchdog is petted so many times in its time-out.
const PETS: u64 = 4;

/// A set of timers that was tested as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Profile {
    #[n(0)]
    Fast,
    #[n(1)]
    Normal,
    #[n(2)]
    Calm,
    /// For a role without guests, such as the aggregator's: no watchdog, its commands carry the epoch.
    #[n(3)]
    FastRole,
    #[n(4)]
    NormalRole,
    #[n(5)]
    CalmRole,
    /// Somebody's own; kept only if the inequalities hold.
    #[n(6)]
    Custom(#[n(0)] Timers),
}

impl Profile {
    /// Its timers.
    pub const fn timers(&self) -> &Timers {
        match self {
            Profile::Fast => &FAST,
            Profile::Normal => &NORMAL,
            Profile::Calm => &CALM,
            Profile::FastRole => &FAST_ROLE,
            Profile::NormalRole => &NORMAL_ROLE,
            Profile::CalmRole => &CALM_ROLE,
            Profile::Custom(timers) => timers,
        }
    }
}

/// All spans of a ward. Members that differ in it can't be in one council, so it travels with the council.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Timers {
    /// An owner renews this often.
    #[n(0)]
    pub renew: Millis,
    /// So many missed renewals make an owner suspect.
    #[n(1)]
    pub misses: u64,
    /// D: a lease lasts so long from the moment the renewal was sent.
    #[n(2)]
    pub lease: Millis,
    /// How guests are stopped for certain; none for a role without guests.
    #[n(3)]
    pub fence: Option<Fence>,
    /// P: a voter votes for nobody else this long after it granted a lease, and after it started.
    #[n(4)]
    pub promise: Millis,
    /// A candidate tries again after this at the earliest …
    #[n(5)]
    pub retry_min: Millis,
    /// … and this at the latest; which of it is chance.
    #[n(6)]
    pub retry_max: Millis,
    /// Between the first tries of two homes, by rank.
    #[n(7)]
    pub stagger: Millis,
    /// An owner whose voter ran ahead wins it back at most this often.
    #[n(8)]
    pub raise: Millis,
    /// After its own boot a home waits so long for a recorded owner it has not heard, which has the newest data.
    #[n(9)]
    pub cold: Millis,
}

/// How guests are stopped for certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Fence {
    /// Guests that are not paused after so long are killed.
    #[n(0)]
    pub pause: Millis,
    /// Killed guests are gone after so long, or the watchdog ends it.
    #[n(1)]
    pub kill: Millis,
    /// T_wd: the hardware resets the host so long after the last pet.
    #[n(2)]
    pub watchdog: Millis,
    /// δ: a reset takes so long to stop the CPUs.
    #[n(3)]
    pub reset: Millis,
}

/// Why a set of timers is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimersRefusal {
    #[error("Q1: a promise of {promise:?} ends before the owner is fenced for certain, which takes {least:?}")]
    PromiseTooShort { promise: Millis, least: Millis },
    #[error("Q2: a lease of {lease:?} doesn't outlive five lost renewals, which take {least:?}")]
    LeaseTooShort { lease: Millis, least: Millis },
    #[error("Q3: pausing and killing take {least:?}, the watchdog ends at {watchdog:?}")]
    WatchdogTooShort { watchdog: Millis, least: Millis },
    #[error("Q4: the watchdog can't be petted four times in {watchdog:?}")]
    NoTimeToPet { watchdog: Millis },
    #[error("a candidate must try again after some time, and no later than its latest")]
    Retry,
}

impl Timers {
    /// The inequalities Q1 to Q4. Q5 (a restarted voter waits P) and Q6 (order of a change) hold by construction: a
    /// voter has one promise for both, and of two profiles the longer promise and the shorter lease count until the
    /// change is in force.
    ///
    /// # Errors
    /// The first one that doesn't hold.
    pub const fn check(&self) -> Result<(), TimersRefusal> {
        let fence = match &self.fence {
            Some(fence) => *fence,
            None => Fence { pause: Millis(0), kill: Millis(0), watchdog: Millis(0), reset: Millis(0) },
        };
        let fenced = self.lease.0 + fence.watchdog.0 + fence.reset.0 + TICK.0;
        let least = Millis(fenced + (fenced * SKEW_PERMILLE).div_ceil(1_000) + SLACK.0);
        if self.promise.0 < least.0 {
            return Err(TimersRefusal::PromiseTooShort { promise: self.promise, least });
        }
        let least = Millis(self.renew.0 * ROUNDS_IN_LEASE + LEASE_SLACK.0);
        if self.lease.0 < least.0 {
            return Err(TimersRefusal::LeaseTooShort { lease: self.lease, least });
        }
        let least = Millis(fence.pause.0 + fence.kill.0 + KILL_SLACK.0);
        if self.fence.is_some() && fence.watchdog.0 < least.0 {
            return Err(TimersRefusal::WatchdogTooShort { watchdog: fence.watchdog, least });
        }
        if self.fence.is_some() && fence.watchdog.0 < PETS * TICK.0 {
            return Err(TimersRefusal::NoTimeToPet { watchdog: fence.watchdog });
        }
        if self.retry_min.0 == 0 || self.retry_min.0 > self.retry_max.0 || self.renew.0 == 0 {
            return Err(TimersRefusal::Retry);
        }
        Ok(())
    }

    /// Silence after which an owner is suspect.
    pub const fn suspect(&self) -> Millis {
        Millis(self.renew.0 * self.misses)
    }

    /// A watchdog of this time-out is petted so often (Q4).
    pub(crate) fn pet_every(time_out: Millis) -> Millis {
        Millis((time_out.0 / PETS).max(1))
    }
}

const RETRY_MIN: Millis = Millis(400);
const RETRY_MAX: Millis = Millis(1_200);
const STAGGER: Millis = Millis(300);
const RAISE: Millis = Millis(2_000);
const COLD: Millis = Millis(600_000);

const fn fence(pause: u64, kill: u64, watchdog: u64) -> Option<Fence> {
    let reset = Millis(1_000);
    Some(Fence { pause: Millis(pause), kill: Millis(kill), watchdog: Millis(watchdog), reset })
}

/// D 10 s, watchdog 10 s, P 22 s.
pub const NORMAL: Timers = Timers {
    renew: Millis(1_000),
    misses: 5,
    lease: Millis(10_000),
    fence: fence(2_000, 2_000, 10_000),
    promise: Millis(22_000),
    retry_min: RETRY_MIN,
    retry_max: RETRY_MAX,
    stagger: STAGGER,
    raise: RAISE,
    cold: COLD,
};
/// D 4 s, watchdog 5 s, P 11 s.
pub const FAST: Timers = Timers {
    renew: Millis(500),
    lease: Millis(4_000),
    fence: fence(1_000, 1_000, 5_000),
    promise: Millis(11_000),
    ..NORMAL
};
/// D 30 s, watchdog 15 s, P 47.5 s.
pub const CALM: Timers =
    Timers { misses: 10, lease: Millis(30_000), fence: fence(2_000, 2_000, 15_000), promise: Millis(47_500), ..NORMAL };
const FAST_ROLE: Timers = Timers { lease: Millis(4_000), fence: None, promise: Millis(5_000), ..FAST };
const NORMAL_ROLE: Timers = Timers { lease: Millis(6_000), fence: None, promise: Millis(7_000), ..NORMAL };
const CALM_ROLE: Timers = Timers { lease: Millis(15_000), fence: None, promise: Millis(16_000), ..CALM };

const _: () = assert!(NORMAL.check().is_ok() && FAST.check().is_ok() && CALM.check().is_ok());
const _: () = assert!(NORMAL_ROLE.check().is_ok() && FAST_ROLE.check().is_ok() && CALM_ROLE.check().is_ok());

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_promise_that_ends_before_the_owner_is_fenced_is_refused() {
        let least = Millis(21_822);
        assert_eq!(Timers { promise: least, ..NORMAL }.check(), Ok(()));
        let promise = Millis(least.0 - 1);
        let short = Timers { promise, ..NORMAL };
        assert_eq!(short.check(), Err(TimersRefusal::PromiseTooShort { promise, least }));
    }

    #[test]
    fn a_lease_that_five_lost_renewals_end_is_refused() {
        let short = Timers { lease: Millis(5_999), ..NORMAL };
        let refusal = TimersRefusal::LeaseTooShort { lease: Millis(5_999), least: Millis(6_000) };
        assert_eq!(short.check(), Err(refusal));
    }

    #[test]
    fn a_watchdog_that_fires_before_killing_is_done_is_refused() {
        let short = Timers { fence: fence(2_000, 2_000, 4_999), ..NORMAL };
        let refusal = TimersRefusal::WatchdogTooShort { watchdog: Millis(4_999), least: Millis(5_000) };
        assert_eq!(short.check(), Err(refusal));
    }

    #[test]
    fn a_candidate_that_would_never_rest_is_refused() {
        assert_eq!(Timers { retry_min: Millis(0), ..NORMAL }.check(), Err(TimersRefusal::Retry));
        assert_eq!(Timers { retry_min: Millis(1_201), ..NORMAL }.check(), Err(TimersRefusal::Retry));
    }
}
