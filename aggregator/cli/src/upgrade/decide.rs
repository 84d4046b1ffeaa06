//! What `roost host upgrade` does next: a function of what the grid tells, and of the little that this run has seen itself.

use std::collections::BTreeSet;

use serde_json::Value;

/// What is read of a host, and of a guest.
pub(super) const HOST: &str = "id,name,state,boot_id,maintenance,image,alarms";
pub(super) const GUEST: &str = "id,name,host_name,state,protected,unprotected_because";

/// The grid as it is now.
#[derive(Clone, Debug, Default)]
pub(super) struct Grid {
    pub(super) hosts: Vec<Host>,
    pub(super) guests: Vec<Guest>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Host {
    pub(super) id: String,
    pub(super) name: String,
    /// `up`, `suspect`, `down` or `never`.
    pub(super) state: String,
    /// Another one after each start.
    pub(super) boot: String,
    /// `on`, `draining` or `drained`.
    pub(super) maintenance: Option<String>,
    /// What runs; none: it is no host image.
    pub(super) image: Option<Image>,
    /// What waits for its next start.
    pub(super) waits: Option<Image>,
    /// Why a newer image of it is not used.
    pub(super) passed_over: Option<String>,
}

/// Newer is what was made later.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) version: String,
    /// RFC 3339, whole seconds, UTC: in the order of time.
    pub(super) made: String,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Guest {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) host: String,
    pub(super) up: bool,
    /// None: that is not wished.
    pub(super) protected: Option<bool>,
    pub(super) why: String,
}

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Wish {
    /// No image is looked for: each host is restarted with what it has.
    pub(super) restart_only: bool,
    /// Begin although another host or guest is not well.
    pub(super) force: bool,
    /// Hosts were named: one that can't be upgraded is a failure.
    pub(super) named: bool,
    /// Ids of guests that need not be protected afterwards: they were not before, and that was accepted.
    pub(super) excused: BTreeSet<String>,
}

/// How far this run is with one host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Run {
    #[default]
    Begun,
    /// It looked for a newer image; none: there is none.
    Looked(Option<Image>),
    /// It was asked to end this start of it, and to come back with this image.
    Restarting { boot: String, wanted: Option<Image> },
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Look,
    Drain,
    Restart {
        boot: String,
        wanted: Option<Image>,
    },
    Resume,
    Wait(Until, String),
    /// This host's turn is over, and how.
    Done(String),
    /// Nothing more is done: why, and what to do.
    Stop(String, String),
}

/// What is waited for; each has a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// All guests of the grid are protected before anything is begun.
    Calm,
    /// A host that is missed since a moment ago, or since the aggregator's start, is there or down.
    Heard,
    /// The host has no guests.
    Empty,
    /// It has ended the start of it that it was asked to end.
    Going,
    /// It is back.
    Back,
    /// All guests are protected again.
    Protected,
}

/// The hosts in the order in which they are upgraded: first one that an interrupted run left drained.
pub(super) fn order(grid: &Grid, mut names: Vec<String>) -> Vec<String> {
    names.sort_by_key(|name| !grid.host(name).is_some_and(Host::drains));
    names
}

/// What to do next about a host.
pub(super) fn next(grid: &Grid, name: &str, run: &Run, wish: &Wish) -> Step {
    let Some(host) = grid.host(name) else {
        return Step::Stop(format!("{name} is not in the grid any more"), "roost host list".into());
    };
    match run {
        Run::Restarting { boot, wanted } => after(grid, host, boot, wanted.as_ref(), wish),
        _ if host.is_missed() => Step::Wait(Until::Heard, format!("{name} is {}", host.state)),
        _ if host.state != "up" => {
            Step::Stop(format!("{name} is {}", host.state), "is it switched on, and roost-agent running there?".into())
        }
        Run::Begun if wish.restart_only => before(grid, host, None, wish),
        Run::Begun if host.image.is_none() => no_image(host, wish),
        Run::Begun => Step::Look,
        Run::Looked(Some(newer)) => before(grid, host, Some(newer), wish),
        Run::Looked(None) => up_to_date(host),
    }
}

fn no_image(host: &Host, wish: &Wish) -> Step {
    let why = format!("{} was not started from a host image", host.name);
    if wish.named {
        return Step::Stop(why, "upgrade its packages, then restart it: --restart-only".into());
    }
    Step::Done("was not started from a host image: left alone".into())
}

fn up_to_date(host: &Host) -> Step {
    if let Some(why) = &host.passed_over {
        let hint = format!("sign a mended image with a later date; until then: roost host resume {}", host.name);
        return Step::Stop(why.clone(), hint);
    }
    match host.maintenance.as_deref() {
        // Only what is drained may be of a run that was interrupted.
        Some("draining" | "drained") => Step::Resume,
        Some(_) | None => {
            let version = host.image.as_ref().map_or("?", |image| image.version.as_str());
            Step::Done(format!("runs the newest image already, {version}"))
        }
    }
}

