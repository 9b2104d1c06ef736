use std::ops::Range;

use crate::{
    error::{Error, Result},
    tensor::TensorRef,
};

/// The ids of a batch: for each feature, one bag of ids per sample.
#[derive(Debug, Clone, Copy)]
pub struct Bags<'a> {
    /// All ids, feature by feature, sample by sample.
    pub ids: &'a [i64],
    /// Where bags start in `ids`: the bag of a feature's sample is
    /// `offsets[feature * batch + sample]..offsets[feature * batch + sample + 1]`.
    /// `[features * batch + 1]`, ascending from at least 0 to at most the number of ids.
    pub offsets: &'a [i64],
    /// A factor for each id's row, as long as `ids`; 1 when absent.
    pub weights: Option<&'a [f32]>,
    /// Samples.
    pub batch: usize,
    /// Features.
    pub features: usize,
}

impl Bags<'_> {
    /// The positions in `ids` of one bag. Call after [`check`](Self::check).
    #[inline(always)]
    pub(super) fn bag(&self, feature: usize, sample: usize) -> Range<usize> {
        let bag = feature * self.batch + sample;
        self.offsets[bag] as usize..self.offsets[bag + 1] as usize
    }

    /// The positions in `ids` of all bags of a feature. Call after [`check`](Self::check).
    pub(super) fn of_feature(&self, feature: usize) -> Range<usize> {
        self.offsets[feature * self.batch] as usize
            ..self.offsets[(feature + 1) * self.batch] as usize
    }

    /// Checks offsets and weights: afterwards every bag is a range inside `ids`.
    pub(super) fn check(&self, operation: &'static str) -> Result<()> {
        let shape_error = |operand, expected, got| {
            let (expected, got) = (vec![expected], vec![got]);
            Err(Error::Shape {
                operation,
                operand,
                expected,
                got,
            })
        };
        let bags = self.features * self.batch;
        if self.offsets.len() != bags + 1 {
            return shape_error("offsets", bags + 1, self.offsets.len());
        }
        if let Some(weights) = self.weights
            && weights.len() != self.ids.len()
        {
            return shape_error("weights", self.ids.len(), weights.len());
        }
        let index_error = |what, index: usize| {
            let got = self.offsets[index];
            Err(Error::Index {
                operation,
                what,
                index,
                got,
            })
        };
        if self.offsets[0] < 0 {
            return index_error("offsets start at 0 or later", 0);
        }
        if let Some(index) = self.offsets.windows(2).position(|pair| pair[0] > pair[1]) {
            return index_error("offsets ascend", index + 1);
        }
        if self.offsets[bags] > self.ids.len() as i64 {
            return index_error("offsets end at the number of ids or before", bags);
        }
        Ok(())
    }

    /// Checks that every id of a feature is a row of its table. Call after [`check`](Self::check).
    pub(super) fn check_ids(
        &self,
        operation: &'static str,
        feature: usize,
        rows: usize,
    ) -> Result<()> {
        if feature >= self.features {
            return Err(Error::Index {
                operation,
                what: "features are numbered below the number of features",
                index: self.features,
                got: feature as i64,
            });
        }
        let range = self.of_feature(feature);
        let ids = &self.ids[range.clone()];
        // Negative ids wrap to huge ones: one comparison finds both, and the loop vectorises.
        let outside = ids
            .iter()
            .fold(false, |outside, &id| outside | (id as u64 >= rows as u64));
        if !outside {
            return Ok(());
        }
        // A reduction found one; now find the first.
        let found = ids
            .iter()
            .position(|&id| id as u64 >= rows as u64)
            .unwrap_or(0);
        let position = range.start + found;
        let id = self.ids[position];
        Err(Error::IdOutOfRange {
            operation,
            feature,
            position,
            id,
            rows,
        })
    }
}

/// How the rows of a bag become one vector. An empty bag gives zeros either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pooling {
    /// The (weighted) sum.
    #[default]
    Sum,
    /// The (weighted) sum divided by the number of ids.
    Mean,
}

/// One feature's lookups: where they go from and to.
#[derive(Debug, Clone, Copy)]
pub struct Lookup<'a> {
    /// The feature of the batch.
    pub feature: usize,
    /// The table, `[rows, dim]`. Features may share one.
    pub table: TensorRef<'a>,
    /// How bags are pooled.
    pub pooling: Pooling,
    /// The first of the `dim` columns of the output that receive the pooled vector.
    pub column: usize,
}

/// Where the gradient of one feature's pooled vectors lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BagSource {
    /// The feature of the batch.
    pub feature: usize,
    /// How its bags were pooled.
    pub pooling: Pooling,
    /// The first of the `dim` columns of the gradient.
    pub column: usize,
}
