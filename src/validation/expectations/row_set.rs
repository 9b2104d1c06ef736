//! Sets of rows: a bit a row.

use arrow::buffer::BooleanBuffer;

/// Some rows of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct RowSet {
    words: Vec<u64>,
    len: u64,
}

impl RowSet {
    pub(super) fn insert(&mut self, row: u64) {
        let (word, bit) = ((row / 64) as usize, row % 64);
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.len += u64::from(self.words[word] >> bit & 1 == 0);
        self.words[word] |= 1 << bit;
    }

    /// Adds the rows of a batch whose bit is set.
    pub(super) fn insert_batch(&mut self, rows: &Rows, mask: &BooleanBuffer) {
        mask.set_indices()
            .for_each(|index| self.insert(rows.number(index)));
    }

    pub(super) fn contains(&self, row: u64) -> bool {
        let word = self.words.get((row / 64) as usize);
        word.is_some_and(|word| word >> (row % 64) & 1 == 1)
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its rows, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.words.iter().enumerate().flat_map(|(index, &word)| {
            let mut left = word;
            std::iter::from_fn(move || {
                (left != 0).then(|| {
                    let bit = u64::from(left.trailing_zeros());
                    left &= left - 1;
                    index as u64 * 64 + bit
                })
            })
        })
    }

    /// Adds the rows of another set.
    pub(super) fn union(&mut self, other: &Self) {
        if self.words.len() < other.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        for (word, theirs) in self.words.iter_mut().zip(&other.words) {
            self.len += u64::from((theirs & !*word).count_ones());
            *word |= theirs;
        }
    }
}

/// The numbers of a batch's rows in its table.
#[derive(Debug, Clone)]
pub(super) enum Rows {
    /// One after the other, from this one.
    From(u64),
    /// These.
    Picked(Vec<u64>),
}

impl Rows {
    pub(super) fn number(&self, index: usize) -> u64 {
        match self {
            Self::From(first) => first + index as u64,
            Self::Picked(rows) => rows[index],
        }
    }

    /// Those whose bit is set.
    pub(super) fn pick(&self, mask: &BooleanBuffer) -> Self {
        Self::Picked(mask.set_indices().map(|index| self.number(index)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_counts_each_row_once() {
        let mut set = RowSet::default();
        for row in [3, 64, 3, 1000] {
            set.insert(row);
        }
        let mut other = RowSet::default();
        other.insert(64);
        other.insert(5000);
        set.union(&other);
        assert_eq!(set.iter().collect::<Vec<_>>(), [3, 64, 1000, 5000]);
        assert_eq!(
            (set.len(), set.contains(5000), set.contains(5001)),
            (4, true, false)
        );
    }
}
