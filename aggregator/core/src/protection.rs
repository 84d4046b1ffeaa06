//! Whether a guest would be gone on with if its host died now, and if not, why not: from what hosts report, before it
//! counts. Nothing is decided by it.

use roost_protocol::backup::ReplicaState;
use roost_protocol::failover::{MAX_RPO, WardReport};
use roost_protocol::guest::Power;
use roost_protocol::operation::Verb;
use roost_protocol::{GuestId, HostId, Millis};

use crate::call::{CallError, CallErrorCode};
use crate::calls::error;
use crate::grid::{Grid, Host, Presence};

/// Raised by an agent whose guard doesn't answer.
const GUARD_AWAY: &str = "guard-away";
/// A council needs so many hosts: of two the survivor would have no majority.
const FEWEST: usize = 3;

/// How a guest stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Nobody asked for it.
    NotWished,
    /// This host goes on with it, from a copy of this age.
    By { host: HostId, copy: Millis },
    /// It would stay down. Sentences, the first cause first.
    No(Vec<String>),
}

/// How a host's guard is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guarding {
    Missing,
    Away,
    Unfenced,
    Works,
}

/// One host of two that could run the guest.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    pub(crate) name: String,
    pub(crate) up: bool,
    pub(crate) maintenance: bool,
    pub(crate) guarding: Guarding,
}

/// What there is to judge by.
#[derive(Clone, Debug)]
pub(crate) struct Sight {
    /// Its host looks after it, running or off.
    pub(crate) managed: bool,
    pub(crate) owner: Home,
    /// The host that has the copy, and how old that is.
    pub(crate) keeper: Option<Home>,
    pub(crate) copy: Option<Millis>,
    /// Why no copy is made, as its host tells.
    pub(crate) copy_fails: Option<String>,
    /// Hosts that could vote; more than are needed are not counted.
    pub(crate) voters: usize,
    /// Why there is no witness, where there should be one.
    pub(crate) witness_away: Option<String>,
    pub(crate) ward: Option<Council>,
}

/// The guest's council as its owner told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Council {
    pub(crate) keeper_is_home: bool,
    pub(crate) voters: usize,
    /// Voters that are heard, but for the owner.
    pub(crate) others_up: usize,
}

/// Why nobody would go on with the guest; nothing: somebody would.
pub(crate) fn lacks(sight: &Sight) -> Vec<String> {
    let mut lacks = Vec::new();
    if !sight.managed {
        lacks.push("its host does not look after it: manage it first".to_owned());
    }
    lacks.extend(home_lacks(&sight.owner, "its own host"));
    match &sight.keeper {
        None => lacks.push(because("no host keeps a copy of it", sight)),
        Some(keeper) => {
            lacks.extend(home_lacks(keeper, "the host with its copy"));
            if keeper.maintenance {
                lacks.push(format!("{}, the host with its copy, is in maintenance", keeper.name));
            }
            if !keeper.up {
                lacks.push(format!("{}, the host with its copy, is not heard", keeper.name));
            }
        }
    }
    match sight.copy {
        None if sight.keeper.is_some() => lacks.push(because("its copy is not whole yet", sight)),
        Some(age) if age > MAX_RPO => {
            let most = MAX_RPO.0 / 60_000;
            lacks.push(format!("its copy is {} min old, and {most} min is the most", age.0 / 60_000));
        }
        None | Some(_) => {}
    }
    if sight.voters < FEWEST {
        let text = format!("{} hosts with a guard are heard, and {FEWEST} are needed to vote", sight.voters);
        lacks.push(match &sight.witness_away {
            Some(why) => format!("{text}; the witness beside the aggregator can't be asked: {why}"),
            None => text,
        });
    }
    match sight.ward {
        _ if !lacks.is_empty() => {}
        None => lacks.push("its council is not founded yet".to_owned()),
        Some(Council { keeper_is_home: false, .. }) => {
            lacks.push("the host with its copy is no home of its ward yet".to_owned());
        }
        Some(Council { voters, others_up, .. }) if others_up * 2 <= voters => {
            lacks.push(format!("without its host {others_up} of {voters} voters would be left, which is no majority"));
        }
        Some(_) => {}
    }
    lacks
}

fn because(what: &str, sight: &Sight) -> String {
    sight.copy_fails.as_ref().map_or_else(|| what.to_owned(), |why| format!("{what}: {why}"))
}

