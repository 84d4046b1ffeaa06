//! A state of the model, what may happen in it, and what must hold in it.

use std::hash::{Hash, Hasher};
use std::rc::Rc;

use roost_protocol::Time;
use roost_ward::{Ballot, Event, MemberId};

use super::host::{Host, Outgoing};
use super::net::{Flight, index};
use super::setting::{Budget, Setting};

#[derive(Clone, Debug)]
pub(crate) struct State {
    /// Shared with the states before and after that don't change them.
    pub(crate) hosts: Vec<Rc<Host>>,
    /// Digests of the hosts, and which of them are out of date.
    digests: Vec<u64>,
    pub(crate) net: Vec<(u64, Rc<Flight>)>,
    pub(crate) left: Budget,
    /// Who executed the guest last.
    pub(crate) last: Option<MemberId>,
}

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Tick,
    /// A tick that this machine's clock misses.
    TickSlow(usize),
    /// … or counts twice.
    TickFast(usize),
    Deliver(usize),
    Lose(usize),
    /// The program hangs: it neither hears nor looks at the clock, while its guest goes on.
    Freeze(usize),
    Thaw(usize),
    /// The guest stops as it was told; it may also be stuck.
    Obey(usize),
    Crash(usize),
    Restart(usize),
    GuardCrash(usize),
    LoseStore(usize),
    /// This machine powers that one off.
    Fence(usize, usize),
    Release(usize),
    Change(usize),
    Nominate(usize),
}

/// A digest that has to be made anew.
const STALE: u64 = 0;

/// What does not hold.
pub type Broken = &'static str;

impl State {
    /// The first host owns the ward and runs the guest; everybody has just granted.
    pub(crate) fn first(setting: &Setting) -> Result<State, Broken> {
        let hosts = (0..setting.machines).map(|machine| Rc::new(Host::new(setting, machine))).collect();
        let digests = vec![STALE; setting.machines];
        let mut state = State { hosts, digests, net: Vec::new(), left: setting.budget, last: None };
        for machine in 0..setting.machines {
            state.host(machine).start(setting, machine);
        }
        let sent = state.host(0).wake(setting)?;
        state.post(0, sent);
        for _ in 0..8 {
            state.flush(setting)?;
            let sent = state.host(0).obey(setting)?;
            state.post(0, sent);
        }
        if !state.hosts[0].executes {
            return Err("the first host doesn't run at the start");
        }
        state.last = Some(state.hosts[0].me);
        state.tidy(setting);
        Ok(state)
    }

    /// A host that is about to change.
    pub(crate) fn host(&mut self, machine: usize) -> &mut Host {
        self.digests[machine] = STALE;
        Rc::make_mut(&mut self.hosts[machine])
    }

    /// Delivers all, and what follows.
    pub(crate) fn flush(&mut self, setting: &Setting) -> Result<(), Broken> {
        const MOST: usize = 500;
        for _ in 0..MOST {
            let Some((_, flight)) = self.net.pop() else { return Ok(()) };
            self.deliver(setting, &flight)?;
        }
        self.net.clear();
        Ok(())
    }

    fn deliver(&mut self, setting: &Setting, flight: &Flight) -> Result<(), Broken> {
        let Some(to) = index(&self.hosts, flight.to) else { return Ok(()) };
        let event = Event::Heard { from: flight.from, message: flight.message.clone() };
        let sent = self.host(to).on(setting, event)?;
        self.post(to, sent);
        Ok(())
    }

    pub(crate) fn post(&mut self, from: usize, sent: Vec<Outgoing>) {
        let from = self.hosts[from].me;
        for (to, message) in sent {
            self.net.push((STALE, Rc::new(Flight { from, to, message })));
        }
    }

    pub(crate) fn acts(&self, setting: &Setting, acts: &mut Vec<Act>) {
        acts.clear();
        if self.net.len() > setting.max_messages {
            // Too many to look at: one of them is lost, whichever.
            return acts.extend((0..self.net.len()).map(Act::Lose));
        }
        acts.push(Act::Tick);
        for (at, (_, flight)) in self.net.iter().enumerate() {
            if index(&self.hosts, flight.to).is_some_and(|to| self.hosts[to].hears()) {
                acts.push(Act::Deliver(at));
            }
        }
        for (machine, host) in self.hosts.iter().enumerate() {
            self.acts_of(setting, machine, host, acts);
        }
    }

