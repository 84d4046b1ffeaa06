//! Faults, done to real processes, and undone.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::fault::{AggregatorFault, Fault, GuestFault, HostFault, Planned};
use crate::grid::{Grid, START, eventually, lasts, output};
use crate::guards::Guards;

/// Between two looks whether a host was ended by its watchdog, or a program of it died by itself.
const MEND_EVERY: Duration = Duration::from_secs(5);
/// How much of a lossy link's frames is lost.
const LOSS_PERCENT: u8 = 30;

/// A grid with its guards and guests, and what goes on in it.
#[derive(Debug)]
pub struct Storm<'a> {
    pub grid: &'a mut Grid,
    pub guards: &'a mut Guards,
    hosts: u8,
    /// By id.
    guests: Vec<String>,
    /// Watchdogs that ended their host.
    pub resets: u32,
}

impl<'a> Storm<'a> {
    pub fn new(grid: &'a mut Grid, guards: &'a mut Guards, hosts: u8, guests: Vec<String>) -> Self {
        Self { grid, guards, hosts, guests, resets: 0 }
    }

    /// Has it all happen, and leaves everything mended that is to be mended from outside: power, cables, programs.
    pub fn rage(&mut self, plan: &[Planned]) -> Result<()> {
        let began = Instant::now();
        let mut steps: Vec<(Duration, bool, &Planned)> =
            plan.iter().flat_map(|one| [(one.begins, true, one), (one.ends, false, one)]).collect();
        steps.sort_by_key(|(at, begins, _)| (*at, *begins));
        let mut mended = Instant::now();
        let mut going_on: Vec<Fault> = Vec::new();
        for (at, begins, one) in steps {
            lasts(at.saturating_sub(began.elapsed()));
            eprintln!("{:>7.2} s {} {:?}", began.elapsed().as_secs_f64(), word(begins), one.fault);
            if begins {
                going_on.push(one.fault);
                self.begin(one.fault)?;
            } else {
                going_on.retain(|fault| *fault != one.fault);
                self.end(one.fault)?;
            }
            if mended.elapsed() > MEND_EVERY {
                mended = Instant::now();
                let on = |fault: &Fault, host: u8| matches!(fault, Fault::Host(at, _) if *at == host);
                let calm = |host: &u8| !going_on.iter().any(|fault| on(fault, *host));
                (1..=self.hosts).filter(calm).try_for_each(|host| self.mend(host))?;
            }
        }
        (1..=self.hosts).try_for_each(|host| self.mend(host))
    }

