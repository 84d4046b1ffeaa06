//! Where guests are: by id, and by name in order, so that a page of a long list costs what the page holds.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use roost_protocol::{GuestId, HostId};

/// An index over the guests of all hosts.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// The host that reports a guest; the first one, where two do.
    first: BTreeMap<GuestId, HostId>,
    names: BTreeSet<(String, GuestId, HostId)>,
}

impl Places {
    /// The first host that reported this guest.
    pub(crate) fn host(&self, guest: GuestId) -> Option<HostId> {
        self.first.get(&guest).copied()
    }

    /// A host reports a guest, which it called `was` until now; answers which host has it.
    pub(crate) fn told(&mut self, host: HostId, guest: GuestId, was: Option<&str>, name: &str) -> HostId {
        if was != Some(name) {
            if let Some(was) = was {
                self.names.remove(&(was.to_owned(), guest, host));
            }
            self.names.insert((name.to_owned(), guest, host));
        }
        *self.first.entry(guest).or_insert(host)
    }

    /// The guest is looked after by this host from now on, also where another one reports it.
    pub(crate) fn moved(&mut self, guest: GuestId, to: HostId) {
        self.first.insert(guest, to);
    }

    /// A host reports the guest no more.
    pub(crate) fn gone(&mut self, host: HostId, guest: GuestId, name: &str) {
        self.names.remove(&(name.to_owned(), guest, host));
        if self.host(guest) == Some(host) {
            self.first.remove(&guest);
        }
    }

    /// Only these hosts are left.
    pub(crate) fn keep(&mut self, there: impl Fn(&HostId) -> bool) {
        self.first.retain(|_, host| there(host));
        self.names.retain(|(_, _, host)| there(host));
    }

    /// True when a guest has this name.
    pub(crate) fn named(&self, name: &str) -> bool {
        self.by_name(Some((name, GuestId::from_bytes([0; 16])))).next().is_some_and(|(found, _, _)| found == name)
    }

    /// Guests in order of name and id, from this place on.
    pub(crate) fn by_name(&self, from: Option<(&str, GuestId)>) -> impl Iterator<Item = (&str, GuestId, HostId)> {
        let from = from.map_or(Bound::Unbounded, |(name, guest)| {
            Bound::Included((name.to_owned(), guest, HostId::from_bytes([0; 16])))
        });
        self.names.range((from, Bound::Unbounded)).map(|(name, guest, host)| (name.as_str(), *guest, *host))
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn guest(number: u128) -> GuestId {
        GuestId::from_u128(number)
    }

    fn host(number: u128) -> HostId {
        HostId::from_u128(number)
    }

    fn names(places: &Places, from: Option<(&str, GuestId)>) -> Vec<String> {
        places.by_name(from).map(|(name, _, _)| name.to_owned()).collect()
    }

    #[test]
    fn guests_stand_in_order_of_name_wherever_they_are_and_whatever_they_were_called() {
        let mut places = Places::default();
        places.told(host(1), guest(1), None, "c");
        places.told(host(2), guest(2), None, "a");
        places.told(host(2), guest(3), None, "b");
        places.told(host(1), guest(1), Some("c"), "aa");
        assert_eq!(names(&places, None), ["a", "aa", "b"]);
        assert_eq!(names(&places, Some(("aa", guest(1)))), ["aa", "b"]);
        assert_eq!(names(&places, Some(("aa", guest(2)))), ["b"]);
        assert!(places.named("aa") && !places.named("c"));
    }

    #[test]
    fn the_first_of_two_hosts_counts_until_it_reports_the_guest_no_more() {
        let mut places = Places::default();
        assert_eq!(places.told(host(1), guest(1), None, "a"), host(1));
        assert_eq!(places.told(host(2), guest(1), None, "a"), host(1));
        places.gone(host(2), guest(1), "a");
        assert_eq!(places.host(guest(1)), Some(host(1)));
        places.gone(host(1), guest(1), "a");
        assert_eq!((places.host(guest(1)), names(&places, None).len()), (None, 0));
    }

    #[test]
    fn a_host_that_leaves_takes_its_guests_along() {
        let mut places = Places::default();
        places.told(host(1), guest(1), None, "a");
        places.told(host(2), guest(2), None, "b");
        places.keep(|left| *left == host(2));
        assert_eq!((places.host(guest(1)), places.host(guest(2))), (None, Some(host(2))));
        assert_eq!(names(&places, None), ["b"]);
    }
}