    fn acts_of(&self, setting: &Setting, machine: usize, host: &Host, acts: &mut Vec<Act>) {
        let Budget { crashes, freezes, guard_crashes, skews, lost_stores, fences, releases, changes, nominations } =
            self.left;
        if !host.is_up() {
            return acts.push(Act::Restart(machine));
        }
        let home = machine < setting.hosts;
        let owns = host.ward().is_some_and(|ward| ward.owns().is_some());
        let mut may = |possible: bool, act: Act| acts.extend(possible.then_some(act));
        may(freezes > 0 && home && !host.frozen, Act::Freeze(machine));
        may(host.frozen, Act::Thaw(machine));
        may(!host.frozen && host.pending.is_some(), Act::Obey(machine));
        may(crashes > 0, Act::Crash(machine));
        may(guard_crashes > 0 && home && owns, Act::GuardCrash(machine));
        may(skews > 0, Act::TickSlow(machine));
        may(skews > 0, Act::TickFast(machine));
        may(lost_stores > 0 && !home, Act::LoseStore(machine));
        may(releases > 0 && owns, Act::Release(machine));
        may(changes > 0 && owns, Act::Change(machine));
        may(nominations > 0 && home && !owns, Act::Nominate(machine));
        let owner = host.ward().and_then(|ward| ward.recorded().0).and_then(|owner| index(&self.hosts, owner));
        if let Some(owner) = owner.filter(|owner| *owner != machine && fences > 0) {
            acts.push(Act::Fence(machine, owner));
        }
    }

    /// The state after it, or what broke on the way.
    pub(crate) fn after(&self, setting: &Setting, act: Act) -> Result<State, Broken> {
        let mut next = self.clone();
        match act {
            Act::Tick => next.tick(setting, None, None)?,
            Act::TickSlow(machine) => {
                next.left.skews -= 1;
                next.tick(setting, Some(machine), None)?;
            }
            Act::TickFast(machine) => {
                next.left.skews -= 1;
                next.tick(setting, None, Some(machine))?;
            }
            Act::Deliver(at) => {
                let (_, flight) = if setting.doubled { next.net[at].clone() } else { next.net.remove(at) };
                next.deliver(setting, &flight)?;
            }
            Act::Lose(at) => drop(next.net.remove(at)),
            Act::Freeze(machine) => {
                next.left.freezes -= 1;
                next.host(machine).frozen = true;
            }
            Act::Thaw(machine) => {
                next.host(machine).frozen = false;
                next.wake(setting, machine)?;
            }
            Act::Obey(machine) => {
                let sent = next.host(machine).obey(setting)?;
                next.post(machine, sent);
            }
            Act::Crash(machine) => {
                next.left.crashes -= 1;
                next.host(machine).down();
            }
            Act::Restart(machine) => {
                next.restart(setting, machine);
                next.wake(setting, machine)?;
            }
            Act::GuardCrash(machine) => {
                next.left.guard_crashes -= 1;
                next.host(machine).pending = None;
                next.host(machine).start(setting, machine);
                next.wake(setting, machine)?;
            }
            Act::LoseStore(machine) => next.lose_store(setting, machine),
            Act::Fence(machine, target) => next.fence(setting, machine, target)?,
            Act::Release(machine) => {
                next.left.releases -= 1;
                next.tell(setting, machine, Event::Release)?;
            }
            Act::Change(machine) => {
                let number = usize::from(setting.budget.changes - next.left.changes);
                next.left.changes -= 1;
                if let Some(change) = setting.change(number) {
                    next.tell(setting, machine, Event::Change(change))?;
                }
            }
            Act::Nominate(machine) => {
                next.left.nominations -= 1;
                next.tell(setting, machine, Event::Nominate { force: false })?;
            }
        }
        next.tidy(setting);
        next.check()?;
        next.note_runner(setting)?;
        Ok(next)
    }

    fn tell(&mut self, setting: &Setting, machine: usize, event: Event) -> Result<(), Broken> {
        let sent = self.host(machine).on(setting, event)?;
        self.post(machine, sent);
        Ok(())
    }

    /// Clocks go on, watchdogs bite, then every program that is due wakes up.
    fn tick(&mut self, setting: &Setting, slow: Option<usize>, fast: Option<usize>) -> Result<(), Broken> {
        for machine in 0..self.hosts.len() {
            let host = self.host(machine);
            let ticks = if slow == Some(machine) { 0 } else { 1 + u64::from(fast == Some(machine)) };
            host.now = Time(host.now.0 + ticks);
            if host.executes && host.now >= host.reset_at && !setting.edge.no_watchdog {
                host.down();
            }
        }
        (0..self.hosts.len()).try_for_each(|machine| self.wake(setting, machine))
    }

    pub(crate) fn wake(&mut self, setting: &Setting, machine: usize) -> Result<(), Broken> {
        if self.hosts[machine].is_due() {
            let sent = self.host(machine).wake(setting)?;
            self.post(machine, sent);
        }
        Ok(())
    }

    pub(crate) fn restart(&mut self, setting: &Setting, machine: usize) {
        let host = self.host(machine);
        host.start(setting, machine);
        if setting.edge.autostart && host.disk.won.0 > 0 && host.disk.voted == Some(host.me) {
            host.executes = true;
            host.reset_at = Time(host.now.0 + setting.watchdog + 1);
        }
    }

