//! Who is told what, and when: told the time by hand.

use std::collections::BTreeMap;

use roost_protocol::alarm::Severity;
use roost_protocol::host::Alarm;
use roost_protocol::message::{Hello, Snapshot, ToAggregator, VERSION};
use roost_protocol::{Epoch, Generation, GridId, HostId, Millis, Stamp, Time};

use super::*;
use crate::call::{Call, CallErrorCode};
use crate::event::{CallId, LinkId};
use crate::intent::{HostRecord, Maintenance};
use crate::{Action, Config, Event, Grid, Intent};

const HOST: HostId = HostId::from_u128(1);
const KEY: [u8; 32] = [7; 32];

fn webhook(name: &str, gather: u64) -> Notifier {
    let way = Way::Webhook(Webhook { url: "https://x/y".into() });
    Notifier {
        name: name.into(),
        way,
        least: Severity::Warning,
        gather: Millis::seconds(gather),
        ca: None,
        secret: Some(Hidden("key".into())),
    }
}

struct World {
    grid: Grid,
    now: u64,
    alarms: Vec<Alarm>,
    link: u64,
    /// Deliveries that nobody answered yet.
    flying: Vec<(String, u64)>,
    sent: Vec<Digest>,
    told: BTreeMap<String, Told>,
    kinds: Vec<String>,
}

impl World {
    fn new() -> Self {
        Self::begun_with(Intent::default(), BTreeMap::new())
    }

    fn begun_with(mut intent: Intent, told: BTreeMap<String, Told>) -> Self {
        let record = HostRecord::new("h".into(), KEY, Stamp(0));
        intent.hosts.entry(HOST).or_insert(record);
        let config = Config {
            grid: GridId::from_u128(1),
            epoch: Epoch(1),
            suspect_after: Millis::seconds(6),
            down_after: Millis::seconds(15),
            recovering: false,
        };
        let mut grid = Grid::new(config, intent, Vec::new());
        grid.remember_told(told.clone());
        let (flying, sent, kinds) = (Vec::new(), Vec::new(), Vec::new());
        Self { grid, now: 1_000, alarms: Vec::new(), link: 0, flying, sent, told, kinds }
    }

    fn connect(&mut self) {
        self.link += 1;
        let (facts, epoch, document, clock) = (Default::default(), Epoch(0), Generation(0), Stamp(self.now));
        let hello = Hello { newest: VERSION, oldest: VERSION, host: HOST, facts, epoch, document, clock };
        let link = LinkId(self.link);
        self.tell(Event::Hello { link, key: KEY, certified: true, hello, remote: String::new() });
    }

    fn tell(&mut self, event: Event) {
        for action in self.grid.on(Time(self.now), Stamp(self.now), event) {
            if let Action::Publish { event } = &action {
                self.kinds.push(event.kind.clone());
            }
            if let Action::Notify { notifier, delivery, digest } = action {
                self.flying.push((notifier.name, delivery));
                self.sent.push(*digest);
            } else if let Action::Told { notifier, told } = action {
                match told {
                    Some(told) => self.told.insert(notifier, told),
                    None => self.told.remove(&notifier),
                };
            }
        }
    }

    /// Seconds go by; the host says all the time which alarms it has, and every delivery comes to this.
    fn pass(&mut self, seconds: u64, outcome: Option<&Result<(), String>>) {
        for _ in 0..seconds {
            self.now += 1_000;
            let snapshot = Snapshot { alarms: self.alarms.clone(), ..Snapshot::default() };
            if self.link > 0 {
                let message = ToAggregator::Snapshot(snapshot);
                self.tell(Event::Received { link: LinkId(self.link), message });
            }
            self.tell(Event::Tick);
            let Some(result) = outcome else { continue };
            for (notifier, delivery) in std::mem::take(&mut self.flying) {
                self.tell(Event::Notified { notifier, delivery, result: result.clone() });
            }
        }
    }

    fn well(&mut self, seconds: u64) {
        self.pass(seconds, Some(&Ok(())));
    }

    fn call(&mut self, what: Call) -> Option<CallErrorCode> {
        let event = Event::Called { call: CallId(1), by: "ann".into(), what };
        let answers = self.grid.on(Time(self.now), Stamp(self.now), event);
        let reply =
            answers.into_iter().find_map(|it| if let Action::Answer { reply, .. } = it { Some(reply) } else { None });
        reply.unwrap().err().map(|error| error.code)
    }

