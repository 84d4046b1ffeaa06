//! From every state the ward heals: once nothing goes wrong any more, soon exactly one host runs the guest.

use super::setting::Setting;
use super::state::{Broken, State};

/// Ticks in which it must have healed.
const WITHIN: u64 = 60;
/// Programs and guests act so many times within a tick.
const TURNS: usize = 4;

impl State {
    /// # Errors
    /// It doesn't, or something breaks on the way.
    pub(crate) fn heals(&self, setting: &Setting) -> Result<(), Broken> {
        let mut state = self.clone();
        let mut steady = 0;
        for _ in 0..WITHIN {
            state.calm_tick(setting)?;
            let runners = state.hosts.iter().filter(|host| host.executes).count();
            steady = if runners == 1 { steady + 1 } else { 0 };
            if steady > setting.promise + setting.lease {
                return Ok(());
            }
        }
        Err("L1 once faults end, exactly one host runs the guest")
    }

    /// Everything is up, awake and obedient, every message comes within its tick.
    fn calm_tick(&mut self, setting: &Setting) -> Result<(), Broken> {
        for machine in 0..self.hosts.len() {
            self.host(machine).frozen = false;
            if !self.hosts[machine].is_up() {
                self.restart(setting, machine);
            }
        }
        for _ in 0..TURNS {
            for machine in 0..self.hosts.len() {
                self.wake(setting, machine)?;
                self.flush(setting)?;
                let sent = self.host(machine).obey(setting)?;
                self.post(machine, sent);
                self.flush(setting)?;
            }
        }
        let next = self.after(setting, super::state::Act::Tick)?;
        *self = next;
        Ok(())
    }
}
