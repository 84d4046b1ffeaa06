//! vmIndex: a number for each guest that outlives restarts. RFC 7666 lets numbers change and managers go by vmUUID; those
//! that don't are served all the same.

use std::collections::{BTreeMap, BTreeSet};

use roost_protocol::{GuestId, Stamp};

/// Most numbers: vmAffectedVMs has then at most 512 octets, which fits any manager's message.
pub const MOST: u32 = 4_096;
/// A number whose guest is gone rests so long before another guest gets it, so that a manager has seen it vanish.
const REST_MS: u64 = 7 * 24 * 3_600 * 1_000;

/// What is to be kept of the numbering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    pub guest: GuestId,
    pub number: u32,
    /// Since when the guest is gone.
    pub gone: Option<Stamp>,
}

/// A change of what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Keep(Kept),
    Forget(GuestId),
}

/// The numbers of one host.
#[derive(Clone, Debug, Default)]
pub struct Numbering {
    kept: BTreeMap<GuestId, Kept>,
}

impl Numbering {
    /// From what was kept. Of two guests with one number the one that is there counts, then the lower id.
    pub fn new(mut kept: Vec<Kept>) -> Self {
        let mut taken = BTreeSet::new();
        kept.sort_by_key(|one| (one.gone.is_some(), one.guest));
        kept.retain(|one| (1..=MOST).contains(&one.number) && taken.insert(one.number));
        Self { kept: kept.into_iter().map(|one| (one.guest, one)).collect() }
    }

    /// The number of a guest that is there.
    pub fn get(&self, guest: GuestId) -> Option<u32> {
        self.kept.get(&guest).map(|one| one.number)
    }

    /// These guests, and no others, are there. Those beyond [`MOST`] stay without a number.
    pub fn present(&mut self, guests: &BTreeSet<GuestId>, wall: Stamp) -> Vec<Change> {
        let mut changes = Vec::new();
        for kept in self.kept.values_mut() {
            let gone = if guests.contains(&kept.guest) { None } else { Some(kept.gone.unwrap_or(wall)) };
            if gone != kept.gone {
                kept.gone = gone;
                changes.push(Change::Keep(*kept));
            }
        }
        let new: Vec<GuestId> = guests.iter().filter(|guest| !self.kept.contains_key(guest)).copied().collect();
        let taken: BTreeSet<u32> = self.kept.values().map(|one| one.number).collect();
        let mut unused = (1..=MOST).filter(|number| !taken.contains(number)).peekable();
        let gone = self.kept.values().filter_map(|one| one.gone.map(|gone| (gone, one.number, one.guest)));
        let mut resting = gone.collect::<BTreeSet<_>>().into_iter().peekable();
        for guest in new {
            // Who rested long enough goes first; then a number that nobody has; then one that should rest still.
            let rested = resting.next_if(|(gone, ..)| wall.0.saturating_sub(gone.0) >= REST_MS);
            let next = match rested {
                Some((_, number, guest)) => Some((number, Some(guest))),
                None => unused.next().map(|number| (number, None)),
            };
            let next = next.or_else(|| resting.next().map(|(_, number, guest)| (number, Some(guest))));
            let Some((number, before)) = next else { break };
            if let Some(before) = before {
                self.kept.remove(&before);
                changes.push(Change::Forget(before));
            }
            let kept = Kept { guest, number, gone: None };
            self.kept.insert(guest, kept);
            changes.push(Change::Keep(kept));
        }
        changes
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const DAY: u64 = 24 * 3_600 * 1_000;

    fn guests(ids: &[u128]) -> BTreeSet<GuestId> {
        ids.iter().map(|id| GuestId::from_u128(*id)).collect()
    }

    fn number(numbering: &Numbering, id: u128) -> Option<u32> {
        numbering.get(GuestId::from_u128(id))
    }

    #[test]
    fn a_guest_keeps_its_number_over_restarts_and_absence() {
        let mut numbering = Numbering::default();
        let mut kept: BTreeMap<GuestId, Kept> = BTreeMap::new();
        let mut apply = |changes: Vec<Change>| {
            for change in changes {
                match change {
                    Change::Keep(one) => drop(kept.insert(one.guest, one)),
                    Change::Forget(guest) => drop(kept.remove(&guest)),
                }
            }
            Numbering::new(kept.values().copied().collect())
        };
        let changes = numbering.present(&guests(&[5, 9]), Stamp(0));
        let mut numbering = apply(changes);
        assert_eq!((number(&numbering, 5), number(&numbering, 9)), (Some(1), Some(2)));
        let changes = numbering.present(&guests(&[9]), Stamp(DAY));
        numbering = apply(changes);
        let changes = numbering.present(&guests(&[3, 9]), Stamp(2 * DAY));
        numbering = apply(changes);
        assert_eq!(number(&numbering, 3), Some(3), "a number that rests is not given away");
        let changes = numbering.present(&guests(&[3, 5, 9]), Stamp(3 * DAY));
        numbering = apply(changes);
        assert_eq!(number(&numbering, 5), Some(1));
        let changes = numbering.present(&guests(&[3, 9]), Stamp(3 * DAY));
        numbering = apply(changes);
        let changes = numbering.present(&guests(&[3, 7, 9]), Stamp(10 * DAY));
        numbering = apply(changes);
        assert_eq!((number(&numbering, 7), number(&numbering, 5)), (Some(1), None), "a week's rest is enough");
        assert!(numbering.present(&guests(&[3, 7, 9]), Stamp(11 * DAY)).is_empty());
    }

    #[test]
    fn numbers_are_bounded_and_given_before_their_time_when_none_is_left() {
        let mut numbering = Numbering::default();
        let all: BTreeSet<GuestId> = (0..u128::from(MOST) + 1).map(GuestId::from_u128).collect();
        numbering.present(&all, Stamp(0));
        assert_eq!(number(&numbering, u128::from(MOST)), None);
        assert_eq!(number(&numbering, u128::from(MOST) - 1), Some(MOST));
        let others: BTreeSet<GuestId> = (1..u128::from(MOST) + 1).map(GuestId::from_u128).collect();
        numbering.present(&others, Stamp(1));
        assert_eq!(number(&numbering, u128::from(MOST)), Some(1));
    }

    #[test]
    fn damaged_numbers_are_put_right() {
        let one = |id: u128, number, gone| Kept { guest: GuestId::from_u128(id), number, gone };
        let numbering =
            Numbering::new(vec![one(1, 7, Some(Stamp(0))), one(2, 7, None), one(3, 0, None), one(4, 9_999, None)]);
        assert_eq!([1, 2, 3, 4].map(|id| number(&numbering, id)), [None, Some(7), None, None]);
    }
}
