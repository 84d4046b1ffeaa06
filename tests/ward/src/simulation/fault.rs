//! What goes wrong, and how it heals.

use roost_ward::{Change, Event, MemberId, Policy, Profile};

use super::world::{Happening, World};

/// How long things stay wrong, ms.
const LONG: (u64, u64) = (60_000, 300_000);
const BLIP: (u64, u64) = (500, 9_000);
const REPLACED_AFTER: u64 = 30_000;

/// One thing that goes wrong. "Owner" is where the guest executes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    OwnerLosesPower,
    OwnerIsolated,
    /// Its guard and agent hang; vCPUs go on.
    OwnerHangs,
    AggregatorDies,
    OwnerAndAggregatorDie,
    AggregatorIsolated,
    /// Isolated, and the guest doesn't pause.
    OwnerIsolatedPauseStuck,
    /// Isolated, and the guest can be neither paused nor killed.
    OwnerIsolatedAllStuck,
    /// Isolated for less than a lease.
    Blip,
    /// Any machine is off for a while.
    AnyDies,
    OneWayCut,
    /// Loss up to 60 %, delays up to 15 s.
    BadNetwork,
    /// The guard is stopped, and goes on later.
    GuardStopped,
    GuardCrashes,
    WholeSite,
    /// Nobody hears anybody.
    SwitchReboots,
    /// The aggregator comes back with an empty store, and is admitted anew.
    AggregatorLosesStore,
    StoreFails,
    /// A planned handover.
    Release,
    /// Somebody powers the owner off.
    PowerFence,
    /// The timers are changed while all goes on.
    ProfileChanges,
    /// A machine that isn't the owner is isolated.
    OtherIsolated,
}

/// One exact thing: for stories, and for healing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    LosesPower(usize),
    Boots(usize),
    /// One way only.
    Cut(usize, usize),
    Heals(usize, usize),
    Isolated(usize),
    Joined(usize),
    /// Its guard and agent are stopped.
    Stopped(usize),
    GoesOn(usize),
    GuardRestarts(usize),
    PauseSticks(usize),
    KillSticks(usize),
    /// What its guest waited for is there again: it does what it was told last.
    Obeys(usize),
    Releases(usize),
    /// Parts in a million that its clock goes fast.
    ClockRate(usize, i64),
    LosesStore(usize),
    NetworkIsGood,
    Replace {
        old: MemberId,
        new: MemberId,
    },
}

/// The kinds that a storm draws from.
pub(crate) const KINDS: [Fault; 22] = [
    Fault::OwnerLosesPower,
    Fault::OwnerIsolated,
    Fault::OwnerHangs,
    Fault::AggregatorDies,
    Fault::OwnerAndAggregatorDie,
    Fault::AggregatorIsolated,
    Fault::OwnerIsolatedPauseStuck,
    Fault::OwnerIsolatedAllStuck,
    Fault::Blip,
    Fault::AnyDies,
    Fault::OneWayCut,
    Fault::BadNetwork,
    Fault::GuardStopped,
    Fault::GuardCrashes,
    Fault::WholeSite,
    Fault::SwitchReboots,
    Fault::AggregatorLosesStore,
    Fault::StoreFails,
    Fault::Release,
    Fault::PowerFence,
    Fault::ProfileChanges,
    Fault::OtherIsolated,
];

