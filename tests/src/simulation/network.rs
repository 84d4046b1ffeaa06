//! The network: streams in order; a broken link loses what was under way.

use roost_agent_core::event::Event as AgentEvent;
use roost_aggregator_core::event::{Action, Event, LinkId};
use roost_aggregator_core::intent::Intent;
use roost_protocol::message::{ToAgent, ToAggregator};
use roost_protocol::operation::Verb;
use roost_protocol::{Generation, Stamp, Time, codec};

use super::Mutant;
use super::aggregator::key;
use super::world::{Happening, Link, Who, World};

impl World {
    pub(crate) fn connect(&mut self, host: usize, life: u64) {
        let linked = self.links.values().any(|link| link.host == host);
        let (dead, cut) = (self.hosts[host].agent.is_none(), self.hosts[host].cut);
        if linked || dead || life != self.hosts[host].life {
            return;
        }
        if cut || self.aggregator.grid.is_none() {
            return self.after(1_500, Happening::Connect { host, life });
        }
        let link = LinkId(self.next_link);
        self.next_link += 1;
        self.links.insert(link, Link { host, life, up_busy_until: 0, down_busy_until: 0 });
        let wall = self.hosts[host].wall(self.now);
        let Some(hello) = self.hosts[host].agent.as_ref().map(|agent| agent.hello(wall)) else { return };
        let key = key(self.hosts[host].id);
        self.tell_aggregator(Event::Hello { link, key, certified: true, hello, remote: "10.0.0.1".into() });
    }

    pub(crate) fn break_link(&mut self, host: usize, reconnect_in: u64) {
        let links: Vec<LinkId> = self.links.iter().filter(|(_, link)| link.host == host).map(|(id, _)| *id).collect();
        for link in links {
            self.links.remove(&link);
            let notice = self.random.below(12_000);
            self.after(notice, Happening::Closed { link });
            self.tell_agent(host, AgentEvent::LinkDown);
        }
        let life = self.hosts[host].life;
        self.after(reconnect_in.max(100), Happening::Connect { host, life });
    }

    pub(crate) fn delay(&mut self) -> u64 {
        if self.random.chance(50) { self.random.below(2_000) } else { 1 + self.random.below(20) }
    }

    pub(crate) fn send_to_agent(&mut self, id: LinkId, message: ToAgent) {
        let delay = self.delay();
        let now = self.now;
        let Some(link) = self.links.get_mut(&id) else { return };
        let at = (now + delay).max(link.down_busy_until);
        link.down_busy_until = at;
        if let ToAgent::Command(_) = &message
            && self.random.chance(100)
        {
            let late = self.random.below(8_000);
            self.after(at - now + late, Happening::ToAgent { link: id, message: Box::new(message.clone()) });
        }
        self.after(at - now, Happening::ToAgent { link: id, message: Box::new(message) });
    }

    pub(crate) fn send_to_aggregator(&mut self, host: usize, message: ToAggregator) {
        let lost = self.setting.mutant == Some(Mutant::BeatsAreLost)
            && matches!(message, ToAggregator::Beat(_))
            && self.random.chance(100);
        let delay = self.delay();
        let now = self.now;
        let Some((id, link)) = self.links.iter_mut().find(|(_, link)| link.host == host) else { return };
        let (id, at) = (*id, (now + delay).max(link.up_busy_until));
        link.up_busy_until = at;
        if !lost {
            self.after(at - now, Happening::ToAggregator { link: id, message: Box::new(message) });
        }
    }

    pub(crate) fn deliver_to_agent(&mut self, link: LinkId, message: ToAgent) {
        let Some((host, life)) = self.links.get(&link).map(|link| (link.host, link.life)) else { return };
        if self.hosts[host].life != life {
            return;
        }
        match message {
            ToAgent::Welcome(welcome) => self.tell_agent(host, AgentEvent::LinkUp { welcome }),
            ToAgent::Refused(_) => self.break_link(host, 2_000),
            ToAgent::BeatSeen { sequence, .. } if self.setting.mutant == Some(Mutant::BeatsAreLost) => {
                self.tell_agent(host, AgentEvent::Received(ToAgent::BeatSeen { sequence, want_snapshot: false }));
            }
            message @ (ToAgent::Command(_)
            | ToAgent::BeatSeen { .. }
            | ToAgent::OutcomeSeen { .. }
            | ToAgent::Certificate { .. }
            | ToAgent::Document { .. }
            | ToAgent::Cancel { .. }
            | ToAgent::Points(_)
            | ToAgent::Peers { .. }
            | ToAgent::Councils { .. }) => self.tell_agent(host, AgentEvent::Received(message)),
        }
    }

