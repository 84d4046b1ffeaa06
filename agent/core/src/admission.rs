//! Whether the host has the memory for a guest that is to be started: by its last look, and by what was begun since.

use std::collections::BTreeMap;

use roost_protocol::operation::{Failure, FailureCode};
use roost_protocol::{GuestId, MiB, Millis, Time};

use crate::agent::{Agent, Now};
use crate::command::failure;
use crate::event::Task;
use crate::memory::Room;

/// Looks come every 2 s. After so long without one nobody knows, and nobody is refused.
const KNOWN_FOR: Millis = Millis::seconds(30);
/// A guest that was begun is in the looks soon after, or failed.
const BEGUN_FOR: Millis = Millis::seconds(60);
/// A guest that the host itself would start, and has no memory for, is tried again after this.
const AGAIN: Millis = Millis::seconds(10);
/// Alarm while that waits.
const NO_MEMORY: &str = "no-memory";

/// What is known of room in memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Admission {
    /// Absent: nobody looks after memory here.
    room: Option<(Time, Room)>,
    /// Starts that were begun and not looked at since.
    begun: BTreeMap<GuestId, (Time, MiB)>,
}

impl Admission {
    pub(crate) fn told(&mut self, now: Time, room: Room) {
        self.begun.retain(|guest, (at, _)| !room.counts(*guest) && now.since(*at) < BEGUN_FOR);
        self.room = Some((now, room));
    }

    fn refusal(&self, now: Time, guest: GuestId, full: MiB) -> Option<Failure> {
        let (at, room) = self.room.as_ref()?;
        // One that was there a moment ago takes the place that it had.
        if now.since(*at) >= KNOWN_FOR || room.counts(guest) {
            return None;
        }
        let others = self.begun.iter().filter(|(other, _)| **other != guest);
        let starting: Vec<MiB> = others.map(|(_, (_, full))| *full).collect();
        let refusal = room.admit(&starting, full).err()?;
        Some(failure(FailureCode::WrongState, format!("{refusal}; stop others, or start it on another host")))
    }
}

impl Agent {
    /// Why a new guest of this size is not started; nothing when it is.
    pub(crate) fn no_room_for(&self, now: Now, guest: GuestId, full: MiB) -> Option<Failure> {
        self.admission.refusal(now.time, guest, full)
    }

    /// The same for one that is here.
    pub(crate) fn no_room(&self, now: Now, guest: GuestId) -> Option<Failure> {
        self.no_room_for(now, guest, self.guests.get(guest)?.seen.memory_mib)
    }

    /// Follows what is begun.
    pub(crate) fn admission_of(&mut self, what: &Task) {
        if let Task::Start { guest, .. } = what {
            let full = self.guests.get(*guest).map_or(MiB(0), |known| known.seen.memory_mib);
            self.admission.begun.insert(*guest, (self.clock.time, full));
            self.clear_alarm(NO_MEMORY, Some(*guest));
        }
    }

    /// True where the host has no memory for a guest that it would start by itself: people are told, and it waits.
    pub(crate) fn put_off(&mut self, now: Now, guest: GuestId) -> bool {
        let Some(why) = self.no_room(now, guest) else { return false };
        let text = format!("it should run and is off: {}", why.text);
        self.raise_alarm(now, NO_MEMORY, Some(guest), text);
        if let Some(known) = self.guests.known.get_mut(&guest) {
            known.retry_at = Some(now.time + AGAIN);
        }
        true
    }

    /// Nobody waits for memory who is not to be started any more.
    pub(crate) fn forget_waiting(&mut self) {
        let waits = |guest: &GuestId| self.guests.get(*guest).is_some_and(|known| known.retry_at.is_some());
        let over = self.alarms.keys().filter(|(code, _)| code == NO_MEMORY);
        let over: Vec<GuestId> = over.filter_map(|(_, guest)| *guest).filter(|guest| !waits(guest)).collect();
        for guest in over {
            self.clear_alarm(NO_MEMORY, Some(guest));
        }
    }
}

#[cfg(test)]
mod test {
    use roost_protocol::guest::{Boot, Desired, GuestSpec, Power, PowerState};
    use roost_protocol::message::{ToAgent, ToAggregator};
    use roost_protocol::operation::{Command, Outcome, Verb};
    use roost_protocol::{Epoch, Generation, HostId, OperationId, Stamp};

    use super::*;
    use crate::event::{Action, Event, Made};
    use crate::ledger::Kept;
    use crate::memory::{self, HostMemory, Sample};
    use crate::sample::{config, seen};

    const GUEST: GuestId = GuestId::from_u128(7);
    const NEW: GuestId = GuestId::from_u128(8);

    struct Rig {
        agent: Agent,
        now: u64,
        actions: Vec<Action>,
    }

    impl Rig {
        fn new(wish: Option<Power>) -> Self {
            let mut kept = Kept::default();
            if let Some(power) = wish {
                kept.wishes.insert(GUEST, Desired { power, generation: Generation(1) });
            }
            let agent = Agent::new(config(HostId::from_u128(1), false), kept);
            Self { agent, now: 0, actions: Vec::new() }
        }

        /// A host with so much available of 16 GiB, and nothing in it yet.
        fn room(&mut self, available: u64) {
            let host = HostMemory { total: MiB(16_384), available: MiB(available), ..HostMemory::default() };
            let (policy, mut state) = (Default::default(), memory::State::default());
            let sample = Sample { host, ..Sample::default() };
            memory::plan(Time(0), &sample, &policy, &mut state);
            self.tell(Event::Room(Box::new(Room::of(&sample, &policy, &state))));
        }

