//! What API callers ask for: checked, made durable, answered.

use roost_protocol::backup::{RestoreAs, Target};
use roost_protocol::operation::Verb;
use roost_protocol::{GuestId, HostId, Millis, OperationId};

use crate::call::{Call, CallError, CallErrorCode, Done, Reply};
use crate::event::{Action, CallId};
use crate::grid::{Grid, Host, Now, Presence};
use crate::history::Line;
use crate::intent::{HostRecord, IntentChange};
use crate::operation::Operation;

/// Operations that wait on one host at a time.
const WAITING_PER_HOST: usize = 500;
/// Bounds on the intent, so that the grid document stays small enough to travel in one frame.
const USERS: usize = 2_000;
const API_TOKENS: usize = 1_000;

pub(crate) fn error(code: CallErrorCode, text: impl Into<String>) -> CallError {
    CallError { code, text: text.into() }
}

/// One wish for a guest.
struct GuestCall {
    operation: OperationId,
    guest: GuestId,
    guest_name: Option<String>,
    host: Option<HostId>,
    verb: Verb,
    timeout: Millis,
    key: Option<String>,
}

impl Grid {
    pub(crate) fn called(&mut self, now: Now, call: CallId, by: String, what: Call, actions: &mut Vec<Action>) {
        let reply = match what {
            Call::Guest { operation, guest, guest_name, host, verb, timeout, key } => {
                let wish = GuestCall { operation, guest, guest_name, host, verb, timeout, key };
                self.guest_call(now, &by, wish, actions)
            }
            Call::Cancel { operation } => self.cancel(operation, actions),
            Call::Enrol { host, record, token } => self.enrol(now, host, record, &token, actions),
            Call::RemoveHost { host } => self.remove_host(now, &by, host, actions),
            Call::Zone { host, zone } => self.set_zone(now, &by, host, zone, actions),
            Call::SetMemory { host, order } => self.set_memory(now, &by, host, order, actions),
            Call::Maintenance { host, drain } => self.set_maintenance(now, &by, host, drain, actions),
            Call::SetProbes { guest, probes } => self.set_probes(now, &by, guest, &probes, actions),
            Call::SetFence { host, device } => self.set_fence(now, &by, host, device, actions),
            Call::FenceTested { host, device } => self.fence_tested(now, &by, host, &device, actions),
            Call::WatchdogTestBegun { host } => self.watchdog_test_begun(now, &by, host, actions),
            Call::RebootBegun { host } => self.reboot_begun(now, &by, host, actions),
            Call::PutJoinToken { id, record } => self.put_join_token(now, id, record, actions),
            Call::DeleteJoinToken { id } => self.delete_join_token(&id, actions),
            Call::PutUser { name, record, create } => self.put_user(now, &by, name, record, create, actions),
            Call::DeleteUser { name } => self.delete_user(now, &by, &name, actions),
            Call::PutApiToken { id, record } => self.put_api_token(id, record, actions),
            Call::DeleteApiToken { id } => self.delete_api_token(&id, actions),
            Call::PutBackupPolicy { policy, create } => self.put_backup_policy(now, &by, policy, create, actions),
            Call::DeleteBackupPolicy { name } => self.delete_backup_policy(now, &by, &name, actions),
            Call::PutNotifier { notifier, create } => self.put_notifier(now, &by, notifier, create, actions),
            Call::DeleteNotifier { name } => self.delete_notifier(now, &by, &name, actions),
            Call::PutSilence { id, silence } => self.put_silence(now, id, silence, actions),
            Call::DeleteSilence { id } => self.delete_silence(now, &by, &id, actions),
            Call::Acknowledge { alarm, note } => self.acknowledge(now, &by, &alarm, note, actions),
            Call::Points { host, query } => match self.ask_points(now, call, host, query, actions) {
                // Answered when the host has answered.
                Ok(()) => return,
                Err(why) => Err(why),
            },
        };
        actions.push(Action::Answer { call, reply });
    }

