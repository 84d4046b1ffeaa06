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
/// Tokens that still let a host in.
const JOIN_TOKENS: usize = 1_000;
/// Used and expired ones kept for people to see; the one spent longest ago goes first.
const SPENT_TOKENS: usize = 100;

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
        let record = HostRecord { name: token_record.host_name.clone().unwrap_or(record.name), ..record };
        self.enrollable(id, &record)?;
        let name = record.name.clone();
        let used = JoinTokenRecord { used_by: Some(id), used: Some(now.wall), ..token_record };
        let mut changes = self.surplus_tokens(now);
        changes.push(IntentChange::Host { id, record });
        changes.push(IntentChange::JoinToken { id: token.into(), record: Some(used) });
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

    pub(crate) fn put_join_token(
        &mut self,
        now: Now,
        id: String,
        record: JoinTokenRecord,
        actions: &mut Vec<Action>,
    ) -> Reply {
        let open = self.intent.join_tokens.values().filter(|token| token.spent(now.wall).is_none()).count();
        within(open, JOIN_TOKENS, "unused join tokens")?;
        let mut changes = self.surplus_tokens(now);
        changes.push(IntentChange::JoinToken { id, record: Some(record) });
        self.change_intent(changes, actions);
        Ok(Done::Nothing)
    }

    /// Forgets the tokens spent longest ago, so that there is room for one more.
    fn surplus_tokens(&self, now: Now) -> Vec<IntentChange> {
        let all = self.intent.join_tokens.iter();
        let mut spent: Vec<_> = all.filter_map(|(id, token)| Some((token.spent(now.wall)?, id))).collect();
        spent.sort_unstable();
        let surplus = spent.len().saturating_sub(SPENT_TOKENS - 1);
        spent
            .into_iter()
            .take(surplus)
            .map(|(_, id)| IntentChange::JoinToken { id: id.clone(), record: None })
            .collect()
    }

    pub(crate) fn delete_join_token(&mut self, id: &str, actions: &mut Vec<Action>) -> Reply {
        if !self.intent.join_tokens.contains_key(id) {
            return Err(error(CallErrorCode::NotFound, "no such join token"));
        }
        self.change_intent(vec![IntentChange::JoinToken { id: id.into(), record: None }], actions);
        Ok(Done::Nothing)
    }
}

#[cfg(test)]
mod test {
    use roost_protocol::{Epoch, GridId, Millis, Stamp, Time};

    use crate::event::CallId;
    use crate::{Call, Config, Event, Intent};

    use super::*;

    const NOW: Stamp = Stamp(1_000_000);

    fn grid() -> Grid {
        let config = Config {
            grid: GridId::from_u128(1),
            epoch: Epoch(1),
            suspect_after: Millis(6_000),
            down_after: Millis(15_000),
            recovering: false,
        };
        Grid::new(config, Intent::default(), Vec::new())
    }

    fn call(grid: &mut Grid, what: Call) -> Reply {
        let event = Event::Called { call: CallId(1), by: "ada".into(), what };
        let mut actions = grid.on(Time(0), NOW, event);
        let answer = actions.iter().position(|action| matches!(action, Action::Answer { .. })).unwrap();
        let Action::Answer { call: _, reply } = actions.swap_remove(answer) else { unreachable!() };
        reply
    }

    fn token(expires: Stamp, host_name: Option<&str>) -> JoinTokenRecord {
        JoinTokenRecord {
            secret_hash: [0; 32],
            created: Stamp(1),
            expires,
            created_by: "ada".into(),
            used_by: None,
            used: None,
            note: String::new(),
            host_name: host_name.map(str::to_owned),
        }
    }

    fn put(grid: &mut Grid, id: &str, record: JoinTokenRecord) -> Reply {
        call(grid, Call::PutJoinToken { id: id.into(), record })
    }

    fn join(grid: &mut Grid, number: u16, name: &str, token: &str) -> Reply {
        let mut key = [0; 32];
        key[..2].copy_from_slice(&number.to_be_bytes());
        let record = HostRecord::new(name.into(), key, NOW);
        call(grid, Call::Enrol { host: HostId::from_u128(number.into()), record, token: token.into() })
    }

    #[test]
    fn a_grid_goes_on_taking_hosts_after_its_thousandth_token() {
        let mut grid = grid();
        for number in 0..1_500 {
            let id = format!("t{number:04}");
            put(&mut grid, &id, token(Stamp(u64::MAX), None)).unwrap();
            join(&mut grid, number, &format!("h{number}"), &id).unwrap();
        }
        assert_eq!((grid.intent.hosts.len(), grid.intent.join_tokens.len()), (1_500, SPENT_TOKENS));
        assert!(grid.intent.join_tokens.contains_key("t1499"), "the newest are kept to be seen");
    }

    #[test]
    fn unused_tokens_are_bounded_and_expired_ones_take_no_place() {
        let mut grid = grid();
        for number in 0..200 {
            put(&mut grid, &format!("old{number:03}"), token(Stamp(number), None)).unwrap();
        }
        assert!(!grid.intent.join_tokens.contains_key("old000") && grid.intent.join_tokens.contains_key("old199"));
        for number in 0..JOIN_TOKENS {
            put(&mut grid, &format!("new{number}"), token(Stamp(u64::MAX), None)).unwrap();
        }
        let refused = put(&mut grid, "one more", token(Stamp(u64::MAX), None)).unwrap_err();
        assert_eq!(refused.code, CallErrorCode::TooMany);
        call(&mut grid, Call::DeleteJoinToken { id: "new7".into() }).unwrap();
        put(&mut grid, "one more", token(Stamp(u64::MAX), None)).unwrap();
    }

    #[test]
    fn a_host_gets_the_name_its_token_says_or_else_keeps_its_own() {
        let mut grid = grid();
        put(&mut grid, "a", token(Stamp(u64::MAX), Some("rack4-7"))).unwrap();
        put(&mut grid, "b", token(Stamp(u64::MAX), None)).unwrap();
        put(&mut grid, "c", token(Stamp(u64::MAX), Some("rack4-7"))).unwrap();
        join(&mut grid, 1, "localhost", "a").unwrap();
        join(&mut grid, 2, "localhost", "b").unwrap();
        assert_eq!(join(&mut grid, 3, "other", "c").unwrap_err().code, CallErrorCode::AlreadyExists);
        let names: Vec<&str> = grid.hosts.values().map(|host| host.name.as_str()).collect();
        assert_eq!(names, ["rack4-7", "localhost"]);
        let used = &grid.intent.join_tokens["a"];
        assert_eq!((used.used_by, used.used), (Some(HostId::from_u128(1)), Some(NOW)));
        assert_eq!(grid.intent.join_tokens["c"].used, None, "a refused host uses no token up");
    }
}
