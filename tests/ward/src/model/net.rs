//! Messages under way: none is ever certain to come, none comes in order, and one that can do nothing any more is forgotten.

use std::hash::{Hash, Hasher};
use std::rc::Rc;

use roost_protocol::Epoch;
use roost_ward::{Denial, MemberId, Message, Round};

use super::host::Host;
use super::setting::Setting;
use super::state::Mix;

#[derive(Clone, Debug)]
pub(crate) struct Flight {
    pub(crate) from: MemberId,
    pub(crate) to: MemberId,
    pub(crate) message: Message,
}

pub(crate) fn index(hosts: &[Rc<Host>], member: MemberId) -> Option<usize> {
    hosts.iter().position(|host| host.me == member)
}

impl Flight {
    /// A digest that takes a round for its age.
    pub(crate) fn fingerprint(&self, hosts: &[Rc<Host>]) -> u64 {
        let mut state = Mix::default();
        (self.from, self.to).hash(&mut state);
        match &self.message {
            Message::Renew { epoch, round, version, settled, councils } => {
                let age = self.age(hosts, self.from, *epoch, *round);
                let open = councils.as_ref().map(|councils| councils.in_force.version);
                (0u8, epoch, age, version, settled, open).hash(&mut state);
            }
            Message::Grant { epoch, round, version } => {
                (1u8, epoch, self.age(hosts, self.to, *epoch, *round), version).hash(&mut state);
            }
            Message::Refuse { epoch, why, councils } => {
                let why = match why {
                    Denial::Promised(_) => Denial::Promised(roost_protocol::Millis(0)),
                    Denial::Behind | Denial::OtherCouncil | Denial::NoHome => *why,
                };
                let news = councils.as_ref().map(|councils| (councils.in_force.version, councils.newest.version));
                (2u8, epoch, why, news).hash(&mut state);
            }
            Message::Ask(_)
            | Message::Would { .. }
            | Message::Stand(_)
            | Message::Vote { .. }
            | Message::Release { .. }
            | Message::Fenced { .. } => self.message.hash(&mut state),
        }
        state.finish()
    }

    fn age(&self, hosts: &[Rc<Host>], owner: MemberId, epoch: Epoch, round: Round) -> Option<u64> {
        let host = &hosts[index(hosts, owner)?];
        host.ward()?.age_of_round(host.now, epoch, round).map(|age| age.0)
    }

    /// Whether it can still do anything, now or later.
    pub(crate) fn is_useful(&self, hosts: &[Rc<Host>], setting: &Setting) -> bool {
        let (Some(from), Some(to)) = (index(hosts, self.from), index(hosts, self.to)) else { return false };
        let (from, to) = (&hosts[from], &hosts[to]);
        let sender = from.ward();
        match &self.message {
            Message::Renew { epoch, round, .. } => {
                let alive = sender.is_some_and(|ward| ward.age_of_round(from.now, *epoch, *round).is_some());
                alive || *epoch > to.disk.epoch
            }
            Message::Ask(candidacy) => sender.and_then(roost_ward::Ward::polls) == Some(candidacy.epoch),
            Message::Stand(candidacy) => {
                sender.and_then(roost_ward::Ward::polls) == Some(candidacy.epoch) || candidacy.epoch > to.disk.epoch
            }
            Message::Grant { .. } | Message::Vote { .. } | Message::Would { .. } | Message::Refuse { .. } => {
                self.is_heard(to, setting)
            }
            Message::Release { epoch } => to.disk.epoch <= *epoch,
            // One that names an older epoch must do nothing; that is to be seen.
            Message::Fenced { owner, .. } => to.disk.voted == Some(*owner),
        }
    }

    /// An answer that changes nothing now changes nothing later: epochs only rise.
    fn is_heard(&self, to: &Host, setting: &Setting) -> bool {
        if !to.is_up() {
            return false;
        }
        let digest = |host: &Host| {
            let mut state = Mix::default();
            host.fingerprint(setting, &mut state);
            state.finish()
        };
        let mut after = to.clone();
        let event = roost_ward::Event::Heard { from: self.from, message: self.message.clone() };
        // Only the message counts, not what is due anyway.
        let mut before = to.clone();
        let woke = before.wake(setting).map_or(1, |sent| sent.len());
        let sent = after.on(setting, event).map_or(usize::MAX, |sent| sent.len());
        sent != woke || digest(&before) != digest(&after)
    }
}
