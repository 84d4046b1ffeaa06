//! What a host knows, in the words of the MIBs: filled by the agent once a beat, read when somebody asks.

use roost_protocol::guest::{Desired, Power, PowerState};
use roost_protocol::{GuestId, HostId, MiB, Millis, Stamp, Time};

/// A snapshot of one host.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub host: Host,
    pub memory: Memory,
    pub backup: Backup,
    /// In any order; guests of one number beyond the first are not shown.
    pub guests: Vec<Guest>,
    pub alarms: Vec<Alarm>,
}

/// The host itself.
#[derive(Clone, Debug, Default)]
pub struct Host {
    pub id: Option<HostId>,
    pub agent_version: String,
    /// For people: "Roost (QEMU/libvirt)".
    pub software: String,
    /// For people: "0.1.0 (libvirt 9.0.0, QEMU 7.2.22)".
    pub version: String,
    pub state: HostState,
    pub link: Link,
    pub heartbeats_missed: u64,
    /// Since when the hypervisor answers.
    pub hypervisor_since: Option<Time>,
    /// When a guest was last added or removed.
    pub guests_changed: Time,
}

/// As the host itself sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostState {
    #[default]
    Online = 1,
    Maintenance = 2,
    Draining = 3,
    Isolated = 4,
    /// Never said yet: a host that is fenced runs no agent.
    Fenced = 5,
    Drained = 6,
}

/// The way to the aggregator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Link {
    Up {
        heard: Time,
    },
    Down {
        heard: Option<Time>,
    },
    #[default]
    NotConfigured,
}

/// Memory of the host, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    pub total: u64,
    pub available: u64,
    /// The most that running guests may take.
    pub committed: u64,
    /// What their processes take now.
    pub resident: u64,
    /// Taken from guests by their balloons.
    pub reclaimed: u64,
    pub ksm: Ksm,
    /// PSI `some avg10`, hundredths of a percent.
    pub pressure_centi: u32,
}

/// Kernel same-page merging.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ksm {
    pub shared: u64,
    pub saved: u64,
    /// `/sys/kernel/mm/ksm/run`: 0 stopped, 1 running, 2 unmerging.
    pub run: u32,
    pub full_scans: u64,
}

/// Backups of this host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backup {
    pub last_end: Option<Stamp>,
    pub done: u64,
    pub failed: u64,
    pub store_size: u64,
    pub store_used: u64,
}

/// A raised alarm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    pub code: String,
    /// vmIndex of the guest it is about.
    pub guest: Option<u32>,
    pub since: Stamp,
    pub text: String,
}

/// One guest.
#[derive(Clone, Debug)]
pub struct Guest {
    /// vmIndex.
    pub number: u32,
    pub id: GuestId,
    pub name: String,
    /// Empty where it isn't known.
    pub os: String,
    pub admin: AdminState,
    pub oper: OperState,
    /// Whether it starts with its host; unknown for transient ones.
    pub autostart: Option<bool>,
    pub persistent: bool,
    pub cpus: u64,
    pub cpus_max: Option<u64>,
    pub memory: MiB,
    pub memory_max: Option<MiB>,
    /// How long it has been running, `at` when it was looked at.
    pub up: Option<Millis>,
    pub cpu_time_us: u64,
    /// CPU time of each virtual CPU, microseconds.
    pub vcpus_us: Vec<u64>,
    /// Virtual CPUs bound to certain physical ones.
    pub pins: Vec<Pin>,
    pub disks: Vec<Disk>,
    pub nics: Vec<Nic>,
    pub desk: Desk,
}

impl Guest {
    /// A guest of which no more is known than this.
    pub fn new(number: u32, id: GuestId, name: &str) -> Self {
        Self {
            number,
            id,
            name: name.to_owned(),
            os: String::new(),
            admin: AdminState::Shutdown,
            oper: OperState::Unknown,
            autostart: None,
            persistent: true,
            cpus: 0,
            cpus_max: None,
            memory: MiB(0),
            memory_max: None,
            up: None,
            cpu_time_us: 0,
            vcpus_us: Vec::new(),
            pins: Vec::new(),
            disks: Vec::new(),
            nics: Vec::new(),
            desk: Desk::default(),
        }
    }
}

/// VirtualMachineAdminState: what should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminState {
    Running = 1,
    Suspended = 2,
    Paused = 3,
    Shutdown = 4,
}

