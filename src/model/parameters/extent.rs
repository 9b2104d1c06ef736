use std::ops::Range;

use crate::comm::chunk_range;

/// The part of a parameter that this rank holds: a rectangle of its rows and columns.
///
/// A parameter of one dim has a row an element, and one column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// The whole parameter's shape.
    pub shape: Vec<usize>,
    /// The rows that are here.
    pub rows: Range<usize>,
    /// The columns that are here.
    pub columns: Range<usize>,
    /// Which of the ranks that hold this same part this one is.
    pub replica: usize,
    /// How many ranks hold it.
    pub replicas: usize,
}

impl Extent {
    /// All of a parameter, held by this rank alone.
    pub fn whole(shape: &[usize]) -> Self {
        Self {
            rows: 0..shape.first().copied().unwrap_or(1),
            columns: 0..shape.iter().skip(1).product(),
            shape: shape.to_vec(),
            replica: 0,
            replicas: 1,
        }
    }

    /// The rows that are part `index` of `parts`.
    #[must_use]
    pub fn row_part(mut self, index: usize, parts: usize) -> Self {
        self.rows = chunk_range(self.rows.len(), index, parts);
        self
    }

    /// The columns that are part `index` of `parts`.
    #[must_use]
    pub fn column_part(mut self, index: usize, parts: usize) -> Self {
        self.columns = chunk_range(self.columns.len(), index, parts);
        self
    }

    /// The same part, held by `replicas` ranks of which this is number `replica`.
    #[must_use]
    pub fn replicated(mut self, replica: usize, replicas: usize) -> Self {
        (self.replica, self.replicas) = (replica, replicas);
        self
    }

    /// The columns of the whole parameter.
    pub fn width(&self) -> usize {
        self.shape.iter().skip(1).product()
    }

    /// Whether all of the parameter is here.
    pub fn is_whole(&self) -> bool {
        self.rows.len() == self.shape.first().copied().unwrap_or(1)
            && self.columns.len() == self.width()
    }

    /// The number of elements that are here.
    pub fn len(&self) -> usize {
        self.rows.len() * self.columns.len()
    }

    /// Whether nothing is here.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The shape of what is here.
    pub fn local_shape(&self) -> Vec<usize> {
        match self.shape.len() {
            0 => Vec::new(),
            1 => vec![self.rows.len()],
            _ if self.columns.len() == self.width() => {
                let mut shape = self.shape.clone();
                shape[0] = self.rows.len();
                shape
            }
            _ => vec![self.rows.len(), self.columns.len()],
        }
    }

    /// The shape of what is here as a matrix: one dim makes one row, and all dims after the first are columns.
    pub fn local_matrix(&self) -> [usize; 2] {
        match self.shape.len() {
            0 | 1 => [1, self.rows.len()],
            _ => [self.rows.len(), self.columns.len()],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_rows_and_columns_make_up_the_whole() {
        let whole = Extent::whole(&[4, 6]);
        assert!(whole.is_whole() && whole.len() == 24);
        let rows = whole.clone().row_part(1, 2);
        assert_eq!((rows.rows.clone(), rows.local_shape()), (2..4, vec![2, 6]));
        let columns = whole.column_part(2, 3);
        assert_eq!(
            (columns.columns.clone(), columns.local_shape()),
            (4..6, vec![4, 2])
        );
        assert!(!rows.is_whole() && !columns.is_whole());
        assert_eq!(Extent::whole(&[5]).row_part(0, 5).local_shape(), [1]);
        assert_eq!(Extent::whole(&[5]).local_matrix(), [1, 5]);
        assert_eq!(rows.local_matrix(), [2, 6]);
        assert_eq!(columns.local_matrix(), [4, 2]);
        assert_eq!(Extent::whole(&[2, 3, 4]).local_matrix(), [2, 12]);
        assert_eq!(Extent::whole(&[]).local_matrix(), [1, 1]);
    }
}