    fn add(&mut self, notifier: Notifier) {
        assert_eq!(self.call(Call::PutNotifier { notifier: Box::new(notifier), create: true }), None);
    }

    fn raise(&mut self, code: &str) {
        let since = Stamp(self.now);
        self.alarms.push(Alarm { code: code.into(), guest: None, since, text: format!("{code} it is") });
    }

    /// What was sent since the last look: `+` raised, `-` over.
    fn said(&mut self) -> Vec<String> {
        let digests = std::mem::take(&mut self.sent);
        let item = |item: &Item| format!("{}{}", if item.cleared.is_some() { '-' } else { '+' }, item.alarm.key.code);
        digests.iter().map(|digest| digest.items.iter().map(item).collect::<Vec<_>>().join(" ")).collect()
    }
}

#[test]
fn what_is_raised_and_what_is_over_is_told_once_each() {
    let mut world = World::new();
    world.connect();
    world.add(webhook("a", 2));
    world.raise("disk-low");
    world.well(30);
    assert_eq!(world.said(), ["+disk-low"]);
    world.alarms.clear();
    world.well(60);
    assert_eq!(world.said(), ["-disk-low"]);
    world.well(600);
    assert_eq!(world.said(), [""; 0]);
    assert_eq!(world.told["a"], []);
}

#[test]
fn a_storm_of_a_thousand_changes_within_five_seconds_is_one_digest() {
    let mut world = World::new();
    world.connect();
    world.add(webhook("mail", 30));
    for second in 0..5 {
        (0..200).for_each(|number| world.raise(&format!("code-{second}-{number}")));
        world.well(1);
    }
    world.well(120);
    assert_eq!(world.sent.len(), 1);
    assert_eq!(world.sent[0].counts(), (1_000, 0));
    assert_eq!(world.sent[0].subject(), "Roost: 1000 alarms raised");
}

#[test]
fn while_the_receiver_is_away_tries_get_rarer_and_the_last_state_is_what_it_learns() {
    let mut world = World::new();
    world.connect();
    world.add(webhook("a", 0));
    world.raise("disk-low");
    let away = Err("refused".to_owned());
    world.pass(4 * 3_600, Some(&away));
    let tries = world.sent.len();
    assert!((15..30).contains(&tries), "{tries}");
    let failures = |world: &World| world.kinds.iter().filter(|kind| *kind == "notifier.failed").count();
    assert_eq!(failures(&world), 1);
    assert_eq!(world.grid.health("a").failing.map(|(_, why)| why).as_deref(), Some("refused"));
    world.sent.clear();
    world.alarms.clear();
    world.raise("disk-full");
    world.well(1_000);
    assert_eq!(world.said(), ["+disk-full"], "what came and went meanwhile is not told");
    assert!(world.kinds.iter().any(|kind| kind == "notifier.works"));
}

#[test]
fn a_delivery_that_nobody_hears_of_is_sent_again() {
    let mut world = World::new();
    world.connect();
    world.add(webhook("a", 0));
    world.raise("disk-low");
    world.pass(300, None);
    assert!((2..5).contains(&world.sent.len()), "{}", world.sent.len());
}

#[test]
fn what_comes_and_goes_is_told_as_standing() {
    let mut world = World::new();
    world.connect();
    world.add(webhook("a", 0));
    for _ in 0..60 {
        world.raise("io-pressure");
        world.well(10);
        world.alarms.clear();
        world.well(10);
    }
    let said = world.said();
    assert!(said.len() < 10, "{said:?}");
    world.well(3_600);
    assert_eq!(world.said(), ["-io-pressure"]);
}

#[test]
fn an_aggregator_that_starts_anew_tells_nothing_twice_and_forgets_no_end() {
    let mut world = World::new();
    world.connect();
    world.add(webhook("a", 0));
    world.raise("disk-low");
    world.raise("io-pressure");
    world.well(30);
    world.said();
    let mut next = World::begun_with(world.grid.intent().clone(), world.told.clone());
    next.well(40);
    assert_eq!(next.said(), [""; 0], "of a host that said nothing yet nothing is concluded");
    next.connect();
    next.alarms = vec![world.alarms[0].clone()];
    next.well(60);
    assert_eq!(next.said(), ["-io-pressure"]);
}

