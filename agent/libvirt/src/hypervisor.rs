//! One connection to libvirt and what the agent does over it.

use crate::{
    DomainInfo, DomainStats, Error, Event, Events, Reason, State, StatsGroups, Uuid,
    error::Code,
    ffi::{Act, Connection, Domain, Watch},
    stats,
    trial::TRIAL,
};
use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};
use virt_sys as sys;

/// Seconds between signs of life on a connection to a daemon, and how many may fail.
const KEEP_ALIVE: (i32, u32) = (5, 3);
/// Most bytes of a guest agent's answer; the guest may send what it likes.
const MOST_AGENT_BYTES: usize = 1024 * 1024;

/// A version number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Major.
    pub major: u64,
    /// Minor.
    pub minor: u64,
    /// Micro.
    pub micro: u64,
}

impl Version {
    fn from_raw(raw: u64) -> Self {
        Self { major: raw / 1_000_000, minor: raw / 1_000 % 1_000, micro: raw % 1_000 }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// Who we talk to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// libvirt, the daemon's.
    pub libvirt: Version,
    /// QEMU (of the test driver: a made-up one).
    pub qemu: Version,
}

/// How a guest is asked to shut down or to reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ShutdownMode {
    /// libvirt's choice: the agent if it answers, otherwise ACPI.
    #[default]
    Default,
    /// By the guest agent only.
    Agent,
    /// By the ACPI power button only.
    Acpi,
}

/// How hard a domain is switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ForceOff {
    /// SIGTERM, and SIGKILL when QEMU does not go (libvirt waits up to about 30 s for a process stuck in I/O).
    #[default]
    Kill,
    /// SIGTERM only, so that QEMU flushes its disks; fails when QEMU does not go within about 10 s.
    Graceful,
}

/// Which XML of a domain is wanted; the default is that of its present state, without passwords.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct XmlForm {
    /// What it will be at its next start, not what it is now.
    pub inactive: bool,
    /// With passwords of viewers.
    pub secure: bool,
    /// As another host's libvirt can take it.
    pub migratable: bool,
}

/// A network interface as the guest's agent tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestInterface {
    /// Name in the guest.
    pub name: String,
    /// MAC address; empty when there is none.
    pub mac: String,
    /// Addresses, at most 64.
    pub addresses: Vec<IpAddr>,
}

/// A connection to libvirt, closed on drop. Its calls block; any number of threads may make them at once.
///
/// Every call on one domain fails with [`Code::NoDomain`] when there is none with that UUID, and every call may find the
/// connection lost ([`Error::is_connection_lost`]).
#[derive(Debug)]
pub struct Hypervisor {
    watch: Mutex<Option<Watch>>,
    pub(crate) connection: Connection,
}

impl Drop for Hypervisor {
    fn drop(&mut self) {
        let watch = self.watch.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(watch) = watch {
            watch.end(&self.connection);
        }
    }
}

