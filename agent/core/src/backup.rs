//! Backups of this host's guests, by the host itself: when, how many at once, how long kept, who keeps the replica.
//!
//! # Lanes: what may run beside what
//! A guest has one task per [`Lane`] at a time. What changes a guest never waits for what reads it or ships its points,
//! however slow a target is; instead readers give way ([`Agent::give_way`]):
//!
//! - A **stop** by force, a delete and a restore over the guest cancel a backup that reads it. Nothing is waited for: a
//!   cancelled backup publishes nothing, its worker only cleans up behind itself. The backup is still due, and begins
//!   again when the guest is as it is then.
//! - A **start** cancels a backup of the guest while it is off (its disks are about to change), with the mark set before
//!   the start is carried out, so that nothing read after it is published. A running guest is backed up anew.
//! - **Shutdown, pause, resume and reset** leave a backup alone; if the guest ends under it, it fails and is due again.
//! - A **pull** (data of a guest restored at once) is never cancelled by a start or stop: the guest's disk depends on it.
//! - **Pruning** a set waits while a backup of it runs, for the parent must stay; points that a restore, a pull, a proof
//!   or a shipping reads are left out.
//!
//! Commands have queues of their own to the same end: a backup asked for and waiting holds up no stop.
//!
//! # Clocks
//! A schedule is wall-clock time, the only place where the agent decides by it. A clock put forward makes one backup too
//! many; one put back makes moments ahead of it unanswered again. Ages of replicas, waits and limits are monotonic.

mod alarms;
mod branch;
mod ends;
mod peers;
pub mod plan;
pub mod replica;
pub mod retention;
pub mod schedule;
mod sets;
#[cfg(test)]
mod test;
mod verbs;
mod wake;
mod work;

use std::collections::{BTreeMap, BTreeSet};

use roost_protocol::backup::{BackupPolicy, BackupRun, Target};
use roost_protocol::host::Pressure;
use roost_protocol::{GuestId, PointId, Stamp, Time};

use crate::agent::{Agent, Now};
use crate::event::{Action, Lane, Task, TaskId};
use crate::guests::alive;
use crate::ledger::{Change, Kept};
use peers::Others;
use plan::{Forecast, Room};
use replica::Age;
use schedule::Timetable;
use sets::Sets;

/// All that is known of backups.
#[derive(Debug, Default)]
pub(crate) struct Backups {
    pub(crate) store: Store,
    pub(crate) room: Room,
    pub(crate) forecast: Forecast,
    /// The disk is filling: nothing new is made.
    pub(crate) held: bool,
    pub(crate) pressure: Option<Pressure>,
    pub(crate) cares: BTreeMap<GuestId, Care>,
    pub(crate) sets: Sets,
    pub(crate) others: Others,
    /// When something is due next.
    wake: Option<Time>,
    /// Replicas were told of then.
    pub(crate) told: Option<Time>,
    /// Something of the store itself changed since the last beat; of pulls; of what others may take.
    pub(crate) store_dirty: bool,
    pub(crate) pulls_dirty: bool,
    pub(crate) shares_dirty: bool,
}

/// The host's own store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Store {
    /// Not heard of: the host has none.
    #[default]
    Unseen,
    Open,
    Away,
}

/// One guest's backups.
#[derive(Debug, Default)]
pub(crate) struct Care {
    pub(crate) policy: Option<BackupPolicy>,
    pub(crate) timetable: Option<Timetable>,
    pub(crate) run: BackupRun,
    /// When the next backup by schedule begins.
    pub(crate) due: Option<Stamp>,
    /// Not before, after a failure.
    pub(crate) retry_at: Option<Time>,
    /// The newest point is not to be built upon.
    pub(crate) full_next: bool,
    pub(crate) replica: Copying,
    /// Retention is to be applied; not before that time.
    pub(crate) prune: Option<Time>,
    /// Places that failed: how often in a row, and when they are tried again.
    pub(crate) places: BTreeMap<Target, (u32, Time)>,
    pub(crate) pull: (u32, Time),
    /// How far it is, and why it failed last.
    pub(crate) pulled: (u32, String),
    /// Verifying failed, or a proof could not be made: not again before.
    pub(crate) upkeep_at: Time,
}

