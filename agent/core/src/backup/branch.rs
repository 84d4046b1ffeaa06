//! A host that comes back after another one took its guest over has what the guest wrote and no replica shows: its branch.
//! It is kept as a point that retention spares, before anything else can become of those disks; only then the host
//! forgets that the guest was its own.

use roost_protocol::GuestId;
use roost_protocol::backup::{Freeze, Why};
use roost_protocol::guest::PowerState;

use crate::agent::{Agent, Now, Purpose};
use crate::event::{Action, BackupOrder, Task};

/// What people read beside the point.
const NOTE: &str = "what this host had of the guest when another one had taken it over";

impl Agent {
    /// Whether the guest is here and this host's to back up.
    pub(crate) fn is_own(&self, guest: GuestId) -> bool {
        self.guests.get(guest).is_some() && !self.rights.is_elsewhere(guest)
    }

    /// Whether what the guest has here is what its replica is to show.
    pub(super) fn is_primary(&self, guest: GuestId) -> bool {
        self.is_own(guest) && !self.rights.are_unheard()
    }

    /// Whether a point of it shows something new. What stands still for want of a lease has nothing new, and its point would
    /// pass for newer than what another host makes of the guest meanwhile.
    pub(super) fn goes_on_here(&self, guest: GuestId) -> bool {
        let executes = self.guests.get(guest).is_some_and(|known| known.seen.state == PowerState::Running);
        self.is_own(guest) && (executes || !self.rights.waits(guest))
    }

    /// Makes a point of each guest that was this host's, is another's now, and is off.
    pub(super) fn begin_branches(&mut self, now: Now, actions: &mut Vec<Action>) {
        let off = |guest: &GuestId| {
            let state = self.guests.get(*guest).map(|known| known.seen.state);
            matches!(state, Some(PowerState::Off | PowerState::Crashed))
        };
        let waits = |guest: &GuestId| self.backups.cares.get(guest).is_some_and(|care| care.upkeep_at > now.time);
        let lost = self.wishes.keys().copied().filter(|guest| self.rights.is_elsewhere(*guest));
        let due: Vec<GuestId> = lost.filter(|guest| off(guest) && !waits(guest) && self.readable(*guest)).collect();
        for guest in due {
            if self.backups_running(false) >= self.config.backup.backups {
                return;
            }
            self.begin_branch(guest, actions);
        }
    }

    /// Makes a point of what this host has of the guest, unless something reads or changes it now.
    pub(crate) fn begin_branch(&mut self, guest: GuestId, actions: &mut Vec<Action>) {
        if !self.readable(guest) {
            return;
        }
        let bandwidth = self.read_bandwidth();
        let order = BackupOrder {
            why: Why::Branch,
            freeze: Freeze::Never,
            note: NOTE.into(),
            meant: self.meant(guest),
            priority: self.priority(guest),
            bandwidth,
            ..BackupOrder::default()
        };
        self.backups.sets.dirty.insert(guest);
        self.run(Task::Backup { guest, order }, Purpose::Backup, actions);
    }

    /// The branch is kept: the guest is no longer this host's to look after.
    pub(super) fn branch_made(&mut self, now: Now, guest: GuestId, actions: &mut Vec<Action>) {
        let text = format!("a point keeps {NOTE}");
        actions.push(Action::Note { guest: Some(guest), at: Some(now.wall), text });
        // Then it is what a takeover waits for.
        if let Some(at) = self.takeovers.get_mut(&guest) {
            *at = now.time;
        }
        if self.rights.is_elsewhere(guest) {
            self.wish(guest, None, actions);
        }
    }
}