    fn lose_store(&mut self, setting: &Setting, machine: usize) {
        self.left.lost_stores -= 1;
        let host = self.host(machine);
        if setting.edge.lost_store_keeps_name {
            let council = host.disk.councils.in_force.clone();
            host.disk = Ballot::first(council);
        } else {
            host.me.incarnation += 1;
            host.disk = Ballot::blank();
        }
        host.start(setting, machine);
    }

    /// What it knows of the owner is read first, then the power goes.
    fn fence(&mut self, setting: &Setting, machine: usize, target: usize) -> Result<(), Broken> {
        self.left.fences -= 1;
        let recorded = self.hosts[machine].ward().map(roost_ward::Ward::recorded);
        self.host(target).down();
        match recorded {
            Some((Some(owner), epoch)) => self.tell(setting, machine, Event::Fenced { owner, epoch }),
            Some((None, _)) | None => Ok(()),
        }
    }

    /// Brings the state into the one form that all equal states have.
    fn tidy(&mut self, setting: &Setting) {
        let State { hosts, digests, net, .. } = self;
        let touched = |member: MemberId| index(hosts, member).is_some_and(|at| digests[at] == STALE);
        net.retain_mut(|(digest, flight)| {
            let stale = *digest == STALE || touched(flight.from) || touched(flight.to);
            let useful = !stale || flight.is_useful(hosts, setting);
            if stale && useful {
                *digest = flight.fingerprint(hosts);
            }
            useful
        });
        net.sort_by_key(|(digest, _)| *digest);
        net.dedup_by_key(|(digest, _)| *digest);
        for (digest, host) in digests.iter_mut().zip(hosts).filter(|(digest, _)| **digest == STALE) {
            let mut state = Mix::default();
            host.fingerprint(setting, &mut state);
            *digest = state.finish();
        }
    }

    /// Where only the first host's copy may be stale: it runs only if nobody ran since.
    fn note_runner(&mut self, setting: &Setting) -> Result<(), Broken> {
        let Some(runner) = self.hosts.iter().find(|host| host.executes) else { return Ok(()) };
        if !setting.stale_copies || self.last == Some(runner.me) {
            return Ok(());
        }
        if runner.me == self.hosts[0].me {
            return Err("I7 no host runs a copy that is not the newest");
        }
        self.last = Some(runner.me);
        Ok(())
    }

    fn check(&self) -> Result<(), Broken> {
        if self.hosts.iter().filter(|host| host.executes).count() > 1 {
            return Err("I1 at most one host has the guest executing");
        }
        let owned = |host: &Host| host.ward().and_then(roost_ward::Ward::owns);
        for (at, host) in self.hosts.iter().enumerate() {
            if owned(host).is_some() && self.hosts[..at].iter().any(|other| owned(other) == owned(host)) {
                return Err("I2 at most one owner of an epoch");
            }
        }
        Ok(())
    }

    /// Whether nothing in it is beyond the bounds.
    pub(crate) fn is_within(&self, setting: &Setting) -> bool {
        self.hosts.iter().all(|host| {
            let polled = host.ward().and_then(roost_ward::Ward::polls).map_or(0, |epoch| epoch.0);
            host.disk.epoch.0.max(polled) <= setting.max_epoch
        })
    }

    pub(crate) fn fingerprint(&self) -> u64 {
        let mut state = Mix::default();
        self.digests.hash(&mut state);
        for (digest, _) in &self.net {
            digest.hash(&mut state);
        }
        (self.left, self.last).hash(&mut state);
        state.finish()
    }
}

/// A fast hash of good quality (folded multiplication, as in wyhash).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mix(u64);

impl Default for Mix {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Mix {
    fn fold(&mut self, word: u64) {
        let wide = u128::from(self.0 ^ word) * 0xa076_1d64_78bd_642f;
        let bytes = wide.to_le_bytes();
        let half = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]));
        self.0 = half(0) ^ half(8).rotate_left(23);
    }
}

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        let mut last = *self;
        last.fold(0x8ebc_6af0_9c88_c6e3);
        last.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.fold(u64::from_le_bytes(word) ^ (u64::try_from(chunk.len()).unwrap_or(0) << 56));
        }
    }

    fn write_u8(&mut self, word: u8) {
        self.fold(u64::from(word));
    }

    fn write_u32(&mut self, word: u32) {
        self.fold(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.fold(word);
    }

    fn write_usize(&mut self, word: usize) {
        self.fold(u64::try_from(word).unwrap_or(u64::MAX));
    }

    fn write_isize(&mut self, word: isize) {
        self.fold(u64::from_ne_bytes(i64::try_from(word).unwrap_or(i64::MAX).to_ne_bytes()));
    }
}