impl AdminState {
    /// A guest without a wish is wished as it is.
    pub fn of(desired: Option<Desired>, oper: OperState) -> Self {
        match desired.map(|desired| desired.power) {
            Some(Power::Running) => Self::Running,
            Some(Power::Stopped) => Self::Shutdown,
            None => match oper {
                OperState::Running | OperState::Resuming | OperState::Preparing | OperState::Migrating => Self::Running,
                OperState::Paused => Self::Paused,
                OperState::Suspending | OperState::Suspended => Self::Suspended,
                OperState::Unknown
                | OperState::Other
                | OperState::ShuttingDown
                | OperState::Shutdown
                | OperState::Crashed => Self::Shutdown,
            },
        }
    }
}

/// VirtualMachineOperState: what is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OperState {
    Unknown = 1,
    Other = 2,
    Preparing = 3,
    Running = 4,
    Suspending = 5,
    Suspended = 6,
    Resuming = 7,
    Paused = 8,
    Migrating = 9,
    ShuttingDown = 10,
    Shutdown = 11,
    Crashed = 12,
}

impl OperState {
    /// From what a host reports of a guest; `reason` is the word of [`roost_protocol::guest::GuestReport::reason`].
    pub fn of(state: PowerState, reason: &str) -> Self {
        match (state, reason) {
            (PowerState::Paused, "migrated") => Self::Migrating,
            (PowerState::Off, "saved") => Self::Suspended,
            (PowerState::Off, "crashed") => Self::Crashed,
            (PowerState::Unknown, _) => Self::Unknown,
            (PowerState::Running, _) => Self::Running,
            (PowerState::Paused, _) => Self::Paused,
            (PowerState::ShuttingDown, _) => Self::ShuttingDown,
            (PowerState::Off, _) => Self::Shutdown,
            (PowerState::Crashed, _) => Self::Crashed,
            (PowerState::Suspended, _) => Self::Suspended,
        }
    }
}

/// A virtual CPU (from 0) and the physical ones (from 0) it may run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    pub vcpu: u32,
    pub physical: Vec<u32>,
}

/// One disk. Counters are since the guest's start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    pub source: Source,
    /// For people: "file qcow2".
    pub source_text: String,
    pub path: String,
    pub read_only: bool,
    pub media: Media,
    /// For people: "vda on virtio".
    pub media_text: String,
    pub defined: Option<u64>,
    pub allocated: Option<u64>,
    pub reads: u64,
    pub writes: u64,
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub read_us: u64,
    pub write_us: u64,
}

/// VirtualMachineStorageSourceType.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    #[default]
    Unknown = 1,
    Other = 2,
    Block = 3,
    Raw = 4,
    Sparse = 5,
    Network = 6,
}

/// IANAStorageMediaType.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Media {
    #[default]
    Unknown = 1,
    Other = 2,
    HardDisk = 3,
    OpticalDisk = 4,
}

/// One network card.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nic {
    /// ifIndex of its tap on the host; 0 where there is none.
    pub if_index: u64,
    /// ifIndex of the bridge it is on.
    pub parent: u64,
    pub model: String,
    pub mac: Vec<u8>,
}

/// What a desktop is to its user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desk {
    pub owner: String,
    pub pool: String,
    pub template: String,
    pub agent: AgentState,
    pub session: SessionState,
    pub user: String,
    pub protocol: Protocol,
    pub access: Access,
    pub round_trip: Millis,
    pub backup: BackupState,
    /// Age of the newest good backup, seconds.
    pub backup_age_s: Option<u64>,
    pub replica: ReplicaState,
    pub replica_host: String,
    pub replica_lag: Millis,
}

impl Default for Desk {
    fn default() -> Self {
        Self {
            owner: String::new(),
            pool: String::new(),
            template: String::new(),
            agent: AgentState::NotInstalled,
            session: SessionState::Unknown,
            user: String::new(),
            protocol: Protocol::None,
            access: Access::NotChecked,
            round_trip: Millis(0),
            backup: BackupState::Never,
            backup_age_s: None,
            replica: ReplicaState::None,
            replica_host: String::new(),
            replica_lag: Millis(0),
        }
    }
}

/// The agent inside a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentState {
    NotInstalled = 1,
    Connected = 2,
    Silent = 3,
}

/// A user's log-on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    None = 1,
    Starting = 2,
    Active = 3,
    Disconnected = 4,
    Unknown = 5,
}

/// How a desktop is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    None = 1,
    Rdp = 2,
    Spice = 3,
    Vnc = 4,
    Ssh = 5,
}

/// RoostAccessState.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Unknown = 1,
    Ok = 2,
    Refused = 3,
    Timeout = 4,
    BadReply = 5,
    NotChecked = 6,
}

/// How a guest's backups stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupState {
    Never = 1,
    Ok = 2,
    Running = 3,
    Overdue = 4,
    Failed = 5,
    Excluded = 6,
}

/// RoostReplicaState.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaState {
    None = 1,
    Syncing = 2,
    InSync = 3,
    Lagging = 4,
    Broken = 5,
}