impl World {
    pub(crate) fn fault(&mut self, fault: Fault) {
        self.counts.faults += 1;
        let (owner, aggregator) = (self.owner(), self.aggregator());
        let long = self.span(LONG);
        self.note(owner, &format!("is the owner: {fault:?}"));
        match fault {
            Fault::OwnerLosesPower => self.power_off(owner, Some(long)),
            Fault::OwnerIsolated => self.isolate(owner, Some(long)),
            Fault::OwnerHangs => self.machines[owner].ills.frozen = true,
            Fault::AggregatorDies => self.power_off(aggregator, Some(long)),
            Fault::OwnerAndAggregatorDie => {
                self.power_off(aggregator, Some(long));
                self.power_off(owner, Some(long));
            }
            Fault::AggregatorIsolated => self.isolate(aggregator, Some(long)),
            Fault::OwnerIsolatedPauseStuck => {
                self.machines[owner].ills.pause_stuck = true;
                self.isolate(owner, Some(long));
            }
            Fault::OwnerIsolatedAllStuck => {
                self.machines[owner].ills.pause_stuck = true;
                self.machines[owner].ills.kill_stuck = true;
                self.isolate(owner, Some(long));
                self.after(long, Happening::Step(Step::Obeys(owner)));
            }
            Fault::Blip => {
                let blip = self.span(BLIP);
                self.isolate(owner, Some(blip));
            }
            Fault::AnyDies => {
                let any = self.random.index(self.machines.len());
                self.power_off(any, Some(long / 4));
            }
            Fault::OneWayCut => self.one_way_cut(long / 3),
            Fault::BadNetwork => {
                self.network.loss_permille = self.random.range(0, 600);
                self.network.spike_permille = self.random.range(0, 200);
                self.after(long / 2, Happening::Step(Step::NetworkIsGood));
            }
            Fault::GuardStopped => {
                let span = self.random.range(1_000, 20_000);
                self.step(Step::Stopped(owner));
                self.after(span, Happening::Step(Step::GoesOn(owner)));
            }
            Fault::OtherIsolated => {
                let other = (owner + 1 + self.random.index(self.machines.len() - 1)) % self.machines.len();
                self.isolate(other, Some(long));
            }
            Fault::GuardCrashes => self.step(Step::GuardRestarts(owner)),
            Fault::WholeSite => self.whole_site(),
            Fault::SwitchReboots => {
                let span = self.random.range(5_000, 60_000);
                (0..self.machines.len()).for_each(|machine| self.isolate(machine, Some(span)));
            }
            Fault::AggregatorLosesStore => self.lose_store(aggregator),
            Fault::StoreFails => {
                let any = self.random.index(self.machines.len());
                self.tell(any, Event::StoreFailed);
                self.after(long, Happening::Step(Step::GuardRestarts(any)));
            }
            Fault::Release => self.tell(owner, Event::Release),
            Fault::PowerFence => self.power_fence(owner, long),
            Fault::ProfileChanges => self.change_profile(owner),
        }
    }

    pub(crate) fn step(&mut self, step: Step) {
        match step {
            Step::LosesPower(machine) => self.power_off(machine, None),
            Step::Boots(machine) => self.boot_later(machine, 0),
            Step::Cut(from, to) => self.network.cut(from, to),
            Step::Heals(from, to) => self.network.heal(from, to),
            Step::Isolated(machine) => self.isolate(machine, None),
            Step::Joined(machine) => {
                self.note(machine, "is joined again");
                self.network.join(machine);
            }
            Step::Stopped(machine) => {
                self.note(machine, "has its guard and agent stopped");
                self.machines[machine].ills.frozen = true;
            }
            Step::GoesOn(machine) => self.go_on(machine),
            Step::GuardRestarts(machine) => {
                if self.machines[machine].up {
                    self.note(machine, "has its guard restarted");
                    self.stop_guard(machine);
                }
            }
            Step::PauseSticks(machine) => self.machines[machine].ills.pause_stuck = true,
            Step::KillSticks(machine) => self.machines[machine].ills.kill_stuck = true,
            Step::Obeys(machine) => self.obey(machine),
            Step::Releases(machine) => self.tell(machine, Event::Release),
            Step::ClockRate(machine, ppm) => self.set_rate(machine, ppm),
            Step::LosesStore(machine) => {
                self.note(machine, "loses its store");
                self.lose_store(machine);
            }
            Step::NetworkIsGood => (self.network.loss_permille, self.network.spike_permille) = (0, 0),
            Step::Replace { old, new } => self.replace(old, new),
        }
    }

    /// Its clock goes on from what it shows.
    fn set_rate(&mut self, machine: usize, ppm: i64) {
        let this = &mut self.machines[machine];
        let shown = this.clock(self.now).0;
        this.ppm = ppm;
        this.offset += shown.saturating_sub(this.clock(self.now).0);
    }

