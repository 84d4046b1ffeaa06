//! Tests of hosts' watchdogs: asked for by people, on hosts that nothing executes on, and told of when they are over.

use roost_protocol::HostId;
use roost_protocol::failover::{Fencing, GuardReport, TestResult};
use roost_protocol::guest::PowerState;

use crate::call::{CallError, CallErrorCode, Done, Reply};
use crate::calls::error;
use crate::event::Action;
use crate::grid::{Grid, Now, Presence};
use crate::history::Line;

impl Grid {
    /// Reading: whether a host's watchdog may end it now. Its guard has the last word.
    pub fn may_test_watchdog(&self, id: HostId) -> Result<(), CallError> {
        let no = |text: &str| Err(error(CallErrorCode::WrongState, text));
        self.member(id)?;
        let host = self.hosts.get(&id).filter(|host| matches!(host.presence, Presence::Up { .. }));
        let Some(host) = host else { return no("the host is not up") };
        match host.guard.as_ref().map(|guard| &guard.fencing) {
            None => return no("the host has no guard: run roost-guard and set guard_socket in its agent.toml"),
            Some(Some(Fencing::None(why))) => return no(&format!("the host has no watchdog: {why}")),
            Some(None | Some(Fencing::Hardware(_) | Fencing::Soft(_) | Fencing::Parent)) => {}
        }
        if self.maintenance(id).is_none() {
            return no(
                "the test ends the host, which is not in maintenance: roost host drain, and resume it afterwards",
            );
        }
        match host.guests.values().filter(|guest| is_up(guest.report.state)).count() {
            0 => Ok(()),
            some => {
                no(&format!("the test ends the host, and {some} of its guests are up: hand them over or stop them"))
            }
        }
    }

    /// The host's guard has begun.
    pub(crate) fn watchdog_test_begun(&mut self, now: Now, by: &str, id: HostId, actions: &mut Vec<Action>) -> Reply {
        let record = self.member(id)?;
        let text = format!("host {}'s watchdog is tested, asked by {by}: it ends the host", record.name);
        self.publish(now, Line::info("host.watchdog", text).host(id).user(by), actions);
        Ok(Done::Nothing)
    }

    /// Tells what came of a test, if that is news.
    pub(crate) fn watchdog_told(&mut self, now: Now, id: HostId, report: &GuardReport, actions: &mut Vec<Action>) {
        let before = self.hosts.get(&id).and_then(|host| host.guard.as_ref()).map(|guard| guard.watchdog_test.as_ref());
        let Some((before, test)) = before.zip(report.watchdog_test.as_ref()) else { return };
        if before == Some(test) || matches!(test.result, TestResult::Running { .. }) {
            return;
        }
        let text = format!("host {}'s watchdog was tested: {test}", self.host_name(id));
        let line = if test.failed() { Line::warning } else { Line::info };
        self.publish(now, line("host.watchdog", text).host(id), actions);
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
