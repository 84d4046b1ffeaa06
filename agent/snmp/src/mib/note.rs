//! Notifications: what each carries, and when many of them become one. Within five seconds ten changes are told singly; what
//! comes beyond is gathered and told in bulk, one notification for each state, with the last state of each guest.

use std::collections::{BTreeMap, VecDeque};

use roost_protocol::{GuestId, Millis, Time, alarm};

use super::arc::{ROOST, VM};
use super::number::MOST;
use super::view::OperState;
use crate::{Oid, Value, VarBind};

/// snmpTrapOID.0, which says what a notification is.
const TRAP: [u32; 11] = [1, 3, 6, 1, 6, 3, 1, 1, 4, 1, 0];
/// So many changes within [`WINDOW`] are told singly.
const SINGLE: usize = 10;
const WINDOW: Millis = Millis::seconds(5);

/// What became of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Turn {
    Running = 1,
    ShuttingDown = 2,
    Shutdown = 3,
    Paused = 4,
    Suspending = 5,
    Suspended = 6,
    Resuming = 7,
    Migrating = 8,
    Crashed = 9,
    Deleted = 10,
}

impl Turn {
    /// The notification for a guest that came into this state; some states have none.
    pub fn into_state(state: OperState) -> Option<Self> {
        match state {
            OperState::Unknown | OperState::Other | OperState::Preparing => None,
            OperState::Running => Some(Self::Running),
            OperState::Suspending => Some(Self::Suspending),
            OperState::Suspended => Some(Self::Suspended),
            OperState::Resuming => Some(Self::Resuming),
            OperState::Paused => Some(Self::Paused),
            OperState::Migrating => Some(Self::Migrating),
            OperState::ShuttingDown => Some(Self::ShuttingDown),
            OperState::Shutdown => Some(Self::Shutdown),
            OperState::Crashed => Some(Self::Crashed),
        }
    }
}

/// A guest that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub number: u32,
    pub id: GuestId,
    pub name: String,
    pub state: OperState,
    pub persistent: bool,
    pub turn: Turn,
}

/// Gathers changes.
#[derive(Debug, Default)]
pub struct Gather {
    /// When the last singly told changes were told.
    told: VecDeque<Time>,
    /// The last turn of each guest that waits, and when the waiting ends.
    waiting: BTreeMap<u32, Turn>,
    until: Time,
}

impl Gather {
    /// Takes in a change; gives what is to be sent at once.
    pub fn changed(&mut self, now: Time, change: &Change) -> Vec<Vec<VarBind>> {
        while self.told.front().is_some_and(|at| now.since(*at) >= WINDOW) {
            self.told.pop_front();
        }
        let mut due = self.due(now);
        // While others wait this one does too: a state told singly could be overtaken by an older one told in bulk.
        if self.waiting.is_empty() && self.told.len() < SINGLE {
            self.told.push_back(now);
            due.push(single(change));
            return due;
        }
        if self.waiting.is_empty() {
            self.until = now + WINDOW;
        }
        self.waiting.insert(change.number, change.turn);
        due
    }

    /// When [`Gather::due`] has something to say.
    pub fn deadline(&self) -> Option<Time> {
        (!self.waiting.is_empty()).then_some(self.until)
    }

    /// The bulk notifications that are due.
    pub fn due(&mut self, now: Time) -> Vec<Vec<VarBind>> {
        if self.waiting.is_empty() || now < self.until {
            return vec![];
        }
        let mut by_turn: BTreeMap<Turn, Vec<u32>> = BTreeMap::new();
        for (number, turn) in std::mem::take(&mut self.waiting) {
            by_turn.entry(turn).or_default().push(number);
        }
        by_turn.into_iter().map(|(turn, numbers)| bulk(turn, &numbers)).collect()
    }
}

fn bind(oid: Oid, value: Value) -> VarBind {
    VarBind { oid, value }
}

fn trap(arc: &[u32], number: u32) -> VarBind {
    bind(Oid::from(&TRAP[..]), Value::Oid(Oid::join(&Oid::join(arc, &[0]), &[number])))
}

fn column(column: u32, number: u32) -> Oid {
    Oid::join(&VM, &[1, 4, 1, column, number])
}

/// vmRunning and its like.
pub fn single(change: &Change) -> Vec<VarBind> {
    let mut binds = vec![trap(&VM, change.turn as u32)];
    binds.extend(guest(change.number, change.id, &change.name));
    binds.push(bind(column(6, change.number), Value::Integer(change.state as i32)));
    if change.turn == Turn::Deleted {
        binds.push(bind(column(8, change.number), Value::Integer(if change.persistent { 2 } else { 3 })));
    }
    binds
}

fn guest(number: u32, id: GuestId, name: &str) -> [VarBind; 2] {
    [bind(column(2, number), Value::text(name)), bind(column(3, number), Value::Octets(id.bytes().to_vec()))]
}

/// vmBulkRunning and its like; numbers beyond [`MOST`] have no place in the list.
pub fn bulk(turn: Turn, numbers: &[u32]) -> Vec<VarBind> {
    vec![trap(&VM, turn as u32 + 10), bind(Oid::join(&VM, &[1, 11, 0]), Value::Octets(list(numbers)))]
}

