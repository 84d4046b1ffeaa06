//! Backup as the grid sees it: what hosts keep, the policies admins choose from, and questions about points.
//!
//! A host follows the policy it was given by itself. Here policies have names; when one changes, every guest that its
//! host says follows it is given the new generation, also a host that was away or an aggregator that was rebuilt.

use std::collections::BTreeMap;

use roost_protocol::backup::status::SETS_PER_HOST;
use roost_protocol::backup::{
    BackupBeat, BackupPolicy, PointQuery, PointsPage, Pulling, ReplicaState, ReplicaStatus, SetSummary, StoreStatus,
    query,
};
use roost_protocol::calendar::Calendar;
use roost_protocol::message::ToAgent;
use roost_protocol::operation::{FailureCode, Verb};
use roost_protocol::{GuestId, HostId, Millis, OperationId, Time};

use crate::call::{CallError, CallErrorCode, Done, Reply};
use crate::calls::{error, within};
use crate::event::{Action, CallId, LinkId};
use crate::grid::{Grid, Host, Now};
use crate::history::Line;
use crate::intent::IntentChange;
use crate::operation::{Operation, State};

/// Bound on the intent, so that the grid document stays small enough to travel in one frame.
const POLICIES: usize = 100;
/// Questions to hosts that may be open at once.
const QUESTIONS: usize = 256;
/// A host that has not answered a question for so long won't.
const PATIENCE: Millis = Millis::seconds(10);
/// Guests of one host that are given a changed policy at the same time.
const AT_ONCE: usize = 20;
/// How long a host may take to take a policy in.
const POLICY_BUDGET: Millis = Millis::seconds(60);
/// Times that a host may be too slow for it: for so many minutes something else is wrong, and told of by alarms.
const POLICY_TRIES: u8 = 60;
/// Who asks when a policy changes.
const GRID: &str = "grid";

/// What one host keeps.
#[derive(Clone, Debug, Default)]
pub struct Backups {
    /// By guest; also of guests that are gone, and those kept for other hosts.
    pub sets: BTreeMap<GuestId, SetSummary>,
    pub replicas: BTreeMap<GuestId, Replica>,
    pub store: Option<StoreStatus>,
    /// Guests whose data it still brings in; absent: it has not told.
    pub pulls: Option<BTreeMap<GuestId, Pulling>>,
}

/// What a host told of a replica of its guest, which it tells when something changes.
#[derive(Clone, Debug)]
pub struct Replica {
    pub status: ReplicaStatus,
    pub heard: Time,
}

impl Replica {
    /// How old the copy is by now, whether or not its host is heard. One that lacks nothing, because its guest is off, does
    /// not age.
    pub fn lag(&self, now: Time) -> Option<Millis> {
        let aged = |lag: Millis| Millis(lag.0.saturating_add(now.since(self.heard).0));
        self.status.lag.map(|lag| if lag == Millis(0) { lag } else { aged(lag) })
    }

    /// As its host told it, but that a copy is not young enough for ever.
    pub fn state(&self, now: Time) -> ReplicaState {
        let behind = self.lag(now).is_some_and(|lag| lag > self.status.max_lag);
        match &self.status.state {
            ReplicaState::Following if behind => ReplicaState::Behind,
            told @ (ReplicaState::Seeding
            | ReplicaState::Following
            | ReplicaState::Behind
            | ReplicaState::Broken { .. }
            | ReplicaState::Held) => told.clone(),
        }
    }
}

/// What hosts were asked and have not answered.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    next: u64,
    open: BTreeMap<u64, Question>,
}

#[derive(Debug)]
struct Question {
    call: CallId,
    host: HostId,
    until: Time,
}

impl Grid {
    /// The host that makes a guest's points; the one that keeps them, where the guest is gone.
    ///
    /// # Errors
    /// No host reports such a guest or set.
    pub fn set_host(&self, guest: GuestId) -> Result<HostId, CallError> {
        let has = |host: &&Host| host.backups.sets.contains_key(&guest);
        let own = |host: &&Host| host.backups.sets.get(&guest).is_some_and(|set| set.origin == host.id);
        let kept = || self.hosts().values().find(own).or_else(|| self.hosts().values().find(has));
        let found = self.guest_host(guest).or_else(|| kept().map(|host| host.id));
        found.ok_or_else(|| error(CallErrorCode::NotFound, "no host reports this guest or points of it"))
    }