    fn guest_call(&mut self, now: Now, by: &str, wish: GuestCall, actions: &mut Vec<Action>) -> Reply {
        if let Some(earlier) = wish.key.as_deref().and_then(|key| self.commands.by_key(key)) {
            return same_request(earlier, &wish);
        }
        let host = self.host_for(&wish)?;
        let guest_name = self.name_for(&wish, host)?;
        let link = self.reachable(host)?;
        self.speaks(host, &wish.verb)?;
        self.nowhere_else(host, &wish)?;
        self.takes_guests(host, &wish.verb)?;
        self.may_be_handed_over(wish.guest, &wish.verb)?;
        if self.commands.waiting_on(host).count() >= WAITING_PER_HOST {
            return Err(error(
                CallErrorCode::TooMany,
                format!("{WAITING_PER_HOST} operations wait on this host already; try again later"),
            ));
        }
        let (subject, times) = ((wish.guest, guest_name), (now.wall, wish.timeout));
        let operation = Operation::asked(wish.operation, host, subject, wish.verb, by, times);
        let operation = Operation { key: wish.key, ..operation };
        self.take_on(now, &operation, wish.timeout, actions);
        if let Some(giver) = giver(&operation.verb) {
            // Both ends learn of it at once: who takes, and who gives.
            self.look_at_peers(host, now.time);
            self.look_at_peers(giver, now.time);
            self.tell_peers(now, actions);
        }
        if let Some(link) = link {
            self.send_command(now, link, &operation, actions);
        }
        let text = format!("{} of {} asked for by {by}", operation.verb.word(), operation.guest_name);
        self.publish(
            now,
            Line::info("operation.started", text).host(host).guest(wish.guest).operation(wish.operation).user(by),
            actions,
        );
        Ok(Done::Operation(Box::new(operation)))
    }

    fn host_for(&self, wish: &GuestCall) -> Result<HostId, CallError> {
        match (&wish.verb, wish.host) {
            (Verb::Create { .. } | Verb::Import { .. }, Some(host)) => Ok(host),
            (Verb::Create { spec, .. }, None) => {
                self.place(spec.memory_mib, spec.memory.as_ref().and_then(|wish| wish.trust.as_deref()))
            }
            (Verb::Import { .. }, None) => {
                Err(error(CallErrorCode::Invalid, "an import needs a host: say which one has the disks"))
            }
            (Verb::Restore { .. }, Some(host)) => Ok(host),
            (Verb::Restore { order }, None) => self.set_host(order.set),
            (verb, _) if verb.beside() => self.set_host(wish.guest),
            (_, _) => {
                self.guest_host(wish.guest).ok_or_else(|| error(CallErrorCode::NotFound, "no host reports this guest"))
            }
        }
    }

    fn name_for(&self, wish: &GuestCall, host: HostId) -> Result<String, CallError> {
        if let Verb::Create { spec, .. } = &wish.verb {
            spec.check().map_err(|why| error(CallErrorCode::Invalid, why))?;
            self.name_free(&spec.name)?;
            return Ok(spec.name.clone());
        }
        if let (Verb::Import { .. }, Some(name)) = (&wish.verb, &wish.guest_name) {
            self.name_free(name)?;
        }
        if let Verb::Restore { order } = &wish.verb {
            order.to_be.check().map_err(|why| error(CallErrorCode::Invalid, why))?;
            if let RestoreAs::AsNew { name, .. } = &order.to_be {
                self.name_free(name)?;
                return Ok(name.clone());
            }
        }
        let known = self.hosts.get(&host).and_then(|host| Some(host.guests.get(&wish.guest)?.report.name.clone()));
        let of_set = || Some(self.hosts.get(&host)?.backups.sets.get(&wish.guest)?.guest_name.clone());
        let known = known.or_else(of_set).or_else(|| wish.guest_name.clone());
        Ok(known.unwrap_or_else(|| wish.guest.to_string()))
    }

    fn name_free(&self, name: &str) -> Result<(), CallError> {
        let coming = self.commands.open().any(|operation| name_to_be(&operation.verb) == Some(name));
        if self.places.named(name) || coming {
            return Err(error(
                CallErrorCode::AlreadyExists,
                format!("the grid has a guest named {name:?} already; choose another name"),
            ));
        }
        Ok(())
    }

