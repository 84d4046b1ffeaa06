//! Cause chains of failover: what hosts noted of wards, kept as they told it, put together by guest and by takeover.
//!
//! Nothing of it is the aggregator's own: after it lost all, hosts tell it again. What no host remembers is not known, and
//! is said to be so. Moments are of the clock of the host that noted them.

use std::collections::{BTreeMap, BTreeSet};

use roost_protocol::cause::{NOTES, NoteKind, Noted, ward_of};
use roost_protocol::{Epoch, GuestId, HostId, Millis, Stamp};

use crate::event::Action;
use crate::grid::{Grid, Host, Now, Presence};
use crate::history::Line;
use crate::protection::Protection;

/// One link of a guest's chain, and who noted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub host: HostId,
    pub at: Option<Stamp>,
    pub what: LinkKind,
    pub epoch: Option<Epoch>,
    /// Hosts by their names.
    pub text: String,
}

/// What a link says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    Noted(NoteKind),
    /// From here on the host remembers.
    Remembers,
    /// What the host noted lately is not known here.
    Unknown,
    /// How the guest stands now.
    Stands,
}

/// One ward that another host won, and how that went: each moment by the winner's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failover {
    pub ward: u64,
    /// Whose ward it is, if a host reports it.
    pub guest: Option<GuestId>,
    pub from: HostId,
    pub to: HostId,
    pub epoch: Option<Epoch>,
    /// None: nobody missed the owner, it gave the ward up.
    pub last_heard: Option<Stamp>,
    pub detected: Option<Stamp>,
    pub asked: Option<Stamp>,
    pub won: Stamp,
    pub votes: Vec<HostId>,
    pub leased: Option<Stamp>,
    /// When what it starts from was chosen, and what that was.
    pub chosen: Option<(Stamp, String)>,
    /// How old the copy was then.
    pub copy_age: Option<Millis>,
    pub started: Option<Stamp>,
    /// Why it doesn't run yet.
    pub trouble: Option<String>,
    /// The first try to start it failed.
    pub stumbled: bool,
}

/// Takeovers since the aggregator started: what hosts told when they were first heard is not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Hosts that won the ward of a guest whose own host they missed; planned hand-overs are none of these.
    pub begun: u64,
    /// Of these, those whose guest could not be started at the first try.
    pub failed: u64,
}

/// What this host's notes say of wards that it won from others, oldest first.
pub(crate) fn failovers(to: HostId, notes: &[Noted]) -> Vec<Failover> {
    let won =
        |(at, note): (usize, &Noted)| (note.kind == NoteKind::Won).then(|| failover(to, notes, at, note)).flatten();
    notes.iter().enumerate().filter_map(won).collect()
}

fn failover(to: HostId, notes: &[Noted], place: usize, won: &Noted) -> Option<Failover> {
    let of_ward = |note: &&Noted| note.ward == won.ward;
    let before: Vec<&Noted> = notes.iter().take(place).filter(of_ward).collect();
    let last = |kind: NoteKind| before.iter().rev().find(|note| note.kind == kind);
    let over = |note: &&&Noted| matches!(note.kind, NoteKind::Won | NoteKind::Heard);
    let missed = before.iter().rev().take_while(|note| !over(note)).find(|note| note.kind == NoteKind::Suspect);
    let asked = last(NoteKind::Candidacy).filter(|asked| asked.epoch.is_some());
    let from = missed.or(asked).and_then(|note| note.hosts.first()).copied().filter(|from| *from != to)?;
    let gone = |note: &&Noted| matches!(note.kind, NoteKind::Won | NoteKind::Lost);
    let after: Vec<&Noted> = notes.iter().skip(place + 1).filter(of_ward).take_while(|note| !gone(note)).collect();
    let next = |kind: NoteKind| after.iter().find(|note| note.kind == kind);
    let (chosen, started) = (next(NoteKind::Source), next(NoteKind::Started).map(|note| note.at));
    let trouble = after.iter().rev().find(|note| note.kind == NoteKind::NotStarted).filter(|_| started.is_none());
    let tried = after.iter().find(|note| matches!(note.kind, NoteKind::Started | NoteKind::NotStarted));
    Some(Failover {
        ward: won.ward,
        guest: None,
        from,
        to,
        epoch: won.epoch,
        last_heard: missed.map(|note| Stamp(note.at.0.saturating_sub(note.span.unwrap_or_default().0))),
        detected: missed.map(|note| note.at),
        asked: asked.map(|note| note.at),
        won: won.at,
        votes: won.hosts.clone(),
        leased: next(NoteKind::Runs).map(|note| note.at),
        chosen: chosen.map(|note| (note.at, note.text.clone())),
        copy_age: chosen.and_then(|note| note.span),
        started,
        trouble: trouble.map(|note| note.text.clone()),
        stumbled: tried.is_some_and(|note| note.kind == NoteKind::NotStarted),
    })
}