    /// The host to ask for a guest's points: the one that makes them while it is connected, else another that keeps some.
    ///
    /// # Errors
    /// No host reports such a guest or set.
    pub fn points_host(&self, guest: GuestId) -> Result<HostId, CallError> {
        let home = self.set_host(guest)?;
        if self.hosts().get(&home).is_some_and(|host| host.link().is_some()) {
            return Ok(home);
        }
        let keeps = |host: &&Host| host.link().is_some() && host.backups.sets.contains_key(&guest);
        Ok(self.hosts().values().find(keeps).map_or(home, |host| host.id))
    }

    /// Takes in what a host tells of its sets, replicas and store.
    pub(crate) fn backups_told(
        &mut self,
        now: Now,
        link: LinkId,
        id: HostId,
        told: BackupBeat,
        actions: &mut Vec<Action>,
    ) {
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let mut lines = Vec::new();
        for guest in told.gone {
            host.backups.sets.remove(&guest);
        }
        for guest in told.replicas_gone {
            host.backups.replicas.remove(&guest);
        }
        for set in told.sets {
            lines.extend(set_line(host.backups.sets.get(&set.guest), &set));
            host.backups.sets.insert(set.guest, set);
        }
        for replica in told.replicas {
            let was = host.backups.replicas.get(&replica.guest).map(|was| &was.status);
            lines.extend(replica_line(was, &replica));
            host.backups.replicas.insert(replica.guest, Replica { status: replica, heard: now.time });
        }
        host.backups.store = told.store.or(host.backups.store);
        if let Some(pulls) = told.pulls {
            host.backups.pulls = Some(pulls.into_iter().map(|pull| (pull.guest, pull)).collect());
        }
        let pulls = host.backups.pulls.as_ref().map_or(0, BTreeMap::len);
        let shares = told.shares.unwrap_or_default();
        let most = host.backups.sets.len().max(host.backups.replicas.len()).max(pulls).max(shares.len());
        if most > SETS_PER_HOST {
            return self.misbehaved(now, link, id, "it reports more backup sets than a host may have", actions);
        }
        host.shared.extend(shares);
        for line in lines {
            self.publish(now, line.host(id), actions);
        }
        self.renew_policies(now, id, actions);
    }

    pub(crate) fn put_backup_policy(
        &mut self,
        now: Now,
        by: &str,
        mut policy: Box<BackupPolicy>,
        create: bool,
        actions: &mut Vec<Action>,
    ) -> Reply {
        let name = policy.name.clone();
        match (create, self.intent.backup_policies.contains_key(&name)) {
            (true, true) => {
                return Err(error(CallErrorCode::AlreadyExists, format!("there is a backup policy {name:?} already")));
            }
            (false, false) => return Err(error(CallErrorCode::NotFound, "no such backup policy")),
            (true, false) => within(self.intent.backup_policies.len(), POLICIES, "backup policies")?,
            (false, true) => {}
        }
        check(&policy)?;
        // Generations of the intent rise over all policies, so a policy made again after it was deleted is newer too.
        policy.generation = self.intent.generation.next();
        let text = format!("backup policy {name} was {} by {by}", if create { "made" } else { "changed" });
        self.change_intent(vec![IntentChange::BackupPolicy { name, record: Some(policy) }], actions);
        self.publish(now, Line::info("backup.policy", text).user(by), actions);
        let hosts: Vec<HostId> = self.hosts.keys().copied().collect();
        for host in hosts {
            self.renew_policies(now, host, actions);
        }
        Ok(Done::Nothing)
    }

    pub(crate) fn delete_backup_policy(&mut self, now: Now, by: &str, name: &str, actions: &mut Vec<Action>) -> Reply {
        if !self.intent.backup_policies.contains_key(name) {
            return Err(error(CallErrorCode::NotFound, "no such backup policy"));
        }
        let follow = self.followers(name);
        if follow > 0 {
            let text = format!("{follow} guests follow this policy: give them another one, or none, first");
            return Err(error(CallErrorCode::WrongState, text));
        }
        self.change_intent(vec![IntentChange::BackupPolicy { name: name.into(), record: None }], actions);
        self.publish(
            now,
            Line::info("backup.policy", format!("backup policy {name} was deleted by {by}")).user(by),
            actions,
        );
        Ok(Done::Nothing)
    }

    /// Guests whose hosts follow the policy of this name.
    pub fn followers(&self, name: &str) -> usize {
        let sets = self.hosts.values().flat_map(|host| host.backups.sets.values());
        sets.filter(|set| set.policy_name == name).count()
    }

