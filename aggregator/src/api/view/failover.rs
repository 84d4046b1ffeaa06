//! What callers see of failover.

use std::cmp::Reverse;

use roost_aggregator_core::chains::{Failover, Link, LinkKind};
use roost_aggregator_core::fence::Fence;
use roost_aggregator_core::grid::Host;
use roost_aggregator_core::{Fate, Grid, Loss};
use roost_protocol::Stamp;
use roost_protocol::failover::{Fencing, WatchdogTest};
use serde_json::{Value, json};

use super::{time, word};
use crate::api::page::{Listed, Order};

/// One link of a chain, and its place in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CauseView<'a> {
    pub(crate) grid: &'a Grid,
    pub(crate) place: u64,
    pub(crate) link: &'a Link,
}

impl Listed for CauseView<'_> {
    const SCHEMA: &'static str = "cause";

    fn order(&self) -> Order {
        Order::Number(self.place)
    }

    fn property(&self, name: &str) -> Value {
        let link = self.link;
        match name {
            "time" => link.at.map_or(Value::Null, time),
            "host_name" => json!(self.grid.host_name(link.host)),
            "host" => json!(link.host),
            "kind" => match link.what {
                LinkKind::Noted(kind) => word(kind),
                LinkKind::Remembers => json!("remembers"),
                LinkKind::Unknown => json!("unknown"),
                LinkKind::Stands => json!("stands"),
            },
            "epoch" => json!(link.epoch),
            "text" => json!(link.text),
            _ => Value::Null,
        }
    }
}

/// A takeover.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FailoverView<'a> {
    pub(crate) grid: &'a Grid,
    pub(crate) failover: &'a Failover,
}

impl Listed for FailoverView<'_> {
    const SCHEMA: &'static str = "failover";

    fn order(&self) -> Order {
        let mut id = [0; 16];
        let (ward, host) = id.split_at_mut(8);
        ward.copy_from_slice(&self.failover.ward.to_be_bytes());
        host.copy_from_slice(&self.failover.to.bytes()[8..]);
        Order::Newest(Reverse(self.failover.won.0), id)
    }

    fn property(&self, name: &str) -> Value {
        let (grid, it) = (self.grid, self.failover);
        let at = |at: Option<Stamp>| at.map_or(Value::Null, time);
        match name {
            "guest" => json!(it.guest),
            "name" => json!(it.guest.map_or_else(|| format!("ward {}", it.ward), |guest| grid.guest_name(guest))),
            "from" => json!(grid.host_name(it.from)),
            "to" => json!(grid.host_name(it.to)),
            "epoch" => json!(it.epoch),
            "last_heard" => at(it.last_heard),
            "detected" => at(it.detected),
            "asked" => at(it.asked),
            "won" => time(it.won),
            "votes" => it.votes.iter().map(|host| grid.host_name(*host)).collect(),
            "leased" => at(it.leased),
            "chosen" => at(it.chosen.as_ref().map(|(at, _)| *at)),
            "source" => json!(it.chosen.as_ref().map(|(_, text)| text)),
            "copy_age_s" => json!(it.copy_age.map(|age| age.0 / 1_000)),
            "started" => at(it.started),
            "trouble" => json!(it.trouble),
            _ => Value::Null,
        }
    }
}

/// What would become of a guest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LossView<'a> {
    pub(crate) grid: &'a Grid,
    pub(crate) loss: &'a Loss,
}

impl Listed for LossView<'_> {
    const SCHEMA: &'static str = "loss";
    const SORT: Option<&'static str> = Some("name");

    fn order(&self) -> Order {
        Order::Id(self.loss.guest.bytes())
    }

    fn property(&self, name: &str) -> Value {
        match (name, &self.loss.fate) {
            ("guest", _) => json!(self.loss.guest),
            ("name", _) => json!(self.loss.name),
            ("memory_mib", _) => json!(self.loss.memory),
            ("off", _) => json!(self.loss.off),
            ("goes_on_at", Fate::At { host, .. }) => json!(self.grid.host_name(*host)),
            ("copy_age_s", Fate::At { copy, .. }) => json!(copy.0 / 1_000),
            ("stays_down_because", Fate::Down(why)) => json!(why),
            _ => Value::Null,
        }
    }
}

/// What a host's death would cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostLossView<'a> {
    pub(crate) host: &'a Host,
    pub(crate) losses: &'a [Loss],
}

impl HostLossView<'_> {
    /// Those that are off are down anyway.
    fn running(&self) -> impl Iterator<Item = &Loss> {
        self.losses.iter().filter(|loss| !loss.off)
    }

    fn down(&self) -> impl Iterator<Item = (&str, &str)> {
        self.running().filter_map(|loss| match &loss.fate {
            Fate::At { .. } => None,
            Fate::Down(why) => Some((loss.name.as_str(), why.as_str())),
        })
    }
}

impl Listed for HostLossView<'_> {
    const SCHEMA: &'static str = "host_loss";
    const SORT: Option<&'static str> = Some("name");

    fn order(&self) -> Order {
        Order::Id(self.host.id.bytes())
    }

    fn property(&self, name: &str) -> Value {
        let down = || self.down().count();
        match name {
            "host" => json!(self.host.id),
            "name" => json!(self.host.name),
            "guests" => json!(self.running().count()),
            "go_on" => json!(self.running().count() - down()),
            "stay_down" => json!(down()),
            "first" => self.down().next().map_or(Value::Null, |(guest, why)| json!(format!("{guest}: {why}"))),
            _ => Value::Null,
        }
    }
}

/// How the last test of a host's watchdog went.
pub(crate) fn watchdog_test(fencing: &Fencing, test: Option<&WatchdogTest>) -> Value {
    if let (Fencing::None(_), None) = (fencing, test) {
        return Value::Null;
    }
    let Some(test) = test else { return json!({"result": "untested"}) };
    json!({"result": test.result.word(), "tested": time(test.at), "text": test.to_string()})
}

/// What cuts a host's power; its secret is not for showing.
pub(crate) fn fence(fence: &Fence) -> Value {
    let device = &fence.device;
    let options: Vec<String> = device.options.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut value = json!({"agent": device.agent, "secret_set": device.secret.is_some(), "options": options});
    let texts = [("address", &device.address), ("user", &device.user), ("plug", &device.plug)];
    for (name, text) in texts.into_iter().filter_map(|(name, text)| Some((name, text.as_ref()?))) {
        value[name] = json!(text);
    }
    if let Some(tested) = fence.tested {
        value["tested"] = time(tested);
    }
    value
}
