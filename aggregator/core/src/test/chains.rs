//! What is told of why a guest is where it is.

use roost_protocol::cause::{NOTES, NoteKind, Noted, ward_of};
use roost_protocol::failover::GuardReport;
use roost_protocol::guest::PowerState;
use roost_protocol::message::{Beat, Snapshot, ToAggregator};
use roost_protocol::{Epoch, GuestId, HostId, Millis, Stamp};

use super::{HOST, LINK, Rig, report};
use crate::Event;
use crate::chains::{LinkKind, Tally, failovers};

const GUEST: GuestId = GuestId::from_u128(50);
const DEAD: HostId = HostId::from_u128(9);

fn note(kind: NoteKind, at: u64, hosts: &[HostId]) -> Noted {
    let epoch = matches!(kind, NoteKind::Candidacy | NoteKind::Won | NoteKind::Runs).then_some(Epoch(3));
    let text = format!("by {HOST}#7, {DEAD}: so");
    Noted { ward: ward_of(GUEST), at: Stamp(at), kind, epoch, hosts: hosts.to_vec(), span: None, text }
}

/// A takeover as its winner notes it.
fn takeover() -> Vec<Noted> {
    let mut notes = vec![
        note(NoteKind::Suspect, 15_000, &[DEAD]),
        note(NoteKind::Candidacy, 32_000, &[DEAD]),
        note(NoteKind::Won, 32_100, &[HOST]),
        note(NoteKind::Runs, 32_200, &[]),
        note(NoteKind::Source, 32_500, &[DEAD]),
        note(NoteKind::Started, 34_000, &[]),
    ];
    notes[0].span = Some(Millis(5_000));
    notes[4].span = Some(Millis(4_000));
    notes
}

fn guard(remembers: u64, notes: Vec<Noted>) -> GuardReport {
    GuardReport {
        incarnation: 7,
        key: [0; 32],
        may_own: true,
        remembers: Some(Stamp(remembers)),
        notes,
        ..GuardReport::default()
    }
}

impl Rig {
    fn remembers(&mut self, since: u64, notes: Vec<Noted>) {
        let guests = vec![report(GUEST, "desk", PowerState::Running)];
        let guard = Some(Box::new(guard(since, notes)));
        let snapshot = Snapshot { guests, guard, ..Snapshot::default() };
        self.tell(Event::Received { link: LINK, message: ToAggregator::Snapshot(snapshot) });
    }

    fn notes(&mut self, notes: Vec<Noted>) {
        let beat = Beat { guard: Some(Box::new(guard(0, notes))), ..Beat::default() };
        self.tell(Event::Received { link: LINK, message: ToAggregator::Beat(beat) });
    }

    fn count(&self, kind: &str) -> usize {
        self.kinds.iter().filter(|told| *told == kind).count()
    }
}

#[test]
fn a_takeover_has_all_its_moments() {
    let all = failovers(HOST, &takeover());
    let [one] = &all[..] else { panic!("{all:?}") };
    assert_eq!((one.from, one.to, one.epoch), (DEAD, HOST, Some(Epoch(3))));
    assert_eq!((one.last_heard, one.detected), (Some(Stamp(10_000)), Some(Stamp(15_000))));
    assert_eq!((one.asked, one.won, one.leased), (Some(Stamp(32_000)), Stamp(32_100), Some(Stamp(32_200))));
    assert_eq!((one.copy_age, one.started), (Some(Millis(4_000)), Some(Stamp(34_000))));
}

#[test]
fn an_owner_that_comes_back_to_its_own_ward_took_nothing_over() {
    let notes =
        [note(NoteKind::Candidacy, 1, &[HOST]), note(NoteKind::Won, 2, &[HOST]), note(NoteKind::Started, 3, &[])];
    assert_eq!(failovers(HOST, &notes), []);
    assert_eq!(failovers(HOST, &[note(NoteKind::Won, 2, &[HOST])]), [], "a new ward has no owner before");
}

#[test]
fn a_guest_that_does_not_start_says_why() {
    let mut notes = takeover();
    notes.truncate(5);
    notes.push(note(NoteKind::NotStarted, 33_000, &[]));
    assert!(failovers(HOST, &notes)[0].trouble.is_some());
    notes.push(note(NoteKind::Started, 34_000, &[]));
    assert!(failovers(HOST, &notes)[0].trouble.is_none());
}

#[test]
fn a_takeover_is_told_once_and_again_by_an_aggregator_that_lost_all() {
    let mut rig = Rig::new();
    rig.remembers(0, Vec::new());
    let mut notes = takeover();
    let started = notes.pop().unwrap();
    rig.notes(notes);
    assert_eq!(rig.count("failover.done"), 0, "it does not run yet");
    rig.notes(vec![started]);
    rig.remembers(0, takeover());
    assert_eq!(rig.count("failover.done"), 1);
    let mut rig = Rig::new();
    rig.remembers(0, takeover());
    assert_eq!((rig.count("failover.done"), rig.grid.failovers().len()), (1, 1));
}

