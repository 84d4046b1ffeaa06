//! A snapshot of all objects, in order, and the answers to questions about it. Nothing is looked up elsewhere while a
//! question waits.

use crate::pdu::{Body, Range};
use crate::{Oid, Value, VarBind};

/// Most objects in one answer; a bulk question may ask for 65,535 repetitions, and may well be told less (RFC 2741 §7.2.3.3).
const ANSWER: usize = 2_048;

/// Objects in order, and the object types they are instances of.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    rows: Vec<(Oid, Value)>,
    types: Vec<Oid>,
}

impl Tree {
    /// A tree of these rows; `types` are the identifiers of scalars and columns, without instance. Of two rows with one
    /// identifier the first counts.
    pub fn new(mut rows: Vec<(Oid, Value)>, mut types: Vec<Oid>) -> Self {
        rows.sort_by(|(one, _), (other, _)| one.cmp(other));
        rows.dedup_by(|(later, _), (first, _)| later == first);
        types.sort();
        Self { rows, types }
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// All rows, in order.
    pub fn rows(&self) -> impl Iterator<Item = (&Oid, &Value)> {
        self.rows.iter().map(|(oid, value)| (oid, value))
    }

    /// The value of this very object, or why there is none.
    pub fn get(&self, oid: &Oid) -> Value {
        match self.rows.binary_search_by(|(row, _)| row.cmp(oid)) {
            Ok(at) => self.rows[at].1.clone(),
            Err(_) if self.is_instance(oid) => Value::NoSuchInstance,
            Err(_) => Value::NoSuchObject,
        }
    }

    /// Whether an object type is the beginning of this identifier. No type is the beginning of another, so it can only be
    /// the one just before.
    fn is_instance(&self, oid: &Oid) -> bool {
        let after = self.types.partition_point(|kind| kind <= oid);
        after.checked_sub(1).is_some_and(|at| oid.starts_with(&self.types[at]))
    }

    /// The first object in the range; [`Value::EndOfMibView`] when there is none.
    pub fn next(&self, range: &Range) -> VarBind {
        let at =
            self.rows.partition_point(|(row, _)| if range.include { *row < range.start } else { *row <= range.start });
        match self.rows.get(at) {
            Some((oid, value)) if range.end.is_empty() || *oid < range.end => {
                VarBind { oid: oid.clone(), value: value.clone() }
            }
            Some(_) | None => VarBind { oid: range.start.clone(), value: Value::EndOfMibView },
        }
    }

    /// The answer to a question; `None` for what is no question about objects.
    pub fn answer(&self, body: &Body) -> Option<Vec<VarBind>> {
        match body {
            Body::Get(ranges) => {
                Some(ranges.iter().map(|r| VarBind { oid: r.start.clone(), value: self.get(&r.start) }).collect())
            }
            Body::GetNext(ranges) => Some(ranges.iter().map(|range| self.next(range)).collect()),
            Body::GetBulk { non_repeaters, max_repetitions, ranges } => {
                Some(self.bulk(usize::from(*non_repeaters), usize::from(*max_repetitions), ranges))
            }
            Body::Open { .. }
            | Body::Close(_)
            | Body::Register { .. }
            | Body::Unregister { .. }
            | Body::TestSet(_)
            | Body::CommitSet
            | Body::UndoSet
            | Body::CleanupSet
            | Body::Notify(_)
            | Body::Ping
            | Body::IndexAllocate(_)
            | Body::IndexDeallocate(_)
            | Body::AddAgentCaps { .. }
            | Body::RemoveAgentCaps(_)
            | Body::Response { .. } => None,
        }
    }

    fn bulk(&self, non_repeaters: usize, repetitions: usize, ranges: &[Range]) -> Vec<VarBind> {
        let (once, repeated) = ranges.split_at(non_repeaters.min(ranges.len()));
        let mut all: Vec<VarBind> = once.iter().map(|range| self.next(range)).collect();
        let mut ranges = repeated.to_vec();
        for _ in 0..repetitions {
            if ranges.is_empty() || all.len() + ranges.len() > ANSWER {
                break;
            }
            let mut ended = true;
            for range in &mut ranges {
                let bind = self.next(range);
                ended &= bind.value == Value::EndOfMibView;
                *range = Range { start: bind.oid.clone(), include: false, end: range.end.clone() };
                all.push(bind);
            }
            if ended {
                break;
            }
        }
        all
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn oid(arc: &[u32]) -> Oid {
        Oid::from(arc)
    }

    fn tree() -> Tree {
        let row = |arc: &[u32], number| (oid(arc), Value::Integer(number));
        let rows = vec![row(&[1, 2, 2], 22), row(&[1, 1, 1], 11), row(&[1, 1, 2], 12), row(&[1, 1, 1], 99)];
        Tree::new(rows, vec![oid(&[1, 1]), oid(&[1, 2])])
    }

    fn range(start: &[u32], include: bool, end: &[u32]) -> Range {
        Range { start: oid(start), include, end: oid(end) }
    }

    #[test]
    fn what_is_absent_is_told_from_what_is_unknown() {
        assert_eq!(tree().get(&oid(&[1, 1, 1])), Value::Integer(11));
        assert_eq!(tree().get(&oid(&[1, 1, 7])), Value::NoSuchInstance);
        assert_eq!(tree().get(&oid(&[1, 2])), Value::NoSuchInstance);
        assert_eq!(tree().get(&oid(&[1, 3, 7])), Value::NoSuchObject);
        assert_eq!(tree().get(&oid(&[])), Value::NoSuchObject);
    }

    #[test]
    fn the_next_object_keeps_within_its_range() {
        let next = |start: &[u32], include, end: &[u32]| {
            let bind = tree().next(&range(start, include, end));
            (bind.oid.to_vec(), bind.value)
        };
        assert_eq!(next(&[1], false, &[]), (vec![1, 1, 1], Value::Integer(11)));
        assert_eq!(next(&[1, 1, 1], true, &[]), (vec![1, 1, 1], Value::Integer(11)));
        assert_eq!(next(&[1, 1, 1], false, &[]), (vec![1, 1, 2], Value::Integer(12)));
        assert_eq!(next(&[1, 1, 2], false, &[1, 2]), (vec![1, 1, 2], Value::EndOfMibView));
        assert_eq!(next(&[1, 2, 2], false, &[]), (vec![1, 2, 2], Value::EndOfMibView));
    }

    #[test]
    fn a_bulk_answer_ends_where_the_tree_does_and_is_bounded() {
        let bulk = |non_repeaters, max_repetitions, ranges: Vec<Range>| {
            tree().answer(&Body::GetBulk { non_repeaters, max_repetitions, ranges }).unwrap()
        };
        let all = bulk(1, 65_535, vec![range(&[1], false, &[]), range(&[1], false, &[1, 2])]);
        let values: Vec<Value> = all.into_iter().map(|bind| bind.value).collect();
        assert_eq!(values, [Value::Integer(11), Value::Integer(11), Value::Integer(12), Value::EndOfMibView]);
        assert!(bulk(9, 9, vec![]).is_empty());
        let rows = (0..9_000).map(|at| (oid(&[1, 1, at]), Value::Null)).collect();
        let large = Tree::new(rows, vec![]);
        let ranges = vec![range(&[1], false, &[])];
        let answer = large.answer(&Body::GetBulk { non_repeaters: 0, max_repetitions: 65_535, ranges });
        assert_eq!(answer.unwrap().len(), ANSWER);
    }
}