#[test]
fn a_host_that_falls_silent_or_never_comes_is_told_of_unless_it_is_in_maintenance() {
    let mut world = World::new();
    world.add(webhook("a", 0));
    world.well(120);
    assert_eq!(world.said(), ["+host-down"], "it never came");
    world.connect();
    world.well(60);
    assert_eq!(world.said(), ["-host-down"]);
    world.link = 0;
    world.well(60);
    assert_eq!(world.said(), ["+host-down"]);
    let mut intent = Intent::default();
    let maintenance = Some(Maintenance { since: Stamp(0), by: "ann".into(), drain: false });
    let record = HostRecord { maintenance, ..HostRecord::new("h".into(), KEY, Stamp(0)) };
    intent.hosts.insert(HOST, record);
    let mut kept = World::begun_with(intent, BTreeMap::new());
    kept.add(webhook("a", 0));
    kept.well(300);
    assert_eq!(kept.said(), [""; 0]);
}

#[test]
fn silenced_and_acknowledged_alarms_are_not_told_and_a_silence_ends() {
    let mut world = World::new();
    world.connect();
    world.raise("disk-low");
    world.raise("io-pressure");
    world.well(5);
    let silence = |code: &str, until| Silence {
        code: Some(code.into()),
        host: Some(HOST),
        guest: None,
        until: Stamp(until),
        by: "ann".into(),
        note: String::new(),
        created: Stamp(0),
    };
    let until = world.now + 100_000;
    assert_eq!(world.call(Call::PutSilence { id: "s".into(), silence: silence("disk-low", until) }), None);
    let past = Call::PutSilence { id: "t".into(), silence: silence("disk-low", 1) };
    assert_eq!(world.call(past), Some(CallErrorCode::Invalid));
    let pressure = Key { code: "io-pressure".into(), host: Some(HOST), guest: None }.fingerprint();
    let note = Some("on it".to_owned());
    assert_eq!(world.call(Call::Acknowledge { alarm: pressure.clone(), note }), None);
    let unknown = Call::Acknowledge { alarm: "0".into(), note: None };
    assert_eq!(world.call(unknown), Some(CallErrorCode::NotFound));
    world.add(webhook("a", 0));
    world.well(60);
    assert_eq!(world.said(), [""; 0]);
    world.well(60);
    assert_eq!(world.said(), ["+disk-low"], "the silence is over");
    assert_eq!(world.call(Call::Acknowledge { alarm: pressure, note: None }), None);
    world.well(5);
    assert_eq!(world.said(), ["+io-pressure"]);
}

#[test]
fn what_matters_less_than_wished_is_not_told_and_each_notifier_has_its_own_measure() {
    let mut world = World::new();
    world.connect();
    world.add(Notifier { least: Severity::Critical, ..webhook("night", 0) });
    world.add(Notifier { least: Severity::Info, ..webhook("all", 0) });
    world.raise("cpu-busy");
    world.well(5);
    assert_eq!(
        (world.said(), world.told.keys().cloned().collect::<Vec<_>>()),
        (vec!["+cpu-busy".into()], vec!["all".into()])
    );
    world.raise("memory-low");
    world.well(5);
    assert_eq!(world.said(), ["+memory-low", "+memory-low"]);
}

#[test]
fn what_hosts_tell_by_snmp_themselves_the_aggregator_tells_only_where_it_is_asked_to() {
    let snmp = |name: &str, hosts_too| {
        let way = Way::Snmp(Snmp { server: "nms:162".into(), user: None, hosts_too });
        Notifier { way, ..webhook(name, 0) }
    };
    let mut world = World::new();
    world.connect();
    world.add(snmp("all", true));
    world.add(snmp("grid", false));
    world.raise("memory-low");
    world.well(5);
    assert_eq!(world.said(), ["+memory-low"], "by one of them");
    world.link = 0;
    world.well(60);
    assert_eq!(world.said(), ["+host-down", "+host-down"], "no host can tell that it is down");
    world.connect();
    world.alarms.clear();
    world.well(60);
    let mut over = world.said();
    over.sort();
    assert_eq!(over.join(" ").matches("-host-down").count(), 2, "{over:?}");
    assert_eq!(over.join(" ").matches("-memory-low").count(), 1, "{over:?}");
}

