//! Tests of hosts' watchdogs: asked for by people, on hosts that nothing executes on, and told of when they are over.

use roost_protocol::HostId;
use roost_protocol::failover::{Fencing, GuardReport, TestResult};

use crate::call::{CallError, CallErrorCode, Done, Reply};
use crate::calls::error;
use crate::event::Action;
use crate::grid::{Grid, Now};
use crate::history::Line;

impl Grid {
    /// Reading: whether a host's watchdog may end it now. Its guard has the last word.
    pub fn may_test_watchdog(&self, id: HostId) -> Result<(), CallError> {
        let no = |text: &str| Err(error(CallErrorCode::WrongState, text));
        let host = self.up(id)?;
        match host.guard.as_ref().map(|guard| &guard.fencing) {
            None => return no("the host has no guard: run roost-guard and set guard_socket in its agent.toml"),
            Some(Some(Fencing::None(why))) => return no(&format!("the host has no watchdog: {why}")),
            Some(None | Some(Fencing::Hardware(_) | Fencing::Soft(_) | Fencing::Parent)) => {}
        }
        self.is_in_nobody_s_use(host, "the test ends the host")
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
