//! What speaks against taking guests over: that people said so, and that the guests of an owner that is missed still answer
//! where they are probed, so that they run whatever became of their host. Advice: a guest without probes is taken over as
//! the votes say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use roost_agent_core::GuardWish;
use roost_agent_core::probe::{Pace, Wanted};
use roost_protocol::GuestId;
use roost_protocol::probe::{Access, Answer};
use roost_ward::door::{Request, Status, Told, WardStatus};
use roost_ward::{Bars, Standing};
use tokio::sync::watch;

use crate::observe::probe::{self, Doors};

/// Tries doors while an owner is missed.
pub(super) struct Knocker {
    wanted: watch::Sender<Arc<Wanted>>,
    doors: watch::Receiver<Doors>,
}

impl Knocker {
    pub(super) fn start() -> Self {
        let (wanted, wanted_there) = watch::channel(Arc::default());
        Self { wanted, doors: probe::start(wanted_there, Pace::HASTY) }
    }

    /// Who answered lately, of those that are tried now.
    pub(super) fn answering(&self, status: &Status, wish: &GuardWish) -> BTreeSet<GuestId> {
        let wanted = wanted(status, wish);
        self.wanted.send_if_modified(|before| {
            let changed = **before != wanted;
            if changed {
                *before = Arc::new(wanted.clone());
            }
            changed
        });
        answering(&self.doors.borrow(), &wanted)
    }
}

/// Guests that this host may go on with and whose owner is missed, with their doors.
fn wanted(status: &Status, wish: &GuardWish) -> Wanted {
    let guests: BTreeSet<GuestId> =
        status.wards.iter().filter(|ward| is_missing(status, ward)).flat_map(|ward| ward.guests.clone()).collect();
    let of = |texts: &[String]| texts.iter().filter_map(|text| text.parse().ok()).collect::<Vec<_>>();
    let doors = wish.probes.iter().filter(|it| guests.contains(&it.guest)).map(|it| (it.guest, of(&it.probes)));
    doors.collect()
}

/// What the guard is to be told, where that is otherwise than it was.
pub(super) fn steps(status: &Status, wish: &GuardWish, answering: &BTreeSet<GuestId>) -> Vec<Request> {
    status.wards.iter().filter_map(|ward| step(status, wish, answering, ward)).collect()
}

fn step(status: &Status, wish: &GuardWish, answering: &BTreeSet<GuestId>, ward: &WardStatus) -> Option<Request> {
    // Until the aggregator was heard, what it said before holds.
    let disarmed = if wish.councils.is_some() { wish.disarmed } else { ward.disarmed };
    let guests_answer = is_missing(status, ward) && ward.guests.iter().any(|guest| answering.contains(guest));
    let bars = Bars { disarmed, guests_answer, ..Bars::default() };
    let other = ward.disarmed != disarmed || ward.guests_answer != guests_answer;
    other.then_some(Request::Tell { ward: ward.ward, what: Told::Bars(bars) })
}

/// Whether this home misses the ward's owner and could go on in its place.
fn is_missing(status: &Status, ward: &WardStatus) -> bool {
    let another_s = ward.owner.is_some_and(|owner| owner != status.me);
    ward.suspected && another_s && ward.standing != Standing::Running && ward.homes.contains(&status.me)
}

/// Whoever takes a connection is alive, whatever it then says.
fn answering(doors: &BTreeMap<GuestId, Vec<Access>>, wanted: &Wanted) -> BTreeSet<GuestId> {
    let answers = |access: &Access| matches!(access.answer, Answer::Ok | Answer::BadReply);
    let all = doors.iter().filter(|(guest, all)| wanted.contains_key(guest) && all.iter().any(answers));
    all.map(|(guest, _)| *guest).collect()
}

#[cfg(test)]
mod test {
    use roost_protocol::Stamp;
    use roost_protocol::probe::GuestProbes;

    use super::super::sample::{GUEST, member, status, ward};
    use super::*;

    fn told(disarmed: bool, guests_answer: bool) -> Vec<Request> {
        let bars = Bars { disarmed, guests_answer, ..Bars::default() };
        vec![Request::Tell { ward: roost_ward::WardId::of(GUEST), what: Told::Bars(bars) }]
    }

    #[test]
    fn a_host_in_maintenance_takes_nothing_over_until_it_is_out_of_it() {
        let ask = |disarmed: bool, seen: bool| {
            let ward = WardStatus { disarmed: seen, ..ward(2, false) };
            let wish = GuardWish { disarmed, councils: Some(Vec::new()), ..GuardWish::default() };
            steps(&status(1, vec![ward]), &wish, &BTreeSet::new())
        };
        assert_eq!((ask(true, false), ask(true, true)), (told(true, false), Vec::new()));
        assert_eq!((ask(false, true), ask(false, false)), (told(false, false), Vec::new()));
    }

    /// Host 1's ward as its second home sees it, which misses it.
    fn missing() -> WardStatus {
        let homes = vec![member(1), member(2)];
        WardStatus { homes, suspected: true, guests: vec![GUEST], ..ward(1, false) }
    }

    #[test]
    fn guests_that_answer_are_left_where_they_are_until_they_answer_no_more() {
        let ask = |ward: WardStatus, answers: bool| {
            let answering = if answers { BTreeSet::from([GUEST]) } else { BTreeSet::new() };
            steps(&status(2, vec![ward]), &GuardWish::default(), &answering)
        };
        assert_eq!(ask(missing(), true), told(false, true));
        assert_eq!(ask(WardStatus { guests_answer: true, ..missing() }, true), []);
        assert_eq!(ask(WardStatus { guests_answer: true, ..missing() }, false), told(false, false));
        let heard = WardStatus { suspected: false, guests_answer: true, ..missing() };
        assert_eq!(ask(heard, true), told(false, false), "its owner is heard again");
        let disarmed = WardStatus { disarmed: true, ..missing() };
        assert_eq!(ask(disarmed, true), told(true, true), "what was said before the aggregator was heard holds");
    }

    #[test]
    fn doors_are_tried_while_their_owner_is_missed_by_who_would_go_on() {
        let probes = |guest| GuestProbes { guest, probes: vec!["tcp://192.0.2.7:22".into(), "nonsense".into()] };
        let wish = GuardWish { probes: vec![probes(GUEST), probes(GuestId::from_u128(9))], ..GuardWish::default() };
        let doors = |me: u128, ward: WardStatus| wanted(&status(me, vec![ward]), &wish);
        let door = BTreeMap::from([(GUEST, vec!["tcp://192.0.2.7:22".parse().unwrap()])]);
        assert_eq!(doors(2, missing()), door);
        assert_eq!(doors(3, missing()), BTreeMap::new(), "it only votes");
        assert_eq!(doors(1, missing()), BTreeMap::new(), "it is its own");
        assert_eq!(doors(2, WardStatus { suspected: false, ..missing() }), BTreeMap::new());
    }

    #[test]
    fn whoever_takes_a_connection_is_alive() {
        let wanted = BTreeMap::from([(GUEST, Vec::new())]);
        let says = |answer| {
            let access = Access { probe: String::new(), up: false, answer, rtt_ms: None, since: Stamp(0) };
            answering(&BTreeMap::from([(GUEST, vec![access])]), &wanted).contains(&GUEST)
        };
        assert!(says(Answer::Ok) && says(Answer::BadReply));
        assert!(!says(Answer::TimedOut) && !says(Answer::Refused));
    }
}
