//! The dead man's switch of memory: a small process beside the agent. While the agent speaks it does nothing; when the
//! agent is dead and no next one came, or hangs, it gives guests back what was taken and puts the knobs of page sharing
//! back (docs/decisions/0021). The agent starts it, and again when it is gone.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::Context;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use roost_agent_core::memory::deadman::{DeadMan, Owed, STEP_EVERY, dead};
use roost_agent_core::memory::{GuestMemory, HostMemory};
use roost_libvirt::Hypervisor;
use roost_protocol::{GuestId, Millis, Time};

use super::memory::{found_file, tell};
use crate::act::{balloon, ksm};
use crate::config::Config;
use crate::files;
use crate::observe::facts;
use crate::observe::memory::Eye;
use crate::observe::memory::guests::Guests;
use crate::report::link::wall;

/// The file with the process id of whoever's turn it is; the newest wins.
const TURN: &str = "memory-keeper";
/// Longest such file: a process id.
const TURN_BYTES: u64 = 16;
/// Nobody was owed anything in so many looks in a row: libvirt may answer for no guest in the first.
const QUIET_LOOKS: u32 = 3;
/// A guest whose driver never answers doesn't keep this process for longer.
const PATIENCE: Millis = Millis::seconds(3_600);

/// The agent's end of it.
#[derive(Debug)]
pub(crate) struct Keeper {
    settings: Option<PathBuf>,
    child: Option<Child>,
}

impl Keeper {
    /// One that reads the same settings; started by the first beat.
    pub(crate) fn new(settings: Option<PathBuf>) -> Self {
        Self { settings, child: None }
    }

    /// Says that the agent lives; starts the process where there is none.
    pub(crate) fn beat(&mut self) -> io::Result<()> {
        let pipe = self.child.as_mut().and_then(|child| child.stdin.as_mut());
        let told = pipe.map_or(Err(io::ErrorKind::NotConnected.into()), |pipe| pipe.write_all(b"."));
        match told {
            Ok(()) => Ok(()),
            // It was stopped, and hears all of it when it goes on.
            Err(full) if full.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(_) => self.begin(),
        }
    }

    fn begin(&mut self) -> io::Result<()> {
        if let Some(mut gone) = self.child.take() {
            let _ = gone.kill();
            let _ = gone.wait();
        }
        // The program that runs now, also when its file was replaced.
        let mut command = Command::new("/proc/self/exe");
        if let Some(settings) = &self.settings {
            command.arg("--config").arg(settings);
        }
        // A group of its own: what ends the agent at a terminal doesn't end it.
        let child = command.arg("keep-memory").stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0).spawn()?;
        if let Some(pipe) = &child.stdin {
            fcntl(pipe.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        self.child = Some(child);
        Ok(())
    }
}

/// The process itself: returns when nothing is left to do, or a newer one is there.
pub(crate) fn keep(config: &Config) -> anyhow::Result<()> {
    let turn = config.state_dir.join(TURN);
    let mine = std::process::id().to_string();
    files::write_atomically(&turn, mine.as_bytes()).with_context(|| format!("write {}", turn.display()))?;
    let mut watch = Watch {
        config,
        boot: facts::boot_id(),
        eye: Eye::new(Path::new("/")),
        guests: Guests::default(),
        hypervisor: None,
        dead_man: DeadMan::default(),
        quiet: 0,
    };
    let (began, mut heard, mut gone) = (Instant::now(), Time(0), None);
    loop {
        let word = listen(gone.is_some())?;
        let now = Time(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
        match word {
            Word::Lives => (heard, watch.quiet) = (now, 0),
            Word::Gone => gone = gone.or(Some(now)),
            Word::Nothing => {}
        }
        if files::read_bounded(&turn, TURN_BYTES)?.as_deref() != Some(mine.as_bytes()) {
            return Ok(());
        }
        if !dead(now, heard, gone) || watch.quiet >= QUIET_LOOKS && gone.is_none() {
            continue;
        }
        watch.relieve(now);
        if gone.is_some_and(|at| watch.quiet >= QUIET_LOOKS || now.since(at) >= PATIENCE) {
            return Ok(());
        }
    }
}

/// What came from the agent.
enum Word {
    Lives,
    Nothing,
    /// It has ended, however.
    Gone,
}

/// Waits for a word for one step; after the agent's end just that long.
fn listen(gone: bool) -> anyhow::Result<Word> {
    let (step, mut bytes) = (u16::try_from(STEP_EVERY.0).unwrap_or(u16::MAX), [0; 1_024]);
    let mut input = io::stdin().lock();
    let ready = {
        let mut pipe = [PollFd::new(input.as_fd(), PollFlags::POLLIN)];
        let all = if gone { &mut pipe[..0] } else { &mut pipe[..] };
        poll(all, PollTimeout::from(step)).context("wait for the agent")?
    };
    Ok(match ready {
        0 => Word::Nothing,
        _ if input.read(&mut bytes).unwrap_or(0) == 0 => Word::Gone,
        _ => Word::Lives,
    })
}

struct Watch<'a> {
    config: &'a Config,
    boot: String,
    eye: Eye,
    guests: Guests,
    hypervisor: Option<Hypervisor>,
    dead_man: DeadMan,
    /// Looks in a row at which nobody was owed anything.
    quiet: u32,
}

impl Watch<'_> {
    /// One step of giving back.
    fn relieve(&mut self, now: Time) {
        self.restore_knobs();
        let Some(host) = self.eye.host() else { return };
        self.hypervisor = self.hypervisor.take().filter(Hypervisor::alive);
        if self.hypervisor.is_none() {
            let opened = Hypervisor::open(&self.config.libvirt_uri);
            self.hypervisor = opened.inspect_err(|error| tracing::warn!(%error, "ask libvirt for guests")).ok();
        }
        let Some(hypervisor) = &self.hypervisor else { return };
        let seen = self.guests.look(now, wall(), &self.eye, hypervisor, Millis(0));
        let owed = owed(&seen);
        self.quiet = if owed.is_empty() { self.quiet + 1 } else { 0 };
        give_back(now, &host, self.config, &mut self.dead_man, &owed, hypervisor);
    }

    fn restore_knobs(&self) {
        let file = found_file(self.config);
        let Some(knobs) = ksm::found(&file, &self.boot) else { return };
        tracing::warn!("the agent is dead: page sharing is set as it was before it");
        tell(ksm::write(Path::new(ksm::FOLDER), &knobs));
        tell(fs::remove_file(&file));
    }
}

fn owed(seen: &BTreeMap<GuestId, GuestMemory>) -> BTreeMap<GuestId, Owed> {
    let squeezed = seen.iter().filter(|(_, guest)| guest.ours && guest.current() < guest.full);
    squeezed.map(|(id, guest)| (*id, Owed { current: guest.current(), full: guest.full })).collect()
}

fn give_back(
    now: Time,
    host: &HostMemory,
    config: &Config,
    dead_man: &mut DeadMan,
    owed: &BTreeMap<GuestId, Owed>,
    hypervisor: &Hypervisor,
) {
    for (guest, to) in dead_man.give_back(now, host, &config.memory, owed) {
        let guest_id = guest.to_string();
        tracing::warn!(guest = guest_id, %to, "the agent is dead: memory is given back");
        tell(balloon::resize(hypervisor, guest, to).map_err(|failure| failure.text));
    }
}