impl Grid {
    /// Takes in what a host noted; people are told of what they would ask about.
    pub(crate) fn noted(&mut self, now: Now, id: HostId, notes: Vec<Noted>, all: bool, actions: &mut Vec<Action>) {
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let notes = notes.into_iter().take(NOTES).map(Noted::bounded);
        let before = std::mem::take(&mut host.notes);
        let (known, mut news) = (before.last().map(|last| last.at), Vec::new());
        if all {
            host.notes = notes.collect();
            // What it remembers no more is kept from when it did.
            let remembers = host.guard.as_ref().and_then(|guard| guard.remembers);
            let forgotten = |note: &&Noted| remembers.is_some_and(|since| note.at < since);
            let forgotten: Vec<Noted> = before.iter().filter(forgotten).cloned().collect();
            let room = NOTES.saturating_sub(host.notes.len());
            let skip = forgotten.len().saturating_sub(room);
            host.notes.splice(0..0, forgotten.into_iter().skip(skip));
            // What an aggregator hears that was just started is not new to people.
            let later = |note: &&Noted| known.is_some_and(|known| note.at > known) && !before.contains(note);
            news.extend(host.notes.iter().filter(later).cloned());
        } else {
            host.notes = before;
            news.extend(notes);
            host.notes.extend(news.iter().cloned());
            let over = host.notes.len().saturating_sub(NOTES);
            host.notes.drain(..over);
        }
        for note in news {
            self.publish_note(now, id, &note, actions);
        }
        self.count_failovers(id);
        self.publish_failovers(now, id, actions);
    }

    fn count_failovers(&mut self, id: HostId) {
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let missed = failovers(id, &host.notes).into_iter().filter(|one| one.detected.is_some());
        let first = host.failovers_counted.is_none();
        let counted = host.failovers_counted.get_or_insert_default();
        for one in missed {
            // What its notes don't tell now they may tell again later.
            let key = (one.won, one.ward);
            let known = counted.get(&key).copied();
            counted.insert(key, one.stumbled || known == Some(true));
            if !first {
                self.tally.begun += u64::from(known.is_none());
                self.tally.failed += u64::from(one.stumbled && known != Some(true));
            }
        }
        while counted.len() > 2 * NOTES {
            counted.pop_first();
        }
    }