fn home_lacks(home: &Home, who: &str) -> Option<String> {
    let what = match home.guarding {
        Guarding::Missing => "has no guard: run roost-guard and set guard_socket in its agent.toml",
        Guarding::Away => "has a guard that doesn't answer",
        Guarding::Unfenced => {
            "has no hardware watchdog, or one that failed its test, and accept_no_fence is not set in its guard.toml"
        }
        Guarding::Works => return None,
    };
    Some(format!("{}, {who}, {what}", home.name))
}

impl Grid {
    /// Reading: how a guest stands.
    pub fn protection(&self, guest: GuestId) -> Protection {
        let owner = self.guest_host(guest).and_then(|owner| self.hosts.get(&owner));
        let Some(owner) = owner.filter(|owner| self.is_failover_wished(owner, guest)) else {
            return Protection::NotWished;
        };
        let sight = self.sight(owner, guest);
        let lacks = lacks(&sight);
        let keeper = self.keeper(owner, guest);
        match (keeper, sight.copy) {
            (Some(keeper), Some(copy)) if lacks.is_empty() => Protection::By { host: keeper.id, copy },
            _ => Protection::No(lacks),
        }
    }

    /// Refuses to hand over what nobody would go on with; its own host looks again.
    pub(crate) fn may_be_handed_over(&self, guest: GuestId, verb: &Verb) -> Result<(), CallError> {
        if !matches!(verb, Verb::HandOver { .. }) {
            return Ok(());
        }
        let text = match self.protection(guest) {
            Protection::By { .. } => return Ok(()),
            Protection::NotWished => "its backup policy has no replica_failover".to_owned(),
            Protection::No(lacks) => lacks.join("; "),
        };
        Err(error(CallErrorCode::WrongState, format!("no host can go on with this guest: {text}")))
    }

    /// What a guest of this host that is to run lacks; nothing where failover is not wished.
    pub(crate) fn lacking(&self, owner: &Host, guest: GuestId) -> Vec<String> {
        let desired = owner.guests.get(&guest).and_then(|it| it.report.desired);
        let runs = desired.is_some_and(|desired| desired.power == Power::Running);
        if runs && self.is_failover_wished(owner, guest) { lacks(&self.sight(owner, guest)) } else { Vec::new() }
    }

    /// By policy, or because it is so already.
    fn is_failover_wished(&self, owner: &Host, guest: GuestId) -> bool {
        let named = owner.backups.sets.get(&guest).map(|set| &set.policy_name);
        let policy = named.and_then(|name| self.intent.backup_policies.get(name));
        let by_policy = policy.and_then(|policy| policy.replica).is_some_and(|replica| replica.failover);
        by_policy || ward(owner, guest).is_some()
    }

    fn keeper(&self, owner: &Host, guest: GuestId) -> Option<&Host> {
        self.hosts.get(&owner.backups.replicas.get(&guest)?.status.host?)
    }

    fn sight(&self, owner: &Host, guest: GuestId) -> Sight {
        let keeper = self.keeper(owner, guest);
        let desired = owner.guests.get(&guest).and_then(|it| it.report.desired);
        let replica = owner.backups.replicas.get(&guest);
        let copy_fails = replica.and_then(|replica| match &replica.status.state {
            ReplicaState::Broken { why } => Some(why.clone()),
            ReplicaState::Seeding | ReplicaState::Following | ReplicaState::Behind | ReplicaState::Held => None,
        });
        Sight {
            managed: desired.is_some(),
            owner: self.home(owner),
            keeper: keeper.map(|keeper| self.home(keeper)),
            copy: replica.and_then(|replica| replica.lag(self.clock)),
            copy_fails,
            voters: self.hosts.values().filter(|host| votes(host)).take(FEWEST).count()
                + usize::from(self.witness_helps([owner].into_iter().chain(keeper))),
            witness_away: self.witness_away().map(str::to_owned),
            ward: ward(owner, guest).map(|ward| self.council(owner, keeper, ward)),
        }
    }

    fn home(&self, host: &Host) -> Home {
        let maintenance = self.maintenance(host.id).is_some();
        Home { name: host.name.clone(), up: is_up(host), maintenance, guarding: guarding(host) }
    }