    fn begin(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::Host(host, fault) => {
                let done = self.begin_at(host, fault);
                self.unless_off(host, done)
            }
            Fault::Aggregator(AggregatorFault::Kill) => self.grid.kill_aggregator(),
            Fault::Aggregator(AggregatorFault::Stop) => self.grid.signal_aggregator("STOP"),
            Fault::Aggregator(AggregatorFault::Wipe) => {
                self.grid.kill_aggregator()?;
                Ok(fs::remove_dir_all(self.grid.folder.join("aggregator"))?)
            }
            Fault::Aggregator(AggregatorFault::StepClock) => {
                self.grid.kill_aggregator()?;
                self.grid.ahead.insert(0);
                self.grid.start_aggregator()
            }
            Fault::Guest(guest, GuestFault::Stop) => self.signal_guest(guest, "STOP"),
            Fault::Guest(guest, GuestFault::Kill) => self.signal_guest(guest, "KILL"),
        }
    }

    fn begin_at(&mut self, host: u8, fault: HostFault) -> Result<()> {
        let lab = self.grid.lab.clone();
        match fault {
            HostFault::KillAgent => self.grid.kill(host),
            HostFault::KillGuard => self.guards.signal(host, "KILL"),
            HostFault::KillLibvirt => lab.host("restart-libvirt", host),
            HostFault::StopAgent => self.grid.signal(host, "STOP"),
            HostFault::StopGuard => self.guards.signal(host, "STOP"),
            HostFault::StopLibvirt => self.signal_libvirt(host, "STOP"),
            HostFault::Cut => lab.host("cut", host),
            HostFault::CutFrom => lab.loss_one_way(host, 100, "from"),
            HostFault::CutTo => lab.loss_one_way(host, 100, "to"),
            HostFault::Loss => lab.loss(host, LOSS_PERCENT),
            HostFault::PowerOff => self.guards.power_off(host),
        }
    }

    fn end(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::Host(host, fault) => {
                let done = self.end_at(host, fault);
                self.unless_off(host, done)?;
                self.mend(host)
            }
            Fault::Aggregator(AggregatorFault::Stop) => self.grid.signal_aggregator("CONT"),
            Fault::Aggregator(AggregatorFault::Kill | AggregatorFault::Wipe) => self.grid.start_aggregator(),
            Fault::Aggregator(AggregatorFault::StepClock) => {
                self.grid.kill_aggregator()?;
                self.grid.ahead.remove(&0);
                self.grid.start_aggregator()
            }
            Fault::Guest(guest, GuestFault::Stop) => self.signal_guest(guest, "KILL"),
            Fault::Guest(_, GuestFault::Kill) => Ok(()),
        }
    }

    fn end_at(&self, host: u8, fault: HostFault) -> Result<()> {
        match fault {
            HostFault::StopAgent => self.grid.signal(host, "CONT"),
            HostFault::StopGuard => self.guards.signal(host, "CONT"),
            HostFault::StopLibvirt => self.signal_libvirt(host, "CONT"),
            HostFault::Cut | HostFault::CutFrom | HostFault::CutTo | HostFault::Loss => {
                self.grid.lab.host("heal", host)
            }
            HostFault::KillAgent | HostFault::KillGuard | HostFault::KillLibvirt | HostFault::PowerOff => Ok(()),
        }
    }

    /// What can't be done to a host because its watchdog ended it meanwhile is done.
    fn unless_off(&self, host: u8, done: Result<()>) -> Result<()> {
        if done.is_err() && !self.is_on(host) { Ok(()) } else { done }
    }

    fn is_on(&self, host: u8) -> bool {
        self.grid.lab.exec(host, &["true"]).is_ok()
    }

    /// What a service manager and somebody at the power switch do. A watchdog may fire at any moment of it.
    fn mend(&mut self, host: u8) -> Result<()> {
        eventually(&format!("host {host} is mended"), START, || {
            let done = self.mend_once(host);
            ensure!(self.is_on(host), "its watchdog ended it, or it can't be powered on: {done:?}");
            done
        })
    }

    fn mend_once(&mut self, host: u8) -> Result<()> {
        if !self.is_on(host) {
            self.resets += u32::from(self.guards.take_reset(host));
            self.guards.power_on(host)?;
            // What was dropped on its way before is dropped no more.
            self.grid.lab.host("heal", host)?;
            return self.grid.start_agent(host);
        }
        if !self.guards.is_running(host) {
            self.guards.spawn(host)?;
        }
        let running = self.grid.pid(host).is_ok_and(|pid| self.grid.lab.is_alive(host, pid));
        if running { Ok(()) } else { self.grid.start_agent(host) }
    }

    fn signal_libvirt(&self, host: u8, signal: &str) -> Result<()> {
        self.grid.lab.exec(host, &["sh", "-c", &format!("kill -{signal} $(cat /run/libvirtd.pid)")]).map(drop)
    }

    /// A guest that executes nowhere now is spared.
    fn signal_guest(&self, guest: usize, signal: &str) -> Result<()> {
        for pid in self.guests.get(guest).map(|id| processes(id)).transpose()?.unwrap_or_default() {
            // It may have ended by itself since.
            let _ended = output(Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]));
        }
        Ok(())
    }
}

fn word(begins: bool) -> &'static str {
    if begins { "begins" } else { "ends  " }
}

/// QEMU processes of a guest on all hosts, as the machine numbers them.
pub fn processes(guest: &str) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let is_qemu = words.first().is_some_and(|word| word.windows(4).any(|part| part == b"qemu"));
        if is_qemu && words.windows(2).any(|pair| pair[0] == b"-uuid" && pair[1] == guest.as_bytes()) {
            found.push(pid);
        }
    }
    Ok(found)
}