impl Hypervisor {
    /// Connects to `uri` (`qemu:///system`, `qemu:///embed?root=DIR`, `test:///default`), after starting [`Events`].
    /// A daemon that is silent for 15 s counts as gone.
    ///
    /// # Errors
    /// When there is no libvirt at `uri`, or `uri` holds a NUL byte.
    pub fn open(uri: &str) -> Result<Self, Error> {
        Events::start()?;
        let connection = Connection::open(uri)?;
        // Drivers inside this process (embed, test) have nobody to keep alive and refuse.
        if let Err(error) = connection.keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1) {
            tracing::debug!(%error, uri, "no keep-alive");
        }
        Ok(Self { watch: Mutex::new(None), connection })
    }

    /// Whether the connection stands.
    pub fn alive(&self) -> bool {
        self.connection.is_alive()
    }

    /// The versions of libvirt and QEMU.
    ///
    /// # Errors
    /// See [`Hypervisor`].
    pub fn version(&self) -> Result<Versions, Error> {
        let (libvirt, qemu) = self.connection.versions()?;
        Ok(Versions { libvirt: Version::from_raw(libvirt), qemu: Version::from_raw(qemu) })
    }

    /// Sends every event of this connection to `sender`, on the event thread, in the order libvirt has them. `sender`
    /// must only push (it must neither block nor call libvirt) and is dropped with the connection. An event may be lost
    /// when the connection is: list the domains after each opening.
    ///
    /// # Errors
    /// [`Error::AlreadyWatched`] the second time; libvirt's when it refuses.
    pub fn on_event(&self, sender: impl Fn(Event) + Send + Sync + 'static) -> Result<(), Error> {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        if watch.is_some() {
            return Err(Error::AlreadyWatched);
        }
        *watch = Some(Watch::start(&self.connection, Arc::new(sender))?);
        Ok(())
    }

    /// All domains but the trial: running, stopped, transient. QEMU is not asked, so a hung one does not hold it up. A domain that
    /// vanishes meanwhile is left out.
    ///
    /// # Errors
    /// See [`Hypervisor`].
    pub fn domains(&self) -> Result<Vec<DomainInfo>, Error> {
        let mut all = Vec::new();
        for domain in self.connection.list()?.into_iter().filter(|domain| domain.uuid() != TRIAL) {
            match describe(&domain) {
                Ok(info) => all.push(info),
                Err(error) if error.code() == Some(Code::NoDomain) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// One domain.
    ///
    /// # Errors
    /// See [`Hypervisor`].
    pub fn domain(&self, uuid: &Uuid) -> Result<DomainInfo, Error> {
        describe(&self.connection.lookup(uuid)?)
    }

    /// The XML of a domain.
    ///
    /// # Errors
    /// See [`Hypervisor`]; [`Error::Oversize`] above 4 MiB.
    pub fn xml(&self, uuid: &Uuid, form: XmlForm) -> Result<String, Error> {
        let flags = [
            (form.inactive, sys::VIR_DOMAIN_XML_INACTIVE),
            (form.secure, sys::VIR_DOMAIN_XML_SECURE),
            (form.migratable, sys::VIR_DOMAIN_XML_MIGRATABLE),
        ];
        self.connection.lookup(uuid)?.xml(flags.iter().filter_map(|(wanted, flag)| wanted.then_some(*flag)).sum())
    }

    /// Adds or replaces a definition, after checking it against the schema; gives its UUID.
    ///
    /// # Errors
    /// [`Code::XmlError`], [`Code::ConfigUnsupported`], and [`Code::OperationFailed`] when the name has another UUID.
    pub fn define(&self, xml: &str) -> Result<Uuid, Error> {
        self.connection.define(xml).map(|domain| domain.uuid())
    }

    /// Starts a domain that is gone when it stops; gives its UUID.
    ///
    /// # Errors
    /// As [`Hypervisor::define`] and [`Hypervisor::start`].
    pub fn create_transient(&self, xml: &str) -> Result<Uuid, Error> {
        self.connection.create(xml).map(|domain| domain.uuid())
    }

    /// Starts a defined domain; restores it when it was saved.
    ///
    /// # Errors
    /// [`Code::OperationInvalid`] when it runs.
    pub fn start(&self, uuid: &Uuid) -> Result<(), Error> {
        self.act(uuid, Act::Start, 0)
    }

    /// Starts a defined domain with its CPUs standing still.
    ///
    /// # Errors
    /// As [`Hypervisor::start`].
    pub fn start_paused(&self, uuid: &Uuid) -> Result<(), Error> {
        self.act(uuid, Act::Start, sys::VIR_DOMAIN_START_PAUSED)
    }

    /// Asks the guest to shut down; whether it does is told by an event.
    ///
    /// # Errors
    /// [`Code::OperationInvalid`] when it is off; [`Code::AgentUnresponsive`] by agent.
    pub fn shutdown(&self, uuid: &Uuid, mode: ShutdownMode) -> Result<(), Error> {
        let flags = match mode {
            ShutdownMode::Default => sys::VIR_DOMAIN_SHUTDOWN_DEFAULT,
            ShutdownMode::Agent => sys::VIR_DOMAIN_SHUTDOWN_GUEST_AGENT,
            ShutdownMode::Acpi => sys::VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN,
        };
        self.act(uuid, Act::Shutdown, flags)
    }

    /// Asks the guest to reboot.
    ///
    /// # Errors
    /// As [`Hypervisor::shutdown`].
    pub fn reboot(&self, uuid: &Uuid, mode: ShutdownMode) -> Result<(), Error> {
        let flags = match mode {
            ShutdownMode::Default => sys::VIR_DOMAIN_REBOOT_DEFAULT,
            ShutdownMode::Agent => sys::VIR_DOMAIN_REBOOT_GUEST_AGENT,
            ShutdownMode::Acpi => sys::VIR_DOMAIN_REBOOT_ACPI_POWER_BTN,
        };
        self.act(uuid, Act::Reboot, flags)
    }

    /// Switches a domain off. When this returns, its QEMU is gone and lets go of its disks.
    ///
    /// # Errors
    /// [`Code::OperationInvalid`] when it is off; others when QEMU does not go, and then it may still write.
    pub fn force_off(&self, uuid: &Uuid, how: ForceOff) -> Result<(), Error> {
        let flags = match how {
            ForceOff::Kill => sys::VIR_DOMAIN_DESTROY_DEFAULT,
            ForceOff::Graceful => sys::VIR_DOMAIN_DESTROY_GRACEFUL,
        };
        self.act(uuid, Act::ForceOff, flags)
    }

    /// Stops the CPUs of a running domain.
    ///
    /// # Errors
    /// [`Code::OperationInvalid`] when it is off.
    pub fn pause(&self, uuid: &Uuid) -> Result<(), Error> {
        self.act(uuid, Act::Pause, 0)
    }

    /// Lets the CPUs of a paused domain run; an already running one is no error.
    ///
    /// # Errors
    /// [`Code::OperationInvalid`] when it is off.
    pub fn resume(&self, uuid: &Uuid) -> Result<(), Error> {
        self.act(uuid, Act::Resume, 0)
    }

    /// Presses the reset button.
    ///
    /// # Errors
    /// [`Code::OperationInvalid`] when it is off.
    pub fn reset(&self, uuid: &Uuid) -> Result<(), Error> {
        self.act(uuid, Act::Reset, 0)
    }

    /// Removes a definition with all that libvirt keeps of it: saved state, NVRAM, TPM, metadata of snapshots and
    /// checkpoints. Disks stay. A running domain becomes transient.
    ///
    /// # Errors
    /// See [`Hypervisor`].
    pub fn undefine(&self, uuid: &Uuid) -> Result<(), Error> {
        let domain = self.connection.lookup(uuid)?;
        let plain = sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA;
        let full = plain
            | sys::VIR_DOMAIN_UNDEFINE_NVRAM
            | sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
            | sys::VIR_DOMAIN_UNDEFINE_TPM;
        match domain.act(Act::Undefine, full) {
            // The test driver does not know NVRAM and the like.
            Err(error) if error.code() == Some(Code::InvalidArgument) => domain.act(Act::Undefine, plain),
            answer => answer,
        }
    }

    /// Whether libvirt starts the domain by itself. Roost decides who runs, so it wants this off.
    ///
    /// # Errors
    /// [`Code::OperationInvalid`] for a transient domain.
    pub fn set_autostart(&self, uuid: &Uuid, yes: bool) -> Result<(), Error> {
        self.connection.lookup(uuid)?.set_autostart(yes)
    }

    /// How often a running guest's balloon driver tells its memory, seconds; 0 is never.
    ///
    /// # Errors
    /// [`Code::OperationInvalid`] when it is off or has no balloon; [`Error::Range`] above 2^31.
    pub fn set_memory_stats_period(&self, uuid: &Uuid, period_s: u32) -> Result<(), Error> {
        let out_of_range = |_| Error::Range { tried: format!("set a statistics period of {period_s} s") };
        let period_s = i32::try_from(period_s).map_err(out_of_range)?;
        self.connection.lookup(uuid)?.set_stats_period(period_s)
    }

    /// Asks a running guest's balloon for a size in KiB. Success means asked, not done.
    ///
    /// # Errors
    /// [`Code::InvalidArgument`] above the maximum; [`Code::OperationInvalid`] when it is off.
    pub fn set_balloon(&self, uuid: &Uuid, kib: u64) -> Result<(), Error> {
        self.connection.lookup(uuid)?.set_memory(kib)
    }

    /// Numbers of all domains but the trial in one call. A QEMU that another call is busy with is not waited for; its own numbers
    /// (balloon, disks) are absent then.
    ///
    /// Beware of a hung QEMU: libvirt's "no wait" means not to wait for another call. The first call that asks a hung
    /// QEMU for `cpu`, `balloon`, `vcpu` or `block` waits as long as it hangs (measured with libvirt 9.0), while further
    /// calls return at once. So keep a second thread to call from when the first is overdue. `state` and `interface`
    /// ask no QEMU and never hang, nor does [`Hypervisor::domains`], which tells the CPU time too.
    ///
    /// # Errors
    /// See [`Hypervisor`].
    pub fn bulk_stats(&self, groups: StatsGroups) -> Result<Vec<DomainStats>, Error> {
        let mut all = Vec::new();
        let each = |uuid, name, params| {
            if uuid != TRIAL {
                all.push(stats::decode(uuid, name, params));
            }
        };
        self.connection.stats(groups.bits(), groups.flags(), each)?;
        Ok(all)
    }

    /// Sends one command to the guest agent and waits at most `timeout_s` seconds (at least 1) for its answer.
    ///
    /// # Errors
    /// [`Code::AgentUnresponsive`]; [`Code::Unsupported`] without an agent channel; [`Error::Oversize`] above
    /// 1 MiB; [`Error::Nul`]. Note that libvirt marks an agent that timed out as absent until it answers again.
    pub fn agent_command(&self, uuid: &Uuid, json: &str, timeout_s: u32) -> Result<String, Error> {
        let timeout_s = i32::try_from(timeout_s.max(1)).unwrap_or(i32::MAX);
        self.connection.lookup(uuid)?.agent(json, timeout_s, MOST_AGENT_BYTES)
    }

    /// Asks the guest agent for the guest's addresses; waits for libvirt's own time-out (about 10 s).
    ///
    /// # Errors
    /// As [`Hypervisor::agent_command`].
    pub fn interface_addresses(&self, uuid: &Uuid) -> Result<Vec<GuestInterface>, Error> {
        self.connection.lookup(uuid)?.interfaces()
    }

    fn act(&self, uuid: &Uuid, act: Act, flags: u32) -> Result<(), Error> {
        self.connection.lookup(uuid)?.act(act, flags)
    }
}

fn describe(domain: &Domain) -> Result<DomainInfo, Error> {
    let (state_raw, reason_raw) = domain.state()?;
    let state = State::from_raw(state_raw);
    let size = domain.info()?;
    let persistent = domain.is_persistent()?;
    Ok(DomainInfo {
        uuid: domain.uuid(),
        name: domain.name(),
        id: if state.is_active() { domain.id() } else { None },
        state,
        reason: Reason::from_raw(state, reason_raw),
        reason_raw,
        persistent,
        autostart: persistent && domain.autostart()?,
        max_memory_kib: size.maxMem,
        memory_kib: size.memory,
        vcpus: size.nrVirtCpu,
        cpu_time_ns: size.cpuTime,
    })
}