    pub(crate) fn deliver_to_aggregator(&mut self, link: LinkId, message: ToAggregator) {
        if !self.links.contains_key(&link) {
            return;
        }
        match message {
            ToAggregator::Document { sealed } => {
                if let Ok(intent) = codec::decode::<Intent>(&sealed) {
                    self.tell_aggregator(Event::DocumentOffered { link, intent: Box::new(intent) });
                }
            }
            message @ (ToAggregator::Hello(_)
            | ToAggregator::Snapshot(_)
            | ToAggregator::Beat(_)
            | ToAggregator::Outcome(_)
            | ToAggregator::Progress(_)
            | ToAggregator::Points(_)
            | ToAggregator::Renew { .. }) => self.tell_aggregator(Event::Received { link, message }),
        }
    }

    pub(crate) fn start_aggregator(&mut self) {
        if self.aggregator.grid.is_some() || (self.setting.alone && !self.quiet) {
            return;
        }
        if std::mem::take(&mut self.lost_data) {
            self.data_life += 1;
        }
        self.note("aggregator starts".into());
        self.aggregator.begin_life(self.setting.mutant);
        self.tell_aggregator(Event::Tick);
    }

    pub(crate) fn kill_aggregator(&mut self) {
        self.aggregator.grid = None;
        for host in 0..self.hosts.len() {
            let linked = self.links.values().any(|link| link.host == host);
            if linked {
                let wait = 500 + self.random.below(5_000);
                self.break_link(host, wait);
            }
        }
        self.links.clear();
    }

    pub(crate) fn tell_aggregator(&mut self, event: Event) {
        let (now, wall) = (Time(self.now), Stamp(1_800_000_000_000 + self.now));
        let Some(grid) = self.aggregator.grid.as_mut() else { return };
        let actions = grid.on(now, wall, event);
        for action in actions {
            self.do_for_aggregator(action);
        }
        self.wake_aggregator();
    }

    pub(crate) fn wake_aggregator(&mut self) {
        let Some(at) = self.aggregator.grid.as_ref().and_then(|grid| grid.deadline()) else { return };
        let at = at.0.max(self.now + 1);
        if self.wakes.get(&Who::Aggregator).is_none_or(|planned| *planned > at) {
            self.wakes.insert(Who::Aggregator, at);
            self.after(at - self.now, Happening::Wake(Who::Aggregator));
        }
    }

    pub(crate) fn do_for_aggregator(&mut self, action: Action) {
        match action {
            Action::Persist { intent, generation, operations } => {
                for change in &intent {
                    self.aggregator.intent.apply(change);
                }
                self.aggregator.intent.generation = generation;
                if generation > Generation(0) {
                    self.aggregator.empty = false;
                }
                for operation in operations {
                    if operation.state.ended() {
                    } else if operation.verb == Verb::Reset {
                        self.resets_asked.push(operation.guest);
                    }
                    self.aggregator.operations.insert(operation.id, operation);
                }
            }
            // Nobody logs in here, and nobody is told.
            Action::Used { .. } | Action::Notify { .. } | Action::Told { .. } => {}
            Action::Send { link, message } => {
                let welcomed = matches!(message, ToAgent::Welcome(_));
                self.send_to_agent(link, message);
                if welcomed {
                    self.spread(Some(link));
                }
            }
            Action::Refuse { link, refused } => {
                self.send_to_agent(link, ToAgent::Refused(refused));
            }
            Action::Answer { call, reply } => self.answered(call, reply),
            Action::SpreadDocument => self.spread(None),
            Action::Publish { event } => {
                self.note(format!("event {}: {}", event.kind, event.text));
            }
            Action::Disconnect { .. } => {}
        }
    }

    pub(crate) fn spread(&mut self, only: Option<LinkId>) {
        let Some(grid) = self.aggregator.grid.as_ref() else { return };
        let generation = grid.intent().generation;
        if generation == Generation(0) {
            return;
        }
        let sealed = codec::encode(grid.intent());
        let links: Vec<LinkId> =
            self.links.keys().copied().filter(|link| only.is_none_or(|only| only == *link)).collect();
        for link in links {
            self.send_to_agent(link, ToAgent::Document { generation, sealed: sealed.clone() });
        }
    }
}
