//! Which notification goes out when: for each notifier the difference between what stands and what it was told.

use std::collections::BTreeMap;

use roost_protocol::{Millis, Stamp, Time};

use super::digest::{Digest, ITEMS, Item};
use super::standing::{Board, Turns};
use super::{Key, Notifier, Standing, Telling};
use crate::event::{Action, Severity};
use crate::grid::{Grid, Now, Presence};
use crate::history::Line;

/// How often alarms are looked at.
const LOOK_EVERY: Millis = Millis::seconds(1);
/// A delivery that failed is tried again after this, twice this, and so on, up to [`LONGEST`].
const RETRY: Millis = Millis::seconds(5);
const LONGEST: Millis = Millis::seconds(900);
/// A delivery nobody heard of any more; its own time-out is shorter.
const LOST: Millis = Millis::seconds(120);
/// So many failures in a row are an event: people who wait for a mail should learn that none will come.
const TELL_FAILURES: u32 = 3;

/// What a notifier was told and what stands there for all it knows; kept on disk.
pub type Told = Vec<Standing>;

/// How a notifier does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// When it was told something last, since the aggregator started.
    pub sent: Option<Stamp>,
    /// Since when it fails, and why the last time.
    pub failing: Option<(Stamp, String)>,
    /// Changes that it was not told yet.
    pub waiting: usize,
}

/// What there is of telling beside the intent.
#[derive(Debug, Default)]
pub(crate) struct Post {
    started: Option<Time>,
    next_look: Time,
    board: Board,
    boxes: BTreeMap<String, Outbox>,
    last: u64,
}

#[derive(Debug, Default)]
struct Outbox {
    told: BTreeMap<Key, Standing>,
    news_since: Option<Time>,
    retry_at: Option<Time>,
    flight: Option<Flight>,
    failures: u32,
    health: Health,
}

#[derive(Debug)]
struct Flight {
    delivery: u64,
    begun: Time,
    items: Vec<Item>,
}

impl Outbox {
    /// What it was not told: alarms that nobody looks after, and ends of what it was told.
    fn news(&self, wall: Stamp, notifier: &Notifier, telling: &Telling, board: &Board) -> Vec<Item> {
        let silent = |key: &Key| telling.silence(wall, key).is_some();
        let raised = board.standing().filter(|alarm| {
            alarm.severity() >= notifier.least
                && notifier.way.takes(alarm)
                && !self.told.contains_key(&alarm.key)
                && telling.acknowledgement(&alarm.key, alarm.since).is_none()
                && !silent(&alarm.key)
        });
        let raised = raised.map(|alarm| Item { alarm: alarm.clone(), cleared: None });
        let over = self.told.values().filter(|alarm| board.get(&alarm.key).is_none() && !silent(&alarm.key));
        let over = over.map(|alarm| Item { alarm: alarm.clone(), cleared: Some(board.ended(&alarm.key, wall)) });
        let mut items: Vec<Item> = raised.chain(over).collect();
        items.sort_by(|one, other| {
            let rank = |item: &Item| (item.cleared.is_some(), std::cmp::Reverse(item.severity()));
            rank(one).cmp(&rank(other)).then_with(|| one.alarm.key.cmp(&other.alarm.key))
        });
        items
    }

    /// What is to be sent now, if anything.
    fn due(&mut self, now: Now, notifier: &Notifier, mut news: Vec<Item>) -> Option<Vec<Item>> {
        self.health.waiting = news.len();
        if self.flight.as_ref().is_some_and(|flight| now.time.since(flight.begun) > LOST) {
            self.failed(now, "nothing was heard of the delivery".into());
        }
        if news.is_empty() {
            self.news_since = None;
            return None;
        }
        let since = *self.news_since.get_or_insert(now.time);
        let early = now.time.since(since) < notifier.gather || self.retry_at.is_some_and(|at| now.time < at);
        if self.flight.is_some() || early {
            return None;
        }
        news.truncate(ITEMS);
        Some(news)
    }

    fn failed(&mut self, now: Now, why: String) {
        self.flight = None;
        self.failures = self.failures.saturating_add(1);
        let wait = (1..self.failures.min(16)).fold(RETRY, |wait, _| Millis(wait.0.saturating_mul(2)));
        self.retry_at = Some(now.time + wait.min(LONGEST));
        let since = self.health.failing.as_ref().map_or(now.wall, |(since, _)| *since);
        self.health.failing = Some((since, why));
    }

    fn delivered(&mut self, now: Now, items: Vec<Item>) {
        for item in items {
            match item.cleared {
                None => self.told.insert(item.alarm.key.clone(), item.alarm),
                Some(_) => self.told.remove(&item.alarm.key),
            };
        }
        self.news_since = None;
        self.retry_at = None;
        self.failures = 0;
        self.health.sent = Some(now.wall);
        self.health.failing = None;
    }

    fn told(&self) -> Told {
        self.told.values().cloned().collect()
    }
}

impl Post {
    /// Another receiver stands behind this name: it knows nothing.
    pub(super) fn forget(&mut self, notifier: &str) {
        self.boxes.remove(notifier);
    }
}

impl Grid {
    /// What an earlier run told.
    pub fn remember_told(&mut self, told: BTreeMap<String, Told>) {
        for (name, alarms) in told {
            for alarm in &alarms {
                self.post.board.remember(self.clock, alarm.clone());
            }
            let told = alarms.into_iter().map(|alarm| (alarm.key.clone(), alarm)).collect();
            self.post.boxes.insert(name, Outbox { told, ..Outbox::default() });
        }
    }