    /// Reading: takeovers since the aggregator started.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    fn publish_note(&mut self, now: Now, id: HostId, note: &Noted, actions: &mut Vec<Action>) {
        let (kind, line): (&'static str, fn(&'static str, String) -> Line) = match note.kind {
            NoteKind::LeaseEnded => ("failover.paused", Line::error),
            NoteKind::NotStarted => ("failover.not-started", Line::error),
            NoteKind::Fault => ("failover.fault", Line::error),
            NoteKind::Fence => ("failover.fence", Line::warning),
            NoteKind::Refusal => ("failover.refused", Line::warning),
            NoteKind::Override => ("failover.overridden", Line::warning),
            NoteKind::Lost => ("failover.lost", Line::warning),
            NoteKind::HandOver => ("failover.handed-over", Line::info),
            NoteKind::Released => ("failover.released", Line::info),
            NoteKind::Waits => ("guest.waits", Line::info),
            // They are told with the takeover that they belong to.
            NoteKind::Suspect
            | NoteKind::Heard
            | NoteKind::Vote
            | NoteKind::Denial
            | NoteKind::Candidacy
            | NoteKind::Won
            | NoteKind::Raised
            | NoteKind::Runs
            | NoteKind::Stopped
            | NoteKind::Council
            | NoteKind::Source
            | NoteKind::Started => return,
        };
        let guest = self.guest_of_ward(note.ward);
        let name = guest.map_or_else(|| format!("ward {}", note.ward), |guest| self.guest_name(guest));
        let text = format!("{name} on {}: {}", self.host_name(id), self.with_names(&note.text));
        let line = line(kind, text).host(id);
        let line = guest.into_iter().fold(line, Line::guest);
        self.publish(now, line, actions);
    }

    /// One event for each takeover that ended well.
    fn publish_failovers(&mut self, now: Now, id: HostId, actions: &mut Vec<Action>) {
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let done: Vec<Failover> = failovers(id, &host.notes).into_iter().filter(|one| one.started.is_some()).collect();
        let keys: BTreeSet<(u64, Option<Epoch>)> = done.iter().map(|one| (one.ward, one.epoch)).collect();
        let told = std::mem::replace(&mut host.failovers_told, keys);
        for one in done.into_iter().filter(|one| !told.contains(&(one.ward, one.epoch))) {
            let guest = self.guest_of_ward(one.ward);
            let line = Line::warning("failover.done", self.story(&one)).host(id);
            self.publish(now, guest.into_iter().fold(line, Line::guest), actions);
        }
    }

    /// A takeover in one sentence.
    fn story(&self, one: &Failover) -> String {
        let name = self.guest_of_ward(one.ward).map_or_else(|| format!("ward {}", one.ward), |it| self.guest_name(it));
        let votes: Vec<String> = one.votes.iter().map(|host| self.host_name(*host)).collect();
        let begin = one.last_heard.unwrap_or(one.won);
        let after = |at: Stamp| {
            let ms = at.0.saturating_sub(begin.0);
            format!("{}.{} s", ms / 1_000, ms % 1_000 / 100)
        };
        let mut story = format!("{name} runs on {} instead of {}", self.host_name(one.to), self.host_name(one.from));
        match one.detected {
            Some(detected) => story.push_str(&format!(", which was missed {} after its last sign", after(detected))),
            None => story.push_str(", which gave it up"),
        }
        let epoch = one.epoch.map_or(String::new(), |epoch| format!(" epoch {epoch}"));
        story.push_str(&format!("; after {} it had won{epoch} with the votes of {}", after(one.won), votes.join(", ")));
        if let Some((at, text)) = &one.chosen {
            story.push_str(&format!("; after {}: {}", after(*at), self.with_names(text)));
        }
        if let Some(started) = one.started {
            story.push_str(&format!("; it ran after {}", after(started)));
        }
        story
    }

    /// Reading: takeovers that hosts remember.
    pub fn failovers(&self) -> Vec<Failover> {
        let mut all: Vec<Failover> = self.hosts.values().flat_map(|host| failovers(host.id, &host.notes)).collect();
        let wards: BTreeSet<u64> = all.iter().map(|one| one.ward).collect();
        let reported = self.hosts.values().flat_map(|host| host.guests.keys());
        let guests: BTreeMap<u64, GuestId> =
            reported.map(|guest| (ward_of(*guest), *guest)).filter(|(ward, _)| wards.contains(ward)).collect();
        for one in &mut all {
            one.guest = guests.get(&one.ward).copied();
            one.chosen = one.chosen.take().map(|(at, text)| (at, self.with_names(&text)));
            one.trouble = one.trouble.take().map(|text| self.with_names(&text));
        }
        all
    }

    /// Reading: all that is known of why a guest is where it is, in order of time, what isn't known, and how it stands.
    pub fn explanation(&self, guest: GuestId) -> Vec<Link> {
        let ward = ward_of(guest);
        let voters: BTreeSet<HostId> = self.voters_of(guest);
        let mut links = Vec::new();
        let of_ward = |note: &&Noted| note.ward == ward;
        for host in self.hosts.values() {
            let before = links.len();
            links.extend(host.notes.iter().filter(of_ward).map(|note| Link {
                host: host.id,
                at: Some(note.at),
                what: LinkKind::Noted(note.kind),
                epoch: note.epoch,
                text: self.with_names(&note.text),
            }));
            if links.len() > before || voters.contains(&host.id) {
                links.extend(gaps(host));
            }
        }
        links.sort_by_key(|link| (link.at.is_none(), link.at, link.host));
        let stands = |host| Link { host, at: None, what: LinkKind::Stands, epoch: None, text: self.stands(guest) };
        links.extend(self.guest_host(guest).map(stands));
        links
    }

    fn stands(&self, guest: GuestId) -> String {
        match self.protection(guest) {
            Protection::NotWished => "no other host is to go on with it: its policy does not ask for that".into(),
            Protection::By { host, copy } => {
                format!("{} would go on with it, from a copy that is {} s old", self.host_name(host), copy.0 / 1_000)
            }
            Protection::No(why) => format!("no other host would go on with it: {}", why.join("; ")),
        }
    }

    fn voters_of(&self, guest: GuestId) -> BTreeSet<HostId> {
        let wards = self.hosts.values().filter_map(|host| host.guard.as_ref()).flat_map(|guard| &guard.wards);
        let councils = wards.map(|ward| &ward.council).filter(|council| council.guest == guest);
        councils.flat_map(|council| council.voters.iter().map(|voter| voter.host)).collect()
    }

    fn guest_of_ward(&self, ward: u64) -> Option<GuestId> {
        let mut guests = self.hosts.values().flat_map(|host| host.guests.keys());
        guests.find(|guest| ward_of(**guest) == ward).copied()
    }

    /// Reading: what a guest is called where it is, or else anywhere.
    pub fn guest_name(&self, guest: GuestId) -> String {
        self.known_guest(guest).unwrap_or_else(|| guest.to_string())
    }

    fn known_guest(&self, guest: GuestId) -> Option<String> {
        let at = |host: &Host| host.guests.get(&guest).map(|it| it.report.name.clone());
        let home = self.guest_host(guest).and_then(|host| at(self.hosts.get(&host)?));
        home.or_else(|| self.hosts.values().find_map(at))
    }

    /// Reading: what a host is called.
    pub fn host_name(&self, id: HostId) -> String {
        self.voter_name(id).map_or_else(|| id.to_string(), str::to_owned)
    }

    fn voter_name(&self, id: HostId) -> Option<&str> {
        let witness = (id == self.witness_id()).then_some("the witness");
        self.hosts.get(&id).map(|host| host.name.as_str()).or(witness)
    }

    /// The sentence with hosts and guests by their names: a guard knows hosts by id and number of its vote store.
    fn with_names(&self, text: &str) -> String {
        let named = |word: &str| {
            let bare = word.trim_end_matches([',', ':', '.']);
            let tail = word.get(bare.len()..).unwrap_or_default();
            let id = bare.split('#').next()?;
            let host = || self.voter_name(id.parse().ok()?).map(str::to_owned);
            let guest = || id.parse().ok().and_then(|guest| self.known_guest(guest));
            Some(format!("{}{tail}", host().or_else(guest)?))
        };
        let words: Vec<String> = text.split(' ').map(|word| named(word).unwrap_or_else(|| word.to_owned())).collect();
        words.join(" ")
    }
}

/// What is not known of what a host noted.
fn gaps(host: &Host) -> Vec<Link> {
    let link = |at, what, text: String| Link { host: host.id, at, what, epoch: None, text };
    let remembers = host.guard.as_ref().and_then(|guard| guard.remembers);
    let since = remembers.map(|at| {
        let text =
            "what happened here before this is not remembered: the guard was started, or its notes were too many";
        link(Some(at), LinkKind::Remembers, text.into())
    });
    let silent = match host.presence {
        Presence::Up { .. } => None,
        Presence::Never => Some("was not heard since the aggregator started: what it noted is not known"),
        Presence::Suspect { .. } | Presence::Down { .. } => Some("is not heard: what it noted since is not known"),
    };
    let silent = silent.map(|why| link(None, LinkKind::Unknown, format!("{} {why}", host.name)));
    since.into_iter().chain(silent).collect()
}
