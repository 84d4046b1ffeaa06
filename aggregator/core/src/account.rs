//! When people and programs last came in. Kept beside the intent, not in it: it changes all the time, nothing is decided
//! by it, and losing it costs nothing but the knowledge.

use std::collections::BTreeMap;

use roost_protocol::Stamp;

use crate::event::Action;
use crate::grid::{Grid, Now};
use crate::intent::Intent;

/// What came in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Account {
    /// The user with this name logged in.
    User(String),
    /// The API token with this id was used.
    ApiToken(String),
}

/// The last time of each.
pub type LastUses = BTreeMap<Account, Stamp>;

impl Account {
    fn exists(&self, intent: &Intent) -> bool {
        match self {
            Account::User(name) => intent.users.contains_key(name),
            Account::ApiToken(id) => intent.api_tokens.contains_key(id),
        }
    }
}

impl Grid {
    /// What an earlier run kept.
    pub fn remember_uses(&mut self, uses: LastUses) {
        self.uses = uses;
        self.forget_uses();
    }

    /// Reading: when each last came in.
    pub fn uses(&self) -> &LastUses {
        &self.uses
    }

    pub(crate) fn used(&mut self, now: Now, who: Account, actions: &mut Vec<Action>) {
        if who.exists(&self.intent) {
            self.uses.insert(who.clone(), now.wall);
            actions.push(Action::Used { who, at: now.wall });
        }
    }

    /// Whoever is deleted is forgotten.
    pub(crate) fn forget_uses(&mut self) {
        let intent = &self.intent;
        self.uses.retain(|who, _| who.exists(intent));
    }
}
