//! What people are told of backups: late, failed, damaged, unproven, and replicas that lag.

use roost_protocol::backup::{BackupSummary, Why};
use roost_protocol::{GuestId, Millis, Stamp, Time};

use super::retention::is_ahead;
use super::schedule::plus;
use super::{Care, Store};
use crate::agent::{Agent, Hypervisor, Now};

impl Agent {
    /// Raises and clears what concerns backups of guests.
    pub(super) fn backup_alarms(&mut self, now: Now) {
        // Before all guests were seen once nothing is known to be gone.
        if !self.looked || self.backups.store == Store::Unseen {
            return;
        }
        let guests: Vec<GuestId> = self.backups.cares.keys().copied().collect();
        for guest in guests {
            let Some(care) = self.backups.cares.get(&guest) else { continue };
            for (code, text) in self.conditions(care, guest, now) {
                match text {
                    Some(text) => self.raise_alarm(now, code, Some(guest), text),
                    None => self.clear_alarm(code, Some(guest)),
                }
            }
        }
    }

    fn conditions(&self, care: &Care, guest: GuestId, now: Now) -> [(&'static str, Option<String>); 7] {
        let here = self.is_own(guest);
        let damaged = self.backups.sets.of(guest).find(|point| !point.whole());
        let lag = here && self.lag_alarm_at(care, guest, now).is_some_and(|at| at < now.time);
        let late = here && self.late_at(care, guest).is_some_and(|at| at <= now.wall);
        [
            ("backup-late", late.then(|| "no backup of it was made in time; see its last failure".to_owned())),
            ("backup-failed", failed(care).filter(|_| here)),
            ("backup-damaged", damaged.map(damage)),
            ("backup-unproven", self.newest_unproven(guest).map(|why| format!("{UNPROVEN} ({why})"))),
            ("replica-lag", lag.then(|| LAGS.to_owned())),
            ("replica-broken", care.replica.broken.clone().filter(|_| here && wants_replica(care))),
            ("restore-pull", (care.pull.0 > 0).then(|| format!("{PULL} ({})", care.pulled.1))),
        ]
    }

    /// When the guest is late, if nothing is made until then.
    pub(super) fn late_at(&self, care: &Care, guest: GuestId) -> Option<Stamp> {
        let policy = care.policy.as_ref()?;
        // A point of a time to come was made while the clock was ahead: it tells nothing of now.
        let of_the_policy = |point: &&BackupSummary| {
            point.whole() && matches!(point.why, Why::Schedule | Why::Command) && !is_ahead(point, self.clock.wall)
        };
        let newest = self.backups.sets.of(guest).rev().find(of_the_policy).map(|point| point.started);
        let reference = newest.max(care.run.since)?;
        match policy.max_age {
            Some(max_age) => Some(plus(reference, max_age)),
            None => care.timetable.as_ref()?.late_at(reference),
        }
    }

    /// How old the guest's replica is; none where there is none yet.
    pub(super) fn replica_lag(&self, care: &Care, guest: GuestId, now: Time) -> Option<Millis> {
        let age = care.replica.age?;
        // A guest that was off when its copy was made, and still is, has nothing that the copy lacks.
        let off = self.guests.get(guest).filter(|known| !crate::guests::alive(known.seen.state));
        let exact = age.was == Millis(0) && off.is_some_and(|known| known.since_time < age.at);
        let seen = self.hypervisor == Hypervisor::Up;
        Some(if exact && seen { Millis(0) } else { age.lag(now) })
    }

    /// When the replica's lag is past what was promised.
    pub(super) fn lag_alarm_at(&self, care: &Care, guest: GuestId, now: Now) -> Option<Time> {
        let max = care.policy.as_ref()?.replica?.max_lag;
        match (self.replica_lag(care, guest, now.time), care.replica.since) {
            (Some(lag), _) if lag > max => Some(Time(0)),
            (Some(lag), _) => Some(now.time + Millis(max.0 - lag.0)),
            (None, since) => since.map(|since| since + max),
        }
    }
}

const UNPROVEN: &str = "its newest backup was booted in isolation and gave no sign of life: look at the picture of its \
                        screen, and have another one made or proven";
const LAGS: &str = "its replica is older than its policy allows: what it writes now would be lost with this host";
const PULL: &str = "its data can't be brought in from the backup it was restored from; it goes on with what it has, reads \
                    of the rest wait: bring the source back, or restore it anew";

fn wants_replica(care: &Care) -> bool {
    care.policy.as_ref().is_some_and(|policy| policy.replica.is_some())
}

fn failed(care: &Care) -> Option<String> {
    let failure = care.run.failure.as_ref()?;
    Some(format!("its backup failed: {}; it is tried again by itself", failure.text))
}

fn damage(point: &BackupSummary) -> String {
    let what = point.damaged.clone().unwrap_or_default();
    format!("backup {} is damaged ({what}); it is not offered any more, others are", point.point)
}