#[test]
fn a_secret_is_kept_for_its_receiver_only_and_is_never_printed() {
    let mut world = World::new();
    world.add(webhook("a", 0));
    let bare = |url: &str| {
        let way = Way::Webhook(Webhook { url: url.into() });
        Box::new(Notifier { way, secret: None, ..webhook("a", 7) })
    };
    assert_eq!(world.call(Call::PutNotifier { notifier: bare("https://x/y"), create: false }), None);
    let kept = &world.grid.intent().telling.notifiers["a"];
    assert_eq!((kept.gather, &kept.secret), (Millis::seconds(7), &Some(Hidden("key".into()))));
    assert!(!format!("{kept:?}").contains("key\""), "{kept:?}");
    let elsewhere = Call::PutNotifier { notifier: bare("https://evil/y"), create: false };
    assert_eq!(world.call(elsewhere), Some(CallErrorCode::Invalid));
    let none = Box::new(Notifier { secret: Some(Hidden(String::new())), ..*bare("https://evil/y") });
    assert_eq!(world.call(Call::PutNotifier { notifier: none, create: false }), None);
    assert_eq!(world.grid.intent().telling.notifiers["a"].secret, None);
    let again = Call::PutNotifier { notifier: Box::new(webhook("a", 0)), create: true };
    assert_eq!(world.call(again), Some(CallErrorCode::AlreadyExists));
    assert_eq!(world.call(Call::DeleteNotifier { name: "a".into() }), None);
    assert_eq!(world.call(Call::DeleteNotifier { name: "a".into() }), Some(CallErrorCode::NotFound));
}

#[test]
fn settings_that_can_not_work_are_refused_by_name() {
    let mail = |server: &str, to: &str, tls, user: Option<&str>| {
        Way::Mail(Mail {
            server: server.into(),
            tls,
            user: user.map(str::to_owned),
            from: "roost@example.org".into(),
            to: vec![to.into()],
        })
    };
    let snmp = |server: &str, user: Option<&str>| {
        Way::Snmp(Snmp { server: server.into(), user: user.map(str::to_owned), hosts_too: false })
    };
    let good = "mail.example.org:587";
    let cases = [
        (mail(good, "ann@example.org", MailTls::StartTls, Some("roost")), None),
        (mail("mail.example.org", "ann@example.org", MailTls::StartTls, Some("roost")), Some("NAME:PORT")),
        (mail(good, "ann", MailTls::StartTls, Some("roost")), Some("no mail address")),
        (mail(good, "a@b\r\nBcc: c@d", MailTls::StartTls, Some("roost")), Some("no mail address")),
        (mail(good, "ann@example.org", MailTls::Plain, Some("roost")), Some("plain text")),
        (mail(good, "ann@example.org", MailTls::StartTls, None), Some("needs a user")),
        (Way::Webhook(Webhook { url: "ftp://x".into() }), Some("url must be")),
        (Way::Syslog(Syslog { server: "log:514".into(), tcp: true }), Some("knows no secret")),
        (Way::File, Some("knows no secret")),
        (snmp("nms:162", None), None),
        (snmp("nms", None), Some("NAME:PORT")),
        (snmp("nms:162", Some("mon")), Some("8 characters or more")),
        (snmp("nms:162", Some("m n")), Some("no blanks")),
    ];
    for (way, part) in cases {
        let told = Notifier { way: way.clone(), ..webhook("a", 0) }.check();
        match part {
            None => assert_eq!(told, Ok(())),
            Some(part) => assert!(told.clone().is_err_and(|why| why.contains(part)), "{way:?}: {told:?}"),
        }
    }
    assert_eq!(Notifier { way: Way::File, secret: None, ..webhook("a", 0) }.check(), Ok(()));
    for name in ["a b", "../a", "/a", "a\0"] {
        assert!(Notifier { name: name.into(), ..webhook("", 0) }.check().is_err(), "{name:?}: files are named so");
    }
}

#[test]
fn a_digest_says_what_since_when_why_and_what_to_do() {
    let mut world = World::new();
    world.connect();
    world.add(webhook("a", 0));
    world.raise("disk-low");
    world.well(5);
    let text = world.sent[0].text(|stamp| format!("at {}", stamp.0));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[..4],
        [
            "[warning] host h has a disk that is nearly full",
            "  since:  at 1000",
            "  why:    disk-low it is",
            "  to do:  Free some space: old backups, images, logs; or add a disk.",
        ]
    );
    assert_eq!(world.sent[0].subject(), "Roost: host h has a disk that is nearly full");
}
