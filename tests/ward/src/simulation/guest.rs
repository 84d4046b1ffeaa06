//! The guest on a machine: it starts slowly, pauses late or never, and does the newest command only.

use roost_ward::Order;

use super::world::{Happening, World};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Run,
    Pause,
    Kill,
}

/// How long commands take, ms: least and most.
const RESUME: (u64, u64) = (5, 50);
const START: (u64, u64) = (1_500, 1_500);
const PAUSE: (u64, u64) = (5, 400);
const KILL: (u64, u64) = (10, 500);
const CONFIRM: (u64, u64) = (0, 100);

impl World {
    /// A command is on its way to the guest; it takes the place of the one before.
    pub(crate) fn order(&mut self, machine: usize, order: Order, what: Command) {
        let loaded = self.machines[machine].guest.loaded;
        self.machines[machine].guest.order = order;
        let delay = match what {
            Command::Run if loaded => self.span(RESUME),
            Command::Run => self.span(START),
            Command::Pause => self.span(PAUSE),
            Command::Kill => self.span(KILL),
        };
        self.after(delay, Happening::Command { machine, order, what });
    }

    pub(crate) fn command(&mut self, machine: usize, order: Order, what: Command) {
        let this = &self.machines[machine];
        if !this.up || this.guest.order != order {
            return;
        }
        match what {
            Command::Run => self.run_guest(machine, order),
            Command::Pause if this.ills.pause_stuck => self.machines[machine].guest.waits = Some((order, what)),
            Command::Kill if this.ills.kill_stuck => self.machines[machine].guest.waits = Some((order, what)),
            Command::Pause => {
                self.counts.pauses += 1;
                self.stop_guest(machine, order);
            }
            Command::Kill => {
                self.counts.kills += 1;
                self.machines[machine].guest.loaded = false;
                self.stop_guest(machine, order);
            }
        }
    }

    /// A process that can't end just now, as its disk doesn't answer, still ends of a kill once it does.
    pub(crate) fn obey(&mut self, machine: usize) {
        let this = &mut self.machines[machine];
        (this.ills.pause_stuck, this.ills.kill_stuck) = (false, false);
        if let Some((order, what)) = this.guest.waits.take() {
            self.command(machine, order, what);
        }
    }

    /// The guard is asked again right before; one that hangs is asked until it answers.
    fn run_guest(&mut self, machine: usize, order: Order) {
        const ASK_AGAIN: u64 = 500;
        let clock = self.machines[machine].clock(self.now);
        let this = &mut self.machines[machine];
        this.guest.loaded = true;
        if !this.hears() {
            return self.after(ASK_AGAIN, Happening::Command { machine, order, what: Command::Run });
        }
        let until = this.ward().and_then(|ward| ward.may_run(order));
        if until.is_some_and(|until| clock < until) && !this.guest.executes {
            self.machines[machine].guest.executes = true;
            self.truth.begins(machine, self.now);
            self.note(machine, "runs the guest");
        }
    }

    fn stop_guest(&mut self, machine: usize, order: Order) {
        if self.machines[machine].guest.executes {
            self.machines[machine].guest.executes = false;
            self.truth.ends(machine, self.now);
            self.note(machine, "has stopped the guest");
        }
        let (delay, life) = (self.span(CONFIRM), self.machines[machine].life);
        self.after(delay, Happening::Confirmed { machine, life, order });
    }
}
