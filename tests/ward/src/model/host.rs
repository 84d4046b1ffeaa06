//! One machine of the model: the shipped code, its disk, its guest and its watchdog. Does to the letter what the code asks.

use std::hash::{Hash, Hasher};

use roost_protocol::Time;
use roost_ward::{Action, Ballot, Event, Kept, MemberId, Message, Order, Replica, Start, WardId, Wards, WardsAction};

use super::setting::Setting;

pub(crate) const WARD: WardId = WardId(1);
/// Clocks start here, so that spans before it exist.
pub(crate) const EPOCH_OF_CLOCKS: u64 = 1_000;

#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) me: MemberId,
    /// Its own clock, in ticks.
    pub(crate) now: Time,
    /// None while it is down.
    pub(crate) wards: Option<Wards>,
    pub(crate) disk: Ballot,
    /// Survives the program, not the boot.
    pub(crate) kept: Option<Kept>,
    /// The truth.
    pub(crate) executes: bool,
    /// It was told to stop the guest, and did not yet.
    pub(crate) pending: Option<Order>,
    /// The program hangs.
    pub(crate) frozen: bool,
    /// When the hardware resets it; counts only while the guest executes.
    pub(crate) reset_at: Time,
}

/// A message on its way out.
pub(crate) type Outgoing = (MemberId, Message);

impl Host {
    pub(crate) fn new(setting: &Setting, machine: usize) -> Self {
        let me = Setting::member(machine);
        let member = machine < setting.voters;
        let disk = if member { Ballot::first(setting.council()) } else { Ballot::blank() };
        let now = Time(EPOCH_OF_CLOCKS);
        Self { me, now, wards: None, disk, kept: None, executes: false, pending: None, frozen: false, reset_at: now }
    }

    /// Starts the program: at boot with nothing kept, else with what the one before kept.
    pub(crate) fn start(&mut self, setting: &Setting, machine: usize) {
        let may_take_over = machine < setting.hosts && (machine > 0 || !setting.stale_copies);
        let start = Start {
            me: self.me,
            ballot: self.disk.clone(),
            kept: self.kept,
            replica: if may_take_over { Replica::Stateless } else { Replica::None },
            booted: self.now,
            seed: 1,
            rules: setting.rules,
        };
        let mut wards = Wards::new(setting.rules);
        wards.add(self.now, WARD, start);
        self.wards = Some(wards);
    }

    /// Power off.
    pub(crate) fn down(&mut self) {
        self.wards = None;
        self.kept = None;
        self.executes = false;
        self.pending = None;
        self.frozen = false;
    }

    pub(crate) fn hears(&self) -> bool {
        self.is_up() && !self.frozen
    }

    pub(crate) fn is_up(&self) -> bool {
        self.wards.is_some()
    }

    pub(crate) fn ward(&self) -> Option<&roost_ward::Ward> {
        self.wards.as_ref().and_then(|wards| wards.get(WARD))
    }

    pub(crate) fn is_due(&self) -> bool {
        self.wards.as_ref().and_then(Wards::deadline).is_some_and(|deadline| deadline <= self.now && !self.frozen)
    }

    pub(crate) fn wake(&mut self, setting: &Setting) -> Result<Vec<Outgoing>, &'static str> {
        let actions = self.wards.as_mut().map(|wards| wards.wake(self.now)).unwrap_or_default();
        self.carry_out(setting, actions)
    }

    pub(crate) fn on(&mut self, setting: &Setting, event: Event) -> Result<Vec<Outgoing>, &'static str> {
        let now = self.now;
        let actions = self.wards.as_mut().map(|wards| wards.on(now, WARD, event)).unwrap_or_default();
        self.carry_out(setting, actions)
    }

    fn carry_out(&mut self, setting: &Setting, actions: Vec<WardsAction>) -> Result<Vec<Outgoing>, &'static str> {
        let mut outgoing = Vec::new();
        for action in actions {
            let action = match action {
                WardsAction::Pet { until, .. } => {
                    if self.now < until {
                        // One tick later than the pet: it may come at the very end of this tick.
                        self.reset_at = Time(self.now.0 + setting.watchdog + 1);
                    }
                    continue;
                }
                WardsAction::Do { ward: _, action } => action,
            };
            match action {
                Action::Persist(ballot) => self.disk = *ballot,
                Action::Keep(kept) => self.kept = kept,
                Action::Send { to, message } => {
                    self.is_on_disk(to, &message)?;
                    outgoing.push((to, message));
                }
                Action::Run { order, .. } => self.run(setting, order),
                Action::Pause { order } | Action::Kill { order } => self.pending = Some(order),
                Action::Tell(_) => {}
            }
        }
        Ok(outgoing)
    }

    /// What is said must be on disk.
    fn is_on_disk(&self, to: MemberId, message: &Message) -> Result<(), &'static str> {
        let disk = &self.disk;
        let kept = match message {
            Message::Vote { epoch, .. } => disk.epoch == *epoch && disk.voted == Some(to),
            Message::Grant { epoch, version, .. } => {
                disk.epoch >= *epoch && disk.voted == Some(to) && disk.councils.newest.version >= *version
            }
            Message::Stand(candidacy) => disk.epoch == candidacy.epoch && disk.voted == Some(self.me),
            Message::Renew { epoch, .. } => disk.epoch >= *epoch && disk.won >= *epoch,
            Message::Ask(_)
            | Message::Would { .. }
            | Message::Refuse { .. }
            | Message::Release { .. }
            | Message::Fenced { .. } => true,
        };
        if kept { Ok(()) } else { Err("I6 what is said is on disk") }
    }

    /// The guest executes from now on. The last pet was at the latest now.
    fn run(&mut self, setting: &Setting, order: Order) {
        self.pending = None;
        let until = self.ward().and_then(|ward| ward.may_run(order));
        if until.is_some_and(|until| self.now < until) && !self.executes {
            self.executes = true;
            self.reset_at = Time(self.now.0 + setting.watchdog + 1);
        }
    }

    /// The guest is stopped, and that is confirmed.
    pub(crate) fn obey(&mut self, setting: &Setting) -> Result<Vec<Outgoing>, &'static str> {
        let Some(order) = self.pending.take() else { return Ok(Vec::new()) };
        self.executes = false;
        self.on(setting, Event::Stopped { order })
    }

    pub(crate) fn fingerprint<H: Hasher>(&self, setting: &Setting, state: &mut H) {
        self.me.hash(state);
        self.executes.hash(state);
        if self.executes {
            self.reset_at.since(self.now).hash(state);
        }
        (self.pending.is_some(), self.frozen).hash(state);
        match &self.wards {
            Some(wards) => wards.fingerprint(self.now, state),
            None => 3u8.hash(state),
        }
        self.disk.fingerprint(state);
        if let Some(kept) = self.kept.filter(|_| setting.budget.guard_crashes > 0) {
            (kept.epoch, Time(kept.lease_until_ms).since(self.now), kept.may_execute).hash(state);
        }
    }
}
