//! The grid's recent events, numbered across restarts.

use std::collections::VecDeque;

use roost_protocol::{Epoch, GuestId, HostId, OperationId};

use crate::event::{Action, GridEvent, Severity};
use crate::grid::{Grid, Now};

/// Events kept for callers that come back; a busy grid of 25,000 guests makes that many in minutes.
const KEPT: usize = 10_000;
/// Bits of a sequence number that count within one epoch. Epochs are seconds since 1970 at least, so numbers stay below
/// 2^53, which is as far as a JSON client's doubles tell whole numbers apart, until the year 2242. A grid that made more
/// than 2^20 events a second over its whole run would reach into the next epoch's numbers; none comes near.
const COUNT_BITS: u32 = 20;

/// Kept events, oldest first.
#[derive(Debug)]
pub(crate) struct History {
    next: u64,
    first: u64,
    events: VecDeque<GridEvent>,
}

/// What an event is made of.
#[derive(Debug)]
pub(crate) struct Line {
    kind: &'static str,
    severity: Severity,
    host: Option<HostId>,
    guest: Option<GuestId>,
    operation: Option<OperationId>,
    user: Option<String>,
    text: String,
}

impl Line {
    fn new(kind: &'static str, severity: Severity, text: String) -> Self {
        Self { kind, severity, host: None, guest: None, operation: None, user: None, text }
    }

    pub(crate) fn info(kind: &'static str, text: impl Into<String>) -> Self {
        Self::new(kind, Severity::Info, text.into())
    }

    pub(crate) fn warning(kind: &'static str, text: impl Into<String>) -> Self {
        Self::new(kind, Severity::Warning, text.into())
    }

    pub(crate) fn error(kind: &'static str, text: impl Into<String>) -> Self {
        Self::new(kind, Severity::Error, text.into())
    }

    pub(crate) fn host(self, host: HostId) -> Self {
        Self { host: Some(host), ..self }
    }

    pub(crate) fn guest(self, guest: GuestId) -> Self {
        Self { guest: Some(guest), ..self }
    }

    pub(crate) fn operation(self, operation: OperationId) -> Self {
        Self { operation: Some(operation), ..self }
    }

    pub(crate) fn user(self, user: &str) -> Self {
        Self { user: Some(user.into()), ..self }
    }
}

impl History {
    pub(crate) fn new(epoch: Epoch) -> Self {
        let first = (epoch.0 << COUNT_BITS) | 1;
        Self { next: first, first, events: VecDeque::new() }
    }

    pub(crate) fn after(&self, sequence: u64, limit: usize) -> Option<Vec<GridEvent>> {
        let oldest = self.events.front().map_or(self.next, |event| event.sequence);
        let lost = sequence != 0 && sequence.saturating_add(1) < oldest;
        let trimmed = sequence == 0 && oldest > self.first;
        if lost || trimmed {
            return None;
        }
        Some(self.events.iter().filter(|event| event.sequence > sequence).take(limit).cloned().collect())
    }

    pub(crate) fn newest(&self, limit: usize) -> Vec<GridEvent> {
        let skip = self.events.len().saturating_sub(limit);
        self.events.iter().skip(skip).cloned().collect()
    }
}

impl Grid {
    /// Adds an event and tells listeners.
    pub(crate) fn publish(&mut self, now: Now, line: Line, actions: &mut Vec<Action>) {
        let Line { kind, severity, host, guest, operation, user, text } = line;
        let sequence = self.history.next;
        let event =
            GridEvent { sequence, at: now.wall, kind: kind.into(), severity, host, guest, operation, user, text };
        self.history.next += 1;
        if self.history.events.len() == KEPT {
            self.history.events.pop_front();
        }
        self.history.events.push_back(event.clone());
        actions.push(Action::Publish { event });
    }
}

#[cfg(test)]
mod test {
    use super::*;

    /// Above this, doubles skip whole numbers.
    const EXACT: u64 = 1 << 53;

    #[test]
    fn sequence_numbers_are_exact_in_json_and_rise_over_restarts() {
        let in_2200 = Epoch(7_258_118_400);
        for epoch in [Epoch(1), Epoch(1_700_000_000), in_2200] {
            let (this, next) = (History::new(epoch), History::new(epoch.next()));
            assert!(this.next < next.next && next.next < EXACT, "{epoch}");
            assert!(next.next - this.next >= 1_000_000, "room for a long run's events");
        }
    }
}
