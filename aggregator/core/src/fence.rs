//! Fence devices of hosts: intent, told to the hosts that would use them, which keep them in memory only. A device is used
//! once it said of a host that was up that it is on: one that belongs to another machine would prove something untrue.

use minicbor::{Decode, Encode};
use roost_protocol::fence::FenceDevice;
use roost_protocol::{HostId, Stamp};

use crate::call::{CallErrorCode, Done, Reply};
use crate::calls::error;
use crate::event::Action;
use crate::grid::{Grid, Host, Now, Presence};
use crate::history::Line;
use crate::intent::{HostRecord, IntentChange};

/// Hosts that are asked at most when a device is tested: those that would use it first.
const TESTERS: usize = 3;

/// A host's fence device.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Fence {
    #[n(0)]
    pub device: FenceDevice,
    /// When it said last that its host is on, while that was up.
    #[n(1)]
    pub tested: Option<Stamp>,
}

impl Grid {
    /// Reading: a host's fence device.
    pub fn fence(&self, host: HostId) -> Option<&Fence> {
        self.intent.hosts.get(&host)?.fence.as_deref()
    }

    /// What `to` is told of `host`'s device: none unless it could take over guests of it. A host that people work on is not
    /// switched off under their hands.
    pub(crate) fn fence_told(&self, to: HostId, host: HostId) -> Option<FenceDevice> {
        let record = self.intent.hosts.get(&host).filter(|it| it.removed.is_none() && it.maintenance.is_none())?;
        let fence = record.fence.as_ref().filter(|fence| fence.tested.is_some())?;
        self.would_fence(to, host).then(|| fence.device.clone())
    }

    fn would_fence(&self, by: HostId, host: HostId) -> bool {
        let report = self.hosts.get(&host).and_then(|host| host.guard.as_ref());
        let homes = report.into_iter().flat_map(|report| report.wards.iter().map(|ward| &ward.council.homes));
        by != host && homes.into_iter().any(|homes| homes.contains(&by))
    }

    /// Reading: the hosts to ask when a host's device is tested, those that would use it first.
    pub fn fence_testers(&self, host: HostId) -> Vec<HostId> {
        let connected = |other: &&Host| other.id != host && other.link().is_some();
        let all = || self.hosts.values().filter(connected).map(|other| other.id);
        let users: Vec<HostId> = all().filter(|other| self.would_fence(*other, host)).take(TESTERS).collect();
        if users.is_empty() { all().take(1).collect() } else { users }
    }

    /// None: it has one no more.
    pub(crate) fn set_fence(
        &mut self,
        now: Now,
        by: &str,
        id: HostId,
        device: Option<Box<FenceDevice>>,
        actions: &mut Vec<Action>,
    ) -> Reply {
        let record = self.member(id)?;
        let fence = match device {
            None => None,
            Some(device) => Some(Box::new(renewed(*device, record.fence.as_deref())?)),
        };
        let what = match &fence {
            Some(fence) => {
                format!("has a fence device, by {}: it is used once it was tested; set by {by}", fence.device.agent)
            }
            None => format!("has no fence device any more, says {by}"),
        };
        let line = Line::info("host.fence", format!("host {} {what}", record.name)).host(id).user(by);
        self.change_intent(vec![IntentChange::Host { id, record: HostRecord { fence, ..record } }], actions);
        self.peers_changed(now, id);
        self.publish(now, line, actions);
        Ok(Done::Nothing)
    }

    /// The device said that its host is on; `device`: which one that was.
    pub(crate) fn fence_tested(
        &mut self,
        now: Now,
        by: &str,
        id: HostId,
        device: &FenceDevice,
        actions: &mut Vec<Action>,
    ) -> Reply {
        let up = self.hosts.get(&id).is_some_and(|host| matches!(host.presence, Presence::Up { .. }));
        if !up {
            let text = "the host is not up: whether the device is its own can't be told; test it when the host is back";
            return Err(error(CallErrorCode::WrongState, text));
        }
        let record = self.member(id)?;
        if record.fence.as_ref().is_none_or(|fence| fence.device != *device) {
            return Err(error(CallErrorCode::Changed, "the device was changed meanwhile: test it again"));
        }
        let text = format!("host {}'s fence device was tested by {by}: it says that the host is on", record.name);
        let fence = Some(Box::new(Fence { device: device.clone(), tested: Some(now.wall) }));
        self.change_intent(vec![IntentChange::Host { id, record: HostRecord { fence, ..record } }], actions);
        self.peers_changed(now, id);
        self.publish(now, Line::info("host.fence", text).host(id).user(by), actions);
        Ok(Done::Nothing)
    }
}

/// The device that follows `before`: its secret stays for the same device only, so that nobody gets it by a change of the
/// address.
fn renewed(mut device: FenceDevice, before: Option<&Fence>) -> Result<Fence, crate::call::CallError> {
    let before = before.filter(|before| before.device.secret.is_some());
    if let (None, Some(before)) = (&device.secret, before) {
        let which = |device: &FenceDevice| (device.agent.clone(), device.address.clone(), device.user.clone());
        if which(&before.device) != which(&device) || before.device.options != device.options {
            let text =
                "it is another device now, or spoken to otherwise: give the secret again, or an empty one for none";
            return Err(error(CallErrorCode::Invalid, text));
        }
        device.secret.clone_from(&before.device.secret);
    }
    device.secret = device.secret.filter(|secret| !secret.0.is_empty());
    device.check().map_err(|why| error(CallErrorCode::Invalid, why))?;
    Ok(Fence { device, tested: None })
}
