//! What if a host died now: who would go on with each of its guests, or why it would stay down. From what hosts report;
//! nothing is decided by it.

use std::collections::BTreeMap;

use roost_protocol::guest::Power;
use roost_protocol::{GuestId, HostId, MiB, Millis};

use crate::grid::{Grid, Guest, Host};
use crate::placement::free;
use crate::protection::Protection;

/// What would become of one guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    pub guest: GuestId,
    pub name: String,
    pub memory: MiB,
    /// It is off, and stays off wherever it is.
    pub off: bool,
    pub fate: Fate,
}

/// Where it would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// This host goes on with it, from a copy of this age.
    At { host: HostId, copy: Millis },
    /// It stays down; why.
    Down(String),
}

/// What is left of each host's memory, by its name, takes one guest after the other.
fn settle(mut losses: Vec<Loss>, mut left: BTreeMap<HostId, (String, MiB)>) -> Vec<Loss> {
    for loss in &mut losses {
        let Fate::At { host, .. } = loss.fate else { continue };
        match left.get_mut(&host) {
            Some(_) if loss.off => {}
            Some((_, room)) if loss.memory <= *room => room.0 -= loss.memory.0,
            Some((name, room)) => {
                let text = format!("{name}, the host with its copy, would have {room} of memory left for it");
                loss.fate = Fate::Down(text);
            }
            None => loss.fate = Fate::Down("the host with its copy is unknown".into()),
        }
    }
    losses
}

impl Grid {
    /// Reading: what would become of the guests that this host looks after, in order of name.
    pub fn if_lost(&self, host: &Host) -> Vec<Loss> {
        let here = |guest: &&Guest| self.guest_host(guest.report.id) == Some(host.id);
        let guests = host.guests.values().filter(here);
        let mut losses: Vec<Loss> = guests.filter_map(|guest| self.loss(guest)).collect();
        losses.sort_by(|one, other| (&one.name, one.guest).cmp(&(&other.name, other.guest)));
        let left = self.hosts.values().map(|host| (host.id, (host.name.clone(), free(host)))).collect();
        settle(losses, left)
    }

    fn loss(&self, guest: &Guest) -> Option<Loss> {
        let off = guest.report.desired?.power == Power::Stopped;
        let fate = match self.protection(guest.report.id) {
            Protection::By { host, copy } => Fate::At { host, copy },
            Protection::No(lacks) => Fate::Down(lacks.join("; ")),
            Protection::NotWished => Fate::Down("its backup policy has no replica_failover".into()),
        };
        let (guest, name, memory) = (guest.report.id, guest.report.name.clone(), guest.report.memory_mib);
        Some(Loss { guest, name, memory, off, fate })
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn loss(number: u128, fate: Fate) -> Loss {
        let (guest, name) = (GuestId::from_u128(number), format!("g{number}"));
        Loss { guest, name, memory: MiB(400), off: false, fate }
    }

    #[test]
    fn a_host_takes_guests_until_its_memory_is_spent_and_the_rest_is_told_why() {
        let at = |host| Fate::At { host: HostId::from_u128(host), copy: Millis(5_000) };
        let down = || Fate::Down("no copy".into());
        let left = [(2, 900), (3, 400)];
        let left = left.map(|(host, room)| (HostId::from_u128(host), (format!("h{host}"), MiB(room)))).into();
        let fates = [at(2), down(), at(2), at(2), at(3), at(9)];
        let settled = settle((1..).zip(fates).map(|(number, fate)| loss(number, fate)).collect(), left);
        let fates: Vec<Fate> = settled.into_iter().map(|loss| loss.fate).collect();
        let (full, unknown) = ("h2, the host with its copy, would have 100 MiB of memory left for it", "unknown");
        assert_eq!(fates[..3], [at(2), down(), at(2)]);
        assert_eq!((&fates[3], &fates[4]), (&Fate::Down(full.into()), &at(3)));
        assert!(matches!(&fates[5], Fate::Down(why) if why.contains(unknown)));
    }
}
