use streamrec_artifact::{LookupSpec, Pooling};
use streamrec_kernels::embedding_bag::{self as kernel, BagSource, Lookup};

use super::{Backward, Forward, Layer, LayerContext, ModelError, PassError, TableId};

/// Pooled embedding vectors side by side, `[rows, sum of dims]`. Its gradient stays where it is:
/// tables are updated from it after the pass.
pub(in crate::model) struct EmbeddingBag {
    bags: Vec<TableBag>,
    /// Empty between passes; keeps its memory.
    lookups: Vec<Lookup<'static>>,
}

/// One lookup: a feature's bags in a table.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct TableBag {
    pub(in crate::model) table: TableId,
    /// Feature, pooling and first column.
    pub(in crate::model) source: BagSource,
}

impl EmbeddingBag {
    pub(in crate::model) fn new(
        lookups: &[LookupSpec],
        of: &LayerContext<'_>,
    ) -> Result<Self, ModelError> {
        let bags = Self::bags(lookups, of)?;
        Ok(Self {
            lookups: Vec::with_capacity(bags.len()),
            bags,
        })
    }

    /// The lookups of a node, each with its columns.
    pub(in crate::model) fn bags(
        lookups: &[LookupSpec],
        of: &LayerContext<'_>,
    ) -> Result<Vec<TableBag>, ModelError> {
        let mut column = 0;
        let bag = |lookup: &LookupSpec| {
            let table = of.table(&lookup.table)?;
            let feature = of.schema.categorical(&lookup.feature);
            let feature = feature.ok_or_else(|| super::missing(&lookup.feature))?;
            let pooling = match lookup.pooling {
                Pooling::Sum => kernel::Pooling::Sum,
                Pooling::Mean => kernel::Pooling::Mean,
            };
            let source = BagSource {
                feature,
                pooling,
                column,
            };
            column += of.parameters.table(table).dim();
            Ok(TableBag { table, source })
        };
        lookups.iter().map(bag).collect()
    }
}

impl Layer for EmbeddingBag {
    fn forward(&mut self, pass: Forward<'_>) -> Result<(), PassError> {
        let mut lookups = reuse(std::mem::take(&mut self.lookups));
        lookups.extend(self.bags.iter().map(|&TableBag { table, source }| Lookup {
            feature: source.feature,
            table: pass.parameters.table(table).view(),
            pooling: source.pooling,
            column: source.column,
        }));
        let result = kernel::forward(pass.context, &pass.inputs.batch.bags, &lookups, pass.output);
        self.lookups = reuse(lookups);
        Ok(result?)
    }

    fn backward(&mut self, _pass: Backward<'_>) -> Result<(), PassError> {
        Ok(())
    }
}

/// The same memory, for lookups of another lifetime.
fn reuse<'a>(mut lookups: Vec<Lookup<'_>>) -> Vec<Lookup<'a>> {
    lookups.clear();
    // Of an empty vector nothing is mapped, and `collect` keeps its memory.
    lookups
        .into_iter()
        .map(|_| unreachable!("the vector is empty"))
        .collect()
}
