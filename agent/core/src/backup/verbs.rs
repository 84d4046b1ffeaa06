//! Commands about backups, and restores.

use roost_protocol::backup::{BackupPolicy, BackupSummary, RestoreAs, RestoreOrder, Target};
use roost_protocol::calendar::Calendar;
use roost_protocol::guest::{Power, PowerState};
use roost_protocol::operation::{Command, Failure, FailureCode, Verb};
use roost_protocol::{GuestId, PointId};

use super::Store;
use crate::agent::{Agent, Hypervisor, Now};
use crate::command::{Phase, failure};
use crate::event::{Action, Lane, Task};
use crate::guests::alive;
use crate::ledger::{Change, Stage};

/// What a command comes to.
enum Begun {
    End(Option<Failure>),
    Run(Task),
    /// Something must end first.
    Wait,
}

fn no(code: FailureCode, text: impl Into<String>) -> Begun {
    Begun::End(Some(failure(code, text)))
}

impl Agent {
    /// Begins a command that changes no guest, or lets it wait.
    pub(crate) fn begin_beside(&mut self, now: Now, command: &Command, again: bool, actions: &mut Vec<Action>) {
        if let Verb::SetBackupPolicy { policy } = &command.verb {
            return self.set_policy(now, command, policy.as_deref(), actions);
        }
        let begun = match self.backups.store {
            Store::Unseen => Begun::Wait,
            Store::Away => no(FailureCode::TargetAway, "the host's backup store can't be used; see its alarm"),
            Store::Open => self.beside(now, command, again),
        };
        match begun {
            Begun::End(failure) => self.end(command.operation, failure, actions),
            Begun::Run(task) => self.work(command, task, actions),
            Begun::Wait => {}
        }
    }

    fn beside(&self, now: Now, command: &Command, again: bool) -> Begun {
        let guest = command.guest;
        let points_free = !self.lane_busy(guest, &Lane::Points);
        let set_free = points_free && !self.lane_busy(guest, &Lane::Read);
        match &command.verb {
            Verb::Backup { .. } => self.check_backup(guest),
            Verb::VerifyBackup { point } => match point.map(|point| self.point(guest, point)) {
                Some(Err(why)) => Begun::End(Some(why)),
                Some(Ok(_)) | None if points_free => Begun::Run(Task::Verify { guest, point: *point }),
                Some(Ok(_)) | None => Begun::Wait,
            },
            Verb::DeletePoint { point, even_last } => match self.check_delete(guest, *point, *even_last) {
                Err(why) if again && why.code == FailureCode::NotFound => Begun::End(None),
                Err(why) => Begun::End(Some(why)),
                Ok(()) if set_free => Begun::Run(Task::Prune { guest, at: Target::Local, remove: vec![*point] }),
                Ok(()) => Begun::Wait,
            },
            Verb::PinPoint { point, pinned } => match self.point(guest, *point) {
                Err(why) => Begun::End(Some(why)),
                Ok(_) if points_free => Begun::Run(Task::Pin { guest, point: *point, pinned: *pinned }),
                Ok(_) => Begun::Wait,
            },
            Verb::PruneNow if set_free => {
                Begun::Run(Task::Prune { guest, at: Target::Local, remove: self.expired_points(guest, now.wall) })
            }
            Verb::PruneNow => Begun::Wait,
            Verb::ProveBackup { point } => self.begin_proof(guest, *point, points_free),
            Verb::Create { .. }
            | Verb::Import { .. }
            | Verb::Start
            | Verb::Shutdown { .. }
            | Verb::Stop
            | Verb::Pause
            | Verb::Resume
            | Verb::Reset
            | Verb::Delete { .. }
            | Verb::Manage { .. }
            | Verb::Release
            | Verb::Restore { .. }
            | Verb::HandOver { .. }
            | Verb::SetBackupPolicy { .. } => no(FailureCode::Internal, "this is no command about points"),
        }
    }

    /// Backups wait for a free place; see `begin_backups`.
    fn check_backup(&self, guest: GuestId) -> Begun {
        if self.hypervisor == Hypervisor::Up && self.guests.get(guest).is_none() {
            return no(FailureCode::NotFound, "this host has no such guest");
        }
        if self.backups.held {
            return no(FailureCode::NoSpace, "the disk of the backup store is almost full: make room first");
        }
        Begun::Wait
    }

    fn begin_proof(&self, guest: GuestId, point: Option<PointId>, free: bool) -> Begun {
        let point = match point {
            Some(point) => self.point(guest, point),
            None => self.backups.sets.newest(guest).ok_or_else(|| failure(FailureCode::NotFound, "it has no backup")),
        };
        let patience = self
            .backups
            .cares
            .get(&guest)
            .and_then(|care| care.policy.as_ref()?.proof)
            .map_or(PROOF_PATIENCE, |proof| proof.patience);
        match point {
            Err(why) => Begun::End(Some(why)),
            Ok(point) if !point.whole() => Begun::End(Some(self.damaged(point))),
            // One at a time on a host: proofs are for idle time.
            Ok(point) if free && self.hypervisor == Hypervisor::Up && !self.proving() => {
                Begun::Run(Task::Prove { guest, point: point.point, patience })
            }
            Ok(_) => Begun::Wait,
        }
    }