    /// The link to a host that is heard, or whose link broke just now (then there is none yet).
    pub(crate) fn reachable(&self, host: HostId) -> Result<Option<crate::event::LinkId>, CallError> {
        let host = self.hosts.get(&host).ok_or_else(|| error(CallErrorCode::NotFound, "no such host"))?;
        match host.presence {
            Presence::Up { .. } | Presence::Suspect { .. } => Ok(host.link()),
            Presence::Never | Presence::Down { .. } => {
                let text =
                    format!("host {} is not connected; its guests go on, but nothing can be asked of it", host.name);
                Err(error(CallErrorCode::HostUnreachable, text))
            }
        }
    }

    /// Refuses to make a guest as it was on one host while another one has it: it must not run twice.
    fn nowhere_else(&self, host: HostId, wish: &GuestCall) -> Result<(), CallError> {
        let Verb::Restore { order } = &wish.verb else { return Ok(()) };
        let place = self.guest_host(order.set).filter(|place| *place != host && order.to_be == RestoreAs::AsItWas);
        let Some(place) = place.and_then(|place| self.hosts.get(&place)) else { return Ok(()) };
        let text = format!(
            "host {} has this guest: restore it as new, delete it there, or remove that host from the grid if it is gone \
             for good",
            place.name
        );
        Err(error(CallErrorCode::WrongState, text))
    }