    /// Gives guests of this host that follow an older generation of a policy the newest one.
    fn renew_policies(&mut self, now: Now, id: HostId, actions: &mut Vec<Action>) {
        let Some(host) = self.hosts.get(&id).filter(|host| host.link().is_some()) else { return };
        let asked: Vec<GuestId> = self
            .commands
            .waiting_on(id)
            .filter(|operation| matches!(operation.verb, Verb::SetBackupPolicy { .. }))
            .map(|operation| operation.guest)
            .collect();
        let old = host.backups.sets.values().filter_map(|set| {
            let newest = self.intent.backup_policies.get(&set.policy_name)?;
            let older = set.policy.is_some_and(|policy| policy < newest.generation);
            (older && !asked.contains(&set.guest)).then(|| (set.guest, set.guest_name.clone(), newest.clone()))
        });
        let old: Vec<_> = old.take(AT_ONCE.saturating_sub(asked.len())).collect();
        for (guest, guest_name, policy) in old {
            self.give_policy(now, id, (guest, guest_name), policy, actions);
        }
    }

    /// The host that took a guest over follows the policy that the one before followed.
    pub(crate) fn hand_on_policy(
        &mut self,
        now: Now,
        guest: GuestId,
        name: &str,
        (from, to): (HostId, HostId),
        actions: &mut Vec<Action>,
    ) {
        let set = |host: HostId| self.hosts.get(&host).and_then(|host| host.backups.sets.get(&guest));
        let follows = set(to).is_some_and(|set| set.policy.is_some());
        let policy = set(from).and_then(|set| self.intent.backup_policies.get(&set.policy_name));
        if let Some(policy) = policy.filter(|_| !follows).cloned() {
            self.give_policy(now, to, (guest, name.to_owned()), policy, actions);
        }
    }

    /// Has a host follow a policy for a guest, on behalf of the grid.
    fn give_policy(
        &mut self,
        now: Now,
        host: HostId,
        (guest, guest_name): (GuestId, String),
        policy: BackupPolicy,
        actions: &mut Vec<Action>,
    ) {
        let Some(link) = self.hosts.get(&host).and_then(Host::link) else { return };
        // Tried and refused since the aggregator started: an admin has to look, not we again each beat. One that a host was
        // too slow to begin is tried anew.
        let lapsed = |code: FailureCode| matches!(code, FailureCode::TimedOut | FailureCode::HostUnreachable);
        let late = |state: &State| matches!(state, State::Failed(why) if lapsed(why.code));
        let tries = (0..POLICY_TRIES).map(|one| renewal(host, guest, &policy, self.config.epoch, one));
        let open = |id: &OperationId| self.operations().get(id).is_none_or(|before| !late(&before.state));
        let mut untried = tries.skip_while(|id| !open(id));
        let Some(id) = untried.next().filter(|id| !self.operations().contains_key(id)) else { return };
        let verb = Verb::SetBackupPolicy { policy: Some(Box::new(policy)) };
        let operation = Operation::asked(id, host, (guest, guest_name), verb, GRID, (now.wall, POLICY_BUDGET));
        self.take_on(now, &operation, POLICY_BUDGET, actions);
        self.send_command(now, link, &operation, actions);
    }

    pub(crate) fn ask_points(
        &mut self,
        now: Now,
        call: CallId,
        host: HostId,
        query: PointQuery,
        actions: &mut Vec<Action>,
    ) -> Result<(), CallError> {
        let away = || error(CallErrorCode::HostUnreachable, "the host that has the points is not connected");
        let link = self.reachable(host)?.ok_or_else(away)?;
        if self.hosts.get(&host).is_some_and(|host| host.version < roost_protocol::backup::SINCE) {
            return Err(error(CallErrorCode::WrongState, "the host's agent is too old for this: upgrade it"));
        }
        if self.questions.open.len() >= QUESTIONS {
            return Err(error(CallErrorCode::TooMany, "hosts are being asked too much; try again later"));
        }
        self.questions.next += 1;
        let ask = self.questions.next;
        self.questions.open.insert(ask, Question { call, host, until: now.time + PATIENCE });
        actions.push(Action::Send { link, message: ToAgent::Points(PointQuery { ask, ..query }) });
        Ok(())
    }

    pub(crate) fn points_told(&mut self, host: HostId, mut page: PointsPage, actions: &mut Vec<Action>) {
        if self.questions.open.get(&page.ask).is_none_or(|question| question.host != host) {
            return;
        }
        let Some(question) = self.questions.open.remove(&page.ask) else { return };
        page.points.truncate(query::PAGE);
        actions.push(Action::Answer { call: question.call, reply: Ok(Done::Points(Box::new(page))) });
    }

