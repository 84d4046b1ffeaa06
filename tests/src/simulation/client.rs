//! The simulated admin: asks for random things and remembers what was acknowledged.

use roost_aggregator_core::event::{CallId, Event};
use roost_aggregator_core::{Call, Done, Reply};
use roost_protocol::guest::{Boot, GuestSpec, Power};
use roost_protocol::operation::Verb;
use roost_protocol::{GuestId, MiB, Millis, OperationId};

use super::world::World;

impl World {
    /// One call to the API.
    pub(crate) fn ask(&mut self) {
        let number = self.calls;
        self.calls += 1;
        let operation = OperationId::from_u128(0xa000_0000 + u128::from(number));
        let (guest, host, verb) = self.random_wish(number);
        let timeout = Millis(5_000 + self.random.below(40_000));
        self.note(format!("ask {number}: {} {guest}", verb.word()));
        let what = Call::Guest { operation, guest, guest_name: None, host, verb, timeout, key: None };
        self.tell_aggregator(Event::Called { call: CallId(number), by: "admin".into(), what });
    }

    fn random_wish(&mut self, number: u64) -> (GuestId, Option<roost_protocol::HostId>, Verb) {
        let host = self.random.index(self.hosts.len());
        let known: Vec<GuestId> = self.hosts[host].guests.keys().copied().collect();
        let guest = if known.is_empty() { GuestId::from_u128(1) } else { known[self.random.index(known.len())] };
        if self.setting.backups && self.random.chance(500) {
            return (guest, None, self.backup_wish(host, guest));
        }
        let verb = match self.random.below(11) {
            0 => Verb::Start,
            1 => Verb::Stop,
            2 => Verb::Shutdown { force_after_ms: Some(Millis(2_000)) },
            3 => Verb::Pause,
            4 => Verb::Resume,
            5 | 6 => Verb::Reset,
            7 => Verb::Release,
            8 => {
                let spec = GuestSpec {
                    name: format!("made-{number}"),
                    memory_mib: MiB(64),
                    vcpus: 1,
                    disks: Vec::new(),
                    nics: Vec::new(),
                    boot: Boot::Disk,
                    memory: None,
                };
                let made = GuestId::from_u128(0xb000_0000 + u128::from(number));
                return (made, Some(self.hosts[host].id), Verb::Create { spec, start: true });
            }
            _ => Verb::Manage { power: Power::Running },
        };
        (guest, None, verb)
    }

    pub(crate) fn answered(&mut self, call: CallId, reply: Reply) {
        if let Ok(Done::Operation(operation)) = reply {
            self.note(format!("call {} acknowledged as {}", call.0, operation.id));
            self.acknowledged.push((operation.id, self.data_life));
        }
    }
}