    /// Reading: what each notifier was told.
    pub fn told(&self) -> BTreeMap<String, Told> {
        self.post.boxes.iter().map(|(name, outbox)| (name.clone(), outbox.told())).collect()
    }

    /// Reading: how a notifier does.
    pub fn health(&self, notifier: &str) -> Health {
        self.post.boxes.get(notifier).map(|outbox| outbox.health.clone()).unwrap_or_default()
    }

    /// Reading: alarms of the whole grid that stand, in order of what they are about.
    pub fn standing(&self) -> impl Iterator<Item = &Standing> {
        self.post.board.standing()
    }

    /// Reading: whether an alarm came and went more than once of late.
    pub fn flaps(&self, key: &Key) -> bool {
        self.post.board.flaps(key)
    }

    /// When the aggregator began to listen.
    pub(crate) fn started(&self) -> Option<Time> {
        self.post.started
    }

    /// Looks at alarms and says who is to be told; called at each tick.
    pub(crate) fn watch_alarms(&mut self, now: Now, actions: &mut Vec<Action>) {
        self.post.started.get_or_insert(now.time);
        if now.time < self.post.next_look {
            return;
        }
        self.post.next_look = now.time + LOOK_EVERY;
        let seen = self.seen(now);
        let heard = |host| match self.hosts.get(&host).map(|host| host.presence) {
            Some(Presence::Up { .. }) => self.hosts.get(&host).is_some_and(|host| host.alarms_known),
            Some(Presence::Never | Presence::Suspect { .. } | Presence::Down { .. }) => false,
            // Whoever is no host of the grid any more has no alarms.
            None => true,
        };
        let turns = self.post.board.look(now, seen, heard);
        self.tell_turns(now, turns, actions);
        self.post_news(now, actions);
    }

    fn tell_turns(&mut self, now: Now, turns: Turns, actions: &mut Vec<Action>) {
        for (alarm, over) in
            turns.raised.into_iter().map(|alarm| (alarm, false)).chain(turns.cleared.into_iter().map(|a| (a, true)))
        {
            let severity = event_severity(alarm.severity());
            let (host, guest) = (alarm.key.host, alarm.key.guest);
            let item = Item { alarm, cleared: over.then_some(now.wall) };
            let line = match (over, severity) {
                (true, _) => Line::info("alarm.cleared", format!("over: {}", item.what())),
                (false, Severity::Info) => Line::info("alarm.raised", said(&item)),
                (false, Severity::Warning) => Line::warning("alarm.raised", said(&item)),
                (false, Severity::Error) => Line::error("alarm.raised", said(&item)),
            };
            let line = host.into_iter().fold(line, Line::host);
            self.publish(now, guest.into_iter().fold(line, Line::guest), actions);
        }
    }

    fn post_news(&mut self, now: Now, actions: &mut Vec<Action>) {
        let Self { post, intent, .. } = self;
        let gone = |name: &String| !intent.telling.notifiers.contains_key(name);
        for name in post.boxes.keys().filter(|name| gone(name)) {
            actions.push(Action::Told { notifier: name.clone(), told: None });
        }
        post.boxes.retain(|name, _| !gone(name));
        for (name, notifier) in &intent.telling.notifiers {
            let outbox = post.boxes.entry(name.clone()).or_default();
            let news = outbox.news(now.wall, notifier, &intent.telling, &post.board);
            let Some(items) = outbox.due(now, notifier, news) else { continue };
            post.last += 1;
            let digest = Digest { items: items.clone(), test: false };
            outbox.flight = Some(Flight { delivery: post.last, begun: now.time, items });
            let (notifier, digest) = (Box::new(notifier.clone()), Box::new(digest));
            actions.push(Action::Notify { notifier, delivery: post.last, digest });
        }
    }

    /// A delivery arrived, or why not.
    pub(crate) fn notified(
        &mut self,
        now: Now,
        name: &str,
        delivery: u64,
        result: Result<(), String>,
        actions: &mut Vec<Action>,
    ) {
        let Some(outbox) = self.post.boxes.get_mut(name) else { return };
        let Some(flight) = outbox.flight.take_if(|flight| flight.delivery == delivery) else { return };
        let failures = outbox.failures;
        let line = match result {
            Ok(()) => {
                outbox.delivered(now, flight.items);
                actions.push(Action::Told { notifier: name.to_owned(), told: Some(outbox.told()) });
                let text = format!("notifier {name} delivers again");
                (failures >= TELL_FAILURES).then(|| Line::info("notifier.works", text))
            }
            Err(why) => {
                let text = format!("notifier {name} can't deliver and is tried again and again: {why}");
                outbox.failed(now, why);
                (failures + 1 == TELL_FAILURES).then(|| Line::warning("notifier.failed", text))
            }
        };
        if let Some(line) = line {
            self.publish(now, line, actions);
        }
    }
}

fn said(item: &Item) -> String {
    format!("{}: {}", item.what(), item.why())
}

fn event_severity(severity: roost_protocol::alarm::Severity) -> Severity {
    use roost_protocol::alarm::Severity as Alarm;
    match severity {
        Alarm::Info => Severity::Info,
        Alarm::Warning => Severity::Warning,
        Alarm::Error | Alarm::Critical => Severity::Error,
    }
}
