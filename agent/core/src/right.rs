//! The right to run a guest, where hosts decide it by votes: the guard tells, and the agent keeps to it. What executes
//! without a lease the guard stops by itself; this is for starting where the lease is, and for ending what is another's.

use std::collections::BTreeMap;

use roost_protocol::{GuestId, Millis, Time};

use crate::agent::{Agent, Hypervisor, Now, Purpose};
use crate::event::{Action, Task};
use crate::guests::alive;

/// Alarm while the guard doesn't answer.
const GUARD_AWAY: &str = "guard-away";

/// A guest that can't be switched off is tried again after this; it stands still meanwhile.
const YIELD_EVERY: Millis = Millis::seconds(10);

/// Where a guest of a ward may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Here, now.
    Here,
    /// Perhaps here, not now: the lease is away, or nobody owns the ward. What stands still here goes on later.
    Waits,
    /// On another host, which owns the ward.
    Elsewhere,
}

/// What is known of rights.
#[derive(Clone, Debug)]
pub(crate) enum Rights {
    /// No guard here: this host alone decides about its guests.
    Free,
    /// The guard was not heard yet: any guest may be one of a ward.
    Unheard,
    Told {
        wards: BTreeMap<GuestId, Right>,
        /// It answered when it was asked last.
        present: bool,
        /// Not switched off again before this.
        next_yield: Time,
    },
}

impl Rights {
    pub(crate) fn new(guarded: bool) -> Self {
        if guarded { Self::Unheard } else { Self::Free }
    }

    /// Why a guest may not be started here.
    pub(crate) fn bar(&self, guest: GuestId) -> Option<&'static str> {
        match self {
            Rights::Free => None,
            Rights::Unheard => Some("this host's guard was not heard yet: another host may run the guest"),
            Rights::Told { wards, present, .. } => match wards.get(&guest) {
                None => None,
                Some(Right::Here) if *present => None,
                Some(Right::Here) => {
                    Some("this host's guard doesn't answer: the right to run the guest may have ended")
                }
                Some(Right::Waits) => Some("its ward has no lease here: see roost-guard explain"),
                Some(Right::Elsewhere) => Some("its ward is another host's: see roost-guard status"),
            },
        }
    }
}

impl Rights {
    /// True until the guard was heard: what is another host's is not known.
    pub(crate) fn are_unheard(&self) -> bool {
        matches!(self, Rights::Unheard)
    }

    /// True for what has a lease here.
    pub(crate) fn is_here(&self, guest: GuestId) -> bool {
        matches!(self, Rights::Told { wards, present: true, .. } if wards.get(&guest) == Some(&Right::Here))
    }

    /// True for what nobody, or nobody for certain, owns now, by the word of a guard that answers.
    pub(crate) fn waits(&self, guest: GuestId) -> bool {
        matches!(self, Rights::Told { wards, present: true, .. } if wards.get(&guest) == Some(&Right::Waits))
    }

    /// True for what this host alone decides about.
    pub(crate) fn is_free_of(&self, guest: GuestId) -> bool {
        match self {
            Rights::Free => true,
            Rights::Unheard => false,
            Rights::Told { wards, .. } => !wards.contains_key(&guest),
        }
    }

    /// True for what another host owns, as the guard knew when it was heard last.
    pub(crate) fn is_elsewhere(&self, guest: GuestId) -> bool {
        match self {
            Rights::Free | Rights::Unheard => false,
            Rights::Told { wards, .. } => wards.get(&guest) == Some(&Right::Elsewhere),
        }
    }
}

impl Agent {
    /// The guard told of all guests of all its wards.
    pub(crate) fn rights_told(&mut self, now: Now, told: BTreeMap<GuestId, Right>, actions: &mut Vec<Action>) {
        self.clear_alarm(GUARD_AWAY, None);
        let before = std::mem::replace(
            &mut self.rights,
            Rights::Told { wards: told.clone(), present: true, next_yield: now.time },
        );
        let held = |guest: &GuestId| match &before {
            Rights::Told { wards, .. } => wards.get(guest) == Some(&Right::Here),
            Rights::Free | Rights::Unheard => false,
        };
        let turned = |guest: &GuestId| before.is_elsewhere(*guest) != self.rights.is_elsewhere(*guest);
        for guest in self.guests.known.keys().copied().filter(turned).collect::<Vec<_>>() {
            self.mark_dirty(now, guest);
        }
        let gained = told.iter().filter(|(guest, right)| **right == Right::Here && !held(guest));
        for guest in gained.map(|(guest, _)| *guest).collect::<Vec<_>>() {
            let text = "its ward has a lease here: it may run".into();
            actions.push(Action::Note { guest: Some(guest), at: Some(now.wall), text });
            self.gained(now, guest);
        }
    }

    /// The guard doesn't answer.
    pub(crate) fn guard_away(&mut self, now: Now, why: &str) {
        if let Rights::Told { present, .. } = &mut self.rights {
            *present = false;
        }
        let text = format!("the guard doesn't answer ({why}): leases may end, and no guest of a ward is started");
        self.raise_alarm(now, GUARD_AWAY, None, text);
    }