/// How one guest's replica is coming along.
#[derive(Clone, Debug, Default)]
pub(crate) struct Copying {
    /// Of the copy that the backup host has.
    pub(crate) age: Option<Age>,
    /// When it was first wanted in this life of the agent.
    pub(crate) since: Option<Time>,
    pub(crate) next_at: Time,
    /// Made and not yet at the backup host: the point, the moment it shows on both clocks.
    pub(crate) made: Option<(PointId, Stamp, Time)>,
    pub(crate) failures: u32,
    /// Why the last try came to nothing.
    pub(crate) broken: Option<String>,
    /// When `run.shows` was last written to the ledger.
    pub(crate) kept: Option<Time>,
}

impl Backups {
    pub(crate) fn new(kept: &Kept) -> Self {
        let mut cares: BTreeMap<GuestId, Care> = BTreeMap::new();
        for (guest, run) in &kept.runs {
            cares.entry(*guest).or_default().run = run.clone();
        }
        for (guest, policy) in &kept.policies {
            cares.entry(*guest).or_default().follow(*guest, Some(policy.clone()));
        }
        Self { cares, others: Others::new(kept), ..Self::default() }
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        self.wake
    }

    /// Something of sets, replicas or the store was not told yet.
    pub(crate) fn dirty(&self) -> bool {
        let sets = !self.sets.dirty.is_empty() || !self.sets.replicas.is_empty();
        sets || self.store_dirty || self.pulls_dirty || self.shares_dirty
    }
}

impl Care {
    /// Takes on a policy that was checked.
    pub(crate) fn follow(&mut self, guest: GuestId, policy: Option<BackupPolicy>) {
        let schedule = policy.as_ref().and_then(|policy| policy.schedule.as_ref());
        self.timetable = schedule.and_then(|schedule| Timetable::new(schedule, guest).ok());
        self.policy = policy;
        self.plan_next();
    }

    /// Sets when the next backup by schedule begins.
    pub(crate) fn plan_next(&mut self) {
        self.due = self.timetable.as_ref().zip(self.run.slot).and_then(|(table, slot)| table.due(slot));
    }

    /// A clock that was put back makes what lies ahead unanswered. A new policy begins with its next moment.
    fn mind_the_clock(&mut self, wall: Stamp) {
        let Some(table) = &self.timetable else { return };
        let now = table.answers(wall);
        if self.run.slot.is_none_or(|slot| slot > now) {
            self.run.slot = Some(now);
            self.plan_next();
        }
        let since = self.run.since.get_or_insert(wall);
        *since = (*since).min(wall);
    }
}

impl Agent {
    /// Begins what is due and tells of what is late.
    pub(crate) fn keep_backups(&mut self, now: Now, actions: &mut Vec<Action>) {
        for care in self.backups.cares.values_mut() {
            care.mind_the_clock(now.wall);
        }
        self.mind_the_disk(now, actions);
        self.forgive_peers(now, actions);
        self.begin_backup_work(now, actions);
        self.backup_alarms(now);
        self.backups.wake = self.next_backup_time(now);
    }

    /// True while a task of this guest runs in this lane.
    pub(crate) fn lane_busy(&self, guest: GuestId, lane: &Lane) -> bool {
        self.tasks.values().any(|running| running.what.guest() == guest && running.what.lane() == *lane)
    }

    /// Has readers give way to what is about to change the guest; see the top of this file.
    pub(crate) fn give_way(&mut self, what: &Task, actions: &mut Vec<Action>) {
        let guest = what.guest();
        let (cold, hot, pull) = match what {
            Task::Start { .. } => (true, false, false),
            Task::ForceOff { .. } => (false, true, false),
            Task::Delete { .. } | Task::Restore { .. } | Task::CleanUp { .. } => (true, true, true),
            Task::Create { .. }
            | Task::Import { .. }
            | Task::Shutdown { .. }
            | Task::Pause { .. }
            | Task::Resume { .. }
            | Task::Reset { .. }
            | Task::Backup { .. }
            | Task::Ship { .. }
            | Task::Pull { .. }
            | Task::Verify { .. }
            | Task::Prune { .. }
            | Task::Pin { .. }
            | Task::Prove { .. } => return,
        };
        self.cancel_readers(guest, cold, hot, pull, actions);
    }

