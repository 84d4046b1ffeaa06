//! The cause chains of wards, as this host knows them: what its guard noted, and what became of the guests that were won.
//! Kept here so that an aggregator that lost all is told again.

use std::collections::{BTreeSet, VecDeque};

use roost_protocol::backup::Meant;
use roost_protocol::cause::{NOTES, NOTES_OF_WARD, NoteKind, Noted, ward_of};
use roost_protocol::guest::PowerState;
use roost_protocol::{GuestId, HostId, Millis};

use crate::agent::{Agent, Now};

/// What is remembered.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    /// Oldest first.
    notes: VecDeque<Noted>,
    /// Not told to the aggregator yet; after a break it is told all.
    news: Vec<Noted>,
    /// Guests that were won and don't run yet.
    starting: BTreeSet<GuestId>,
}

impl Chain {
    pub(crate) fn add(&mut self, note: Noted) {
        let note = note.bounded();
        let of_ward = |kept: &&Noted| kept.ward == note.ward;
        let full = self.notes.iter().filter(of_ward).count() >= NOTES_OF_WARD;
        let oldest = if full { self.notes.iter().position(|kept| kept.ward == note.ward) } else { Some(0) };
        if let Some(oldest) = oldest.filter(|_| full || self.notes.len() >= NOTES) {
            self.notes.remove(oldest);
        }
        if self.news.len() < NOTES {
            self.news.push(note.clone());
        }
        self.notes.push_back(note);
    }

    /// What to tell: all that is remembered, or what is new.
    pub(crate) fn tell(&mut self, all: bool) -> Vec<Noted> {
        let news = std::mem::take(&mut self.news);
        if all { self.notes.iter().cloned().collect() } else { news }
    }
}

impl Agent {
    /// The guard noted this.
    pub(crate) fn guard_noted(&mut self, now: Now, notes: Vec<Noted>) {
        for note in notes {
            self.chain.add(note);
        }
        self.beats.hurry(now.time);
    }

    /// What a won guest is started from was chosen.
    pub(crate) fn chosen(&mut self, now: Now, guest: GuestId, made_by: Option<(HostId, Millis)>, text: String) {
        self.chain.starting.insert(guest);
        self.note(now, guest, NoteKind::Source, made_by, text);
    }

    pub(crate) fn not_started(&mut self, now: Now, guest: GuestId, text: String) {
        self.note(now, guest, NoteKind::NotStarted, None, text);
    }

    /// Notes when guests that were won run, or stand paused as they did.
    pub(crate) fn keep_chain(&mut self, now: Now) {
        let is = |guest: GuestId| match self.guests.get(guest).map(|it| it.seen.state) {
            Some(PowerState::Running) => Some((guest, "it runs here")),
            Some(PowerState::Paused) if self.meant(guest) == Meant::Pause => Some((guest, "it stands paused here")),
            _ => None,
        };
        let there: Vec<(GuestId, &str)> = self.chain.starting.iter().copied().filter_map(is).collect();
        for (guest, text) in there {
            self.note(now, guest, NoteKind::Started, None, text.into());
            self.chain.starting.remove(&guest);
        }
        let rights = &self.rights;
        self.chain.starting.retain(|guest| rights.is_here(*guest));
    }

    pub(crate) fn note(
        &mut self,
        now: Now,
        guest: GuestId,
        kind: NoteKind,
        of: Option<(HostId, Millis)>,
        text: String,
    ) {
        let (hosts, span) = (of.iter().map(|(host, _)| *host).collect(), of.map(|(_, age)| age));
        self.chain.add(Noted { ward: ward_of(guest), at: now.wall, kind, epoch: None, hosts, span, text });
        self.beats.hurry(now.time);
    }
}

#[cfg(test)]
mod test {
    use roost_protocol::Stamp;

    use super::*;

    fn note(ward: u64, at: u64) -> Noted {
        let (hosts, text) = (Vec::new(), "n".repeat(4_096));
        Noted { ward, at: Stamp(at), kind: NoteKind::Vote, epoch: None, hosts, span: None, text }
    }

    #[test]
    fn a_ward_that_never_rests_pushes_out_no_other_s_chain() {
        let mut chain = Chain::default();
        chain.add(note(1, 0));
        for at in 1..10_000 {
            chain.add(note(2, at));
        }
        let all = chain.tell(true);
        assert_eq!(
            (all.len(), all[0].ward, all.last().map(|last| last.at)),
            (NOTES_OF_WARD + 1, 1, Some(Stamp(9_999)))
        );
        for ward in 3..2_000 {
            chain.add(note(ward, 0));
        }
        assert_eq!(chain.tell(true).len(), NOTES);
    }

    #[test]
    fn news_are_told_once_and_all_is_told_again() {
        let mut chain = Chain::default();
        chain.add(note(1, 5));
        assert_eq!(chain.tell(false).len(), 1);
        assert_eq!(chain.tell(false), []);
        assert_eq!(chain.tell(true).len(), 1);
    }
}
