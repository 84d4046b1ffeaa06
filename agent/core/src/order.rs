//! In which order a host starts guests by its own wish: a few at a time, and those of a higher priority first.

use roost_protocol::{GuestId, Millis, Time};

use crate::agent::{Agent, Purpose, Running};
use crate::event::Task;

/// Guests that one host starts or takes over by itself at once: more would starve those that already run. One that is busy
/// starts one at a time.
const STARTS_AT_ONCE: usize = 4;
const STARTS_WHEN_PRESSED: usize = 1;
/// A start that takes longer than this holds up no other guest any more.
const HOLDS_UP: Millis = Millis::seconds(15);
impl Running {
    /// A guest that is started by its host's own wish.
    pub(crate) fn starts(&self) -> bool {
        match self.purpose {
            Purpose::Wish => matches!(self.what, Task::Start { .. }),
            Purpose::Takeover => matches!(&self.what, Task::Restore { order, .. } if order.start),
            Purpose::Operation(_) | Purpose::Backup => false,
        }
    }
}

impl Agent {
    /// The highest priority first.
    pub(crate) fn in_order(&self, mut guests: Vec<GuestId>) -> Vec<GuestId> {
        guests.sort_by_key(|guest| (std::cmp::Reverse(self.priority(*guest)), *guest));
        guests
    }

    /// Whether one more guest may be started by this host's own wish: not too many at once, and none before those of a
    /// higher priority.
    pub(crate) fn may_begin(&self, guest: GuestId) -> bool {
        let holds_up = |running: &&Running| running.starts() && self.clock.time.since(running.began.time) < HOLDS_UP;
        let starting = || self.tasks.values().filter(holds_up);
        let pressed = self.config.backup.pressed(self.backups.pressure);
        let most = if pressed { STARTS_WHEN_PRESSED } else { STARTS_AT_ONCE };
        let priority = self.priority(guest);
        starting().count() < most && starting().all(|running| self.priority(running.what.guest()) <= priority)
    }

    /// When the next start that takes long holds up others no more.
    pub(crate) fn held_up_until(&self) -> Option<Time> {
        let ends = self.tasks.values().filter(|running| running.starts()).map(|running| running.began.time + HOLDS_UP);
        ends.filter(|at| *at > self.clock.time).min()
    }
}
