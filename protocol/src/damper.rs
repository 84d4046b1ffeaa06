//! When a condition that comes and goes is an alarm: the one way of agents and aggregator.

use std::collections::VecDeque;

use crate::{Millis, Time};

/// How it is now. Between bad and good nothing changes: that is the hysteresis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Good,
    Between,
    Bad,
}

/// How long it must be bad before it is raised, and good before it is cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    pub raise_after: Millis,
    pub clear_after: Millis,
}

/// An alarm that was raised again within this time flaps.
const MEMORY: Millis = Millis::seconds(3_600);
/// For each time it was raised within [`MEMORY`], the wait before it clears doubles, up to this.
const LONGEST: Millis = Millis::seconds(1_800);
/// More times are not counted: 2^6 is more than enough to reach [`LONGEST`].
const COUNTED: usize = 7;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Calm,
    Suspect {
        since: Time,
    },
    Raised {
        good_since: Option<Time>,
    },
}

/// One condition.
#[derive(Clone, Debug, Default)]
pub struct Damper {
    state: State,
    raised: VecDeque<Time>,
}

impl Damper {
    /// True while it is an alarm.
    pub fn is_raised(&self) -> bool {
        match self.state {
            State::Raised { .. } => true,
            State::Calm | State::Suspect { .. } => false,
        }
    }

    /// Raised more than once of late: what is told of it may be different soon.
    pub fn flaps(&self) -> bool {
        self.raised.len() > 1
    }

    /// Nothing is to be remembered of it.
    pub fn forgotten(&self, now: Time) -> bool {
        self.state == State::Calm && self.raised.back().is_none_or(|at| now.since(*at) > MEMORY)
    }

    /// Takes in how it is; says whether the alarm is raised or cleared by that.
    pub fn step(&mut self, now: Time, level: Level, timing: &Timing) -> Option<bool> {
        match (self.state, level) {
            (State::Calm, Level::Bad) => {
                self.state = State::Suspect { since: now };
                self.raise_if_due(now, now, timing)
            }
            (State::Suspect { since }, Level::Bad) => self.raise_if_due(now, since, timing),
            (State::Suspect { .. }, Level::Good) => {
                self.state = State::Calm;
                None
            }
            (State::Raised { good_since }, Level::Good) => {
                let since = good_since.unwrap_or(now);
                self.state = State::Raised { good_since: Some(since) };
                self.clear_if_due(now, since, timing)
            }
            (State::Raised { .. }, Level::Bad) => {
                self.state = State::Raised { good_since: None };
                None
            }
            (State::Calm, Level::Good | Level::Between)
            | (State::Suspect { .. } | State::Raised { .. }, Level::Between) => None,
        }
    }

    fn raise_if_due(&mut self, now: Time, since: Time, timing: &Timing) -> Option<bool> {
        if now.since(since) < timing.raise_after {
            return None;
        }
        self.state = State::Raised { good_since: None };
        self.raised.push_back(now);
        while self.raised.len() > COUNTED {
            self.raised.pop_front();
        }
        Some(true)
    }

    fn clear_if_due(&mut self, now: Time, since: Time, timing: &Timing) -> Option<bool> {
        while self.raised.front().is_some_and(|at| now.since(*at) > MEMORY) {
            self.raised.pop_front();
        }
        let doublings = self.raised.len().saturating_sub(1);
        let wait = (0..doublings).fold(timing.clear_after, |wait, _| Millis(wait.0.saturating_mul(2)));
        if now.since(since) < wait.min(LONGEST.max(timing.clear_after)) {
            return None;
        }
        self.state = State::Calm;
        Some(false)
    }
}
