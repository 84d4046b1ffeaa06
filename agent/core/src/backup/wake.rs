//! When backups need the core next.

use roost_protocol::backup::Proof;
use roost_protocol::{Millis, Stamp, Time};

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
            let wall = [care.due, late, self.verify_at(care, *guest), self.proof_at(care, *guest)];
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

    fn verify_at(&self, care: &Care, guest: roost_protocol::GuestId) -> Option<Stamp> {
        care.policy.as_ref()?;
        let oldest = self.backups.sets.of(guest).next()?.started;
        Some(plus(care.run.verified.unwrap_or(oldest), self.config.backup.verify_every))
    }

    fn proof_at(&self, care: &Care, guest: roost_protocol::GuestId) -> Option<Stamp> {
        let policy = care.policy.as_ref()?.proof?;
        let newest = self.backups.sets.newest(guest).filter(|point| point.proof == Proof::Untried)?;
        Some(care.run.proof_tried.map_or(newest.finished, |tried| plus(tried, policy.every)))
    }
}

fn delta_at(care: &Care) -> Option<Time> {
    care.policy.as_ref()?.replica?;
    care.replica.made.is_none().then_some(care.replica.next_at)
}

fn pull_at(care: &Care) -> Option<Time> {
    care.run.pull.as_ref().map(|_| care.pull.1)
}