    /// Answers callers whose host stays silent.
    pub(crate) fn give_up_questions(&mut self, now: Now, actions: &mut Vec<Action>) {
        let due = self.questions.open.iter().filter(|(_, question)| question.until <= now.time);
        let due: Vec<u64> = due.map(|(ask, _)| *ask).collect();
        for question in due.iter().filter_map(|ask| self.questions.open.remove(ask)) {
            let reply = Err(error(CallErrorCode::HostUnreachable, "the host did not answer; try again"));
            actions.push(Action::Answer { call: question.call, reply });
        }
    }
}

fn check(policy: &BackupPolicy) -> Result<(), CallError> {
    let invalid = |why: String| error(CallErrorCode::Invalid, why);
    if policy.name.is_empty() {
        return Err(invalid("a backup policy has a name".into()));
    }
    policy.check().map_err(invalid)?;
    match &policy.schedule {
        Some(schedule) => Calendar::parse(&schedule.expression).map(drop).map_err(|why| invalid(why.to_string())),
        None => Ok(()),
    }
}

/// The same for the same wish, so that it is asked for once. Random ids never have a zero version.
fn renewal(host: HostId, guest: GuestId, policy: &BackupPolicy, epoch: roost_protocol::Epoch, one: u8) -> OperationId {
    let mut id = guest.bytes();
    id.iter_mut().zip(host.bytes()).for_each(|(byte, mixed)| *byte ^= mixed);
    for (byte, mixed) in id.iter_mut().zip(policy.generation.0.to_be_bytes().into_iter().chain(epoch.0.to_be_bytes())) {
        *byte ^= mixed;
    }
    id[6] &= 0x0f;
    id[9] ^= one;
    OperationId::from_bytes(id)
}

/// What is worth a line in the history.
fn set_line(was: Option<&SetSummary>, is: &SetSummary) -> Option<Line> {
    let name = &is.guest_name;
    let failed = |set: &SetSummary| set.failure.as_ref().map(|failure| failure.at);
    let line = match &is.failure {
        Some(failure) if was.and_then(failed) != Some(failure.at) => {
            Line::warning("backup.failed", format!("backup of {name} failed: {}", failure.text))
        }
        Some(_) | None if was.is_some_and(|was| was.newest != is.newest) && is.newest.is_some() => {
            Line::info("backup.made", format!("{name} has a new restore point"))
        }
        Some(_) | None if is.damaged > was.map_or(0, |was| was.damaged) => {
            Line::warning("backup.damaged", format!("{} restore points of {name} are damaged", is.damaged))
        }
        Some(_) | None => return None,
    };
    Some(line.guest(is.guest))
}

fn replica_line(was: Option<&ReplicaStatus>, is: &ReplicaStatus) -> Option<Line> {
    let changed = was.map(|was| std::mem::discriminant(&was.state)) != Some(std::mem::discriminant(&is.state));
    let line = match &is.state {
        ReplicaState::Broken { why } if changed => {
            Line::warning("replica.broken", format!("the replica of guest {} is broken: {why}", is.guest))
        }
        ReplicaState::Behind if changed => {
            Line::warning("replica.behind", format!("the replica of guest {} is older than it may be", is.guest))
        }
        ReplicaState::Following if changed && was.is_some() => {
            Line::info("replica.following", format!("the replica of guest {} is young enough again", is.guest))
        }
        ReplicaState::Broken { .. }
        | ReplicaState::Behind
        | ReplicaState::Following
        | ReplicaState::Seeding
        | ReplicaState::Held => return None,
    };
    Some(line.guest(is.guest))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_replica_ages_while_nothing_is_heard_of_it_and_one_that_lacks_nothing_does_not() {
        let told = |lag: Option<u64>, state: ReplicaState| {
            let (every, max_lag, lag) = (Millis(5_000), Millis(15_000), lag.map(Millis));
            let (guest, host, point, shows) = (GuestId::from_u128(1), None, None, None);
            let status = ReplicaStatus { guest, host, state, lag, point, shows, every, max_lag };
            Replica { status, heard: Time(100_000) }
        };
        let check = |replica: Replica, after: u64, lag: Option<u64>, state: ReplicaState| {
            let now = Time(100_000 + after);
            assert_eq!((replica.lag(now), replica.state(now)), (lag.map(Millis), state));
        };
        use ReplicaState::{Behind, Following, Held, Seeding};
        check(told(Some(2_000), Following), 0, Some(2_000), Following);
        check(told(Some(2_000), Following), 13_000, Some(15_000), Following);
        check(told(Some(2_000), Following), 14_000, Some(16_000), Behind);
        check(told(Some(2_000), Held), 14_000, Some(16_000), Held);
        check(told(Some(0), Following), 90_000, Some(0), Following);
        check(told(None, Seeding), 90_000, None, Seeding);
    }
}
