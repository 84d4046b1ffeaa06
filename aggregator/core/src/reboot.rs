//! Restarts of hosts: asked for by people, on hosts that nothing executes on.

use roost_protocol::HostId;
use roost_protocol::guest::PowerState;
use roost_protocol::host::Maintenance as Stage;

use crate::call::{CallError, CallErrorCode, Done, Reply};
use crate::calls::error;
use crate::event::Action;
use crate::grid::{Grid, Host, Now, Presence};
use crate::history::Line;

impl Grid {
    /// Reading: whether a host may restart now, and which start of it ends then. Its agent has the last word.
    pub fn may_reboot(&self, id: HostId) -> Result<String, CallError> {
        let host = self.up(id)?;
        self.is_in_nobody_s_use(host, "it restarts the host")?;
        Ok(host.facts.as_ref().map(|facts| facts.boot_id.clone()).unwrap_or_default())
    }

    /// Reading: whether a host may look for a newer image.
    pub fn may_look_for_image(&self, id: HostId) -> Result<(), CallError> {
        self.up(id).map(drop)
    }

    /// The host, if it is there to be asked.
    pub(crate) fn up(&self, id: HostId) -> Result<&Host, CallError> {
        self.member(id)?;
        let host = self.hosts.get(&id).filter(|host| matches!(host.presence, Presence::Up { .. }));
        host.ok_or_else(|| error(CallErrorCode::WrongState, "the host is not up"))
    }

    /// Refuses what ends a host that is not in maintenance, or that has guests which are up. `what` it is that does.
    pub(crate) fn is_in_nobody_s_use(&self, host: &Host, what: &str) -> Result<(), CallError> {
        let no = |text: String| Err(error(CallErrorCode::WrongState, &text));
        if self.maintenance(host.id).is_none() {
            return no(format!("{what}, which is not in maintenance: roost host drain, and resume it afterwards"));
        }
        // A guest that is being handed over is off before it is elsewhere.
        if self.maintenance_stage(host) == Some(Stage::Draining) {
            return no(format!("{what}, which is not drained yet: roost host if-lost says what is still there"));
        }
        if let Some(first) = self.commands.waiting_on(host.id).next() {
            return no(format!("{what}, on which work is going on: wait for operation {}", first.id));
        }
        match host.guests.values().filter(|guest| is_up(guest.report.state)).count() {
            0 => Ok(()),
            some => no(format!("{what}, and {some} of its guests are up: hand them over or stop them")),
        }
    }

    /// Its agent is about to be asked.
    pub(crate) fn reboot_begun(&mut self, now: Now, by: &str, id: HostId, actions: &mut Vec<Action>) -> Reply {
        let record = self.member(id)?;
        let text = format!("host {} is asked to restart, by {by}", record.name);
        self.publish(now, Line::info("host.reboot", text).host(id).user(by), actions);
        Ok(Done::Nothing)
    }
}

fn is_up(state: PowerState) -> bool {
    match state {
        PowerState::Running
        | PowerState::Paused
        | PowerState::ShuttingDown
        | PowerState::Suspended
        | PowerState::Unknown => true,
        PowerState::Off | PowerState::Crashed => false,
    }
}