    /// Ends what runs here and is another host's: it stands still already, and its memory is of no use.
    pub(crate) fn yield_guests(&mut self, now: Now, actions: &mut Vec<Action>) {
        let Rights::Told { wards, present: true, next_yield } = &self.rights else { return };
        if self.hypervisor != Hypervisor::Up || now.time < *next_yield {
            return;
        }
        let elsewhere = wards.iter().filter(|(_, right)| **right == Right::Elsewhere).map(|(guest, _)| *guest);
        let up = |guest: &GuestId| self.guests.get(*guest).is_some_and(|known| alive(known.seen.state));
        let due: Vec<GuestId> = elsewhere.filter(up).filter(|guest| !self.busy(*guest)).collect();
        if let (Rights::Told { next_yield, .. }, false) = (&mut self.rights, due.is_empty()) {
            *next_yield = now.time + YIELD_EVERY;
        }
        for guest in due {
            let text = "switched off: its ward is another host's".into();
            actions.push(Action::Note { guest: Some(guest), at: Some(now.wall), text });
            self.run(Task::ForceOff { guest }, Purpose::Wish, actions);
        }
    }
}

#[cfg(test)]
mod test {
    use roost_protocol::guest::{Desired, Power, PowerState};
    use roost_protocol::{HostId, Stamp};

    use super::*;
    use crate::event::Event;
    use crate::ledger::Kept;
    use crate::sample::{config, seen};

    const GUEST: GuestId = GuestId::from_u128(7);

    struct Rig {
        agent: Agent,
        now: u64,
    }

    impl Rig {
        fn new(wish: Option<Power>) -> Self {
            let mut kept = Kept::default();
            if let Some(power) = wish {
                kept.wishes.insert(GUEST, Desired { power, generation: roost_protocol::Generation(1) });
            }
            let mut rig = Self { agent: Agent::new(config(HostId::from_u128(1), true), kept), now: 0 };
            rig.tell(Event::StoreOpened { points: Vec::new() });
            rig.tell(Event::HypervisorUp { domains: vec![seen(GUEST, PowerState::Off)], host_booted: true });
            rig
        }

        /// What it runs, told this and left alone for a while.
        fn tell(&mut self, event: Event) -> Vec<Task> {
            let mut ran = Vec::new();
            for event in [event, Event::Tick] {
                self.now += 10_000;
                let actions = self.agent.on(Time(self.now), Stamp(self.now), event);
                for action in actions {
                    if let Action::Run { what: what @ (Task::Start { .. } | Task::ForceOff { .. }), .. } = action {
                        ran.push(what);
                    }
                }
            }
            ran
        }

        fn right(&mut self, right: Right) -> Vec<Task> {
            self.tell(Event::Rights { guests: [(GUEST, right)].into() })
        }
    }

    #[test]
    fn a_returned_host_starts_no_guest_before_its_guard_says_so() {
        let mut rig = Rig::new(Some(Power::Running));
        assert_eq!(rig.tell(Event::Tick), []);
        assert_eq!(rig.right(Right::Waits), []);
        let told = |rig: &Rig| rig.agent.report(GUEST).unwrap().desired.map(|desired| desired.power);
        assert_eq!(told(&rig), Some(Power::Running));
        assert_eq!(rig.right(Right::Elsewhere), []);
        assert_eq!(told(&rig), None, "another host looks after it");
        assert_eq!(rig.right(Right::Here), [Task::Start { guest: GUEST, paused: false }]);
        assert_eq!(told(&rig), Some(Power::Running));
    }

    #[test]
    fn a_guest_of_no_ward_is_started_once_the_guard_was_heard() {
        let mut rig = Rig::new(Some(Power::Running));
        assert_eq!(rig.tell(Event::Rights { guests: BTreeMap::new() }), [Task::Start { guest: GUEST, paused: false }]);
    }

    #[test]
    fn a_host_that_wins_a_ward_starts_its_guests_and_looks_after_them() {
        let mut rig = Rig::new(None);
        assert_eq!(rig.right(Right::Elsewhere), []);
        assert_eq!(rig.right(Right::Here), [Task::Start { guest: GUEST, paused: false }]);
        assert_eq!(rig.agent.wishes.get(&GUEST).map(|desired| desired.power), Some(Power::Running));
    }

    #[test]
    fn what_was_wished_off_stays_off_after_a_takeover() {
        let mut rig = Rig::new(Some(Power::Stopped));
        assert_eq!(rig.right(Right::Here), []);
    }

    #[test]
    fn a_guard_that_is_away_is_told_of_and_bars_starts() {
        let mut rig = Rig::new(Some(Power::Running));
        rig.tell(Event::GuardAway { why: "no socket".into() });
        assert!(rig.agent.alarms.keys().any(|(code, _)| code == GUARD_AWAY));
        rig.right(Right::Waits);
        assert!(rig.agent.alarms.is_empty());
        rig.tell(Event::GuardAway { why: "no answer".into() });
        assert_eq!(rig.tell(Event::Tick), []);
    }

    #[test]
    fn what_is_another_host_s_is_switched_off_and_what_only_waits_is_not() {
        let mut rig = Rig::new(Some(Power::Running));
        rig.right(Right::Waits);
        assert_eq!(rig.tell(Event::Changed { domain: seen(GUEST, PowerState::Running) }), []);
        assert_eq!(rig.right(Right::Elsewhere), [Task::ForceOff { guest: GUEST }]);
    }
}