    fn proving(&self) -> bool {
        self.tasks.values().any(|running| matches!(running.what, Task::Prove { .. }))
    }

    fn point(&self, guest: GuestId, point: PointId) -> Result<&BackupSummary, Failure> {
        let found = self.backups.sets.get(guest, point);
        found
            .ok_or_else(|| failure(FailureCode::NotFound, format!("its set in this host's store has no point {point}")))
    }

    fn check_delete(&self, guest: GuestId, point: PointId, even_last: bool) -> Result<(), Failure> {
        let found = self.point(guest, point)?;
        if found.pinned {
            return Err(failure(FailureCode::WrongState, "the point is pinned: unpin it first"));
        }
        let others = self.backups.sets.of(guest).filter(|other| other.whole() && other.point != point).count();
        if found.whole() && others == 0 && !even_last {
            return Err(failure(FailureCode::WrongState, "it is the guest's only whole backup; say that you mean it"));
        }
        if self.points_in_use().contains(&point) {
            return Err(failure(FailureCode::Busy, "the point is being restored, copied or proven; try again later"));
        }
        Ok(())
    }

    fn set_policy(&mut self, now: Now, command: &Command, policy: Option<&BackupPolicy>, actions: &mut Vec<Action>) {
        let guest = command.guest;
        let old = self.backups.cares.get(&guest).and_then(|care| care.policy.as_ref());
        if let (Some(new), Some(old)) = (policy, old)
            && new.generation <= old.generation
        {
            let same = new.generation == old.generation;
            let text = format!("this host follows generation {} already, a newer one", old.generation);
            return self.end(command.operation, (!same).then(|| failure(FailureCode::Invalid, text)), actions);
        }
        if let Some(why) = policy.and_then(|policy| self.check_policy(guest, policy)) {
            return self.end(command.operation, Some(why), actions);
        }
        let care = self.backups.cares.entry(guest).or_default();
        care.follow(guest, policy.cloned());
        care.run.slot = None;
        care.run.since = None;
        care.retry_at = None;
        care.replica = super::Copying::default();
        if policy.is_none_or(|policy| policy.replica.is_none()) {
            (care.run.replica, care.run.shows) = (None, None);
        }
        care.mind_the_clock(now.wall);
        care.prune = Some(now.time);
        self.backups.sets.dirty.insert(guest);
        self.backups.sets.replicas.insert(guest);
        let run = care.run.clone();
        let changes = vec![
            Change::Policy { guest, policy: policy.cloned().map(Box::new) },
            Change::Run { guest, run: Some(Box::new(run)) },
        ];
        self.end_with(command.operation, None, changes, actions);
    }

    fn check_policy(&self, guest: GuestId, policy: &BackupPolicy) -> Option<Failure> {
        let invalid = |text: String| Some(failure(FailureCode::Invalid, text));
        if let Err(text) = policy.check() {
            return invalid(text);
        }
        let unreadable = policy.schedule.as_ref().and_then(|schedule| Calendar::parse(&schedule.expression).err());
        if let Some(text) = unreadable {
            return invalid(text);
        }
        let own = |target: &Target| matches!(target, Target::Peer { host, .. } if *host == self.config.host);
        if policy.targets.iter().any(own) || policy.replica.is_some_and(|one| one.host == Some(self.config.host)) {
            return invalid("a copy on the guest's own host is no copy: name another host".into());
        }
        let known = self.hypervisor != Hypervisor::Up || self.guests.get(guest).is_some();
        let nowhere = !known && self.backups.sets.newest(guest).is_none();
        nowhere.then(|| failure(FailureCode::NotFound, "this host has no such guest"))
    }

    /// Begins a restore: the guest of the command is made from a point.
    pub(crate) fn begin_restore(
        &mut self,
        command: &Command,
        order: &RestoreOrder,
        state: Option<PowerState>,
        again: bool,
        actions: &mut Vec<Action>,
    ) {
        // It waits until the store was opened, and until what is being removed is gone: then it is told so.
        if self.backups.store == Store::Unseen || (order.from == Target::Local && self.being_removed(order.point)) {
            return;
        }
        match self.check_restore(command, order, state, again) {
            Ok(true) => {
                self.work(command, Task::Restore { guest: command.guest, order: Box::new(order.clone()) }, actions)
            }
            // Defining is the last step, so a guest that is there is whole.
            Ok(false) => self.restored(command, order, actions),
            Err(why) => self.end(command.operation, Some(why), actions),
        }
    }

