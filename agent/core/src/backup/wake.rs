//! When backups need the core next.

use roost_protocol::backup::Proof;
use roost_protocol::{GuestId, Millis, Stamp, Time};

use super::schedule::plus;
use super::{Care, Store};
use crate::agent::{Agent, Now};

impl Agent {
    /// The next moment at which time alone brings something. What waits for an event (a free place, a task's end, a store
    /// that is away) is not among it.
    pub(super) fn next_backup_time(&self, now: Now) -> Option<Time> {
        if self.backups.store == Store::Unseen {
            return None;
        }
        let mut next: Option<Time> = self.backups.others.deadline().filter(|at| *at > now.time);
        for (guest, care) in &self.backups.cares {
            let late = self.late_at(care, *guest);
            let wall = [care.due, late, self.verify_at(care, *guest, now.wall), self.proof_at(care, *guest, now.wall)];
            let moments = wall.into_iter().flatten().map(|at| now.time + Millis(at.0.saturating_sub(now.wall.0)));
            // A lag is past its limit one millisecond after it reached it.
            let lag = self.lag_alarm_at(care, *guest, now).map(|at| at + Millis(1));
            let times = [care.retry_at, care.prune, lag, delta_at(care), pull_at(care), Some(care.upkeep_at)];
            let places = care.places.values().map(|(_, at)| *at);
            let all = moments.chain(times.into_iter().flatten()).chain(places);
            next = all.filter(|at| *at > now.time).chain(next).min();
        }
        next
    }

    /// When all points of a guest are read and compared next.
    pub(super) fn verify_at(&self, care: &Care, guest: GuestId, wall: Stamp) -> Option<Stamp> {
        care.policy.as_ref()?;
        let oldest = self.backups.sets.of(guest).next()?.started;
        let every = self.config.backup.verify_every;
        Some(self.upkeep_at(after(care.run.verified.unwrap_or(oldest), every, wall), every))
    }

    /// When the newest point of a guest is proven, if it is to be and has not been tried.
    pub(super) fn proof_at(&self, care: &Care, guest: GuestId, wall: Stamp) -> Option<Stamp> {
        let every = care.policy.as_ref()?.proof?.every;
        self.backups.sets.newest(guest).filter(|point| point.proof == Proof::Untried)?;
        // Not by the newest: on a busy host there is a newer one each time.
        let first = after(self.backups.sets.of(guest).next()?.finished, Millis(0), wall);
        Some(self.upkeep_at(care.run.proof_tried.map_or(first, |tried| after(tried, every, wall)), every))
    }

    fn upkeep_at(&self, due: Stamp, every: Millis) -> Stamp {
        if self.config.backup.pressed(self.backups.pressure) { plus(due, every) } else { due }
    }
}

/// A span later; at the beginning of time where the clock was put back behind `since`.
fn after(since: Stamp, span: Millis, wall: Stamp) -> Stamp {
    if since > wall { Stamp(0) } else { plus(since, span) }
}

fn delta_at(care: &Care) -> Option<Time> {
    care.policy.as_ref()?.replica?;
    care.replica.made.is_none().then_some(care.replica.next_at)
}

fn pull_at(care: &Care) -> Option<Time> {
    care.run.pull.as_ref().map(|_| care.pull.1)
}