#[test]
fn takeovers_are_counted_once_each_and_not_those_that_were_before_the_aggregator() {
    let mut rig = Rig::new();
    rig.remembers(0, takeover());
    assert_eq!(rig.grid.tally(), Tally::default(), "it was long ago, for all this aggregator knows");
    let later = |kind| note(kind, 90_000, &[DEAD]);
    rig.notes(vec![later(NoteKind::Suspect), later(NoteKind::Won)]);
    assert_eq!(rig.grid.tally(), Tally { begun: 1, failed: 0 });
    rig.notes(vec![later(NoteKind::NotStarted)]);
    rig.notes(vec![later(NoteKind::NotStarted)]);
    assert_eq!(rig.grid.tally(), Tally { begun: 1, failed: 1 }, "tried again and again, it failed once");
    rig.notes(vec![later(NoteKind::Started)]);
    let all = rig.grid.hosts()[&HOST].notes.clone();
    rig.remembers(0, all);
    assert_eq!(rig.grid.tally(), Tally { begun: 1, failed: 1 }, "after a break nothing is counted twice");
    let whole = rig.grid.hosts()[&HOST].notes.clone();
    // So many of another ward that the takeover's own are no longer known here, until the host tells all it has.
    let noise = |at| Noted { ward: 77, ..note(NoteKind::Heard, at, &[DEAD]) };
    (0..40).for_each(|round| rig.notes((0..48).map(|at| noise(100_000 + round * 48 + at)).collect()));
    assert!(rig.grid.failovers().is_empty());
    rig.remembers(0, whole);
    assert_eq!((rig.grid.failovers().len(), rig.grid.tally()), (2, Tally { begun: 1, failed: 1 }));
    let at = |kind, at| note(kind, at, &[DEAD]);
    let second = [NoteKind::Suspect, NoteKind::Won, NoteKind::NotStarted, NoteKind::Started];
    rig.notes(second.into_iter().zip(200_000..).map(|(kind, time)| at(kind, time)).collect());
    assert_eq!(rig.grid.tally(), Tally { begun: 2, failed: 2 }, "told at once, and it runs by now");
    let mut rig = Rig::new();
    rig.remembers(0, Vec::new());
    rig.notes(vec![note(NoteKind::Candidacy, 1, &[DEAD]), note(NoteKind::Won, 2, &[HOST])]);
    assert_eq!((rig.grid.failovers().len(), rig.grid.tally()), (1, Tally::default()), "a planned hand-over");
    // A takeover while the link was cut, told in whole.
    rig.remembers(0, takeover());
    assert_eq!(rig.grid.tally(), Tally { begun: 1, failed: 0 });
}

#[test]
fn pauses_are_told_as_they_come_and_not_again_after_a_break() {
    let mut rig = Rig::new();
    let pause = || note(NoteKind::LeaseEnded, 40_000, &[]);
    rig.remembers(0, vec![pause()]);
    assert_eq!(rig.count("failover.paused"), 0, "it was long ago, for all this aggregator knows");
    rig.remembers(0, vec![pause(), note(NoteKind::LeaseEnded, 50_000, &[])]);
    rig.notes(vec![note(NoteKind::LeaseEnded, 60_000, &[])]);
    assert_eq!(rig.count("failover.paused"), 2);
}

#[test]
fn what_a_host_forgets_is_kept_and_it_is_said_from_when_it_remembers() {
    let mut rig = Rig::new();
    rig.remembers(0, takeover());
    rig.remembers(90_000, Vec::new());
    let links = rig.grid.explanation(GUEST);
    assert_eq!((links.len(), links[7].what), (8, LinkKind::Stands));
    assert!(links[7].text.contains("does not ask for that"), "{}", links[7].text);
    assert_eq!((links[6].what, links[6].at), (LinkKind::Remembers, Some(Stamp(90_000))));
    assert_eq!(links[0].text, format!("by h, {DEAD}: so"), "hosts are called by their names");
    rig.pass(Millis::seconds(60));
    let links = rig.grid.explanation(GUEST);
    assert_eq!(links.get(7).map(|link| link.what), Some(LinkKind::Unknown), "{links:?}");
}

#[test]
fn a_host_that_notes_without_end_is_kept_within_bounds() {
    let mut rig = Rig::new();
    for at in 0..20 {
        rig.notes(vec![note(NoteKind::Vote, at, &[HOST; 64]); 2 * NOTES]);
    }
    let kept = &rig.grid.hosts()[&HOST].notes;
    assert_eq!(kept.len(), NOTES);
    assert!(kept.iter().all(|note| note.hosts.len() <= 10));
}