/// Until it is asked to restart.
fn before(grid: &Grid, host: &Host, newer: Option<&Image>, wish: &Wish) -> Step {
    let here = || grid.guests.iter().filter(|guest| guest.host == host.name && guest.up);
    let stuck: Vec<&str> = here().filter(|guest| guest.protected.is_none()).map(|guest| guest.name.as_str()).collect();
    if let Some(first) = stuck.first() {
        let why = format!("{} can't be handed over from {}: no policy has them protected", stuck.join(", "), host.name);
        return Step::Stop(why, format!("shut them down, and start them afterwards: roost guest shutdown {first}"));
    }
    if let Some(step) = others(grid, host, wish) {
        return step;
    }
    match host.maintenance.as_deref() {
        None => Step::Drain,
        Some("drained") if here().next().is_none() => Step::Restart { boot: host.boot.clone(), wanted: newer.cloned() },
        Some("draining" | "drained") => {
            let waits: Vec<String> = here().map(Guest::told).collect();
            Step::Wait(Until::Empty, format!("guests are handed over; still there: {}", list(&waits)))
        }
        Some(_) => {
            let why = format!("{} is in maintenance, which somebody else began", host.name);
            Step::Stop(why, format!("roost host resume {}, or leave it out", host.name))
        }
    }
}

/// Whether the rest of the grid can do without this host; nothing: it can.
fn others(grid: &Grid, host: &Host, wish: &Wish) -> Option<Step> {
    if wish.force {
        return None;
    }
    for other in grid.hosts.iter().filter(|other| other.id != host.id) {
        let (name, again) = (&other.name, "then again; --force begins all the same");
        if other.is_missed() {
            return Some(Step::Wait(Until::Heard, format!("{name} is {}", other.state)));
        }
        if other.state != "up" {
            return Some(Step::Stop(format!("{name} is {}", other.state), format!("bring it back, {again}")));
        }
        if let Some(maintenance) = &other.maintenance {
            let why = format!("{name} is in maintenance ({maintenance})");
            return Some(Step::Stop(why, format!("roost host resume {name}, {again}")));
        }
    }
    let bare = grid.unprotected(&wish.excused);
    // While it is drained some have nowhere else to go; that was looked at when it began.
    let begins = host.maintenance.is_none() && !bare.is_empty();
    begins.then(|| Step::Wait(Until::Calm, format!("not begun while guests are not protected: {}", list(&bare))))
}

/// Once it was asked to restart.
fn after(grid: &Grid, host: &Host, boot: &str, wanted: Option<&Image>, wish: &Wish) -> Step {
    if host.boot == boot && host.state == "up" {
        return Step::Wait(Until::Going, "is about to restart".into());
    }
    if host.state != "up" {
        return Step::Wait(Until::Back, "restarts".into());
    }
    let runs = host.image.clone().unwrap_or_default();
    if wanted.is_some_and(|wanted| runs.made < wanted.made) {
        let known = "it came back with the image before; its console says why".to_owned();
        let why = host.passed_over.clone().unwrap_or(known);
        let hint = format!(
            "nothing more is upgraded, and {0} stays drained: roost host get {0}; roost host resume {0} has it take part again",
            host.name
        );
        return Step::Stop(format!("{}: {why}", host.name), hint);
    }
    if host.maintenance.is_some() {
        return Step::Resume;
    }
    let bare = grid.unprotected(&wish.excused);
    if !bare.is_empty() {
        return Step::Wait(Until::Protected, format!("is back; not protected yet: {}", list(&bare)));
    }
    Step::Done(match wanted {
        Some(_) => format!("runs image {}, and all guests are protected as before", runs.version),
        None => "was restarted, and all guests are protected as before".into(),
    })
}

fn list(items: &[String]) -> String {
    if items.is_empty() { "none".into() } else { items.join("; ") }
}

impl Grid {
    pub(super) fn read(hosts: &[Value], guests: &[Value]) -> Self {
        Self { hosts: hosts.iter().map(Host::read).collect(), guests: guests.iter().map(Guest::read).collect() }
    }

    /// By name or id.
    pub(super) fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.iter().find(|host| host.name == name || host.id == name)
    }

    /// Each once: a host also reports what it only has old disks of.
    fn unprotected(&self, excused: &BTreeSet<String>) -> Vec<String> {
        let bare = self.guests.iter().filter(|it| it.protected == Some(false) && !excused.contains(&it.id));
        let mut seen = BTreeSet::new();
        bare.filter(|guest| seen.insert(&guest.id)).map(Guest::told).collect()
    }
}

impl Host {
    fn read(host: &Value) -> Self {
        let alarms = host["alarms"].as_array().into_iter().flatten();
        let mut passed_over =
            alarms.filter(|alarm| alarm["code"] == "image-passed-over").map(|alarm| word(&alarm["text"]));
        Self {
            id: word(&host["id"]),
            name: word(&host["name"]),
            state: word(&host["state"]),
            boot: word(&host["boot_id"]),
            maintenance: host["maintenance"].as_str().map(str::to_owned),
            image: Image::read(&host["image"]),
            waits: Image::read(&host["image"]["next"]),
            passed_over: passed_over.next(),
        }
    }

    /// Not yet known whether it is there.
    fn is_missed(&self) -> bool {
        matches!(self.state.as_str(), "suspect" | "never")
    }

    fn drains(&self) -> bool {
        matches!(self.maintenance.as_deref(), Some("draining" | "drained"))
    }
}

impl Image {
    pub(super) fn read(image: &Value) -> Option<Self> {
        Some(Self { version: image["version"].as_str()?.to_owned(), made: image["made"].as_str()?.to_owned() })
    }
}

impl Guest {
    fn read(guest: &Value) -> Self {
        Self {
            id: word(&guest["id"]),
            name: word(&guest["name"]),
            host: word(&guest["host_name"]),
            up: !matches!(guest["state"].as_str(), Some("off" | "crashed")),
            protected: guest["protected"].as_bool(),
            why: word(&guest["unprotected_because"]),
        }
    }

    fn told(&self) -> String {
        if self.why.is_empty() { self.name.clone() } else { format!("{} ({})", self.name, self.why) }
    }
}

fn word(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