    /// Whether there is something to do, and it may be done.
    fn check_restore(
        &self,
        command: &Command,
        order: &RestoreOrder,
        state: Option<PowerState>,
        again: bool,
    ) -> Result<bool, Failure> {
        let guest = command.guest;
        let refuse = |code, text: &str| Err(failure(code, text));
        match self.backups.store {
            Store::Open => {}
            Store::Unseen | Store::Away => {
                return refuse(FailureCode::TargetAway, "the host's backup store is not open");
            }
        }
        order.to_be.check().map_err(|text| failure(FailureCode::Invalid, text))?;
        match &order.to_be {
            RestoreAs::AsItWas if guest != order.set => {
                return refuse(FailureCode::Invalid, "as it was means with its own id: name the set's guest");
            }
            RestoreAs::AsItWas if state.is_some_and(alive) => {
                return refuse(FailureCode::WrongState, "the original runs: stop it first, or restore as new");
            }
            RestoreAs::AsNew { .. } if state.is_some() && again => return Ok(false),
            RestoreAs::AsNew { .. } if state.is_some() => {
                return refuse(FailureCode::AlreadyExists, "a guest with this id is there already");
            }
            RestoreAs::AsNew { name, .. } if self.name_taken(name, guest) => {
                let text = format!("this host has a guest named {name:?} already; choose another name");
                return Err(failure(FailureCode::AlreadyExists, text));
            }
            RestoreAs::AsItWas | RestoreAs::AsNew { .. } => {}
        }
        if order.from == Target::Local {
            let point = self.point(order.set, order.point)?;
            if !point.whole() {
                return Err(self.damaged(point));
            }
            if order.to_be == RestoreAs::AsItWas && self.name_taken(&point.guest_name, guest) {
                let text = format!("another guest of this host is named {:?}: rename it first", point.guest_name);
                return Err(failure(FailureCode::AlreadyExists, text));
            }
        }
        Ok(true)
    }

    fn being_removed(&self, point: PointId) -> bool {
        let removes =
            |what: &Task| matches!(what, Task::Prune { at: Target::Local, remove, .. } if remove.contains(&point));
        self.tasks.values().any(|running| removes(&running.what))
    }

    fn name_taken(&self, name: &str, guest: GuestId) -> bool {
        self.guests.known.values().any(|known| known.seen.name == name && known.seen.guest != guest)
    }

    /// Refuses a damaged point and names the next older whole one.
    fn damaged(&self, point: &BackupSummary) -> Failure {
        let what = point.damaged.clone().unwrap_or_default();
        let older =
            self.backups.sets.of(point.guest).rev().find(|other| other.whole() && other.started < point.started);
        let offer = match older {
            Some(other) => format!("the next older whole one is {}", other.point),
            None => "there is no older whole one".to_owned(),
        };
        failure(FailureCode::Damaged, format!("backup {} is damaged ({what}); {offer}", point.point))
    }

    /// The restored guest was seen: start it if that was asked, and keep it as wished.
    pub(crate) fn restored(&mut self, command: &Command, order: &RestoreOrder, actions: &mut Vec<Action>) {
        let managed = self.wishes.contains_key(&command.guest) || order.to_be != RestoreAs::AsItWas;
        if order.start
            && let Some(why) = self.no_room(self.clock, command.guest)
        {
            let wish = if managed { self.wish_change(command.guest, Some(Power::Stopped)) } else { None };
            let why = Failure { text: format!("it was restored, and is off: {}", why.text), ..why };
            return self.end_with(command.operation, Some(why), wish.into_iter().collect(), actions);
        }
        if order.start {
            self.pending.set(command.operation, Phase::Working);
            return self.work(command, Task::Start { guest: command.guest, paused: false }, actions);
        }
        if managed {
            return self.end_with_wish(command, Some(Power::Stopped), actions);
        }
        self.end(command.operation, None, actions);
    }

    /// The restored guest runs.
    pub(crate) fn restored_and_started(&mut self, command: &Command, order: &RestoreOrder, actions: &mut Vec<Action>) {
        if self.wishes.contains_key(&command.guest) || order.to_be != RestoreAs::AsItWas {
            return self.end_with_wish(command, Some(Power::Running), actions);
        }
        self.end(command.operation, None, actions);
    }

    /// Points of restores that were asked for and have not ended.
    pub(super) fn restores_waiting(&self) -> Vec<PointId> {
        let point = |verb: &Verb| if let Verb::Restore { order } = verb { Some(order.point) } else { None };
        let open = self.operations.values().filter(|record| record.stage == Stage::Taken);
        open.filter_map(|record| point(&record.command.verb)).collect()
    }
}

/// How long a guest has for its sign of life when no policy says.
const PROOF_PATIENCE: roost_protocol::Millis = roost_protocol::Millis::seconds(300);