    fn council(&self, owner: &Host, keeper: Option<&Host>, ward: &WardReport) -> Council {
        let voters = &ward.council.voters;
        let hears = |id: HostId| {
            let host = id != owner.id && self.hosts.get(&id).is_some_and(votes);
            host || id == self.witness_id() && self.witness_helps(std::iter::empty())
        };
        Council {
            keeper_is_home: keeper.is_some_and(|keeper| ward.council.homes.contains(&keeper.id)),
            voters: voters.len(),
            others_up: voters.iter().filter(|voter| hears(voter.host)).count(),
        }
    }
}

fn ward(owner: &Host, guest: GuestId) -> Option<&WardReport> {
    owner.guard.as_ref()?.wards.iter().find(|ward| ward.council.guest == guest)
}

fn votes(host: &Host) -> bool {
    is_up(host) && matches!(guarding(host), Guarding::Works | Guarding::Unfenced)
}

fn is_up(host: &Host) -> bool {
    matches!(host.presence, Presence::Up { .. })
}

fn guarding(host: &Host) -> Guarding {
    match &host.guard {
        _ if host.alarms.iter().any(|alarm| alarm.code == GUARD_AWAY) => Guarding::Away,
        None => Guarding::Missing,
        Some(guard) if !guard.may_own => Guarding::Unfenced,
        Some(_) => Guarding::Works,
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn home(name: &str) -> Home {
        Home { name: name.into(), up: true, maintenance: false, guarding: Guarding::Works }
    }

    fn sound() -> Sight {
        Sight {
            managed: true,
            owner: home("h1"),
            keeper: Some(home("h2")),
            copy: Some(Millis(4_000)),
            copy_fails: None,
            voters: 3,
            witness_away: None,
            ward: Some(Council { keeper_is_home: true, voters: 3, others_up: 2 }),
        }
    }

    #[test]
    fn a_guest_with_copy_council_and_guards_lacks_nothing() {
        assert_eq!(lacks(&sound()), Vec::<String>::new());
    }

    #[test]
    fn each_thing_that_is_missing_is_named() {
        let ill = |guarding| Home { guarding, ..home("h1") };
        let away = Home { up: false, ..home("h2") };
        let council = Council { keeper_is_home: true, voters: 3, others_up: 2 };
        let old = Millis(MAX_RPO.0 + 60_000);
        let kept_out = Home { maintenance: true, ..home("h2") };
        let full = Some("its disk is full".to_owned());
        let cases: [(Sight, &str); 15] = [
            (Sight { keeper: Some(kept_out), ..sound() }, "h2, the host with its copy, is in maintenance"),
            (Sight { managed: false, ..sound() }, "does not look after it"),
            (Sight { owner: ill(Guarding::Missing), ..sound() }, "h1, its own host, has no guard"),
            (Sight { owner: ill(Guarding::Away), ..sound() }, "doesn't answer"),
            (Sight { owner: ill(Guarding::Unfenced), ..sound() }, "no hardware watchdog"),
            (Sight { keeper: None, copy: None, ..sound() }, "no host keeps a copy"),
            (Sight { keeper: Some(away), ..sound() }, "h2, the host with its copy, is not heard"),
            (Sight { keeper: None, copy: None, copy_fails: full.clone(), ..sound() }, "a copy of it: its disk is full"),
            (Sight { copy: None, ..sound() }, "not whole yet"),
            (Sight { copy: None, copy_fails: full, ..sound() }, "not whole yet: its disk is full"),
            (Sight { copy: Some(old), ..sound() }, "61 min old"),
            (Sight { voters: 2, ..sound() }, "2 hosts with a guard"),
            (Sight { voters: 2, witness_away: Some("no socket".into()), ..sound() }, "can't be asked: no socket"),
            (Sight { ward: None, ..sound() }, "not founded yet"),
            (Sight { ward: Some(Council { others_up: 1, ..council }), ..sound() }, "1 of 3 voters"),
        ];
        for (sight, part) in cases {
            let found = lacks(&sight);
            assert!(found.len() == 1 && found[0].contains(part), "{part}: {found:?}");
        }
        let away_from_home = Some(Council { keeper_is_home: false, ..council });
        assert!(lacks(&Sight { ward: away_from_home, ..sound() })[0].contains("no home of its ward"));
    }
}
