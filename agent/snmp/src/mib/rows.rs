//! Collects rows of scalars and tables.

use crate::{Oid, Tree, Value};

#[derive(Debug, Default)]
pub(super) struct Rows {
    rows: Vec<(Oid, Value)>,
    types: Vec<Oid>,
}

impl Rows {
    /// Scalars of one group: `arc.1`, `arc.2` and so on.
    pub(super) fn scalars(&mut self, arc: &[u32], values: Vec<Value>) {
        for (number, value) in (1..).zip(values) {
            self.scalar(&Oid::join(arc, &[number]), value);
        }
    }

    pub(super) fn scalar(&mut self, oid: &[u32], value: Value) {
        self.rows.push((Oid::join(oid, &[0]), value));
        self.types.push(Oid::from(oid));
    }

    /// A table whose first readable column is `first` and has `columns` of them; each row is its index and its cells.
    pub(super) fn table(
        &mut self,
        entry: &[u32],
        first: u32,
        columns: u32,
        rows: impl Iterator<Item = (Vec<u32>, Vec<Value>)>,
    ) {
        self.types.extend((first..).zip(0..columns).map(|(column, _)| Oid::join(entry, &[column])));
        for (index, cells) in rows {
            for (column, value) in (first..).zip(cells) {
                self.rows.push((Oid::join(&Oid::join(entry, &[column]), &index), value));
            }
        }
    }

    pub(super) fn into_tree(self) -> Tree {
        Tree::new(self.rows, self.types)
    }
}
