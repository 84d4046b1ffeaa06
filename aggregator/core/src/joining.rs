//! Join tokens, and the hosts that come in with them.

use roost_protocol::HostId;

use crate::call::{CallError, CallErrorCode, Done, Reply};
use crate::calls::{error, within};
use crate::event::Action;
use crate::grid::{Grid, Now};
use crate::history::Line;
use crate::intent::{HostRecord, IntentChange, JoinTokenRecord};

/// Bounds on the intent, so that the grid document stays small enough to travel in one frame.
const HOSTS: usize = 4_000;
const JOIN_TOKENS: usize = 1_000;

impl Grid {
    pub(crate) fn enrol(
        &mut self,
        now: Now,
        id: HostId,
        record: HostRecord,
        token: &str,
        actions: &mut Vec<Action>,
    ) -> Reply {
        let usable = self.usable_token(now, token, &record.name);
        let token_record = match usable {
            Ok(token_record) => token_record,
            Err(why) => {
                let text = format!("host {} could not join: {}", record.name, why.text);
                self.publish(now, Line::warning("host.join_refused", text).host(id), actions);
                return Err(why);
            }
        };
        self.enrollable(id, &record)?;
        let name = record.name.clone();
        let used = JoinTokenRecord { used_by: Some(id), used: Some(now.wall), ..token_record };
        let changes =
            vec![IntentChange::Host { id, record }, IntentChange::JoinToken { id: token.into(), record: Some(used) }];
        self.change_intent(changes, actions);
        self.list_known_hosts();
        self.publish(
            now,
            Line::info("host.joined", format!("host {name} joined with token {token}")).host(id),
            actions,
        );
        Ok(Done::Nothing)
    }

    fn usable_token(&self, now: Now, token: &str, name: &str) -> Result<JoinTokenRecord, CallError> {
        let record = self
            .intent
            .join_tokens
            .get(token)
            .ok_or_else(|| error(CallErrorCode::NotFound, "the join token is not known"))?;
        if let Some(host) = record.used_by {
            let first = self.intent.hosts.get(&host).map_or_else(|| host.to_string(), |host| host.name.clone());
            let text = format!("the join token was used already by {first}, now by {name}: make a new one");
            return Err(error(CallErrorCode::WrongState, text));
        }
        if record.expires < now.wall {
            return Err(error(CallErrorCode::Invalid, "the join token has expired: make a new one"));
        }
        Ok(record.clone())
    }

    fn enrollable(&self, id: HostId, record: &HostRecord) -> Result<(), CallError> {
        if let Some(old) = self.intent.hosts.get(&id)
            && old.key != record.key
            && old.removed.is_none()
        {
            return Err(error(
                CallErrorCode::AlreadyExists,
                "a host with this id is in the grid with another key: remove it first",
            ));
        }
        let taken = self
            .intent
            .hosts
            .iter()
            .any(|(other, host)| *other != id && host.removed.is_none() && host.name == record.name);
        if taken {
            return Err(error(
                CallErrorCode::AlreadyExists,
                format!("a host named {:?} is in the grid already: join with another name", record.name),
            ));
        }
        within(self.intent.hosts.len(), HOSTS, "hosts")
    }

    pub(crate) fn put_join_token(&mut self, id: String, record: JoinTokenRecord, actions: &mut Vec<Action>) -> Reply {
        within(self.intent.join_tokens.len(), JOIN_TOKENS, "join tokens")?;
        self.change_intent(vec![IntentChange::JoinToken { id, record: Some(record) }], actions);
        Ok(Done::Nothing)
    }

    pub(crate) fn delete_join_token(&mut self, id: &str, actions: &mut Vec<Action>) -> Reply {
        if !self.intent.join_tokens.contains_key(id) {
            return Err(error(CallErrorCode::NotFound, "no such join token"));
        }
        self.change_intent(vec![IntentChange::JoinToken { id: id.into(), record: None }], actions);
        Ok(Done::Nothing)
    }
}