        fn up(&mut self) {
            self.tell(Event::HypervisorUp { domains: vec![seen(GUEST, PowerState::Off)], host_booted: true });
        }

        fn tell(&mut self, event: Event) {
            self.now += 1_000;
            let new = self.agent.on(Time(self.now), Stamp(self.now), event);
            self.actions.extend(new);
        }

        fn command(&mut self, number: u128, guest: GuestId, verb: Verb) {
            let (operation, budget_ms) = (OperationId::from_u128(number), Millis(60_000));
            let command = Command { operation, epoch: Epoch(1), budget_ms, guest, verb };
            self.tell(Event::Received(ToAgent::Command(command)));
            self.tell(Event::Begin { operation });
        }

        fn create(&mut self, number: u128, memory: u64) {
            let (name, memory_mib, boot) = (format!("new-{number}"), MiB(memory), Boot::Disk);
            let (disks, nics) = (Vec::new(), Vec::new());
            let spec = GuestSpec { name, memory_mib, vcpus: 1, disks, nics, boot, memory: None };
            self.command(number, NEW, Verb::Create { spec, start: true });
        }

        fn ran(&self) -> Vec<Task> {
            let task = |action: &Action| if let Action::Run { what, .. } = action { Some(what.clone()) } else { None };
            self.actions.iter().filter_map(task).collect()
        }

        fn refused(&self) -> Option<Failure> {
            let why = |action: &Action| {
                let Action::Send(ToAggregator::Outcome(Outcome { failure, .. })) = action else { return None };
                failure.clone()
            };
            self.actions.iter().find_map(why)
        }
    }

    #[test]
    fn a_guest_that_does_not_fit_is_refused_before_anything_is_done_and_told_what_would_fit() {
        let mut rig = Rig::new(None);
        rig.up();
        rig.room(4_000);
        rig.create(1, 8_192);
        let why = rig.refused().unwrap();
        assert_eq!((why.code, rig.ran()), (FailureCode::WrongState, vec![]));
        assert!(why.text.contains("8192 MiB does not fit") && why.text.contains("would fit"), "{}", why.text);
        rig.create(2, 512);
        assert!(matches!(rig.ran().as_slice(), [Task::Create { .. }]));
    }

    #[test]
    fn a_start_that_does_not_fit_is_refused_and_leaves_no_wish() {
        let mut rig = Rig::new(Some(Power::Stopped));
        rig.up();
        rig.room(300);
        rig.command(1, GUEST, Verb::Start);
        assert!(rig.refused().unwrap().text.contains("reserve"), "{:?}", rig.refused());
        assert_eq!((rig.ran(), rig.agent.wishes[&GUEST].power), (vec![], Power::Stopped));
    }

    #[test]
    fn what_should_run_waits_for_memory_with_an_alarm_and_is_started_when_there_is_some() {
        let mut rig = Rig::new(Some(Power::Running));
        rig.room(300);
        rig.up();
        for _ in 0..30 {
            rig.room(300);
        }
        let alarm = (NO_MEMORY.to_owned(), Some(GUEST));
        assert!(rig.ran().is_empty() && rig.agent.alarms.contains_key(&alarm), "{:?}", rig.agent.alarms);
        for _ in 0..30 {
            rig.room(8_000);
        }
        assert_eq!(rig.ran(), [Task::Start { guest: GUEST, paused: false }]);
        assert!(!rig.agent.alarms.contains_key(&alarm));
    }

    #[test]
    fn a_wait_for_memory_ends_with_the_wish() {
        let mut rig = Rig::new(Some(Power::Running));
        rig.room(300);
        rig.up();
        (0..5).for_each(|_| rig.room(300));
        rig.command(1, GUEST, Verb::Stop);
        assert!(rig.agent.alarms.is_empty() && rig.ran().is_empty(), "{:?}", rig.agent.alarms);
    }

    #[test]
    fn who_was_begun_counts_until_a_look_has_it() {
        let mut rig = Rig::new(None);
        rig.up();
        // 6,000 MiB above the level to squeeze at or so: one of 4 GiB fits, two don't.
        rig.room(7_000);
        rig.create(1, 4_096);
        let Some(Action::Run { task, .. }) = rig.actions.iter().find(|action| matches!(action, Action::Run { .. }))
        else {
            panic!()
        };
        let task = *task;
        let mut made = seen(NEW, PowerState::Off);
        made.memory_mib = MiB(4_096);
        rig.tell(Event::Changed { domain: made });
        rig.tell(Event::Finished { task, result: Ok(Made::Nothing) });
        assert!(rig.ran().contains(&Task::Start { guest: NEW, paused: false }));
        assert!(rig.agent.no_room_for(rig.agent.clock, GUEST, MiB(4_096)).is_some());
        assert!(rig.agent.no_room_for(rig.agent.clock, NEW, MiB(4_096)).is_none(), "itself");
    }

    #[test]
    fn nobody_is_refused_where_nobody_looks_at_memory() {
        let mut rig = Rig::new(None);
        rig.up();
        rig.create(1, 8_192);
        assert!(matches!(rig.ran().as_slice(), [Task::Create { .. }]));
        let mut rig = Rig::new(None);
        rig.room(300);
        rig.now += KNOWN_FOR.0;
        rig.up();
        rig.create(1, 8_192);
        assert!(matches!(rig.ran().as_slice(), [Task::Create { .. }]), "the look is old");
    }
}
