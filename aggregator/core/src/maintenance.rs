//! Hosts in maintenance: they get no new guests, replicas or takeovers, and what is protected on one that is drained is
//! handed over. Intent, so it lasts; what is handed over next is read off the grid each time.

use std::hash::{DefaultHasher, Hash, Hasher};

use roost_protocol::guest::Power;
use roost_protocol::host::Maintenance as Stage;
use roost_protocol::operation::{FailureCode, Verb};
use roost_protocol::{GuestId, HostId, Millis, OperationId, Stamp};

use crate::call::{CallError, CallErrorCode, Done, Reply};
use crate::calls::error;
use crate::event::Action;
use crate::grid::{Grid, Guest, Host, Now};
use crate::history::Line;
use crate::intent::{HostRecord, IntentChange, Maintenance};
use crate::loss::Fate;
use crate::operation::Operation;

/// Guests of one host handed over at once: each is off while its last delta travels, and all use one network card.
const AT_ONCE: usize = 2;
/// A guest that could not be handed over is tried again after this: it may have been off meanwhile.
const AGAIN: Millis = Millis::seconds(300);
/// And after this where its host refused it as it was, or it is off anyway.
const SOON: Millis = Millis::seconds(15);
/// What a guest that is handed over gets to shut down.
const SHUTDOWN: Millis = Millis::seconds(60);
/// A hand-over not begun after this is given up, and tried again.
const BUDGET: Millis = Millis::seconds(60);

impl Grid {
    /// Reading: the maintenance that a host is in.
    pub fn maintenance(&self, host: HostId) -> Option<&Maintenance> {
        self.intent.hosts.get(&host)?.maintenance.as_ref()
    }

    /// `drain`: none: it takes part again.
    pub(crate) fn set_maintenance(
        &mut self,
        now: Now,
        by: &str,
        id: HostId,
        drain: Option<bool>,
        actions: &mut Vec<Action>,
    ) -> Reply {
        let record = self.member(id)?;
        let since = record.maintenance.as_ref().map_or(now.wall, |before| before.since);
        let maintenance = drain.map(|drain| Maintenance { since, by: by.into(), drain });
        let text = match drain {
            Some(true) => format!("host {} is drained, asked by {by}", record.name),
            Some(false) => format!("host {} is in maintenance, asked by {by}", record.name),
            None => format!("host {} takes part again, asked by {by}", record.name),
        };
        if let Some(host) = self.hosts.get_mut(&id) {
            host.drained.clear();
        }
        self.change_intent(vec![IntentChange::Host { id, record: HostRecord { maintenance, ..record } }], actions);
        self.peers_changed(now, id);
        self.publish(now, Line::info("host.maintenance", text).host(id).user(by), actions);
        Ok(Done::Nothing)
    }

    /// Refuses new guests on a host in maintenance.
    pub(crate) fn takes_guests(&self, host: HostId, verb: &Verb) -> Result<(), CallError> {
        let new = matches!(verb, Verb::Create { .. } | Verb::Import { .. });
        if new && self.maintenance(host).is_some() {
            let text = "the host is in maintenance and takes no new guests: choose another, or resume it";
            return Err(error(CallErrorCode::WrongState, text));
        }
        Ok(())
    }

    /// Hands over what is due on hosts that are drained.
    pub(crate) fn drain_hosts(&mut self, now: Now, actions: &mut Vec<Action>) {
        let drained = |(id, record): (&HostId, &HostRecord)| {
            record.maintenance.as_ref().is_some_and(|it| it.drain && record.removed.is_none()).then_some(*id)
        };
        for id in self.intent.hosts.iter().filter_map(drained).collect::<Vec<_>>() {
            for (guest, name) in self.drained_next(now, id) {
                self.begin_drain(now, id, guest, name, actions);
            }
        }
    }

    fn drained_next(&self, now: Now, id: HostId) -> Vec<(GuestId, String)> {
        let Some(host) = self.hosts.get(&id).filter(|host| host.link().is_some()) else { return Vec::new() };
        let handing = |operation: &&Operation| matches!(operation.verb, Verb::HandOver { .. });
        let free = AT_ONCE.saturating_sub(self.commands.waiting_on(id).filter(handing).count());
        if free == 0 || host.version < (Verb::HandOver { shutdown_ms: SHUTDOWN }).since() {
            return Vec::new();
        }
        let waits = |guest: &GuestId| host.drained.get(guest).is_some_and(|at| now.time < *at);
        let busy = |guest: &GuestId| self.commands.waiting_on(id).any(|operation| operation.guest == *guest);
        let losses = self.if_lost(host).into_iter();
        let due = losses.filter(|it| matches!(it.fate, Fate::At { .. }) && !waits(&it.guest) && !busy(&it.guest));
        due.take(free).map(|loss| (loss.guest, loss.name)).collect()
    }

    fn begin_drain(&mut self, now: Now, id: HostId, guest: GuestId, guest_name: String, actions: &mut Vec<Action>) {
        let Some(host) = self.hosts.get_mut(&id) else { return };
        host.drained.insert(guest, now.time + AGAIN);
        let Some(link) = host.link() else { return };
        let by = self.maintenance(id).map_or_else(String::new, |it| it.by.clone());
        let number = number(id, guest, now.wall, self.config.epoch.0);
        let verb = Verb::HandOver { shutdown_ms: SHUTDOWN };
        let operation = Operation::asked(number, id, (guest, guest_name), verb, &by, (now.wall, BUDGET));
        self.take_on(now, &operation, BUDGET, actions);
        self.send_command(now, link, &operation, actions);
        let text = format!("hand-over of {} begun: its host is drained", operation.guest_name);
        self.publish(now, Line::info("operation.started", text).host(id).guest(guest).operation(operation.id), actions);
    }

    /// A hand-over failed.
    pub(crate) fn not_drained(&mut self, now: Now, id: HostId, guest: GuestId, why: FailureCode) {
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let stays_off = |it: &Guest| it.report.desired.is_some_and(|desired| desired.power == Power::Stopped);
        let untouched = why == FailureCode::WrongState || host.guests.get(&guest).is_some_and(stays_off);
        if let (Some(at), true) = (host.drained.get_mut(&guest), untouched) {
            *at = now.time + SOON;
        }
    }

    /// Reading: how far a host that is in maintenance is, in a word. What is off and can't be handed over is in nobody's
    /// way.
    pub fn maintenance_word(&self, host: &Host) -> Option<&'static str> {
        Some(match self.maintenance_stage(host)? {
            Stage::On => "on",
            Stage::Draining => "draining",
            Stage::Drained => "drained",
        })
    }

    pub(crate) fn maintenance_stage(&self, host: &Host) -> Option<Stage> {
        let it = self.maintenance(host.id)?;
        Some(match it.drain {
            false => Stage::On,
            true if self.if_lost(host).iter().all(|it| it.off && matches!(it.fate, Fate::Down(_))) => Stage::Drained,
            true => Stage::Draining,
        })
    }
}

/// The same for the same moment. Random ids never have a zero version.
fn number(host: HostId, guest: GuestId, at: Stamp, epoch: u64) -> OperationId {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, host, guest, at, epoch).hash(&mut hasher);
        u128::from(hasher.finish())
    };
    let mut id = (half(0) << 64 | half(1)).to_be_bytes();
    id[6] &= 0x0f;
    OperationId::from_bytes(id)
}