    fn power_off(&mut self, machine: usize, back_after: Option<u64>) {
        if self.machines[machine].up {
            self.note(machine, "loses power");
            self.crash(machine);
        }
        if let Some(span) = back_after {
            self.boot_later(machine, span);
        }
    }

    fn isolate(&mut self, machine: usize, heal_after: Option<u64>) {
        self.note(machine, "is isolated");
        self.network.isolate(machine);
        if let Some(span) = heal_after {
            self.after(span, Happening::Step(Step::Joined(machine)));
        }
    }

    fn one_way_cut(&mut self, span: u64) {
        let (from, to) = (self.random.index(self.machines.len()), self.random.index(self.machines.len()));
        self.network.cut(from, to);
        self.after(span, Happening::Step(Step::Heals(from, to)));
    }

    fn go_on(&mut self, machine: usize) {
        if std::mem::take(&mut self.machines[machine].ills.frozen) && self.machines[machine].up {
            self.note(machine, "has them going on");
            let clock = self.machines[machine].clock(self.now);
            let actions = self.machines[machine].wards.as_mut().map(|wards| wards.wake(clock));
            self.carry_out(machine, actions.unwrap_or_default());
        }
    }

    fn whole_site(&mut self) {
        for machine in 0..self.machines.len() {
            let span = self.random.range(20_000, 120_000);
            self.power_off(machine, Some(span));
        }
    }

    /// Its new store has a new name; the owner admits it when the change is possible.
    fn lose_store(&mut self, machine: usize) {
        let old = self.machines[machine].member;
        self.power_off(machine, Some(5_000));
        let this = &mut self.machines[machine];
        this.member.incarnation += 1;
        this.disk = roost_ward::Ballot::blank();
        let new = this.member;
        self.after(REPLACED_AFTER, Happening::Step(Step::Replace { old, new }));
    }

    fn replace(&mut self, old: MemberId, new: MemberId) {
        let owner = self.owner();
        let Some(councils) = self.machines[owner].ward().map(roost_ward::Ward::councils) else { return };
        let newest = councils.newest.clone();
        if newest.has(old) {
            let swap = |member: MemberId| if member == old { new } else { member };
            let members = newest.members.iter().copied().map(swap).collect();
            let homes = newest.homes.iter().copied().map(swap).collect();
            let change = Change { members, homes, policy: newest.policy, profile: newest.profile };
            self.tell(owner, Event::Change(change));
        }
        let named = |machine: &super::machine::Machine| machine.member == new;
        let open =
            self.machines.iter().filter_map(|machine| machine.ward()).any(|ward| !ward.councils().newest.has(new));
        if open && self.machines.iter().any(named) {
            self.after(REPLACED_AFTER, Happening::Step(Step::Replace { old, new }));
        }
    }

    /// Somebody else reads the epoch, then the power goes, then the proof is told.
    fn power_fence(&mut self, owner: usize, back_after: u64) {
        let by = (owner + 1) % self.machines.len();
        let recorded = self.machines[by].ward().map(roost_ward::Ward::recorded);
        let Some((Some(fenced), epoch)) = recorded else { return };
        let Some(target) = self.machines.iter().position(|machine| machine.member == fenced) else { return };
        if target != by {
            self.power_off(target, Some(back_after));
            self.tell(by, Event::Fenced { owner: fenced, epoch });
        }
    }

    /// Normal becomes fast and fast normal.
    fn change_profile(&mut self, owner: usize) {
        let Some(newest) = self.machines[owner].ward().map(|ward| ward.councils().newest.clone()) else { return };
        let profile = match newest.profile {
            Profile::Fast => Profile::Normal,
            Profile::Normal => Profile::Fast,
            other @ (Profile::Calm
            | Profile::FastRole
            | Profile::NormalRole
            | Profile::CalmRole
            | Profile::Custom(_)) => other,
        };
        if newest.policy == Policy::Strict && profile != newest.profile {
            let change = Change { members: newest.members, homes: newest.homes, policy: newest.policy, profile };
            self.tell(owner, Event::Change(change));
        }
    }
}