/// VirtualMachineList: a bit for each vmIndex, the first one the highest bit of the first octet.
pub fn list(numbers: &[u32]) -> Vec<u8> {
    let mut octets = Vec::new();
    for number in numbers.iter().filter(|number| (1..=MOST).contains(*number)) {
        let at = usize::try_from((number - 1) / 8).unwrap_or(0);
        if octets.len() <= at {
            octets.resize(at + 1, 0);
        }
        octets[at] |= 0x80 >> ((number - 1) % 8);
    }
    octets
}

/// Which notification of ROOST-MIB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    HostDown = 1,
    HostUp = 2,
    FailoverStarted = 3,
    FailoverDone = 4,
    FailoverFailed = 5,
    GuestUnreachable = 6,
    GuestReachable = 7,
    BackupFailed = 8,
    BackupOverdue = 9,
    ReplicaBroken = 10,
    StorageLow = 11,
    MemoryPressure = 12,
    PoolExhausted = 13,
    RequestPending = 14,
    AggregatorLinkDown = 15,
    AggregatorLinkUp = 16,
    AlarmRaised = 17,
    AlarmCleared = 18,
}

impl Kind {
    /// That of an alarm with this code that was raised or is over; what has none of its own is told by the general one.
    pub fn of(code: &str, raised: bool) -> Self {
        match (code, raised) {
            ("host-down", true) => Self::HostDown,
            ("host-down", false) => Self::HostUp,
            ("aggregator-away", true) => Self::AggregatorLinkDown,
            ("aggregator-away", false) => Self::AggregatorLinkUp,
            ("guest-unreachable", false) => Self::GuestReachable,
            (_, false) => Self::AlarmCleared,
            ("guest-unreachable", true) => Self::GuestUnreachable,
            ("backup-failed", true) => Self::BackupFailed,
            ("backup-late", true) => Self::BackupOverdue,
            ("replica-late" | "replica-broken", true) => Self::ReplicaBroken,
            ("disk-low" | "disk-full" | "disk-filling" | "state-disk" | "store-filling", true) => Self::StorageLow,
            ("memory-pressure" | "memory-low", true) => Self::MemoryPressure,
            (_, true) => Self::AlarmRaised,
        }
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Info = 1,
    Warning = 2,
    Error = 3,
    Critical = 4,
}

impl From<alarm::Severity> for Severity {
    fn from(severity: alarm::Severity) -> Self {
        match severity {
            alarm::Severity::Info => Self::Info,
            alarm::Severity::Warning => Self::Warning,
            alarm::Severity::Error => Self::Error,
            alarm::Severity::Critical => Self::Critical,
        }
    }
}

/// Something to tell people.
#[derive(Clone, Debug)]
pub struct Notice<'a> {
    pub kind: Kind,
    pub host: &'a str,
    pub severity: Severity,
    /// One sentence.
    pub text: &'a str,
    /// The alarm's id in the REST API; may be empty.
    pub event: &'a str,
    /// The alarm's code; told with [`Kind::AlarmRaised`] and [`Kind::AlarmCleared`].
    pub code: &'a str,
    /// vmIndex, id and name of the guest it is about; 0 where the number isn't known.
    pub guest: Option<(u32, GuestId, &'a str)>,
    /// The value that this kind of notification carries besides: for a guest its access, backup age or replica, for the
    /// host its memory pressure.
    pub detail: Option<Value>,
}

/// A notification of ROOST-MIB; its objects stand in the order of the MIB.
pub fn notice(notice: &Notice<'_>) -> Vec<VarBind> {
    let mut binds = vec![trap(&ROOST, notice.kind as u32)];
    let of_guest = notice.guest.map(|(number, id, name)| guest(number, id, name));
    let leads = (Kind::GuestUnreachable..=Kind::ReplicaBroken).contains(&notice.kind);
    binds.extend(of_guest.iter().filter(|_| leads).flatten().cloned());
    if let (Some(place), Some(value)) = (detail(notice), notice.detail.clone()) {
        binds.push(bind(place, value));
    }
    let of = |number: u32, value| bind(Oid::join(&ROOST, &[1, 6, number, 0]), value);
    if matches!(notice.kind, Kind::AlarmRaised | Kind::AlarmCleared) {
        binds.push(of(5, Value::text(notice.code)));
    }
    binds.extend([
        of(1, Value::text(notice.host)),
        of(4, Value::Integer(notice.severity as i32)),
        of(2, Value::text(notice.text)),
        of(3, Value::text(notice.event)),
    ]);
    // Where the MIB does not name it, the guest may still follow (RFC 3416 §4.2.6).
    binds.extend(of_guest.into_iter().filter(|_| !leads).flatten());
    binds
}

fn detail(notice: &Notice<'_>) -> Option<Oid> {
    let number = notice.guest.map(|(number, ..)| number);
    let desk = |column: u32| number.map(|number| Oid::join(&ROOST, &[1, 3, 1, column, number]));
    match notice.kind {
        Kind::GuestUnreachable => desk(8),
        Kind::BackupOverdue => desk(11),
        Kind::ReplicaBroken => desk(12),
        Kind::MemoryPressure => Some(Oid::join(&ROOST, &[1, 2, 10, 0])),
        Kind::HostDown
        | Kind::HostUp
        | Kind::FailoverStarted
        | Kind::FailoverDone
        | Kind::FailoverFailed
        | Kind::GuestReachable
        | Kind::BackupFailed
        | Kind::StorageLow
        | Kind::PoolExhausted
        | Kind::RequestPending
        | Kind::AggregatorLinkDown
        | Kind::AggregatorLinkUp
        | Kind::AlarmRaised
        | Kind::AlarmCleared => None,
    }
}
