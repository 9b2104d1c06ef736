use std::ops::Range;

use super::BatchInput;
use streamrec_kernels::embedding_bag::Bags;

/// A range of a batch's rows, for gradient accumulation. Keeps its buffers from one use to the
/// next.
///
/// Dense rows are views. Bags lie feature by feature, so those of a range of rows are copied
/// together.
#[derive(Debug, Default)]
pub struct MicroBatch {
    ids: Vec<i64>,
    offsets: Vec<i64>,
    weights: Vec<f32>,
}

impl MicroBatch {
    /// The rows of the `index`-th of `count` pieces of a batch of `rows` rows.
    pub fn rows(index: usize, count: usize, rows: usize) -> Range<usize> {
        index * rows / count..(index + 1) * rows / count
    }

    /// The batch cut to `rows`, without vectors of sharded tables.
    ///
    /// # Panics
    /// When the batch has fewer rows, or its offsets point outside its ids.
    pub fn cut<'a>(&'a mut self, batch: &BatchInput<'a>, rows: Range<usize>) -> BatchInput<'a> {
        let Bags {
            ids,
            offsets,
            weights,
            batch: batch_rows,
            features,
        } = batch.bags;
        self.ids.clear();
        self.weights.clear();
        self.offsets.clear();
        self.offsets.push(0);
        for feature in 0..features {
            let offsets = &offsets[feature * batch_rows..][rows.start..=rows.end];
            let (first, last) = (offsets[0], offsets[rows.len()]);
            let shift = self.ids.len() as i64 - first;
            self.ids
                .extend_from_slice(&ids[first as usize..last as usize]);
            if let Some(weights) = weights {
                self.weights
                    .extend_from_slice(&weights[first as usize..last as usize]);
            }
            self.offsets
                .extend(offsets[1..].iter().map(|offset| offset + shift));
        }
        BatchInput {
            dense: batch.dense.rows(rows.clone()),
            bags: Bags {
                ids: &self.ids,
                offsets: &self.offsets,
                weights: weights.map(|_| self.weights.as_slice()),
                batch: rows.len(),
                features,
            },
            remote: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_hold_each_row_once() {
        let dense = [0.0, 1.0, 2.0];
        // Feature 0: [7], [], [8, 9]; feature 1: [1, 2], [3], [].
        let (ids, offsets) = ([7, 8, 9, 1, 2, 3], [0, 1, 1, 3, 5, 6, 6]);
        let batch = BatchInput::new(3, 1, 2, &dense, &ids, &offsets);
        let mut piece = MicroBatch::default();
        assert_eq!(
            [MicroBatch::rows(0, 2, 3), MicroBatch::rows(1, 2, 3)],
            [0..1, 1..3]
        );
        let first = piece.cut(&batch, 0..1);
        assert_eq!(
            (first.bags.ids, first.bags.offsets),
            (&[7, 1, 2][..], &[0, 1, 3][..])
        );
        let second = piece.cut(&batch, 1..3);
        assert_eq!(second.dense.row(1), [2.0]);
        assert_eq!(second.bags.ids, [8, 9, 3]);
        assert_eq!(second.bags.offsets, [0, 0, 2, 3, 3]);
    }
}