    /// A guest that was started behind the agent's back is no longer what a backup of it while off reads.
    pub(crate) fn came_alive(&mut self, guest: GuestId, actions: &mut Vec<Action>) {
        if self.guests.get(guest).is_some_and(|known| alive(known.seen.state)) {
            // Its disks have what no other host was given.
            if self.backups.cares.get_mut(&guest).is_some_and(|care| std::mem::take(&mut care.run.handed_over)) {
                self.keep_run(guest, actions);
            }
            self.cancel_readers(guest, true, false, false, actions);
        }
    }

    fn cancel_readers(&mut self, guest: GuestId, cold: bool, hot: bool, pull: bool, actions: &mut Vec<Action>) {
        let gives_way = |what: &Task, was_off: bool| match what {
            Task::Backup { .. } => {
                if was_off {
                    cold
                } else {
                    hot
                }
            }
            Task::Pull { .. } => pull,
            Task::Create { .. }
            | Task::Import { .. }
            | Task::Start { .. }
            | Task::Shutdown { .. }
            | Task::ForceOff { .. }
            | Task::Pause { .. }
            | Task::Resume { .. }
            | Task::Reset { .. }
            | Task::Delete { .. }
            | Task::CleanUp { .. }
            | Task::Ship { .. }
            | Task::Restore { .. }
            | Task::Verify { .. }
            | Task::Prune { .. }
            | Task::Pin { .. }
            | Task::Prove { .. } => false,
        };
        let give: Vec<TaskId> = self
            .tasks
            .iter()
            .filter(|(_, running)| running.what.guest() == guest && gives_way(&running.what, running.cold))
            .map(|(task, _)| *task)
            .collect();
        for task in give {
            self.cancel_task(task, actions);
        }
    }

    /// Asks a task to end, once.
    pub(crate) fn cancel_task(&mut self, task: TaskId, actions: &mut Vec<Action>) {
        if let Some(running) = self.tasks.get_mut(&task)
            && !std::mem::replace(&mut running.cancelled, true)
        {
            actions.push(Action::Cancel { task });
        }
    }

    /// Asks for what a guest's points alone don't tell to be kept.
    pub(crate) fn keep_run(&mut self, guest: GuestId, actions: &mut Vec<Action>) {
        if let Some(care) = self.backups.cares.get(&guest) {
            let run = (care.run != BackupRun::default()).then(|| Box::new(care.run.clone()));
            actions.push(Action::Persist(vec![Change::Run { guest, run }]));
        }
    }

    /// Points that something reads or will read: they are not removed.
    pub(crate) fn points_in_use(&self) -> BTreeSet<PointId> {
        let mut used = BTreeSet::new();
        for running in self.tasks.values() {
            match &running.what {
                Task::Ship { point, .. } | Task::Prove { point, .. } | Task::Pin { point, .. } => {
                    used.insert(*point);
                }
                Task::Restore { order, .. } | Task::Pull { order, .. } => {
                    used.insert(order.point);
                }
                Task::Verify { point: Some(point), .. } => {
                    used.insert(*point);
                }
                Task::Verify { point: None, .. }
                | Task::Create { .. }
                | Task::Import { .. }
                | Task::Start { .. }
                | Task::Shutdown { .. }
                | Task::ForceOff { .. }
                | Task::Pause { .. }
                | Task::Resume { .. }
                | Task::Reset { .. }
                | Task::Delete { .. }
                | Task::CleanUp { .. }
                | Task::Backup { .. }
                | Task::Prune { .. } => {}
            }
        }
        for care in self.backups.cares.values() {
            used.extend(care.run.pull.as_ref().map(|order| order.point));
            used.extend(care.replica.made.map(|(point, ..)| point));
            used.extend(care.run.shows.map(|(point, _)| point));
        }
        used.extend(self.restores_waiting());
        used.extend(self.backups.others.shared());
        used
    }
}