    /// Refuses what the host's agent is too old for.
    fn speaks(&self, host: HostId, verb: &Verb) -> Result<(), CallError> {
        match self.hosts.get(&host) {
            Some(host) if host.version < verb.since() => {
                let text = format!("the agent of host {} is too old for this: upgrade it", host.name);
                Err(error(CallErrorCode::WrongState, text))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn cancel(&mut self, id: OperationId, actions: &mut Vec<Action>) -> Reply {
        let operation =
            self.operations().get(&id).ok_or_else(|| error(CallErrorCode::NotFound, "no such operation"))?.clone();
        if operation.state.ended() {
            return Err(error(CallErrorCode::WrongState, "the operation has ended"));
        }
        let link = self.hosts.get(&operation.host).and_then(Host::link);
        let Some(link) = link else {
            return Err(error(
                CallErrorCode::HostUnreachable,
                "the host is not connected; whether it has begun is not known",
            ));
        };
        actions.push(Action::Send { link, message: roost_protocol::message::ToAgent::Cancel { operation: id } });
        Ok(Done::Operation(Box::new(operation)))
    }

    fn remove_host(&mut self, now: Now, by: &str, id: HostId, actions: &mut Vec<Action>) -> Reply {
        let Some(record) = self.intent.hosts.get(&id).filter(|record| record.removed.is_none()).cloned() else {
            return Err(error(CallErrorCode::NotFound, "no such host"));
        };
        let name = record.name.clone();
        let link = self.hosts.get(&id).and_then(Host::link);
        self.change_intent(
            vec![IntentChange::Host { id, record: HostRecord { removed: Some(now.wall), ..record } }],
            actions,
        );
        if let Some(link) = link {
            self.cut_off(now, link, id, "it was removed from the grid", actions);
        }
        self.hosts.remove(&id);
        self.places.keep(|host| *host != id);
        // Its neighbours are not to hear it any more, at once.
        for host in self.hosts.values_mut() {
            host.told.look(now.time);
        }
        self.publish(
            now,
            Line::warning("host.removed", format!("host {name} was removed by {by}; its guests go on"))
                .host(id)
                .user(by),
            actions,
        );
        Ok(Done::Nothing)
    }

    fn put_user(
        &mut self,
        now: Now,
        by: &str,
        name: String,
        record: crate::intent::UserRecord,
        create: bool,
        actions: &mut Vec<Action>,
    ) -> Reply {
        let exists = self.intent.users.contains_key(&name);
        if create && exists {
            return Err(error(CallErrorCode::AlreadyExists, format!("there is a user {name:?} already")));
        }
        if !create && !exists {
            return Err(error(CallErrorCode::NotFound, "no such user"));
        }
        if create {
            within(self.intent.users.len(), USERS, "users")?;
        }
        let text = format!("user {name} was {} by {by}", if create { "made" } else { "changed" });
        self.change_intent(vec![IntentChange::User { name, record: Some(record) }], actions);
        self.publish(now, Line::info("user.changed", text).user(by), actions);
        Ok(Done::Nothing)
    }

    fn delete_user(&mut self, now: Now, by: &str, name: &str, actions: &mut Vec<Action>) -> Reply {
        if !self.intent.users.contains_key(name) {
            return Err(error(CallErrorCode::NotFound, "no such user"));
        }
        if self.intent.users.len() == 1 {
            return Err(error(
                CallErrorCode::WrongState,
                "this is the last user: nobody could log in any more; make another one first",
            ));
        }
        let tokens = self.intent.api_tokens.iter().filter(|(_, token)| token.user == name).map(|(id, _)| id.clone());
        let mut changes: Vec<IntentChange> = tokens.map(|id| IntentChange::ApiToken { id, record: None }).collect();
        changes.push(IntentChange::User { name: name.into(), record: None });
        self.change_intent(changes, actions);
        self.publish(now, Line::info("user.deleted", format!("user {name} was deleted by {by}")).user(by), actions);
        Ok(Done::Nothing)
    }

    fn put_api_token(&mut self, id: String, record: crate::intent::ApiTokenRecord, actions: &mut Vec<Action>) -> Reply {
        within(self.intent.api_tokens.len(), API_TOKENS, "API tokens")?;
        self.change_intent(vec![IntentChange::ApiToken { id, record: Some(record) }], actions);
        Ok(Done::Nothing)
    }

    fn delete_api_token(&mut self, id: &str, actions: &mut Vec<Action>) -> Reply {
        if !self.intent.api_tokens.contains_key(id) {
            return Err(error(CallErrorCode::NotFound, "no such API token"));
        }
        self.change_intent(vec![IntentChange::ApiToken { id: id.into(), record: None }], actions);
        Ok(Done::Nothing)
    }

    /// One generation: applied, made durable, spread.
    pub(crate) fn change_intent(&mut self, changes: Vec<IntentChange>, actions: &mut Vec<Action>) {
        for change in &changes {
            self.intent.apply(change);
        }
        self.forget_uses();
        self.intent.generation = self.intent.generation.next();
        self.save_intent(changes, Vec::new(), actions);
    }
}

/// The host that a point is taken from.
fn giver(verb: &Verb) -> Option<HostId> {
    let Verb::Restore { order } = verb else { return None };
    match order.from {
        Target::Peer { host, .. } => Some(host),
        Target::Local | Target::Directory { .. } => None,
    }
}

pub(crate) fn within(count: usize, most: usize, what: &str) -> Result<(), CallError> {
    if count < most {
        Ok(())
    } else {
        Err(error(CallErrorCode::TooMany, format!("a grid has at most {most} {what}: delete some")))
    }
}

/// The name of the guest that this makes, where it says one.
fn name_to_be(verb: &Verb) -> Option<&str> {
    if let Verb::Create { spec, .. } = verb {
        return Some(&spec.name);
    }
    if let Verb::Restore { order } = verb
        && let RestoreAs::AsNew { name, .. } = &order.to_be
    {
        return Some(name);
    }
    None
}

fn same_request(earlier: &Operation, wish: &GuestCall) -> Reply {
    let new_guest = matches!(wish.verb, Verb::Create { .. } | Verb::Import { .. });
    let same_host = wish.host.is_none_or(|host| host == earlier.host);
    if earlier.verb == wish.verb && same_host && (new_guest || earlier.guest == wish.guest) {
        return Ok(Done::Operation(Box::new(earlier.clone())));
    }
    Err(error(CallErrorCode::KeyReused, "this idempotency key was used with another request: use a new one"))
}
